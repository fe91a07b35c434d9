"""A network pruned to a target: what was cut where, what it cost and saved, and an untrained one beside it."""

from dataclasses import dataclass
from typing import Literal

from pydantic import with_config

from evitlab.measurements.speed import Throughput
from evitlab.measurements.terms import STRICT

Kind = Literal["qk", "v", "ffn"]
Importance = Literal["taylor", "taylor-sample", "taylor-accumulated", "magnitude", "random"]
TargetKind = Literal["macs", "params", "throughput"]


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class PrunedGroup:
    """Channels that are cut together, and how many are left of them."""

    layer: str
    """Place of the layer in the network."""
    block: int | None
    """Block that it stands in, from 1 over the whole network; None between stages."""
    kind: Kind
    """qk: queries and keys, which meet in a product. v: values. ffn: hidden channels."""
    heads: int
    """That share the channels evenly; 1 for an FFN."""
    width: int
    """Embedding channels where the layer stands: what the figure divides by."""
    before: int
    """Channels of all heads together."""
    after: int
    control: int
    """What the same procedure leaves of an untrained network."""


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class JudgedOn:
    """Accuracy on held-out images at one point of a pruning."""

    top1: float
    top1_low: float
    """Wilson 95% interval over images: another draw of them, not another training."""
    top1_high: float
    loss: float
    """Mean cross-entropy in nats."""
    images: int


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class PruneStep:
    """Scored, cut and, where asked for, fine-tuned once."""

    target: float
    """Share of the original's cost that this step was to leave."""
    macs: int
    params: int
    pruned: JudgedOn
    """Right after the cut."""
    finetuned: JudgedOn | None
    """After the epochs that followed; None where there were none."""


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class SpeedProbe:
    """One timing on the way to a target in throughput."""

    macs_share: float
    """MACs left, over the original's."""
    ratio: float
    """Measured speed over the original's."""


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Pruning:
    """One network pruned to one target, beside the same procedure on an untrained network: the control.

    The control has the same config, target, steps, importance, costs and images; it is scored and cut, never trained.
    Where the target is a throughput it goes to the MACs that the trained network was left with.
    """

    target: TargetKind
    """What was to be reached: MACs or parameters over the original's, or measured speed over the original's."""
    target_value: float
    reached: float
    """The same quantity of the pruned network."""
    control_reached: float
    """Of the control; under a target in throughput its share of MACs."""
    origin: str
    """Where the weights came from, in words."""
    data: str
    """Images that it was scored, fine-tuned and judged on."""
    num_classes: int
    image_size: tuple[int, int]
    importance: Importance
    by_cost: bool
    """Whether scores were divided by the cost that a unit saves; this sets how FFN and attention are weighed."""
    cost: Literal["macs", "params"]
    """The cost that was counted so."""
    floors: dict[str, int]
    """Least channels by kind: of each head for qk and v."""
    steps: int
    finetune_epochs: float
    """After each step."""
    score_images: int
    """Training images that each step scored on."""
    score_batch_size: int
    groups: tuple[PrunedGroup, ...]
    unprunable: tuple[str, ...]
    """What could not be pruned, and why."""
    before: JudgedOn
    control_before: JudgedOn
    """Of the untrained network, whole: chance."""
    curve: tuple[PruneStep, ...]
    """Step by step; the last is the result."""
    control_curve: tuple[PruneStep, ...]
    macs_before: int
    params_before: int
    """Trainable scalars, BatchNorm folded."""
    speed_before: Throughput
    """The original with explicit attention, timed in turn with the pruned network."""
    speed_after: Throughput
    """The pruned network with explicit attention: Q and K narrower than V would leave the fused kernel."""
    speed_published: Throughput
    """The original as its published code runs attention; its ratio says what the fused kernel is worth."""
    probes: tuple[SpeedProbe, ...] = ()
    """Timings that led to a target in throughput, in the order taken."""
    weights: str
    """Folder of the pruned network beside the records."""

    @property
    def pruned(self) -> JudgedOn:
        """Right after the last cut."""
        return self.curve[-1].pruned

    @property
    def finetuned(self) -> JudgedOn | None:
        """At the end, where there was fine-tuning."""
        return self.curve[-1].finetuned
