"""Parameters and multiply-accumulates (MACs), counted with fvcore on the traced forward pass.

Convention: one multiply-add is one MAC. Convolutions, linear layers and matrix products count, the two
products of attention among them; biases, norms, activations, softmax, pooling and element-wise operations
do not. A mask does not make attention cheaper. Papers print the same number as "FLOPs"; torch's
`FlopCounterMode` gives twice it.
"""

import warnings
from collections import Counter
from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from evitlab.measure.inputs import copy_for_inference, height_and_width, random_images
from evitlab.measurements.macs import MacCount
from evitlab.models.network import fold_batchnorm

with warnings.catch_warnings():  # fvcore scripts a loss when it is imported, which torch deprecates
    warnings.simplefilter("ignore", FutureWarning)
    from fvcore.nn import FlopCountAnalysis
    from fvcore.nn.jit_handles import conv_flop_count, conv_flop_jit, get_shape

Values = list[Any]  # torch._C.Value: inputs or outputs of a node of the traced graph


def _product_macs(inputs: Values, outputs: Values) -> int:
    # Each output scalar is a dot product over the last dimension of the first factor.
    return prod(get_shape(outputs[0])) * get_shape(inputs[0])[-1]


def _product_with_addend_macs(inputs: Values, outputs: Values) -> int:
    return _product_macs(inputs[1:], outputs)


def _padded_by_name_macs(inputs: Values, outputs: Values) -> Counter[str]:
    image, weight, output = get_shape(inputs[0]), get_shape(inputs[1]), get_shape(outputs[0])
    return Counter(conv=conv_flop_count(image, weight, output))  # the name under which fvcore keeps the others


def _attention_macs(inputs: Values, outputs: Values) -> int:
    # QK^T: (.., N, M) dot products over the QK dimension. Times V: (.., N, V dimension) over M. The output
    # has all of Q's heads, also where heads share K and V.
    query, key = get_shape(inputs[0]), get_shape(inputs[1])
    *rows, v_dim = get_shape(outputs[0])
    return prod(rows) * key[-2] * (query[-1] + v_dim)


def _einsum_macs(inputs: Values, outputs: Values) -> int:
    # torch turns an equation into matrix products; on the meta device that costs nothing and is exact, where
    # fvcore's handle reads a rounded number from NumPy's report.
    shapes = [get_shape(factor) for factor in inputs[1].node().inputs()]
    with FlopCounterMode(display=False) as counter:
        torch.einsum(inputs[0].toIValue(), *(torch.empty(shape, device="meta") for shape in shapes))
    return counter.get_total_flops() // 2


COUNTED: dict[str, Callable[[Values, Values], Any]] = {
    "aten::_convolution": conv_flop_jit,
    "aten::_convolution_mode": _padded_by_name_macs,
    "aten::linear": _product_macs,
    "aten::matmul": _product_macs,
    "aten::mm": _product_macs,
    "aten::bmm": _product_macs,
    "aten::addmm": _product_with_addend_macs,
    "aten::baddbmm": _product_with_addend_macs,
    "aten::scaled_dot_product_attention": _attention_macs,
    "aten::einsum": _einsum_macs,
}
"""Operators that count. fvcore lacks attention and others; its `matmul` is wrong where factors broadcast."""

# fmt: off
NOT_COUNTED = (
    "batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm", "linalg_vector_norm",
    "gelu", "silu", "elu", "leaky_relu", "relu6", "hardtanh", "hardswish", "hardsigmoid", "mish", "prelu",
    "sigmoid", "tanh", "softplus", "softmax", "log_softmax",
    "add", "sub", "rsub", "mul", "div", "neg", "pow", "square", "sqrt", "rsqrt", "reciprocal", "exp", "log",
    "sin", "cos", "abs", "clamp_min", "clamp_max", "maximum", "minimum", "where", "lt", "le", "ne",
    "mean", "sum", "amax", "amin", "var", "std", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d",
    "adaptive_max_pool2d", "upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d",
    "pad", "reflection_pad2d", "replication_pad2d", "reshape_as", "view_as", "expand_as", "repeat", "tile",
    "unfold", "unflatten", "movedim", "flip", "clone", "alias", "meshgrid", "index_select", "im2col",
    "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "mT", "mH", "numpy_T", "cumsum", "lift_fresh",
    "new_ones", "ones_like", "empty_like", "rand_like", "triu", "tril", "logical_not",
)
"""Operators that by convention count nothing, in place or not, beside those that fvcore itself ignores."""
# fmt: on


def count_macs(model: nn.Module, *, image_size: int | tuple[int, int]) -> MacCount:
    """MACs of one RGB image's forward pass in evaluation mode, and the network's parameters.

    An operator that is neither counted nor known to count nothing is in `uncounted`, and missing from the
    sum. Parameters are counted as built and after `fold_batchnorm`, which knows only evitlab's own layers:
    networks of other libraries keep their BatchNorm. The tracing runs on a copy, on the device of the
    model's first parameter.
    """
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    copy = copy_for_inference(model, fold=False, device=device)
    images = random_images(batch_size=1, image_size=image_size, device=device, seed=0)
    analysis = _analyse(copy, images)
    return MacCount(
        macs=int(analysis.total()),
        params=_count_parameters(fold_batchnorm(model)),
        params_unfolded=_count_parameters(model),
        image_size=height_and_width(image_size),
        macs_by_operator={name: int(macs) for name, macs in analysis.by_operator().items()},
        macs_by_module={name: int(macs) for name, macs in analysis.by_module().items()},
        uncounted=dict(analysis.unsupported_ops()),
        uncalled_modules=_uncalled_with_parameters(copy, analysis),
    )


def _analyse(model: nn.Module, images: torch.Tensor) -> FlopCountAnalysis:
    analysis = FlopCountAnalysis(model, images)
    analysis.clear_op_handles().set_op_handle(**COUNTED)
    analysis.set_op_handle(**{f"aten::{name}{end}": None for name in NOT_COUNTED for end in ("", "_")})
    # What fvcore would log is in the result. The tracer warns of branches: they depend on the image size only.
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    with torch.no_grad():
        analysis.total()
    return analysis


def _count_parameters(model: nn.Module) -> int:
    # Frozen ones too: `fuse_conv_bn_eval` gives the convolution a bias that asks for no gradient.
    return sum(parameter.numel() for parameter in model.parameters())


def _uncalled_with_parameters(model: nn.Module, analysis: FlopCountAnalysis) -> tuple[str, ...]:
    """Paths of modules that own parameters and were not called, containers without a `forward` left out."""

    def counts(module: nn.Module) -> bool:
        has_forward = type(module).forward is not nn.Module.forward
        return has_forward and next(module.parameters(recurse=False), None) is not None

    return tuple(sorted(name for name in analysis.uncalled_modules() if counts(model.get_submodule(name))))
