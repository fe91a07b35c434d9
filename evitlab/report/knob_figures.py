"""Accuracy and throughput over one numeric knob, the paper's curves below ours (its Fig. 7 asks the same)."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from evitlab.report.frame import BLUE, GREY, INK, ORANGE, start_figure, style
from evitlab.report.tables import speed_column

ACCURACY = {"color": BLUE, "marker": "o", "linestyle": "-"}
SPEED = {"color": ORANGE, "marker": "s", "linestyle": "--"}
"""The two lines differ by colour, marker and dash; the source's are grey and hollow."""
THEIRS = {"top1": "paper_top1", "infer_samples_per_sec": "paper_speed"}
WIDE = 8
"""From this ratio of its ends on a knob has a logarithmic axis."""


def find_knob(table: pd.DataFrame) -> str | None:
    """The column of the one numeric knob that rows differ in, apart from the network that they start from; None where
    it takes less than three values or is not one."""
    names = [name for name in table.columns if name.startswith("knob_") and name != "knob_base"]
    rows = table[names].dropna(how="all")
    varied = [name for name in names if rows[name].map(str).nunique() > 1]
    if len(varied) != 1:
        return None
    values = rows[varied[0]]
    numbers = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    return varied[0] if numbers and values.notna().all() and values.nunique() > 2 else None


def find_lines(table: pd.DataFrame, knob: str) -> dict[str, pd.DataFrame]:
    """Rows with a value of the knob by the network that they start from, in the order of the knob."""
    rows = table[table[knob].notna()]
    bases = rows["knob_base"].map(_name) if "knob_base" in rows else pd.Series("", index=rows.index)
    return {str(base): rows[bases == base].sort_values(knob) for base in dict.fromkeys(bases)}


def _name(base: Any) -> str:
    return str(base["name"]) if isinstance(base, dict) else str(base)


def knob_curves(table: pd.DataFrame, paper_speeds: dict[str, float], *, title: str, subtitle: str = "") -> Figure:
    """Accuracy (left axis) and throughput (right axis) over the table's knob, as in the paper's Fig. 7.

    A column for each network that variants start from; the source's own curves below, hollow, grey and on scales of
    their own. Bars are 95% intervals, ticks single trainings. `paper_speeds` holds the source's images per second by
    variant. The table must have a knob (`find_knob`).
    """
    knob = find_knob(table)
    assert knob is not None
    table = table.assign(paper_speed=table["variant"].map(paper_speeds).astype("float64"))
    lines = find_lines(table, knob)
    cited = {label for label, rows in lines.items() if any(rows[name].notna().sum() > 2 for name in THEIRS.values())}
    with style():
        figure = start_figure(max(8.5, 5.5 * len(lines)), 7 if cited else 4, title=title, subtitle=subtitle)
        grid = figure.subplots(2 if cited else 1, len(lines), squeeze=False, sharex=True)
        for column, (label, rows) in enumerate(lines.items()):
            what = f"measured here{f', {label}' if len(lines) > 1 else ''}; 95% intervals, ticks: seeds"
            own = {"top1": "top1", "infer_samples_per_sec": speed_column(rows)}
            _draw_panel(grid[0, column], rows, knob, own, title=what, kind=_kind(table))
            if label in cited:
                what = f"in the paper{f', {label}' if len(lines) > 1 else ''}: ImageNet, its GPU"
                _draw_panel(grid[1, column], rows, knob, THEIRS, title=what, kind="top-1")
            elif cited:
                grid[1, column].set_axis_off()
            grid[-1, column].set_xlabel(knob.removeprefix("knob_"))
        handles = _list_looks(table, cited=bool(cited))
        figure.legend(handles=handles, loc="outside lower center", ncols=2 if len(handles) > 2 else len(handles))
    return figure


def _kind(table: pd.DataFrame) -> str:
    return "proxy top-1" if table["proxy_width"].notna().any() else "top-1"


def _draw_panel(
    axes: Axes, rows: pd.DataFrame, knob: str, columns: Mapping[str, str], *, title: str, kind: str
) -> None:
    """Accuracy on the left axis, throughput on a right one; an axis without numbers is left out."""
    own = columns["top1"] == "top1"
    accurate, timed = (rows[columns[name]].notna().any() for name in THEIRS)
    if accurate:
        _draw_line(axes, rows, knob, columns["top1"], scale=100, look=ACCURACY, own=own)
        axes.set_ylabel(f"{kind} %")
    if timed:
        right = axes.twinx() if accurate else axes
        _draw_line(right, rows, knob, columns["infer_samples_per_sec"], scale=1, look=SPEED, own=own)
        ratio = columns["infer_samples_per_sec"] == "speed_ratio"
        right.set_ylabel(f"throughput over that of {rows['speed_reference'].dropna().iloc[0]}" if ratio else "images/s")
        if accurate:
            right.grid(visible=False)
            right.spines["right"].set_visible(True)
    _number_knob(axes, rows, knob)
    axes.set_title(title, loc="left")


def _list_looks(table: pd.DataFrame, *, cited: bool) -> list[Line2D]:
    """What the lines are, for a legend."""
    names = {"top1": ("accuracy, left axis", ACCURACY), "infer_samples_per_sec": ("throughput, right axis", SPEED)}
    there = [name for column, name in names.items() if table[column].notna().any()]
    own = [Line2D([], [], label=label, **look) for label, look in there]
    return own + ([Line2D([], [], label=f"{label}, paper", **_hollow(look)) for label, look in there] if cited else [])


def _hollow(look: Mapping[str, Any]) -> dict[str, Any]:
    return {**look, "color": GREY, "markerfacecolor": "white"}


def _draw_line(
    axes: Axes, rows: pd.DataFrame, knob: str, name: str, *, scale: float, look: Mapping[str, Any], own: bool
) -> None:
    rows = rows[rows[name].notna()]
    x = rows[knob].astype(float)
    if own:
        low, high = scale * rows[f"{name}_low"], scale * rows[f"{name}_high"]
        axes.vlines(x, low, high, color=look["color"], linewidth=1.8, alpha=0.55)
    axes.plot(x, scale * rows[name], **({**look, "markeredgecolor": "white"} if own else _hollow(look)))
    for row in rows.index[rows["top1_seeds"].fillna(0) > 1] if name == "top1" else ():
        values = [100 * value for value in rows["top1_values"][row]]
        axes.plot([x[row]] * len(values), values, "_", color=INK, markersize=8, zorder=3)
    axes.margins(y=0.12)


def _number_knob(axes: Axes, rows: pd.DataFrame, knob: str) -> None:
    values = sorted({float(value) for value in rows[knob].dropna()})
    if values[0] > 0 and values[-1] / values[0] >= WIDE:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(values, [f"{value:g}" for value in values])
