"""What a measurement is: one dataclass for each task's numbers.

Base units only: integer counts and bytes, float seconds, shares in 0..1. Nothing is rounded here; tables round.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import ConfigDict, with_config

Precision = Literal["fp32", "bf16", "fp16"]
STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True, ser_json_inf_nan="strings")


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
    """Batch size over the middle of the repeats: their median, or under the protocol `cream` their mean."""
    images_per_second_low: float
    """Lower end of the bootstrap 95% interval of that; where the machine drifts over minutes, it is too narrow."""
    images_per_second_high: float
    seconds: tuple[float, ...]
    """Every timed forward call in the order taken."""
    calls_per_repeat: int
    """So many calls in a row are one repeat, whose mean is one value of the medians, means and ratios."""
    latency_p90_s: float | None
    """Seconds that 90% of the calls stay below; None for fewer than 64 calls."""
    latency_p99_s: float | None
    """The same of 99%; None for fewer than 662 calls."""
    ratio: float | None
    """Speed over the reference's: median over rounds of its seconds / this model's; None for the reference."""
    ratio_low: float | None
    """Lower end of its bootstrap interval; of 98%, which stopping once it is narrow makes one of 95%."""
    ratio_high: float | None
    reference: str
    """Name of the model that the ratio is to."""
    group: tuple[str, ...]
    """Names of all the models that were timed in turn, in one run."""
    stopped_by: Literal["half-width", "rounds", "time limit", "protocol"]
    """What ended the run: every interval narrow enough, the most rounds or seconds allowed, or as `cream` says."""
    protocol: Literal["evitlab", "cream"]
    batch_size: int
    image_size: tuple[int, int]
    precision: Precision
    """fp32, or the lower one of torch's autocast."""
    memory_format: Literal["contiguous", "channels_last"]
    folded: bool
    """Whether BatchNorm was folded before timing."""
    mode: Literal["eager", "compiled", "traced"]
    linear_library: str
    """Which library ran `nn.Linear`: it moves transformers on AMD processors by up to 1.7x."""
    attention_path: str
    """How attention ran: fused, explicit, both, or not known for networks that are not built here."""
    warmup_calls: int
    load_average_before: float | None
    """One-minute load average of the machine when the timing began."""
    load_average_after: float | None
    cpu_hz_before: float | None
    """Mean clock of the cores that this process may use, where the system tells it."""
    cpu_hz_after: float | None


