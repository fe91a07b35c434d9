"""Pruning in steps: score, cut, fine-tune, and again; each step is on disk before the next begins.

A folder holds `cut-01`, `tuned-01`, `cut-02`, ...: a saved model and `step.json`. Each is written under another name
and then renamed, so that what bears the name is whole; of those that a later one replaces only `step.json` is kept.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from scipy.stats import binomtest
from torch import Tensor

from evitlab.measurements.accuracy import TrainResult
from evitlab.measurements.pruning import JudgedOn, PruneStep
from evitlab.models.config import ModelConfig
from evitlab.models.network import Network
from evitlab.models.weights import WEIGHTS_FILE, load_model, save_model
from evitlab.problems import UserError
from evitlab.prune.costs import count_config_macs, count_config_params
from evitlab.prune.importance import score_importance
from evitlab.prune.plan import Plan, choose_channels
from evitlab.prune.surgery import cut
from evitlab.pruning_settings import PruneSettings
from evitlab.recipes import TrainRecipe
from evitlab.train.batches import draw_seed
from evitlab.train.data import DataSet, scale_pixels
from evitlab.train.evaluation import evaluate
from evitlab.train.loop import train

Scores = dict[str, Tensor]
Share = Callable[[float], None]
COSTS: dict[str, Callable[[ModelConfig], int]] = {"macs": count_config_macs, "params": count_config_params}
"""What is divided by and counted, from the config alone."""
STEP_FILE = "step.json"
_STEP = TypeAdapter(PruneStep)


@dataclass(frozen=True, kw_only=True)
class Walk:
    """How a network is pruned step by step, on which images, and where its steps are kept."""

    settings: PruneSettings
    cost: str
    """Of `COSTS`."""
    reference: ModelConfig
    """The original, whose cost the shares are of."""
    data: DataSet
    finetuning: TrainRecipe | None
    """After each cut; None cuts alone."""
    seed: int
    device: str
    folder: Path
    """Of this walk's own; removed by the caller once the result is kept."""


def judge_network(network: Network, data: DataSet) -> JudgedOn:
    """Accuracy on the held-out images with its interval."""
    accuracy = evaluate(network, data.val)
    return _describe(accuracy.top1, accuracy.loss, len(data.val.labels))


def prune_in_steps(
    network: Network, shares: list[float], walk: Walk, *, last: Callable[[Network, Scores], float] | None, share: Share
) -> tuple[Network, tuple[PruneStep, ...]]:
    """The network after a cut for each share of the original's cost, and what each step came to.

    `last` may choose the last share instead, from the network and its scores before that cut. What the folder holds is
    not done again: an interrupted walk comes to the same result. Raises UserError for a share that cannot be reached.
    """
    for number, target in enumerate(shares, start=1):
        begun = walk.folder / f"cut-{number:02d}"
        if not begun.is_dir():
            scores = score_network(network, walk, step=number, share=_part(share, number, len(shares), 0.0, 0.4))
            if last is not None and number == len(shares):
                target = last(network, scores)
            network = cut(network, plan_cut(network.config, scores, target, walk))
            _keep(network, _describe_cut(network, target, walk), begun)
        network = _load(begun, walk) or network
        if walk.finetuning is not None:
            network = _finetune(network, number, walk, share=_part(share, number, len(shares), 0.4, 1.0))
        share(number / len(shares))
    names = "tuned" if walk.finetuning is not None else "cut"
    steps = tuple(_read_step(walk.folder / f"{names}-{number:02d}") for number in range(1, len(shares) + 1))
    return network, steps


def _part(share: Share, number: int, count: int, begin: float, end: float) -> Share:
    """Tells the whole's progress from that of a part of one of its steps, counted from 1."""
    return lambda done: share((number - 1 + begin + (end - begin) * done) / count)


