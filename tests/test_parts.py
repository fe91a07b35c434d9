"""Parts: their MACs against hand formulas, on networks built here and on timm's."""

from collections import Counter

import pytest
import timm
import torch
from torch import nn

from evitlab.measure import dispatch
from evitlab.measure.classes import classify
from evitlab.measure.macs import count_macs
from evitlab.measure.parts import ELSEWHERE, Part, find_parts, find_products, name_step
from evitlab.models.attention import attention_path
from evitlab.models.network import build_model
from evitlab.models.zoo import make_config


@pytest.fixture(autouse=True)
def one_pass(monkeypatch):
    """No faults are looked at here."""
    monkeypatch.setattr(dispatch, "FAULT_PASSES", 1)


@torch.no_grad()
def macs_by_part(model, image_size=224):
    """MACs of each part, and of each step of MHSA; and the modules of each part."""
    model = model.eval().requires_grad_(False)
    images = torch.zeros(1, 3, image_size, image_size)
    model(images)  # some of timm's networks keep what they compute in the first pass
    calls = dispatch.record_calls(model, model, images)
    parts = find_parts(model)
    places = [parts[call.module] for call in calls]
    products = find_products((call.operator, place) for call, place in zip(calls, places, strict=True))
    macs, steps, modules = Counter(), Counter(), {}
    for call, place, product in zip(calls, places, products, strict=True):
        modules.setdefault(place.kind, set()).add(place.module)
        for kernel in call.kernels:
            macs[place.kind] += kernel.macs
            steps[name_step(product, classify(kernel.operator))] += kernel.macs
    del steps[""]
    return +macs, +steps, modules


def deit_t_by_hand(depth):
    N, C, heads, d = 197, 192, 3, 64
    scores = depth * heads * N * N * d
    return (
        {
            "stem": 196 * 16 * 16 * 3 * C,
            "MHSA": depth * 4 * N * C * C + 2 * scores,
            "FFN": depth * 8 * N * C * C,
            "head": 1000 * C,
        },
        {"projections": depth * 4 * N * C * C, "scores": scores, "mixing": scores},
    )


def test_deit_t_by_hand():
    model = build_model(make_config("deit_t", depth=2))
    with attention_path(model, "explicit"):
        macs, steps, modules = macs_by_part(model)
    assert (macs, steps) == deit_t_by_hand(2)
    assert modules["MHSA"] == {"stages.0.blocks.0.0.branch", "stages.0.blocks.1.0.branch"}
    assert modules["FFN"] == {"stages.0.blocks.0.1.branch", "stages.0.blocks.1.1.branch"}
    assert modules["other"] == {""}
    assert "stages.0.blocks.0.0.norm" in modules["norm"]


def test_fused_attention_is_one_step():
    macs, steps, _ = macs_by_part(build_model(make_config("deit_t", depth=2)))
    parts, by_step = deit_t_by_hand(2)
    assert macs == parts
    assert steps == {
        "projections": by_step["projections"],
        "fused attention": by_step["scores"] + by_step["mixing"],
    }


def test_timms_deit_t_by_hand():
    model = timm.create_model("vit_tiny_patch16_224", depth=2)
    for block in model.blocks:
        block.attn.fused_attn = False
    macs, steps, modules = macs_by_part(model)
    assert (macs, steps) == deit_t_by_hand(2)
    assert modules["MHSA"] == {"blocks.0.attn", "blocks.1.attn"}
    assert modules["norm"] == {"norm", *(f"blocks.{i}.norm{j}" for i in (0, 1) for j in (1, 2))}


