"""Words for the conditions under which networks ran."""

from collections.abc import Callable, Iterable
from typing import Any

WORDS: dict[str, Callable[[Any], str]] = {
    "batch_size": lambda size: f"batch {size}",
    "image_size": lambda size: f"{size[0]}x{size[1]} pixels",
    "precision": str,
    "memory_format": str,
    "folded": lambda folded: "BatchNorm folded" if folded else "BatchNorm not folded",
    "mode": str,
    "linear_library": lambda library: f"linear layers by {library}",
    "attention_path": lambda path: f"attention {path}",
}
"""Fields that say how a network ran, in the measurements that have them."""


def describe_shared(measurements: Iterable[Any]) -> str:
    """The conditions that some measurements, profiles or batch curves, have in common; no word of the others."""
    every = list(measurements)
    values = {name: {getattr(each, name, None) for each in every} for name in WORDS}
    return "; ".join(WORDS[name](*found) for name, found in values.items() if len(found) == 1 and found != {None})
