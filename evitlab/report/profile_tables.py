"""Tables of an operator profile: time by class, by part of the network and by operator, and what bounds it.

Seconds are of profiled forward passes, in base units; shares are of the wall time of an unprofiled pass. As
profiling slows a pass, its own time sits in the operators and between them, where it cannot be told apart from theirs.
So every table ends with two rows that make its shares add up to 1: the time between operators, and the rest, which is
negative where profiling took more time than the rows above left unexplained.
"""

from typing import Any

import pandas as pd
from rich.markup import escape
from rich.table import Table

from evitlab.bounds import judge, split_memory_bound
from evitlab.measurements.profile import MEMORY_BOUND, OperatorProfile
from evitlab.report.conditions import describe_shared
from evitlab.report.tables import percent, si, significant

COLUMNS = {
    "operator": ("text", "as the network's code calls it, with all that it calls in turn"),
    "operator_class": ("text", "of the work; an operator that does work of several classes has a row for each"),
    "module": ("text", "path of the part"),
    "part": ("text", "stem, MHSA, FFN, norm, downsampling, head, other"),
    "step": ("text", "inside MHSA; empty elsewhere"),
    "seconds": ("s", "in one profiled forward pass"),
    "share": ("share", "of the wall time of an unprofiled pass"),
    "class_bound_seconds": ("s", "of these, in the paper's memory-bound classes"),
    "roofline_bound_seconds": ("s", "of these, in operators that this machine's roofline calls memory-bound"),
    "calls": ("count", "in one forward pass"),
    "bytes": ("bytes", "every input and output counted once"),
    "macs": ("count", "multiply-accumulates; a multiply-add is one"),
    "page_faults": ("count", "first touches of memory newly mapped"),
    "roof_seconds": ("s", "the least that arithmetic and bytes need on this machine"),
    "distance": ("ratio", "roof_seconds over seconds: 1 is at the roof; empty for what neither computes nor moves"),
}
"""Column -> (unit, meaning), of all the tables here but `memory_bound_ways`."""

RECORDED = (
    "operator", "operator_class", "module", "part", "step", "seconds", "calls", "bytes", "macs", "page_faults",
)  # fmt: skip
SUMS = ("class_bound_seconds", "roofline_bound_seconds", "calls", "bytes", "macs", "page_faults", "roof_seconds")
COUNTS = ("calls", "bytes", "macs")
BETWEEN, REST = "between operators (Python)", "rest"


def by_class(profile: OperatorProfile) -> pd.DataFrame:
    """A row a class of work, the paper's memory-bound ones first, then longest first."""
    table = _group(profile, "operator_class")
    rank = [2 if name in (BETWEEN, REST) else int(name not in MEMORY_BOUND) for name in table["operator_class"]]
    return table.assign(rank=rank).sort_values("rank", kind="stable", ignore_index=True).drop(columns="rank")


def by_part(profile: OperatorProfile) -> pd.DataFrame:
    """A row a part of the network, longest first; MHSA has a row for each of its steps."""
    return _group(profile, "part", "step")


def by_module(profile: OperatorProfile) -> pd.DataFrame:
    """A row a module: every stem, MHSA, FFN, norm and head by itself, longest first."""
    return _group(profile, "module", "part")


def by_operator(profile: OperatorProfile) -> pd.DataFrame:
    """A row an operator and class of its work, longest first, over all the modules that call it."""
    return _group(profile, "operator", "operator_class")


def list_operators(profile: OperatorProfile) -> pd.DataFrame:
    """A row an operator of a module, as recorded, each judged by this machine's roofline; no rows that close."""
    rows = []
    for operator in profile.operators:
        bound = judge(operator, profile.peaks)
        rows.append(
            {name: getattr(operator, name) for name in RECORDED}
            | {
                "share": operator.seconds / profile.wall_seconds,
                "class_bound_seconds": operator.seconds if operator.operator_class in MEMORY_BOUND else 0.0,
                "roofline_bound_seconds": operator.seconds if bound.memory_bound else 0.0,
                "roof_seconds": bound.roof_seconds,
                "distance": bound.distance if bound.roof_seconds else None,
                "intensity": bound.intensity,
            }
        )
    return pd.DataFrame(rows, columns=[*COLUMNS, "intensity"]).astype({"distance": "float64"})


