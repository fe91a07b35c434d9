"""For each variant and task not yet recorded: build, run, record. Here the paper half and the tensor half meet."""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from evitlab.attempts import Group, attempt
from evitlab.cores import take_cores, time_alone
from evitlab.drawings import place_drawings, read_drawings, write_drawings
from evitlab.lab import Lab, list_work, make_record
from evitlab.measure.throughput import measure_throughput
from evitlab.models.config import ModelConfig, config_from_dict
from evitlab.models.network import build_model
from evitlab.proxies import make_proxy
from evitlab.records import Record
from evitlab.settings import as_arguments
from evitlab.side_by_side import Training, Trainings, train_side_by_side
from evitlab.store import measured
from evitlab.study import ON_WEIGHTS, TRAINED, Variant, Work
from evitlab.subnetworks import match_throughput
from evitlab.sweep.gate import BEFORE_GATE
from evitlab.tasks import TASKS, Share

Found = Mapping[str, Mapping[str, Any]]
"""What was measured of several rows at once, by task and by row."""


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
    ready = [variant for variant in _pass_gate(lab, ready, configs) if not lab.is_unmeasured(variant)]
    if lab.at_once == 1:
        for variant in ready:
            _run_tasks(lab, variant, configs[variant.name])
        return
    for variant in ready:
        _run_tasks(lab, variant, configs[variant.name], only=[task for task in TASKS if task not in TRAINED])
    asked = _list_trainings(lab, ready, configs)
    with train_side_by_side(asked, at_once=lab.at_once, on_progress=lab.on_progress, check=lab.check) as trainings:
        for variant in ready:
            _run_tasks(lab, variant, configs[variant.name], trainings=trainings)


def _list_trainings(lab: Lab, variants: Sequence[Variant], configs: Mapping[str, ModelConfig]) -> dict[str, Training]:
    """The trainings that are to be done, each once, by the keys of their records."""
    asked: dict[str, Training] = {}
    known = {record.key for record in lab.records if record.status == "ok"}
    settings = lab.study.tasks.train
    for variant in variants:
        for work in list_work(lab.study, variant):
            if work.task != "train" or lab.is_settled(variant, work) or lab.find(variant, work) is not None:
                continue
            assert settings is not None
            config = make_proxy(lab.study, variant, configs[variant.name])
            made = make_record(lab, variant, work, config, lab.study.settings("train") or {})
            if made.key not in known | set(asked):
                machine = lab.machine_for(work, made)
                asked[made.key] = Training(work=work, config=config, settings=settings, machine=machine)
    return asked


def _run_tasks(
    lab: Lab,
    variant: Variant,
    config: ModelConfig,
    *,
    only: Sequence[str] = tuple(TASKS),
    trainings: Trainings | None = None,
) -> None:
    for work in list_work(lab.study, variant):
        if work.task in TASKS and work.task in only and not lab.is_settled(variant, work):
            _run_task(lab, variant, work, config, trainings)


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
    made = make_record(lab, variant, work, config, lab.study.settings(work.task) or {})
    for record in lab.records:
        same = (record.key, record.variant, record.error) == (made.key, variant.name, reason)
        if same and record.status == "infeasible" and record.request == made.request:
            return
    lab.keep(replace(made, status="infeasible", error=reason))
    for each in works:
        lab.on_progress(each, 1.0)


def _run_task(lab: Lab, variant: Variant, work: Work, config: ModelConfig, trainings: Trainings | None) -> None:
    if work.task in TRAINED:
        config = make_proxy(lab.study, variant, config)
    made = make_record(lab, variant, work, config, lab.study.settings(work.task) or {})
    machine, more = lab.machine_for(work, made), {}
    if work.task in ON_WEIGHTS:
        trained = lab.find(variant, replace(work, task="train"))
        machine = replace(machine, weights=lab.weights(made if trained is None else trained))
        more["training"] = lab.study.tasks.train
    settings = getattr(lab.study.tasks, work.task)
    spent: dict[str, Any] = {}

    def run() -> Any:
        if trainings is not None and made.key in trainings:
            trained = trainings.finish(made.key)
            spent.update(start=trained.start, seconds=trained.seconds)
            return trained.result
        with take_cores(work.task, partial(lab.on_progress, work), lab.check) as share:
            return TASKS[work.task](config, settings, work.seed, machine, share, **more)

    record = _attempt(lab, variant, work, made, run, spent)
    if record.status == "ok":
        shutil.rmtree(machine.checkpoints, ignore_errors=True)


