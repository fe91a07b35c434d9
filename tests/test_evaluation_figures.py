"""Figures of evaluations: what is drawn is what was measured, and no text lies on another, from 2 to 1000 classes."""

from dataclasses import replace

import numpy as np
import pytest
from fake_evaluation import make_evaluation
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from evitlab.curves import FALSE_POSITIVE_RATES
from evitlab.report.evaluation.figures import class_plot, confusion_plot, reliability_plot, roc_plot

SIZES = [2, 10, 16, 24, 32, 100, 300]


def draw(name: str, classes: int, **changes):
    evaluation, curves = make_evaluation(classes, **changes)
    if name == "confusion":
        figure = confusion_plot(curves, title="T", subtitle="S")
    elif name == "classes":
        figure = class_plot(evaluation, title="T", subtitle="S")
    else:
        figure = {"roc": roc_plot, "reliability": reliability_plot}[name](evaluation, curves, title="T", subtitle="S")
    figure.draw_without_rendering()  # a layout that collapses is a warning, so an error
    return figure


def boxes_of(figure) -> list[tuple[str, Bbox]]:
    texts = list(figure.texts)
    for legend in figure.legends:
        texts += [*legend.get_texts(), legend.get_title()]
    for axes in figure.axes:
        texts += [*axes.texts, axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label]
        if axes.axison:
            for axis in (axes.xaxis, axes.yaxis):
                low, high = sorted(axis.get_view_interval())
                texts += [t.label1 for t in axis.get_major_ticks() if low <= t.get_loc() <= high]
    return [(text.get_text(), text.get_window_extent()) for text in texts if text.get_text() and text.get_visible()]


@pytest.mark.slow
@pytest.mark.parametrize("classes", SIZES)
@pytest.mark.parametrize("name", ["roc", "confusion", "reliability", "classes"])
def test_every_text_is_inside_and_on_no_other(name, classes):
    figure = draw(name, classes)
    boxes = boxes_of(figure)
    assert len(boxes) > 5
    for number, (text, box) in enumerate(boxes):
        assert Bbox.intersection(box, figure.bbox).extents == pytest.approx(box.extents), text
        inner = box.padded(-1)
        for other, place in boxes[:number]:
            assert not inner.overlaps(place.padded(-1)), (text, other)


def test_every_roc_curve_of_ten_classes_has_a_name_and_its_area():
    evaluation, curves = make_evaluation(10)
    figure = draw("roc", 10)
    linear, logarithmic = figure.axes
    macro, *lines = linear.lines[:11]
    assert macro.get_ydata()[1:].tolist() == curves.macro_true_positive_rates.tolist()
    assert macro.get_linewidth() > max(line.get_linewidth() for line in lines)
    for line, rates in zip(lines, curves.true_positive_rates, strict=True):
        assert line.get_xdata().tolist() == [0, *FALSE_POSITIVE_RATES]
        assert line.get_ydata().tolist() == [0, *rates]
    assert len({line.get_color() for line in lines}) == 10
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words[0] == f"{100 * evaluation.macro_auc:.1f} % mean of classes"
    assert words[1] == "99.0 % n00000000"
    assert len(words) == 11
    assert logarithmic.get_xscale() == "log"


def test_of_many_roc_curves_the_worst_have_names():
    figure = draw("roc", 100, absent=3)
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert [word[:6] for word in words[1:]] == ["70.0 %", "70.3 %", "70.6 %", "70.9 %"]
    assert "class 95" in words[2]
    assert figure.legends[0].get_title().get_text() == "area; the 4 worst"


def test_without_areas_there_is_no_roc_curve():
    evaluation, curves = make_evaluation(3)
    figure = roc_plot(replace(evaluation, macro_auc=None), curves, title="T")
    assert not figure.axes
    assert "no class has images both in it and out of it" in [text.get_text() for text in figure.texts]


def test_confusions_are_shares_of_the_true_class():
    _, curves = make_evaluation(4, absent=1)
    matrix = draw("confusion", 4, absent=1).axes[0]
    shares = matrix.images[0].get_array()
    expected = curves.confusion[:3] / curves.confusion[:3].sum(axis=1, keepdims=True)
    assert np.asarray(shares[:3]) == pytest.approx(expected)
    assert shares.mask[3].all(), "no images, no shares"
    assert [label.get_text() for label in matrix.get_yticklabels()] == list(curves.classes)
    written = {(round(t.get_position()[1]), round(t.get_position()[0])): t.get_text() for t in matrix.texts}
    assert written[0, 0] == f"{100 * expected[0, 0]:.0f}"
    assert (0, 2) not in written, "nothing there"