def memory_bound_ways(profile: OperatorProfile) -> pd.DataFrame:
    """Memory-bound time two ways side by side, as seconds and as a share of operator time, with interval if known.

    `by class` is the paper's (EfficientViT, Sec. 2.1); below it stands what its seconds went to, see
    `bounds.split_memory_bound`. `by roofline` is by arithmetic intensity on this machine; `by both` is the time that
    the two agree on. The share by class is a median over all passes, with its bootstrap 95% interval; its seconds are
    of the passes of middle length, like all others, so on a restless machine they may be another share.
    """
    operators = list_operators(profile)
    total, by_class = operators["seconds"].sum(), operators["class_bound_seconds"].sum()
    both = operators[["class_bound_seconds", "roofline_bound_seconds"]].min(axis=1).sum()
    roofline = profile.roofline_memory_bound_share
    rows: list[tuple[str, str, float, float, float | None, float | None]] = [
        ("by class", "", by_class, profile.memory_bound_share,
         profile.memory_bound_share_low, profile.memory_bound_share_high),
        *(("by class", cause, seconds, _divide(seconds, total), None, None)
          for cause, seconds in split_memory_bound(profile).items()),
        ("by roofline", "", roofline * total, roofline, None, None),
        ("by both", "", both, _divide(both, total), None, None),
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["way", "cause", "seconds", "share", "share_low", "share_high"])
    return table.astype({"share_low": "float64", "share_high": "float64"})


def render_profile(profile: OperatorProfile, *, title: str = "Profile", top: int = 12) -> list[Table]:
    """All of it for a terminal: memory-bound two ways, classes, parts, and the `top` operators."""
    return [
        render_memory_bound(profile, title=f"{title}: memory-bound, two ways"),
        render_classes(profile, title=f"{title}: time by class"),
        render_parts(profile, title=f"{title}: time by part"),
        render_operators(profile, title=f"{title}: time by operator", top=top),
    ]


def render_memory_bound(profile: OperatorProfile, *, title: str) -> Table:
    """Memory-bound by class, with what it was spent on, and by roofline; below, how it was measured."""
    shown = _start(title, "memory-bound", "ms", "% of operator time", "95% interval")
    for row in memory_bound_ways(profile).to_dict("records"):
        interval = "" if pd.isna(row["share_low"]) else f"{percent(row['share_low'])}-{percent(row['share_high'])}"
        name = f"  {row['cause']}" if row["cause"] else row["way"]
        shown.add_row(escape(name), _ms(row["seconds"]), percent(row["share"]), interval)
    shown.caption = escape(_describe_conditions(profile))
    return shown


def render_classes(profile: OperatorProfile, *, title: str) -> Table:
    """Time by class; below, what profiling cost."""
    return _render(by_class(profile), "operator_class", title=title, caption=_describe_slowdown(profile))


def render_parts(profile: OperatorProfile, *, title: str) -> Table:
    """Time by part of the network, and inside MHSA by step."""
    steps = by_part(profile)
    rows: list[dict[Any, Any]] = []
    for whole in _group(profile, "part").to_dict("records"):
        inside = steps[(steps["part"] == whole["part"]) & (steps["step"] != "")]
        rows += [whole, *({**row, "part": f"  {row['step']}"} for row in inside.to_dict("records"))]
    return _render(pd.DataFrame(rows), "part", title=title, caption="")


def render_operators(profile: OperatorProfile, *, title: str, top: int = 12) -> Table:
    """The operators that take the longest, the others in one row."""
    table = by_operator(profile)
    operators, closing = table.iloc[:-2], table.iloc[-2:]
    again = operators["operator"].duplicated()  # an operator's lesser work is named by its class
    names = operators["operator"].where(~again, operators["operator"] + ": " + operators["operator_class"])
    operators = operators.assign(operator=names)
    shown = operators.iloc[:top]
    if len(others := operators.iloc[top:]):
        sums: dict[str, Any] = others[["seconds", "share", *SUMS]].sum().to_dict()
        sums |= {"operator": f"{len(others)} others", "distance": _divide(sums["roof_seconds"], sums["seconds"])}
        shown = pd.DataFrame([*shown.to_dict("records"), sums])
    rows = [*shown.to_dict("records"), *closing.to_dict("records")]
    caption = "of roof: the least time that an operator's arithmetic and bytes need on this machine, over its time."
    return _render(pd.DataFrame(rows), "operator", title=title, caption=caption)


