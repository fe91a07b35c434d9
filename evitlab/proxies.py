"""What a study trains in place of the networks that it times, and on which images."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from evitlab.models.config import ModelConfig, StageConfig
from evitlab.settings import TrainSettings, choose_proxy
from evitlab.study import Study, Variant
from evitlab.train.data import DataSet, check_data, classes_of, load_data


def make_proxy(study: Study, variant: Variant, config: ModelConfig) -> ModelConfig:
    """What is trained for a variant: the network itself, or the study's proxy scaled as matching scaled the network.

    What the variant itself changes stays so in the proxy, whatever that sets: it is what the study asks about. The
    scale is that of all stages' widths together, as each is rounded by itself.
    """
    train_settings = study.tasks.train
    assert train_settings is not None
    num_classes = len(classes_of(train_settings.data, root=find_root(train_settings)))
    if train_settings.proxy is None:
        return replace(config, num_classes=num_classes)
    own = variant.make_config()
    chosen = choose_proxy(train_settings.proxy, variant.network)
    knobs = {knob: value for knob, value in chosen.items() if knob != "scale" and knob not in variant.changes}
    widths, before = (sum(stage.width for stage in each.stages) for each in (config, own))
    factor = chosen.get("scale", 1) * widths / before
    proxy = variant.with_knobs(**knobs, num_classes=num_classes)
    kept = [_count_layers(now) / _count_layers(then) for now, then in zip(config.stages, own.stages, strict=True)]
    if set(kept) != {1.0} and "depth" not in knobs:
        depths = [round(depth * share) for depth, share in zip(variant.depths, kept, strict=True)]
        proxy = proxy.with_knobs(depth=depths if len(depths) > 1 else depths[0])
    if factor == 1:
        return proxy.make_config()
    return proxy.resize(proxy.make_config().stages[0].width * factor)


def _count_layers(stage: StageConfig) -> int:
    return sum(len(block.layers) for block in stage.blocks)


def read_data(study: Study, *, on_progress: Callable[[float], None]) -> None:
    """Decode the images that a study trains on, if that has not been done. UserError where they are missing."""
    settings = study.tasks.train
    if settings is None:
        return
    if settings.data != "shapes":  # drawn when needed
        check_data(settings.data, root=find_root(settings))
    variants = [variant for variant in study.variants() if variant.name not in study.references]
    variants = variants or [study.base]  # a search's proposals come later, of the same image size
    for height, _ in {make_proxy(study, variant, variant.make_config()).image_size for variant in variants}:
        decode_images(settings, image_size=height, on_progress=on_progress)


def decode_images(settings: TrainSettings, *, image_size: int, on_progress: Callable[[float], None]) -> None:
    """Decode the images that a training asks for, so that `load_for` finds them; what is drawn needs no decoding."""
    if settings.data != "shapes":
        load_data(settings.data, image_size=image_size, **_choose_images(settings), on_progress=on_progress)


def load_for(settings: TrainSettings, *, image_size: int) -> DataSet:
    """The images that a training asks for; those of the last call are remembered, as variants and seeds share them."""
    return _load(settings.data, image_size=image_size, **_choose_images(settings))


def find_root(settings: TrainSettings) -> Path | None:
    """The folder that the data lies in, where the settings name one."""
    return None if settings.data_root is None else Path(settings.data_root)


def _choose_images(settings: TrainSettings) -> dict[str, Any]:
    images = {"train_images": settings.train_images, "val_images": settings.val_images}
    return {**images, "root": find_root(settings)}


_load = lru_cache(maxsize=1)(load_data)
