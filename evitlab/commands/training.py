"""The commands `train` and `evaluate`. Parse, call, print."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from evitlab.commands.options import MODEL_HELP, Device, ImageSize, Json, Knobs, Results, Seed, Smoke, open_desk, report

if TYPE_CHECKING:
    from evitlab.desk.desk import Desk
    from evitlab.desk.trainings import Asked, Judged
    from evitlab.options import ProcessOptions
    from evitlab.settings import TrainSettings

Data = Annotated[
    list[str] | None,
    typer.Option(
        help="shapes (drawn by code, the default), cifar10, cifar100, tiny-imagenet, imagenet, or the path of a "
        "folder, .tar, .tar.gz or .zip with train/CLASS/IMAGE and val/CLASS/IMAGE; archives that make one tree may "
        "be given one by one."
    ),
]
DataRoot = Annotated[
    str | None, typer.Option(metavar="DIR", help="Folder that holds the data set, or that CIFAR is downloaded to.")
]
Recipe = Annotated[
    str,
    typer.Option(
        metavar="NAME|FILE.yaml",
        help="proxy (minutes on a CPU), small (an hour on one GPU), paper (EfficientViT's 300 epochs), or a YAML file "
        "of a recipe's fields.",
    ),
]
With = Annotated[
    list[str] | None,
    typer.Option(
        "--with",
        metavar="FIELD=VALUE",
        help="Set a field of the recipe otherwise, such as epochs=10, batch_size=128, learning_rate=5e-4, mixup=0.8, "
        "precision=bf16, memory_format=channels_last or teacher=FOLDER; or train_images=N, val_images=N, threads=N, "
        "allocator=system; may repeat.",
    ),
]
Seeds = Annotated[int, typer.Option(min=1, help="Trainings, with seeds from --seed on; several give an interval.")]


def train(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    data: Data = None,
    data_root: DataRoot = None,
    recipe: Recipe = "proxy",
    options: With = None,
    knobs: Knobs = None,
    image_size: ImageSize = None,
    seeds: Seeds = 1,
    results: Results = Path("results"),
    device: Device = "cpu",
    seed: Seed = 0,
    smoke: Smoke = False,
    as_json: Json = False,
) -> None:
    """Train a model and keep its weights; killed at any moment, the same command goes on where it stopped.

    The number of classes, and pixels where the data set has its own, follow the
    data. Accuracy on the held-out images, the curve and the weights are kept in
    results/train_MODEL; weights/seedN there is a model for every other command.

    Examples:

    evitlab train deit_t

    evitlab train efficientvit_m0 --data tiny-imagenet --data-root DIR --recipe small --device cuda

    torchrun --nproc-per-node=2 -m evitlab train deit_t --seeds 3
    """
    process, settings = read_settings(options, recipe, data, data_root, seed=seed, seeds=seeds, smoke=smoke)
    with (
        open_desk("train", [model], process, results, device=device, seed=seed, smoke=smoke) as desk,
        _join_processes(desk) as first,
    ):
        from evitlab.desk.trainings import train_seeds

        records = train_seeds(desk, ask(model, knobs, image_size, settings))
    if first:
        report(records, desk, as_json=as_json)


def evaluate(
    model: Annotated[str, typer.Argument(help=MODEL_HELP + " After evitlab train: results/train_MODEL/weights/seed0.")],
    data: Data = None,
    data_root: DataRoot = None,
    maps: Annotated[int, typer.Option(min=0, help="Held-out images over which attention maps are drawn.")] = 4,
    block: Annotated[str, typer.Option(help="Attention layer of the maps: a number from 0, -1 for the last.")] = "-1",
    options: With = None,
    knobs: Knobs = None,
    image_size: ImageSize = None,
    results: Results = Path("results"),
    device: Device = "cpu",
    seed: Seed = 0,
    smoke: Smoke = False,
    as_json: Json = False,
) -> None:
    """Judge a model on held-out images in every way: accuracy, classes, ROC, confusions, calibration, attention, cost.

    Tables (classes, confusion, roc, reliability), figures and the records, with
    parameters, MACs, memory and throughput, are kept in results/evaluate_MODEL.

    Examples:

    evitlab evaluate results/train_deit_t/weights/seed0

    evitlab evaluate timm:deit_tiny_patch16_224:pretrained=true --data imagenet --data-root DIR --device cuda

    evitlab evaluate results/train_swin_t/weights/seed0 --data tiny-imagenet --data-root DIR --maps 8 --block 3
    """
    process, settings = read_settings(options, "proxy", data, data_root, seed=seed, seeds=1, smoke=smoke)
    with open_desk("evaluate", [model], process, results, device=device, seed=seed, smoke=smoke) as desk:
        from evitlab.desk.trainings import judge

        judged = judge(desk, ask(model, knobs, image_size, settings), maps=maps, block=_read_block(block))
    _draw(judged, desk)
    report(judged.records, desk, as_json=as_json)


def read_settings(
    options: list[str] | None,
    recipe: str,
    data: list[str] | None,
    data_root: str | None,
    *,
    seed: int,
    seeds: int,
    smoke: bool,
) -> "tuple[ProcessOptions, TrainSettings]":
    """What the user set: for the whole process, and for the training."""
    from evitlab.options import make_train_settings, parse_pairs, take_process_options
    from evitlab.settings import shrink_training

    chosen = parse_pairs(options or [], option="--with")
    process = take_process_options(chosen)
    settings = make_train_settings(
        chosen, recipe=recipe, data=data or ["shapes"], data_root=data_root, seeds=range(seed, seed + seeds)
    )
    return process, shrink_training(settings) if smoke else settings


def ask(model: str, knobs: list[str] | None, image_size: str | None, settings: "TrainSettings") -> "Asked":
    """A network and the images that it is to learn or to name, as the user set them."""
    from evitlab.desk.trainings import Asked
    from evitlab.options import parse_image_size, parse_pairs

    return Asked(
        model=model,
        knobs=parse_pairs(knobs or [], option="--set"),
        image_size=parse_image_size(image_size),
        settings=settings,
    )


def _read_block(text: str) -> int | str:
    """A place in the order of the network's attention layers, or the path of one."""
    return int(text) if text.lstrip("-").isdecimal() else text


@contextmanager
def _join_processes(desk: "Desk") -> Iterator[bool]:
    """The processes of torchrun, where it was used; whether this one is the first."""
    from evitlab.train.processes import join_processes

    with join_processes(desk.environment.device) as own:
        yield own.first


def _draw(judged: "Judged", desk: "Desk") -> None:
    """Tables and figures of an evaluation, and attention over the images."""
    from evitlab.report.evaluation.report import write_attention, write_evaluation

    write_evaluation(judged.evaluation, judged.curves, desk.folder, model=judged.label)
    write_attention(judged.images, judged.maps, desk.folder, titles=judged.titles)
    if judged.without_maps:
        Console(stderr=True).print(f"no attention maps: {judged.without_maps}", highlight=False, soft_wrap=True)
