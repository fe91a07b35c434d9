"""Which part of a network a module belongs to: stem, MHSA, FFN, norm, downsampling, head; and the steps inside MHSA.

Networks built here are told apart by class; those of timm, torchvision and others by the names of their classes and,
for what is a plain `Sequential` there, by the name under which it stands. What has no known name is `other`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from evitlab.models.attention import MHSA, GroupAttention, Windowed
from evitlab.models.ffn import FFN
from evitlab.models.layers import Head, InvertedResidual, OverlappingStem, PatchMerging, PatchStem

OURS: dict[type[nn.Module], str] = {
    PatchStem: "stem",
    OverlappingStem: "stem",
    MHSA: "MHSA",
    GroupAttention: "MHSA",
    Windowed: "MHSA",
    FFN: "FFN",
    PatchMerging: "downsampling",
    InvertedResidual: "downsampling",
    Head: "head",
}
# A whole class name, as a regular expression; the first that fits counts.
CLASS_NAMES: dict[str, str] = {
    r"PatchEmbed\w*|HybridEmbed|ConvStem|Stem\d*|ConvEmbed|ConvPatchEmbed": "stem",
    r"PatchMerging\w*|Downsample\w*|LevitDownsample": "downsampling",
    r"\w*ClassifierHead|NormLinear|LinearHead": "head",
    r"\w*(Attention|Attn)(2d|Cl|Nchw|Rope|V2|RelPos)*|XCA|LiteMLA": "MHSA",
    r"\w*Mlp|MLP|MLPBlock|SwiGLU\w*|FFN|FeedForward": "FFN",
    r"(Frozen)?(Batch|Layer|Group|Instance|RMS|Rms|Simple)Norm\w*": "norm",
}
# The name of a module among the network's own children.
TOP_NAMES: dict[str, str] = {
    **dict.fromkeys(
        ("conv_stem", "stem", "patch_embed", "conv1", "bn1", "act1", "relu", "maxpool", "conv_proj"), "stem"
    ),
    **dict.fromkeys(("head", "heads", "head_dist", "conv_head", "fc", "classifier", "global_pool", "avgpool"), "head"),
}
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, _BatchNorm)
LINEAR = ("aten::linear", "aten::conv1d", "aten::conv2d", "mkldnn::_linear_pointwise")
PRODUCTS = ("aten::matmul", "aten::bmm", "aten::baddbmm", "aten::einsum")
STEPS = {"reshape and copy": "reshapes", "softmax": "softmax", "convolution": "projections"}


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a network and the path of the module that it is."""

    kind: str
    """stem, MHSA, FFN, norm, downsampling, head, other."""
    module: str
    """"" for `other`."""


ELSEWHERE = Part(kind="other", module="")


def find_parts(model: nn.Module) -> dict[str, Part]:
    """The part of every module, by its path. The outermost part counts: a norm inside MHSA belongs to MHSA.

    What a block computes between its parts is `other`: residual additions, depthwise convolutions beside an FFN,
    convolutional blocks, and the windows of networks that cut them outside of their attention, as timm's Swin does.
    """
    parts: dict[str, Part] = {}
    for path, module in model.named_modules():
        outer = parts.get(path.rpartition(".")[0], ELSEWHERE) if path else ELSEWHERE
        kind = classify_module(module, path)
        parts[path] = outer if outer != ELSEWHERE or kind == "other" else Part(kind=kind, module=path)
    return parts


def classify_module(module: nn.Module, path: str) -> str:
    """What a module by itself is, wherever it stands."""
    if type(module) in OURS:
        return OURS[type(module)]
    if isinstance(module, NORMS):
        return "norm"
    for pattern, kind in CLASS_NAMES.items():
        if re.fullmatch(pattern, type(module).__name__):
            return kind
    if path.rpartition(".")[2] == "downsample" and not _holds_ffn(module):
        return "downsampling"
    return TOP_NAMES.get(path, "other")


def _holds_ffn(module: nn.Module) -> bool:
    """EfficientViT has FFNs before and after its downsampling, in one container."""
    return any(classify_module(child, "") == "FFN" for child in module.modules() if child is not module)


def find_products(calls: Iterable[tuple[str, Part]]) -> list[str]:
    """What the matrix products in each call of a forward pass are for, from its operator and part.

    Inside MHSA: projections (linear layers), scores, mixing (the first product after a softmax), fused attention;
    elsewhere "".
    """
    found = []
    after_softmax: dict[str, bool] = {}
    for operator, part in calls:
        name = ""
        if part.kind == "MHSA":
            weighted = after_softmax.get(part.module, False)
            name = _name_product(operator, weighted=weighted)
            after_softmax[part.module] = "softmax" in operator or (weighted and name != "mixing")
        found.append(name)
    return found


def _name_product(operator: str, *, weighted: bool) -> str:
    if "attention" in operator:
        return "fused attention"
    if operator in PRODUCTS:
        return "mixing" if weighted else "scores"
    return "projections"


def name_step(product: str, operator_class: str, *, operator: str = "") -> str:
    """The step of MHSA that work of this class belongs to, in a call whose products are for `product`.

    All of a linear layer or convolution is projection: the copy of its bias into its output reshapes nothing.
    """
    if product == "":
        return ""
    if operator in LINEAR:
        return "projections"
    return product if operator_class == "matrix product" else STEPS.get(operator_class, "other")
