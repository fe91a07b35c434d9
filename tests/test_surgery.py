"""Surgery: the smaller network computes what the masked one does, is ordinary, and leaves its parent alone."""

import copy
from dataclasses import replace

import jaxtyping
import pytest
import timm
import torch
import torch_pruning as tp
from conftest import draw_images, make_tiny, perturb, relative_error
from random_plans import NETWORKS, draw_plan, make_network, make_plan
from torch import nn

from evitlab.measure.macs import count_macs
from evitlab.models.capture import capture_attention
from evitlab.models.config import AttentionConfig
from evitlab.models.network import Network, fold_batchnorm
from evitlab.models.weights import from_timm, load_model, save_model
from evitlab.models.zoo import make_config
from evitlab.prune.costs import count_config_macs
from evitlab.prune.groups import find_groups
from evitlab.prune.surgery import cut, mask

SIZES = {"deit": [(64, 64)], "swin": [(64, 64), (37, 53)], "efficientvit": [(64, 64), (100, 72)]}


def run(model: nn.Module, size: tuple[int, int]) -> torch.Tensor:
    with torch.no_grad():
        return model(draw_images(2, *size))


@pytest.mark.parametrize("kinds", [("qk",), ("v",), ("ffn",), ("qk", "v", "ffn")], ids="+".join)
@pytest.mark.parametrize("config", NETWORKS.values(), ids=NETWORKS)
def test_cut_is_masked(config, kinds):
    model = make_network(config)
    for seed in range(min(len(kinds), 2)):
        plan = draw_plan(config, seed=seed, kinds=kinds)
        small, masked = cut(model, plan), mask(model, plan)
        sizes = {group.key: group.channels for group in find_groups(small.config)}
        assert {key: sizes[key] for key in plan.kept} == plan.channels
        for size in SIZES[config.family]:
            assert relative_error(run(small, size), run(masked, size)) < 1e-5
            assert relative_error(run(small, size), run(model, size)) > 1e-4, "what goes must matter"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deit_t", "swin_t", "efficientvit_m4"])
def test_cut_is_masked_at_published_size(name):
    model = make_network(make_config(name))
    plan = draw_plan(model.config, seed=0)
    assert relative_error(run(cut(model, plan), (224, 224)), run(mask(model, plan), (224, 224))) < 1e-5


def test_a_mask_takes_exactly_the_channel_s_part():
    """By hand: the scores without channel 3 of head 1's queries and keys, attention's output without a value, the
    narrowed sum without a hidden channel."""
    model = make_network(make_tiny("deit_t", depth=1))
    kept = {group.key: [list(range(group.channels)) for _ in range(group.heads)] for group in find_groups(model.config)}
    attention, ffn = (model.stages[0].blocks[0][place].branch for place in (0, 1))
    x = torch.randn(1, 5, 24)
    for kind in ("qk", "v"):
        plan = copy.deepcopy(kept)
        plan[f"stages.0.blocks.0.0.branch.{kind}"] = [[*range(1, 12)], [0, 1, 2, *range(4, 12)]]
        masked = mask(model, make_plan(freeze(plan))).stages[0].blocks[0][0].branch
        q, k, v = (
            part(x).view(1, 5, 2, 12).transpose(1, 2).clone() for part in (attention.q, attention.k, attention.v)
        )
        for part in (q,) if kind == "qk" else (v,):
            part[:, 0, :, 0] = 0.0
            part[:, 1, :, 3] = 0.0
        out = ((q * 12**-0.5) @ k.mT).softmax(-1) @ v
        expected = attention.proj(out.transpose(1, 2).reshape(1, 5, 24))
        assert relative_error(masked(x), expected) < 1e-5
    plan = {**kept, "stages.0.blocks.0.1.branch.ffn": [list(range(95))]}
    masked = mask(model, make_plan(freeze(plan))).stages[0].blocks[0][1].branch
    hidden = ffn.act(ffn.widen(x))
    hidden[..., 95] = 0.0
    assert relative_error(masked(x), ffn.narrow(hidden)) < 1e-5


