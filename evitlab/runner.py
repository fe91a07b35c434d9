"""For each variant and task not yet recorded: build, run, record. Here the paper half and the tensor half meet."""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from evitlab.attempts import Group, attempt
from evitlab.cores import take_cores, time_alone
from evitlab.drawings import place_drawings, read_drawings, write_drawings
from evitlab.measure.throughput import measure_throughput
from evitlab.measurements.accuracy import Epoch
from evitlab.measurements.profile import Peaks
from evitlab.measurements.speed import Match, Throughput
from evitlab.measurements.terms import Precision
from evitlab.models.config import ModelConfig, config_from_dict
from evitlab.models.network import build_model
from evitlab.proxies import make_proxy
from evitlab.records import Environment, Record, digest, record_key
from evitlab.settings import as_arguments
from evitlab.store import append, folder_name, measured
from evitlab.study import ON_WEIGHTS, TRAINED, Study, Variant, Work
from evitlab.subnetworks import match_throughput
from evitlab.sweep.domination import list_rivals
from evitlab.sweep.gate import BEFORE_GATE, find_outside, is_unmeasured, make_judge
from evitlab.tasks import TASKS, Machine, Share, Weights

WEIGHTS, CHECKPOINTS = "weights", "checkpoints"
"""Folders in a study's results, which git ignores."""


@dataclass(frozen=True, kw_only=True)
class Lab:
    """A study, where its results go, and what measures it; remembers what has been recorded."""

    study: Study
    folder: Path
    environment: Environment
    peaks: Callable[[Precision], Peaks]
    """See `Machine`."""
    on_progress: Callable[[Work, float], None]
    """Called with 0 when work begins, then with its share done, with 1 when it ends."""
    records: list[Record] = field(default_factory=list)
    others: list[Record] = field(default_factory=list)
    """What other workers of the study have published, for comparison alone."""
    check: Callable[[], None] = lambda: None
    """Called while work waits; raises where somebody has asked to stop."""

    def machine_for(self, work: Work, made: Record) -> Machine:
        """What this work runs on; `made` is the record that it will have."""
        asked = [made.request, work.variant, work.seed, self.environment.conditions]
        return Machine(
            device=self.environment.device,
            peaks=self.peaks,
            checkpoints=self.folder / CHECKPOINTS / digest(asked),
            weights=self.weights(made),
            drawings=place_drawings(self.folder, work.variant, work.seed),
            key=made.key,
            judge=self._make_judge(work) if work.task == "train" else lambda epoch, steps: None,
        )

    def _make_judge(self, work: Work) -> Callable[[Epoch, int], str | None]:
        """When to give a training up, by what has been trained to the end till now."""
        if self.study.file.stop is None:
            return make_judge(None, [], None)
        requests = self.study.requests()
        rivals = list_rivals([r for r in [*self.others, *self.records] if r.request in requests.values()])
        asked = requests[work.variant, "throughput"]
        timed = [measured(r) for r in self.records if r.request == asked and r.status == "ok"]
        return make_judge(self.study.file.stop, rivals, timed[-1].ratio if timed else None)

    def outside(self, variant: Variant) -> str | None:
        """Why a variant lies outside the study's limits and is not trained."""
        return find_outside(self.study, variant, self._find_own)

    def is_unmeasured(self, variant: Variant) -> bool:
        """Whether a variant is not trained yet, as it could not be held against the study's limits."""
        return is_unmeasured(self.study, variant, self._find_own)

    def _find_own(self, variant: Variant, task: str) -> Record | None:
        return self._find(variant, Work(variant=variant.name, task=task, seed=self.study.seed))

    def _makes_no_network(self, variant: Variant) -> bool:
        """Whether its knobs were found not to fit one another."""
        task = list_work(self.study, variant)[-1].task
        task = "train" if self.study.tasks.train is not None else task
        request = self.study.request(variant, task)
        return any(r.request == request and r.status == "infeasible" and r.config == {} for r in self.records)

    def is_settled(self, variant: Variant, work: Work) -> bool:
        """Whether this work need not be done, as the variant was found infeasible or its training was stopped."""
        if work.task in BEFORE_GATE:
            return self._makes_no_network(variant)
        if self.outside(variant) is not None or self._makes_no_network(variant):
            return True
        if self.study.file.stop is None or work.task not in TRAINED:
            return False
        seeds = self.study.seeds("train")
        stopped = (self._find(variant, Work(variant=work.variant, task="train", seed=s), "stopped") for s in seeds)
        return any(record is not None for record in stopped)

    def weights(self, record: Record) -> Weights:
        """Where a training leaves its network."""
        folder = self.folder / WEIGHTS / folder_name(record.variant) / f"seed{record.seed}"
        return Weights(folder=folder, key=record.key)

    def find(self, variant: Variant, work: Work) -> Record | None:
        """The measurement of this work under these conditions, if it has been made.

        A training whose network is still to be judged must have left it: it is in no repository, and who lost it
        has to train again.
        """
        record = self._find(variant, work)
        if record is None or work.task != "train":
            return record
        waiting = [task for task in self.study.on_weights if self._find(variant, replace(work, task=task)) is None]
        return record if not waiting or self.weights(record).are_there() else None

    def _find(self, variant: Variant, work: Work, status: str = "ok") -> Record | None:
        request = self.study.request(variant, work.task)
        for record in reversed(self.records):
            asked = record.variant == work.variant and record.request == request and record.seed == work.seed
            if asked and record.status == status and record.environment.conditions == self.environment.conditions:
                return record
        return None

    def keep(self, record: Record) -> Record:
        """Put a record on disk, then in mind."""
        append(record, self.folder)
        self.records.append(record)
        return record


