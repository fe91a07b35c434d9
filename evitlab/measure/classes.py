"""The paper's classes of operators: which one does what kind of work.

Source: Liu et al., EfficientViT, CVPR 2023, Sec. 2.1 and Fig. 2. The paper calls reshaping, element-wise
operations, copying and normalisation memory-bound (`evitlab.measurements.MEMORY_BOUND`). A class says what an
operator does; it is no measured bound.
"""

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
        "einsum", "mkldnn_linear", "mkldnn::_linear_pointwise", "bilinear",
        "scaled_dot_product_attention", "_fused_sdp_choice", "_scaled_dot_product_attention_math",
        "_scaled_dot_product_cudnn_attention", "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_fused_attention_overrideable", "_flash_attention_forward",
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
"""Operators of each class, of `aten` where no library is named, in place or not; any other is in class `other`."""
# fmt: on

_CLASS_OF = {operator: name for name, operators in OPERATOR_CLASSES.items() for operator in operators}


def classify(operator: str) -> str:
    """Class of an operator by its name in a profile; `aten::add_` belongs where `aten::add` does."""
    name = operator.removeprefix("aten::")
    return _CLASS_OF.get(name) or _CLASS_OF.get(name.removesuffix("_"), OTHER)
