"""Where a data set's images lie: by its name below a folder, or by a path."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from http.client import HTTPException
from pathlib import Path

import numpy as np

from evitlab.problems import UserError, suggest
from evitlab.train.archives import SUFFIXES, is_archive, list_names, read_files
from evitlab.train.cifar import KINDS, CifarSplit, download_cifar, find_cifar, read_cifar
from evitlab.train.decode import Picture
from evitlab.train.folders import LAYOUT, Listing, list_images, mix_classes

TREES = {"tiny-imagenet": ("tiny-imagenet-200", "tiny-imagenet"), "imagenet": ("imagenet",)}
"""Names of the folders, or of archives without their suffix, that hold a data set."""
WAYS = {
    "tiny-imagenet": "get http://cs231n.stanford.edu/tiny-imagenet-200.zip",
    "imagenet": f"get ILSVRC2012 from https://image-net.org, as {LAYOUT}",
}


@dataclass(frozen=True, kw_only=True)
class Source:
    """Images of a data set that was found; none is read yet."""

    kind: str
    """tree, cifar10 or cifar100: how the places are read."""
    places: tuple[Path, ...]
    """The folders and archives that all of it comes from."""
    list_images: Callable[[], Listing]
    read_images: Callable[[Collection[str]], Iterator[Picture]]
    """Those named, in the order in which they lie there."""


def find_source(data: str | Sequence[str], *, root: Path) -> Source:
    """A data set's files: `cifar10`, `cifar100`, `tiny-imagenet`, `imagenet`, or one path or several.

    A path is a tree of train/ and val/, an archive of one, or a folder of archives; several archives make one tree.
    Relative ones are looked for below `root` first. CIFAR is downloaded to `root` if it is not there. Raises UserError
    for what is not found: what, where it was looked for, how to get it.
    """
    if isinstance(data, str) and data in KINDS:
        return _cifar_source(data, find_cifar(data, root) or _download(data, root))
    if isinstance(data, str) and data in TREES:
        return _tree_source(_find_named_tree(data, root))
    return _tree_source(_find_paths([data] if isinstance(data, str) else data, root))


def _download(name: str, root: Path) -> Path:
    kind = KINDS[name]
    try:
        return download_cifar(name, root)
    except (OSError, HTTPException) as error:
        raise UserError(
            f"{name}: not found in {root} (looked for {kind.base_folder}/ and {kind.filename}), and not downloaded: "
            f"{error}; get {kind.url} and give its folder with --data-root"
        ) from error


def _find_named_tree(name: str, root: Path) -> tuple[Path, ...]:
    names = TREES[name]
    candidates = [root / each for each in names] + [root / f"{each}{suffix}" for each in names for suffix in SUFFIXES]
    for path in candidates:
        if path.is_dir() or is_archive(path):
            return _spread(path)
    if root.is_dir() and (_is_tree(root) or _find_archives(root)):
        return _spread(root)
    raise UserError(
        f"{name}: not found in {root} (looked for train/ and val/, {' and '.join(f'{each}/' for each in names)}, and "
        f"archives: {', '.join(SUFFIXES)}); {WAYS[name]} and give its folder with --data-root"
    )


def _find_paths(paths: Sequence[str], root: Path) -> tuple[Path, ...]:
    found: list[Path] = []
    for each in paths:
        tried = [root / Path(each).expanduser(), Path(each).expanduser()]
        there = next((path for path in tried if path.exists()), None)
        if there is None:
            allowed = ["shapes", *KINDS, *TREES]
            looked = " or ".join(dict.fromkeys(str(path) for path in tried))
            raise UserError(
                f"data must be one of {', '.join(allowed)}, or the path of a folder or an archive with {LAYOUT}, "
                f"but got {each!r}{suggest(each, allowed)}: no {looked}"
            )
        if not there.is_dir() and not is_archive(there):
            raise UserError(f"{there}: must be a folder or an archive ({', '.join(SUFFIXES)})")
        found += _spread(there)
    return tuple(found)


def _spread(path: Path) -> tuple[Path, ...]:
    """The archives of a folder that holds some and is no tree itself; else what it is."""
    return (path,) if not path.is_dir() or _is_tree(path) else tuple(_find_archives(path)) or (path,)


def _is_tree(folder: Path) -> bool:
    return (folder / "train").is_dir() or (folder / "val").is_dir()


def _find_archives(folder: Path) -> list[Path]:
    try:
        others = {kind.filename for kind in KINDS.values()}
        return sorted(path for path in folder.iterdir() if is_archive(path) and path.name not in others)
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}") from error


def _tree_source(places: tuple[Path, ...]) -> Source:
    list_once = cache(partial(_list_tree, places))
    return Source(kind="tree", places=places, list_images=list_once, read_images=partial(_read_tree, places))


def _list_tree(places: tuple[Path, ...]) -> Listing:
    homes: dict[str, Path] = {}
    for place in places:
        for name in list_names(place):
            if name in homes and not name.endswith("/"):
                raise UserError(f"{place}: {name}: must be there once, but {homes[name]} holds it too")
            homes[name] = place
    where = ", ".join(str(place) for place in places)
    return list_images(homes, lambda name: _read_text(homes[name], name), where=where)


def _read_text(place: Path, name: str) -> str:
    [(_, content)] = read_files(place, {name})
    try:
        return (content if isinstance(content, bytes) else content.read_bytes()).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{place}: {name}: must be text: {error}") from error


def _read_tree(places: tuple[Path, ...], wanted: Collection[str]) -> Iterator[Picture]:
    for place in places:
        for name, content in read_files(place, wanted):
            yield Picture(key=name, content=content, shown=f"{place}: {name}")


def _cifar_source(name: str, path: Path) -> Source:
    read = cache(partial(read_cifar, name, path))

    def list_splits() -> Listing:
        classes, train, val = read()
        return Listing(classes=classes, train=_list_split("train", train), val=_list_split("test", val))

    def read_images(wanted: Collection[str]) -> Iterator[Picture]:
        for split, images in zip(("train", "test"), read()[1:], strict=True):
            for i, pixels in enumerate(images.pixels):
                key = f"{split}/{i}"
                if key in wanted:
                    yield Picture(key=key, content=np.ascontiguousarray(pixels.transpose(1, 2, 0)), shown=key)

    return Source(kind=name, places=(path,), list_images=cache(list_splits), read_images=read_images)


def _list_split(split: str, images: CifarSplit) -> dict[str, int]:
    by_class: dict[str, list[str]] = {}
    for i, label in enumerate(images.labels):
        by_class.setdefault(str(label), []).append(f"{split}/{i}")
    return {name: int(label) for label, name in mix_classes(by_class)}
