"""Choosing channels: against a plain search that asks the cost again at every cut; floors, targets, order."""

import pytest
import torch
from conftest import make_tiny
from random_plans import NETWORKS, make_network

from evitlab.models.config import ModelConfig
from evitlab.models.zoo import make_config
from evitlab.problems import UserError
from evitlab.prune.costs import count_config_macs, count_config_params
from evitlab.prune.groups import find_groups, resize_groups
from evitlab.prune.plan import FLOORS, choose_channels, order_channels
from evitlab.prune.surgery import check_plan

LOW = {"qk": 1, "v": 1, "ffn": 1}
DEIT = make_tiny("deit_t", width=48, num_heads=3)
COSTS = {"macs": count_config_macs, "params": count_config_params}


def draw_scores(config: ModelConfig, *, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        group.key: torch.rand(group.heads, group.channels, generator=generator, dtype=torch.float64).square()
        for group in find_groups(config)
    }


def search(config, scores, *, cost, target, floors, by_cost):
    """Channels kept by group: at every cut every group is asked for its next channels, their score and saving."""
    groups = find_groups(config)
    left = {}
    for group in groups:
        left[group.key] = []
        for head, row in enumerate(scores[group.key].tolist()):
            chained = head < group.chained_heads
            order = sorted(range(group.channels), key=(lambda c: -c) if chained else row.__getitem__)
            left[group.key].append(order)
    sizes = {group.key: group.channels for group in groups}
    wanted = target * cost(config)
    while (now := cost(resize_groups(config, sizes))) > wanted:
        offers = []
        for group in groups:
            key = group.key
            if sizes[key] <= floors[group.kind]:
                continue
            score = sum(scores[key][head, order[0]].item() for head, order in enumerate(left[key]))
            saved = now - cost(resize_groups(config, {**sizes, key: sizes[key] - 1}))
            offers.append((score / saved if by_cost else score, key))
        best = min(offers)[1]
        sizes[best] -= 1
        for order in left[best]:
            order.pop(0)
    return {key: tuple(tuple(sorted(order)) for order in orders) for key, orders in left.items()}


