"""Operators: counted by hand on toys, complete on every network, no time counted twice or lost."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from conftest import make_tiny
from torch import nn

import evitlab
from evitlab.measure import operators, passes
from evitlab.measure.classes import OPERATOR_CLASSES
from evitlab.measure.dispatch import Call
from evitlab.measure.kernels import Kernel
from evitlab.measure.macs import count_macs
from evitlab.measure.operators import profile_operators, record_trace
from evitlab.measure.passes import ProfiledPass
from evitlab.measurements.profile import Bandwidth, Peaks
from evitlab.models.attention import attention_path
from evitlab.models.network import build_model
from evitlab.models.zoo import ZOO
from evitlab.problems import UserError
from evitlab.settings import Execution

PEAKS = Peaks(
    precision="fp32",
    flops_per_second=1e11,
    kernels={"matrix product": 1e11},
    bandwidths=(Bandwidth(working_set_bytes=2**30, bytes_per_second=1e10),),
    seconds_per_page_fault=1e-6,
    seconds_per_dispatch=1e-6,
)


def profile(model, **options):
    return profile_operators(model, **({"peaks": PEAKS, "batch_size": 2, "image_size": 16, "repeats": 3} | options))


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.LayerNorm(8)
        self.widen = nn.Linear(8, 32)
        self.narrow = nn.Linear(32, 8)

    def forward(self, x):
        x = self.stem(x).flatten(2).transpose(1, 2)
        for _ in range(3):
            x = x + self.narrow(self.widen(self.norm(x)).relu())
        return x.softmax(-1)


@pytest.fixture(scope="module")
def toy():
    return profile(Toy(), repeats=5)


def test_calls_are_those_of_one_pass(toy):
    calls = {
        row.operator: row.calls for row in toy.operators if row.operator_class not in ("reshape and copy", "other")
    }
    by_hand = {"conv2d": 1, "layer_norm": 3, "linear": 6, "relu": 3, "add": 3, "softmax": 1}
    assert calls == {f"aten::{name}": count for name, count in by_hand.items()}


def test_bytes_and_macs_by_hand(toy):
    positions = 2 * 16 * 16
    found = {(row.operator, row.operator_class): row for row in toy.operators}
    linear = found["aten::linear", "matrix product"]
    assert linear.macs == 3 * 2 * positions * 8 * 32
    assert linear.bytes == 4 * 3 * (2 * positions * (8 + 32) + 2 * 8 * 32 + 8 + 32)
    assert found["aten::conv2d", "convolution"].macs == positions * 8 * 27
    addition = found["aten::add", "element-wise"]
    assert (addition.bytes, addition.arithmetic) == (3 * 3 * positions * 8 * 4, 3 * positions * 8)


def test_parts_of_the_toy(toy):
    by_part = {row.operator: (row.part, row.module) for row in toy.operators}
    assert by_part["aten::conv2d"] == ("stem", "stem")
    assert by_part["aten::layer_norm"] == ("norm", "norm")
    assert by_part["aten::add"] == ("other", "")


def test_time_adds_up(toy):
    seconds = [row.seconds for row in toy.operators]
    assert seconds == sorted(seconds, reverse=True)
    assert sum(seconds) + toy.between_seconds == pytest.approx(toy.profiled_seconds, rel=1e-9)
    assert sum(toy.seconds_by_class.values()) == pytest.approx(sum(seconds), rel=1e-9)
    assert set(toy.seconds_by_class) == {*OPERATOR_CLASSES, "other"}
    assert toy.between_seconds > 0
    assert len(toy.memory_bound_shares) == 5
    assert all(0 < share < 1 for share in toy.memory_bound_shares)
    assert toy.memory_bound_share == np.median(toy.memory_bound_shares)
    assert toy.memory_bound_share_low <= toy.memory_bound_share <= toy.memory_bound_share_high


def test_conditions_are_recorded():
    execution = Execution(fold=False, memory_format="channels_last", precision="bf16")
    found = profile(Toy(), batch_size=3, image_size=(8, 12), execution=execution)
    assert (found.batch_size, found.image_size, found.folded) == (3, (8, 12), False)
    assert (found.precision, found.memory_format, found.attention_path) == ("bf16", "channels_last", "not known")
    assert found.peaks == PEAKS


def test_rows_by_hand():
    """Two calls of one operator become one row for each class; seconds are means over passes, numbers are sums."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    product = Kernel(operator="aten::addmm", bytes=80, macs=7, arithmetic=14, page_faults=3.0)
    copy = Kernel(operator="aten::clone", bytes=32, macs=0, arithmetic=4, page_faults=2.0)
    call = Call(operator="aten::linear", module="0", kernels=(copy, product))
    calls = [call, replace(call, module="1", kernels=(product,))]
    seconds = [{"matrix product": 4.0, "reshape and copy": 1.0}, {"matrix product": 2.0}]
    more = [{"matrix product": 6.0, "reshape and copy": 2.0}, {"matrix product": 4.0}]
    timed = [
        ProfiledPass(wall=9.0, calls=tuple(("aten::linear", each) for each in one_pass)) for one_pass in (seconds, more)
    ]
    products, copies = operators._merge(operators._split_calls(calls, model, timed))
    assert (products.operator_class, copies.operator_class) == ("matrix product", "reshape and copy")
    assert (products.calls, products.seconds, products.bytes, products.macs, products.arithmetic) == (
        2,
        8.0,
        160,
        14,
        28,
    )
    assert (copies.calls, copies.seconds, copies.bytes, copies.macs, copies.arithmetic) == (1, 1.5, 32, 0, 4)
    assert (products.page_faults, copies.page_faults) == (6.0, 2.0)


