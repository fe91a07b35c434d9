"""Figures of operator profiles: time by class of operator (the paper's Fig. 2), MHSA against FFN, the roofline."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from evitlab.measurements.profile import MEMORY_BOUND, Bandwidth, OperatorProfile, Peaks
from evitlab.report.conditions import describe_shared
from evitlab.report.frame import COLORBLIND, GREY, INK, NOTE, name_points, start_figure, style
from evitlab.report.profile_tables import list_operators
from evitlab.report.tables import significant

CLASS_COLORS = {
    "reshape and copy": "#8c2d04",
    "element-wise": "#ec7014",
    "normalisation": "#fec44f",
    "softmax": "#60a5fa",
    "matrix product": "#475569",
    "convolution": "#94a3b8",
    "other": "#e2e8f0",
}
"""Memory-bound classes warm, the others cool; neighbours differ in lightness too."""

CLASS_MARKERS = {"softmax": "D", "matrix product": "s", "convolution": "^", "other": "X"}
"""Memory-bound classes are circles."""

STEP_COLORS = {
    "projections": "#1e3a5f",
    "scores": "#2c6fad",
    "softmax": "#93c5fd",
    "mixing": "#4f94cd",
    "fused attention": "#7c6bb0",
    "reshapes": "#ec7014",
    "other": "#cbd5e1",
}
FFN_COLOR = COLORBLIND[2]


def runtime_breakdown(profiles: Mapping[str, OperatorProfile], *, title: str, subtitle: str = "") -> Figure:
    """Share of operator time by class, a bar a profile in the order given (EfficientViT, Fig. 2).

    The classes that the paper calls memory-bound come first, in warm colours; beside the bar stands their share,
    with its 95% interval as a line where they end. The diamond is the share of time in operators that this
    machine's roofline calls memory-bound, whatever their class: it is a length from zero, not a place in the bar.
    Without a subtitle, it says the conditions that all profiles share; so in the other figures here.
    """
    subtitle = subtitle or describe_shared(profiles.values())
    with style():
        figure = start_figure(9.5, 2.5 + 0.36 * len(profiles), title=title, subtitle=subtitle)
        if not profiles:
            figure.text(0.5, 0.4, "no operator profile measured yet", ha="center")
            return figure
        axes = figure.add_subplot()
        _stack(axes, _class_shares(profiles), colors=CLASS_COLORS)
        _mark_shares(axes, list(profiles.values()))
        axes.set_xlabel("share of operator time in a forward pass, %")
        axes.set_xlim(0, 100)
        handles, names = axes.get_legend_handles_labels()  # the marks stand first
        figure.legend(handles[2:] + handles[:2], names[2:] + names[:2], loc="outside lower center", ncols=4)
    return figure


def mhsa_ffn_bars(profiles: Mapping[str, OperatorProfile], *, title: str, subtitle: str = "") -> Figure:
    """Milliseconds in MHSA, by its steps, and in FFN, two bars a profile; beside them the share of operator time.

    Norms and residual additions around them, stem, downsampling and head are in neither.
    """
    subtitle = subtitle or describe_shared(profiles.values())
    with style():
        figure = start_figure(9.5, 1.8 + 0.7 * len(profiles), title=title, subtitle=subtitle)
        seconds = {name: _part_seconds(profile) for name, profile in profiles.items()}
        if not any(parts.sum() for parts in seconds.values()):
            figure.text(0.5, 0.4, "no time in MHSA or FFN measured yet", ha="center")
            return figure
        axes = figure.add_subplot()
        _stack_parts(axes, seconds)
        _write_totals(axes, seconds, profiles)
        batches = " or ".join(str(size) for size in sorted({profile.batch_size for profile in profiles.values()}))
        axes.set_xlabel(f"ms in a forward pass of {batches} images, as profiled")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def roofline_plot(profile: OperatorProfile, *, title: str, subtitle: str = "", labels: int = 6) -> Figure:
    """Every operator of every module under this machine's roofs (Williams et al., CACM 2009), both axes logarithmic.

    Across: arithmetic operations per byte; up: operations per second that it reached. A point's area is its time. An
    operator without MACs counts one operation for each number that it writes; one that writes none (a view) has
    no place here. The slopes are the bandwidths measured on the smallest and the largest working set, the flat roof is
    the fastest matrix product or convolution. The operators that took most time together have their name.
    """
    table = list_operators(profile).query("intensity > 0 and seconds > 0")
    table = table.assign(speed=table["intensity"] * table["bytes"] / table["seconds"])
    with style():
        figure = start_figure(9.5, 5.4, title=title, subtitle=subtitle or describe_shared([profile]))
        if table.empty:
            figure.text(0.5, 0.4, "no operator that computes was measured", ha="center")
            return figure
        axes = figure.add_subplot()
        axes.loglog()
        _set_limits(axes, table, profile.peaks)
        slopes = _draw_roofs(axes, profile.peaks)
        for name in _order_classes(table["operator_class"]):
            points = table[table["operator_class"] == name]
            _draw_points(axes, points, name=name, total=table["seconds"].sum())
        axes.set_xlabel("arithmetic intensity, operations a byte")
        axes.set_ylabel("operations a second")
        handles, names = axes.get_legend_handles_labels()
        legend = figure.legend(handles, names, loc="outside lower center", ncols=3)
        for handle in legend.findobj(PathCollection):
            handle.set_sizes([45.0])  # not that of one of its points
        figure.draw_without_rendering()  # places are known only now, and labels must not move them
        _name_roofs(axes, profile.peaks, slopes)
        _name_longest(axes, table, count=labels)
    return figure


def _class_shares(profiles: Mapping[str, OperatorProfile]) -> pd.DataFrame:
    """Percent of each profile's time, a row a profile, a column a class."""
    seconds = pd.DataFrame({name: profile.seconds_by_class for name, profile in profiles.items()}).T.fillna(0.0)
    return 100 * seconds[_order_classes(seconds.columns)].div(seconds.sum(axis=1), axis=0)


