"""Figures of an evaluation: ROC curves, confusions, calibration, classes; readable with two classes and a thousand."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from evitlab.curves import CALIBRATION_BINS, FALSE_POSITIVE_RATES, Curves
from evitlab.measurements.accuracy import Evaluation
from evitlab.report.evaluation.tables import class_table, most_confused
from evitlab.report.frame import BLUE, COLORBLIND, DASHES, GREY, INK, ORANGE, RED, start_figure, style
from evitlab.report.tables import percent

ALL_NAMED = 10
"""Up to so many classes every ROC curve has its colour and name; of more, only the worst."""
WORST = 4
PAIRS = 12
"""Pairs of classes that are listed beside the matrix."""
CELLS = 250
"""Up to so many classes each has cells of its own in the matrix: more would be smaller than a pixel."""
LISTED = 24
"""Up to so many classes all have a bar; of more, the ten best and the ten worst."""


def roc_plot(evaluation: Evaluation, curves: Curves, *, title: str, subtitle: str = "") -> Figure:
    """True against false positive rate, each class against the rest, and their mean in bold; right: logarithmic."""
    with style():
        figure = start_figure(11, 4.4, title=title, subtitle=subtitle)
        areas = class_table(evaluation)["auc"]
        if evaluation.macro_auc is None:
            return _say(figure, "no class has images both in it and out of it")
        linear, logarithmic = figure.subplots(1, 2)
        named = areas.index if len(areas) <= ALL_NAMED else areas.sort_values(kind="stable").index[:WORST]
        for axes in (linear, logarithmic):
            _draw_roc(axes, evaluation, curves, named=[row for row in named if not pd.isna(areas[row])])
        linear.set_title("true positive rate, one class against the rest", loc="left")
        linear.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1)
        logarithmic.set_title("the same, false positives logarithmic", loc="left")
        logarithmic.set_xscale("log")
        logarithmic.set_xlim(max(0.2 / evaluation.images, FALSE_POSITIVE_RATES[1]), 1)
        heading = "area under the curve" if len(areas) <= ALL_NAMED else f"area; the {len(named)} worst"
        handles, labels = linear.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper", title=heading, alignment="left")
    return figure


def _draw_roc(axes: Axes, evaluation: Evaluation, curves: Curves, *, named: list[int]) -> None:
    x, rates = np.concatenate([[0], FALSE_POSITIVE_RATES]), curves.true_positive_rates
    axes.plot(x, _from_zero(curves.macro_true_positive_rates), color=INK, linewidth=3, zorder=4)
    axes.lines[-1].set_label(f"{percent(evaluation.macro_auc or 0)} % mean of classes")
    for row in range(len(rates)):
        if row not in named:
            axes.plot(x, _from_zero(rates[row]), color=GREY, linewidth=0.6, alpha=min(0.35, 12 / len(rates)))
    for number, row in enumerate(named):
        each = evaluation.classes[row]
        look = {"color": COLORBLIND[number % len(COLORBLIND)], "linestyle": DASHES[number % len(DASHES)]}
        axes.plot(x, _from_zero(rates[row]), linewidth=1.4, **look)
        axes.lines[-1].set_label(f"{percent(each.auc or 0)} % {_short(each.name, 26)}")
    axes.set_xlabel("false positive rate")
    axes.set_ylim(-0.02, 1.02)


def _from_zero(rates: NDArray[np.float64]) -> NDArray[np.float64]:
    """With the corner where nothing is taken for the class."""
    return np.concatenate([[0.0], rates])


def confusion_plot(curves: Curves, *, title: str, subtitle: str = "") -> Figure:
    """Share of each true class (row) taken for each class (column), and the pairs confused most.

    Colour grows with the square root of the share, so that rare confusions show. Rows without images are grey. Of a
    thousand classes, a cell is a block of them and shows its highest share.
    """
    counts = curves.confusion.sum(axis=1, keepdims=True)
    shares = np.where(counts > 0, curves.confusion / np.maximum(counts, 1), np.nan)
    block = -(-len(shares) // CELLS)
    with style():
        figure = start_figure(12.5, 6.2, title=title, subtitle=subtitle)
        matrix, pairs = figure.subplots(1, 2, width_ratios=[1.5, 1])
        colours = sns.color_palette("rocket_r", as_cmap=True).with_extremes(bad="#d1d5db")
        ends = (-0.5, block * len(range(0, len(shares), block)) - 0.5)
        extent = (*ends, *reversed(ends))
        drawn = matrix.imshow(_pool(shares, block), cmap=colours, norm=PowerNorm(0.5, 0, 1), extent=extent)
        bar = figure.colorbar(drawn, ax=matrix, format=PercentFormatter(1), ticks=[0, 0.01, 0.05, 0.2, 0.5, 1])
        bar.outline.set_visible(False)
        highest = "" if block == 1 else f"; highest of each {block}x{block}"
        matrix.set_title(f"share of the true class (row) taken for a class (column){highest}", loc="left")
        matrix.set(xlabel="taken for", ylabel="true class")
        matrix.grid(False)
        _name_places(matrix, curves.classes)
        if len(shares) <= 16:
            _write_shares(matrix, shares, size=9 if len(shares) <= ALL_NAMED else 7)
        _draw_pairs(pairs, most_confused(curves, count=PAIRS))
    return figure


def _pool(shares: NDArray[np.float64], block: int) -> NDArray[np.float64]:
    """The highest share of each block of cells; NaN where all its rows are without images."""
    starts = np.arange(0, len(shares), block)
    return np.fmax.reduceat(np.fmax.reduceat(shares, starts, axis=0), starts, axis=1)


def _name_places(axes: Axes, classes: tuple[str, ...]) -> None:
    """Names where they fit, else numbers at every tenth, hundredth, ... class."""
    if len(classes) <= 32:
        size = 9 if len(classes) <= 16 else 7
        names = [_short(name, 22) for name in classes]
        axes.set_xticks(range(len(classes)), names, rotation=90 if len(classes) > 4 else 0, fontsize=size)
        axes.set_yticks(range(len(classes)), names, fontsize=size)
        return
    step = next(step for step in (10, 20, 50, 100, 200, 500, 1000, 10**9) if len(classes) <= 10 * step)
    places = range(0, len(classes), step)
    axes.set_xticks(places, [str(place) for place in places])
    axes.set_yticks(places, [str(place) for place in places])


def _write_shares(axes: Axes, shares: NDArray[np.float64], *, size: int) -> None:
    for (row, column), share in np.ndenumerate(shares):
        if share >= 0.005:
            color = "white" if share > 0.15 else INK
            axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=size, color=color)


def _draw_pairs(axes: Axes, pairs: pd.DataFrame) -> None:
    axes.set_title("confused most: true class for another, %", loc="left")
    if pairs.empty:
        axes.set_axis_off()
        axes.text(0, 0.5, "no image is taken for another class", transform=axes.transAxes)
        return
    rows = range(len(pairs))
    axes.barh(rows, 100 * pairs["share"], color=ORANGE, height=0.45)
    for row, (_, pair) in zip(rows, pairs.iterrows(), strict=True):
        words = f"{_short(pair['true'], 22)} for {_short(pair['predicted'], 22)}: {percent(pair['share'])}"
        axes.text(0, row - 0.28, words, va="bottom", fontsize=9, in_layout=False)
    axes.set_ylim(PAIRS - 0.6, -0.9)
    axes.set_yticks([])
    axes.grid(False, axis="y")
    axes.set_xlim(0, 100 * max(pairs["share"].max(), 0.01) * 1.05)


def reliability_plot(evaluation: Evaluation, curves: Curves, *, title: str, subtitle: str = "") -> Figure:
    """Accuracy against confidence in 15 bins, and how many images lie in each (Guo et al., ICML 2017, Fig. 1)."""
    width = 1 / CALIBRATION_BINS
    middles = (np.arange(CALIBRATION_BINS) + 0.5) * width
    with style():
        figure = start_figure(6.5, 5.6, title=title, subtitle=subtitle)
        accuracy, images = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        accuracy.bar(middles, 100 * curves.bin_accuracies, width=0.92 * width, color=BLUE, alpha=0.6, label="accuracy")
        ends = 100 * curves.bin_accuracies, 100 * curves.bin_confidences
        accuracy.vlines(middles, *ends, color=RED, linewidth=2, label="gap to the mean confidence")
        accuracy.hlines(ends[1], middles - 0.3 * width, middles + 0.3 * width, color=RED, linewidth=2)
        accuracy.plot([0, 1], [0, 100], "--", color=GREY, linewidth=1)
        accuracy.set(xlim=(0, 1), ylim=(0, 102))
        accuracy.set_title(f"accuracy % by confidence; calibration error {percent(evaluation.ece)} %", loc="left")
        images.bar(middles, 100 * curves.bin_counts / curves.bin_counts.sum(), width=0.92 * width, color=GREY)
        images.set_title("images, %", loc="left")
        images.set_xlabel("confidence: the highest probability")
        figure.legend(*accuracy.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def class_plot(evaluation: Evaluation, *, title: str, subtitle: str = "") -> Figure:
    """F1 as bars, recall and precision as marks, sorted by F1; of many classes the ten best and the ten worst.

    Classes without images are left out.
    """
    table = class_table(evaluation)
    table = table[table["support"] > 0].sort_values("f1", ascending=False, kind="stable")
    groups = {"": table}
    if len(table) > LISTED:
        groups = {"ten best: ": table[:10], "ten worst: ": table[-10:]}
    longest = max(len(group) for group in groups.values())
    with style():
        figure = start_figure(11 if len(groups) > 1 else 8, 1.1 + 0.27 * longest, title=title, subtitle=subtitle)
        for axes, (name, group) in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups.items(), strict=True):
            _draw_classes(axes, group)
            axes.set_title(f"{name}F1, recall, precision %", loc="left")
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def _draw_classes(axes: Axes, table: pd.DataFrame) -> None:
    rows = np.arange(len(table))
    axes.barh(rows, 100 * table["f1"], color=BLUE, alpha=0.45, height=0.62, label="F1")
    axes.plot(100 * table["recall"], rows, "o", color=ORANGE, markeredgecolor="white", label="recall")
    axes.plot(100 * table["precision"], rows, "D", color=INK, markersize=4.5, label="precision")
    names = [f"{_short(name, 30)} ({support})" for name, support in zip(table["class"], table["support"], strict=True)]
    axes.set_yticks(rows, names)
    axes.set_ylim(len(table) - 0.4, -0.6)
    axes.set_xlim(0, 102)
    axes.grid(False, axis="y")


def _short(name: str, longest: int) -> str:
    """Cut where it is long; a dollar is one, and begins no formula."""
    cut = name if len(name) <= longest else name[: longest - 3] + "..."
    return cut.replace("$", r"\$")


def _say(figure: Figure, words: str) -> Figure:
    figure.text(0.5, 0.4, words, ha="center")
    return figure
