"""The knobs that derive variants from a published network: what each may be, and where it applies."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evitlab.problems import UserError, suggest

ALL = ("deit", "swin", "efficientvit")


class KnobError(UserError):
    """Wrong knobs; `problems` holds one sentence for each."""

    def __init__(self, problems: Sequence[str]):
        super().__init__("; ".join(problems))
        self.problems = list(problems)


@dataclass(frozen=True, kw_only=True)
class Knob:
    """One adjustable quantity of a network."""

    meaning: str
    allowed: str
    accepts: Callable[[Any], bool]
    families: tuple[str, ...] = ALL
    per_stage: bool = False
    """Whether a list gives each stage its own value."""


def _is_int(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_number(value: Any, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _integer(meaning: str, low: int, high: int, *, none: str = "", per_stage: bool = False) -> Knob:
    return Knob(
        meaning=meaning,
        allowed=f"an integer from {low} to {high}" + none,
        accepts=lambda value: _is_int(value, low, high) or (bool(none) and value is None),
        per_stage=per_stage,
    )


def _number(meaning: str, low: float, high: float, *, per_stage: bool = False) -> Knob:
    return Knob(
        meaning=meaning,
        allowed=f"a number from {low:g} to {high:g}",
        accepts=lambda value: _is_number(value, low, high),
        per_stage=per_stage,
    )


def _choice(meaning: str, *values: str) -> Knob:
    return Knob(meaning=meaning, allowed="one of " + ", ".join(values), accepts=lambda value: value in values)


def _is_image_size(value: Any) -> bool:
    sides = [value, value] if isinstance(value, int) else value
    return isinstance(sides, list | tuple) and len(sides) == 2 and all(_is_int(side, 16, 4096) for side in sides)


KNOBS: dict[str, Knob] = {
    "mhsa_ratio": _number("share of attention among attention and FFN layers; their number stays", 0, 1),
    "qk_dim": _integer(
        "query and key channels per head", 1, 1024, none=", or null for width / num_heads", per_stage=True
    ),
    "v_ratio": _number("value channels of all heads over the width", 0.05, 8, per_stage=True),
    "ffn_ratio": _number("hidden channels of an FFN over the width", 0.05, 16, per_stage=True),
    "num_heads": _integer("attention heads; must divide the width", 1, 256, per_stage=True),
    "attention": _choice(
        "mhsa: heads see all channels; group: each its split; cascaded: and the head before it",
        "mhsa", "group", "cascaded",
    ),
    "attention_path": Knob(
        meaning="attention in one fused operator or step by step: the same numbers, another speed",
        allowed="one of fused, explicit, or null for the published code's way",
        accepts=lambda value: value in ("fused", "explicit", None),
    ),
    "sandwich": _integer(
        "N of the layout N FFNs, attention, N FFNs", 1, 16, none=", or null for one attention, one FFN"
    ),
    "depthwise": Knob(
        meaning="depthwise 3x3 convolution before each FFN", allowed="true or false",
        accepts=lambda value: isinstance(value, bool),
    ),
    "norm": _choice("normalisation", "batch", "layer"),
    "act": _choice("activation", "relu", "gelu", "hardswish"),
    "width": _integer("channels; a single value is the first stage's, the others follow", 1, 8192, per_stage=True),
    "depth": _integer("blocks", 1, 200, per_stage=True),
    "image_size": Knob(
        meaning="height and width in pixels; one number for a square", accepts=_is_image_size,
        allowed="an integer from 16 to 4096 or a list of two",
    ),
    "num_classes": _integer("outputs of the classifier", 1, 100_000),
    "patch_size": Knob(
        meaning="pixels a side that the stem makes one position", accepts=lambda value: _is_int(value, 1, 64),
        allowed="an integer from 1 to 64 (EfficientViT: 2, 4, 8 or 16)",
    ),
    "window_size": Knob(
        meaning="positions a side of the attention windows", accepts=lambda value: _is_int(value, 1, 1024),
        allowed="an integer from 1 to 1024", families=("swin", "efficientvit"),
    ),
}  # fmt: skip


def knobs_of(family: str) -> list[str]:
    """Names of the knobs that apply to a family, in the order of `KNOBS`."""
    return [name for name, knob in KNOBS.items() if family in knob.families]


def check_knobs(knobs: Mapping[str, Any], *, family: str, num_stages: int) -> None:
    """Raise KnobError with every knob that is unknown, does not apply to the family or has a value not allowed."""
    problems = [_find_problem(name, value, family, num_stages) for name, value in knobs.items()]
    if found := [problem for problem in problems if problem]:
        raise KnobError(found)


def _find_problem(name: str, value: Any, family: str, num_stages: int) -> str | None:
    applicable = ", ".join(knobs_of(family))
    if name not in KNOBS:
        return f"{name} is not a knob{suggest(str(name), KNOBS)} (allowed: {applicable})"
    knob = KNOBS[name]
    if family not in knob.families:
        return f"{name} does not apply to the family {family} (allowed: {applicable})"
    allowed = knob.allowed
    if knob.per_stage and num_stages > 1:
        allowed += f", or a list of {num_stages}, one a stage"
    values = [value]
    if knob.per_stage and isinstance(value, list | tuple):
        values = list(value) if len(value) == num_stages else [NotImplemented]
    if all(knob.accepts(each) for each in values):
        return None
    return f"{name} must be {allowed}, but got {value!r}"


def per_stage(value: Any, num_stages: int) -> list[Any]:
    """A knob's value stage by stage: a single value holds for all."""
    return list(value) if isinstance(value, list | tuple) else [value] * num_stages
