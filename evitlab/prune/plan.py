"""Which channels go: the least important for what they cost, one at a time, until a target is met."""

import heapq
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jaxtyping import Float64
from torch import Tensor

from evitlab.models.config import ModelConfig
from evitlab.problems import UserError
from evitlab.prune.groups import Group, find_groups, find_unprunable, resize_groups

FLOORS: dict[str, int] = {"qk": 4, "v": 4, "ffn": 8}
"""Channels that stay, per head in attention."""
TOLERANCE = 0.01
"""How far the cost may be from the target, as a share of the target."""
Cost = Callable[[ModelConfig], float]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What stays of a network."""

    kept: dict[str, tuple[tuple[int, ...], ...]]
    """By group that had scores, for each head the channels that stay, ascending; as many in every head."""
    target: float
    """Share of the reference cost that was asked for, in 0..1."""
    reference_cost: float
    """What the target is a share of."""
    cost_before: float
    """Of the network that was given; less than the reference where it was pruned before."""
    cost_after: float

    @property
    def channels(self) -> dict[str, int]:
        """By group, how many channels stay, per head in attention."""
        return {key: len(heads[0]) for key, heads in self.kept.items()}

    @property
    def share(self) -> float:
        """Of the reference cost that is left, in 0..1."""
        return self.cost_after / self.reference_cost


def choose_channels(
    config: ModelConfig,
    scores: Mapping[str, Tensor],
    *,
    cost: Cost,
    target: float,
    floors: Mapping[str, int] = FLOORS,
    by_cost: bool = True,
    reference_cost: float | None = None,
) -> Plan:
    """Cut channels, the least score over saved cost first (`by_cost` False: the least score), until cost <= target.

    One cut takes a channel from every head of a group, in each head its own; its score is the sum of theirs. `cost`
    must fall with each. `target` is a share of `reference_cost`, by default the cost of this network. Lower targets
    cut all that higher ones do, so that they never cost more. Groups without scores stay whole.

    Raises UserError for a target that is no share, cannot be reached within the floors, or is missed by more than
    `TOLERANCE` because one cut takes more than that; it says how near one can get.
    """
    if not 0 < target <= 1:
        raise UserError(f"target must be a share of the cost, above 0 and at most 1, but got {target:g}")
    groups = [group for group in find_groups(config) if group.key in scores]
    orders = {group.key: order_channels(group, scores[group.key]) for group in groups}
    before = float(cost(config))
    reference = before if reference_cost is None else float(reference_cost)
    wanted = target * reference
    trail = _Trail(config, groups, cost=cost, before=before, floors=floors)
    heap = [_bid(trail, orders, number, by_cost) for number in range(len(groups)) if trail.left(number)]
    heapq.heapify(heap)
    previous, last = before, None
    while trail.cost > wanted:
        if not heap:
            raise UserError(_explain_floors(target, trail.cost / reference, floors, config))
        last, previous = heapq.heappop(heap)[1], trail.cost
        trail.cut(last)
        if trail.left(last):
            heapq.heappush(heap, _bid(trail, orders, last, by_cost))
    if last is not None and trail.cost < wanted * (1 - TOLERANCE):
        if previous > wanted * (1 + TOLERANCE):
            raise UserError(
                f"target {target:g} cannot be met within {TOLERANCE:.0%}: one channel takes the cost from "
                f"{previous / reference:.4f} to {trail.cost / reference:.4f} of the whole"
            )
        trail.put_back(last)
    kept = {
        group.key: tuple(tuple(sorted(order[count:])) for order in orders[group.key].indices)
        for group, count in zip(groups, trail.removed, strict=True)
    }
    after = float(cost(resize_groups(config, {key: len(heads[0]) for key, heads in kept.items()})))
    return Plan(kept=kept, target=target, reference_cost=reference, cost_before=before, cost_after=after)


@dataclass(frozen=True, kw_only=True)
class Order:
    """In which order a group's channels go."""

    indices: list[list[int]]
    """For each head its channels, the first to go first."""
    scores: list[float]
    """Of the cuts one after another, summed over heads."""


def order_channels(group: Group, scores: Float64[Tensor, "heads channels"]) -> Order:
    """The least first in each head; of chained heads from the last channel on."""
    if tuple(scores.shape) != (group.heads, group.channels):
        wanted = group.heads, group.channels
        raise ValueError(f"{group.key}: scores must have shape {wanted}, but got {tuple(scores.shape)}")
    if not scores.isfinite().all():
        raise ValueError(f"{group.key}: scores must be finite")
    indices = scores.argsort(dim=1, stable=True)
    indices[: group.chained_heads] = indices.new_tensor(range(group.channels - 1, -1, -1))
    return Order(indices=indices.tolist(), scores=scores.gather(1, indices).sum(0).tolist())


class _Trail:
    """How many channels of each group are gone, and what the network costs without them."""

    def __init__(
        self, config: ModelConfig, groups: list[Group], *, cost: Cost, before: float, floors: Mapping[str, int]
    ):
        self.config, self.groups, self._cost = config, groups, cost
        self.removed = [0] * len(groups)
        self.cost = before
        self._most = [max(0, group.channels - floors[group.kind]) for group in groups]
        self._savings = [self._save(number) for number in range(len(groups))]
        # Where each channel of a group saves the same whatever else is gone, as with MACs and parameters, sums do;
        # a cost of steps or of a table is asked again after every cut.
        floor = self._evaluate(self._most)
        sums = before - math.fsum(saving * most for saving, most in zip(self._savings, self._most, strict=True))
        self._is_linear = math.isclose(sums, floor, rel_tol=1e-9)

    def left(self, number: int) -> int:
        """Channels of a group that may still go."""
        return self._most[number] - self.removed[number]

    def saving(self, number: int) -> float:
        """What cutting one more channel of a group saves."""
        return self._savings[number]

    def cut(self, number: int) -> None:
        """Take one channel of a group."""
        self.removed[number] += 1
        if self._is_linear:
            self.cost -= self._savings[number]
            return
        self.cost = self._evaluate(self.removed)
        if self.left(number):
            self._savings[number] = self._save(number)

    def put_back(self, number: int) -> None:
        """Undo the last cut."""
        self.removed[number] -= 1

    def _save(self, number: int) -> float:
        if not self._most[number]:
            return 0.0
        removed = list(self.removed)
        removed[number] += 1
        saving = self.cost - self._evaluate(removed)
        if saving <= 0:
            raise ValueError(f"cost must fall with every channel, but one of {self.groups[number].key} saves {saving}")
        return saving

    def _evaluate(self, removed: list[int]) -> float:
        counts = zip(self.groups, removed, strict=True)
        sizes = {group.key: group.channels - gone for group, gone in counts}
        return float(self._cost(resize_groups(self.config, sizes)))


def _bid(trail: _Trail, orders: Mapping[str, Order], number: int, by_cost: bool) -> tuple[float, int]:
    """The price of a group's next channel, and the group."""
    score = orders[trail.groups[number].key].scores[trail.removed[number]]
    return (score / trail.saving(number) if by_cost else score), number


def _explain_floors(target: float, share: float, floors: Mapping[str, int], config: ModelConfig) -> str:
    least = ", ".join(f"{kind} {count}" for kind, count in floors.items())
    why = "".join(f"; {sentence}" for sentence in find_unprunable(config))
    return f"target {target:g} cannot be reached: with all groups at their floors ({least}) {share:.3f} is left{why}"
