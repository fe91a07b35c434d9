"""Where the time of a forward pass goes: self time of every `aten` operator, by the paper's classes.

Source: Liu et al., EfficientViT, CVPR 2023, Sec. 2.1 and Fig. 2. The paper calls reshaping, element-wise
addition, copying and normalisation memory-bound; so does this module, for the classes in `MEMORY_BOUND`. A
class says what an operator does; it is not a measured bound.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from evitlab.environment import resolve_device, synchronize
from evitlab.measure.inputs import copy_for_inference, height_and_width, is_folded, random_images
from evitlab.measure.intervals import median_interval
from evitlab.records import MEMORY_BOUND, OperatorProfile, OperatorTime

WARMUP_PASSES = 3
OTHER = "other"

# fmt: off
OPERATOR_CLASSES: dict[str, tuple[str, ...]] = {
    # Views, which cost their dispatch, and allocation, also where it makes room for a convolution's result.
    "reshape and copy": (
        "view", "_unsafe_view", "view_as", "reshape", "reshape_as", "_reshape_alias", "flatten", "unflatten",
        "transpose", "t", "numpy_T", "mT", "matrix_H", "permute", "movedim", "squeeze", "unsqueeze", "expand",
        "expand_as", "broadcast_to", "as_strided", "select", "slice", "narrow", "diagonal", "detach", "split",
        "split_with_sizes", "chunk", "unbind", "unfold", "alias", "lift_fresh", "resolve_conj", "resolve_neg",
        "copy", "_to_copy", "to", "clone", "contiguous", "cat", "stack", "repeat", "tile", "roll", "flip",
        "pad", "constant_pad_nd", "index", "index_select", "index_put", "_index_put_impl", "gather",
        "im2col", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle", "empty",
        "empty_like", "empty_strided", "new_empty", "resize", "set", "zeros", "zeros_like", "new_zeros",
        "zero", "fill", "full", "full_like", "ones", "ones_like", "arange", "scalar_tensor", "item",
        "_local_scalar_dense",
    ),
    # Additions and activations; pooling and other reductions too, which touch each number once.
    "element-wise": (
        "add", "sub", "rsub", "mul", "div", "neg", "pow", "sqrt", "rsqrt", "exp", "log", "reciprocal", "abs",
        "sin", "cos", "floor", "floor_divide", "remainder", "bitwise_not", "addcmul", "where", "all",
        "isneginf", "masked_fill", "eq", "ne", "lt", "le", "gt", "ge", "maximum", "minimum", "clamp",
        "clamp_min", "clamp_max", "relu", "relu6", "gelu", "silu", "hardswish", "hardsigmoid", "hardtanh",
        "sigmoid", "tanh", "elu", "leaky_relu", "mish", "softplus", "prelu", "_prelu_kernel", "dropout",
        "feature_dropout", "mean", "sum", "amax", "amin", "max", "var", "avg_pool2d", "adaptive_avg_pool2d",
        "_adaptive_avg_pool2d", "max_pool2d", "max_pool2d_with_indices", "mkldnn_max_pool2d",
    ),
    "normalisation": (
        "batch_norm", "_batch_norm_impl_index", "native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm",
        "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "layer_norm", "native_layer_norm",
        "group_norm", "native_group_norm", "instance_norm", "rms_norm", "_fused_rms_norm",
        "linalg_vector_norm",
    ),
    "softmax": ("softmax", "_softmax", "_safe_softmax", "log_softmax", "_log_softmax"),
    # Fused attention is one kernel: both products and the softmax between them.
    "matrix product": (
        "linear", "addmm", "_addmm_activation", "mm", "bmm", "baddbmm", "matmul", "addmv", "mv", "dot",
        "einsum", "mkldnn_linear", "_mkl_linear", "bilinear", "scaled_dot_product_attention",
        "_fused_sdp_choice", "_scaled_dot_product_attention_math", "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_flash_attention", "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_efficient_attention", "_flash_attention_forward",
        "_efficient_attention_forward", "_native_multi_head_attention", "_transform_bias_rescale_qkv",
    ),
    # `_nnpack_available` asks in each call whether that library can do the work.
    "convolution": (
        "conv1d", "conv2d", "conv3d", "conv_transpose2d", "convolution", "_convolution", "_convolution_mode",
        "convolution_overrideable", "mkldnn_convolution", "thnn_conv2d", "_slow_conv2d_forward",
        "_conv_depthwise2d", "slow_conv_transpose2d", "slow_conv_dilated2d", "_nnpack_available",
        "_nnpack_spatial_convolution", "cudnn_convolution", "cudnn_convolution_relu",
        "cudnn_convolution_add_relu", "cudnn_convolution_transpose", "miopen_convolution",
        "miopen_depthwise_convolution",
    ),
}
"""Operators of each class, in place or not; any other operator is in class `other`."""
# fmt: on

_CLASS_OF = {operator: name for name, operators in OPERATOR_CLASSES.items() for operator in operators}

Pass = dict[str, tuple[int, float]]  # one profiled forward pass: calls and self seconds of each operator


def profile_operators(
    model: nn.Module,
    *,
    batch_size: int,
    image_size: int | tuple[int, int],
    device: str = "cpu",
    repeats: int = 15,
    seed: int = 0,
    fold: bool = True,
) -> OperatorProfile:
    """Self time of each operator in a forward pass of a copy in evaluation mode, on random float32 images.

    Self time leaves out what an operator calls, so no time counts twice; on an accelerator it is the time
    of the kernels that the operator itself launched. Each pass is profiled alone and followed by one
    without the profiler, whose wall seconds also hold Python between the operators. The profiler adds some
    time to every operator, so it makes small ones look larger.
    """
    if repeats < 2:
        raise ValueError(f"repeats must be at least 2, but got {repeats=}")
    where = resolve_device(device)
    images = random_images(batch_size=batch_size, image_size=image_size, device=where, seed=seed)
    copy = copy_for_inference(model, fold=fold, device=where)
    passes, wall = [], []
    with torch.inference_mode(), _quiet_profiler():
        for _ in range(WARMUP_PASSES):
            _time_pass(copy, images)
        _profile_pass(copy, images)  # the profiler, too, starts slowly
        for _ in range(repeats):
            passes.append(_profile_pass(copy, images))
            wall.append(_time_pass(copy, images))
    shares = tuple(memory_bound_share(operators) for operators in passes)
    interval = median_interval(shares, seed=seed)
    return OperatorProfile(
        memory_bound_share=interval.median,
        memory_bound_share_low=interval.low,
        memory_bound_share_high=interval.high,
        memory_bound_shares=shares,
        seconds_by_class=_median_by_class(passes),
        operators=_median_by_operator(passes),
        profiled_seconds=median(sum(_seconds_by_class(operators).values()) for operators in passes),
        wall_seconds=median(wall),
        batch_size=batch_size,
        image_size=height_and_width(image_size),
        folded=fold and is_folded(copy, model),
    )


def classify(operator: str) -> str:
    """Class of an operator by its name in the profile; `aten::add_` belongs where `aten::add` does."""
    name = operator.removeprefix("aten::")
    return _CLASS_OF.get(name) or _CLASS_OF.get(name.removesuffix("_"), OTHER)


def memory_bound_share(operators: Pass) -> float:
    """Share of one pass's self time that the memory-bound classes take."""
    seconds = _seconds_by_class(operators)
    return sum(seconds[name] for name in MEMORY_BOUND) / sum(seconds.values())


