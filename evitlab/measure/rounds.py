"""Models timed in turn: every round calls each of them for a while, in a new random order, until a rule says stop."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import ceil
from statistics import fmean
from time import perf_counter
from typing import Literal

import numpy as np
from torch import Tensor

from evitlab.measure.clock import time_calls, warm_up
from evitlab.measure.execution import Prepared
from evitlab.measure.intervals import median_interval, speed_ratio

REPEAT_SECONDS = 0.05  # a repeat calls the model as often as it takes to last this long
LOOK_GROWTH = 1.5  # rounds from one look at the intervals to the next: who looks always stops at a lucky moment

StoppedBy = Literal["half-width", "rounds", "time limit", "protocol"]
OnProgress = Callable[[float], None]


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A model that has warmed up, and how many calls make a repeat long enough to time."""

    prepared: Prepared
    images: Tensor
    warmup_calls: int
    fastest_s: float
    """Of the calls of the warm-up."""
    calls_per_repeat: int

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        _, _, height, width = self.images.shape
        return height, width


@dataclass(frozen=True, kw_only=True)
class Timings:
    """What the rounds took so far."""

    calls: dict[str, list[float]]
    """Seconds of every call, by name."""
    repeats: dict[str, list[float]]
    """Their mean in each round."""

    @property
    def rounds(self) -> int:
        """How often each model has had its turn."""
        return len(next(iter(self.repeats.values())))


Judge = Callable[[Timings, float], tuple[float, StoppedBy | None]]
"""From the timings and the seconds that they took in all to the share done, and what ends them once it is 1."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Stop once every ratio is known well enough, or has taken too long; `min_rounds` goes before all else."""

    half_width: float
    """Of the interval of each ratio, over its middle; without ratios, of the interval of each median."""
    min_rounds: int
    max_rounds: int
    time_limit_s: float
    references: Mapping[str, str]
    """The model that each one's ratio is to; its own reference has none."""
    seed: int
    looks: frozenset[int] = field(init=False)
    """Rounds after which the intervals are looked at, ever further apart."""

    def __post_init__(self) -> None:
        if not self.half_width > 0:
            raise ValueError(f"half_width must be above 0, but got {self.half_width=}")
        if not 2 <= self.min_rounds <= self.max_rounds:
            raise ValueError(
                "min_rounds must be at least 2 and at most max_rounds, "
                f"but got {self.min_rounds=} and {self.max_rounds=}"
            )
        if not self.time_limit_s > 0:
            raise ValueError(f"time_limit_s must be above 0, but got {self.time_limit_s=}")
        looks = [self.min_rounds]
        while looks[-1] < self.max_rounds:
            looks.append(min(ceil(looks[-1] * LOOK_GROWTH), self.max_rounds))
        object.__setattr__(self, "looks", frozenset(looks))

    def judge(self, timings: Timings, elapsed_s: float) -> tuple[float, StoppedBy | None]:
        """See `Judge`."""
        rounds = timings.rounds
        if rounds in self.looks and self.widest(timings) <= self.half_width:
            return 1.0, "half-width"
        if rounds >= self.max_rounds:
            return 1.0, "rounds"
        if rounds >= self.min_rounds and elapsed_s >= self.time_limit_s:
            return 1.0, "time limit"
        return min(max(rounds / self.max_rounds, elapsed_s / self.time_limit_s), rounds / self.min_rounds), None

    def widest(self, timings: Timings) -> float:
        """Half-width over the middle of the widest interval that is asked for."""
        pairs = [(name, other) for name, other in self.references.items() if name != other]
        repeats = timings.repeats
        intervals = [speed_ratio(repeats[other], repeats[name], seed=self.seed) for name, other in pairs]
        intervals = intervals or [median_interval(seconds, seed=self.seed) for seconds in repeats.values()]
        return max(interval.relative_half_width for interval in intervals)


@dataclass(frozen=True, kw_only=True)
class Duration:
    """Stop once the calls of every model have taken so many seconds."""

    seconds: float

    def judge(self, timings: Timings, elapsed_s: float) -> tuple[float, StoppedBy | None]:
        """See `Judge`."""
        share = min(sum(calls) for calls in timings.calls.values()) / self.seconds
        return (1.0, "protocol") if share >= 1 else (share, None)


def make_contender(prepared: Prepared, images: Tensor, *, warmup_s: float) -> Contender:
    """Warm a model up and see how fast it is."""
    warm = warm_up(prepared, images, seconds=warmup_s)
    calls = max(1, ceil(REPEAT_SECONDS / warm.fastest_s))
    return Contender(
        prepared=prepared,
        images=images,
        warmup_calls=warm.calls,
        fastest_s=warm.fastest_s,
        calls_per_repeat=calls,
    )


def make_equally_long(group: Mapping[str, Contender]) -> dict[str, Contender]:
    """Repeats of a fast model last as long as those of a slow one, so that equal rounds are equal seconds."""
    longest = max(REPEAT_SECONDS, *(contender.fastest_s for contender in group.values()))
    return {
        name: replace(contender, calls_per_repeat=ceil(longest / contender.fastest_s))
        for name, contender in group.items()
    }


def time_rounds(
    group: Mapping[str, Contender], *, judge: Judge, seed: int, on_progress: OnProgress | None = None
) -> tuple[Timings, StoppedBy]:
    """Rounds until the judge ends them. Call it under `torch.inference_mode`."""
    timings = Timings(calls={name: [] for name in group}, repeats={name: [] for name in group})
    start = perf_counter()
    orders = round_orders(list(group), seed=seed)
    while True:
        for name in next(orders):
            contender = group[name]
            with errors_name(name):
                seconds = time_calls(contender.prepared, contender.images, calls=contender.calls_per_repeat)
            timings.calls[name] += seconds
            timings.repeats[name].append(fmean(seconds))
        share, stopped_by = judge(timings, perf_counter() - start)
        if on_progress is not None:
            on_progress(share)
        if stopped_by is not None:
            return timings, stopped_by


def round_orders(names: Sequence[str], *, seed: int) -> Iterator[list[str]]:
    """Endless rounds: every name once in each, in an order drawn anew."""
    generator = np.random.default_rng(seed)
    while True:
        yield [names[index] for index in generator.permutation(len(names))]


@contextmanager
def errors_name(name: str) -> Iterator[None]:
    """Put the name before the message of an error raised inside, which keeps its type."""
    try:
        yield
    except Exception as error:
        error.args = (f"{name}: {error}",)
        raise
