"""What one operator that torch dispatched does: bytes, multiply-accumulates (MACs), arithmetic, from its arguments."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

ALLOCATIONS = ("empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided", "resize_")
OVERWRITING = ("copy_", "fill_", "zero_", "normal_", "uniform_")
"""In place, but without reading what was there."""


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """One dispatched operator."""

    operator: str
    bytes: int
    """Every distinct input and output once, what is only broadcast not repeated; what is changed in place is read
    and written. An input counts whole, also where only some of it is gathered. Views and allocations move none."""
    macs: int
    arithmetic: int
    """Two for each MAC; without MACs one for each number written."""
    page_faults: float = 0.0
    """Mean over passes, where they were counted."""


def measure_kernel(func: Any, args: Sequence[Any], kwargs: dict[str, Any], outputs: Any) -> Kernel:
    """Bytes, MACs and arithmetic of one dispatched operator, an `OpOverload`, from its arguments and results."""
    given = list(zip(func._schema.arguments, args, strict=False))
    given += [(argument, kwargs[argument.name]) for argument in func._schema.arguments if argument.name in kwargs]
    in_place = any(_is_written(argument) for argument, _ in given)
    read = [tensor for argument, value in given if _is_read(func, argument) for tensor in _tensors(value)]
    written = _tensors(outputs)
    if _moves_nothing(func, read, written, in_place=in_place):
        return Kernel(operator=func._schema.name, bytes=0, macs=0, arithmetic=0)
    macs = count_kernel_macs(func, args, kwargs, outputs)
    return Kernel(
        operator=func._schema.name,
        bytes=_count_bytes(read) + _count_bytes(written),
        macs=macs,
        arithmetic=2 * macs or sum(tensor.numel() for tensor in written),
    )


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _is_read(func: Any, argument: Any) -> bool:
    overwrites = argument.is_out or func._opname in OVERWRITING
    return not (_is_written(argument) and overwrites)


def _moves_nothing(func: Any, read: list[Tensor], written: list[Tensor], *, in_place: bool) -> bool:
    """Whether it is a view or an allocation; some views say so only by sharing their input's memory."""
    if func._opname in ALLOCATIONS or torch.Tag.inplace_view in func.tags:
        return True
    memory = {tensor.untyped_storage().data_ptr() for tensor in read}
    return not in_place and bool(written) and all(t.untyped_storage().data_ptr() in memory for t in written)


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _count_bytes(tensors: Iterable[Tensor]) -> int:
    distinct = {(tensor.data_ptr(), tensor.shape, tensor.stride()): tensor for tensor in tensors}
    return sum(_count_numbers(tensor) * tensor.element_size() for tensor in distinct.values())


def _count_numbers(tensor: Tensor) -> int:
    """Without the repetitions of a broadcast, whose stride is 0."""
    return prod(size if step else 1 for size, step in zip(tensor.shape, tensor.stride(), strict=True))


def count_kernel_macs(func: Any, args: Sequence[Any], kwargs: dict[str, Any], outputs: Any) -> int:
    """Multiply-accumulates of a matrix product, a convolution or fused attention; 0 of every other operator."""
    if func._schema.name in MACS:
        return MACS[func._schema.name](*args, **kwargs)
    flops = flop_registry.get(func.overloadpacket)
    return flops(*args, **kwargs, out_val=outputs) // 2 if flops is not None else 0


def _native_attention_macs(query: Tensor, key: Tensor, value: Tensor, width: int, *rest: Any) -> int:
    # Q, K, V and output projections, then scores and mixing over all heads together.
    B, N, _ = query.shape
    return 4 * B * N * width * width + 2 * B * N * N * width


def _attention_macs(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **named: Any) -> int:
    # Scores, then mixing; torch's table has this kernel from 2.15 on.
    return prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])


MACS: dict[str, Callable[..., int]] = {
    "aten::mv": lambda matrix, vector: matrix.numel(),
    "aten::addmv": lambda addend, matrix, vector, **scales: matrix.numel(),
    "aten::dot": lambda a, b: a.numel(),
    "aten::_native_multi_head_attention": _native_attention_macs,
    "aten::_scaled_dot_product_flash_attention_for_cpu": _attention_macs,
    "mkldnn::_linear_pointwise": lambda x, weight, *rest: prod(x.shape[:-1]) * weight.numel(),
}
"""What torch's own table lacks."""
