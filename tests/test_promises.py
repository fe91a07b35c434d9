"""What is promised of timings: intervals that hold the truth, and a harness that is not in the numbers."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_throughput import measure

NOISES = {
    "normal": lambda rng, n: rng.normal(size=(n, 2)),
    "spikes": lambda rng, n: 0.3 * rng.normal(size=(n, 2)) + (rng.random((n, 2)) < 0.15) * rng.exponential(5, (n, 2)),
    "heavy tails": lambda rng, n: rng.standard_t(2, size=(n, 2)),
}
"""Logarithms of the slow-down in each turn of n rounds of two models, in units of a scale."""


def drifting_spikes(rng, n):
    """Spikes on a machine whose speed walks, ten times as far as the rest of the noise, and back."""
    walk = [rng.normal()]
    for step in rng.normal(size=2 * n - 1):
        walk.append(0.95 * walk[-1] + (1 - 0.95**2) ** 0.5 * step)
    return 3 * np.reshape(walk, (n, 2)) + NOISES["spikes"](rng, n)


def contained(clock, noise, scale, *, runs, seed=0):
    """How often the interval of two equal models holds a ratio of 1, and the mean of the rounds taken."""
    rng, hits, taken = np.random.default_rng(seed), 0, 0
    for run in range(runs):
        slow_down = iter(np.exp(scale * noise(rng, 403)).ravel())
        models = {name: clock.model(name, lambda now, s=slow_down: next(s)) for name in "ab"}
        found = measure(models, min_rounds=20, max_rounds=400, seed=run)["b"]
        hits += found.ratio_low <= 1 <= found.ratio_high
        taken += len(found.seconds)
    return hits / runs, taken / runs


@pytest.mark.slow
def test_stopping_early_does_not_break_the_promise_of_the_interval(clock):
    share, rounds_taken = contained(clock, drifting_spikes, 0.015, runs=80)
    assert 25 < rounds_taken < 60  # otherwise it did not stop by its own choice
    assert share >= 0.89  # 80 draws of 0.95 have a standard deviation of 0.024


@pytest.mark.slow
def test_simulated_intervals_hold_the_truth_as_often_as_promised(clock):
    noises = {**NOISES, "drifting spikes": drifting_spikes}
    scales = (0.003, 0.006, 0.01, 0.015, 0.02, 0.03)  # from 20 rounds to hundreds
    shares = [contained(clock, noise, scale, runs=200)[0] for noise in noises.values() for scale in scales]
    assert np.mean(shares) >= 0.955
    assert min(shares) >= 0.91  # 200 draws of 0.95 have a standard deviation of 0.015


@pytest.mark.slow
@pytest.mark.alone
def test_the_harness_adds_less_than_one_percent():
    """In a process of its own: here, every call has its types checked."""
    benchmark = Path(__file__).parent / "benchmarks" / "harness_overhead.py"
    done = subprocess.run([sys.executable, benchmark], capture_output=True, text=True, check=True)
    share = re.search(r"at most ([\d.]+)% of any round", done.stdout)
    assert share is not None
    assert float(share[1]) < 1
