"""Tables of what `evitlab bench` measures: throughputs with their conditions, batch curves, self-tests."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

import pandas as pd
from rich.markup import escape
from rich.table import Table

from evitlab.measurements.speed import BatchCurve, SelfTest, Throughput
from evitlab.records import Record
from evitlab.report.conditions import describe_shared
from evitlab.report.tables import TableError, say_where, significant
from evitlab.store import measured

COLUMNS = {
    "model": ("text", "name given to `evitlab bench`"),
    "infer_samples_per_sec": ("images/s", "batch size over the median repeat; under the protocol cream, the mean"),
    "infer_samples_per_sec_low": ("images/s", "bootstrap 95% interval of that"),
    "infer_samples_per_sec_high": ("images/s", "its upper end"),
    "latency_s": ("s", "median forward call, of a whole batch"),
    "latency_p90_s": ("s", "90% of the calls stay below; empty for fewer than 64 calls"),
    "latency_p99_s": ("s", "99% of the calls stay below; empty for fewer than 662 calls"),
    "ratio": ("ratio", "speed over the reference's, timed in turn with it; empty for the reference"),
    "ratio_low": ("ratio", "bootstrap 95% interval"),
    "ratio_high": ("ratio", "its upper end"),
    "reference": ("text", "the model that the ratio is to"),
    "rounds": ("count", "repeats of each model of its run"),
    "calls_per_repeat": ("count", "forward calls in one repeat"),
    "stopped_by": ("text", "half-width: every ratio was known well enough; else the limit that ended the run"),
    "protocol": ("text", "evitlab, or cream: the official speed test's"),
    "infer_batch_size": ("count", "images a forward pass"),
    "infer_img_size": ("text", "height x width in pixels"),
    "precision": ("text", "fp32, or the lower one of autocast"),
    "memory_format": ("text", "contiguous or channels_last"),
    "folded": ("flag", "whether BatchNorm was folded, or there was none"),
    "mode": ("text", "eager, compiled or traced"),
    "linear_library": ("text", "what ran the linear layers"),
    "attention_path": ("text", "fused, explicit or both; not known for networks not built here"),
    "threads": ("count", "of torch's operators, read back"),
    "allocator": ("text", "how the C allocator was set up"),
    "machine": ("text", "a hash that tells machines apart"),
    "device": ("text", "torch's name of it"),
    "device_name": ("text", "model of the processor or accelerator"),
    "torch": ("text", "version"),
    "load_average_before": ("processes", "of the machine, in the minute before; empty where not known"),
    "load_average_after": ("processes", "in the minute before the end"),
    "cpu_hz_before": ("Hz", "mean clock of the usable cores; empty where the system does not tell"),
    "cpu_hz_after": ("Hz", "the same at the end"),
    "start": ("text", "UTC, of the run"),
}
"""Column -> (unit, meaning). Names are timm's where timm has one."""

FIXED = (
    "machine", "device", "torch", "threads", "allocator", "protocol", "infer_batch_size", "precision",
    "memory_format", "mode", "linear_library",
)  # fmt: skip
"""Conditions of a whole run: tables do not mix them. Pixels, attention and folding depend on the model and may vary."""

DTYPES = {
    "count": "Int64",
    "images/s": "float64",
    "s": "float64",
    "ratio": "float64",
    "processes": "float64",
    "Hz": "float64",
    "flag": "boolean",
}

Cell = Callable[[Mapping[Any, Any]], str]  # of a row: its text, empty where there is none

CELLS: dict[str, Cell] = {
    "model": lambda row: row["model"],
    "images/s": lambda row: _with_interval(row, "infer_samples_per_sec", significant),
    "ms a batch": lambda row: _known(row["latency_s"], _ms),
    "p90": lambda row: _known(row["latency_p90_s"], _ms),
    "p99": lambda row: _known(row["latency_p99_s"], _ms),
    "ratio": lambda row: _with_interval(row, "ratio", "{:.3f}".format),
    "stopped by": lambda row: f"{row['stopped_by']}\n{row['rounds']} rounds",
}
"""Columns for people; one that is empty throughout is left out."""

