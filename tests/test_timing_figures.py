from dataclasses import replace

import pytest
from fake_records import make_curve, make_record, make_throughput
from matplotlib.text import Text

from evitlab.report.frame import to_bytes
from evitlab.report.tables import TableError
from evitlab.report.timing_figures import batch_curve_plot, ratio_plot

BASE = make_record("throughput", make_throughput(48.0, ratio=None), variant="base")
FAST = make_record("throughput", make_throughput(60.0, ratio=1.25), variant="fast")
SLOW = make_record("throughput", make_throughput(12.0, ratio=0.25), variant="slow")


def drawn(figure):
    figure.draw_without_rendering()  # a layout that collapses is a warning, so an error
    return figure.axes


def words(figure):
    return " ".join(text.get_text() for text in figure.texts).replace("\n", " ")


def test_a_curve_is_drawn_as_measured():
    curve = make_curve(per_call=0.006, per_image=0.002, largest=16)
    calls, speeds = drawn(batch_curve_plot({"m0": curve}))
    line, band = calls.lines
    assert line.get_xdata().tolist() == [1, 2, 4, 8, 16]
    assert line.get_ydata() == pytest.approx([6, 6, 8, 16, 32])
    assert band.get_xdata().tolist() == [1, 2]
    assert band.get_linewidth() > 10
    assert (calls.get_xscale(), calls.get_yscale()) == ("log", "log")
    line, ring = speeds.lines
    assert line.get_ydata().tolist() == [point.images_per_second for point in curve.points]
    assert ring.get_xydata().tolist() == [[4, 500]]
    ends = [(start[1], end[1]) for start, end in speeds.collections[0].get_segments()]
    assert ends == [(point.images_per_second_low, point.images_per_second_high) for point in curve.points]
    assert [text.get_text() for text in speeds.texts] == ["500 at 4"]
    assert [label.get_text() for label in speeds.get_xticklabels()] == ["1", "2", "4", "8", "16"]
    assert speeds.get_ylim()[0] == 0


def test_no_overhead_bound_region_is_no_band():
    calls, _ = drawn(batch_curve_plot({"a": replace(make_curve(), overhead_bound_until=None)}))
    assert len(calls.lines[1].get_xdata()) == 0


def test_several_curves_differ_by_colour_and_marker_and_have_names():
    curves = {"a": make_curve(), "b": make_curve(per_image=0.004, largest=2**16), "c": make_curve(per_call=0.001)}
    figure = batch_curve_plot(curves, title="T")
    calls, speeds = drawn(figure)
    lines = calls.lines[::2]
    assert len({line.get_color() for line in lines}) == len({line.get_marker() for line in lines}) == 3
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b", "c"]
    boxes = [Text.get_window_extent(text) for text in speeds.texts]
    assert len(boxes) == 3
    assert not any(box.count_overlaps(boxes[:number]) for number, box in enumerate(boxes))
    ticks = [label for label in speeds.get_xticklabels() if label.get_text()]
    boxes = [label.get_window_extent() for label in ticks]
    assert not any(box.count_overlaps(boxes[:number]) for number, box in enumerate(boxes))


def test_ratios_have_intervals_and_the_reference_none():
    figure = ratio_plot([BASE, FAST, SLOW])
    (axes,) = drawn(figure)
    segments = axes.collections[0].get_segments()
    assert len(segments[0]) == 0
    assert segments[1].tolist() == [[1.23, 1], [1.28, 1]]
    one, *dots = axes.lines
    assert list(one.get_xdata()) == [1, 1]
    assert [dot.get_xdata().tolist() for dot in dots] == [[1.0], [1.25], [0.25]]
    assert [text.get_text() for text in axes.texts] == [
        "reference", "1.250  (1.230-1.280)", "0.250  (0.230-0.280)",
    ]  # fmt: skip
    assert [label.get_text() for label in axes.get_yticklabels()] == ["base", "fast", "slow"]
    assert "of base" in axes.get_xlabel()
    assert axes.get_xscale() == "log"
    assert "threads 2; batch 16" in words(figure)


@pytest.mark.parametrize(("records", "expected"), [([BASE, FAST, SLOW], {"0.5", "1"}), ([BASE, FAST], {"1.1", "1.2"})])
def test_ticks_are_plain_numbers(records, expected):
    (axes,) = drawn(ratio_plot(records))
    shown = {label.get_text() for label in axes.get_xticklabels(which="both")}
    assert expected <= shown
    assert not any("10^" in text or "times" in text for text in shown)


def test_ratios_of_two_machines_do_not_mix_unless_asked_for():
    elsewhere = replace(FAST, environment=replace(FAST.environment, machine="ffff0000"))
    with pytest.raises(TableError, match="must share their machine"):
        ratio_plot([BASE, elsewhere])
    assert "machine" not in words(ratio_plot([BASE, elsewhere], mixed=True))


@pytest.mark.parametrize(
    ("figure", "said"),
    [(lambda: batch_curve_plot({}), "no batch curve measured yet"), (lambda: ratio_plot([]), "no throughput measured")],
)
def test_nothing_to_draw_is_said(figure, said):
    figure = figure()
    figure.draw_without_rendering()
    assert said in words(figure)
    assert not figure.axes


@pytest.mark.parametrize("draw", [lambda: batch_curve_plot({"a": make_curve()}), lambda: ratio_plot([BASE, FAST])])
def test_equal_timings_give_equal_bytes(draw):
    assert to_bytes(draw(), "png", dpi=50) == to_bytes(draw(), "png", dpi=50)
