"""Several processes train one model: the same as one alone, as torchrun starts them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from evitlab.problems import UserError
from evitlab.recipes import TrainRecipe
from evitlab.train.batches import Batches
from evitlab.train.data import load_data
from evitlab.train.processes import Processes, find_processes, join_processes, local_device

PROGRAM = Path(__file__).parent / "train_in_processes.py"


def run(folder: Path, *, processes: int, steps: int = 12) -> list[dict[str, Any]]:
    """What each process found."""
    folder.mkdir(exist_ok=True)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    command = [sys.executable, *launcher, str(PROGRAM), str(folder), str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"rank{rank}of{processes}.json").read_text()) for rank in range(processes)]


@pytest.mark.slow
def test_two_processes_train_as_one_and_evaluate_exactly(tmp_path: Path):
    (alone,) = run(tmp_path / "one", processes=1)
    first, second = run(tmp_path / "two", processes=2)
    assert first == second
    assert first["result"].pop("processes") == 2
    assert alone["result"].pop("processes") == 1
    torch.testing.assert_close(torch.tensor(first["weights"]), torch.tensor(alone["weights"]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.tensor(first["scores"]), torch.tensor(alone["scores"]), rtol=1e-4, atol=1e-4)
    for name in ("top1", "top5", "steps", "images_seen", "val_images"):
        assert first["result"][name] == alone["result"][name]
    curves = [[point["train_loss"] for point in each["result"]["curve"]] for each in (first, alone)]
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)
    assert [path.name for path in (tmp_path / "two" / "checkpoint").iterdir()] == ["step-00000012"]


@pytest.mark.slow
def test_processes_go_on_from_a_checkpoint(tmp_path: Path):
    whole = run(tmp_path, processes=2)
    again = run(tmp_path, processes=2)  # finds the last step's
    assert again == whole


def test_alone_without_torchrun(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RANK", raising=False)
    with join_processes("cpu") as own:
        assert own == find_processes() == Processes(rank=0, count=1)
        assert own.first


def test_a_broken_start_is_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with (
        pytest.raises(UserError, match=r"could not join the processes of torchrun: .*WORLD_SIZE"),
        join_processes("cpu"),
    ):
        pass


def test_each_process_has_the_gpu_of_its_number(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert local_device("cuda") == "cuda:3"
    assert local_device("cuda:1") == "cuda:1"
    assert local_device("cpu") == "cpu"
    monkeypatch.delenv("LOCAL_RANK")
    assert local_device("cuda") == "cuda"


@pytest.mark.parametrize("count", [2, 4])
def test_processes_divide_every_batch(monkeypatch: pytest.MonkeyPatch, count: int):
    data = load_data("shapes", train_images=64, val_images=16)
    recipe = TrainRecipe(steps=2, batch_size=32, accumulate=2, evaluations=1)
    rows = torch.randperm(64)[:32]
    seen = []
    for rank in range(count):
        monkeypatch.setattr("evitlab.train.batches.find_processes", lambda r=rank: Processes(rank=r, count=count))
        parts = Batches(images=data.train, recipe=recipe, seed=0, device=torch.device("cpu")).make(0, rows)
        assert [len(part.images) for part in parts] == [32 // 2 // count] * 2
        seen += [part.targets.argmax(1) for part in parts]
    expected = data.train.labels[rows].sort().values
    assert torch.equal(torch.cat(seen).sort().values, expected)
