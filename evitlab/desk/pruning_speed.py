"""Speed of a pruned network over the original's, measured with attention run alike; the cut that reaches a target."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from evitlab.measure.throughput import measure_throughput
from evitlab.measurements.pruning import SpeedProbe
from evitlab.measurements.speed import Throughput
from evitlab.models.attention import attention_path
from evitlab.models.config import ModelConfig
from evitlab.models.network import Network, build_model
from evitlab.problems import UserError
from evitlab.prune.costs import count_config_macs
from evitlab.pruning_settings import PruneSettings

ORIGINAL, PRUNED, PUBLISHED = "original", "pruned", "original, attention as published"
MAX_PROBES = 8
PROBE_SHARE = 0.2
"""Of the seconds of the last timing, for each probe."""


@dataclass(frozen=True, kw_only=True)
class Timer:
    """Times networks in turn with the original, explicit attention in all."""

    original: Network
    settings: PruneSettings
    device: str
    seed: int
    smoke: bool

    def time_beside(self, pruned: Network, *, seconds: float, published: bool = False) -> dict[str, Throughput]:
        """Throughput of the original and the pruned network, in turn; with `published`, also of the original as its
        published code runs attention.

        Attention with narrower Q and K than V leaves the fused CPU kernel, so both run step by step.
        """
        group: dict[str, nn.Module] = {ORIGINAL: self.original, PRUNED: pruned}
        if published:
            group[PUBLISHED] = copy.deepcopy(self.original)
        limits: dict[str, Any] = {"time_limit_s": seconds, "max_rounds": 400, "half_width": self.settings.tolerance / 2}
        if self.smoke:
            limits |= {"min_rounds": 2, "max_rounds": 2}
        with attention_path(self.original, "explicit"), attention_path(pruned, "explicit"):
            return measure_throughput(
                group,
                batch_size=self.settings.timing_batch_size,
                image_size=self.original.config.image_size,
                device=self.device,
                seed=self.seed,
                **limits,
            )


@dataclass(kw_only=True)
class Aim:
    """Looks for the share of MACs at which a cut reaches a speed; remembers what it measured."""

    timer: Timer
    target: float
    """Speed over the original's."""
    probes: list[SpeedProbe] = field(default_factory=list)

    def find_share(self, plan: Callable[[float], ModelConfig], *, highest: float) -> float:
        """The share of the original's MACs at which the config that `plan` makes is as fast as asked, within tolerance.

        Fewer MACs are taken to be faster: the share is narrowed down between the slowest that was too fast and the
        fastest that was too slow, in proportion to their speeds, at most so many times; then the nearest is taken.
        """
        near: list[tuple[float, float]] = []
        slow, fast = (highest, 1.0), (0.0, float("inf"))
        share = min(highest, 1 / self.target)
        for _ in range(MAX_PROBES):
            try:
                ratio = self._measure(plan(share))
            except UserError:  # floors
                if not near:
                    slow = (highest, 1.0)
                fast = (share, float("inf"))
            else:
                near.append((abs(ratio / self.target - 1), share))
                if near[-1][0] <= self.timer.settings.tolerance / 2:
                    return share
                slow, fast = (slow, (share, ratio)) if ratio > self.target else ((share, ratio), fast)
            share = _between(slow, fast, self.target)
        if not near:
            raise UserError(f"throughput={self.target:g} cannot be reached: no cut on the way to it is allowed")
        return min(near)[1]

    def _measure(self, config: ModelConfig) -> float:
        network = build_model(config, seed=self.timer.seed).eval().to(self.timer.device)
        seconds = PROBE_SHARE * self.timer.settings.timing_seconds
        ratio = self.timer.time_beside(network, seconds=seconds)[PRUNED].ratio
        assert ratio is not None
        share = count_config_macs(config) / count_config_macs(self.timer.original.config)
        self.probes.append(SpeedProbe(macs_share=share, ratio=ratio))
        return ratio


def _between(slow: tuple[float, float], fast: tuple[float, float], target: float) -> float:
    """Where the target lies between two shares by their speeds, kept off the ends; the middle where one is unknown."""
    if fast[1] == float("inf") or fast[1] <= slow[1]:
        return (slow[0] + fast[0]) / 2
    part = min(0.9, max(0.1, (target - slow[1]) / (fast[1] - slow[1])))
    return slow[0] + part * (fast[0] - slow[0])


def check_speed(found: Mapping[str, Throughput], target: float, tolerance: float) -> None:
    """UserError where the last timing is further from the target than the tolerance, with what was reached."""
    timing = found[PRUNED]
    assert timing.ratio is not None
    assert timing.ratio_low is not None
    assert timing.ratio_high is not None
    if abs(timing.ratio / target - 1) <= tolerance:
        return
    hint = (
        "on small networks the time of a call hardly depends on their channels: larger batches (--with "
        "timing_batch_size=64) or a larger network may help"
    )
    if timing.ratio_low <= target <= timing.ratio_high:
        hint = "too little is known of it here: time it for longer (--with timing_seconds=60), on a quieter machine"
    raise UserError(
        f"throughput={target:g} was missed by more than {tolerance:.0%}: {timing.ratio:.3f} is what was reached (95% "
        f"interval {timing.ratio_low:.3f}-{timing.ratio_high:.3f}); {hint}"
    )
