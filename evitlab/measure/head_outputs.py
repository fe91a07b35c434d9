"""What each head of a network gives, layer by layer, while the network runs as ever; and running it without a head."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from evitlab.models.attention import MHSA, Attend, GroupAttention, Windowed, cut_windows
from evitlab.models.capture import find_attention, find_owner
from evitlab.problems import UserError


@dataclass(frozen=True, kw_only=True)
class HeadOutputs:
    """One layer's heads on a batch; rows are the positions of an image, without the padding of windows."""

    features: Float[Tensor, "B heads rows v"]
    """softmax(QK) V, before the projection."""
    maps: Float[Tensor, "B heads rows keys"]
    """Attention weights: each row over the keys of its window, padding among them, so that it sums to 1."""


Take = Callable[[str, HeadOutputs], None]


@contextmanager
def read_heads(model: nn.Module, take: Take) -> Iterator[None]:
    """Give each layer's heads to `take`, by module path, as soon as a forward pass inside has computed them.

    Nothing is kept, so memory holds one layer at a time. The network computes what it would without: those built here
    stay on their path; timm's run unfused meanwhile. Raises UserError for a network whose heads cannot be read.
    """
    with ExitStack() as stack:
        images = [0]

        def count(_: nn.Module, args: tuple[Any, ...]) -> None:
            images[0] = len(args[0])

        _listen(stack, model.register_forward_pre_hook(count))
        for name, layer in find_attention(model).items():
            reader = _Reader(model, name, layer, images, take)
            (reader.attach_ours if is_ours(layer) else reader.attach_timm)(stack)
        yield


@contextmanager
def without_head(model: nn.Module, name: str, head: int) -> Iterator[None]:
    """Run the network with the output of one head of a layer zero, before the projection.

    In a cascade the next head is given its own split alone. Hooks come off whatever happens.
    """
    layer: Any = model.get_submodule(name)
    with ExitStack() as stack:
        if not is_ours(layer):
            _listen(stack, _find_projection(layer, name).register_forward_pre_hook(_clear_channels(layer, head)))
        else:
            mixer = layer.mixer if isinstance(layer, Windowed) else layer
            _clear_head(mixer, head, stack)
        yield


def count_heads(layer: nn.Module) -> int:
    """Heads of an attention layer that `find_attention` found."""
    own: Any = layer.mixer if isinstance(layer, Windowed) else layer
    return int(own.config.num_heads if is_ours(layer) else own.num_heads)


def is_ours(layer: nn.Module) -> bool:
    """Whether an attention layer is built here, not timm's."""
    return isinstance(layer, MHSA | GroupAttention | Windowed)


class _Reader:
    """Collects what one layer's heads give in a pass; group attention attends head by head."""

    def __init__(self, model: nn.Module, name: str, layer: nn.Module, images: list[int], take: Take):
        self.model, self.name, self.layer = model, name, layer
        self.images, self.take = images, take
        self.real: Bool[Tensor, " rows"] | None = None
        self.features: list[Tensor] = []
        self.maps: list[Tensor] = []

    def attach_ours(self, stack: ExitStack) -> None:
        mixer: Any = self.layer
        if isinstance(self.layer, Windowed):
            mixer = self.layer.mixer
            _listen(stack, self.layer.register_forward_pre_hook(self._note_windows))
        _listen(stack, mixer.attend.register_forward_hook(self._read))
        _listen(stack, mixer.register_forward_hook(lambda *_: self._finish()))

    def attach_timm(self, stack: ExitStack) -> None:
        """timm's fused attention passes by `attn_drop`, so it is turned off."""
        layer: Any = self.layer
        if hasattr(layer, "fused_attn"):
            stack.callback(setattr, layer, "fused_attn", layer.fused_attn)
            layer.fused_attn = False
        owner = find_owner(self.model, self.name)
        if hasattr(owner, "window_size") and owner is not layer:
            _listen(stack, owner.register_forward_pre_hook(self._note_windows))
        _listen(stack, layer.attn_drop.register_forward_pre_hook(lambda _, args: self.maps.append(args[0])))
        projection = _find_projection(layer, self.name)
        _listen(stack, projection.register_forward_pre_hook(self._read_projected))

    def _note_windows(self, owner: Any, args: tuple[Any, ...]) -> None:
        """Which positions of the windows are the image's, and not padding."""
        x: Tensor = args[0]
        last = not isinstance(owner, Windowed) or owner.channels_last
        height, width = (int(side) for side in (x.shape[1:3] if last else x.shape[2:4]))
        if isinstance(owner, Windowed):
            window, shift = owner.fit(height, width)
        else:
            window, shift = tuple(owner.window_size), tuple(owner.shift_size)
        self.real = cut_windows(torch.ones(1, height, width, 1, device=x.device), window, shift).flatten() > 0

    def _read(self, attend: Attend, args: tuple[Any, ...], out: Tensor) -> None:
        q, k, _, bias = args
        self.features.append(out.detach())
        self.maps.append(attend.weigh(q, k, bias).detach())

    def _read_projected(self, _: nn.Module, args: tuple[Any, ...]) -> None:
        self.features.append(args[0].detach().unflatten(-1, (self.maps[-1].shape[1], -1)).transpose(1, 2))
        self._finish()

    def _finish(self) -> None:
        features, maps = torch.cat(self.features, dim=1), torch.cat(self.maps, dim=1)
        self.features.clear()
        self.maps.clear()
        self.take(self.name, HeadOutputs(features=self._arrange(features), maps=self._arrange(maps)))

    def _arrange(self, x: Float[Tensor, "_windows heads N d"]) -> Float[Tensor, "B heads rows d"]:
        """The windows of an image one after the other, without their padding."""
        x = x.unflatten(0, (self.images[0], -1)).transpose(1, 2).flatten(2, 3)
        return x if self.real is None else x[:, :, self.real]


def _listen(stack: ExitStack, handle: Any) -> None:
    stack.callback(handle.remove)


def _find_projection(layer: Any, name: str) -> nn.Module:
    projection = getattr(layer, "proj", None)
    if not isinstance(projection, nn.Module) or not hasattr(layer, "num_heads"):
        raise UserError(f"{name}: heads can be read where a layer has `num_heads` and `proj`, as timm's ViT and Swin")
    return projection


def _clear_channels(layer: Any, head: int) -> Callable[..., tuple[Tensor, ...]]:
    def clear(_: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor, ...]:
        x = args[0].unflatten(-1, (layer.num_heads, -1)).clone()
        x[..., head, :] = 0
        return (x.flatten(-2), *args[1:])

    return clear


def _clear_head(mixer: Any, head: int, stack: ExitStack) -> None:
    """Of multi-head attention one of its outputs; of group attention, which attends head by head, the n-th call's."""
    calls: list[None] = []

    def clear(_: nn.Module, __: tuple[Any, ...], out: Tensor) -> Tensor:
        first, count = len(calls), out.shape[1]
        calls.extend([None] * count)
        if not first <= head < first + count:
            return out
        out = out.clone()
        out[:, head - first] = 0
        return out

    _listen(stack, mixer.register_forward_pre_hook(lambda *_: calls.clear()))
    _listen(stack, mixer.attend.register_forward_hook(clear))
