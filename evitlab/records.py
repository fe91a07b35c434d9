"""What a measurement is, and the record that keeps it together with its conditions.

Base units only: integer counts and bytes, float seconds, shares in 0..1. Nothing is rounded here; tables round.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, with_config

SCHEMA = 1
"""Version of the record's layout. A reader refuses a newer one instead of guessing."""

STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True, ser_json_inf_nan="strings")


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Environment:
    """The machine and the software behind a measurement."""

    device: str
    """torch's name of the device: `cpu`, `cuda:0`."""
    device_name: str
    """Model of the processor or accelerator that computed."""
    machine: str
    """Eight hexadecimal digits that tell machines apart; a hash, so it names nobody's host."""
    cores: int
    """Logical cores that this process may use."""
    threads: int
    """Threads of torch's operators, read back after they were set."""
    memory_bytes: int
    """Physical memory of the machine."""
    allocator: str
    """How the C allocator was set up; it alone moves eager CPU throughput by up to 2x."""
    platform: str
    """Operating system and architecture."""
    python: str
    torch: str
    timm: str
    evitlab: str
    git_commit: str | None = None
    """Commit of the evitlab checkout that ran, where it is one."""
    git_dirty: bool | None = None
    """Whether that checkout had uncommitted changes outside `results/`."""

    @property
    def conditions(self) -> dict[str, Any]:
        """The fields that make measurements comparable: no table mixes two values of one."""
        names = ("machine", "device", "device_name", "torch", "threads", "allocator")
        return {name: getattr(self, name) for name in names}


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class MacCount:
    """Multiply-accumulates of one image's forward pass; papers print them as "FLOPs".

    Counted: convolutions, linear layers and both attention products. Norms, activations, softmax, biases and
    element-wise operations are not.
    """

    macs: int
    params: int
    """Trainable scalars with BatchNorm folded into its neighbours where it can be."""
    params_unfolded: int
    """Trainable scalars as built for training."""
    image_size: tuple[int, int]
    """Height and width in pixels."""
    macs_by_operator: dict[str, int]
    macs_by_module: dict[str, int]
    """Keyed by module path; a parent includes its children, "" is the whole network."""
    uncounted: dict[str, int] = field(default_factory=dict)
    """Operators that do arithmetic but have no counting rule, with their number of calls."""
    uncalled_modules: tuple[str, ...] = ()
    """Modules with parameters that the forward pass never ran."""


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Throughput:
    """Repeated timings of one model's forward pass, taken in turn with the other models of its group."""

    images_per_second: float
    """Batch size over the median repeat."""
    images_per_second_low: float
    """Lower end of the bootstrap 95% interval of the median."""
    images_per_second_high: float
    seconds: tuple[float, ...]
    """Seconds per forward call, every repeat in the order taken."""
    ratio: float | None
    """Speed over the group's first model: median over rounds of its seconds / this model's; None for the first."""
    ratio_low: float | None
    ratio_high: float | None
    reference: str
    """Name of the group's first model."""
    group: tuple[str, ...]
    """Names of all the models that were timed in turn, in one run."""
    batch_size: int
    image_size: tuple[int, int]
    precision: Literal["fp32", "bf16", "fp16"]
    memory_format: Literal["contiguous", "channels_last"]
    folded: bool
    """Whether BatchNorm was folded before timing."""
    execution: Literal["eager", "compiled"]
    attention_path: str
    """How attention ran: `as built`, or `fused` / `explicit` where forced for every model of the group."""
    warmup_calls: int
    calls_per_repeat: int
    load_average_before: float | None
    """One-minute load average of the machine when the timing began."""
    load_average_after: float | None


