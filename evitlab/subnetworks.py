"""Equal speed: scale variants in width, and depth if asked, until their measured throughput is what is asked for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import exp, floor, log, sqrt

from evitlab.measure.macs import count_macs
from evitlab.measure.throughput import measure_throughput
from evitlab.measurements.speed import Match, MatchStep, Throughput
from evitlab.models.config import ModelConfig
from evitlab.models.network import Network, build_model
from evitlab.models.scale import width_step
from evitlab.settings import MatchSettings, ThroughputSettings, as_arguments
from evitlab.study import Variant

SLOPE = -1.4
"""Before it is known: change of log speed with log width. MACs go with nearly the square of the width, but speed does
not: DeiT-T of width 160 was 1.26x as fast as of width 192 on 2 cores, a slope of -1.25."""
SLOPES = (-3.0, -0.7)
"""A fitted slope outside is noise, where it leads beyond what has been measured."""
NEIGHBOURS = 4
"""Widths tried on either side of the one that the law gives."""
ROUNDS, SHARE = 8, 8
"""A short measurement takes an eighth of the rounds of a full timing, and eight at least."""


@dataclass(kw_only=True)
class _Search:
    """One variant on its way to the target."""

    variant: Variant
    """At the depth that it will have."""
    speedup: float
    tolerance: float
    step: int
    finest: float
    """See `_finest` and `choose_width`."""
    points: dict[float, float]
    """Speed over the reference's by width: a guess until there is a measurement."""
    is_reference: bool
    """Whether it is as fast as asked whatever a timing says, as nothing tells it from its reference."""
    taken: dict[float, Throughput] = field(default_factory=dict)
    """Measurements by width: the short ones at first, the full timings alone once there is one."""
    is_timed: bool = False
    """Whether they are the full timings."""
    steps: list[MatchStep] = field(default_factory=list)

    def resize(self, width: float) -> ModelConfig:
        """The network that a width stands for."""
        return self.variant.resize(width, floor_first=True)

    def next_width(self) -> float | None:
        """The width to measure now; None when the search is over."""
        if self.is_reached():
            return None
        if self.is_reference:
            return next(iter(self.points))
        tried = [self.resize(width) for width in self.taken]
        return choose_width(
            self.points,
            self.speedup,
            step=self.step,
            finest=self.finest,
            tolerance=self.tolerance,
            is_new=lambda width: self.resize(width) not in tried,
        )

    def next_timing(self) -> float | None:
        """The width to time in full now: first the best of the short measurements, then as the full timings say."""
        return self.next_width() if self.is_timed else self.best()

    def take(self, width: float, speed: Throughput, *, is_timing: bool) -> None:
        """Note a measurement; the first full timing takes the place of the short ones, which are less certain."""
        if is_timing and not self.is_timed:
            self.taken, self.is_timed = {}, True
        self.taken[width] = speed
        self.points = {tried: _ratio(done) for tried, done in self.taken.items()}
        self.steps.append(MatchStep(width=self.resize(width).stages[0].width, ratio=_ratio(speed)))

    def best(self) -> float:
        """The measured width that is nearest to the target in speed."""
        return min(self.taken, key=lambda width: self.error(self.taken[width]))

    def is_reached(self) -> bool:
        """Whether a measurement was within the tolerance; of the reference itself, whether there is one."""
        return any(self.is_reference or self.error(speed) <= self.tolerance for speed in self.taken.values())

    def error(self, speed: Throughput) -> float:
        """How far a measured speed is from the target, as a share of it."""
        return abs(_ratio(speed) / self.speedup - 1)


@dataclass(frozen=True, kw_only=True)
class Matched:
    """Variants at the speeds that were asked for, and the full timings that say so."""

    matches: dict[str, Match]
    """By variant."""
    timings: dict[str, Throughput]
    """By variant and by reference: the last of each variant at its chosen width, the first of each reference."""


