"""One model at growing batch sizes: where a call's time does not grow yet, and which batch is the fastest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from evitlab.environment import resolve_device
from evitlab.measure.execution import Prepared, prepare
from evitlab.measure.intervals import median_interval, speed_ratio
from evitlab.measure.rounds import (
    REPEAT_SECONDS,
    Contender,
    OnProgress,
    StoppedBy,
    Timings,
    make_contender,
    time_rounds,
)
from evitlab.measurements.speed import BatchCurve, BatchPoint
from evitlab.memory import available_bytes, peak_bytes, reset_peak, resident_bytes
from evitlab.problems import UserError
from evitlab.settings import Execution

WARMUP_SECONDS = 0.1  # at least, for each batch size
MIN_ROUNDS, MAX_ROUNDS = 6, 40  # 6: of fewer than 6 values not even the range holds the median in 95% of cases
OVERHEAD_GROWTH = 1.1  # a call that takes up to this many times what one image takes is bound by overhead
SAFE_SHARE = 0.8  # of the memory that is left, for the next batch

Ending = tuple[Literal["largest asked", "out of memory", "time limit"], str]


def measure_batch_curve(
    model: nn.Module,
    *,
    image_size: int | tuple[int, int],
    device: str = "cpu",
    seed: int = 0,
    largest: int = 1024,
    time_limit_s: float = 60.0,
    execution: Execution | None = None,
    on_progress: OnProgress | None = None,
) -> BatchCurve:
    """Images per second at batch 1, 2, 4 and so on, up to the largest power of two that is asked for and fits.

    First it goes up, warming each size up. It ends before a batch that would not fit into memory or that would leave
    fewer than six rounds within `time_limit_s`, in which the warm-up does not count. On a CPU the memory that a batch
    will take is foreseen from the peaks before it, as a system that runs out ends processes without asking; an
    allocator that fails ends the curve too. Then all sizes that fit are timed in turn, in rounds of random order.

    A batch is overhead-bound while its time per call is not shown to be more than 1.1 times that of one image, by
    the interval of their ratio within rounds: the noisier the machine, the longer that may seem so.
    """
    if largest < 1:
        raise UserError(f"largest must be at least 1, but got {largest=}")
    if not time_limit_s > 0:
        raise UserError(f"time_limit_s must be above 0, but got {time_limit_s=}")
    prepared = prepare(model, execution=execution or Execution(), device=resolve_device(device))
    with torch.inference_mode():
        group, ending = _climb(prepared, image_size=image_size, seed=seed, largest=largest, time_limit_s=time_limit_s)
        judge = _Rounds(time_limit_s=time_limit_s).judge
        named = {f"batch {size}": contender for size, contender in group.items()}
        timings, _ = time_rounds(named, judge=judge, seed=seed, on_progress=on_progress)
    repeats = dict(zip(group, timings.repeats.values(), strict=True))
    points = [_summarise(size, seconds, seed=seed) for size, seconds in repeats.items()]
    return BatchCurve(
        points=tuple(points),
        overhead_bound_until=find_overhead_bound(repeats, seed=seed),
        best_batch_size=max(points, key=lambda point: point.images_per_second).batch_size,
        ended_by=ending[0],
        end_reason=ending[1],
        image_size=group[1].image_size,
        **prepared.conditions,
    )


def find_overhead_bound(repeats: Mapping[int, list[float]], *, seed: int) -> int | None:
    """The largest batch up to which no call is shown to take much longer than for one image; None where that is 1."""
    bound = None
    for size in sorted(repeats)[1:]:
        if speed_ratio(repeats[size], repeats[1], seed=seed).low > OVERHEAD_GROWTH:
            break
        bound = size
    return bound


@dataclass(frozen=True, kw_only=True)
class _Rounds:
    """As many rounds as the time limit leaves, in bounds."""

    time_limit_s: float

    def judge(self, timings: Timings, elapsed_s: float) -> tuple[float, StoppedBy | None]:
        if timings.rounds >= MAX_ROUNDS:
            return 1.0, "rounds"
        if timings.rounds >= MIN_ROUNDS and elapsed_s >= self.time_limit_s:
            return 1.0, "time limit"
        share = max(timings.rounds / MAX_ROUNDS, elapsed_s / self.time_limit_s)
        return min(share, timings.rounds / MIN_ROUNDS), None


def _climb(
    prepared: Prepared, *, image_size: int | tuple[int, int], seed: int, largest: int, time_limit_s: float
) -> tuple[dict[int, Contender], Ending]:
    """Every size that fits, warmed up, and why there is no larger one."""
    group: dict[int, Contender] = {}
    reset_peak()
    peaks = [resident_bytes()]
    ending: Ending = "largest asked", f"no larger power of two up to {largest} was asked for"
    for size in (2**power for power in range(largest.bit_length())):
        foreseen = _foresee_time(group, time_limit_s) or _foresee_memory(peaks, size, prepared.device)
        if foreseen is not None:
            ending = foreseen
            break
        reset_peak()
        try:
            images = prepared.draw_images(batch_size=size, image_size=image_size, seed=seed)
            group[size] = make_contender(prepared, images, warmup_s=WARMUP_SECONDS)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            ending = "out of memory", f"batch {size} did not fit into memory"
            break
        peaks.append(peak_bytes())
    if not group:
        raise UserError(f"image_size must leave room for one image in memory, but got {image_size=}: {ending[1]}")
    if prepared.device.type == "cuda":
        torch.cuda.empty_cache()  # what the batch that did not fit has left behind
    images = group[max(group)].images  # smaller batches are parts of the largest: no second copy in memory
    return {size: replace(contender, images=images[:size]) for size, contender in group.items()}, ending


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: on a CPU torch's allocator raises a plain RuntimeError."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return "DefaultCPUAllocator: " in str(error) and "memory" in str(error)


def _foresee_time(group: Mapping[int, Contender], time_limit_s: float) -> Ending | None:
    """Whether the next size would leave too few rounds."""
    if not group:
        return None
    fastest = [contender.fastest_s for contender in group.values()]
    round_s = sum(max(seconds, REPEAT_SECONDS) for seconds in [*fastest, 2 * fastest[-1]])
    if MIN_ROUNDS * round_s <= time_limit_s:
        return None
    reason = f"with batch {2 * max(group)}, {MIN_ROUNDS} rounds would take about {MIN_ROUNDS * round_s:.0f} s"
    return "time limit", f"{reason}, over the limit of {time_limit_s:g} s"


def _foresee_memory(peaks: Sequence[int | None], size: int, device: torch.device) -> Ending | None:
    """Whether a CPU's next size would take more than is safe: from b to 2 b twice the growth from b / 2 to b."""
    if device.type != "cpu" or len(peaks) < 2:
        return None
    held, left, before, last = resident_bytes(), available_bytes(), *peaks[-2:]
    if held is None or left is None or before is None or last is None:
        return None
    growth = max(0, last - before) * (2 if size > 2 else 1)
    needed = last + growth - held
    if needed <= SAFE_SHARE * left:
        return None
    reason = f"batch {size} would take about {needed / 2**30:.1f} GiB more"
    return "out of memory", f"{reason}, and of the {left / 2**30:.1f} GiB left {SAFE_SHARE:.0%} are safe to take"


def _summarise(size: int, seconds: list[float], *, seed: int) -> BatchPoint:
    call = median_interval(seconds, seed=seed)
    return BatchPoint(
        batch_size=size,
        seconds=tuple(seconds),
        images_per_second=size / call.middle,
        images_per_second_low=size / call.high,
        images_per_second_high=size / call.low,
    )
