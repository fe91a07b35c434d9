"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009): the "python version", whose files are pickles, read without running them.

A pickle can call whatever Python can import. The reader here knows two functions, which make an array and its type,
and refuses every other name.
"""

import hashlib
import io
import os
import pickle
import shutil
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from torchvision.datasets import CIFAR10, CIFAR100

from evitlab.problems import UserError
from evitlab.train.archives import list_names, read_files

KINDS: dict[str, type[CIFAR10]] = {"cifar10": CIFAR10, "cifar100": CIFAR100}
"""torchvision's descriptions: names of the files, address, checksum."""


@dataclass(frozen=True, kw_only=True)
class CifarSplit:
    """Labelled images in the order of the files."""

    pixels: UInt8[np.ndarray, "N 3 32 32"]
    labels: tuple[int, ...]


def find_cifar(name: str, root: Path) -> Path | None:
    """The folder or the archive below `root`, or `root` itself, that holds this CIFAR; None if it is not there."""
    kind = KINDS[name]
    for path in (root / kind.base_folder, root / kind.filename, root):
        if (path / kind.meta["filename"]).is_file() or (path.is_file() and path.name == kind.filename):
            return path
    return None


def download_cifar(name: str, root: Path) -> Path:
    """Fetch the official archive into a folder; it has its name there once its checksum is right. Raises OSError."""
    kind = KINDS[name]
    root.mkdir(parents=True, exist_ok=True)
    path = root / kind.filename
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with urllib.request.urlopen(kind.url, timeout=20) as answer, open(part, "wb") as file:
            shutil.copyfileobj(answer, file, 1 << 20)
        with open(part, "rb") as file:
            found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if found != kind.tgz_md5:
            raise OSError(f"its md5 must be {kind.tgz_md5}, but got {found}")
        os.replace(part, path)
    finally:
        with suppress(OSError):  # gone after a successful replace
            part.unlink()
    return path


def read_cifar(name: str, path: Path) -> tuple[tuple[str, ...], CifarSplit, CifarSplit]:
    """Names of the classes, training and test images, from the folder or the archive.

    Raises UserError, with the file, where one is missing, is damaged, or holds anything but arrays and plain data.
    """
    kind = KINDS[name]
    contents = _read_contents(kind, path)
    meta, where = contents[kind.meta["filename"]], f"{path}: {kind.meta['filename']}"
    classes = _check(where, kind.meta["key"], meta, lambda names: all(isinstance(each, str) for each in names))
    train, val = (
        [_as_split(contents[file], len(classes), where=f"{path}: {file}") for file, _ in files]
        for files in (kind.train_list, kind.test_list)
    )
    return tuple(classes), _join(train), _join(val)


def _read_contents(kind: type[CIFAR10], path: Path) -> dict[str, Any]:
    """What each file of the data set holds, by the file's own name."""
    files = [kind.meta["filename"], *(file for file, _ in [*kind.train_list, *kind.test_list])]
    names = {name.rpartition("/")[2]: name for name in list_names(path)}
    for file in files:
        if file not in names:
            raise UserError(f"{path}: must hold {', '.join(files)}, but {file} is missing")
    wanted = {names[file] for file in files}
    return {
        name.rpartition("/")[2]: _unpickle(content if isinstance(content, bytes) else content.read_bytes(), path, name)
        for name, content in read_files(path, wanted)
    }


def _as_split(content: Any, num_classes: int, *, where: str) -> CifarSplit:
    key = "labels" if isinstance(content, dict) and "labels" in content else "fine_labels"
    labels = _check(where, key, content, lambda each: all(type(i) is int and 0 <= i < num_classes for i in each))
    shape = (len(labels), 3 * 32 * 32)
    pixels = _check(where, "data", content, lambda each: each.dtype == np.uint8 and each.shape == shape)
    return CifarSplit(pixels=pixels.reshape(-1, 3, 32, 32), labels=tuple(labels))


def _check(where: str, key: str, content: Any, is_right: Callable[[Any], bool]) -> Any:
    with suppress(KeyError, TypeError, AttributeError):
        if is_right(content[key]):
            return content[key]
    raise UserError(f"{where}: must be CIFAR's {key!r} as the python version has it")


def _join(splits: list[CifarSplit]) -> CifarSplit:
    labels = tuple(label for split in splits for label in split.labels)
    return CifarSplit(pixels=np.concatenate([split.pixels for split in splits]), labels=labels)


class _Unpickler(pickle.Unpickler):
    """Plain data and numpy's arrays."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")):
            return _make_array
        if (module, name) == ("numpy", "dtype"):
            return _make_type
        if (module, name) == ("numpy", "ndarray"):
            return None  # only an argument of _reconstruct
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which CIFAR does not need")


def _make_array(kind: None, shape: tuple[int, ...], code: str | bytes) -> np.ndarray:
    """An empty array, which its state then fills."""
    return np.empty(0, np.uint8)


def _make_type(code: str, align: int, copy: int) -> np.dtype:
    """Bytes alone; the official files give 0 and 1 where numpy now wants booleans."""
    if code != "u1":
        raise pickle.UnpicklingError(f"it asks for an array of {code!r}, which CIFAR does not need")
    return np.dtype(code, align=bool(align), copy=bool(copy))


def _unpickle(content: bytes, path: Path, name: str) -> Any:
    try:
        return _Unpickler(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:  # a broken pickle can fail anywhere
        raise UserError(f"{path}: {name}: must be a pickle of arrays and plain data: {error}") from error
