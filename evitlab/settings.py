"""The fields of a study file and what it may set for each task; plain data, so that a study is read without torch."""

from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True)
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MacsSettings:
    """Counting has nothing to set."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ThroughputSettings:
    """How variants are timed in turn with their base."""

    batch_size: Count = 16
    half_width: Positive = 0.01
    """Stop once every ratio's 95% interval is narrower than plus or minus this share."""
    min_rounds: Annotated[int, Field(ge=2)] = 10
    max_rounds: Annotated[int, Field(ge=2)] = 40
    time_limit_s: Positive = 60.0
    """Seconds for a whole group of models timed in turn."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OperatorsSettings:
    """How a forward pass is profiled."""

    batch_size: Count = 16
    repeats: Annotated[int, Field(ge=2)] = 9
    """Profiled passes; each gives a memory-bound share of its own."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainRecipe:
    """How to train: AdamW with a linear warm-up, a cosine to zero, and clipped gradients."""

    steps: Count = 320
    """Optimiser steps."""
    batch_size: Count = 32
    """Images in a step."""
    learning_rate: Positive = 1e-3
    """The highest of the schedule, whatever the batch size."""
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.05
    """On weights of two or more dimensions; biases and norms have none."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the steps in which the learning rate rises."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target that is spread over all classes."""
    clip_norm: Positive = 1.0
    """Longest gradient, as one vector over all parameters."""
    evaluations: Count = 2
    """Points of the curve, evenly spaced; the last one is the result."""
    init: Literal["as given", "xavier"] = "as given"
    """`xavier` draws the linear layers anew before training: for proxies, see `train.loop.draw_xavier`."""

    def __post_init__(self) -> None:
        if self.evaluations > self.steps:
            raise ValueError(f"evaluations must be at most {self.steps=}, but got {self.evaluations=}")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainSettings:
    """What accuracy is measured on, and at what budget."""

    data: Literal["shapes"] = "shapes"
    train_images: Count = 8192
    """Different images to train on."""
    val_images: Count = 2048
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = (0, 1)
    """One training each: initialisation and order of the images. The images are the same."""
    proxy: dict[str, Any] | None = None
    """Knobs of a smaller stand-in that is trained instead of the network timed; its `width` is the base's, and each
    variant's proxy is scaled by the factor that matching gave the variant. None: train the network itself."""
    recipe: TrainRecipe = field(default_factory=TrainRecipe)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MatchSettings:
    """Rescale each variant in width until it is as fast as asked, timed as the task `throughput` says."""

    speedup: Positive
    """Target: measured speed over the base's."""
    tolerance: Annotated[float, Field(gt=0, lt=0.5)] = 0.02
    """How far from the target is near enough, as a share of it."""
    max_measurements: Count = 6


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Tasks:
    """Which tasks a study runs, each with its settings; a task that is not named does not run."""

    macs: MacsSettings | None = None
    throughput: ThroughputSettings | None = None
    operators: OperatorsSettings | None = None
    train: TrainSettings | None = None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class StudyFile:
    """The fields of a study as written in its file."""

    question: str
    """What the study is to answer, in one sentence."""
    source: str
    """Paper and figure or table that it reproduces, or where the question comes from."""
    expect: str
    """The answer expected before it was run."""
    cost: str
    """How long it takes, on what."""
    base: str | dict[str, Any]
    """A zoo name, or `{name: ..., knob: value, ...}`."""
    tasks: Tasks
    grid: dict[str, list[Any]] | None = None
    """Lists of knob values to cross."""
    variants: dict[str, dict[str, Any]] | None = None
    """Named changes to the base; `base: NAME` among them starts from another network."""
    match: MatchSettings | None = None
    paper: dict[str, dict[str, float]] | None = None
    """The source's own figures: `top1`, in percent, by variant."""
    notes: str = ""
    """Remarks for the page, paragraphs apart by an empty line."""
