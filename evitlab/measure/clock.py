"""Seconds of single calls: by the processor's clock, or by events in an accelerator's queue."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

WARMUP_CALLS = 3  # at least: the first calls allocate memory, choose kernels, trace and compile


@dataclass(frozen=True, kw_only=True)
class Clock:
    """Marks moments on the device's own time line, and reads the seconds between them afterwards."""

    mark: Callable[[], Any]
    read: Callable[[list[Any]], list[float]]
    """Seconds from each mark to the next, once the device has finished."""


def make_clock(device: torch.device) -> Clock:
    """CUDA: events, so that calls queue up as in use and only the read waits. CPU: the time of day, between calls."""
    if device.type != "cuda":
        return Clock(mark=perf_counter, read=_read_times)

    def mark() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(device))
        return event

    def read(marks: list[torch.cuda.Event]) -> list[float]:
        torch.cuda.synchronize(device)
        return [a.elapsed_time(b) * 1e-3 for a, b in pairwise(marks)]

    return Clock(mark=mark, read=read)


def time_calls(run: Callable[[Tensor], Any], images: Tensor, *, calls: int) -> list[float]:
    """Seconds of each of so many calls in a row; the device is idle before the first and after the last."""
    clock = make_clock(images.device)
    marks = [clock.mark()]
    for _ in range(calls):
        run(images)
        marks.append(clock.mark())
    return clock.read(marks)


@dataclass(frozen=True, kw_only=True)
class WarmUp:
    """What a warm-up took."""

    calls: int
    fastest_s: float


def warm_up(run: Callable[[Tensor], Any], images: Tensor, *, seconds: float) -> WarmUp:
    """Call until that many seconds have passed, and three times at least."""
    calls, fastest, start = 0, inf, perf_counter()
    while calls < WARMUP_CALLS or perf_counter() - start < seconds:
        fastest = min(fastest, *time_calls(run, images, calls=1))
        calls += 1
    return WarmUp(calls=calls, fastest_s=fastest)


def _read_times(marks: list[float]) -> list[float]:
    return [b - a for a, b in pairwise(marks)]
