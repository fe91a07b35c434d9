"""What can be cut from a network: queries with keys, values, and FFN hidden channels, layer by layer.

The three are groups of their own (EfficientViT, Liu et al., CVPR 2023, arXiv 2305.07027, Sec. 2.3): a channel of
queries goes with that of the keys, one of values with the column of the projection that reads it, a hidden one with
the column of the layer that narrows. Channels of the embedding stay.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

from evitlab.models.config import AttentionConfig, BlockConfig, FFNConfig, ModelConfig

Kind = Literal["qk", "v", "ffn"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, kw_only=True)
class Group:
    """Channels of one layer that can be cut one by one, as many in every head."""

    key: str
    """Path of the layer's module and the kind: `stages.0.blocks.3.0.branch.qk`."""
    layer: int
    """Number among the layers of the blocks, as in `config.layers`; inside downsampling, of the layer after it."""
    block: int | None
    """Number among the blocks of all stages; None inside downsampling."""
    kind: Kind
    heads: int
    """1 for an FFN."""
    channels: int
    """Per head, or hidden."""
    width: int
    """Of the embedding that the layer reads and writes."""
    chained_heads: int = 0
    """Heads, the first ones, of which only the last channels can go, from the end."""

    @property
    def module(self) -> str:
        """Path of the attention or FFN module."""
        return self.key.rpartition(".")[0]


@dataclass(frozen=True, kw_only=True)
class Place:
    """One layer of a network, with where it stands in the config and in the built network."""

    layer: AttentionConfig | FFNConfig
    path: str
    """Of the attention (inside its windows) or FFN module."""
    number: int
    block: int | None
    width: int


def find_groups(config: ModelConfig) -> list[Group]:
    """All groups of a network in the order in which they run, those inside downsampling among them."""
    return [group for place in walk_layers(config) for group in _find_in_layer(place, config)]


def find_unprunable(config: ModelConfig) -> list[str]:
    """What stays, or can only be cut in part, and why; a sentence each, none where all can be cut freely."""
    if _norms_mix_channels(config):
        return [
            "nothing can be pruned: after each projection a LayerNorm runs over its channels, and cutting one changes "
            "all others (norm must be 'batch' in the layout 'maps')"
        ]
    sentences = []
    chained = [group for group in find_groups(config) if group.chained_heads]
    if chained:
        modules = ", ".join(group.module for group in chained)
        sentences.append(
            f"V of a cascade can only be cut from its last channels on, but for the last head's: a head's output is "
            f"added to the first channels of the next head's input, place by place ({modules})"
        )
    for number, stage in enumerate(config.stages):
        if stage.downsample is not None and stage.downsample.kind == "inverted_residual":
            sentences.append(
                f"stages.{number}.downsample: the {stage.downsample.hidden_dim} channels in the middle are no FFN's "
                f"and stay (squeeze-and-excitation reads them all)"
            )
    return sentences


def walk_layers(config: ModelConfig) -> Iterator[Place]:
    """All attention and FFN layers in the order in which they run, those around downsampling among them."""
    number = block_number = 0
    widths = [config.stages[0].width, *(stage.width for stage in config.stages)]
    for index, (before, stage) in enumerate(zip(widths, config.stages, strict=False)):
        root = f"stages.{index}"
        if (down := stage.downsample) is not None:
            paths = _find_paths(f"{root}.downsample", down.before, 0)
            paths += _find_paths(f"{root}.downsample", down.after, _count_modules(down.before) + 1)
            sides = [before] * len(down.before) + [stage.width] * len(down.after)
            for ffn, path, width in zip([*down.before, *down.after], paths, sides, strict=True):
                yield Place(layer=ffn, path=path, number=number, block=None, width=width)
        for inside, block in enumerate(stage.blocks):
            paths = _find_paths(f"{root}.blocks.{inside}", block.layers, 0)
            for layer, path in zip(block.layers, paths, strict=True):
                yield Place(layer=layer, path=path, number=number, block=block_number, width=stage.width)
                number += 1
            block_number += 1


def resize_groups(config: ModelConfig, channels: Mapping[str, int]) -> ModelConfig:
    """The config with other numbers of channels, by the groups' keys; all else stays, the softmax scale too."""
    resized = iter([_resize(place, channels) for place in walk_layers(config)])
    stages = []
    for stage in config.stages:
        down = stage.downsample
        if down is not None:
            before = tuple(_next_ffn(resized) for _ in down.before)
            down = replace(down, before=before, after=tuple(_next_ffn(resized) for _ in down.after))
        blocks = tuple(BlockConfig(layers=tuple(next(resized) for _ in block.layers)) for block in stage.blocks)
        stages.append(replace(stage, downsample=down, blocks=blocks))
    return replace(config, stages=tuple(stages))


def _find_in_layer(place: Place, config: ModelConfig) -> list[Group]:
    if _norms_mix_channels(config):
        return []
    layer = place.layer
    if isinstance(layer, FFNConfig):
        return [_make_group(place, "ffn", heads=1, channels=layer.hidden_dim)]
    chained = layer.num_heads - 1 if layer.kind == "cascaded" else 0
    return [
        _make_group(place, "qk", heads=layer.num_heads, channels=layer.qk_dim),
        _make_group(place, "v", heads=layer.num_heads, channels=layer.v_dim, chained_heads=chained),
    ]


def _make_group(place: Place, kind: Kind, *, heads: int, channels: int, chained_heads: int = 0) -> Group:
    return Group(
        key=f"{place.path}.{kind}",
        layer=place.number,
        block=place.block,
        kind=kind,
        heads=heads,
        channels=channels,
        width=place.width,
        chained_heads=chained_heads,
    )


def _norms_mix_channels(config: ModelConfig) -> bool:
    """In maps a norm follows each projection; BatchNorm keeps channels apart, LayerNorm does not."""
    return config.layout == "maps" and config.norm == "layer"


def _find_paths(root: str, layers: tuple[AttentionConfig | FFNConfig, ...], start: int) -> list[str]:
    """Module paths of layers in a sequence from `start`; a depthwise convolution is a module before its FFN."""
    paths = []
    for number, layer in enumerate(layers):
        index = start + _count_modules(layers[: number + 1]) - 1
        windowed = isinstance(layer, AttentionConfig) and layer.window is not None
        paths.append(f"{root}.{index}.branch" + (".mixer" if windowed else ""))
    return paths


def _count_modules(layers: tuple[AttentionConfig | FFNConfig, ...]) -> int:
    return sum(2 if isinstance(layer, FFNConfig) and layer.depthwise_kernel is not None else 1 for layer in layers)


def _resize(place: Place, channels: Mapping[str, int]) -> AttentionConfig | FFNConfig:
    layer, path = place.layer, place.path
    if isinstance(layer, FFNConfig):
        return replace(layer, hidden_dim=channels.get(f"{path}.ffn", layer.hidden_dim))
    qk_dim, v_dim = channels.get(f"{path}.qk", layer.qk_dim), channels.get(f"{path}.v", layer.v_dim)
    return replace(layer, qk_dim=qk_dim, v_dim=v_dim)


def _next_ffn(layers: Iterator[AttentionConfig | FFNConfig]) -> FFNConfig:
    layer = next(layers)
    assert isinstance(layer, FFNConfig)
    return layer
