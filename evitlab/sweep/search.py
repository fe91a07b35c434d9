"""What a search may propose: ranges and choices of knobs, the limits of what is trained, and when training stops.

The design of sweeps. Every study, a grid's or a search's, is a set of Optuna trials in one storage: a grid's and named
variants are queued, a search's are asked of a sampler, and both are claimed, run and told by the same code
(`sweep.py`). All that needs exclusion (queueing, proposing, claiming, taking a dead worker's variant back) happens
in one short critical section for each claim (`storages.py`), so no variant is done twice however many workers there
are. A worker shows that it lives by a number that it keeps raising (`workers.py`); records are published with the trial
that made them, so any machine can write them all. Nothing here knows Optuna: proposals are plain knobs.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import product
from math import floor, isfinite, prod
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from evitlab.models.knobs import KNOBS
from evitlab.models.zoo import ZOO, default_knobs
from evitlab.recipes import STRICT, Count
from evitlab.records import digest


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Range:
    """Evenly spaced numbers, both ends among them; whole ones where all three are whole."""

    low: int | float
    high: int | float
    step: Annotated[int | float, Field(gt=0)]

    @property
    def values(self) -> list[int | float]:
        """Every number of the range.

        >>> Range(low=0.1, high=0.45, step=0.1).values
        [0.1, 0.2, 0.3, 0.4]
        """
        count = floor((self.high - self.low) / self.step + 1e-9) + 1
        return [round(self.low + index * self.step, 10) for index in range(count)]


Space = dict[str, list[Any] | Range]
"""Knob -> its choices, or numbers in a range."""

Sampler = Literal["tpe", "nsga2", "random"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SearchSettings:
    """Which subnetworks Optuna may propose, how it chooses, and how many are wanted."""

    variants: Count
    """Different subnetworks to find that are measured and trained; those outside the limits do not count."""
    knobs: Space = Field(default_factory=dict)
    """Of every proposal."""
    bases: dict[str, Space] | None = None
    """Networks to start from in place of the study's base, each with knobs of its own beside those for all."""
    sampler: Sampler = "tpe"
    """tpe, nsga2 or random. One seed and one worker give the same proposals where measurements repeat."""
    seed: Annotated[int, Field(ge=0)] = 0
    proposals: Count | None = None
    """At most so many different subnetworks are looked at, also where the limits leave few; None: ten times
    `variants`."""

    @property
    def most(self) -> int:
        """Different subnetworks looked at, at most."""
        return 10 * self.variants if self.proposals is None else self.proposals

    def space_of(self, base: str | None) -> Space:
        """The knobs of proposals that start from a base; None is the study's."""
        return {**self.knobs, **({} if base is None else (self.bases or {})[base])}

    def count(self) -> int:
        """Combinations in all."""
        return sum(
            prod(len(list_values(values)) for values in self.space_of(base).values()) for base in (self.bases or [None])
        )

    def combinations(self) -> Iterator[dict[str, Any]]:
        """Every proposal there can be."""
        for base in self.bases or [None]:
            space = self.space_of(base)
            start = {} if base is None else {"base": base}
            for values in product(*(list_values(each) for each in space.values())):
                yield {**start, **dict(zip(space, values, strict=True))}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Limits:
    """What is measured and lies outside is recorded as infeasible and never trained."""

    throughput: tuple[float, float] | None = None
    """Measured speed over the reference's, lowest and highest."""
    macs: tuple[float, float] | None = None
    """Multiply-accumulates over those of the study's base, lowest and highest."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class StopSettings:
    """Stop the training of a subnetwork that a completed one, at least as fast, clearly beats at the same step."""

    margin: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Accuracy by which it must lie behind, as a share of all images."""
    after: Annotated[float, Field(ge=0, lt=1)] = 0.25
    """Share of the training before which nothing is stopped."""


def list_values(values: list[Any] | Range) -> list[Any]:
    """All values that a knob may take."""
    return values.values if isinstance(values, Range) else values


def name_parameter(base: str | None, knob: str, search: SearchSettings) -> str:
    """A knob as Optuna's parameter: those of one base alone bear its name, as their ranges differ."""
    return knob if base is None or knob not in (search.bases or {})[base] else f"{base}.{knob}"


