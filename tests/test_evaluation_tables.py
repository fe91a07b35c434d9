"""What an evaluation's tables hold, and what a terminal shows."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from fake_evaluation import make_evaluation
from rich.console import Console

from evitlab.curves import FALSE_POSITIVE_RATES
from evitlab.report.evaluation.tables import (
    class_table,
    confusion_table,
    evaluation_table,
    most_confused,
    reliability_table,
    render_evaluation,
    roc_table,
)

EVALUATION, CURVES = make_evaluation(6, absent=1)


def show(table) -> str:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(table)
    return " ".join(capture.get().split())


def test_the_summary_is_in_base_units_with_the_interval_of_top1():
    table = evaluation_table(EVALUATION).set_index("measure")
    assert list(table.index) == [
        "top-1", "top-5", "loss", "macro AUC", "calibration error", "peak memory", "images", "classes",
    ]  # fmt: skip
    assert tuple(table.loc["top-1", ["value", "low", "high"]]) == (
        EVALUATION.top1,
        EVALUATION.top1_low,
        EVALUATION.top1_high,
    )
    assert table.loc["macro AUC", "value"] == EVALUATION.macro_auc
    assert table.loc["calibration error", "value"] == EVALUATION.ece
    assert table["low"].notna().sum() == 1
    none = evaluation_table(replace(EVALUATION, macro_auc=None)).set_index("measure")
    assert pd.isna(none.loc["macro AUC", "value"])


def test_the_terminal_shows_percent_and_what_is_not_defined():
    evaluation = replace(
        EVALUATION, top1=0.7312, top1_low=0.7011, top1_high=0.7594, top5=0.9, loss=1.23456, ece=0.05, macro_auc=None
    )
    shown = show(render_evaluation(evaluation, title="deit_t"))
    assert "deit_t" in shown
    assert "top-1 % 73.1 70.1-75.9 top-5 % 90.0 loss 1.235 macro AUC % - calibration error % 5.0" in shown
    assert f"{EVALUATION.images} images, 6 classes of scenes" in shown


def test_classes_are_a_row_each():
    table = class_table(EVALUATION)
    assert list(table.columns) == ["class", "precision", "recall", "f1", "support", "auc"]
    assert list(table["support"]) == [20, 21, 22, 23, 24, 0]
    assert table["recall"][1] == EVALUATION.classes[1].recall
    assert table.loc[5, ["precision", "recall", "f1", "auc"]].isna().all()


def test_confusions_have_the_true_class_first():
    table = confusion_table(CURVES)
    assert list(table.columns) == ["true", *CURVES.classes]
    assert list(table["true"]) == list(CURVES.classes)
    assert (table.iloc[:, 1:].to_numpy() == CURVES.confusion).all()


def test_roc_curves_have_a_column_a_class_and_their_mean():
    table = roc_table(CURVES)
    assert list(table.columns) == ["false_positive_rate", "macro", *CURVES.classes]
    assert list(table["false_positive_rate"]) == list(FALSE_POSITIVE_RATES)
    assert table["macro"].to_numpy() == pytest.approx(table.iloc[:, 2:7].to_numpy().mean(axis=1))
    assert table.iloc[:, 7].isna().all()


def test_a_class_may_have_any_name():
    curves = replace(CURVES, classes=("true", "macro", "false_positive_rate", "a", "a", "b,c"))
    assert confusion_table(curves).shape == (6, 7)
    assert roc_table(curves).shape == (200, 8)


def test_calibration_is_a_row_a_bin():
    table = reliability_table(CURVES)
    assert (len(table), table["low"][0], table["high"][14]) == (15, 0.0, 1.0)
    assert table["high"][:14].to_numpy() == pytest.approx(table["low"][1:].to_numpy())
    assert table["images"].sum() == EVALUATION.images
    assert table["accuracy"].notna().sum() == 1


def test_pairs_are_sorted_by_their_share_of_the_true_class():
    confusion = np.array([[90, 10, 0], [4, 4, 2], [0, 0, 7]])
    curves = replace(CURVES, classes=("a", "b", "c"), confusion=confusion)
    table = most_confused(curves, count=5)
    assert [tuple(row) for row in table.itertuples(index=False)] == [
        ("b", "a", 4, 0.4), ("b", "c", 2, 0.2), ("a", "b", 10, 0.1),
    ]  # fmt: skip
    assert len(most_confused(curves, count=2)) == 2
