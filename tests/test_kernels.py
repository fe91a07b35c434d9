"""Kernels by hand: what is read and written, what is multiplied."""

import pytest
import torch

from evitlab.measure.kernels import measure_kernel

aten = torch.ops.aten


def kernel(function, *args, **kwargs):
    """The kernel of one dispatched operator."""
    return measure_kernel(function, args, kwargs, function(*args, **kwargs))


A, B = torch.ones(5, 7), torch.ones(7, 3)


@pytest.mark.parametrize(
    ("found", "bytes_moved", "macs", "arithmetic"),
    [
        (kernel(aten.mm.default, A, B), 4 * (35 + 21 + 15), 105, 210),
        (kernel(aten.add.Tensor, A, A + 1), 4 * 3 * 35, 0, 35),
        (kernel(aten.mul.Tensor, A, A), 4 * 2 * 35, 0, 35),  # one tensor, twice
        (kernel(aten.add.Tensor, A, torch.ones(7)), 4 * (35 + 7 + 35), 0, 35),
        (kernel(aten.add.Tensor, A, torch.ones(7).expand(5, 7)), 4 * (35 + 7 + 35), 0, 35),  # a broadcast reads once
        (kernel(aten.relu_.default, A.clone()), 4 * 2 * 35, 0, 35),  # in place: read and written
        (kernel(aten.copy_.default, A.clone(), A.double()), 8 * 35 + 4 * 35, 0, 35),  # written only
        (kernel(aten.fill_.Scalar, A.clone(), 1), 4 * 35, 0, 35),
        (kernel(aten.zero_.default, A.clone()), 4 * 35, 0, 35),
        (kernel(aten.add.out, A, A, out=torch.empty(5, 7)), 4 * 2 * 35, 0, 35),
        (kernel(aten.add_.Tensor, A.clone(), A), 4 * 3 * 35, 0, 35),
        (kernel(aten._to_copy.default, A, dtype=torch.bfloat16), (4 + 2) * 35, 0, 35),
        (kernel(aten.cat.default, [A, A + 1], 1), 4 * 4 * 35, 0, 70),
        (kernel(aten.sum.dim_IntList, A, [1]), 4 * (35 + 5), 0, 5),
        (kernel(aten.mv.default, A, torch.ones(7)), 4 * (35 + 7 + 5), 35, 70),
        (kernel(aten.addmv.default, torch.ones(5), A, torch.ones(7)), 4 * (5 + 35 + 7 + 5), 35, 70),
        (kernel(aten.dot.default, torch.ones(9), torch.zeros(9)), 4 * 19, 9, 18),
        (kernel(aten.t.default, A), 0, 0, 0),
        (kernel(aten.split.Tensor, A, 2), 0, 0, 0),
        (kernel(aten._unsafe_view.default, A, [35]), 0, 0, 0),
        (kernel(aten.unsqueeze_.default, A.clone(), 0), 0, 0, 0),
        (kernel(aten.empty.memory_format, [5, 7]), 0, 0, 0),
        (kernel(aten.zeros.default, [5, 7]), 4 * 35, 0, 35),
    ],
)  # fmt: skip
def test_a_kernel_by_hand(found, bytes_moved, macs, arithmetic):
    assert (found.bytes, found.macs, found.arithmetic) == (bytes_moved, macs, arithmetic)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")
def test_a_linear_layer_of_onednn_by_hand():
    weight = torch.ones(11, 7)
    operator = torch.ops.mkldnn._linear_pointwise.default
    found = kernel(operator, torch.ones(2, 5, 7), weight, None, "none", [], "")
    assert (found.macs, found.bytes) == (2 * 5 * 7 * 11, 4 * (70 + 77 + 110))
