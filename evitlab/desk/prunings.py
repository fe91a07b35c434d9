"""Networks pruned to targets beside their untrained controls: what `evitlab prune` does."""

import copy
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from evitlab.desk.desk import Clock, Desk, keep, one_line_errors
from evitlab.desk.pruning_speed import ORIGINAL, PRUNED, PUBLISHED, Aim, Timer, check_speed
from evitlab.desk.pruning_steps import COSTS, Scores, Walk, judge_network, plan_cut, prune_in_steps, score_network
from evitlab.desk.pruning_weights import Start, Wanted, find_start
from evitlab.measurements.pruning import PrunedGroup, PruneStep, Pruning, SpeedProbe
from evitlab.measurements.speed import Throughput
from evitlab.models.config import ModelConfig
from evitlab.models.network import Network, build_model
from evitlab.problems import UserError
from evitlab.proxies import decode_images, load_for
from evitlab.prune.costs import count_config_macs, count_config_params
from evitlab.prune.groups import find_groups, find_unprunable, resize_groups
from evitlab.pruning_settings import PruneSettings, Target
from evitlab.recipes import as_asked
from evitlab.records import Record, digest
from evitlab.store import folder_name, read_records, write_atomically
from evitlab.tasks import Weights
from evitlab.train.data import DataSet
from evitlab.train.optim import draw_xavier

WEIGHTS, CHECKPOINTS = "weights", "checkpoints"
"""Folders beside the records, which git ignores."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What `evitlab prune` was asked for."""

    wanted: Wanted
    targets: Sequence[Target]
    settings: PruneSettings

    def plain(self, target: Target) -> dict[str, Any]:
        """The settings of one target as a record keeps them."""
        training = self.wanted.training
        data = {"data": training.data, "train_images": training.train_images, "val_images": training.val_images}
        return {"target": target.kind, "value": target.value, **asdict(self.settings), **data} | {
            "recipe": as_asked(training.recipe)
        }


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of an order."""

    records: list[Record]
    failures: list[str]
    """Targets that were not met, and how far it got."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One network on its way to one target."""

    desk: Desk
    order: Order
    target: Target
    start: Start
    data: DataSet
    seed: int
    folder: Path
    """For what must not be lost when it is killed."""

    @property
    def cost(self) -> Literal["macs", "params"]:
        """What shares are of, and what is divided by; a target in throughput is reached by MACs."""
        return "params" if self.target.kind == "params" else "macs"

    def make_walk(self, name: str, *, finetune: bool) -> Walk:
        """The steps of the network, or of its control."""
        settings, recipe = self.order.settings, self.order.wanted.training.recipe
        finetuning = replace(
            recipe,
            epochs=settings.finetune or None,
            learning_rate=settings.finetune_learning_rate,
            evaluations=1,
            init="as given",
        )
        return Walk(
            settings=settings,
            cost=self.cost,
            reference=self.start.network.config,
            data=self.data,
            finetuning=finetuning if finetune and settings.finetune else None,
            seed=self.seed,
            device=self.desk.environment.device,
            folder=self.folder / name,
        )


def prune_targets(desk: Desk, order: Order, *, say: Callable[[str], None]) -> Outcome:
    """Prune a network to every target, once for each seed, beside its control; a record each.

    What has been pruned under these conditions is not pruned again; what was interrupted goes on. A target that is not
    met leaves no record and does not keep others from being tried. `say` is told what happens.
    """
    records: list[Record] = []
    failures: list[str] = []
    seeds = order.wanted.training.seeds
    for number, seed in enumerate(seeds):
        own = replace(desk, seed=seed, on_progress=_part(desk, number, len(seeds)))
        works = len(order.targets) + 1
        start = find_start(replace(own, on_progress=_part(own, 0, works)), order.wanted, seed=seed, say=say)
        records += start.records
        data = _load_data(own, order, start)
        for place, target in enumerate(order.targets, start=1):
            step = replace(own, on_progress=_part(own, place, works))
            try:
                records.append(_prune(step, order, target, start, data, say=say))
            except UserError as error:
                failures.append(f"{target.label}, seed {seed}: {error}")
    return Outcome(records=records, failures=failures)


