"""What is not trained, or not to the end: subnetworks outside a study's limits, and those that others dominate."""

from collections.abc import Callable, Sequence

from evitlab.measurements.accuracy import Epoch
from evitlab.records import Record
from evitlab.store import measured
from evitlab.study import Study, Variant
from evitlab.sweep.domination import Rival, find_dominator
from evitlab.sweep.search import StopSettings, judge_limits

BEFORE_GATE = ("match", "throughput", "macs")
"""The tasks that a subnetwork outside the limits still has."""

Find = Callable[[Variant, str], Record | None]
"""The measurement of a task with the study's own seed, if it has been made."""


def find_outside(study: Study, variant: Variant, find: Find) -> str | None:
    """Why a variant lies outside the study's limits, as far as it has been measured; None where it does not."""
    limits = study.file.limits
    if limits is None or variant.name in study.references:
        return None
    timed = find(variant, "throughput") if limits.throughput is not None else None
    own = find(variant, "macs") if limits.macs is not None else None
    base = find(study.base, "macs") if limits.macs is not None else None
    share = measured(own).macs / measured(base).macs if own is not None and base is not None else None
    return judge_limits(limits, ratio=None if timed is None else measured(timed).ratio, macs_share=share)


def is_unmeasured(study: Study, variant: Variant, find: Find) -> bool:
    """Whether a limit cannot be held against a variant, as its measurement failed: then it is not trained either."""
    limits = study.file.limits
    if limits is None or variant.name in study.references:
        return False
    needed = [(variant, "throughput")] if limits.throughput is not None else []
    needed += [(variant, "macs"), (study.base, "macs")] if limits.macs is not None else []
    return any(find(each, task) is None for each, task in needed)


def make_judge(
    settings: StopSettings, rivals: Sequence[Rival], ratio: float | None
) -> Callable[[Epoch, int], str | None]:
    """Says at an evaluation of a training of so many steps why it is hopeless, or None; see `domination.py`."""

    def judge(epoch: Epoch, steps: int) -> str | None:
        if ratio is None:
            return None
        rival = find_dominator(rivals, ratio=ratio, step=epoch.step, top1=epoch.top1, steps=steps, settings=settings)
        if rival is None:
            return None
        return (
            f"at step {epoch.step} of {steps} accuracy was {epoch.top1:.3f} at {ratio:.3g} of the reference's speed, "
            f"that of {rival.variant} {rival.curve[epoch.step]:.3f} at {rival.ratio:.3g}"
        )

    return judge
