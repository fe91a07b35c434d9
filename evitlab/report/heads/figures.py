"""Heads as figures: likeness block by block beside the paper's (Fig. 4), heads x heads, what each head is worth."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evitlab.measurements.heads import HeadBlock, HeadSimilarity
from evitlab.report.frame import BLUE, COLORBLIND, GREY, INK, MARKERS, start_figure, style
from evitlab.report.heads.tables import DEFINITIONS, QUANTITIES, drop_table, list_networks

COLUMNS = 6
"""Matrices a row."""
ANNOTATED = 4
"""Heads up to which a matrix shows its numbers."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line over the blocks, in shares."""

    label: str
    numbers: Sequence[int]
    values: Sequence[float | None]
    lows: Sequence[float | None] = ()
    highs: Sequence[float | None] = ()
    kind: str = "trained"
    """trained, untrained or paper: each has a look of its own."""
    color: str = BLUE
    marker: str = "o"
    """Of `trained` and `untrained`."""


LOOKS: dict[str, dict[str, Any]] = {
    "trained": {"linestyle": "-"},
    "untrained": {"linestyle": ":", "markerfacecolor": "white", "linewidth": 1.2, "markersize": 5},
    "paper": {"marker": "D", "linestyle": "", "markerfacecolor": "none", "markersize": 7.5},
}


def draw_lines(axes: Axes, lines: Sequence[Line]) -> None:
    """Similarity in percent against the block; bars are intervals, gaps blocks without a value."""
    for line in lines:
        values = np.array([np.nan if value is None else 100 * value for value in line.values])
        edge = "white" if line.kind == "trained" else line.color
        look = {"marker": line.marker, "markeredgecolor": edge, **LOOKS[line.kind]}
        axes.plot(line.numbers, values, color=line.color, label=line.label, **look)
        ends = [
            (x, 100 * max(-1.0, low), 100 * min(1.0, high))  # a cosine is no larger
            for x, low, high in zip(line.numbers, line.lows, line.highs, strict=False)
            if low is not None and high is not None
        ]
        if ends:
            axes.vlines(*zip(*ends, strict=True), color=line.color, alpha=0.45, linewidth=2)
    axes.set_xlabel("block")
    numbers = sorted({number for line in lines for number in line.numbers})
    axes.set_xticks(numbers if len(numbers) <= 24 else numbers[::4])


