"""Equal speed, against clocks whose law is known."""

from dataclasses import replace

import pytest
from fake_records import make_throughput

from evitlab import subnetworks
from evitlab.models.network import build_model
from evitlab.settings import MatchSettings, ThroughputSettings
from evitlab.study import Variant
from evitlab.subnetworks import match_throughput, scale_depths

KNOBS = {"depth": 2, "image_size": 32, "patch_size": 8, "num_classes": 4, "width": 96}
BASE = Variant(name="base", network="deit_t", knobs=KNOBS, changes={})


SPEED = make_throughput()
TIMING = ThroughputSettings(batch_size=1)


@pytest.fixture
def clock(monkeypatch):
    """Replaces the stopwatch by a law, speed over the base's as a function of width; full timings may have their own.

    Gives the widths that were measured, a dict for each time: in short, and in full.
    """

    def set_law(law, full_law=None):
        measured, timed = [], []

        def measure_throughput(models, **settings):
            widths = {name: model.config.stages[0].width for name, model in models.items()}
            reference, *names = widths
            full = settings["max_rounds"] == TIMING.max_rounds
            (timed if full else measured).append({name: widths[name] for name in names})
            ratios = {name: (full_law if full and full_law else law)(widths[name]) for name in names}
            return {reference: replace(SPEED, ratio=None)} | {name: speed_of(ratio) for name, ratio in ratios.items()}

        monkeypatch.setattr(subnetworks, "measure_throughput", measure_throughput)
        return measured, timed

    return set_law


def speed_of(ratio):
    return replace(SPEED, ratio=ratio, ratio_low=ratio - 0.01, ratio_high=ratio + 0.01)


def match_all(variants, speedup: float, **settings):
    return match_throughput(
        {"base": build_model(BASE.make_config(), seed=0)},
        [replace(variant, speedup=speedup) for variant in variants],
        settings=MatchSettings(speedup=speedup, **settings),
        timing=TIMING,
        device="cpu",
        seed=0,
    )


def match(speedup: float, **settings):
    return match_all([replace(BASE, name="one")], speedup, **settings).matches["one"]


@pytest.mark.parametrize("exponent", [-1.0, -1.6, -2.4])
@pytest.mark.parametrize("speedup", [0.7, 1.25, 1.5, 2.5])
def test_reaches_the_target_whatever_the_law_of_speed(clock, exponent, speedup):
    measured, timed = clock(lambda width: (width / 96) ** exponent)
    found = match(speedup, tolerance=0.02)
    assert abs((found.width / 96) ** exponent / speedup - 1) <= 0.02 * (1 + 1e-9) or not found.reached
    nearest = min(range(2, 600, 2), key=lambda width: abs((width / 96) ** exponent / speedup - 1))
    best = abs((nearest / 96) ** exponent / speedup - 1)
    assert found.reached == (best <= 0.02)
    assert len(measured) + 1 == len(found.steps) <= 7
    assert timed == [{"one": found.width}]
    assert found.matched_config == BASE.resize(found.width).to_dict()


def test_a_step_that_cannot_be_met_is_said_so(clock):
    """Speed jumps over the target: no width is near enough, and the nearest is taken."""
    clock(lambda width: 1.4 if width <= 81 else 1.0)
    found = match(1.25)
    assert not found.reached
    assert found.ratio == 1.4
    assert len(found.steps) <= 7


def test_what_is_the_reference_itself_follows_no_noise(clock):
    """A timing that says 7% for two equal networks moves neither; one that differs in a knob is searched."""
    measured, timed = clock(lambda width: 1.07 * (width / 96) ** -1.4)
    other = replace(BASE, name="other", knobs={**KNOBS, "mhsa_ratio": 0.25})
    found = match_all([replace(BASE, name="one"), other], 1.0, tolerance=0.02, timings=2).matches
    assert (found["one"].width, found["one"].ratio, len(found["one"].steps)) == (96, 1.07, 2)
    assert found["one"].reached
    assert found["one"].is_reference
    assert found["other"].width > 96
    assert not found["other"].is_reference
    assert "one" not in measured[1]
    assert len(timed) == 1
    assert match(1.1).width != 96


