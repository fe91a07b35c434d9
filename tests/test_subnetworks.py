"""Equal speed, against clocks whose law is known."""

from dataclasses import replace

import pytest

from evitlab import subnetworks
from evitlab.models.network import build_model
from evitlab.models.zoo import make_config
from evitlab.records import Throughput
from evitlab.settings import MatchSettings, ThroughputSettings
from evitlab.subnetworks import choose_width, match_throughput

SMALL = {"depth": 2, "image_size": 32, "patch_size": 8, "num_classes": 4}


SPEED = Throughput(
    images_per_second=1.0,
    images_per_second_low=1.0,
    images_per_second_high=1.0,
    seconds=(1.0,),
    ratio=1.0,
    ratio_low=1.0,
    ratio_high=1.0,
    reference="base",
    group=("base", "variant"),
    batch_size=1,
    image_size=(32, 32),
    precision="fp32",
    memory_format="contiguous",
    folded=True,
    execution="eager",
    attention_path="as built",
    warmup_calls=1,
    calls_per_repeat=1,
    load_average_before=None,
    load_average_after=None,
)


def resize(width: int):
    return make_config("deit_t", width=width, **SMALL)


@pytest.fixture
def clock(monkeypatch):
    """Replaces the stopwatch by a law: speed over the base's as a function of width."""

    def set_law(law):
        measured = []

        def measure_throughput(models, **settings):
            width = models["variant"].config.stages[0].width
            measured.append(width)
            ratio = law(width)
            speed = replace(SPEED, ratio=ratio, ratio_low=ratio - 0.01, ratio_high=ratio + 0.01)
            return {"variant": speed}

        monkeypatch.setattr(subnetworks, "measure_throughput", measure_throughput)
        return measured

    return set_law


def match(speedup: float, **settings):
    return match_throughput(
        build_model(resize(96), seed=0),
        resize,
        width=96,
        step=3,
        settings=MatchSettings(speedup=speedup, **settings),
        timing=ThroughputSettings(),
        device="cpu",
        seed=0,
    )


@pytest.mark.parametrize("exponent", [-1.0, -1.6, -2.4])
@pytest.mark.parametrize("speedup", [0.7, 1.25, 1.5, 2.5])
def test_reaches_the_target_whatever_the_law_of_speed(clock, exponent, speedup):
    measured = clock(lambda width: (width / 96) ** exponent)
    found = match(speedup, tolerance=0.02)
    assert abs((found.width / 96) ** exponent / speedup - 1) <= 0.02 * (1 + 1e-9) or not found.reached
    nearest = min(range(3, 600, 3), key=lambda width: abs((width / 96) ** exponent / speedup - 1))
    best = abs((nearest / 96) ** exponent / speedup - 1)
    assert found.reached == (best <= 0.02)
    assert len(measured) == len(found.steps) <= 6
    assert found.matched_config == resize(found.width).to_dict()
    assert found.width_factor == found.width / 96


def test_a_step_that_cannot_be_met_is_said_so(clock):
    """Speed jumps over the target: no width is near enough, and the nearest is taken."""
    clock(lambda width: 1.4 if width <= 81 else 1.0)
    found = match(1.25)
    assert not found.reached
    assert found.ratio == 1.4
    assert len(found.steps) <= 6


def test_one_measurement_only(clock):
    measured = clock(lambda width: 1.0)
    assert len(match(1.25, max_measurements=1).steps) == len(measured) == 1


def test_prefers_coarse_widths_where_they_are_near_enough():
    ideal = 192 * 1.25 ** (1 / -1.85)  # 170.2: 168 is 14 x 12, and 2.4% off in speed; 171 is 0.9% off
    assert choose_width({192: 1.0}, 1.25, step=3, tolerance=0.02, tried=set()) == 171
    assert choose_width({192: 1.0}, 1.25, step=3, tolerance=0.06, tried=set()) == 168
    assert abs(ideal - 170.2) < 0.1


def test_never_measures_a_width_twice_and_ends():
    assert choose_width({171: 1.3, 174: 1.2}, 1.25, step=3, tolerance=0.02, tried={171, 174}) is None
    assert choose_width({3: 1.1}, 9.0, step=3, tolerance=0.02, tried={3}) in (6, None)


def test_really_measured_on_small_networks():
    found = match(1.3, tolerance=0.3, max_measurements=2)
    assert 0.5 < found.ratio < 4
    assert found.ratio_low <= found.ratio <= found.ratio_high
    assert all(step.macs > 0 for step in found.steps)
