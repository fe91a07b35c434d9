"""Studies on Optuna: variants are queued as trials, claimed, run and told; records are what counts as done.

Alone, the storage is a SQLite file beside the records, and a file lock keeps a second run of the same study out.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TextIO

import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from evitlab.problems import UserError
from evitlab.records import digest
from evitlab.runner import Lab, find_missing, list_work, run_variants
from evitlab.store import StoreError, measured
from evitlab.study import Study, Variant

try:
    import fcntl
except ImportError:  # Windows has no flock: there, one run of a study at a time is the user's care
    fcntl = None  # type: ignore[assignment]

TRIALS = "trials.db"
TOGETHER = 8
"""Variants claimed at once and timed in turn: enough for a fair comparison, few enough to be in memory together."""


Direction = Literal["minimize", "maximize"]


class SweepError(UserError):
    """A study that cannot be run now; the message says why."""


def run_study(lab: Lab) -> bool:
    """Do all the work of a study that is not yet recorded; whether every variant has all its measurements.

    Killed at any moment, the next call goes on: trials left running are queued again, and what is recorded is kept.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with lock_folder(lab.folder), _storage_errors_name(lab.folder / TRIALS):
        trials = open_trials(lab)
        queue_missing(trials, lab)
        while batch := _claim(trials, lab.study):
            variants = [variant for _, variant in batch]
            run_variants(lab, [*_references(lab.study, variants), *variants])
            for trial, variant in batch:
                _tell(trials, trial, lab, variant)
        references = list(lab.study.references.values())
        if find_missing(lab, references):  # their work fails or was lost after all variants were done
            run_variants(lab, references)
    return not find_missing(lab, lab.study.rows())


def _references(study: Study, variants: Sequence[Variant]) -> list[Variant]:
    """The networks that some variants are compared with."""
    needed = {variant.reference for variant in variants}
    return [variant for name, variant in study.references.items() if name in needed]


@contextmanager
def _storage_errors_name(path: Path) -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        cause = (error.__cause__ or error).args
        reason = f"{cause[0] if cause else error}".splitlines()[0]
        raise SweepError(
            f"{path}: the trials cannot be kept there: {reason} (the file may be deleted: records say what is done)"
        ) from None


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Keep every other run out of a results folder; a killed run's lock is gone with it."""
    path = folder / "run.lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+")  # noqa: SIM115 (held open as long as the lock)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from None
    with file:
        _take(file, path)
        yield


def _take(file: TextIO, path: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        raise SweepError(f"{path.parent}: another run of this study is at work here (process {file.read()})") from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()


def open_trials(lab: Lab) -> optuna.Study:
    """The study's trials in the folder's SQLite file; another grid or other objectives are another set of trials."""
    url = URL.create("sqlite", database=str(lab.folder.resolve() / TRIALS)).render_as_string()
    file = lab.study.file
    base = file.base if isinstance(file.base, str) else dict(file.base)
    choices = digest([file.grid, file.variants, base, objectives(lab.study)])
    smoke = "-smoke" if lab.study.smoke else ""
    return optuna.create_study(
        storage=url,
        study_name=f"{lab.study.name}-{choices}{smoke}",
        directions=[direction for _, direction in objectives(lab.study)],
        sampler=optuna.samplers.RandomSampler(seed=lab.study.seed),  # never asked: every trial is queued
        load_if_exists=True,
    )


def objectives(study: Study) -> list[tuple[str, Direction]]:
    """What a trial is told, and which way is better: accuracy and speed where they are measured."""
    told: list[tuple[str, Direction]] = []
    if study.tasks.train is not None:
        told.append(("top1", "maximize"))
    if study.tasks.throughput is not None:
        told.append(("speed_ratio", "maximize"))
    if not told:
        told.append(("macs", "minimize") if study.tasks.macs is not None else ("memory_bound_share", "minimize"))
    return told


def queue_missing(trials: optuna.Study, lab: Lab) -> None:
    """Queue every variant that lacks a measurement or a finished trial, once; what a killed run left comes first.

    Only the holder of the folder's lock may call this: it takes running trials for dead.
    """
    for trial in trials.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        trials.tell(trial.number, state=TrialState.FAIL)
    waiting = {_name(trial) for trial in trials.get_trials(deepcopy=False, states=(TrialState.WAITING,))}
    complete = {_name(trial) for trial in trials.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))}
    for variant in lab.study.variants():
        done = variant.name in complete and not find_missing(lab, [variant])
        if not done and variant.name not in waiting:
            trials.enqueue_trial(_choices(lab.study, variant), user_attrs={"variant": variant.name})


def _name(trial: optuna.trial.FrozenTrial) -> str:
    return str(trial.user_attrs.get("variant"))


def _choices(study: Study, variant: Variant) -> dict[str, Any]:
    """A variant as Optuna's parameters: the grid's knobs, or the name of a named variant."""
    if study.file.grid is None:
        return {"variant": variant.name}
    return {knob: _plain(value) for knob, value in variant.changes.items()}


def _plain(value: Any) -> Any:
    """Optuna's choices are single values: a list or a mapping becomes its text."""
    return str(value) if isinstance(value, list | dict) else value


def _claim(trials: optuna.Study, study: Study) -> list[tuple[optuna.Trial, Variant]]:
    """The next queued trials with their variants, at most as many as are timed together."""
    named = {variant.name: variant for variant in study.variants()}
    grid = study.file.grid or {"variant": list(named)}
    batch: list[tuple[optuna.Trial, Variant]] = []
    while len(batch) < TOGETHER - 1 and trials.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        trial = trials.ask()
        for knob, values in grid.items():
            trial.suggest_categorical(knob, [_plain(value) for value in values])
        batch.append((trial, named[trial.user_attrs["variant"]]))
    return batch


def _tell(trials: optuna.Study, trial: optuna.Trial, lab: Lab, variant: Variant) -> None:
    values = _values(lab, variant)
    if values is None:
        trials.tell(trial, state=TrialState.FAIL)
    else:
        trials.tell(trial, values)


def _values(lab: Lab, variant: Variant) -> Sequence[float] | None:
    """The objectives' values from the records; None where a measurement is missing."""
    found: dict[str, list[Any]] = {}
    for work in list_work(lab.study, variant):
        record = lab.find(variant, work)
        if record is None:
            return None
        found.setdefault(work.task, []).append(measured(record))
    read = {
        "top1": lambda: sum(result.top1 for result in found["train"]) / len(found["train"]),
        "speed_ratio": lambda: found["throughput"][0].ratio,
        "macs": lambda: found["macs"][0].macs,
        "memory_bound_share": lambda: found["operators"][0].memory_bound_share,
    }
    return [read[name]() for name, _ in objectives(lab.study)]
