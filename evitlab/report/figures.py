"""The study's figures, drawn from its table and records. Nothing here touches pyplot's state or a display."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from textwrap import shorten, wrap
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from evitlab.records import MEMORY_BOUND, Record
from evitlab.store import measured

"""Operator classes whose time is set by memory traffic (section 2.1 of the paper)."""

OTHERS = ("softmax", "matrix product", "convolution", "other")

COLORBLIND = sns.color_palette("colorblind").as_hex()
BLUE, ORANGE, RED = COLORBLIND[0], COLORBLIND[1], COLORBLIND[3]
GREY, INK, NOTE = "#6b7280", "#1f2937", "#9a3412"


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
    with _style():
        figure = _start(11, 2.6 + 2.2 * len(rows), title=title, subtitle=proxy_note)
        ratios = [3, 2] if len(rows) == 2 else [1]
        for name, axes in figure.subplot_mosaic(rows, height_ratios=ratios).items() if rows[0] else ():
            panels[name](axes, table)
            if name == "paper":
                axes.set_title(shorten(f"top-1 %, {paper_note}", 66, placeholder=" ..."), loc="left")
        if not rows[0]:
            figure.text(0.5, 0.4, "no accuracy and no speed measured yet", ha="center")
    return figure


def memory_bound_bars(records: Sequence[Record], *, title: str, subtitle: str = "") -> Figure:
    """Share of operator time by class, a bar a variant in the order given; memory-bound classes first, in colour.

    The line behind the last memory-bound class ends the memory-bound share. Records of other tasks are ignored.
    """
    profiles = {
        record.variant: measured(record).seconds_by_class
        for record in records
        if record.task == "operators" and record.status == "ok"
    }
    with _style():
        figure = _start(9.5, 2.4 + 0.36 * len(profiles), title=title, subtitle=subtitle)
        if not profiles:
            figure.text(0.5, 0.4, "no operator profile measured yet", ha="center")
            return figure
        axes = figure.add_subplot()
        _stack_bars(axes, _class_shares(profiles))
        axes.set_xlabel("share of operator time in a forward pass, %")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def to_png(figure: Figure, *, dpi: int = 130) -> bytes:
    """The figure as PNG; the same bytes every time, as neither date nor version is written into it."""
    buffer = BytesIO()
    with _style():  # some settings are read only when the figure is drawn
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None}, facecolor="white")
    return buffer.getvalue()


@contextmanager
def _style() -> Iterator[None]:
    changes: dict[Any, Any] = {
        "font.family": "DejaVu Sans",  # comes with matplotlib: the same on every machine
        "axes.titlesize": 10.5,
        "axes.labelsize": 10,
        "xtick.labelsize": 9.5,
        "ytick.labelsize": 9.5,
        "legend.fontsize": 9.5,
        "legend.frameon": False,
        "lines.markersize": 7,
        "axes.edgecolor": "#9ca3af",
        "axes.labelcolor": INK,
        "axes.titlecolor": INK,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "grid.color": "#e5e7eb",
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with sns.plotting_context("paper"), sns.axes_style("whitegrid"), rc_context(changes):
        yield


def _start(width: float, height: float, *, title: str, subtitle: str) -> Figure:
    """An empty figure, in inches, with its title and a subtitle in the space kept above the panels."""
    heading = wrap(title, int(9.5 * width))
    note = wrap(subtitle, int(14 * width))
    head = 0.2 + 0.24 * len(heading) + 0.19 * len(note)
    height += head
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.set(rect=(0, 0, 1, 1 - head / height), w_pad=0.1, h_pad=0.08)  # type: ignore[call-arg]
    top = 1 - 0.1 / height
    figure.text(0.1 / width, top, "\n".join(heading), va="top", fontsize=13, weight="bold")
    below = top - (0.04 + 0.24 * len(heading)) / height
    figure.text(0.1 / width, below, "\n".join(note), va="top", fontsize=9.5, color=NOTE)
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


def _draw_accuracy(axes: Axes, table: pd.DataFrame) -> None:
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
    x, y = rows["infer_samples_per_sec"], 100 * rows["top1"]
    low, high = rows["infer_samples_per_sec_low"], rows["infer_samples_per_sec_high"]
    axes.hlines(y, low, high, color=BLUE, linewidth=1.8, alpha=0.4)
    axes.vlines(x, 100 * rows["top1_low"], 100 * rows["top1_high"], color=BLUE, linewidth=1.8, alpha=0.4)
    axes.plot(x, y, "o", color=BLUE, markeredgecolor="white")
    knob = _knob(table)
    for row in rows.index:
        name = f"{rows[knob][row]:g}" if knob else rows["variant"][row]
        near = (x - x[row]).between(0, (0.15 if knob else 0.5) * np.ptp(x))
        near &= (y - y[row]).abs() < 0.07 * np.ptp(y)
        side = -1 if near.sum() > 1 else 1  # a neighbour to the right: the label goes left
        label = axes.annotate(name, (x[row], y[row]), xytext=(5 * side, 4), textcoords="offset points")
        label.set(ha="right" if side < 0 else "left", weight="bold", in_layout=False)
    axes.set_xlabel("measured throughput, images/s")
    by = f", by {knob.removeprefix('knob_')}" if knob else ""
    axes.set_title(f"{_accuracy_name(table)} %, over throughput{by}", loc="left")


def _draw_speed(axes: Axes, table: pd.DataFrame) -> None:
    _draw_values(axes, table, "infer_samples_per_sec", scale=1, color=BLUE)
    axes.set_title("measured throughput, images/s", loc="left")


def _draw_paper(axes: Axes, table: pd.DataFrame) -> None:
    rows, x = _along(axes, table)
    line = "--" if _knob(table) else "none"
    axes.plot(x, 100 * rows["paper_top1"], "o", linestyle=line, color=GREY, markerfacecolor="white")


def _draw_memory(axes: Axes, table: pd.DataFrame) -> None:
    _draw_values(axes, table, "memory_bound_share", scale=100, color=ORANGE)
    axes.set_title("memory-bound share of operator time, %", loc="left")


def _accuracy_name(table: pd.DataFrame) -> str:
    return "proxy top-1" if table["proxy_width"].notna().any() else "top-1"


def _class_shares(profiles: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
    """Percent of each variant's time, a row a variant, a column a class: memory-bound first, unknown ones last."""
    seconds = pd.DataFrame(profiles).T.fillna(0.0)
    known = [name for name in (*MEMORY_BOUND, *OTHERS) if name in seconds]
    order = [*known, *seconds.columns.drop(known)]
    return 100 * seconds[order].div(seconds.sum(axis=1), axis=0)


def _stack_bars(axes: Axes, shares: pd.DataFrame) -> None:
    bound = [name for name in shares.columns if name in MEMORY_BOUND]
    warm = sns.color_palette("YlOrBr_r", len(bound) + 2).as_hex()[1:]
    cool = sns.color_palette("Greys", len(shares.columns) - len(bound) + 1).as_hex()
    colors = dict(zip([*bound, *shares.columns.drop(bound)], [*warm[: len(bound)], *cool], strict=False))
    left = np.zeros(len(shares))
    for name in shares.columns:
        label = f"{name} (memory-bound)" if name in bound else name
        axes.barh(
            shares.index, shares[name], left=left, color=colors[name], label=label, edgecolor="white", height=0.72
        )
        left += shares[name].to_numpy()
    for row, total in enumerate(shares[bound].sum(axis=1)):
        axes.text(101, row, f"{total:.1f}%", va="center", fontsize=9.5, weight="bold", color=NOTE)
    axes.text(101, -0.75, "memory-bound", va="center", fontsize=9, color=NOTE)
    axes.set_ylim(len(shares) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.grid(False)
    axes.spines["left"].set_visible(False)
