"""What an evaluation is drawn from, on disk beside the records: reports draw it without torch and without weights."""

import zipfile
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evitlab.curves import Curves
from evitlab.store import StoreError, folder_name, write_atomically

EVALUATIONS = "evaluations"
"""Folder in a study's results: a folder a variant, with figures, tables, and in `seed<N>` what they are drawn from."""

DAMAGE = (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)
"""What numpy raises for files that are not whole."""

CURVES = ("confusion", "true_positive_rates", "bin_counts", "bin_confidences", "bin_accuracies")


@dataclass(frozen=True, kw_only=True)
class Drawings:
    """Curves over all held-out images, and attention over some of them."""

    curves: Curves
    images: tuple[NDArray[np.uint8], ...]
    """Height x width x 3, of those over which attention is drawn."""
    maps: tuple[NDArray[np.float32], ...]
    """Heads x height x width each."""
    titles: tuple[str, ...]
    without_maps: str
    """Why there are none; empty where there are, or none were asked for."""


def place_drawings(folder: Path, variant: str, seed: int) -> Path:
    """The file for the drawings of one evaluation in a study's results."""
    return folder / EVALUATIONS / folder_name(variant) / f"seed{seed}" / "curves.npz"


def write_drawings(drawings: Drawings, path: Path, *, key: str) -> None:
    """Write them in one step; `key` is that of the record that they belong to."""
    curves = drawings.curves
    arrays: dict[str, Any] = {name: getattr(curves, name) for name in CURVES}
    arrays |= {"key": np.array(key), "classes": np.array(curves.classes), "titles": np.array(drawings.titles, str)}
    arrays |= {"images": np.array(drawings.images), "maps": np.array(drawings.maps)}
    buffer = BytesIO()
    np.savez_compressed(buffer, without_maps=np.array(drawings.without_maps), **arrays)
    write_atomically(path, buffer.getvalue())


def read_drawings(path: Path, *, key: str) -> Drawings | None:
    """The drawings of the record with this key; None if they are not here, or those of another record.

    Raises StoreError for a file that cannot be read.
    """
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            if str(file["key"]) != key:
                return None
            found = {name: file[name] for name in file.files}
        curves = Curves(classes=tuple(map(str, found["classes"])), **{name: found[name] for name in CURVES})
        return Drawings(
            curves=curves,
            images=tuple(found["images"]),
            maps=tuple(found["maps"]),
            titles=tuple(map(str, found["titles"])),
            without_maps=str(found["without_maps"]),
        )
    except FileNotFoundError:
        return None
    except DAMAGE as error:
        raise StoreError(f"{path}: must hold the curves of an evaluation ({error}); delete it to do without") from None
