"""What an evaluation draws, as plain arrays: too large for a record, and needed on both sides of torch."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CALIBRATION_BINS = 15
"""Bins of equal width for the expected calibration error (Guo et al., ICML 2017, Sec. 2)."""

FALSE_POSITIVE_RATES: NDArray[np.float64] = np.concatenate([[0.0], np.logspace(-5, -2, 100), np.linspace(0.02, 1, 99)])
"""The 200 places at which every ROC curve is kept: close together where classifiers of many classes differ."""


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Confusions, ROC curves and calibration of one evaluation; C classes, all images counted once."""

    classes: tuple[str, ...]
    confusion: NDArray[np.int64]
    """(C, C): images of the class of the row that were taken for the class of the column."""
    true_positive_rates: NDArray[np.float64]
    """(C, 200): each class against the rest, at `FALSE_POSITIVE_RATES`; NaN for a class with no image, or with all."""
    bin_counts: NDArray[np.int64]
    """(15,): images whose highest probability lies in the bin (m - 1) / 15 to m / 15, its upper end included."""
    bin_confidences: NDArray[np.float64]
    """(15,): mean highest probability in the bin; NaN where it is empty."""
    bin_accuracies: NDArray[np.float64]
    """(15,): share of its images that are right; NaN where it is empty."""

    @property
    def macro_true_positive_rates(self) -> NDArray[np.float64]:
        """(200,): mean over the classes that have a curve; NaN where none has."""
        defined = self.true_positive_rates[~np.isnan(self.true_positive_rates).any(axis=1)]
        return defined.mean(axis=0) if len(defined) else np.full(len(FALSE_POSITIVE_RATES), np.nan)
