"""Small data sets in the formats of real ones: ImageFolder trees, Tiny-ImageNet's layout, archives, CIFAR's pickles."""

import io
import pickle
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torchvision.datasets import CIFAR10

Files = dict[str, bytes]
"""Content by name; a name that ends with `/` is a folder."""


def draw(seed: int, *, width: int = 8, height: int = 8, kind: str = "png") -> bytes:
    """An image file of noise. PNG keeps its pixels, JPEG does not."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def make_tree(*, classes: tuple[str, ...] = ("cat", "dog"), train: int = 4, val: int = 2, **how: Any) -> Files:
    """An ImageFolder tree; all images differ."""
    names = [f"train/{each}/{each}_{i}.png" for each in classes for i in range(train)]
    names += [f"val/{each}/{each}_{100 + i}.png" for each in classes for i in range(val)]
    return {name: draw(seed, **how) for seed, name in enumerate(names)}


def as_tiny_imagenet(tree: Files) -> Files:
    """The same images in Tiny-ImageNet's original layout, with what else lies there."""
    files: Files = {"wnids.txt": b"", "test/images/test_0.JPEG": b"", "words.txt": b""}
    lines = []
    for name, content in tree.items():
        split, label, image = name.split("/")
        files[f"train/{label}/images/{image}" if split == "train" else f"val/images/{image}"] = content
        files[f"train/{label}/{label}_boxes.txt"] = b"boxes"
        lines += [f"{image}\t{label}\t0\t0\t7\t7\n"] if split == "val" else []
        files["words.txt"] += f"{label}\tthe {label}, an animal\n".encode() if split == "val" else b""
    return files | {"val/val_annotations.txt": "".join(lines).encode()}


def write_folder(folder: Path, files: Mapping[str, bytes]) -> Path:
    """The files in a folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(parents=True, exist_ok=True) if name.endswith("/") else path.write_bytes(content)
    return folder


def write_archive(path: Path, files: Mapping[str, bytes]) -> Path:
    """The files in an archive of the kind that its suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name.rstrip("/"))
            member.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


class Python2Pickler(pickle._Pickler):
    """Writes strings and arrays as Python 2 and its numpy wrote the official files."""

    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012 (the parent's own)

    def save_text(self, text: str | bytes) -> None:
        data = text.encode("latin1") if isinstance(text, str) else text
        self.write(pickle.BINSTRING + len(data).to_bytes(4, "little") + data)
        self.memoize(text)

    dispatch[str] = dispatch[bytes] = save_text

    def save_global(self, obj: Any, name: str | None = None) -> None:
        module = obj.__module__.replace("numpy._core", "numpy.core")
        self.write(pickle.GLOBAL + f"{module}\n{obj.__name__}\n".encode())
        self.memoize(obj)

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, np.dtype):
            return np.dtype, ("u1", 0, 1), (3, "|", None, None, None, -1, -1, 0)
        return NotImplemented


def pickle_like_python2(content: Any) -> bytes:
    """A pickle of protocol 2."""
    file = io.BytesIO()
    Python2Pickler(file, 2).dump(content)
    return file.getvalue()


def make_cifar(kind: type[CIFAR10], *, classes: int = 3, per_file: int = 12) -> Files:
    """Few images and classes in files like the official ones of `kind`."""
    label_key = "fine_labels" if kind.base_folder == "cifar-100-python" else "labels"
    files: Files = {}
    for seed, (name, _) in enumerate([*kind.train_list, *kind.test_list]):
        data = np.random.default_rng(seed).integers(0, 256, (per_file, 3072), dtype=np.uint8)
        labels = [(i + seed) % classes for i in range(per_file)]
        content = {"data": data, label_key: labels, "batch_label": name, "filenames": [f"{i}.png" for i in labels]}
        files[f"{kind.base_folder}/{name}"] = pickle_like_python2(content)
    names = {kind.meta["key"]: [f"kind {i}" for i in range(classes)]}
    return files | {f"{kind.base_folder}/{kind.meta['filename']}": pickle_like_python2(names)}
