"""`evitlab prune`: what it keeps, prints, goes on with and refuses."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from evitlab import environment
from evitlab.cli import main
from evitlab.desk import prunings
from evitlab.measure import rounds, throughput
from evitlab.models.weights import load_model
from evitlab.store import measured, read_records

SMALL = "deit_t:depth=3,width=24,num_heads=2"
FEW = ["train_images=64", "val_images=48", "threads=1", "score_images=32", "score_batch_size=16", "steps=4"]
QUICK = [*FEW, "batch_size=16", "timing_batch_size=1", "timing_seconds=0.05"]
STEPS = ["--steps", "2", "--finetune", "0.5"]


def options(*fields: str) -> list[str]:
    return [part for field in fields for part in ("--with", field)]


@pytest.fixture
def evitlab(tmp_path, monkeypatch, capsys):
    """Runs a command line in a folder of its own; gives exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(environment, "_set_glibc_thresholds", lambda: "not in a test's process")
    monkeypatch.setattr(environment, "_tuned", None)
    monkeypatch.setattr(rounds, "REPEAT_SECONDS", 0.001)
    monkeypatch.setattr(throughput, "WARMUP_SECONDS", 0.01)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["evitlab", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return run


def only(folder: Path) -> Path:
    (found,) = folder.iterdir()
    return found


def test_the_bare_command_in_small(evitlab, tmp_path):
    code, out, err = evitlab("prune", "deit_t", "--smoke")
    assert code == 0
    for words in ("Pruned: deit_t", "The paper's claims", "control", "Trainings", "results/prune_deit_t"):
        assert words in out
    assert "no weights given: training a small deit_t on shapes first (image_size 32" in err
    folder = tmp_path / "results" / "prune_deit_t" / "smoke"
    assert {path.name for path in folder.iterdir()} >= {
        "records.jsonl", "pruning.csv", "channels.csv", "claims.csv", "steps.csv", "channels.png", "steps.png",
        "report.html", "weights",
    }  # fmt: skip
    assert [record.task for record in read_records(folder)] == ["train", "prune"]
    assert len(pd.read_csv(folder / "channels.csv")) == 36


@pytest.mark.slow
def test_targets_rows_weights_and_the_other_commands(evitlab, tmp_path):
    command = ["prune", SMALL, "--target", "macs=0.7", "--target", "params=0.6", *STEPS, *options(*QUICK), "--json"]
    code, out, _ = evitlab(*command)
    assert code == 0
    rows = json.loads(out)["pruning"]
    assert [(row["target"], row["target_value"]) for row in rows] == [("macs", 0.7), ("params", 0.6)]
    folder = only(tmp_path / "results")
    found = [measured(record) for record in read_records(folder) if record.task == "prune"]
    assert [row["top1_finetuned"] for row in rows] == pytest.approx([each.finetuned.top1 for each in found])
    again = evitlab(*command)
    assert again[1] == out, "a second run measures nothing anew"
    shown = evitlab("show", folder.name, "--json")[1]
    assert [row["weights"] for row in json.loads(shown)["pruning"]] == [row["weights"] for row in rows]
    before = (folder / "report.html").read_text()
    (folder / "report.html").unlink()
    code, out, _ = evitlab("report", folder.name)
    assert out.splitlines()[0].endswith("report.html")
    assert (folder / "report.html").read_text() == before
    assert evitlab("report")[0] == 0
    pruned = str(folder / rows[0]["weights"])
    code, out, _ = evitlab("evaluate", pruned, *options(*FEW[:3]), "--maps", "1", "--json", "--smoke")
    assert code == 0
    code, _, _ = evitlab("bench", pruned, "--smoke")
    assert code == 0
    code, _, _ = evitlab("prune", "--weights", pruned, "--smoke", "--target", "macs=0.9", "--name", "further")
    assert code == 0, "what was pruned may be pruned further"
    assert (tmp_path / "results" / "further" / "smoke" / "report.html").is_file()


@pytest.mark.slow
def test_several_seeds_have_an_interval(evitlab):
    code, out, _ = evitlab("prune", SMALL, "--seeds", "2", "--steps", "1", "--finetune", "0", *options(*QUICK))
    assert code == 0
    assert "Student t, over seeds" in " ".join(out.split())


@pytest.mark.slow
def test_efficientvit_says_what_could_not_be_pruned(evitlab):
    code, out, _ = evitlab("prune", "efficientvit_m0", "--smoke", "--target", "macs=0.8")
    assert code == 0
    flat = " ".join(out.split())
    assert "Not pruned: V of a cascade" in flat
    assert "downsample" in flat


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prune"], "prune needs a model, such as deit_t"),
        (["prune", "deit"], "did you mean deit_t?"),
        (["prune", "timm:resnet18"], "only networks whose layers evitlab knows"),
        (["prune", "deit_t", "--target", "mac=0.5"], "did you mean macs?"),
        (["prune", "deit_t", "--importance", "tailor"], "importance: must be 'taylor'"),
        (["prune", "deit_t", "--weights", "gone"], "no such folder or file"),
        (["prune", "deit_t", "--data", "shape"], "did you mean shapes?"),
        (["prune", "deit_t", "--with", "min_q=3"], "did you mean min_qk?"),
        (["prune", "deit_t", "--set", "widht=3"], "did you mean width?"),
        (["prune", "deit_t", "--name", ""], "--name must be the name of a folder"),
        (["prune", "deit_t", "--name", "../elsewhere"], "--name must be the name of a folder"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(evitlab, tmp_path, arguments, message):
    code, out, err = evitlab(*arguments)
    assert code == 2
    assert out == ""
    assert message in err
    assert err.startswith("error: ") or err.count("\n") <= 2
    assert not list(tmp_path.rglob("records.jsonl"))


@pytest.mark.slow
def test_a_target_that_is_missed_fails_after_the_others(evitlab):
    floors = options(*QUICK, "min_ffn=40")
    command = ["prune", SMALL, "--steps", "1", "--finetune", "0", *floors, "--target"]
    code, out, err = evitlab(*command, "macs=0.8", "--target", "macs=0.05", "--json")
    assert code == 1
    assert [row["target_value"] for row in json.loads(out)["pruning"]] == [0.8]
    assert "error: macs=0.05, seed 0: target" in err
    code, out, err = evitlab(*command, "macs=0.05")
    assert code == 2
    assert "is left" in err


@pytest.mark.slow
def test_interrupted_it_says_so_and_goes_on(evitlab, tmp_path, monkeypatch):
    command = ["prune", SMALL, *STEPS, *options(*QUICK)]

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prunings, "make_untrained", stop)
        code, _, err = evitlab(*command)
    assert code == 130
    assert "interrupted" in err
    folder = only(tmp_path / "results")
    assert [record.task for record in read_records(folder)] == ["train"]
    code, _, err = evitlab(*command)
    assert code == 0
    assert "(going on)" in err


@pytest.mark.slow
def test_killed_again_and_again_it_comes_to_the_same(tmp_path):
    """`kill -9` after ever longer times, until it ends by itself; beside it one that nobody disturbs."""
    command = [sys.executable, "-m", "evitlab", "prune", SMALL, "--steps", "3", "--finetune", "2", *options(*QUICK)]
    subprocess.run([*command, "--results", "whole"], cwd=tmp_path, check=True, capture_output=True)
    seconds, kills = 4.0, 0
    while True:
        process = subprocess.Popen(
            [*command, "--results", "torn"], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        began = time.monotonic()
        while process.poll() is None and time.monotonic() - began < seconds:
            time.sleep(0.05)
        if process.poll() is not None:
            break
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
        seconds += 0.7
    assert process.returncode == 0
    assert kills > 2
    whole, torn = (only(tmp_path / name) for name in ("whole", "torn"))
    first, second = (load_model(folder / "weights" / "macs=0.6-seed0").state_dict() for folder in (whole, torn))
    assert all(torch.equal(first[name], second[name]) for name in first)
    one, other = (measured(read_records(folder)[-1]) for folder in (whole, torn))
    assert (one.groups, one.curve, one.control_curve) == (other.groups, other.curve, other.control_curve)
    assert len([record for record in read_records(torn) if record.task == "prune"]) == 1