class Choosy(nn.Module):
    """Calls another operator, or one more, from some pass on."""

    def __init__(self, first, then, *, passes):
        super().__init__()
        self.first, self.then, self.left = first, then, passes

    def forward(self, x):
        self.left -= 1
        return (self.first if self.left >= 0 else self.then)(x)


# Three warm passes, one recorded, four that count page faults.
@pytest.mark.parametrize(
    ("then", "message"),
    [
        (torch.exp, "after 0 calls that agree one pass called aten::exp and another aten::relu"),
        (lambda x: x.relu().relu(), "after 1 calls that agree one pass called aten::relu and another nothing"),
        (lambda x: x, "after 0 calls that agree one pass called nothing and another aten::relu"),
    ],
)
def test_a_model_that_changes_is_refused(then, message):
    with pytest.raises(ValueError, match=message):
        profile(Choosy(torch.relu, then, passes=8))


def test_linear_layers_are_matrix_products():
    found = profile(nn.Sequential(nn.Flatten(), *(nn.Linear(768, 768) for _ in range(12))), batch_size=256, repeats=7)
    assert found.seconds_by_class["matrix product"] > 0.8 * sum(found.seconds_by_class.values())
    assert found.memory_bound_share < 0.2
    assert found.roofline_memory_bound_share < 0.2


def test_convolutions_are_convolutions():
    found = profile(nn.Sequential(nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3)), image_size=64, batch_size=4)
    assert found.seconds_by_class["convolution"] > 0.8 * sum(found.seconds_by_class.values())


class ElementWise(nn.Module):
    def forward(self, x):
        for _ in range(5):
            x = nn.functional.gelu(x + 1.0).mul_(2.0)
        return x.permute(0, 2, 3, 1).contiguous()


