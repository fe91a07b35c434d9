"""Early stopping with two objectives, on curves whose answer is plain."""

import pytest

from evitlab.sweep.domination import Rival, find_dominator, find_front, replay
from evitlab.sweep.search import StopSettings

RULE = StopSettings(margin=0.1, after=0.5)


def make(name: str, ratio: float, *curve: float) -> Rival:
    return Rival(variant=name, ratio=ratio, curve=dict(enumerate(curve, 1)), top1=curve[-1])


FAST = make("fast", 2.0, 0.2, 0.4, 0.5, 0.6)


@pytest.mark.parametrize(
    ("ratio", "step", "top1", "stops"),
    [
        (1.0, 2, 0.29, True),
        (2.0, 2, 0.29, True),  # equally fast
        (2.1, 2, 0.0, False),  # faster than all others: still on the front
        (1.0, 2, 0.31, False),  # behind by less than the margin
        (1.0, 1, 0.0, False),  # too early
        (1.0, 4, 0.0, False),  # at the end there is nothing to save
    ],
)
def test_only_what_is_slower_and_clearly_behind_is_stopped(ratio, step, top1, stops):
    found = find_dominator([FAST], ratio=ratio, step=step, top1=top1, steps=4, settings=RULE)
    assert (found is FAST) == stops


def test_a_step_that_no_other_was_judged_at_says_nothing():
    other = Rival(variant="o", ratio=9.0, curve={3: 0.9}, top1=0.9)
    assert find_dominator([other], ratio=1.0, step=2, top1=0.0, steps=4, settings=RULE) is None


def test_the_front_keeps_what_nothing_beats_and_equals_among_themselves():
    slow, beaten = make("slow", 1.0, 0.9), make("beaten", 0.9, 0.8)
    assert find_front([FAST, slow, beaten]) == {"fast", "slow"}
    assert find_front([make("a", 1.0, 0.5), make("b", 1.0, 0.5)]) == {"a", "b"}


def test_a_replay_counts_what_would_have_been_lost_from_the_front():
    hopeless = make("hopeless", 1.0, 0.1, 0.1, 0.2, 0.3)
    late = make("late", 1.5, 0.1, 0.2, 0.5, 0.9)  # behind at half time, best at the end: a wrong stop
    found = replay([FAST, hopeless, late], RULE)
    assert found.stopped == ("hopeless", "late")
    assert found.wrong == ("late",)
    assert found.saved == pytest.approx((2 + 2) / 12)
    gentle = replay([FAST, hopeless, late], StopSettings(margin=0.25, after=0.5))
    assert (gentle.stopped, gentle.saved) == (("hopeless",), pytest.approx(2 / 12))  # 0.4 - 0.1 at half time


def test_what_was_stopped_stops_nothing():
    first = make("first", 2.0, 0.9, 0.9)
    second = make("second", 1.9, 0.5, 0.95)
    third = make("third", 1.8, 0.45, 0.4)
    assert replay([first, second, third], StopSettings(margin=0.1, after=0.0)).stopped == ("second", "third")
    alone = replay([second, third], StopSettings(margin=0.1, after=0.0))
    assert alone.stopped == ()
