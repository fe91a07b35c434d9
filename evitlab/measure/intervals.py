"""Intervals of a median, and the ratio of two paired series of timings."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
QUANTILES = (0.025, 0.975)


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A median with its percentile bootstrap 95% interval."""

    median: float
    low: float
    high: float

    @property
    def relative_half_width(self) -> float:
        """Half of the interval's width over the median."""
        return (self.high - self.low) / (2 * self.median)


def median_interval(values: Sequence[float], *, seed: int) -> Interval:
    """Median and percentile bootstrap 95% interval (Efron and Tibshirani, 1993, Sec. 13.3).

    It takes the values as independent draws: where the machine drifts slowly, it is too narrow.
    """
    sample = np.asarray(values, dtype=np.float64)
    picks = np.random.default_rng(seed).integers(len(sample), size=(RESAMPLES, len(sample)))
    low, high = np.quantile(np.median(sample[picks], axis=1), QUANTILES)
    return Interval(median=float(np.median(sample)), low=float(low), high=float(high))


def speed_ratio(reference: Sequence[float], seconds: Sequence[float], *, seed: int) -> Interval:
    """Speed over the reference's: the median over rounds of the reference's seconds / these seconds.

    Both are paired by round, so what slows a whole round down cancels.
    """
    return median_interval([a / b for a, b in zip(reference, seconds, strict=True)], seed=seed)
