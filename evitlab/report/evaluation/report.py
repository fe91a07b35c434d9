"""Everything that an evaluation leaves for people: tables and figures, written from its record and its curves."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evitlab.curves import Curves
from evitlab.measurements.accuracy import Evaluation
from evitlab.report.evaluation.attention import attention_plot
from evitlab.report.evaluation.figures import class_plot, confusion_plot, reliability_plot, roc_plot
from evitlab.report.evaluation.tables import class_table, confusion_table, reliability_table, roc_table
from evitlab.report.frame import RASTER, write_figure
from evitlab.report.tables import to_csv
from evitlab.store import write_atomically


def write_evaluation(evaluation: Evaluation, curves: Curves, folder: Path, *, model: str) -> None:
    """Write tables as CSV and figures as PNG into the folder, each in one step; `model` stands in the titles."""
    where = f"{evaluation.images:,} held-out images of {evaluation.data}, {evaluation.num_classes} classes"
    tables = {
        "classes": class_table(evaluation),
        "confusion": confusion_table(curves),
        "roc": roc_table(curves),
        "reliability": reliability_table(curves),
    }
    for name, table in tables.items():
        write_atomically(folder / f"{name}.csv", to_csv(table))
    figures = {
        "roc": roc_plot(evaluation, curves, title=f"ROC curves of {model}", subtitle=where),
        "confusion": confusion_plot(curves, title=f"What {model} confuses", subtitle=where),
        "reliability": reliability_plot(evaluation, curves, title=f"Calibration of {model}", subtitle=where),
        "per_class": class_plot(evaluation, title=f"Classes of {model}", subtitle=f"{where}; images in brackets"),
    }
    for name, figure in figures.items():
        write_figure(figure, folder, name)


def write_attention(
    images: Sequence[NDArray[np.uint8]],
    maps: Sequence[NDArray[np.floating]],
    folder: Path,
    *,
    titles: Sequence[str],
) -> None:
    """Write `attention_<n>.png` for each image (H, W, 3) and its maps (heads, h, w), counted from 0."""
    for number, (image, looked, title) in enumerate(zip(images, maps, titles, strict=True)):
        write_figure(attention_plot(image, looked, title=title), folder, f"attention_{number}", formats=RASTER)
