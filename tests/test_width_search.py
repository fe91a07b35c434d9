"""Which width is measured next, against laws of speed by width."""

from dataclasses import replace

import pytest
from fake_records import make_throughput

from evitlab.study import Variant
from evitlab.width_search import WidthSearch, choose_width

SPEED = make_throughput()
M4 = Variant(name="m4", network="efficientvit_m4", knobs={"image_size": 32, "num_classes": 4}, changes={})
"""128, 256 and 384 channels, all in steps of 4: its heads have a split each."""


def choose(points, speedup, *, step, tolerance, tried=(), finest=None):
    new = {"is_new": lambda width: width not in tried}
    return choose_width(points, speedup, step=step, finest=finest or step, tolerance=tolerance, **new)


def test_prefers_coarse_widths_where_they_are_near_enough():
    """The slope of -1.4 puts the target at 192 x 1.25^(-1 / 1.4) = 163.7."""
    assert choose({192: 1.0}, 1.25, step=2, tolerance=0.02) == 164  # 0.2% off in speed
    assert choose({192: 1.0}, 1.25, step=2, tolerance=0.11) == 160  # 3.3% off, a multiple of 8
    assert choose({192: 1.0}, 1.25, step=3, tolerance=0.02) == 165  # the nearest multiple of 3


def test_between_a_faster_and_a_slower_width_it_interpolates_however_steep_the_step():
    """128: 7% too fast, 134: 18% too slow, as M4 with MHSA: log-linear between them gives 129.6, the law 134.7."""
    assert choose({128: 1.074, 134: 0.818}, 1.0, step=2, tolerance=0.001) == 130
    assert choose({128: 1.074, 134: 0.818, 96: 1.4, 160: 0.6}, 1.0, step=2, tolerance=0.001) == 130
    assert choose({128: 0.9, 134: 1.1}, 1.0, step=2, tolerance=0.001) == 132  # wider and faster: 131.2
    assert choose({128: 1.074}, 1.0, step=2, tolerance=0.001) == 134


def test_never_measures_a_width_twice_and_ends():
    """Half way in logarithms is 162.98: four multiples of 2 on either side, by distance."""
    points, tried = {162: 1.3, 164: 1.2}, [162, 164]
    for expected in (166, 160, 168, 158, 170, 156):
        assert choose(points, 1.25, step=2, tolerance=0.001, tried=tried) == expected
        tried.append(expected)
    assert choose(points, 1.25, step=2, tolerance=0.001, tried=tried) is None
    assert choose({2: 1.1}, 9.0, step=2, tolerance=0.02, tried=[2]) == 4


def search_by(law, *, most: int = 8) -> WidthSearch:
    """A search that measures by a law of speed over the widths of M4's stages."""
    search = WidthSearch(variant=M4, speedup=1.0, tolerance=0.02, guess=1.0, is_reference=False)
    for _ in range(most):
        candidate = search.next_short()
        if candidate is None:
            break
        search.take(candidate, replace(SPEED, ratio=law(widths_of(candidate))), is_timing=False)
    return search


def widths_of(candidate):
    return [stage.width for stage in candidate.config.stages]


@pytest.mark.parametrize("start", [0.85, 0.9, 1.04])
def test_wider_stages_give_finer_steps_than_the_first(start):
    """M4's first stage moves in steps of 4 of 128, in speed 6% apart; its last of 4 of 384. All targets are met."""

    def law(widths):
        return start * (sum(widths) / (128 + 256 + 384)) ** -2

    found = search_by(law).best()
    assert abs(law(widths_of(found.candidate)) - 1) <= 0.02
    assert all(width % 4 == 0 for width in widths_of(found.candidate))


def test_a_staircase_is_searched_on_both_sides():
    """Kernels that like multiples of 16 in the last stage: speed jumps by 7%, neighbours are tried until one fits."""

    def law(widths):
        return 0.9 * (sum(widths) / 768) ** -2 * (1.0 if widths[2] % 16 else 1.07)

    search = search_by(law)
    assert search.is_reached()
    assert len(search.tried) > 1
    networks = [tried.candidate.config for tried in search.tried]
    assert all(network not in networks[:number] for number, network in enumerate(networks)), "none is measured twice"


@pytest.mark.parametrize("start", [1.089, 1.09, 1.092])
def test_where_a_step_of_the_first_stage_leaps_over_the_target_the_others_go_on_alone(start):
    """Speed by the first stage mostly: 132 and 136 channels are 5% apart, and the target lies between them."""

    def law(widths):
        first, *others = widths
        return start * (first / 128) ** -1.5 * (sum(others) / 640) ** -0.3

    assert law([132, 272, 408]) > 1.02
    assert law([136, 272, 408]) < 0.98
    search = search_by(law)
    first, *others = widths_of(search.best().candidate)
    assert search.is_reached()
    assert first == 132
    assert sum(others) > 272 + 408


def test_where_the_others_do_not_get_there_either_the_first_stage_goes_on():
    """Short measurements see a step that no other width moves: none is right, and the others stay near in width."""
    search = search_by(lambda widths: (1.2 if widths[0] <= 132 else 0.8) * (sum(widths) / 792) ** -0.1, most=20)
    assert not search.is_reached()
    assert not search.may_hold
    assert max(tried.candidate.width for tried in search.tried if tried.candidate.first == 132) < 132 + 3 * 4


@pytest.mark.parametrize("held", [True, False])
def test_full_timings_go_on_from_what_short_ones_found(held):
    """By the short ones 132 and 136 lie about the target; by the full ones all is right about 8% further on."""
    flat = 0.2 if held else 1.3

    def seen(widths, factor=1.0):
        first, *others = widths
        return factor * 1.087 * (first / 128) ** (-1.8 + flat) * (sum(others) / 640) ** -flat

    search = search_by(seen)
    assert (search.best().candidate.held is not None) == held
    for _ in range(8):
        candidate = search.next_timing()
        if candidate is None:
            break
        search.take(candidate, replace(SPEED, ratio=seen(widths_of(candidate), 1.08)), is_timing=True)
        if len(search.tried) == 1:
            assert search.held == candidate.held == (132 if held else None)
    assert search.is_reached()


def test_one_stage_has_nothing_to_hold():
    deit = Variant(name="one", network="deit_t", knobs={"image_size": 32}, changes={})
    search = WidthSearch(variant=deit, speedup=1.0, tolerance=0.001, guess=1.0, is_reference=False)
    for _ in range(6):
        candidate = search.next_short()
        assert candidate is not None
        search.take(candidate, replace(SPEED, ratio=1.05 if candidate.first <= 190 else 0.95), is_timing=False)
    assert search.held is None
    assert len({tried.candidate.first for tried in search.tried}) == 6


def test_what_is_its_reference_keeps_a_width_that_no_search_would_choose():
    """195 is odd: the search goes by even widths."""
    odd = Variant(name="one", network="deit_t", knobs={"image_size": 32, "width": 195}, changes={})
    search = WidthSearch(variant=odd, speedup=1.0, tolerance=0.02, guess=1.0, is_reference=True)
    candidate = search.next_short()
    assert candidate is not None
    assert candidate.config == odd.make_config()
    search.take(candidate, replace(SPEED, ratio=1.3), is_timing=False)
    assert search.next_short() is None
    assert search.next_timing() == candidate