MEMORY_BOUND = ("reshape and copy", "element-wise", "normalisation")
"""Classes of operators that the paper calls memory-bound (EfficientViT, Sec. 2.1 and Fig. 2)."""


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class OperatorTime:
    """Time of all calls of one `aten` operator in one forward pass."""

    operator: str
    operator_class: str
    """reshape and copy, element-wise, normalisation, softmax, matrix product, convolution, other."""
    calls: int
    """Calls in one forward pass."""
    seconds: float
    """Self time in one forward pass, median over the profiled passes."""


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class OperatorProfile:
    """Where the time of a forward pass goes, by operator and by the paper's classes (Fig. 2)."""

    memory_bound_share: float
    """Share of operator time in memory-bound classes: reshape and copy, element-wise, normalisation."""
    memory_bound_share_low: float
    """Bootstrap 95% interval of the median over the profiled passes."""
    memory_bound_share_high: float
    memory_bound_shares: tuple[float, ...]
    """The share in every profiled pass."""
    seconds_by_class: dict[str, float]
    """Median self seconds of each class in one forward pass."""
    operators: tuple[OperatorTime, ...]
    """Largest first."""
    profiled_seconds: float
    """Median self seconds of all operators in one profiled forward pass."""
    wall_seconds: float
    """Median wall seconds of a forward pass without the profiler, taken in the same run."""
    batch_size: int
    image_size: tuple[int, int]
    folded: bool


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class MatchStep:
    """One measurement on the way to equal speed."""

    width: int
    ratio: float
    """Measured speed over the base's."""


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Match:
    """How a variant was rescaled to a target speed."""

    speedup: float
    """Target: speed over the base's."""
    tolerance: float
    reached: bool
    """Whether the last measured ratio lies within the tolerance of the target."""
    ratio: float
    """Speed over the base's at the chosen width."""
    ratio_low: float
    ratio_high: float
    width: int
    """Width chosen (of the first stage)."""
    base_config: dict[str, Any]
    matched_config: dict[str, Any]
    steps: tuple[MatchStep, ...]


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One evaluation on the way of a training."""

    step: int
    train_loss: float
    """Mean over the steps since the last evaluation."""
    top1: float


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """Accuracy of a network trained at a stated budget; a proxy's accuracy is not ImageNet's."""

    top1: float
    """Share of held-out images whose highest score is the true class."""
    top5: float
    loss: float
    """Mean cross-entropy on the held-out images."""
    train_top1: float
    """Share correct on a part of the training images as large as the held-out set: shows over- and underfitting."""
    data: str
    num_classes: int
    train_images: int
    """Different images in the training set."""
    val_images: int
    steps: int
    batch_size: int
    images_seen: int
    params: int
    train_seconds: float
    """Seconds in the training loop, evaluation left out."""
    curve: tuple[Epoch, ...]


MEASUREMENTS: dict[str, type] = {
    "macs": MacCount,
    "throughput": Throughput,
    "operators": OperatorProfile,
    "match": Match,
    "train": TrainResult,
}


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Record:
    """One measurement of one variant with everything needed to judge and to repeat it: one JSON line."""

    schema: int = SCHEMA
    key: str
    """Identity of the work (see `record_key`): a study skips work whose key has an `ok` record."""
    study: str
    request: str
    """Hash of what the study asked of this variant and task, prose left out (see `Study.request`)."""
    variant: str
    knobs: dict[str, Any]
    """The variant's changes to the base."""
    config: dict[str, Any]
    """The `ModelConfig` measured (for `train` with a proxy: the proxy's)."""
    task: str
    settings: dict[str, Any]
    status: Literal["ok", "failed"]
    error: str | None = None
    measurement: dict[str, Any] | None = None
    """Fields of the task's dataclass in `MEASUREMENTS`; None where it failed."""
    environment: Environment
    seed: int
    start: str
    """UTC, ISO 8601."""
    seconds: float
    """Wall seconds that the task took."""
    smoke: bool = False
    """Made by `--smoke`: tiny sizes, no meaning; no table reads it."""

    def to_json(self) -> str:
        """The record as one line, keys in a fixed order, without the newline."""
        return json.dumps(asdict(self), separators=(",", ":"), allow_nan=False)


RECORD = TypeAdapter(Record)
"""Reads a record from JSON and checks every field's type."""


def digest(value: Any) -> str:
    """Sixteen hexadecimal digits that identify plain data, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def record_key(
    *,
    config: dict[str, Any],
    weights: str | None,
    task: str,
    settings: dict[str, Any],
    seed: int,
    environment: Environment,
    smoke: bool,
) -> str:
    """Identity of a piece of work: equal keys mean that doing it again would repeat it.

    `weights` is the hash of loaded weights, None for a seeded initialisation.
    """
    return digest([config, weights, task, settings, seed, environment.conditions, smoke])