CONDITIONS: dict[str, Cell] = {
    "ratio to": lambda row: row["reference"],
    "protocol": lambda row: row["protocol"],
    "device": lambda row: row["device_name"] if row["device"] == "cpu" else f"{row['device_name']} ({row['device']})",
    "threads": lambda row: str(row["threads"]),
    "batch": lambda row: str(row["infer_batch_size"]),
    "pixels": lambda row: row["infer_img_size"],
    "precision": lambda row: row["precision"],
    "memory format": lambda row: row["memory_format"],
    "BatchNorm": lambda row: "folded" if row["folded"] else "not folded",
    "mode": lambda row: row["mode"],
    "linear layers by": lambda row: row["linear_library"],
    "attention": lambda row: row["attention_path"],
    "allocator": lambda row: row["allocator"],
    "torch": lambda row: row["torch"],
    "machine": lambda row: row["machine"],
}
"""A column each where it differs; else it stands below the table."""


def timing_table(records: Sequence[Record], *, mixed: bool = False) -> pd.DataFrame:
    """One row a `throughput` record, in their order; columns as in `COLUMNS`. Other and failed records are left out.

    Records that differ in one of `FIXED` do not mix: that is a `TableError`, unless they are `mixed` on purpose.
    """
    rows = [timing_row(record) for record in records if record.task == "throughput" and record.status == "ok"]
    table = pd.DataFrame(rows, columns=[*COLUMNS])
    table = table.astype({name: DTYPES[unit] for name, (unit, _) in COLUMNS.items() if unit in DTYPES})
    if not mixed:
        _refuse_mixture(table)
    return table


def select_latest(records: Sequence[Record]) -> list[Record]:
    """The latest timing of each model under each set of conditions, each training and pruning, else what is latest."""
    latest = {}
    for record in records:
        apart = record.key if record.task in ("throughput", "train", "prune") else ""
        latest[record.task, record.variant, apart] = record
    return sorted(latest.values(), key=lambda record: record.start)


def curve_table(curve: BatchCurve) -> pd.DataFrame:
    """One row a batch size: speed, median seconds a call, and whether it is overhead-bound or the best."""
    until = curve.overhead_bound_until
    rows = [
        {
            "infer_batch_size": point.batch_size,
            "infer_samples_per_sec": point.images_per_second,
            "infer_samples_per_sec_low": point.images_per_second_low,
            "infer_samples_per_sec_high": point.images_per_second_high,
            "latency_s": median(point.seconds),
            "overhead_bound": until is not None and point.batch_size <= until,
            "best": point.batch_size == curve.best_batch_size,
        }
        for point in curve.points
    ]
    return pd.DataFrame(rows)


def render_timing(table: pd.DataFrame, *, title: str = "Throughput") -> Table:
    """A `timing_table` for a terminal: a column for each condition that differs, the others in one line below."""
    rows = table.to_dict("records")
    filled = {name: cell for name, cell in CELLS.items() if not rows or any(map(cell, rows))}
    differing = {name: CONDITIONS[name] for name in _find_differing(rows)}
    shown = _start(title, *filled, *differing)
    for row in rows:
        shown.add_row(*(escape(cell(row)) for cell in (filled | differing).values()))
    lines = [describe_conditions(table)]
    if (runs := table["start"].nunique()) > 1:
        lines.append(f"Timed in {runs} runs, one after the other: compare ratios, not images per second.")
    shown.caption = escape("\n".join(lines))
    return shown


def describe_conditions(table: pd.DataFrame) -> str:
    """The conditions that all rows of a `timing_table` share, in one line; load and clock from lowest to highest."""
    rows = table.to_dict("records")
    differing = _find_differing(rows)
    common = [f"{name} {cell(row)}" for name, cell in CONDITIONS.items() if name not in differing for row in rows[:1]]
    return "; ".join([*common, *_describe_machine(table)])


def render_curve(curve: BatchCurve, *, title: str = "Batch curve") -> Table:
    """A batch curve for a terminal; below, how far it is overhead-bound, why it ended, and the conditions."""
    shown = _start(title, "batch", "images/s", "ms a batch", "")
    for row in curve_table(curve).to_dict("records"):
        marks = [name for name, holds in (("overhead-bound", row["overhead_bound"]), ("best", row["best"])) if holds]
        speed = _with_interval(row, "infer_samples_per_sec", significant).replace("\n", "  ")
        shown.add_row(str(row["infer_batch_size"]), speed, _ms(row["latency_s"]), ", ".join(marks))
    until = curve.overhead_bound_until
    overhead = "No batch is overhead-bound: two images already take longer than one, or were not timed"
    if until is not None:
        overhead = f"Up to batch {until} a call takes about as long as for one image: overhead-bound"
    shown.caption = escape(f"{overhead}. Ended: {curve.end_reason}.\n{describe_shared([curve])}")
    return shown


