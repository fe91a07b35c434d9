"""Images per second: of models in turn, over batch sizes, against themselves, and on the way to equal speed."""

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import with_config

from evitlab.measurements.terms import STRICT, Precision


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
    alone: bool | None = None
    """Whether no other worker on this host timed or trained meanwhile; None where that is not known."""


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
    """Whether the ratio lies within the tolerance of the target, or need not, see `is_reference`."""
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

    @property
    def is_reference(self) -> bool:
        """Whether it is its reference itself, at the speed that was asked for: a ratio off 1 is noise of the timing."""
        return self.speedup == 1 and self.matched_config == self.base_config
