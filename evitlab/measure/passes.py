"""Forward passes with torch's profiler and without, in turn: the raw times of `evitlab.measure.operators`."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from torch import Tensor
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

from evitlab.environment import synchronize
from evitlab.measure.classes import OPERATOR_CLASSES, OTHER, classify
from evitlab.measure.dispatch import count_page_faults, find_calls, is_operator
from evitlab.measurements.profile import MEMORY_BOUND

Run = Callable[[Tensor], Any]
Seconds = dict[str, float]  # by class of operators, each without what it calls


@dataclass(frozen=True, kw_only=True)
class PlainPass:
    """A forward pass without the profiler."""

    wall: float
    page_faults: int


@dataclass(frozen=True, kw_only=True)
class ProfiledPass:
    """A forward pass with the profiler."""

    wall: float
    calls: tuple[tuple[str, Seconds], ...]
    """Operators as Python calls them, in order, each with the seconds of itself and all below it."""

    @property
    def by_class(self) -> Seconds:
        """Seconds of every class, also of those without any."""
        totals = dict.fromkeys((*OPERATOR_CLASSES, OTHER), 0.0)
        for _, seconds in self.calls:
            for name, value in seconds.items():
                totals[name] += value
        return totals

    @property
    def memory_bound_share(self) -> float:
        """Share of operator time in the classes that the paper calls memory-bound."""
        seconds = self.by_class
        return sum(seconds[name] for name in MEMORY_BOUND) / sum(seconds.values())


def keep_middle(
    profiled: Sequence[ProfiledPass], plain: Sequence[PlainPass]
) -> tuple[list[ProfiledPass], list[PlainPass]]:
    """The half of the pairs that is middle by wall time: both passes of a pair saw one state of the machine.

    Means over it are robust, and means of parts add up to those of sums.
    """
    pairs = sorted(zip(profiled, plain, strict=True), key=lambda pair: pair[0].wall + pair[1].wall)
    cut = len(pairs) // 4
    middle = pairs[cut : len(pairs) - cut]
    return [slow for slow, _ in middle], [fast for _, fast in middle]


def take_turns(
    run: Run, images: Tensor, *, repeats: int, on_progress: Callable[[float], None] | None
) -> tuple[list[ProfiledPass], list[PlainPass]]:
    """Profiled and plain passes in turn."""
    profile_pass(run, images)  # the profiler, too, starts slowly
    profiled, plain = [], []
    for done in range(repeats):
        profiled.append(profile_pass(run, images))
        plain.append(time_pass(run, images))
        if on_progress is not None:
            on_progress((done + 1) / repeats)
    return profiled, plain


def time_pass(run: Run, images: Tensor) -> PlainPass:
    """One pass, the device idle before the clock starts and again before it stops."""
    synchronize(images.device)
    faults, start = count_page_faults(), perf_counter()
    run(images)
    synchronize(images.device)
    wall = perf_counter() - start
    return PlainPass(wall=wall, page_faults=count_page_faults() - faults)


def profile_pass(run: Run, images: Tensor) -> ProfiledPass:
    """The same under the profiler, whose own start and end are not in the wall time."""
    with make_profiler(images) as profiler:
        timed = time_pass(run, images)
    on_gpu = images.device.type == "cuda"
    calls = ((event.name, _seconds_by_class(event, on_gpu=on_gpu)) for event, _ in find_calls(profiler.events()))
    return ProfiledPass(wall=timed.wall, calls=tuple(calls))


def make_profiler(images: Tensor) -> profile:
    """A profiler of the processor, and of the accelerator that holds the images."""
    accelerator = [ProfilerActivity.CUDA] if images.device.type == "cuda" else []
    return profile(activities=[ProfilerActivity.CPU, *accelerator])


def _seconds_by_class(event: FunctionEvent, *, on_gpu: bool, outer: str = OTHER) -> Seconds:
    """Self seconds of an operator and all below it; what is no operator, as a call of CUDA, counts as its caller."""
    name = classify(event.name) if is_operator(event) else outer
    microseconds = event.self_device_time_total if on_gpu else event.self_cpu_time_total
    totals = {name: microseconds * 1e-6}
    for child in event.cpu_children:
        for below, seconds in _seconds_by_class(child, on_gpu=on_gpu, outer=name).items():
            totals[below] = totals.get(below, 0.0) + seconds
    return totals


@contextmanager
def quiet_profiler() -> Iterator[None]:
    """Kineto writes its stages to stderr unless its log level is high when it first starts."""
    if "KINETO_LOG_LEVEL" in os.environ:
        yield
        return
    os.environ["KINETO_LOG_LEVEL"] = "99"
    try:
        yield
    finally:
        del os.environ["KINETO_LOG_LEVEL"]
