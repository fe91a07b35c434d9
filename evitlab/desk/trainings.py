"""Models trained and judged without a study: what `evitlab train` and `evitlab evaluate` do."""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from evitlab.desk.desk import Clock, Desk, keep, one_line_errors
from evitlab.drawings import Drawings
from evitlab.judging import look, score_network
from evitlab.measure.macs import count_macs
from evitlab.measure.throughput import measure_throughput
from evitlab.measurements.accuracy import Evaluation
from evitlab.models.named import NamedModel, load_named
from evitlab.models.network import Network
from evitlab.models.weights import save_model, save_state
from evitlab.models.zoo import ZOO
from evitlab.options import split_knobs
from evitlab.problems import UserError
from evitlab.proxies import decode_images, find_root, load_for
from evitlab.recipes import as_asked
from evitlab.records import Record, digest
from evitlab.settings import ThroughputSettings, TrainSettings, as_arguments
from evitlab.store import read_records
from evitlab.train.data import classes_of
from evitlab.train.loop import train
from evitlab.train.processes import find_processes, wait_for_all

COST_SECONDS = 10.0
"""That an evaluation spends on timing at most."""
WEIGHTS, CHECKPOINTS = "weights", "checkpoints"
"""Folders beside the records, which git ignores."""
IMAGE_SIZES = {"shapes": 64, "cifar10": 32, "cifar100": 32, "tiny-imagenet": 64}
"""Pixels a side that a data set is read at unless told otherwise; others take each network's own."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A network and the images that it is to learn or to name."""

    model: str
    """In any form that `load_named` takes."""
    knobs: Mapping[str, Any]
    image_size: tuple[int, int] | None
    settings: TrainSettings

    def load(self, *, seed: int) -> NamedModel:
        """The network with as many classes as the data where it can be told so, for images of the size asked for."""
        name, _ = split_knobs(self.model)
        knobs = dict(self.knobs)
        if name in ZOO or name.startswith("timm:"):
            classes = classes_of(self.settings.data, root=find_root(self.settings))
            knobs = {"num_classes": len(classes), **knobs}
        return load_named(self.model, knobs=knobs, image_size=self.choose_size(knobs), seed=seed)

    def choose_size(self, knobs: Mapping[str, Any]) -> tuple[int, int] | None:
        """The size asked for, else the data's own; None leaves it to the network."""
        own = {**knobs, **split_knobs(self.model)[1]}
        if self.image_size is not None or "image_size" in own or Path(self.model).is_dir():
            return self.image_size
        size = IMAGE_SIZES.get(self.settings.data) if isinstance(self.settings.data, str) else None
        return None if size is None else (size, size)

    @property
    def plain_data(self) -> dict[str, Any]:
        """On which images a record's accuracy is."""
        return {"data": self.settings.data, "val_images": self.settings.val_images}

    @property
    def plain(self) -> dict[str, Any]:
        """The settings as a record keeps them."""
        settings = {name: value for name, value in asdict(self.settings).items() if name not in ("seeds", "data_root")}
        return {**settings, "recipe": as_asked(self.settings.recipe)}


def train_seeds(desk: Desk, asked: Asked) -> list[Record]:
    """Train a network once for each seed, and keep its weights in `weights/seed<N>`; a record each.

    What has been trained under these conditions is not trained again; what was interrupted goes on. Of several
    processes, the first alone writes; the others return nothing.
    """
    records = []
    for number, seed in enumerate(asked.settings.seeds):
        own = replace(desk, seed=seed, on_progress=_part_of(desk, number, len(asked.settings.seeds)))
        record = _train(own, asked, seed)
        records += [record] if record is not None else []
    return records


def _train(desk: Desk, asked: Asked, seed: int) -> Record | None:
    model = asked.load(seed=seed)
    identity = [model.config, model.weights, asked.plain, seed, desk.environment.conditions, desk.smoke]
    weights = desk.folder / WEIGHTS / f"seed{seed}"
    if (found := _find(desk, model, asked, seed)) is not None and weights.is_dir():
        return found if find_processes().first else None
    height, width = model.image_size
    if height != width:
        raise UserError(f"images are made squares, but {model.label} takes {height} x {width} pixels")
    decode_images(asked.settings, image_size=height, on_progress=desk.on_progress)
    checkpoints = desk.folder / CHECKPOINTS / digest(identity)
    network, clock = model.model.to(desk.environment.device), Clock()
    with one_line_errors():
        result = train(
            network,
            load_for(asked.settings, image_size=height),
            asked.settings.recipe,
            seed=seed,
            checkpoint=checkpoints,
            on_step=lambda step, steps: desk.on_progress(step / steps),
        )
    wait_for_all()
    if not find_processes().first:
        return None
    _save(network, weights)
    record = keep(desk, model.label, model, "train", asked.plain, result, clock)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return record


def _find(desk: Desk, model: NamedModel, asked: Asked, seed: int) -> Record | None:
    """The same training under the same conditions, if it has been done."""
    request = digest([model.config, model.weights, "train", asked.plain])
    for record in reversed(read_records(desk.folder)):
        same = record.request == request and record.seed == seed and record.smoke == desk.smoke
        if same and record.environment.conditions == desk.environment.conditions:
            return record
    return None


def _save(network: nn.Module, folder: Path) -> None:
    if isinstance(network, Network):
        save_model(network.cpu(), folder)
    else:
        save_state(network.cpu(), folder)


def _part_of(desk: Desk, number: int, count: int) -> Any:
    return lambda share: desk.on_progress((number + share) / count)


@dataclass(frozen=True, kw_only=True)
class Judged(Drawings):
    """An evaluation: what is recorded, and what is drawn."""

    label: str
    records: list[Record]
    evaluation: Evaluation


def judge(desk: Desk, asked: Asked, *, maps: int, block: int | str) -> Judged:
    """Judge a network on the held-out images; records of its scores, its MACs and its speed."""
    model = asked.load(seed=desk.seed)
    height, width = model.image_size
    if height != width:
        raise UserError(f"images are made squares, but {model.label} takes {height} x {width} pixels")
    decode_images(asked.settings, image_size=height, on_progress=desk.on_progress)
    data = load_for(asked.settings, image_size=height)
    network, clock = model.model.to(desk.environment.device).eval(), Clock()
    with one_line_errors():
        evaluation, curves, scores = score_network(
            network, data, on_progress=lambda share: desk.on_progress(0.8 * share)
        )
    drawings = look(network, data.val, scores, curves, count=maps, block=block)
    records = [keep(desk, model.label, model, "evaluate", asked.plain_data, evaluation, clock)]
    records += _measure_cost(desk, model)
    desk.on_progress(1.0)
    return Judged(label=model.label, records=records, evaluation=evaluation, **vars(drawings))


def _measure_cost(desk: Desk, model: NamedModel) -> list[Record]:
    """Parameters, MACs, and images per second, at the size that was judged."""
    clock = Clock()
    settings = ThroughputSettings(
        time_limit_s=COST_SECONDS, max_rounds=2 if desk.smoke else 400, min_rounds=2 if desk.smoke else 20
    )
    with one_line_errors():
        macs = count_macs(model.model, image_size=model.image_size)
        records = [keep(desk, model.label, model, "macs", {}, macs, clock)]
        clock = Clock()
        timed = measure_throughput(
            {model.label: model.model}, **as_arguments(settings), image_size=model.image_size, **desk.where
        )
    return [*records, keep(desk, model.label, model, "throughput", asdict(settings), timed[model.label], clock)]
