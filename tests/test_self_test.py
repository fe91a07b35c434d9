"""The A/A test: its verdict on made-up runs, and for real on a small network of ours."""

import pytest
from conftest import make_tiny
from torch import nn

from evitlab.environment import tune_allocator
from evitlab.measure import rounds, self_test, throughput
from evitlab.measure.self_test import judge_runs, run_self_test
from evitlab.measurements.speed import SelfTestRun
from evitlab.models.network import build_model


def make_run(ratio, low, high):
    return SelfTestRun(ratio=ratio, ratio_low=low, ratio_high=high, rounds=20, stopped_by="half-width")


GOOD, MISSED, FAR = make_run(1.001, 0.99, 1.01), make_run(0.995, 0.99, 0.999), make_run(1.02, 0.98, 1.05)


@pytest.mark.parametrize(
    ("runs", "contained", "error", "passed"),
    [
        ([GOOD] * 20, 20, 0.001, True),
        ([GOOD] * 18 + [MISSED] * 2, 18, 0.001, True),
        ([GOOD] * 17 + [MISSED] * 3, 17, 0.001, False),
        ([GOOD] * 9 + [FAR] * 11, 20, 0.02, False),
        ([GOOD] * 11 + [FAR] * 9, 20, 0.001, True),
        ([make_run(1.005, 1.0, 1.01)], 1, 0.005, True),
    ],
)
def test_passes_with_nine_in_ten_contained_and_small_errors(runs, contained, error, passed):
    found = judge_runs(runs, batch_size=1, image_size=(8, 8))
    assert (found.contained, found.median_error, found.passed) == (contained, pytest.approx(error), passed)
    assert found.runs == tuple(runs)


def test_every_run_times_the_model_against_itself_with_a_seed_of_its_own(monkeypatch):
    seeds, groups = [], []
    measure = self_test.measure_throughput

    def spy(models, **options):
        groups.append(list(models.values()))
        seeds.append(options["seed"])
        return measure(models, **options)

    monkeypatch.setattr(self_test, "measure_throughput", spy)
    monkeypatch.setattr(throughput, "WARMUP_SECONDS", 0.0)
    monkeypatch.setattr(rounds, "REPEAT_SECONDS", 0.0)
    model, heard = nn.Flatten(), {0: [], 1: []}
    for seed in (0, 1):
        found = run_self_test(
            model, batch_size=2, image_size=4, runs=3, seed=seed, time_limit_s=0.1, on_progress=heard[seed].append
        )
    assert all(group == [model, model] for group in groups)
    assert len(set(seeds)) == 6
    assert (len(found.runs), found.batch_size, found.image_size) == (3, 2, (4, 4))
    assert all(run.rounds >= 20 for run in found.runs)
    for shares in heard.values():
        assert shares == sorted(shares)
        assert shares[-1] == 1.0


def test_refuses_no_runs():
    with pytest.raises(ValueError, match="runs must be at least 1, but got runs=0"):
        run_self_test(nn.Flatten(), batch_size=1, image_size=4, runs=0)


@pytest.mark.slow
@pytest.mark.alone
def test_a_network_is_as_fast_as_itself():
    tune_allocator()
    model = build_model(make_tiny("efficientvit_m0"))
    found = run_self_test(model, batch_size=8, image_size=64, time_limit_s=20.0)
    assert found.contained >= 18, found
    assert found.median_error < 0.01, found
    assert found.passed
