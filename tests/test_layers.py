"""The small parts, each against its formula written out or against torch's own layer."""

from dataclasses import replace

import pytest
import torch
from conftest import draw_images, make_tiny, perturb, relative_error
from torch import nn
from torch.nn import functional as F

from evitlab.models.config import StemConfig
from evitlab.models.ffn import FFN
from evitlab.models.layers import (
    ConvNorm,
    Head,
    InvertedResidual,
    OverlappingStem,
    Parts,
    PatchMerging,
    PatchStem,
    Positions,
    Residual,
    TokenBatchNorm,
    TokenConv,
    pad_maps,
)

TOKENS, MAPS = make_tiny("swin_t"), make_tiny("efficientvit_m0")
ACTIVATIONS = {
    "relu": lambda x: x.clamp(min=0),
    "gelu": lambda x: x / 2 * (1 + torch.erf(x / 2**0.5)),
    "hardswish": lambda x: x * (x + 3).clamp(0, 6) / 6,
}


def ready(module):
    perturb(module, seed=1)
    return module.eval()


def normalise(x: torch.Tensor, norm: nn.BatchNorm2d) -> torch.Tensor:
    """BatchNorm in eval mode over (B, C, H, W)."""
    mean, var, weight, bias = (t[:, None, None] for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias))
    return (x - mean) / (var + norm.eps).sqrt() * weight + bias


# Norms and projections


@pytest.mark.parametrize("training", [True, False])
def test_token_batch_norm_is_batch_norm_of_the_map(training):
    ours, theirs = ready(TokenBatchNorm(6)).train(training), ready(nn.BatchNorm2d(6)).train(training)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 4, 6)
    assert relative_error(ours(x), theirs(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)) < 1e-6
    assert relative_error(ours.running_var, theirs.running_var) < 1e-6
    assert ours(x.flatten(1, 2)).shape == (2, 12, 6)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name):
    x = torch.linspace(-5, 5, 101)
    assert relative_error(Parts(replace(MAPS, act=name)).act()(x), ACTIVATIONS[name](x)) < 1e-6


def test_norms_follow_layout_and_config():
    def norm_types(config):
        parts = Parts(config)
        return type(parts.token_norm(4)), type(parts.branch_norm(4)), type(parts.conv(4, 4, kernel=3).norm)

    assert norm_types(replace(TOKENS, norm="layer"))[:2] == (nn.LayerNorm, nn.LayerNorm)
    assert norm_types(replace(TOKENS, norm="batch")) == (TokenBatchNorm, TokenBatchNorm, nn.BatchNorm2d)
    assert norm_types(replace(MAPS, norm="batch")) == (TokenBatchNorm, nn.Identity, nn.BatchNorm2d)
    assert Parts(replace(TOKENS, norm_eps=0.5)).token_norm(4).eps == 0.5
    x = torch.randn(2, 4, 5, 5)
    layer = Parts(replace(MAPS, norm="layer")).conv(4, 6, kernel=1)
    expected = F.layer_norm(layer.conv(x).permute(0, 2, 3, 1), (6,), eps=MAPS.norm_eps).permute(0, 3, 1, 2)
    assert relative_error(layer(x), expected) < 1e-6


def test_a_projection_of_maps_is_that_of_tokens_and_its_norm():
    tokens, maps = ready(Parts(TOKENS).pointwise(4, 6)), ready(Parts(MAPS).pointwise(4, 6))
    assert isinstance(tokens, nn.Linear)
    assert isinstance(maps, ConvNorm)
    assert maps.conv.bias is None
    x = torch.randn(2, 4, 3, 5)
    product = torch.einsum("dc,bchw->bdhw", maps.conv.weight[:, :, 0, 0], x)
    assert relative_error(maps(x), normalise(product, maps.norm)) < 1e-6


def test_the_norm_that_ends_a_branch_starts_at_zero():
    parts = Parts(MAPS)
    assert parts.pointwise(4, 4, ends_branch=True).norm.weight.abs().max() == 0
    assert parts.pointwise(4, 4).norm.weight.abs().min() == 1
    assert FFN(4, 8, parts).narrow.norm.weight.abs().max() == 0
    assert parts.depthwise(4, kernel=3).norm.weight.abs().max() == 0


