"""The width at which a variant is as fast as asked: from speeds by width to the width to measure next."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import exp, floor, log

from evitlab.measurements.speed import MatchStep, Throughput
from evitlab.models.config import ModelConfig
from evitlab.models.scale import width_step
from evitlab.study import Variant

SLOPE = -1.4
"""Before it is known: change of log speed with log width. MACs go with nearly the square of the width, but speed does
not: DeiT-T of width 160 was 1.26x as fast as of width 192 on 2 cores, a slope of -1.25."""
SLOPES = (-3.0, -0.7)
"""A fitted slope outside is noise, where it leads beyond what has been measured."""
NEIGHBOURS = 4
"""Widths tried on either side of the one that the law gives."""
LAG = 3
"""Steps that a first stage may stay behind the others; see `WidthSearch._hold`."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A width and the network that it stands for."""

    width: float
    """Of the first stage, before rounding."""
    config: ModelConfig
    held: int | None
    """Width of the first stage, where that did not follow."""

    @property
    def first(self) -> int:
        """The first stage's width."""
        return self.config.stages[0].width


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A candidate that has been measured."""

    candidate: Candidate
    speed: Throughput

    @property
    def ratio(self) -> float:
        """Speed over the reference's."""
        assert self.speed.ratio is not None  # only a reference has none
        return self.speed.ratio


@dataclass(kw_only=True)
class WidthSearch:
    """One variant on its way to the target."""

    variant: Variant
    """At the depth that it will have."""
    speedup: float
    tolerance: float
    guess: float
    """Speed over the reference's at the variant's own width, before there is a measurement."""
    is_reference: bool
    """Whether it is as fast as asked whatever a timing says, as nothing tells it from its reference."""
    tried: list[Tried] = field(default_factory=list)
    """The short measurements at first, the full timings alone once there is one."""
    is_timed: bool = False
    """Whether they are the full timings."""
    held: int | None = None
    """Width at which the first stage stays; see `_hold`."""
    may_hold: bool = True
    """Until that has led nowhere."""
    steps: list[MatchStep] = field(default_factory=list)

    def __post_init__(self) -> None:
        config = self.variant.make_config()
        self.own = config.stages[0].width
        self.step = width_step(config.stages[0])
        self.finest = _find_finest(config)

    def next_short(self) -> Candidate | None:
        """What to measure now; None when the search is over."""
        if self.is_reached():
            return None
        if self.is_reference:
            return Candidate(width=self.own, config=self.variant.make_config(), held=None)
        self._hold()
        width = self._choose()
        if width is None and self.held is not None:  # the other stages alone do not get there
            self.held, self.may_hold = None, False
            width = self._choose()
        return None if width is None else self._make(width)

    def next_timing(self) -> Candidate | None:
        """What to time in full now: first the best of the short measurements, then as the full timings say."""
        return self.next_short() if self.is_timed else self.best().candidate

    def take(self, candidate: Candidate, speed: Throughput, *, is_timing: bool) -> None:
        """Note a measurement; the first full timing takes the place of the short ones, which are less certain."""
        if is_timing and not self.is_timed:
            self.tried, self.is_timed, self.held = [], True, candidate.held
        measured = Tried(candidate=candidate, speed=speed)
        self.tried.append(measured)
        self.steps.append(MatchStep(width=candidate.first, ratio=measured.ratio))

    def best(self) -> Tried:
        """What has been measured nearest to the target in speed."""
        return min(self.tried, key=self._error)

    def is_reached(self) -> bool:
        """Whether a measurement was within the tolerance; of the reference itself, whether there is one."""
        return any(self.is_reference or self._error(each) <= self.tolerance for each in self.tried)

    def _hold(self) -> None:
        """Keep the first stage where a single step of its own leaps over the target: only the others change from there.

        In M4 with one FFN a block the step from 132 to 136 channels was 6% in speed, more than a tolerance of 2% spans.
        """
        nearest = sorted(self.tried, key=self._error)
        faster = next((each.candidate.first for each in nearest if each.ratio > self.speedup), None)
        slower = next((each.candidate.first for each in nearest if each.ratio < self.speedup), None)
        can = self.may_hold and self.held is None and self.finest < self.step
        if can and faster is not None and slower is not None and slower - faster == self.step:
            self.held = faster

    def _choose(self) -> float | None:
        known = [each.candidate.config for each in self.tried]
        most = None if self.held is None else self.held + LAG * self.step

        def is_new(width: float) -> bool:
            return (most is None or width < most) and self._make(width).config not in known

        return choose_width(
            self._points(),
            self.speedup,
            step=self.step,
            finest=self.finest,
            tolerance=self.tolerance,
            is_new=is_new,
        )

    def _points(self) -> dict[float, float]:
        """Speeds by width of what the search may still change."""
        same = [each for each in self.tried if each.candidate.held is None]
        if self.held is not None:
            same = [each for each in self.tried if each.candidate.first == self.held]
        return {each.candidate.width: each.ratio for each in same or self.tried} or {self.own: self.guess}

    def _error(self, tried: Tried) -> float:
        return abs(tried.ratio / self.speedup - 1)

    def _make(self, width: float) -> Candidate:
        first = floor(width / self.step + 1e-9) * self.step if self.held is None else self.held
        return Candidate(width=width, config=self.variant.resize(width, first=max(first, self.step)), held=self.held)


