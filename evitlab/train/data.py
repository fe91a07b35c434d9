"""Data sets by name, as tensors in memory."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from evitlab.train.shapes import CLASSES, draw_scenes, render


@dataclass(frozen=True, kw_only=True)
class Images:
    """Labelled RGB images of one size."""

    pixels: UInt8[Tensor, "N 3 H W"]
    labels: Int64[Tensor, " N"]
    """Indices into `classes`."""
    classes: tuple[str, ...]

    def first(self, count: int) -> "Images":
        """At most that many images, from the beginning."""
        return Images(pixels=self.pixels[:count], labels=self.labels[:count], classes=self.classes)


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """Images to train on and different ones to judge by."""

    name: str
    train: Images
    val: Images


def make_shapes(*, num_images: int, seed: int, image_size: int = 32) -> Images:
    """The embedded data set: a texture and a relation in each image, drawn by code (see `shapes`).

    Classes are balanced to one image and in random order. One seed shows the same scenes at every image size;
    the noise differs.
    """
    if num_images < 1:
        raise ValueError(f"num_images must be at least 1, but got {num_images=}")
    generator = torch.Generator().manual_seed(seed)
    scenes = draw_scenes(num_images, generator)
    pixels = render(scenes, image_size=image_size, generator=generator)
    return Images(pixels=pixels, labels=scenes.labels, classes=CLASSES)


DATASETS: dict[str, Callable[..., Images]] = {"shapes": make_shapes}


def load_data(
    name: str, *, image_size: int = 32, train_images: int = 8192, val_images: int = 2048, seed: int = 0
) -> DataSet:
    """A data set by name; training and held-out images come from different streams of the seed."""
    if name not in DATASETS:
        raise ValueError(f"data must be one of {', '.join(DATASETS)}, but got {name=}")
    make = DATASETS[name]
    return DataSet(
        name=name,
        train=make(num_images=train_images, seed=2 * seed, image_size=image_size),
        val=make(num_images=val_images, seed=2 * seed + 1, image_size=image_size),
    )


def scale_pixels(pixels: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """What a network reads: 0..255 becomes -2..2, the same for each channel and data set."""
    return pixels.float().div_(63.75).sub_(2.0)  # 255 / 63.75 = 4


def classes_of(name: str) -> tuple[str, ...]:
    """Names of a data set's classes, without drawing it."""
    return {"shapes": CLASSES}[name]
