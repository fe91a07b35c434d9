"""Studies on Optuna: variants are queued or proposed as trials, claimed, run and told, by one worker or by many.

Alone, the storage is a SQLite file beside the records, a file lock keeps a second run of the same study out, and
records say what is done. With a storage of its own any number of workers take part, and the trials say what is done.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TextIO

import optuna
from sqlalchemy.engine import URL

from evitlab.lab import Lab, find_missing, list_work
from evitlab.models.knobs import KnobError
from evitlab.records import Record
from evitlab.runner import record_infeasible, run_variants
from evitlab.store import StoreError, measured, merge, read_records
from evitlab.study import Study, Variant
from evitlab.sweep.identity import name_trials, objectives
from evitlab.sweep.knob_importance import write_importance
from evitlab.sweep.storages import ERRORS, Storage, SweepError
from evitlab.sweep.trials import Claim, Trials
from evitlab.sweep.workers import Heart

try:
    import fcntl
except ImportError:  # Windows has no flock: there, one run of a study at a time is the user's care
    fcntl = None  # type: ignore[assignment]

TRIALS = "trials.db"
TOGETHER = 8
"""Variants claimed at once and timed in turn: enough for a fair comparison, few enough to be in memory together."""
POLL_S = 0.5
"""A worker without work looks so often whether there is some again."""

OnFound = Callable[[Study], None]
"""Is told the study with what has been proposed till now."""


def run_study(lab: Lab, *, storage: str | None = None, on_found: OnFound = lambda study: None) -> bool:
    """Do all the work of a study that is not yet recorded, or this worker's part; whether nothing failed or lacks.

    Killed at any moment, the next call goes on: trials left running are queued again, and what is recorded is kept.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if storage is not None:
        return _run_shared(lab, storage, on_found)
    with lock_folder(lab.folder):
        opened = open_local(lab.folder)
        with opened.one_line_errors():
            trials = open_trials(lab, opened)
            lab = _work(lab, trials, opened, on_found=on_found)
            _finish_references(lab)
            _rank(lab, trials)
    return not find_missing(lab, lab.study.rows())


def _run_shared(lab: Lab, storage: str, on_found: OnFound) -> bool:
    opened = Storage(storage)
    with opened.one_line_errors():
        trials = open_trials(lab, opened, alone=False)
        lab = _work(lab, trials, opened, on_found=on_found)
        _finish_references(lab)
        _publish_references(lab, trials)
        records = opened.patiently(trials.published, lab.check)
        failed = opened.patiently(trials.any_failed, lab.check)
        opened.patiently(lambda: _rank(lab, trials), lab.check)
    lab.records[:] = merge(records, lab.folder)
    return not failed


def _rank(lab: Lab, trials: Trials) -> None:
    if lab.study.file.search is not None:
        write_importance(lab.study, trials.read(), lab.folder)


def open_local(folder: Path) -> Storage:
    """The SQLite file of a study that runs alone."""
    path = folder.resolve() / TRIALS
    return Storage(URL.create("sqlite", database=str(path)).render_as_string())


def open_trials(lab: Lab, storage: Storage, *, alone: bool = True) -> Trials:
    """The study's trials in a storage."""
    return Trials(
        lab.study,
        storage,
        alone=alone,
        environment=asdict(lab.environment),
        is_missing=lambda variant: bool(find_missing(_knowing(lab, variant), [variant])),
        check=lab.check,
    )


def _knowing(lab: Lab, variant: Variant) -> Lab:
    return replace(lab, study=lab.study.with_found([(variant.name, variant.changes)]))


def _work(lab: Lab, trials: Trials, storage: Storage, *, on_found: OnFound) -> Lab:
    """Claim and run until no variant is left, anywhere; returns the lab that knows all proposals."""
    search = lab.study.file.search
    most = TOGETHER - 1 if trials.alone and search is None else 1
    seen = 0
    with Heart(storage.optuna) as heart:
        while True:
            claims = trials.claim(most)
            heart.hold(trials.held)
            if search is not None:
                lab = replace(lab, study=lab.study.with_found(storage.patiently(trials.find_proposals, lab.check)))
                on_found(lab.study)
            if not claims:
                if not storage.patiently(trials.others_at_work, lab.check):
                    return lab
                _pause(lab)
                continue
            if not trials.alone:
                seen = _read_more(lab, seen)
                if lab.study.file.stop is not None:
                    lab.others[:] = storage.patiently(trials.published, lab.check)
            _run_claims(lab, trials, claims)
            heart.hold(trials.held)


