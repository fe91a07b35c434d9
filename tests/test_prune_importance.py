"""Importance: gates against weights' gradients, differences, timm and loops in float64; what scores make of them."""

import copy

import pytest
import timm
import torch
from conftest import draw_images, make_tiny, perturb, relative_error
from random_plans import NETWORKS, make_network
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

from evitlab.models.layers import ConvNorm
from evitlab.models.network import Network, build_model, fold_batchnorm
from evitlab.models.weights import from_timm
from evitlab.models.zoo import make_config
from evitlab.prune.groups import find_groups
from evitlab.prune.importance import IMPORTANCES, differentiate_gates, score_importance
from evitlab.recipes import TrainRecipe
from evitlab.train.data import load_data, scale_pixels
from evitlab.train.loop import train

LABELS = torch.tensor([3, 0, 6, 3, 1])


def draw_batches(size: tuple[int, int] = (64, 64)) -> list[tuple[Tensor, Tensor]]:
    """Two mini-batches of unequal size."""
    images = draw_images(5, *size)
    return [(images[:3], LABELS[:3]), (images[3:], LABELS[3:])]


def find_gates(model: Network, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    return differentiate_gates(model, images, labels, find_groups(model.config))


# The identities that make one gate a group exact, read by hooks on the layers around it


def run_with_hooks(model: nn.Module, images: Tensor) -> tuple[dict[nn.Module, Tensor], dict[nn.Module, Tensor]]:
    """y dL/dy of every linear layer's outputs and inputs, over positions and images; weights get their gradients."""
    outputs: dict[nn.Module, Tensor] = {}
    inputs: dict[nn.Module, Tensor] = {}

    def watch(found: dict[nn.Module, Tensor], module: nn.Module, y: Tensor) -> None:
        y.register_hook(lambda g: found.__setitem__(module, (y.detach() * g).flatten(0, -2).sum(0)))

    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    handles = [layer.register_forward_hook(lambda m, args, y: watch(outputs, m, y)) for layer in layers]
    handles += [layer.register_forward_pre_hook(lambda m, args: watch(inputs, m, args[0])) for layer in layers]
    model.zero_grad()
    F.cross_entropy(model(images), LABELS, reduction="sum").backward()
    for handle in handles:
        handle.remove()
    return outputs, inputs


def by_row(layer: nn.Linear) -> Tensor:
    """Of each output: w dL/dw + b dL/db, from the gradients of the weights."""
    return (layer.weight * layer.weight.grad).sum(1) + layer.bias * layer.bias.grad


def by_column(layer: nn.Linear) -> Tensor:
    return (layer.weight * layer.weight.grad).sum(0)


@pytest.mark.parametrize("name", ["deit_t", "swin_t"])
def test_identities_of_gates_and_weights(name):
    """1: the query's gate is its layer's w g + b g_b. 2: the key's gate is the same. 3: the value's gate is the gate
    before the projection and its columns' w g. 4: the hidden gate is the narrow layer's columns' w g. 5: the gate
    before the activation is the wide layer's w g + b g_b. 6: that is another than the hidden gate, and the query's
    without its bias is another; the key's needs none, its gradient is zero."""
    model = make_network(make_tiny(name))
    images = draw_images(5, 64, 64)
    gates = {key: each.sum(0).flatten() for key, each in find_gates(model, images, LABELS).items()}
    outputs, inputs = run_with_hooks(model, images)
    for group in find_groups(model.config):
        module, gate = model.get_submodule(group.module), gates[group.key]

        def error(got: Tensor, gate: Tensor = gate) -> float:
            return relative_error(got.double(), gate)

        if group.kind == "qk":
            assert error(outputs[module.q]) < 1e-5
            assert error(by_row(module.q)) < 1e-5
            assert error(outputs[module.k]) < 1e-5
            assert error((module.k.weight * module.k.weight.grad).sum(1)) < 1e-5
            assert error((module.q.weight * module.q.weight.grad).sum(1)) > 0.02
        elif group.kind == "v":
            assert error(outputs[module.v]) < 1e-5
            assert error(inputs[module.proj]) < 1e-5
            assert error(by_column(module.proj)) < 1e-5
        else:
            assert error(inputs[module.narrow]) < 1e-5
            assert error(by_column(module.narrow)) < 1e-5
            assert relative_error(by_row(module.widen), outputs[module.widen]) < 1e-5
            assert error(outputs[module.widen]) > 0.02


def test_timm_s_fused_layers_give_the_same_gates():
    shape = {"embed_dim": 24, "num_heads": 2, "img_size": 64, "num_classes": 7}
    pairs = [("deit_tiny_patch16_224", "deit_t", {**shape, "depth": 2}, {"depth": 2})]
    swin = {**shape, "depths": (2, 1, 1, 1), "num_heads": (2, 2, 2, 2)}
    pairs += [("swin_tiny_patch4_window7_224", "swin_t", swin, {"depth": [2, 1, 1, 1]})]
    for name, own, settings, knobs in pairs:
        theirs = timm.create_model(name, **settings).eval()
        perturb(theirs, seed=1)
        model = from_timm(theirs, own, width=24, num_heads=2, image_size=64, **knobs)
        images = draw_images(5, 64, 64)
        outputs, inputs = run_with_hooks(theirs, images)
        fused = [module for path, module in theirs.named_modules() if path.endswith("attn.qkv")]
        narrow = [module for path, module in theirs.named_modules() if path.endswith("mlp.fc2")]
        found = {"qk": iter(fused), "v": iter(fused), "ffn": iter(narrow)}
        for group in find_groups(model.config):
            gate = find_gates(model, images, LABELS)[group.key].sum(0).flatten()
            layer = next(found[group.kind])
            if group.kind == "ffn":
                assert relative_error(inputs[layer].double(), gate) < 1e-5
                continue
            q, k, v = outputs[layer].chunk(3)
            for part in (q, k) if group.kind == "qk" else (v,):
                assert relative_error(part.double(), gate) < 1e-5


# Every family, against the definition: what the loss does when a channel is a little weaker


def scale_channel(model: Network, group, head: int, channel: int, factor: float) -> Network:
    """A copy in which one channel's keys, values or way out of the hidden layer are multiplied."""
    scaled = copy.deepcopy(model)
    module = scaled.get_submodule(group.module)
    row = head * group.channels + channel
    if group.kind == "ffn":
        narrow = getattr(module.narrow, "conv", module.narrow)
        narrow.weight.data[:, channel] *= factor
        return scaled
    if hasattr(module, "qkv"):
        layer, row = module.qkv[head], channel + module.config.qk_dim * (1 if group.kind == "qk" else 2)
    else:
        layer = module.k if group.kind == "qk" else module.v
    layer = layer.norm if isinstance(layer, ConvNorm) else layer
    layer.weight.data[row] *= factor
    layer.bias.data[row] *= factor
    return scaled


@pytest.mark.slow
@pytest.mark.parametrize("config", NETWORKS.values(), ids=NETWORKS)
def test_gates_are_derivatives_of_each_image_s_loss(config):
    """Central differences in float64, on maps that windows do not tile where the network takes such."""
    model = make_network(config).double()
    images = draw_images(2, *((64, 64) if config.position_embedding else (44, 36))).double()
    gates = find_gates(model, images, LABELS[:2])
    step = 1e-6  # finer than the way to the next corner of a ReLU
    for group in find_groups(config):
        assert gates[group.key].shape == (2, group.heads, group.channels)
        largest = gates[group.key].abs().max()
        for head in {0, group.heads - 1} if group.chained_heads else {group.heads - 1}:
            channel = group.channels // 2
            with torch.no_grad():
                losses = [
                    F.cross_entropy(
                        scale_channel(model, group, head, channel, factor)(images), LABELS[:2], reduction="none"
                    )
                    for factor in (1 + step, 1 - step)
                ]
            slope = (losses[0] - losses[1]) / (2 * step)
            assert ((slope - gates[group.key][:, head, channel]).abs() < 1e-6 * largest + 1e-8).all(), group.key


def test_gates_of_a_batch_are_those_of_its_images_alone(tiny_config):
    model = make_network(tiny_config).double()
    images = draw_images(5, 64, 64).double()
    together = find_gates(model, images, LABELS)
    for number in range(5):
        alone = find_gates(model, images[number : number + 1], LABELS[number : number + 1])
        for key, gate in alone.items():
            assert relative_error(together[key][number : number + 1], gate) < 1e-9


# Scores


def test_taylor_scores_by_hand(tiny_config):
    """From a backward pass for every image alone, in float64: squares of mini-batch means, of images, of the mean."""
    model = make_network(tiny_config).double()
    batches = [(images.double(), labels) for images, labels in draw_batches()]
    alone = [
        [find_gates(model, images[i : i + 1], labels[i : i + 1]) for i in range(len(images))]
        for images, labels in batches
    ]
    groups = find_groups(tiny_config)
    scores = {each: score_importance(model, batches, importance=each) for each in IMPORTANCES[:3]}
    for group in groups:
        first, second = (torch.cat([each[group.key] for each in images]) for images in alone)
        both = torch.cat([first, second])
        expected = {
            "taylor": ((first.sum(0) / 3) ** 2 + (second.sum(0) / 2) ** 2) / 2,
            "taylor-sample": sum(row**2 for row in both) / 5,
            "taylor-accumulated": (sum(both) / 5).abs(),
        }
        for name, score in expected.items():
            got = scores[name][group.key]
            assert got.dtype == torch.float64
            assert got.shape == (group.heads, group.channels)
            assert relative_error(got, score) < 1e-9, name


def test_a_mini_batch_is_what_its_mean_loss_says():
    """As Molchanov et al. have it: the gate's gradient of the mean loss, squared; of one batch."""
    model = make_network(make_tiny("deit_t")).double()
    images = draw_images(5, 64, 64).double()
    scores = score_importance(model, [(images, LABELS)], importance="taylor")
    F.cross_entropy(model(images), LABELS).backward()
    module = model.stages[0].blocks[1][1].branch
    assert relative_error(scores["stages.0.blocks.1.1.branch.ffn"][0], by_column(module.narrow).square()) < 1e-9


def find_vectors(module: nn.Module, group, head: int, channel: int) -> list[Tensor]:
    """Weights of a folded module that a channel would take along."""
    row = head * group.channels + channel
    if group.kind == "ffn":
        return [module.widen.weight[channel], module.narrow.weight[:, channel]]
    proj = getattr(module.proj, "1", module.proj).weight
    if hasattr(module, "qkv"):
        weight, qk = module.qkv[head].weight, module.config.qk_dim
        rows = [channel, qk + channel] if group.kind == "qk" else [2 * qk + channel]
        return [weight[place] for place in rows] + ([] if group.kind == "qk" else [proj[:, row]])
    if group.kind == "qk":
        return [module.q.weight[row], module.k.weight[row]]
    return [module.v.weight[row], proj[:, row]]


def test_magnitude_is_of_the_folded_weights():
    for config in [config for config in NETWORKS.values() if config.layout == "maps" or config.norm == "layer"]:
        model = make_network(config)
        scores = score_importance(model, [], importance="magnitude")
        folded = fold_batchnorm(model)
        for group in find_groups(config):
            module = folded.get_submodule(group.module)
            for head in {0, group.heads - 1}:
                channel = group.channels - 1
                expected = sum(v.square().sum().item() for v in find_vectors(module, group, head, channel))
                assert scores[group.key][head, channel].item() == pytest.approx(expected, rel=1e-4), group.key


def test_random_scores_come_from_the_seed_alone():
    model = make_network(make_tiny("swin_t"))
    before = torch.get_rng_state()
    first, again, other = (score_importance(model, [], importance="random", seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    for key, score in first.items():
        assert torch.equal(score, again[key])
        assert not torch.equal(score, other[key])
        assert 0 <= score.min() < score.max() < 1
    values = torch.cat([score.flatten() for score in first.values()])
    assert len(values.unique()) == len(values)


@pytest.mark.parametrize("importance", IMPORTANCES)
def test_only_the_groups_that_are_asked_for(importance):
    model = make_network(make_tiny("efficientvit_m0"))
    groups = find_groups(model.config)[1::3]
    some = score_importance(model, draw_batches(), importance=importance, groups=groups)
    assert list(some) == [group.key for group in groups]
    if importance != "random":
        every = score_importance(model, draw_batches(), importance=importance)
        for key, score in some.items():
            assert relative_error(score, every[key]) < 1e-5


def test_it_takes_images_one_pass_and_says_how_far_it_is():
    seen: list[int] = []
    model = make_network(make_tiny("deit_t"))
    score_importance(model, iter(draw_batches()), importance="taylor", on_progress=seen.append)
    assert seen == [1, 2]
    with pytest.raises(ValueError, match="needs at least one batch of images"):
        score_importance(model, [], importance="taylor")


# The model comes back as it was


def hooks_of(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_comes_back_as_it_was(tiny_config, fails):
    model = make_network(tiny_config).train()
    model.head.eval()
    model(draw_images(2, 64, 64)).sum().backward()
    before = copy.deepcopy(model)
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    modes = [module.training for module in model.modules()]
    batches = draw_batches()
    if fails:
        batches[1] = (batches[1][0], torch.tensor([99, 99]))
        with pytest.raises(IndexError):
            score_importance(model, batches, importance="taylor")
    else:
        score_importance(model, batches, importance="taylor")
    assert [module.training for module in model.modules()] == modes
    assert hooks_of(model) == 0
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert parameter.requires_grad
        assert torch.equal(parameter.grad, gradient)
    for name, tensor in before.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_frozen_weights_and_no_grad_change_no_score():
    model = make_network(make_tiny("swin_t"))
    expected = score_importance(model, draw_batches(), importance="taylor")
    model.requires_grad_(False)
    with torch.no_grad():
        frozen = score_importance(model, draw_batches(), importance="taylor")
    assert all(torch.equal(frozen[key], score) for key, score in expected.items())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_scores_of_a_training_network_are_those_of_evaluation():
    """BatchNorm would otherwise mix the images, and its statistics would move."""
    model = make_network(make_tiny("efficientvit_m0"))
    expected = score_importance(model, draw_batches(), importance="taylor-sample")
    got = score_importance(model.train(), draw_batches(), importance="taylor-sample")
    assert all(torch.equal(got[key], score) for key, score in expected.items())


# What a score is worth


@pytest.mark.slow
def test_scores_of_a_trained_network_rank_the_true_changes_of_its_loss():
    """Single channels are taken away; what counts is the mean square of how each image's loss changes."""
    data = load_data("shapes", image_size=32, train_images=4096, val_images=512)
    config = make_config(
        "deit_t", width=48, depth=4, num_heads=3, image_size=32, patch_size=8, num_classes=len(data.train.classes)
    )
    model = build_model(config, seed=0)
    result = train(model, data, TrainRecipe(steps=600, batch_size=64, init="xavier", evaluations=1), seed=0)
    assert result.top1 > 0.7, "an untrained network's scores are another matter"
    images, labels = scale_pixels(data.train.pixels[:256]), data.train.labels[:256]
    batches = [(images[rows], labels[rows]) for rows in torch.arange(256).split(16)]
    changes = measure_changes(model.eval(), images, labels)
    found = {}
    for importance in IMPORTANCES[:4]:
        scores = score_importance(model, batches, importance=importance)
        predicted = [scores[key][head, channel].item() for key, head, channel in changes]
        found[importance] = spearmanr(predicted, list(changes.values())).statistic
    assert found["taylor-sample"] >= 0.95
    assert found["taylor"] >= 0.95
    assert found["taylor"] > found["taylor-accumulated"] > found["magnitude"]


def measure_changes(model: Network, images: Tensor, labels: Tensor) -> dict[tuple[str, int, int], float]:
    """Without every second channel of QK and V, in turn of each head, and every twelfth of an FFN."""
    changes = {}
    with torch.no_grad():
        whole = F.cross_entropy(model(images), labels, reduction="none")
        for group in find_groups(model.config):
            for number, channel in enumerate(range(0, group.channels, 12 if group.kind == "ffn" else 2)):
                head = number % group.heads
                without = scale_channel(model, group, head, channel, 0.0)
                change = F.cross_entropy(without(images), labels, reduction="none") - whole
                changes[group.key, head, channel] = change.square().mean().item()
    return changes
