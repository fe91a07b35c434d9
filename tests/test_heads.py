"""Heads of whole networks: which blocks, whatever the batches, streaming, and what each head is worth."""

import copy
import gc

import numpy as np
import pytest
import timm
import torch
from conftest import draw_images, make_tiny, perturb
from torch import Tensor, nn
from torch.nn import functional as F

from evitlab.measure.heads import drop_one, head_similarity, list_blocks
from evitlab.measurements.heads import HeadBlock
from evitlab.models.capture import capture_attention, find_attention
from evitlab.models.network import build_model
from evitlab.problems import UserError

FAMILIES = ["deit_t", "swin_t", "efficientvit_m0"]


def make_model(name: str, **knobs) -> nn.Module:
    model = build_model(make_tiny(name, **knobs), seed=0)
    perturb(model, seed=1)
    return model


def state_of(model: nn.Module) -> list[object]:
    """All that a measurement must leave alone."""
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    tensors = [(name, tensor.clone()) for name, tensor in model.state_dict().items()]
    gradients = [parameter.grad for parameter in model.parameters()]
    return [hooks, [m.training for m in model.modules()], gradients, tensors]


def assert_same(first: list[object], second: list[object]) -> None:
    assert first[:3] == second[:3]
    for (name, before), (_, after) in zip(first[3], second[3], strict=True):  # type: ignore[call-overload]
        assert torch.equal(before, after), name


def numbers_of(blocks: tuple[HeadBlock, ...]) -> np.ndarray:
    names = ("author", "author_deviation", "caption", "caption_deviation", "mean_pair", "mean_pair_deviation", "cka")
    return np.array([[getattr(getattr(b, q), name) for name in names] for b in blocks for q in ("features", "maps")])


@pytest.mark.parametrize("name", FAMILIES)
def test_batches_do_not_matter_and_the_model_is_left_alone(name):
    model, images = make_model(name).train(), draw_images(5, 64, 64)
    model.head.eval()  # a mode of its own
    before = state_of(model)
    found = [numbers_of(head_similarity(model, images, batch_size=size)) for size in (1, 2, 5)]
    assert found[0] == pytest.approx(found[2], rel=1e-4, abs=1e-5)
    assert found[1] == pytest.approx(found[2], rel=1e-4, abs=1e-5)
    assert np.isfinite(found[0]).all()
    drop_one(model, images, torch.arange(5), num_classes=7, batch_size=3)
    assert_same(state_of(model), before)


@torch.no_grad()
def test_a_whole_network_by_hand():
    """DeiT's second block, image by image, from what its projection is fed and from its maps."""
    model, images = make_model("deit_t").eval(), draw_images(3, 64, 64)
    fed: list[Tensor] = []
    clone = copy.deepcopy(model)
    path = list(find_attention(clone))[1]
    clone.get_submodule(path).proj.register_forward_pre_hook(lambda _, args: fed.append(args[0]))
    with capture_attention(clone) as maps:
        clone(images)
    heads = {"features": fed[0].unflatten(-1, (2, -1)).transpose(1, 2), "maps": maps[path]}
    block = head_similarity(model, images, batch_size=2)[1]
    assert (block.number, block.name, block.heads, block.positions) == (2, path, 2, 17)
    for quantity, x in heads.items():
        expected = F.cosine_similarity(x[:, 0].flatten(1).double(), x[:, 1].flatten(1).double())
        found = getattr(block, quantity)
        assert found.author == pytest.approx(expected.mean().item(), rel=1e-5)  # two heads: one pair
        assert found.caption == pytest.approx(found.author, rel=1e-9)
        assert found.author_deviation == pytest.approx(expected.std().item(), rel=1e-4)


def test_pixels_are_prepared_batch_by_batch():
    model, images = make_model("deit_t"), draw_images(4, 64, 64)
    stored = (images * 50 + 100).clamp(0, 255).to(torch.uint8)
    sizes = []

    def prepare(pixels: Tensor) -> Tensor:
        sizes.append(len(pixels))
        return pixels.div(100)

    found = head_similarity(model, stored, prepare=prepare, batch_size=3)
    assert sizes == [3, 1]
    assert numbers_of(found) == pytest.approx(numbers_of(head_similarity(model, stored / 100)), rel=1e-4)


@pytest.mark.parametrize("name", ["deit_t", "swin_t"])
def test_blocks_without_attention_have_their_place_and_no_numbers(name):
    model = make_model(name, mhsa_ratio=0.2, depth=4 if name == "deit_t" else [2, 2, 2, 2])
    found = head_similarity(model, draw_images(2, 64, 64))
    kinds = [
        any(layer.type == "attention" for layer in block.layers)
        for stage in model.config.stages
        for block in stage.blocks
    ]
    assert [block.number for block in found] == list(range(1, 1 + len(kinds)))
    assert [block.features is not None for block in found] == [block.maps is not None for block in found] == kinds
    assert [block.heads > 0 for block in found] == kinds
    if name == "swin_t":
        assert False in kinds
        bare = found[kinds.index(False)]
        assert (bare.heads, bare.positions) == (0, 0)
        costs = drop_one(model, draw_images(2, 64, 64), torch.arange(2), num_classes=7).costs
        assert [len(each) for each in costs] == [block.heads for block in found]


