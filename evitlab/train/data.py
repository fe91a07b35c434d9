"""Data sets by name or path, as tensors: drawn in memory, or mapped from the cache of decoded images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from evitlab.problems import UserError
from evitlab.train.cache import find_cache, find_entry, open_pixels, read_index
from evitlab.train.shapes import CLASSES, draw_scenes, render
from evitlab.train.sources import Source, find_source


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


def load_data(
    name: str | Sequence[str],
    *,
    image_size: int = 32,
    train_images: int | None = None,
    val_images: int | None = None,
    seed: int = 0,
    root: Path | None = None,
    cache: Path | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> DataSet:
    """A data set: `shapes`, `cifar10`, `cifar100`, `tiny-imagenet`, `imagenet`, or a path or several (`find_source`).

    `shapes` has 8192 and 2048 images unless told otherwise, its splits from different streams of the seed. Real data
    has all images, or the first of them, which are spread evenly over the classes and the same for every seed. They
    are looked for, and CIFAR is downloaded to, `root`, by default the folder `data` of the cache; they are decoded
    once, resized and cut to squares of `image_size`, into `cache`, by default `$EVITLAB_CACHE`, else
    `~/.cache/evitlab`. Pixels stay in that file until they are read: the data may be larger than memory.
    `on_progress` is told the share decoded. Raises UserError for data that is missing or damaged.
    """
    _check_count(image_size=image_size, train_images=train_images, val_images=val_images)
    if name == "shapes":
        counts = (train_images or 8192, val_images or 2048)
        train, val = (
            make_shapes(num_images=count, seed=2 * seed + stream, image_size=image_size)
            for stream, count in enumerate(counts)
        )
        return DataSet(name=name, train=train, val=val)
    source, entry = _find(name, root=root, cache=cache)
    index = read_index(source, entry)
    asked = (train_images or len(index.train), val_images or len(index.val))
    for field, count, there in (("train_images", asked[0], index.train), ("val_images", asked[1], index.val)):
        if count > len(there):
            raise UserError(f"{field} must be at most {len(there)}, all that {name} has, but got {count}")
    whole = (len(index.train), len(index.val))
    pixels = open_pixels(source, entry, image_size=image_size, asked=asked, whole=whole, on_progress=on_progress)
    train, val = (
        Images(pixels=torch.from_numpy(mapped), labels=torch.tensor(labels[: len(mapped)]), classes=index.classes)
        for mapped, labels in ((pixels.train, index.train), (pixels.val, index.val))
    )
    return DataSet(name=name if isinstance(name, str) else ", ".join(name), train=train, val=val)


def classes_of(name: str | Sequence[str], *, root: Path | None = None, cache: Path | None = None) -> tuple[str, ...]:
    """Names of a data set's classes, in the order of the labels, without drawing or decoding it."""
    if name == "shapes":
        return CLASSES
    return read_index(*_find(name, root=root, cache=cache)).classes


def check_data(name: str | Sequence[str], *, root: Path | None = None, cache: Path | None = None) -> None:
    """Raise UserError if a data set is not there or its files make no data set, before anything waits for it.

    It says what is missing, where it was looked for and how to get it. CIFAR is downloaded if it is missing. Files
    are listed, not decoded.
    """
    classes_of(name, root=root, cache=cache)


def _find(name: str | Sequence[str], *, root: Path | None, cache: Path | None) -> tuple[Source, Path]:
    """Where the data lies, and its folder in the cache."""
    cache = find_cache(cache)
    source = find_source(name, root=cache / "data" if root is None else Path(root).expanduser())
    return source, find_entry(source, cache)


def _check_count(**counts: int | None) -> None:
    for field, count in counts.items():
        if count is not None and count < 1:
            raise UserError(f"{field} must be at least 1, but got {count}")


def scale_pixels(pixels: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """What a network reads: 0..255 becomes -2..2, the same for each channel and data set."""
    return pixels.div(63.75).sub_(2.0)  # 255 / 63.75 = 4
