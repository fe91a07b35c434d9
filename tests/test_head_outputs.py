"""What heads give: against what the projection is fed, place by place; a head removed, against edited weights."""

import copy

import pytest
import timm
import torch
from conftest import draw_images, make_tiny, perturb, relative_error
from torch import Tensor, nn

from evitlab.measure.head_outputs import HeadOutputs, count_heads, read_heads, without_head
from evitlab.models.attention import GroupAttention, Windowed, attention_path
from evitlab.models.capture import capture_attention, find_attention
from evitlab.models.network import build_model
from evitlab.models.weights import to_timm
from evitlab.problems import UserError

FAMILIES = ["deit_t", "swin_t", "efficientvit_m0"]


def make_model(name: str, **knobs) -> nn.Module:
    model = build_model(make_tiny(name, **knobs), seed=0)
    perturb(model, seed=1)
    return model.eval()


def make_twin(model: nn.Module) -> nn.Module:
    """timm's Swin with the same weights: windows of 7 on 16 x 16 (padded, shifted), 8 x 8, 4 x 4 and 2 x 2."""
    shape = {"embed_dim": 16, "depths": (2, 1, 1, 1), "num_heads": (2, 2, 2, 2)}
    twin = timm.create_model("swin_tiny_patch4_window7_224", **shape, img_size=64, num_classes=7)
    return to_timm(model, twin.eval())


@torch.no_grad()
def read(model: nn.Module, images: Tensor) -> dict[str, HeadOutputs]:
    found: dict[str, HeadOutputs] = {}
    with read_heads(model, found.__setitem__):
        model(images)
    return found


