"""The command `prune`. Parse, call, print."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evitlab.commands.options import Device, Json, Knobs, Results, Seed, Smoke, open_desk, report
from evitlab.commands.training import Data, DataRoot

if TYPE_CHECKING:
    from evitlab.desk.desk import Desk
    from evitlab.desk.prunings import Outcome
    from evitlab.options import ProcessOptions

Model = Annotated[
    str | None,
    typer.Argument(
        help="deit_t, swin_t or another name of the zoo (evitlab list), timm's name of the same (timm:NAME), or the "
        "folder of a saved model. May be left out where --weights is a folder."
    ),
]
WeightsFrom = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        metavar="FOLDER|FILE",
        help="A model saved by evitlab (results/train_MODEL/weights/seed0), or a checkpoint of timm's network: "
        ".safetensors, or .pth with plain weights. With none, and without --pretrained, a small network is trained "
        "first.",
    ),
]
Pretrained = Annotated[bool, typer.Option("--pretrained", help="Download timm's weights; needs --data imagenet.")]
Targets = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        metavar="KIND=VALUE",
        help="macs=0.6 or params=0.6: share that is left; throughput=1.25: measured speed over the original's. Each "
        "makes a row of its own; default macs=0.6; may repeat.",
    ),
]
Steps = Annotated[int, typer.Option(min=1, help="Cuts, each scored anew, equal factors of cost apart.")]
Finetune = Annotated[float, typer.Option(min=0, help="Epochs of fine-tuning after each cut; 0: none.")]
Importance = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="taylor: gradient of a gate on each channel, squared per mini-batch (Molchanov et al., 2019); "
        "taylor-sample: squared per image; taylor-accumulated: summed first; magnitude: of weights; random.",
    ),
]
With = Annotated[
    list[str] | None,
    typer.Option(
        "--with",
        metavar="FIELD=VALUE",
        help="Of the pruning: score_images, score_batch_size, by_cost=false, min_qk, min_v, min_ffn, "
        "finetune_learning_rate, tolerance, timing_batch_size, timing_seconds. Of the trainings: recipe=NAME or any of "
        "its fields, train_images, val_images. Of the process: threads, allocator. May repeat.",
    ),
]
Called = Annotated[
    str | None,
    typer.Option("--name", metavar="FOLDER", help="Folder in results, such as one for each data set; [prune_MODEL]."),
]
Seeds = Annotated[int, typer.Option(min=1, help="Whole prunings, with seeds from --seed on; several give an interval.")]

TARGET, STEPS, FINETUNE, IMPORTANCE = "macs=0.6", 5, 1.0, "taylor"
"""What a pruning is asked for where nothing is said."""


def prune(
    model: Model = None,
    weights: WeightsFrom = None,
    pretrained: Pretrained = False,
    target: Targets = None,
    steps: Steps = STEPS,
    finetune: Finetune = FINETUNE,
    importance: Importance = IMPORTANCE,
    data: Data = None,
    data_root: DataRoot = None,
    options: With = None,
    knobs: Knobs = None,
    seeds: Seeds = 1,
    results: Results = Path("results"),
    called: Called = None,
    device: Device = "cpu",
    seed: Seed = 0,
    smoke: Smoke = False,
    as_json: Json = False,
) -> None:
    """Prune QK, V and FFN channels of a network, each block for itself, and an untrained network beside it.

    Channels that matter least for the cost that they save go first. The control
    shows what of the pattern is not owed to training. Tables, figures, page and
    records are kept in results/prune_MODEL; weights/TARGET-seedN there is a model
    for every other command. Killed at any moment, the same command goes on.

    Examples:

    evitlab prune deit_t

    evitlab prune swin_t --target macs=0.7 --target macs=0.5 --seeds 3

    evitlab prune deit_t --data tiny-imagenet --data-root DIR --name tiny_imagenet_prune_deit_t

    evitlab prune deit_t --pretrained --data imagenet --data-root DIR --target throughput=1.25 --device cuda
    """
    from evitlab.problems import UserError

    name = _choose_model(model, weights)
    if called is not None and (not called or Path(called).name != called or called.startswith(".")):
        raise UserError(f"--name must be the name of a folder, without a path, but got {called!r}")
    named = {"steps": steps, "finetune": finetune, "importance": importance}
    named |= {"data": data or ["shapes"], "data_root": data_root, "seeds": range(seed, seed + seeds), "smoke": smoke}
    trains = weights is None and not pretrained and not Path(name).is_dir()
    process, asked = _read(options, target or [TARGET], trains=trains, **named)
    source = {"model": name, "weights": weights, "pretrained": pretrained}
    where: dict[str, Any] = {"device": device, "seed": seed, "smoke": smoke, "called": called}
    with open_desk("prune", [name], process, results, **where) as desk:
        outcome = _run(desk, asked, source, knobs)
        if not any(record.task == "prune" for record in outcome.records):
            raise UserError("; ".join(outcome.failures))
    report(outcome.records, desk, as_json=as_json)
    for failure in outcome.failures:
        print(f"error: {failure}", file=sys.stderr)
    raise typer.Exit(1 if outcome.failures else 0)


def prune_plainly(model: str, *, results: Path, device: str = "cpu", smoke: bool = False) -> list[str]:
    """What the command does when nothing but a model is named, without printing tables; the targets not met."""
    from evitlab.report.models.report import write_models

    named = {"steps": STEPS, "finetune": FINETUNE, "importance": IMPORTANCE}
    named |= {"data": ["shapes"], "data_root": None, "seeds": range(1), "smoke": smoke}
    process, asked = _read(None, [TARGET], trains=True, **named)
    with open_desk("prune", [model], process, results, device=device, seed=0, smoke=smoke) as desk:
        outcome = _run(desk, asked, {"model": model, "weights": None, "pretrained": False}, None)
    write_models(outcome.records, desk.folder)
    return outcome.failures


def _choose_model(model: str | None, weights: Path | None) -> str:
    from evitlab.problems import UserError

    if model is not None:
        return model
    if weights is None or not weights.is_dir():
        raise UserError("prune needs a model, such as deit_t, or --weights with the folder of a saved one")
    return str(weights)


def _read(options: list[str] | None, targets: list[str], **others: Any) -> "tuple[ProcessOptions, dict[str, Any]]":
    """What the user set: for the whole process, and for the prunings."""
    from evitlab.options import parse_pairs, take_process_options
    from evitlab.pruning_settings import make_prune_settings, parse_targets

    chosen = parse_pairs(options or [], option="--with")
    process = take_process_options(chosen)
    settings, training = make_prune_settings(chosen, **others)
    return process, {"targets": parse_targets(targets), "settings": settings, "training": training}


def _run(desk: "Desk", asked: dict[str, Any], source: dict[str, Any], knobs: list[str] | None) -> "Outcome":
    from evitlab.desk.pruning_weights import Wanted
    from evitlab.desk.prunings import Order, prune_targets
    from evitlab.options import parse_pairs

    wanted = Wanted(knobs=parse_pairs(knobs or [], option="--set"), training=asked["training"], **source)
    order = Order(wanted=wanted, targets=asked["targets"], settings=asked["settings"])
    return prune_targets(desk, order, say=_say)


def _say(text: str) -> None:
    print(text, file=sys.stderr)
