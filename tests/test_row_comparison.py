"""`evitlab.pareto` against a double loop, `evitlab.compare` against the files of the studies and sums by hand."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import evitlab
from evitlab.problems import UserError

RESULTS = Path(__file__).parents[1] / "results"


def make_rows(points: list[tuple[float, float]], **columns: object) -> pd.DataFrame:
    names = [f"v{number}" for number in range(len(points))]
    rows = pd.DataFrame(points, columns=["infer_samples_per_sec", "top1"]).assign(variant=names, study="s", machine="m")
    return rows.assign(**columns)


def test_the_front_is_that_of_a_double_loop():
    points = [tuple(point) for point in np.random.default_rng(0).integers(0, 12, size=(60, 2)).astype(float)]
    front = [
        name for name, (x, y) in enumerate(points) if not any(a >= x and b >= y and (a > x or b > y) for a, b in points)
    ]
    assert list(evitlab.pareto(make_rows(points)).index) == front


def test_ties_are_kept_and_rows_without_a_value_left_out():
    rows = make_rows([(1.0, 2.0), (1.0, 2.0), (1.0, 1.0), (np.nan, 9.0), (9.0, np.nan)])
    assert list(evitlab.pareto(rows)["variant"]) == ["v0", "v1"]


def test_speeds_compare_by_what_was_timed_in_turn():
    """v0 and v1 were timed apart: the machine was slower when v1 had its turn, and so was the reference."""
    rows = make_rows([(100.0, 0.5), (60.0, 0.4)], speed_ratio=[1.0, 1.2], speed_reference="base")
    assert list(evitlab.pareto(rows)["variant"]) == ["v0", "v1"]
    assert list(evitlab.pareto(rows, by=["study"])["variant"]) == ["v0"]
    assert list(evitlab.pareto(rows.assign(speed_reference=["base", "other"]))["variant"]) == ["v0"]
    assert list(evitlab.pareto(rows, up=["infer_samples_per_sec", "top1"])["variant"]) == ["v0"]


def test_other_columns_and_directions():
    rows = make_rows([(1.0, 0.5), (2.0, 0.5), (3.0, 0.4)], macs=pd.array([10, 20, 5], dtype="Int64"))
    assert list(evitlab.pareto(rows, up="top1", down="macs")["variant"]) == ["v0", "v2"]
    assert list(evitlab.pareto(rows, up=(), down="macs")["variant"]) == ["v2"]
    with pytest.raises(UserError, match="no column 'top_1'; did you mean top1"):
        evitlab.pareto(rows, up="top_1")
    with pytest.raises(UserError, match="orders numbers, but the column 'variant'"):
        evitlab.pareto(rows, up="variant")


def test_machines_have_fronts_of_their_own_unless_told_otherwise():
    rows = make_rows([(1.0, 0.5), (9.0, 0.9)], machine=["a", "b"])
    assert len(evitlab.pareto(rows)) == 2
    assert list(evitlab.pareto(rows, by=())["variant"]) == ["v1"]
    assert len(evitlab.pareto(rows.assign(machine="a", study=["s", "z"]))) == 2
    assert len(evitlab.pareto(rows.assign(machine="a"))) == 1


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return evitlab.load(RESULTS / "mhsa_ratio")


def test_compare_with_the_paper_gives_what_the_study_s_file_holds(table):
    written = pd.read_csv(RESULTS / "mhsa_ratio/paper_comparison.csv")
    ours = evitlab.compare(table)
    assert list(ours["variant"]) == list(written["variant"])
    for name in ("paper_top1", "paper_difference", "difference", "difference_low", "difference_high", "speed_ratio"):
        assert ours[name].tolist() == pytest.approx(written[name].tolist(), nan_ok=True), name
    assert ours["verdict"].fillna("").tolist() == written["verdict"].fillna("").tolist()
    assert ours["sign_agrees"].tolist()[1:] == written["sign_agrees"].tolist()[1:]


def test_compare_with_a_row(table):
    ours = evitlab.compare(table, to="mhsa_ratio=0.5").set_index("variant")
    rows = table.set_index("variant")
    seeds = [
        dict(zip(rows["train_seeds"][n], rows["top1_values"][n], strict=True))
        for n in ("mhsa_ratio=0", "mhsa_ratio=0.5")
    ]
    expected = np.mean([seeds[0][seed] - seeds[1][seed] for seed in seeds[0]])
    assert ours["difference"]["mhsa_ratio=0"] == pytest.approx(expected)
    assert list(seeds[0]) == list(seeds[1])
    told = stats.ttest_rel(list(seeds[0].values()), list(seeds[1].values()))
    assert ours["p_value"]["mhsa_ratio=0"] == pytest.approx(told.pvalue)
    tested = ours.dropna(subset=["p_value"]).sort_values("p_value")
    assert len(tested) == 6
    assert tested["p_adjusted"].iloc[0] == pytest.approx(6 * tested["p_value"].iloc[0])
    assert tested["p_adjusted"].iloc[1] == pytest.approx(5 * tested["p_value"].iloc[1])
    ratio = rows["speed_ratio"]["mhsa_ratio=0"] / rows["speed_ratio"]["mhsa_ratio=0.5"]
    assert ours["speed_ratio"]["mhsa_ratio=0"] == pytest.approx(ratio)
    assert pd.isna(ours["difference"]["mhsa_ratio=0.5"])
    assert ours["macs_ratio"]["mhsa_ratio=0.5"] == 1.0


def test_compare_with_the_reference_keeps_its_interval(table):
    ours, rows = (each.set_index("variant") for each in (evitlab.compare(table, to="base"), table))
    for end in ("", "_low", "_high"):
        name = f"speed_ratio{end}"
        assert ours[name]["mhsa_ratio=1"] == pytest.approx(rows[name]["mhsa_ratio=1"])


def test_nothing_to_compare_with_is_a_mistake(table):
    with pytest.raises(UserError, match=r"no variant 'mhsa_ratio=0\.55'; did you mean mhsa_ratio=0\.5"):
        evitlab.compare(table, to="mhsa_ratio=0.55")
    with pytest.raises(UserError, match="cites accuracies"):
        evitlab.compare(table[table["variant"] == "base"])
    with pytest.raises(UserError, match="two rows of 'base'"):
        evitlab.compare(pd.concat([table, table]))
