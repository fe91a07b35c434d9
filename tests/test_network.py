"""Whole networks: published sizes, any input size, seeds, gradients, and folding BatchNorm."""

import copy
from itertools import product

import pytest
import timm
import torch
from conftest import draw_images, make_tiny, perturb, relative_error
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from evitlab.models.attention import Windowed
from evitlab.models.config import ModelConfig
from evitlab.models.layers import TokenBatchNorm
from evitlab.models.network import Network, build_model, fold_batchnorm
from evitlab.models.weights import from_timm
from evitlab.models.zoo import ZOO, make_config


def make_model(config: ModelConfig) -> Network:
    model = build_model(config, seed=0).eval()
    perturb(model, seed=1)
    return model


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


# Sizes


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("efficientvit_m0", 2.335),
        ("efficientvit_m1", 2.964),
        ("efficientvit_m2", 4.168),
        ("efficientvit_m3", 6.876),
        ("efficientvit_m4", 8.776),
        ("efficientvit_m5", 12.436),
    ],
)
def test_published_parameters_folded(name, millions):
    """EfficientViT, Table 1 gives one digit; the others are the official code's with BatchNorm folded."""
    assert round(count(fold_batchnorm(build_model(make_config(name)))) / 1e6, 3) == millions


@pytest.mark.parametrize(("name", "parameters"), [("deit_t", 5_717_416), ("swin_t", 28_288_354)])
def test_published_parameters(name, parameters):
    model = build_model(make_config(name))
    assert count(model) == parameters
    assert count(fold_batchnorm(model)) == parameters


# Any input size

SIZES = [(32, 32), (64, 64), (192, 192), (256, 256), (384, 384), (96, 160), (37, 53), (225, 100)]


@pytest.mark.parametrize("name", ["swin_t", "efficientvit_m0"])
def test_any_input_size(name):
    """Built for a size, and built for 224 and fed that size, where timm asserts its own."""
    knobs = {"depth": [2, 2, 2, 2] if name == "swin_t" else [1, 2, 3], "width": 24 if name == "swin_t" else 64}
    general = make_model(make_config(name, num_classes=5, **knobs))
    for size in SIZES:
        images = draw_images(2, *size)
        own = make_model(make_config(name, num_classes=5, image_size=size, **knobs))
        with torch.no_grad():
            for model in (general, own):
                out = model(images)
                assert out.shape == (2, 5)
                assert out.isfinite().all()
                assert relative_error(out[0], out[1]) > 1e-5, "outputs must depend on the image"


def test_a_network_fed_another_size_is_timm_s_built_for_it():
    """At 256 pixels Swin's windows do not tile (64, 32, 16, 8 by 7): timm pads, and with windows of 7 throughout
    the weights are the same as at 224."""
    theirs = timm.create_model("swin_tiny_patch4_window7_224", img_size=(256, 288), depths=(2, 2, 2, 2)).eval()
    perturb(theirs, seed=1)
    model = from_timm(theirs, "swin_t", depth=2, image_size=224)
    images = draw_images(1, 256, 288)
    with torch.no_grad():
        assert relative_error(model(images), theirs(images)) < 1e-5


def test_a_position_embedding_takes_one_size():
    model = make_model(make_tiny("deit_t"))
    with pytest.raises(ValueError, match=r"takes only the image_size that it was built for, \(64, 64\)"):
        model(draw_images(1, 96, 64))


# Seeds and gradients


def test_the_same_seed_gives_the_same_weights(tiny_config):
    first, again, other = (build_model(tiny_config, seed=seed).state_dict() for seed in (3, 3, 4))
    assert first.keys() == again.keys()
    assert all(torch.equal(tensor, again[key]) for key, tensor in first.items())
    assert not torch.equal(first["head.linear.weight"], other["head.linear.weight"])
    matrices = [key for key, tensor in first.items() if tensor.ndim > 1 and not key.endswith("bias.table")]
    drawn = [key for key in matrices if first[key].abs().max() > 0]
    assert not any(torch.equal(first[key], other[key]) for key in drawn)


def test_a_seed_leaves_torch_s_state_alone(tiny_config):
    before = torch.get_rng_state()
    build_model(tiny_config, seed=3)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_seed_leaves_the_state_of_other_devices_alone(tiny_config, monkeypatch):
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    build_model(tiny_config, seed=3)
    assert seeded == []


def test_without_a_seed_weights_come_from_torch_s_state(tiny_config):
    models = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        models.append(build_model(tiny_config).state_dict())
    key = "head.linear.weight"
    assert torch.equal(models[0][key], models[1][key])
    assert not torch.equal(models[0][key], models[2][key])


def test_fresh_weights_are_small_as_in_deit():
    model = build_model(make_config("deit_t", depth=2), seed=0)
    for weight in (
        model.head.linear.weight,
        model.positions.embedding,
        model.stages[0].blocks[0][1].branch.widen.weight,
    ):
        assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.head.linear.bias.abs().max() == 0


