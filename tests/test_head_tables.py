"""Tables of heads: every number in its place, intervals by formula and by simulation, the paper's lines."""

from io import StringIO

import numpy as np
import pandas as pd
import pytest
from fake_heads import make_heads
from rich.console import Console
from scipy import stats

from evitlab.models.zoo import make_config
from evitlab.paper import HEAD_SIMILARITY
from evitlab.report.heads.tables import (
    block_table,
    drop_table,
    find_paper,
    matrix_table,
    mean_with_interval,
    paired_interval,
    render_heads,
)

RESULT = make_heads([0.5, None, 0.7], untrained=[0.3, None, 0.4], drop=True)


def test_a_row_a_block_quantity_and_network():
    table = block_table(RESULT)
    assert len(table) == 3 * 2 * 2
    row = table.query("network == 'untrained' and block == 3 and quantity == 'maps'").iloc[0]
    assert (row["author"], row["caption"], row["mean_pair"]) == pytest.approx((0.45, 0.35, 0.25))
    assert (row["heads"], row["positions"], row["images"], row["author_deviation"]) == (2, 17, 100, 0.02)
    bare = table.query("block == 2")
    assert bare[["author", "cka", "images"]].isna().all(axis=None)
    assert (bare["heads"] == 0).all()
    assert set(block_table(make_heads([0.5]))["network"]) == {"itself"}
    read = pd.read_csv(StringIO(table.to_csv(index=False)))
    assert read["author"].equals(table["author"])


def test_a_row_a_pair_of_heads():
    table = matrix_table(RESULT)
    assert len(table) == 2 * 2 * 2 * 4  # networks, quantities, blocks with attention, pairs
    own = table.query("network == 'itself' and block == 1 and quantity == 'features'")
    assert own["cosine"].tolist() == [1, 0.5, 0.5, 1]
    assert list(zip(own["head"], own["other"], strict=True)) == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_a_row_a_head_that_was_dropped():
    table = drop_table(RESULT)
    assert table["block"].tolist() == [1, 1, 3, 3]
    assert table["top1_cost"].tolist() == pytest.approx([9 / 200, 10 / 200, 29 / 200, 30 / 200])
    half = stats.norm.ppf(0.975) * 0.5 / np.sqrt(200)
    assert table["loss_cost_high"].tolist() == pytest.approx([half, 0.1 + half, half, 0.1 + half])
    assert (table["top1_cost_low"] < table["top1_cost"]).all()
    assert drop_table(make_heads([0.5])).empty


def test_the_interval_of_a_difference_of_pairs_holds_the_truth():
    """Simulated: of 400 sets of 300 images, with 4% lost and 2% gained in truth, about 95 in 100 hold 2%."""
    generator = np.random.default_rng(0)
    drawn = generator.multinomial(300, [0.04, 0.02, 0.94], size=400)
    held = [low <= 0.02 <= high for low, high in (paired_interval(int(a), int(b), 300) for a, b, _ in drawn)]
    assert 0.93 <= np.mean(held) <= 0.99
    low, high = paired_interval(0, 0, 100)
    assert low == pytest.approx(-high)
    assert 0.02 < high < 0.04  # z sqrt(2 (1 / 102) / 102)
    assert paired_interval(7, 3, 50) == pytest.approx(tuple(-end for end in reversed(paired_interval(3, 7, 50))))


def test_the_mean_s_interval_is_student_s():
    values = [-0.2, 0.1, 0.4]
    expected = stats.t.interval(0.95, 2, loc=0.1, scale=stats.sem(values))
    assert mean_with_interval(values) == pytest.approx((0.1, *expected))
    assert mean_with_interval([0.3]) == (0.3, None, None)


@pytest.mark.parametrize(
    ("name", "knobs", "key"),
    [
        ("deit_t", {}, "deit_t 1.25x"),
        ("deit_t", {"attention": "group", "width": 96}, "deit_t 1.25x, head splits"),
        ("swin_t", {}, "swin_t 1.25x"),
        ("swin_t", {"attention": "group"}, "swin_t 1.25x, head splits"),
        ("deit_t", {"attention": "cascaded"}, None),
        ("deit_t", {"depth": 6}, None),
        ("deit_t", {"mhsa_ratio": 0}, None),
        ("efficientvit_m0", {}, None),
    ],
)
def test_the_paper_s_line_is_that_of_the_network(name, knobs, key):
    found = find_paper(make_config(name, **knobs).to_dict())
    if key is None:
        assert found is None
        return
    assert found[0] == key
    assert [100 * value for value in found[1]] == pytest.approx(HEAD_SIMILARITY[key])
    assert find_paper({"source": "timm:x", "options": {}}) is None


def test_the_terminal_says_both_definitions_the_control_and_what_stands_out():
    console = Console(width=80, file=StringIO())
    for table in render_heads(RESULT, title="[deit_t]"):
        console.print(table)
    text = console.file.getvalue()
    for part in (
        "author's",
        "caption's",
        "linear CKA",
        "50.0 (30.0)",
        "no attention",
        "[deit_t]",
        "+14.5*",
        "untrained",
    ):
        assert part in text, part
    assert max(map(len, text.splitlines())) <= 80
    assert len(render_heads(make_heads([0.5]), title="x")) == 2
