"""Where the time of a forward pass goes: by operator, by part of the network, and by the paper's classes.

Source: Liu et al., EfficientViT, CVPR 2023, Sec. 2.1 and Fig. 2; the classes are those of `evitlab.measure.classes`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest
from statistics import mean, median

import torch
from torch import Tensor, nn
from torch.profiler import profile

from evitlab.bounds import judge
from evitlab.environment import resolve_device
from evitlab.measure.classes import OPERATOR_CLASSES, OTHER, classify
from evitlab.measure.dispatch import Call, label_modules, record_calls
from evitlab.measure.execution import Prepared, prepare
from evitlab.measure.inputs import height_and_width
from evitlab.measure.intervals import median_interval
from evitlab.measure.parts import find_parts, find_products, name_step
from evitlab.measure.passes import (
    ProfiledPass,
    keep_middle,
    make_profiler,
    quiet_profiler,
    take_turns,
    time_pass,
)
from evitlab.measurements.profile import OperatorProfile, OperatorTime, Peaks
from evitlab.problems import UserError
from evitlab.settings import Execution

WARMUP_PASSES = 3
EAGER = Execution()
SUMMED = ("calls", "seconds", "bytes", "macs", "arithmetic", "page_faults")


def profile_operators(
    model: nn.Module,
    *,
    peaks: Peaks,
    batch_size: int,
    image_size: int | tuple[int, int],
    device: str = "cpu",
    repeats: int = 9,
    seed: int = 0,
    execution: Execution = EAGER,
    on_progress: Callable[[float], None] | None = None,
) -> OperatorProfile:
    """Seconds, calls, bytes and MACs of each operator in each part of a network, in evaluation, on random images.

    The seconds of a call are split by the class of the operators below it that spent them themselves, so no time
    counts twice; on an accelerator they are those of the kernels that were launched. Each profiled pass is followed
    by one without the profiler. Times are means over the half of these pairs that is middle by wall time, so they add
    up: operators and `between_seconds` make `profiled_seconds`. The profiler adds time to every operator, so small
    ones look larger; `slowdown` says by how much in all. `peaks` decide what is memory-bound by roofline.

    Raises ValueError where the network does not do the same in every pass.
    """
    if repeats < 2:
        raise ValueError(f"repeats must be at least 2, but got {repeats=}")
    prepared = _prepare(model, execution, device)
    images = prepared.draw_images(batch_size=batch_size, image_size=image_size, seed=seed)
    with quiet_profiler():
        _warm_up(prepared, images)
        calls = record_calls(prepared, prepared.model, images)
        with torch.inference_mode():
            profiled, plain = take_turns(prepared, images, repeats=repeats, on_progress=on_progress)
    _check_calls(calls, profiled)
    shares = tuple(each.memory_bound_share for each in profiled)
    interval = median_interval(shares, seed=seed)
    middle, plain_middle = keep_middle(profiled, plain)
    operators = _merge(_split_calls(calls, prepared.model, middle))
    seconds = sum(row.seconds for row in operators)
    bounded = sum(row.seconds for row in operators if judge(row, peaks).memory_bound)
    return OperatorProfile(
        memory_bound_share=interval.median,
        memory_bound_share_low=interval.low,
        memory_bound_share_high=interval.high,
        memory_bound_shares=shares,
        roofline_memory_bound_share=bounded / seconds,
        seconds_by_class=_sum_by_class(operators),
        operators=operators,
        between_seconds=mean(each.wall for each in middle) - seconds,
        profiled_seconds=mean(each.wall for each in middle),
        wall_seconds=mean(each.wall for each in plain_middle),
        slowdown=median(slow.wall / fast.wall for slow, fast in zip(profiled, plain, strict=True)),
        page_faults=mean(each.page_faults for each in plain),
        peaks=peaks,
        batch_size=batch_size,
        image_size=height_and_width(image_size),
        precision=prepared.precision,
        memory_format=prepared.memory_format,
        folded=prepared.folded,
        linear_library=prepared.linear_library,
        attention_path=prepared.attention_path,
    )


def record_trace(
    model: nn.Module,
    *,
    batch_size: int,
    image_size: int | tuple[int, int],
    device: str = "cpu",
    seed: int = 0,
    execution: Execution = EAGER,
) -> profile:
    """The finished profiler of one forward pass, its modules labelled by path; it can export a Chrome trace.

    The labels cost time, so operators lie further apart here than in `profile_operators`.
    """
    prepared = _prepare(model, execution, device)
    images = prepared.draw_images(batch_size=batch_size, image_size=image_size, seed=seed)
    with quiet_profiler():
        _warm_up(prepared, images)
        with torch.inference_mode(), make_profiler(images) as profiler, label_modules(prepared.model):
            time_pass(prepared, images)
    return profiler


def _prepare(model: nn.Module, execution: Execution, device: str) -> Prepared:
    if execution.mode != "eager":  # compiled and traced networks have other operators, and no modules
        raise UserError(f"mode must be eager to be profiled, but got {execution.mode=}")
    return prepare(model, execution=execution, device=resolve_device(device))


@torch.inference_mode()
def _warm_up(prepared: Prepared, images: Tensor) -> None:
    for _ in range(WARMUP_PASSES):
        time_pass(prepared, images)


def _check_calls(calls: Sequence[Call], passes: Sequence[ProfiledPass]) -> None:
    """What was recorded once is what every profiled pass must have done."""
    expected = [call.operator for call in calls]
    for each in passes:
        found = [operator for operator, _ in each.calls]
        for number, (one, other) in enumerate(zip_longest(found, expected, fillvalue="nothing")):
            if one != other:
                raise ValueError(
                    f"the model must call the same operators in every pass, but after {number} calls that agree "
                    f"one pass called {one} and another {other}"
                )


def _split_calls(calls: Sequence[Call], model: nn.Module, passes: Sequence[ProfiledPass]) -> Iterator[OperatorTime]:
    """One row for every class of work in every call."""
    parts = find_parts(model)
    places = [parts[call.module] for call in calls]
    products = find_products(zip([call.operator for call in calls], places, strict=True))
    timings = zip(*(each.calls for each in passes), strict=True)
    for call, place, product, timing in zip(calls, places, products, timings, strict=True):
        seconds = [by_class for _, by_class in timing]
        kernels = [(classify(kernel.operator), kernel) for kernel in call.kernels]
        for name in sorted({name for each in seconds for name in each} | {name for name, _ in kernels}):
            own = [kernel for kind, kernel in kernels if kind == name]
            yield OperatorTime(
                operator=call.operator,
                operator_class=name,
                module=place.module,
                part=place.kind,
                step=name_step(product, name, operator=call.operator),
                calls=1,
                seconds=mean(each.get(name, 0.0) for each in seconds),
                bytes=sum(kernel.bytes for kernel in own),
                macs=sum(kernel.macs for kernel in own),
                arithmetic=sum(kernel.arithmetic for kernel in own),
                page_faults=sum(kernel.page_faults for kernel in own),
            )


def _merge(rows: Iterable[OperatorTime]) -> tuple[OperatorTime, ...]:
    """Rows that differ in their numbers only become one; largest first."""
    merged: dict[tuple[str, ...], OperatorTime] = {}
    for row in rows:
        key = (row.operator, row.operator_class, row.module, row.part, row.step)
        merged[key] = _add(merged[key], row) if key in merged else row
    return tuple(sorted(merged.values(), key=lambda row: row.seconds, reverse=True))


def _add(a: OperatorTime, b: OperatorTime) -> OperatorTime:
    return replace(a, **{name: getattr(a, name) + getattr(b, name) for name in SUMMED})


def _sum_by_class(rows: Iterable[OperatorTime]) -> dict[str, float]:
    totals = dict.fromkeys((*OPERATOR_CLASSES, OTHER), 0.0)
    for row in rows:
        totals[row.operator_class] += row.seconds
    return totals
