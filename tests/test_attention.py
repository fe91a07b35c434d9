"""Attention: both paths against plain loops over windows, heads, queries and keys in float64; what depends on what."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from conftest import make_tiny, perturb, relative_error
from torch import Tensor, nn

from evitlab.models.attention import Attend, PositionBias, Windowed, attention_path, make_mixer
from evitlab.models.config import AttentionConfig
from evitlab.models.layers import Parts
from evitlab.models.network import build_model

WIDTH, HEADS = 12, 3
PARTS = {layout: Parts(make_tiny(name)) for layout, name in {"tokens": "swin_t", "maps": "efficientvit_m0"}.items()}
CHANNELS = {"tokens": -1, "maps": 1}


def make_config(kind: str = "mhsa", **changes) -> AttentionConfig:
    settings = {"num_heads": HEADS, "qk_dim": 5, "v_dim": 4, "scale": 0.4} | changes
    return AttentionConfig(kind=kind, **settings)


def make_layer(config: AttentionConfig, layout: str) -> nn.Module:
    layer = make_mixer(WIDTH, config, PARTS[layout]).double().eval()
    perturb(layer, seed=1)
    return layer


def draw_map(height: int, width: int) -> Tensor:
    """One image's features, (height, width, channels)."""
    return torch.randn(height, width, WIDTH, dtype=torch.float64)


def run(layer: nn.Module, x: Tensor, layout: str) -> Tensor:
    """A layer on one image, whose channels come last here in both layouts."""
    if layout == "tokens":
        return layer(x[None])[0]
    return layer(x.permute(2, 0, 1)[None])[0].permute(1, 2, 0)


# The reference


def attend_slowly(q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor) -> Tensor:
    """One head: q, k (N, qk), v (N, v), bias (N, N)."""
    out = torch.zeros(len(q), v.shape[1], dtype=torch.float64)
    for query in range(len(q)):
        scores = [scale * float(q[query] @ k[key]) + float(bias[query, key]) for key in range(len(k))]
        weights = torch.tensor(scores, dtype=torch.float64).exp()
        for key in range(len(k)):
            out[query] += weights[key] / weights.sum() * v[key]
    return out


def bias_slowly(mixer: nn.Module, head: int, height: int, width: int) -> Tensor:
    """A head's bias for each pair of positions: Swin's table is over signed offsets, LeViT's over absolute ones."""
    config, bias = mixer.config, torch.zeros(height * width, height * width, dtype=torch.float64)
    if config.position_bias == "none":
        return bias
    tall, wide = config.window
    for y1, x1, y2, x2 in product(range(height), range(width), range(height), range(width)):
        down, right = y1 - y2, x1 - x2
        if config.position_bias == "relative":
            offset = (down + tall - 1) * (2 * wide - 1) + (right + wide - 1)
        else:
            offset = abs(down) * wide + abs(right)
        bias[y1 * width + x1, y2 * width + x2] = mixer.bias.table[head, offset]
    return bias


def mix_slowly(mixer: nn.Module, x: Tensor, layout: str, mask: Tensor) -> Tensor:
    """All heads of one window; the projections are torch's own layers, all between them is written out."""
    config, outputs = mixer.config, []
    height, width, split = *x.shape[:2], WIDTH // HEADS
    for head in range(HEADS):
        if config.kind == "mhsa":
            q, k = (
                run(layer, x, layout)[..., head * config.qk_dim : (head + 1) * config.qk_dim]
                for layer in (mixer.q, mixer.k)
            )
            v = run(mixer.v, x, layout)[..., head * config.v_dim : (head + 1) * config.v_dim]
        else:
            own = x[..., head * split : (head + 1) * split].clone()
            if config.kind == "cascaded" and outputs:
                for channel in range(min(split, config.v_dim)):
                    own[..., channel] += outputs[-1][..., channel]
            qkv = run(mixer.qkv[head], own, layout)
            q, k, v = (
                qkv[..., : config.qk_dim],
                qkv[..., config.qk_dim : 2 * config.qk_dim],
                qkv[..., 2 * config.qk_dim :],
            )
        if config.query_kernels is not None:
            q = run(mixer.query_convs[head], q, layout)
        bias = bias_slowly(mixer, head, height, width) + mask
        out = attend_slowly(*(t.flatten(0, 1) for t in (q, k, v)), config.scale, bias)
        outputs.append(out.view(height, width, -1))
    return run(mixer.proj, torch.cat(outputs, dim=-1), layout)


