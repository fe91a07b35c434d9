"""Figures of prunings: what is drawn, and how it can be told apart."""

import pytest
from fake_pruning import FFN, QK, make_pruned_record

from evitlab.paper import PRUNED_CHANNELS
from evitlab.report.frame import to_bytes
from evitlab.report.pruning.figures import accuracy_plot, channels_plot


def lines_of(axes):
    return {line.get_label(): line for line in axes.get_lines()}


def test_channels_by_block_with_the_control_beside():
    figure = channels_plot([make_pruned_record()], title="Channels")
    qk, _, ffn = figure.axes
    lines = lines_of(qk)
    assert set(lines) == {"before", "control: untrained", "trained, pruned"}
    assert list(lines["trained, pruned"].get_xdata()) == list(range(1, 13))
    assert list(lines["trained, pruned"].get_ydata()) == pytest.approx([count / 48 for count in QK])
    assert list(lines["control: untrained"].get_ydata()) == pytest.approx([3 / 48] * 12)
    assert list(lines_of(ffn)["trained, pruned"].get_ydata()) == pytest.approx([count / 48 for count in FFN])
    looks = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in lines.values()}
    assert len(looks) == 3
    assert lines["control: untrained"].get_linestyle() == "--"


def test_the_papers_curve_is_drawn_where_it_is_known():
    qk, *_ = channels_plot([make_pruned_record(model="swin_t")], title="Channels").axes
    line = lines_of(qk)["the paper's, ImageNet"]
    assert list(line.get_ydata()) == list(PRUNED_CHANNELS["swin_t"]["QK"])
    assert line.get_markerfacecolor() == "white"


def test_a_row_of_panels_a_target_and_a_band_over_seeds():
    records = [make_pruned_record(seed=seed, target_value=value) for value in (0.6, 0.4) for seed in (0, 1)]
    figure = channels_plot(records, title="Channels")
    assert len(figure.axes) == 6
    assert figure.axes[3].get_title(loc="left") == "QK, macs=0.4"
    assert "2 seeds: mean, band" in " ".join(" ".join(text.get_text() for text in figure.texts).split())
    assert to_bytes(figure, "png").startswith(b"\x89PNG")


def test_accuracy_goes_down_with_a_cut_and_up_with_fine_tuning():
    (axes,) = accuracy_plot([make_pruned_record()], title="Accuracy").axes
    lines = lines_of(axes)
    assert list(lines["macs=0.6"].get_xdata()) == pytest.approx([100, 100, 77.5, 77.5, 60, 60])
    assert list(lines["macs=0.6"].get_ydata()) == pytest.approx([91, 91, 88, 92, 80, 90])
    assert lines["control: untrained, never fine-tuned"].get_linestyle() == "--"
    assert axes.xaxis_inverted()


def test_without_prunings_there_is_a_word_instead():
    assert "nothing has been pruned yet" in [text.get_text() for text in channels_plot([], title="Channels").texts]
