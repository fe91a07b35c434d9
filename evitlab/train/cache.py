"""Decoded images in memory-mapped files, so that a second start decodes nothing and memory does not bound the data.

A folder holds all that comes from one content: `index.json` with classes and labels, and a file of pixels for each
image size and number of images. Files appear whole, by renaming; one process makes them while the others wait.
"""

import hashlib
import json
import mmap
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from uuid import uuid4

import numpy as np
from filelock import FileLock
from jaxtyping import UInt8

from evitlab.problems import UserError
from evitlab.train.archives import scan_folder
from evitlab.train.decode import decode_all
from evitlab.train.sources import Source

VERSION = 1
"""Of the files' format and of the order and decoding of images: another one makes all anew."""
NO_RESERVE = 0x4000
"""Linux's MAP_NORESERVE, which Python names from 3.13 on: without it no more than memory is mapped copy-on-write."""


@dataclass(frozen=True, kw_only=True)
class Index:
    """What is known of a data set without decoding an image."""

    classes: tuple[str, ...]
    train: tuple[int, ...]
    """Label of each image, in the order of its pixels."""
    val: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """Images in a mapped file, copy-on-write: what is written to them reaches no file."""

    train: UInt8[np.ndarray, "N 3 H W"]
    val: UInt8[np.ndarray, "M 3 H W"]


def find_cache(cache: Path | None) -> Path:
    """The folder asked for, else `$EVITLAB_CACHE`, else `~/.cache/evitlab`."""
    return Path(cache or os.environ.get("EVITLAB_CACHE") or "~/.cache/evitlab").expanduser()


def find_entry(source: Source, cache: Path) -> Path:
    """The folder for what the source holds now, and for this version of the format."""
    digest = hashlib.sha256(f"evitlab {VERSION} {source.kind}".encode())
    for place in source.places:
        digest.update((_digest_folder(place) if place.is_dir() else _digest_archive(place, cache)).encode())
    return cache / "images" / digest.hexdigest()[:32]


def read_index(source: Source, entry: Path) -> Index:
    """Classes and labels of a data set; it is listed if that was not done before, but nothing is decoded."""
    path = entry / "index.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        content = json.loads(path.read_bytes())
        return Index(**{each: tuple(content[each]) for each in ("classes", "train", "val")})
    listing = source.list_images()
    index = Index(classes=listing.classes, train=tuple(listing.train.values()), val=tuple(listing.val.values()))
    with _lock(entry), _replace(path) as temporary:
        temporary.write_text(json.dumps(vars(index)))
    return index


def open_pixels(
    source: Source,
    entry: Path,
    *,
    image_size: int,
    asked: tuple[int, int],
    whole: tuple[int, int],
    on_progress: Callable[[float], None] | None = None,
) -> Pixels:
    """The first images of each split, as many as asked for training and for judging; `whole` says how many there are.

    A file of all of them serves every request. Without one, those asked for are decoded, unless they were before.
    `on_progress` is told the share done.
    """
    for counts in (whole, asked):
        pixels = _map(entry, image_size, counts)
        if pixels is not None:
            return Pixels(train=pixels[: asked[0]], val=pixels[counts[0] : counts[0] + asked[1]])
    with _lock(entry):
        pixels = _map(entry, image_size, asked)
        if pixels is None:  # else another process made it while this one waited
            _check_space(entry, sum(asked), image_size)
            with _replace(_name_file(entry, image_size, asked)) as temporary:
                _decode_into(temporary, source, image_size, asked, on_progress)
            pixels = _map(entry, image_size, asked)
    assert pixels is not None
    return Pixels(train=pixels[: asked[0]], val=pixels[asked[0] :])


def _decode_into(
    path: Path, source: Source, image_size: int, asked: tuple[int, int], on_progress: Callable[[float], None] | None
) -> None:
    listing = source.list_images()
    names = [*islice(listing.train, asked[0]), *islice(listing.val, asked[1])]
    places = {name: place for place, name in enumerate(names)}
    shape = (len(names), 3, image_size, image_size)
    pixels = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)

    def write(name: str, image: np.ndarray) -> None:
        pixels[places[name]] = image

    done = 0
    for done in decode_all(source.read_images(places.keys()), image_size=image_size, write=write):
        if on_progress is not None:
            on_progress(done / len(names))
    if done != len(names):
        where = ", ".join(str(place) for place in source.places)
        raise UserError(f"{where}: must not change while it is read, but {len(names) - done} images are gone")
    pixels.flush()


def _map(entry: Path, image_size: int, counts: tuple[int, int]) -> np.ndarray | None:
    """A file of pixels, or None where there is none that is whole."""
    how: dict[str, int] = {"access": mmap.ACCESS_COPY}
    if sys.platform == "linux":
        how = {"flags": mmap.MAP_PRIVATE | NO_RESERVE, "prot": mmap.PROT_READ | mmap.PROT_WRITE}
    path = _name_file(entry, image_size, counts)
    with suppress(FileNotFoundError, ValueError, EOFError, TypeError), open(path, "rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        if shape == (sum(counts), 3, image_size, image_size) and dtype == np.uint8:
            mapped = mmap.mmap(file.fileno(), 0, **how)
            return np.ndarray(shape, dtype, buffer=mapped, offset=file.tell())
    return None


def _name_file(entry: Path, image_size: int, counts: tuple[int, int]) -> Path:
    return entry / f"pixels-{image_size}-{counts[0]}-{counts[1]}.npy"


def _check_space(entry: Path, num_images: int, image_size: int) -> None:
    """Writing to a mapped file on a full disk kills the process."""
    needed, free = num_images * 3 * image_size**2, shutil.disk_usage(entry).free
    if needed > free:
        raise UserError(
            f"{entry}: must have room for {num_images} images of {image_size} pixels, {needed / 1e9:.1f} GB, but "
            f"{free / 1e9:.1f} GB are free; set EVITLAB_CACHE to another folder"
        )


def _digest_folder(folder: Path) -> str:
    """Of names, sizes and times of all files; the time of change (ctime) sees what a reset mtime hides."""
    digest = hashlib.sha256(str(folder.resolve()).encode())
    for name, state in scan_folder(folder):
        digest.update(f"\0{name}\0{_show_state(state)}".encode() if not name.endswith("/") else f"\0{name}".encode())
    return digest.hexdigest()


def _digest_archive(path: Path, cache: Path) -> str:
    """Of all its bytes; known from before for an archive of the same path, size and times."""
    try:
        known = hashlib.sha256(f"{path.resolve()}\0{_show_state(path.stat())}".encode()).hexdigest()
        memo = cache / "archives" / f"{known}.txt"
        with suppress(OSError):
            return memo.read_text()
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    with _replace(memo) as temporary:
        temporary.write_text(digest)
    return digest


def _show_state(state: os.stat_result) -> str:
    return f"{state.st_size} {state.st_mtime_ns} {state.st_ctime_ns}"


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Wait until no other process writes there. What a killed one left half done is removed."""
    with _write_errors_name(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock")
        lock.acquire()
    try:
        for left in folder.glob(".*.tmp"):
            left.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


@contextmanager
def _replace(path: Path) -> Iterator[Path]:
    """A name to write to; the file gets its own in one step if all went well, and is removed if not."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        with _write_errors_name(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        with suppress(OSError):  # gone after a successful replace
            temporary.unlink()


@contextmanager
def _write_errors_name(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{error.filename or path}: cannot be written: {error.strerror or error}; "
            "set EVITLAB_CACHE to a folder that can"
        ) from error