def render_self_test(result: SelfTest, *, title: str = "Self-test: one model under two names") -> Table:
    """Every run of an A/A test for a terminal; below, the verdict."""
    shown = _start(title, "run", "ratio", "95% interval", "contains 1", "rounds", "stopped by")
    for number, run in enumerate(result.runs, start=1):
        contains = "yes" if run.ratio_low <= 1 <= run.ratio_high else "no"
        interval = f"{run.ratio_low:.4f}-{run.ratio_high:.4f}"
        shown.add_row(str(number), f"{run.ratio:.4f}", interval, contains, str(run.rounds), run.stopped_by)
    shown.caption = escape(
        f"{'Passed' if result.passed else 'Failed'}: {result.contained} of {len(result.runs)} intervals contain 1 "
        f"(nine in ten must), and the median of |ratio - 1| is {100 * result.median_error:.2f}% (must be below 1%). "
        f"Batch {result.batch_size}, {result.image_size[0]}x{result.image_size[1]}."
    )
    return shown


def timing_row(record: Record) -> dict[str, Any]:
    """A timing's fields under the names of `COLUMNS`."""
    timing: Throughput = measured(record)
    sources = {**asdict(record.environment), **asdict(timing)}
    return {name: sources[name] for name in COLUMNS if name in sources} | {
        "model": record.variant,
        "start": record.start,
        "infer_samples_per_sec": timing.images_per_second,
        "infer_samples_per_sec_low": timing.images_per_second_low,
        "infer_samples_per_sec_high": timing.images_per_second_high,
        "infer_batch_size": timing.batch_size,
        "infer_img_size": f"{timing.image_size[0]}x{timing.image_size[1]}",
        "latency_s": median(timing.seconds),
        "rounds": len(timing.seconds) // timing.calls_per_repeat,
    }


def _find_differing(rows: Sequence[Mapping[Any, Any]]) -> list[str]:
    return [name for name, cell in CONDITIONS.items() if len({cell(row) for row in rows}) > 1]


def _refuse_mixture(table: pd.DataFrame) -> None:
    for name in FIXED:
        counts = table[name].value_counts(sort=False)
        if len(counts) < 2:
            continue
        found = ", ".join(f"{value} ({count} records)" for value, count in counts.items())
        field = {"infer_batch_size": "batch_size"}.get(name, name)
        raise TableError(
            f"timings of one table must share their {field}, but got {found}; choose one, for example "
            f"{say_where(field, counts.index.tolist()[0])}, or allow it with mixed=True (--mixed)"
        )


def _start(title: str, *columns: str) -> Table:
    table = Table(title=escape(title), box=None, padding=(0, 2, 0, 0))
    table.title_justify = table.caption_justify = "left"
    for number, column in enumerate(columns):
        table.add_column(escape(column), justify="right" if number else "left", overflow="fold")
    return table


def _describe_machine(table: pd.DataFrame) -> list[str]:
    """The load and the clock while it was timed, as far as they are known."""
    loads = table[["load_average_before", "load_average_after"]].stack().dropna()
    clocks = table[["cpu_hz_before", "cpu_hz_after"]].stack().dropna() / 1e9
    known = [("load {}", loads, "{:.1f}".format), ("clock {} GHz", clocks, "{:.2f}".format)]
    return [text.format(_range(values, show)) for text, values, show in known if len(values)]


def _range(values: "pd.Series[float]", show: Callable[[float], str]) -> str:
    return "-".join(dict.fromkeys((show(values.min()), show(values.max()))))


def _with_interval(row: Mapping[Any, Any], name: str, show: Callable[[float], str]) -> str:
    if pd.isna(row[name]):
        return ""
    return f"{show(row[name])}\n{show(row[f'{name}_low'])}-{show(row[f'{name}_high'])}"


def _known(value: float, show: Callable[[float], str]) -> str:
    return "" if pd.isna(value) else show(value)


def _ms(seconds: float) -> str:
    return significant(1000 * seconds)
