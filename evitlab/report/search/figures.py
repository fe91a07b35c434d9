"""A search in pictures: the front it found beside what was made by hand, and how the front grew."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from evitlab.report.frame import BLUE, GREY, INK, ORANGE, start_figure, style


def search_front(front: pd.DataFrame, growth: pd.DataFrame, *, title: str, subtitle: str) -> Figure:
    """Accuracy over speed of all that was trained, found and hand-made apart, and the hypervolume as it grew."""
    with style():
        figure = start_figure(10, 4.6, title=title, subtitle=subtitle)
        left, right = figure.subplots(1, 2, width_ratios=(2, 1))
        for found, mark, color, label in ((True, "o", BLUE, "found"), (False, "s", ORANGE, "made by hand")):
            rows = front[front["found"] == found]
            look = {"color": color, "markeredgecolor": "white", "label": label}
            left.plot(rows["speed_ratio"], 100 * rows["top1"], mark, **look)
        best = front[front["on_front"]].sort_values("speed_ratio")
        left.step(
            best["speed_ratio"], 100 * best["top1"], where="pre", color=INK, linewidth=1.2, label="front", zorder=1
        )
        left.set_xscale("log")
        left.xaxis.set_major_formatter("{x:g}")
        left.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        left.xaxis.set_minor_formatter("")
        left.set_xlabel("measured speed over the base's")
        left.set_title("top-1 % over speed", loc="left")
        left.legend()
        right.plot(growth["trained"], growth["hypervolume"], color=GREY, drawstyle="steps-post")
        right.set_xlabel("variants trained")
        right.set_title("hypervolume of the front", loc="left")
    return figure


LIGHT = "#8ec5e6"
"""Under the dark lines of deviations."""


def importance_bars(importance: pd.DataFrame, *, title: str, subtitle: str = "") -> Figure:
    """How much each knob matters, a panel an objective and a row of panels a base; fANOVA's bars with the deviation
    over its seeds, PED-ANOVA's hatched. Shares of one evaluator sum to 1.

    `importance` is the table that a search leaves (`sweep.knob_importance`).
    """
    bases, objectives = list(dict.fromkeys(importance["base"])), list(dict.fromkeys(importance["objective"]))
    knobs = list(importance.groupby("knob")["importance"].mean().sort_values(ascending=False).index)
    with style():
        size = (10, len(bases) * (1.0 + 0.42 * len(knobs)))
        figure = start_figure(*size, title=title, subtitle=subtitle or _describe_importance(importance))
        grid = figure.subplots(len(bases), len(objectives), squeeze=False, sharex=True, sharey=True)
        for panels, base in zip(grid, bases, strict=True):
            for axes, objective in zip(panels, objectives, strict=True):
                own = importance[(importance["base"] == base) & (importance["objective"] == objective)]
                _draw_importance(axes, own, knobs)
                axes.set_title(f"{objective}{f', {base}' if base else ''}: share of its variance, %", loc="left")
        grid[0][0].set_xlim(left=0)  # of all; set before the last is drawn, it would cut longer bars
        figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _draw_importance(axes: Axes, rows: pd.DataFrame, knobs: Sequence[str]) -> None:
    looks = {"fANOVA": {"color": LIGHT}, "PED-ANOVA": {"color": "white", "edgecolor": ORANGE, "hatch": "////"}}
    for number, (evaluator, look) in enumerate(looks.items()):
        own = rows[rows["evaluator"] == evaluator].set_index("knob").reindex(knobs)
        places = np.arange(len(knobs)) + (0.19 if number else -0.19)
        axes.barh(places, 100 * own["importance"], height=0.34, label=evaluator, **look)
        low, high = 100 * (own["importance"] - own["spread"]), 100 * (own["importance"] + own["spread"])
        axes.hlines(places, low, high, color=INK, linewidth=1.6)
    axes.set_yticks(range(len(knobs)), list(knobs))
    axes.set_ylim(len(knobs) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")


def _describe_importance(importance: pd.DataFrame) -> str:
    counts = importance.groupby("base", sort=False)["variants"].max()
    trained = ", ".join(f"{count} of {base}" if base else str(count) for base, count in counts.items())
    return f"variants trained: {trained}; lines: one standard deviation over the seeds of fANOVA's forests"
