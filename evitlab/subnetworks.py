"""Equal speed: scale a variant in width until its measured throughput is what the study asks for."""

from collections.abc import Callable
from math import exp, log
from typing import Any

from evitlab.measure.macs import count_macs
from evitlab.measure.throughput import measure_throughput
from evitlab.models.config import ModelConfig
from evitlab.models.network import Network, build_model
from evitlab.records import Match, MatchStep, Throughput
from evitlab.settings import MatchSettings, ThroughputSettings

SLOPE = -1.85
"""Before it is known: change of log speed with log width. MACs go with the square of the width; copies do not."""
SLOPES = (-3.0, -0.7)
"""A fitted slope outside is noise."""
ROUNDS = (6, 16)
"""Rounds of one measurement on the way, at least and at most; the study's own timing follows once all are matched."""


def match_throughput(
    base: Network,
    resize: Callable[[int], ModelConfig],
    *,
    width: int,
    step: int,
    settings: MatchSettings,
    timing: ThroughputSettings,
    device: str,
    seed: int,
    on_progress: Callable[[float], None] | None = None,
) -> Match:
    """The width at which `resize(width)` is `settings.speedup` times as fast as the base, within the tolerance.

    Starts from the MACs at `width`, the variant's own, and goes by measured speed, each time in turn with the base.
    Widths are multiples of `step`; of four times that or twice that where one lies near enough, as kernels prefer
    them. Where no width comes within the tolerance, or the measurements run out, the nearest is taken and said so.
    """
    points = {
        width: _count(base) / _count(build_model(resize(width), seed=seed))
    }  # a guess, dropped once there is a measurement
    steps: dict[int, tuple[MatchStep, Throughput]] = {}
    while len(steps) < settings.max_measurements:
        chosen = choose_width(points, settings.speedup, step=step, tolerance=settings.tolerance, tried=set(steps))
        if chosen is None:
            break
        model = build_model(resize(chosen), seed=seed)
        speed = _measure(base, model, timing=timing, tolerance=settings.tolerance, device=device, seed=seed)
        assert speed.ratio is not None
        steps[chosen] = MatchStep(width=chosen, macs=_count(model), ratio=speed.ratio), speed
        points = {tried: done.ratio for tried, (done, _) in steps.items()}
        if on_progress is not None:
            on_progress(len(steps) / settings.max_measurements)
        if _error(speed.ratio, settings) <= settings.tolerance:
            break
    best, speed = min(steps.values(), key=lambda taken: _error(taken[0].ratio, settings))
    return Match(
        speedup=settings.speedup,
        tolerance=settings.tolerance,
        reached=_error(best.ratio, settings) <= settings.tolerance,
        ratio=best.ratio,
        **_interval(speed),
        width=best.width,
        width_factor=best.width / width,
        base_config=base.config.to_dict(),
        matched_config=resize(best.width).to_dict(),
        steps=tuple(taken for taken, _ in steps.values()),
    )


def choose_width(
    points: dict[int, float], speedup: float, *, step: int, tolerance: float, tried: set[int]
) -> int | None:
    """The width to measure next, from speeds by width; None once the widths beside the target have been tried.

    Speed is taken to be a power of the width, through the two widths nearest to the target.

    >>> choose_width({192: 1.0}, 1.25, step=3, tolerance=0.02, tried=set())
    171
    """
    nearest = sorted(points, key=lambda width: abs(log(points[width] / speedup)))
    slope = SLOPE
    if len(nearest) > 1:
        first, second = nearest[:2]
        fitted = log(points[first] / points[second]) / log(first / second)
        slope = min(max(fitted, SLOPES[0]), SLOPES[1])
    ideal = nearest[0] * exp(log(speedup / points[nearest[0]]) / slope)
    for coarse in (4 * step, 2 * step):
        width = max(1, round(ideal / coarse)) * coarse
        if width not in tried and abs(slope * log(width / ideal)) <= tolerance / 2:
            return width
    by_distance = sorted((count * step for count in _counts_around(ideal / step)), key=lambda w: abs(log(w / ideal)))
    return next((width for width in by_distance if width not in tried), None)


def _counts_around(count: float) -> list[int]:
    """The whole numbers beside one that is not, none below 1."""
    below = max(1, int(count))
    return [below, below + 1]


def _count(model: Network) -> int:
    return count_macs(model, image_size=model.config.image_size).macs


def _error(ratio: float, settings: MatchSettings) -> float:
    return abs(ratio / settings.speedup - 1)


def _measure(
    base: Network, model: Network, *, timing: ThroughputSettings, tolerance: float, device: str, seed: int
) -> Throughput:
    timed = measure_throughput(
        {"base": base, "variant": model},
        batch_size=timing.batch_size,
        image_size={"base": base.config.image_size, "variant": model.config.image_size},
        device=device,
        seed=seed,
        half_width=tolerance / 2,
        min_rounds=min(ROUNDS[0], timing.max_rounds),
        max_rounds=min(ROUNDS[1], timing.max_rounds),
        time_limit_s=timing.time_limit_s,
    )
    return timed["variant"]


def _interval(speed: Throughput) -> dict[str, Any]:
    return {"ratio_low": speed.ratio_low, "ratio_high": speed.ratio_high}
