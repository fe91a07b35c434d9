"""Scores of class scores against scikit-learn's own multi-class functions, formulas and cases by hand."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from sklearn.metrics import (
    accuracy_score,
    auc,
    classification_report,
    log_loss,
    roc_auc_score,
    top_k_accuracy_score,
)
from torch import Tensor

from evitlab.curves import FALSE_POSITIVE_RATES
from evitlab.measurements.by_task import MEASUREMENTS
from evitlab.problems import UserError
from evitlab.train.metrics import describe_scores, score


def draw_scores(images: int = 400, classes: int = 12, *, skill: float = 2.0) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Scores that are right more often than not, with classes of different sizes."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.arange(1.0, classes + 1)
    labels = torch.multinomial(weights, images, replacement=True, generator=generator)
    logits = torch.randn(images, classes, generator=generator)
    logits[torch.arange(images), labels] += skill
    return logits, labels, tuple(f"class {number}" for number in range(classes))


def describe(logits: Tensor, labels: Tensor, classes: tuple[str, ...]):
    return describe_scores(logits, labels, classes, data="made up")


def test_accuracy_equals_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 12, generator=generator)
    labels = torch.randint(12, (200,), generator=generator)
    probabilities = logits.double().softmax(1).numpy()
    accuracy = score(logits, labels)
    every = list(range(12))
    assert accuracy.top1 == pytest.approx(accuracy_score(labels, logits.argmax(1)))
    assert accuracy.top5 == pytest.approx(top_k_accuracy_score(labels, probabilities, k=5, labels=every))
    assert accuracy.loss == pytest.approx(log_loss(labels, probabilities, labels=every))
    assert 0.0 < accuracy.top1 < accuracy.top5 < 1.0


def test_accuracy_of_a_case_by_hand():
    logits = torch.tensor([[6.0, 5, 4, 3, 2, 1]] * 4)
    accuracy = score(logits, torch.tensor([0, 1, 4, 5]))  # ranks 1, 2, 5 and 6
    assert (accuracy.top1, accuracy.top5) == (0.25, 0.75)


def test_top5_of_fewer_than_five_classes_is_one():
    accuracy = score(torch.tensor([[1.0, 0, 0], [0, 1, 2]]), torch.tensor([0, 0]))
    assert (accuracy.top1, accuracy.top5) == (0.5, 1.0)


# The whole evaluation


def test_an_evaluation_equals_scikit_learn():
    logits, labels, classes = draw_scores()
    evaluation, curves = describe(logits, labels, classes)
    probabilities = logits.double().softmax(1).numpy()
    accuracy = score(logits, labels)
    assert (evaluation.top1, evaluation.top5, evaluation.loss) == (accuracy.top1, accuracy.top5, accuracy.loss)
    expected = roc_auc_score(labels, probabilities, multi_class="ovr", average=None)
    assert [each.auc for each in evaluation.classes] == pytest.approx(list(expected))
    macro = roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
    assert evaluation.macro_auc == pytest.approx(macro)
    report = classification_report(labels, logits.argmax(1), target_names=classes, output_dict=True)
    for each in evaluation.classes:
        wanted = report[each.name]
        found = (each.precision, each.recall, each.f1, each.support)
        assert found == pytest.approx(tuple(wanted[name] for name in ("precision", "recall", "f1-score", "support")))
    assert (evaluation.num_classes, evaluation.images, evaluation.data) == (12, 400, "made up")
    assert np.trace(curves.confusion) == round(400 * evaluation.top1)


def test_the_confusion_matrix_has_true_classes_in_rows():
    labels, predicted = torch.tensor([0, 0, 0, 1, 2, 2]), torch.tensor([0, 1, 1, 1, 0, 2])
    _, curves = describe(torch.eye(3)[predicted], labels, ("a", "b", "c"))
    assert curves.confusion.tolist() == [[1, 2, 0], [0, 1, 0], [1, 0, 1]]


def test_the_interval_is_wilson_s():
    logits, labels, classes = draw_scores(images=50)
    evaluation, _ = describe(logits, labels, classes)
    n, p, z = 50, evaluation.top1, 1.959963984540054
    middle, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert evaluation.top1_low == pytest.approx((middle - half) / (1 + z**2 / n))
    assert evaluation.top1_high == pytest.approx((middle + half) / (1 + z**2 / n))


def test_the_calibration_error_is_that_of_a_double_loop():
    logits, labels, classes = draw_scores(images=300, classes=4, skill=1.5)
    evaluation, curves = describe(logits, labels, classes)
    probabilities = logits.double().softmax(1)
    error = 0.0
    for bin_ in range(15):
        inside = [row for row in range(300) if bin_ / 15 < probabilities[row].max() <= (bin_ + 1) / 15]
        assert curves.bin_counts[bin_] == len(inside)
        if not inside:
            assert math.isnan(curves.bin_accuracies[bin_])
            continue
        confidence = sum(probabilities[row].max().item() for row in inside) / len(inside)
        accuracy = sum(int(probabilities[row].argmax() == labels[row]) for row in inside) / len(inside)
        assert (curves.bin_confidences[bin_], curves.bin_accuracies[bin_]) == pytest.approx((confidence, accuracy))
        error += len(inside) / 300 * abs(accuracy - confidence)
    assert evaluation.ece == pytest.approx(error)
    assert error > 0.05


def test_calibration_by_hand():
    """Ten images at 0.9, of which six are right; nine at 1/3, the upper end of the fifth bin, of which none is."""
    logits = torch.tensor([[0.9, 0.07, 0.03]] * 10 + [[1, 1, 1]] * 9).double().log()
    predicted = logits[-1:].topk(3).indices[0, 0]
    labels = torch.tensor([0] * 6 + [1] * 4 + [(predicted + 1) % 3] * 9)
    evaluation, curves = describe(logits, labels, ("a", "b", "c"))
    assert evaluation.ece == pytest.approx((10 * 0.3 + 9 / 3) / 19)
    assert curves.bin_counts.tolist() == [0] * 4 + [9] + [0] * 8 + [10] + [0]


def test_a_perfectly_sure_and_right_model_has_no_calibration_error():
    evaluation, curves = describe(1000 * torch.eye(3), torch.arange(3), ("a", "b", "c"))
    assert (evaluation.ece, evaluation.macro_auc, evaluation.top1, evaluation.top1_high) == (0.0, 1.0, 1.0, 1.0)
    assert curves.bin_counts[-1] == 3


# ROC curves


def test_a_curve_goes_through_the_counts_of_every_threshold():
    logits, labels, classes = draw_scores(classes=3)
    _, curves = describe(logits, labels, classes)
    own = logits.double().softmax(1)[:, 1]
    positives, negatives = own[labels == 1], own[labels != 1]
    for place in (10, 101, 120, 150, 199):
        rate = FALSE_POSITIVE_RATES[place]
        allowed = math.floor(rate * len(negatives) + 1e-9)  # negatives above the threshold
        sorted_negatives = negatives.sort(descending=True).values
        below = (positives > (sorted_negatives[allowed] if allowed < len(negatives) else -1)).double().mean().item()
        more = positives > (sorted_negatives[allowed + 1] if allowed + 1 < len(negatives) else -1)
        assert below - 1e-9 <= curves.true_positive_rates[1, place] <= more.double().mean().item() + 1e-9


def test_the_kept_points_hold_the_area():
    logits, labels, classes = draw_scores(images=3000)
    evaluation, curves = describe(logits, labels, classes)
    for each, rates in zip(evaluation.classes, curves.true_positive_rates, strict=True):
        assert auc(FALSE_POSITIVE_RATES, rates) == pytest.approx(each.auc, abs=0.003)
    macro = auc(FALSE_POSITIVE_RATES, curves.macro_true_positive_rates)
    assert macro == pytest.approx(evaluation.macro_auc, abs=0.001)


def test_a_curve_by_hand():
    """Sorted by probability of b: b, a, b, a. One positive is found before any negative, the other after one of two."""
    logits = torch.tensor([[0.0, 4], [0, 3], [0, 2], [0, 1]])
    evaluation, curves = describe(logits, torch.tensor([1, 0, 1, 0]), ("a", "b"))
    assert evaluation.classes[1].auc == 0.75
    rates = dict(zip(FALSE_POSITIVE_RATES.tolist(), curves.true_positive_rates[1].tolist(), strict=True))
    assert (rates[0.0], rates[0.02], rates[1.0]) == (0.5, 0.5, 1.0)
    above = [rate for place, rate in rates.items() if place > 0.5 + 1e-9]
    assert above == [1.0] * len(above)


def test_ties_are_worth_half():
    """Equal scores: an area of one half, and a prediction that confusion and top-1 agree on."""
    labels = torch.arange(4).repeat(5)
    evaluation, curves = describe(torch.zeros(20, 4), labels, tuple("abcd"))
    assert [each.auc for each in evaluation.classes] == [0.5] * 4
    assert curves.true_positive_rates[0] == pytest.approx(FALSE_POSITIVE_RATES)
    assert evaluation.top1 == np.trace(curves.confusion) / 20 == 0.25


# What is not defined


def test_absent_classes_have_no_figures_and_do_not_count():
    logits, labels, classes = draw_scores(classes=6)
    logits[:, 5] = -50.0  # never predicted
    labels = labels.clamp(max=3)  # 4 and 5 have no image
    evaluation, curves = describe(logits, labels, classes)
    four, five = evaluation.classes[4:]
    assert (four.precision, four.recall, four.f1, four.support, four.auc) == (0.0, None, 0.0, 0, None)
    assert (five.precision, five.recall, five.f1, five.support, five.auc) == (None, None, None, 0, None)
    present = [each.auc for each in evaluation.classes[:4]]
    assert evaluation.macro_auc == pytest.approx(np.mean(present))
    assert np.isnan(curves.true_positive_rates[4:]).all()
    assert curves.macro_true_positive_rates == pytest.approx(curves.true_positive_rates[:4].mean(axis=0))
    assert curves.confusion.shape == (6, 6)


def test_a_class_that_is_found_nowhere_has_recall_0():
    evaluation, _ = describe(torch.tensor([[1.0, 0], [1, 0]]), torch.tensor([0, 1]), ("a", "b"))
    a, b = evaluation.classes
    assert (b.precision, b.recall, b.f1) == (None, 0.0, 0.0)
    assert (a.precision, a.recall, a.f1) == pytest.approx((0.5, 1.0, 2 / 3))


def test_images_of_one_class_alone_have_no_area():
    evaluation, curves = describe(torch.randn(5, 3), torch.zeros(5, dtype=torch.int64), ("a", "b", "c"))
    assert evaluation.macro_auc is None
    assert {each.auc for each in evaluation.classes} == {None}
    assert np.isnan(curves.macro_true_positive_rates).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_scores_that_are_not_finite(bad):
    logits, labels, classes = draw_scores(images=7)
    logits[2, 3] = logits[2, 4] = logits[5, 0] = bad
    with pytest.raises(UserError, match="must be finite, but those of 2 of 7 images are not"):
        describe(logits, labels, classes)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(2, 3), [0, 0], "one for each of the 2 classes, but got 3"),
        (torch.zeros(2, 2), [0, 2], "from 0 to 1, but got 2"),
        (torch.zeros(2, 2), [-1, 1], "from 0 to 1, but got -1"),
        (torch.zeros(0, 2), [], "at least one image"),
    ],
)
def test_what_does_not_fit(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        describe(logits, torch.tensor(labels, dtype=torch.int64), ("a", "b"))


def test_an_evaluation_is_a_measurement_that_can_be_stored():
    evaluation, _ = describe(*draw_scores())
    evaluation = replace(evaluation, peak_memory=10**9)  # known to who scores
    adapter = TypeAdapter(MEASUREMENTS["evaluate"])
    assert adapter.validate_json(adapter.dump_json(evaluation), strict=True) == evaluation
    assert {type(getattr(evaluation, field.name)) for field in fields(evaluation)} == {float, int, str, tuple}
