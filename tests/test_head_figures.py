"""Figures of heads: the numbers drawn are those measured, the paper's in a look of its own, gaps stay gaps."""

import numpy as np
import pytest
from fake_heads import make_heads

from evitlab.report.frame import to_bytes
from evitlab.report.heads.figures import drop_plot, matrix_plot, similarity_plot

RESULT = make_heads([0.5, None, 0.7], untrained=[0.3, None, 0.4], drop=True)


def lines_of(axes) -> dict[str, list[float]]:
    return {line.get_label(): list(line.get_ydata()) for line in axes.lines}


def test_lines_are_the_definitions_beside_control_and_paper():
    figure = similarity_plot(RESULT, title="T", paper=("deit_t 1.25x", (0.6, 0.61, 0.62)))
    figure.draw_without_rendering()
    features, maps = figure.axes
    drawn = lines_of(features)
    assert drawn["author's"] == pytest.approx([50, np.nan, 70], nan_ok=True)
    assert drawn["caption's, untrained"] == pytest.approx([20, np.nan, 30], nan_ok=True)
    assert drawn["linear CKA"] == pytest.approx([25, np.nan, 35], nan_ok=True)
    assert drawn["paper, deit_t 1.25x, ImageNet"] == pytest.approx([60, 61, 62])
    looks = {line.get_label(): (line.get_marker(), line.get_linestyle()) for line in features.lines}
    assert looks["paper, deit_t 1.25x, ImageNet"] == ("D", "None")
    assert looks["author's"] == ("o", "-")
    assert looks["author's, untrained"] == ("o", ":")
    assert lines_of(maps)["author's"] == pytest.approx([55, np.nan, 75], nan_ok=True)
    assert not any("paper" in label for label in lines_of(maps))
    assert to_bytes(figure, "png").startswith(b"\x89PNG")


def test_matrices_are_those_of_every_block_with_attention():
    figure = matrix_plot(RESULT.blocks, title="T")
    figure.draw_without_rendering()
    panels = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title(loc="left") for axes in panels] == ["block 1", "block 3"] * 2
    assert np.array(panels[1].images[0].get_array()) == pytest.approx(np.array([[1, 0.7], [0.7, 1]]))
    assert [text.get_text() for text in panels[1].texts] == ["70", "70"]
    assert panels[0].images[0].get_clim() == (-1, 1)
    assert panels[2].images[0].get_clim() == (0, 1)


def test_a_head_without_a_cosine_is_grey_and_many_heads_have_no_numbers():
    result = make_heads([0.5], heads=9)
    first, *rest = result.blocks[0].features.matrix
    blank = ((None,) * 9, *((None, *row[1:]) for row in rest))
    assert len(first) == 9
    object.__setattr__(result.blocks[0].features, "matrix", blank)
    figure = matrix_plot(result.blocks, title="T")
    axes = figure.axes[0]
    assert np.isnan(np.array(axes.images[0].get_array(), dtype=float)).sum() == 17
    assert not axes.texts
    assert not matrix_plot(make_heads([None]).blocks, title="T").axes


def test_bars_are_the_costs_in_points_and_nats():
    figure = drop_plot(RESULT, title="T")
    figure.draw_without_rendering()
    top1, loss = figure.axes
    assert [bar.get_height() for bar in top1.patches] == pytest.approx([4.5, 5, 14.5, 15])
    assert [bar.get_height() for bar in loss.patches] == pytest.approx([0, 0.1, 0, 0.1])
    assert [label.get_text() for label in loss.get_xticklabels()] == ["1", "3"]
    assert "200 images of scenes" in " ".join(text.get_text() for text in figure.texts)
    assert not drop_plot(make_heads([0.5]), title="T").axes
