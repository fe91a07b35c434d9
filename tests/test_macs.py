"""MACs: against formulas, torch's own counter, timm and the published sizes."""

from contextlib import nullcontext

import jaxtyping
import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import evitlab
from evitlab.measure.macs import count_macs
from evitlab.models.attention import attention_path
from evitlab.models.network import fold_batchnorm
from evitlab.models.zoo import ZOO


@pytest.fixture(autouse=True)
def no_type_checks():
    """While torch traces a network, its sizes are tensors; the checks of annotations would refuse them."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True)
def one_thread():
    """Threads that wait for one another on a busy machine take longer than the work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# Paper's Table 1 rounds them to millions; the digits are torch's FlopCounterMode / 2 on timm 1.0.31's networks.
# Parameters with BatchNorm folded are timm's count less one scalar for each BatchNorm channel (M5: the paper's 12.4 M).
PUBLISHED = {
    "deit_t": (1253.7, 5.717416),
    "swin_t": (4490.6, 28.288354),
    "efficientvit_m0": (79.2, 2.335),
    "efficientvit_m1": (167.1, 2.964),
    "efficientvit_m2": (201.0, 4.168),
    "efficientvit_m3": (262.7, 6.876),
    "efficientvit_m4": (299.3, 8.776),
    "efficientvit_m5": (521.6, 12.436),
}


