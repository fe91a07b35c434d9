"""`evitlab.load`: a row a variant, from made-up records written as studies and commands leave them."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median

import pandas as pd
import pytest
from fake_evaluation import make_evaluation
from fake_records import (
    ENVIRONMENT,
    make_curve,
    make_macs,
    make_profile,
    make_record,
    make_self_test,
    make_throughput,
    make_training,
)
from scipy.stats import t

import evitlab
from evitlab.problems import UserError
from evitlab.records import Record
from evitlab.report.columns import COLUMNS, DTYPES
from evitlab.report.student import t_quantile
from evitlab.store import append

RESULTS = Path(__file__).parents[1] / "results"
ELSEWHERE = replace(ENVIRONMENT, machine="ffffffff", torch="2.14.0")


def write(folder: Path, *records: Record) -> Path:
    for record in records:
        append(replace(record, study=folder.name), folder)
    return folder


def bench(folder: Path, **changes: object) -> Path:
    timings = {"a": make_throughput(50.0, ratio=None), "b": make_throughput(60.0, ratio=1.2)}
    return write(folder, *(make_record("throughput", m, variant=name, **changes) for name, m in timings.items()))


def test_a_folder_of_a_command_is_a_row_a_model_with_its_tasks_joined(tmp_path):
    folder = bench(tmp_path / "bench_a+b")
    write(folder, make_record("macs", make_macs(), variant="a"))
    write(
        folder,
        *(make_record("train", make_training(top1), variant="a", seed=seed) for seed, top1 in ((0, 0.59), (1, 0.61))),
    )
    table = evitlab.load(folder)
    assert list(table["variant"]) == ["a", "b"]
    first = table.iloc[0]
    assert (first["infer_samples_per_sec"], first["macs"], first["top1"]) == (
        50.0,
        make_macs().macs,
        pytest.approx(0.6),
    )
    assert first["top1_low"] == pytest.approx(0.6 - t.ppf(0.975, 1) * 0.01)  # deviation 0.01 sqrt(2), over sqrt(2)
    assert (first["top1_values"], first["train_seeds"], first["top1_interval"]) == ([0.59, 0.61], [0, 1], "seeds")
    assert first["latency_s"] == median(make_throughput(50.0).seconds)
    assert table["macs"].isna().tolist() == [False, True]
    assert set(table["machine"]) == {ENVIRONMENT.machine}
    assert set(table["threads"]) == {2}
    assert set(table["study"]) == {"bench_a+b"}


def test_every_kind_of_task_has_cells(tmp_path):
    write(tmp_path / "bench_c", make_record("batch_curve", make_curve(), variant="c"))
    write(tmp_path / "self_test_c", make_record("self_test", make_self_test(), variant="c"))
    write(tmp_path / "profile_c", make_record("operators", make_profile(), variant="c"))
    evaluation, _ = make_evaluation()
    write(tmp_path / "evaluate_c", make_record("evaluate", evaluation, variant="c"))
    table = evitlab.load(tmp_path).set_index("study")
    assert table["best_batch_size"]["bench_c"] == make_curve().best_batch_size
    assert table["self_test_error"]["self_test_c"] == pytest.approx(0.003)  # of 0.002, 0.004, 0.011, 0.001
    assert table["memory_bound_share"]["profile_c"] == make_profile().memory_bound_share
    assert (table["top1"]["evaluate_c"], table["top1_interval"]["evaluate_c"]) == (evaluation.top1, "images")


def test_a_model_with_another_recipe_or_other_knobs_has_a_row_of_its_own(tmp_path):
    folder = write(
        tmp_path / "train_a",
        make_record("train", make_training(0.5), variant="a", request="short"),
        make_record("train", make_training(0.9), variant="a", request="long"),
    )
    table = evitlab.load(folder)
    assert dict(zip(table["variant"], table["top1"], strict=True)) == {"a": 0.5, "a, settings 2": 0.9}


def test_machines_and_protocols_do_not_mix_unless_asked(tmp_path):
    folder = bench(tmp_path / "bench_a+b")
    bench(folder, environment=ELSEWHERE)
    with pytest.raises(
        UserError, match=r"must share their machine, but got 0a1b2c3d .*where=\{'machine': '0a1b2c3d'\}"
    ):
        evitlab.load(folder)
    assert list(evitlab.load(folder, where={"machine": "ffffffff"})["torch"]) == ["2.14.0"] * 2
    both = evitlab.load(folder, mixed=True)
    assert list(zip(both["variant"], both["machine"], strict=True)) == [
        ("a", "0a1b2c3d"), ("b", "0a1b2c3d"), ("a", "ffffffff"), ("b", "ffffffff"),
    ]  # fmt: skip
    other = bench(tmp_path / "bench_batch")
    write(other, make_record("throughput", replace(make_throughput(70.0), batch_size=4), variant="a", key="other"))
    with pytest.raises(UserError, match="must share their batch_size"):
        evitlab.load(other)
    assert list(evitlab.load(other, where={"infer_batch_size": 4})["infer_samples_per_sec"]) == [70.0]
    with pytest.raises(UserError, match="no measurement was made with machine=x"):
        evitlab.load(folder, where={"machine": "x"})
    with pytest.raises(UserError, match="got 'machin'; did you mean machine"):
        evitlab.load(folder, where={"machin": "x"})


def test_folders_of_different_machines_stand_below_each_other(tmp_path):
    bench(tmp_path / "bench_here")
    bench(tmp_path / "bench_there", environment=ELSEWHERE)
    table = evitlab.load(results=tmp_path)
    assert table.groupby("study")["machine"].unique().map(list).to_dict() == {
        "bench_here": ["0a1b2c3d"],
        "bench_there": ["ffffffff"],
    }
    assert set(evitlab.load(results=tmp_path, where={"machine": "ffffffff"})["study"]) == {"bench_there"}
    assert set(evitlab.pareto(table, up="infer_samples_per_sec")["variant"]) == {"b"}
    assert len(evitlab.pareto(table, up="infer_samples_per_sec")) == 2  # one a machine


def test_smoke_runs_never_meet_measurements(tmp_path):
    folder = bench(tmp_path / "bench_a")
    with pytest.raises(UserError, match="no smoke runs"):
        evitlab.load(folder, smoke=True)
    bench(folder / "smoke", smoke=True)
    assert set(evitlab.load(folder)["smoke"]) == {False}
    assert set(evitlab.load("bench_a", results=tmp_path, smoke=True)["smoke"]) == {True}
    only = tmp_path / "bench_smoke"
    bench(only / "smoke", smoke=True)
    with pytest.raises(UserError, match="smoke=True"):
        evitlab.load(only)


def test_a_folder_that_is_not_there_or_empty_is_named(tmp_path):
    bench(tmp_path / "bench_deit_t")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no results of 'bench_deit'; did you mean bench_deit_t"):
        evitlab.load(tmp_path / "bench_deit")
    with pytest.raises(UserError, match="empty: holds no records"):
        evitlab.load(tmp_path / "empty")
    with pytest.raises(UserError, match="none: no such folder"):
        evitlab.load(results=tmp_path / "none")
    assert evitlab.load(results=tmp_path / "empty").empty
    torn = bench(tmp_path / "bench_torn")
    with (torn / "records.jsonl").open("a") as file:
        file.write('{"schema": 2, "ke')
    with pytest.warns(UserWarning, match="line 3: skipped, a crash tore it"):
        assert len(evitlab.load(torn)) == 2


@pytest.fixture(scope="module")
def shipped() -> pd.DataFrame:
    return evitlab.load(results=RESULTS)


def test_the_committed_results_load_as_their_own_tables_say(shipped):
    for path in sorted(RESULTS.glob("*/table.csv")):
        if not (path.parent / "study.yaml").exists():
            continue
        written = pd.read_csv(path)
        ours = shipped[shipped["study"] == path.parent.name].reset_index(drop=True)
        assert list(ours["variant"]) == list(written["variant"])
        for name in ("macs", "infer_samples_per_sec", "speed_ratio", "top1", "top1_low", "memory_bound_share"):
            expected = written[name].astype("float64")
            assert ours[name].astype("float64").tolist() == pytest.approx(expected.tolist(), nan_ok=True), (path, name)
    assert not shipped.duplicated(["study", "variant"]).any()
    assert set(shipped["smoke"]) == {False}


def test_every_column_is_in_the_dictionary_with_its_type(shipped):
    assert {"knob_*" if name.startswith("knob_") else name for name in shipped} == set(COLUMNS)
    for name, (unit, meaning, source) in COLUMNS.items():
        assert meaning
        assert source
        if unit in DTYPES:
            assert shipped[name].dtype == DTYPES[unit], name
        if unit == "share":
            assert shipped[name].dropna().between(0, 1).all(), name


def test_pruned_networks_stand_beside_the_whole_one(shipped):
    rows = shipped[shipped["study"] == "prune_deit_t"].set_index("variant")
    record = json.loads((RESULTS / "prune_deit_t/records.jsonl").read_text().splitlines()[-1])["measurement"]
    assert rows["macs"].tolist() == [record["macs_before"], record["curve"][-1]["macs"]]
    assert rows["top1"].tolist() == [record["before"]["top1"], record["curve"][-1]["finetuned"]["top1"]]
    assert rows["speed_ratio"].tolist() == [1.0, record["speed_after"]["ratio"]]


def test_importing_evitlab_loads_neither_pandas_nor_torch():
    code = "import evitlab, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"pandas", "numpy", "torch", "pydantic"} & set(loaded)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 10, 31, 200])
def test_student_s_t_is_scipy_s(freedom):
    assert t_quantile(0.95, freedom) == pytest.approx(t.ppf(0.975, freedom), rel=1e-12)
