"""Verdicts on claims, from records in which the answer is known by construction."""

from dataclasses import replace
from inspect import signature
from math import sqrt
from statistics import mean, stdev

import numpy as np
import pytest
from fake_claims import RATIOS, SIZES, WORDS, lay, make, read, spread, time, train, write
from fake_comparison import TEXT, TOP1, make_records
from fake_records import fail, make_profile
from scipy.stats import t as student_t
from scipy.stats import ttest_rel

from evitlab.claims import CLAIMS
from evitlab.report.reproduction.claim_verdicts import (
    JUDGES,
    judge_best,
    judge_ends,
    judge_order,
    judge_rise,
    judge_row,
    judge_slower,
)
from evitlab.report.reproduction.evidence import Results, describe_part
from evitlab.report.reproduction.memory_verdicts import judge_level, judge_memory_falls, judge_memory_place

HOLDS, FAILS, OPEN, MISSING = "holds", "does not hold", "not separable at this budget", "not measured"
MHSA = {"knob": "mhsa_ratio", "inside": (0.2, 0.4)}


def ratios(tmp_path, top1) -> Results:
    study = lay(tmp_path, "one", RATIOS)
    write(tmp_path, "one", train(study, top1))
    return read(tmp_path)


@pytest.mark.parametrize(
    ("means", "verdict", "rows"),
    [
        ((0.2, 0.7, 0.6, 0.5, 0.4, 0.3, 0.1), HOLDS, "mhsa_ratio 0.2 less 0.5"),
        ((0.2, 0.5, 0.6, 0.7, 0.4, 0.3, 0.1), FAILS, "mhsa_ratio 0.4 less 0.5"),
        ((0.2, 0.5, 0.6001, 0.6, 0.4, 0.3, 0.1), OPEN, "mhsa_ratio 0.4 less 0.5"),
    ],
)
def test_the_best_of_some_rows_against_the_best_of_the_others(tmp_path, means, verdict, rows):
    finding = judge_best(ratios(tmp_path, spread(*means)), **MHSA)
    (part,) = finding.parts
    assert (finding.verdict, part.n) == (verdict, 3)
    assert part.what.endswith(rows)


def test_its_interval_is_that_of_scipys_paired_t_test(tmp_path):
    top1 = spread(0.2, 0.7, 0.6, 0.5, 0.4, 0.3, 0.1)
    (part,) = judge_best(ratios(tmp_path, top1), **MHSA).parts
    expected = ttest_rel(top1["mhsa_ratio=0.2"], top1["mhsa_ratio=0.5"]).confidence_interval(0.95)
    assert (part.low, part.high) == pytest.approx((expected.low, expected.high))
    assert part.value == pytest.approx(mean(top1["mhsa_ratio=0.2"]) - mean(top1["mhsa_ratio=0.5"]))


def test_one_seed_separates_nothing(tmp_path):
    top1 = {name: values[:1] for name, values in spread(0.2, 0.7, 0.6, 0.5, 0.4, 0.3, 0.1).items()}
    finding = judge_best(ratios(tmp_path, top1), **MHSA)
    assert finding.verdict == OPEN
    assert finding.notes == ("With one seed no difference can be told from chance.",)
    assert "n = 1 seed, no interval" in describe_part(finding.parts[0])


def test_a_row_that_is_missing_leaves_the_claim_unmeasured_with_its_reason(tmp_path):
    study = lay(tmp_path, "one", RATIOS)
    records = train(study, spread(0.2, 0.7, 0.6, 0.5, 0.4, 0.3, 0.1))
    lost = [fail(r, "MemoryError: no room") if r.variant == "mhsa_ratio=0.5" else r for r in records]
    write(tmp_path, "one", [r for r in lost if r.variant != "mhsa_ratio=1"])
    finding = judge_best(read(tmp_path), **MHSA)
    assert finding.verdict == MISSING
    assert finding.parts[0].note == ("mhsa_ratio=0.5: train: MemoryError: no room; mhsa_ratio=1: train: not run")
    assert judge_ends(read(tmp_path), **MHSA, ends=(0, 1)).verdict == MISSING


@pytest.mark.parametrize(
    ("first", "last", "verdict"), [(0.2, 0.1, HOLDS), (0.2, 0.9, FAILS), (0.7, 0.1, OPEN), (0.7, 0.9, FAILS)]
)
def test_both_ends_must_lose_and_one_that_wins_refutes(tmp_path, first, last, verdict):
    finding = judge_ends(ratios(tmp_path, spread(first, 0.6, 0.7, 0.5, 0.4, 0.3, last)), **MHSA, ends=(0, 1))
    assert finding.verdict == verdict
    assert [part.what[-10:] for part in finding.parts] == ["0 less 0.4", "1 less 0.4"]


