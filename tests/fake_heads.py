"""Made-up heads, without torch. For tests of reports."""

from evitlab.measurements.heads import Alikeness, DropOne, HeadBlock, HeadCost, HeadSimilarity


def make_likeness(author: float | None, *, heads: int = 2) -> Alikeness:
    """Every pair of heads is so alike; None: nothing can be compared."""
    matrix = tuple(tuple(1.0 if i == j else author for j in range(heads)) for i in range(heads))
    spread = None if author is None else 0.02
    return Alikeness(
        author=author,
        author_deviation=spread,
        caption=None if author is None else author - 0.1,
        caption_deviation=spread,
        mean_pair=None if author is None else author - 0.2,
        mean_pair_deviation=spread,
        cka=None if author is None else author / 2,
        images=0 if author is None else 100,
        silent=(),
        matrix=matrix,
    )


def make_blocks(values: list[float | None], *, heads: int = 2) -> tuple[HeadBlock, ...]:
    """A block a value, of head features; maps are 0.05 above. None: a block without attention."""
    return tuple(
        HeadBlock(
            number=number,
            name=f"stages.0.blocks.{number - 1}.0.branch",
            heads=0 if value is None else heads,
            positions=0 if value is None else 17,
            features=None if value is None else make_likeness(value, heads=heads),
            maps=None if value is None else make_likeness(value + 0.05, heads=heads),
        )
        for number, value in enumerate(values, start=1)
    )


def make_heads(
    values: list[float | None], *, untrained: list[float | None] | None = None, drop: bool = False, heads: int = 2
) -> HeadSimilarity:
    """Heads of a network with those similarities; dropped, head h of block b loses 10 b + h of 200 images."""
    blocks = make_blocks(values, heads=heads)
    costs = tuple(
        tuple(
            HeadCost(lost=10 * block.number + head, gained=1, loss_cost=0.1 * head, loss_cost_deviation=0.5)
            for head in range(block.heads)
        )
        for block in blocks
    )
    return HeadSimilarity(
        data="scenes",
        images=100,
        image_size=(32, 32),
        blocks=blocks,
        control=None if untrained is None else make_blocks(untrained, heads=heads),
        drop_one=DropOne(images=200, top1=0.6, loss=1.2, costs=costs) if drop else None,
    )