def list_work(study: Study, variant: Variant) -> list[Work]:
    """All work on a variant, in order."""
    return [
        Work(variant=variant.name, task=task, seed=seed)
        for task in study.tasks_of(variant)
        for seed in study.seeds(task)
    ]


def find_missing(lab: Lab, variants: Sequence[Variant]) -> list[Work]:
    """The work that has no measurement yet under these conditions."""
    return [
        work
        for variant in variants
        for work in list_work(lab.study, variant)
        if lab.find(variant, work) is None and not lab.is_settled(variant, work)
    ]


def run_variants(lab: Lab, variants: Sequence[Variant]) -> None:
    """All missing work on some variants: match each, time all in turn, then the other tasks variant by variant.

    What fails is recorded with its reason, and the rest goes on; a variant that could not be matched goes no further,
    and one outside the study's limits, or of which that is not known, is not trained.
    """
    configs = _match(lab, variants)
    ready = [variant for variant in variants if variant.name in configs]
    if lab.study.file.limits is not None:  # counting takes no time: what is too large is not even timed
        for variant in ready:
            _run_tasks(lab, variant, configs[variant.name], only=BEFORE_GATE)
        ready = _pass_gate(lab, ready, configs)
    _time(lab, ready, configs)
    for variant in _pass_gate(lab, ready, configs):
        if lab.is_unmeasured(variant):
            continue
        _run_tasks(lab, variant, configs[variant.name])


def _run_tasks(lab: Lab, variant: Variant, config: ModelConfig, *, only: Sequence[str] = tuple(TASKS)) -> None:
    for work in list_work(lab.study, variant):
        if work.task in TASKS and work.task in only and not lab.is_settled(variant, work):
            _run_task(lab, variant, work, config)


def _pass_gate(lab: Lab, variants: Sequence[Variant], configs: Mapping[str, ModelConfig]) -> list[Variant]:
    """The variants within the study's limits; the others are recorded as infeasible."""
    inside = []
    for variant in variants:
        reason = lab.outside(variant)
        if reason is None:
            inside.append(variant)
        else:
            record_infeasible(lab, variant, configs[variant.name], reason)
    return inside


