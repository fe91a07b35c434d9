"""Published networks by name, and the knobs that derive variants from them.

DeiT-T: Touvron et al., ICML 2021 (arXiv 2012.12877). Swin-T: Liu et al., ICCV 2021 (arXiv 2103.14030).
EfficientViT M0-M5: Liu et al., CVPR 2023 (arXiv 2305.07027), Table 1; official code microsoft/Cream, `EfficientViT/`.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from evitlab.models.config import (
    AttentionConfig,
    BlockConfig,
    DownsampleConfig,
    FFNConfig,
    ModelConfig,
    StageConfig,
    StemConfig,
    find_problems,
)
from evitlab.models.knobs import KnobError, check_knobs, per_stage
from evitlab.models.sandwich import share_attention, split_blocks, spread_attention


@dataclass(frozen=True, kw_only=True)
class Published:
    """A network as its paper states it; per-stage values from the first stage to the last."""

    family: str
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    source: str
    query_kernels: tuple[int, ...] | None = None
    """Kernel of the query's depthwise convolution by head; the first `heads` of them are used."""


_KERNELS = (7, 5, 3, 3)
_MSRA = partial(Published, family="efficientvit", source="EfficientViT (CVPR 2023), Table 1")
ZOO: dict[str, Published] = {
    "deit_t": Published(family="deit", widths=(192,), depths=(12,), heads=(3,), source="DeiT (ICML 2021), Table 1"),
    "swin_t": Published(
        family="swin",
        widths=(96, 192, 384, 768),
        depths=(2, 2, 6, 2),
        heads=(3, 6, 12, 24),
        source="Swin (ICCV 2021), Sec. 3.3",
    ),
    "efficientvit_m0": _MSRA(widths=(64, 128, 192), depths=(1, 2, 3), heads=(4, 4, 4), query_kernels=(5, 5, 5, 5)),
    "efficientvit_m1": _MSRA(widths=(128, 144, 192), depths=(1, 2, 3), heads=(2, 3, 3), query_kernels=_KERNELS),
    "efficientvit_m2": _MSRA(widths=(128, 192, 224), depths=(1, 2, 3), heads=(4, 3, 2), query_kernels=_KERNELS),
    "efficientvit_m3": _MSRA(widths=(128, 240, 320), depths=(1, 2, 3), heads=(4, 3, 4), query_kernels=(5, 5, 5, 5)),
    "efficientvit_m4": _MSRA(widths=(128, 256, 384), depths=(1, 2, 3), heads=(4, 4, 4), query_kernels=_KERNELS),
    "efficientvit_m5": _MSRA(widths=(192, 288, 384), depths=(1, 3, 4), heads=(3, 3, 4), query_kernels=_KERNELS),
}

DEFAULTS: dict[str, dict[str, Any]] = {
    "deit": {
        "attention": "mhsa", "attention_path": None, "qk_dim": None, "v_ratio": 1.0, "ffn_ratio": 4.0, "sandwich": None,
        "depthwise": False, "norm": "layer", "act": "gelu", "patch_size": 16, "image_size": 224, "num_classes": 1000,
    },
    "swin": {
        "attention": "mhsa", "attention_path": None, "qk_dim": None, "v_ratio": 1.0, "ffn_ratio": 4.0, "sandwich": None,
        "depthwise": False, "norm": "layer", "act": "gelu", "patch_size": 4, "window_size": 7, "image_size": 224,
        "num_classes": 1000,
    },
    "efficientvit": {
        "attention": "cascaded", "attention_path": None, "qk_dim": 16, "v_ratio": 1.0, "ffn_ratio": 2.0, "sandwich": 1,
        "depthwise": True, "norm": "batch", "act": "relu", "patch_size": 16, "window_size": 7, "image_size": 224,
        "num_classes": 1000,
    },
}  # fmt: skip
"""A family's own values of the knobs that do not differ between its members."""


def default_knobs(name: str) -> dict[str, Any]:
    """Every knob that applies to a zoo entry with the published network's value; qk_dim None is width / num_heads."""
    published = _find(name)
    defaults = DEFAULTS[published.family]
    layers = 2 if defaults["sandwich"] is None else 2 * defaults["sandwich"] + 1
    stages = {"width": published.widths, "depth": published.depths, "num_heads": published.heads}
    single = len(published.widths) == 1
    return {"mhsa_ratio": 1 / layers, **defaults, **{k: v[0] if single else v for k, v in stages.items()}}


