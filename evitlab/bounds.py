"""What bounds an operator: its place under the roofline of a machine, and what its memory-bound time is spent on.

Roofline: Williams, Waterman and Patterson, CACM 52(4), 2009. Plain arithmetic on measured numbers.
"""

from dataclasses import dataclass
from math import nan

from evitlab.measurements.profile import MEMORY_BOUND, OperatorProfile, OperatorTime, Peaks


@dataclass(frozen=True, kw_only=True)
class Bound:
    """An operator under the two roofs of a machine."""

    intensity: float
    """Arithmetic operations per byte; 0 for a view, which does neither."""
    balance: float
    """Arithmetic operations per byte from which on arithmetic, not traffic, is the lower roof."""
    roof_seconds: float
    """The least time that the machine's peaks allow for all calls."""
    distance: float
    """Least over measured seconds: 1 is at the roof, 0.1 ten times slower; nan where no time was measured."""
    memory_bound: bool
    """Whether the bandwidth is the lower roof; never for a view."""


def judge(operator: OperatorTime, peaks: Peaks) -> Bound:
    """What the roofline says of an operator, with its bytes and arithmetic as `OperatorTime` counts them.

    The bandwidth is that of the smallest measured working set that holds one call's bytes, so small operators are
    judged by the caches, as if all that they read were there. The arithmetic roof is that of matrix products and
    convolutions for every operator: no element-wise kernel comes near it.
    """
    bandwidth = find_bandwidth(peaks, working_set_bytes=operator.bytes / operator.calls)
    balance = peaks.flops_per_second / bandwidth
    intensity = operator.arithmetic / operator.bytes if operator.bytes else 0.0
    roof_seconds = max(operator.bytes / bandwidth, operator.arithmetic / peaks.flops_per_second)
    return Bound(
        intensity=intensity,
        balance=balance,
        roof_seconds=roof_seconds,
        distance=roof_seconds / operator.seconds if operator.seconds else nan,
        memory_bound=operator.bytes > 0 and intensity < balance,
    )


def find_bandwidth(peaks: Peaks, *, working_set_bytes: float) -> float:
    """Bytes per second of the smallest measured working set that is not smaller; of the largest beyond them all."""
    by_size = sorted(peaks.bandwidths, key=lambda measured: measured.working_set_bytes)
    fitting = (measured for measured in by_size if measured.working_set_bytes >= working_set_bytes)
    return next(fitting, by_size[-1]).bytes_per_second


def split_memory_bound(profile: OperatorProfile) -> dict[str, float]:
    """Seconds in the classes that the paper calls memory-bound, by what they were spent on.

    Each row's seconds are handed out in this order until none are left: `dispatch`, its calls at the cost of an
    operator on one number; `page faults`, at the cost of a first touch; `traffic`, its bytes at the bandwidth that
    `judge` takes; `rest`, what the kernels took beyond that. All of a view is dispatch. Rest too is what an operator
    of another class copies inside its kernel, as `addmm` its bias: nobody can count those bytes. The four add up to
    the seconds of the memory-bound classes.
    """
    moving = {row.operator for row in profile.operators if row.bytes > 0}
    totals = dict.fromkeys(("traffic", "page faults", "dispatch", "rest"), 0.0)
    for row in profile.operators:
        if row.operator_class not in MEMORY_BOUND:
            continue
        costs = _list_costs(row, profile.peaks) if row.operator in moving else {"dispatch": row.seconds}
        left = row.seconds
        for cause, seconds in costs.items():
            taken = min(seconds, left)
            totals[cause] += taken
            left -= taken
        totals["rest"] += left
    return totals


def _list_costs(row: OperatorTime, peaks: Peaks) -> dict[str, float]:
    """Seconds that each cause would take by itself, in the order in which they are handed out."""
    bandwidth = find_bandwidth(peaks, working_set_bytes=row.bytes / row.calls)
    return {
        "dispatch": row.calls * peaks.seconds_per_dispatch,
        "page faults": row.page_faults * (peaks.seconds_per_page_fault or 0.0),
        "traffic": row.bytes / bandwidth,
    }