@pytest.mark.parametrize("by_cost", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("cost", COSTS.values(), ids=COSTS)
@pytest.mark.parametrize("name", ["DeiT", "Swin", "EfficientViT", "DeiT, cascaded, wide V"])
def test_it_is_the_plain_search(name, cost, by_cost):
    config = NETWORKS[name]
    target = 0.8 if name == "DeiT" else 0.95
    scores = draw_scores(config)
    plan = choose_channels(config, scores, cost=cost, target=target, floors=LOW, by_cost=by_cost)
    assert plan.kept == search(config, scores, cost=cost, target=target, floors=LOW, by_cost=by_cost)


def test_a_cost_of_curves_is_asked_again_at_every_cut():
    """Savings that change as others are cut: they cannot be added up."""

    def cost(config: ModelConfig) -> float:
        return sum((layer.qk_dim + layer.v_dim) ** 2.0 if layer.type == "attention" else 30.0 * layer.hidden_dim**0.5
                   for layer in config.layers)  # fmt: skip

    scores = draw_scores(DEIT)
    plan = choose_channels(DEIT, scores, cost=cost, target=0.7, floors=LOW)
    assert plan.kept == search(DEIT, scores, cost=cost, target=0.7, floors=LOW, by_cost=True)
    assert plan.cost_after == pytest.approx(cost(resize_groups(DEIT, plan.channels)))


@pytest.mark.parametrize("name", ["deit_t", "swin_t", "efficientvit_m2"])
def test_targets_are_met_with_as_many_channels_a_head(name):
    config = make_config(name)
    scores = draw_scores(config)
    for cost in COSTS.values():
        for target in (0.9, 0.6, 0.45):
            plan = choose_channels(config, scores, cost=cost, target=target)
            assert plan.target * 0.99 <= plan.share <= plan.target
            assert plan.cost_after == cost(resize_groups(config, plan.channels))
            assert plan.cost_before == plan.reference_cost == cost(config)
            for group in find_groups(config):
                heads = plan.kept[group.key]
                assert {len(kept) for kept in heads} == {plan.channels[group.key]}
                assert plan.channels[group.key] >= min(FLOORS[group.kind], group.channels)
            by_head = [heads for heads in plan.kept.values() if len(set(heads)) > 1]
            assert by_head, "each head keeps its own"


def test_the_full_target_keeps_everything():
    plan = choose_channels(DEIT, draw_scores(DEIT), cost=count_config_macs, target=1.0)
    assert plan.channels == {group.key: group.channels for group in find_groups(DEIT)}
    assert plan.share == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("config", NETWORKS.values(), ids=NETWORKS)
def test_more_pruning_keeps_less_of_everything(config):
    """And never costs more; every plan can be cut."""
    scores = draw_scores(config)
    model = make_network(config)
    last = None
    for target in [1 - step / 40 for step in range(16)]:
        try:
            plan = choose_channels(config, scores, cost=count_config_macs, target=target, floors=LOW)
        except UserError:
            continue
        check_plan(model, plan)
        if last is not None:
            assert plan.cost_after <= last.cost_after
            for key, heads in plan.kept.items():
                assert all(set(kept) <= set(more) for kept, more in zip(heads, last.kept[key], strict=True))
        last = plan
    assert last is not None
    assert last.target < 0.8


def test_the_least_goes_first_in_each_head():
    scores = torch.tensor([[3.0, 1.0, 2.0], [0.5, 9.0, 0.25]], dtype=torch.float64)
    (group,) = [group for group in find_groups(make_tiny("deit_t", depth=1, qk_dim=3)) if group.kind == "qk"]
    order = order_channels(group, scores)
    assert order.indices == [[1, 2, 0], [2, 0, 1]]
    assert order.scores == [1.25, 2.5, 12.0]


def test_a_chained_head_gives_its_last_channels():
    groups = find_groups(make_tiny("efficientvit_m0", width=8, num_heads=2))
    group = next(group for group in groups if group.kind == "v")
    scores = torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 3.0, 7.0, 1.0]], dtype=torch.float64)
    order = order_channels(group, scores)
    assert order.indices == [[3, 2, 1, 0], [3, 1, 0, 2]]
    assert order.scores == [5.0, 6.0, 7.0, 8.0]


def test_which_cost_convention_decides_between_kinds():
    """A channel of queries and keys saves 17 (2 x 48 + 17) MACs, a hidden one 17 (2 x 48): at scores of 1 and 0.9 the
    first is cheaper to lose by cost, the second by score."""
    config = make_tiny("deit_t", depth=1, width=48, num_heads=1)
    worth = {"qk": 1.0, "v": 2.0, "ffn": 0.9}
    scores = {
        group.key: torch.full((group.heads, group.channels), worth[group.kind], dtype=torch.float64)
        for group in find_groups(config)
    }
    cut = {}
    for by_cost in (True, False):
        plan = choose_channels(config, scores, cost=count_config_macs, target=0.95, by_cost=by_cost)
        cut[by_cost] = {group.kind for group in find_groups(config) if plan.channels[group.key] < group.channels}
    assert cut == {True: {"qk"}, False: {"ffn"}}


def test_groups_without_scores_stay_whole():
    scores = {key: each for key, each in draw_scores(DEIT).items() if key.endswith("ffn")}
    plan = choose_channels(DEIT, scores, cost=count_config_macs, target=0.7)
    assert plan.kept.keys() == scores.keys()
    assert plan.share == pytest.approx(0.7, rel=0.01)


