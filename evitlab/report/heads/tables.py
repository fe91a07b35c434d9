"""Heads as tables: likeness block by block, heads x heads, what each is worth; head splits against plain heads."""

from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import mean
from typing import Any

import pandas as pd
from rich.markup import escape
from rich.table import Table

from evitlab.measurements.heads import Alikeness, DropOne, HeadBlock, HeadSimilarity
from evitlab.paper import HEAD_SIMILARITY
from evitlab.report.student import half_width
from evitlab.report.tables import percent

QUANTITIES = {"features": "head features", "maps": "attention maps"}
DEFINITIONS = {"author": "author's", "caption": "caption's", "mean_pair": "mean pair", "cka": "linear CKA"}
"""Field of `Alikeness` -> its name; the first three are cosines."""
Z95 = 1.959964
"""97.5% quantile of the normal distribution."""


def list_networks(result: HeadSimilarity) -> Mapping[str, Sequence[HeadBlock]]:
    """Blocks of the network and, where there is one, of the untrained control."""
    return {"itself": result.blocks} | ({"untrained": result.control} if result.control is not None else {})


def block_table(result: HeadSimilarity) -> pd.DataFrame:
    """A row a block, quantity and network: every similarity, deviations over images, and of how many images."""
    rows = []
    for network, blocks in list_networks(result).items():
        for block in blocks:
            place = {"network": network, "block": block.number, "name": block.name, "heads": block.heads}
            for quantity in QUANTITIES:
                found: Alikeness | None = getattr(block, quantity)
                fields = {name: getattr(found, name, None) for name in _FIELDS}
                silent = None if found is None else " ".join(map(str, found.silent))
                rows.append({**place, "positions": block.positions, "quantity": quantity, **fields, "silent": silent})
    return pd.DataFrame(rows).astype(dict.fromkeys(_FIELDS, "float64") | {"images": "Int64"})


_FIELDS = (
    "author", "author_deviation", "caption", "caption_deviation", "mean_pair", "mean_pair_deviation", "cka", "images",
)  # fmt: skip


def matrix_table(result: HeadSimilarity) -> pd.DataFrame:
    """A row a pair of heads, both ways round and with itself: the mean cosine over images."""
    rows = [
        (network, block.number, block.name, quantity, head, other, cosine)
        for network, blocks in list_networks(result).items()
        for block in blocks
        for quantity in QUANTITIES
        if (found := getattr(block, quantity)) is not None
        for head, row in enumerate(found.matrix)
        for other, cosine in enumerate(row)
    ]
    columns = ["network", "block", "name", "quantity", "head", "other", "cosine"]
    return pd.DataFrame(rows, columns=columns).astype({"cosine": "float64"})


def drop_table(result: HeadSimilarity) -> pd.DataFrame:
    """A row a head: top-1 and cross-entropy lost without it, with 95% intervals over images; empty if not dropped.

    The interval of top-1 is Bonett and Price's for paired proportions (2012): one image more is lost and one gained,
    so that a head that changes nothing has an interval too. That of the loss is normal.
    """
    columns = [
        "block", "name", "head", "top1_cost", "top1_cost_low", "top1_cost_high", "loss_cost", "loss_cost_low",
        "loss_cost_high", "lost", "gained", "images",
    ]  # fmt: skip
    drop = result.drop_one
    rows = []
    if drop is not None:
        for block, costs in zip(result.blocks, drop.costs, strict=True):
            for head, cost in enumerate(costs):
                low, high = paired_interval(cost.lost, cost.gained, drop.images)
                half = Z95 * (cost.loss_cost_deviation or 0.0) / sqrt(drop.images)
                loss = (cost.loss_cost, cost.loss_cost - half, cost.loss_cost + half)
                top1 = ((cost.lost - cost.gained) / drop.images, low, high)
                rows.append((block.number, block.name, head, *top1, *loss, cost.lost, cost.gained, drop.images))
    return pd.DataFrame(rows, columns=columns)


def paired_interval(lost: int, gained: int, images: int) -> tuple[float, float]:
    """95% interval of (lost - gained) / images (Bonett and Price, 2012)."""
    first, second, count = (lost + 1) / (images + 2), (gained + 1) / (images + 2), images + 2
    half = Z95 * sqrt((first + second - (first - second) ** 2) / count)
    return max(-1.0, first - second - half), min(1.0, first - second + half)


