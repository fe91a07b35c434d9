"""The order of attention and FFN layers: sandwich blocks, and what `mhsa_ratio` does to them."""

from collections.abc import Sequence
from itertools import pairwise


def share_attention(mhsa_ratio: float, layers: Sequence[int]) -> list[int]:
    """How many of each stage's layers are attention: round(r L) in all, shared by largest remainder.

    `layers` holds L stage by stage. Ties go to the earlier stage.

    >>> share_attention(0.2, [4, 4, 12, 4])
    [1, 1, 2, 1]
    """
    total, wanted = sum(layers), round(mhsa_ratio * sum(layers))
    counts = [wanted * length // total for length in layers]
    remainders = [wanted * length % total for length in layers]
    largest_first = sorted(range(len(layers)), key=lambda stage: -remainders[stage])
    for stage in largest_first[: wanted - sum(counts)]:
        counts[stage] += 1
    return counts


def spread_attention(attention: int, layers: int) -> list[bool]:
    """Which of a stage's layers are attention, spread evenly: each sits in the middle of one of equal parts.

    Where at most half of the layers are attention none are neighbours, and where fewer are, FFNs surround all of them.

    >>> spread_attention(1, 3)
    [False, True, False]
    >>> spread_attention(2, 4)
    [True, False, True, False]
    """
    # ceil((i + 1/2) L / n) - 1, in integers
    places = {-(-(2 * i + 1) * layers // (2 * attention)) - 1 for i in range(attention)}
    return [place in places for place in range(layers)]


def split_blocks(is_attention: Sequence[bool], depth: int) -> list[list[bool]]:
    """Cut a stage's layers into blocks of one attention each; the FFNs between two are halved.

    A stage without attention has its FFNs in `depth` blocks of equal size.

    >>> split_blocks([False, True, False, False, True, False], depth=2)
    [[False, True, False], [False, True, False]]
    """
    places = [place for place, attention in enumerate(is_attention) if attention]
    cuts = [first + 1 + (second - first) // 2 for first, second in pairwise(places)]
    if not places:
        cuts = [len(is_attention) * block // depth for block in range(1, depth)]
    edges = [0, *cuts, len(is_attention)]
    return [list(is_attention[start:stop]) for start, stop in pairwise(edges)]
