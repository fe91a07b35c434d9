"""How trainings went: loss and held-out accuracy over the steps."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evitlab.measurements.accuracy import TrainResult
from evitlab.report.frame import COLORBLIND, MARKERS, start_figure, style


def training_plot(runs: Mapping[str, Sequence[TrainResult]], *, title: str, subtitle: str = "") -> Figure:
    """Training loss and held-out top-1 against the step, a colour a name; a run is one seed.

    Where the runs of a name were evaluated at the same steps: their mean in bold and a band from the lowest to the
    highest. Where not, each run alone.
    """
    with style():
        figure = start_figure(10, 3.8, title=title, subtitle=subtitle or _describe(runs))
        if not any(result.curve for results in runs.values() for result in results):
            figure.text(0.5, 0.4, "no training has been evaluated on its way", ha="center")
            return figure
        loss, top1 = figure.subplots(1, 2)
        for number, (name, results) in enumerate(runs.items()):
            look = {"color": COLORBLIND[number % len(COLORBLIND)], "marker": MARKERS[number % len(MARKERS)]}
            steps = [[epoch.step for epoch in result.curve] for result in results]
            _draw_runs(loss, steps, [[e.train_loss for e in result.curve] for result in results], name, **look)
            _draw_runs(top1, steps, [[100 * e.top1 for e in result.curve] for result in results], name, **look)
        loss.set_title("training loss, mean since the last evaluation", loc="left")
        top1.set_title("held-out top-1 %", loc="left")
        for axes in (loss, top1):
            axes.set_xlabel("step")
        if len(runs) > 1:
            figure.legend(*loss.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _draw_runs(
    axes: Axes, steps: Sequence[Sequence[int]], values: Sequence[Sequence[float]], name: str, *, color: str, marker: str
) -> None:
    together = len(values) > 1 and all(each == steps[0] for each in steps)
    if not together:
        for number, (x, y) in enumerate(zip(steps, values, strict=True)):
            axes.plot(x, y, color=color, marker=marker, markersize=4, label=name if number == 0 else None)
        return
    for y in values:
        axes.plot(steps[0], y, color=color, linewidth=0.8, alpha=0.6)
    stacked = np.array(values)
    axes.fill_between(steps[0], stacked.min(axis=0), stacked.max(axis=0), color=color, alpha=0.2, linewidth=0)
    axes.plot(steps[0], stacked.mean(axis=0), color=color, marker=marker, markersize=4, label=name)


def _describe(runs: Mapping[str, Sequence[TrainResult]]) -> str:
    """Data and number of seeds; what bold line and band are, where there are any."""
    data = ", ".join(sorted({result.data for results in runs.values() for result in results}))
    seeds = sorted({len(results) for results in runs.values()})
    if not seeds or seeds == [1]:
        return f"data: {data}; one seed"
    count = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    return f"data: {data}; {count} seeds: bold their mean, band from the lowest to the highest"