def test_a_network_without_any_attention_has_blocks_alone():
    model = make_model("deit_t", mhsa_ratio=0)
    found = head_similarity(model, draw_images(2, 64, 64))
    assert len(found) == len(model.config.stages[0].blocks)
    assert {block.heads for block in found} == {0}
    assert not any(drop_one(model, draw_images(2, 64, 64), torch.arange(2), num_classes=7).costs)


def test_a_single_head_and_a_pruned_layer():
    """Layers of other dimensions, as pruning leaves them, and one with one head."""
    from dataclasses import replace

    config = make_tiny("deit_t", depth=3)
    blocks = list(config.stages[0].blocks)
    for place, change in enumerate([{"num_heads": 1}, {"v_dim": 3, "qk_dim": 2}]):
        attention, ffn = blocks[place].layers
        blocks[place] = replace(blocks[place], layers=(replace(attention, **change), ffn))
    model = build_model(replace(config, stages=(replace(config.stages[0], blocks=tuple(blocks)),)), seed=0)
    first, second, third = head_similarity(model, draw_images(3, 64, 64))
    assert (first.heads, second.heads, third.heads) == (1, 2, 2)
    assert (first.features.author, first.features.cka, first.maps.caption) == (None, None, None)
    assert second.features.author is not None
    assert [len(each) for each in drop_one(model, draw_images(2, 64, 64), torch.arange(2), num_classes=7).costs] == [
        1,
        2,
        2,
    ]


def test_timm_s_networks_are_numbered_by_layer():
    model = timm.create_model("deit_tiny_patch16_224", depth=2, img_size=64, num_classes=7)
    assert list_blocks(model) == [(1, "blocks.0.attn", 3), (2, "blocks.1.attn", 3)]
    found = head_similarity(model, draw_images(2, 64, 64))
    assert [(block.number, block.positions) for block in found] == [(1, 17), (2, 17)]
    with pytest.raises(UserError, match="attention maps can be read from networks built here"):
        head_similarity(timm.create_model("test_resnet"), draw_images(2, 64, 64))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_images():
    """One image over and over takes no memory by itself: what tensors hold at the end is what was kept."""
    model, image = make_model("deit_t"), draw_images(1, 64, 64)

    def held(images: int) -> int:
        sizes: list[int] = []
        many = image.expand(images, -1, -1, -1)
        head_similarity(model, many, batch_size=2, on_progress=lambda _: sizes.append(count_bytes()))
        return sizes[-1]

    assert held(4) == held(4) == held(20)


def count_bytes() -> int:
    """Bytes behind all tensors of this process, each storage once."""
    storages = [each.untyped_storage() for each in gc.get_objects() if type(each) in (Tensor, nn.Parameter)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


@torch.no_grad()
def test_what_a_head_is_worth_agrees_with_edited_weights():
    model, images = make_model("deit_t").eval(), draw_images(9, 64, 64)
    labels = model(images).argmax(1)
    labels[6:] = (labels[6:] + 1) % 7  # right on six images of nine
    found = drop_one(model, images, labels, num_classes=7, batch_size=4)
    assert found.top1 == pytest.approx(6 / 9)
    assert found.loss == pytest.approx(F.cross_entropy(model(images).double(), labels).item(), rel=1e-5)
    for block, path in enumerate(find_attention(model)):
        for head in range(2):
            edited = copy.deepcopy(model)
            edited.get_submodule(path).proj.weight.data[:, head * 12 : head * 12 + 12] = 0
            scores = edited(images).double()
            right, was = scores.argmax(1) == labels, model(images).argmax(1) == labels
            more = F.cross_entropy(scores, labels, reduction="none")
            more = more - F.cross_entropy(model(images).double(), labels, reduction="none")
            cost = found.costs[block][head]
            assert (cost.lost, cost.gained) == (int((was & ~right).sum()), int((~was & right).sum()))
            assert cost.loss_cost == pytest.approx(more.mean().item(), rel=1e-3, abs=1e-6)
            assert cost.loss_cost_deviation == pytest.approx(more.std().item(), rel=1e-3)
    assert any(cost.lost for costs in found.costs for cost in costs)


def test_progress_rises_to_1():
    model, seen = make_model("deit_t"), []
    head_similarity(model, draw_images(5, 64, 64), batch_size=2, on_progress=seen.append)
    assert seen == pytest.approx([0.4, 0.8, 1.0])
    seen.clear()
    drop_one(model, draw_images(4, 64, 64), torch.arange(4), num_classes=7, batch_size=2, on_progress=seen.append)
    assert seen == pytest.approx([n / 8 for n in range(1, 9)])  # four heads, two batches


def test_mistakes_are_named():
    model = make_model("deit_t")
    with pytest.raises(ValueError, match="head_similarity needs at least one image, but got none"):
        head_similarity(model, draw_images(1, 64, 64)[:0])
    with pytest.raises(ValueError, match="drop_one needs at least one image, but got none"):
        drop_one(model, draw_images(1, 64, 64)[:0], torch.arange(0), num_classes=7)
    with pytest.raises(UserError, match=r"one score for each of the 9 classes, but got scores of shape \(2, 7\)"):
        drop_one(model, draw_images(2, 64, 64), torch.arange(2), num_classes=9)
    next(model.parameters()).data.fill_(float("nan"))
    with pytest.raises(UserError, match="the model diverged"):
        head_similarity(model, draw_images(2, 64, 64))
    with pytest.raises(UserError, match="scores must be finite, but some are not: the model diverged"):
        drop_one(model, draw_images(2, 64, 64), torch.arange(2), num_classes=7)
