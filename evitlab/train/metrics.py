"""Accuracy of class scores: the few numbers that a training follows, and everything that an evaluation reports."""

from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.metrics import auc, confusion_matrix, precision_recall_fscore_support, roc_curve
from torch import Tensor

from evitlab.curves import CALIBRATION_BINS, FALSE_POSITIVE_RATES, Curves
from evitlab.measurements.accuracy import ClassScore, Evaluation
from evitlab.problems import UserError


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """How well scores name the true classes of a set of images."""

    top1: float
    """Share of images whose highest score is the true class."""
    top5: float
    """Share of images whose true class is among the five highest scores; with fewer than five classes, always 1."""
    loss: float
    """Mean cross-entropy in nats, without label smoothing."""


def score(logits: Float[Tensor, "N classes"], labels: Int64[Tensor, " N"]) -> Accuracy:
    """Top-1, top-5 and cross-entropy of one set of scores; ties go to either class, as in `torch.topk`."""
    hits = _rank(logits) == labels[:, None]
    return Accuracy(
        top1=hits[:, 0].double().mean().item(),
        top5=hits.any(1).double().mean().item(),
        loss=F.cross_entropy(logits.double(), labels).item(),
    )


def describe_scores(
    logits: Float[Tensor, "N classes"], labels: Int64[Tensor, " N"], classes: tuple[str, ...], *, data: str
) -> tuple[Evaluation, Curves]:
    """Everything that is reported of one set of scores; `data` names where the images are from.

    Top-1, top-5 and loss are those of `score`; scikit-learn computes the figures of the classes, from softmax
    probabilities in float64; the calibration error is that of Guo et al. (ICML 2017, eq. 3) with 15 bins. ROC curves
    are kept at 200 false positive rates, common to all classes; the areas are those of the whole curves. Raises
    UserError for scores that are not finite, ValueError for labels or scores that do not fit the classes.
    """
    _check(logits, labels, classes)
    accuracy = score(logits, labels)
    predicted, true = _rank(logits)[:, 0].cpu().numpy(), labels.cpu().numpy()
    probabilities = logits.double().softmax(1).cpu().numpy()
    rates, areas = _trace_roc(probabilities, true)
    curves = Curves(
        classes=classes,
        confusion=confusion_matrix(true, predicted, labels=np.arange(len(classes))).astype(np.int64),
        true_positive_rates=rates,
        **_bin_confidence(probabilities.max(axis=1), predicted == true),
    )
    interval = binomtest(int((predicted == true).sum()), len(true)).proportion_ci(method="wilson")
    defined = [area for area in areas if area is not None]
    evaluation = Evaluation(
        top1=accuracy.top1,
        top1_low=float(interval.low),
        top1_high=float(interval.high),
        top5=accuracy.top5,
        loss=accuracy.loss,
        macro_auc=float(np.mean(defined)) if defined else None,
        ece=_calibration_error(curves),
        num_classes=len(classes),
        images=len(true),
        data=data,
        classes=_score_classes(true, predicted, classes, areas),
    )
    return evaluation, curves


def _rank(logits: Float[Tensor, "N classes"]) -> Int64[Tensor, "N best"]:
    """The five highest classes of each image, or all of fewer; the one place that decides ties."""
    return logits.topk(min(5, logits.shape[1])).indices


def _check(logits: Tensor, labels: Tensor, classes: tuple[str, ...]) -> None:
    if len(labels) == 0:
        raise ValueError("an evaluation needs at least one image, but got none")
    if logits.shape[1] != len(classes):
        raise ValueError(f"scores must be one for each of the {len(classes)} classes, but got {logits.shape[1]}")
    if (low := int(labels.min())) < 0 or (high := int(labels.max())) >= len(classes):
        raise ValueError(f"labels must be from 0 to {len(classes) - 1}, but got {low if low < 0 else high}")
    if bad := int((~logits.isfinite()).any(1).sum()):
        raise UserError(
            f"scores must be finite, but those of {bad} of {len(logits)} images are not: the model diverged"
        )


def _trace_roc(
    probabilities: NDArray[np.float64], true: NDArray[np.int64]
) -> tuple[NDArray[np.float64], list[float | None]]:
    """Each class against the rest: its curve at `FALSE_POSITIVE_RATES`, and the area under the whole of it."""
    rates = np.full((probabilities.shape[1], len(FALSE_POSITIVE_RATES)), np.nan)
    areas: list[float | None] = []
    for number, own in enumerate(probabilities.T):
        positive = true == number
        if positive.all() or not positive.any():
            areas.append(None)
            continue
        false_positive, true_positive, _ = roc_curve(positive, own)
        areas.append(float(auc(false_positive, true_positive)))
        rates[number] = np.interp(FALSE_POSITIVE_RATES, false_positive, true_positive)
    return rates, areas


def _score_classes(
    true: NDArray[np.int64], predicted: NDArray[np.int64], classes: tuple[str, ...], areas: list[float | None]
) -> tuple[ClassScore, ...]:
    columns = precision_recall_fscore_support(true, predicted, labels=np.arange(len(classes)), zero_division=np.nan)
    return tuple(
        ClassScore(
            name=name,
            precision=_known(precision),
            recall=_known(recall),
            f1=_known(f1),
            support=int(support),
            auc=area,
        )
        for name, precision, recall, f1, support, area in zip(classes, *columns, areas, strict=True)
    )


def _known(value: float) -> float | None:
    """What scikit-learn leaves undefined, 0 / 0, as None."""
    return None if np.isnan(value) else float(value)


def _bin_confidence(confidence: NDArray[np.float64], hit: NDArray[np.bool_]) -> dict[str, NDArray]:
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    bins = np.digitize(confidence, edges[1:-1], right=True)
    counts = np.bincount(bins, minlength=CALIBRATION_BINS)
    with np.errstate(invalid="ignore"):  # empty bins have no mean
        return {
            "bin_counts": counts,
            "bin_confidences": np.bincount(bins, weights=confidence, minlength=CALIBRATION_BINS) / counts,
            "bin_accuracies": np.bincount(bins, weights=hit, minlength=CALIBRATION_BINS) / counts,
        }


def _calibration_error(curves: Curves) -> float:
    gaps = np.abs(curves.bin_accuracies - curves.bin_confidences)
    return float(np.nansum(gaps * curves.bin_counts) / curves.bin_counts.sum())
