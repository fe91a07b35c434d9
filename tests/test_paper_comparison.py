"""The paper's differences beside ours: row by row and in sentences."""

import numpy as np
import pandas as pd
import pytest
from fake_comparison import TEXT, TOP1, compare, make_records, read_study
from scipy import stats

from evitlab.report.comparison.differences import Difference
from evitlab.report.comparison.paper import COLUMNS, judge, speed_cells, summarise
from evitlab.study import load_study


@pytest.fixture
def study(tmp_path):
    return read_study(tmp_path)


@pytest.fixture
def comparison(study):
    return compare(study, make_records(study))


def test_each_row_has_the_papers_difference_and_ours(comparison):
    table = comparison.table.set_index("variant")
    assert list(comparison.table.columns) == list(COLUMNS)
    assert list(table.index) == list(TOP1)
    assert table["paper_difference"]["worse"] == pytest.approx(-0.015)
    told = stats.ttest_rel(TOP1["unsure"], TOP1["plain"]).confidence_interval(0.95)
    assert table["difference"]["unsure"] == pytest.approx(-0.08 / 3)
    assert (table["difference_low"]["unsure"], table["difference_high"]["unsure"]) == pytest.approx(tuple(told))
    assert pd.isna(table["difference"]["plain"])
    assert list(table["verdict"].fillna("")) == ["", "agrees", "disagrees", "not separable", "lower"]
    told = [stats.ttest_rel(TOP1[name], TOP1["plain"]).pvalue for name in list(TOP1)[1:]]
    assert list(table["p_value"])[1:] == pytest.approx(told)
    by_hand = [3 * told[0], 3 * told[1], told[2], 4 * told[3]]  # Holm: the least of four tests is the last row's
    assert list(table["p_adjusted"])[1:] == pytest.approx(by_hand)
    assert table[["p_value", "p_adjusted"]].iloc[0].isna().all()
    signs = [None if pd.isna(sign) else bool(sign) for sign in table["sign_agrees"]]
    assert signs == [None, True, False, True, None]
    assert list(table["seeds"]) == [3] * 5


def test_rows_that_the_seeds_do_not_separate_are_named(comparison):
    """unsure less plain and unsure less worse have intervals with 0; the t test says which."""
    table = comparison.table.set_index("variant")
    for name, values in TOP1.items():
        expected = [other for other in TOP1 if other != name and not stats.ttest_rel(values, TOP1[other]).pvalue < 0.05]
        assert table["not_separable_from"][name] == expected
    assert "unsure" in table["not_separable_from"]["plain"]
    assert len(comparison.pairs) == 10


def test_speeds_are_over_the_same_row(comparison):
    table = comparison.table.set_index("variant")
    assert table["paper_speed_ratio"]["worse"] == pytest.approx(16411 / 15914)
    assert table["speed_ratio"]["worse"] == pytest.approx(1.015 / 1.01)
    assert pd.isna(table["paper_speed_ratio"]["better"])
    low, high = table["speed_ratio_low"]["worse"], table["speed_ratio_high"]["worse"]  # of 0.995..1.045, 0.99..1.04
    assert low == pytest.approx(1.015 / 1.01 * np.exp(-np.hypot(np.log(1.015 / 0.995), np.log(1.04 / 1.01))))
    assert high == pytest.approx(1.015 / 1.01 * np.exp(np.hypot(np.log(1.045 / 1.015), np.log(1.01 / 0.99))))


def test_a_ratio_of_lopsided_speeds_is_low_where_its_denominator_is_high():
    """One that may be much faster than measured over one that may be much slower: the quotient reaches far up only."""
    rows = {"variant": ["a", "b"], "speed_reference": ["r", "r"], "speed_ratio": [2.0, 1.0]}
    ends = {"speed_ratio_low": [2.0, 0.9], "speed_ratio_high": [2.2, 1.0]}
    cells = speed_cells(pd.DataFrame(rows | ends).set_index("variant"), "a", "b")
    assert cells["speed_ratio"] == 2
    assert cells["speed_ratio_low"] == pytest.approx(2)
    assert cells["speed_ratio_high"] == pytest.approx(2 * np.exp(np.hypot(np.log(1.1), np.log(1 / 0.9))))


def test_a_row_that_missed_its_speed_says_so(comparison):
    """Matching had reached it; the timing that followed says 0.9 of a target of 1, and 1.015 is inside."""
    table = comparison.table.set_index("variant")
    assert list(table["match_reached"]) == [True, True, True, False, True]
    (text,) = summarise(comparison)
    assert "Not at the speed asked for, by more than the tolerance: unsure." in text