@pytest.mark.parametrize(
    ("row", "verdict", "paper"), [("worse", HOLDS, "-1.5"), ("better", FAILS, "-2.3"), ("unsure", OPEN, "-1.4")]
)
def test_a_row_of_an_ablation_has_the_papers_sign_or_not(tmp_path, row, verdict, paper):
    study = lay(tmp_path, "one", TEXT)
    write(tmp_path, "one", make_records(study))
    finding = judge_row(read(tmp_path), rows=("not there", row))
    (part,) = finding.parts
    assert finding.verdict == verdict
    assert part.value == pytest.approx(mean(np.subtract(TOP1[row], TOP1["plain"])))
    assert part.note.startswith(f"In the paper {paper}.")
    assert ("speed is not the one asked for" in part.note) == (row == "unsure")  # 0.9 of the target


def test_a_row_without_a_training_is_not_measured(tmp_path):
    study = lay(tmp_path, "one", TEXT)
    write(tmp_path, "one", make_records(study, lost=[("worse", seed) for seed in range(3)]))
    finding = judge_row(read(tmp_path), rows=("worse",))
    assert finding.verdict == MISSING
    assert "worse: train: no memory" in finding.parts[0].note
    assert judge_row(read(tmp_path), rows=("not there",)).verdict == MISSING
    assert judge_order(read(tmp_path)).verdict == MISSING


SWAPPED = (
    WORDS
    + """
base: efficientvit_m4
variants: {a: {}, b: {ffn_ratio: 3}, c: {ffn_ratio: 4}, d: {ffn_ratio: 5}, e: {ffn_ratio: 6}, f: {ffn_ratio: 7}}
compare_to: a
tasks: {train: {seeds: [0, 1, 2]}}
paper: {top1: {a: 70, b: 69, c: 68, d: 67, e: 66, f: 65}}
"""
)


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [((0.7, 0.6, 0.5, 0.4, 0.3, 0.2), HOLDS), ((0.2, 0.3, 0.4, 0.5, 0.6, 0.7), FAILS), ((0.6, 0.7) * 3, OPEN)],
)
def test_the_order_of_all_rows(tmp_path, ours, verdict):
    study = lay(tmp_path, "one", SWAPPED)
    top1 = {
        name: [value, value + 0.001 * place, value]
        for place, (name, value) in enumerate(zip("abcdef", ours, strict=True))
    }
    write(tmp_path, "one", train(study, top1))
    finding = judge_order(read(tmp_path))
    assert finding.verdict == verdict
    if verdict != OPEN:
        assert finding.parts[0].value == pytest.approx(1 if verdict == HOLDS else -1)


@pytest.mark.parametrize(
    ("means", "verdict", "caveat"),
    [
        ((0.1, 0.2, 0.3), HOLDS, ""),
        ((0.3, 0.2, 0.1), FAILS, ""),
        ((0.1, 0.4, 0.3), HOLDS, "1 step goes the other way"),
        ((0.2, 0.2, 0.2), OPEN, ""),
    ],
)
def test_accuracy_rises_by_the_slope_within_seeds(tmp_path, means, verdict, caveat):
    study = lay(tmp_path, "one", SIZES)
    wiggle = ((-0.01, 0.002, 0.01), (-0.01, 0.0, 0.01), (-0.01, -0.001, 0.0101))
    top1 = {n: [m + w for w in ws] for n, m, ws in zip(("small", "middle", "large"), means, wiggle, strict=True)}
    write(tmp_path, "one", train(study, top1) + time(study, {"base": 1.0}))
    finding = judge_rise(read(tmp_path))
    (part,) = finding.parts
    slopes = [(top1["large"][seed] - top1["small"][seed]) / 2 for seed in range(3)]  # of three points in a row
    half = student_t.ppf(0.975, 2) * stdev(slopes) / sqrt(3)
    assert (part.value, part.high - part.low) == pytest.approx((mean(slopes), 2 * half))
    assert (finding.verdict, finding.caveat) == (verdict, caveat)
    assert any(note.startswith("Kendall's tau of the means with the paper's order") for note in finding.notes)


