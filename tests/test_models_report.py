"""What `bench` and `profile` leave and print."""

import json
from dataclasses import replace

import pandas as pd
import pytest
from fake_records import make_curve, make_profile, make_record, make_self_test, make_throughput

from evitlab.problems import UserError
from evitlab.report.folders import list_names
from evitlab.report.models.report import write_models
from evitlab.report.models.tables import show_models
from evitlab.report.timing_tables import select_latest
from evitlab.store import append


def make_timings():
    first = make_record("throughput", make_throughput(48.0, ratio=None), variant="deit_t", key="a" * 16)
    second = make_record("throughput", make_throughput(60.0, ratio=1.25), variant="swin_t", key="b" * 16)
    return [first, second]


def test_a_bench_leaves_a_table_and_a_figure(tmp_path):
    write_models(make_timings(), tmp_path)
    table = pd.read_csv(tmp_path / "table.csv")
    assert list(table["model"]) == ["deit_t", "swin_t"]
    assert list(table["infer_samples_per_sec"]) == [48.0, 60.0]
    assert (tmp_path / "ratios.png").read_bytes().startswith(b"\x89PNG")
    write_models(make_timings()[:1], tmp_path / "one")
    assert not (tmp_path / "one" / "ratios.png").exists(), "one model has no ratio"


def test_a_profile_leaves_its_tables_and_figures(tmp_path):
    write_models([make_record("operators", make_profile(), variant="deit_t")], tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "classes.csv", "parts.csv", "modules.csv", "operators.csv", "memory_bound.csv",
        "breakdown.png", "mhsa_ffn.png", "roofline.png", "breakdown.svg", "mhsa_ffn.svg", "roofline.svg", "report.html",
    }  # fmt: skip
    profile = make_profile()
    assert pd.read_csv(tmp_path / "operators.csv")["share"].sum() == pytest.approx(1)
    assert pd.read_csv(tmp_path / "classes.csv")["seconds"].max() == profile.seconds_by_class["matrix product"]


def test_curves_and_self_tests(tmp_path, capsys):
    curves = [make_record("batch_curve", make_curve(), variant=name) for name in ("deit_t", "timm:vit")]
    write_models(curves, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "batch_curve_deit_t.csv", "batch_curve_timm-vit.csv", "batch_curve.png", "batch_curve.svg",
        "report.html",
    }  # fmt: skip
    write_models(curves[:1], tmp_path / "one")
    assert len(pd.read_csv(tmp_path / "one" / "batch_curve.csv")) == len(make_curve().points)
    tested = [make_record("self_test", make_self_test(), variant="deit_t")]
    write_models(tested, tmp_path / "self")
    assert list(pd.read_csv(tmp_path / "self" / "self_test.csv")["ratio"]) == [1.002, 0.996, 1.011, 0.999]
    show_models(curves[:1] + tested)
    shown = capsys.readouterr().out
    assert "deit_t" in shown
    assert "1.011" in shown


def test_json_holds_the_tables_in_base_units(capsys):
    show_models(make_timings(), as_json=True)
    rows = json.loads(capsys.readouterr().out)["table"]
    assert [row["infer_samples_per_sec"] for row in rows] == [48.0, 60.0]


def test_of_equal_measurements_the_latest_counts():
    old, other = make_timings()
    new = replace(old, start="2999-01-01T00:00:00+00:00")
    assert select_latest([new, old, other]) != select_latest([old, other, new])
    assert select_latest([old, other, new]) == [other, new]
    cold = replace(old, key="c" * 16)
    assert len(select_latest([old, cold])) == 2, "under other conditions it is another timing"
    profiles = [replace(make_record("operators", make_profile(), variant="x"), key=key * 16) for key in "ab"]
    assert select_latest(profiles) == profiles[1:]


def test_where_chooses_by_machine_and_by_protocol(capsys):
    ours, theirs = make_timings()
    theirs = replace(theirs, environment=replace(theirs.environment, machine="ffffffff"))
    with pytest.raises(UserError, match="machine"):
        show_models([ours, theirs])
    show_models([ours, theirs], where={"machine": "ffffffff"}, as_json=True)
    assert [row["model"] for row in json.loads(capsys.readouterr().out)["table"]] == ["swin_t"]
    show_models([ours, theirs], mixed=True, as_json=True)
    assert len(json.loads(capsys.readouterr().out)["table"]) == 2
    with pytest.raises(UserError, match=r"no measurement here was made with protocol=cream \(there are 2 in all\)"):
        show_models([ours, theirs], where={"protocol": "cream"})


def test_results_are_listed_without_the_peaks(tmp_path):
    for name in ("bench_a", "peaks", "mhsa_ratio"):
        append(make_timings()[0], tmp_path / name)
    (tmp_path / "empty").mkdir()
    assert list_names(tmp_path) == ["bench_a", "mhsa_ratio"]
