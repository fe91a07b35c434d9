"""Heads of a model compared without a study: what `evitlab heads` does."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn

from evitlab.comparing import compare_heads, make_untrained
from evitlab.desk.desk import Clock, Desk, keep, one_line_errors
from evitlab.desk.trainings import WEIGHTS, Asked, train_seeds
from evitlab.models.named import NamedModel, load_named
from evitlab.models.network import Network
from evitlab.models.zoo import ZOO
from evitlab.options import split_knobs
from evitlab.problems import UserError
from evitlab.proxies import decode_images, load_for
from evitlab.pruning_settings import STAND_INS
from evitlab.records import Record
from evitlab.settings import HeadsSettings
from evitlab.store import measured

SMALL: dict[str, dict[str, Any]] = {
    **STAND_INS,
    "swin": {"image_size": 32, "patch_size": 4, "width": 24},
    "efficientvit": {"image_size": 32, "patch_size": 2, "width": 36},
}
"""What makes a zoo network one that a CPU trains in a minute or two, with the published blocks and heads. Swin's maps
are 8, 4, 2 and 1 positions wide: in its last stage attention has nothing to choose."""

TRAINING_SHARE = 0.6
"""Of the time, where a network is trained first."""
LOADED = ("pretrained", "checkpoint_path", "pretrained_cfg_overlay")
"""timm's options by which weights come in."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What the command leaves: its records, and what the user ought to know of them."""

    records: list[Record]
    notes: list[str]


def compare_model(desk: Desk, asked: Asked, settings: HeadsSettings) -> Compared:
    """Compare the heads of a model with one another, beside those of the same model untrained; a record.

    A zoo network has no weights, so a small one of it is trained first, once, and its training recorded too.
    """
    name, _ = split_knobs(asked.model)
    before: list[Record] = []
    notes: list[str] = []
    share = 1.0
    if name in ZOO:
        before, model, notes = _train_small(_slow(desk, 0.0, TRAINING_SHARE), asked, ZOO[name].family)
        share = 1.0 - TRAINING_SHARE
    else:
        model = asked.load(seed=desk.seed)
    control = _make_control(desk, asked, model)
    if name.startswith("timm:") and not any(option in model.knobs for option in LOADED):
        notes.append(f"{name} is not trained: its weights are random; trained ones: {name}:pretrained=true")
    if control is None:
        notes.append(f"no untrained control: {name} does not say how its weights were drawn")
    record = _compare(_slow(desk, 1.0 - share, share), asked, settings, model, control)
    return Compared(records=[*before, record], notes=notes)


def _compare(desk: Desk, asked: Asked, settings: HeadsSettings, model: NamedModel, control: nn.Module | None) -> Record:
    height, width = model.image_size
    if height != width:
        raise UserError(f"images are made squares, but {model.label} takes {height} x {width} pixels")
    decode_images(asked.settings, image_size=height, on_progress=desk.on_progress)
    data = load_for(asked.settings, image_size=height)
    device, clock = desk.environment.device, Clock()
    with one_line_errors():
        found = compare_heads(
            model.model.to(device),
            None if control is None else control.to(device),
            data,
            settings,
            on_progress=desk.on_progress,
        )
    return keep(desk, model.label, model, "heads", {**asked.plain_data, **asdict(settings)}, found, clock)


def _train_small(desk: Desk, asked: Asked, family: str) -> tuple[list[Record], NamedModel, list[str]]:
    """A small network of the zoo with the knobs asked for, trained once; its record, itself, what was done."""
    small = replace(asked, knobs={**SMALL[family], **asked.knobs}, settings=replace(asked.settings, seeds=(desk.seed,)))
    records = train_seeds(desk, small)
    folder = desk.folder / WEIGHTS / f"seed{desk.seed}"
    model = replace(load_named(str(folder)), label=asked.model, knobs=dict(small.knobs))
    result = measured(records[-1])
    knobs = ", ".join(f"{knob} {value}" for knob, value in {**small.knobs, **split_knobs(asked.model)[1]}.items())
    note = (
        f"{asked.model} has no weights, so a small one ({knobs}) was trained for {result.steps} steps of "
        f"{result.batch_size} images of {result.data}: top-1 {100 * result.top1:.1f}%, chance "
        f"{100 / result.num_classes:.1f}%. It is kept in {folder}; compare one of your own by its folder"
    )
    return records, model, [note]


def _make_control(desk: Desk, asked: Asked, model: NamedModel) -> nn.Module | None:
    """The same network with weights that nothing has trained; None where nobody knows how to draw them.

    That of a small network of the zoo is the one that its training began with.
    """
    if isinstance(model.model, Network):
        return make_untrained(model.model.config, asked.settings.recipe, seed=desk.seed)
    name, own = split_knobs(asked.model)
    if not name.startswith("timm:"):
        return None
    knobs: Mapping[str, Any] = {**asked.knobs, **own}
    bare = replace(asked, model=name, knobs={knob: value for knob, value in knobs.items() if knob not in LOADED})
    return bare.load(seed=desk.seed + 1).model


def _slow(desk: Desk, start: float, share: float) -> Desk:
    """The same desk, for a part of its work that begins at `start` and is so much of it."""
    return replace(desk, on_progress=lambda done: desk.on_progress(start + share * done))
