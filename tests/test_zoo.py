"""The zoo: published networks as their papers state them, and variants that differ in what a knob says and no more."""

import random
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from conftest import draw_images

import evitlab
from evitlab.models.config import ModelConfig, config_from_dict
from evitlab.models.knobs import KnobError
from evitlab.models.network import build_model
from evitlab.models.zoo import ZOO, default_knobs, make_config

OWN_RATIO = {name: 1 / 3 if name.startswith("efficientvit") else 0.5 for name in ZOO}


def count_layers(config: ModelConfig) -> int:
    return len(config.layers)


def orders(config: ModelConfig) -> list[list[bool]]:
    """Stage by stage, which layers are attention."""
    return [[layer.type == "attention" for block in stage.blocks for layer in block.layers] for stage in config.stages]


# What is published


def test_published_shapes():
    """EfficientViT, Table 1; Swin, Sec. 3.3; DeiT, Table 1."""
    table = {
        "deit_t": ([192], [12], [3]),
        "swin_t": ([96, 192, 384, 768], [2, 2, 6, 2], [3, 6, 12, 24]),
        "efficientvit_m0": ([64, 128, 192], [1, 2, 3], [4, 4, 4]),
        "efficientvit_m1": ([128, 144, 192], [1, 2, 3], [2, 3, 3]),
        "efficientvit_m2": ([128, 192, 224], [1, 2, 3], [4, 3, 2]),
        "efficientvit_m3": ([128, 240, 320], [1, 2, 3], [4, 3, 4]),
        "efficientvit_m4": ([128, 256, 384], [1, 2, 3], [4, 4, 4]),
        "efficientvit_m5": ([192, 288, 384], [1, 3, 4], [3, 3, 4]),
    }
    assert set(table) == set(ZOO)
    for name, (widths, depths, heads) in table.items():
        config = make_config(name)
        assert [stage.width for stage in config.stages] == widths
        assert [len(stage.blocks) for stage in config.stages] == depths
        for stage, count in zip(config.stages, heads, strict=True):
            found = [layer for block in stage.blocks for layer in block.layers if layer.type == "attention"]
            assert {layer.num_heads for layer in found} == {count}


def test_published_windows_and_shifts():
    swin = [layer for layer in make_config("swin_t").layers if layer.type == "attention"]
    assert {layer.window for layer in swin} == {(7, 7)}
    assert [layer.shift for layer in swin] == [(0, 0), (3, 3)] * 6
    kernels = {"m0": (5, 5, 5, 5), "m3": (5, 5, 5, 5), "m4": (7, 5, 3, 3), "m5": (7, 5, 3)}
    for size, expected in kernels.items():
        first = make_config(f"efficientvit_{size}").layers[1]
        assert first.query_kernels == expected
        assert first.window == (7, 7)
        assert first.qk_dim == 16


@pytest.mark.parametrize("name", ZOO)
def test_the_default_knobs_make_the_published_network(name):
    assert make_config(name, **default_knobs(name)) == make_config(name)


@pytest.mark.parametrize("name", ZOO)
def test_each_default_knob_alone_makes_the_published_network(name):
    for knob, value in default_knobs(name).items():
        assert make_config(name, **{knob: value}) == make_config(name), knob


@pytest.mark.parametrize("name", ZOO)
def test_lists_and_single_values_agree(name):
    stages = len(ZOO[name].widths)
    for knob, value in {"v_ratio": 0.5, "ffn_ratio": 3, "qk_dim": 8, "depth": 2, "num_heads": 1}.items():
        assert make_config(name, **{knob: value}) == make_config(name, **{knob: [value] * stages})
    assert make_config(name, image_size=64) == make_config(name, image_size=[64, 64])


# mhsa_ratio


@pytest.mark.parametrize("name", ZOO)
def test_the_own_ratio_is_the_published_network(name):
    assert make_config(name, mhsa_ratio=OWN_RATIO[name]) == make_config(name)


@pytest.mark.parametrize("name", ZOO)
def test_the_number_of_layers_stays_and_the_ratio_holds(name):
    total = count_layers(make_config(name))
    for percent in [*range(0, 101, 7), 20, 33, 40, 50, 60, 80, 100]:
        config = make_config(name, mhsa_ratio=percent / 100)
        assert count_layers(config) == total
        assert sum(map(sum, orders(config))) == round(percent / 100 * total)
        for order in orders(config):
            if 2 * sum(order) <= len(order):
                assert not any(first and second for first, second in pairwise(order))
            if 2 * sum(order) < len(order):
                assert not order[0]
                assert not order[-1]