def _find_finest(config: ModelConfig) -> float:
    """A change of the first stage's width that moves about one stage by its own step; of several stages half the least,
    as they take their steps at different widths."""
    first, *others = [width_step(stage) * config.stages[0].width / stage.width for stage in config.stages]
    return min(first, *others) / 2 if others else first


def choose_width(
    points: Mapping[float, float],
    speedup: float,
    *,
    step: int,
    finest: float,
    tolerance: float,
    is_new: Callable[[float], bool],
) -> float | None:
    """The width of the first stage to measure next, from speeds by width; None once those about the target have been.

    Speed is taken to be a power of the width, through the nearest faster and the nearest slower width, or while all are
    on one side through the two nearest to the target. What it gives is rounded to a coarse multiple of `step` where
    that is near enough, else to one of `finest`; `is_new` says whether a width makes a network that has not been
    measured. As speed is no smooth law, four neighbours on either side are tried.

    >>> choose_width({192: 1.0}, 1.25, step=2, finest=2, tolerance=0.02, is_new=lambda width: True)
    164
    """
    nearest, slope = _fit(points, speedup)
    ideal = nearest * exp(log(speedup / points[nearest]) / slope)
    for coarse in (4 * step, 2 * step):
        width = max(1, round(ideal / coarse)) * coarse
        if is_new(width) and abs(slope * log(width / ideal)) <= tolerance / 2:
            return width
    counts = {max(1, floor(ideal / finest) + offset) for offset in range(1 - NEIGHBOURS, NEIGHBOURS + 1)}
    by_distance = sorted((count * finest for count in counts), key=lambda w: (abs(log(w / ideal)), w))
    return next((width for width in by_distance if is_new(width)), None)


def _fit(points: Mapping[float, float], speedup: float) -> tuple[float, float]:
    """The measured width nearest to the target in speed, and the slope from there on: log speed by log width."""
    nearest = sorted(points, key=lambda width: abs(log(points[width] / speedup)))
    faster = [width for width in nearest if points[width] > speedup]
    slower = [width for width in nearest if points[width] < speedup]
    if faster and slower:  # between two points any slope is safe, and a staircase may be as steep as it likes
        return nearest[0], log(points[faster[0]] / points[slower[0]]) / log(faster[0] / slower[0])
    if len(nearest) == 1:
        return nearest[0], SLOPE
    first, second = nearest[:2]
    fitted = log(points[first] / points[second]) / log(first / second)
    return first, min(max(fitted, SLOPES[0]), SLOPES[1])