def _order_classes(found: Iterable[str]) -> list[str]:
    """Each once: memory-bound first, unknown ones last."""
    names = set(found)
    return [name for name in CLASS_COLORS if name in names] + sorted(names - set(CLASS_COLORS))


def _stack(axes: Axes, shares: pd.DataFrame, *, colors: Mapping[str, str]) -> None:
    left = np.zeros(len(shares))
    for name in shares.columns:
        label = f"{name} (memory-bound)" if name in MEMORY_BOUND else name
        color = colors.get(name, GREY)
        hatch = "////" if name in MEMORY_BOUND else None  # set off without colour, too
        look = {"color": color, "edgecolor": "white", "hatch": hatch, "hatch_linewidth": 0.5}
        axes.barh(shares.index, shares[name], left=left, height=0.72, label=label, **look)  # type: ignore[arg-type]
        left += shares[name].to_numpy()
    axes.set_ylim(len(shares) - 0.5, -0.5)
    axes.grid(False)
    axes.spines["left"].set_visible(False)


def _mark_shares(axes: Axes, profiles: list[OperatorProfile]) -> None:
    """The two memory-bound shares: marks on the bars, numbers in two columns beside them."""
    for row, profile in enumerate(profiles):
        low, high = 100 * profile.memory_bound_share_low, 100 * profile.memory_bound_share_high
        axes.plot(
            [low, high],
            [row + 0.16] * 2,
            "|-",
            color=INK,
            linewidth=1.6,
            markersize=8,
            label=None if row else "95% interval",
        )
        share, roofline = 100 * profile.memory_bound_share, 100 * profile.roofline_memory_bound_share
        axes.text(101.5, row, f"{share:.1f}", va="center", fontsize=9.5, weight="bold", color=NOTE)
        axes.text(111, row, f"{roofline:.1f}", va="center", fontsize=9.5, color=INK)
    shares = [100 * profile.roofline_memory_bound_share for profile in profiles]
    (marks,) = axes.plot(shares, np.arange(len(profiles)) - 0.16, "D", color=INK, label="memory-bound by roofline")
    marks.set(markerfacecolor="white", clip_on=False)
    axes.text(101.5, -0.62, "by\nclass", va="bottom", fontsize=9, color=NOTE, linespacing=1.1)
    axes.text(111, -0.62, "by\nroofline", va="bottom", fontsize=9, color=INK, linespacing=1.1)
    axes.text(100, -0.62, "memory-bound, %", va="bottom", ha="right", fontsize=9, color=INK)


def _part_seconds(profile: OperatorProfile) -> "pd.Series[float]":
    """Seconds by part, MHSA or FFN, and step."""
    table = list_operators(profile)
    return table[table["part"].isin(["MHSA", "FFN"])].groupby(["part", "step"])["seconds"].sum()


def _stack_parts(axes: Axes, seconds: Mapping[str, "pd.Series[float]"]) -> None:
    colors = {("MHSA", step): color for step, color in STEP_COLORS.items()} | {("FFN", ""): FFN_COLOR}
    found = [key for key in colors if any(key in parts for parts in seconds.values())]
    ends = {part: np.zeros(len(seconds)) for part in ("MHSA", "FFN")}
    for part, step in found:
        width = 1000 * np.array([parts.get((part, step), 0.0) for parts in seconds.values()])
        rows = np.arange(len(seconds)) + (0.18 if part == "FFN" else -0.18)
        label = f"MHSA: {step}" if step else part
        color = colors[part, step]
        axes.barh(rows, width, left=ends[part], height=0.34, color=color, label=label, edgecolor="white")
        ends[part] += width


def _write_totals(
    axes: Axes, seconds: Mapping[str, "pd.Series[float]"], profiles: Mapping[str, OperatorProfile]
) -> None:
    """Beside each bar its part, milliseconds, and share of operator time."""
    for row, (name, profile) in enumerate(profiles.items()):
        whole = sum(operator.seconds for operator in profile.operators)
        for part, offset in (("MHSA", -0.18), ("FFN", 0.18)):
            total = sum(value for key, value in seconds[name].items() if key[0] == part)
            text = f"  {part} {significant(1000 * total)} ms, {100 * total / whole:.0f}%"
            axes.text(1000 * total, row + offset, text, va="center", fontsize=9)
    axes.set_yticks(range(len(profiles)), list(profiles))
    axes.set_ylim(len(profiles) - 0.45, -0.55)
    axes.margins(x=0)
    axes.set_xlim(0, 1.22 * axes.get_xlim()[1])  # room for the words
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)