@pytest.mark.parametrize("name", ["swin_t", "efficientvit_m0"])
def test_each_stage_keeps_its_layers(name):
    sizes = [len(order) for order in orders(make_config(name))]
    for ratio in (0, 0.2, 0.45, 0.9, 1):
        assert [len(order) for order in orders(make_config(name, mhsa_ratio=ratio))] == sizes


def test_the_ratio_changes_nothing_but_the_order():
    for name in ("swin_t", "efficientvit_m4"):
        base, variant = make_config(name), make_config(name, mhsa_ratio=0.2)
        for old, new in zip(base.stages, variant.stages, strict=True):
            assert replace(old, blocks=()) == replace(new, blocks=())
        assert {layer for layer in variant.layers if layer.type == "ffn"} <= set(base.layers)
        assert {layer for layer in variant.layers if layer.type == "attention"} <= set(base.layers)


def test_deit_without_attention_has_no_class_token():
    assert make_config("deit_t", mhsa_ratio=0.05).class_token
    without = make_config("deit_t", mhsa_ratio=0)
    assert not without.class_token
    assert without.position_embedding
    assert without.mhsa_ratio == 0


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_sandwich_alone_surrounds_each_attention_with_n_ffns(name, n):
    config = make_config(name, sandwich=n)
    assert orders(config) == [([False] * n + [True] + [False] * n) * d for d in ZOO[name].depths]
    assert make_config(name, sandwich=None).mhsa_ratio == 0.5


# Widths, heads and windows


def test_a_single_width_scales_all_stages():
    assert [stage.width for stage in make_config("swin_t", width=48).stages] == [48, 96, 192, 384]
    # 128, 144, 192 with 2, 3, 3 heads, at 100: 112.5 and 150 to multiples of 3
    assert [stage.width for stage in make_config("efficientvit_m1", width=100).stages] in (
        [100, 111, 150],
        [100, 114, 150],
    )
    assert [stage.width for stage in make_config("efficientvit_m2", width=2, num_heads=2).stages] == [2, 4, 4]


def test_widths_follow_into_what_stands_beside_them():
    config = make_config("efficientvit_m0", width=[32, 48, 80], num_heads=4)
    assert config.stem.widths == (4, 8, 16, 32)
    assert [stage.downsample.hidden_dim for stage in config.stages[1:]] == [128, 192]
    assert [stage.downsample.before[0].hidden_dim for stage in config.stages[1:]] == [64, 96]
    assert [stage.downsample.after[0].hidden_dim for stage in config.stages[1:]] == [96, 160]


def test_windows_fit_the_map():
    config = make_config("efficientvit_m0", image_size=(64, 192))
    windows = [stage.blocks[0].layers[1].window for stage in config.stages]
    assert windows == [(4, 7), (2, 6), (1, 3)]
    assert {layer.window for layer in make_config("swin_t", window_size=12, image_size=384).layers[::2]} == {(12, 12)}


def test_more_heads_than_published_kernels():
    config = make_config("efficientvit_m4", num_heads=8)
    assert config.layers[1].query_kernels == (7, 5, 3, 3, 3, 3, 3, 3)


@pytest.mark.parametrize(
    ("name", "knobs", "message"),
    [
        ("deit", {}, r"^name must be one of deit_t, swin_t, efficientvit_m0, .*, but got 'deit'$"),
        ("deit_t", {"num_heads": 5}, r"num_heads must divide width, but got num_heads=5 and width=192 .*190, 195\)"),
        ("deit_t", {"width": 2}, r"num_heads must divide width, but got num_heads=3 and width=2 \(nearest widths: 3\)"),
        ("swin_t", {"width": [96, 193, 384, 767]}, r"num_heads=6 and width=193 .*; .*num_heads=24 and width=767"),
        (
            "deit_t",
            {"image_size": 100},
            r"image_size must be a multiple of patch_size=16 for DeiT, but got \(100, 100\)",
        ),
        ("efficientvit_m0", {"patch_size": 5}, r"patch_size must be 2, 4, 8 or 16 for EfficientViT, but got 5"),
        ("deit_t", {"window_size": 7}, r"window_size does not apply to the family deit \(allowed: .*qk_dim.*\)"),
        (
            "deit_t",
            {"mhsa_ratio": 1.3, "hidth": 4},
            r"mhsa_ratio must be .*1\.3; hidth is not a knob; did you mean width",
        ),
    ],
)
def test_wrong_knobs_are_named(name, knobs, message):
    with pytest.raises(KnobError, match=message):
        make_config(name, **knobs)
    with pytest.raises(ValueError, match=message):
        evitlab.create_model(name, **knobs)
    if name not in ZOO:
        with pytest.raises(KnobError, match=message):
            default_knobs(name)