def _match(lab: Lab, variants: Sequence[Variant]) -> dict[str, ModelConfig]:
    """The network of each variant, at the study's speed where it asks for one; without those that failed."""
    matched = [variant for variant in variants if "match" in lab.study.tasks_of(variant)]
    configs = {variant.name: variant.make_config() for variant in variants}

    def run(missing: Sequence[Variant], share: Share) -> Found:
        assert lab.study.match is not None
        assert lab.study.tasks.throughput is not None
        found = match_throughput(
            {name: build_model(config, seed=lab.study.seed) for name, config in _references(lab, missing).items()},
            missing,
            settings=lab.study.match,
            timing=lab.study.tasks.throughput,
            device=lab.environment.device,
            seed=lab.study.seed,
            on_progress=share,
        )
        timings = {name: speed for name, speed in found.timings.items() if name in configs}
        return {"match": found.matches, "throughput": timings}

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

    def run(missing: Sequence[Variant], share: Share) -> Found:
        group = _references(lab, missing) | {variant.name: configs[variant.name] for variant in missing}
        compared = {row.name: lab.study.compare_with(row) for row in lab.study.rows() if row.name in group}
        found = measure_throughput(
            {name: build_model(config, seed=lab.study.seed) for name, config in group.items()},
            **as_arguments(timing),
            references=compared,
            image_size={name: config.image_size for name, config in group.items()},
            device=lab.environment.device,
            seed=lab.study.seed,
            on_progress=share,
        )
        return {"throughput": {variant.name: found[variant.name] for variant in missing}}

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
    run: Callable[[Sequence[Variant], Share], Found],
) -> None:
    """Record a task that measures several variants at once, for those that lack it.

    Where it fails, each variant is tried alone, so that one that cannot run spoils no other.
    """
    works = {variant.name: _work(lab, variant.name, task) for variant in variants}
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
    elif len(missing) > 1 and stop is None:
        for variant in missing:
            _run_together(lab, [variant], task, configs, run)
        return
    else:
        found = {task: {variant.name: None for variant in missing}}
    count = sum(len(each) for each in found.values())
    spent = {"start": start, "seconds": (time.perf_counter() - clock) / count}
    _keep_together(lab, variants, found, configs, outcome, spent)
    if stop is not None:
        raise stop


def _keep_together(
    lab: Lab,
    variants: Sequence[Variant],
    found: Mapping[str, Mapping[str, Any]],
    configs: Mapping[str, ModelConfig],
    outcome: Mapping[str, Any],
    spent: Mapping[str, Any],
) -> None:
    """Record what was measured at once, all with the same outcome; a reference's speed only where it has none."""
    rows = {row.name: row for row in [*lab.study.references.values(), *variants]}
    matched = {name: config_from_dict(each["matched_config"]) for name, each in found.get("match", {}).items() if each}
    for task, measurements in found.items():
        for name, measurement in measurements.items():
            work = _work(lab, name, task)
            if name not in matched and lab.find(rows[name], work) is not None:
                continue
            config = configs[name] if task == "match" else matched.get(name, configs[name])
            made = make_record(lab, rows[name], work, config, lab.study.asked(rows[name], task))
            lab.keep(replace(made, **{**outcome, "measurement": measurement}, **spent))
            if outcome["status"] == "ok":
                lab.on_progress(work, 1.0)


def _work(lab: Lab, name: str, task: str) -> Work:
    return Work(variant=name, task=task, seed=lab.study.seed)


def _run_alone(lab: Lab, run: Callable[[], Found]) -> Found:
    """Time some variants while no other worker of this host times or trains, and say whether that was so."""
    with time_alone(lab.check) as alone:
        found = run()
    speeds = found["throughput"]
    return {**found, "throughput": {name: replace(each, alone=alone) for name, each in speeds.items()}}


def _attempt(
    lab: Lab, variant: Variant, work: Work, made: Record, run: Callable[[], Any], spent: Mapping[str, Any]
) -> Record:
    """The record of this work: found, taken over from equal work asked for otherwise, or made now.

    `spent` holds start and seconds once `run` has ended, where it was done elsewhere.
    """
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
    record = lab.keep(replace(made, **{"seconds": time.perf_counter() - clock, **outcome, **spent}))
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
