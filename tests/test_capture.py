"""Attention maps: against timm's own on the same weights, against plain loops, and by hand where they lie."""

import math
from itertools import product

import pytest
import timm
import torch
from conftest import draw_images, make_tiny, perturb, relative_error
from torch import nn
from torch.nn import functional as F

from evitlab.models.attention import attention_path, cut_windows, join_windows
from evitlab.models.capture import attention_on_image, capture_attention, find_attention
from evitlab.models.network import build_model, fold_batchnorm
from evitlab.models.weights import to_timm
from evitlab.problems import UserError


def make_model(name: str, **knobs) -> nn.Module:
    model = build_model(make_tiny(name, **knobs), seed=0)
    perturb(model, seed=1)
    return model.eval()


def make_twins(name: str) -> tuple[nn.Module, nn.Module]:
    """One of ours and timm's with the same weights: Swin with windows of 7 on 16 x 16, 8 x 8, 4 x 4 and 2 x 2."""
    model = make_model(name)
    if name == "deit_t":
        twin = timm.create_model(
            "deit_tiny_patch16_224", embed_dim=24, depth=2, num_heads=2, img_size=64, num_classes=7
        )
    else:
        shape = {"embed_dim": 16, "depths": (2, 1, 1, 1), "num_heads": (2, 2, 2, 2)}
        twin = timm.create_model("swin_tiny_patch4_window7_224", **shape, img_size=64, num_classes=7)
    return model, to_timm(model, twin.eval())


