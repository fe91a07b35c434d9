"""An evaluation as tables: the summary, its classes, confusions, ROC curves and calibration; in base units."""

import numpy as np
import pandas as pd
from rich.markup import escape
from rich.table import Table

from evitlab.curves import CALIBRATION_BINS, FALSE_POSITIVE_RATES, Curves
from evitlab.measurements.accuracy import Evaluation
from evitlab.measurements.macs import MacCount
from evitlab.report.tables import percent

NOT_DEFINED = "-"


def evaluation_table(evaluation: Evaluation) -> pd.DataFrame:
    """A row a figure: `measure`, `value`, the ends `low` and `high` of its 95% interval, `unit`; empty: not defined."""
    rows = [
        ("top-1", evaluation.top1, evaluation.top1_low, evaluation.top1_high, "share"),
        ("top-5", evaluation.top5, None, None, "share"),
        ("loss", evaluation.loss, None, None, "nats"),
        ("macro AUC", evaluation.macro_auc, None, None, "share"),
        ("calibration error", evaluation.ece, None, None, "share"),
        ("peak memory", evaluation.peak_memory, None, None, "bytes"),
        ("images", evaluation.images, None, None, "count"),
        ("classes", evaluation.num_classes, None, None, "count"),
    ]
    table = pd.DataFrame(rows, columns=["measure", "value", "low", "high", "unit"])
    return table.astype({"value": "float64", "low": "float64", "high": "float64"})


def class_table(evaluation: Evaluation) -> pd.DataFrame:
    """A row a class in the order of the data set: `class`, `precision`, `recall`, `f1`, `support`, `auc`."""
    columns = ["precision", "recall", "f1", "support", "auc"]
    rows = [[each.name, *(getattr(each, name) for name in columns)] for each in evaluation.classes]
    table = pd.DataFrame(rows, columns=["class", *columns])
    return table.astype({name: "int64" if name == "support" else "float64" for name in columns})


def confusion_table(curves: Curves) -> pd.DataFrame:
    """Images of the class in the first column, `true`, by the class that they were taken for, a column each."""
    table = pd.DataFrame(curves.confusion, columns=list(curves.classes))
    table.insert(0, "true", list(curves.classes), allow_duplicates=True)
    return table


def roc_table(curves: Curves) -> pd.DataFrame:
    """True positive rates at each `false_positive_rate`: the mean of the classes, `macro`, and a column a class."""
    table = pd.DataFrame(curves.true_positive_rates.T, columns=list(curves.classes))
    table.insert(0, "macro", curves.macro_true_positive_rates, allow_duplicates=True)
    table.insert(0, "false_positive_rate", FALSE_POSITIVE_RATES, allow_duplicates=True)
    return table


def reliability_table(curves: Curves) -> pd.DataFrame:
    """A row a bin of confidence: above `low` up to `high`, its `images`, mean `confidence` and `accuracy`."""
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    return pd.DataFrame(
        {
            "low": edges[:-1],
            "high": edges[1:],
            "images": curves.bin_counts,
            "confidence": curves.bin_confidences,
            "accuracy": curves.bin_accuracies,
        }
    )


def most_confused(curves: Curves, *, count: int) -> pd.DataFrame:
    """The pairs of classes that are confused most often, largest share first: `true`, `predicted`, `images`, `share`.

    `share` is of the images of the true class. Pairs that never happen are not among them.
    """
    wrong = curves.confusion.copy()
    np.fill_diagonal(wrong, 0)
    shares = wrong / np.maximum(curves.confusion.sum(axis=1, keepdims=True), 1)
    places = np.argsort(-shares, axis=None, kind="stable")[:count]
    rows, columns = np.unravel_index(places, wrong.shape)
    table = pd.DataFrame(
        {
            "true": [curves.classes[row] for row in rows],
            "predicted": [curves.classes[column] for column in columns],
            "images": wrong[rows, columns],
            "share": shares[rows, columns],
        }
    )
    return table[table["images"] > 0]


def render_evaluation(evaluation: Evaluation, *, title: str = "Evaluation", macs: MacCount | None = None) -> Table:
    """The summary for a terminal: shares in percent, the interval beside top-1, the network's size, the data below."""
    shown = Table(title=escape(title), box=None, padding=(0, 2, 0, 0))
    shown.title_justify = shown.caption_justify = "left"
    shown.add_column("")
    shown.add_column("", justify="right")
    shown.add_column("95% interval", justify="right")
    for row in evaluation_table(evaluation).to_dict("records"):
        if row["unit"] in ("count", "bytes"):
            continue
        sign = " %" if row["unit"] == "share" else ""
        interval = "" if pd.isna(row["low"]) else f"{percent(row['low'])}-{percent(row['high'])}"
        shown.add_row(row["measure"] + sign, _show(row["value"], row["unit"]), interval)
    if macs is not None:
        shown.add_row("parameters M", f"{macs.params / 1e6:.2f}", "")
        shown.add_row("MACs M (papers: FLOPs)", f"{macs.macs / 1e6:.1f}", "")
    if evaluation.peak_memory is not None:
        shown.add_row("memory of the process MB", f"{evaluation.peak_memory / 1e6:.0f}", "")
    shown.caption = escape(
        f"{evaluation.images:,} images, {evaluation.num_classes} classes of {evaluation.data}. "
        "The interval is Wilson's, over images: how far another draw of images may lie, not another training."
    )
    return shown


def _show(value: float, unit: str) -> str:
    if pd.isna(value):
        return NOT_DEFINED
    return percent(value) if unit == "share" else f"{value:.3f}"
