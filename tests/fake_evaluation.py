"""Made-up evaluations with any number of classes, without torch. For tests of reports."""

import numpy as np

from evitlab.curves import CALIBRATION_BINS, FALSE_POSITIVE_RATES, Curves
from evitlab.measurements.accuracy import ClassScore, Evaluation


def make_evaluation(classes: int = 10, *, absent: int = 0, skill: float = 0.6) -> tuple[Evaluation, Curves]:
    """Class c has 20 + c images, of which 6 in 10 or more are found; the last `absent` classes have none."""
    names = tuple(f"class {number}, of a kind" if number % 3 else f"n{number:08d}" for number in range(classes))
    present = classes - absent
    confusion = np.zeros((classes, classes), dtype=np.int64)
    aucs = np.linspace(0.99, 0.7, present)
    for row in range(present):
        found = round((20 + row) * (skill + (1 - skill) * row / present))
        confusion[row, row] = found
        confusion[row, (row + 1) % present] += 20 + row - found
    rates = np.full((classes, len(FALSE_POSITIVE_RATES)), np.nan)
    rates[:present] = FALSE_POSITIVE_RATES ** (1 / aucs[:, None] - 1)  # area: its auc
    images = int(confusion.sum())
    counts = np.zeros(CALIBRATION_BINS, dtype=np.int64)
    counts[-1] = images
    curves = Curves(
        classes=names,
        confusion=confusion,
        true_positive_rates=rates,
        bin_counts=counts,
        bin_confidences=np.where(counts > 0, 0.97, np.nan),
        bin_accuracies=np.where(counts > 0, np.trace(confusion) / images, np.nan),
    )
    top1 = float(np.trace(confusion)) / images
    evaluation = Evaluation(
        top1=top1,
        top1_low=top1 - 0.02,
        top1_high=min(1.0, top1 + 0.02),
        top5=min(1.0, top1 + 0.1),
        loss=0.75,
        macro_auc=float(aucs.mean()),
        ece=abs(0.97 - top1),
        num_classes=classes,
        images=images,
        data="scenes",
        classes=tuple(_score(confusion, row, name, auc) for row, (name, auc) in enumerate(_pad(names, aucs))),
    )
    return evaluation, curves


def _pad(names: tuple[str, ...], aucs: np.ndarray) -> list[tuple[str, float | None]]:
    return list(zip(names, [*map(float, aucs), *[None] * (len(names) - len(aucs))], strict=True))


def _score(confusion: np.ndarray, row: int, name: str, auc: float | None) -> ClassScore:
    hits, taken, support = int(confusion[row, row]), int(confusion[:, row].sum()), int(confusion[row].sum())
    return ClassScore(
        name=name,
        precision=hits / taken if taken else None,
        recall=hits / support if support else None,
        f1=2 * hits / (taken + support) if taken + support else None,
        support=support,
        auc=auc,
    )
