"""What a folder of results holds for a claim, and how parts make a verdict."""

import re
from dataclasses import replace

import pytest
from fake_claims import RATIOS, lay, read, spread, train, write
from fake_records import ENVIRONMENT

from evitlab.report.reproduction.claim_verdicts import judge_best
from evitlab.report.reproduction.evidence import Part, Results, combine, judge_sign, read_results

HOLDS, FAILS, OPEN, MISSING = "holds", "does not hold", "not separable at this budget", "not measured"
MHSA = {"knob": "mhsa_ratio", "inside": (0.2, 0.4)}


def test_smoke_records_and_other_machines_are_not_counted(tmp_path):
    study = lay(tmp_path, "one", RATIOS)
    right = train(study, spread(0.2, 0.7, 0.6, 0.5, 0.4, 0.3, 0.1))
    wrong = train(study, spread(0.2, 0.1, 0.1, 0.9, 0.4, 0.3, 0.1))
    smoke = [replace(record, smoke=True, start="2026-02-01T00:00:00+00:00") for record in wrong]
    elsewhere = replace(ENVIRONMENT, machine="ffffffff")
    other = [replace(r, environment=elsewhere, start="2026-03-01T00:00:00+00:00") for r in wrong[:-1]]
    write(tmp_path, "one", [*smoke, *right, *other])
    results = read(tmp_path)
    assert judge_best(results, **MHSA).verdict == HOLDS
    assert results.remarks == (
        "Not counted: 20 measurements of one other machine, device or version; most were made under the conditions "
        "named.",
    )
    more = [replace(r, environment=elsewhere, start="2026-03-01T00:00:00+00:00") for r in wrong]
    write(tmp_path, "one", [*right, *more])  # as many: the latest
    assert judge_best(read(tmp_path), **MHSA).verdict == FAILS


@pytest.mark.parametrize(
    ("records", "reason"),
    [(None, "no results"), ([], "no measurements"), ("broken\n{}\n", "its results cannot be read: .*line 1")],
)
def test_what_cannot_judge_says_why(tmp_path, records, reason):
    if records is not None:
        lay(tmp_path, "one", RATIOS)
        (tmp_path / "one" / "records.jsonl").write_text(records or "")
    found = read_results(tmp_path, "one")
    assert isinstance(found, str)
    assert re.match(reason, found)


def test_a_study_that_has_not_ended_is_read_from_its_file(tmp_path):
    study = lay(tmp_path, "one", RATIOS)
    write(tmp_path, "one", train(study, spread(0.2, 0.7, 0.6, 0.5, 0.4, 0.3, 0.1)))
    (tmp_path / "one" / "study.yaml").rename(tmp_path / "one.yaml")
    found = read_results(tmp_path, "one", studies=tmp_path)
    assert isinstance(found, Results)
    assert judge_best(found, **MHSA).verdict == HOLDS
    assert "measurements without a study" in str(read_results(tmp_path, "one", studies=tmp_path / "none"))


def test_a_refuted_part_refutes_and_a_missing_one_leaves_open():
    parts = {name: Part(what="x", verdict=name) for name in (HOLDS, FAILS, OPEN, MISSING)}
    assert combine([parts[HOLDS], parts[HOLDS]]) == HOLDS
    assert combine([parts[HOLDS], parts[OPEN]]) == OPEN
    assert combine([parts[OPEN], parts[MISSING], parts[HOLDS]]) == MISSING
    assert combine([parts[MISSING], parts[FAILS], parts[HOLDS]]) == FAILS
    assert combine([]) == MISSING


def test_an_interval_that_touches_equality_separates_nothing():
    assert judge_sign(0.1, 0.2) == HOLDS
    assert judge_sign(-0.2, -0.1) == FAILS
    assert judge_sign(-0.2, -0.1, above=False) == HOLDS
    assert judge_sign(0.0, 0.1) == judge_sign(-0.1, 0.0) == judge_sign(None, None) == OPEN
