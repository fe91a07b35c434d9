"""Small networks and orders that are pruned in a second or two."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from conftest import perturb

from evitlab.desk.desk import Desk
from evitlab.desk.pruning_steps import Walk
from evitlab.desk.pruning_weights import Wanted
from evitlab.desk.prunings import Order
from evitlab.environment import describe_environment
from evitlab.models.network import Network, build_model
from evitlab.models.zoo import make_config
from evitlab.pruning_settings import PruneSettings, Target
from evitlab.recipes import TrainRecipe
from evitlab.settings import TrainSettings
from evitlab.train.data import DataSet, load_data

KNOBS: dict[str, Any] = {"image_size": 32, "patch_size": 8, "width": 24, "depth": 3, "num_heads": 2}
SETTINGS = PruneSettings(
    steps=2, finetune=0.5, score_images=32, score_batch_size=16, timing_batch_size=1, timing_seconds=0.05
)
TRAINING = TrainSettings(
    train_images=64, val_images=48, seeds=(0,), recipe=TrainRecipe(steps=4, batch_size=16, evaluations=1, init="xavier")
)


def make_network(*, seed: int = 0) -> Network:
    network = build_model(make_config("deit_t", num_classes=16, **KNOBS), seed=seed)
    perturb(network, seed=seed)
    return network.eval()


def make_data() -> DataSet:
    return load_data("shapes", image_size=32, train_images=64, val_images=48)


def make_walk(network: Network, folder: Path, *, finetune: bool = True, **settings: Any) -> Walk:
    recipe = replace(TRAINING.recipe, epochs=0.5, init="as given", learning_rate=3e-4)
    return Walk(
        settings=replace(SETTINGS, **settings),
        cost="macs",
        reference=network.config,
        data=make_data(),
        finetuning=recipe if finetune else None,
        seed=0,
        device="cpu",
        folder=folder,
    )


def make_desk(folder: Path) -> Desk:
    """A desk of smoke runs: two rounds of each timing."""
    torch.set_num_threads(1)
    return Desk(folder=folder, environment=describe_environment("cpu"), on_progress=lambda share: None, smoke=True)


def make_order(*targets: Target, model: str = "deit_t", weights: Path | None = None, **changes: Any) -> Order:
    knobs = {} if weights is not None else KNOBS
    wanted = Wanted(model=model, knobs=knobs, weights=weights, pretrained=False, training=TRAINING)
    targets = targets or (Target(kind="macs", value=0.6),)
    return Order(wanted=wanted, targets=targets, settings=replace(SETTINGS, **changes))


def states_equal(one: Network, other: Network) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
