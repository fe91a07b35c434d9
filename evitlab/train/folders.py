"""Which file is an image of which class: ImageFolder trees, and Tiny-ImageNet's original layout."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from evitlab.problems import UserError, shorten

IMAGES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Suffixes of images, as torchvision's ImageFolder takes them."""
ANNOTATIONS = "val/val_annotations.txt"
SPLITS = ("train", "val")
LAYOUT = "train/CLASS/IMAGE and val/CLASS/IMAGE"


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Which images a data set has. Any first images of a split hold each class equally often, to one image, for as
    long as each has some left; their order depends on nothing but the names of classes and images."""

    classes: tuple[str, ...]
    train: Mapping[str, int]
    """Name of a file -> index of its class."""
    val: Mapping[str, int]


def list_images(names: Iterable[str], read_text: Callable[[str], str], *, where: str) -> Listing:
    """Sort the names of a tree's files and folders, those of folders ending with `/`, into splits and classes.

    The tree holds `train/` and `val/` at its top or in one folder there; each holds a folder a class, read as
    torchvision's ImageFolder does. Tiny-ImageNet's `val/images/` is read by its `val_annotations.txt`; a
    `words.txt` beside it gives the classes their names. `where` is what errors call the tree. Raises UserError where
    a split is missing, a class is empty, an image belongs to no class, or the splits differ in their classes.
    """
    names = list(names)
    top = _find_top(names, where=where)
    inside = {name.removeprefix(top): name for name in names if name.startswith(top)}
    splits = {split: _find_classes(inside, split, where=where) for split in SPLITS}
    if ANNOTATIONS in inside and set(splits["val"]) == {"images"}:
        splits["val"] = _read_annotations(splits["val"]["images"], read_text(inside[ANNOTATIONS]), where=where)
    elif ANNOTATIONS in inside and not splits["val"].get("images"):
        splits["val"].pop("images", None)  # left empty by who moved the images into folders
    wnids = _check_classes(splits, where=where)
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    train, val = (
        {inside[f"{split}/{name}"]: labels[wnid] for wnid, name in mix_classes(splits[split])} for split in SPLITS
    )
    return Listing(classes=_name_classes(wnids, inside, read_text), train=train, val=val)


def mix_classes(images: Mapping[str, Iterable[str]]) -> list[tuple[str, str]]:
    """Class and name of each image: the first of every class, in an order drawn by hash, then the second, and on."""
    ranked = []
    for label, names in images.items():
        drawn = sorted((_draw(label, name), name) for name in names)
        ranked += [(rank, key, label, name) for rank, (key, name) in enumerate(drawn)]
    return [(label, name) for _, _, label, name in sorted(ranked)]


def _draw(label: str, name: str) -> bytes:
    """By the file's own name alone: the layouts of a data set, and its places on disks, give one order."""
    return hashlib.sha256(f"{label}/{name.rpartition('/')[2]}".encode()).digest()


def _find_top(names: list[str], *, where: str) -> str:
    """`""`, or the one folder that holds train/ and val/."""
    folders = {tuple(name.split("/", 2)[:-1]) for name in names if "/" in name}
    tops = {folder[0] for folder in folders}
    held = {("", top) for top in tops}
    held |= {(f"{folder[0]}/", folder[1]) for folder in folders if len(folder) > 1 and folder[0] not in SPLITS}
    homes = sorted({home for home, folder in held if folder in SPLITS})
    if len(homes) > 1:
        found = ", ".join(home or "./" for home in homes)
        raise UserError(f"{where}: must hold train/ and val/ in one place, but got {found}")
    for home in homes:
        if all((home, split) in held for split in SPLITS):
            return home
    found = ", ".join(sorted(tops)[:4]) or "no folders"
    raise UserError(f"{where}: must hold {LAYOUT}, but got {found}{', ...' if len(tops) > 4 else ''}")


def _find_classes(inside: Iterable[str], split: str, *, where: str) -> dict[str, list[str]]:
    """Names of images below the split by class; a class without images has none."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in inside:
        first, _, rest = name.partition("/")
        label, slash, file = rest.partition("/")
        if first != split or not label:
            continue
        if not slash and label.lower().endswith(IMAGES):
            raise UserError(f"{where}: {name}: must lie in the folder of its class ({LAYOUT})")
        if slash:
            found[label] += [rest] if file.lower().endswith(IMAGES) else []
    return dict(found)


def _read_annotations(names: Iterable[str], text: str, *, where: str) -> dict[str, list[str]]:
    """Tiny-ImageNet's val_annotations.txt: file, class and box in a line, by tabs."""
    lines = [line.split("\t") for line in text.splitlines() if line.strip()]
    for line in lines:
        if len(line) < 2:
            raise UserError(f"{where}: {ANNOTATIONS}: a line must be FILE, tab, CLASS, but got {shorten(line[0])}")
    labels = {line[0]: line[1] for line in lines}
    images = {name.rpartition("/")[2]: name for name in names}
    for name in labels.keys() ^ images.keys():
        fault = "lists no class of" if name in images else "lists an image that is not there:"
        raise UserError(f"{where}: {ANNOTATIONS} {fault} {name}")
    found: dict[str, list[str]] = defaultdict(list)
    for name, label in labels.items():
        found[label].append(images[name])
    return dict(found)


def _check_classes(splits: Mapping[str, Mapping[str, list[str]]], *, where: str) -> list[str]:
    """The classes, sorted as ImageFolder sorts them."""
    for split, classes in splits.items():
        if not classes:
            raise UserError(f"{where}: {split}/ must hold folders of images, but has none")
        for label, names in sorted(classes.items()):
            if not names:
                raise UserError(f"{where}: {split}/{label}: must hold images ({', '.join(IMAGES)}), but has none")
    train, val = (set(splits[split]) for split in SPLITS)
    for label in sorted(train ^ val):
        there, lacking = ("train", "val") if label in train else ("val", "train")
        raise UserError(
            f"{where}: train/ and val/ must hold the same classes, but {there}/{label} is not in {lacking}/"
        )
    return sorted(train)


def _name_classes(wnids: list[str], inside: Mapping[str, str], read_text: Callable[[str], str]) -> tuple[str, ...]:
    """Their first names in words.txt where there is one, whole ones where two classes have the same, else wnids."""
    if "words.txt" not in inside:
        return tuple(wnids)
    rows = [line.split("\t") for line in read_text(inside["words.txt"]).splitlines()]
    words = {row[0]: row[1].strip() for row in rows if len(row) > 1}
    full = [words.get(wnid, wnid) for wnid in wnids]
    first = [each.split(",")[0] for each in full]
    names = [a if first.count(a) == 1 else b for a, b in zip(first, full, strict=True)]
    return tuple(
        name if names.count(name) == 1 else f"{name} ({wnid})" for name, wnid in zip(names, wnids, strict=True)
    )
