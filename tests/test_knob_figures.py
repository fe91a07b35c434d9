"""Accuracy and throughput over a knob."""

import pandas as pd
import pytest

from evitlab.report.frame import to_bytes
from evitlab.report.knob_figures import find_knob, find_lines, knob_curves


def make_table(knob="qk_dim", values=(4, 8, 16, 32, 64), bases=(None,), paper=True) -> pd.DataFrame:
    rows = [{"variant": "base", "infer_samples_per_sec": 90.0}]
    for base in bases:
        for number, value in enumerate(values):
            top1 = 0.4 + 0.01 * number
            rows.append(
                {
                    "variant": f"{base} {knob}={value}",
                    f"knob_{knob}": value,
                    "knob_base": base,
                    "top1": top1,
                    "top1_low": top1 - 0.02,
                    "top1_high": top1 + 0.02,
                    "top1_seeds": 2,
                    "top1_values": [top1 - 0.001, top1 + 0.001],
                    "infer_samples_per_sec": 100.0 - number,
                    "infer_samples_per_sec_low": 98.0 - number,
                    "infer_samples_per_sec_high": 101.0 - number,
                    "paper_top1": 0.7 + 0.001 * number if paper else None,
                    "proxy_width": 32,
                }
            )
    table = pd.DataFrame(rows)
    return table.astype({"paper_top1": "float64"}).drop(columns=[] if bases != (None,) else ["knob_base"])


def test_the_knob_is_the_one_number_that_varies():
    assert find_knob(make_table()) == "knob_qk_dim"
    assert find_knob(make_table("ffn_ratio", (1, 2, 3, 4), bases=("deit_t", "swin_t"))) == "knob_ffn_ratio"
    assert find_knob(make_table(values=(4, 8))) is None
    assert find_knob(make_table("norm", ("batch", "layer", "none"))) is None
    assert find_knob(make_table().assign(knob_v_ratio=[None, 1, 2, 3, 4, 5])) is None


def test_a_line_a_network_in_the_order_of_the_knob():
    table = make_table("ffn_ratio", (4, 2, 1, 3), bases=("deit_t", "swin_t"))
    lines = find_lines(table, "knob_ffn_ratio")
    assert list(lines) == ["deit_t", "swin_t"]
    assert [list(rows["knob_ffn_ratio"]) for rows in lines.values()] == [[1, 2, 3, 4]] * 2


def test_accuracy_left_and_throughput_right_the_papers_below():
    speeds = {f"None qk_dim={value}": 16000.0 - value for value in (4, 8, 16, 32, 64)}
    figure = knob_curves(make_table(), speeds, title="T")
    accuracy, theirs, speed, their_speed = figure.axes
    assert accuracy.lines[0].get_ydata() == pytest.approx([40, 41, 42, 43, 44])
    assert speed.lines[0].get_ydata() == pytest.approx([100, 99, 98, 97, 96])
    assert theirs.lines[0].get_ydata() == pytest.approx([70, 70.1, 70.2, 70.3, 70.4])
    assert their_speed.lines[0].get_ydata() == pytest.approx([15996, 15992, 15984, 15968, 15936])
    for left, right in ((accuracy, speed), (theirs, their_speed)):
        assert left.bbox.bounds == right.bbox.bounds, "two axes of one panel"
        assert right.yaxis.get_label_position() == "right"
        assert left.lines[0].get_marker() != right.lines[0].get_marker()
        assert left.lines[0].get_linestyle() != right.lines[0].get_linestyle()
    assert theirs.lines[0].get_markerfacecolor() == "white"
    assert accuracy.get_xscale() == "log"
    assert accuracy.get_ylabel() == "proxy top-1 %"
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[:2] == ["accuracy, left axis", "throughput, right axis"]
    assert len(labels) == 4
    assert to_bytes(figure, "png").startswith(b"\x89PNG")


def test_without_the_papers_there_is_one_row_and_several_networks_have_a_panel_each():
    table = make_table("ffn_ratio", (1, 2, 3, 4), bases=("deit_t", "swin_t"), paper=False)
    figure = knob_curves(table, {}, title="T")
    assert len(figure.axes) == 4
    assert figure.axes[0].get_xscale() == "linear"
    titles = [axes.get_title(loc="left") for axes in figure.axes[:2]]
    assert ["deit_t" in titles[0], "swin_t" in titles[1]] == [True, True]
    assert to_bytes(figure, "png").startswith(b"\x89PNG")


def test_a_knob_timed_but_not_trained_has_its_throughput_alone():
    table = make_table(paper=False).assign(top1=float("nan"), top1_seeds=float("nan"))
    (axes,) = knob_curves(table, {}, title="T").axes
    assert axes.lines[0].get_ydata() == pytest.approx([100, 99, 98, 97, 96])
