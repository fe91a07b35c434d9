"""Knob importance as a picture, and the front over throughput."""

import pandas as pd
import pytest

from evitlab.report.figures import find_front
from evitlab.report.frame import to_bytes
from evitlab.report.search.figures import importance_bars

SHARES = {"mhsa_ratio": 0.6, "qk_dim": 0.3, "width": 0.1}


def make_importance(bases=("deit_t",)) -> pd.DataFrame:
    """As a search leaves it: fANOVA with a spread, PED-ANOVA without, for two objectives."""
    return pd.DataFrame(
        {
            "base": base,
            "objective": objective,
            "evaluator": evaluator,
            "knob": knob,
            "importance": share,
            "spread": 0.05 if evaluator == "fANOVA" else None,
            "variants": 21,
        }
        for base in bases
        for objective in ("top1", "speed_ratio")
        for evaluator in ("fANOVA", "PED-ANOVA")
        for knob, share in SHARES.items()
    )


def test_bars_are_the_importances_most_important_first_with_their_spread():
    figure = importance_bars(make_importance().sample(frac=1, random_state=0), title="T")
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["mhsa_ratio", "qk_dim", "width"]
    assert len(figure.axes) == 2
    for axes in figure.axes:
        bars = {each.get_label(): [bar.get_width() for bar in each] for each in axes.containers}
        assert bars["fANOVA"] == bars["PED-ANOVA"] == pytest.approx([60, 30, 10])
        first = axes.collections[0].get_segments()[0]
        assert list(first[:, 0]) == pytest.approx([55, 65])
        patches = [each[0] for each in axes.containers]
        assert patches[0].get_hatch() != patches[1].get_hatch(), "told apart without colour"
    assert to_bytes(figure, "png").startswith(b"\x89PNG")


def test_each_base_has_a_row():
    figure = importance_bars(make_importance(("deit_t", "swin_t")), title="T")
    assert ["swin_t" in axes.get_title(loc="left") for axes in figure.axes] == [False, False, True, True]


def test_no_bar_is_cut_however_long_those_before_it():
    rows = make_importance(("deit_t", "swin_t"))
    rows.loc[(rows["base"] == "swin_t") & (rows["knob"] == "mhsa_ratio"), "importance"] = 0.9
    for axes in importance_bars(rows, title="T").axes:
        longest = max(bar.get_width() for bars in axes.containers for bar in bars)
        assert axes.get_xlim()[0] == 0
        assert axes.get_xlim()[1] >= max(longest, 90)


def test_the_front_is_what_no_other_beats():
    """Checked against the definition, all pairs."""
    speeds = pd.Series([1.0, 2.0, 3.0, 4.0, 2.0, 1.0], index=list("abcdef"))
    accuracies = pd.Series([9.0, 8.0, 8.0, 1.0, 9.0, 2.0], index=list("abcdef"))
    points = list(zip(speeds.index, speeds, accuracies, strict=True))
    expected = {
        name
        for name, speed, accuracy in points
        if not any(s >= speed and a >= accuracy and (s > speed or a > accuracy) for _, s, a in points)
    }
    assert expected == {"e", "c", "d"}
    assert find_front(speeds, accuracies) == ["e", "c", "d"]