@pytest.mark.parametrize("name", ZOO)
def test_gradients_reach_every_parameter(name):
    """Every zoo entry, narrow; perturbed first, because branches that end in a zero give none to what is before it."""
    heads = ZOO[name].heads
    config = make_config(name, width=[4 * h for h in heads], image_size=224 if name == "swin_t" else 112, num_classes=5)
    model = build_model(config, seed=0)
    perturb(model, seed=1)
    out = model.train()(draw_images(2, *config.image_size))
    assert out.shape == (2, 5)
    assert out.isfinite().all()
    out.square().sum().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.abs().max() > 0, parameter_name


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_every_published_network_runs_forward_and_backward(name):
    model = build_model(make_config(name), seed=0)
    model(draw_images(2, 224, 224)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


# What the output depends on


@pytest.mark.parametrize("ratio", [0, 0.5])
def test_a_deit_s_output_depends_on_every_patch(ratio):
    model = make_model(make_tiny("deit_t", mhsa_ratio=ratio, image_size=32, patch_size=8))
    assert model.config.class_token == (ratio > 0)
    images = draw_images(1, 32, 32).requires_grad_()
    model(images).square().sum().backward()
    patches = images.grad.abs().unfold(2, 8, 8).unfold(3, 8, 8).amax((0, 1, 4, 5))
    assert (patches > 0).all()


def test_without_attention_patches_are_averaged():
    """Positions do not mix, so that the logits are the mean of what each position alone would give."""
    model = make_model(make_tiny("deit_t", mhsa_ratio=0, image_size=32, patch_size=16))
    images = draw_images(1, 32, 32)
    with torch.no_grad():
        x = model.positions(model.stem(images))
        alone = [model.head(model.stages[0](x[:, r : r + 1, c : c + 1])) for r in range(2) for c in range(2)]
        assert relative_error(model(images), torch.stack(alone).mean(0)) < 1e-5


# Folding BatchNorm


def batch_norms(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, _BatchNorm)]


FAMILIES = ["deit_t", "swin_t", "efficientvit_m0"]


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["mhsa", "group", "cascaded"])
@pytest.mark.parametrize("name", FAMILIES)
def test_folding_changes_no_output_whatever_the_knobs(name, attention):
    """In float64, where nothing but a wrong formula can make a difference."""
    images = draw_images(2, 64, 64).double()
    ratios = [None, 0, 0.5, 1] if attention == "cascaded" else [None, 0.5]
    for depthwise, sandwich, ratio in product([True, False], [None, 1], ratios):
        knobs = {"depthwise": depthwise, "sandwich": sandwich} | ({} if ratio is None else {"mhsa_ratio": ratio})
        model = make_model(make_tiny(name, attention=attention, norm="batch", v_ratio=0.5, **knobs)).double()
        with torch.no_grad():
            folded = fold_batchnorm(model)
            assert relative_error(folded(images), model(images)) < 1e-10, knobs
        assert len(batch_norms(folded)) < len(batch_norms(model))


@pytest.mark.parametrize(
    ("name", "knobs"),
    [
        ("deit_t", {"norm": "batch", "depthwise": True}),
        ("swin_t", {"norm": "batch", "sandwich": 1, "depthwise": True}),
        ("efficientvit_m0", {}),
        ("efficientvit_m0", {"attention": "mhsa", "act": "hardswish"}),
    ],
)
def test_folding_changes_no_output_in_float32(name, knobs):
    """With statistics from forward passes in training mode: made-up ones let activations of a pre-norm network grow
    from layer to layer, and rounding with them."""
    model = make_model(make_tiny(name, **knobs)).train()
    with torch.no_grad():
        for seed in range(5):
            model(draw_images(8, 64, 64, seed=seed))
        images = draw_images(2, 64, 64, seed=9)
        assert relative_error(fold_batchnorm(model)(images), model.eval()(images)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ZOO if name.startswith("efficientvit")])
def test_no_batch_norm_remains_in_a_published_network(name):
    model = make_model(make_config(name))
    folded = fold_batchnorm(model)
    assert len(batch_norms(model)) > 50
    assert batch_norms(folded) == []
    images = draw_images(1, 224, 224)
    with torch.no_grad():
        assert relative_error(folded(images), model(images)) < 1e-5


@pytest.mark.parametrize("attention", ["mhsa", "group"])
@pytest.mark.parametrize("depthwise", [True, False])
def test_no_batch_norm_remains_in_a_deit_whose_heads_are_independent(attention, depthwise):
    model = build_model(make_tiny("deit_t", norm="batch", attention=attention, depthwise=depthwise))
    assert len(batch_norms(model)) > 0
    assert batch_norms(fold_batchnorm(model)) == []


def test_batch_norm_remains_before_windows_and_before_a_cascade():
    swin = fold_batchnorm(build_model(make_tiny("swin_t", norm="batch")))
    before_windows = [n for n, module in swin.named_modules() if isinstance(getattr(module, "branch", None), Windowed)]
    assert batch_norms(swin) == [f"{name}.norm" for name in before_windows]
    deit = fold_batchnorm(build_model(make_tiny("deit_t", norm="batch", attention="cascaded")))
    assert batch_norms(deit) == ["stages.0.blocks.0.0.norm", "stages.0.blocks.1.0.norm"]


@pytest.mark.parametrize("training", [True, False])
def test_folding_leaves_the_original_as_it_was(tiny_config, training):
    model = make_model(tiny_config).train(training)
    before = copy.deepcopy(model.state_dict())
    folded = fold_batchnorm(model)
    assert not any(module.training for module in folded.modules())
    assert all(module.training == training for module in model.modules())
    perturb(folded, seed=7)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_folding_without_batch_norm_copies():
    model = make_model(make_tiny("swin_t"))
    assert batch_norms(model) == []
    images = draw_images(1, 64, 64)
    assert torch.equal(fold_batchnorm(model)(images), model(images))


def test_folding_twice_is_folding_once():
    model = make_model(make_tiny("deit_t", norm="batch"))
    assert isinstance(model.head.norm, TokenBatchNorm)
    images = draw_images(1, 64, 64)
    once = fold_batchnorm(model)
    assert torch.equal(fold_batchnorm(once)(images), once(images))