@pytest.mark.parametrize(
    ("speeds", "verdict", "caveat"),
    [
        ((1.0, 0.8, 0.5), HOLDS, ""),
        ((1.0, 1.2, 0.5), HOLDS, "1 step goes the other way"),
        ((0.5, 0.8, 1.0), FAILS, ""),
        ((1.0, 0.7, 0.99), OPEN, ""),
    ],
)
def test_throughput_falls_from_the_first_row_to_the_last(tmp_path, speeds, verdict, caveat):
    study = lay(tmp_path, "one", SIZES)
    write(tmp_path, "one", time(study, dict(zip(("small", "middle", "large"), speeds, strict=True))))
    finding = judge_slower(read(tmp_path))
    assert (finding.verdict, finding.caveat) == (verdict, caveat)
    assert finding.parts[0].value == pytest.approx(speeds[-1] / speeds[0])
    write(tmp_path, "one", time(study, {"small": 1.0}))
    assert judge_slower(read(tmp_path)).verdict == MISSING


PROFILES = (
    WORDS
    + """
base: {name: swin_t, attention_path: explicit}
variants:
  few: {base: &swin {name: swin_t, attention_path: explicit}, speedup: 1.25, mhsa_ratio: 0.2}
  many: {base: *swin, speedup: 1.25, mhsa_ratio: 0.6}
match: {speedup: 1.25, reference: own}
tasks: {throughput: {}, operators: {}}
"""
)


def profile(share, *, half=0.01):
    return replace(
        make_profile(0.4),
        memory_bound_share=share,
        memory_bound_share_low=share - half,
        memory_bound_share_high=share + half,
    )


@pytest.mark.parametrize(
    ("few", "many", "verdict"), [(0.10, 0.20, HOLDS), (0.20, 0.10, FAILS), (0.150, 0.164, OPEN), (0.150, 0.165, HOLDS)]
)
def test_the_memory_bound_share_falls_with_fewer_mhsa_layers(tmp_path, few, many, verdict):
    study = lay(tmp_path, "one", PROFILES)
    records = [make(study, name, "operators", profile(share)) for name, share in (("few", few), ("many", many))]
    write(tmp_path, "one", records)
    found = judge_memory_falls(read(tmp_path), network="swin_t", ends=(0.2, 0.6))
    (part,) = found.parts
    assert found.verdict == verdict
    assert part.high - part.low == pytest.approx(2 * sqrt(0.01**2 + 0.01**2))
    assert judge_memory_falls(read(tmp_path), network="deit_t", ends=(0.2, 0.6)).verdict == MISSING
    write(tmp_path, "one", records[:1])
    assert judge_memory_falls(read(tmp_path), network="swin_t", ends=(0.2, 0.6)).verdict == MISSING


def test_a_level_is_met_by_the_interval_alone(tmp_path):
    study = lay(tmp_path, "one", PROFILES)
    write(tmp_path, "one", [make(study, "few", "operators", profile(0.435))])
    assert judge_level(read(tmp_path), row="few", share=0.4426).verdict == HOLDS
    below = judge_level(read(tmp_path), row="few", share=0.4526)
    assert (below.verdict, below.caveat) == (FAILS, "on Example CPU @ 2.10GHz; the paper's is a V100")
    assert judge_level(read(tmp_path), row="many", share=0.4).verdict == MISSING


@pytest.mark.parametrize(("mhsa", "verdict"), [(3.0, HOLDS), (0.2, FAILS), (1.0, OPEN)])
def test_where_the_memory_bound_time_is(tmp_path, mhsa, verdict):
    study = lay(tmp_path, "one", PROFILES)
    made = profile(0.2)
    whole = [row for row in made.operators if row.part not in ("MHSA", "FFN")]
    one = next(row for row in made.operators if row.operator_class == "element-wise")
    parts = [replace(one, part="MHSA", seconds=mhsa), replace(one, part="FFN", seconds=1.0)]
    parts.append(replace(one, part="MHSA", operator_class="matrix product", seconds=50.0))  # not memory-bound
    write(tmp_path, "one", [make(study, "base", "operators", replace(made, operators=(*whole, *parts)))])
    assert judge_memory_place(read(tmp_path), names=("swin_t",)).verdict == verdict
    assert judge_memory_place(read(tmp_path), names=("swin_t", "deit_t")).verdict in (FAILS, MISSING)


def test_every_claim_names_a_judge_that_takes_what_it_is_about():
    assert len({claim.name for claim in CLAIMS}) == len(CLAIMS)
    for claim in CLAIMS:
        signature(JUDGES[claim.judge]).bind(*claim.judged_by[0], **claim.about)
