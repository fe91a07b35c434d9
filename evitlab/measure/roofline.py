"""The most that this machine does: peak arithmetic, bandwidths, and what a call and a page fault cost.

The two roofs of Williams, Waterman and Patterson, CACM 52(4), 2009, as torch itself reaches them, at the threads set
now. Peak arithmetic is that of the fastest of some large kernels, not the data sheet's. The streaming kernel is an
addition into a third array; as in STREAM (McCalpin, 1995) it counts as two reads and a write, and that a processor
may read the third array first does not count. Precisions are those of the tensors.
"""

import mmap
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import ceil
from statistics import median
from time import perf_counter
from typing import Any, Literal

import numpy as np
import torch
from torch.nn import functional as F

from evitlab.environment import resolve_device, synchronize
from evitlab.measurements.profile import Bandwidth, Peaks

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ROUNDS = 21
REPEAT_SECONDS = 0.004  # a repeat calls its kernel as often as it takes to last this long, short enough to stay alone
PROBE_SECONDS = 2.0  # a kernel that is slow here, as fp16 is on many processors, gets fewer repeats
MATRIX_SIDES = {"cpu": 1024, "cuda": 8192}
MAPS = {"cpu": (8, 128, 28), "cuda": (256, 256, 56)}  # images, channels, height and width of a 3x3 convolution
WORKING_SETS = tuple(2**power for power in range(18, 31, 2))  # 256 KiB, 1 MiB, .. 1 GiB
MEMORY_SHARE = 0.25  # of what is free, for the largest working set
FAULT_PAGES = 4096


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A kernel to be timed."""

    name: str
    run: Callable[[], Any]
    work: int
    """Of one call: floating point operations, bytes, or 1."""


@torch.inference_mode()
def measure_peaks(
    *,
    device: str = "cpu",
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    seed: int = 0,
    on_progress: Callable[[float], None] | None = None,
) -> Peaks:
    """Peak arithmetic and bandwidths in one precision, and the cost of a call and of a page fault.

    Everything is timed in turn, round by round; a figure is the median of the fastest third of its repeats, as others
    on the machine only ever take time. On an accelerator, fp32 convolutions may use tensor cores where torch lets
    them by default.
    """
    where, dtype = resolve_device(device), DTYPES[precision]
    kernels = make_kernels(where, dtype, seed=seed)
    streams = make_streams(where, dtype)
    number = torch.ones(1, device=where)
    call = Probe(name="dispatch", run=partial(torch.add, number, number, out=torch.empty_like(number)), work=1)
    rates = _time_in_turn([*kernels, *streams, call], where, on_progress=on_progress)
    flops = {probe.name: rates[probe.name] for probe in kernels}
    return Peaks(
        precision=precision,
        flops_per_second=max(flops.values()),
        kernels=flops,
        bandwidths=tuple(
            Bandwidth(working_set_bytes=probe.work, bytes_per_second=rates[probe.name]) for probe in streams
        ),
        seconds_per_page_fault=time_page_fault() if where.type == "cpu" else None,
        seconds_per_dispatch=1 / rates["dispatch"],
    )


def make_kernels(device: torch.device, dtype: torch.dtype, *, seed: int) -> list[Probe]:
    """Large matrix products by every library at hand, and a convolution."""
    generator = torch.Generator().manual_seed(seed)
    draw = partial(_draw, generator=generator, device=device, dtype=dtype)
    n = MATRIX_SIDES[device.type]
    if device.type == "cpu" and dtype == torch.float16:
        n //= 2  # most processors have no such arithmetic: torch is then far slower
    a, b = draw(n, n), draw(n, n)
    probes = [Probe(name="matrix product", run=partial(torch.mm, a, b, out=torch.empty_like(a)), work=2 * n**3)]
    if device.type == "cpu" and dtype == torch.float32 and torch.backends.mkldnn.is_available():
        linear = partial(torch.ops.mkldnn._linear_pointwise.default, a, b, None, "none", [], "")
        probes.append(Probe(name="matrix product, oneDNN", run=linear, work=2 * n**3))
    images, channels, side = MAPS[device.type]
    maps = draw(images, channels, side, side).to(memory_format=torch.channels_last)
    weight = draw(channels, channels, 3, 3).to(memory_format=torch.channels_last)
    macs = images * side**2 * channels**2 * 9
    probes.append(Probe(name="convolution 3x3", run=partial(F.conv2d, maps, weight, padding=1), work=2 * macs))
    return probes


def make_streams(device: torch.device, dtype: torch.dtype) -> list[Probe]:
    """Additions of two arrays into a third, from what fits a cache to what does not; three arrays are a working set."""
    limit = MEMORY_SHARE * _free_bytes(device)
    sizes = [size for size in WORKING_SETS if size <= limit] or [WORKING_SETS[0]]
    a, b, out = (torch.ones(sizes[-1] // 3 // dtype.itemsize, dtype=dtype, device=device) for _ in range(3))
    probes = []
    for size in sizes:
        count = size // 3 // dtype.itemsize
        run = partial(torch.add, a[:count], b[:count], out=out[:count])
        probes.append(Probe(name=f"stream {size}", run=run, work=3 * count * dtype.itemsize))
    return probes


def time_page_fault() -> float:
    """Seconds until a page of fresh memory can be written, beyond those of writing to it again."""
    # Private, as tensors have it; shared memory, which is Python's default, costs more.
    flags = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    differences = []
    for _ in range(ROUNDS):
        with mmap.mmap(-1, FAULT_PAGES * mmap.PAGESIZE, **flags) as memory:
            with suppress(AttributeError, OSError):  # not on every system; a huge page would fault once for hundreds
                memory.madvise(mmap.MADV_NOHUGEPAGE)
            pages = np.frombuffer(memory, dtype=np.uint8)[:: mmap.PAGESIZE]
            first, again = _time_write(pages), _time_write(pages)
            del pages  # the memory cannot be unmapped while an array looks at it
        differences.append(first - again)
    return _middle_of_fastest(differences) / FAULT_PAGES


def _time_write(values: np.ndarray) -> float:
    start = perf_counter()
    values[:] = 1
    return perf_counter() - start


def _time_in_turn(
    probes: list[Probe], device: torch.device, *, on_progress: Callable[[float], None] | None
) -> dict[str, float]:
    """Work per second of each probe."""
    calls, rounds = {}, {}
    for probe in probes:
        probe.run()  # allocates, and chooses its kernel
        once = _time_calls(probe.run, device, calls=1)
        calls[probe.name] = max(1, ceil(REPEAT_SECONDS / once))
        rounds[probe.name] = max(1, min(ROUNDS, int(PROBE_SECONDS / (calls[probe.name] * once))))
    seconds: dict[str, list[float]] = {probe.name: [] for probe in probes}
    for number in range(ROUNDS):
        for probe in probes:
            if number < rounds[probe.name]:
                seconds[probe.name].append(_time_calls(probe.run, device, calls=calls[probe.name]))
        if on_progress is not None:
            on_progress((number + 1) / ROUNDS)
    return {probe.name: probe.work / _middle_of_fastest(seconds[probe.name]) for probe in probes}


def _time_calls(run: Callable[[], Any], device: torch.device, *, calls: int) -> float:
    """Seconds per call; on an accelerator by its own clock."""
    if device.type == "cuda":
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        for _ in range(calls):
            run()
        after.record()
        synchronize(device)
        return before.elapsed_time(after) * 1e-3 / calls
    start = perf_counter()
    for _ in range(calls):
        run()
    return (perf_counter() - start) / calls


def _middle_of_fastest(seconds: list[float]) -> float:
    return median(sorted(seconds)[: ceil(len(seconds) / 3)])


def _draw(*shape: int, generator: torch.Generator, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(shape, generator=generator).to(device, dtype)


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # macOS and Windows do not say
        return 2**31
