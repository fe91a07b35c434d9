"""A network as plain data, every width explicit: a pruned or searched network is expressed like a published one.

Two layouts carry the features. `tokens`: (B, N, C) with a class token, (B, H, W, C) without; linear layers, a norm
before each residual branch (DeiT, Swin). `maps`: (B, C, H, W); convolutions, each followed by its norm (EfficientViT).
"""

import json
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config

from evitlab.problems import explain

STRICT = ConfigDict(extra="forbid")
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Size = tuple[Count, Count]


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """One attention layer: heads of `qk_dim` query and key and `v_dim` value channels."""

    type: Literal["attention"] = "attention"
    kind: Literal["mhsa", "group", "cascaded"]
    """mhsa: each head sees all channels. group: each its own split. cascaded: its split plus the output of the
    head before it (EfficientViT, Sec. 3.2; where V is narrower or wider than the split, on the channels both have)."""
    num_heads: Count
    qk_dim: Count
    """Query and key channels per head."""
    v_dim: Count
    """Value channels per head."""
    scale: Positive
    """Factor on the products of queries and keys; stays as it was when queries and keys are pruned."""
    window: Size | None = None
    """Height and width of the windows that attention is confined to, in positions; None: all positions."""
    shift: tuple[int, int] = (0, 0)
    """How far the windows are shifted (Swin, Sec. 3.2)."""
    position_bias: Literal["none", "relative", "distance"] = "none"
    """A learnt bias per head and offset inside the window: by signed offset (Swin) or by its absolute value (LeViT)."""
    query_kernels: tuple[Count, ...] | None = None
    """Depthwise convolution on each head's queries, kernel size per head; maps only."""
    path: Literal["fused", "explicit"] | None = None
    """In one fused operator, or step by step; the same numbers up to rounding. None: as the published code runs it."""


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class FFNConfig:
    """One feed-forward layer, optionally with a residual depthwise convolution before it."""

    type: Literal["ffn"] = "ffn"
    hidden_dim: Count
    depthwise_kernel: Count | None = None


