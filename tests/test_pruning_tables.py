"""Tables of prunings: what is in them, and what a person reads."""

from io import StringIO

import pandas as pd
import pytest
from fake_pruning import FFN, QK, V, judged, make_groups, make_pruned_record, make_pruning
from rich.console import Console

from evitlab.measurements.pruning import PrunedGroup
from evitlab.models.zoo import make_config
from evitlab.paper import PRUNED_CHANNELS
from evitlab.report.pruning.tables import (
    channel_table,
    channel_text,
    describe_unprunable,
    find_published,
    group_targets,
    pruning_table,
    render_channels,
    render_summary,
    step_table,
    summarise,
)
from evitlab.report.tables import to_csv


def draw(table, width=80):
    stream = StringIO()
    Console(file=stream, width=width).print(table)
    return stream.getvalue()


def test_channels_are_over_the_width_of_the_block():
    table = channel_table([make_pruned_record()])
    assert len(table) == 36
    for kind, left, before in (("qk", QK, 48), ("v", V, 48), ("ffn", FFN, 192)):
        own = table[table["kind"] == kind]
        assert list(own["block"]) == list(range(1, 13))
        assert list(own["after"]) == list(left)
        assert list(own["after_ratio"]) == pytest.approx([count / 48 for count in left])
        assert list(own["before_ratio"]) == pytest.approx([before / 48] * 12)
    assert table["paper_ratio"].isna().all(), "DeiT-T's curve is not known"


def test_the_papers_curve_stands_beside_swin_t():
    table = channel_table([make_pruned_record(model="swin_t")])
    own = table[table["kind"] == "ffn"].sort_values("block")
    assert list(own["paper_ratio"]) == list(PRUNED_CHANNELS["swin_t"]["FFN"])


def test_layers_of_one_kind_in_a_block_are_added_up_and_those_outside_stand_apart():
    first, *others = make_groups()
    ffn = next(group for group in others if group.kind == "ffn" and group.block == 1)
    outside = PrunedGroup(**{**vars(ffn), "block": None, "layer": "stages.1.downsample.0"})
    table = channel_table([make_pruned_record(groups=(first, *others, ffn, outside, outside))])
    doubled = table[(table["block"] == 1) & (table["kind"] == "ffn")]
    assert list(doubled["before"]) == [384]
    assert list(doubled["after"]) == [2 * FFN[0]]
    assert list(table[table["block"].isna()]["after"]) == [2 * FFN[0]]


def test_a_network_is_known_by_family_and_blocks():
    for name in ("deit_t", "swin_t", "efficientvit_m0", "efficientvit_m5"):
        assert find_published(make_config(name).to_dict()) == name
    small = make_config("swin_t", image_size=32, width=24, num_heads=[1, 2, 4, 8])
    assert find_published(small.to_dict()) == "swin_t"
    assert find_published(make_config("deit_t", depth=3).to_dict()) is None
    assert find_published({"source": "timm:resnet18", "options": {}}) is None


def test_a_row_a_pruning_in_base_units():
    table = pruning_table([make_pruned_record(), make_pruned_record(finetune_epochs=0.0, seed=1)])
    row = table.iloc[0]
    assert (row["top1_before"], row["top1_pruned"], row["top1_finetuned"]) == (0.91, 0.80, 0.90)
    assert (row["top1_finetuned_low"], row["top1_finetuned_high"]) == pytest.approx((0.89, 0.91))
    assert row["top1_control"] == 0.0625
    assert (row["macs_before"], row["macs"], row["param_count"]) == (1_000_000, 600_000, 210_000)
    assert row["speed_ratio"] == 1.5
    assert row["weights"] == "weights/macs=0.6-seed0"
    back = pd.read_csv(StringIO(to_csv(table)))
    assert list(back["top1_pruned"]) == [0.80, 0.80]


def test_steps_begin_with_the_whole_network():
    table = step_table([make_pruned_record()])
    own = table[table["network"] == "trained"]
    assert list(own["macs"]) == [1_000_000, 775_000, 600_000]
    assert list(own["top1_pruned"]) == [0.91, 0.88, 0.80]
    control = table[table["network"] == "control"]
    assert control["top1_finetuned"].isna().all()
    assert len(control) == 3


def test_what_was_asked_for_otherwise_is_a_group_of_its_own():
    first, second = make_pruned_record(), make_pruned_record(seed=1)
    other = make_pruned_record(importance="magnitude")
    changed = make_pruned_record(key="x")
    changed = type(changed)(**{**vars(changed), "request": "other settings"})
    real = make_pruned_record(data="tiny-imagenet")
    real = type(real)(**{**vars(real), "request": "other data"})
    groups = group_targets([first, second, other, changed, real])
    assert {label: len(own) for label, own in groups.items()} == {
        "macs=0.6": 2, "macs=0.6 magnitude": 1, "macs=0.6, settings 2": 1, "macs=0.6 on tiny-imagenet": 1,
    }  # fmt: skip


def test_the_summary_has_intervals_over_images_or_over_seeds():
    text = summarise([make_pruned_record()]).iloc[0]
    assert text["tuned"] == "90.0\n89.0-91.0"
    assert text["speed"] == "1.50x\n1.48-1.53"
    curve = make_pruning().curve
    better = (curve[0], type(curve[1])(**{**vars(curve[1]), "finetuned": judged(0.92)}))
    two = summarise([make_pruned_record(), make_pruned_record(seed=1, curve=better)])
    half = 12.706 * (0.02**2 / 2) ** 0.5 / 2**0.5  # Student t of one degree of freedom, by hand
    assert two.iloc[0]["tuned"] == f"91.0\n{100 * (0.91 - half):.1f}-{100 * min(1, 0.91 + half):.1f}"
    assert len(two) == 1


def test_what_a_person_reads_fits_a_terminal_and_names_the_control():
    records = [make_pruned_record()]
    shown = draw(render_summary(records)) + draw(render_channels(records, label="macs=0.6"))
    assert max(len(line) for line in shown.splitlines()) <= 80
    flat = " ".join(shown.split())
    for words in (
        "Control: the same on an untrained network", "Wilson's, over images", "attention explicit in both",
        "scores over the MACs saved", "2 steps, 1 epoch of fine-tuning after each", "1 QK, 1 V, 1 FFN",
    ):  # fmt: skip
        assert words in flat
    assert "0.83" in draw(render_channels(records, label="macs=0.6")).splitlines()[3]


def test_heads_and_their_channels_stand_on_the_page():
    text = channel_text([make_pruned_record()], heads=True)
    assert text.iloc[0]["QK"] == "1.00\n3x16"
    assert text.iloc[11]["QK control"] == "0.06\n3x1"
    assert text.iloc[0]["FFN"] == "4.00"


def test_what_could_not_be_pruned_is_said():
    assert describe_unprunable(make_pruning(unprunable=("V of a cascade, because",))) == [
        "Not pruned: V of a cascade, because."
    ]
