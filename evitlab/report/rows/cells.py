"""What a row of `evitlab.load` holds beside a study's table: its conditions, and what the other tasks found."""

from collections.abc import Callable, Sequence
from statistics import mean
from typing import Any

from evitlab.measurements.pruning import JudgedOn, Pruning
from evitlab.records import Record
from evitlab.report.pruning.tables import group_targets
from evitlab.report.tables import TIMINGS, mean_interval
from evitlab.report.timing_tables import timing_row
from evitlab.store import measured

ENVIRONMENT = (
    "machine", "device", "device_name", "threads", "allocator", "torch", "timm", "python", "evitlab", "git_commit",
)  # fmt: skip
TIMING = (
    "latency_s", "latency_p90_s", "latency_p99_s", "protocol", "precision", "memory_format", "folded", "mode",
    "linear_library", "attention_path", "rounds", "stopped_by",
)  # fmt: skip
"""Columns that a timing has beside those of a study's table."""
EXECUTION = ("precision", "memory_format", "folded", "linear_library", "attention_path")
"""Conditions that every task which runs a network for its speed keeps."""


def describe_row(records: Sequence[Record]) -> dict[str, Any]:
    """The further cells of one variant, from its records under one set of conditions."""
    done: dict[str, list[Record]] = {}
    for record in records:
        if record.status == "ok":
            done.setdefault(record.task, []).append(record)
    row = describe_conditions(records)
    for task, describe in CELLS.items():
        if task in done:
            row |= describe(done[task])
    return row


def describe_conditions(records: Sequence[Record]) -> dict[str, Any]:
    """Machine and software, of the timing where there is one, when it began, and the seconds of all together."""
    if not records:
        return {}
    decisive = next((record for record in records if record.task in TIMINGS), None)
    decisive = decisive or next((record for record in records if record.task != "macs"), records[0])
    row = {name: getattr(decisive.environment, name) for name in ENVIRONMENT}
    return row | {"start": min(r.start for r in records), "seconds": sum(r.seconds for r in records)}


def _describe_operators(records: Sequence[Record]) -> dict[str, Any]:
    found = measured(records[0])
    row = {name: getattr(found, name) for name in EXECUTION}
    return row | {"infer_batch_size": found.batch_size, "infer_img_size": "{}x{}".format(*found.image_size)}


def _describe_timing(records: Sequence[Record]) -> dict[str, Any]:
    row = timing_row(records[0])
    return {name: row[name] for name in (*TIMING, "infer_batch_size", "infer_img_size")}


def _describe_training(records: Sequence[Record]) -> dict[str, Any]:
    results = [measured(record) for record in records]
    row = {name: getattr(results[0], name) for name in ("num_classes", "train_images", "val_images")}
    row |= {"train_steps": results[0].steps, "train_batch_size": results[0].batch_size}
    row |= {"train_seconds": mean(result.train_seconds for result in results)}
    row |= {"train_seeds": [record.seed for record in records]}
    return row | ({"top1_interval": "seeds"} if len(records) > 1 else {})


def _describe_evaluation(records: Sequence[Record]) -> dict[str, Any]:
    """Of weights that were not trained here, their accuracy; a study's is that of its trainings."""
    found = measured(records[0])
    row = _spread(found.top1, found.top1_low, found.top1_high)
    row |= {"top5": found.top5, "macro_auc": found.macro_auc, "ece": found.ece}
    return row | {"train_data": found.data, "num_classes": found.num_classes, "val_images": found.images}


def _describe_curve(records: Sequence[Record]) -> dict[str, Any]:
    found = measured(records[0])
    row = {name: getattr(found, name) for name in (*EXECUTION, "mode", "best_batch_size", "overhead_bound_until")}
    return row | {"infer_img_size": "{}x{}".format(*found.image_size)}


def _describe_self_test(records: Sequence[Record]) -> dict[str, Any]:
    found = measured(records[0])
    size = "{}x{}".format(*found.image_size)
    return {"self_test_error": found.median_error, "infer_batch_size": found.batch_size, "infer_img_size": size}


