"""Figures of prunings: channels by block as in the paper's Fig. 5, beside the control; accuracy on the way."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from evitlab.measurements.pruning import Pruning
from evitlab.records import Record
from evitlab.report.frame import BLUE, COLORBLIND, GREY, INK, ORANGE, start_figure, style
from evitlab.report.pruning.tables import KINDS, channel_table, describe_scores, group_targets, step_table
from evitlab.store import measured

OURS = {"color": BLUE, "marker": "o", "linestyle": "-", "zorder": 4}
CONTROL = {"color": GREY, "marker": "x", "linestyle": "--", "zorder": 3}
PAPER = {"color": ORANGE, "marker": "D", "linestyle": ":", "markerfacecolor": "white", "zorder": 2}
"""Lines differ by colour, marker and dash."""


def channels_plot(records: Sequence[Record], *, title: str, subtitle: str = "") -> Figure:
    """Channels over the embedding width by block, a panel for QK, V and FFN, a row of panels for each target.

    Bold: the trained network. Dashed: the same procedure on an untrained one. Thin: before. Dotted: the paper's, where
    it is known. Of several seeds: the mean, and a band from the lowest to the highest.
    """
    targets = group_targets(records)
    with style():
        figure = start_figure(11, max(1, len(targets)) * 2.9, title=title, subtitle=subtitle or _describe(records))
        if not targets:
            figure.text(0.5, 0.4, "nothing has been pruned yet", ha="center")
            return figure
        panels = figure.subplots(len(targets), len(KINDS), squeeze=False, sharex=True)
        for row, (target, own) in zip(panels, targets.items(), strict=True):
            table = channel_table(own)
            for axes, (kind, name) in zip(row, KINDS.items(), strict=True):
                _draw_kind(axes, table[(table["kind"] == kind) & table["block"].notna()])
                axes.set_title(f"{name}, {target}", loc="left")
            row[0].set_ylabel("channels over width")
        for axes in panels[-1]:
            axes.set_xlabel("block")
        figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _draw_kind(axes: Axes, rows: pd.DataFrame) -> None:
    by_block = rows.groupby("block")
    blocks = sorted(by_block.groups)
    before = by_block["before_ratio"].mean()
    axes.step(blocks, before, where="mid", color=INK, linewidth=0.9, label="before", zorder=1)
    if by_block["paper_ratio"].mean().notna().any():
        axes.plot(blocks, by_block["paper_ratio"].mean(), label="the paper's, ImageNet", **PAPER)
    for column, label, look in (
        ("control_ratio", "control: untrained", CONTROL),
        ("after_ratio", "trained, pruned", OURS),
    ):
        axes.plot(blocks, by_block[column].mean(), label=label, **look)
        low, high = by_block[column].min(), by_block[column].max()
        axes.fill_between(blocks, low, high, color=str(look["color"]), alpha=0.2, linewidth=0)
    axes.set_ylim(0, 1.08 * float(max(before.max(), rows["paper_ratio"].max() if len(rows) else 0)) or 1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _describe(records: Sequence[Record]) -> str:
    if not records:
        return ""
    found: Pruning = measured(records[0])
    seeds = len({record.seed for record in records})
    band = f"; {seeds} seeds: mean, band from the lowest to the highest" if seeds > 1 else "; one seed"
    return f"{found.origin}. {describe_scores(found)} Data: {found.data}{band}."


def accuracy_plot(records: Sequence[Record], *, title: str, subtitle: str = "") -> Figure:
    """Top-1 against the MACs left, step by step: open markers right after a cut, filled after fine-tuning.

    A colour a target; dashed grey the control. Bars at the end are Wilson 95% intervals over images. Seeds are lines of
    their own.
    """
    with style():
        figure = start_figure(8.5, 3.8, title=title, subtitle=subtitle or _describe(records))
        axes = figure.add_subplot()
        colors: dict[str, str] = {}
        named: set[str] = set()
        for target, record in [(target, each) for target, own in group_targets(records).items() for each in own]:
            found: Pruning = measured(record)
            color = colors.setdefault(target, COLORBLIND[len(colors) % len(COLORBLIND)])
            table = step_table([record])
            for network, rows in table.groupby("network", sort=False):
                own = network == "trained"
                label = target if own else "control: untrained, never fine-tuned"
                look = {"color": color} if own else {"color": GREY, "linestyle": "--"}
                _draw_steps(axes, rows, look, label="" if label in named else label)
                named.add(label)
            _draw_interval(axes, found, color)
        axes.invert_xaxis()
        axes.set_xlabel("MACs left, % of the original's")
        axes.set_ylabel("held-out top-1 %")
        axes.set_ylim(bottom=0)
        if records:
            figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _draw_steps(axes: Axes, rows: pd.DataFrame, look: dict[str, str], *, label: str) -> None:
    macs = 100 * rows["macs"] / rows["macs"].iloc[0]
    ends = rows["top1_finetuned"].fillna(rows["top1_pruned"])
    path_x, path_y = [], []
    for x, cut, end in zip(macs, 100 * rows["top1_pruned"], 100 * ends, strict=True):
        path_x += [x, x]
        path_y += [cut, end]
    axes.plot(path_x, path_y, linewidth=1.2, label=label or None, **look)  # type: ignore[arg-type]
    color = look["color"]
    axes.plot(macs, 100 * rows["top1_pruned"], "o", color=color, markerfacecolor="white", markersize=5)
    tuned = rows["top1_finetuned"].notna()
    axes.plot(macs[tuned], 100 * ends[tuned], "o", color=color, markersize=5)


def _draw_interval(axes: Axes, found: Pruning, color: str) -> None:
    last, share = found.finetuned or found.pruned, 100 * found.curve[-1].macs / found.macs_before
    axes.vlines(share, 100 * last.top1_low, 100 * last.top1_high, color=color, linewidth=2.5, alpha=0.6)
