"""From a config to a network, and folding BatchNorm for deployment."""

import copy
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from evitlab.models.attention import MHSA, GroupAttention, make_mixer
from evitlab.models.config import AttentionConfig, FFNConfig, ModelConfig, StageConfig, find_problems
from evitlab.models.ffn import FFN
from evitlab.models.layers import (
    ConvNorm,
    Head,
    InvertedResidual,
    OverlappingStem,
    Parts,
    PatchMerging,
    PatchStem,
    Positions,
    Residual,
    TokenBatchNorm,
)

STEMS = {"patch": PatchStem, "overlapping": OverlappingStem}
DOWNSAMPLES = {"patch_merging": PatchMerging, "inverted_residual": InvertedResidual}


class Network(nn.Module):
    """An image classifier: stem, stages, head. `config` says all about it but its weights."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        parts = Parts(config)
        self.stem = STEMS[config.stem.kind](config.stem, parts)
        width = config.stages[0].width
        self.positions = Positions(config, width) if config.position_embedding else nn.Identity()
        inputs = [width] + [stage.width for stage in config.stages]
        self.stages = nn.ModuleList(Stage(w, stage, parts) for w, stage in zip(inputs, config.stages, strict=False))
        self.head = Head(config.stages[-1].width, parts)
        self.apply(_init_weights)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B classes"]:
        x = self.positions(self.stem(x))
        for stage in self.stages:
            x = stage(x)
        return self.head(x)


class Stage(nn.Module):
    """Downsampling where there is any, then blocks of residual layers."""

    def __init__(self, inputs: int, config: StageConfig, parts: Parts):
        super().__init__()
        width = config.width
        self.downsample = nn.Sequential()
        if (down := config.downsample) is not None:
            self.downsample.extend(_make_layers(inputs, down.before, parts))
            self.downsample.append(DOWNSAMPLES[down.kind](inputs, down.hidden_dim, width, parts))
            self.downsample.extend(_make_layers(width, down.after, parts))
        self.blocks = nn.ModuleList(nn.Sequential(*_make_layers(width, block.layers, parts)) for block in config.blocks)

    def forward(self, x: Tensor) -> Tensor:
        x = self.downsample(x)
        for block in self.blocks:
            x = block(x)
        return x


def build_model(config: ModelConfig, *, seed: int | None = None) -> Network:
    """A freshly initialised network in training mode; with a seed always the same one, torch's own state untouched.

    Raises ValueError for a config that contradicts itself.
    """
    if problems := find_problems(config):
        raise ValueError("config: " + "; ".join(problems))
    if seed is None:
        return Network(config)
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)  # `torch.manual_seed` would seed accelerators too
        return Network(config)


def fold_batchnorm(model: nn.Module) -> nn.Module:
    """A copy for deployment, in eval mode: each BatchNorm folded into the convolution or linear layer beside it.

    A BatchNorm stays where its neighbour is no fixed linear map of its output: before windows, which pad with zeros
    after it, and before a cascade, whose heads add to it.
    """
    folded = copy.deepcopy(model).eval()
    for module in list(folded.modules()):
        for name, child in module.named_children():
            if isinstance(child, ConvNorm) and isinstance(child.norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(child.conv, child.norm))
        if isinstance(module, PatchStem) and isinstance(module.norm, TokenBatchNorm):
            module.proj, module.norm = fuse_conv_bn_eval(module.proj, module.norm), nn.Identity()
        norm = getattr(module, "norm", None)
        if isinstance(norm, TokenBatchNorm) and (readers := _find_readers(module)):
            scale, shift = _as_affine(norm)
            for linear, channels in readers:
                _fold_into_linear(scale[channels], shift[channels], linear)
            module.norm = nn.Identity()
    return folded.eval()


def _find_readers(module: nn.Module) -> list[tuple[nn.Linear, slice]]:
    """The linear layers that read a module's norm, each with its channels; empty where something else reads it too."""
    everything = slice(None)
    match module:
        case Head(linear=linear):
            return [(linear, everything)]
        case PatchMerging(reduction=reduction):
            return [(reduction, everything)]
        case Residual(branch=FFN(widen=nn.Linear() as widen)):
            return [(widen, everything)]
        case Residual(branch=MHSA(q=nn.Linear() as q, k=nn.Linear() as k, v=nn.Linear() as v)):
            return [(q, everything), (k, everything), (v, everything)]
        case Residual(branch=GroupAttention(config=AttentionConfig(kind="group"), qkv=heads)):
            linears = [head for head in heads if isinstance(head, nn.Linear)]
            return [(head, slice(i * head.in_features, (i + 1) * head.in_features)) for i, head in enumerate(linears)]
    return []


def _as_affine(norm: TokenBatchNorm) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"]]:
    """Scale and shift of each channel in evaluation mode."""
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale


@torch.no_grad()
def _fold_into_linear(scale: Float[Tensor, " C"], shift: Float[Tensor, " C"], linear: nn.Linear) -> None:
    """W (s x + t) + b = (W s) x + (W t + b)."""
    bias = linear.weight @ shift
    linear.bias = nn.Parameter(bias if linear.bias is None else bias + linear.bias)
    linear.weight.mul_(scale)


def _make_layers(width: int, configs: Iterable[AttentionConfig | FFNConfig], parts: Parts) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for config in configs:
        if isinstance(config, AttentionConfig):
            layers.append(Residual(parts.branch_norm(width), make_mixer(width, config, parts)))
            continue
        if config.depthwise_kernel is not None:
            layers.append(Residual(nn.Identity(), parts.depthwise(width, kernel=config.depthwise_kernel)))
        layers.append(Residual(parts.branch_norm(width), FFN(width, config.hidden_dim, parts)))
    return layers


def _init_weights(module: nn.Module) -> None:
    """Linear layers and embeddings as in DeiT: normal, deviation 0.02; convolutions as torch makes them."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, Positions):
        for parameter in module.parameters():
            nn.init.trunc_normal_(parameter, std=0.02)