def test_create_model_is_make_config_and_build_model():
    model = evitlab.create_model("deit_t", mhsa_ratio=0.2, image_size=64, num_classes=100)
    assert model.config == make_config("deit_t", mhsa_ratio=0.2, image_size=64, num_classes=100)
    assert model.training
    assert model(draw_images(2, 64, 64)).shape == (2, 100)


# All knobs combine


def draw_knobs(name: str, rng: random.Random) -> dict[str, Any]:
    """Any knobs, each wanted more often than not; width, depth and image small so that the network is."""
    stages, heads = len(ZOO[name].widths), rng.choice([1, 2, 3])
    patch = rng.choice({"deit_t": [8, 16], "swin_t": [2, 3, 4, 8]}.get(name, [4, 8, 16]))

    def stagewise(*values: Any) -> Any:
        return rng.choice(values) if rng.random() < 0.5 else [rng.choice(values) for _ in range(stages)]

    wanted = {
        "mhsa_ratio": rng.choice([0, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 1]),
        "qk_dim": stagewise(None, 1, 5, 16),
        "v_ratio": stagewise(0.05, 0.5, 1, 1.7),
        "ffn_ratio": stagewise(0.05, 1, 2, 3.3),
        "attention": rng.choice(["mhsa", "group", "cascaded"]),
        "sandwich": rng.choice([None, 1, 2]),
        "depthwise": rng.random() < 0.5,
        "norm": rng.choice(["batch", "layer"]),
        "act": rng.choice(["relu", "gelu", "hardswish"]),
        "num_classes": rng.choice([1, 10]),
    }
    if name != "deit_t":
        wanted["window_size"] = rng.choice([1, 3, 7, 20])
    chosen = {knob: value for knob, value in wanted.items() if rng.random() < 0.7}
    size = [rng.choice([2, 3, 5]) * 16, rng.choice([2, 4]) * 16]
    width = heads * rng.choice([1, 4, 7])
    return chosen | {
        "num_heads": heads,
        "width": width if rng.random() < 0.5 else [width + heads * rng.choice([0, 3]) for _ in range(stages)],
        "depth": stagewise(1, 2),
        "image_size": rng.choice([size, size[0]]),
        "patch_size": patch,
    }


def check_follows(config: ModelConfig, name: str, knobs: dict[str, Any]) -> None:
    """What the knobs ask for is what the config says, stage by stage."""
    settings = {**default_knobs(name), **knobs}
    assert (config.norm, config.act, config.num_classes) == tuple(settings[k] for k in ("norm", "act", "num_classes"))
    for number, stage in enumerate(config.stages):
        own = {k: v[number] if isinstance(v, list | tuple) else v for k, v in settings.items() if k != "image_size"}
        layers_a_block = 2 if own["sandwich"] is None else 2 * own["sandwich"] + 1
        layers = [layer for block in stage.blocks for layer in block.layers]
        assert len(layers) == own["depth"] * layers_a_block
        for layer in layers:
            if layer.type == "ffn":
                assert layer.hidden_dim == max(1, round(own["ffn_ratio"] * stage.width))
                assert (layer.depthwise_kernel is not None) == own["depthwise"]
            else:
                assert layer.kind == own["attention"]
                assert layer.num_heads == own["num_heads"]
                assert layer.qk_dim == (own["qk_dim"] or stage.width // own["num_heads"])
                assert layer.v_dim == max(1, round(own["v_ratio"] * stage.width / own["num_heads"]))
                assert layer.scale == layer.qk_dim**-0.5
    if "mhsa_ratio" in knobs:
        assert sum(map(sum, orders(config))) == round(knobs["mhsa_ratio"] * count_layers(config))


def check_runs(config: ModelConfig) -> None:
    model = build_model(config, seed=0)
    out = model(draw_images(2, *config.image_size))
    assert out.shape == (2, config.num_classes)
    out.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)
    with torch.no_grad():
        assert model.eval()(draw_images(1, *config.image_size)).isfinite().all()


def check_combinations(name: str, *, seed: int, count: int) -> None:
    rng = random.Random(seed)
    for _ in range(count):
        knobs = draw_knobs(name, rng)
        config = make_config(name, **knobs)
        check_follows(config, name, knobs)
        assert config_from_dict(config.to_dict()) == config
        check_runs(config)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deit_t", "swin_t", "efficientvit_m0", "efficientvit_m5"])
def test_all_knobs_combine(name):
    check_combinations(name, seed=0, count=15)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deit_t", "swin_t", "efficientvit_m0", "efficientvit_m5"])
def test_all_knobs_combine_at_length(name):
    check_combinations(name, seed=1, count=300)
