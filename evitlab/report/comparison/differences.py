"""Differences between rows trained with the same seeds: intervals, what could have been detected, rank correlation.

All of it stands on seeds alone: another data set, another budget or another machine is in none of these intervals.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import mean, variance

import numpy as np
from numpy.typing import NDArray

from evitlab.report.student import LEVEL, half_width, p_value, t_quantile

POWER = 0.8

Values = Mapping[int, float]
"""A row's accuracy by the seed of its training."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How much higher one row is than another, from the seeds that both were trained with."""

    value: float
    """Mean over the seeds of the difference within a seed."""
    low: float | None
    """Student t interval of it; None for a single seed."""
    high: float | None
    seeds: int

    @property
    def separable(self) -> bool:
        """Whether the interval leaves out 0; a single seed separates nothing."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    @property
    def p_value(self) -> float | None:
        """Of the paired t test, two-sided; None for a single seed."""
        return None if self.high is None else p_value(self.value, self.high - self.value, self.seeds - 1)


def pair_difference(row: Values, other: Values) -> Difference | None:
    """Row minus other, paired by seed, as trainings of one seed see the same images in the same order; None where
    they share no seed.

    The interval is that of the paired t test: mean +- t(n - 1) s / sqrt(n), s the deviation of the n differences.
    """
    differences = [row[seed] - other[seed] for seed in sorted(set(row) & set(other))]
    if not differences:
        return None
    value, count = mean(differences), len(differences)
    if count < 2:
        return Difference(value=value, low=None, high=None, seeds=count)
    half = half_width(differences)
    return Difference(value=value, low=value - half, high=value + half, seeds=count)


def adjust_p_values(p_values: Sequence[float]) -> list[float]:
    """Adjusted for their number by Holm's steps (Scandinavian Journal of Statistics 6, 1979): of all tests between
    equals none falls below 0.05 in 95% of studies, however the tests depend on one another.

    >>> adjust_p_values([0.03, 0.01])
    [0.03, 0.02]
    """
    adjusted, least = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = least
    return adjusted


def detectable_difference(deviation: float, seeds: int) -> float | None:
    """The smallest true difference that a paired t test of size 5% over so many seeds finds in 80% of studies.

    `deviation` is that of differences within a seed. The difference d solves P(|T| > t(n - 1)) = 0.8 for T of the
    noncentral t distribution with n - 1 degrees of freedom and noncentrality d sqrt(n) / deviation. None for one seed.

    >>> round(detectable_difference(1.0, 10), 3)
    0.996
    """
    if seeds < 2:
        return None
    from scipy.optimize import brentq  # late: they take a second to import, and most tables do without
    from scipy.stats import nct

    freedom = seeds - 1
    critical = t_quantile(LEVEL, freedom)

    def lack(noncentrality: float) -> float:
        return float(nct.sf(critical, freedom, noncentrality)) - POWER  # the other side adds less than one in a million

    return float(brentq(lack, critical / 2, 2 * critical)) * deviation / sqrt(seeds)


def pool_deviation(rows: Sequence[Values], other: Values) -> float | None:
    """Deviation of a difference within a seed, pooled over rows: the square root of the mean of their variances to
    `other`, each weighted by its degrees of freedom. None where no row shares two seeds with it.
    """
    total, freedom = 0.0, 0
    for row in rows:
        differences = [row[seed] - other[seed] for seed in set(row) & set(other)]
        if len(differences) > 1:
            total += variance(differences) * (len(differences) - 1)
            freedom += len(differences) - 1
    return sqrt(total / freedom) if freedom else None


@dataclass(frozen=True, kw_only=True)
class RankCorrelation:
    """Kendall's tau-b between our order of some rows and another."""

    tau: float
    low: float | None
    """95% interval over the luck of the seeds (`rank_correlation`); None for a single seed."""
    high: float | None
    p_value: float
    """Of so strong a relation or a stronger one between unrelated orders of so many rows; exact where none tie."""
    rows: int
    seeds: int


def rank_correlation(
    ours: Sequence[Values], theirs: Sequence[float], *, draws: int = 4000, seed: int = 0
) -> RankCorrelation | None:
    """Kendall's tau-b of our means over seeds with another's values, row by row; None for less than three rows or
    where one of the orders ties everywhere.

    The interval redraws every row's mean from a t distribution about it: its deviation is the seeds' own, pooled over
    rows after what a seed does to all rows alike is taken out (rows and seeds as two ways of an analysis of variance,
    with (rows - 1)(seeds - 1) degrees of freedom, which a common spread of all rows is supposed for). Resampling two
    or three seeds themselves would give too narrow an interval. How well so few rows speak for others is not in it.
    """
    shared = sorted(set.intersection(*(set(row) for row in ours))) if ours else []
    if len(ours) < 3 or not shared:
        return None
    from scipy.stats import kendalltau  # late, as above

    table = np.array([[row[each] for each in shared] for row in ours])
    means = table.mean(axis=1)
    found = kendalltau(means, theirs)
    if not np.isfinite(found.statistic):
        return None
    low = high = None
    if len(shared) > 1:
        taus = _redraw(table, theirs, draws=draws, seed=seed)
        low, high = (float(end) for end in np.quantile(taus, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    return RankCorrelation(
        tau=float(found.statistic), low=low, high=high, p_value=float(found.pvalue), rows=len(ours), seeds=len(shared)
    )


def _redraw(table: NDArray[np.float64], theirs: Sequence[float], *, draws: int, seed: int) -> list[float]:
    """Kendall's tau-b with `theirs` of means drawn anew; `table` holds a row a variant, a column a seed."""
    rows, seeds = table.shape
    residuals = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0, keepdims=True) + table.mean()
    freedom = (rows - 1) * (seeds - 1)
    deviation = sqrt(float((residuals**2).sum()) / freedom / seeds)
    generator = np.random.default_rng(seed)
    scale = np.sqrt(freedom / generator.chisquare(freedom, size=(draws, 1)))  # one spread for all rows of a draw
    drawn = table.mean(axis=1) + deviation * scale * generator.standard_normal((draws, rows))
    first, second = np.triu_indices(rows, k=1)
    order = np.sign(np.asarray(theirs)[first] - np.asarray(theirs)[second])
    signs = np.sign(drawn[:, first] - drawn[:, second])
    untied = np.count_nonzero(order) * np.count_nonzero(signs, axis=1)
    taus = (signs @ order) / np.sqrt(np.maximum(untied, 1))
    return [float(tau) for tau in taus]
