"""The study's figures, drawn from its table and records. Nothing here touches pyplot's state or a display."""

from textwrap import shorten, wrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evitlab.report.frame import BLUE, GREY, INK, ORANGE, RED, start_figure, style
from evitlab.report.tables import speed_column


def throughput_accuracy(
    table: pd.DataFrame, *, title: str, proxy_note: str, paper_note: str = "in the paper"
) -> Figure:
    """Accuracy and measured speed of every variant; panels without numbers are left out.

    Accuracy and the memory-bound share stand against the study's numeric knob where it varies just one, else
    against the variants; accuracy also against throughput. `proxy_note` says under the title what the accuracy
    is of. The source's values have a panel and a scale of their own, named by `paper_note`: they are of other
    data. Bars are 95% intervals, ticks single trainings, crosses variants whose training is missing.
    """
    panels = {
        "accuracy": _draw_accuracy,
        "tradeoff": _draw_tradeoff,
        "speed": _draw_speed,
        "paper": _draw_paper,
        "memory": _draw_memory,
    }
    rows = _arrange(table)
    with style():
        figure = start_figure(11, 2.6 + 2.2 * len(rows), title=title, subtitle=proxy_note)
        ratios = [3, 2] if len(rows) == 2 else [1]
        for name, axes in figure.subplot_mosaic(rows, height_ratios=ratios).items() if rows[0] else ():
            panels[name](axes, table)
            if name == "paper":
                axes.set_title(shorten(f"top-1 %, {paper_note}", 66, placeholder=" ..."), loc="left")
        if not rows[0]:
            figure.text(0.5, 0.4, "no accuracy and no speed measured yet", ha="center")
    return figure


def _arrange(table: pd.DataFrame) -> list[Any]:
    """Rows of names of the panels that have numbers; a name that is repeated spans its places."""
    has = {name: bool(table[name].notna().any()) for name in table.columns}
    lower = [name for name, column in (("paper", "paper_top1"), ("memory", "memory_bound_share")) if has[column]]
    if has["top1"] and has["infer_samples_per_sec"]:
        below = {0: [], 1: [[*lower, "tradeoff"]], 2: [lower]}[len(lower)]
        return [["accuracy", "tradeoff"], *below]
    upper = [("accuracy", "top1"), ("speed", "infer_samples_per_sec")]
    return [[name for name, column in upper if has[column]] + lower]


def _knob(table: pd.DataFrame) -> str | None:
    """The column of the one knob in which the variants differ, where it is a number, another for each."""
    names = [name for name in table.columns if name.startswith("knob_")]
    rows = table[names].dropna(how="all")  # the base changes nothing
    varied = [name for name in names if rows[name].map(str).nunique() > 1]
    if len(varied) != 1:
        return None
    values = rows[varied[0]]
    numbers = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    return varied[0] if numbers and values.notna().all() and values.is_unique else None


def _along(axes: Axes, table: pd.DataFrame) -> tuple[pd.DataFrame, "pd.Series[float]"]:
    """Put the knob, or the variants' names, on the x axis; the rows that have a place there, and the places."""
    knob = _knob(table)
    if knob is None:
        axes.set_xticks(range(len(table)), list(table["variant"]), rotation=30, ha="right")
        axes.set_xlim(-0.5, len(table) - 0.5)
        return table, pd.Series(np.arange(len(table), dtype=float), index=table.index)
    rows = table[table[knob].notna()].sort_values(knob)
    axes.set_xticks(sorted(set(rows[knob])))
    axes.set_xlabel(knob.removeprefix("knob_"))
    return rows, rows[knob].astype(float)


def _draw_values(axes: Axes, table: pd.DataFrame, name: str, *, scale: float, color: str) -> None:
    rows, x = _along(axes, table)
    low, high = scale * rows[f"{name}_low"], scale * rows[f"{name}_high"]
    axes.vlines(x, low, high, color=color, linewidth=1.8, alpha=0.55)
    line = "-" if _knob(table) else "none"  # it breaks where a value is missing
    axes.plot(x, scale * rows[name], "o", linestyle=line, color=color, markeredgecolor="white")


def _judged(table: pd.DataFrame) -> pd.DataFrame:
    """Rows that have an accuracy, here or in the source, or should have one; a base that is only timed has none."""
    due = table["missing"].fillna("").str.contains("train")
    return table[table["top1"].notna() | table["paper_top1"].notna() | due]