def test_element_wise_operators_are_memory_bound_both_ways():
    found = profile(ElementWise(), image_size=64)
    assert found.memory_bound_share > 0.99
    assert found.roofline_memory_bound_share > 0.8  # all but the views
    assert found.seconds_by_class["element-wise"] > found.seconds_by_class["reshape and copy"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deit_t", "swin_t", "efficientvit_m0"])
@pytest.mark.parametrize("path", ["fused", "explicit"])
def test_knows_every_operator_of_our_networks(name, path):
    model = build_model(make_tiny(name), seed=0)
    with attention_path(model, path):
        found = profile(model, image_size=64, batch_size=1, repeats=2)
    assert [row for row in found.operators if row.operator_class == "other"] == []
    assert found.attention_path == path
    assert {"stem", "MHSA", "FFN", "head"} <= {row.part for row in found.operators}
    steps = Counter(row.step for row in found.operators if row.part == "MHSA")
    assert ("fused attention" in steps) == (path == "fused")
    assert ("scores" in steps and "mixing" in steps and "softmax" in steps) == (path == "explicit")


def check_macs(model, *, batch_size, image_size, **execution):
    settings = Execution(**execution)
    found = profile(model, batch_size=batch_size, image_size=image_size, repeats=2, execution=settings)
    assert sum(row.macs for row in found.operators) == batch_size * count_macs(model, image_size=image_size).macs


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("name", ZOO)
def test_fits_every_network(name, batch_size):
    model = evitlab.create_model(name)
    for path in ("fused", "explicit"):
        with attention_path(model, path):
            check_macs(model, batch_size=batch_size, image_size=224)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_224",
        "swin_tiny_patch4_window7_224",
        "efficientvit_m0",
        "mobilenetv3_large_100",
        "resnet18",
        "levit_128s",
        "convnext_atto",
        "mobilevit_xs",
    ],
)
@pytest.mark.parametrize(
    "execution", [{}, {"precision": "bf16"}, {"memory_format": "channels_last", "fold": False}, {"linear": "onednn"}]
)
def test_fits_timms_networks(name, execution):
    model = timm.create_model(name)
    check_macs(model, batch_size=2, image_size=model.pretrained_cfg["input_size"][1:], **execution)


def test_an_unknown_operator_is_visible():
    class Unknown(nn.Module):
        def forward(self, x):
            return torch.erfinv(x.tanh())

    found = profile(Unknown(), image_size=64)
    assert found.seconds_by_class["other"] > 0
    assert {row.operator for row in found.operators if row.operator_class == "other"} == {"aten::erfinv"}


def test_progress_ends_at_one():
    shares = []
    profile(nn.ReLU(), repeats=4, on_progress=shares.append)
    assert shares == [0.25, 0.5, 0.75, 1.0]


def test_the_model_stays_as_it_was():
    model = Toy()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    profile(model)
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_trace_names_modules_and_operators(tmp_path):
    record_trace(Toy(), batch_size=1, image_size=8).export_chrome_trace(str(tmp_path / "trace.json"))
    text = (tmp_path / "trace.json").read_text()
    assert '"module stem"' in text
    assert '"aten::conv2d"' in text


def test_page_faults_are_those_of_plain_passes(monkeypatch):
    faults = iter(range(100, 10_000, 7))
    monkeypatch.setattr(passes, "count_page_faults", lambda: next(faults))
    assert profile(nn.ReLU()).page_faults == 7.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repeats": 1}, "repeats must be at least 2, but got repeats=1"),
        ({"batch_size": 0}, "batch_size must be at least 1, but got batch_size=0"),
        ({"image_size": (4, 0)}, "image_size must be at least 1 pixel a side"),
        ({"device": "tpu"}, "device must be cpu, cuda or cuda:N, but got name='tpu'"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        profile(nn.Flatten(), **options)


@pytest.mark.parametrize("mode", ["compiled", "traced"])
def test_only_eager_networks_can_be_profiled(mode):
    with pytest.raises(UserError, match=f"mode must be eager to be profiled, but got execution.mode='{mode}'"):
        profile(nn.Flatten(), execution=Execution(mode=mode))
    with pytest.raises(UserError, match="mode must be eager to be profiled"):
        record_trace(nn.Flatten(), batch_size=1, image_size=8, execution=Execution(mode=mode))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_profiles_kernels_on_a_gpu():
    found = profile(nn.Sequential(nn.Flatten(), nn.Linear(768, 768)), batch_size=4096, device="cuda")
    assert found.seconds_by_class["matrix product"] > 0.5 * sum(found.seconds_by_class.values())
    assert sum(row.seconds for row in found.operators) + found.between_seconds == pytest.approx(found.profiled_seconds)
