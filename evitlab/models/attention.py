"""Token mixers: multi-head, group and cascaded group attention, whole-image or in (shifted) windows, in both layouts.

EfficientViT: Liu et al., CVPR 2023, arXiv 2305.07027, Sec. 3.2. Windows: Swin, Liu et al., ICCV 2021, arXiv 2103.14030.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from evitlab.models.config import AttentionConfig
from evitlab.models.layers import Parts

Path = Literal["fused", "explicit"]


class Attend(nn.Module):
    """softmax(scale Q K^T + bias) V for each head, in one fused operator or step by step.

    Where the config leaves it open, attention without a bias is fused and with one explicit, as in the published code.
    """

    def __init__(self, config: AttentionConfig, *, channels_last: bool):
        super().__init__()
        self.scale = config.scale
        self.channels_last = channels_last
        self.path: Path = config.path or ("fused" if config.position_bias == "none" else "explicit")

    def forward(
        self,
        q: Float[Tensor, "B heads N qk"],
        k: Float[Tensor, "B heads N qk"],
        v: Float[Tensor, "B heads N v"],
        bias: Float[Tensor, "#windows #heads N N"] | None,
    ) -> Float[Tensor, "B heads N v"]:
        """`bias` is added to the scores; where it differs between windows, images repeat them: B = images x windows."""
        if self.path == "fused":
            if bias is not None and bias.shape[0] > 1:
                bias = bias.repeat(len(q) // len(bias), 1, 1, 1)
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=self.scale)
        weights = self.weigh(q, k, bias)
        # maps: heads come out channels first, so that they join without a copy
        return weights @ v if self.channels_last else (v.mT @ weights.mT).mT

    def weigh(
        self,
        q: Float[Tensor, "B heads N qk"],
        k: Float[Tensor, "B heads N qk"],
        bias: Float[Tensor, "#windows #heads N N"] | None,
    ) -> Float[Tensor, "B heads N N"]:
        """softmax(scale Q K^T + bias): a row for each query, over the keys; on either path these are the weights."""
        scores = (q * self.scale) @ k.mT
        if bias is not None:
            scores = (scores.unflatten(0, (-1, len(bias))) + bias).flatten(0, 1)
        return scores.softmax(dim=-1)


@contextmanager
def attention_path(model: nn.Module, path: Path) -> Iterator[None]:
    """Run every attention of a network fused, or explicitly so that its weights can be read; restored on leaving."""
    attends = [module for module in model.modules() if isinstance(module, Attend)]
    before = [module.path for module in attends]
    try:
        for module in attends:
            module.path = path
        yield
    finally:
        for module, old in zip(attends, before, strict=True):
            module.path = old


class PositionBias(nn.Module):
    """A learnt bias per head for each offset between two positions of a window, signed (Swin) or absolute (LeViT).

    Gathered from its table in every forward pass: nothing that could go stale is kept.
    """

    index: Int[Tensor, "h w h w"]

    def __init__(self, num_heads: int, window: tuple[int, int], *, signed: bool):
        super().__init__()
        rows, columns = torch.arange(window[0]), torch.arange(window[1])
        down = rows[:, None, None, None] - rows[None, None, :, None]
        right = columns[None, :, None, None] - columns[None, None, None, :]
        if signed:
            down, right, stride = down + window[0] - 1, right + window[1] - 1, 2 * window[1] - 1
            offsets = (2 * window[0] - 1) * stride
        else:
            down, right, stride = down.abs(), right.abs(), window[1]
            offsets = window[0] * window[1]
        self.table = nn.Parameter(torch.zeros(num_heads, offsets))
        self.register_buffer("index", down * stride + right, persistent=False)

    def forward(self, height: int, width: int) -> Float[Tensor, "heads N N"]:
        """The biases inside a window, which may be smaller than the table's."""
        index = self.index[:height, :width, :height, :width].reshape(height * width, -1)
        return self.table[:, index]


class MHSA(nn.Module):
    """Multi-head self-attention with separate projections: Q and K may be narrower or wider than V."""

    def __init__(self, width: int, config: AttentionConfig, parts: Parts):
        super().__init__()
        self.config, self.channels_last = config, parts.channels_last
        heads = config.num_heads
        self.q = parts.pointwise(width, heads * config.qk_dim)
        self.k = parts.pointwise(width, heads * config.qk_dim)
        self.v = parts.pointwise(width, heads * config.v_dim)
        self.query_convs = _make_query_convs(config, parts)
        self.bias = _make_bias(config)
        self.attend = Attend(config, channels_last=self.channels_last)
        self.proj = _make_output(width, config, parts)

    def forward(self, x: Tensor, mask: Float[Tensor, "windows 1 N N"] | None = None) -> Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)
        if self.query_convs is not None:
            chunks = q.chunk(self.config.num_heads, dim=1)
            q = torch.cat([conv(chunk) for conv, chunk in zip(self.query_convs, chunks, strict=True)], dim=1)
        q, k, v = (split_heads(t, self.config.num_heads, channels_last=self.channels_last) for t in (q, k, v))
        out = self.attend(q, k, v, _add_mask(self.bias, x, mask, channels_last=self.channels_last))
        return self.proj(merge_heads(out, x, channels_last=self.channels_last))


