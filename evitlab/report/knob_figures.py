"""Accuracy and throughput over one numeric knob, the paper's curves below ours (its Fig. 7 asks the same)."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from evitlab.report.frame import COLORBLIND, GREY, INK, start_figure, style

MARKERS = "osD^vP"
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
    """Accuracy on the left, throughput on the right, over the table's knob: ours above, the paper's below on scales of
    their own, hollow, grey and dashed. A network has a line; bars are 95% intervals, ticks single trainings.

    `paper_speeds` holds the source's images per second by variant. The table must have a knob (`find_knob`).
    """
    knob = find_knob(table)
    assert knob is not None
    table = table.assign(paper_speed=table["variant"].map(paper_speeds).astype("float64"))
    ours = [name for name in ("top1", "infer_samples_per_sec") if table[name].notna().any()]
    theirs = {"top1": "paper_top1", "infer_samples_per_sec": "paper_speed"}
    shown = [name for name in ours if table[theirs[name]].notna().sum() > 2]
    lines = find_lines(table, knob)
    with style():
        figure = start_figure(11, 6.4 if shown else 4, title=title, subtitle=subtitle)
        grid = figure.subplots(2 if shown else 1, max(1, len(ours)), squeeze=False, sharex=True)
        for column, name in enumerate(ours):
            for number, (label, rows) in enumerate(lines.items()):
                _draw_ours(grid[0, column], rows, knob, name, label=label, number=number)
            _finish(grid[0, column], table, knob, title=_title(table, name))
            if name in shown:
                for rows in lines.values():
                    _draw_paper(grid[1, column], rows, knob, theirs[name], scale=100 if name == "top1" else 1)
                what = "top-1 % on ImageNet" if name == "top1" else "images/s on its GPU"
                _finish(grid[1, column], table, knob, title=f"in the paper: {what}")
            elif shown:
                grid[1, column].set_axis_off()
        for axes in grid[-1]:
            axes.set_xlabel(knob.removeprefix("knob_"))
        if len(lines) > 1:
            handles, labels = grid[0, 0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def _title(table: pd.DataFrame, name: str) -> str:
    if name != "top1":
        return "measured here: images/s, 95% interval"
    kind = "proxy top-1" if table["proxy_width"].notna().any() else "top-1"
    return f"measured here: {kind} % (95% interval; ticks: seeds)"


def _draw_ours(axes: Axes, rows: pd.DataFrame, knob: str, name: str, *, label: str, number: int) -> None:
    rows = rows[rows[name].notna()]
    scale = 100 if name == "top1" else 1
    color, marker = COLORBLIND[number % len(COLORBLIND)], MARKERS[number % len(MARKERS)]
    x = rows[knob].astype(float)
    axes.vlines(x, scale * rows[f"{name}_low"], scale * rows[f"{name}_high"], color=color, linewidth=1.8, alpha=0.55)
    axes.plot(x, scale * rows[name], marker, linestyle="-", color=color, markeredgecolor="white", label=label)
    for row in rows.index[rows["top1_seeds"].fillna(0) > 1] if name == "top1" else ():
        values = [100 * value for value in rows["top1_values"][row]]
        axes.plot([x[row]] * len(values), values, "_", color=INK, markersize=8, zorder=3)


def _draw_paper(axes: Axes, rows: pd.DataFrame, knob: str, name: str, *, scale: float) -> None:
    rows = rows[rows[name].notna()]
    axes.plot(rows[knob].astype(float), scale * rows[name], "o--", color=GREY, markerfacecolor="white")


def _finish(axes: Axes, table: pd.DataFrame, knob: str, *, title: str) -> None:
    values = sorted({float(value) for value in table[knob].dropna()})
    if values[0] > 0 and values[-1] / values[0] >= WIDE:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.set_title(title, loc="left")
