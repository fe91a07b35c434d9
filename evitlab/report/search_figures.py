"""A search in pictures: the front it found beside what was made by hand, and how the front grew."""

import pandas as pd
from matplotlib.figure import Figure

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
        left.xaxis.set_minor_formatter("{x:g}")
        left.set_xlabel("measured speed over the base's")
        left.set_title("top-1 % over speed", loc="left")
        left.legend()
        right.plot(growth["trained"], growth["hypervolume"], color=GREY, drawstyle="steps-post")
        right.set_xlabel("variants trained")
        right.set_title("hypervolume of the front", loc="left")
    return figure