def draw_changes(search: SearchSettings, choose: Callable[[str, list[Any] | Range], Any]) -> dict[str, Any]:
    """A proposal, each value chosen by `choose(parameter, values)`: a variant's changes to the base."""
    base = choose("base", list(search.bases)) if search.bases else None
    start = {} if base is None else {"base": base}
    space = search.space_of(base)
    return start | {knob: choose(name_parameter(base, knob, search), values) for knob, values in space.items()}


def fit_heads(changes: Mapping[str, Any], network: str) -> dict[str, Any]:
    """The changes with a single width at the nearest multiple of the first stage's heads: they must divide it.

    >>> fit_heads({"width": 128, "num_heads": 3}, "deit_t")
    {'width': 129, 'num_heads': 3}
    """
    if not isinstance(changes.get("width"), int) or network not in ZOO:
        return dict(changes)
    heads = changes.get("num_heads", default_knobs(network)["num_heads"])
    first = heads[0] if isinstance(heads, list | tuple) else heads
    return {**changes, "width": max(1, floor(changes["width"] / first + 0.5)) * first}


def name_proposal(changes: Mapping[str, Any], network: str) -> str:
    """A short name: the network that it starts from, and digits that tell its knobs."""
    return f"{changes.get('base', network)}-{digest(dict(changes))[:6]}"


def judge_limits(limits: Limits, *, ratio: float | None, macs_share: float | None) -> str | None:
    """Why a network is infeasible: what lies outside; None where it is not, as far as it is measured."""
    found = {"throughput": ratio, "macs": macs_share}
    for name, window in (("macs", limits.macs), ("throughput", limits.throughput)):
        value = found[name]
        if window is not None and value is not None and not window[0] <= value <= window[1]:
            return f"{name} {value:.3g} of the reference's, outside {window[0]:g} to {window[1]:g}"
    return None


def find_search_contradictions(search: SearchSettings | None, limits: Limits | None) -> list[str]:
    """What is wrong with a search and with limits beyond the types of their fields."""
    problems = []
    for name in ("throughput", "macs"):
        window = getattr(limits, name) if limits is not None else None
        if window is not None and not (0 <= window[0] < window[1] and isfinite(window[1])):
            problems.append(f"limits.{name}: must be [lowest, highest], 0 or more, but got {list(window)}")
    if limits is not None and limits.throughput is None and limits.macs is None:
        problems.append("limits: must name throughput or macs, but got neither")
    return problems if search is None else problems + _find_space_problems(search)


def _find_space_problems(search: SearchSettings) -> list[str]:
    spaces = {"search.knobs": search.knobs} | {f"search.bases.{b}": s for b, s in (search.bases or {}).items()}
    problems = []
    for place, space in spaces.items():
        for knob, values in space.items():
            if knob not in KNOBS:
                problems.append(f"{place}: {knob} is not a knob (allowed: {', '.join(KNOBS)})")
            elif isinstance(values, Range) and values.high < values.low:
                got = f"{values.low} to {values.high}"
                problems.append(f"{place}.{knob}: must go from low to high, but got {got}")
            elif not list_values(values):
                problems.append(f"{place}.{knob}: needs at least one value, but got none")
    if search.bases is not None and not search.bases:
        problems.append("search.bases: must name at least one network, but got none")
    if problems:
        return problems
    if search.bases and search.sampler == "nsga2":
        problems.append(
            "search.sampler: nsga2 crosses parents whose knobs are the same, which bases with knobs of their own are "
            "not: use tpe or random, or a study for each base"
        )
    if search.count() < search.variants:
        problems.append(f"search.variants: must be at most {search.count()}, all there are, but got {search.variants}")
    return problems


def find_proposal_problems(search: SearchSettings, base: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Place and network of every value of every knob alone, for its own range to be checked."""
    networks = []
    for name in search.bases or [None]:
        start = dict(base) if name is None else {"name": name}
        for knob, values in search.space_of(name).items():
            place = f"search.{'knobs' if name is None or knob in search.knobs else f'bases.{name}'}.{knob}"
            fitted = knob == "num_heads" and "width" in search.space_of(name)  # proposals round the width to them
            first = {"width": list_values(search.space_of(name)["width"])[0]} if fitted else {}
            for value in list_values(values):
                networks.append((place, {**start, **first, knob: value}))
    return networks
