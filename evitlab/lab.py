"""A study at work: where its results go, what has been recorded, what is still missing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evitlab.drawings import place_drawings
from evitlab.measurements.accuracy import Epoch
from evitlab.measurements.profile import Peaks
from evitlab.measurements.terms import Precision
from evitlab.models.config import ModelConfig
from evitlab.records import Environment, Record, digest, record_key
from evitlab.store import append, folder_name, measured
from evitlab.study import TRAINED, Study, Variant, Work
from evitlab.sweep.domination import list_rivals
from evitlab.sweep.gate import BEFORE_GATE, find_outside, is_unmeasured, make_judge
from evitlab.tasks import Machine, Weights

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
    at_once: int = 1
    """Trainings beside one another, each in a process of its own; 1: here, one after the other."""

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
            judge=self._make_judge(work),
        )

    def _make_judge(self, work: Work) -> Callable[[Epoch, int], str | None] | None:
        """When to give a training up, by what has been trained to the end till now; None where none is."""
        if work.task != "train" or self.study.file.stop is None:
            return None
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


def make_record(
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