def freeze(kept: dict[str, list[list[int]]]) -> dict[str, tuple[tuple[int, ...], ...]]:
    return {key: tuple(map(tuple, heads)) for key, heads in kept.items()}


def test_keeping_all_changes_nothing(tiny_config):
    model = make_network(tiny_config)
    everything = {
        group.key: tuple(tuple(range(group.channels)) for _ in range(group.heads))
        for group in find_groups(tiny_config)
    }  # fmt: skip
    whole = cut(model, make_plan(everything))
    assert whole.config == model.config
    assert_same_weights(whole, model)
    assert torch.equal(run(whole, (64, 64)), run(model, (64, 64)))


def assert_same_weights(got: nn.Module, expected: nn.Module) -> None:
    states = got.state_dict(), expected.state_dict()
    assert states[0].keys() == states[1].keys()
    for name, tensor in states[1].items():
        assert torch.equal(states[0][name], tensor), name


def test_the_parent_stays_and_shares_nothing(tiny_config):
    model = make_network(tiny_config).train()
    before = copy.deepcopy(model)
    plan = draw_plan(tiny_config, seed=0)
    small, masked = cut(model, plan), mask(model, plan)
    for child in (small, masked):
        assert child.training
        assert all(parameter.requires_grad for parameter in child.parameters())
        for tensor in child.state_dict().values():
            tensor.zero_()
    assert model.config == before.config == tiny_config
    assert_same_weights(model, before)
    assert [module.training for module in model.modules()] == [module.training for module in before.modules()]


def test_the_softmax_scale_stays():
    config = make_tiny("deit_t", depth=1)
    model = make_network(config)
    plan = draw_plan(config, seed=0, kinds=("qk",))
    small = cut(model, plan)
    (layer,) = [layer for layer in small.config.layers if isinstance(layer, AttentionConfig)]
    assert layer.qk_dim < 12
    assert layer.scale == 12**-0.5
    rescaled = copy.deepcopy(small)
    rescaled.stages[0].blocks[0][0].branch.attend.scale = layer.qk_dim**-0.5
    assert relative_error(run(rescaled, (64, 64)), run(small, (64, 64))) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("config", NETWORKS.values(), ids=NETWORKS)
def test_a_pruned_network_is_an_ordinary_one(config, tmp_path):
    """Saved and read again bit by bit; pruned again; counted, folded and captured like any other."""
    small = cut(make_network(config), draw_plan(config, seed=3))
    save_model(small, tmp_path)
    again = load_model(tmp_path)
    assert again.config == small.config
    assert_same_weights(again, small)
    outputs = run(small, (64, 64))
    assert torch.equal(run(again, (64, 64)), outputs)
    assert relative_error(run(fold_batchnorm(small), (64, 64)), outputs) < 1e-4
    with capture_attention(small) as maps:
        run(small, (64, 64))
    assert len(maps) == sum(isinstance(layer, AttentionConfig) for layer in config.layers)
    twice = draw_plan(small.config, seed=4, kinds=("ffn",))
    assert relative_error(run(cut(small, twice), (64, 64)), run(mask(small, twice), (64, 64))) < 1e-5
    loss = small.train()(draw_images(2, 64, 64)).square().mean()
    loss.backward()
    assert all(parameter.grad is not None for parameter in small.parameters())


def test_a_pruned_network_costs_what_the_config_says():
    jaxtyping.config.update("jaxtyping_disable", True)
    config = make_tiny("efficientvit_m0")
    small = cut(make_network(config), draw_plan(config, seed=0))
    counted = count_macs(small, image_size=64)
    jaxtyping.config.update("jaxtyping_disable", False)
    assert count_config_macs(small.config) == counted.macs


# torch-pruning, which cuts queries, keys and values of timm's fused layer at the same channels in every head


def make_timm_deit() -> nn.Module:
    torch.manual_seed(0)
    shape = {"embed_dim": 24, "depth": 2, "num_heads": 2, "img_size": 64, "num_classes": 7}
    return timm.create_model("deit_tiny_patch16_224", **shape).eval()