def test_all_are_measured_in_turn_until_each_is_there(clock):
    """The second variant starts right; only the first is measured again."""
    measured, timed = clock(lambda width: (width / 96) ** -2.5)
    narrow = Variant(name="narrow", network="deit_t", knobs={**KNOBS, "mhsa_ratio": 0}, changes={})
    found = match_all([replace(BASE, name="one"), narrow], 1.25)
    assert set(measured[0]) == set(timed[0]) == {"one", "narrow"}
    for name, match in found.matches.items():
        assert match.reached
        short = len(match.steps) - 1
        assert short == sum(name in widths for widths in measured)
        assert all(name not in widths for widths in measured[short:])


def test_one_measurement_only(clock):
    measured, timed = clock(lambda width: 1.0)
    assert len(match(1.25, max_measurements=1).steps) == 2
    assert (len(measured), len(timed)) == (1, 1)


def truth(width):
    return (width / 96) ** -1.4


def test_what_a_full_timing_denies_is_rescaled_by_it_and_timed_again(clock):
    """Short measurements flatter by 8%: one timing finds the target missed, three meet it, by the timings alone."""
    _, timed = clock(lambda width: 1.08 * truth(width), truth)
    missed, met = match(1.25), match(1.25, timings=3)
    assert (missed.reached, met.reached) == (False, True)
    assert (missed.ratio, met.ratio) == (truth(missed.width), truth(met.width))
    assert abs(met.ratio / 1.25 - 1) <= 0.02
    assert [widths["one"] for widths in timed] == [missed.width, missed.width, met.width]
    assert [step.ratio for step in met.steps[-2:]] == [truth(missed.width), truth(met.width)]


def test_a_width_that_only_a_short_measurement_denied_is_timed_in_full(clock):
    """The first width is right, but noise hid it: 1.25 at once would have done."""
    noise = iter([2.0, 0.9])
    measured, timed = clock(lambda width: next(noise), truth)
    found = match(1.25, max_measurements=2, timings=4)
    first, second = (widths["one"] for widths in measured)
    assert [widths["one"] for widths in timed] == [second, first]
    assert (found.width, found.reached) == (first, True)


def test_only_what_missed_is_timed_again_with_its_reference(clock):
    """`slow` is fast enough by the short measurements alone; what is there stays as it was timed."""

    def full(width):
        return truth(width) if width < 96 else 1.0

    _, timed = clock(lambda width: 1.08 * truth(width) if width < 96 else 1.0, full)
    one, slow = replace(BASE, name="one", knobs={**KNOBS, "mhsa_ratio": 0.25}), replace(BASE, name="slow")
    found = match_throughput(
        {"base": build_model(BASE.make_config(), seed=0)},
        [replace(one, speedup=1.0), replace(slow, speedup=1.25)],
        settings=MatchSettings(speedup=1.0, timings=3),
        timing=TIMING,
        device="cpu",
        seed=0,
    )
    assert [set(widths) for widths in timed] == [{"one", "slow"}, {"slow"}]
    assert found.timings["base"].ratio is None
    for name, match in found.matches.items():
        assert match.reached
        assert found.timings[name].ratio == match.ratio == full(match.width)


def test_progress_ends_with_the_plan_and_never_falls_back(monkeypatch):
    seen = []

    def measure_throughput(models, *, on_progress, **settings):
        on_progress(0.5)
        on_progress(1.0)
        return {name: speed_of(0.5) for name in models}

    monkeypatch.setattr(subnetworks, "measure_throughput", measure_throughput)
    match_throughput(
        {"base": build_model(BASE.make_config(), seed=0)},
        [replace(BASE, name="one", speedup=1.25)],
        settings=MatchSettings(speedup=1.25, max_measurements=2, timings=1),
        timing=TIMING,
        device="cpu",
        seed=0,
        on_progress=seen.append,
    )
    assert seen == pytest.approx([0.05, 0.1, 0.15, 0.2, 0.6, 1.0])  # 1, 1 and 8 parts of 10


