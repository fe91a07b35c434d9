"""Images per second of several models, timed in turn until their ratios are known well enough.

A shared machine is never equally fast twice. So every round times each model once, in a new random order, and
speeds are compared within rounds: drift between rounds cancels. Every repeat is kept.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil, inf
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evitlab.environment import load_average, resolve_device, synchronize
from evitlab.measure.inputs import copy_for_inference, height_and_width, is_folded, random_images
from evitlab.measure.intervals import median_interval, speed_ratio
from evitlab.records import Throughput

WARMUP_CALLS = 3  # at least: the first calls allocate memory and choose kernels
WARMUP_SECONDS = 0.25  # at least, for each model
REPEAT_SECONDS = 0.05  # a repeat calls the model as often as it takes to last this long
CHECK_EVERY = 5  # rounds between looks at the intervals: who looks always stops at a lucky moment


def measure_throughput(
    models: Mapping[str, nn.Module],
    *,
    batch_size: int,
    image_size: int | tuple[int, int] | Mapping[str, tuple[int, int]],
    device: str = "cpu",
    seed: int = 0,
    half_width: float = 0.01,
    min_rounds: int = 10,
    max_rounds: int = 100,
    time_limit_s: float = 60.0,
    fold: bool = True,
    on_progress: Callable[[float], None] | None = None,
) -> dict[str, Throughput]:
    """Images per second of each model in evaluation mode, and its speed over the first model's.

    `image_size` is one for all, or each model's own. Copies are timed on random float32 images, eagerly, with
    BatchNorm folded unless `fold` is off; all copies are in memory together. Loading, decoding and moving images to
    the device are not timed. After `min_rounds` it stops as soon as the 95% interval of every ratio (with one model:
    of its median) lies within plus or minus `half_width` of its middle, or when `max_rounds` or `time_limit_s` is
    reached, where the time of the warm-up does not count. As the interval decides when to stop, it holds the truth
    somewhat less often than 95%. `on_progress` hears the share of the limits used up, from 0 to 1.
    """
    limits = _Limits(half_width=half_width, min_rounds=min_rounds, max_rounds=max_rounds, time_limit_s=time_limit_s)
    if not models:
        raise ValueError(f"models must name at least one model, but got {models=}")
    where = resolve_device(device)
    sizes = image_size if isinstance(image_size, Mapping) else dict.fromkeys(models, image_size)
    images = {
        name: random_images(batch_size=batch_size, image_size=sizes[name], device=where, seed=seed) for name in models
    }
    copies = {name: copy_for_inference(model, fold=fold, device=where) for name, model in models.items()}
    load_before = load_average()
    with torch.inference_mode():
        group = {name: _warm_up(copy, images[name]) for name, copy in copies.items()}
        seconds = _time_rounds(group, limits=limits, seed=seed, on_progress=on_progress)
    record = partial(
        Throughput,
        reference=next(iter(group)),
        group=tuple(group),
        batch_size=batch_size,
        precision="fp32",
        memory_format="contiguous",
        execution="eager",
        attention_path="as built",
        load_average_before=load_before,
        load_average_after=load_average(),
    )
    return {
        name: record(
            **_speeds(seconds, name, batch_size=batch_size, seed=seed),
            seconds=tuple(seconds[name]),
            image_size=height_and_width(sizes[name]),
            folded=fold and is_folded(copies[name], models[name]),
            warmup_calls=warm.warmup_calls,
            calls_per_repeat=warm.calls_per_repeat,
        )
        for name, warm in group.items()
    }


@dataclass(frozen=True, kw_only=True)
class _Limits:
    """When to stop. The smallest number of rounds goes before every other limit."""

    half_width: float
    min_rounds: int
    max_rounds: int
    time_limit_s: float

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

    def share_used(self, seconds: Mapping[str, Sequence[float]], *, elapsed_s: float, seed: int) -> float:
        """How far the rounds taken so far are towards the end: 1 means stop."""
        rounds = len(next(iter(seconds.values())))
        look = rounds >= self.min_rounds and rounds % CHECK_EVERY == 0
        if look and relative_half_width(seconds, seed=seed) <= self.half_width:
            return 1.0
        used = max(rounds / self.max_rounds, elapsed_s / self.time_limit_s)
        return min(used, rounds / self.min_rounds, 1.0)


@dataclass(frozen=True, kw_only=True)
class _WarmModel:
    """A model that has warmed up, and how many calls make a repeat long enough to time."""

    model: nn.Module
    images: Tensor
    warmup_calls: int
    calls_per_repeat: int


def round_orders(names: Sequence[str], *, seed: int) -> Iterator[list[str]]:
    """Endless rounds: every name once in each, in an order drawn anew."""
    generator = np.random.default_rng(seed)
    while True:
        yield [names[index] for index in generator.permutation(len(names))]


def relative_half_width(seconds: Mapping[str, Sequence[float]], *, seed: int) -> float:
    """Half-width over the middle of the widest 95% interval: of the ratios, or of one model's own median."""
    reference, *others = seconds.values()
    intervals = [speed_ratio(reference, other, seed=seed) for other in others]
    intervals = intervals or [median_interval(reference, seed=seed)]
    return max(interval.relative_half_width for interval in intervals)


def _time_rounds(
    group: Mapping[str, _WarmModel],
    *,
    limits: _Limits,
    seed: int,
    on_progress: Callable[[float], None] | None,
) -> dict[str, list[float]]:
    """Seconds per call of each model, one number a round."""
    seconds: dict[str, list[float]] = {name: [] for name in group}
    start = perf_counter()
    for order in round_orders(list(group), seed=seed):
        for name in order:
            seconds[name].append(_time_repeat(group[name]))
        used = limits.share_used(seconds, elapsed_s=perf_counter() - start, seed=seed)
        if on_progress is not None:
            on_progress(used)
        if used == 1.0:
            break
    return seconds


def _warm_up(model: nn.Module, images: Tensor) -> _WarmModel:
    calls, fastest, start = 0, inf, perf_counter()
    while calls < WARMUP_CALLS or perf_counter() - start < WARMUP_SECONDS:
        fastest = min(fastest, _time_calls(model, images, calls=1))
        calls += 1
    return _WarmModel(
        model=model, images=images, warmup_calls=calls, calls_per_repeat=max(1, ceil(REPEAT_SECONDS / fastest))
    )


def _time_repeat(warm: _WarmModel) -> float:
    return _time_calls(warm.model, warm.images, calls=warm.calls_per_repeat)


def _time_calls(model: nn.Module, images: Tensor, *, calls: int) -> float:
    """Seconds per call, the device idle before the clock starts and again before it stops."""
    synchronize(images.device)
    start = perf_counter()
    for _ in range(calls):
        model(images)
    synchronize(images.device)
    return (perf_counter() - start) / calls


def _speeds(seconds: Mapping[str, Sequence[float]], name: str, *, batch_size: int, seed: int) -> dict[str, Any]:
    """The fields of a record that are computed from the repeats."""
    reference = next(iter(seconds))
    call = median_interval(seconds[name], seed=seed)
    ratio = None if name == reference else speed_ratio(seconds[reference], seconds[name], seed=seed)
    return {
        "images_per_second": batch_size / call.median,
        "images_per_second_low": batch_size / call.high,
        "images_per_second_high": batch_size / call.low,
        "ratio": ratio and ratio.median,
        "ratio_low": ratio and ratio.low,
        "ratio_high": ratio and ratio.high,
    }
