"""Figures of what `evitlab bench` measures: batch curves, and the ratios of models that were timed in turn."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from evitlab.measurements.speed import BatchCurve
from evitlab.records import Record
from evitlab.report.conditions import describe_shared
from evitlab.report.frame import BLUE, COLORBLIND, GREY, INK, MARKERS, name_points, start_figure, style
from evitlab.report.tables import significant
from evitlab.report.timing_tables import curve_table, describe_conditions, timing_table


def batch_curve_plot(curves: Mapping[str, BatchCurve], *, title: str = "Batch curve", subtitle: str = "") -> Figure:
    """Seconds of a call and images per second against the batch size, a line a model.

    Left: median milliseconds of a call, both axes logarithmic; a broad band lies under the line where it is
    overhead-bound, where a call takes about as long as for one image. Right: images per
    second with 95% intervals; a ring and a number mark the best batch.
    """
    subtitle = subtitle or describe_shared(curves.values())
    with style():
        figure = start_figure(9.5, 3.6, title=title, subtitle=subtitle)
        if not curves:
            figure.text(0.5, 0.4, "no batch curve measured yet", ha="center")
            return figure
        calls, speeds = figure.subplots(1, 2)
        for number, (name, curve) in enumerate(curves.items()):
            look = {"color": COLORBLIND[number % len(COLORBLIND)], "marker": MARKERS[number % len(MARKERS)]}
            _draw_calls(calls, curve, name=name, **look)
            _draw_speeds(speeds, curve, **look)
        calls.set_yscale("log")
        _number_logarithmically(calls.yaxis)
        calls.set_title("ms a call; broad band: overhead-bound", loc="left")
        speeds.set_title("images/s; ring: best batch", loc="left")
        speeds.set_ylim(0, 1.15 * speeds.get_ylim()[1])  # room for the words
        sizes = sorted({point.batch_size for curve in curves.values() for point in curve.points})
        for axes in (calls, speeds):
            _label_batches(axes, sizes)
        figure.legend(*calls.get_legend_handles_labels(), loc="outside lower center", ncols=4)
        figure.draw_without_rendering()  # places are known only now
        _name_best(speeds, curves.values())
    return figure


def ratio_plot(
    records: Sequence[Record], *, title: str = "Speed, timed in turn", subtitle: str = "", mixed: bool = False
) -> Figure:
    """Speed of each model over its reference's with its 95% interval, in the order given; logarithmic.

    Twice as fast and half as fast are equally far from 1. Records are chosen and refused as in `timing_table`.
    """
    table = timing_table(records, mixed=mixed)
    subtitle = subtitle or describe_conditions(table)
    with style():
        figure = start_figure(9.5, 1.3 + 0.36 * len(table), title=title, subtitle=subtitle)
        if table.empty:
            figure.text(0.5, 0.4, "no throughput measured yet", ha="center")
            return figure
        _draw_ratios(figure.add_subplot(), table)
    return figure


def _draw_calls(axes: Axes, curve: BatchCurve, *, name: str, color: str, marker: str) -> None:
    table = curve_table(curve)
    sizes, milliseconds, bound = table["infer_batch_size"], 1000 * table["latency_s"], table["overhead_bound"]
    axes.plot(sizes, milliseconds, color=color, marker=marker, label=name)
    axes.plot(sizes[bound], milliseconds[bound], color=color, linewidth=17, alpha=0.25, solid_capstyle="round")


def _draw_speeds(axes: Axes, curve: BatchCurve, *, color: str, marker: str) -> None:
    table = curve_table(curve)
    sizes, speeds = table["infer_batch_size"], table["infer_samples_per_sec"]
    low, high = table["infer_samples_per_sec_low"], table["infer_samples_per_sec_high"]
    axes.vlines(sizes, low, high, color=color, linewidth=1.8, alpha=0.55)
    axes.plot(sizes, speeds, color=color, marker=marker)
    best = table["best"]
    axes.plot(sizes[best], speeds[best], "o", markersize=14, markerfacecolor="none", markeredgecolor=INK)


def _name_best(axes: Axes, curves: Iterable[BatchCurve]) -> None:
    names, lines = [], []
    for curve in curves:
        table = curve_table(curve)
        sizes, speeds = table["infer_batch_size"].to_numpy(dtype=float), table["infer_samples_per_sec"].to_numpy()
        best = table.loc[table["best"].idxmax()]
        speed = best["infer_samples_per_sec"]
        names.append((best["infer_batch_size"], speed, f"{significant(speed)} at {best['infer_batch_size']}"))
        along = np.geomspace(sizes[0], sizes[-1], 30)
        lines.append(np.column_stack([along, np.interp(np.log(along), np.log(sizes), speeds)]))
    name_points(axes, names, avoid=np.concatenate(lines))


def _number_logarithmically(axis: Axis) -> None:
    """Plain numbers at 1, 2 and 5 of each decade, closer where the axis is short."""
    low, high = sorted(axis.get_view_interval())
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)) if high > 5 * low else MaxNLocator(6, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _label_batches(axes: Axes, sizes: Sequence[int]) -> None:
    """Batch sizes as ticks, all or every second, third, ... of them, on a logarithmic axis."""
    axes.set_xscale("log", base=2)
    shown = sizes[:: 1 + len(sizes) // 9]
    axes.set_xticks(shown, [str(size) for size in shown])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("batch size")


def _draw_ratios(axes: Axes, table: pd.DataFrame) -> None:
    rows = range(len(table))
    ratios = table["ratio"].fillna(1.0)
    axes.hlines(rows, table["ratio_low"], table["ratio_high"], color=BLUE, linewidth=2.2, alpha=0.55)
    axes.axvline(1, color=GREY, linewidth=1.2)
    for row, (_, timing) in zip(rows, table.iterrows(), strict=True):
        is_reference = pd.isna(timing["ratio"])
        face = "white" if is_reference else BLUE
        axes.plot(ratios.iloc[row], row, "o", color=BLUE, markerfacecolor=face, markersize=5.5)
        interval = (
            "reference"
            if is_reference
            else f"{timing['ratio']:.3f}  ({timing['ratio_low']:.3f}-{timing['ratio_high']:.3f})"
        )
        axes.annotate(interval, (1.02, row), xycoords=("axes fraction", "data"), va="center", fontsize=9.5)
    axes.set_yticks(rows, list(table["model"]))
    axes.set_ylim(len(table) - 0.5, -0.5)
    axes.set_xscale("log")
    _number_logarithmically(axes.xaxis)
    axes.grid(False, axis="y")
    references = " or ".join(table["reference"].unique())
    axes.set_xlabel(f"images a second over those of {references}, with 95% interval")
