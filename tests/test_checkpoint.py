"""Checkpoints: a training that was stopped anywhere ends as one that was not; what is damaged is refused."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_training import Small, without_time
from torch import nn

from evitlab import create_model
from evitlab.models.weights import load_model
from evitlab.recipes import Augmentation, TrainRecipe
from evitlab.train import checkpoint as checkpoints
from evitlab.train.data import DataSet, load_data
from evitlab.train.loop import train

RECIPE = TrainRecipe(
    steps=9,
    batch_size=16,
    learning_rate=1e-2,
    evaluations=3,
    ema=0.9,
    accumulate=2,
    augmentation=Augmentation(flip=0.5, mixup=0.2),
)


class StoppedError(Exception):
    """What ends a training in the middle."""


@pytest.fixture(scope="module")
def data() -> DataSet:
    return load_data("shapes", train_images=80, val_images=48)


def train_until(data: DataSet, recipe: TrainRecipe, folder: Path, step: int, model: nn.Module | None = None) -> None:
    def stop(done: int, total: int) -> None:
        if done == step:
            raise StoppedError

    with pytest.raises(StoppedError):
        train(model or Small(), data, recipe, seed=3, checkpoint=folder, checkpoint_every_s=0.0, on_step=stop)


@pytest.mark.parametrize("step", [1, 3, 4, 8, 9])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_training_stopped_after_any_step_ends_the_same(data: DataSet, tmp_path: Path, step: int, precision: str):
    recipe = replace(RECIPE, precision=precision)
    undisturbed = Small()
    expected = train(undisturbed, data, recipe, seed=3)
    train_until(data, recipe, tmp_path, step)
    model, steps = Small(seed=99), []
    result = train(model, data, recipe, seed=3, checkpoint=tmp_path, on_step=lambda done, _: steps.append(done))
    assert steps == list(range(step + 1, 10))
    assert without_time(result) == without_time(expected)
    torch.testing.assert_close(model.state_dict(), undisturbed.state_dict(), rtol=0, atol=0)


def test_seconds_add_up_over_interruptions(data: DataSet, tmp_path: Path):
    train_until(data, RECIPE, tmp_path, 5)
    file = next(tmp_path.glob("step-*")) / "checkpoint.json"
    state = json.loads(file.read_text())
    state["progress"].update(seconds=1000.0, wait_seconds=10.0)
    file.write_text(json.dumps(state))
    result = train(Small(), data, RECIPE, seed=3, checkpoint=tmp_path)
    assert 1000 < result.train_seconds < 1100
    assert 10 < result.wait_seconds < 110


def test_only_the_newest_checkpoint_stays(data: DataSet, tmp_path: Path):
    train_until(data, RECIPE, tmp_path, 5)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000005"]


def test_it_holds_weights_moments_and_average(data: DataSet, tmp_path: Path):
    model = Small()
    train_until(data, RECIPE, tmp_path, 2, model)
    folder = tmp_path / "step-00000002"
    weights = load_file(folder / "weights.safetensors")
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    moments = load_file(folder / "optimizer.safetensors")
    assert {name.split(".")[1] for name in moments} == {"step", "exp_avg", "exp_avg_sq"}
    assert all(value == 2 for name, value in moments.items() if name.endswith(".step"))
    average = load_file(folder / "average.safetensors")
    assert average.keys() == weights.keys()
    assert not torch.equal(average["head.weight"], weights["head.weight"])


def test_a_checkpoint_of_ours_is_a_saved_model(data: DataSet, tmp_path: Path):
    model = create_model("deit_t", depth=1, width=24, num_heads=2, image_size=32, patch_size=8, num_classes=16)
    train_until(data, RECIPE, tmp_path, 2, model)
    saved = load_model(tmp_path / "step-00000002")
    assert saved.config == model.config
    torch.testing.assert_close(saved.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_what_a_crash_left_half_written_is_not_used(data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    train_until(data, RECIPE, tmp_path, 3)

    def crash(tensors: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save_file", crash)
        with pytest.raises(KeyboardInterrupt):
            train(Small(), data, RECIPE, seed=3, checkpoint=tmp_path, checkpoint_every_s=0.0)
    steps: list[int] = []
    result = train(
        Small(), data, RECIPE, seed=3, checkpoint=tmp_path, checkpoint_every_s=0.0, on_step=lambda n, _: steps.append(n)
    )
    assert steps[0] == 4
    assert without_time(result) == without_time(train(Small(), data, RECIPE, seed=3))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000009"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda folder: (folder / "weights.safetensors").write_bytes(b"no tensors"),
            "weights.safetensors cannot be read",
        ),
        (lambda folder: (folder / "optimizer.safetensors").unlink(), "optimizer.safetensors cannot be read"),
        (lambda folder: (folder / "checkpoint.json").write_text("{"), "property name"),
        (lambda folder: (folder / "checkpoint.json").write_text('{"format": 7}'), "format is 7, not 1"),
        (lambda folder: (folder / "checkpoint.json").unlink(), "No such file"),
    ],
)
def test_a_damaged_checkpoint_is_named(data: DataSet, tmp_path: Path, damage: object, message: str):
    train_until(data, RECIPE, tmp_path, 2)
    damage(tmp_path / "step-00000002")  # type: ignore[operator]
    with pytest.raises(ValueError, match=rf"step-00000002: cannot go on from this checkpoint: .*{message}"):
        train(Small(), data, RECIPE, seed=3, checkpoint=tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 4}, "another training: seed was 3, and is now 4"),
        ({"recipe": replace(RECIPE, learning_rate=0.5)}, "another training: recipe was"),
        ({"model": nn.Sequential(nn.Flatten(), nn.Linear(3072, 16))}, "parameters was"),
    ],
)
def test_another_training_s_checkpoint_is_refused(data: DataSet, tmp_path: Path, change: dict, message: str):
    train_until(data, RECIPE, tmp_path, 2)
    asked = {"model": Small(), "recipe": RECIPE, "seed": 3, **change}
    with pytest.raises(ValueError, match=message):
        train(asked["model"], data, asked["recipe"], seed=asked["seed"], checkpoint=tmp_path)


def test_a_loss_that_is_not_finite_names_the_last_checkpoint(data: DataSet, tmp_path: Path):
    model = Small()

    def spoil(done: int, total: int) -> None:
        if done == 4:
            model.head.weight.data.fill_(torch.nan)

    with pytest.raises(FloatingPointError, match=r"got nan at step=4, learning rate .*: .*step-00000004"):
        train(model, data, RECIPE, seed=3, checkpoint=tmp_path, checkpoint_every_s=0.0, on_step=spoil)
    assert torch.isfinite(load_file(tmp_path / "step-00000004" / "weights.safetensors")["head.weight"]).all()


PROGRAM = """
import sys, json
from dataclasses import asdict
from pathlib import Path
from small_training import Small, without_time
from evitlab.recipes import TrainRecipe
from evitlab.train.data import load_data
from evitlab.train.loop import train
recipe = TrainRecipe(steps=400, batch_size=16, learning_rate=1e-2, evaluations=4, ema=0.9)
data = load_data("shapes", train_images=80, val_images=48)
result = train(Small(), data, recipe, seed=0, checkpoint=Path(sys.argv[1]), checkpoint_every_s=0.0)
print(json.dumps(without_time(result)))
"""


@pytest.mark.slow
def test_killing_it_again_and_again_changes_nothing(tmp_path: Path):
    """`kill -9` at moments that are not chosen, until it gets through."""
    command = [sys.executable, "-c", PROGRAM]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    whole = subprocess.run(
        [*command, str(tmp_path / "whole")], capture_output=True, text=True, check=True, env=environment
    )
    folder, kills, steps = tmp_path / "killed", 0, [0]
    while kills < 5:
        process = subprocess.Popen([*command, str(folder)], stdout=subprocess.PIPE, text=True, env=environment)
        while process.poll() is None and _newest(folder) <= steps[-1] + 17:
            time.sleep(0.003)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        steps.append(_newest(folder))
        kills += 1
    assert sorted(set(steps)) == steps  # each life got further
    assert steps[-1] < 400
    ended = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=True, env=environment)
    assert ended.stdout == whole.stdout


def _newest(folder: Path) -> int:
    found = checkpoints.find_checkpoint(folder)
    return 0 if found is None else int(found.name.removeprefix("step-"))