def _pause(lab: Lab) -> None:
    lab.check()
    time.sleep(POLL_S)


def _run_claims(lab: Lab, trials: Trials, claims: Sequence[Claim]) -> None:
    try:
        variants = []
        for claim in claims:
            try:
                claim.variant.make_config()
                variants.append(claim.variant)
            except KnobError as error:
                record_infeasible(lab, claim.variant, None, f"no network: {error}")
        references = _references(lab.study, variants)
        run_variants(lab, [*references, *variants])
        if not trials.alone:
            _publish_references(lab, trials)
        for claim in claims:
            outcome, values = _judge(lab, claim.variant)
            trials.finish(claim, outcome, records=_latest(lab, claim.variant), values=values)
    except BaseException:
        with suppress(*ERRORS, OSError):  # what cannot be told now shows in the missing heartbeat
            trials.release(claims)
        raise


def _judge(lab: Lab, variant: Variant) -> tuple[str, Mapping[str, float] | None]:
    """What a variant came to, and the objectives' values where they are known."""
    if find_missing(lab, [variant]):
        return "failed", None
    values = None if lab.outside(variant) is not None else _values(lab, variant)
    if values is not None:
        return "ok", values
    return ("stopped" if any(r.status == "stopped" for r in _latest(lab, variant)) else "infeasible"), None


def _latest(lab: Lab, variant: Variant) -> list[Record]:
    """The record of each work on a variant under these conditions: the measurement, or else the last attempt."""
    found = []
    for work in list_work(lab.study, variant):
        request = lab.study.request(variant, work.task)
        own = [
            record
            for record in lab.records
            if (record.variant, record.request, record.seed) == (variant.name, request, work.seed)
            and record.environment.conditions == lab.environment.conditions
        ]
        done = [each for each in own if each.status == "ok"]
        found += done[-1:] + [each for each in own if each.status == "infeasible"][-1:] or own[-1:]
    return found


def _values(lab: Lab, variant: Variant) -> dict[str, float] | None:
    """The objectives' values from the records; None where a measurement is missing."""
    found: dict[str, list[Any]] = {}
    for work in list_work(lab.study, variant):
        record = lab.find(variant, work)
        if record is None:
            return None
        found.setdefault(work.task, []).append(measured(record))
    read: dict[str, Callable[[], float]] = {
        "top1": lambda: sum(result.top1 for result in found["train"]) / len(found["train"]),
        "speed_ratio": lambda: found["throughput"][0].ratio,
        "macs": lambda: found["macs"][0].macs,
        "memory_bound_share": lambda: found["operators"][0].memory_bound_share,
    }
    return {name: read[name]() for name, _ in objectives(lab.study)}


def _references(study: Study, variants: Sequence[Variant]) -> list[Variant]:
    """The networks that some variants are compared with."""
    needed = {variant.reference for variant in variants}
    return [variant for name, variant in study.references.items() if name in needed]


def _finish_references(lab: Lab) -> None:
    references = list(lab.study.references.values())
    if find_missing(lab, references):  # their work fails or was lost after all variants were done
        run_variants(lab, references)


def _publish_references(lab: Lab, trials: Trials) -> None:
    for reference in lab.study.references.values():
        for record in _latest(lab, reference):
            trials.publish(record)


def _read_more(lab: Lab, seen: int) -> int:
    """Take note of what other workers wrote into the same folder; returns how many records it holds."""
    found = read_records(lab.folder)
    if len(found) != seen:
        known = {record.to_json() for record in lab.records}
        lab.records.extend(record for record in found if record.to_json() not in known)
    return len(found)


def collect(study: Study, folder: Path, *, storage: str) -> list[Record]:
    """Write the records that all workers of a study have published to the folder; see `merge`."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    opened = Storage(storage, new=False)
    with opened.one_line_errors():
        names = optuna.get_all_study_names(opened.optuna)
        if name_trials(study) not in names:
            near = ", ".join(name for name in names if name.startswith(study.name)) or "none"
            raise SweepError(f"{opened.label}: holds no trials of this study (of others with its name: {near})")
        records = Trials(study, opened, alone=False, environment={}, is_missing=lambda _: False).published()
    return merge(records, folder)


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
