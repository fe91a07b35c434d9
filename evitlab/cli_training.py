"""The commands `train` and `evaluate`. Parse, call, print."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from evitlab.cli_options import MODEL_HELP, Device, ImageSize, Json, Knobs, Results, Seed, Smoke, open_desk

if TYPE_CHECKING:
    from evitlab.options import ProcessOptions
    from evitlab.settings import TrainSettings
    from evitlab.trainings import Asked

Data = Annotated[
    list[str] | None,
    typer.Option(
        help="shapes (drawn by code, the default), cifar10, cifar100, tiny-imagenet, imagenet, or the path of a folder, "
        ".tar, .tar.gz or .zip with train/CLASS/IMAGE and val/CLASS/IMAGE; archives that make one tree together may "
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
Seeds = Annotated[int, typer.Option(min=1, help="How many trainings, with seeds from --seed on; more give an interval.")]


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
    from evitlab.options import parse_image_size, parse_pairs, take_process_options
    from evitlab.settings import shrink_training

    chosen = parse_pairs(options or [], option="--with")
    process = take_process_options(chosen)
    settings = _make_settings(chosen, recipe, data, data_root, range(seed, seed + seeds))
    settings = shrink_training(settings) if smoke else settings
    asked = _Request(model, parse_pairs(knobs or [], option="--set"), parse_image_size(image_size), settings)
    _train(asked, process, results, device=device, seed=seed, smoke=smoke, as_json=as_json)
