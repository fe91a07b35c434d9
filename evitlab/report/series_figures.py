"""What changes with the MHSA ratio, a line a series of subnetworks: accuracy (Fig. 3 of the paper), memory-bound shares
(Fig. 1-4 of its supplement)."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evitlab.report.frame import COLORBLIND, MARKERS, start_figure, style

KNOB = "knob_mhsa_ratio"
PANELS = {"memory_bound_share": "by the paper's classes", "roofline_memory_bound_share": "by roofline"}


def find_series(table: pd.DataFrame, column: str = "memory_bound_share") -> dict[str, pd.DataFrame]:
    """Rows with a value that differ in nothing but the MHSA ratio, by what they share; one by itself is no series."""
    if KNOB not in table:
        return {}
    rows = table[table[KNOB].notna() & table[column].notna()]
    others = [name for name in table.columns if name.startswith("knob_") and name != KNOB]
    labels = rows.apply(lambda row: _label(row, others), axis=1) if len(rows) else pd.Series(dtype=str)
    found = {str(label): rows[labels == label].sort_values(KNOB) for label in dict.fromkeys(labels)}
    return {label: series for label, series in found.items() if len(series) > 1}


def memory_bound_lines(table: pd.DataFrame, *, title: str, subtitle: str = "") -> Figure:
    """Share of operator time that is memory-bound against the MHSA ratio, by the paper's classes and by roofline.

    Bars are bootstrap 95% intervals over the profiled passes of one run.
    """
    series = find_series(table)
    with style():
        figure = start_figure(9.5, 4.6, title=title, subtitle=subtitle)
        if not series:
            figure.text(0.5, 0.4, "no two profiles that differ in the MHSA ratio alone", ha="center")
            return figure
        for axes, (column, name) in zip(figure.subplots(1, 2), PANELS.items(), strict=True):
            for number, (label, rows) in enumerate(series.items()):
                _draw_line(axes, rows, column, label=label, number=number)
            _finish(axes, series, title=f"memory-bound share {name}, %")
            axes.set_ylim(bottom=0)
        _add_legend(figure, axes)
    return figure


def accuracy_lines(table: pd.DataFrame, *, title: str, subtitle: str = "") -> Figure:
    """Accuracy against the MHSA ratio, a line a series; the source's own beside it, on a scale of its own.

    Points are means over seeds, bars reach from the lowest seed to the highest.
    """
    series = find_series(table, "top1")
    source = find_series(table, "paper_top1")
    with style():
        figure = start_figure(11, 4.6, title=title, subtitle=subtitle)
        if not series:
            figure.text(0.5, 0.4, "no two accuracies that differ in the MHSA ratio alone", ha="center")
            return figure
        axes, *beside = figure.subplots(1, 2 if source else 1, squeeze=False)[0]
        for number, (label, rows) in enumerate(series.items()):
            seeds = rows["top1_values"]
            reach = rows.assign(top1_low=seeds.map(min), top1_high=seeds.map(max))
            _draw_line(axes, reach, "top1", label=label, number=number)
        _finish(axes, series, title="top-1 %, mean and range of the seeds")
        for right in beside:
            for number, (label, rows) in enumerate(source.items()):
                _draw_line(right, rows, "paper_top1", label=label, number=number, hollow=True)
            _finish(right, source, title="in the paper: top-1 % on ImageNet")
        _add_legend(figure, axes)
    return figure


def _finish(axes: Axes, series: Mapping[str, pd.DataFrame], *, title: str) -> None:
    axes.set_title(title, loc="left")
    axes.set_xlabel("mhsa_ratio")
    axes.set_xticks(sorted({ratio for rows in series.values() for ratio in rows[KNOB]}))


def _add_legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)))


def _draw_line(axes: Axes, rows: pd.DataFrame, column: str, *, label: str, number: int, hollow: bool = False) -> None:
    color, marker = COLORBLIND[number % len(COLORBLIND)], MARKERS[number % len(MARKERS)]
    x = rows[KNOB].astype(float)
    if f"{column}_low" in rows:
        axes.vlines(x, 100 * rows[f"{column}_low"], 100 * rows[f"{column}_high"], color=color, alpha=0.5, linewidth=1.8)
    look: dict[str, Any] = {"linestyle": "-", "markeredgecolor": "white"}
    if hollow:  # the source's
        look = {"linestyle": "--", "markerfacecolor": "white", "alpha": 0.75}
    axes.plot(x, 100 * rows[column], marker, color=color, label=label, **look)


def _label(row: "pd.Series[object]", knobs: list[str]) -> str:
    """What a series shares, in words: the network that it starts from, its target speed, other knobs."""
    parts: list[str] = []
    for knob in knobs:
        value = row[knob]
        if (isinstance(value, float) and pd.isna(value)) or value is None:
            continue
        name = knob.removeprefix("knob_")
        if name == "base":
            parts.insert(0, str(value["name"] if isinstance(value, dict) else value))
        elif name == "speedup":
            parts.append(f"{value:g}x")
        else:
            parts.append(f"{name} {value:g}" if isinstance(value, int | float) else f"{name} {value}")
    return " ".join(parts) or "base"