class GroupAttention(nn.Module):
    """Each head sees its own split of the channels, alone or with what `feed` adds (EfficientViT, Sec. 3.2)."""

    def __init__(self, width: int, config: AttentionConfig, parts: Parts, *, feed: "Feed"):
        super().__init__()
        self.config, self.channels_last, self.feed = config, parts.channels_last, feed
        split = width // config.num_heads
        # one projection for Q, K and V of a head, as in the official code: heads are too small for three calls each
        outputs = 2 * config.qk_dim + config.v_dim
        self.qkv = nn.ModuleList(parts.pointwise(split, outputs) for _ in range(config.num_heads))
        self.query_convs = _make_query_convs(config, parts)
        self.bias = _make_bias(config)
        self.attend = Attend(config, channels_last=self.channels_last)
        self.proj = _make_output(width, config, parts)

    def forward(self, x: Tensor, mask: Float[Tensor, "windows 1 N N"] | None = None) -> Tensor:
        dim = -1 if self.channels_last else 1
        bias = _add_mask(self.bias, x, mask, channels_last=self.channels_last)
        outputs: list[Tensor] = []
        for head, split in enumerate(x.chunk(self.config.num_heads, dim=dim)):
            outputs.append(self.run_head(head, self.feed(split, outputs, dim), bias))
        return self.proj(torch.cat(outputs, dim=dim))

    def run_head(self, head: int, x: Tensor, bias: Tensor | None) -> Tensor:
        """One head's output on its input, in the layout of `x`."""
        qk, last = self.config.qk_dim, self.channels_last
        q, k, v = self.qkv[head](x).split([qk, qk, self.config.v_dim], dim=-1 if last else 1)
        if self.query_convs is not None:
            q = self.query_convs[head](q)
        q, k, v = (split_heads(t, 1, channels_last=last) for t in (q, k, v))
        out = self.attend(q, k, v, bias if bias is None or bias.shape[1] == 1 else bias[:, head : head + 1])
        return merge_heads(out, x, channels_last=last)


Feed = Callable[[Tensor, list[Tensor], int], Tensor]
"""From a head's split of the channels, the outputs of the heads before it and the channel dimension to its input."""


def take_split(split: Tensor, outputs: list[Tensor], dim: int) -> Tensor:
    """The head's split alone."""
    return split


def cascade(split: Tensor, outputs: list[Tensor], dim: int) -> Tensor:
    """The split plus the output of the head before it; where their widths differ, on the channels that both have."""
    if not outputs:
        return split
    given, taken = outputs[-1].shape[dim], split.shape[dim]
    if given == taken:
        return split + outputs[-1]
    shared = min(given, taken)
    first, rest = split.split([shared, taken - shared], dim=dim)
    return torch.cat([first + outputs[-1].narrow(dim, 0, shared), rest], dim=dim)


