"""Differences between rows: against scipy, by hand, and in simulation."""

from itertools import combinations
from math import sqrt

import numpy as np
import pytest
from scipy import stats

from evitlab.report.comparison.differences import (
    adjust_p_values,
    detectable_difference,
    pair_difference,
    pool_deviation,
    rank_correlation,
)

ONE = {0: 0.71, 1: 0.69, 2: 0.74, 7: 0.70}
OTHER = {0: 0.68, 1: 0.69, 2: 0.70, 7: 0.66}


def seeds_of(values) -> dict[int, float]:
    return dict(enumerate(values))


def test_the_interval_is_that_of_the_paired_t_test():
    found = pair_difference(ONE, OTHER)
    told = stats.ttest_rel(list(ONE.values()), list(OTHER.values()))
    expected = told.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.value == pytest.approx(0.0275)
    assert found.seeds == 4
    assert found.separable == (told.pvalue < 0.05)
    assert found.p_value == pytest.approx(told.pvalue)


def test_by_hand():
    """Differences 1, 2, 3: mean 2, deviation 1, t(2 degrees) 4.3027 at 97.5%."""
    found = pair_difference({1: 4.0, 2: 4.0, 3: 4.0}, {1: 3.0, 2: 2.0, 3: 1.0})
    assert found.value == 2
    assert found.high - 2 == pytest.approx(4.3027 / sqrt(3), abs=1e-4)
    assert not found.separable


def test_only_seeds_of_both_count_and_in_their_order():
    found = pair_difference({5: 3.0, 1: 1.0, 9: 100.0}, {1: 0.0, 5: 1.0, 4: -50.0})
    assert (found.value, found.seeds) == (1.5, 2)


def test_one_seed_separates_nothing_and_none_says_nothing():
    found = pair_difference({0: 9.0}, {0: 1.0})
    assert (found.value, found.low, found.high, found.separable) == (8.0, None, None, False)
    assert found.p_value is None
    assert pair_difference({0: 9.0}, {1: 1.0}) is None


def test_without_spread_a_difference_is_certain_and_none_is_not():
    assert pair_difference({0: 2.0, 1: 3.0}, {0: 1.0, 1: 2.0}).p_value == 0
    assert pair_difference({0: 2.0, 1: 3.0}, {0: 2.0, 1: 3.0}).p_value == 1


@pytest.mark.parametrize("count", [1, 2, 5, 7])
def test_adjusted_p_values_are_those_of_closed_testing(count):
    """A hypothesis falls when every set of hypotheses that it is part of falls by Bonferroni: a loop over all sets."""
    p_values = [*np.random.default_rng(count).uniform(0, 1, count), 0.01, 0.01]
    places = range(len(p_values))
    sets = [each for size in places for each in combinations(places, size + 1)]
    expected = [max(min(1, len(s) * min(p_values[p] for p in s)) for s in sets if place in s) for place in places]
    assert adjust_p_values(p_values) == pytest.approx(expected)
    assert adjust_p_values([]) == []


def test_among_equals_hardly_a_study_has_an_adjusted_difference():
    """Ten rows that do not differ from their base, 5 seeds: without adjusting a third of studies have one at least."""
    generator = np.random.default_rng(0)
    least, plain = [], []
    for _ in range(500):
        base = seeds_of(generator.normal(0, 1, 5))
        found = [pair_difference(seeds_of(generator.normal(0, 1, 5)), base).p_value for _ in range(10)]
        plain.append(min(found) < 0.05)
        least.append(min(adjust_p_values(found)) < 0.05)
    assert np.mean(least) <= 0.05 + 2 * sqrt(0.05 * 0.95 / 500)
    assert np.mean(plain) > 0.15


def test_what_a_seed_does_to_both_rows_is_not_in_the_interval():
    """Pairing: a seed that lifts both leaves their difference alone."""
    plain = pair_difference(ONE, OTHER)
    lift = {0: 0.1, 1: -0.2, 2: 0.05, 7: 0.3}
    lifted = pair_difference({s: v + lift[s] for s, v in ONE.items()}, {s: v + lift[s] for s, v in OTHER.items()})
    assert (lifted.low, lifted.high) == pytest.approx((plain.low, plain.high))


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_intervals_cover_and_equals_are_rarely_told_apart(seeds):
    generator = np.random.default_rng(seeds)
    draws = 2000
    covered = apart = 0
    for _ in range(draws):
        lift = generator.normal(0, 3, seeds)
        other = generator.normal(0, 1, seeds) + lift
        found = pair_difference(seeds_of(2 + generator.normal(0, 1, seeds) + lift), seeds_of(other))
        covered += found.low <= 2 <= found.high
        apart += pair_difference(seeds_of(generator.normal(0, 1, seeds) + lift), seeds_of(other)).separable
    assert abs(covered / draws - 0.95) < 0.02
    assert abs(apart / draws - 0.05) < 0.02


