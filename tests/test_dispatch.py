"""Calls and kernels: bytes and MACs by hand, the module that made each call, page faults of fresh memory."""

import pytest
import torch
from conftest import make_tiny
from torch import nn
from torch.nn import functional as F
from torch.nn.modules import module as torch_module
from torch.utils.flop_counter import FlopCounterMode

import evitlab
from evitlab.measure import dispatch
from evitlab.measure.dispatch import record_calls
from evitlab.measure.macs import count_macs
from evitlab.models.attention import attention_path
from evitlab.models.network import build_model


class Call(nn.Module):
    """A model that is one function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def record(model, *shape):
    return record_calls(model, model, torch.ones(shape))


def test_fused_attention_of_torch_by_hand():
    attention = nn.MultiheadAttention(12, 2, batch_first=True).eval().requires_grad_(False)
    calls = record(Call(lambda x: attention(x, x, x, need_weights=False)), 2, 5, 12)
    kernels = [kernel for call in calls for kernel in call.kernels]
    assert "aten::_native_multi_head_attention" in {kernel.operator for kernel in kernels}
    assert sum(kernel.macs for kernel in kernels) == 2 * 5 * 12 * 48 + 2 * 2 * 25 * 12


def test_convolutions_agree_with_torch():
    x = torch.ones(2, 6, 9, 8)
    convs = [nn.Conv2d(6, 8, 3, 2, 1, groups=2), nn.Conv2d(6, 8, 1), nn.ConvTranspose2d(6, 8, 2, 2)]
    for conv in convs:
        conv.requires_grad_(False)
        with FlopCounterMode(display=False) as counter:
            out = conv(x)
        (found,) = [kernel for call in record(conv, *x.shape) for kernel in call.kernels]
        assert found.macs == counter.get_total_flops() // 2
        weights = conv.weight.numel() + conv.bias.numel()
        assert found.bytes == 4 * (x.numel() + weights + out.numel())


@pytest.mark.parametrize("path", ["fused", "explicit"])
def test_macs_are_those_that_are_counted(path):
    model = build_model(make_tiny("deit_t"), seed=0).eval().requires_grad_(False)
    with attention_path(model, path):
        calls = record(model, 2, 3, 64, 64)
        expected = count_macs(model, image_size=64).macs
    assert sum(kernel.macs for call in calls for kernel in call.kernels) == 2 * expected


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.inner = nn.Sequential(nn.LayerNorm(4), nn.Dropout())

    def forward(self, x):
        return self.inner(self.first(x)) + x.reshape(x.shape)


def test_calls_stand_in_order_with_their_module():
    calls = record(Nested().eval().requires_grad_(False), 2, 3, 4)
    assert [(call.operator, call.module) for call in calls] == [
        ("aten::linear", "first"),
        ("aten::layer_norm", "inner.0"),
        ("aten::dropout", "inner.1"),
        ("aten::reshape", ""),
        ("aten::add", ""),
    ]
    assert "aten::addmm" in [kernel.operator for kernel in calls[0].kernels]
    assert calls[2].kernels == ()


def test_a_copy_inside_a_product_is_counted():
    calls = record(Call(lambda x: x.transpose(1, 2) @ x.transpose(1, 2).mT), 2, 3, 2, 4)
    product = next(call for call in calls if call.operator == "aten::matmul")
    copies = [kernel for kernel in product.kernels if kernel.operator == "aten::clone"]
    assert [kernel.bytes for kernel in copies] == 2 * [2 * 4 * 48]


def test_a_module_that_raises_leaves_no_hooks():
    def fail(x):
        raise RuntimeError("broken")

    before = len(torch_module._global_forward_hooks), len(torch_module._global_forward_pre_hooks)
    with pytest.raises(RuntimeError, match="broken"):
        record(nn.Sequential(nn.ReLU(), Call(fail)), 2, 2)
    assert (len(torch_module._global_forward_hooks), len(torch_module._global_forward_pre_hooks)) == before


class Careful(nn.Module):
    """Goes on where a part of it fails."""

    def __init__(self, part):
        super().__init__()
        self.part = part

    def forward(self, x):
        try:
            return self.part(x)
        except RuntimeError:
            return x + 1


def test_a_module_that_fails_and_is_caught_is_left():
    def fail(x):
        raise RuntimeError("broken")

    model = nn.Sequential(Careful(Call(fail)), nn.ReLU())
    assert [(call.operator, call.module) for call in record(model, 2, 2)] == [("aten::add", "0"), ("aten::relu", "1")]


def test_a_model_that_changes_is_refused():
    seen = []

    def grow(x):
        seen.append(x)
        for _ in seen:
            x = x + 1
        return x

    with pytest.raises(ValueError, match="one pass dispatched 1 operators and another 2"):
        record(Call(grow), 2, 2)


@pytest.mark.skipif(dispatch.resource is None, reason="the system does not count page faults")
def test_page_faults_are_those_of_fresh_memory():
    numbers = 2**24  # 64 MiB: above the largest threshold from which glibc maps memory afresh

    def touch(x):
        return torch.empty(numbers).fill_(1.0).view(-1)

    touched = {call.operator: sum(kernel.page_faults for kernel in call.kernels) for call in record(Call(touch), 1)}
    pages = 4 * numbers / dispatch.resource.getpagesize()
    assert touched["aten::fill_"] >= pages / 512  # huge pages fault once for all their 512
    assert touched["aten::fill_"] <= 1.1 * pages
    assert touched["aten::view"] < 50


def test_hooks_of_the_model_stay():
    model = evitlab.create_model("deit_t", depth=1, width=24, num_heads=2, image_size=32).requires_grad_(False)
    handle = model.stem.register_forward_hook(lambda module, inputs, output: output * 2)
    assert next(call.operator for call in record(model, 1, 3, 32, 32) if call.module == "") == "aten::mul"
    handle.remove()


def test_softmax_functions_are_one_call():
    assert [call.operator for call in record(Call(lambda x: F.softmax(x, -1)), 2, 2)] == ["aten::softmax"]
