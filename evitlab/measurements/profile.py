"""Where the time of a forward pass goes, and what the machine could do at most."""

from dataclasses import dataclass
from typing import Literal

from pydantic import with_config

from evitlab.measurements.terms import STRICT, Precision

MEMORY_BOUND = ("reshape and copy", "element-wise", "normalisation")
"""Classes of operators that the paper calls memory-bound (EfficientViT, Sec. 2.1 and Fig. 2)."""


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Bandwidth:
    """What a streaming kernel reached on a working set of one size."""

    working_set_bytes: int
    bytes_per_second: float
    """Bytes read and written over the seconds of the fastest repeats' median."""


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Peaks:
    """The most that one machine was seen to do: the two roofs of a roofline (Williams et al., 2009)."""

    precision: Precision
    flops_per_second: float
    """The fastest of the kernels in `kernels`; a multiply-add is two."""
    kernels: dict[str, float]
    """Floating point operations per second by large matrix product or convolution."""
    bandwidths: tuple[Bandwidth, ...]
    """From the smallest working set, in the caches, to the largest, in memory."""
    seconds_per_page_fault: float | None
    """First touch of a page of memory just mapped; None on an accelerator."""
    seconds_per_dispatch: float
    """An operator on a single number: what a call costs before it does any work."""


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class OperatorTime:
    """What the calls of one operator spent on one class of work in one part of a network, in one forward pass."""

    operator: str
    """As the network's code calls it: `aten::linear`, with all that it calls in turn."""
    operator_class: str
    """Of the work: reshape and copy, element-wise, normalisation, softmax, matrix product, convolution, other.
    An operator that does work of several classes, as a matrix product that copies first, has a row for each."""
    module: str
    """Path of the part: a stem, one MHSA, one FFN, a norm, the head; "" outside of all."""
    part: str
    """What the module is: stem, MHSA, FFN, norm, downsampling, head, other."""
    step: str
    """Inside MHSA: projections, scores, softmax, mixing, fused attention, reshapes, other; else ""."""
    calls: int
    """Calls in one forward pass."""
    seconds: float
    """In one forward pass: mean over the profiled passes of middle length."""
    bytes: int
    """Read and written, counting every input and output of each kernel once; views move none."""
    macs: int
    arithmetic: int
    """Two for each MAC; of a kernel without MACs one for each number that it writes; 0 for a view."""
    page_faults: float
    """First touches of memory that the operating system had to map, mean over passes; 0 on an accelerator."""


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class OperatorProfile:
    """Where the time of a forward pass goes: by operator, part of the network, and class (the paper's Fig. 2)."""

    memory_bound_share: float
    """Share of operator time in memory-bound classes: reshape and copy, element-wise, normalisation."""
    memory_bound_share_low: float
    """Bootstrap 95% interval of the median over the profiled passes."""
    memory_bound_share_high: float
    memory_bound_shares: tuple[float, ...]
    """The share in every profiled pass."""
    roofline_memory_bound_share: float
    """Share of operator time in operators whose arithmetic per byte lies below this machine's balance."""
    seconds_by_class: dict[str, float]
    """Median self seconds of each class in one forward pass."""
    operators: tuple[OperatorTime, ...]
    """Largest first."""
    between_seconds: float
    """Median seconds of a profiled pass outside all operators: Python, calls of modules."""
    profiled_seconds: float
    """Median wall seconds of a profiled forward pass."""
    wall_seconds: float
    """Median wall seconds of a forward pass without the profiler, taken in turn with the profiled ones."""
    slowdown: float
    """Profiled over unprofiled wall seconds: median over the pairs."""
    page_faults: float
    """Mean per unprofiled pass."""
    peaks: Peaks
    batch_size: int
    image_size: tuple[int, int]
    precision: Precision
    memory_format: Literal["contiguous", "channels_last"]
    folded: bool
    linear_library: str
    attention_path: str
