"""What a user sets on the command line, read like a study file: `NAME=VALUE` pairs, sizes, settings of a task."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from evitlab.problems import UserError, explain, suggest
from evitlab.recipes import Augmentation, Distillation, TrainRecipe
from evitlab.settings import Execution, TrainSettings
from evitlab.yamlfile import YamlError, parse_yaml, read_yaml

Settings = TypeVar("Settings")

PROCESS = ("threads", "allocator")
"""What is set for the whole process, beside the fields of the settings."""


@dataclass(frozen=True, kw_only=True)
class ProcessOptions:
    """Threads of torch's operators, and whether the C allocator is told to keep freed memory."""

    threads: int | None = None
    tune_allocator: bool = True


def parse_pairs(pairs: Sequence[str], *, option: str) -> dict[str, Any]:
    """`["qk_dim=16", "depth=[1,2,3]"]` as a mapping; `option` is what the user called it."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        name = name.strip()
        if not equals or not name:
            raise UserError(f"{option} must be given as NAME=VALUE, but got {pair!r}")
        if name in found:
            raise UserError(f"{option}: {name} is given twice")
        try:
            found[name] = parse_yaml(text)
        except YamlError as error:
            raise UserError(f"{option} {pair}: {error}") from None
    return found


def split_knobs(reference: str) -> tuple[str, dict[str, Any]]:
    """A model's name, and the knobs behind its last colon: `deit_t:mhsa_ratio=0.2,qk_dim=16`."""
    name, colon, text = reference.rpartition(":")
    if not colon or "=" not in text:
        return reference, {}
    pairs = re.split(r",(?![^\[]*\])", text)  # the commas inside a list separate no knobs
    return name, parse_pairs(pairs, option=reference)


def parse_image_size(text: str | None) -> tuple[int, int] | None:
    """`224` or `192x256` (height x width) in pixels."""
    if text is None:
        return None
    if not (match := re.fullmatch(r"(\d+)(?:x(\d+))?", text)) or int(match[1]) < 1 or match[2] == "0":
        raise UserError(
            f"--image-size must be pixels, such as 224, or height x width, such as 192x256, but got {text!r}"
        )
    return int(match[1]), int(match[2] or match[1])


def name_folder(command: str, models: Sequence[str]) -> str:
    """`<command>_<models>`, of characters that every file system takes: where a command on models keeps its results."""
    names = [re.sub(r"[^A-Za-z0-9_.=-]+", "-", model).strip("-.") for model in models]
    return f"{command}_{'+'.join(names)}"[:120]


def take_process_options(options: dict[str, Any]) -> ProcessOptions:
    """Take the options of the whole process out of the others."""
    threads, allocator = options.pop("threads", None), options.pop("allocator", "tuned")
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise UserError(f"threads must be an integer of at least 1, but got {threads!r}")
    if allocator not in ("tuned", "system"):
        raise UserError(f"allocator must be tuned or system, but got {allocator!r}")
    return ProcessOptions(threads=threads, tune_allocator=allocator == "tuned")


def make_train_settings(
    options: Mapping[str, Any], *, recipe: str, data: Sequence[str], data_root: str | None, seeds: Sequence[int]
) -> TrainSettings:
    """A training's settings: the recipe of that name, or in that YAML file, with some of its fields set otherwise.

    The fields of `augmentation` and `distillation` are named side by side with the recipe's own.
    """
    places = {name: name for name in ("train_images", "val_images")}
    places |= {each.name: f"recipe.{each.name}" for each in fields(TrainRecipe) if each.name not in NESTED}
    for inner, kind in NESTED.items():
        places |= {each.name: f"recipe.{inner}.{each.name}" for each in fields(kind)}
    plain: dict[str, Any] = {"data": data[0] if len(data) == 1 else list(data), "data_root": data_root}
    plain |= {"seeds": list(seeds), "recipe": _read_recipe(recipe)}
    for name, value in options.items():
        if name not in places:
            allowed = [*places, *PROCESS]
            raise UserError(f"{name} cannot be set{suggest(name, allowed)} (allowed: {', '.join(allowed)})")
        *outer, last = places[name].split(".")
        inside = plain
        for step in outer:
            inside = inside.setdefault(step, {})
        inside[last] = value
    return check_fields(TrainSettings, plain)


NESTED: dict[str, Any] = {"augmentation": Augmentation, "distillation": Distillation}


def _read_recipe(recipe: str) -> dict[str, Any]:
    """The fields in a recipe's file, or the name as the one field that stands for all."""
    if not recipe.endswith((".yaml", ".yml")):
        return {"preset": recipe}
    try:
        found = read_yaml(Path(recipe))
    except YamlError as error:
        raise UserError(f"{recipe}: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{recipe}: must hold the fields of a recipe, such as epochs: 10")
    return found


def make_settings(kind: type[Settings], options: Mapping[str, Any]) -> Settings:
    """A task's settings from its fields and those of its execution, named side by side."""
    execution = [each.name for each in fields(Execution)]
    own = [each.name for each in fields(kind) if each.name != "execution"]  # type: ignore[arg-type]
    allowed = [*own, *execution, *PROCESS]
    for name in options:
        if name not in allowed:
            raise UserError(f"{name} cannot be set{suggest(name, allowed)} (allowed: {', '.join(allowed)})")
    nested: dict[str, Any] = {name: value for name, value in options.items() if name in own}
    nested["execution"] = {name: value for name, value in options.items() if name in execution}
    return check_fields(kind, nested)


def check_fields(kind: type[Settings], plain: Mapping[str, Any]) -> Settings:
    """Settings from plain data, or one line that says what is wrong in the user's own words."""
    try:
        return TypeAdapter(kind).validate_json(json.dumps(plain, default=str), strict=True)
    except ValidationError as error:
        inner = re.compile(r"^((execution|recipe|augmentation|distillation)\.)+")
        raise UserError("; ".join(inner.sub("", problem) for problem in explain(error, kind))) from None
