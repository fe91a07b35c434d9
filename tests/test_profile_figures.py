from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from fake_records import make_peaks, make_profile
from matplotlib.colors import to_rgb
from matplotlib.text import Text

from evitlab.measurements.profile import MEMORY_BOUND, Bandwidth
from evitlab.report.frame import to_bytes
from evitlab.report.profile_figures import CLASS_COLORS, mhsa_ffn_bars, roofline_plot, runtime_breakdown

PROFILE = make_profile(0.4)
PROFILES = {"deit_t": make_profile(0.5), "mhsa_ratio=0.4": PROFILE}


def drawn(figure):
    """The figure after a layout that must not warn, and its first panel."""
    figure.draw_without_rendering()
    return figure.axes[0]


def words(figure):
    return " ".join(text.get_text() for text in figure.texts).replace("\n", " ")


def overlap(texts):
    boxes = [Text.get_window_extent(text) for text in texts]
    return any(box.count_overlaps(boxes[:number]) for number, box in enumerate(boxes))


# The breakdown


def test_bars_are_shares_of_the_classes_memory_bound_first():
    axes = drawn(runtime_breakdown(PROFILES, title="Time"))
    assert [label.get_text() for label in axes.get_yticklabels()] == list(PROFILES)
    total = sum(PROFILE.seconds_by_class.values())
    names = [container.get_label().removesuffix(" (memory-bound)") for container in axes.containers]
    assert tuple(names[:3]) == MEMORY_BOUND
    assert set(names) == set(PROFILE.seconds_by_class)
    for name, container in zip(names, axes.containers, strict=True):
        assert container[1].get_width() == pytest.approx(100 * PROFILE.seconds_by_class[name] / total)
    assert container[1].get_x() + container[1].get_width() == pytest.approx(100)
    assert [each.get_label().endswith("(memory-bound)") for each in axes.containers] == [True] * 3 + [False] * 4


def test_both_memory_bound_shares_are_marked_and_written():
    axes = drawn(runtime_breakdown(PROFILES, title="Time"))
    *intervals, roofline = axes.lines
    low, high = 100 * PROFILE.memory_bound_share_low, 100 * PROFILE.memory_bound_share_high
    assert intervals[1].get_xdata().tolist() == [low, high]
    shares = [100 * profile.roofline_memory_bound_share for profile in PROFILES.values()]
    assert roofline.get_xdata().tolist() == shares
    written = [text.get_text() for text in axes.texts]
    assert f"{100 * PROFILE.memory_bound_share:.1f}" in written
    assert f"{shares[1]:.1f}" in written
    assert not overlap(axes.texts)


def test_without_a_subtitle_stand_the_conditions_that_all_share():
    profiles = {"a": PROFILE, "b": replace(PROFILE, batch_size=1)}
    assert "batch" not in words(runtime_breakdown(profiles, title="Time"))
    assert "224x224 pixels; fp32" in words(runtime_breakdown(profiles, title="Time"))
    assert words(runtime_breakdown(profiles, title="Time", subtitle="of a GPU")) == "Time of a GPU"
    assert "batch 16" in words(mhsa_ffn_bars({"a": PROFILE}, title="T"))
    assert "batch 16" in words(roofline_plot(PROFILE, title="T"))


def test_new_classes_come_last():
    odd = replace(PROFILE, seconds_by_class={"sorting": 1.0, "normalisation": 3.0})
    axes = drawn(runtime_breakdown({"odd": odd}, title="Time"))
    assert [container.get_label() for container in axes.containers] == ["normalisation (memory-bound)", "sorting"]
    assert axes.containers[0][0].get_width() == pytest.approx(75)


def test_colours_of_neighbours_differ_in_lightness():
    """What colour-blind readers and grey prints have left to tell them apart: CIE L* of at least 10 between them."""
    lightness = []
    for color in CLASS_COLORS.values():
        linear = np.array([c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)])
        lightness.append(116 * np.cbrt(linear @ [0.2126, 0.7152, 0.0722]) - 16)
    assert np.abs(np.diff(lightness)).min() > 10


# MHSA and FFN


def test_mhsa_and_ffn_bars_are_milliseconds_by_step():
    axes = drawn(mhsa_ffn_bars(PROFILES, title="Parts"))
    seconds = Counter()
    for operator in PROFILE.operators:
        seconds[operator.part, operator.step] += operator.seconds
    bars = {container.get_label(): container[1] for container in axes.containers}
    assert list(bars) == [f"MHSA: {step}" for step in ("projections", "scores", "softmax", "mixing", "reshapes")] + [
        "FFN"
    ]
    assert bars["FFN"].get_width() == pytest.approx(1000 * seconds["FFN", ""])
    assert bars["MHSA: scores"].get_width() == pytest.approx(1000 * seconds["MHSA", "scores"])
    assert bars["MHSA: scores"].get_x() == pytest.approx(bars["MHSA: projections"].get_width())
    assert bars["FFN"].get_x() == 0
    whole = 1000 * sum(operator.seconds for operator in PROFILE.operators)
    mhsa = 1000 * sum(value for (part, _), value in seconds.items() if part == "MHSA")
    texts = [text.get_text().strip() for text in axes.texts]
    assert texts[2] == f"MHSA {mhsa:.0f} ms, {100 * mhsa / whole:.0f}%"
    assert texts[3].startswith(f"FFN {1000 * seconds['FFN', '']:.1f} ms")
    assert axes.get_xlabel() == "ms in a forward pass of 16 images, as profiled"


