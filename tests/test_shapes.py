"""What the images of `shapes` show, and that no attribute alone knows the relation."""

import pytest
import torch

from evitlab.train.shapes import (
    ALPHABETS,
    BLOCKS,
    GRID,
    SQUARE,
    TILES,
    Scenes,
    draw_scenes,
    make_tiles,
    render,
)


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return draw_scenes(16_000, torch.Generator().manual_seed(0))


def test_the_label_is_texture_and_relation(scenes: Scenes):
    differ = (scenes.tints[:, 0] != scenes.tints[:, 1]).long()
    assert torch.equal(scenes.labels, 2 * scenes.alphabet + differ)


@pytest.mark.parametrize("i", [0, 1])
def test_one_square_alone_knows_no_class(scenes: Scenes, i: int):
    place = scenes.corners[:, i, 0] * GRID + scenes.corners[:, i, 1]
    attributes = {"red": scenes.tints[:, i] == 1, "strong": scenes.strengths[:, i] > 0.4}
    attributes |= {f"at {p}": place == p for p in place.unique().tolist()}
    attributes |= {f"red at {p}": (place == p) & (scenes.tints[:, i] == 1) for p in place.unique().tolist()}
    for name, has in attributes.items():
        shares = [has[scenes.relation == relation].double().mean() for relation in (0, 1)]
        rate = has.double().mean()
        # the difference of two shares of 8000 images each
        assert abs(shares[0] - shares[1]) < 4 * (rate * (1 - rate) * 2 / 8000).sqrt(), name


def test_tile_sign_and_contrast_know_no_class(scenes: Scenes):
    for value in (scenes.sign == 1, scenes.contrast > 0.25, scenes.tile == 0):
        rate = value.double().mean()
        for label in range(16):
            share = value[scenes.labels == label].double().mean()
            assert abs(share - rate) < 4.5 * (rate * (1 - rate) / 1000).sqrt()


def test_squares_lie_in_the_image_and_apart(scenes: Scenes):
    assert scenes.corners.min() == 0
    assert scenes.corners.max() == GRID - SQUARE
    gap = (scenes.corners[:, 0] - scenes.corners[:, 1]).abs().amax(1)
    assert gap.min() >= SQUARE


def test_no_two_tiles_are_alike_or_opposite():
    tiles = make_tiles()
    assert tiles.shape == (ALPHABETS, TILES, BLOCKS, BLOCKS)
    assert set(tiles.unique().tolist()) == {-1.0, 1.0}
    flat = tiles.flatten(0, 1).flatten(1)
    overlap = (flat @ flat.T).fill_diagonal_(0).abs()
    assert overlap.max() < BLOCKS**2


@pytest.mark.parametrize("image_size", [32, 64, 96])
def test_pixels_show_the_scene(scenes: Scenes, image_size: int):
    """The image is rebuilt pixel by pixel, without noise, for one scene."""
    quiet = Scenes(
        alphabet=scenes.alphabet[:1],
        relation=scenes.relation[:1],
        tile=scenes.tile[:1],
        sign=scenes.sign[:1],
        contrast=torch.tensor([0.4]),
        corners=scenes.corners[:1],
        tints=scenes.tints[:1],
        strengths=torch.tensor([[0.6, 0.3]]),
        cell_noise=torch.zeros(1, 3, GRID, GRID),
    )
    image = render(quiet, image_size=image_size, generator=torch.Generator().manual_seed(0))[0]
    tile = make_tiles()[quiet.alphabet[0], quiet.tile[0]] * quiet.sign[0]
    cell, block = image_size // GRID, image_size // GRID // BLOCKS
    expected = torch.zeros(3, image_size, image_size)
    for y in range(image_size):
        for x in range(image_size):
            expected[:, y, x] = 0.4 * tile[y % cell // block, x % cell // block]
            for (top, left), tint, strength in zip(quiet.corners[0], quiet.tints[0], (0.6, 0.3), strict=True):
                if top <= y // cell < top + 2 and left <= x // cell < left + 2:
                    expected[0, y, x] += tint * strength
                    expected[2, y, x] -= tint * strength
    error = (image.float() - 127.5) / 102 - expected
    # green never leaves the range of a pixel; its error is the noise alone
    assert error[1].mean().abs() < 5 * 0.3 / image_size
    assert error[1].std() == pytest.approx(0.3, rel=0.1)
    assert error.abs().max() < 1.7


@pytest.mark.parametrize("image_size", [32, 50])
def test_any_size_from_32_pixels_is_drawn(scenes: Scenes, image_size: int):
    few = draw_scenes(3, torch.Generator().manual_seed(0))
    assert render(few, image_size=image_size, generator=torch.Generator()).shape == (
        3,
        3,
        image_size,
        image_size,
    )


def test_too_small_an_image_is_refused(scenes: Scenes):
    with pytest.raises(
        ValueError, match=r"image_size must be at least 32 for the tiles to show, but got image_size=16"
    ):
        render(scenes, image_size=16, generator=torch.Generator())