@pytest.mark.parametrize("seeds", [2, 3, 5, 20])
def test_the_detectable_difference_is_found_in_four_of_five_studies(seeds):
    generator = np.random.default_rng(seeds)
    difference = detectable_difference(0.7, seeds)
    draws = generator.normal(difference, 0.7, (20_000, seeds))
    found = stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05
    assert abs(found.mean() - 0.8) < 0.012


def test_the_detectable_difference_of_many_seeds_is_the_normal_one():
    """(1.95996 + 0.84162) s / sqrt(n) in the limit."""
    assert detectable_difference(2.0, 100_000) == pytest.approx(2.80158 * 2 / sqrt(100_000), rel=1e-3)
    assert detectable_difference(1.0, 1) is None


def test_the_deviation_is_pooled_by_degrees_of_freedom():
    """Variances 2 with 1 degree and 1 with 2 degrees: (2 + 2) / 3; a row with one shared seed adds nothing."""
    base = dict.fromkeys(range(3), 0.0)
    assert pool_deviation([{0: 1.0, 1: 3.0}, {0: 1.0, 1: 2.0, 2: 3.0}, {0: 7.0}], base) == pytest.approx(sqrt(4 / 3))
    assert pool_deviation([{0: 7.0}], base) is None


@pytest.mark.parametrize("theirs", [[71.3, 68.3, 70.2, 65.7, 70.2], [1.0, 2.0, 3.0, 4.0, 5.0]])
def test_tau_is_scipys(theirs):
    ours = [{0: 0.5, 1: 0.6}, {0: 0.1, 1: 0.2}, {0: 0.55, 1: 0.45}, {0: 0.3, 1: 0.3}, {0: 0.9, 1: 0.7}]
    found = rank_correlation(ours, theirs)
    told = stats.kendalltau([0.55, 0.15, 0.5, 0.3, 0.8], theirs)
    assert (found.tau, found.p_value) == pytest.approx((told.statistic, told.pvalue))
    assert (found.rows, found.seeds) == (5, 2)
    assert found.low <= found.tau <= found.high


def test_where_seeds_agree_tau_has_no_spread_and_one_seed_gives_no_interval():
    sure = rank_correlation([{0: x, 1: x + 0.1} for x in (1.0, 2.0, 3.0)], [1, 2, 3])
    assert (sure.tau, sure.low, sure.high) == pytest.approx((1, 1, 1))
    single = rank_correlation([{0: x} for x in (1.0, 2.0, 3.0)], [1, 3, 2])
    assert (single.tau, single.low, single.high) == (pytest.approx(1 / 3), None, None)


def test_no_order_no_tau():
    assert rank_correlation([{0: 1.0}, {0: 2.0}], [1, 2]) is None
    assert rank_correlation([{0: 1.0}, {0: 2.0}, {0: 3.0}], [5, 5, 5]) is None
    assert rank_correlation([{0: 1.0}, {1: 2.0}, {2: 3.0}], [1, 2, 3]) is None
    assert rank_correlation([], []) is None


def test_the_interval_of_tau_covers_that_of_the_true_means():
    """Eleven rows, three seeds, a spread about as wide as the rows lie apart, and a lift by seed that all share."""
    generator = np.random.default_rng(0)
    theirs = generator.normal(0, 1, 11)
    covered = []
    for draw in range(200):
        truth = theirs + generator.normal(0, 1, 11)
        lift = generator.normal(0, 5, 3)
        table = truth[:, None] + lift + generator.normal(0, 0.5, (11, 3))
        found = rank_correlation([seeds_of(row) for row in table], list(theirs), draws=400, seed=draw)
        covered.append(found.low <= stats.kendalltau(truth, theirs).statistic <= found.high)
    assert np.mean(covered) >= 0.93