def test_of_a_thousand_classes_a_cell_shows_the_highest_of_its_block():
    _, curves = make_evaluation(601, absent=2)
    shares = curves.confusion[:599] / curves.confusion[:599].sum(axis=1, keepdims=True)
    matrix = draw("confusion", 601, absent=2).axes[0]
    cells = matrix.images[0].get_array()
    assert cells.shape == (201, 201)
    assert cells[7, 7] == shares[21:24, 21:24].max()
    assert cells[199, 199] == shares[597:599, 597:].max() > 0.5, "a block with a row of images and one without"
    assert cells.mask[200].all()
    assert "highest of each 3x3" in matrix.get_title(loc="left")
    assert matrix.get_xlim() == (-0.5, 602.5)


def test_the_pairs_confused_most_stand_beside():
    evaluation, curves = make_evaluation(100)
    pairs = draw("confusion", 100).axes[1]
    assert len(pairs.texts) == len(pairs.patches) == 12
    worst = min(range(100), key=lambda row: evaluation.classes[row].recall)
    share = 100 * (1 - evaluation.classes[worst].recall)  # each class is confused with the next alone
    first, second = curves.classes[worst : worst + 2]
    assert pairs.texts[0].get_text() == f"{first} for {second}: {share:.1f}"
    assert pairs.patches[0].get_width() == pytest.approx(share)
    _, curves = make_evaluation(3)
    figure = confusion_plot(replace(curves, confusion=5 * np.eye(3, dtype=np.int64)), title="T")
    assert [text.get_text() for text in figure.axes[1].texts] == ["no image is taken for another class"]


def test_calibration_is_drawn_as_measured():
    evaluation, curves = make_evaluation(10)
    accuracy, images = draw("reliability", 10).axes
    bars = [bar.get_height() for bar in accuracy.patches]
    assert bars[14] == pytest.approx(100 * evaluation.top1)
    assert np.isnan(bars[:14]).all()
    gap = accuracy.collections[0].get_segments()[-1]
    assert gap[:, 1] == pytest.approx([100 * evaluation.top1, 97])
    assert [bar.get_height() for bar in images.patches] == [0] * 14 + [100]
    assert f"calibration error {100 * evaluation.ece:.1f} %" in accuracy.get_title(loc="left")
    assert curves.bin_counts.sum() == evaluation.images


def test_classes_are_sorted_by_f1():
    evaluation, _ = make_evaluation(10, absent=2)
    (axes,) = draw("classes", 10, absent=2).axes
    values = [bar.get_width() for bar in axes.patches]
    assert values == sorted(values, reverse=True)
    assert sorted(values) == pytest.approx(sorted(100 * each.f1 for each in evaluation.classes[:8]))
    best = max(evaluation.classes[:8], key=lambda each: each.f1)
    assert axes.get_yticklabels()[0].get_text() == f"{best.name} ({best.support})"
    recall, precision = axes.lines
    assert recall.get_xdata()[0] == 100 * best.recall
    assert precision.get_xdata()[0] == 100 * best.precision


def test_of_many_classes_the_ten_best_and_worst_are_shown():
    evaluation, _ = make_evaluation(100)
    values = sorted((100 * each.f1 for each in evaluation.classes), reverse=True)
    best, worst = draw("classes", 100).axes
    assert [bar.get_width() for bar in best.patches] == pytest.approx(values[:10])
    assert [bar.get_width() for bar in worst.patches] == pytest.approx(values[-10:])
    assert worst.get_title(loc="left").startswith("ten worst")


def test_a_dollar_is_no_formula():
    evaluation, curves = make_evaluation(3)
    names = ("$x^{$", "a_$b", "c")
    curves = replace(curves, classes=names)
    scores = tuple(replace(each, name=name) for each, name in zip(evaluation.classes, names, strict=True))
    evaluation = replace(evaluation, classes=scores)
    for figure in (
        roc_plot(evaluation, curves, title="T"),
        confusion_plot(curves, title="T"),
        class_plot(evaluation, title="T"),
    ):
        figure.draw_without_rendering()  # a formula that is none would raise
        assert any("$x^{$" in text.get_text().replace("\\", "") for text in figure.findobj(Text))
