"""All claims and their verdicts in one picture."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from evitlab.claims import VERDICTS
from evitlab.report.frame import BLUE, GREY, INK, RED, start_figure, style
from evitlab.report.reproduction.evidence import FAILS, HOLDS, MISSING, OPEN
from evitlab.report.reproduction.verdicts import Judged

LOOKS: dict[str, dict[str, Any]] = {
    HOLDS: {"marker": "o", "color": BLUE, "markersize": 9},
    FAILS: {"marker": "X", "color": RED, "markersize": 9},
    OPEN: {"marker": "o", "color": INK, "markerfacecolor": "white", "markersize": 9},
    MISSING: {"marker": "_", "color": GREY, "markersize": 9},
}
"""By verdict. The column says it too: no colour is needed."""
HALF: dict[str, Any] = {**LOOKS[HOLDS], "fillstyle": "left", "markerfacecoloralt": "white"}
"""Holds, with a caveat: such as that an untrained network does the same."""
OTHER: dict[str, Any] = {"marker": "D", "color": GREY, "markerfacecolor": "white", "markersize": 5}


def verdict_plot(judged: Sequence[Judged], *, title: str, subtitle: str) -> Figure:
    """A row a claim, a column a verdict; small diamonds: what other results say of the same claim."""
    with style():
        figure = start_figure(10, 0.8 + 0.27 * len(judged), title=title, subtitle=subtitle)
        axes: Axes = figure.subplots()
        for row, each in enumerate(judged):
            for verdict in {f.verdict for f in each.findings} - {each.verdict, MISSING}:
                axes.plot(VERDICTS.index(verdict), row, linestyle="none", **OTHER)
            axes.plot(VERDICTS.index(each.verdict), row, linestyle="none", **_look(each))
        axes.set_yticks(range(len(judged)), [f"{each.claim.short}   [{each.claim.source}]" for each in judged])
        axes.set_ylim(len(judged) - 0.4, -0.6)  # the first row on top
        counts = [sum(each.verdict == verdict for each in judged) for verdict in VERDICTS]
        names = [name.replace(" at this budget", "") for name in VERDICTS]
        axes.set_xticks(range(len(VERDICTS)), [f"{n}\n{count}" for n, count in zip(names, counts, strict=True)])
        axes.xaxis.tick_top()
        axes.set_xlim(-0.6, len(VERDICTS) - 0.4)
        axes.grid(axis="y", linewidth=0.6)
        axes.grid(axis="x", visible=False)
        axes.spines["left"].set_visible(False)
        figure.legend(handles=_legend(), loc="outside lower right", ncols=2)
    return figure


def _look(judged: Judged) -> dict[str, Any]:
    return HALF if judged.verdict == HOLDS and judged.caveat else LOOKS[judged.verdict]


def _legend() -> list[Line2D]:
    words = {"holds, with a caveat": HALF, "what other results say of the same claim": OTHER}
    return [Line2D([], [], linestyle="none", label=label, **look) for label, look in words.items()]
