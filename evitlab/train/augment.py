"""Augmentation of whole batches: crops, flips and RandAugment on pixels; erasing, Mixup and CutMix on scaled images.

Every number is drawn on the CPU from the generator in the arguments, so one state of it gives one batch, bit for bit,
on one machine. All but Mixup and CutMix is drawn for each image alone.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from timm.data.mixup import mixup_target
from torch import Generator, Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as tv

from evitlab.recipes import Augmentation

CROP_RATIO = 4 / 3
"""Widest shape of a resized crop, width over height; the inverse is the tallest (Szegedy et al., 2015)."""
ERASED_RATIO = 1 / 0.3
ERASED_AREA = (0.02, 1 / 3)
"""Shape and share of the image of what is erased (timm's, near Zhong et al., 2020, Sec. 4.2)."""
TRIES = 10
"""Rectangles drawn for an image before giving up, as in torchvision and timm."""

GREY = 128.0
"""What comes in from outside the image: near 0 once scaled."""


def augment_images(
    pixels: UInt8[Tensor, "B 3 H W"], augmentation: Augmentation, generator: Generator
) -> UInt8[Tensor, "B 3 H W"]:
    """Crop, flip and RandAugment, in this order; the images given are never written to, and given back if all is off.

    Resized crops are torchvision's, bilinear and without antialias, which has nothing to do where images only grow.
    """
    if augmentation.crop == "pad":
        pixels = _crop_padded(pixels, generator)
    if augmentation.crop == "resized":
        pixels = _crop_resized(pixels, augmentation.min_area, generator)
    if augmentation.flip > 0:
        pixels = _flip(pixels, augmentation.flip, generator)
    if augmentation.rand_augment > 0:
        pixels = _rand_augment(pixels, augmentation.rand_augment, generator)
    return pixels


def mix_images(
    images: Float[Tensor, "B 3 H W"],
    labels: Int64[Tensor, " B"],
    augmentation: Augmentation,
    *,
    num_classes: int,
    label_smoothing: float,
    generator: Generator,
) -> tuple[Float[Tensor, "B 3 H W"], Float[Tensor, "B classes"]]:
    """Random erasing, then Mixup or CutMix; and the soft targets, smoothed and mixed as by timm.

    Image i is mixed with image B - 1 - i, all with one share (timm's batch mode); where both are on, a batch takes
    either with the same chance. The images given are never written to, and given back if all is off.
    """
    if augmentation.random_erasing > 0:
        images = _erase(images, augmentation.random_erasing, generator)
    share = 1.0
    if augmentation.mixup > 0 or augmentation.cutmix > 0:
        images, share = _mix(images, augmentation, generator)
    return images, mixup_target(labels, num_classes, share, label_smoothing)


def _flip(pixels: Tensor, probability: float, generator: Generator) -> Tensor:
    chosen = (torch.rand(len(pixels), generator=generator) < probability).to(pixels.device)
    flipped = pixels.clone()
    flipped[chosen] = pixels[chosen].flip(3)
    return flipped


def _crop_padded(pixels: Tensor, generator: Generator) -> Tensor:
    """A cut of the old size from the image with an eighth of it mirrored on each side."""
    height, width = pixels.shape[2:]
    pad_y, pad_x = height // 8, width // 8
    padded = F.pad(pixels, (pad_x, pad_x, pad_y, pad_y), mode="reflect")
    tops = torch.randint(2 * pad_y + 1, (len(pixels),), generator=generator).tolist()
    lefts = torch.randint(2 * pad_x + 1, (len(pixels),), generator=generator).tolist()
    cuts = zip(padded, tops, lefts, strict=True)
    return torch.stack([image[:, top : top + height, left : left + width] for image, top, left in cuts])


def _crop_resized(pixels: Tensor, min_area: float, generator: Generator) -> Tensor:
    """RandomResizedCrop image by image: faster on a CPU than one grid_sample, as torch resizes uint8 directly."""
    height, width = pixels.shape[2:]
    boxes, found = _draw_boxes(
        len(pixels), (height, width), (height, width), area=(min_area, 1.0), ratio=CROP_RATIO, generator=generator
    )
    tallest, widest = min(height, round(width * CROP_RATIO)), min(width, round(height * CROP_RATIO))
    centre = [(height - tallest) // 2, (width - widest) // 2, tallest, widest]
    places = np.where(found[:, None], boxes, centre).tolist()
    cuts = zip(pixels.split(1), places, strict=True)
    return torch.cat([_resize(image.narrow(2, y, h).narrow(3, x, w), (height, width)) for image, (y, x, h, w) in cuts])


def _resize(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """torchvision's result; on a CPU, where torch resizes bytes itself, without what torchvision does around it."""
    if pixels.device.type == "cpu":
        return torch.ops.aten.upsample_bilinear2d(pixels, size, False)
    return tv.resize(pixels, list(size), antialias=False)


def _draw_boxes(
    count: int,
    size: tuple[int, int],
    limit: tuple[int, int],
    *,
    area: tuple[float, float],
    ratio: float,
    generator: Generator,
) -> tuple[Int64[np.ndarray, "B 4"], Bool[np.ndarray, " B"]]:
    """Top, left, height and width inside images of `size`, and for which images any was found within the limit.

    The share of the area is uniform, the ratio of width to height log-uniform between `ratio` and its inverse; the
    first of the tries that is within the limit counts, and its place is uniform.
    """
    drawn = torch.rand(2, TRIES, count, dtype=torch.float64, generator=generator).numpy()
    areas = (area[0] + (area[1] - area[0]) * drawn[0]) * (size[0] * size[1])
    root = np.exp((2 * drawn[1] - 1) * (math.log(ratio) / 2))  # of width over height
    sides = np.stack([np.sqrt(areas) / root, np.sqrt(areas) * root], axis=2).round().astype(np.int64)
    fits = ((sides >= 1) & (sides <= limit)).all(2)  # (tries, B)
    chosen = sides[fits.argmax(0), np.arange(count)]
    room = (np.array(size) - chosen + 1).clip(min=1)
    place = (torch.rand(count, 2, dtype=torch.float64, generator=generator).numpy() * room).astype(np.int64)
    return np.concatenate([place, chosen], axis=1), np.logical_or.reduce(fits)


def _erase(images: Tensor, probability: float, generator: Generator) -> Tensor:
    """Normal noise in a rectangle of some of the images; none where all tries came out as high or wide as the image."""
    height, width = images.shape[2:]
    boxes, found = _draw_boxes(
        len(images),
        (height, width),
        (height - 1, width - 1),
        area=ERASED_AREA,
        ratio=ERASED_RATIO,
        generator=generator,
    )
    chosen = found & (torch.rand(len(images), generator=generator) < probability).numpy()
    erased = images.clone()
    for index in chosen.nonzero()[0].tolist():
        top, left, high, wide = boxes[index].tolist()
        noise = torch.randn(images.shape[1], high, wide, generator=generator)
        erased[index, :, top : top + high, left : left + wide] = noise
    return erased


def _mix(images: Tensor, augmentation: Augmentation, generator: Generator) -> tuple[Tensor, float]:
    """The batch mixed with itself in reverse, and the share that each image keeps."""
    # torch's own Beta takes no generator
    numbers = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    cut = augmentation.cutmix > 0 and (augmentation.mixup == 0 or numbers.random() < 0.5)
    alpha = augmentation.cutmix if cut else augmentation.mixup
    share = float(numbers.beta(alpha, alpha))
    if not cut:
        return torch.lerp(images.flip(0), images, share), share
    height, width = images.shape[2:]
    rows, columns = (_draw_span(side, math.sqrt(1 - share), numbers) for side in (height, width))
    mixed = images.clone()
    mixed[:, :, rows, columns] = images[:, :, rows, columns].flip(0)
    cut_area = (rows.stop - rows.start) * (columns.stop - columns.start)
    return mixed, 1 - cut_area / (height * width)


def _draw_span(side: int, share: float, numbers: np.random.Generator) -> slice:
    """Part of a side around a uniform centre, cut off at the border (Yun et al., 2019, Sec. 3.2)."""
    length, centre = int(side * share), int(numbers.integers(side))
    return slice(max(0, centre - length // 2), min(side, centre + (length + 1) // 2))


def _rand_augment(pixels: Tensor, magnitude: int, generator: Generator) -> Tensor:
    """Two operations an image, drawn with replacement."""
    names = [*WARPS, *COLOURS]
    for _ in range(2):
        operations = [names[i] for i in torch.randint(len(names), (len(pixels),), generator=generator)]
        signs = (torch.randint(2, (len(pixels),), generator=generator) * 2 - 1).tolist()
        pixels = apply_operations(pixels, operations, [sign * magnitude / 10 for sign in signs])
    return pixels


def apply_operations(
    pixels: UInt8[Tensor, "B 3 H W"], operations: Sequence[str], levels: Sequence[float]
) -> UInt8[Tensor, "B 3 H W"]:
    """Each image through one of RandAugment's operations at a level from -1 to 1, with torchvision's ranges.

    All shifts, shears and rotations together are one resampling, and images with the same other operation at the same
    level go through it together: at 64 pixels and a batch of 64, one thread did 13 700 images a second, torchvision's
    RandAugment 4 900 image by image and 11 800 on groups of four. What comes in from outside an image is grey.
    """
    groups: dict[tuple[str, float], list[int]] = defaultdict(list)
    for index, (name, level) in enumerate(zip(operations, levels, strict=True)):
        if name in WARPS:
            groups["warp", 0.0].append(index)
        else:
            groups[name, abs(level) if name in UNSIGNED else level].append(index)
    changed = []
    for (name, level), indices in groups.items():
        images = pixels.index_select(0, torch.tensor(indices, device=pixels.device))
        if name == "warp":
            changed.append(_warp(images, [operations[i] for i in indices], [levels[i] for i in indices]))
        else:
            changed.append(COLOURS[name](images, level))
    order = torch.tensor([i for indices in groups.values() for i in indices], device=pixels.device)
    return torch.cat(changed).index_select(0, order.argsort())


def _warp(pixels: Tensor, operations: Sequence[str], levels: Sequence[float]) -> Tensor:
    """Bilinear resampling of each image by the matrix of its own operation."""
    height, width = pixels.shape[2:]
    pairs = zip(operations, levels, strict=True)
    matrices = torch.tensor([WARPS[name](level, height, width) for name, level in pairs], dtype=torch.float32)
    ys, xs = (torch.arange(side) - (side - 1) / 2 for side in (height, width))
    row, column, shift = matrices[..., None, None].unbind(2)  # (B, 2, 1, 1) each
    sources = row * xs + (column * ys[:, None] + shift)  # (B, 2, H, W)
    # grid_sample counts in halves of each side; and outside is 0, so grey must be
    grid = (sources.permute(0, 2, 3, 1) * torch.tensor([2 / width, 2 / height])).to(pixels.device)
    return F.grid_sample(pixels.float() - GREY, grid, align_corners=False).add_(GREY).round_().to(torch.uint8)


def _rotate(level: float, height: int, width: int) -> list[list[float]]:
    angle = math.radians(30 * level)
    return [[math.cos(angle), -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0]]


WARPS: dict[str, Callable[[float, int, int], list[list[float]]]] = {
    "shear_x": lambda level, height, width: [[1, 0.3 * level, 0.15 * level * height], [0, 1, 0]],
    "shear_y": lambda level, height, width: [[1, 0, 0], [0.3 * level, 1, 0.15 * level * width]],
    "translate_x": lambda level, height, width: [[1, 0, -int(150 / 331 * level * width)], [0, 1, 0]],
    "translate_y": lambda level, height, width: [[1, 0, 0], [0, 1, -int(150 / 331 * level * height)]],
    "rotate": _rotate,
}
"""From level, height and width to where a pixel of the result is in the image, in pixels from its centre.

Shears are about the upper left corner, as in torchvision and AutoAugment's official code."""
COLOURS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "identity": lambda images, level: images,
    "brightness": lambda images, level: tv.adjust_brightness(images, 1 + 0.9 * level),
    "color": lambda images, level: tv.adjust_saturation(images, 1 + 0.9 * level),
    "contrast": lambda images, level: tv.adjust_contrast(images, 1 + 0.9 * level),
    "sharpness": lambda images, level: tv.adjust_sharpness(images, 1 + 0.9 * level),
    "posterize": lambda images, level: tv.posterize(images, 8 - round(4 * level)),
    "solarize": lambda images, level: tv.solarize(images, 255 * (1 - level)),
    "autocontrast": lambda images, level: tv.autocontrast(images),
    "equalize": lambda images, level: tv.equalize(images),
}
"""From images and level to images (Cubuk et al., 2020, Fig. 2)."""
UNSIGNED = ("identity", "posterize", "solarize", "autocontrast", "equalize")
"""Operations for which the sign of the level means nothing."""