def match_throughput(
    references: Mapping[str, Network],
    variants: Sequence[Variant],
    *,
    settings: MatchSettings,
    timing: ThroughputSettings,
    device: str,
    seed: int,
    on_progress: Callable[[float], None] | None = None,
) -> Matched:
    """The width of each variant at which it is as many times as fast as its reference as it asks for, within the
    tolerance.

    Starts from the MACs at the variant's own width and goes by measured speed, all variants still on their way in
    turn with their references, so that they see one state of the machine. First stages' widths are multiples of four
    times the least step, or of twice that, where one lies near enough, as kernels prefer them; else the stages are
    rounded one by one, the first down, so that wider ones move in finer shares than the first. With `scale: width and
    depth` blocks are left out (or added) first, in every stage the same share, for half of the logarithm of the speedup
    as the MACs estimate it. A variant that is its reference itself and is to be as fast stays as it is, measured for
    the record: a search would follow the noise.

    Short measurements come near; then all are timed in full, as the study's task `throughput` says. What that finds
    outside the tolerance is rescaled by it and timed again, until `settings.timings` full timings have been taken.
    Where no width comes within the tolerance, or the measurements run out, the nearest is taken and said so.
    """
    searches = {variant.name: _start(references[variant.reference], variant, settings, seed) for variant in variants}
    rounds = min(max(ROUNDS, timing.max_rounds // SHARE), timing.max_rounds)
    short = replace(timing, protocol="evitlab", min_rounds=rounds, max_rounds=rounds)
    plan = [False] * settings.max_measurements + [True] * settings.timings
    timings: dict[str, Throughput] = {}
    for number, is_timing in enumerate(plan):
        chosen = {name: each.next_timing() if is_timing else each.next_width() for name, each in searches.items()}
        widths = {name: width for name, width in chosen.items() if width is not None}
        if not widths:
            continue
        models = {name: build_model(searches[name].resize(width), seed=seed) for name, width in widths.items()}
        compared = {name: searches[name].variant.reference for name in widths}
        share = None if on_progress is None else _part(on_progress, plan, number)
        speeds = _measure(
            references,
            models,
            compared,
            timing=timing if is_timing else short,
            device=device,
            seed=seed,
            on_progress=share,
        )
        for name, width in widths.items():
            searches[name].take(width, speeds[name], is_timing=is_timing)
        if is_timing:
            timings = {name: speed for name, speed in speeds.items() if name in references} | timings
    return Matched(
        matches={name: _finish(references[each.variant.reference], each) for name, each in searches.items()},
        timings=timings | {name: each.taken[each.best()] for name, each in searches.items()},
    )


def _part(on_progress: Callable[[float], None], plan: Sequence[bool], number: int) -> Callable[[float], None]:
    """Where one measurement stands in the whole plan: a full timing is as much as so many short ones."""
    weights = [SHARE if is_timing else 1 for is_timing in plan]
    before, whole = sum(weights[:number]), sum(weights)
    return lambda done: on_progress((before + weights[number] * done) / whole)


def _start(reference: Network, variant: Variant, settings: MatchSettings, seed: int) -> _Search:
    assert variant.speedup is not None, "a study that matches gives each variant a target"
    config, macs = variant.make_config(), _count(reference)
    ratio = macs / _count(build_model(config, seed=seed))
    if settings.scale == "width and depth":
        variant = variant.with_knobs(depth=scale_depths(variant.depths, sqrt(ratio / variant.speedup)))
        config = variant.make_config()
        ratio = macs / _count(build_model(config, seed=seed))
    return _Search(
        variant=variant,
        speedup=variant.speedup or 1.0,
        tolerance=settings.tolerance,
        step=width_step(config.stages[0]),
        finest=_finest(config),
        points={config.stages[0].width: ratio},
        is_reference=variant.speedup == 1 and config == reference.config,
    )


def _finest(config: ModelConfig) -> float:
    """A change of the first stage's width that moves about one stage by its own step; of several stages half the least,
    as they take their steps at different widths."""
    first, *others = [width_step(stage) * config.stages[0].width / stage.width for stage in config.stages]
    return min(first, *others) / 2 if others else first


def scale_depths(depths: Sequence[int], factor: float) -> int | list[int]:
    """Blocks of each stage times the factor, at least one: as the knob `depth` takes them.

    >>> scale_depths([2, 2, 6, 2], 0.75)
    [2, 2, 4, 2]
    """
    scaled = [max(1, round(depth * factor)) for depth in depths]
    return scaled if len(scaled) > 1 else scaled[0]


def _finish(reference: Network, search: _Search) -> Match:
    width = search.best()
    speed = search.taken[width]
    matched = search.resize(width)
    assert speed.ratio is not None
    assert speed.ratio_low is not None
    assert speed.ratio_high is not None
    return Match(
        speedup=search.speedup,
        reference=search.variant.reference,
        tolerance=search.tolerance,
        reached=search.is_reached(),
        ratio=speed.ratio,
        ratio_low=speed.ratio_low,
        ratio_high=speed.ratio_high,
        width=matched.stages[0].width,
        depths=tuple(search.variant.depths),
        base_config=reference.config.to_dict(),
        matched_config=matched.to_dict(),
        steps=tuple(search.steps),
    )


def choose_width(
    points: dict[float, float],
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


def _fit(points: dict[float, float], speedup: float) -> tuple[float, float]:
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


def _count(model: Network) -> int:
    return count_macs(model, image_size=model.config.image_size).macs


def _ratio(speed: Throughput) -> float:
    assert speed.ratio is not None  # only a reference has none
    return speed.ratio


def _measure(
    references: Mapping[str, Network],
    models: Mapping[str, Network],
    compared: Mapping[str, str],
    *,
    timing: ThroughputSettings,
    device: str,
    seed: int,
    on_progress: Callable[[float], None] | None,
) -> dict[str, Throughput]:
    """Speeds of the models in turn with the references that they need: `compared` names each one's."""
    needed = {name: network for name, network in references.items() if name in compared.values()}
    group = {**needed, **models}
    return measure_throughput(
        group,
        **as_arguments(timing),
        image_size={name: model.config.image_size for name, model in group.items()},
        device=device,
        seed=seed,
        references={**{name: name for name in needed}, **compared},
        on_progress=on_progress,
    )
