"""Groups: that they are the network's own, in its order; what cannot be pruned; other sizes in a config."""

from dataclasses import replace

import pytest
from conftest import make_tiny
from random_plans import NETWORKS

from evitlab.models.config import AttentionConfig, config_from_dict
from evitlab.models.network import build_model
from evitlab.models.zoo import ZOO, make_config
from evitlab.prune.groups import find_groups, find_unprunable, resize_groups, walk_layers

GROUPS = {"deit_t": (12, 12), "swin_t": (12, 12), "efficientvit_m0": (6, 16), "efficientvit_m5": (8, 20)}
"""Attention layers and FFNs: EfficientViT has two FFNs a block and two at each of two downsamplings."""


@pytest.mark.parametrize("name", list(GROUPS))
def test_published_networks_have_so_many_groups(name):
    groups = find_groups(make_config(name))
    attention, ffns = GROUPS[name]
    assert [sum(group.kind == kind for group in groups) for kind in ("qk", "v", "ffn")] == [attention, attention, ffns]
    assert len({group.key for group in groups}) == len(groups)


def outputs(layer):
    """Of a projection in tokens or maps."""
    return getattr(layer, "conv", layer).weight.shape[0]


@pytest.mark.parametrize("config", [*map(make_config, ZOO), *NETWORKS.values()], ids=[*ZOO, *NETWORKS])
def test_each_group_is_a_module_of_the_network(config):
    model = build_model(config, seed=0)
    found = set()
    for group in find_groups(config):
        module = model.get_submodule(group.module)
        found.add(module)
        if group.kind == "ffn":
            assert outputs(module.widen) == group.channels
            assert outputs(module.narrow) == group.width
            continue
        assert outputs(getattr(module.proj, "1", module.proj)) == group.width
        assert getattr(module.config, f"{group.kind}_dim") == group.channels
        assert module.config.num_heads == group.heads
    known = {"FFN", "MHSA", "GroupAttention"}
    assert found == {module for module in model.modules() if type(module).__name__ in known}


def test_layers_and_blocks_are_numbered_as_in_the_config():
    config = make_config("efficientvit_m1")
    groups = find_groups(config)
    inside = [group for group in groups if group.block is not None]
    for group in inside:
        layer = config.layers[group.layer]
        sizes = {"qk": getattr(layer, "qk_dim", None), "v": getattr(layer, "v_dim", None)}
        assert sizes.get(group.kind, getattr(layer, "hidden_dim", None)) == group.channels
        assert group.kind == "ffn" or isinstance(layer, AttentionConfig)
    assert sorted({group.layer for group in inside}) == list(range(len(config.layers)))
    assert sorted({group.block for group in inside}) == [0, 1, 2, 3, 4, 5]
    around = [(group.layer, group.width, group.channels) for group in groups if group.block is None]
    assert around == [(3, 128, 256), (3, 144, 288), (9, 144, 288), (9, 192, 384)]
    order = [place.number for place in walk_layers(config)]
    assert order == sorted(order)


def test_widths_are_those_of_the_stages():
    widths = [group.width for group in find_groups(make_config("swin_t")) if group.kind == "ffn"]
    assert widths == [96] * 2 + [192] * 2 + [384] * 6 + [768] * 2


def test_only_the_last_head_of_a_cascade_is_free():
    groups = {group.key: group for group in find_groups(make_config("efficientvit_m0"))}
    assert {group.chained_heads for group in groups.values() if group.kind == "v"} == {3}
    assert {group.chained_heads for group in groups.values() if group.kind != "v"} == {0}
    assert all(group.chained_heads == 0 for group in find_groups(make_config("efficientvit_m0", attention="group")))


def test_it_says_what_cannot_be_pruned():
    assert find_unprunable(make_config("deit_t")) == []
    assert find_unprunable(make_config("swin_t")) == []
    cascade, first, second = find_unprunable(make_config("efficientvit_m0"))
    assert "V of a cascade can only be cut from its last channels" in cascade
    assert cascade.count("branch.mixer") == 6
    assert first.startswith("stages.1.downsample: the 256 channels in the middle")
    assert second.startswith("stages.2.downsample: the 512 channels in the middle")
    assert len(find_unprunable(make_config("efficientvit_m0", attention="group"))) == 2
    assert find_unprunable(make_config("efficientvit_m0", attention="cascaded", num_heads=1))[0] == first


def test_a_layer_norm_after_projections_leaves_nothing_to_prune():
    """It runs over the channels: without one of them all others change."""
    config = make_config("efficientvit_m0", norm="layer")
    assert find_groups(config) == []
    (sentence,) = find_unprunable(config)
    assert "nothing can be pruned" in sentence


@pytest.mark.parametrize("config", NETWORKS.values(), ids=NETWORKS)
def test_each_group_has_its_own_size(config):
    assert resize_groups(config, {}) == config
    groups = find_groups(config)
    for number, group in enumerate(groups):
        resized = find_groups(resize_groups(config, {group.key: group.channels + 3}))
        expected = [*groups]
        expected[number] = replace(group, channels=group.channels + 3)
        assert resized == expected


def test_resizing_keeps_the_softmax_scale_and_makes_a_valid_config():
    config = make_tiny("swin_t")
    resized = resize_groups(config, {group.key: 5 for group in find_groups(config)})
    assert config_from_dict(resized.to_dict()) == resized
    scales = [
        [layer.scale for layer in each.layers if isinstance(layer, AttentionConfig)] for each in (config, resized)
    ]
    assert scales[0] == scales[1]
    assert {layer.qk_dim for layer in resized.layers if isinstance(layer, AttentionConfig)} == {5}
