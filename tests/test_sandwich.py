"""The order of attention and FFN layers, against exact fractions and the definitions in words."""

from fractions import Fraction
from itertools import pairwise, product

import pytest

from evitlab.models.sandwich import share_attention, split_blocks, spread_attention

RATIOS = [Fraction(n, 40) for n in range(41)] + [Fraction(1, 3), Fraction(2, 3), Fraction(1, 7)]
STAGES = [[24], [4, 4, 12, 4], [3, 6, 9], [3, 9, 12], [1], [2, 1], [5, 5, 5], [1, 1, 40], [7, 11, 13, 17, 19]]


def share_by_largest_remainder(wanted: int, layers: list[int]) -> list[int]:
    """Each seat in turn to the stage whose quota is farthest from its share: largest remainder, one seat at a time."""
    quotas = [Fraction(wanted * length, sum(layers)) for length in layers]
    counts = [quota.numerator // quota.denominator for quota in quotas]
    for _ in range(wanted - sum(counts)):
        missing = [quota - count for quota, count in zip(quotas, counts, strict=True)]
        counts[missing.index(max(missing))] += 1
    return counts


@pytest.mark.parametrize("layers", STAGES, ids=str)
def test_shares_are_the_largest_remainders(layers):
    for ratio in RATIOS:
        wanted = round(float(ratio) * sum(layers))
        counts = share_attention(float(ratio), layers)
        assert counts == share_by_largest_remainder(wanted, layers), ratio
        assert sum(counts) == wanted
        assert all(0 <= count <= length for count, length in zip(counts, layers, strict=True))


def test_no_and_only_attention():
    assert share_attention(0, [4, 4, 12, 4]) == [0, 0, 0, 0]
    assert share_attention(1, [4, 4, 12, 4]) == [4, 4, 12, 4]


def test_by_hand():
    # quotas 5/6, 5/6, 5/2, 5/6: two seats are given, three remainders of 5/6 beat the one of 1/2
    assert share_attention(0.2, [4, 4, 12, 4]) == [1, 1, 2, 1]
    # quotas 1, 2, 2: nothing remains
    assert share_attention(0.5, [2, 4, 4]) == [1, 2, 2]
    # quotas 1/2 and 1/2: the tie goes to the earlier stage
    assert share_attention(0.5, [1, 1]) == [1, 0]


ALL_STAGES = [(count, layers) for layers in range(1, 41) for count in range(layers + 1)]


def test_as_many_as_asked():
    for count, layers in ALL_STAGES:
        order = spread_attention(count, layers)
        assert len(order) == layers
        assert sum(order) == count


def test_spread_evenly():
    for count, layers in ALL_STAGES:
        places = [place for place, attention in enumerate(spread_attention(count, layers)) if attention]
        gaps = {second - first for first, second in pairwise(places)}
        assert not gaps or max(gaps) - min(gaps) <= 1, (count, layers)
        if places:
            before, after = places[0], layers - 1 - places[-1]
            assert abs(before - after) <= 1, (count, layers)


def test_no_neighbours_up_to_half_and_surrounded_below():
    for count, layers in ALL_STAGES:
        order = spread_attention(count, layers)
        if 2 * count <= layers:
            assert not any(first and second for first, second in pairwise(order)), (count, layers)
        if 2 * count < layers:
            assert not order[0], (count, layers)
            assert not order[-1], (count, layers)


@pytest.mark.parametrize(("n", "blocks"), [*product([1, 2, 3, 4], [1, 2, 5])])
def test_a_sandwich_s_own_ratio_gives_its_own_order(n, blocks):
    sandwich = [False] * n + [True] + [False] * n
    assert spread_attention(blocks, blocks * len(sandwich)) == sandwich * blocks


def test_half_gives_attention_then_ffn():
    for depth in range(1, 30):
        assert spread_attention(depth, 2 * depth) == [True, False] * depth


def test_blocks_hold_one_attention_each_and_lose_nothing():
    for (count, layers), depth in product(ALL_STAGES[:300], [1, 2, 6]):
        order = spread_attention(count, layers)
        blocks = split_blocks(order, depth)
        assert [layer for block in blocks for layer in block] == order
        if count:
            assert [sum(block) for block in blocks] == [1] * count
        else:
            assert len(blocks) == depth
            assert max(map(len, blocks)) - min(map(len, blocks)) <= 1


def test_published_blocks():
    assert split_blocks([True, False] * 3, depth=3) == [[True, False]] * 3
    assert split_blocks([False, True, False] * 3, depth=3) == [[False, True, False]] * 3
    # five FFNs between two attentions: the odd one goes to the earlier block
    assert [len(block) for block in split_blocks([True, *[False] * 5, True], depth=1)] == [4, 3]