@torch.no_grad()
def inputs_of(modules: dict[str, nn.Module], model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """What some modules are given in a pass."""
    found: dict[str, Tensor] = {}
    for name, module in modules.items():
        module.register_forward_pre_hook(lambda _, args, name=name: found.update({name: args[0]}))
    model(images)
    return found


def list_places(layer: nn.Module, height: int, width: int) -> list[tuple[int, int]]:
    """Window and place in it of every position of a map, windows row by row, without the code that cuts them."""
    if not isinstance(layer, Windowed):
        return [(0, i) for i in range(height * width)]
    (h, w), (down, right) = layer.fit(height, width)
    columns = -(-width // w)
    found = []
    for y in range(height):
        for x in range(width):
            row, column = (y - down) % height, (x - right) % width  # a shift takes what leaves to the other side
            found.append((row // h * columns + column // w, row % h * w + column % w))
    return sorted(found)


@pytest.mark.parametrize("knobs", [{}, {"window_size": 5}, {"attention": "group"}])
def test_features_are_what_the_projection_is_fed_without_padding(knobs):
    """Swin on 16 x 16 positions in windows of 7 and 5: 24 and 20 positions a side, shifted in the second block."""
    model = make_model("swin_t", **knobs)
    images = draw_images(2, 64, 64)
    layers = find_attention(model)
    clone = copy.deepcopy(model)
    own = find_attention(clone)
    fed = inputs_of({name: layer.mixer.proj for name, layer in own.items()}, clone, images)
    with torch.no_grad(), capture_attention(model) as maps:
        model(images)
    found = read(model, images)
    assert list(found) == list(layers)
    shifted = [layer.fit(16, 16)[1] != (0, 0) for layer in layers.values()]
    assert shifted[:2] == [False, True]
    for number, (name, layer) in enumerate(layers.items()):
        side = (16, 16, 8, 4, 2)[number]
        windows = fed[name].flatten(1, 2).unflatten(-1, (2, -1))  # (images x windows, N, heads, d)
        per_image = len(windows) // 2
        places = list_places(layer, side, side)
        assert len(places) == side * side
        for image in range(2):
            rows = torch.stack([windows[image * per_image + window, place] for window, place in places], dim=1)
            assert torch.equal(found[name].features[image], rows)
            looks = torch.stack([maps[name][image * per_image + window, :, place] for window, place in places], dim=1)
            assert torch.equal(found[name].maps[image], looks)


@pytest.mark.parametrize("name", ["deit_t", "efficientvit_m0"])
@pytest.mark.parametrize("kind", ["mhsa", "group", "cascaded"])
def test_heads_are_those_of_the_projection_s_input(name, kind):
    """EfficientViT on 16 x 16 positions is padded too; DeiT's class token is among the positions."""
    model = make_model(name, attention=kind)
    images = draw_images(2, 64, 64)
    clone = copy.deepcopy(model)
    mixers = {path: getattr(layer, "mixer", layer) for path, layer in find_attention(clone).items()}
    fed = inputs_of({path: mixer.proj for path, mixer in mixers.items()}, clone, images)
    for number, (path, outputs) in enumerate(read(model, images).items()):
        x = fed[path] if name == "deit_t" else fed[path].flatten(2).mT  # (images x windows, N, heads d)
        x = x.unflatten(-1, (2, -1)).transpose(1, 2)
        if name == "deit_t":
            assert torch.equal(outputs.features, x)
            assert outputs.features.shape == (2, 2, 17, 12)
            continue
        side = (16, 8, 4)[number]
        places = list_places(find_attention(model)[path], side, side)
        per_image = len(x) // 2
        rows = torch.stack([x[per_image + window, :, place] for window, place in places], dim=1)
        assert torch.equal(outputs.features[1], rows)
        torch.testing.assert_close(outputs.maps.sum(-1), torch.ones(2, 2, side * side))


def test_timm_s_heads_are_ours():
    model = make_model("swin_t")
    images = draw_images(3, 64, 64)
    ours, theirs = read(model, images).values(), read(make_twin(model), images).values()
    assert len(ours) == len(theirs) == 5
    for own, other in zip(ours, theirs, strict=True):
        assert own.features.shape[2] in (256, 64, 16, 4)
        assert relative_error(own.features, other.features) < 1e-4
        assert relative_error(own.maps, other.maps) < 1e-4


def read_and_fail(model: nn.Module, images: Tensor, inside: list[Tensor]) -> None:
    with read_heads(model, lambda name, outputs: None):
        inside.append(model(images))
        raise ZeroDivisionError


@pytest.mark.parametrize("name", [*FAMILIES, "timm"])
@pytest.mark.parametrize("path", ["fused", "explicit"])
def test_reading_changes_nothing_and_leaves_nothing(name, path):
    model = make_twin(make_model("swin_t")) if name == "timm" else make_model(name)
    images = draw_images(2, 64, 64)
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    fused = [m.fused_attn for m in model.modules() if hasattr(m, "fused_attn")]
    with torch.no_grad(), attention_path(model, path):
        before = model(images)
        inside = []
        with pytest.raises(ZeroDivisionError):
            read_and_fail(model, images, inside)
        assert torch.equal(model(images), before)
    assert relative_error(inside[0], before) < (1e-5 if name == "timm" else 1e-12)  # timm's runs unfused meanwhile
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()) == hooks
    assert [m.fused_attn for m in model.modules() if hasattr(m, "fused_attn")] == fused


def clear_projection(mixer: nn.Module, head: int) -> None:
    """The columns of the projection that read a head, as zeros: of a linear layer or of the convolution in maps."""
    weight = mixer.proj.weight if isinstance(mixer.proj, nn.Linear) else mixer.proj[1].conv.weight
    channels = weight.shape[1] // 2
    weight.data[:, head * channels : (head + 1) * channels] = 0


def clear_values(mixer: GroupAttention, head: int) -> None:
    """A head's V as zeros, so that nothing of it reaches the projection or the next head."""
    inside = mixer.qkv[head]
    own = slice(2 * mixer.config.qk_dim, None)
    if isinstance(inside, nn.Linear):
        inside.weight.data[own] = 0
        inside.bias.data[own] = 0
        return
    inside.norm.weight.data[own] = 0
    inside.norm.bias.data[own] = 0


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("kind", ["mhsa", "group", "cascaded"])
@pytest.mark.parametrize("head", [0, 1])
@torch.no_grad()
def test_a_head_is_removed_as_if_its_weights_were_zero(name, kind, head):
    """Of a cascade the values are: its output is gone for the projection and for the next head."""
    model = make_model(name, attention=kind)
    images = draw_images(2, 64, 64)
    whole = model(images)
    for path, layer in find_attention(model).items():
        edited = copy.deepcopy(model)
        own = edited.get_submodule(path)
        mixer = getattr(own, "mixer", own)
        (clear_values if kind == "cascaded" else clear_projection)(mixer, head)
        with without_head(model, path, head):
            found = model(images)
        assert relative_error(found, edited(images)) < 1e-5
        assert relative_error(found, whole) > 1e-4
        assert count_heads(layer) == 2
        assert torch.equal(model(images), whole), "as it was"


@torch.no_grad()
def test_the_next_head_of_a_cascade_loses_it_too():
    model = make_model("efficientvit_m0")
    images = draw_images(2, 64, 64)
    path = next(iter(find_attention(model)))
    edited = copy.deepcopy(model)
    clear_projection(edited.get_submodule(path).mixer, 0)  # the projection alone does not see it: the next head does
    with without_head(model, path, 0):
        assert relative_error(model(images), edited(images)) > 1e-4


@pytest.mark.parametrize("head", [0, 1])
@torch.no_grad()
def test_a_head_of_timm_s_is_removed(head):
    model = make_twin(make_model("swin_t"))
    images = draw_images(2, 64, 64)
    for path in find_attention(model):
        edited = copy.deepcopy(model)
        clear_projection(edited.get_submodule(path), head)
        with without_head(model, path, head):
            assert relative_error(model(images), edited(images)) < 1e-5


def test_a_network_whose_heads_cannot_be_read_says_so():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn_drop = nn.Identity()

    with pytest.raises(UserError, match="attention maps can be read from"), read_heads(nn.Linear(2, 2), print):
        pass
    with (
        pytest.raises(UserError, match="inner: heads can be read where a layer has `num_heads` and `proj`"),
        read_heads(nn.ModuleDict({"inner": Odd()}), print),
    ):
        pass