def test_torch_pruning_cuts_timm_s_network_alike():
    theirs = make_timm_deit()
    perturb(theirs, seed=1)
    model = from_timm(theirs, "deit_t", width=24, depth=2, num_heads=2, image_size=64)
    heads, hidden = [1, 4, 5, 10], [0, 7, 50, 95]
    qkv = [start + index for start in range(0, 72, 12) for index in heads]
    with torch.enable_grad():
        graph = tp.DependencyGraph().build_dependency(theirs, draw_images(1, 64, 64), verbose=False)
    for block in theirs.blocks:
        tp_group = graph.get_pruning_group(block.mlp.fc1, tp.prune_linear_out_channels, idxs=hidden)
        assert graph.check_pruning_group(tp_group)
        tp_group.prune()
        tp.prune_linear_out_channels(block.attn.qkv, qkv)
        tp.prune_linear_in_channels(block.attn.proj, qkv[: len(qkv) // 3])
        block.attn.head_dim, block.attn.attn_dim = 8, 16
        block.attn.fused_attn = False  # which scales by the pruned head dimension
    assert theirs.blocks[0].attn.scale == 12**-0.5
    stays = tuple(sorted(set(range(12)) - set(heads)))
    kept = {group.key: (stays, stays) for group in find_groups(model.config) if group.kind != "ffn"}
    kept |= {
        group.key: (tuple(sorted(set(range(96)) - set(hidden))),)
        for group in find_groups(model.config)
        if group.kind == "ffn"
    }
    assert relative_error(run(cut(model, make_plan(kept)), (64, 64)), run(theirs, (64, 64))) < 1e-5


# Plans that do not fit

CASCADE = "stages.0.blocks.0.2.branch.mixer.v"


@pytest.mark.parametrize(
    ("key", "heads", "message"),
    [
        ("stages.9.branch.qk", ((0,), (0,)), "must name groups of this network, but it also names stages.9.branch.qk"),
        (CASCADE, ((0, 1), (0,)), "must keep as many channels, at least one, in each of 2 heads"),
        (CASCADE, ((0,),), "in each of 2 heads"),
        (CASCADE, ((), ()), "at least one"),
        (CASCADE, ((0, 1), (3, 2)), "ascending channels from 0 to 7"),
        (CASCADE, ((0, 1), (2, 2)), "ascending channels from 0 to 7"),
        (CASCADE, ((0, 1), (0, 8)), "ascending channels from 0 to 7"),
        (CASCADE, ((0, 2), (0, 1)), r"head 0 feeds the next one: it must keep its first channels, but got \(0, 2\)"),
    ],
)
@pytest.mark.parametrize("operate", [cut, mask])
def test_a_plan_that_does_not_fit_is_refused(operate, key, heads, message):
    model = make_network(make_tiny("efficientvit_m0"))
    with pytest.raises(ValueError, match=message):
        operate(model, make_plan({key: heads}))


def test_cutting_inside_a_cascade_would_change_more_than_the_channel(monkeypatch):
    """Why it is refused: what comes after a channel that goes would be added to the wrong places."""
    monkeypatch.setattr("evitlab.prune.surgery._find_problem", lambda group, heads: None)
    model = make_network(make_tiny("efficientvit_m0"))
    plan = make_plan({CASCADE: ((0, 2, 3, 4, 5, 6, 7), (0, 1, 2, 3, 4, 5, 6))})
    assert relative_error(run(cut(model, plan), (64, 64)), run(mask(model, plan), (64, 64))) > 1e-4


def test_a_plan_for_some_groups_leaves_the_others():
    model = make_network(make_tiny("deit_t"))
    small = cut(model, make_plan({"stages.0.blocks.1.1.branch.ffn": ((0, 5, 9),)}))
    assert isinstance(small, Network)
    hidden = [layer.hidden_dim for layer in small.config.layers if not isinstance(layer, AttentionConfig)]
    assert hidden == [96, 3]
    assert replace(small.config, stages=()) == replace(model.config, stages=())
