"""The embedded data set `shapes`: what an image shows, and how it is drawn.

One small tile repeats over the whole image, and two distant squares are tinted. The class is the tile's alphabet (a
local texture, eight of them) together with whether both tints are the same (a long-range relation).

- Texture: an alphabet has four tiles, as light or as dark; nothing orders them, so they must be told apart one by one
  within a patch. As each tile and its negative are equally likely, the mean image is the same for all alphabets.
- Relation: one square alone looks the same in both relations. So the mean of any sum over patches, of any function of
  patch and place, is the same too, and its best weights for the relation under cross-entropy, which is convex in
  them, are zero. The relation takes a product of two places.

Contrast, tints and noise vary, so that accuracy is graded: in some images a cue is nearly lost.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

ALPHABETS = 8
TILES = 4
"""Tiles of one alphabet."""
RELATIONS = ("same tint", "other tint")
CLASSES = tuple(f"alphabet {alphabet}, {relation}" for alphabet in range(ALPHABETS) for relation in RELATIONS)

MIN_SIZE = 32
GRID = 4
"""Cells a side: a cell holds one tile, and is one patch where the patch size is a quarter of the image."""
SQUARE = 2
"""Cells a side of a tinted square."""
BLOCKS = 4
"""Blocks a side of a tile, each light or dark."""
TINT = (1.0, 0.0, -1.0)
"""Red against blue: a tint changes no luminance."""
CONTRAST = (0.0, 0.45)
STRENGTH = (0.2, 0.8)
"""Of the tint, drawn for each square."""
CELL_NOISE = 0.15
PIXEL_NOISE = 0.3


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """What the images show, whatever their size."""

    alphabet: Int64[Tensor, " N"]
    relation: Int64[Tensor, " N"]
    tile: Int64[Tensor, " N"]
    """Which tile of the alphabet."""
    sign: Int64[Tensor, " N"]
    """-1 where the tile is shown as its negative, else 1."""
    contrast: Float[Tensor, " N"]
    corners: Int64[Tensor, "N 2 2"]
    """Row and column of the top left cell of both squares."""
    tints: Int64[Tensor, "N 2"]
    """-1 for blue, 1 for red."""
    strengths: Float[Tensor, "N 2"]
    cell_noise: Float[Tensor, "N 3 grid grid"]

    @property
    def labels(self) -> Int64[Tensor, " N"]:
        """Indices into `CLASSES`."""
        return self.alphabet * len(RELATIONS) + self.relation


def draw_scenes(num_images: int, generator: torch.Generator) -> Scenes:
    """Scenes of classes balanced to one image, in random order; tile, sign, places and first tint know no class."""

    def integers(high: int) -> Tensor:
        return torch.randint(high, (num_images,), generator=generator)

    def reals(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(num_images, *shape, generator=generator)

    order = torch.randperm(num_images, generator=generator) % len(CLASSES)
    relation = order % len(RELATIONS)
    tint = 2 * integers(2) - 1
    places = _far_corners()
    return Scenes(
        alphabet=order // len(RELATIONS),
        relation=relation,
        tile=integers(TILES),
        sign=2 * integers(2) - 1,
        contrast=reals(*CONTRAST),
        corners=places[integers(len(places))],
        tints=torch.stack([tint, tint * (1 - 2 * relation)], dim=1),
        strengths=reals(*STRENGTH, 2),
        cell_noise=CELL_NOISE * torch.randn(num_images, 3, GRID, GRID, generator=generator),
    )


def render(
    scenes: Scenes, *, image_size: int, generator: torch.Generator
) -> UInt8[Tensor, "N 3 {image_size} {image_size}"]:
    """Square images of the scenes; the generator gives the pixels' noise, the same strength at every size."""
    if image_size < MIN_SIZE:
        raise ValueError(f"image_size must be at least {MIN_SIZE} for the tiles to show, but got {image_size=}")
    chunks = torch.arange(len(scenes.labels)).split(1024)  # bounds the memory of the float images
    return torch.cat([_render(scenes, rows, image_size, generator) for rows in chunks])


def _render(scenes: Scenes, rows: Tensor, image_size: int, generator: torch.Generator) -> Tensor:
    pixel = torch.arange(image_size)
    cell = pixel * GRID // image_size
    block = pixel * GRID * BLOCKS // image_size % BLOCKS

    tiles = make_tiles()[scenes.alphabet[rows], scenes.tile[rows]]
    amplitude = (scenes.sign * scenes.contrast)[rows]
    texture = (tiles * amplitude[:, None, None])[:, block][:, :, block]

    tints = scenes.cell_noise[rows]
    for i in range(2):
        inside = _square_cells(scenes.corners[rows, i])
        tint = (scenes.tints * scenes.strengths)[rows, i, None] * torch.tensor(TINT)
        tints = tints + tint[:, :, None, None] * inside[:, None]

    image = texture[:, None] + tints[:, :, cell][..., cell]
    image += PIXEL_NOISE * torch.randn(image.shape, generator=generator)
    return image.mul_(102).add_(127.5).clamp_(0, 255).to(torch.uint8)


def make_tiles() -> Float[Tensor, "alphabets tiles blocks blocks"]:
    """Every alphabet's tiles in -1 and 1: drawn from a seed of their own, no two alike or opposite."""
    codes = torch.randperm(2 ** (BLOCKS**2 - 1), generator=torch.Generator().manual_seed(0))
    bits = codes[: ALPHABETS * TILES, None] >> torch.arange(BLOCKS**2) & 1  # the last bit is 0: no negatives
    return (2.0 * bits - 1).view(ALPHABETS, TILES, BLOCKS, BLOCKS)


def _far_corners() -> Int64[Tensor, "pairs 2 2"]:
    """Ordered pairs of squares that share no row of cells or no column."""
    free = torch.arange(GRID - SQUARE + 1)
    corners = torch.cartesian_prod(free, free)
    apart = (corners[:, None] - corners).abs().amax(-1) >= SQUARE
    return corners[apart.nonzero()]


def _square_cells(corners: Int64[Tensor, "N 2"]) -> Bool[Tensor, "N grid grid"]:
    offset = torch.arange(GRID) - corners[:, :, None]  # (N, 2, grid): rows and columns from the corner
    inside = (offset >= 0) & (offset < SQUARE)
    return inside[:, 0, :, None] & inside[:, 1, None, :]
