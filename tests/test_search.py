"""What a search may propose, and what is refused before anything runs."""

import pytest

from evitlab.study import StudyError, load_study
from evitlab.sweep.search import (
    Limits,
    Range,
    SearchSettings,
    draw_changes,
    find_search_contradictions,
    fit_heads,
    judge_limits,
    name_proposal,
)

HEAD = """
question: q
source: s
expect: e
cost: c
base: deit_t
"""
SEARCH = """
search: {variants: 4, knobs: {mhsa_ratio: [0, 0.5, 1], width: {low: 96, high: 192, step: 48}}}
tasks: {macs: {}, throughput: {}}
"""


def problems_of(tmp_path, text: str) -> list[str]:
    path = tmp_path / "s.yaml"
    path.write_text(HEAD + text)
    try:
        load_study(path)
    except StudyError as error:
        return error.problems
    return []


def test_a_range_holds_both_ends_and_whole_numbers_stay_whole():
    assert Range(low=2, high=8, step=3).values == [2, 5, 8]
    assert all(isinstance(value, int) for value in Range(low=2, high=8, step=3).values)
    assert Range(low=0.1, high=0.7, step=0.2).values == [0.1, 0.3, 0.5, 0.7]  # 0.1 + 3 * 0.2 is 0.7000000000000001


def test_combinations_are_those_of_each_base_with_the_shared_knobs():
    search = SearchSettings(
        variants=1,
        knobs={"v_ratio": [0.5, 1]},
        bases={"deit_t": {"width": [96, 192]}, "swin_t": {"width": Range(low=48, high=96, step=24)}},
    )
    found = list(search.combinations())
    assert search.count() == len(found) == 2 * 2 + 2 * 3
    assert {"base": "swin_t", "v_ratio": 0.5, "width": 72} in found
    assert len({str(each) for each in found}) == 10


def test_parameters_of_one_base_bear_its_name():
    search = SearchSettings(variants=1, knobs={"v_ratio": [1]}, bases={"deit_t": {"width": [96]}})
    asked = []
    changes = draw_changes(search, lambda name, values: (asked.append(name), values[0])[1])
    assert asked == ["base", "v_ratio", "deit_t.width"]
    assert changes == {"base": "deit_t", "v_ratio": 1, "width": 96}


@pytest.mark.parametrize(
    ("changes", "network", "width"),
    [
        ({"width": 100}, "deit_t", 99),
        ({"width": 128, "num_heads": 4}, "deit_t", 128),
        ({"width": 50, "num_heads": [4, 8, 8, 8]}, "swin_t", 52),
        ({"width": 1, "num_heads": 6}, "deit_t", 6),
        ({"width": [64, 128, 192]}, "efficientvit_m0", [64, 128, 192]),
    ],
)
def test_the_width_goes_to_the_nearest_multiple_of_the_heads(changes, network, width):
    assert fit_heads(changes, network)["width"] == width


def test_equal_knobs_have_one_name_and_others_another():
    assert name_proposal({"width": 96, "depth": 2}, "deit_t") == name_proposal({"depth": 2, "width": 96}, "deit_t")
    assert name_proposal({"width": 96}, "deit_t") != name_proposal({"width": 97}, "deit_t")
    assert name_proposal({"base": "swin_t"}, "deit_t").startswith("swin_t-")


@pytest.mark.parametrize(
    ("ratio", "macs", "expected"),
    [
        (0.5, 0.1, None),
        (2.0, 1.0, None),
        (0.49, 0.5, "throughput 0.49 of the reference's, outside 0.5 to 2"),
        (2.01, 0.5, "throughput 2.01 of the reference's, outside 0.5 to 2"),
        (9.0, 1.1, "macs 1.1 of the reference's, outside 0.1 to 1"),
        (None, None, None),
    ],
)
def test_limits_hold_their_ends_and_what_is_not_measured_lies_inside(ratio, macs, expected):
    limits = Limits(throughput=(0.5, 2), macs=(0.1, 1))
    assert judge_limits(limits, ratio=ratio, macs_share=macs) == expected


def test_a_right_search_has_no_problems(tmp_path):
    assert problems_of(tmp_path, SEARCH) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("variants: 4", "variants: 40"), "search.variants: must be at most 9, all there are, but got 40"),
        (("high: 192", "high: 90"), "search.knobs.width: must go from low to high, but got 96 to 90"),
        (("[0, 0.5, 1]", "[]"), "search.knobs.mhsa_ratio: needs at least one value, but got none"),
        (("[0, 0.5, 1]", "[0, 2]"), "search.knobs.mhsa_ratio: mhsa_ratio must be a number from 0 to 1, but got 2"),
        (("mhsa_ratio", "mhsa"), "search.knobs: mhsa is not a knob"),
        (("variants: 4", "variants: 4, sampler: nsga2, bases: {swin_t: {}}"), "search.sampler: nsga2 crosses parents"),
        (("variants: 4", "variants: 4, bases: {swin: {}}"), "search.bases.swin: unknown network 'swin'"),
        (("macs: {}, throughput: {}", "operators: {}"), "search: needs the task macs, but there is none"),
        (("tasks:", "limits: {macs: [2, 1]}\ntasks:"), "limits.macs: must be [lowest, highest], 0 or more"),
        (("tasks:", "limits: {}\ntasks:"), "limits: must name throughput or macs, but got neither"),
        (("tasks:", "stop: {}\ntasks:"), "stop: needs the task train, but there is none"),
        (("tasks:", "grid: {depth: [1]}\ntasks:"), "grid, search: a study must have one of them, but got both"),
        (("tasks:", "match: {speedup: 1.2}\ntasks:"), "match, search: a search sets each width itself"),
    ],
)
def test_each_mistake_is_named(tmp_path, change, problem):
    found = problems_of(tmp_path, SEARCH.replace(*change))
    assert any(each.startswith(problem) for each in found), found


def test_a_contradiction_needs_both_sides():
    assert find_search_contradictions(None, None) == []