def similarity_plot(result: HeadSimilarity, *, title: str, paper: tuple[str, Sequence[float]] | None = None) -> Figure:
    """A panel a quantity, the definitions as lines, the untrained network dotted; the paper's points beside features.

    Which of the two definitions the paper's points follow is not certain: its caption says one, its author the other.
    """
    subtitle = f"{result.images:,} images of {result.data}, {result.image_size[0]} px"
    with style():
        figure = start_figure(11, 4.2, title=title, subtitle=subtitle)
        axes: Axes
        for axes, (quantity, name) in zip(figure.subplots(1, 2), QUANTITIES.items(), strict=True):
            lines = [
                Line(
                    label=f"{definition}{', untrained' if network == 'untrained' else ''}",
                    numbers=[block.number for block in blocks],
                    values=[getattr(getattr(block, quantity), field, None) for block in blocks],
                    kind="trained" if network == "itself" else network,
                    color=COLORBLIND[place],
                    marker=MARKERS[place],
                )
                for network, blocks in list_networks(result).items()
                for place, (field, definition) in enumerate(DEFINITIONS.items())
                if field != "mean_pair"
            ]
            if paper is not None and quantity == "features":
                label = f"paper, {paper[0]}, ImageNet"
                lines.append(
                    Line(label=label, numbers=range(1, 1 + len(paper[1])), values=paper[1], kind="paper", color=INK)
                )
            draw_lines(axes, lines)
            axes.set_title(f"similarity of {name}, %", loc="left")
            if quantity == "features":
                handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def matrix_plot(blocks: Sequence[HeadBlock], *, title: str, subtitle: str = "") -> Figure:
    """Heads x heads of every block with attention: mean cosine of features above, of maps below.

    One scale each for all blocks. Grey: a head that is zero has no cosine.
    """
    shown = [block for block in blocks if block.features is not None]
    rows = -(-len(shown) // COLUMNS)
    columns = max(1, min(COLUMNS, len(shown)))
    with style():
        figure = start_figure(1.75 * columns + 1.2, 1.95 * 2 * max(rows, 1), title=title, subtitle=subtitle)
        if not shown:
            figure.text(0.5, 0.4, "no block has attention", ha="center")
            return figure
        panels = figure.subplots(2 * rows, columns, squeeze=False)
        for place, (quantity, name) in enumerate(QUANTITIES.items()):
            own = panels[place * rows : (place + 1) * rows]
            for axes in own.flatten()[len(shown) :]:
                axes.set_axis_off()
            for axes, block in zip(own.flatten(), shown, strict=False):
                _draw_matrix(axes, block, quantity)
            image = own[0][0].images[0]
            figure.colorbar(image, ax=list(own.flatten()), label=f"cosine of {name}", shrink=0.9, pad=0.01)
    return figure


def _draw_matrix(axes: Axes, block: HeadBlock, quantity: str) -> None:
    found = getattr(block, quantity)
    matrix = np.array([[np.nan if value is None else value for value in row] for row in found.matrix])
    look = {"cmap": "RdBu_r", "vmin": -1.0, "vmax": 1.0} if quantity == "features" else {"cmap": "viridis", "vmin": 0.0}
    axes.set_facecolor("#d1d5db")
    axes.imshow(matrix, **{"vmax": 1.0, **look}, interpolation="nearest")  # type: ignore[arg-type]
    axes.set_title(f"block {block.number}", loc="left", fontsize=9)
    axes.grid(visible=False)
    few = len(matrix) <= 8
    axes.set_xticks(range(len(matrix)) if few else [0, len(matrix) - 1])
    axes.set_yticks(range(len(matrix)) if few else [0, len(matrix) - 1])
    axes.tick_params(labelsize=7.5, length=0)
    if len(matrix) > ANNOTATED:
        return
    for (row, column), value in np.ndenumerate(matrix):
        if row != column and not np.isnan(value):
            bright = abs(value) > 0.6 if quantity == "features" else value < 0.6
            text = f"{100 * value:.0f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=7.5, color="white" if bright else INK)


def drop_plot(result: HeadSimilarity, *, title: str) -> Figure:
    """Top-1 points and nats that the network loses without each head, with 95% intervals over images."""
    table = drop_table(result)
    count = f"{result.drop_one.images:,}" if result.drop_one is not None else "no"
    subtitle = f"one head at a time, on {count} images of {result.data}; bars: 95% intervals over images"
    with style():
        figure = start_figure(max(7.0, min(16.0, 2.0 + 0.16 * len(table))), 4.8, title=title, subtitle=subtitle)
        if table.empty:
            figure.text(0.5, 0.4, "no head was dropped", ha="center")
            return figure
        x = np.arange(len(table))
        shades = [BLUE if number % 2 else COLORBLIND[9] for number in table["block"]]
        panels = {"top1_cost": (100, "top-1 points lost"), "loss_cost": (1, "cross-entropy gained, nats")}
        for axes, (column, (scale, name)) in zip(figure.subplots(2, 1, sharex=True), panels.items(), strict=True):
            axes.bar(x, scale * table[column], color=shades, width=0.8)
            axes.vlines(x, scale * table[f"{column}_low"], scale * table[f"{column}_high"], color=INK, linewidth=1)
            axes.axhline(0, color=GREY, linewidth=0.8)
            axes.set_title(name, loc="left")
            axes.grid(visible=False, axis="x")
        middles = table.assign(x=x).groupby("block")["x"].mean()
        axes.set_xticks(middles, [str(number) for number in middles.index])
        axes.set_xlim(-1, len(table))
        axes.set_xlabel("block, a bar a head")
    return figure