def _set_limits(axes: Axes, table: pd.DataFrame, peaks: Peaks) -> None:
    """All points, and both ridges."""
    ridge = peaks.flops_per_second / min(each.bytes_per_second for each in peaks.bandwidths)
    axes.set_xlim(table["intensity"].min() / 3, 4 * max(table["intensity"].max(), ridge))
    low = max(table["speed"].min(), 1e-6 * peaks.flops_per_second)  # what a call costs hides slower ones
    axes.set_ylim(low / 3, 4 * max(table["speed"].max(), peaks.flops_per_second))


def _draw_roofs(axes: Axes, peaks: Peaks) -> list[Bandwidth]:
    """The flat roof, and a slope to it for the smallest and the largest working set; those two."""
    by_size = sorted(peaks.bandwidths, key=lambda each: each.working_set_bytes)
    slopes = list(dict.fromkeys((by_size[0], by_size[-1])))
    left, right = axes.get_xlim()
    ridges = [peaks.flops_per_second / each.bytes_per_second for each in slopes]
    axes.plot([min(ridges), right], [peaks.flops_per_second] * 2, color=INK, linewidth=1.6)
    for slope, ridge, line in zip(slopes, ridges, ("--", "-"), strict=False):
        ends = [left, ridge]
        axes.plot(ends, [slope.bytes_per_second * end for end in ends], line, color=INK, linewidth=1.6)
        axes.plot(ridge, peaks.flops_per_second, "v", color=INK, zorder=4)
    return slopes


def _draw_points(axes: Axes, points: pd.DataFrame, *, name: str, total: float) -> None:
    label = f"{name} (memory-bound by class)" if name in MEMORY_BOUND else name
    color, marker = CLASS_COLORS.get(name, GREY), CLASS_MARKERS.get(name, "o")
    axes.scatter(
        points["intensity"],
        points["speed"],
        s=12 + 1200 * points["seconds"] / total,  # square points
        color=color,
        marker=marker,
        label=label,
        edgecolor=INK,
        linewidth=0.4,
        alpha=0.7,
        zorder=3,
    )


def _name_roofs(axes: Axes, peaks: Peaks, slopes: Sequence[Bandwidth]) -> None:
    """Words along the roofs, turned as the slopes are drawn."""
    left, right = axes.get_xlim()
    look: dict[str, Any] = {"textcoords": "offset points", "fontsize": 9, "in_layout": False}
    text = f"{peaks.flops_per_second / 1e9:.3g} GFLOP/s, {peaks.precision}"
    axes.annotate(text, (right, peaks.flops_per_second), (-4, 4), ha="right", **look)
    for slope in slopes:
        ridge = peaks.flops_per_second / slope.bytes_per_second
        ends = axes.transData.transform([(left, slope.bytes_per_second * left), (ridge, peaks.flops_per_second)])
        angle = float(np.degrees(np.arctan2(*(ends[1] - ends[0])[::-1])))
        start = 1.3 * max(left, axes.get_ylim()[0] / slope.bytes_per_second)
        above = slope is slopes[0]  # roofs may lie close to each other: one's words above, the other's below
        text = f"{slope.bytes_per_second / 1e9:.3g} GB/s, {_binary(slope.working_set_bytes)}; ridge {ridge:.1f}"
        place = (start, slope.bytes_per_second * start)
        side: dict[str, Any] = {"va": "bottom" if above else "top", "rotation": angle, "rotation_mode": "anchor"}
        axes.annotate(text, place, (-3, 3) if above else (3, -3), **side, **look)


def _name_longest(axes: Axes, table: pd.DataFrame, *, count: int) -> None:
    """Names of the operators with the most time over all modules, each at its longest point."""
    groups = table.groupby(["operator", "part", "step"])["seconds"]
    names = []
    for operator, part, step in groups.sum().nlargest(count).index:
        point = table.loc[groups.idxmax()[operator, part, step]]
        name = operator.removeprefix("aten::")
        name += "" if name == step else f" ({step or part})"
        names.append((point["intensity"], point["speed"], name))
    roofs = [np.asarray(line.get_xydata(), dtype=float) for line in axes.lines]
    along = [np.geomspace(ends[0], ends[-1], 60) for ends in roofs]
    name_points(axes, names, avoid=np.concatenate([table[["intensity", "speed"]].to_numpy(), *along]))


def _binary(count: int) -> str:
    """Bytes in KiB, MiB or GiB."""
    power = 0
    while power < 3 and count / 1024**power >= 1000:  # just below a power is said as one
        power += 1
    return f"{count / 1024**power:.3g} {('B', 'KiB', 'MiB', 'GiB')[power]}"
