"""Every repeat behind a number, written out: one line of plain text a record, for the page of a study."""

from collections.abc import Callable, Iterable
from statistics import mean
from typing import Any

from evitlab.measurements.heads import HeadSimilarity
from evitlab.measurements.speed import Throughput
from evitlab.report.conditions import describe_shared

RAW: dict[str, Callable[[Any], str]] = {
    "match": lambda match: (
        "width: speed over base: "
        + ", ".join(f"{step.width}: {step.ratio:.3f}" for step in match.steps)
        + ("" if match.reached else f"; target {match.speedup} +-{match.tolerance} missed")
    ),
    "macs": lambda macs: ", ".join(f"{name}: {count:,}" for name, count in macs.macs_by_operator.items()),
    "throughput": lambda timing: (
        f"seconds a batch, {_count_repeats(timing)}: {_numbers(_average_repeats(timing))}; stopped by "
        f"{timing.stopped_by}; protocol {timing.protocol}; {describe_shared([timing])}; load average "
        f"{_known(timing.load_average_before)} before, {_known(timing.load_average_after)} after; clock in Hz "
        f"{_known(timing.cpu_hz_before)} before, {_known(timing.cpu_hz_after)} after"
    ),
    "operators": lambda profile: (
        f"memory-bound share of every pass, by class: {_numbers(profile.memory_bound_shares)}; by roofline "
        f"{profile.roofline_memory_bound_share:.4g} of operator time; slowest operators, ms: "
        + ", ".join(f"{op.operator} ({op.module}) {1000 * op.seconds:.3g}" for op in profile.operators[:6])
        + f"; {describe_shared([profile])}; profiling slowed a pass {profile.slowdown:.3g}x"
    ),
    "peaks": lambda peaks: (
        "operations a second: "
        + ", ".join(f"{name} {speed:.4g}" for name, speed in peaks.kernels.items())
        + "; bytes a second by bytes of working set: "
        + ", ".join(f"{each.working_set_bytes}: {each.bytes_per_second:.4g}" for each in peaks.bandwidths)
        + f"; seconds a page fault {_known(peaks.seconds_per_page_fault)}, a dispatch {peaks.seconds_per_dispatch:.4g}"
    ),
    "batch_curve": lambda curve: (
        "batch: seconds a call: "
        + "; ".join(f"{point.batch_size}: {_numbers(point.seconds)}" for point in curve.points)
        + f"; {curve.end_reason}; {describe_shared([curve])}"
    ),
    "self_test": lambda result: (
        "ratio of every run: "
        + ", ".join(f"{run.ratio:.4f} ({run.ratio_low:.4f}-{run.ratio_high:.4f})" for run in result.runs)
        + f"; {result.contained} of {len(result.runs)} intervals contain 1; {describe_shared([result])}"
    ),
    "train": lambda result: (
        f"top-1 {result.top1:.4f}, top-5 {result.top5:.4f}, top-1 on training images {result.train_top1:.4f}; "
        "step: top-1: " + ", ".join(f"{epoch.step}: {epoch.top1:.3f}" for epoch in result.curve)
    ),
    "evaluate": lambda result: (
        f"top-1 {result.top1:.4f} (95% interval over images {result.top1_low:.4f}-{result.top1_high:.4f}), top-5 "
        f"{result.top5:.4f}, loss {result.loss:.4f}, macro AUC {_known(result.macro_auc)}, calibration error "
        f"{result.ece:.4f}; class: F1, AUC: "
        + ", ".join(f"{each.name}: {_known(each.f1)}, {_known(each.auc)}" for each in result.classes)
    ),
    "heads": lambda result: "; ".join(
        f"{what}: " + ", ".join(map(_known_percent, values)) for what, values in _list_likeness(result).items()
    ),
    "prune": lambda pruning: (
        "step: MACs, top-1 after the cut, after fine-tuning: "
        + "; ".join(_write_step(number, step) for number, step in enumerate(pruning.curve, start=1))
        + f"; before {pruning.before.top1:.4f}; control, untrained: "
        + "; ".join(_write_step(number, step) for number, step in enumerate(pruning.control_curve, start=1))
        + f"; seconds a batch of the original: {_numbers(_average_repeats(pruning.speed_before))}; pruned: "
        f"{_numbers(_average_repeats(pruning.speed_after))}; speed by MACs left, probed: "
        + (", ".join(f"{probe.macs_share:.3f}: {probe.ratio:.3f}" for probe in pruning.probes) or "nothing")
    ),
}
"""How the repeats of each task are written out."""


def _list_likeness(result: HeadSimilarity) -> dict[str, list[float | None]]:
    """Author's and caption's similarity of features block by block, of the network and of the untrained one."""
    networks = {"trained": result.blocks} | ({"untrained": result.control} if result.control is not None else {})
    return {
        f"{definition}'s definition, features, {name}, % by block": [
            getattr(block.features, definition, None) for block in blocks
        ]
        for definition in ("author", "caption")
        for name, blocks in networks.items()
    }


def _known_percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _write_step(number: int, step: Any) -> str:
    tuned = "" if step.finetuned is None else f", {step.finetuned.top1:.4f}"
    return f"{number}: {step.macs:,}, {step.pruned.top1:.4f}{tuned}"


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _average_repeats(timing: Throughput) -> list[float]:
    """The mean of the calls of each repeat, in the order taken."""
    calls = timing.calls_per_repeat
    return [mean(timing.seconds[first : first + calls]) for first in range(0, len(timing.seconds), calls)]


def _count_repeats(timing: Throughput) -> str:
    repeats = len(timing.seconds) // timing.calls_per_repeat
    others = len(timing.group) - 1
    return f"{repeats} repeats (each the mean of {timing.calls_per_repeat} calls) in turn with {others} other models"


def _known(value: float | None) -> str:
    return "not known" if value is None else f"{value:.4g}"
