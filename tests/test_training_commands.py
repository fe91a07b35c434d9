"""`evitlab train` and `evitlab evaluate`: what they train, keep, print, go on with and refuse."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from evitlab import environment
from evitlab.cli import main
from evitlab.desk import trainings
from evitlab.models.weights import load_model
from evitlab.store import measured, read_records
from evitlab.train.data import load_data, scale_pixels

SMALL = "depth=1,width=24,num_heads=2,image_size=32,patch_size=8"
MODEL = f"deit_t:{SMALL}"
FEW = ["train_images=96", "val_images=48", "threads=1"]
QUICK = ["steps=6", "batch_size=16", *FEW]


def options(*fields: str) -> list[str]:
    return [part for field in fields for part in ("--with", field)]


@pytest.fixture
def evitlab(tmp_path, monkeypatch, capsys):
    """Runs a command line in a folder of its own; gives exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(environment, "_set_glibc_thresholds", lambda: "not in a test's process")
    monkeypatch.setattr(environment, "_tuned", None)
    monkeypatch.setattr(trainings, "COST_SECONDS", 0.2)

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


def test_training_leaves_records_tables_figures_and_weights(evitlab, tmp_path):
    code, out, _ = evitlab("train", MODEL, "--seeds", "2", *options(*QUICK, "mixup=0.2"), "--json")
    assert code == 0
    rows = json.loads(out)["training"]
    assert [row["seed"] for row in rows] == [0, 1]
    folder = only(tmp_path / "results")
    records = read_records(folder)
    assert [record.task for record in records] == ["train", "train"]
    results = [measured(record) for record in records]
    assert [row["top1"] for row in rows] == pytest.approx([result.top1 for result in results])
    assert {(result.num_classes, result.steps, result.train_images) for result in results} == {(16, 6, 96)}
    assert records[0].settings["recipe"]["augmentation"]["mixup"] == 0.2
    assert records[0].config["num_classes"] == 16  # taken from the data
    assert pd.read_csv(folder / "training.csv")["top1"].tolist() == pytest.approx([each.top1 for each in results])
    assert (folder / "training.png").read_bytes().startswith(b"\x89PNG")
    assert not any((folder / "checkpoints").iterdir())
    data = load_data("shapes", image_size=32, train_images=96, val_images=48)
    for seed, result in enumerate(results):
        logits = load_model(folder / "weights" / f"seed{seed}")(scale_pixels(data.val.pixels))
        assert (logits.argmax(1) == data.val.labels).double().mean().item() == pytest.approx(result.top1)


def test_what_is_trained_is_not_trained_again(evitlab, tmp_path):
    command = ["train", MODEL, *options(*QUICK)]
    first, again = evitlab(*command), evitlab(*command)
    assert first == again
    folder = only(tmp_path / "results")
    assert len(read_records(folder)) == 1
    evitlab(*command[:-1], "threads=1", *options("learning_rate=0.01"))
    assert len(read_records(folder)) == 2


def test_several_seeds_have_an_interval(evitlab):
    _, out, _ = evitlab("train", MODEL, "--seeds", "3", *options(*QUICK))
    assert re.search(r"mean +\d+\.\d *\n +\d+\.\d-\d+\.\d", out)


