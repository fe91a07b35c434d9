"""A network by the name that a user gives it: of the zoo, of timm, a saved folder, or made by a function in a file."""

import hashlib
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from evitlab.models.config import ModelConfig
from evitlab.models.network import build_model
from evitlab.models.weights import CONFIG_FILE, WEIGHTS_FILE, load_model
from evitlab.models.zoo import ZOO, make_config
from evitlab.options import split_knobs
from evitlab.problems import UserError, suggest

FORMS = "a name of the zoo (evitlab list), timm:NAME, the folder of a saved model, or file.py:function"
IMAGE_SIZE = (224, 224)
"""Height and width in pixels where neither the network nor the user says any."""


@dataclass(frozen=True, kw_only=True)
class NamedModel:
    """A network that is ready to be measured, and what identifies it."""

    label: str
    """As the user wrote it."""
    model: nn.Module
    config: dict[str, Any]
    """The `ModelConfig` as plain data; of a network from elsewhere its source and options."""
    knobs: dict[str, Any]
    image_size: tuple[int, int]
    weights: str | None = None
    """Hash of the weights that were loaded; None for a seeded initialisation."""


def load_named(
    reference: str, *, knobs: Mapping[str, Any] | None = None, image_size: tuple[int, int] | None = None, seed: int = 0
) -> NamedModel:
    """The network that `reference` names, in any of the `FORMS`, its weights drawn from the seed or loaded.

    Knobs may follow the name, `deit_t:mhsa_ratio=0.2,qk_dim=16`, and go before those in `knobs`. What they set on
    timm's networks and on functions are the keyword arguments. Raises UserError where nothing can be made of it.
    """
    name, own = split_knobs(reference)
    options = {**(knobs or {}), **own}
    if name in ZOO:
        return _from_zoo(reference, name, options, image_size, seed)
    if name.startswith("timm:"):
        return _from_timm(reference, name.removeprefix("timm:"), options, image_size, seed)
    if found := re.fullmatch(r"(.+\.py):(\w+)", name):
        return _from_function(reference, Path(found[1]), found[2], options, image_size, seed)
    if Path(name).is_dir():
        return _from_folder(reference, Path(name), options, image_size)
    raise UserError(f"unknown model {reference!r}{suggest(name, ZOO)} (allowed: {FORMS})")


def _from_zoo(
    label: str, name: str, knobs: dict[str, Any], image_size: tuple[int, int] | None, seed: int
) -> NamedModel:
    if image_size is not None:
        knobs = {**knobs, "image_size": list(image_size)}
    return _describe(label, build_model(make_config(name, **knobs), seed=seed), knobs)


def _from_folder(label: str, folder: Path, knobs: dict[str, Any], image_size: tuple[int, int] | None) -> NamedModel:
    if knobs:
        raise UserError(f"{label}: a saved model takes no knobs, its {CONFIG_FILE} says all, but got {knobs=}")
    try:
        model = load_model(folder)
    except ValueError as error:
        raise UserError(str(error)) from None
    weights = hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()[:16]
    return _describe(label, model, {}, weights=weights, image_size=image_size)


def _from_timm(
    label: str, name: str, options: dict[str, Any], image_size: tuple[int, int] | None, seed: int
) -> NamedModel:
    known = timm.list_models()
    if name.partition(".")[0] not in known:
        raise UserError(f"timm has no model {name!r}{suggest(name, known)} (see timm.list_models())")
    model = _make(label, lambda: timm.create_model(name, **options), seed)
    size = options.get("img_size") or getattr(model, "pretrained_cfg", {}).get("input_size", (3, *IMAGE_SIZE))[1:]
    size = (size, size) if isinstance(size, int) else (size[0], size[1])
    return _describe(label, model, options, source=f"timm:{name}", image_size=image_size or size)


def _from_function(
    label: str, path: Path, name: str, options: dict[str, Any], image_size: tuple[int, int] | None, seed: int
) -> NamedModel:
    """Runs the file: it is the user's own code, named by the user."""
    spec = importlib.util.spec_from_file_location(f"evitlab_user_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None, "the name ends in .py"
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except Exception as error:
        raise UserError(f"{path}: cannot be run: {type(error).__name__}: {error}") from None
    function = getattr(module, name, None)
    if not callable(function):
        names = [each for each, value in vars(module).items() if callable(value) and not each.startswith("_")]
        raise UserError(f"{path}: has no function {name!r}{suggest(name, names)} (there are: {', '.join(names)})")
    model = _make(label, lambda: function(**options), seed)
    return _describe(label, model, options, source=f"{path.name}:{name}", image_size=image_size)


def _make(label: str, make: Any, seed: int) -> nn.Module:
    """What the call gives, drawn from the seed; torch's own state stays untouched."""
    try:
        with torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(seed)
            model = make()
    except Exception as error:
        raise UserError(f"{label}: cannot be built: {type(error).__name__}: {error}") from None
    if not isinstance(model, nn.Module):
        raise UserError(f"{label}: must give a torch.nn.Module, but got a {type(model).__name__}")
    return model


def _describe(
    label: str,
    model: nn.Module,
    knobs: dict[str, Any],
    *,
    source: str | None = None,
    image_size: tuple[int, int] | None = None,
    weights: str | None = None,
) -> NamedModel:
    own = getattr(model, "config", None)
    ours = own if isinstance(own, ModelConfig) else None
    return NamedModel(
        label=label,
        model=model,
        config=ours.to_dict() if ours else {"source": source, "options": knobs},
        knobs=knobs,
        image_size=image_size or (ours.image_size if ours else IMAGE_SIZE),
        weights=weights,
    )