def score_network(network: Network, walk: Walk, *, step: int, share: Share) -> Scores:
    """Importance of every channel, on training images drawn anew for each step."""
    settings = walk.settings
    seed = draw_seed(walk.seed, step, 0)
    order = torch.randperm(len(walk.data.train.labels), generator=torch.Generator().manual_seed(seed))
    rows = order[: settings.score_images].split(settings.score_batch_size)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for chosen in rows:
            yield scale_pixels(walk.data.train.pixels[chosen]), walk.data.train.labels[chosen]

    return score_importance(
        network.to(walk.device),
        batches(),
        importance=settings.importance,
        seed=seed,
        on_progress=lambda done: share(done / len(rows)),
    )


def plan_cut(config: ModelConfig, scores: Scores, target: float, walk: Walk) -> Plan:
    """What stays of a network at a share of the original's cost."""
    cost = COSTS[walk.cost]
    return choose_channels(
        config,
        scores,
        cost=cost,
        target=target,
        floors=walk.settings.floors,
        by_cost=walk.settings.by_cost,
        reference_cost=float(cost(walk.reference)),
    )


def _describe_cut(network: Network, target: float, walk: Walk) -> PruneStep:
    return PruneStep(
        target=target,
        macs=count_config_macs(network.config),
        params=count_config_params(network.config),
        pruned=judge_network(network.to(walk.device), walk.data),
        finetuned=None,
    )


def _finetune(network: Network, number: int, walk: Walk, *, share: Share) -> Network:
    """The network fine-tuned after a cut; a training that was interrupted goes on."""
    assert walk.finetuning is not None
    ended, checkpoint = walk.folder / f"tuned-{number:02d}", walk.folder / f"training-{number:02d}"
    if not ended.is_dir():
        result = train(
            network.to(walk.device),
            walk.data,
            walk.finetuning,
            seed=draw_seed(walk.seed, number, 1) % 2**32,
            checkpoint=checkpoint,
            on_step=lambda step, steps: share(step / steps),
        )
        step = replace(_read_step(walk.folder / f"cut-{number:02d}"), finetuned=_describe_training(result))
        _keep(network.eval(), step, ended)
        shutil.rmtree(checkpoint, ignore_errors=True)
    return _load(ended, walk) or network


def _describe_training(result: TrainResult) -> JudgedOn:
    return _describe(result.top1, result.loss, result.val_images)


def _describe(top1: float, loss: float, images: int) -> JudgedOn:
    interval = binomtest(round(top1 * images), images).proportion_ci(method="wilson")
    return JudgedOn(top1=top1, top1_low=float(interval.low), top1_high=float(interval.high), loss=loss, images=images)


def _keep(network: Network, step: PruneStep, folder: Path) -> None:
    """Write a network and its step as a whole, then let go of the weights that it replaces."""
    part = folder.with_name(f"part-{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    save_model(network, part)
    (part / STEP_FILE).write_text(json.dumps(asdict(step), allow_nan=False))
    part.rename(folder)
    for other in folder.parent.iterdir():
        if other.name.startswith("part-"):
            shutil.rmtree(other, ignore_errors=True)
        elif other != folder and (other / STEP_FILE).exists():
            (other / WEIGHTS_FILE).unlink(missing_ok=True)


def _load(folder: Path, walk: Walk) -> Network | None:
    """The network of a step, as whoever resumes there reads it; None where a later step has replaced it."""
    if not (folder / WEIGHTS_FILE).exists():
        return None
    try:
        return load_model(folder).to(walk.device)
    except ValueError as error:
        raise UserError(f"{error} (remove {walk.folder} to begin anew)") from None


def _read_step(folder: Path) -> PruneStep:
    try:
        return _STEP.validate_json((folder / STEP_FILE).read_text(), strict=True)
    except (OSError, ValidationError) as error:
        raise UserError(
            f"{folder / STEP_FILE}: cannot be read (remove {folder.parent} to begin anew): {error}"
        ) from None
