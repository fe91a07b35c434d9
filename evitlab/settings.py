"""The fields of a study file and what it may set for each task; plain data, so that a study is read without torch."""

import os
from dataclasses import field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from evitlab.measurements.terms import Precision
from evitlab.problems import suggest
from evitlab.recipes import STRICT, Count, Positive, RecipeField, TrainRecipe
from evitlab.sweep.search import Limits, SearchSettings, StopSettings


def as_arguments(settings: Any) -> dict[str, Any]:
    """The fields of a task's settings by name, nested ones as they are."""
    return {each.name: getattr(settings, each.name) for each in fields(settings)}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MacsSettings:
    """Counting has nothing to set."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Execution:
    """How a network is run when it is timed or profiled."""

    precision: Precision = "fp32"
    """fp32, or torch's autocast to a lower one."""
    memory_format: Literal["contiguous", "channels_last"] = "contiguous"
    mode: Literal["eager", "compiled", "traced"] = "eager"
    """As written, by `torch.compile`, or by `torch.jit.trace` as in the official speed test."""
    linear: Literal["torch", "onednn"] = "torch"
    """Library of `nn.Linear` on the CPU: what this build of torch takes (mostly MKL), or oneDNN."""
    fold: bool = True
    """Fold BatchNorm into its neighbours first, as for deployment."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ThroughputSettings:
    """How models are timed in turn."""

    batch_size: Count = 16
    half_width: Positive = 0.01
    """Stop once every ratio's interval is narrower than plus or minus this share."""
    min_rounds: Annotated[int, Field(ge=2)] = 20
    """Before the first look at the intervals: who stops earlier holds the truth too seldom, in simulations."""
    max_rounds: Annotated[int, Field(ge=2)] = 40
    time_limit_s: Positive = 60.0
    """Seconds for a whole group of models timed in turn, their warm-up not counted."""
    protocol: Literal["evitlab", "cream"] = "evitlab"
    """evitlab: medians, until the ratios are known. cream: the official speed test's warm-up, duration and mean,
    whatever the limits above."""
    execution: Execution = field(default_factory=Execution)


def cream_settings(device: str) -> ThroughputSettings:
    """The official speed test of EfficientViT (microsoft/Cream, EfficientViT/classification/speed_test.py).

    Folded and traced; on a GPU batches of 2048 in fp16 autocast, on a CPU batches of 16 in one thread, which is for the
    process to set.
    """
    if device == "cpu":
        return ThroughputSettings(batch_size=16, protocol="cream", execution=Execution(mode="traced"))
    execution = Execution(mode="traced", precision="fp16")
    return ThroughputSettings(batch_size=2048, protocol="cream", execution=execution)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OperatorsSettings:
    """How a forward pass is profiled."""

    batch_size: Count = 16
    repeats: Annotated[int, Field(ge=2)] = 9
    """Profiled passes; each gives a memory-bound share of its own."""
    execution: Execution = field(default_factory=Execution)
    """Its mode must be eager: elsewhere operators are fused and modules gone."""

    def __post_init__(self) -> None:
        if self.execution.mode != "eager":
            raise ValueError(f"execution.mode must be eager to be profiled, but got {self.execution.mode=}")


PAPER_FIGURES = ("top1", "images_per_second")
"""What a study may cite of its source."""

DATA_NAMES = ("shapes", "cifar10", "cifar100", "tiny-imagenet", "imagenet")
"""Data sets that have a name; others are paths."""