def record_infeasible(lab: Lab, variant: Variant, config: ModelConfig | None, reason: str) -> None:
    """Record, once, that a variant is not trained; without a config where its knobs make no network."""
    works = list_work(lab.study, variant)
    work = next((each for each in works if each.task == "train"), works[-1])
    made = _make_record(lab, variant, work, config, lab.study.settings(work.task) or {})
    for record in lab.records:
        same = (record.key, record.variant, record.error) == (made.key, variant.name, reason)
        if same and record.status == "infeasible" and record.request == made.request:
            return
    lab.keep(replace(made, status="infeasible", error=reason))
    for each in works:
        lab.on_progress(each, 1.0)


def _run_task(lab: Lab, variant: Variant, work: Work, config: ModelConfig) -> None:
    if work.task in TRAINED:
        config = make_proxy(lab.study, variant, config)
    made = _make_record(lab, variant, work, config, lab.study.settings(work.task) or {})
    machine, more = lab.machine_for(work, made), {}
    if work.task in ON_WEIGHTS:
        trained = lab.find(variant, replace(work, task="train"))
        machine = replace(machine, weights=lab.weights(made if trained is None else trained))
        more["training"] = lab.study.tasks.train
    settings = getattr(lab.study.tasks, work.task)

    def run() -> Any:
        with take_cores(work.task, partial(lab.on_progress, work), lab.check) as share:
            return TASKS[work.task](config, settings, work.seed, machine, share, **more)

    record = _attempt(lab, variant, work, made, run)
    if record.status == "ok":
        shutil.rmtree(machine.checkpoints, ignore_errors=True)


def _match(lab: Lab, variants: Sequence[Variant]) -> dict[str, ModelConfig]:
    """The network of each variant, at the study's speed where it asks for one; without those that failed."""
    matched = [variant for variant in variants if "match" in lab.study.tasks_of(variant)]
    configs = {variant.name: variant.make_config() for variant in variants}

    def run(missing: Sequence[Variant], share: Share) -> dict[str, Match]:
        assert lab.study.match is not None
        assert lab.study.tasks.throughput is not None
        return match_throughput(
            {name: build_model(config, seed=lab.study.seed) for name, config in _references(lab, missing).items()},
            missing,
            settings=lab.study.match,
            timing=lab.study.tasks.throughput,
            device=lab.environment.device,
            seed=lab.study.seed,
            on_progress=share,
        )

    _run_together(lab, matched, "match", configs, run)
    for variant in matched:
        record = lab.find(variant, Work(variant=variant.name, task="match", seed=lab.study.seed))
        if record is None:
            del configs[variant.name]
        else:
            configs[variant.name] = config_from_dict(measured(record).matched_config)
    return configs


def _time(lab: Lab, variants: Sequence[Variant], configs: Mapping[str, ModelConfig]) -> None:
    """Throughput of all variants that lack it, in one interleaved run with what they are compared with."""
    timing = lab.study.tasks.throughput
    if timing is None:
        return

    def run(missing: Sequence[Variant], share: Share) -> dict[str, Throughput]:
        group = _references(lab, missing) | {variant.name: configs[variant.name] for variant in missing}
        compared = {row.name: lab.study.compare_with(row) for row in lab.study.rows() if row.name in group}
        return measure_throughput(
            {name: build_model(config, seed=lab.study.seed) for name, config in group.items()},
            **as_arguments(timing),
            references=compared,
            image_size={name: config.image_size for name, config in group.items()},
            device=lab.environment.device,
            seed=lab.study.seed,
            on_progress=share,
        )

    _run_together(lab, variants, "throughput", configs, run)


def _references(lab: Lab, variants: Sequence[Variant]) -> dict[str, ModelConfig]:
    """The networks that some variants are compared with, in the study's order."""
    needed = {variant.reference for variant in variants}
    return {name: each.make_config() for name, each in lab.study.references.items() if name in needed}


