"""Image files to pixels of one size, on several threads: Pillow decodes without Python's lock."""

import io
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import center_crop, resize

from evitlab.problems import UserError

CHUNK = 32
"""Images a thread takes at once."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image not decoded yet."""

    key: str
    """Its name in the data set's listing."""
    content: bytes | Path | UInt8[np.ndarray, "H W 3"]
    """An image file's bytes, where one lies, or pixels."""
    shown: str
    """What errors call it."""


def decode(picture: Picture, *, image_size: int) -> UInt8[np.ndarray, "3 {image_size} {image_size}"]:
    """RGB pixels; the shorter side is resized, bicubic with antialiasing, then the centre is cut out.

    This is what timm evaluates with at `crop_pct=1`. An image of the right size is left as it is. Raises UserError,
    with the name, for what is no image or not a whole one.
    """
    try:
        image = _open(picture.content)
        if image.size != (image_size, image_size):
            image = center_crop(resize(image, image_size, InterpolationMode.BICUBIC), image_size)
    except Exception as error:  # Pillow's readers raise almost anything on broken bytes
        raise UserError(f"{picture.shown}: must be a whole image: {error}") from error
    return np.asarray(image).transpose(2, 0, 1)


def decode_all(
    pictures: Iterable[Picture], *, image_size: int, write: Callable[[str, UInt8[np.ndarray, "3 H W"]], None]
) -> Iterator[int]:
    """Decode pictures and write each under its key, from several threads at once; yields how many are done so far.

    Pictures are taken as they are needed, so that few are in memory. The first error, of whatever kind, ends it.
    """

    def work(chunk: list[Picture]) -> int:
        for picture in chunk:
            write(picture.key, decode(picture, image_size=image_size))
        return len(chunk)

    workers = os.cpu_count() or 1
    left = iter(pictures)
    pending: deque[Future[int]] = deque()
    done = 0
    pool = ThreadPoolExecutor(workers)
    try:
        while (chunk := list(islice(left, CHUNK))) or pending:
            if chunk:
                pending.append(pool.submit(work, chunk))
            if not chunk or len(pending) > 2 * workers:
                done += pending.popleft().result()
                yield done
    finally:
        pool.shutdown(cancel_futures=True)


def _open(content: bytes | Path | np.ndarray) -> Image.Image:
    if isinstance(content, np.ndarray):
        return Image.fromarray(content)
    with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content) as image:
        return image.convert("RGB")
