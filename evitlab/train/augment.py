"""Augmentation of whole batches: crops, flips and RandAugment on pixels; erasing, Mixup and CutMix on scaled images.

Every number is drawn on the CPU from the generator in the arguments, so one state of it gives one batch, bit for bit,
on one machine. All but Mixup and CutMix is drawn for each image alone.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from timm.data.mixup import mixup_target
from torch import Generator, Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from evitlab.recipes import Augmentation

CROP_RATIO = 4 / 3
"""Widest shape of a resized crop, width over height; the inverse is the tallest (Szegedy et al., 2015)."""
ERASED_RATIO = 1 / 0.3
ERASED_AREA = (0.02, 1 / 3)
"""Shape and share of the image of what is erased (timm's, near Zhong et al., 2020, Sec. 4.2)."""
TRIES = 10
"""Rectangles drawn for an image before giving up, as in torchvision and timm."""

GREY = [128.0, 128.0, 128.0]
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
    centre = torch.tensor([(height - tallest) // 2, (width - widest) // 2, tallest, widest])
    places = torch.where(found[:, None], boxes, centre).tolist()
    crops = zip(pixels, places, strict=True)
    return torch.stack([tv.resized_crop(image, *box, size=[height, width], antialias=False) for image, box in crops])


def _draw_boxes(
    count: int,
    size: tuple[int, int],
    limit: tuple[int, int],
    *,
    area: tuple[float, float],
    ratio: float,
    generator: Generator,
) -> tuple[Int64[Tensor, "B 4"], Bool[Tensor, " B"]]:
    """Top, left, height and width inside images of `size`, and for which images any was found within the limit.

    The share of the area is uniform, the ratio of width to height log-uniform between `ratio` and its inverse; the
    first of the tries that is within the limit counts, and its place is uniform.
    """
    areas = torch.empty(TRIES, count, dtype=torch.float64).uniform_(*area, generator=generator) * (size[0] * size[1])
    log_ratio = torch.empty_like(areas).uniform_(-math.log(ratio), math.log(ratio), generator=generator)
    sides = torch.stack([(areas * (-log_ratio).exp()).sqrt(), (areas * log_ratio.exp()).sqrt()], dim=2).round().long()
    fits = ((sides >= 1) & (sides <= torch.tensor(limit))).all(2)  # (tries, B)
    chosen = sides[fits.int().argmax(0), torch.arange(count)]
    room = (torch.tensor(size) - chosen + 1).clamp(min=1)
    place = (torch.rand(count, 2, dtype=torch.float64, generator=generator) * room).long()
    return torch.cat([place, chosen], dim=1), fits.any(0)


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
    chosen = found & (torch.rand(len(images), generator=generator) < probability)
    erased = images.clone()
    for index in chosen.nonzero().flatten().tolist():
        top, left, high, wide = boxes[index].tolist()
        noise = torch.randn(images.shape[1], high, wide, generator=generator)
        erased[index, :, top : top + high, left : left + wide] = noise
    return erased


def _mix(images: Tensor, augmentation: Augmentation, generator: Generator) -> tuple[Tensor, float]:
    """The batch mixed with itself in reverse, and the share that each image keeps."""
    # torch's own Beta takes no generator
    numbers = np.random.default_rng(torch.randint(2**62, (), generator=generator).item())
    cut = augmentation.cutmix > 0 and (augmentation.mixup == 0 or numbers.random() < 0.5)
    alpha = augmentation.cutmix if cut else augmentation.mixup
    share = numbers.beta(alpha, alpha)
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
    """Two operations an image, drawn with replacement; images with the same one go through it together."""
    names = list(OPERATIONS)
    augmented = pixels.clone()
    for _ in range(2):
        operation = torch.randint(len(names), (len(pixels),), generator=generator)
        sign = torch.randint(2, (len(pixels),), generator=generator) * 2 - 1
        for name, each in ((name, operation == index) for index, name in enumerate(names)):
            for direction in (1, -1) if name in SIGNED else (0,):
                group = (each & (sign == direction) if direction else each).nonzero().flatten().to(pixels.device)
                if len(group):
                    level = (direction or 1) * magnitude / 10
                    augmented[group] = OPERATIONS[name](augmented[group], level)
    return augmented


def _shear(images: Tensor, x: float, y: float) -> Tensor:
    """By slopes, about the upper left corner, as in AutoAugment's official code."""
    degrees = [math.degrees(math.atan(slope)) for slope in (x, y)]
    return tv.affine(images, 0.0, [0, 0], 1.0, degrees, InterpolationMode.BILINEAR, GREY, center=[0.0, 0.0])


def _translate(images: Tensor, x: float, y: float) -> Tensor:
    """By shares of width and height, to whole pixels."""
    pixels = [int(x * images.shape[3]), int(y * images.shape[2])]
    return tv.affine(images, 0.0, pixels, 1.0, [0.0, 0.0], InterpolationMode.BILINEAR, GREY)


OPERATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "identity": lambda images, level: images,
    "shear_x": lambda images, level: _shear(images, 0.3 * level, 0.0),
    "shear_y": lambda images, level: _shear(images, 0.0, 0.3 * level),
    "translate_x": lambda images, level: _translate(images, 150 / 331 * level, 0.0),
    "translate_y": lambda images, level: _translate(images, 0.0, 150 / 331 * level),
    "rotate": lambda images, level: tv.rotate(images, 30 * level, InterpolationMode.BILINEAR, fill=GREY),
    "brightness": lambda images, level: tv.adjust_brightness(images, 1 + 0.9 * level),
    "color": lambda images, level: tv.adjust_saturation(images, 1 + 0.9 * level),
    "contrast": lambda images, level: tv.adjust_contrast(images, 1 + 0.9 * level),
    "sharpness": lambda images, level: tv.adjust_sharpness(images, 1 + 0.9 * level),
    "posterize": lambda images, level: tv.posterize(images, 8 - round(4 * level)),
    "solarize": lambda images, level: tv.solarize(images, 255 * (1 - level)),
    "autocontrast": lambda images, level: tv.autocontrast(images),
    "equalize": lambda images, level: tv.equalize(images),
}
"""RandAugment's operations with torchvision's ranges (Cubuk et al., 2020, Fig. 2): level 1, a magnitude of 10, is the
strongest. On uint8 images of any batch size."""
SIGNED = {"shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "color", "contrast", "sharpness"}
"""Operations that take a negative level as well, half of the time."""
