"""The small parts: what a layout and a norm make of a projection, stems, downsampling, the classifier head."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from timm.layers import LayerNorm2d, SqueezeExcite
from torch import Tensor, nn
from torch.nn import functional as F

from evitlab.models.config import ModelConfig, StemConfig

ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "hardswish": nn.Hardswish}


class TokenBatchNorm(nn.BatchNorm1d):
    """BatchNorm over every position of a batch of tokens, per channel."""

    def forward(self, x: Float[Tensor, "... C"]) -> Float[Tensor, "... C"]:
        return super().forward(x.reshape(-1, x.shape[-1])).view(x.shape)


class ConvNorm(nn.Module):
    """A convolution without bias and its norm: one convolution once BatchNorm is folded."""

    def __init__(self, conv: nn.Conv2d, norm: nn.Module):
        super().__init__()
        self.conv = conv
        self.norm = norm

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        return self.norm(self.conv(x))


class Residual(nn.Module):
    """x + branch(norm(x)); in maps the branch brings its own norms."""

    def __init__(self, norm: nn.Module, branch: nn.Module):
        super().__init__()
        self.norm = norm
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(self.norm(x))


@dataclass(frozen=True)
class Parts:
    """Makes the parts that all layers share, in the config's layout, norm and activation."""

    config: ModelConfig

    @property
    def channels_last(self) -> bool:
        """Whether channels are the last dimension (tokens) or the second (maps)."""
        return self.config.layout == "tokens"

    def act(self) -> nn.Module:
        return ACTIVATIONS[self.config.act]()

    def branch_norm(self, channels: int) -> nn.Module:
        """The norm before a residual branch; maps have none there."""
        return self.token_norm(channels) if self.channels_last else nn.Identity()

    def token_norm(self, channels: int) -> nn.Module:
        """A norm over the last dimension."""
        norm = nn.LayerNorm if self.config.norm == "layer" else TokenBatchNorm
        return norm(channels, eps=self.config.norm_eps)

    def pointwise(self, inputs: int, outputs: int, *, ends_branch: bool = False) -> nn.Module:
        """A projection of channels, position by position; maps bring their norm along.

        A norm that ends a residual branch starts at zero, so that the branch starts as nothing (Goyal et al. 2017).
        """
        if self.channels_last:
            return nn.Linear(inputs, outputs)
        return self.conv(inputs, outputs, kernel=1, ends_branch=ends_branch)

    def conv(
        self,
        inputs: int,
        outputs: int,
        *,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        ends_branch: bool = False,
    ) -> ConvNorm:
        """A convolution over maps, centred, with its norm."""
        conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        make_norm = LayerNorm2d if self.config.norm == "layer" else nn.BatchNorm2d
        norm = make_norm(outputs, eps=self.config.norm_eps)
        if ends_branch:
            nn.init.zeros_(norm.weight)
        return ConvNorm(conv, norm)

    def depthwise(self, channels: int, *, kernel: int) -> nn.Module:
        """The residual depthwise convolution before an FFN (EfficientViT, Sec. 3.1)."""
        conv = self.conv(channels, channels, kernel=kernel, groups=channels, ends_branch=True)
        return TokenConv(conv, self.config.grid) if self.channels_last else conv


class TokenConv(nn.Module):
    """A convolution over tokens laid out as a map; a class token passes by and gets nothing."""

    def __init__(self, conv: ConvNorm, grid: tuple[int, int]):
        super().__init__()
        self.conv = conv
        self.grid = grid

    def forward(self, x: Float[Tensor, "B ... C"]) -> Float[Tensor, "B ... C"]:
        if x.ndim == 4:
            return self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        maps = x[:, 1:].unflatten(1, self.grid)
        return F.pad(self(maps).flatten(1, 2), (0, 0, 1, 0))