MEMORY_BOUND = ("reshape and copy", "element-wise", "normalisation")
"""Classes of operators that the paper calls memory-bound (EfficientViT, Sec. 2.1 and Fig. 2)."""


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Bandwidth:
    """What a streaming kernel reached on a working set of one size."""

    working_set_bytes: int
    bytes_per_second: float
    """Bytes read and written over the seconds of the fastest repeats' median."""


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Peaks:
    """The most that one machine was seen to do: the two roofs of a roofline (Williams et al., 2009)."""

    precision: Precision
    flops_per_second: float
    """The fastest of the kernels in `kernels`; a multiply-add is two."""
    kernels: dict[str, float]
    """Floating point operations per second by large matrix product or convolution."""
    bandwidths: tuple[Bandwidth, ...]
    """From the smallest working set, in the caches, to the largest, in memory."""
    seconds_per_page_fault: float | None
    """First touch of a page of memory just mapped; None on an accelerator."""
    seconds_per_dispatch: float
    """An operator on a single number: what a call costs before it does any work."""


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class OperatorTime:
    """What the calls of one operator spent on one class of work in one part of a network, in one forward pass."""

    operator: str
    """As the network's code calls it: `aten::linear`, with all that it calls in turn."""
    operator_class: str
    """Of the work: reshape and copy, element-wise, normalisation, softmax, matrix product, convolution, other.
    An operator that does work of several classes, as a matrix product that copies first, has a row for each."""
    module: str
    """Path of the part: a stem, one MHSA, one FFN, a norm, the head; "" outside of all."""
    part: str
    """What the module is: stem, MHSA, FFN, norm, downsampling, head, other."""
    step: str
    """Inside MHSA: projections, scores, softmax, mixing, fused attention, reshapes, other; else ""."""
    calls: int
    """Calls in one forward pass."""
    seconds: float
    """In one forward pass: mean over the profiled passes of middle length."""
    bytes: int
    """Read and written, counting every input and output of each kernel once; views move none."""
    macs: int
    arithmetic: int
    """Two for each MAC; of a kernel without MACs one for each number that it writes; 0 for a view."""
    page_faults: float
    """First touches of memory that the operating system had to map, mean over passes; 0 on an accelerator."""


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class OperatorProfile:
    """Where the time of a forward pass goes: by operator, part of the network, and class (the paper's Fig. 2)."""

    memory_bound_share: float
    """Share of operator time in memory-bound classes: reshape and copy, element-wise, normalisation."""
    memory_bound_share_low: float
    """Bootstrap 95% interval of the median over the profiled passes."""
    memory_bound_share_high: float
    memory_bound_shares: tuple[float, ...]
    """The share in every profiled pass."""
    roofline_memory_bound_share: float
    """Share of operator time in operators whose arithmetic per byte lies below this machine's balance."""
    seconds_by_class: dict[str, float]
    """Median self seconds of each class in one forward pass."""
    operators: tuple[OperatorTime, ...]
    """Largest first."""
    between_seconds: float
    """Median seconds of a profiled pass outside all operators: Python, calls of modules."""
    profiled_seconds: float
    """Median wall seconds of a profiled forward pass."""
    wall_seconds: float
    """Median wall seconds of a forward pass without the profiler, taken in turn with the profiled ones."""
    slowdown: float
    """Profiled over unprofiled wall seconds: median over the pairs."""
    page_faults: float
    """Mean per unprofiled pass."""
    peaks: Peaks
    batch_size: int
    image_size: tuple[int, int]
    precision: Precision
    memory_format: Literal["contiguous", "channels_last"]
    folded: bool
    linear_library: str
    attention_path: str


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class BatchPoint:
    """One batch size of a batch curve."""

    batch_size: int
    seconds: tuple[float, ...]
    """Every repeat, per call."""
    images_per_second: float
    images_per_second_low: float
    """Bootstrap 95% interval of the median."""
    images_per_second_high: float


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class BatchCurve:
    """One model at growing batch sizes, all sizes timed in turn."""

    points: tuple[BatchPoint, ...]
    """By batch size."""
    overhead_bound_until: int | None
    """Largest batch up to which a call is not shown to take over 1.1 times as long as for one image; None where two
    already do, or were not timed."""
    best_batch_size: int
    """The one with the most images per second."""
    ended_by: Literal["largest asked", "out of memory", "time limit"]
    """Why there is no larger batch."""
    end_reason: str
    """The same in words, with sizes."""
    image_size: tuple[int, int]
    precision: Precision
    memory_format: Literal["contiguous", "channels_last"]
    folded: bool
    mode: Literal["eager", "compiled", "traced"]
    linear_library: str
    attention_path: str


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class SelfTestRun:
    """The same model timed under two names: the truth is a ratio of 1."""

    ratio: float
    ratio_low: float
    ratio_high: float
    rounds: int
    stopped_by: Literal["half-width", "rounds", "time limit", "protocol"]


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class SelfTest:
    """Whether the intervals of this machine's timings hold what they promise (an A/A test)."""

    runs: tuple[SelfTestRun, ...]
    contained: int
    """Runs whose interval contains 1."""
    median_error: float
    """Median of |ratio - 1|."""
    passed: bool
    """At least nine in ten contained, and the median error below 1%."""
    batch_size: int
    image_size: tuple[int, int]


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class MatchStep:
    """One measurement on the way to equal speed."""

    width: int
    ratio: float
    """Measured speed over the reference's."""


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Match:
    """How a variant was rescaled to a target speed."""

    speedup: float
    """Target: speed over the reference's."""
    reference: str
    """The network whose speed is the measure: the study's base, or the one that the variant starts from."""
    tolerance: float
    reached: bool
    """Whether the last measured ratio lies within the tolerance of the target."""
    ratio: float
    """Speed over the reference's at the chosen width."""
    ratio_low: float
    ratio_high: float
    width: int
    """Width chosen (of the first stage)."""
    depths: tuple[int, ...]
    """Blocks of each stage: the variant's own, or fewer where depth was to be scaled too."""
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
    wait_seconds: float | None = None
    """Seconds of them that the loop waited for images; None in records from before it was measured."""
    peak_memory: int | None = None
    """Bytes: the most that the process held while training, or on a GPU what torch had there; None if not known."""
    processes: int = 1


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class ClassScore:
    """How well one class is told from the others."""

    name: str
    precision: float | None
    """Share that is right of the images taken for this class; None where there are none."""
    recall: float | None
    """Share of the class's images that are found; None where it has none."""
    f1: float | None
    """Harmonic mean of the two; 0 where nothing is found, None where there was nothing to find or to mistake."""
    support: int
    """Images of this class."""
    auc: float | None
    """Area under the ROC curve of this class against the rest, by its probability; None where one side is empty."""


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Accuracy of one network on one set of images in every way that is reported."""

    top1: float
    """Share of images whose highest score is the true class."""
    top1_low: float
    """Wilson 95% interval over images: another draw of them, not another training."""
    top1_high: float
    top5: float
    """Share whose true class is among the five highest; 1 for five classes or fewer."""
    loss: float
    """Mean cross-entropy in nats, without label smoothing."""
    macro_auc: float | None
    """Mean of the classes' AUC where it is defined; None where it is for none."""
    ece: float
    """Expected calibration error: mean over images of |accuracy - confidence| of their bin, 15 of equal width."""
    num_classes: int
    images: int
    data: str
    classes: tuple[ClassScore, ...]
    """In the order of the data set."""
    peak_memory: int | None = None
    """Bytes that the process held at most while it scored; None where the system does not tell."""


MEASUREMENTS: dict[str, type] = {
    "macs": MacCount,
    "throughput": Throughput,
    "operators": OperatorProfile,
    "match": Match,
    "train": TrainResult,
    "peaks": Peaks,
    "batch_curve": BatchCurve,
    "self_test": SelfTest,
    "evaluate": Evaluation,
}
"""What a record of each task holds."""
