"""The embedded data set `shapes`: what an image shows, and its drawing.

The background is a grating that covers the image; two cards lie on it, at least a card apart. The class is the
grating's direction (a local texture) together with how the cards compare (a long-range relation).

Both halves are out of reach of an additive score, a sum over patches of any function of patch and place, trained by
cross-entropy. The texture is: phase and contrast are random, so that it must be computed within the patch. The
relation is at chance: each card alone looks the same in all four relations, so that the mean of any such sum does not
depend on the relation, and the best weights on it are zero (the loss is convex in them). It takes a product of two
distant patches.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

TEXTURES = ("horizontal", "rising", "vertical", "falling")
RELATIONS = ("same colour and mark", "other colour", "other mark", "other colour and mark")
CLASSES = tuple(f"{texture}, {relation}" for texture in TEXTURES for relation in RELATIONS)

GRID = 4
"""Cells a side: a card fills one cell, and a cell is one patch where the patch size is a quarter of the image."""
COLOURS = ((1.0, -0.3, -1.0), (-1.0, -0.3, 1.0))
MIN_SIZE = 32


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """What the images show, independent of their size."""

    texture: Int64[Tensor, "N"]
    relation: Int64[Tensor, "N"]
    cells: Int64[Tensor, "N 2"]
    """Where the two cards lie, in reading order of the grid."""
    colours: Int64[Tensor, "N 2"]
    marks: Int64[Tensor, "N 2"]
    """0: an upright bar on the card, 1: a level one."""
    phase: Float[Tensor, "N"]
    contrast: Float[Tensor, "N"]

    @property
    def labels(self) -> Int64[Tensor, "N"]:
        """Indices into `CLASSES`."""
        return self.texture * len(RELATIONS) + self.relation


def draw_scenes(num_images: int, generator: torch.Generator) -> Scenes:
    """Scenes of balanced classes in random order; all else is independent of the class."""

    def draw_integers(high: int) -> Tensor:
        return torch.randint(high, (num_images,), generator=generator)

    order = torch.randperm(num_images, generator=generator)
    texture, relation = order % len(CLASSES) // len(RELATIONS), order % len(RELATIONS)
    colour, mark = draw_integers(2), draw_integers(2)
    places = _far_pairs()
    return Scenes(
        texture=texture,
        relation=relation,
        cells=places[draw_integers(len(places))],
        colours=torch.stack([colour, colour ^ (relation & 1)], 1),
        marks=torch.stack([mark, mark ^ (relation >> 1)], 1),
        phase=2 * math.pi * torch.rand(num_images, generator=generator),
        contrast=0.3 + 0.7 * torch.rand(num_images, generator=generator),
    )


def render(
    scenes: Scenes, *, image_size: int, generator: torch.Generator
) -> UInt8[Tensor, "N 3 {image_size} {image_size}"]:
    """Square images of the scenes; the generator gives the noise."""
    if image_size < MIN_SIZE:
        raise ValueError(f"image_size must be at least {MIN_SIZE} for the shapes to show, but got {image_size=}")
    chunks = torch.arange(len(scenes.texture)).split(1024)  # bounds the memory of the float images
    return torch.cat([_render(scenes, rows, image_size, generator) for rows in chunks])


def _render(scenes: Scenes, rows: Tensor, image_size: int, generator: torch.Generator) -> Tensor:
    place = (torch.arange(image_size) + 0.5) / image_size * GRID  # pixel centres, in cells
    y, x = place[:, None], place
    angle = scenes.texture[rows] * math.pi / len(TEXTURES) + math.pi / 2
    step_x, step_y = (3 * math.pi * f(angle)[:, None, None] for f in (torch.cos, torch.sin))
    grating = torch.sin(step_x * x + step_y * y + scenes.phase[rows, None, None])
    image = (grating * scenes.contrast[rows, None, None])[:, None].repeat(1, 3, 1, 1)
    cell = y.floor() * GRID + x.floor()
    bars = torch.stack([((x % 1 - 0.5).abs() < 0.2).expand(cell.shape), ((y % 1 - 0.5).abs() < 0.2).expand(cell.shape)])
    for i in range(2):
        inside = cell == scenes.cells[rows, i, None, None]
        colour = torch.tensor(COLOURS)[scenes.colours[rows, i]][:, :, None, None]
        card = 0.6 * colour + 0.6 * (2.0 * bars[scenes.marks[rows, i]] - 1)[:, None]
        image = torch.where(inside[:, None], card, image)
    image += 0.15 * torch.randn(image.shape, generator=generator)
    return image.mul_(51).add_(127.5).clamp_(0, 255).to(torch.uint8)


def _far_pairs() -> Int64[Tensor, "pairs 2"]:
    """Ordered pairs of cells with at least one cell between them, also diagonally."""
    cells = torch.cartesian_prod(torch.arange(GRID), torch.arange(GRID))
    gap = (cells[:, None] - cells).abs().amax(-1)
    return (gap >= 2).nonzero()
