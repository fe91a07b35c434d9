import io
import json
from dataclasses import replace

import numpy as np
import pytest
from fake_records import make_profile
from rich.console import Console

from evitlab.measurements.profile import MEMORY_BOUND
from evitlab.report.profile_tables import (
    BETWEEN,
    COLUMNS,
    REST,
    by_class,
    by_module,
    by_operator,
    by_part,
    list_operators,
    memory_bound_ways,
    render_profile,
)

PROFILE = make_profile(0.4)
TABLES = (by_class, by_part, by_module, by_operator)


def shown(profile, width=100, **options):
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(*render_profile(profile, **options))
    return console.export_text()


def sum_by(attribute, name, value):
    return sum(getattr(each, name) for each in PROFILE.operators if getattr(each, attribute) == value)


@pytest.mark.parametrize("make", TABLES)
@pytest.mark.parametrize("wall", [0.9, 1.1])
def test_shares_add_up_to_the_unprofiled_wall_time(make, wall):
    """Whether profiling took more than the rows leave unexplained or less."""
    operators = sum(each.seconds for each in PROFILE.operators)
    profile = replace(PROFILE, wall_seconds=wall * (operators + PROFILE.between_seconds))
    table = make(profile)
    assert table["share"].sum() == pytest.approx(1)
    assert table["seconds"].sum() == pytest.approx(profile.wall_seconds)
    assert table.iloc[-2:, 0].tolist() == [BETWEEN, REST]
    assert table["seconds"].iloc[-2] == PROFILE.between_seconds
    assert (table["share"].iloc[-1] < 0) == (wall < 1)
    assert table["seconds"].iloc[:-2].sum() == pytest.approx(operators)


@pytest.mark.parametrize("make", TABLES)
def test_nothing_is_lost_in_a_sum(make):
    table = make(PROFILE).iloc[:-2]
    for name in ("calls", "bytes", "macs", "page_faults"):
        assert table[name].sum() == pytest.approx(sum(getattr(each, name) for each in PROFILE.operators)), name
    bound = sum(PROFILE.seconds_by_class[name] for name in MEMORY_BOUND)
    assert table["class_bound_seconds"].sum() == pytest.approx(bound)
    roofline = PROFILE.roofline_memory_bound_share * sum(PROFILE.seconds_by_class.values())
    assert table["roofline_bound_seconds"].sum() == pytest.approx(roofline, rel=0.02)  # less the views


def test_columns_are_in_the_dictionary():
    assert list_operators(PROFILE).columns.tolist() == [*COLUMNS, "intensity"]
    for make in TABLES:
        table = make(PROFILE)
        assert set(table.columns) < set(COLUMNS)
        assert json.loads(table.to_json(orient="records"))[-1]["calls"] is None
        assert table["macs"].dtype == "Int64"


def test_classes_are_memory_bound_first_then_by_time():
    table = by_class(PROFILE)
    names = table["operator_class"].tolist()
    assert set(names[:3]) == set(MEMORY_BOUND)
    assert names[3:-2] == ["matrix product", "softmax", "convolution", "other"]
    row = table.set_index("operator_class").loc["element-wise"]
    assert row["seconds"] == pytest.approx(PROFILE.seconds_by_class["element-wise"])
    assert row["share"] == pytest.approx(PROFILE.seconds_by_class["element-wise"] / PROFILE.wall_seconds)
    assert row["bytes"] == sum_by("operator_class", "bytes", "element-wise")


def test_parts_have_their_own_rows_and_mhsa_its_steps():
    table = by_part(PROFILE).set_index(["part", "step"])
    assert table.loc[("FFN", ""), "seconds"] == pytest.approx(sum_by("part", "seconds", "FFN"))
    assert table.loc[("MHSA", "reshapes"), "seconds"] == pytest.approx(sum_by("step", "seconds", "reshapes"))
    assert table.loc["MHSA"]["macs"].sum() == sum_by("part", "macs", "MHSA")
    modules = by_module(PROFILE).set_index("module")
    assert modules.loc["layers.1.ffn", "macs"] == sum_by("module", "macs", "layers.1.ffn")
    assert modules.loc["layers.1.ffn", "part"] == "FFN"


def test_an_operator_is_as_far_from_its_roof_as_its_sums():
    """addmm: the roof of arithmetic by hand, 2 operations a MAC at 500 GFLOP/s; views have none."""
    table = by_operator(PROFILE).set_index("operator")
    rows = [each for each in PROFILE.operators if each.operator == "aten::addmm"]
    least = sum(2 * each.macs for each in rows) / 5e11
    assert table.loc["aten::addmm", "roof_seconds"] == pytest.approx(least)
    assert table.loc["aten::addmm", "distance"] == pytest.approx(least / sum(each.seconds for each in rows))
    assert table.loc["aten::addmm", "operator_class"] == "matrix product"
    assert np.isnan(table.loc["aten::view", "distance"])


