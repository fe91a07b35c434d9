"""Intervals: against SciPy's bootstrap, hand cases, and how often they hold the truth."""

import numpy as np
import pytest
from scipy import stats

from evitlab.measure.intervals import mean_interval, median_interval, speed_ratio


@pytest.mark.parametrize("size", [5, 20, 101])
def test_median_interval_is_the_percentile_bootstrap(size):
    values = np.random.default_rng(size).lognormal(sigma=0.3, size=size)
    expected = stats.bootstrap(
        (values,), np.median, n_resamples=20_000, method="percentile", random_state=1
    ).confidence_interval
    found = median_interval(list(values), seed=0)
    assert found.middle == np.median(values)
    scale = np.median(values) * 0.02
    assert found.low == pytest.approx(expected.low, abs=scale)
    assert found.high == pytest.approx(expected.high, abs=scale)


def test_mean_interval_is_the_percentile_bootstrap():
    values = np.random.default_rng(3).lognormal(sigma=0.3, size=40)
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", random_state=1
    ).confidence_interval
    found = mean_interval(list(values), seed=0)
    assert found.middle == pytest.approx(np.mean(values))
    assert (found.low, found.high) == (pytest.approx(expected.low, rel=0.01), pytest.approx(expected.high, rel=0.01))


def test_the_interval_of_a_ratio_is_wider_to_pay_for_stopping_early():
    values = np.random.default_rng(5).lognormal(sigma=1.0, size=101)  # 95% would be a fifth narrower
    expected = stats.bootstrap(
        (values,), np.median, confidence_level=0.98, n_resamples=20_000, method="percentile", random_state=1
    ).confidence_interval
    found = speed_ratio(list(values), [1.0] * 101, seed=0)
    assert found.middle == np.median(values)
    assert (found.low, found.high) == (pytest.approx(expected.low, rel=0.02), pytest.approx(expected.high, rel=0.02))


def test_interval_holds_the_true_median_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    samples = generator.exponential(size=(300, 25))  # the median of an exponential is ln 2
    found = [median_interval(list(sample), seed=0) for sample in samples]
    assert 0.90 <= np.mean([i.low <= np.log(2) <= i.high for i in found]) <= 0.99


def test_same_seed_same_interval():
    values = list(np.random.default_rng(0).random(30))
    assert median_interval(values, seed=3) == median_interval(values, seed=3)
    assert median_interval(values, seed=3) != median_interval(values, seed=4)


def test_equal_values_leave_no_doubt():
    found = median_interval([2.0, 2.0, 2.0], seed=0)
    assert (found.low, found.middle, found.high, found.relative_half_width) == (2.0, 2.0, 2.0, 0.0)


def test_half_width_is_relative_to_the_median():
    # Of two values a resample's median is 1, 2 or 3: a quarter, a half and a quarter of the time.
    assert median_interval([1.0, 3.0], seed=0).relative_half_width == (3 - 1) / 2 / 2


def test_ratio_is_taken_within_rounds():
    # In rounds: 1/1, 10/2, 3/6. The ratio of the medians would be 3/2.
    assert speed_ratio([1.0, 10.0, 3.0], [1.0, 2.0, 6.0], seed=0).middle == 1.0


def test_a_drift_of_both_cancels():
    drift = np.exp(np.linspace(0, 2, 30))
    found = speed_ratio(list(3 * drift), list(2 * drift), seed=0)
    assert (found.low, found.high) == (pytest.approx(1.5), pytest.approx(1.5))
