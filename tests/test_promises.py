"""What is promised of timings: intervals that hold the truth, and a harness that is not in the numbers."""

from time import perf_counter

import numpy as np
import pytest
import torch
from test_throughput import measure
from torch import nn

from evitlab.measure import rounds, throughput
from evitlab.settings import Execution

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
def test_the_harness_adds_less_than_one_percent():
    """Rounds of bare calls and of the harness's, in random order; a call takes some milliseconds."""
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3)).eval()
    prepared = throughput.prepare(model, execution=Execution(), device=torch.device("cpu"))
    images = prepared.draw_images(batch_size=8, image_size=64, seed=0)
    bare, ours, order = [], [], np.random.default_rng(0)
    with torch.inference_mode():
        contender = rounds.make_contender(prepared, images, warmup_s=0.2)
        for _ in range(400):
            for harness in order.permutation([True, False]):
                start = perf_counter()
                if harness:
                    rounds.time_rounds({"a": contender}, judge=lambda *_: (1.0, "rounds"), seed=0)
                else:
                    for _ in range(contender.calls_per_repeat):
                        prepared.model(images)
                (ours if harness else bare).append(perf_counter() - start)
    assert np.median(ours) / np.median(bare) < 1.01
