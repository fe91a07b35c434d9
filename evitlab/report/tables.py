"""From records to one table with a row a variant: base units in the table, rounded only where shown."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from math import floor, log10
from statistics import mean
from textwrap import fill
from typing import Any, Literal

import pandas as pd
from rich.markup import escape
from rich.table import Table

from evitlab.problems import UserError
from evitlab.records import Environment, Record
from evitlab.report import columns
from evitlab.report.student import half_width
from evitlab.store import measured

STUDY_COLUMNS = (
    "variant", "knob_*", "width", "macs", "param_count", "infer_img_size", "infer_batch_size", "infer_samples_per_sec",
    "infer_samples_per_sec_low", "infer_samples_per_sec_high", "speed_ratio", "speed_ratio_low", "speed_ratio_high",
    "speed_reference", "match_reached", "memory_bound_share", "memory_bound_share_low", "memory_bound_share_high",
    "roofline_memory_bound_share", "top1", "top1_low", "top1_high", "top1_seeds", "top1_values", "top5", "macro_auc",
    "ece", "train_data", "proxy_img_size", "proxy_width", "paper_top1", "missing",
)  # fmt: skip
COLUMNS = {name: columns.COLUMNS[name][:2] for name in STUDY_COLUMNS}
"""Column -> (unit, meaning), of a study's table. Names are timm's where timm has one. Shares are 0..1."""

MACS = "MACs (papers: FLOPs)"

TIMINGS = ("match", "throughput", "operators")


class TableError(UserError):
    """Records that cannot stand in one table; the message says which and how to choose."""


def select_records(
    records: Iterable[Record],
    *,
    study: str,
    requests: Mapping[tuple[str, str], str],
    where: Mapping[str, object] | None = None,
    smoke: bool = False,
) -> list[Record]:
    """The records that a table of a study stands on, in the order of `requests`.

    `requests` maps (variant, task), in the order of the study, to the hash of what the study asks there now.
    For each (variant, task, seed) on one machine and device it is the latest `ok` record of that request;
    where there is none at all, the latest failed one. `where` keeps the records with these fields of their
    environment, such as `{"machine": "0a1b2c3d"}`. Smoke records and others never meet.

    Measurements of several machines, devices or versions of torch do not mix, nor timings of several thread
    counts or allocators: that is a `TableError`. Counts (`macs`) are the same everywhere.
    """
    where = where or {}
    known = [field.name for field in fields(Environment)]
    if unknown := [name for name in where if name not in known]:
        raise TableError(f"where must name fields of the environment ({', '.join(known)}), but got {unknown=}")
    latest: dict[tuple[object, ...], Record] = {}
    failures: dict[tuple[str, str, int], Record] = {}
    for record in sorted(records, key=lambda record: record.start):
        if not _is_wanted(record, study=study, requests=requests, where=where, smoke=smoke):
            continue
        work = (record.variant, record.task, record.seed)
        if record.status != "ok":
            failures[work] = record
        else:
            latest[work if record.task == "macs" else (*work, *_place(record))] = record
    _refuse_mixture(list(latest.values()), study=study)
    done = {(record.variant, record.task, record.seed) for record in latest.values()}
    chosen = [*latest.values(), *(record for work, record in failures.items() if work not in done)]
    order = {pair: position for position, pair in enumerate(requests)}
    return sorted(chosen, key=lambda record: (order[record.variant, record.task], record.seed))


def study_table(
    records: Iterable[Record],
    *,
    study: str,
    requests: Mapping[tuple[str, str], str],
    where: Mapping[str, object] | None = None,
    smoke: bool = False,
    paper_top1: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """One row a variant, in the order of `requests`; columns as in `COLUMNS`, chosen by `select_records`.

    `paper_top1` maps variants to the accuracy that the study's source reports, as a share.
    """
    paper_top1 = paper_top1 or {}
    if wrong := {name: value for name, value in paper_top1.items() if not 0 <= value <= 1}:
        raise TableError(f"paper_top1 must be shares in 0..1, but got {wrong}")
    chosen = select_records(records, study=study, requests=requests, where=where, smoke=smoke)
    tasks: dict[str, list[str]] = {}
    for variant, task in requests:
        tasks.setdefault(variant, []).append(task)
    rows = []
    for variant, wanted in tasks.items():
        own = [record for record in chosen if record.variant == variant]
        rows.append(_row(own, tasks=wanted) | {"variant": variant, "paper_top1": paper_top1.get(variant)})
    knobs = dict.fromkeys(name for row in rows for name in row if name.startswith("knob_"))
    names = [name for column in COLUMNS for name in (knobs if column == "knob_*" else [column])]
    table = pd.DataFrame(rows, columns=names)
    return table.astype(columns.column_types(COLUMNS))


def to_csv(table: pd.DataFrame) -> str:
    """The table at full precision; lists and mappings as JSON."""
    plain = table.map(lambda cell: json.dumps(cell) if isinstance(cell, list | dict) else cell)
    return str(plain.to_csv(index=False, lineterminator="\n"))


def _is_wanted(
    record: Record,
    *,
    study: str,
    requests: Mapping[tuple[str, str], str],
    where: Mapping[str, object],
    smoke: bool,
) -> bool:
    return (
        record.study == study
        and record.smoke == smoke
        and requests.get((record.variant, record.task)) == record.request
        and all(getattr(record.environment, name) == value for name, value in where.items())
    )


def _place(record: Record) -> tuple[str, str]:
    return record.environment.machine, record.environment.device


def _refuse_mixture(records: Sequence[Record], *, study: str) -> None:
    measurements = [record for record in records if record.task != "macs"]
    timings = [record for record in records if record.task in TIMINGS]
    for name in ("machine", "device", "torch", "threads", "allocator"):
        together = timings if name in ("threads", "allocator") else measurements
        counts = Counter(getattr(record.environment, name) for record in together)
        if len(counts) > 1:
            found = ", ".join(f"{value} ({count} records)" for value, count in counts.items())
            raise TableError(
                f"study {study!r}: measurements of one table must share their {name}, but got {found}; "
                f"choose one, for example {say_where(name, next(iter(counts)))}, keep them apart with "
                "mixed=True (evitlab show --mixed), or run all of the study again"
            )


def say_where(name: str, value: object) -> str:
    """How a condition is chosen, in Python and on the command line."""
    return f"where={{{name!r}: {value!r}}} (--where '{name}={value}')"


def _row(records: Sequence[Record], *, tasks: Sequence[str]) -> dict[str, Any]:
    done: dict[str, list[Record]] = {}
    for record in records:
        if record.status == "ok":
            done.setdefault(record.task, []).append(record)
    row: dict[str, Any] = {f"knob_{name}": value for record in records for name, value in record.knobs.items()}
    row["missing"] = "; ".join(_missing(records, tasks=tasks)) or None
    for task in ("operators", "throughput", "macs"):  # each names the network; the last that exists wins
        if task in done:
            row["width"] = _width(done[task][0].config)
    if "macs" in done:
        macs = measured(done["macs"][0])
        row |= {"macs": macs.macs, "param_count": macs.params}
    if "throughput" in done:
        row |= _throughput_cells(measured(done["throughput"][0]))
    if "operators" in done:
        profile = measured(done["operators"][0])
        shares = ("memory_bound_share", "memory_bound_share_low", "memory_bound_share_high")
        for name in (*shares, "roofline_memory_bound_share"):
            row[name] = getattr(profile, name)
    if "match" in done:
        row["match_reached"] = _is_reached(measured(done["match"][0]), row.get("speed_ratio"))
    if "train" in done:
        timed = next((done[task][0].config for task in ("throughput", "macs") if task in done), None)
        row |= _train_cells(done["train"], timed=timed)
    if "evaluate" in done:
        judged = [measured(record) for record in done["evaluate"]]
        areas = [each.macro_auc for each in judged if each.macro_auc is not None]
        row |= {"macro_auc": mean(areas) if areas else None, "ece": mean(each.ece for each in judged)}
    return row


def _is_reached(match: Any, ratio: float | None) -> bool:
    """Whether a rescaled variant is as fast as asked: by the timing that followed, else by the matching's own."""
    if match.is_reference:
        return True
    return bool(match.reached if ratio is None else abs(ratio / match.speedup - 1) <= match.tolerance)