def test_an_operator_that_does_work_of_two_classes_has_two_rows():
    first = PROFILE.operators[0]
    copy = replace(first, operator_class="reshape and copy", seconds=0.001, macs=0)
    table = by_operator(replace(PROFILE, operators=(first, copy)))
    assert table["operator"].tolist()[:2] == [first.operator] * 2
    assert table["operator_class"].tolist()[:2] == [first.operator_class, "reshape and copy"]
    name = first.operator.removeprefix("aten::")
    assert f"{name}: reshape and copy 1.00" in " ".join(shown(replace(PROFILE, operators=(first, copy))).split())


def test_memory_bound_two_ways_by_hand():
    table = memory_bound_ways(PROFILE).set_index(["way", "cause"])
    total = sum(PROFILE.seconds_by_class.values())
    whole = table.loc[("by class", "")]
    assert whole["seconds"] == pytest.approx(sum(PROFILE.seconds_by_class[name] for name in MEMORY_BOUND))
    assert whole[["share", "share_low", "share_high"]].tolist() == [
        PROFILE.memory_bound_share,
        PROFILE.memory_bound_share_low,
        PROFILE.memory_bound_share_high,
    ]
    causes = table.loc["by class"].drop("")
    assert set(causes.index) == {"traffic", "page faults", "dispatch", "rest"}
    assert causes["seconds"].sum() == pytest.approx(whole["seconds"])
    assert causes["share"].sum() == pytest.approx(whole["seconds"] / total)
    assert table.loc[("by roofline", ""), "share"] == PROFILE.roofline_memory_bound_share
    views = sum_by("operator", "seconds", "aten::view")  # memory-bound by class alone
    assert table.loc[("by both", ""), "seconds"] == pytest.approx(whole["seconds"] - views)


def test_a_terminal_shows_all_of_it():
    text = shown(PROFILE, title="[bold]deit_t", top=3)
    said = " ".join(text.split())
    assert "[bold]deit_t: memory-bound, two ways" in said
    assert "by class 94.0 33.8 32.6-35.3" in said
    assert "by roofline 108 38.8" in said
    assert "matrix product 160 57.6 0.0 0.0 34 365 10.0G" in said
    assert "MHSA 127 45.6" in said
    assert "9 others" in said  # of 12 operators
    assert said.count(BETWEEN) == 3
    assert "aten::" not in text
    assert "100% is an unprofiled pass, 278 ms." in said
    assert "come to 104.3% of it; profiling slowed it 1.04x" in said
    assert "batch 16; 224x224 pixels; fp32;" in said
    assert "peaks 500 GFLOP/s, 60 GB/s; 103,967 page faults a pass" in said


def test_parts_and_operators_add_up_in_the_terminal_too():
    """Steps are inside MHSA, and what is not named is in a row of its own."""
    text = shown(PROFILE, top=3).split("Profile: ")
    parts = [line for line in text[3].splitlines()[3:] if line.startswith(" ")]
    assert {line.split()[0] for line in parts} == {"projections", "reshapes", "scores", "mixing", "softmax"}
    mhsa = float(next(line for line in text[3].splitlines() if line.startswith("MHSA")).split()[1])
    assert sum(float(line.split()[1]) for line in parts) == pytest.approx(mhsa, abs=0.5)
    rows = [line.split() for line in text[4].splitlines() if line[:1].isalnum()]
    milliseconds = [float(row[1]) for row in rows if row[0] in ("addmm", "copy_", "baddbmm", "bmm", "rest")]
    others = float(next(row for row in rows if row[1] == "others")[2])
    assert sum(milliseconds) + others + 12.0 == pytest.approx(278, abs=1)


def test_tables_fit_80_columns():
    """No cell is cut or broken but the name of the closing row."""
    assert "…" not in shown(PROFILE, width=80)
    assert {line for line in shown(PROFILE, width=80).split("Profile: ") if len(line) > 10}
    for line in shown(PROFILE, width=80).splitlines():
        assert len(line) <= 80


def test_other_shares_are_of_what_there_is():
    nothing = replace(PROFILE, operators=(), seconds_by_class={})
    for make in TABLES:
        assert make(nothing).iloc[:, 0].tolist() == [BETWEEN, REST]
    assert memory_bound_ways(nothing)["seconds"].sum() == 0
    assert "rest" in shown(nothing)