def region(place: int, side: int, window: int, shift: int) -> int:
    """Where a place of the shifted, padded map came from: windows before the last, the last's own, the wrapped rest."""
    return 0 if place < side - window else 1 if place < side - shift else 2


def window_slowly(layer: Windowed, x: Tensor, layout: str) -> Tensor:
    """Window by window: first shifted, then padded with zeros on the right and below, as timm does."""
    config = layer.mixer.config
    height, width = x.shape[:2]
    tall, wide = min(config.window[0], height), min(config.window[1], width)
    down = config.shift[0] if tall < height else 0
    right = config.shift[1] if wide < width else 0
    padded = torch.zeros(-(-height // tall) * tall, -(-width // wide) * wide, WIDTH, dtype=torch.float64)
    for row, column in product(range(height), range(width)):
        padded[row, column] = x[(row + down) % height, (column + right) % width]
    out = torch.zeros_like(padded)
    for top, left in product(range(0, len(padded), tall), range(0, padded.shape[1], wide)):
        places = [(r, c) for r in range(top, top + tall) for c in range(left, left + wide)]
        regions = [
            (region(r, len(padded), tall, down) if down else 0, region(c, padded.shape[1], wide, right) if right else 0)
            for r, c in places
        ]
        mask = torch.tensor([[0.0 if a == b else -100.0 for b in regions] for a in regions], dtype=torch.float64)
        window = padded[top : top + tall, left : left + wide]
        out[top : top + tall, left : left + wide] = mix_slowly(layer.mixer, window, layout, mask)
    back = torch.zeros_like(x)
    for row, column in product(range(height), range(width)):
        back[(row + down) % height, (column + right) % width] = out[row, column]
    return back


def compute_slowly(layer: nn.Module, x: Tensor, layout: str) -> Tensor:
    if isinstance(layer, Windowed):
        return window_slowly(layer, x, layout)
    return mix_slowly(layer, x, layout, torch.zeros(x.shape[0] * x.shape[1], x.shape[0] * x.shape[1]))


# Both paths against the reference

WINDOWS = {
    "whole map": ({}, (3, 4)),
    "one window": ({"window": (3, 4), "position_bias": "relative"}, (3, 4)),
    "map smaller than its window": ({"window": (5, 6), "shift": (2, 3), "position_bias": "distance"}, (3, 4)),
    "tiled": ({"window": (2, 3), "position_bias": "distance"}, (4, 6)),
    "ragged": ({"window": (3, 3), "position_bias": "relative"}, (4, 5)),
    "shifted": ({"window": (3, 2), "shift": (1, 1), "position_bias": "relative"}, (6, 4)),
    "shifted without bias": ({"window": (3, 2), "shift": (1, 1)}, (6, 4)),
    "shifted one way": ({"window": (3, 4), "shift": (1, 2), "position_bias": "relative"}, (6, 3)),
    "shifted and ragged": ({"window": (3, 3), "shift": (1, 1), "position_bias": "distance"}, (7, 4)),
}


@pytest.mark.parametrize("kind", ["mhsa", "group", "cascaded"])
@pytest.mark.parametrize("layout", ["tokens", "maps"])
@pytest.mark.parametrize("window", WINDOWS)
def test_both_paths_agree_with_plain_loops(window, layout, kind):
    settings, (height, width) = WINDOWS[window]
    for v_dim in (2, 4, 7):  # narrower than a head's split of the channels, as wide, wider
        kernels = (3, 1, 5) if layout == "maps" and v_dim != 4 else None
        layer = make_layer(make_config(kind, v_dim=v_dim, query_kernels=kernels, **settings), layout)
        x = draw_map(height, width)
        with torch.no_grad():
            expected = compute_slowly(layer, x, layout)
            for path in ("fused", "explicit"):
                with attention_path(layer, path):
                    assert relative_error(run(layer, x, layout), expected) < 1e-12, (path, v_dim)


@pytest.mark.parametrize("layout", ["tokens", "maps"])
def test_images_of_a_batch_do_not_mix(layout):
    layer = make_layer(make_config("cascaded", window=(3, 3), shift=(1, 1), position_bias="relative"), layout)
    images = torch.stack([draw_map(7, 4) for _ in range(3)])
    batch = images if layout == "tokens" else images.permute(0, 3, 1, 2)
    for path in ("fused", "explicit"):
        with attention_path(layer, path), torch.no_grad():
            out = layer(batch) if layout == "tokens" else layer(batch).permute(0, 2, 3, 1)
            for image, got in zip(images, out, strict=True):
                assert relative_error(got, run(layer, image, layout)) < 1e-12


@pytest.mark.parametrize("name", ["deit_t", "swin_t", "efficientvit_m0"])
@pytest.mark.parametrize("attention", ["mhsa", "group", "cascaded"])
def test_both_paths_agree_in_whole_networks(name, attention):
    model = build_model(make_tiny(name, attention=attention, qk_dim=3, v_ratio=1.5), seed=0).eval()
    perturb(model, seed=1)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        with attention_path(model, "fused"):
            fused = model(images)
        with attention_path(model, "explicit"):
            explicit = model(images)
    assert relative_error(fused, explicit) < 1e-5
    assert not torch.equal(fused, explicit), "the two paths must be two"


def test_the_published_paths_are_the_default():
    paths = {name: {m.path for m in build_model(make_tiny(name)).modules() if isinstance(m, Attend)} for name in PATHS}
    assert paths == PATHS


PATHS = {"deit_t": {"fused"}, "swin_t": {"explicit"}, "efficientvit_m0": {"explicit"}}


@pytest.mark.parametrize("name", list(PATHS))
@pytest.mark.parametrize("path", ["fused", "explicit"])
def test_a_knob_chooses_the_path(name, path):
    model = build_model(make_tiny(name, attention_path=path))
    assert {module.path for module in model.modules() if isinstance(module, Attend)} == {path}


def test_paths_are_restored():
    layers = nn.ModuleList(make_layer(make_config(), "tokens") for _ in range(3))
    layers[1].attend.path = "explicit"
    before = [layer.attend.path for layer in layers]
    with attention_path(layers, "fused"):
        assert {layer.attend.path for layer in layers} == {"fused"}
    assert [layer.attend.path for layer in layers] == before
    with pytest.raises(RuntimeError), attention_path(layers, "explicit"):
        layers[0](torch.zeros(1))
    assert [layer.attend.path for layer in layers] == before == ["fused", "explicit", "fused"]


# Heads


@pytest.mark.parametrize("layout", ["tokens", "maps"])
@pytest.mark.parametrize("kind", ["mhsa", "group", "cascaded"])
def test_a_head_depends_on_what_its_kind_says(kind, layout):
    layer = make_layer(make_config(kind, v_dim=WIDTH // HEADS), layout)
    before_proj = []
    layer.proj.register_forward_pre_hook(lambda module, inputs: before_proj.append(inputs[0]))
    x = draw_map(3, 4).requires_grad_()
    run(layer, x, layout)
    outputs = before_proj[0].chunk(HEADS, dim=CHANNELS[layout])
    for head, out in enumerate(outputs):
        (gradient,) = torch.autograd.grad(out.square().sum(), x, retain_graph=True)
        reached = [bool(split.abs().max() > 0) for split in gradient.chunk(HEADS, dim=-1)]
        seen = {"mhsa": range(HEADS), "group": [head], "cascaded": range(head + 1)}[kind]
        assert reached == [split in seen for split in range(HEADS)], head


# Windows


def test_positions_see_those_of_their_shifted_window_and_no_others():
    """Swin, Fig. 4: windows moved by the shift, those at the edge cut off by it."""
    size, window, shift = 6, 3, 1
    layer = make_layer(make_config(window=(window, window), shift=(shift, shift)), "tokens")
    x = draw_map(size, size).requires_grad_()
    out = run(layer, x, "tokens")
    cell = [[((r - shift) // window, (c - shift) // window) for c in range(size)] for r in range(size)]
    for row, column in product(range(size), range(size)):
        (gradient,) = torch.autograd.grad(out[row, column].sum(), x, retain_graph=True)
        for r, c in product(range(size), range(size)):
            reached = gradient[r, c].abs().max() > 1e-30  # a score of -100 leaves exp(-100) = 4e-44
            assert reached == (cell[r][c] == cell[row][column]), (row, column, r, c)


def test_positions_see_those_of_their_window_and_no_others():
    layer = make_layer(make_config(window=(2, 3)), "maps")
    x = draw_map(4, 6).requires_grad_()
    out = run(layer, x, "maps")
    (gradient,) = torch.autograd.grad(out[3, 1].sum(), x)
    reached = gradient.abs().amax(-1) > 0
    expected = torch.zeros(4, 6, dtype=torch.bool)
    expected[2:4, 0:3] = True
    assert torch.equal(reached, expected)


# Position bias


@pytest.mark.parametrize("name", ["swin_t", "efficientvit_m0"])
def test_an_edited_bias_table_acts_at_once(name):
    """timm's EfficientViT keeps biases from the first forward pass in eval mode: edited weights run stale there."""
    model = build_model(make_tiny(name), seed=0).eval()
    perturb(model, seed=1)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        before = model(images)
        for module in model.modules():
            if isinstance(module, PositionBias):
                module.table.add_(torch.randn_like(module.table))
        after = model(images)
        fresh = build_model(model.config, seed=5).eval()
        fresh.load_state_dict(model.state_dict())
        assert relative_error(after, before) > 1e-3
        assert torch.equal(fresh(images), after)
        model.load_state_dict(build_model(model.config, seed=5).state_dict())
        assert torch.equal(model(images), build_model(model.config, seed=5).eval()(images))


def test_no_derived_tensor_is_kept_beside_the_weights():
    model = build_model(make_tiny("efficientvit_m0"))
    assert not any(".index" in name for name in model.state_dict())
    learnt = {name for name, _ in model.named_parameters()}
    kept = {name for name, _ in model.named_buffers()} - learnt
    assert {name.rsplit(".", 1)[1] for name in kept} == {"running_mean", "running_var", "num_batches_tracked", "index"}


def test_position_bias_needs_a_table_entry_for_each_offset():
    assert PositionBias(2, (3, 4), signed=True).table.shape == (2, 5 * 7)
    assert PositionBias(2, (3, 4), signed=False).table.shape == (2, 3 * 4)
    signed = PositionBias(1, (3, 4), signed=True)(3, 4)
    assert signed.shape == (1, 12, 12)
    assert signed[0].unique().tolist() == [0.0]


def test_scale_is_the_config_s_not_the_head_s():
    narrow, wide = (make_layer(replace(make_config(), scale=scale), "tokens") for scale in (0.1, 1.0))
    wide.load_state_dict(narrow.state_dict())
    x = draw_map(3, 4)
    with torch.no_grad():
        assert relative_error(run(narrow, x, "tokens"), run(wide, x, "tokens")) > 1e-3