def speed_column(table: pd.DataFrame) -> str:
    """The column in which rows compare in speed: the ratio where all are over one reference, else images/s.

    Rows of one study may be timed an hour apart, and a machine is not as fast all the time; what a ratio is of was
    timed in turn.
    """
    timed = table["infer_samples_per_sec"].notna()
    if not {"speed_reference", "speed_ratio"} <= set(table) or not timed.any():
        return "infer_samples_per_sec"
    one = table["speed_reference"][timed].nunique(dropna=False) == 1 and table["speed_ratio"][timed].notna().all()
    return "speed_ratio" if one else "infer_samples_per_sec"


def _throughput_cells(timing: Any) -> dict[str, Any]:
    return {
        "infer_img_size": _size(timing.image_size),
        "infer_batch_size": timing.batch_size,
        "infer_samples_per_sec": timing.images_per_second,
        "infer_samples_per_sec_low": timing.images_per_second_low,
        "infer_samples_per_sec_high": timing.images_per_second_high,
        "speed_ratio": 1.0 if timing.ratio is None else timing.ratio,
        "speed_ratio_low": timing.ratio_low,
        "speed_ratio_high": timing.ratio_high,
        "speed_reference": timing.reference,
    }


def _train_cells(records: Sequence[Record], *, timed: dict[str, Any] | None) -> dict[str, Any]:
    results = [measured(record) for record in records]
    values = [result.top1 for result in results]
    low, high = mean_interval(values)
    cells = {
        "top1": mean(values),
        "top1_low": low,
        "top1_high": high,
        "top1_seeds": len(values),
        "top1_values": values,
        "top5": mean(result.top5 for result in results),
        "train_data": results[0].data,
    }
    trained = records[0].config
    if trained != timed:
        cells |= {"proxy_img_size": _size(trained["image_size"]), "proxy_width": _width(trained)}
    return cells