def _describe_heads(records: Sequence[Record]) -> dict[str, Any]:
    results = [measured(record) for record in records]
    sides = {
        "head_similarity": [block for result in results for block in result.blocks],
        "head_similarity_untrained": [block for result in results for block in result.control or ()],
    }
    row = {}
    for name, blocks in sides.items():
        known = [b.features.author for b in blocks if b.features is not None and b.features.author is not None]
        row[name] = mean(known) if known else None
    return row


CELLS: dict[str, Callable[[Sequence[Record]], dict[str, Any]]] = {
    "operators": _describe_operators,
    "batch_curve": _describe_curve,
    "self_test": _describe_self_test,
    "throughput": _describe_timing,
    "heads": _describe_heads,
    "evaluate": _describe_evaluation,
    "train": _describe_training,
}
"""Task -> its cells, from its records; what stands later wins."""


def pruned_rows(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Of prunings, a row a network: the whole one as it was timed and judged, then each target's, over its seeds."""
    rows = []
    for name in dict.fromkeys(record.variant for record in records):
        own = [record for record in records if record.variant == name]
        rows.append({"variant": name} | _describe_whole(own) | describe_row(own))
        rows += [_describe_pruned(label, group) for label, group in group_targets(own).items()]
    return rows


def _describe_whole(records: Sequence[Record]) -> dict[str, Any]:
    found: Pruning = measured(records[-1])
    row = _judge([found.before]) | {"macs": found.macs_before, "param_count": found.params_before}
    return row | _describe_speed(found.speed_before, records[0].variant) | _describe_data(found)


def _describe_pruned(label: str, records: Sequence[Record]) -> dict[str, Any]:
    results: list[Pruning] = [measured(record) for record in records]
    last = results[-1]
    row = {"variant": f"{records[0].variant}, {label}"} | _judge([r.finetuned or r.pruned for r in results])
    row |= {
        "pruning_target": f"{last.target}={last.target_value:g}",
        "pruning_reached": mean(r.reached for r in results),
    }
    row |= {"macs": last.curve[-1].macs, "param_count": last.curve[-1].params}
    row |= {"top1_pruned": mean(result.pruned.top1 for result in results)}
    row |= {"top1_control": mean(result.control_curve[-1].pruned.top1 for result in results)}
    row |= _describe_speed(last.speed_after, records[0].variant) | _describe_data(last) | describe_row(records)
    return row | {"train_seeds": [record.seed for record in records]}


def _describe_speed(timing: Any, whole: str) -> dict[str, Any]:
    """Of a timing inside another measurement, its reference the whole network; of several seeds, the last's."""
    row = {name: getattr(timing, name) for name in (*EXECUTION, "protocol", "mode", "stopped_by")}
    row |= {"infer_batch_size": timing.batch_size, "infer_img_size": "{}x{}".format(*timing.image_size)}
    row |= {f"infer_samples_per_sec{end}": getattr(timing, f"images_per_second{end}") for end in ("", "_low", "_high")}
    row |= {f"speed_ratio{end}": getattr(timing, f"ratio{end}") for end in ("", "_low", "_high")}
    return row | {"speed_ratio": 1.0 if timing.ratio is None else timing.ratio, "speed_reference": whole}


def _describe_data(found: Pruning) -> dict[str, Any]:
    return {"train_data": found.data, "num_classes": found.num_classes, "val_images": found.before.images}


def _judge(judged: Sequence[JudgedOn]) -> dict[str, Any]:
    """Accuracies over seeds, or one with its interval over images."""
    values = [each.top1 for each in judged]
    if len(values) == 1:
        row = _spread(values[0], judged[0].top1_low, judged[0].top1_high)
    else:
        low, high = mean_interval(values)
        row = {"top1": mean(values), "top1_low": low, "top1_high": high, "top1_interval": "seeds"}
    return row | {"top1_seeds": len(values), "top1_values": values}


def _spread(value: float, low: float, high: float) -> dict[str, Any]:
    return {"top1": value, "top1_low": low, "top1_high": high, "top1_interval": "images"}