def test_residual():
    layer = Residual(nn.LayerNorm(4), nn.Linear(4, 4))
    x = torch.randn(2, 3, 4)
    assert torch.equal(layer(x), x + layer.branch(layer.norm(x)))


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_ffn_of_tokens(act):
    ffn = ready(FFN(4, 10, Parts(replace(TOKENS, act=act))))
    x = torch.randn(2, 3, 4)
    hidden = ACTIVATIONS[act](x @ ffn.widen.weight.mT + ffn.widen.bias)
    assert relative_error(ffn(x), hidden @ ffn.narrow.weight.mT + ffn.narrow.bias) < 1e-6


def test_ffn_of_maps():
    ffn = ready(FFN(4, 10, Parts(MAPS)))
    x = torch.randn(2, 4, 3, 5)
    hidden = normalise(F.conv2d(x, ffn.widen.conv.weight), ffn.widen.norm).relu()
    assert relative_error(ffn(x), normalise(F.conv2d(hidden, ffn.narrow.conv.weight), ffn.narrow.norm)) < 1e-6


# Depthwise convolution


@pytest.mark.parametrize("kernel", [3, 5])
def test_depthwise_convolution_keeps_channels_apart(kernel):
    layer = ready(Parts(MAPS).depthwise(4, kernel=kernel))
    x = torch.randn(2, 4, 6, 5)
    for channel in range(4):
        alone = F.conv2d(x[:, channel : channel + 1], layer.conv.weight[channel : channel + 1], padding=kernel // 2)
        padded = alone.expand(-1, 4, -1, -1)  # only its own channel counts below
        assert relative_error(layer(x)[:, channel], normalise(padded, layer.norm)[:, channel]) < 1e-5


def test_a_convolution_of_tokens_is_that_of_their_map_and_passes_the_class_token_by():
    config = make_tiny("deit_t", image_size=(64, 96))
    layer = ready(Parts(config).depthwise(24, kernel=3))
    assert isinstance(layer, TokenConv)
    maps = torch.randn(2, 24, 4, 6)
    expected = layer.conv(maps)
    tokens = torch.cat([torch.randn(2, 1, 24), maps.flatten(2).mT], dim=1)
    assert layer(tokens)[:, 0].abs().max() == 0
    assert relative_error(layer(tokens)[:, 1:], expected.flatten(2).mT) < 1e-6
    assert relative_error(layer(maps.permute(0, 2, 3, 1)), expected.permute(0, 2, 3, 1)) < 1e-6


# Stems


def test_a_patch_stem_projects_each_patch():
    stem = ready(PatchStem(StemConfig(kind="patch", patch_size=4, widths=(6,), norm=True), Parts(TOKENS)))
    images = draw_images(2, 8, 12)
    out = stem(images)
    assert out.shape == (2, 2, 3, 6)
    for row in range(2):
        for column in range(3):
            patch = images[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].flatten(1)
            vector = patch @ stem.proj.weight.flatten(1).mT + stem.proj.bias
            expected = F.layer_norm(vector, (6,), stem.norm.weight, stem.norm.bias, eps=TOKENS.norm_eps)
            assert relative_error(out[:, row, column], expected) < 1e-5


def test_patches_at_a_ragged_edge_are_filled_with_zeros():
    stem = ready(PatchStem(StemConfig(kind="patch", patch_size=4, widths=(6,)), Parts(TOKENS)))
    images = draw_images(1, 6, 9)
    filled = torch.zeros(1, 3, 8, 12)
    filled[:, :, :6, :9] = images
    assert torch.equal(stem(images), stem(filled))
    assert torch.equal(pad_maps(images, 4), filled)
    assert pad_maps(filled, 4) is filled


@pytest.mark.parametrize(
    ("size", "expected"), [((64, 96), (4, 6)), ((32, 16), (2, 1)), ((65, 80), (5, 5)), ((1, 17), (1, 2))]
)
def test_an_overlapping_stem_halves_four_times(size, expected):
    stem = ready(OverlappingStem(StemConfig(kind="overlapping", patch_size=16, widths=(2, 4, 8, 16)), Parts(MAPS)))
    images = draw_images(2, *size)
    assert stem(images).shape == (2, 16, *expected)
    assert [type(layer).__name__ for layer in stem] == ["ConvNorm", *["ReLU", "ConvNorm"] * 3]
    x = images
    for step, layer in enumerate(list(stem)[::2]):
        x = normalise(F.conv2d(x.relu() if step else x, layer.conv.weight, stride=2, padding=1), layer.norm)
    assert relative_error(stem(images), x) < 1e-5


# Between stages


@pytest.mark.parametrize("size", [(4, 6), (5, 6), (4, 3), (1, 1)])
def test_patch_merging_concatenates_four_neighbours(size):
    """Swin's order: upper left, lower left, upper right, lower right; zeros beyond the edge."""
    merge = ready(PatchMerging(3, 12, 7, Parts(TOKENS)))
    x = torch.randn(2, *size, 3)
    out = merge(x)
    filled = torch.zeros(2, size[0] + size[0] % 2, size[1] + size[1] % 2, 3)
    filled[:, : size[0], : size[1]] = x
    assert out.shape == (2, filled.shape[1] // 2, filled.shape[2] // 2, 7)
    for row in range(out.shape[1]):
        for column in range(out.shape[2]):
            four = [filled[:, 2 * row + down, 2 * column + right] for right in (0, 1) for down in (0, 1)]
            expected = merge.norm(torch.cat(four, dim=1)) @ merge.reduction.weight.mT
            assert relative_error(out[:, row, column], expected) < 1e-5


def test_inverted_residual():
    """Sandler et al. 2018 with squeeze-and-excitation (Hu et al. 2018), its own activation always ReLU."""
    layer = ready(InvertedResidual(4, 16, 6, Parts(replace(MAPS, act="hardswish"))))
    x = torch.randn(2, 4, 5, 8)
    h = F.hardswish(normalise(F.conv2d(x, layer.widen.conv.weight), layer.widen.norm))
    depthwise = F.conv2d(h, layer.depthwise.conv.weight, stride=2, padding=1, groups=16)
    h = F.hardswish(normalise(depthwise, layer.depthwise.norm))
    squeeze, excite = layer.excite.fc1, layer.excite.fc2
    gate = F.conv2d(
        F.conv2d(h.mean((2, 3), keepdim=True), squeeze.weight, squeeze.bias).relu(), excite.weight, excite.bias
    )
    expected = normalise(F.conv2d(h * gate.sigmoid(), layer.narrow.conv.weight), layer.narrow.norm)
    assert layer(x).shape == (2, 6, 3, 4)
    assert relative_error(layer(x), expected) < 1e-5


# Positions and head


def test_positions_add_their_embedding_behind_a_class_token():
    config = make_tiny("deit_t", image_size=(32, 48))
    layer = ready(Positions(config, 24))
    x = torch.randn(2, 2, 3, 24)
    out = layer(x)
    assert out.shape == (2, 7, 24)
    assert torch.equal(out[:, 0], (layer.class_token[0, 0] + layer.embedding[0, 0]).expand(2, -1))
    assert torch.equal(out[:, 1:], x.flatten(1, 2) + layer.embedding[0, 1:])


def test_positions_without_a_class_token_stay_a_map():
    layer = ready(Positions(replace(make_tiny("deit_t", image_size=(32, 48)), class_token=False), 24))
    x = torch.randn(2, 2, 3, 24)
    assert torch.equal(layer(x), x + layer.embedding.view(1, 2, 3, 24))


def test_positions_take_one_image_size():
    layer = Positions(make_tiny("deit_t", image_size=(32, 48)), 24)
    message = r"takes only the image_size .* built for, \(32, 48\) \(\(2, 3\) positions\), but got \(3, 3\) positions"
    with pytest.raises(ValueError, match=message):
        layer(torch.randn(2, 3, 3, 24))


def test_the_head_reads_the_class_token_or_the_average():
    deit = make_tiny("deit_t")
    x = torch.randn(2, 5, 24)
    head = ready(Head(24, Parts(deit)))
    expected = F.layer_norm(x[:, 0], (24,), head.norm.weight, head.norm.bias, eps=1e-6) @ head.linear.weight.mT
    assert relative_error(head(x), expected + head.linear.bias) < 1e-5

    head = ready(Head(16, Parts(TOKENS)))  # tokens: averaged after the norm
    x = torch.randn(2, 3, 4, 16)
    mean = F.layer_norm(x, (16,), head.norm.weight, head.norm.bias, eps=1e-5).mean((1, 2))
    assert relative_error(head(x), mean @ head.linear.weight.mT + head.linear.bias) < 1e-5

    head = ready(Head(16, Parts(MAPS)))  # maps: averaged before it
    x = torch.randn(2, 16, 3, 4)
    normed = normalise(x.mean((2, 3), keepdim=True), head.norm).flatten(1)
    assert relative_error(head(x), normed @ head.linear.weight.mT + head.linear.bias) < 1e-5