def mean_with_interval(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Mean and its Student t 95% interval; of a single value no interval."""
    if len(values) < 2:
        return mean(values), None, None
    half = half_width(values)
    return mean(values), mean(values) - half, mean(values) + half


def find_paper(config: dict[str, Any]) -> tuple[str, tuple[float, ...]] | None:
    """Name and shares of the paper's line (Fig. 4) for a network of this config; None where it has none.

    The paper drew DeiT-T and Swin-T at 1.25x, plain and with head splits; a network of another width is compared with
    them as well, one of another depth is not.
    """
    kinds = {
        layer["kind"]
        for stage in config.get("stages", ())
        for block in stage["blocks"]
        for layer in block["layers"]
        if layer["type"] == "attention"
    }
    names = {"deit": "deit_t", "swin": "swin_t"}
    splits = {frozenset({"mhsa"}): "", frozenset({"group"}): ", head splits"}.get(frozenset(kinds))
    if config.get("family") not in names or splits is None:
        return None
    name = f"{names[config['family']]} 1.25x{splits}"
    line = tuple(percents / 100 for percents in HEAD_SIMILARITY[name])
    depth = sum(len(stage["blocks"]) for stage in config["stages"])
    return (name, line) if depth == len(line) else None


def render_heads(result: HeadSimilarity, *, title: str) -> list[Table]:
    """For a terminal: a table of each quantity, and one of what heads are worth where they were dropped."""
    shown = [_render_quantity(result, quantity, title=f"{name} of {title}") for quantity, name in QUANTITIES.items()]
    return shown + ([_render_drop(result, title=title)] if result.drop_one is not None else [])


def _render_quantity(result: HeadSimilarity, quantity: str, *, title: str) -> Table:
    shown = Table(title=escape(f"Similarity of {title}, %"), box=None, padding=(0, 1, 0, 0))
    shown.title_justify = shown.caption_justify = "left"
    for name in ("block", "heads", *DEFINITIONS.values()):
        shown.add_column(name, justify="right")
    control: Sequence[HeadBlock | None] = result.control or [None] * len(result.blocks)
    for block, bare in zip(result.blocks, control, strict=True):
        cells = [
            _two(getattr(block, quantity), getattr(bare, quantity, None), name, control=result.control is not None)
            for name in DEFINITIONS
        ]
        shown.add_row(str(block.number), str(block.heads) if block.heads else "no attention", *cells)
    beside = "In brackets: the same network untrained. " if result.control is not None else ""
    shown.caption = escape(
        f"{beside}Author's: the largest cosine of any two heads; caption's: the mean of each head's largest; "
        f"{result.images:,} images of {result.data}, {result.image_size[0]} px."
    )
    return shown


def _two(own: Alikeness | None, bare: Alikeness | None, name: str, *, control: bool) -> str:
    first, second = (None if each is None else getattr(each, name) for each in (own, bare))
    beside = f" ({'-' if second is None else percent(second)})" if control else ""
    return ("-" if first is None else percent(first)) + beside if first is not None or second is not None else "-"


def _render_drop(result: HeadSimilarity, *, title: str) -> Table:
    drop: DropOne | None = result.drop_one
    assert drop is not None
    table = drop_table(result)
    shown = Table(title=escape(f"Top-1 points lost without each head of {title}"), box=None, padding=(0, 1, 0, 0))
    shown.title_justify = shown.caption_justify = "left"
    shown.add_column("block", justify="right")
    shown.add_column("head by head, * where the 95% interval leaves out 0", overflow="fold")
    for number, rows in table.groupby("block"):
        cells = [
            f"{100 * row.top1_cost:+.1f}{'*' if row.top1_cost_low > 0 or row.top1_cost_high < 0 else ''}"
            for row in rows.itertuples()
        ]
        shown.add_row(str(number), "  ".join(cells))
    shown.caption = escape(
        f"The whole network: top-1 {percent(drop.top1)}% of {drop.images:,} images. Intervals are over images, each "
        f"head's by itself: of {len(table)} heads without any worth, {0.05 * len(table):.0f} are expected to be marked."
    )
    return shown