def check_data_names(data: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """The same, if it is a data set's name or a path, or several; a path has a separator or a suffix, or is there."""
    names = (data,) if isinstance(data, str) else data
    for name in names or [""]:
        is_path = "/" in name or os.sep in name or Path(name).suffix or (name and Path(name).exists())
        if not is_path and (name not in DATA_NAMES or len(names) > 1):
            allowed = "paths" if len(names) > 1 else f"one of {', '.join(DATA_NAMES)}, or a path"
            raise ValueError(f"must be {allowed} (with a / or a suffix), but got {name!r}{suggest(name, DATA_NAMES)}")
    return data


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainSettings:
    """What accuracy is measured on, and at what budget."""

    data: Annotated[str | tuple[str, ...], AfterValidator(check_data_names)] = "shapes"
    """A name, or the path of a folder or archive with train/CLASS/IMAGE and val/CLASS/IMAGE, or several archives that
    make one tree together."""
    data_root: str | None = None
    """Folder that holds the data set, and that paths start from. None: what the command line says, else the cache's."""
    train_images: Count | None = None
    """Different images to train on, as many of each class. None: all there are; 8192 of `shapes`."""
    val_images: Count | None = None
    """Images to judge by. None: all there are; 2048 of `shapes`."""
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = (0, 1)
    """One training each: initialisation and order of the images. The images are the same."""
    proxy: dict[str, Any] | None = None
    """Knobs of a smaller stand-in that is trained instead of the network timed; its `width` is the base's, and each
    variant's proxy is scaled by the factor that matching gave the variant. `scale` in its place takes that share of
    each variant's own widths. Knobs that a variant changes stay as it has them. Where variants start from several
    networks, each may have its own: `{deit_t: {...}, swin_t: {...}}`. None: train the network itself."""
    recipe: RecipeField = field(default_factory=TrainRecipe)
    """A name (proxy, small, paper), or fields, or `{preset: NAME, ...}` with some fields changed."""


def choose_proxy(proxy: dict[str, Any], network: Any) -> dict[str, Any]:
    """The knobs of a proxy for variants of a network: those under its name, where all are given by network.

    Raises KeyError where they are, and not for this one.
    """
    by_network = bool(proxy) and all(isinstance(knobs, dict) for knobs in proxy.values())
    return proxy[network] if by_network else proxy


def shrink_training(settings: TrainSettings) -> TrainSettings:
    """The same path in seconds: a few steps on a few images."""
    augmentation = replace(settings.recipe.augmentation, repeats=1)
    recipe = replace(
        settings.recipe, steps=2, epochs=None, batch_size=8, accumulate=1, evaluations=1, augmentation=augmentation
    )
    return replace(settings, train_images=64, val_images=64, recipe=recipe)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EvaluateSettings:
    """How what was trained is judged, once for each of its seeds, on the images that training held out."""

    maps: Annotated[int, Field(ge=0)] = 4
    """Held-out images over which attention is drawn."""
    block: int | str = -1
    """The attention layer drawn: its place, from 0 or from the end, or its path."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class HeadsSettings:
    """How the heads of what was trained are compared, once for each of its seeds, beside the network untrained."""

    images: Count = 512
    """Held-out images, the first of them; fewer where there are fewer."""
    drop_one: bool = False
    """Also remove each head alone and see what that costs on these images: a pass over them for each head."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MatchSettings:
    """Rescale each variant until it is as fast as asked, timed as the task `throughput` says."""

    speedup: Positive
    """Target: measured speed over the reference's. A variant may set its own."""
    reference: Literal["base", "own"] = "base"
    """base: the study's base. own: the network that the variant starts from, as published."""
    scale: Literal["width", "width and depth"] = "width"
    """width and depth: blocks are left out for half of the speedup before the width does the rest."""
    tolerance: Annotated[float, Field(gt=0, lt=0.5)] = 0.02
    """How far from the target is near enough, as a share of it."""
    max_measurements: Count = 6
    """Short ones, of an eighth of the timing's rounds and at least eight."""
    timings: Count = 1
    """Full ones after those: what the first finds outside the tolerance is rescaled by it and timed again, while there
    are any left."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Tasks:
    """Which tasks a study runs, each with its settings; a task that is not named does not run."""

    macs: MacsSettings | None = None
    throughput: ThroughputSettings | None = None
    operators: OperatorsSettings | None = None
    train: TrainSettings | None = None
    evaluate: EvaluateSettings | None = None
    heads: HeadsSettings | None = None


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
    minutes: Positive | None = None
    """The same for programs, there: what `evitlab reproduce --budget` counts with. None: not known."""
    base: str | dict[str, Any]
    """A zoo name, or `{name: ..., knob: value, ...}`."""
    tasks: Tasks
    grid: dict[str, list[Any]] | None = None
    """Lists of knob values to cross."""
    variants: dict[str, dict[str, Any]] | None = None
    """Named changes to the base; `base: NAME` among them starts from another network."""
    search: SearchSettings | None = None
    """Ranges of knobs for Optuna to propose from; named variants beside it are measured first."""
    limits: Limits | None = None
    """Windows of speed and size, measured before training: what lies outside is never trained."""
    stop: StopSettings | None = None
    """When to give a training up; None: never."""
    match: MatchSettings | None = None
    paper: dict[str, dict[str, float]] | None = None
    """The source's own figures by variant: `top1` in percent, `images_per_second`."""
    compare_to: str | None = None
    """Variant that the others' accuracies are compared with. None: of each variant the one that is the network it
    starts from, at the same target speed, where there is one."""
    notes: str = ""
    """Remarks for the page, paragraphs apart by an empty line."""