def test_the_whole_in_sentences(comparison):
    (text,) = summarise(comparison)
    assert text.startswith(
        "Compared with plain, n = 3 seeds: of 4 differences 1 separable with the paper's sign, 1 separable against it, "
        "1 separable and lower, where the paper has none; not separable, and so not ranked: unsure."
    )
    assert "Adjusted for 4 comparisons (Holm), worse; better; unknown can still be told from 0." in text
    assert "2 of 3 differences have the paper's sign" in text
    (series,) = comparison.series
    means = [sum(TOP1[name]) / 3 for name in ("plain", "worse", "better", "unsure")]
    told = stats.kendalltau(means, [71.3, 69.8, 69.0, 69.9])
    assert series.correlation.tau == pytest.approx(told.statistic)
    assert f"Kendall's tau with the paper over 4 rows: {told.statistic:.2f} (95% interval" in text
    assert f"a true difference of {100 * series.detectable:.1f} points would be found in 80% of studies" in text
    smaller = sum(abs(theirs) < 100 * series.detectable for theirs in (1.5, 2.3, 1.4))
    assert f"{smaller} of the paper's 3 differences are smaller" in text


def test_only_seeds_that_both_rows_have_are_paired(study):
    found = compare(study, make_records(study, lost={("unsure", 1), ("better", 0), ("better", 2)}))
    table = found.table.set_index("variant")
    assert table["difference"]["unsure"] == pytest.approx(-0.05)
    assert (table["seeds"]["unsure"], table["seeds"]["better"]) == (2, 1)
    assert table["verdict"]["better"] == "not separable"
    assert pd.isna(table["difference_low"]["better"])


def test_what_is_told_apart_by_one_test_of_many_may_not_be_by_all(study):
    """Differences of 4.7 standard errors: p = 0.042 for 2 degrees of freedom, over 0.05 for the second of two tests."""
    near = [value + 0.1 + step for value, step in zip(TOP1["plain"], (-0.037, 0, 0.037), strict=True)]
    found = compare(study, make_records(study, {**TOP1, "better": near}))
    row = found.table.set_index("variant").loc["better"]
    assert row["p_value"] < 0.05 < row["p_adjusted"]
    assert row["verdict"] == "disagrees", "verdicts are one by one"
    (text,) = summarise(found)
    assert "Adjusted for 4 comparisons (Holm), worse; unknown can still be told from 0." in text
    noise = {name: values if name == "plain" else near for name, values in TOP1.items()}
    (text,) = summarise(compare(study, make_records(study, noise)))
    assert "Adjusted for 4 comparisons (Holm), none can still be told from 0." in text
    lost = {(name, seed) for name in TOP1 if name not in ("plain", "worse") for seed in range(3)}
    (text,) = summarise(compare(study, make_records(study, lost=lost)))
    assert "1 separable with the paper's sign" in text
    assert "Adjusted" not in text, "one comparison stands for itself"
    (text,) = summarise(compare(study, make_records(study, lost={("unsure", 1), ("unsure", 2)})))
    assert "Adjusted for 3 comparisons" in text, "a row with a single seed has no test"


def test_one_seed_ranks_nothing(study):
    found = compare(study, make_records(study, {name: values[:1] for name, values in TOP1.items()}))
    assert set(found.table["verdict"].dropna()) == {"not separable"}
    (text,) = summarise(found)
    assert "none can be told from 0; not separable, and so not ranked: worse; better; unsure; unknown." in text
    assert "With one seed no difference could have been told from chance." in text
    assert "Adjusted" not in text


def test_nothing_to_compare_is_none(study, tmp_path):
    lost = {("plain", seed) for seed in range(3)}
    assert compare(study, make_records(study, lost=lost)) is None
    path = tmp_path / "two.yaml"
    path.write_text(TEXT[: TEXT.index("paper:")])
    silent = load_study(path)
    assert compare(silent, make_records(silent)) is None


@pytest.mark.parametrize(
    ("low", "high", "theirs", "expected"),
    [
        (0.01, 0.03, 0.02, "agrees"),
        (0.01, 0.03, -0.02, "disagrees"),
        (-0.03, -0.01, -0.02, "agrees"),
        (-0.01, 0.03, 0.02, "not separable"),
        (0.0, 0.03, 0.02, "not separable"),
        (0.01, 0.03, None, "higher"),
        (-0.03, -0.01, 0.0, "lower"),
        (None, None, 0.02, "not separable"),
    ],
)
def test_verdicts(low, high, theirs, expected):
    value = 0.02 if low is None else (low + high) / 2
    assert judge(Difference(value=value, low=low, high=high, seeds=3), theirs) == expected
