"""Configs: plain data that comes back equal, and every mistake in it named."""

import json
from dataclasses import replace

import pytest
from conftest import make_tiny

from evitlab.models.config import ModelConfig, config_from_dict, find_problems
from evitlab.models.network import build_model
from evitlab.models.zoo import ZOO, make_config

VARIANTS = {
    **{name: make_config(name) for name in ZOO},
    "no attention": make_config("deit_t", mhsa_ratio=0),
    "group attention": make_config("swin_t", attention="group", mhsa_ratio=0.2, qk_dim=[4, 8, 16, 32], v_ratio=0.5),
    "not square": make_config("efficientvit_m2", image_size=[96, 160], norm="layer", act="hardswish", sandwich=2),
    "other input": replace(make_config("deit_t"), in_channels=1),
}


def plain(config: ModelConfig) -> dict:
    return json.loads(json.dumps(config.to_dict()))


def edit(config: ModelConfig, place: str, value: object) -> dict:
    """A config as plain data with one field changed, added or, where the value is `...`, removed."""
    data = plain(config)
    *way, last = [int(key) if key.isdigit() else key for key in place.split(".")]
    target = data
    for key in way:
        target = target[key]
    if value is ...:
        del target[last]
    else:
        target[last] = value
    return data


@pytest.mark.parametrize("name", VARIANTS)
def test_a_config_comes_back_from_json_equal(name):
    config = VARIANTS[name]
    back = config_from_dict(plain(config))
    assert back == config
    assert hash(back) == hash(config)
    assert type(back.stages[0].blocks[0].layers[0]) is type(config.stages[0].blocks[0].layers[0])


def test_defaults_may_be_left_out():
    data = plain(make_config("efficientvit_m0"))
    for default in ("in_channels", "class_token", "position_embedding"):
        del data[default]
    assert config_from_dict(data) == make_config("efficientvit_m0")


def test_layers_ratio_and_grid():
    config = make_config("swin_t", image_size=(224, 130))
    assert [layer.type for layer in config.layers] == ["attention", "ffn"] * 12
    assert config.mhsa_ratio == 0.5
    assert config.grid == (56, 33)  # 130 / 4 = 32.5
    assert make_config("efficientvit_m0").mhsa_ratio == 6 / 18


SWIN, DEIT, MAPS = (make_tiny(name) for name in ("swin_t", "deit_t", "efficientvit_m0"))
LAYER = "stages.0.blocks.0.layers"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (edit(DEIT, "widht", 3), r"widht: unknown \(allowed: family, "),
        (edit(DEIT, "stem.sise", 3), r"stem\.sise: unknown \(allowed: kind, patch_size, "),
        (
            edit(DEIT, f"{LAYER}.1.dim", 3),
            r"stages\.0\.blocks\.0\.layers\.1\.ffn\.dim: unknown \(allowed: type, hidden_dim, ",
        ),
        (edit(DEIT, "family", "resnet"), r"family: .*'deit', 'swin' or 'efficientvit', but got 'resnet'"),
        (edit(DEIT, "norm", "group"), r"norm: .*'layer' or 'batch', but got 'group'"),
        (edit(DEIT, "act", 3), r"act: .*'gelu', 'relu' or 'hardswish', but got 3"),
        (edit(DEIT, "layout", None), r"layout: .*'tokens' or 'maps', but got None"),
        (edit(DEIT, "stages", 3), r"stages: must be a list, but got 3"),
        (edit(DEIT, "stages.0.width", "wide"), r"stages\.0\.width: .*integer.*, but got 'wide'"),
        (edit(DEIT, "stages.0.width", 1.5), r"stages\.0\.width: .*integer.*, but got 1\.5"),
        (edit(DEIT, "num_classes", 0), r"num_classes: .*greater than or equal to 1, but got 0"),
        (edit(DEIT, "image_size", 224), r"image_size: must be a list, but got 224"),
        (edit(DEIT, "image_size", [1, 2, 3]), r"image_size: .*at most 2 items.*, but got \[1, 2, 3\]"),
        (edit(DEIT, f"{LAYER}.0.type", "conv"), r"stages\.0\.blocks\.0\.layers\.0: .*'attention', 'ffn'"),
        (edit(DEIT, f"{LAYER}.0.kind", "linear"), r"kind: .*'mhsa', 'group' or 'cascaded', but got 'linear'"),
        (edit(DEIT, f"{LAYER}.0.scale", 0.0), r"layers\.0\.attention\.scale: .*greater than 0, but got 0\.0"),
        (edit(DEIT, f"{LAYER}.0.qk_dim", ...), r"layers\.0\.attention\.qk_dim: "),
        (edit(DEIT, "stem", ...), r"stem: "),
        ([1], r"must be a mapping"),
        (None, r"must be a mapping"),
    ],
)
def test_a_wrong_field_is_named_with_its_place(data, message):
    with pytest.raises(ValueError, match=r"config: .*" + message):
        config_from_dict(data)


@pytest.mark.parametrize(
    ("place", "value"), [("num_classes", True), ("num_classes", "7"), ("class_token", "yes"), ("norm_eps", "1e-6")]
)
def test_values_are_not_converted(place, value):
    with pytest.raises(ValueError, match=f"config: {place}: .*but got {value!r}"):
        config_from_dict(edit(DEIT, place, value))