def test_every_step_has_a_place():
    steps = ("projections", "scores", "softmax", "mixing", "fused attention", "reshapes", "other")
    first = next(each for each in PROFILE.operators if each.part == "MHSA")
    profile = replace(PROFILE, operators=tuple(replace(first, step=step) for step in steps))
    axes = drawn(mhsa_ffn_bars({"a": profile, "b": replace(profile, batch_size=1)}, title="Parts"))
    assert [container.get_label() for container in axes.containers] == [f"MHSA: {step}" for step in steps]
    assert "1 or 16 images" in axes.get_xlabel()


# The roofline


def test_points_lie_at_their_intensity_and_speed():
    axes = drawn(roofline_plot(PROFILE, title="Roofs"))
    points = {point.get_label(): np.asarray(point.get_offsets()) for point in axes.collections}
    (convolution,) = (each for each in PROFILE.operators if each.operator_class == "convolution")
    expected = (2 * convolution.macs / convolution.bytes, 2 * convolution.macs / convolution.seconds)
    assert points["convolution"].tolist() == [pytest.approx(expected)]
    softmax = [each for each in PROFILE.operators if each.operator_class == "softmax"]
    assert len(points["softmax"]) == len(softmax)
    assert points["softmax"][0] == pytest.approx((1 / 8, softmax[0].bytes / 8 / softmax[0].seconds))
    areas = {point.get_label(): point.get_sizes() for point in axes.collections}
    assert areas["convolution"][0] < areas["normalisation (memory-bound by class)"][0]
    assert sum(len(each) for each in points.values()) == sum(each.bytes > 0 for each in PROFILE.operators)


def test_roofs_are_the_peaks_and_meet_at_the_ridges():
    axes = drawn(roofline_plot(PROFILE, title="Roofs"))
    flat, cache, cache_ridge, memory, memory_ridge = axes.lines
    assert set(flat.get_ydata()) == {5e11}
    for slope, ridge, bandwidth in ((cache, cache_ridge, 3.2e11), (memory, memory_ridge, 6e10)):
        assert np.asarray(slope.get_ydata()) / np.asarray(slope.get_xdata()) == pytest.approx([bandwidth] * 2)
        assert ridge.get_xydata().tolist() == [[5e11 / bandwidth, 5e11]]
    said = " ".join(text.get_text() for text in axes.texts)
    assert "500 GFLOP/s, fp32" in said
    assert "60 GB/s, 1 GiB; ridge 8.3" in said
    assert "320 GB/s, 256 KiB; ridge 1.6" in said


def test_everything_is_inside_the_axes():
    axes = drawn(roofline_plot(PROFILE, title="Roofs"))
    frame = axes.get_window_extent()
    for points in axes.collections:
        places = axes.transData.transform(points.get_offsets())
        assert frame.count_contains(places) == len(places)
    assert all(axes.get_xlim()[0] < line.get_xdata()[-1] <= axes.get_xlim()[1] for line in axes.lines)


def test_the_longest_operators_have_names_that_do_not_overlap():
    axes = drawn(roofline_plot(PROFILE, title="Roofs", labels=8))
    names = [text for text in axes.texts if "/s" not in text.get_text()]
    seconds = Counter()
    for each in PROFILE.operators:
        seconds[f"{each.operator.removeprefix('aten::')} ({each.step or each.part})"] += each.seconds
    assert [text.get_text() for text in names] == [name for name, _ in seconds.most_common(8)]
    flat, *slopes = [text for text in axes.texts if text not in names]
    assert not any(overlap([*names, each]) for each in (flat, *slopes))


def test_one_bandwidth_is_one_slope():
    peaks = replace(make_peaks(), bandwidths=(Bandwidth(working_set_bytes=2**26, bytes_per_second=5e10),))
    axes = drawn(roofline_plot(replace(PROFILE, peaks=peaks), title="Roofs"))
    assert len(axes.lines) == 3
    assert any("64 MiB" in text.get_text() for text in axes.texts)


# Nothing to draw


@pytest.mark.parametrize(
    ("figure", "said"),
    [
        (lambda: runtime_breakdown({}, title="T"), "no operator profile measured yet"),
        (lambda: mhsa_ffn_bars({}, title="T"), "no time in MHSA or FFN measured yet"),
        (lambda: mhsa_ffn_bars({"a": replace(PROFILE, operators=())}, title="T"), "no time in MHSA or FFN"),
        (lambda: roofline_plot(replace(PROFILE, operators=()), title="T"), "no operator that computes was measured"),
    ],
)
def test_nothing_to_draw_is_said(figure, said):
    figure = figure()
    figure.draw_without_rendering()
    assert said in words(figure)
    assert not figure.axes


@pytest.mark.slow
@pytest.mark.parametrize(
    "draw", [runtime_breakdown, mhsa_ffn_bars, lambda p, title: roofline_plot(p["a"], title=title)]
)
def test_equal_profiles_give_equal_bytes(draw):
    first, second = (to_bytes(draw({"a": make_profile()}, title="T"), "png", dpi=50) for _ in "ab")
    assert first == second
