"""What all figures share: their look, title and subtitle, and how one becomes files. No pyplot, no display."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import BboxBase
from numpy.typing import NDArray

from evitlab.store import write_atomically

FORMATS = ("png", "svg")
"""Every figure is written as these. `pdf` may be added: it is the same bytes every time as well."""
RASTER = ("png",)
"""Figures that are made of pixels, such as attention over images, are written as these."""
METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
"""Neither date nor version is written into a file, so that it is the same bytes every time."""

COLORBLIND = sns.color_palette("colorblind").as_hex()
BLUE, ORANGE, RED = COLORBLIND[0], COLORBLIND[1], COLORBLIND[3]
MARKERS = "osD^vPX<>*"
DASHES = ("-", "--", "-.", ":")
"""Lines and points of several models differ in one of these as well as in colour."""
GREY, INK, NOTE = "#6b7280", "#1f2937", "#9a3412"


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A figure with the words that go with it."""

    figure: Figure
    alt: str
    """What it shows, for those who cannot see it."""
    caption: str
    formats: Sequence[str] = FORMATS


def write_figure(figure: Figure, folder: Path, name: str, *, formats: Sequence[str] = FORMATS) -> dict[str, bytes]:
    """Write a figure as `<name>.<format>` for each format, each in one step; the bytes by file name, PNG first."""
    files = {f"{name}.{kind}": to_bytes(figure, kind) for kind in formats}
    for file, data in files.items():
        write_atomically(folder / file, data)
    return files


def to_bytes(figure: Figure, kind: str, *, dpi: int = 130) -> bytes:
    """The figure as a file of a kind in `METADATA`; equal figures give equal bytes, in any process.

    Letters are paths in SVG, so that no font is needed; what is drawn as pixels inside it has `dpi`.
    """
    buffer = BytesIO()
    with style():  # some settings are read only when the figure is drawn
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=METADATA[kind], facecolor="white")
    return buffer.getvalue()


@contextmanager
def style() -> Iterator[None]:
    """The look of every figure while it is drawn, whatever the user has set; nothing stays changed."""
    changes: dict[Any, Any] = {
        "font.family": "DejaVu Sans",  # comes with matplotlib: the same on every machine
        "axes.titlesize": 10.5,
        "axes.labelsize": 10,
        "xtick.labelsize": 9.5,
        "ytick.labelsize": 9.5,
        "legend.fontsize": 9.5,
        "legend.frameon": False,
        "lines.markersize": 7,
        "axes.edgecolor": "#9ca3af",
        "axes.labelcolor": INK,
        "axes.titlecolor": INK,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "grid.color": "#e5e7eb",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "svg.hashsalt": "evitlab",  # else names inside are drawn by lot
        "svg.fonttype": "path",
    }
    with sns.plotting_context("paper"), sns.axes_style("whitegrid"), rc_context(changes):
        yield


def start_figure(width: float, height: float, *, title: str, subtitle: str) -> Figure:
    """An empty figure, in inches, with its title and a subtitle in the space kept above the panels."""
    heading = wrap(title, int(9.5 * width))
    note = wrap(subtitle, int(14 * width))
    head = 0.2 + 0.24 * len(heading) + 0.19 * len(note)
    height += head
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.set(rect=(0, 0, 1, 1 - head / height), w_pad=0.1, h_pad=0.08)  # type: ignore[call-arg]
    top = 1 - 0.1 / height
    figure.text(0.1 / width, top, "\n".join(heading), va="top", fontsize=13, weight="bold")
    below = top - (0.04 + 0.24 * len(heading)) / height
    figure.text(0.1 / width, below, "\n".join(note), va="top", fontsize=9.5, color=NOTE)
    return figure


def name_points(axes: Axes, names: Sequence[tuple[float, float, str]], *, avoid: NDArray[np.float64]) -> None:
    """Write names beside points (x, y, name) of a figure that is laid out, in the order given, with lines to them.

    Each goes where it covers least: first of the texts there are, then of the points to `avoid`, rows of x and y.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    assert isinstance(figure.canvas, FigureCanvasAgg)
    renderer = figure.canvas.get_renderer()
    frame = axes.get_window_extent(renderer)
    taken = [text.get_window_extent(renderer) for text in axes.texts]
    dots = axes.transData.transform(avoid)
    scale = figure.dpi / 72  # pixels in a point
    for x, y, name in names:
        look: Any = {"ha": "center", "va": "center", "fontsize": 9, "in_layout": False, "zorder": 5}
        line = {"arrowstyle": "-", "color": GREY, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 2}
        label = axes.annotate(name, (x, y), (0, 0), textcoords="offset points", arrowprops=line, **look)
        label.update_positions(renderer)
        box = Text.get_window_extent(label, renderer)  # without the line
        start = axes.transData.transform((x, y))
        places = _places_around(box.width, box.height, scale)
        costs = [_judge_place(box.translated(*place), _line_to(start, place), frame, taken, dots) for place in places]
        best = places[costs.index(min(costs))]  # of equals the nearest
        label.xyann = (best[0] / scale, best[1] / scale)
        taken.append(box.translated(*best))
        dots = np.concatenate([dots, _line_to(start, best)])


def _judge_place(
    box: BboxBase, line: NDArray[np.float64], frame: BboxBase, taken: Sequence[BboxBase], dots: NDArray[np.float64]
) -> tuple[int, float]:
    """What a name there covers: first texts, then points, also by its line, whose length counts a little."""
    outside = box.x0 < frame.x0 or box.x1 > frame.x1 or box.y0 < frame.y0 or box.y1 > frame.y1
    crossed = sum(other.count_contains(line) > 0 for other in taken)
    touched = (np.hypot(*(line[3:, np.newaxis] - dots).T) < 4).any(axis=1).sum()  # in pixels
    length = float(np.hypot(*(line[-1] - line[0])))
    return box.count_overlaps(taken) + outside, crossed + box.count_contains(dots) + touched + length / 50


def _line_to(start: NDArray[np.float64], place: tuple[float, float]) -> NDArray[np.float64]:
    """Points on the line from a point to the middle of its name."""
    return start + np.linspace(0, 1, 12)[:, np.newaxis] * np.array(place)


def _places_around(width: float, height: float, scale: float) -> list[tuple[float, float]]:
    """Offsets in pixels of a box of this size from a point, nearest first, to all sides."""
    sides = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)]
    return [
        (right * (width / 2 + gap * scale), up * (height / 2 + gap * scale))
        for gap in (10, 18, 28, 40, 56)  # points
        for right, up in sides
    ]