def _part(desk: Desk, number: int, count: int) -> Callable[[float], None]:
    return lambda share: desk.on_progress((number + share) / count)


def _load_data(desk: Desk, order: Order, start: Start) -> DataSet:
    height, width = start.named.image_size
    if height != width:
        raise UserError(f"images are made squares, but {start.named.label} takes {height} x {width} pixels")
    training = order.wanted.training
    decode_images(training, image_size=height, on_progress=desk.on_progress)
    return load_for(training, image_size=height)


def _prune(
    desk: Desk, order: Order, target: Target, start: Start, data: DataSet, *, say: Callable[[str], None]
) -> Record:
    asked, seed = order.plain(target), desk.seed
    place = f"{WEIGHTS}/{name_weights(target, order)}-seed{seed}"
    request = digest([start.named.config, start.named.weights, "prune", asked])
    if (found := _find(desk, request, place)) is not None:
        say(f"{target.label}, seed {seed}: pruned before; {desk.folder / place}")
        return found
    identity = digest([request, seed, desk.environment.conditions, desk.smoke])
    folder = desk.folder / CHECKPOINTS / identity
    job = Job(desk=desk, order=order, target=target, start=start, data=data, seed=seed, folder=folder)
    say(f"pruning to {target.label}, seed {seed}" + (" (going on)" if folder.is_dir() else ""))
    clock = Clock()
    with one_line_errors():
        network, found_pruning = _measure(job, place)
    record = keep(desk, start.named.label, start.named, "prune", asked, found_pruning, clock)
    Weights(folder=desk.folder / place, key=record.key).save(network.cpu())
    shutil.rmtree(folder, ignore_errors=True)
    return record


def name_weights(target: Target, order: Order) -> str:
    """A folder's name for a pruned network, without its seed."""
    importance, data = order.settings.importance, order.wanted.training.data
    names = [importance, data if isinstance(data, str) else "+".join(data)]
    return "-".join([target.label, *(folder_name(name) for name in names if name not in ("taylor", "shapes"))])


def _find(desk: Desk, request: str, place: str) -> Record | None:
    """The same pruning under the same conditions, if it has been done and its network is still there."""
    for record in reversed(read_records(desk.folder)):
        same = record.request == request and record.seed == desk.seed and record.smoke == desk.smoke
        if same and record.environment.conditions == desk.environment.conditions:
            return record if Weights(folder=desk.folder / place, key=record.key).are_there() else None
    return None


def _measure(job: Job, place: str) -> tuple[Network, Pruning]:
    """The pruned network and everything that is recorded of it."""
    desk, device = job.desk, job.desk.environment.device
    original = copy.deepcopy(job.start.network).to(device).eval()
    timer = Timer(original=original, settings=job.order.settings, device=device, seed=job.seed, smoke=desk.smoke)
    before = judge_network(original, job.data)
    network, curve, probes = _walk(job, original, timer, share=lambda x: desk.on_progress(0.7 * x))
    control = make_untrained(original.config, job.start.init, seed=job.seed).to(device)
    control_before = judge_network(control, job.data)
    shares = [step.macs / count_config_macs(original.config) for step in curve]
    pruned_control, control_curve = prune_in_steps(
        control,
        shares if job.target.kind == "throughput" else _shares(job, job.target.value),
        job.make_walk("control", finetune=False),
        last=None,
        share=lambda x: desk.on_progress(0.7 + 0.2 * x),
    )
    speeds = timer.time_beside(network, seconds=job.order.settings.timing_seconds, published=True)
    if job.target.kind == "throughput" and not desk.smoke:
        check_speed(speeds, job.target.value, job.order.settings.tolerance)
    desk.on_progress(1.0)
    return network, Pruning(
        **_describe_order(job),
        reached=_reached(job, network.config, speeds),
        control_reached=_reached(job, pruned_control.config, None),
        groups=compare_groups(original.config, network.config, pruned_control.config),
        unprunable=tuple(find_unprunable(original.config)),
        before=before,
        control_before=control_before,
        curve=curve,
        control_curve=control_curve,
        macs_before=count_config_macs(original.config),
        params_before=count_config_params(original.config),
        speed_before=speeds[ORIGINAL],
        speed_after=speeds[PRUNED],
        speed_published=speeds[PUBLISHED],
        probes=probes,
        weights=place,
    )