def mean_interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Student t 95% interval of the mean of shares, cut to 0..1; none for a single value."""
    if len(values) < 2:
        return None, None
    half = half_width(values)
    return max(0.0, mean(values) - half), min(1.0, mean(values) + half)


def _missing(records: Sequence[Record], *, tasks: Sequence[str]) -> list[str]:
    reasons = []
    for task in tasks:
        own = [record for record in records if record.task == task]
        if not own:
            reasons.append(f"{task}: not run")
        seeds: dict[str, list[str]] = {}
        for record in own:
            if record.status != "ok":
                reason = (record.error or "failed").splitlines()[0]
                reason = reason if record.status == "failed" else f"{record.status}: {reason}"
                seeds.setdefault(reason, []).append(str(record.seed))
            elif task == "macs" and (uncounted := measured(record).uncounted):
                reasons.append(f"macs: not counted: {', '.join(uncounted)}")
        for reason, failed in seeds.items():
            which = "" if len(failed) == len(own) else f" (seed {', '.join(failed)})"
            reasons.append(f"{task}{which}: {reason}")
    return reasons


def _width(config: Mapping[str, Any]) -> int:
    return int(config["stages"][0]["width"])


def _size(image_size: Sequence[int]) -> str:
    return f"{image_size[0]}x{image_size[1]}"


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """The table as text: rounded, in handy units, intervals on a second line, empty columns left out."""
    seeds = table["top1_seeds"].dropna().unique()
    trained = "proxy" if table["proxy_width"].notna().any() else "as trained here"
    over = list(table["speed_reference"].dropna().unique())
    columns: dict[str, tuple[str, Callable[[Any], str]]] = {
        "variant": ("variant", str),
        "width": ("width", str),
        MACS: ("macs", si),
        "params": ("param_count", si),
        "images/s": ("infer_samples_per_sec", significant),
        f"speed over {over[0] if len(over) == 1 else 'reference'}": ("speed_ratio", "{:.2f}".format),
        "memory bound %": ("memory_bound_share", percent),
        "by roofline %": ("roofline_memory_bound_share", percent),
        f"top-1 %, {trained}" + (f" (n={seeds[0]})" if len(seeds) == 1 else ""): ("top1", percent),
        "macro AUC %": ("macro_auc", percent),
        "ECE %": ("ece", percent),
        "top-1 %, paper": ("paper_top1", percent),
        "not measured": ("missing", str),
    }
    rows = table.to_dict("records")
    cells = {
        header: [_cell(row, name, show, say_seeds=len(seeds) > 1) for row in rows]
        for header, (name, show) in columns.items()
        if table[name].notna().any()
    }
    return pd.DataFrame(cells)


def render_terminal(table: pd.DataFrame, *, title: str, beside: Sequence[str] = ()) -> Table:
    """The readable table for a terminal; its accuracy column says "proxy" where it is one. Columns `beside` follow."""
    text = readable(table).assign(**{name: list(table[name].astype(str)) for name in beside})
    text = text.rename(columns={MACS: "MACs", "by roofline %": "by roof %"})
    if "by roof %" in text:  # 80 columns have room for one of the two
        text = text.drop(columns="params", errors="ignore")
    missing = text.pop("not measured") if "not measured" in text else pd.Series(dtype=str)
    notes = ['MACs: papers print them as "FLOPs". Second lines: 95% intervals.']
    notes += [f"not measured: {text['variant'][row]}: {why}" for row, why in missing.items() if why]
    caption = escape("\n".join(notes))
    shown = Table(title=escape(title), caption=caption, box=None, padding=(0, 1, 0, 0))
    shown.title_justify = shown.caption_justify = "left"
    for name in text.columns:
        longest = max(len(line) for cell in text[name] for line in cell.split("\n"))
        justify: Literal["left", "right"] = "left" if name == "variant" else "right"
        shown.add_column(fill(name, max(longest, 5), break_long_words=False), justify=justify, overflow="fold")
    for row in text.itertuples(index=False):
        shown.add_row(*(escape(cell) for cell in row))
    return shown


def _cell(row: Mapping[Any, Any], name: str, show: Callable[[Any], str], *, say_seeds: bool) -> str:
    if pd.isna(row[name]):
        return ""
    text = show(row[name])
    if name == "top1" and say_seeds:
        text += f" (n={row['top1_seeds']})"
    if name == "speed_ratio" and not pd.isna(row["match_reached"]) and not row["match_reached"]:
        text += " (target missed)"
    if f"{name}_low" in row and not pd.isna(row[f"{name}_low"]):
        text += f"\n{show(row[f'{name}_low'])}-{show(row[f'{name}_high'])}"
    return text


def percent(share: float) -> str:
    """One decimal, without the sign."""
    return f"{100 * share:.1f}"


def significant(value: float) -> str:
    """Three significant digits, or a whole number."""
    digits = 2 - floor(log10(abs(value))) if value else 0
    return f"{value:,.{max(0, digits)}f}"


def si(count: float) -> str:
    """Three significant digits and k, M or G; a whole number below a thousand."""
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= factor:
            return significant(count / factor) + letter
    return str(round(count))