# What is where in timm's networks: a module of each part, and parts that they lack.
TIMM = {
    "swin_tiny_patch4_window7_224": (
        {
            "stem": "patch_embed",
            "MHSA": "layers.0.blocks.0.attn",
            "FFN": "layers.3.blocks.0.mlp",
            "downsampling": "layers.1.downsample",
            "norm": "layers.0.blocks.0.norm1",
            "head": "head",
        },
        set(),
    ),
    "efficientvit_m0": (
        {
            "stem": "patch_embed",
            "MHSA": "stages.0.blocks.0.mixer.m",
            "FFN": "stages.1.downsample.res1.1.m",
            "downsampling": "stages.1.downsample.patchmerge",
            "head": "head",
        },
        set(),
    ),
    "mobilenetv3_large_100": ({"stem": "conv_stem", "head": "classifier"}, {"MHSA", "FFN"}),
    "resnet18": ({"stem": "conv1", "downsampling": "layer2.0.downsample", "head": "fc"}, {"MHSA", "FFN"}),
    "levit_128s": (
        {
            "stem": "stem",
            "MHSA": "stages.0.blocks.0.attn",
            "FFN": "stages.0.blocks.0.mlp",
            "downsampling": "stages.1.downsample",
            "head": "head",
        },
        set(),
    ),
    "convnext_atto": (
        {"stem": "stem", "FFN": "stages.0.blocks.0.mlp", "downsampling": "stages.1.downsample", "head": "head"},
        {"MHSA"},
    ),
}

SHALLOW = {"swin_tiny_patch4_window7_224": {"depths": (1, 1, 1, 1)}, "efficientvit_m0": {"depth": (1, 1, 1)}}


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM)
def test_parts_of_timms_networks(name):
    model = timm.create_model(name, **SHALLOW.get(name, {}))
    macs, _, modules = macs_by_part(model)
    present, absent = TIMM[name]
    assert {kind: module for kind, module in present.items() if module not in modules.get(kind, ())} == {}
    assert not absent & set(modules)
    assert sum(macs.values()) == count_macs(model, image_size=224).macs


def test_timms_swin_and_ours_agree():
    ours, _, _ = macs_by_part(build_model(make_config("swin_t", depth=1)))
    theirs, _, _ = macs_by_part(timm.create_model("swin_tiny_patch4_window7_224", depths=(1, 1, 1, 1)))
    assert ours == theirs


def test_timms_efficientvit_and_ours_agree():
    ours, _, _ = macs_by_part(build_model(make_config("efficientvit_m0", depth=1)))
    theirs, _, _ = macs_by_part(timm.create_model("efficientvit_m0", depth=(1, 1, 1)))
    assert ours == theirs
    assert ours["other"] > 0  # depthwise convolutions beside the FFNs


def test_the_outermost_part_counts():
    block = nn.ModuleDict({"attn": nn.MultiheadAttention(8, 2), "downsample": nn.Sequential(nn.BatchNorm2d(3))})
    parts = find_parts(
        nn.ModuleDict({"block": block, "fc": nn.Linear(2, 2), "blocks": nn.ModuleDict({"fc": nn.ReLU()})})
    )
    attention = Part(kind="MHSA", module="block.attn")
    assert parts["block.attn"] == parts["block.attn.out_proj"] == attention
    assert parts["block.downsample.0"] == Part(kind="downsampling", module="block.downsample")
    assert parts["fc"] == Part(kind="head", module="fc")
    assert parts["block"] == parts["blocks.fc"] == parts[""] == ELSEWHERE


def test_products_of_attention_by_order():
    one, two = (Part(kind="MHSA", module=name) for name in ("a", "b"))
    calls = {
        ("aten::linear", one): "projections",
        ("aten::conv2d", one): "projections",
        ("aten::matmul", one): "scores",
        ("aten::matmul", two): "scores",
        ("aten::softmax", one): "projections",
        ("aten::dropout", one): "projections",
        ("aten::bmm", one): "mixing",
        ("aten::baddbmm", one): "scores",
        ("aten::einsum", two): "scores",
        ("aten::scaled_dot_product_attention", two): "fused attention",
        ("aten::matmul", ELSEWHERE): "",
    }
    assert find_products(calls) == list(calls.values())


def test_steps_by_class():
    expected = {
        "matrix product": "scores",
        "reshape and copy": "reshapes",
        "softmax": "softmax",
        "convolution": "projections",
        "element-wise": "other",
    }
    assert {name: name_step("scores", name) for name in expected} == expected
    assert name_step("projections", "reshape and copy", operator="aten::linear") == "projections"
    assert name_step("projections", "reshape and copy", operator="aten::flatten") == "reshapes"
    assert name_step("", "matrix product", operator="aten::linear") == ""
    assert name_step("", "matrix product") == ""
