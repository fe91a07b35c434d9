"""The paper's claims against prunings and their controls."""

from statistics import mean

import pytest
from fake_pruning import FFN, QK, V, make_groups, make_pruned_record, make_pruning

from evitlab.report.pruning.claims import ACROSS, claim_table, kept_by_kind, kept_by_third, render_claims

QK_CLAIM, V_CLAIM, LAST_CLAIM = "Q and K are trimmed most", "V is kept most", (
    "the last third of the blocks is trimmed most"
)  # fmt: skip


def verdict_of(table, claim):
    (row,) = table[table["claim"] == claim].to_dict("records")
    return row


def test_shares_are_means_over_layers():
    found = make_pruning()
    kept = kept_by_kind(found, "after")
    assert kept["QK"] == pytest.approx(mean(count / 48 for count in QK))
    assert kept["FFN"] == pytest.approx(mean(count / 192 for count in FFN))
    thirds = kept_by_third(found, "after")
    last = [QK[i] / 48 for i in range(8, 12)] + [V[i] / 48 for i in range(8, 12)] + [FFN[i] / 192 for i in range(8, 12)]
    assert thirds["last"] == pytest.approx(mean(last))
    assert kept_by_kind(found, "control")["V"] == pytest.approx(30 / 48)


def test_a_claim_that_the_control_meets_is_no_evidence():
    table = claim_table([make_pruned_record()])
    row = verdict_of(table, QK_CLAIM)
    assert (row["holds"], row["control_holds"]) == (1, 1)
    assert row["verdict"] == "holds, but the untrained control does the same: no evidence that training matters"
    row = verdict_of(table, LAST_CLAIM)
    assert (row["holds"], row["control_holds"]) == (1, 0)
    assert row["verdict"] == "holds; the untrained control does not"


def test_claims_that_do_not_hold_are_said_so():
    groups = make_groups(qk=(48,) * 12, v=(10,) * 12, ffn=(100,) * 12, control_qk=40)
    table = claim_table([make_pruned_record(groups=groups)])
    assert verdict_of(table, QK_CLAIM)["verdict"] == "does not hold, nor in the untrained control"
    groups = make_groups(qk=(48,) * 12)
    assert verdict_of(claim_table([make_pruned_record(groups=groups)]), QK_CLAIM)["verdict"] == (
        "does not hold; the untrained control does"
    )


def test_a_tie_is_no_trend():
    even = make_groups(qk=(24,) * 12, v=(24,) * 12, ffn=(96,) * 12)
    table = claim_table([make_pruned_record(groups=even)])
    assert not table["holds"].any()


def test_seeds_that_disagree_are_counted():
    groups = make_groups(qk=(48,) * 12)
    records = [make_pruned_record(seed=seed) for seed in range(2)] + [make_pruned_record(seed=2, groups=groups)]
    row = verdict_of(claim_table(records), QK_CLAIM)
    assert row["holds"] == pytest.approx(2 / 3)
    assert row["verdict"] == (
        "holds in 2 of 3 seeds, but the untrained control does the same: no evidence that training matters"
    )


def test_two_networks_are_compared_where_both_are_there():
    deit = [make_pruned_record(groups=make_groups(ffn=(180,) * 12))]
    swin = [make_pruned_record(model="swin_t")]
    for own, beside in ((swin, deit), (deit, swin)):
        row = verdict_of(claim_table(own, beside), ACROSS)
        assert (row["holds"], row["control_holds"]) == (1, 0)
        assert row["kept"].count("%") == 2
    assert ACROSS not in set(claim_table(swin)["claim"])
    assert ACROSS not in set(claim_table(swin, swin)["claim"])
    other = verdict_of(claim_table(swin, [make_pruned_record(target_value=0.4)]), ACROSS)
    assert "has not been pruned to macs=0.6" in other["verdict"]
    real = claim_table([make_pruned_record(model="swin_t", data="tiny-imagenet"), *swin], deit).set_index("claim")
    verdicts = real.loc[ACROSS].set_index("target")["verdict"]
    assert "has not been pruned to macs=0.6 on tiny-imagenet" in verdicts["macs=0.6 on tiny-imagenet"]
    assert verdicts["macs=0.6"].startswith("holds")


def test_few_blocks_have_no_thirds():
    groups = tuple(group for group in make_groups() if group.block in (1, 2))
    row = verdict_of(claim_table([make_pruned_record(groups=groups)]), LAST_CLAIM)
    assert row["verdict"] == "too few blocks"


def test_every_claim_has_a_row_for_a_terminal():
    table = claim_table([make_pruned_record(), make_pruned_record(target_value=0.4)])
    assert render_claims(table).row_count == len(table) == 6
