"""The command `heads`. Parse, call, print."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from evitlab.commands.options import MODEL_HELP, Device, ImageSize, Json, Knobs, Results, Seed, Smoke, open_desk, report
from evitlab.commands.training import Data, DataRoot, Recipe, With, ask, read_settings

Images = Annotated[int, typer.Option(min=1, help="Held-out images on which heads are compared and dropped.")]
DropOne = Annotated[
    bool, typer.Option(help="Also remove each head alone, and say what that costs; a pass over the images a head.")
]


def heads(
    model: Annotated[str, typer.Argument(help=MODEL_HELP + " A name of the zoo is trained first, at a small size.")],
    images: Images = 512,
    drop_one: DropOne = True,
    data: Data = None,
    data_root: DataRoot = None,
    recipe: Recipe = "proxy",
    options: With = None,
    knobs: Knobs = None,
    image_size: ImageSize = None,
    results: Results = Path("results"),
    device: Device = "cpu",
    seed: Seed = 0,
    smoke: Smoke = False,
    as_json: Json = False,
) -> None:
    """How alike a model's attention heads are, block by block, beside the same model untrained, and what each is worth.

    Two definitions are in circulation, and both are given: the author's (in each
    block the largest cosine of any two heads) and the caption's (the mean over heads
    of each one's largest), of what heads give and of their attention maps; also the
    mean over pairs and linear CKA. Tables, figures and the record are kept in
    results/heads_MODEL.

    Examples:

    evitlab heads deit_t

    evitlab heads results/train_swin_t/weights/seed0 --images 2048

    evitlab heads deit_t:attention=group --data tiny-imagenet --data-root DIR --with epochs=10

    evitlab heads timm:deit_tiny_patch16_224:pretrained=true --data imagenet --data-root DIR --no-drop-one
    """
    from evitlab.settings import HeadsSettings

    options = _start_small(model, recipe, options or [])
    process, training = read_settings(options, recipe, data, data_root, seed=seed, seeds=1, smoke=smoke)
    settings = HeadsSettings(images=8 if smoke else images, drop_one=drop_one)
    with open_desk("heads", [model], process, results, device=device, seed=seed, smoke=smoke) as desk:
        from evitlab.desk.likeness import compare_model

        compared = compare_model(desk, ask(model, knobs, image_size, training), settings)
    for note in compared.notes:
        Console(stderr=True).print(f"note: {note}", highlight=False, soft_wrap=True)
    report(compared.records, desk, as_json=as_json)


def _start_small(model: str, recipe: str, options: list[str]) -> list[str]:
    """What a small network of the zoo is trained by, where nothing else is asked for: as the one to prune."""
    from evitlab.models.zoo import ZOO
    from evitlab.options import split_knobs
    from evitlab.pruning_settings import STAND_IN_RECIPE

    if recipe != "proxy" or split_knobs(model)[0] not in ZOO:
        return options
    named = {option.partition("=")[0].strip() for option in options}
    return [*(f"{name}={value}" for name, value in STAND_IN_RECIPE.items() if name not in named), *options]