Layer = Annotated[AttentionConfig | FFNConfig, Field(discriminator="type")]


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """Residual layers in the order in which they run: (attention, ffn) in DeiT, (ffn, attention, ffn) in a sandwich."""

    layers: tuple[Layer, ...]


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class DownsampleConfig:
    """Halves height and width between two stages."""

    kind: Literal["patch_merging", "inverted_residual"]
    """patch_merging: Swin, Sec. 3.1. inverted_residual: EfficientViT's subsample block, with squeeze-and-excitation."""
    hidden_dim: Count
    """Channels in the middle: 4x the input's in both published forms."""
    before: tuple[FFNConfig, ...] = ()
    after: tuple[FFNConfig, ...] = ()


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """Blocks at one resolution and width."""

    width: Count
    blocks: tuple[BlockConfig, ...]
    downsample: DownsampleConfig | None = None
    """Before the blocks; None in the first stage."""


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class StemConfig:
    """From pixels to the first stage's width."""

    kind: Literal["patch", "overlapping"]
    """patch: one convolution of stride and size `patch_size`. overlapping: 3x3 convolutions of stride 2."""
    patch_size: Count
    """Pixels a side that become one position."""
    widths: tuple[Count, ...]
    """Output channels of each convolution; the last is the first stage's width."""
    norm: bool = False
    """Whether a norm follows the patch projection (Swin)."""


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A whole network. `image_size` fixes windows and position embedding; without the latter other sizes are taken."""

    family: Literal["deit", "swin", "efficientvit"]
    layout: Literal["tokens", "maps"]
    image_size: Size
    """Height and width in pixels."""
    in_channels: Count = 3
    num_classes: Count = 1000
    norm: Literal["layer", "batch"]
    norm_eps: Positive
    act: Literal["gelu", "relu", "hardswish"]
    stem: StemConfig
    class_token: bool = False
    position_embedding: bool = False
    stages: tuple[StageConfig, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `config_from_dict` reads it back to an equal config."""
        return asdict(self)

    @property
    def layers(self) -> list[AttentionConfig | FFNConfig]:
        """All attention and FFN layers of the blocks in order; those of downsampling are not among them."""
        return [layer for stage in self.stages for block in stage.blocks for layer in block.layers]

    @property
    def mhsa_ratio(self) -> float:
        """Attention layers over attention and FFN layers of the blocks, in 0..1."""
        return sum(layer.type == "attention" for layer in self.layers) / len(self.layers)

    @property
    def grid(self) -> Size:
        """Height and width of the first stage in positions; a ragged edge counts as a whole position."""
        height, width = self.image_size
        return -(-height // self.stem.patch_size), -(-width // self.stem.patch_size)


_MODEL_CONFIG = TypeAdapter(ModelConfig)


def config_from_dict(data: Any) -> ModelConfig:
    """Read a config from plain data and check that it describes a network that can be built.

    Raises ValueError that names every wrong field with its place.
    """
    try:
        config = _MODEL_CONFIG.validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        raise ValueError("config: " + "; ".join(explain(error, ModelConfig))) from None
    if problems := find_problems(config):
        raise ValueError("config: " + "; ".join(problems))
    return config


def find_problems(config: ModelConfig) -> list[str]:
    """What contradicts itself in a config, one sentence each; empty for one that can be built."""
    problems = _find_stem_problems(config)
    if config.class_token and not config.position_embedding:
        problems.append("class_token needs position_embedding, which fixes the grid beside it")
    if config.layout == "maps" and (config.class_token or config.position_embedding):
        problems.append("class_token and position_embedding need the layout 'tokens'")
    if config.class_token and len(config.stages) > 1:
        problems.append("class_token cannot pass downsampling: it needs a single stage")
    if not config.stages:
        problems.append("stages must hold at least one stage")
    elif not config.layers:
        problems.append("stages must hold at least one layer in their blocks")
    inputs = [None, *(stage.width for stage in config.stages)]
    for number, (before, stage) in enumerate(zip(inputs, config.stages, strict=False)):
        problems += [f"stages.{number}{problem}" for problem in _find_stage_problems(stage, before, config)]
    return problems


def _find_stem_problems(config: ModelConfig) -> list[str]:
    problems, stem = [], config.stem
    kind, count = ("patch", 1) if config.layout == "tokens" else ("overlapping", len(stem.widths))
    if stem.kind != kind:
        problems.append(f"stem.kind must be {kind!r} in the layout {config.layout!r}, but got {stem.kind!r}")
    elif config.stages and (len(stem.widths) != count or stem.widths[-1:] != (config.stages[0].width,)):
        alone = ", alone" if kind == "patch" else ""
        problems.append(f"stem.widths must end with the first stage's width{alone}, but got {stem.widths}")
    if stem.kind == "overlapping" and stem.patch_size != 2 ** len(stem.widths):
        rule = f"2 to the number of its convolutions, {2 ** len(stem.widths)}"
        problems.append(f"stem.patch_size must be {rule}, but got {stem.patch_size}")
    return problems


def _find_stage_problems(stage: StageConfig, before: int | None, config: ModelConfig) -> list[str]:
    """Contradictions in a stage that follows one of width `before`; each sentence goes on after the stage's name."""
    problems, down = [], stage.downsample
    if (before is None) != (down is None):
        problems.append(".downsample must be given in every stage but the first, and not there")
    layers = [layer for block in stage.blocks for layer in block.layers]
    if down is not None:
        layers += [*down.before, *down.after]
        kind = "patch_merging" if config.layout == "tokens" else "inverted_residual"
        if down.kind != kind:
            problems.append(f".downsample.kind must be {kind!r} in the layout {config.layout!r}, but got {down.kind!r}")
        if down.kind == "patch_merging" and before is not None and down.hidden_dim != 4 * before:
            problems.append(f".downsample.hidden_dim must be {4 * before}, four positions, but got {down.hidden_dim}")
    for layer in layers:
        if isinstance(layer, AttentionConfig):
            problems += [f": {problem}" for problem in _find_attention_problems(layer, stage.width, config)]
        elif layer.depthwise_kernel is not None and layer.depthwise_kernel % 2 == 0:
            problems.append(f": depthwise_kernel must be odd, but got {layer.depthwise_kernel}")
    return problems


def _find_attention_problems(layer: AttentionConfig, width: int, config: ModelConfig) -> list[str]:
    problems, window, kernels = [], layer.window, layer.query_kernels
    if layer.kind != "mhsa" and width % layer.num_heads:
        problems.append(f"num_heads must divide the width for head splits, but got {layer.num_heads=} and {width=}")
    if window is None and layer.position_bias != "none":
        problems.append(f"position_bias needs a window, but got {layer.position_bias=} and window=None")
    if window is None and any(layer.shift):
        problems.append(f"shift needs a window, but got {layer.shift} and window=None")
    if window is not None and not all(0 <= s < w or s == 0 for s, w in zip(layer.shift, window, strict=True)):
        problems.append(f"shift must be from 0 to less than the {window=}, but got {layer.shift}")
    if window is not None and config.class_token:
        problems.append("windows cannot hold a class token")
    if kernels is not None and len(kernels) != layer.num_heads:
        problems.append(f"query_kernels must hold one size per head, but got {kernels}")
    if kernels is not None and any(kernel % 2 == 0 for kernel in kernels):
        problems.append(f"query_kernels must be odd, but got {kernels}")
    if kernels is not None and config.layout != "maps":
        problems.append("query_kernels need the layout 'maps'")
    return problems
