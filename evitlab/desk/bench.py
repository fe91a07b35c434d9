"""Measurements of single models, without a study: timed together, over batch sizes, against themselves, profiled.

What is measured is recorded like a study's, in a folder `<command>_<models>`; nothing is skipped as done before.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evitlab.desk.desk import Clock, Desk, keep, one_line_errors
from evitlab.measure.batch_curve import measure_batch_curve
from evitlab.measure.operators import profile_operators, record_trace
from evitlab.measure.roofline import measure_peaks
from evitlab.measure.self_test import run_self_test
from evitlab.measure.throughput import measure_throughput
from evitlab.measurements.profile import Peaks
from evitlab.measurements.terms import Precision
from evitlab.models.named import NamedModel
from evitlab.records import Environment, Record
from evitlab.settings import OperatorsSettings, ThroughputSettings, as_arguments
from evitlab.store import measured, read_records

PEAKS = "peaks"
"""Folder beside the studies' results: what each machine can do at most."""


def name_apart(models: Sequence[NamedModel]) -> dict[str, NamedModel]:
    """The models by label; one that is named again gets its number: `deit_t`, `deit_t #2`."""
    named: dict[str, NamedModel] = {}
    for model in models:
        times = 1 + sum(other.label == model.label for other in named.values())
        named[model.label if times == 1 else f"{model.label} #{times}"] = model
    return named


def bench(desk: Desk, models: Sequence[NamedModel], settings: ThroughputSettings) -> list[Record]:
    """Throughput of some models, timed in turn; a record each."""
    named, clock = name_apart(models), Clock()
    with one_line_errors():
        found = measure_throughput(
            {name: model.model for name, model in named.items()},
            **as_arguments(settings),
            image_size={name: model.image_size for name, model in named.items()},
            **desk.where,
        )
    asked = asdict(settings)
    return [keep(desk, name, model, "throughput", asked, found[name], clock) for name, model in named.items()]


def measure_curves(
    desk: Desk, models: Sequence[NamedModel], settings: ThroughputSettings, *, largest: int
) -> list[Record]:
    """Throughput over batch sizes, one model after the other; a record each."""
    records = []
    asked: dict[str, Any] = {"largest": largest, "time_limit_s": settings.time_limit_s}
    for name, model in name_apart(models).items():
        clock = Clock()
        with one_line_errors():
            found = measure_batch_curve(
                model.model, **asked, image_size=model.image_size, execution=settings.execution, **desk.where
            )
        asked_all = asked | {"execution": asdict(settings.execution)}
        records.append(keep(desk, name, model, "batch_curve", asked_all, found, clock))
    return records


def check_intervals(desk: Desk, model: NamedModel, settings: ThroughputSettings, *, runs: int) -> Record:
    """Whether intervals hold on this machine: one model timed under two names, many times."""
    clock = Clock()
    names = ("batch_size", "half_width", "time_limit_s")
    asked: dict[str, Any] = {name: getattr(settings, name) for name in names} | {"runs": runs}
    execution = settings.execution
    with one_line_errors():
        found = run_self_test(model.model, **asked, image_size=model.image_size, execution=execution, **desk.where)
    return keep(desk, model.label, model, "self_test", asked | {"execution": asdict(execution)}, found, clock)


def profile(desk: Desk, model: NamedModel, settings: OperatorsSettings, peaks: Peaks) -> Record:
    """Where a model's time goes."""
    clock = Clock()
    with one_line_errors():
        found = profile_operators(
            model.model, peaks=peaks, **as_arguments(settings), image_size=model.image_size, **desk.where
        )
    return keep(desk, model.label, model, "operators", asdict(settings), found, clock)


def find_peaks(
    results: Path,
    environment: Environment,
    precision: Precision,
    *,
    on_progress: Callable[[float], None] = lambda share: None,
) -> Peaks:
    """This machine's roofs, measured once under the same conditions and kept in `results/peaks`."""
    desk = Desk(folder=results / PEAKS, environment=environment, on_progress=on_progress)
    for record in reversed(read_records(desk.folder)):
        if record.variant == precision and record.environment.conditions == environment.conditions:
            return measured(record)
    clock = Clock()
    peaks = measure_peaks(precision=precision, **desk.where)
    keep(desk, precision, None, "peaks", {"precision": precision}, peaks, clock)
    return peaks


def write_trace(desk: Desk, model: NamedModel, settings: OperatorsSettings) -> Path:
    """A Chrome trace of one forward pass, in the folder `traces`, which git ignores."""
    with one_line_errors():
        profiler = record_trace(
            model.model,
            batch_size=settings.batch_size,
            image_size=model.image_size,
            device=desk.environment.device,
            seed=desk.seed,
            execution=settings.execution,
        )
    path = desk.folder / "traces" / "trace.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.json")
    profiler.export_chrome_trace(str(part))
    part.replace(path)
    return path
