"""Rounds: who has a turn when, and when they end."""

from collections import Counter
from itertools import islice

import pytest
import torch
from torch import nn

from evitlab.measure import rounds
from evitlab.measure.execution import prepare
from evitlab.measure.rounds import (
    Duration,
    Limits,
    Timings,
    errors_name,
    make_contender,
    make_equally_long,
    round_orders,
    time_rounds,
)
from evitlab.settings import Execution


def make_timings(**repeats):
    return Timings(calls=repeats, repeats=repeats)


def limits(**options):
    settings = {"half_width": 0.01, "min_rounds": 20, "max_rounds": 100, "time_limit_s": 60.0, "references": {"a": "a"}}
    return Limits(**(settings | options), seed=0)


@pytest.fixture
def group():
    """Three models that note their calls."""
    calls = []

    class Noting(nn.Module):
        def __init__(self, name):
            super().__init__()
            self.note = lambda: calls.append(name)

        def forward(self, x):
            self.note()
            return x

    made = {}
    for name in "abc":
        prepared = prepare(Noting(name), execution=Execution(), device=torch.device("cpu"))
        contender = make_contender(prepared, torch.zeros(1, 3, 2, 2), warmup_s=0.0)
        made[name] = rounds.replace(contender, calls_per_repeat=1)
    calls.clear()
    return made, calls


def test_every_round_times_each_model_once_in_a_new_order(group):
    contenders, calls = group

    def sixty(timings, elapsed_s):
        return (1.0, "rounds") if timings.rounds == 60 else (0.5, None)

    timings, stopped_by = time_rounds(contenders, judge=sixty, seed=1)
    assert stopped_by == "rounds"
    orders = [tuple(calls[i : i + 3]) for i in range(0, len(calls), 3)]
    assert len(orders) == 60
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)
    assert len(set(orders)) == 6
    assert orders == [tuple(order) for order in islice(round_orders(list("abc"), seed=1), 60)]
    assert {name: len(seconds) for name, seconds in timings.calls.items()} == dict.fromkeys("abc", 60)


def test_orders_are_balanced_and_follow_the_seed():
    orders = list(islice(round_orders(["a", "b", "c", "d"], seed=0), 4000))
    first = Counter(order[0] for order in orders)
    assert all(count == pytest.approx(1000, abs=120) for count in first.values())  # four standard deviations
    assert orders == list(islice(round_orders(["a", "b", "c", "d"], seed=0), 4000))
    assert orders != list(islice(round_orders(["a", "b", "c", "d"], seed=1), 4000))


def test_looks_are_ever_further_apart():
    assert sorted(limits().looks) == [20, 30, 45, 68, 100]
    assert sorted(limits(min_rounds=2, max_rounds=2).looks) == [2]


def test_looks_at_no_other_time():
    """By the numbers of these rounds the intervals are as narrow as can be."""
    ended = [n for n in range(1, 101) if limits().judge(make_timings(a=[1.0] * n), 0.0)[1] == "half-width"]
    assert ended == [20, 30, 45, 68, 100]


def test_half_width_is_that_of_the_ratio():
    # Ratios 1 and 3, half of each: the middle is 2, and the interval goes from 1 to 3.
    timings = make_timings(a=[1.0, 3.0] * 10, b=[1.0] * 20)
    assert limits(references={"a": "a", "b": "a"}).widest(timings) == pytest.approx(0.5)
    assert limits(references={"a": "a", "b": "b"}).widest(timings) == pytest.approx(0.5)  # a's own median
    drift = make_timings(a=[1.0, 3.0] * 10, b=[2.0, 6.0] * 10)
    assert limits(references={"a": "a", "b": "a"}).widest(drift) == 0.0


def test_the_least_rounds_go_before_the_time_limit():
    noisy = [1.0, 3.0] * 20
    assert limits().judge(make_timings(a=noisy[:19]), 1e9) == (pytest.approx(19 / 20), None)
    assert limits().judge(make_timings(a=noisy[:21]), 61.0) == (1.0, "time limit")
    assert limits().judge(make_timings(a=noisy[:21]), 30.0) == (pytest.approx(0.5), None)


def test_duration_waits_for_the_last_model():
    rule = Duration(seconds=4.0)
    assert rule.judge(make_timings(a=[2.0, 2.0], b=[1.0, 1.0]), 9.0) == (0.5, None)
    assert rule.judge(make_timings(a=[2.0, 2.0], b=[2.0, 2.0]), 9.0) == (1.0, "protocol")


def test_repeats_made_equally_long(group):
    contenders, _ = group
    fastest = {"a": 0.001, "b": 0.12, "c": 0.5}
    made = {name: rounds.replace(contenders[name], fastest_s=seconds) for name, seconds in fastest.items()}
    assert {name: one.calls_per_repeat for name, one in make_equally_long(made).items()} == {"a": 500, "b": 5, "c": 1}
    quick = {name: rounds.replace(contenders[name], fastest_s=0.02) for name in "ab"}
    assert {one.calls_per_repeat for one in make_equally_long(quick).values()} == {3}  # 0.05 s at least


def test_errors_keep_their_type():
    with pytest.raises(KeyError, match="swin_t: 'stem'"), errors_name("swin_t"):
        raise KeyError("stem")