def make_config(name: str, **knobs: Any) -> ModelConfig:
    """The published network `name` with some knobs changed; `evitlab list` prints the knobs.

    A single `width` is the first stage's: the others follow in the published proportion, each rounded to a multiple
    of its heads. A single value of the other per-stage knobs holds for all stages.

    Raises KnobError (a ValueError) that names every wrong knob and what is allowed.

    >>> make_config("deit_t", mhsa_ratio=0.25).mhsa_ratio
    0.25
    """
    published = _find(name)
    check_knobs(knobs, family=published.family, num_stages=len(published.widths))
    settings = {**default_knobs(name), **knobs}
    image_size = settings["image_size"]
    settings["image_size"] = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    settings["mhsa_ratio"] = knobs.get("mhsa_ratio")
    settings["query_kernels"] = published.query_kernels
    settings["num_heads"] = per_stage(settings["num_heads"], len(published.widths))
    settings["width"] = _scale_widths(settings["width"], settings["num_heads"], published.widths)
    _check_widths(settings)
    config = _BUILDERS[published.family](settings)
    if problems := find_problems(config):
        raise KnobError(problems)
    return config


def _find(name: str) -> Published:
    if name not in ZOO:
        raise KnobError([f"name must be one of {', '.join(ZOO)}, but got {name!r}"])
    return ZOO[name]


def _scale_widths(width: Any, heads: list[int], published: tuple[int, ...]) -> list[int]:
    if isinstance(width, list | tuple):
        return list(width)
    scaled = [width * stage / published[0] for stage in published[1:]]
    return [width] + [max(1, round(w / h)) * h for w, h in zip(scaled, heads[1:], strict=True)]


