"""Verdicts of heads and prunings, from records in which the answer is known by construction."""

from dataclasses import replace
from statistics import mean

import pytest
from fake_claims import WORDS, lay, make, read, write
from fake_heads import make_heads
from fake_pruning import FFN, QK, V, make_groups, make_pruned_record
from fake_records import fail

from evitlab.models.zoo import make_config
from evitlab.report.reproduction.block_verdicts import judge_growth, judge_pruning, judge_splits
from evitlab.report.reproduction.evidence import Results, read_results

HOLDS, FAILS, OPEN, MISSING = "holds", "does not hold", "not separable at this budget", "not measured"

HEADS = (
    WORDS
    + """
base: swin_t
variants: {plain: {}, split: {attention: group}}
tasks: {train: {seeds: [0, 1, 2]}, heads: {}}
"""
)


def heads(tmp_path, plain, split, *, untrained=(0.5,) * 6, untrained_split=(0.5,) * 6) -> Results:
    study = lay(tmp_path, "one", HEADS)
    records = []
    for name, values, control, kind in (
        ("plain", plain, untrained, "mhsa"),
        ("split", split, untrained_split, "group"),
    ):
        config = make_config("swin_t", attention=kind).to_dict()
        for seed, own in enumerate(values):
            found = make_heads(list(own), untrained=list(control))
            records.append(make(study, name, "heads", found, seed=seed, config=config))
    write(tmp_path, "one", records)
    return read(tmp_path)


@pytest.mark.parametrize(
    ("lower", "verdict"), [((5, 6, 5), HOLDS), ((1, 0, 1), FAILS), ((5, 2, 4), OPEN), ((3, 3, 3), OPEN)]
)
def test_head_splits_lower_similarity_in_most_blocks(tmp_path, lower, verdict):
    plain = [[0.5] * 6] * 3
    split = [[0.4] * count + [0.6] * (6 - count) for count in lower]
    finding = judge_splits(heads(tmp_path, plain, split), family="swin")
    assert finding.verdict == verdict
    assert len(finding.parts) == 2  # both definitions
    assert finding.parts[0].value == pytest.approx(mean(lower) / 6)
    assert finding.parts[0].note.startswith(f"{', '.join(map(str, lower))} of 6 blocks by seed.")
    assert finding.caveat == ""
    assert judge_splits(read(tmp_path), family="deit").verdict == MISSING


def test_what_untrained_heads_do_too_is_said_beside_the_verdict(tmp_path):
    results = heads(tmp_path, [[0.5] * 6] * 3, [[0.4] * 6] * 3, untrained_split=(0.3,) * 6)
    finding = judge_splits(results, family="swin")
    assert finding.verdict == HOLDS
    assert "untrained network does the same" in finding.caveat


@pytest.mark.parametrize(
    ("last", "verdict"), [((0.8, 0.7, 0.9), HOLDS), ((0.1, 0.2, 0.1), FAILS), ((0.8, 0.2, 0.5), OPEN)]
)
def test_heads_grow_alike_towards_the_last_blocks(tmp_path, last, verdict):
    plain = [[0.4, 0.4, 0.0, 1.0, value, value] for value in last]  # the middle third does not count
    finding = judge_growth(heads(tmp_path, plain, [[0.5] * 6] * 3), family="swin")
    assert finding.verdict == verdict
    assert finding.parts[0].value == pytest.approx(mean(last) - 0.4)


def prunings(tmp_path, name="prune_swin_t", model="swin_t", *, seeds=1, **channels) -> Results:
    records = [make_pruned_record(model=model, seed=s, groups=make_groups(**channels)) for s in range(seeds)]
    write(tmp_path, name, [replace(record, study=name) for record in records])
    return read(tmp_path, name)


def test_prunings_are_judged_with_their_control_and_their_seeds_said(tmp_path):
    claim = {"claim": "Q and K are trimmed most"}
    same = judge_pruning(prunings(tmp_path), **claim)
    assert (same.verdict, same.parts[0].n) == (HOLDS, 1)
    assert same.caveat == "one seed; an untrained network does the same: no evidence that training matters"
    own = judge_pruning(prunings(tmp_path, seeds=3, control_qk=48), **claim)
    assert (own.verdict, own.parts[0].n, own.caveat) == (HOLDS, 3, "")
    not_so = judge_pruning(prunings(tmp_path, qk=(48,) * 12), **claim)
    assert (not_so.verdict, not_so.caveat) == (FAILS, "one seed")


def test_a_pruning_that_failed_or_was_a_smoke_run_judges_nothing(tmp_path):
    pruned = make_pruned_record(model="swin_t")
    write(tmp_path, "prune_swin_t", [replace(pruned, smoke=True), fail(pruned, "no")])
    assert read_results(tmp_path, "prune_swin_t") == "no pruning by Taylor scores that succeeded"
    write(tmp_path, "prune_swin_t", [make_pruned_record(model="swin_t", importance="random")])
    assert read_results(tmp_path, "prune_swin_t") == "no pruning by Taylor scores that succeeded"


def test_seeds_that_differ_separate_nothing(tmp_path):
    records = [
        make_pruned_record(model="swin_t", seed=0, groups=make_groups(qk=QK)),
        make_pruned_record(model="swin_t", seed=1, groups=make_groups(qk=(48,) * 12)),
    ]
    write(tmp_path, "prune_swin_t", records)
    finding = judge_pruning(read(tmp_path, "prune_swin_t"), claim="Q and K are trimmed most")
    assert (finding.verdict, finding.parts[0].value) == (OPEN, 0.5)


def test_two_prunings_are_compared(tmp_path):
    claim = {"claim": "the FFN is trimmed more in Swin-T than in DeiT-T"}
    swin = prunings(tmp_path, ffn=tuple(count // 2 for count in FFN))
    deit = prunings(tmp_path, "prune_deit_t", "deit_t")
    found = judge_pruning(swin, deit, **claim)
    assert (found.verdict, found.folders) == (HOLDS, ("prune_swin_t", "prune_deit_t"))
    assert judge_pruning(prunings(tmp_path, v=V), **claim).verdict == MISSING  # of one network alone
