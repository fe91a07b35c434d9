"""Pixels of decoded images against timm's evaluation transform, and images that are broken."""

import io
from pathlib import Path

import numpy as np
import pytest
from fake_images import draw
from PIL import Image
from timm.data import create_transform

from evitlab.problems import UserError
from evitlab.train.decode import Picture, decode, decode_all


def picture(content: bytes | Path | np.ndarray, key: str = "x") -> Picture:
    return Picture(key=key, content=content, shown=f"a.zip: {key}")


@pytest.mark.parametrize("size", [(8, 8), (50, 33), (33, 50), (200, 90), (32, 32), (31, 64), (32, 47)])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK"])
def test_pixels_are_those_that_timm_evaluates_with(size: tuple[int, int], mode: str):
    image = Image.open(io.BytesIO(draw(1, width=size[0], height=size[1]))).convert(mode)
    file = io.BytesIO()
    image.save(file, "TIFF")
    transform = create_transform((3, 32, 32), crop_pct=1.0, interpolation="bicubic", mean=(0, 0, 0), std=(1, 1, 1))
    expected = transform(image.convert("RGB")).mul(255).round().byte().numpy()
    np.testing.assert_array_equal(decode(picture(file.getvalue()), image_size=32), expected)


def test_an_image_of_the_right_size_is_left_alone():
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decode(picture(pixels), image_size=16), pixels.transpose(2, 0, 1))


def test_a_file_is_read_where_it_lies(tmp_path: Path):
    path = tmp_path / "x.jpg"
    path.write_bytes(draw(0, kind="jpeg"))
    np.testing.assert_array_equal(decode(picture(path), image_size=8), np.asarray(Image.open(path)).transpose(2, 0, 1))


@pytest.mark.parametrize("kind", ["png", "jpeg", "bmp"])
@pytest.mark.parametrize("keep", [0.0, 0.05, 0.6])
def test_half_an_image_is_named(kind: str, keep: float):
    content = draw(0, width=64, height=64, kind=kind)
    with pytest.raises(UserError, match=r"a\.zip: x: must be a whole image: "):
        decode(picture(content[: int(len(content) * keep)]), image_size=64)


def test_all_are_decoded_once_and_counted():
    pictures = [picture(draw(i), f"{i}") for i in range(333)]
    written: dict[str, np.ndarray] = {}

    def write(key: str, pixels: np.ndarray) -> None:
        assert key not in written
        written[key] = pixels

    counts = list(decode_all(iter(pictures), image_size=8, write=write))
    assert counts == sorted(counts)
    assert counts[-1] == len(written) == 333
    for each in pictures:
        np.testing.assert_array_equal(written[each.key], decode(each, image_size=8))


def test_the_first_broken_image_ends_it():
    taken = []

    def pictures():
        for i in range(100_000):
            taken.append(i)
            yield picture(draw(0) if i != 70 else b"broken", f"{i}")

    with pytest.raises(UserError, match=r"a\.zip: 70: must be a whole image"):
        list(decode_all(pictures(), image_size=8, write=lambda key, pixels: None))
    assert len(taken) < 10_000  # few are taken ahead