def _check_widths(settings: dict[str, Any]) -> None:
    """Heads must divide the width, and the stem's first convolutions need a channel each."""
    problems = []
    for width, heads in zip(settings["width"], settings["num_heads"], strict=True):
        if width % heads:
            nearest = sorted({max(1, width // heads) * heads, -(-width // heads) * heads})
            problems.append(
                f"num_heads must divide width, but got num_heads={heads} and width={width}"
                f" (nearest widths: {', '.join(map(str, nearest))})"
            )
    if problems:
        raise KnobError(problems)


def _make_stages(
    settings: dict[str, Any], *, windows: list[tuple[int, int] | None], position_bias: Any, shifted: bool
) -> tuple[StageConfig, ...]:
    """Every stage's blocks, without what stands between the stages."""
    num_stages = len(settings["width"])
    depths = per_stage(settings["depth"], num_stages)
    block = [True, False] if settings["sandwich"] is None else spread_attention(1, 2 * settings["sandwich"] + 1)
    orders = [block * depth for depth in depths]
    if settings["mhsa_ratio"] is not None:
        counts = share_attention(settings["mhsa_ratio"], [len(order) for order in orders])
        orders = [spread_attention(count, len(order)) for count, order in zip(counts, orders, strict=True)]
    knobs = {name: per_stage(settings[name], num_stages) for name in ("qk_dim", "v_ratio", "ffn_ratio")}
    stages = []
    for number, width in enumerate(settings["width"]):
        heads, window = settings["num_heads"][number], windows[number]
        qk_dim = knobs["qk_dim"][number] or width // heads
        kernels = settings["query_kernels"]
        attention = AttentionConfig(
            kind=settings["attention"],
            num_heads=heads,
            qk_dim=qk_dim,
            v_dim=max(1, round(knobs["v_ratio"][number] * width / heads)),
            scale=qk_dim**-0.5,
            window=window,
            position_bias=position_bias,
            query_kernels=kernels and (kernels + kernels[-1:] * heads)[:heads],
            path=settings["attention_path"],
        )
        ffn = _make_ffn(width, knobs["ffn_ratio"][number], settings)
        split = split_blocks(orders[number], depths[number])
        stages.append(StageConfig(width=width, blocks=_make_blocks(split, attention, ffn, shifted=shifted)))
    return tuple(stages)


def _make_ffn(width: int, ratio: float, settings: dict[str, Any]) -> FFNConfig:
    return FFNConfig(hidden_dim=max(1, round(ratio * width)), depthwise_kernel=3 if settings["depthwise"] else None)


def _make_blocks(
    split: list[list[bool]], attention: AttentionConfig, ffn: FFNConfig, *, shifted: bool
) -> tuple[BlockConfig, ...]:
    """Blocks of one stage; where windows shift, every second attention's do (Swin, Sec. 3.2)."""
    blocks, seen = [], 0
    for order in split:
        layers: list[AttentionConfig | FFNConfig] = []
        for is_attention in order:
            shift = shifted and seen % 2 == 1
            layers.append((_shift(attention) if shift else attention) if is_attention else ffn)
            seen += is_attention
        blocks.append(BlockConfig(layers=tuple(layers)))
    return tuple(blocks)


def _shift(attention: AttentionConfig) -> AttentionConfig:
    assert attention.window is not None
    return replace(attention, shift=(attention.window[0] // 2, attention.window[1] // 2))


def _make_deit(settings: dict[str, Any]) -> ModelConfig:
    patch, image_size = settings["patch_size"], settings["image_size"]
    if any(side % patch for side in image_size):
        raise KnobError([f"image_size must be a multiple of patch_size={patch} for DeiT, but got {image_size}"])
    # Nothing but attention carries an image into the class token: without any, positions are averaged.
    stages = _make_stages(settings, windows=[None], position_bias="none", shifted=False)
    attends = any(layer.type == "attention" for block in stages[0].blocks for layer in block.layers)
    return ModelConfig(
        family="deit", layout="tokens", norm_eps=1e-6, class_token=attends, position_embedding=True, stages=stages,
        stem=StemConfig(kind="patch", patch_size=patch, widths=(settings["width"][0],)), **_shared(settings),
    )  # fmt: skip


def _make_swin(settings: dict[str, Any]) -> ModelConfig:
    width, patch = settings["width"], settings["patch_size"]
    windows = _fit_windows(settings, patch)
    stages = _make_stages(settings, windows=windows, position_bias="relative", shifted=True)
    joined = [
        replace(stage, downsample=DownsampleConfig(kind="patch_merging", hidden_dim=4 * before))
        for before, stage in zip(width, stages[1:], strict=False)
    ]
    return ModelConfig(
        family="swin", layout="tokens", norm_eps=1e-5, stages=(stages[0], *joined),
        stem=StemConfig(kind="patch", patch_size=patch, widths=(width[0],), norm=True), **_shared(settings),
    )  # fmt: skip


def _make_efficientvit(settings: dict[str, Any]) -> ModelConfig:
    width, patch = settings["width"], settings["patch_size"]
    if patch not in (2, 4, 8, 16):
        raise KnobError([f"patch_size must be 2, 4, 8 or 16 for EfficientViT, but got {patch}"])
    halvings = patch.bit_length() - 1  # 16 pixels a side: four convolutions of stride 2
    ladder = tuple(max(1, width[0] // 2 ** (halvings - 1 - i)) for i in range(halvings))
    stages = _make_stages(settings, windows=_fit_windows(settings, patch), position_bias="distance", shifted=False)
    ratios = per_stage(settings["ffn_ratio"], len(width))
    ffns = [_make_ffn(w, ratio, settings) for w, ratio in zip(width, ratios, strict=True)]
    joined = [
        replace(
            stage,
            downsample=DownsampleConfig(
                kind="inverted_residual", hidden_dim=4 * width[i], before=(ffns[i],), after=(ffns[i + 1],)
            ),
        )
        for i, stage in enumerate(stages[1:])
    ]
    return ModelConfig(
        family="efficientvit", layout="maps", norm_eps=1e-5, stages=(stages[0], *joined),
        stem=StemConfig(kind="overlapping", patch_size=patch, widths=ladder), **_shared(settings),
    )  # fmt: skip


def _fit_windows(settings: dict[str, Any], patch: int) -> list[tuple[int, int] | None]:
    """Each stage's window: `window_size`, or the whole map where that is smaller."""
    window = settings["window_size"]
    sides = [-(-side // patch) for side in settings["image_size"]]
    windows: list[tuple[int, int] | None] = []
    for _ in settings["width"]:
        windows.append((min(window, sides[0]), min(window, sides[1])))
        sides = [-(-side // 2) for side in sides]
    return windows


def _shared(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: settings[name] for name in ("image_size", "num_classes", "norm", "act")}


_BUILDERS = {"deit": _make_deit, "swin": _make_swin, "efficientvit": _make_efficientvit}