def _seconds_by_class(operators: Pass) -> dict[str, float]:
    totals = dict.fromkeys((*OPERATOR_CLASSES, OTHER), 0.0)
    for operator, (_, seconds) in operators.items():
        totals[classify(operator)] += seconds
    return totals


def _median_by_class(passes: Sequence[Pass]) -> dict[str, float]:
    totals = [_seconds_by_class(operators) for operators in passes]
    return {name: median(total[name] for total in totals) for name in totals[0]}


def _median_by_operator(passes: Sequence[Pass]) -> tuple[OperatorTime, ...]:
    """Largest first. The passes make the same calls, as network and input are the same."""
    calls = {name: count for operators in passes for name, (count, _) in operators.items()}
    times = (
        OperatorTime(
            operator=name,
            operator_class=classify(name),
            calls=count,
            seconds=median(operators.get(name, (0, 0.0))[1] for operators in passes),
        )
        for name, count in calls.items()
    )
    return tuple(sorted(times, key=lambda time: time.seconds, reverse=True))


def _profile_pass(model: nn.Module, images: Tensor) -> Pass:
    on_gpu = images.device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    synchronize(images.device)
    with profile(activities=activities) as profiler:
        model(images)
        synchronize(images.device)
    rows = [row for row in profiler.key_averages() if row.device_type == DeviceType.CPU]
    if on_gpu:  # what stays on the CPU, as calls of the CUDA runtime do, takes no time on the device
        rows = [row for row in rows if row.self_device_time_total > 0]
    return {
        row.key: (row.count, (row.self_device_time_total if on_gpu else row.self_cpu_time_total) * 1e-6) for row in rows
    }


def _time_pass(model: nn.Module, images: Tensor) -> float:
    synchronize(images.device)
    start = perf_counter()
    model(images)
    synchronize(images.device)
    return perf_counter() - start


@contextmanager
def _quiet_profiler() -> Iterator[None]:
    """Kineto writes its stages to stderr unless its log level is high when it first starts."""
    if "KINETO_LOG_LEVEL" in os.environ:
        yield
        return
    os.environ["KINETO_LOG_LEVEL"] = "99"
    try:
        yield
    finally:
        del os.environ["KINETO_LOG_LEVEL"]
