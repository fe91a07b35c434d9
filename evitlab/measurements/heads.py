"""How alike the heads of each attention layer are, and what removing one costs."""

from dataclasses import dataclass

from pydantic import with_config

from evitlab.measurements.terms import STRICT


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Alikeness:
    """Similarity of the heads of one layer, in one of its quantities.

    Of each image, what a head gives at all positions is one vector, and two heads are compared by the cosine of their
    vectors. Deviations are standard deviations over images. A head that is zero on an image has no cosine there.
    """

    author: float | None
    """The largest cosine of any two heads: each image's, then the mean over images (microsoft/Cream#178, where the
    mean is over batches). None where no image has two heads that are not zero, as for a single head."""
    author_deviation: float | None
    """None for fewer than two images, here and below."""
    caption: float | None
    """Each head's largest cosine with another, the mean over heads, then over images (caption of the paper's
    Fig. 4)."""
    caption_deviation: float | None
    mean_pair: float | None
    """Mean over all pairs of heads, then over images."""
    mean_pair_deviation: float | None
    cka: float | None
    """Linear CKA (Kornblith et al., ICML 2019, eq. 5), mean over the pairs: every position of every image is an
    example. A head that does not vary has none; None where no pair has one."""
    images: int
    """Images in which at least two heads are not zero."""
    silent: tuple[int, ...]
    """Heads, from 0, that are zero on every image."""
    matrix: tuple[tuple[float | None, ...], ...]
    """Heads x heads: the mean over images of the cosine of the heads of row and column; None where it has none. Where
    no head is ever zero, `author` is at least the largest entry beside the diagonal: the mean of the largest is no less
    than the largest mean."""


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class HeadBlock:
    """One block of a network, from the input on."""

    number: int
    """From 1; of timm's networks that of the attention layer."""
    name: str
    """Path of the attention layer, or of a block without one."""
    heads: int
    """0 in a block without attention."""
    positions: int
    """Of an image, where heads are compared: padding of windows is left out, a class token is not."""
    features: Alikeness | None
    """Of what heads give, softmax(QK) V, before the projection; None without attention, here and below."""
    maps: Alikeness | None
    """Of attention weights: of each position, over the keys of its window, padding among them. They are not negative,
    so their cosines are not either, and of heads that look everywhere alike they are near 1."""


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class HeadCost:
    """What the network loses without one head, the others as they are."""

    lost: int
    """Images that are right with it and wrong without."""
    gained: int
    """Images that are wrong with it and right without."""
    loss_cost: float
    """Mean over images of the cross-entropy without it less that with it, in nats; below 0 where it did harm."""
    loss_cost_deviation: float | None
    """Standard deviation over images of that difference; None for fewer than two."""


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class DropOne:
    """Each head removed alone: its output is zero before the projection, and before the next head of a cascade."""

    images: int
    top1: float
    """Of the whole network on these images."""
    loss: float
    costs: tuple[tuple[HeadCost, ...], ...]
    """Block by block, as in `HeadSimilarity.blocks`, head by head; empty for a block without attention."""


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class HeadSimilarity:
    """Heads of a network on held-out images, beside those of the same network untrained."""

    data: str
    images: int
    image_size: tuple[int, int]
    blocks: tuple[HeadBlock, ...]
    control: tuple[HeadBlock, ...] | None
    """The same network with weights that nothing has trained, on the same images; None where none can be made."""
    drop_one: DropOne | None
    """Of the network itself; None where it was not asked for."""