class PatchStem(nn.Module):
    """Non-overlapping patches to tokens, padded on the right and below to whole patches (ViT; Swin, Sec. 3.1)."""

    def __init__(self, stem: StemConfig, parts: Parts):
        super().__init__()
        size = stem.patch_size
        self.patch_size = size
        self.proj = nn.Conv2d(parts.config.in_channels, stem.widths[-1], size, size)
        self.norm = parts.token_norm(stem.widths[-1]) if stem.norm else nn.Identity()

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B h w D"]:
        x = pad_maps(x, self.patch_size)
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class OverlappingStem(nn.Sequential):
    """3x3 convolutions of stride 2, an activation between each two (EfficientViT, Sec. 3.4)."""

    def __init__(self, stem: StemConfig, parts: Parts):
        inputs = (parts.config.in_channels, *stem.widths)
        layers: list[nn.Module] = []
        for before, after in zip(inputs, stem.widths, strict=False):
            layers += [parts.conv(before, after, kernel=3, stride=2), parts.act()]
        super().__init__(*layers[:-1])


def pad_maps(x: Float[Tensor, "B C H W"], multiple: int) -> Float[Tensor, "B C h w"]:
    """Zeros on the right and below until both sides are multiples."""
    height, width = x.shape[-2:]
    if height % multiple == 0 and width % multiple == 0:
        return x
    return F.pad(x, (0, -width % multiple, 0, -height % multiple))


class PatchMerging(nn.Module):
    """Four neighbours become one position: concatenate, norm, project (Swin, Sec. 3.1)."""

    def __init__(self, inputs: int, hidden: int, outputs: int, parts: Parts):
        super().__init__()
        self.norm = parts.token_norm(hidden)
        self.reduction = nn.Linear(hidden, outputs, bias=False)

    def forward(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B h w D"]:
        height, width = x.shape[1:3]
        if height % 2 or width % 2:
            x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
        # channels ordered as (column, row, channel), Swin's published order
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).permute(0, 1, 3, 4, 2, 5).flatten(3)
        return self.reduction(self.norm(x))


class InvertedResidual(nn.Module):
    """EfficientViT's subsampling: widen, depthwise stride 2, squeeze-and-excitation, narrow (Sec. 3.4)."""

    def __init__(self, inputs: int, hidden: int, outputs: int, parts: Parts):
        super().__init__()
        self.widen = parts.conv(inputs, hidden, kernel=1)
        self.act = parts.act()
        self.depthwise = parts.conv(hidden, hidden, kernel=3, stride=2, groups=hidden)
        self.excite = SqueezeExcite(hidden, 0.25)
        self.narrow = parts.conv(hidden, outputs, kernel=1)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        x = self.act(self.widen(x))
        x = self.act(self.depthwise(x))
        return self.narrow(self.excite(x))


class Head(nn.Module):
    """Norm, one vector an image, classifier. Maps are averaged before the norm, tokens after it."""

    def __init__(self, width: int, parts: Parts):
        super().__init__()
        self.class_token = parts.config.class_token
        self.channels_last = parts.channels_last
        self.norm = parts.token_norm(width)
        self.linear = nn.Linear(width, parts.config.num_classes)

    def forward(self, x: Tensor) -> Float[Tensor, "B classes"]:
        if not self.channels_last:
            return self.linear(self.norm(x.mean((2, 3))))
        x = self.norm(x)
        return self.linear(x[:, 0] if self.class_token else x.flatten(1, -2).mean(1))


class Positions(nn.Module):
    """Adds a learnt embedding to each position, and a class token before them where the config has one (ViT)."""

    def __init__(self, config: ModelConfig, width: int):
        super().__init__()
        self.grid, self.image_size = config.grid, config.image_size
        self.class_token = nn.Parameter(torch.zeros(1, 1, width)) if config.class_token else None
        self.embedding = nn.Parameter(torch.zeros(1, config.class_token + self.grid[0] * self.grid[1], width))

    def forward(self, x: Float[Tensor, "B h w C"]) -> Float[Tensor, "B ... C"]:
        if tuple(x.shape[1:3]) != self.grid:
            got = tuple(x.shape[1:3])
            raise ValueError(
                f"a network with a position embedding takes only the image_size that it was built for, "
                f"{self.image_size} ({self.grid} positions), but got {got} positions"
            )
        if self.class_token is None:
            return x + self.embedding.unflatten(1, self.grid)
        return torch.cat([self.class_token.expand(len(x), -1, -1), x.flatten(1, 2)], dim=1) + self.embedding