def _draw_accuracy(axes: Axes, table: pd.DataFrame) -> None:
    table = _judged(table)
    _draw_values(axes, table, "top1", scale=100, color=BLUE)
    rows, x = _along(axes, table)
    for row in rows.index[rows["top1_seeds"].fillna(0) > 1]:
        values = 100 * np.array(rows["top1_values"][row])
        axes.plot([x[row]] * len(values), values, "_", color=INK, markersize=9, zorder=3)
    failed = rows["top1"].isna() & rows["missing"].fillna("").str.contains("train")
    if failed.any():  # an empty unclipped line would break the layout
        bottom = axes.get_ylim()[0]
        axes.plot(x[failed], [bottom] * sum(failed), "X", color=RED, markersize=8, clip_on=False, zorder=5)
        axes.set_ylim(bottom=bottom)
    axes.set_title(f"{_accuracy_name(table)} % (95% interval; ticks: seeds)", loc="left")


def _draw_tradeoff(axes: Axes, table: pd.DataFrame) -> None:
    rows = table[table["top1"].notna() & table["infer_samples_per_sec"].notna()]
    speed = speed_column(table)
    x, y = rows[speed], 100 * rows["top1"]
    low, high = rows[f"{speed}_low"].fillna(x), rows[f"{speed}_high"].fillna(x)  # a reference is 1 of itself
    axes.hlines(y, low, high, color=BLUE, linewidth=1.8, alpha=0.4)
    axes.vlines(x, 100 * rows["top1_low"], 100 * rows["top1_high"], color=BLUE, linewidth=1.8, alpha=0.4)
    axes.plot(x, y, "o", color=BLUE, markeredgecolor="white")
    front = find_front(x, y)
    axes.step(x[front], y[front], where="pre", color=INK, linewidth=1.1, linestyle=":", zorder=1)
    knob = _knob(table)
    if knob is None:
        _name_points(axes, rows, x, y)
    for row in rows.index if knob else ():
        near = (x - x[row]).between(0, 0.15 * np.ptp(x)) & ((y - y[row]).abs() < 0.07 * np.ptp(y))
        side = -1 if near.sum() > 1 else 1  # a neighbour to the right: the label goes left
        label = axes.annotate(
            f"{rows[knob][row]:g}", (x[row], y[row]), xytext=(5 * side, 4), textcoords="offset points"
        )
        label.set(ha="right" if side < 0 else "left", weight="bold", in_layout=False)
    over = f"measured throughput over that of {rows['speed_reference'].iloc[0]}, timed in turn"
    axes.set_xlabel(over if speed == "speed_ratio" else "measured throughput, images/s")
    by = f", by {knob.removeprefix('knob_')}" if knob else ""
    axes.set_title(f"{_accuracy_name(table)} %, over throughput{by}; dotted: front", loc="left")


def find_front(speeds: "pd.Series[float]", accuracies: "pd.Series[float]") -> list[Any]:
    """Labels of the rows that no other beats in one and equals in the other, slowest first (the Pareto front)."""
    front: list[Any] = []
    best = float("-inf")
    rising = pd.DataFrame({"speed": speeds, "accuracy": accuracies}).sort_values(["speed", "accuracy"], ascending=False)
    for row, accuracy in rising["accuracy"].items():
        if accuracy > best:
            front.insert(0, row)
            best = accuracy
    return front


def _name_points(axes: Axes, rows: pd.DataFrame, x: "pd.Series[float]", y: "pd.Series[float]", most: int = 24) -> None:
    """Names in a column beside the panel, the most accurate on top, each with a line to its point; of more than `most`
    rows those of the front alone."""
    named = list(rows.index) if len(rows) <= most else find_front(x, y)
    rising = sorted(named, key=lambda row: (y[row], -x[row]))
    for row, place in zip(rising, np.linspace(0.02, 0.98, len(rising)), strict=True):
        axes.annotate(
            "\n".join(wrap(str(rows["variant"][row]), 30, max_lines=2, placeholder=" ...")),
            (x[row], y[row]),
            xytext=(1.04, place),
            textcoords="axes fraction",
            va="center",
            fontsize="small",
            linespacing=0.95,
            arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.6, "shrinkB": 4, "relpos": (0, 0.5)},
        )


def _draw_speed(axes: Axes, table: pd.DataFrame) -> None:
    _draw_values(axes, table, "infer_samples_per_sec", scale=1, color=BLUE)
    axes.set_title("measured throughput, images/s", loc="left")


def _draw_paper(axes: Axes, table: pd.DataFrame) -> None:
    table = _judged(table)
    rows, x = _along(axes, table)
    line = "--" if _knob(table) else "none"
    axes.plot(x, 100 * rows["paper_top1"], "o", linestyle=line, color=GREY, markerfacecolor="white")


def _draw_memory(axes: Axes, table: pd.DataFrame) -> None:
    _draw_values(axes, table, "memory_bound_share", scale=100, color=ORANGE)
    axes.set_title("memory-bound share of operator time, %", loc="left")


def _accuracy_name(table: pd.DataFrame) -> str:
    return "proxy top-1" if table["proxy_width"].notna().any() else "top-1"
