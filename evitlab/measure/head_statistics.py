"""Similarity of the heads of one layer, from running sums: memory does not grow with the number of images."""

from math import sqrt

import torch
from jaxtyping import Float
from torch import Tensor

from evitlab.measurements.heads import Alikeness
from evitlab.problems import UserError

VARIES = 1e-12
"""Share of a head's power that must be around its mean for it to have a CKA: less is what float32 rounds away."""


class HeadStatistics:
    """Sums over images of one layer's heads, all in float64.

    Every statistic is of one image before it is averaged, so that batches do not matter. The sums are three numbers
    and their squares, heads x heads twice, and for CKA the products of all channels of all heads, (heads d)^2.
    """

    def __init__(self, heads: int, channels: int, *, device: torch.device | str = "cpu"):
        sums = {"dtype": torch.float64, "device": device}
        self.heads = heads
        self.images = torch.zeros((), **sums)  # type: ignore[call-overload]
        self.totals = torch.zeros(3, **sums)  # type: ignore[call-overload]
        self.squares = torch.zeros(3, **sums)  # type: ignore[call-overload]
        self.cosines = torch.zeros(heads, heads, **sums)  # type: ignore[call-overload]
        self.counts = torch.zeros(heads, heads, **sums)  # type: ignore[call-overload]
        self.rows = 0
        self.means = torch.zeros(heads * channels, **sums)  # type: ignore[call-overload]
        self.products = torch.zeros(heads * channels, heads * channels, **sums)  # type: ignore[call-overload]

    def add(self, outputs: Float[Tensor, "B heads N d"]) -> None:
        """Take in some images: what each head gives at each position. Raises UserError unless all is finite."""
        if not outputs.isfinite().all():
            raise UserError("heads must give finite numbers, but some are not: the model diverged")
        x = outputs.double()
        cosines = compare(x.flatten(2))
        known = ~cosines.isnan()
        self.cosines += cosines.nan_to_num().sum(0)
        self.counts += known.sum(0)
        found = summarise(cosines)
        there = ~found.isnan().any(1)
        self.images += there.sum()
        self.totals += found[there].sum(0)
        self.squares += found[there].square().sum(0)
        rows = x.transpose(1, 2).flatten(2).flatten(0, 1)
        self.rows += len(rows)
        self.means += rows.sum(0)
        self.products += rows.T @ rows

    def describe(self) -> Alikeness:
        """What all images so far say."""
        images = int(self.images)
        means = [float(total) / images if images else None for total in self.totals]
        deviations = [self._deviate(which) if images > 1 else None for which in range(3)]
        matrix = (self.cosines / self.counts).tolist()
        return Alikeness(
            author=means[0],
            author_deviation=deviations[0],
            caption=means[1],
            caption_deviation=deviations[1],
            mean_pair=means[2],
            mean_pair_deviation=deviations[2],
            cka=self._align(),
            images=images,
            silent=tuple(head for head in range(self.heads) if not self.counts[head, head]),
            matrix=tuple(tuple(None if value != value else value for value in row) for row in matrix),
        )

    def _deviate(self, which: int) -> float:
        images, total = float(self.images), float(self.totals[which])
        spread = float(self.squares[which]) - total * total / images
        return sqrt(max(0.0, spread) / (images - 1))

    def _align(self) -> float | None:
        """Mean over pairs of |Xi' Xj|^2 / (|Xi' Xi| |Xj' Xj|), columns centred, norms Frobenius's."""
        if not self.rows:
            return None
        centred = self.products - torch.outer(self.means, self.means) / self.rows
        blocks = centred.unflatten(1, (self.heads, -1)).unflatten(0, (self.heads, -1))  # (heads, d, heads, d)
        power = self.products.diagonal().unflatten(0, (self.heads, -1)).sum(1)
        around = centred.diagonal().unflatten(0, (self.heads, -1)).sum(1)
        varies = around > VARIES * power
        shared = blocks.square().sum((1, 3))
        own = shared.diagonal().sqrt()
        pairs = (varies[:, None] & varies).triu(1)
        aligned = (shared / torch.outer(own, own))[pairs]
        return float(aligned.mean()) if len(aligned) else None


def compare(vectors: Float[Tensor, "B heads D"]) -> Float[Tensor, "B heads heads"]:
    """Cosine of every two heads of an image; NaN where one of them is zero."""
    products = vectors @ vectors.mT
    lengths = products.diagonal(dim1=1, dim2=2).sqrt()
    cosines = products / (lengths[:, :, None] * lengths[:, None, :])
    return cosines.clamp(-1, 1)  # which keeps NaN


def summarise(cosines: Float[Tensor, "B heads heads"]) -> Float[Tensor, "B 3"]:
    """Author's, caption's and the mean over pairs, image by image; NaN in all three where no pair has a cosine."""
    heads = cosines.shape[1]
    beside = ~torch.eye(heads, dtype=torch.bool, device=cosines.device)
    pairs = ~cosines.isnan() & beside
    largest = cosines.masked_fill(~pairs, -torch.inf).amax(2)
    compared = pairs.any(2)
    author = largest.amax(1)
    caption = largest.where(compared, 0).sum(1) / compared.sum(1)
    mean_pair = cosines.where(pairs, 0).sum((1, 2)) / pairs.sum((1, 2))
    found = torch.stack([author, caption, mean_pair], dim=1)
    return found.where(pairs.any(2).any(1)[:, None], torch.nan)
