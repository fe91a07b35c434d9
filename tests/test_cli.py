"""The command line as people use it: output, exit codes, no traceback."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
from test_runner import TINY

from evitlab import environment
from evitlab.cli import main
from evitlab.models.zoo import ZOO
from evitlab.store import read_records


@dataclass(frozen=True)
class Outcome:
    """What a command left."""

    returncode: int
    stdout: str
    stderr: str


def evitlab(*arguments: object, cwd: Path) -> Outcome:
    """Run a command in this process, as a new one would take seconds to load torch."""
    out, err = io.StringIO(), io.StringIO()
    argv, sys.argv = sys.argv, ["evitlab", *map(str, arguments)]
    try:
        with chdir(cwd), redirect_stdout(out), redirect_stderr(err), warnings.catch_warnings():
            warnings.simplefilter("default")
            main()
        code = 0
    except SystemExit as error:
        code = int(error.code or 0)
    finally:
        sys.argv = argv
    return Outcome(code, out.getvalue(), err.getvalue())


@pytest.fixture(autouse=True, scope="module")
def _allocator_stays():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(environment, "_set_glibc_thresholds", lambda: "not in a test's process")
        patch.setattr(environment, "_tuned", None)
        yield


@pytest.fixture(scope="module")
def ran(tmp_path_factory, _allocator_stays):
    """A folder in which a tiny study has been run."""
    folder = tmp_path_factory.mktemp("ran")
    (folder / "tiny.yaml").write_text(TINY)
    result = evitlab("run", "tiny.yaml", cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder, result


def test_run_leaves_records_table_figures_and_page(ran):
    folder, result = ran
    results = folder / "results" / "tiny"
    assert {path.name for path in results.iterdir()} >= {
        "records.jsonl", "table.csv", "throughput_accuracy.png", "memory_bound.png", "report.html", "study.yaml",
    }  # fmt: skip
    assert "mhsa_ratio=0.5" in result.stdout
    assert "results/tiny" in result.stdout
    assert "It is not ImageNet's." in " ".join(result.stdout.split())
    lines = [line for line in result.stderr.splitlines() if " left" in line]
    assert len(lines) == 13
    assert re.fullmatch(r"base: throughput: \d+\.\d s, \d+:\d\d left", lines[0])
    page = (results / "report.html").read_text()
    assert "<h1" in page
    assert "http://" not in re.sub(r"http://www\.w3\.org\S*", "", page)


def test_run_again_measures_nothing(ran):
    folder, _ = ran
    before = (folder / "results/tiny/records.jsonl").read_bytes()
    again = evitlab("run", "tiny.yaml", "--json", cwd=folder)
    assert again.returncode == 0
    assert (folder / "results/tiny/records.jsonl").read_bytes() == before
    assert " left" not in again.stderr
    rows = json.loads(again.stdout)
    assert [row["variant"] for row in rows] == ["base", "mhsa_ratio=0.5", "mhsa_ratio=1"]


def test_smoke_is_kept_apart(ran):
    folder, _ = ran
    before = (folder / "results/tiny/records.jsonl").read_bytes()
    assert evitlab("run", "tiny.yaml", "--smoke", cwd=folder).returncode == 0
    assert (folder / "results/tiny/records.jsonl").read_bytes() == before
    records = read_records(folder / "results/tiny/smoke")
    assert records
    assert all(record.smoke for record in records)


def test_show_and_report_need_no_study_file(ran):
    folder, _ = ran
    shown = evitlab("show", "tiny", cwd=folder)
    assert shown.returncode == 0
    assert "mhsa_ratio=1" in shown.stdout
    assert re.match(r"tiny +3 variants +throughput, macs, operators, train\n  \S", evitlab("show", cwd=folder).stdout)
    page = folder / "results/tiny/report.html"
    before = page.read_bytes()
    page.unlink()
    pages = [f"results/{name}/report.html" for name in ("peaks", "tiny")]
    assert evitlab("report", cwd=folder).stdout.splitlines() == [*pages, "results/index.html", "results/README.md"]
    assert (
        "[tiny](tiny), [page](tiny/report.html), [table](tiny/table.csv)" in (folder / "results/README.md").read_text()
    )
    assert page.read_bytes() == before


def test_measurements_of_another_machine_are_not_mixed_in_but_named(ran, tmp_path):
    folder, _ = ran
    theirs = tmp_path / "results/tiny"
    shutil.copytree(folder / "results/tiny", theirs)
    records = (theirs / "records.jsonl").read_text()
    machine = json.loads(records.splitlines()[0])["environment"]["machine"]
    moved = records.replace(machine, "00000000").replace('"start":"2', '"start":"1')  # earlier, elsewhere
    (theirs / "records.jsonl").write_text(records + moved)
    shown = evitlab("show", "tiny", "--json", cwd=tmp_path)
    assert shown.returncode == 0
    assert f"this is the latest, machine={machine}," in shown.stderr
    assert shown.stdout == evitlab("show", "tiny", "--json", cwd=folder).stdout
    chosen = evitlab("show", "tiny", "--where", "machine=00000000", cwd=tmp_path)
    assert (chosen.returncode, chosen.stderr) == (0, "")
    mixed = evitlab("show", "tiny", "--where", "device=cpu", cwd=tmp_path)
    assert mixed.returncode == 2
    assert "must share their machine" in mixed.stderr
    wrong = evitlab("show", "tiny", "--where", "colour=red", cwd=tmp_path)
    assert (wrong.returncode, "where must name fields of the environment" in wrong.stderr) == (2, True)
    assert "--where must be FIELD=VALUE" in evitlab("show", "tiny", "--where", "cpu", cwd=tmp_path).stderr


@pytest.mark.slow
def test_another_seed_is_other_work(ran, tmp_path):
    folder, _ = ran
    shutil.copytree(folder, tmp_path / "copy")
    assert evitlab("run", "tiny.yaml", "--seed", "7", cwd=tmp_path / "copy").returncode == 0
    seeds = {(r.task, r.seed) for r in read_records(tmp_path / "copy/results/tiny")}
    assert seeds == {(t, s) for t in ("macs", "throughput", "operators") for s in (0, 7)} | {
        ("train", s) for s in (0, 1, 7, 8)
    }
    first, second = (evitlab("show", "tiny", "--seed", s, "--json", cwd=tmp_path / "copy").stdout for s in (0, 7))
    assert first == evitlab("show", "tiny", "--json", cwd=folder).stdout
    assert second != first


def test_list_shows_every_network_and_knob(tmp_path):
    data = json.loads(evitlab("list", "--json", cwd=tmp_path).stdout)
    assert set(data["networks"]) == set(ZOO)
    assert data["networks"]["efficientvit_m4"]["knobs"]["width"] == [128, 256, 384]
    text = evitlab("list", cwd=tmp_path).stdout
    assert all(name in text for name in [*ZOO, *data["knobs"]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "none.yaml"], "error: none.yaml: cannot be read: No such file or directory"),
        (["run", "bad.yaml"], "error: bad.yaml: base: unknown network 'deit_tt'; did you mean deit_t?"),
        (["check", "bad.yaml"], "bad.yaml: base: unknown network"),
        (["run", "tiny.yaml", "--device", "tpu"], "error: device must be cpu, cuda or cuda:N, but got name='tpu'"),
        (["run", "tiny.yaml", "--results", "file"], "error: file"),
        (["run", "tiny.yaml", "--results", "/proc/none"], "error: /proc/none"),
        (["show", "nothing"], "error: results: no results of 'nothing' (there are: none)"),
        (["report", "../tiny"], "error: results: no results of '../tiny'"),
        (["run"], "Missing argument 'STUDY'"),
        (["rum"], "No such command 'rum'"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(tmp_path, arguments, message):
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "bad.yaml").write_text(TINY.replace("name: deit_t", "name: deit_tt"))
    (tmp_path / "file").write_text("")
    result = evitlab(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert message.lower() in result.stderr.lower()
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text.replace('"schema":2', '"schema":3', 1), "schema 3 is newer than 2"),
        (lambda text: "garbage\n" + text, "line 1"),
        (lambda text: text.replace('"seed":0', '"seed":"x"', 1), "seed: "),
    ],
)
def test_a_damaged_record_file_is_refused_and_left_alone(ran, tmp_path, damage, message):
    folder, _ = ran
    (tmp_path / "tiny.yaml").write_text(TINY)
    records = tmp_path / "results/tiny/records.jsonl"
    records.parent.mkdir(parents=True)
    records.write_text(damage((folder / "results/tiny/records.jsonl").read_text()))
    before = records.read_bytes()
    result = evitlab("run", "tiny.yaml", cwd=tmp_path)
    assert result.returncode == 2
    assert message in result.stderr
    assert "records.jsonl" in result.stderr
    assert records.read_bytes() == before


@pytest.mark.slow
def test_a_torn_last_line_is_set_aside_and_measured_again(ran, tmp_path):
    folder, _ = ran
    (tmp_path / "tiny.yaml").write_text(TINY)
    records = tmp_path / "results/tiny/records.jsonl"
    records.parent.mkdir(parents=True)
    records.write_bytes((folder / "results/tiny/records.jsonl").read_bytes()[:-50])
    result = evitlab("run", "tiny.yaml", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "warning: " in result.stderr
    assert records.with_name("records.jsonl.torn").exists()
    assert len(read_records(records.parent)) == 13


@pytest.mark.slow
def test_a_variant_that_fails_gives_exit_code_1(tmp_path):
    (tmp_path / "nan.yaml").write_text(
        TINY.replace("recipe: {", "recipe: {learning_rate: 1.0e+30, ").replace("steps: 1,", "steps: 4,")
    )
    result = evitlab("run", "nan.yaml", cwd=tmp_path)
    assert result.returncode == 1, result.stderr
    assert "not measured: mhsa_ratio=1: train" in " ".join(result.stdout.split())
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_interrupted_it_says_how_to_go_on(tmp_path):
    (tmp_path / "long.yaml").write_text(TINY.replace("steps: 1,", "steps: 100000,"))
    command = [sys.executable, "-m", "evitlab", "run", "long.yaml", "--results", "elsewhere"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        records = tmp_path / "elsewhere/long/records.jsonl"
        while process.poll() is None and (not records.exists() or records.read_text().count("\n") < 5):
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 130
    assert "Go on with: evitlab run long.yaml --results elsewhere" in errors
    assert "Traceback" not in errors


def test_version_and_help(tmp_path):
    command = [sys.executable, "-m", "evitlab", "--version"]
    assert re.fullmatch(r"evitlab \d+\.\d+\.\d+\n", subprocess.run(command, capture_output=True, text=True).stdout)
    for command in ("run", "check", "list", "show", "report"):
        assert command in evitlab("--help", cwd=tmp_path).stdout
        assert evitlab(command, "--help", cwd=tmp_path).returncode == 0