@pytest.mark.parametrize(("most", "rounds"), [(40, 8), (160, 20), (6, 6)])
def test_short_measurements_take_an_eighth_of_the_rounds(monkeypatch, most, rounds):
    seen = []

    def measure_throughput(models, **settings):
        seen.append((settings["min_rounds"], settings["max_rounds"], settings["protocol"], settings["batch_size"]))
        return {name: speed_of(1.25) for name in models}

    monkeypatch.setattr(subnetworks, "measure_throughput", measure_throughput)
    match_throughput(
        {"base": build_model(BASE.make_config(), seed=0)},
        [replace(BASE, name="one", speedup=1.25)],
        settings=MatchSettings(speedup=1.25),
        timing=ThroughputSettings(batch_size=3, min_rounds=5, max_rounds=most, protocol="cream"),
        device="cpu",
        seed=0,
    )
    assert seen == [(rounds, rounds, "evitlab", 3), (5, most, "cream", 3)]


def test_each_variant_has_its_own_reference_and_target(monkeypatch):
    """A law in seconds: a network takes its width squared, whatever it is compared with."""
    small = replace(BASE, name="small", knobs={**KNOBS, "width": 48})
    seen = []

    def measure_throughput(models, *, references, **settings):
        seen.append((set(models), dict(references)))
        widths = {name: model.config.stages[0].width for name, model in models.items()}
        ratios = {name: (widths[other] / widths[name]) ** 2 for name, other in references.items()}
        return {name: speed_of(ratio) for name, ratio in ratios.items()}

    monkeypatch.setattr(subnetworks, "measure_throughput", measure_throughput)
    found = match_throughput(
        {variant.name: build_model(variant.make_config(), seed=0) for variant in (BASE, small)},
        [
            replace(BASE, name="a", speedup=1.44),
            replace(small, name="b", reference="small", speedup=1.0),
        ],
        settings=MatchSettings(speedup=9.0, tolerance=0.01),
        timing=TIMING,
        device="cpu",
        seed=0,
    ).matches
    assert (found["a"].width, found["a"].speedup, found["a"].reference) == (80, 1.44, "base")  # 96 / sqrt(1.44)
    assert (found["b"].width, found["b"].speedup, found["b"].reference) == (48, 1.0, "small")
    assert len(seen) > 1, "b is there at once, a is not"
    for models, references in seen:
        assert models == set(references) | set(references.values())
        assert all(references[other] == other for other in references.values()), "a reference has no ratio"


def test_depth_takes_half_of_the_speedup_when_asked(clock):
    """At 2.25x, half of the logarithm is a factor of 1.5: eight blocks become round(8 / 1.5) = 5."""
    clock(lambda width: (width / 96) ** -1.4 * 1.6)
    deep = replace(BASE, name="one", knobs={**KNOBS, "depth": 8})
    base = replace(BASE, knobs={**KNOBS, "depth": 8})
    settings = MatchSettings(speedup=2.25, scale="width and depth")
    found = match_throughput(
        {"base": build_model(base.make_config(), seed=0)},
        [replace(deep, speedup=2.25)],
        settings=settings,
        timing=TIMING,
        device="cpu",
        seed=0,
    ).matches["one"]
    assert found.depths == (5,)
    assert len(found.matched_config["stages"][0]["blocks"]) == 5
    assert found.reached
    assert found.matched_config == deep.with_knobs(depth=5).resize(found.width).to_dict()


def test_stages_keep_a_block_each():
    assert scale_depths([2, 2, 6, 2], 0.1) == [1, 1, 1, 1]
    assert scale_depths([2, 2, 6, 2], 1.5) == [3, 3, 9, 3]
    assert scale_depths([12], 0.5) == 6


def test_depth_is_the_knob_however_the_blocks_are_cut():
    """Without FFNs every layer is a block of its own."""
    only_attention = replace(BASE, knobs={**KNOBS, "depth": 8, "mhsa_ratio": 1})
    assert len(only_attention.make_config().stages[0].blocks) == 16
    assert only_attention.depths == [8]
    assert replace(BASE, network="swin_t", knobs={}).depths == [2, 2, 6, 2]
    assert replace(BASE, network="swin_t", knobs={"depth": 3}).depths == [3, 3, 3, 3]


def test_really_measured_on_small_networks():
    found = match(1.3, tolerance=0.3, max_measurements=2)
    assert 0.5 < found.ratio < 4
    assert found.ratio_low <= found.ratio <= found.ratio_high
    assert found.width in {step.width for step in found.steps}