class Windowed(nn.Module):
    """A token mixer inside windows, shifted or not; a map that fits one window is not cut (Swin, Sec. 3.2).

    Maps that windows do not tile are padded with zeros on the right and below, and cropped after.
    """

    def __init__(self, mixer: nn.Module, config: AttentionConfig, *, channels_last: bool):
        super().__init__()
        assert config.window is not None
        self.mixer = mixer
        self.window, self.shift = config.window, config.shift
        self.channels_last = channels_last

    def forward(self, x: Tensor) -> Tensor:
        sizes = x.shape[1:3] if self.channels_last else x.shape[2:4]
        height, width = int(sizes[0]), int(sizes[1])  # while tracing, sizes are tensors
        window, shift = self.fit(height, width)
        if window == (height, width):
            return self.mixer(x)
        x = cut_windows(x if self.channels_last else x.permute(0, 2, 3, 1), window, shift)
        grid = -(-height // window[0]), -(-width // window[1])
        mask = _mask_shifted(grid, window, shift, x) if any(shift) else None
        x = self.mixer(x, mask) if self.channels_last else self.mixer(x.permute(0, 3, 1, 2), mask).permute(0, 2, 3, 1)
        x = join_windows(x, (height, width), shift)
        return x if self.channels_last else x.permute(0, 3, 1, 2)

    def fit(self, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Windows and their shift on a map of this size: no larger than it, unshifted along a side that they fill."""
        window = min(self.window[0], height), min(self.window[1], width)
        return window, (self.shift[0] if window[0] < height else 0, self.shift[1] if window[1] < width else 0)


def cut_windows(
    x: Float[Tensor, "B H W C"], window: tuple[int, int], shift: tuple[int, int]
) -> Float[Tensor, "_windows h w C"]:
    """Shift, pad with zeros on the right and below, and cut: the windows of an image row by row, image by image."""
    height, width = int(x.shape[1]), int(x.shape[2])
    x = x.roll((-shift[0], -shift[1]), dims=(1, 2)) if any(shift) else x
    x = F.pad(x, (0, 0, 0, -width % window[1], 0, -height % window[0]))
    grid = -(-height // window[0]), -(-width // window[1])
    return x.unflatten(2, (grid[1], -1)).unflatten(1, (grid[0], -1)).transpose(2, 3).flatten(0, 2)


def join_windows(
    x: Float[Tensor, "_windows h w C"], size: tuple[int, int], shift: tuple[int, int]
) -> Float[Tensor, "B H W C"]:
    """The inverse of `cut_windows` for maps of this size: put together, cropped, shifted back."""
    grid = -(-size[0] // int(x.shape[1])), -(-size[1] // int(x.shape[2]))
    x = x.unflatten(0, (-1, *grid)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
    x = x[:, : size[0], : size[1]]
    return x.roll(shift, dims=(1, 2)) if any(shift) else x


MIXERS: dict[str, Callable[..., nn.Module]] = {
    "mhsa": MHSA,
    "group": partial(GroupAttention, feed=take_split),
    "cascaded": partial(GroupAttention, feed=cascade),
}


def make_mixer(width: int, config: AttentionConfig, parts: Parts) -> nn.Module:
    """The token mixer that a config describes."""
    mixer = MIXERS[config.kind](width, config, parts)
    return mixer if config.window is None else Windowed(mixer, config, channels_last=parts.channels_last)


def split_heads(x: Tensor, num_heads: int, *, channels_last: bool) -> Float[Tensor, "B heads N d"]:
    """(B, ..., heads d) tokens or (B, heads d, H, W) maps, head by head."""
    if channels_last:
        return x.flatten(1, -2).unflatten(-1, (num_heads, -1)).transpose(1, 2)
    return x.flatten(2).unflatten(1, (num_heads, -1)).mT


def merge_heads(x: Float[Tensor, "B heads N d"], like: Tensor, *, channels_last: bool) -> Tensor:
    """The inverse of `split_heads`, with the positions of `like`."""
    if channels_last:
        return x.transpose(1, 2).flatten(2).view(*like.shape[:-1], -1)
    return x.mT.flatten(1, 2).unflatten(2, tuple(like.shape[2:]))


def _make_query_convs(config: AttentionConfig, parts: Parts) -> nn.ModuleList | None:
    if config.query_kernels is None:
        return None
    dim = config.qk_dim
    return nn.ModuleList(parts.conv(dim, dim, kernel=kernel, groups=dim) for kernel in config.query_kernels)


def _make_bias(config: AttentionConfig) -> PositionBias | None:
    if config.position_bias == "none":
        return None
    assert config.window is not None
    return PositionBias(config.num_heads, config.window, signed=config.position_bias == "relative")


def _make_output(width: int, config: AttentionConfig, parts: Parts) -> nn.Module:
    """All heads back to the width; in maps an activation comes before (EfficientViT's official code)."""
    proj = parts.pointwise(config.num_heads * config.v_dim, width, ends_branch=True)
    return proj if parts.channels_last else nn.Sequential(parts.act(), proj)


def _add_mask(
    bias: PositionBias | None, x: Tensor, mask: Tensor | None, *, channels_last: bool
) -> Float[Tensor, "windows heads N N"] | None:
    """Position bias and window mask as one term on the scores."""
    if bias is None:
        return mask
    height, width = x.shape[1:3] if channels_last else x.shape[2:4]
    biases = bias(int(height), int(width))[None]  # while tracing, sizes are tensors
    return biases if mask is None else biases + mask


def _mask_shifted(
    grid: tuple[int, int], window: tuple[int, int], shift: tuple[int, int], x: Tensor
) -> Float[Tensor, "windows 1 N N"]:
    """-100 between positions that the shift brought into one window from different sides (Swin, Fig. 4).

    On a map that windows do not tile, the padding comes after the shift, as in timm: there the sides stay unmasked.
    """
    regions = []
    for count, side, moved in zip(grid, window, shift, strict=True):
        places = torch.arange(count * side, device=x.device)
        starts = (places >= (count - 1) * side).long() + (places >= count * side - moved).long()
        regions.append(starts.view(count, side))
    rows, columns = regions
    region = 3 * rows[:, None, :, None] + columns[None, :, None, :]  # (rows, columns, height, width) of windows
    region = region.flatten(2).flatten(0, 1)  # (windows, N)
    apart = region[:, :, None] != region[:, None, :]
    return apart.to(x.dtype)[:, None] * -100.0
