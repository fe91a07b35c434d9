"""The paper's differences beside ours: row by row and in sentences."""

from dataclasses import replace

import pandas as pd
import pytest
from fake_records import fail, make_match, make_record, make_throughput, make_training
from scipy import stats

from evitlab.report.differences import Difference
from evitlab.report.paper_comparison import COLUMNS, compare_with_paper, judge, summarise
from evitlab.report.tables import select_records, study_table
from evitlab.study import load_study

TEXT = """
question: Which?
source: Table 6
expect: A loss.
cost: seconds
base: efficientvit_m4
variants:
  plain: {}
  worse: {attention: group}
  better: {act: hardswish}
  unsure: {ffn_ratio: 4}
  unknown: {depthwise: false}
match: {speedup: 1.0, tolerance: 0.02}
tasks:
  throughput: {batch_size: 16}
  train: {seeds: [0, 1, 2]}
paper:
  top1: {plain: 71.3, worse: 69.8, better: 69.0, unsure: 69.9}
  images_per_second: {plain: 15914, worse: 16411}
"""
TOP1 = {
    "plain": [0.60, 0.50, 0.55],
    "worse": [0.50, 0.41, 0.45],  # -0.10, -0.09, -0.10
    "better": [0.70, 0.59, 0.65],  # higher, and lower in the paper
    "unsure": [0.55, 0.52, 0.50],  # -0.05, +0.02, -0.05
    "unknown": [0.40, 0.31, 0.36],  # lower; the paper has no value
}
SPEED = {"plain": 1.01, "worse": 1.015, "better": 0.99, "unsure": 0.9, "unknown": 1.0}


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "one.yaml"
    path.write_text(TEXT)
    return load_study(path)


def make_records(study, top1=TOP1, *, lost=()):
    """What a run of the study leaves; `lost` holds (variant, seed) of trainings that failed."""
    records = []
    for variant in study.variants():
        same = {"study": study.name, "variant": variant.name, "knobs": dict(variant.changes)}
        ratio = SPEED[variant.name]
        match = replace(make_match(128), speedup=1.0, tolerance=0.02, reached=True)
        for task, made in (("match", match), ("throughput", make_throughput(ratio=ratio))):
            records.append(make_record(task, made, request=study.request(variant, task), **same))
        for seed, value in enumerate(top1[variant.name]):
            record = make_record("train", make_training(value), request=study.request(variant, "train"), **same)
            record = replace(record, seed=seed)
            records.append(fail(record, "no memory") if (variant.name, seed) in lost else record)
    return records


def compare(study, records):
    chosen = select_records(records, study=study.name, requests=study.requests())
    table = study_table(records, study=study.name, requests=study.requests(), paper_top1=study.paper_top1())
    return compare_with_paper(study, table, chosen)


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
    low, high = table["speed_ratio_low"]["worse"], table["speed_ratio_high"]["worse"]
    assert 1.015 / 1.01 - 0.03 < low < 0.995 / 1.01  # wider than its own -0.02 alone
    assert 1.045 / 1.01 < high < 1.015 / 1.01 + 0.045


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


def test_one_seed_ranks_nothing(study):
    found = compare(study, make_records(study, {name: values[:1] for name, values in TOP1.items()}))
    assert set(found.table["verdict"].dropna()) == {"not separable"}
    (text,) = summarise(found)
    assert "none can be told from 0; not separable, and so not ranked: worse; better; unsure; unknown." in text
    assert "With one seed no difference could have been told from chance." in text


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
