"""A network as plain data, every width explicit: a pruned or searched network is expressed like a published one.

Two layouts carry the features. `tokens`: (B, N, C) with a class token, (B, H, W, C) without; linear layers, a norm
before each residual branch (DeiT, Swin). `maps`: (B, C, H, W); convolutions, each followed by its norm (EfficientViT).
"""

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config

STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True)
Count = Annotated[int, Field(ge=1)]
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
    scale: Annotated[float, Field(gt=0)]
    """Factor on the products of queries and keys; stays as it was when queries and keys are pruned."""
    window: Size | None = None
    """Height and width of the windows that attention is confined to, in positions; None: all positions."""
    shift: tuple[int, int] = (0, 0)
    """How far the windows are shifted (Swin, Sec. 3.2)."""
    position_bias: Literal["none", "relative", "distance"] = "none"
    """A learnt bias per head and offset inside the window: by signed offset (Swin) or by its absolute value (LeViT)."""
    query_kernels: tuple[Count, ...] | None = None
    """Depthwise convolution on each head's queries, kernel size per head; maps only."""


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
    norm_eps: float
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
        config = _MODEL_CONFIG.validate_python(data)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}, but got {e['input']!r}" for e in error.errors()]
        raise ValueError("config: " + "; ".join(problems)) from None
    if problems := find_problems(config):
        raise ValueError("config: " + "; ".join(problems))
    return config


def find_problems(config: ModelConfig) -> list[str]:
    """What contradicts itself in a config, one sentence each; empty for one that can be built."""
    problems = []
    if not config.stages:
        problems.append("stages must hold at least one stage")
    elif config.stem.widths[-1:] != (config.stages[0].width,):
        problems.append(f"stem.widths must end with the first stage's width, but got {config.stem.widths=}")
    if config.class_token and not config.position_embedding:
        problems.append("class_token needs position_embedding, which fixes the grid beside it")
    if config.layout == "maps" and (config.class_token or config.position_embedding):
        problems.append("class_token and position_embedding need the layout 'tokens'")
    for number, stage in enumerate(config.stages):
        if (number == 0) != (stage.downsample is None):
            problems.append(f"stages.{number}.downsample must be given in every stage but the first")
        for block in stage.blocks:
            for layer in block.layers:
                if layer.type == "attention":
                    problems += [f"stages.{number}: {p}" for p in _find_attention_problems(layer, stage.width, config)]
    return problems


def _find_attention_problems(layer: AttentionConfig, width: int, config: ModelConfig) -> list[str]:
    problems = []
    if layer.kind != "mhsa" and width % layer.num_heads:
        problems.append(f"num_heads must divide the width for head splits, but got {layer.num_heads=} and {width=}")
    if layer.window is None and layer.position_bias != "none":
        problems.append(f"position_bias needs a window, but got {layer.position_bias=} and window=None")
    if layer.window is not None and config.class_token:
        problems.append("windows cannot hold a class token")
    if layer.query_kernels is not None and len(layer.query_kernels) != layer.num_heads:
        problems.append(f"query_kernels must hold one size per head, but got {layer.query_kernels=}")
    if layer.query_kernels is not None and config.layout != "maps":
        problems.append("query_kernels need the layout 'maps'")
    return problems