def _group(profile: OperatorProfile, *names: str) -> pd.DataFrame:
    """Sums over the operators that share these names, longest first, and the two rows that close."""
    sums = list_operators(profile).groupby([*names], as_index=False)[["seconds", *SUMS]].sum()
    sums = sums.sort_values("seconds", ascending=False, kind="stable")
    return _close(sums.to_dict("records"), profile, *names)


def _close(rows: list[dict[Any, Any]], profile: OperatorProfile, *names: str) -> pd.DataFrame:
    """Add the rows that make the shares add up to 1, the shares, and the distances from the roof."""
    rest = profile.wall_seconds - profile.between_seconds - sum(row["seconds"] for row in rows)
    closing = {BETWEEN: profile.between_seconds, REST: rest}
    blank = dict.fromkeys(names, "")
    rows = [*rows, *(blank | {names[0]: name, "seconds": seconds} for name, seconds in closing.items())]
    table = pd.DataFrame(rows, columns=[*names, "seconds", "share", *SUMS, "distance"])
    table["share"] = table["seconds"] / profile.wall_seconds
    roof = table["roof_seconds"].astype("float64")
    table["distance"] = roof.where(roof > 0) / table["seconds"].where(table["seconds"] > 0)
    return table.astype(dict.fromkeys(COUNTS, "Int64"))


def _divide(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _start(title: str, first: str, *columns: str) -> Table:
    table = Table(title=escape(title), box=None, padding=(0, 1, 0, 0))
    table.title_justify = table.caption_justify = "left"
    table.add_column(first, overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _render(table: pd.DataFrame, name: str, *, title: str, caption: str) -> Table:
    """The rows of a table that `_close` made, for people; shares of a row's own time in the memory-bound columns."""
    headings = ("ms", "% of\nwall", "bound\nclass", "bound\nroof", "calls", "MB", "MACs", "% of\nroof")
    shown = _start(title, name.replace("operator_class", "class"), *headings)
    for row in table.to_dict("records"):
        cells = [_ms(row["seconds"]), percent(row["share"])]
        if row[name] not in (BETWEEN, REST):
            seconds = row["seconds"]
            cells += [percent(_divide(row[f"{way}_bound_seconds"], seconds)) for way in ("class", "roofline")]
            cells += [si(row["calls"]), significant(row["bytes"] / 1e6), si(row["macs"])]
            cells += ["" if pd.isna(row["distance"]) else percent(row["distance"])]
        shown.add_row(escape(row[name].removeprefix("aten::")), *cells)
    shown.caption = escape(caption)
    return shown


def _ms(seconds: float) -> str:
    return significant(1000 * seconds)


def _describe_slowdown(profile: OperatorProfile) -> str:
    accounted = sum(operator.seconds for operator in profile.operators) + profile.between_seconds
    return (
        f"100% is an unprofiled pass, {_ms(profile.wall_seconds)} ms. Operators and the time between them come to "
        f"{percent(_divide(accounted, profile.wall_seconds))}% of it; profiling slowed it {profile.slowdown:.2f}x, and "
        f"its own time lies in these rows; {REST!r} is the difference. bound: memory-bound % of the row's time, by "
        "the paper's classes and by this machine's roofline."
    )


def _describe_conditions(profile: OperatorProfile) -> str:
    """What the rows mean, what ran, and the roofs that it is measured against."""
    peaks = profile.peaks
    memory = max(peaks.bandwidths, key=lambda each: each.working_set_bytes)
    return (
        "Below `by class`, its seconds at this machine's cost of each; rest: kernels slower than all that.\n"
        f"{describe_shared([profile])}; peaks {peaks.flops_per_second / 1e9:.3g} GFLOP/s, "
        f"{memory.bytes_per_second / 1e9:.3g} GB/s; {profile.page_faults:,.0f} page faults a pass"
    )