def read_by_hand(model: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """timm's maps: fused attention off, one hook on each dropout of the weights."""
    found = []
    for module in model.modules():
        if hasattr(module, "attn_drop"):
            module.fused_attn = False
            module.attn_drop.register_forward_hook(lambda _, args, out: found.append(out))
    with torch.no_grad():
        model(images)
    return found


def hooks_of(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@pytest.mark.parametrize("name", ["deit_t", "swin_t"])
def test_maps_are_timm_s(name):
    model, twin = make_twins(name)
    images = draw_images(3, 64, 64)
    with torch.no_grad(), capture_attention(model) as maps:
        model(images)
    with torch.no_grad(), capture_attention(twin) as theirs:
        twin(images)
    expected = read_by_hand(twin, images)
    assert len(maps) == len(theirs) == len(expected) == {"deit_t": 2, "swin_t": 5}[name]
    for ours, read, wanted in zip(maps.values(), theirs.values(), expected, strict=True):
        assert torch.equal(read, wanted)
        assert relative_error(ours, wanted) < 1e-5


@pytest.mark.parametrize("name", ["deit_t", "swin_t", "efficientvit_m0"])
@pytest.mark.parametrize("path", ["fused", "explicit"])
def test_every_row_sums_to_one_and_the_output_is_the_same(name, path):
    model = make_model(name)
    images = draw_images(2, 64, 64)
    with torch.no_grad(), attention_path(model, path):
        before = model(images)
        with capture_attention(model) as maps:
            inside = model(images)
        assert torch.equal(before, inside)
    assert list(maps) == list(find_attention(model))
    for weights in maps.values():
        assert weights.shape[1] == 2
        assert not weights.requires_grad
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
        assert weights.std() > 1e-3, "not uniform"


@torch.no_grad()
def test_cascaded_heads_are_those_of_plain_loops():
    """A whole-image cascaded layer, recomputed in float64: head by head, query by query, with LeViT's biases."""
    model = make_model("efficientvit_m0").double()
    name, layer = next((n, m) for n, m in find_attention(model).items() if n.startswith("stages.2"))
    given = []
    layer.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    with capture_attention(model) as maps:
        model(draw_images(1, 64, 64).double())
    mixer, x = layer.mixer, given[0]
    size = x.shape[2]
    assert size <= layer.window[0], "one window"
    before = torch.zeros(())
    for head, split in enumerate(x.chunk(2, dim=1)):
        q, k, v = mixer.qkv[head](split + before).split([16, 16, mixer.config.v_dim], dim=1)
        q, k, v = (t[0].flatten(1).T for t in (mixer.query_convs[head](q), k, v))
        weights = torch.zeros(len(q), len(k), dtype=torch.float64)
        for i in range(len(q)):
            for j in range(len(k)):
                offset = abs(i // size - j // size) * layer.window[1] + abs(i % size - j % size)
                weights[i, j] = math.exp(q[i] @ k[j] / 4 + mixer.bias.table[head, offset])
            weights[i] /= weights[i].sum()
        assert relative_error(maps[name][0, head], weights) < 1e-9
        before = (weights @ v).T.unflatten(1, (size, size))[None]


def test_a_further_pass_replaces_the_maps():
    model = make_model("efficientvit_m0")
    first, second = draw_images(2, 64, 64).split(1)
    with torch.no_grad(), capture_attention(model) as maps:
        model(first)
        old = dict(maps)
        model(second)
    with torch.no_grad(), capture_attention(model) as expected:
        model(second)
    for name, weights in maps.items():
        assert torch.equal(weights, expected[name])
        assert not torch.equal(weights, old[name])


@pytest.mark.parametrize("name", ["deit_t", "swin_t", "efficientvit_m0", "timm"])
def test_hooks_come_off_even_after_an_error(name):
    model = make_twins("deit_t")[1] if name == "timm" else make_model(name)
    model.train()
    fused = [getattr(module, "fused_attn", None) for module in model.modules()]
    assert any(fused) == (name == "timm")
    hooks = hooks_of(model)
    with capture_attention(model):
        assert hooks_of(model) > hooks
    with pytest.raises(RuntimeError), capture_attention(model):
        model(torch.zeros(1, 5, 64, 64))
    with pytest.raises(RuntimeError):
        attention_on_image(model, torch.zeros(1, 5, 64, 64))
    assert hooks_of(model) == hooks
    assert [getattr(module, "fused_attn", None) for module in model.modules()] == fused
    assert all(module.training for module in model.modules())


def test_a_pass_that_breaks_off_leaves_nothing_to_the_next():
    model = make_model("efficientvit_m0")
    images = draw_images(1, 64, 64)
    with torch.no_grad(), capture_attention(model) as expected:
        model(images)
    second_head = next(iter(find_attention(model).values())).mixer.qkv[1]
    with torch.no_grad(), capture_attention(model) as maps:
        handle = second_head.register_forward_pre_hook(lambda _, args: (args[0][:, 1:],))
        with pytest.raises(RuntimeError):
            model(images)
        assert not maps
        handle.remove()
        model(images)
    assert all(torch.equal(maps[name], expected[name]) for name in expected)


# Over the image


@pytest.mark.parametrize("name", ["deit_t", "swin_t"])
@pytest.mark.parametrize("block", [0, 1, -1])
def test_ours_and_timm_s_lie_alike_on_the_image(name, block):
    model, twin = make_twins(name)
    image = draw_images(1, 64, 64)
    assert relative_error(attention_on_image(model, image, block), attention_on_image(twin, image, block)) < 1e-5


@pytest.mark.parametrize(
    ("name", "size"), [("deit_tiny_distilled_patch16_224", 2), ("vit_base_patch16_rpn_224", 0)], ids=str
)
def test_tokens_before_those_of_the_image_are_left_out(name, size):
    model = timm.create_model(name, embed_dim=24, depth=1, num_heads=2, img_size=(48, 64)).eval()
    perturb(model, seed=1)
    image = draw_images(1, 48, 64)
    (weights,) = read_by_hand(model, image)
    queries = weights[0, :, 0] if size else weights[0].mean(1)
    torch.testing.assert_close(attention_on_image(model, image, 0).flatten(1), queries[:, size:])


def test_deit_s_map_is_the_class_token_s_row():
    model, twin = make_twins("deit_t")
    image = draw_images(1, 64, 64)
    expected = read_by_hand(twin, image)[1][0, :, 0, 1:].view(2, 4, 4)
    got = attention_on_image(model, image)
    assert relative_error(got, expected) < 1e-5


def list_places(size, window, shift) -> list[dict[int, tuple[int, int]]]:
    """For each window of one image the row and column that each of its positions came from; padding is left out."""
    windows = []
    for row, column in product(range(math.ceil(size[0] / window[0])), range(math.ceil(size[1] / window[1]))):
        inside = {}
        for y, x in product(range(window[0]), range(window[1])):
            down, right = row * window[0] + y, column * window[1] + x
            if down < size[0] and right < size[1]:
                inside[y * window[1] + x] = (down + shift[0]) % size[0], (right + shift[1]) % size[1]
        windows.append(inside)
    return windows


@pytest.mark.parametrize("size", [(6, 6), (7, 9), (2, 9), (3, 3)])
@pytest.mark.parametrize("shift", [(0, 0), (1, 2)])
def test_windows_are_cut_and_joined_place_by_place(size, shift):
    window = min(3, size[0]), 3
    images = torch.arange(2.0 * size[0] * size[1]).view(2, *size, 1) + 1
    cut = cut_windows(images, window, shift)
    expected = [(image, inside) for image in images for inside in list_places(size, window, shift)]
    assert cut.shape == (len(expected), *window, 1)
    for got, (image, inside) in zip(cut.flatten(1).tolist(), expected, strict=True):
        assert got == [image[inside[number]].item() if number in inside else 0 for number in range(len(got))]
    assert torch.equal(join_windows(cut, size, shift), images)


@pytest.mark.parametrize("block", range(4))
def test_a_place_is_looked_at_by_the_mean_query_of_its_window(block):
    """Swin on 16 x 16 and 8 x 8 positions, padded to 21 and 14: padding looks too, but does not count."""
    model = make_model("swin_t")
    image = draw_images(1, 64, 64)
    with torch.no_grad(), capture_attention(model) as maps:
        model(image)
    name, layer = list(find_attention(model).items())[block]
    side = (16, 16, 8, 4)[block]
    window, shift = layer.fit(side, side)
    assert any(shift) == (block == 1)
    expected = torch.zeros(2, side, side)
    for weights, inside in zip(maps[name], list_places((side, side), window, shift), strict=True):
        for key, place in inside.items():
            expected[:, *place] = torch.stack([weights[:, query, key] for query in inside]).mean(0)
    assert relative_error(attention_on_image(model, image, block), expected) < 1e-5


@pytest.mark.parametrize(("side", "shifted"), [(56, False), (64, False), (64, True)])
def test_what_is_looked_at_is_where_it_was_put(side, shifted):
    """Every query of a window prefers one key, by its features: the map must peak there and nowhere else.

    Swin's first stage: 14 x 14 positions in windows of 7, or 16 x 16, padded to 21 x 21.
    """
    model = make_model("swin_t", image_size=side)
    layer = find_attention(model)[f"stages.0.blocks.{int(shifted)}.0.branch"]
    mixer = layer.mixer
    places = {(3, 5), (9, 12)}
    features = torch.zeros(1, side // 4, side // 4, 16)
    for row, column in places:
        features[0, row, column, 0] = 1
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.zero_()
        mixer.q.bias.fill_(1)
        mixer.k.weight[:, 0] = 20
    layer.register_forward_pre_hook(lambda _, args: (features,))
    looked = attention_on_image(model, draw_images(1, side, side), int(shifted))
    assert looked.shape == (2, side // 4, side // 4)
    for head in looked:
        assert {tuple(place) for place in (head > 0.1).nonzero().tolist()} == places


@pytest.mark.parametrize(("side", "block"), [(56, 0), (56, 1), (56, 2), (64, 0), (64, 2), (64, 3)])
def test_even_attention_is_even_on_the_map(side, block):
    """Windows and their shift leave no trace, nor does padding, which each query looks at as at any position."""
    model = make_model("swin_t", image_size=side)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".branch.mixer." in name:
                parameter.zero_()
    looked = attention_on_image(model, draw_images(1, side, side), block)
    window = find_attention(model)[list(find_attention(model))[block]].fit(*looked.shape[1:])[0]
    torch.testing.assert_close(looked, torch.full_like(looked, 1 / math.prod(window)))


def test_efficientvit_s_map_is_at_its_stage_s_resolution_and_sums_to_its_windows():
    model = make_model("efficientvit_m0", image_size=112, patch_size=4)
    sums = {}
    for name in find_attention(model):
        looked = attention_on_image(model, draw_images(1, 112, 112), name)
        sums[tuple(looked.shape)] = looked.sum((1, 2))
    assert [shape[1:] for shape in sums] == [(28, 28), (14, 14), (7, 7)]
    for total, windows in zip(sums.values(), (16, 4, 1), strict=True):
        torch.testing.assert_close(total, torch.full((2,), float(windows)))


def test_a_folded_network_looks_where_the_other_does():
    model = make_model("efficientvit_m0")
    image = draw_images(1, 64, 64)
    assert (
        relative_error(attention_on_image(fold_batchnorm(model), image, 0), attention_on_image(model, image, 0)) < 1e-4
    )


def test_the_network_runs_in_evaluation_mode():
    model = make_model("efficientvit_m0")
    image = draw_images(1, 64, 64)
    expected = attention_on_image(model, image)
    assert torch.equal(attention_on_image(model.train(), image), expected)
    assert model.training


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (2, "block must be from -2 to 1, .*but got 2"),
        (-3, "but got -3"),
        ("stages.0.blocks.1.0.branhc", "block must be one of .*; did you mean stages.0.blocks.1.0.branch?"),
    ],
)
def test_a_block_that_is_not_there(block, message):
    with pytest.raises(UserError, match=message):
        attention_on_image(make_model("deit_t"), draw_images(1, 64, 64), block)


def test_several_images_are_refused():
    with pytest.raises(ValueError, match=r"one image, \(1, C, H, W\), but got \(2, 3, 64, 64\)"):
        attention_on_image(make_model("deit_t"), draw_images(2, 64, 64))


def test_networks_whose_maps_cannot_be_read():
    with (
        pytest.raises(UserError, match="EfficientVitMsra has no such attention"),
        capture_attention(timm.create_model("efficientvit_m0")),
    ):
        pass
    with pytest.raises(UserError, match="Sequential has no such attention"):
        attention_on_image(nn.Sequential(nn.Conv2d(3, 3, 1)), torch.zeros(1, 3, 8, 8))
    pit = timm.create_model("pit_ti_224", img_size=64).eval()
    with pytest.raises(UserError, match="cannot be laid over the image for PoolingVisionTransformer"):
        attention_on_image(pit, F.pad(draw_images(1, 60, 60), (0, 4, 0, 4)))
