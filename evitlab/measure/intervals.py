"""Intervals of a median or mean, and the ratio of two paired series of timings."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95
RATIO_LEVEL = 0.98


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A median or mean with its percentile bootstrap interval."""

    middle: float
    low: float
    high: float

    @property
    def median(self) -> float:
        """The middle of an interval of a median."""
        return self.middle

    @property
    def relative_half_width(self) -> float:
        """Half of the interval's width over the middle."""
        return (self.high - self.low) / (2 * self.middle)


def median_interval(values: Sequence[float], *, seed: int, level: float = LEVEL) -> Interval:
    """Median and percentile bootstrap interval (Efron and Tibshirani, 1993, Sec. 13.3), of 95% unless said.

    It takes the values as independent draws: where the machine drifts slowly, it is too narrow.
    """
    return _bootstrap(values, np.median, seed=seed, level=level)


def mean_interval(values: Sequence[float], *, seed: int) -> Interval:
    """Mean and percentile bootstrap 95% interval, as `median_interval`."""
    return _bootstrap(values, np.mean, seed=seed, level=LEVEL)


def speed_ratio(reference: Sequence[float], seconds: Sequence[float], *, seed: int) -> Interval:
    """Speed over the reference's: the median over rounds of the reference's seconds / these seconds.

    Both are paired by round, so what slows a whole round down cancels. The interval is that of 98% for a number of
    rounds fixed beforehand, since `measure_throughput` stops when it is narrow, which it is too early by luck.
    """
    ratios = [a / b for a, b in zip(reference, seconds, strict=True)]
    return median_interval(ratios, seed=seed, level=RATIO_LEVEL)


def _bootstrap(values: Sequence[float], statistic: Callable[..., Any], *, seed: int, level: float) -> Interval:
    sample = np.asarray(values, dtype=np.float64)
    picks = np.random.default_rng(seed).integers(len(sample), size=(RESAMPLES, len(sample)))
    low, high = np.quantile(statistic(sample[picks], axis=1), ((1 - level) / 2, (1 + level) / 2))
    return Interval(middle=float(statistic(sample)), low=float(low), high=float(high))
