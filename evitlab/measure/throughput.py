"""Images per second of several models, timed in turn until their ratios are known well enough.

A shared machine is never equally fast twice. So every round times each model once, in a new random order, and
speeds are compared within rounds: drift between rounds cancels. Every call is kept.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from evitlab.environment import cpu_hz, load_average, resolve_device
from evitlab.measure.execution import prepare
from evitlab.measure.intervals import mean_interval, median_interval, speed_ratio
from evitlab.measure.rounds import (
    Contender,
    Duration,
    Limits,
    OnProgress,
    Timings,
    errors_name,
    make_contender,
    make_equally_long,
    time_rounds,
)
from evitlab.measurements.speed import Throughput
from evitlab.settings import Execution

WARMUP_SECONDS = 0.25  # at least, for each model
P90_CALLS, P99_CALLS = 64, 662  # least samples of a percentile: MLPerf inference rules, early stopping
CREAM_WARMUP_SECONDS = 10.0  # T0 of the official speed test
CREAM_SECONDS = 60.0  # T1

ImageSize = int | tuple[int, int] | Mapping[str, tuple[int, int]]


def measure_throughput(
    models: Mapping[str, nn.Module],
    *,
    batch_size: int,
    image_size: ImageSize,
    device: str = "cpu",
    seed: int = 0,
    half_width: float = 0.01,
    min_rounds: int = 20,
    max_rounds: int = 200,
    time_limit_s: float = 60.0,
    protocol: Literal["evitlab", "cream"] = "evitlab",
    execution: Execution | None = None,
    references: Mapping[str, str] | None = None,
    on_progress: OnProgress | None = None,
) -> dict[str, Throughput]:
    """Images per second of each model in evaluation mode, and its speed over its reference's.

    `image_size` is one for all, or each model's own. `references` names the model that a model's ratio is to, by
    default the group's first; one that is its own reference has none. Copies of all are in memory together and see
    random images. Loading, decoding and moving images to the device are not timed.

    `evitlab`: from `min_rounds` on it looks ever more rarely, and stops when the interval of every ratio (with none:
    of the medians) lies within `half_width` of its middle, or at a limit. Of simulated intervals under this rule 96.4%
    held the truth, in no kind of noise less than 94.5%: `pytest -m slow -n 0 -k simulated tests/test_promises.py`.
    `cream`: 10 s of warm-up and 60 s of calls as in the official speed test, and the mean; in turn all the same.
    """
    pairs = _choose_references(models, references)
    limits = Limits(
        half_width=half_width,
        min_rounds=min_rounds,
        max_rounds=max_rounds,
        time_limit_s=time_limit_s,
        references=pairs,
        seed=seed,
    )
    before = _read_machine("before")
    group = _warm_up(
        models,
        batch_size=batch_size,
        image_size=image_size,
        device=resolve_device(device),
        seed=seed,
        execution=execution or Execution(),
        warmup_s=CREAM_WARMUP_SECONDS if protocol == "cream" else WARMUP_SECONDS,
    )
    judge = limits.judge if protocol != "cream" else Duration(seconds=CREAM_SECONDS).judge
    group = group if protocol != "cream" else make_equally_long(group)
    with torch.inference_mode():
        timings, stopped_by = time_rounds(group, judge=judge, seed=seed, on_progress=on_progress)
    run: dict[str, Any] = {"group": tuple(group), "stopped_by": stopped_by, "protocol": protocol}
    run |= {"batch_size": batch_size} | before | _read_machine("after")
    return {
        name: Throughput(
            **run,
            **_summarise(timings, name, pairs[name], batch_size=batch_size, protocol=protocol, seed=seed),
            **_describe(contender),
        )
        for name, contender in group.items()
    }


def _describe(contender: Contender) -> dict[str, Any]:
    """The fields of a record that say how a model was run."""
    return contender.prepared.conditions | {
        "image_size": contender.image_size,
        "warmup_calls": contender.warmup_calls,
        "calls_per_repeat": contender.calls_per_repeat,
    }


def _choose_references(models: Mapping[str, nn.Module], references: Mapping[str, str] | None) -> dict[str, str]:
    """The reference of each model."""
    if not models:
        raise ValueError(f"models must name at least one model, but got {models=}")
    pairs = dict.fromkeys(models, next(iter(models))) | dict(references or {})
    if unknown := {*pairs, *pairs.values()} - {*models}:
        raise ValueError(f"references must name models among {', '.join(models)}, but got {sorted(unknown)}")
    return pairs


@torch.inference_mode()
def _warm_up(
    models: Mapping[str, nn.Module],
    *,
    batch_size: int,
    image_size: ImageSize,
    device: torch.device,
    seed: int,
    execution: Execution,
    warmup_s: float,
) -> dict[str, Contender]:
    sizes = image_size if isinstance(image_size, Mapping) else dict.fromkeys(models, image_size)
    group = {}
    for name, model in models.items():
        with errors_name(name):
            prepared = prepare(model, execution=execution, device=device)
            images = prepared.draw_images(batch_size=batch_size, image_size=sizes[name], seed=seed)
            group[name] = make_contender(prepared, images, warmup_s=warmup_s)
    return group


def _read_machine(when: Literal["before", "after"]) -> dict[str, float | None]:
    return {f"load_average_{when}": load_average(), f"cpu_hz_{when}": cpu_hz()}


def _summarise(
    timings: Timings, name: str, reference: str, *, batch_size: int, protocol: str, seed: int
) -> dict[str, Any]:
    """The fields of a record that are computed from the timings."""
    repeats, calls = timings.repeats, timings.calls[name]
    speed = (mean_interval if protocol == "cream" else median_interval)(repeats[name], seed=seed)
    ratio = None if name == reference else speed_ratio(repeats[reference], repeats[name], seed=seed)
    return {
        "images_per_second": batch_size / speed.middle,
        "images_per_second_low": batch_size / speed.high,
        "images_per_second_high": batch_size / speed.low,
        "seconds": tuple(calls),
        "latency_p90_s": _percentile(calls, 0.90, least=P90_CALLS),
        "latency_p99_s": _percentile(calls, 0.99, least=P99_CALLS),
        "ratio": ratio and ratio.middle,
        "ratio_low": ratio and ratio.low,
        "ratio_high": ratio and ratio.high,
        "reference": reference,
    }


def _percentile(calls: Sequence[float], share: float, *, least: int) -> float | None:
    """The fastest call that at least this share of them are as fast as; None where too few tell it."""
    return float(np.quantile(calls, share, method="inverted_cdf")) if len(calls) >= least else None
