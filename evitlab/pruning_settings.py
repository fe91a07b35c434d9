"""What a pruning may be told: targets, steps, importance, floors; plain data, read without torch."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import fields
from typing import Annotated, Any, get_args

from pydantic import Field
from pydantic.dataclasses import dataclass

from evitlab.measurements.pruning import Importance, TargetKind
from evitlab.options import check_fields, make_train_settings
from evitlab.problems import UserError, suggest
from evitlab.recipes import STRICT, Augmentation, Count, Distillation, Positive, TrainRecipe
from evitlab.settings import TrainSettings, shrink_training

KINDS: tuple[str, ...] = get_args(TargetKind)


@plain_dataclass(frozen=True, kw_only=True)
class Target:
    """What a pruning is to reach."""

    kind: TargetKind
    value: float
    """macs, params: share of the original's that is left, in 0..1. throughput: measured speed over the original's."""

    @property
    def label(self) -> str:
        """As it is written on the command line."""
        return f"{self.kind}={self.value:g}"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PruneSettings:
    """How a network is scored and cut."""

    importance: Importance = "taylor"
    """taylor: the gate's gradient, squared per mini-batch (Molchanov et al., 2019). taylor-sample: squared per image.
    taylor-accumulated: added up first. magnitude: of the weights. random: a control."""
    steps: Count = 5
    """Cuts, each scored anew, with equal factors between the costs that they leave."""
    finetune: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """Epochs after each cut."""
    finetune_learning_rate: Positive = 3e-4
    """Highest of each fine-tuning's schedule; all else is the recipe's."""
    score_images: Count = 1024
    """Training images that each step scores on; all there are, where there are fewer."""
    score_batch_size: Count = 32
    """Images of a mini-batch, whose gradient is squared."""
    by_cost: bool = True
    """Divide scores by the cost that they save."""
    min_qk: Count = 1
    """Query and key channels that each head keeps at least."""
    min_v: Count = 1
    """Value channels that each head keeps at least."""
    min_ffn: Count = 1
    """Hidden channels that each FFN keeps at least."""
    tolerance: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    """How far from a target is near enough, as a share of it."""
    timing_batch_size: Count = 16
    timing_seconds: Positive = 20.0
    """That the last timing takes at most; probes on the way to a throughput take a fifth of it each."""

    @property
    def floors(self) -> dict[str, int]:
        """Least channels by kind."""
        return {"qk": self.min_qk, "v": self.min_v, "ffn": self.min_ffn}


STAND_INS: dict[str, dict[str, Any]] = {
    "deit": {"image_size": 32, "patch_size": 8, "width": 48},
    "swin": {"image_size": 32, "patch_size": 4, "width": 24, "num_heads": [1, 2, 4, 8]},
    "efficientvit": {"image_size": 64, "patch_size": 8, "width": 32},
}
"""By family: knobs of the small network that is trained where no weights are given; as many blocks as published."""
STAND_IN_RECIPE: dict[str, Any] = {"steps": 1000, "init": "xavier"}
"""What of the recipe `proxy` its training changes: it learns `shapes` in a minute or two on one core."""
NAMED = ("importance", "steps", "finetune")
"""Fields that have an option of their own."""


def parse_targets(texts: Sequence[str]) -> tuple[Target, ...]:
    """`macs=0.6`, `params=0.6`, `throughput=1.25` as targets, in the order given."""
    targets: list[Target] = []
    for text in texts:
        kind, equals, number = (part.strip() for part in text.partition("="))
        if not equals or kind not in KINDS:
            raise UserError(
                "--target must be macs=SHARE, params=SHARE or throughput=RATIO, such as macs=0.6, "
                f"but got {text!r}{suggest(kind, KINDS)}"
            )
        target = Target(kind=kind, value=_read_value(text, kind, number))  # type: ignore[arg-type]
        if target in targets:
            raise UserError(f"--target: {target.label} is given twice")
        targets.append(target)
    return tuple(targets)


def _read_value(text: str, kind: str, number: str) -> float:
    value = float(number) if re.fullmatch(r"\d+(\.\d*)?|\.\d+", number) else -1.0
    if kind == "throughput" and not 1 <= value <= 100:
        raise UserError(
            f"--target throughput must be a ratio of speeds from 1 on, such as throughput=1.25, but got {text!r}"
        )
    if kind != "throughput" and not 0 < value <= 1:
        raise UserError(f"--target {kind} must be a share above 0 and up to 1, such as {kind}=0.6, but got {text!r}")
    return value


def make_prune_settings(
    options: Mapping[str, Any],
    *,
    data: Sequence[str],
    data_root: str | None,
    seeds: Sequence[int],
    trains: bool,
    smoke: bool,
    **named: Any,
) -> tuple[PruneSettings, TrainSettings]:
    """A pruning's settings and those of the trainings in it, their fields named side by side in `options`.

    `named` are the fields that have an option of their own; `recipe` among `options` names the recipe. Where a network
    `trains` first, its recipe is that of a stand-in unless one is named. In a smoke run everything is tiny.
    """
    own = [each.name for each in fields(PruneSettings) if each.name not in NAMED]
    settings = check_fields(PruneSettings, {**{k: v for k, v in options.items() if k in own}, **named})
    others = {name: value for name, value in options.items() if name not in (*own, "recipe")}
    inside = [each.name for kind in (TrainRecipe, Augmentation, Distillation, TrainSettings) for each in fields(kind)]
    for name in others:
        if name not in inside and (near := suggest(name, own)):
            raise UserError(f"{name} cannot be set{near} (of a pruning: {', '.join(own)})")
    if trains and "recipe" not in options:
        others = {**STAND_IN_RECIPE, **others}
    recipe = str(options.get("recipe", "proxy"))
    training = make_train_settings(others, recipe=recipe, data=data, data_root=data_root, seeds=seeds)
    if not smoke:
        return settings, training
    few = {"score_images": 32, "score_batch_size": 8, "timing_batch_size": 1, "steps": min(2, settings.steps)}
    plain = {each.name: getattr(settings, each.name) for each in fields(PruneSettings)}
    return PruneSettings(**{**plain, **few}), shrink_training(training)
