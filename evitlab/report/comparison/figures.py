"""The paper's differences and ours in one picture, ours with intervals over seeds."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from evitlab.report.comparison.paper import Comparison
from evitlab.report.frame import BLUE, GREY, INK, start_figure, style


def paper_differences(comparison: Comparison, *, title: str, subtitle: str = "") -> Figure:
    """Each row's difference to the row compared with: the paper's hollow and grey, ours in blue with its interval,
    white inside where the interval holds equality. Speeds beside them, where the paper has any.
    """
    table = comparison.table[comparison.table["variant"] != comparison.table["compared_with"]].reset_index(drop=True)
    has_speed = bool(table["paper_speed_ratio"].notna().any() and table["speed_ratio"].notna().any())
    with style():
        figure = start_figure(11, 1.5 + 0.36 * len(table), title=title, subtitle=subtitle)
        left, *right = figure.subplots(1, 2 if has_speed else 1, sharey=True, squeeze=False)[0]
        _draw_accuracies(left, table)
        left.set_yticks(range(len(table)), list(table["variant"]))
        left.set_ylim(len(table) - 0.4, -0.6)  # the first row on top
        for axes in right:
            _draw_speeds(axes, table)
        figure.legend(handles=_legend(), loc="outside lower center", ncols=3)
    return figure


def _draw_accuracies(axes: Axes, table: pd.DataFrame) -> None:
    places = np.arange(len(table))
    axes.axvline(0, color=INK, linewidth=1)
    axes.hlines(places + 0.13, 100 * table["difference_low"], 100 * table["difference_high"], color=BLUE, linewidth=1.8)
    _draw_points(axes, 100 * table["difference"], told=table["verdict"] != "not separable")
    axes.plot(100 * table["paper_difference"], places - 0.13, "D", **_paper_look())
    axes.set_title(f"difference in top-1 to {_other(table)}, points", loc="left")
    axes.grid(axis="y", visible=False)


def _draw_speeds(axes: Axes, table: pd.DataFrame) -> None:
    places = np.arange(len(table))
    axes.axvline(1, color=INK, linewidth=1)
    axes.hlines(places + 0.13, table["speed_ratio_low"], table["speed_ratio_high"], color=BLUE, linewidth=1.8)
    told = (table["speed_ratio_low"] > 1) | (table["speed_ratio_high"] < 1)
    _draw_points(axes, table["speed_ratio"], told=told)
    axes.plot(table["paper_speed_ratio"], places - 0.13, "D", **_paper_look())
    axes.set_title(f"throughput over that of {_other(table)}", loc="left")
    axes.grid(axis="y", visible=False)


def _draw_points(axes: Axes, values: "pd.Series[float]", *, told: "pd.Series[bool]") -> None:
    """Ours: filled where the interval leaves out equality, else white inside."""
    places = np.arange(len(values)) + 0.13
    for chosen, inside in ((told, BLUE), (~told, "white")):
        look: dict[str, Any] = {"color": BLUE, "markerfacecolor": inside, "linestyle": "none"}
        axes.plot(values[chosen], places[chosen], "o", **look)


def _other(table: pd.DataFrame) -> str:
    """The row compared with, where it is one for all and its name is short."""
    names = set(table["compared_with"])
    name = str(table["compared_with"][0])
    return name if len(names) == 1 and len(name) < 24 else "the row compared with"


def _paper_look() -> dict[str, Any]:
    return {"color": GREY, "markerfacecolor": "white", "linestyle": "none", "markersize": 6}


def _legend() -> list[Line2D]:
    ours: dict[str, Any] = {"color": BLUE, "marker": "o"}
    return [
        Line2D([], [], label="the paper's, on its own data", marker="D", **_paper_look()),
        Line2D([], [], label="ours, 95% interval", **ours),
        Line2D([], [], label="ours, interval holds equality: not separable", markerfacecolor="white", **ours),
    ]