class Compute(nn.Module):
    """Any function of the images as a model."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def half_the_flops(model, height, width):
    # Before 2.15, torch counts nothing for fused attention on a CPU (pytorch issue 195460).
    countable = nullcontext() if torch.__version__ >= (2, 15) else attention_path(model, "explicit")
    with countable, FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.randn(1, 3, height, width))
    return counter.get_total_flops() / 2


def tensors(x, *shapes):
    return [x.new_ones(shape) for shape in shapes]


FORMULAS = {
    "convolution": (nn.Conv2d(3, 8, 3, stride=2, padding=1), 8 * 5 * 7 * 3 * 3 * 3),
    "convolution, no padding": (nn.Conv2d(3, 8, 3, bias=False), 8 * 8 * 12 * 3 * 3 * 3),
    "padding by name": (nn.Conv2d(3, 8, 3, padding="same"), 8 * 10 * 14 * 3 * 3 * 3),
    "groups": (nn.Conv2d(3, 6, 5, padding=2, groups=3), 6 * 10 * 14 * 5 * 5 * 1),
    "dilation": (nn.Conv2d(3, 4, 3, dilation=2), 4 * 6 * 10 * 3 * 3 * 3),
    "transposed convolution": (nn.ConvTranspose2d(3, 8, 2, stride=2), 3 * 10 * 14 * 8 * 2 * 2),
    "one dimension": (
        Compute(lambda x: F.conv1d(x.flatten(2), x.new_ones(4, 3, 7))),
        4 * (10 * 14 - 6) * 7 * 3,
    ),
    "linear": (nn.Linear(14, 5), 3 * 10 * 14 * 5),
    "linear without bias": (nn.Linear(14, 5, bias=False), 3 * 10 * 14 * 5),
    "matmul": (Compute(lambda x: x @ x.mT), 3 * 10 * 14 * 10),
    "matmul, second factor has more images": (
        Compute(lambda x: torch.matmul(*tensors(x, (4, 5), (2, 3, 5, 6)))),
        2 * 3 * 4 * 5 * 6,
    ),
    "matmul, first factor has more images": (
        Compute(lambda x: torch.matmul(*tensors(x, (2, 3, 4, 5), (5, 6)))),
        2 * 3 * 4 * 5 * 6,
    ),
    "mm": (Compute(lambda x: torch.mm(*tensors(x, (4, 5), (5, 6)))), 4 * 5 * 6),
    "addmm": (Compute(lambda x: torch.addmm(*tensors(x, (6,), (4, 5), (5, 6)))), 4 * 5 * 6),
    "bmm": (Compute(lambda x: torch.bmm(*tensors(x, (2, 4, 5), (2, 5, 6)))), 2 * 4 * 5 * 6),
    "baddbmm": (
        Compute(lambda x: torch.baddbmm(*tensors(x, (2, 4, 6), (2, 4, 5), (2, 5, 6)))),
        2 * 4 * 5 * 6,
    ),
    "einsum": (
        Compute(lambda x: torch.einsum("b h i d, b h j d -> b h i j", *tensors(x, (2, 3, 7, 5), (2, 3, 6, 5)))),
        2 * 3 * 7 * 6 * 5,
    ),
    "einsum with any number of dimensions": (
        Compute(lambda x: torch.einsum("...ij,jk->...ik", *tensors(x, (2, 3, 4, 5), (5, 6)))),
        2 * 3 * 4 * 5 * 6,
    ),
    "einsum of sizes that NumPy's report would round": (
        Compute(lambda x: torch.einsum("ij,jk->ki", *tensors(x, (1009, 13), (13, 1013)))),
        1009 * 13 * 1013,
    ),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_counts_what_the_formula_says(name):
    model, expected = FORMULAS[name]
    found = count_macs(model, image_size=(10, 14))
    assert found.macs == expected == half_the_flops(model, 10, 14)
    assert found.uncounted == {}


def test_matmul_of_vectors():
    # torch's counter has no rule for a vector: the formula alone.
    model = Compute(lambda x: torch.matmul(*tensors(x, (4, 5), (5,))))
    assert count_macs(model, image_size=8).macs == 4 * 5


N, M, QK, V = 7, 9, 4, 6  # queries, keys, and two widths that differ


def attend(x, *, heads=3, shared=1, mask=None, causal=False):
    q, k, v = tensors(x, (2, heads, N, QK), (2, heads // shared, M, QK), (2, heads // shared, M, V))
    mask = None if mask is None else x.new_ones(mask)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=shared > 1, scale=0.5)


@pytest.mark.parametrize("how", ["fused", "explicit"])
@pytest.mark.parametrize("mask", [None, (N, M), (2, 1, N, M), (3, N, M)])
def test_attention_is_two_products_with_any_mask(how, mask):
    def explicit(x):
        q, k, v = tensors(x, (2, 3, N, QK), (2, 3, M, QK), (2, 3, M, V))
        scores = q @ k.mT
        return (scores if mask is None else scores + x.new_ones(mask)).softmax(-1) @ v

    model = Compute((lambda x: attend(x, mask=mask)) if how == "fused" else explicit)
    found = count_macs(model, image_size=8)
    assert found.macs == 2 * 3 * (N * M * QK + N * M * V) == half_the_flops(model, 8, 8)
    assert found.uncounted == {}


def test_a_causal_mask_saves_nothing():
    assert count_macs(Compute(lambda x: attend(x, causal=True)), image_size=8).macs == 6 * N * M * (QK + V)


def test_heads_that_share_keys_still_compute_each():
    model = Compute(lambda x: attend(x, heads=4, shared=2))
    assert count_macs(model, image_size=8).macs == 2 * 4 * (N * M * QK + N * M * V)


@pytest.mark.parametrize("name", ZOO)
def test_published_sizes(name):
    macs, params = PUBLISHED[name]
    model = evitlab.create_model(name)
    found = count_macs(model, image_size=224)
    assert found.macs / 1e6 == pytest.approx(macs, abs=0.05)
    assert found.params / 1e6 == pytest.approx(params, abs=0.0005)
    assert found.macs == half_the_flops(model, 224, 224)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "path"), [*((name, "fused") for name in ZOO), ("deit_t", "explicit")])
def test_equals_torchs_counter_folded_on_both_paths(name, path):
    # As built, on the path that a network takes by itself, they are counted among the published sizes.
    network = fold_batchnorm(evitlab.create_model(name, image_size=64))
    with attention_path(network, path):
        found = count_macs(network, image_size=64)
        assert found.macs == half_the_flops(network, 64, 64)
    assert ("scaled_dot_product_attention" in found.macs_by_operator) is (path == "fused")
    assert found.uncounted == {}
    assert found.uncalled_modules == ()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "timm_name"),
    [
        ("deit_t", "deit_tiny_patch16_224"),
        ("swin_t", "swin_tiny_patch4_window7_224"),
        ("efficientvit_m0", "efficientvit_m0"),
    ],
)
def test_counts_timms_network_as_ours(name, timm_name):
    theirs = count_macs(timm.create_model(timm_name, pretrained=False), image_size=224)
    ours = count_macs(evitlab.create_model(name), image_size=224)
    assert (theirs.macs, theirs.params_unfolded) == (ours.macs, ours.params_unfolded)
    assert theirs.uncounted == {}


def test_a_non_square_image():
    model = evitlab.create_model("efficientvit_m0", num_classes=10)
    found = count_macs(model, image_size=(64, 96))
    assert found.image_size == (64, 96)
    assert found.macs == half_the_flops(model, 64, 96)


class Parent(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.second = nn.Linear(8, 5)
        self.unused = nn.Linear(3, 3)
        self.holder = nn.ParameterList([nn.Parameter(torch.ones(5))])
        self.empty = nn.Identity()

    def forward(self, x):
        return torch.erfinv(self.second(self.first(x))) + self.holder[0]


def test_by_module_and_operator_what_is_missing_and_how_many_parameters(caplog):
    found = count_macs(Parent(), image_size=8)
    convolution, linear = 64 * 3 * 4, 4 * 8 * 8 * 5
    assert found.macs == convolution + linear
    assert found.macs_by_operator == {"conv": convolution, "linear": linear}
    by_module = {name: macs for name, macs in found.macs_by_module.items() if macs}
    assert by_module == {
        "": convolution + linear,
        "first": convolution,
        "first.0": convolution,
        "second": linear,
    }
    assert found.uncounted == {"aten::erfinv": 1}
    assert found.uncalled_modules == ("unused",)
    assert caplog.records == []  # it is in the result, not in a log
    assert found.params_unfolded == (3 * 4 + 4) + 2 * 4 + (8 * 5 + 5) + (3 * 3 + 3) + 5


def test_frozen_parameters_count():
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 2)).requires_grad_(False)
    assert count_macs(model, image_size=4).params == 48 * 2 + 2


def test_a_model_without_parameters():
    assert count_macs(nn.Flatten(), image_size=4).macs == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_counts_on_the_models_device():
    model = evitlab.create_model("efficientvit_m0")
    assert count_macs(model.cuda(), image_size=224) == count_macs(model.cpu(), image_size=224)