def _walk(
    job: Job, original: Network, timer: Timer, *, share: Callable[[float], None]
) -> tuple[Network, tuple[PruneStep, ...], tuple[SpeedProbe, ...]]:
    """The steps of the trained network, and the timings that led to a target in throughput."""
    walk = job.make_walk("network", finetune=True)
    if job.target.kind != "throughput":
        network, curve = prune_in_steps(original, _shares(job, job.target.value), walk, last=None, share=share)
        return network, curve, ()
    aim = Aim(timer=timer, target=job.target.value)

    def choose(network: Network, scores: Scores) -> float:
        highest = count_config_macs(network.config) / count_config_macs(original.config)
        found = aim.find_share(partial(_preview, network.config, scores, walk), highest=highest)
        _keep_aim(job, found, aim)
        return found

    estimate = _read_aim(job, aim)
    if estimate is None:
        scores = score_network(original, walk, step=0, share=lambda x: None)
        estimate = choose(original, scores)
    network, curve = prune_in_steps(original, _shares(job, estimate), walk, last=choose, share=share)
    return network, curve, tuple(aim.probes)


def _preview(config: ModelConfig, scores: Scores, walk: Walk, share: float) -> ModelConfig:
    """What a cut would leave."""
    return resize_groups(config, plan_cut(config, scores, share, walk).channels)


def _keep_aim(job: Job, share: float, aim: Aim) -> None:
    plain = {"share": share, "probes": [asdict(probe) for probe in aim.probes]}
    write_atomically(job.folder / "aim.json", json.dumps(plain))


def _read_aim(job: Job, aim: Aim) -> float | None:
    """The share that an interrupted pruning aimed at, and its timings."""
    path = job.folder / "aim.json"
    if not path.exists():
        return None
    plain = json.loads(path.read_text())
    aim.probes += [SpeedProbe(**probe) for probe in plain["probes"]]
    return float(plain["share"])


def _shares(job: Job, value: float) -> list[float]:
    """Shares of the cost after each step, equal factors apart."""
    steps = job.order.settings.steps
    return [value ** (number / steps) for number in range(1, steps + 1)]


def make_untrained(config: ModelConfig, init: str, *, seed: int) -> Network:
    """A network as a training with this seed begins."""
    network = build_model(config, seed=seed)
    if init == "xavier":
        draw_xavier(network, seed=seed)
    return network.eval()


def compare_groups(before: ModelConfig, after: ModelConfig, control: ModelConfig) -> tuple[PrunedGroup, ...]:
    """Channels of every group of a network, and what is left of them in two pruned ones."""
    found = []
    for whole, cut, other in zip(find_groups(before), find_groups(after), find_groups(control), strict=True):
        found.append(
            PrunedGroup(
                layer=whole.module,
                block=None if whole.block is None else whole.block + 1,
                kind=whole.kind,
                heads=whole.heads,
                width=whole.width,
                before=whole.heads * whole.channels,
                after=cut.heads * cut.channels,
                control=other.heads * other.channels,
            )
        )
    return tuple(found)


def _reached(job: Job, config: ModelConfig, speeds: dict[str, Throughput] | None) -> float:
    """The target's quantity of a pruned network; without timings its share of the cost."""
    if job.target.kind == "throughput" and speeds is not None:
        ratio = speeds[PRUNED].ratio
        assert ratio is not None
        return ratio
    count = COSTS[job.cost]
    return count(config) / count(job.start.network.config)


def _describe_order(job: Job) -> dict[str, Any]:
    """The fields of a record that were known before."""
    settings, config = job.order.settings, job.start.network.config
    return {
        "target": job.target.kind,
        "target_value": job.target.value,
        "origin": job.start.origin,
        "data": job.data.name,
        "num_classes": config.num_classes,
        "image_size": config.image_size,
        "importance": settings.importance,
        "by_cost": settings.by_cost,
        "cost": job.cost,
        "floors": settings.floors,
        "steps": settings.steps,
        "finetune_epochs": settings.finetune,
        "score_images": min(settings.score_images, len(job.data.train.labels)),
        "score_batch_size": settings.score_batch_size,
    }