def test_in_steps_the_target_is_a_share_of_the_original():
    original = float(count_config_macs(DEIT))
    first = choose_channels(DEIT, draw_scores(DEIT), cost=count_config_macs, target=0.8)
    smaller = resize_groups(DEIT, first.channels)
    scores = draw_scores(smaller, seed=1)
    second = choose_channels(smaller, scores, cost=count_config_macs, target=0.6, reference_cost=original)
    assert second.cost_before == first.cost_after
    assert second.reference_cost == original
    assert second.share == pytest.approx(0.6, rel=0.01)
    done = choose_channels(smaller, scores, cost=count_config_macs, target=0.9, reference_cost=original)
    assert done.cost_after == done.cost_before


# What cannot be done


def test_a_target_below_the_floors_says_how_far_it_got():
    floor = {group.key: FLOORS[group.kind] for group in find_groups(DEIT)}
    share = count_config_macs(resize_groups(DEIT, floor)) / count_config_macs(DEIT)
    with pytest.raises(UserError, match=rf"0.01 cannot be reached: .*\(qk 4, v 4, ffn 8\) {share:.3f} is left$"):
        choose_channels(DEIT, draw_scores(DEIT), cost=count_config_macs, target=0.01)
    kept = choose_channels(DEIT, draw_scores(DEIT), cost=count_config_macs, target=share + 1e-9)
    assert kept.channels == floor


def test_it_says_what_kept_it_from_the_target():
    config = make_tiny("efficientvit_m0")
    with pytest.raises(UserError, match=r"cannot be reached.*V of a cascade can only be cut from its last channels"):
        choose_channels(config, draw_scores(config), cost=count_config_macs, target=0.1)
    config = make_tiny("efficientvit_m0", norm="layer")
    with pytest.raises(UserError, match=r"1\.000 is left; nothing can be pruned: after each projection"):
        choose_channels(config, {}, cost=count_config_macs, target=0.9)


def test_groups_at_their_floor_are_left_alone():
    config = make_tiny("deit_t", qk_dim=3)
    plan = choose_channels(config, draw_scores(config), cost=count_config_macs, target=0.8)
    assert {count for key, count in plan.channels.items() if key.endswith("qk")} == {3}


def test_a_target_between_two_coarse_cuts_is_refused_and_one_beside_a_cut_is_met():
    """One hidden channel of six is a tenth of this cost."""

    def cost(config: ModelConfig) -> float:
        return 4.0 + sum(layer.hidden_dim for layer in config.layers if layer.type == "ffn")

    config = resize_groups(make_tiny("deit_t", depth=1), {"stages.0.blocks.0.1.branch.ffn": 6})
    scores = {key: each for key, each in draw_scores(config).items() if key.endswith("ffn")}

    def choose(target: float) -> int:
        (count,) = choose_channels(config, scores, cost=cost, target=target, floors=LOW).channels.values()
        return count

    assert [choose(0.8), choose(0.805), choose(0.7925), choose(0.7)] == [4, 4, 4, 3]
    with pytest.raises(UserError, match=r"0.75 cannot be met within 1%: .* takes the cost from 0.8000 to 0.7000"):
        choose(0.75)


@pytest.mark.parametrize("target", [0.0, -0.5, 1.01, float("nan")])
def test_targets_are_shares(target):
    with pytest.raises(UserError, match="target must be a share of the cost, above 0 and at most 1, but got"):
        choose_channels(DEIT, draw_scores(DEIT), cost=count_config_macs, target=target)


def test_scores_must_be_one_number_a_channel():
    scores = draw_scores(DEIT)
    key = next(iter(scores))
    with pytest.raises(ValueError, match=r"branch.qk: scores must have shape \(3, 16\), but got \(3, 15\)"):
        choose_channels(DEIT, {key: scores[key][:, :-1]}, cost=count_config_macs, target=0.9)
    scores[key][0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"branch\.qk: scores must be finite"):
        choose_channels(DEIT, scores, cost=count_config_macs, target=0.9)


def test_a_cost_that_does_not_fall_is_refused():
    with pytest.raises(ValueError, match=r"cost must fall with every channel, but one of .*branch.qk saves 0.0"):
        choose_channels(DEIT, draw_scores(DEIT), cost=lambda config: 1.0, target=0.9)