def test_an_evaluation_of_what_was_trained(evitlab, tmp_path):
    evitlab("train", MODEL, *options(*QUICK))
    weights = only(tmp_path / "results") / "weights" / "seed0"
    top1 = measured(read_records(weights.parents[1])[0]).top1
    code, out, _ = evitlab("evaluate", str(weights), *options(*FEW), "--maps", "2", "--results", "judged")
    assert code == 0
    folder = only(tmp_path / "judged")
    records = {record.task: record for record in read_records(folder)}
    assert set(records) == {"evaluate", "macs", "throughput"}
    found = measured(records["evaluate"])
    assert found.top1 == pytest.approx(top1)
    assert found.data == "shapes"
    assert found.images == 48
    assert found.peak_memory > 1e7
    for word in ("top-1", "macro AUC", "calibration", "parameters", "MACs", "images/s"):
        assert word in out
    confusion = pd.read_csv(folder / "confusion.csv").drop(columns="true").to_numpy()
    assert confusion.sum() == 48
    assert np.trace(confusion) / 48 == pytest.approx(top1)
    true = np.repeat(np.arange(16), confusion.sum(1))
    taken = np.concatenate([np.repeat(np.arange(16), row) for row in confusion])
    f1 = pd.read_csv(folder / "classes.csv")["f1"].fillna(0)
    assert f1.to_numpy() == pytest.approx(f1_score(true, taken, average=None, labels=range(16), zero_division=0))
    assert sorted(path.name for path in folder.glob("*.png")) == [
        "attention_0.png", "attention_1.png", "confusion.png", "per_class.png", "reliability.png", "roc.png",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_network_without_attention_is_judged_without_maps(evitlab, tmp_path):
    code, _, err = evitlab("evaluate", "timm:test_resnet", "--image-size", "32", *options(*FEW))
    assert code == 0
    assert "no attention maps: " in err
    assert not list(only(tmp_path / "results").glob("attention*"))


@pytest.mark.slow
def test_a_network_of_timm_is_trained_and_read_back(evitlab, tmp_path):
    code, _, _ = evitlab("train", "timm:test_resnet", *options(*QUICK))
    assert code == 0
    folder = only(tmp_path / "results")
    top1 = measured(read_records(folder)[0]).top1
    saved = folder / "weights" / "seed0" / "weights.safetensors"
    name = f"timm:test_resnet:checkpoint_path={saved}"
    code, out, _ = evitlab("evaluate", name, *options(*FEW), "--maps", "0", "--results", "judged", "--json")
    assert code == 0
    (row,) = [row for row in json.loads(out)["evaluation"] if row["measure"] == "top-1"]
    assert row["value"] == pytest.approx(top1)


def test_recipes_come_by_name_and_from_files(evitlab, tmp_path):
    (tmp_path / "mine.yaml").write_text("preset: small\nepochs: 1\nprecision: fp32\nevaluations: 1\nbatch_size: 32\n")
    code, _, _ = evitlab("train", MODEL, "--recipe", "mine.yaml", *options(*FEW, "label_smoothing=0.05"))
    assert code == 0
    recipe = read_records(only(tmp_path / "results"))[0].settings["recipe"]
    assert (recipe["epochs"], recipe["batch_size"], recipe["label_smoothing"]) == (1, 32, 0.05)
    assert recipe["augmentation"]["cutmix"] == 1.0  # of the preset


def test_smoke_is_small_and_apart(evitlab, tmp_path):
    assert evitlab("train", MODEL, "--smoke", "--recipe", "paper", *options("precision=fp32"))[0] == 0
    (record,) = read_records(only(tmp_path / "results") / "smoke")
    assert record.smoke
    assert measured(record).steps == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "deit_x"], "unknown model 'deit_x'; did you mean deit_t"),
        (
            ["train", MODEL, "--recipe", "papr"],
            "unknown recipe 'papr'; did you mean paper? (allowed: proxy, small, paper)",
        ),
        (["train", MODEL, "--recipe", "no.yaml"], "no.yaml"),
        (["train", MODEL, *options("epoch=3")], "epoch cannot be set; did you mean epochs?"),
        (["train", MODEL, *options("mixup=-1")], "mixup: must be greater than or equal to 0, but got -1"),
        (["train", MODEL, *options("batch_size=10", "accumulate=3")], "batch_size must be a multiple of accumulate"),
        (["train", MODEL, "--data", "cifar"], "did you mean cifar10"),
        (["train", MODEL, "--data", "nowhere/at/all"], "nowhere/at/all"),
        (["train", MODEL, "--data", "tiny-imagenet"], "tiny-imagenet"),
        (["train", MODEL, "--image-size", "16"], "image_size must be at least 32"),
        (["train", MODEL, "--image-size", "32x64"], "images are made squares, but"),
        (["train", "efficientvit_m0:num_classes=7", *options(*QUICK)], "one score per class of the data (16)"),
        (["train", MODEL, *options("teacher=deit_t", *QUICK)], "teacher"),
        (["evaluate", MODEL, "--block", "7", *options(*FEW)], "7"),
        (["evaluate", "nowhere"], "unknown model 'nowhere'"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(evitlab, tmp_path, arguments, message):
    code, out, err = evitlab(*arguments)
    assert not list(tmp_path.glob("results/*"))
    assert code == 2
    assert out == ""
    assert message in err
    assert "Traceback" not in err


def test_a_training_that_diverges_says_where(evitlab, tmp_path):
    code, _, err = evitlab("train", MODEL, *options(*QUICK, "learning_rate=1e30", "warmup=0", "clip_norm=1e30"))
    assert code != 0
    assert re.search(
        r"training loss must stay finite, but got (nan|inf) at step=\d+, learning rate \S+; last good", err
    )
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_killed_training_goes_on(tmp_path):
    """`kill -9` in the middle; the same command then ends as an undisturbed one does."""
    fields = options("steps=400", "batch_size=16", "train_images=96", "val_images=48", "threads=1")
    command = [sys.executable, "-m", "evitlab", "train", MODEL, *fields, "--json", "--results"]
    whole = subprocess.run([*command, tmp_path / "whole"], capture_output=True, text=True, check=True)
    often = "import sys; from evitlab.train import loop; loop.train.__kwdefaults__['checkpoint_every_s'] = 0.0"
    saving = [sys.executable, "-c", f"{often}; from evitlab.cli import main; main()", *command[3:]]
    process = subprocess.Popen([*saving, tmp_path / "killed"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list((tmp_path / "killed").glob("*/checkpoints/*/step-*")) and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert list((tmp_path / "killed").glob("*/checkpoints/*/step-*"))
    ended = subprocess.run([*command, tmp_path / "killed"], capture_output=True, text=True, check=True)
    ours, theirs = (json.loads(each.stdout)["training"][0] for each in (ended, whole))
    for name in ("top1", "top5", "loss", "train_top1"):
        assert ours[name] == theirs[name]


@pytest.mark.slow
def test_torchrun_trains_with_two_processes(tmp_path):
    fields = options("steps=6", "batch_size=16", "train_images=96", "val_images=47", "threads=1")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launcher, "-m", "evitlab", "train", MODEL, *fields, "--json", "--results", tmp_path],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["training"]
    assert row["processes"] == 2
    assert len(read_records(only(tmp_path))) == 1