def _run_together(
    lab: Lab,
    variants: Sequence[Variant],
    task: str,
    configs: Mapping[str, ModelConfig],
    run: Callable[[Sequence[Variant], Share], Mapping[str, Any]],
) -> None:
    """Record a task that measures several variants at once, for those that lack it.

    Where it fails, each variant is tried alone, so that one that cannot run spoils no other.
    """
    works = {variant.name: Work(variant=variant.name, task=task, seed=lab.study.seed) for variant in variants}
    missing = [variant for variant in variants if lab.find(variant, works[variant.name]) is None]
    if not missing:
        return
    start, clock = datetime.now(UTC).isoformat(), time.perf_counter()

    def share(done: float) -> None:
        for variant in missing:
            lab.on_progress(works[variant.name], min(done, 0.99))  # the end comes with the record

    share(0.0)
    outcome, stop = attempt(lambda: Group(found=_run_alone(lab, partial(run, missing, share))))
    if outcome["status"] == "ok":
        found = outcome["measurement"]["found"]
        outcomes = {variant.name: {"status": "ok", "measurement": found[variant.name]} for variant in missing}
    elif len(missing) > 1 and stop is None:
        for variant in missing:
            _run_together(lab, [variant], task, configs, run)
        return
    else:
        outcomes = {variant.name: outcome for variant in missing}
    seconds = (time.perf_counter() - clock) / len(missing)
    for variant in missing:
        settings = lab.study.asked(variant, task)
        made = _make_record(lab, variant, works[variant.name], configs[variant.name], settings)
        lab.keep(replace(made, **outcomes[variant.name], start=start, seconds=seconds))
    if stop is not None:
        raise stop
    for variant in missing:
        lab.on_progress(works[variant.name], 1.0)


def _run_alone(lab: Lab, run: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    """Time some variants while no other worker of this host times or trains, and say whether that was so."""
    with time_alone(lab.check) as alone:
        found = run()
    return {name: replace(each, alone=alone) if isinstance(each, Throughput) else each for name, each in found.items()}


def _attempt(lab: Lab, variant: Variant, work: Work, made: Record, run: Callable[[], Any]) -> Record:
    """The record of this work: found, taken over from equal work asked for otherwise, or made now."""
    if (found := lab.find(variant, work)) is not None:
        return found
    for record in reversed(lab.records):
        if record.key == made.key and record.status == "ok" and _hand_over(lab, record, made):
            outcome: dict[str, Any] = {"status": "ok", "measurement": record.measurement}
            lab.on_progress(work, 1.0)
            return lab.keep(replace(made, **outcome, start=record.start, seconds=record.seconds))
    lab.on_progress(work, 0.0)
    clock = time.perf_counter()
    outcome, stop = attempt(run)
    record = lab.keep(replace(made, **outcome, seconds=time.perf_counter() - clock))
    if stop is not None:
        raise stop
    lab.on_progress(work, 1.0)
    return record


def _hand_over(lab: Lab, record: Record, made: Record) -> bool:
    """Give equal work what the other left beside its record; False where the study needs it and it is lost."""
    if made.task not in ("train", "evaluate") or not lab.study.on_weights:
        return True
    if made.task == "train":
        weights = lab.weights(record)
        if weights.are_there():
            lab.weights(made).save(weights.load())
        return weights.are_there()
    drawings = read_drawings(place_drawings(lab.folder, record.variant, record.seed), key=record.key)
    if drawings is not None:
        write_drawings(drawings, place_drawings(lab.folder, made.variant, made.seed), key=made.key)
    return drawings is not None


def _make_record(
    lab: Lab, variant: Variant, work: Work, config: ModelConfig | None, settings: Mapping[str, Any]
) -> Record:
    """The record of work that has begun, before its outcome is known."""
    plain = {} if config is None else config.to_dict()
    return Record(
        key=record_key(
            config=plain,
            weights=None,
            task=work.task,
            settings=dict(settings),
            seed=work.seed,
            environment=lab.environment,
            smoke=lab.study.smoke,
        ),
        study=lab.study.name,
        request=lab.study.request(variant, work.task),
        variant=variant.name,
        knobs=dict(variant.changes),
        config=plain,
        task=work.task,
        settings=dict(settings),
        status="failed",
        environment=lab.environment,
        seed=work.seed,
        start=datetime.now(UTC).isoformat(),
        seconds=0.0,
        smoke=lab.study.smoke,
    )
