"""Memory-bound shares and accuracies over the MHSA ratio."""

import numpy as np
import pandas as pd
from matplotlib.colors import to_hex

from evitlab.report.frame import to_bytes
from evitlab.report.series_figures import accuracy_lines, find_series, memory_bound_lines

SWIN, DEIT = {"name": "swin_t", "attention_path": "explicit"}, "deit_t"


def make_table() -> pd.DataFrame:
    rows = [{"variant": "base", "memory_bound_share": 0.5}]
    for base, speedup in ((SWIN, 1.25), (SWIN, 1.5), (DEIT, 1.25)):
        for ratio in (0.6, 0.2, 0.4):
            share = 0.2 + 0.3 * ratio + 0.01 * len(rows)
            rows.append(
                {
                    "variant": f"{len(rows)}",
                    "knob_base": base,
                    "knob_speedup": speedup,
                    "knob_mhsa_ratio": ratio,
                    "memory_bound_share": share,
                    "memory_bound_share_low": share - 0.02,
                    "memory_bound_share_high": share + 0.03,
                    "roofline_memory_bound_share": share / 2,
                }
            )
    return pd.DataFrame(rows)


def test_rows_that_differ_only_in_the_ratio_are_a_series():
    found = find_series(make_table())
    assert list(found) == ["swin_t 1.25x", "swin_t 1.5x", "deit_t 1.25x"]
    assert [list(series["knob_mhsa_ratio"]) for series in found.values()] == [[0.2, 0.4, 0.6]] * 3
    assert list(found["swin_t 1.5x"]["variant"]) == ["5", "6", "4"]


def test_a_ratio_by_itself_is_no_series():
    table = make_table()
    assert find_series(table.drop(columns="knob_mhsa_ratio")) == {}
    assert find_series(table.iloc[:2]) == {}
    assert find_series(table.assign(memory_bound_share=np.nan)) == {}


def test_other_knobs_are_named():
    table = make_table().drop(columns=["knob_base", "knob_speedup"]).assign(knob_qk_dim=[None, *[16] * 9])
    assert list(find_series(table)) == ["qk_dim 16"]
    assert list(find_series(table.drop(columns="knob_qk_dim"))) == ["base"]


def test_lines_hold_the_shares_with_their_intervals():
    table = make_table()
    figure = memory_bound_lines(table, title="t")
    left, right = figure.axes
    series = find_series(table)
    for axes, column in ((left, "memory_bound_share"), (right, "roofline_memory_bound_share")):
        assert [line.get_label() for line in axes.lines] == list(series)
        for line, rows in zip(axes.lines, series.values(), strict=True):
            assert np.allclose(line.get_xdata(), [0.2, 0.4, 0.6])
            assert np.allclose(line.get_ydata(), 100 * rows[column])
    assert len(left.collections) == 3
    assert len(right.collections) == 0  # the roofline's share has no interval
    low, high = left.collections[0].get_segments()[0][:, 1]
    first = next(iter(series.values())).iloc[0]
    assert np.allclose([low, high], [100 * first["memory_bound_share_low"], 100 * first["memory_bound_share_high"]])
    assert (
        len({to_hex(line.get_color()) for line in left.lines}) == len({line.get_marker() for line in left.lines}) == 3
    )


def test_without_a_series_it_says_so_and_the_bytes_stay_the_same():
    assert "no two profiles" in memory_bound_lines(make_table().iloc[:2], title="t").texts[-1].get_text()
    first, second = (to_bytes(memory_bound_lines(make_table(), title="t", subtitle="s"), "png") for _ in range(2))
    assert first == second


def with_accuracy(table: pd.DataFrame) -> pd.DataFrame:
    """Two seeds a variant; the source knows the first six rows."""
    values = [None, *([0.1 + 0.01 * row, 0.2 + 0.02 * row] for row in range(1, 10))]
    top1 = [np.nan, *(float(np.mean(each)) for each in values[1:])]
    paper = [np.nan, *(0.6 + 0.01 * row for row in range(1, 7)), *[np.nan] * 3]
    return table.assign(top1_values=pd.Series(values, dtype=object), top1=top1, paper_top1=paper)


def test_accuracies_are_drawn_from_seed_to_seed_beside_the_source_s():
    table = with_accuracy(make_table())
    ours, paper = accuracy_lines(table, title="t").axes
    series = find_series(table, "top1")
    assert [line.get_label() for line in ours.lines] == list(series)
    for line, bars, rows in zip(ours.lines, ours.collections, series.values(), strict=True):
        assert np.allclose(line.get_ydata(), 100 * rows["top1"])
        for segment, values in zip(bars.get_segments(), rows["top1_values"], strict=True):
            assert np.allclose(segment[:, 1], 100 * np.array(values))
    assert [line.get_label() for line in paper.lines] == ["swin_t 1.25x", "swin_t 1.5x"]
    assert np.allclose(paper.lines[0].get_ydata(), [62, 63, 61])  # by ratio, not by row


def test_without_a_source_ours_stand_alone():
    table = with_accuracy(make_table()).assign(paper_top1=np.nan)
    assert len(accuracy_lines(table, title="t").axes) == 1
    figure = accuracy_lines(table.assign(top1=np.nan), title="t")
    assert "no two accuracies" in figure.texts[-1].get_text()
