"""Cores of one host: a timing is alone, trainings make way between two steps."""

import threading
import time

import pytest

from evitlab import cores
from evitlab.cores import time_alone, train_beside

pytestmark = pytest.mark.skipif(cores.fcntl is None, reason="this system has no flock")


def test_a_timing_waits_for_a_step_and_the_training_for_the_timing():
    order: list[str] = []
    began = threading.Event()

    def time_something() -> None:
        began.set()
        with time_alone() as alone:
            order.append(f"timing, alone: {alone}")
            time.sleep(0.1)
            order.append("timed")

    timer = threading.Thread(target=time_something)
    with train_beside() as let_pass:
        timer.start()
        began.wait()
        time.sleep(0.1)
        order.append("a step")
        while timer.is_alive():
            let_pass()
        order.append("the next step")
    assert order == ["a step", "timing, alone: True", "timed", "the next step"]


def test_trainings_run_side_by_side_and_a_timing_waits_for_all_of_them(monkeypatch):
    monkeypatch.setattr(cores, "PATIENCE_S", 0.05)
    was_alone = []
    with train_beside() as first:
        with train_beside() as second:
            first()
            second()
            with time_alone() as alone:
                was_alone.append(alone)
        with time_alone() as alone:
            was_alone.append(alone)
    with time_alone() as alone:
        was_alone.append(alone)
    assert was_alone == [False, False, True]


def test_a_training_that_makes_no_way_is_not_waited_for_forever(monkeypatch):
    monkeypatch.setattr(cores, "PATIENCE_S", 0.05)
    with train_beside(), time_alone() as alone:
        assert alone is False


def test_who_is_asked_to_stop_does_not_wait():
    def stop() -> None:
        raise KeyboardInterrupt

    with train_beside(), pytest.raises(KeyboardInterrupt), time_alone(stop):
        pass
