"""A training on disk: all that it needs to go on as if nothing had happened.

A folder holds one folder a step, `step-00000320`: a saved model (`weights.safetensors`, and `config.json` of one of
ours: `evitlab evaluate` reads it), `optimizer.safetensors`, `average.safetensors` where there is a moving average, and
`checkpoint.json`. It is written under another name, flushed to disk, and then
renamed, so that what bears the name is whole; after that the older ones go.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from evitlab.measurements.accuracy import Epoch
from evitlab.models.network import Network
from evitlab.models.weights import WEIGHTS_FILE, save_model, save_state
from evitlab.train.metrics import Accuracy
from evitlab.train.step import Stepper

STATE_FILE = "checkpoint.json"
FORMAT = 1


@dataclass(kw_only=True)
class Progress:
    """How far a training is."""

    step: int
    """Steps done."""
    curve: list[Epoch]
    losses: list[float]
    """Of the steps since the curve's last point."""
    seconds: float
    """In the steps."""
    wait_seconds: float
    """Of them waiting for batches."""
    accuracy: Accuracy | None = None
    """At the curve's last point."""


def save_checkpoint(folder: Path, stepper: Stepper, progress: Progress, identity: Mapping[str, Any]) -> Path:
    """Write a checkpoint and remove the older ones; the identity says whose it is. Returns its folder."""
    final = folder / f"step-{progress.step:08d}"
    part = folder / f"part-{os.getpid()}-{progress.step:08d}"
    shutil.rmtree(part, ignore_errors=True)
    if isinstance(stepper.model, Network):
        save_model(stepper.model, part)
    else:
        save_state(stepper.model, part)
    for name, tensors in _collect_tensors(stepper).items():
        save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, part / name)
    state = {
        "format": FORMAT,
        "identity": dict(identity),
        "progress": asdict(progress),
        "scaler": stepper.scaler.state_dict(),
    }
    (part / STATE_FILE).write_text(json.dumps(state, indent=1, allow_nan=False))
    for file in part.iterdir():
        _flush(file)
    shutil.rmtree(final, ignore_errors=True)
    part.rename(final)
    _flush(folder)
    for other in folder.iterdir():
        if other != final and other.name.startswith(("step-", "part-")):
            shutil.rmtree(other, ignore_errors=True)
    return final


def find_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint in a folder."""
    return max(folder.glob("step-*"), default=None)


def load_checkpoint(path: Path, stepper: Stepper, identity: Mapping[str, Any]) -> Progress:
    """Put a checkpoint into a model, its optimiser and its average.

    Raises ValueError where it is not one, is damaged, or belongs to another training.
    """
    try:
        state = json.loads((path / STATE_FILE).read_text())
        if state["format"] != FORMAT:
            raise ValueError(f"its format is {state['format']}, not {FORMAT}")
        _check_identity(state["identity"], json.loads(json.dumps(dict(identity))))
        stepper.model.load_state_dict(_read(path / WEIGHTS_FILE))
        if stepper.average is not None:
            stepper.average.module.load_state_dict(_read(path / "average.safetensors"))
        _load_optimizer(stepper.optimizer, _read(path / "optimizer.safetensors"))
        stepper.scaler.load_state_dict(state["scaler"])
        return _read_progress(state["progress"])
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: cannot go on from this checkpoint: {reason} (remove it to begin anew)") from error


def _read_progress(plain: Mapping[str, Any]) -> Progress:
    curve = [Epoch(**point) for point in plain["curve"]]
    accuracy = None if plain["accuracy"] is None else Accuracy(**plain["accuracy"])
    return Progress(**{**plain, "curve": curve, "accuracy": accuracy})


def _check_identity(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    for name, value in expected.items():
        if found.get(name) != value:
            raise ValueError(f"it is of another training: {name} was {found.get(name)!r}, and is now {value!r}")


def _collect_tensors(stepper: Stepper) -> dict[str, dict[str, Tensor]]:
    """What is saved beside the weights, by file."""
    moments = stepper.optimizer.state_dict()["state"]
    flat = {f"{index}.{name}": tensor for index, state in moments.items() for name, tensor in state.items()}
    average = {} if stepper.average is None else {"average.safetensors": dict(stepper.average.module.state_dict())}
    return {"optimizer.safetensors": flat, **average}


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    state = optimizer.state_dict()
    moments: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        moments.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({**state, "state": moments})


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except Exception as error:  # safetensors has an error class of its own for a damaged file
        raise ValueError(f"{path.name} cannot be read: {error}") from error


def _flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