def test_a_missing_field_does_not_print_the_whole_config():
    with pytest.raises(ValueError, match=r"config: stem: ") as caught:
        config_from_dict(edit(DEIT, "stem", ...))
    assert len(str(caught.value)) < 200


def test_all_wrong_fields_are_named_at_once():
    data = edit(DEIT, "norm", "group")
    data["num_classes"] = 0
    with pytest.raises(ValueError, match=r"norm: .*; |num_classes: .*; ") as caught:
        config_from_dict(data)
    assert all(field in str(caught.value) for field in ("norm: ", "num_classes: "))


CONTRADICTIONS = [
    (edit(DEIT, "stages", []), r"stages must hold at least one stage"),
    (edit(DEIT, "stem.widths", [8]), r"stem\.widths must end with the first stage's width, alone, but got \(8,\)"),
    (edit(DEIT, "stem.widths", []), r"stem\.widths must end with the first stage's width, alone, but got \(\)"),
    (edit(DEIT, "position_embedding", False), r"class_token needs position_embedding"),
    (edit(MAPS, "position_embedding", True), r"class_token and position_embedding need the layout 'tokens'"),
    (edit(SWIN, "stages.1.downsample", None), r"stages\.1\.downsample must be given in every stage but the first"),
    (
        edit(SWIN, "stages.0.downsample", plain(SWIN)["stages"][1]["downsample"]),
        r"stages\.0\.downsample must be given in every stage but the first",
    ),
    (
        edit(MAPS, f"{LAYER}.1.num_heads", 3),
        r"stages\.0: num_heads must divide the width for head splits, but got .*num_heads=3 and width=16",
    ),
    (edit(SWIN, f"{LAYER}.0.window", None), r"stages\.0: position_bias needs a window, but got .*='relative'"),
    (edit(DEIT, f"{LAYER}.0.window", [2, 2]), r"stages\.0: windows cannot hold a class token"),
    (edit(MAPS, f"{LAYER}.1.query_kernels", [3]), r"stages\.0: query_kernels must hold one size per head.*\(3,\)"),
    (edit(SWIN, f"{LAYER}.0.query_kernels", [3, 3]), r"stages\.0: query_kernels need the layout 'maps'"),
]


@pytest.mark.parametrize(("data", "message"), CONTRADICTIONS)
def test_a_contradiction_is_named(data, message):
    with pytest.raises(ValueError, match=r"config: .*" + message):
        config_from_dict(data)


def test_all_contradictions_are_named_at_once():
    data = edit(DEIT, "stem.widths", [8])
    data["position_embedding"] = False
    with pytest.raises(ValueError, match=r"stem\.widths must .*; class_token needs"):
        config_from_dict(data)


def test_build_model_refuses_what_contradicts_itself():
    config = replace(DEIT, position_embedding=False)
    assert len(find_problems(config)) == 1
    with pytest.raises(ValueError, match=r"config: class_token needs position_embedding"):
        build_model(config)


@pytest.mark.parametrize("name", VARIANTS)
def test_nothing_contradicts_itself_in_what_the_knobs_make(name):
    assert find_problems(VARIANTS[name]) == []


def with_token_and_stages() -> dict:
    data = plain(SWIN) | {"class_token": True, "position_embedding": True}
    for stage in data["stages"]:
        for block in stage["blocks"]:
            block["layers"] = [layer for layer in block["layers"] if layer["type"] == "ffn"]
    return data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (edit(MAPS, f"{LAYER}.0.depthwise_kernel", 4), r"depthwise_kernel .*odd"),
        (edit(MAPS, f"{LAYER}.1.query_kernels", [3, 4]), r"query_kernels .*odd"),
        (edit(MAPS, "stem.kind", "patch"), r"stem\.kind .*layout"),
        (edit(DEIT, "stem.kind", "overlapping"), r"stem\.kind .*layout"),
        (edit(MAPS, "stages.1.downsample.kind", "patch_merging"), r"stages\.1\.downsample\.kind .*layout"),
        (edit(SWIN, "stages.1.downsample.kind", "inverted_residual"), r"stages\.1\.downsample\.kind .*layout"),
        (edit(SWIN, "stages.1.downsample.hidden_dim", 10), r"hidden_dim must be .*64"),
        (edit(MAPS, "stem.patch_size", 8), r"stem\.patch_size must be"),
        (edit(DEIT, "stem.widths", [8, 24]), r"stem\.widths must"),
        (edit(SWIN, f"{LAYER}.0.shift", [-1, 9]), r"shift must"),
        (edit(DEIT, f"{LAYER}.0.shift", [1, 1]), r"shift .*window"),
        (edit(DEIT, "norm_eps", -1.0), r"norm_eps"),
        (edit(DEIT, "norm_eps", float("nan")), r"norm_eps"),
        (edit(DEIT, f"{LAYER}.0.scale", float("inf")), r"scale"),
        (edit(DEIT, "stages.0.blocks", []), r"stages .*layer"),
        (with_token_and_stages(), r"class_token|position_embedding"),
    ],
)
def test_what_could_not_run_as_stated_is_refused(data, message):
    """Each of these fails inside torch, or runs as something other than it says, unless it is refused here."""
    with pytest.raises(ValueError, match=r"config: .*" + message):
        config_from_dict(data)
