"""What a study does with one network alone: count, profile, train, judge."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evitlab.comparing import compare_heads, make_untrained
from evitlab.drawings import write_drawings
from evitlab.judging import look, score_network
from evitlab.measure.macs import count_macs
from evitlab.measure.operators import profile_operators
from evitlab.measurements.accuracy import Epoch, Evaluation, TrainResult
from evitlab.measurements.heads import HeadSimilarity
from evitlab.measurements.macs import MacCount
from evitlab.measurements.profile import OperatorProfile, Peaks
from evitlab.measurements.terms import Precision
from evitlab.models.config import ModelConfig
from evitlab.models.network import Network, build_model
from evitlab.models.weights import WEIGHTS_FILE, load_model, save_model
from evitlab.proxies import load_for
from evitlab.settings import (
    EvaluateSettings,
    HeadsSettings,
    MacsSettings,
    OperatorsSettings,
    TrainSettings,
    as_arguments,
)
from evitlab.store import write_atomically
from evitlab.train.loop import train

Share = Callable[[float], None]
"""Told how far a piece of work is, from 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Where one training leaves its network."""

    folder: Path
    key: str
    """That of the training's record, kept beside the weights: a folder may hold those of another."""

    def are_there(self) -> bool:
        """Whether the folder holds the network of this training."""
        with suppress(OSError):
            return self._label.read_text().strip() == self.key and (self.folder / WEIGHTS_FILE).is_file()
        return False

    def save(self, network: Network) -> None:
        """Keep a trained network; a crash leaves none that is taken for it."""
        self._label.unlink(missing_ok=True)
        save_model(network, self.folder)
        write_atomically(self._label, f"{self.key}\n")

    def load(self) -> Network:
        """The trained network, in evaluation mode. Raises ValueError where it is not there."""
        if not self.are_there():
            raise ValueError(f"{self.folder}: does not hold the network to judge: its training failed")
        return load_model(self.folder)

    @property
    def _label(self) -> Path:
        return self.folder / "training.txt"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a task runs on, and where it leaves what is no record."""

    device: str
    peaks: Callable[[Precision], Peaks]
    """This machine's roofs in a precision; measured when first asked for."""
    checkpoints: Path
    """Folder of this work's own, for what it must not lose when it is killed; removed once it is recorded."""
    weights: Weights
    """Of the training with this work's seed."""
    drawings: Path
    """File for what an evaluation draws."""
    key: str
    """Of the record that this work will have."""
    judge: Callable[[Epoch, int], str | None] | None = None
    """Says at an evaluation why a training of so many steps is given up, or None; without it none is."""


class GivenUpError(Exception):
    """A training that the study's rule stopped, with what it had reached."""

    def __init__(self, reason: str, result: TrainResult):
        super().__init__(reason)
        self.result = result


def run_macs(config: ModelConfig, settings: MacsSettings, seed: int, machine: Machine, share: Share) -> MacCount:
    """MACs and parameters of a network."""
    return count_macs(build_model(config, seed=seed), image_size=config.image_size)


def run_operators(
    config: ModelConfig, settings: OperatorsSettings, seed: int, machine: Machine, share: Share
) -> OperatorProfile:
    """Where a network's time goes."""
    return profile_operators(
        build_model(config, seed=seed),
        **as_arguments(settings),
        peaks=machine.peaks(settings.execution.precision),
        image_size=config.image_size,
        device=machine.device,
        seed=seed,
        on_progress=share,
    )


def run_train(config: ModelConfig, settings: TrainSettings, seed: int, machine: Machine, share: Share) -> TrainResult:
    """Accuracy of a network, trained from its seed; its weights are kept. Raises GivenUpError where it is stopped."""
    height, width = config.image_size
    if height != width:
        raise ValueError(f"images of {settings.data!r} are made squares, but the network takes {config.image_size}")
    data = load_for(settings, image_size=height)
    model = build_model(config, seed=seed).to(machine.device)
    reasons: list[str] = []

    def goes_on(epoch: Epoch, steps: int) -> bool:
        if machine.judge is None:
            return True
        reasons.extend(filter(None, [machine.judge(epoch, steps)]))
        return not reasons

    result = train(
        model,
        data,
        settings.recipe,
        seed=seed,
        checkpoint=machine.checkpoints,
        on_step=lambda step, steps: share(step / steps),
        goes_on=goes_on,
    )
    if reasons:
        raise GivenUpError(reasons[0], result)
    machine.weights.save(model)
    return result


def run_evaluate(
    config: ModelConfig,
    settings: EvaluateSettings,
    seed: int,
    machine: Machine,
    share: Share,
    *,
    training: TrainSettings,
) -> Evaluation:
    """A trained network on the images that its training held out; what is drawn of it is kept."""
    network = machine.weights.load().to(machine.device)
    assert network.config == config
    data = load_for(training, image_size=config.image_size[0])
    evaluation, curves, scores = score_network(network, data, on_progress=share)
    drawings = look(network, data.val, scores, curves, count=settings.maps, block=settings.block)
    write_drawings(drawings, machine.drawings, key=machine.key)
    return evaluation


def run_heads(
    config: ModelConfig,
    settings: HeadsSettings,
    seed: int,
    machine: Machine,
    share: Share,
    *,
    training: TrainSettings,
) -> HeadSimilarity:
    """The heads of a trained network beside those that its training began with."""
    network = machine.weights.load().to(machine.device)
    assert network.config == config
    control = make_untrained(config, training.recipe, seed=seed).to(machine.device)
    data = load_for(training, image_size=config.image_size[0])
    return compare_heads(network, control, data, settings, on_progress=share)


TASKS: dict[str, Callable[..., Any]] = {
    "macs": run_macs,
    "operators": run_operators,
    "train": run_train,
    "evaluate": run_evaluate,
    "heads": run_heads,
}
"""By name: `(config, settings, seed, machine, share) -> measurement`; those on weights are told the `training` too."""
