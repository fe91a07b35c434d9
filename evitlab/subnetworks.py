"""Equal speed: scale variants in width, and depth if asked, until their measured throughput is what is asked for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt

from evitlab.measure.macs import count_macs
from evitlab.measure.throughput import measure_throughput
from evitlab.measurements.speed import Match, Throughput
from evitlab.models.network import Network, build_model
from evitlab.settings import MatchSettings, ThroughputSettings, as_arguments
from evitlab.study import Variant
from evitlab.width_search import WidthSearch

ROUNDS, SHARE = 8, 8
"""A short measurement takes an eighth of the rounds of a full timing, and eight at least."""


@dataclass(frozen=True, kw_only=True)
class Matched:
    """Variants at the speeds that were asked for, and the full timings that say so."""

    matches: dict[str, Match]
    """By variant."""
    timings: dict[str, Throughput]
    """By variant and by reference: of each variant that at its chosen width, of each reference the first."""


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
    rounded one by one, the first down, so that wider ones move in finer shares than the first, which stays where a step
    of its own would leap over the target. With `scale: width and depth` blocks are left out (or added) first, in every
    stage the same share, for half of the logarithm of the speedup as the MACs estimate it. A variant that is its
    reference itself and is to be as fast stays as it is, measured for the record: a search would follow the noise.

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
        chosen = {name: each.next_timing() if is_timing else each.next_short() for name, each in searches.items()}
        candidates = {name: candidate for name, candidate in chosen.items() if candidate is not None}
        if not candidates:
            continue
        models = {name: build_model(candidate.config, seed=seed) for name, candidate in candidates.items()}
        compared = {name: searches[name].variant.reference for name in candidates}
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
        for name, candidate in candidates.items():
            searches[name].take(candidate, speeds[name], is_timing=is_timing)
        if is_timing:
            timings = {name: speed for name, speed in speeds.items() if name in references} | timings
    return Matched(
        matches={name: _finish(references[each.variant.reference], each) for name, each in searches.items()},
        timings=timings | {name: each.best().speed for name, each in searches.items()},
    )


def _part(on_progress: Callable[[float], None], plan: Sequence[bool], number: int) -> Callable[[float], None]:
    """Where one measurement stands in the whole plan: a full timing is as much as so many short ones."""
    weights = [SHARE if is_timing else 1 for is_timing in plan]
    before, whole = sum(weights[:number]), sum(weights)
    return lambda done: on_progress((before + weights[number] * done) / whole)


def _start(reference: Network, variant: Variant, settings: MatchSettings, seed: int) -> WidthSearch:
    speedup = variant.speedup
    assert speedup is not None, "a study that matches gives each variant a target"
    config, macs = variant.make_config(), _count(reference)
    ratio = macs / _count(build_model(config, seed=seed))
    if settings.scale == "width and depth":
        variant = variant.with_knobs(depth=scale_depths(variant.depths, sqrt(ratio / speedup)))
        config = variant.make_config()
        ratio = macs / _count(build_model(config, seed=seed))
    return WidthSearch(
        variant=variant,
        speedup=speedup,
        tolerance=settings.tolerance,
        guess=ratio,
        is_reference=speedup == 1 and config == reference.config,
    )


def scale_depths(depths: Sequence[int], factor: float) -> int | list[int]:
    """Blocks of each stage times the factor, at least one: as the knob `depth` takes them.

    >>> scale_depths([2, 2, 6, 2], 0.75)
    [2, 2, 4, 2]
    """
    scaled = [max(1, round(depth * factor)) for depth in depths]
    return scaled if len(scaled) > 1 else scaled[0]


def _finish(reference: Network, search: WidthSearch) -> Match:
    best = search.best()
    matched, speed = best.candidate.config, best.speed
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


def _count(model: Network) -> int:
    return count_macs(model, image_size=model.config.image_size).macs


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
