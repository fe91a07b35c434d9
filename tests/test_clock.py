"""The clock of single calls: on a clock of our own, and on an accelerator against the processor's."""

from time import perf_counter

import pytest
import torch
from torch import nn

from evitlab.measure import clock
from evitlab.measure.clock import time_calls, warm_up

IMAGES = torch.zeros(1, 3, 4, 4)


@pytest.fixture
def spend(monkeypatch):
    """A function whose calls take the given seconds, one after the other."""
    now = [100.0]
    monkeypatch.setattr(clock, "perf_counter", lambda: now[0])

    def make(costs):
        left = iter(costs)

        def run(images):
            assert images is IMAGES
            now[0] += next(left)

        return run

    return make


def test_every_call_is_timed_on_its_own(spend):
    assert time_calls(spend([0.5, 0.1, 2.0]), IMAGES, calls=3) == pytest.approx([0.5, 0.1, 2.0])


def test_warms_up_for_three_calls_and_the_seconds_asked_for(spend):
    long = warm_up(spend([0.4, 0.3, 0.2, 0.35, 9.0]), IMAGES, seconds=1.0)
    assert (long.calls, long.fastest_s) == (4, pytest.approx(0.2))
    assert warm_up(spend([5.0, 5.0, 5.0]), IMAGES, seconds=1.0).calls == 3


def test_events_are_read_once_after_all_calls(monkeypatch):
    """An accelerator made of a list: events record the time in its queue, whose calls end as they are waited for."""
    queue, waits = [0.0], []

    class Event:
        def __init__(self, *, enable_timing):
            assert enable_timing

        def record(self, stream):
            assert stream == "stream of cuda:1"
            self.at = queue[0]

        def elapsed_time(self, other):
            assert waits == [torch.device("cuda", 1)]
            return 1e3 * (other.at - self.at)  # milliseconds

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    monkeypatch.setattr(torch.cuda, "synchronize", waits.append)
    found = clock.make_clock(torch.device("cuda", 1))
    marks = [found.mark()]
    for seconds in (0.5, 0.25):
        queue[0] += seconds
        marks.append(found.mark())
    assert waits == []
    assert found.read(marks) == pytest.approx([0.5, 0.25])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_events_agree_with_the_time_of_day():
    model = nn.Conv2d(64, 64, 3, padding=1).cuda()
    images = torch.randn(64, 64, 112, 112, device="cuda")
    with torch.inference_mode():
        warm_up(model, images, seconds=0.5)
        start = perf_counter()
        seconds = time_calls(model, images, calls=50)
        assert sum(seconds) == pytest.approx(perf_counter() - start, rel=0.05)
    assert len(seconds) == 50
