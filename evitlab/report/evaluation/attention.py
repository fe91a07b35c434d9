"""Attention over an image, a panel a head."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from evitlab.report.frame import start_figure, style

COLUMNS = 5
"""Panels a row."""
CELL = 2.15
"""Inches a panel."""


def attention_plot(image: NDArray[np.uint8], maps: NDArray[np.floating], *, title: str, subtitle: str = "") -> Figure:
    """An image (H, W, 3) beside where each head looks: maps (heads, h, w) over the image, each on a scale of its own.

    A map is stretched over the image, smoothly; its colours run from its lowest to its highest value. Raises
    ValueError for arrays of other shapes.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image must be (H, W, 3) of uint8, but got {image.shape} of {image.dtype}")
    if maps.ndim != 3 or 0 in maps.shape:
        raise ValueError(f"maps must be (heads, h, w), but got {maps.shape}")
    heads, height, width = maps.shape
    columns = min(COLUMNS, heads + 1)
    rows = -(-(heads + 1) // columns)
    tall = CELL * min(2.0, max(0.5, image.shape[0] / image.shape[1])) + 0.25
    words = f"{height}x{width} positions; bright: looked at most, each head on its own scale"
    with style():
        figure = start_figure(max(CELL * columns, 6.5), tall * rows, title=title, subtitle=subtitle or words)
        panels = figure.subplots(rows, columns, squeeze=False).flatten()
        for axes in panels:
            axes.set_axis_off()
        panels[0].imshow(image)
        panels[0].set_title("image", loc="left")
        for number, (axes, looked) in enumerate(zip(panels[1:], maps, strict=False)):
            _draw_head(axes, image, looked)
            axes.set_title(f"head {number}", loc="left")
    return figure


def _draw_head(axes: Axes, image: NDArray[np.uint8], looked: NDArray[np.floating]) -> None:
    grey = image @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
    height, width = grey.shape
    axes.imshow(grey, cmap="gray", vmin=0, vmax=255)
    axes.imshow(
        looked, cmap="inferno", alpha=0.65, interpolation="bilinear", extent=(-0.5, width - 0.5, height - 0.5, -0.5)
    )
