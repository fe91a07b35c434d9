"""Made-up prunings: plausible, but nobody measured them. For tests of tables, figures and pages."""

from dataclasses import replace
from typing import Any

from fake_records import make_record, make_throughput

from evitlab.measurements.pruning import JudgedOn, PrunedGroup, PruneStep, Pruning
from evitlab.models.zoo import make_config
from evitlab.records import Record

QK = (40, 38, 36, 30, 28, 30, 26, 20, 18, 16, 12, 8)
V = (48, 48, 48, 48, 47, 46, 45, 45, 44, 44, 42, 40)
FFN = (150, 150, 144, 140, 130, 120, 110, 100, 90, 80, 60, 40)
"""What is left of 48, 48 and 192 channels, block by block."""


def judged(top1: float, *, images: int = 2048) -> JudgedOn:
    return JudgedOn(top1=top1, top1_low=top1 - 0.01, top1_high=top1 + 0.01, loss=1 - top1, images=images)


def make_groups(
    *, qk: tuple[int, ...] = QK, v: tuple[int, ...] = V, ffn: tuple[int, ...] = FFN, control_qk: int = 3
) -> tuple[PrunedGroup, ...]:
    """Twelve blocks of width 48 and 3 heads; the control keeps as much in every block."""
    groups = []
    for block in range(1, 13):
        same: dict[str, Any] = {"block": block, "width": 48}
        at = block - 1
        for kind, heads, before, after, control in (
            ("qk", 3, 48, qk[at], control_qk),
            ("v", 3, 48, v[at], 30),
            ("ffn", 1, 192, ffn[at], 120),
        ):
            layer = f"stages.0.blocks.{at}.{1 if kind == 'ffn' else 0}"
            counts = {"heads": heads, "before": before, "after": after, "control": control}
            groups.append(PrunedGroup(layer=layer, kind=kind, **same, **counts))  # type: ignore[arg-type]
    return tuple(groups)


def make_pruning(**changes: Any) -> Pruning:
    """DeiT-T's stand-in at 0.6 of its MACs in two steps."""
    speed = replace(make_throughput(90.0, ratio=1.5), attention_path="explicit", reference="original")
    before = replace(make_throughput(60.0, ratio=None), attention_path="explicit")
    steps = (
        PruneStep(target=0.775, macs=775_000, params=280_000, pruned=judged(0.88), finetuned=judged(0.92)),
        PruneStep(target=0.6, macs=600_000, params=210_000, pruned=judged(0.80), finetuned=judged(0.90)),
    )
    control = tuple(replace(step, pruned=judged(0.0625), finetuned=None) for step in steps)
    fields: dict[str, Any] = {
        "target": "macs",
        "target_value": 0.6,
        "reached": 0.6,
        "control_reached": 0.601,
        "origin": "a stand-in of deit_t (width 48, 32 px), trained here",
        "data": "shapes",
        "num_classes": 16,
        "image_size": (32, 32),
        "importance": "taylor",
        "by_cost": True,
        "cost": "macs",
        "floors": {"qk": 1, "v": 1, "ffn": 1},
        "steps": 2,
        "finetune_epochs": 1.0,
        "score_images": 1024,
        "score_batch_size": 32,
        "groups": make_groups(),
        "unprunable": (),
        "before": judged(0.91),
        "control_before": judged(0.0625),
        "curve": steps,
        "control_curve": control,
        "macs_before": 1_000_000,
        "params_before": 350_000,
        "speed_before": before,
        "speed_after": speed,
        "speed_published": replace(speed, ratio=1.1, attention_path="fused"),
        "weights": "weights/macs=0.6-seed0",
    }
    return Pruning(**{**fields, **changes})


def make_pruned_record(*, model: str = "deit_t", seed: int = 0, key: str = "", **changes: Any) -> Record:
    """A record of `make_pruning` on the network of that name."""
    found = make_pruning(**changes)
    config = make_config(model).to_dict()
    asked = {"target": found.target, "value": found.target_value, "importance": found.importance}
    made = make_record("prune", found, variant=model, seed=seed, config=config, settings=asked)
    request = f"{model} {found.target} {found.target_value} {found.importance}"
    return replace(made, request=request, key=key or f"{request} {seed}")
