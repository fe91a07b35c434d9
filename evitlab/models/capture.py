"""Attention maps: reading them out of a network that runs as ever, and laying one block's over the image.

Networks built here and, of timm's, those whose attention passes its weights through `attn_drop`, as ViT, DeiT and Swin
do. timm's EfficientViT does not; `from_timm` makes of it one that is built here.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from evitlab.models.attention import MHSA, Attend, GroupAttention, Windowed, cut_windows, join_windows
from evitlab.models.network import Network
from evitlab.problems import UserError, suggest


@contextmanager
def capture_attention(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Collect the attention weights of every forward pass inside, by module path, in the order of the network.

    Each is (B, heads, N, N), or (B x windows, heads, N, N), detached: row q says how much query q looks at each key.
    A further pass replaces them. The network computes what it would without: those built here stay on their path, and
    the weights of a fused one are computed beside it; timm's run unfused meanwhile. Raises UserError for a network
    without readable attention.
    """
    maps: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for name, module in find_attention(model).items():
            if isinstance(module, MHSA | GroupAttention | Windowed):
                _read_ours(module, name, maps, stack)
            else:
                _read_timm(module, name, maps, stack)
        yield maps


def find_attention(model: nn.Module) -> dict[str, nn.Module]:
    """The attention layers whose weights can be read, by module path, in the order of the network; UserError if none.

    Windows belong to the layer.
    """
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if isinstance(module, MHSA | GroupAttention | Windowed):
            if not any(name.startswith(f"{outer}.") for outer in found):
                found[name] = module
        elif isinstance(getattr(module, "attn_drop", None), nn.Module):
            found[name] = module
    if not found:
        raise UserError(
            f"attention maps can be read from networks built here and from timm's ViT, DeiT and Swin, but "
            f"{type(model).__name__} has no such attention (timm's EfficientViT: use efficientvit_m0 to _m5)"
        )
    return found


def attention_on_image(
    model: nn.Module, image: Float[Tensor, "1 C H W"], block: int | str = -1
) -> Float[Tensor, "heads h w"]:
    """How much each position of one image is looked at, head by head, at the resolution of the block.

    With a class token: by it, so that a head's map sums to 1 less what the token spends on itself. Without: by the
    mean query of its window, padding left out; where nothing is padded, a head's map sums to the number of windows.
    `block` is a path of `find_attention` or a place in its order. The model runs in evaluation mode and comes back as
    it was. Raises UserError for a block that is not there, ValueError for several images.
    """
    if image.ndim != 4 or len(image) != 1:
        raise ValueError(f"image must be one image, (1, C, H, W), but got {tuple(image.shape)}")
    name = _choose_block(list(find_attention(model)), block)
    shapes: list[tuple[int, ...]] = []
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        stack.enter_context(torch.no_grad())
        maps = stack.enter_context(capture_attention(model))
        owner = find_owner(model, name)
        handle = owner.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape)))
        stack.callback(handle.remove)
        model(image)
    weights, place = maps[name], _find_place(model, owner, shapes[-1], image)
    height, width = place.size
    if place.prefix:
        queries = weights[0, :, 0] if place.has_class_token else weights[0, :, place.prefix :].mean(1)
        return queries[:, place.prefix :].unflatten(1, (height, width))
    real = cut_windows(torch.ones(1, height, width, 1).to(weights), place.window, place.shift).flatten(1)
    looks = torch.einsum("whqk,wq->wkh", weights, real / real.sum(1, keepdim=True))
    return join_windows(looks.unflatten(1, place.window), place.size, place.shift)[0].permute(2, 0, 1)


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where the queries and keys of an attention layer lie on the map that it was given."""

    size: tuple[int, int]
    window: tuple[int, int]
    shift: tuple[int, int] = (0, 0)
    prefix: int = 0
    """Tokens before those of the map; where there are any, there are no windows."""
    has_class_token: bool = False


def _read_ours(module: nn.Module, name: str, maps: dict[str, Tensor], stack: ExitStack) -> None:
    """Group attention attends head by head: its maps are put together when the layer is done."""
    mixer: Any = module.mixer if isinstance(module, Windowed) else module
    heads: list[Tensor] = []

    def weigh(attend: Attend, args: tuple[Any, ...], _: Tensor) -> None:
        q, k, _, bias = args
        heads.append(attend.weigh(q, k, bias).detach())

    def start(_: nn.Module, __: tuple[Any, ...]) -> None:
        heads.clear()

    def finish(_: nn.Module, __: tuple[Any, ...], ___: Tensor) -> None:
        maps[name] = torch.cat(heads, dim=1)
        heads.clear()

    for handle in (
        mixer.register_forward_pre_hook(start),
        mixer.attend.register_forward_hook(weigh),
        mixer.register_forward_hook(finish),
    ):
        stack.callback(handle.remove)


def _read_timm(module: nn.Module, name: str, maps: dict[str, Tensor], stack: ExitStack) -> None:
    """timm's fused attention passes by `attn_drop`, so it is turned off."""

    def read(_: nn.Module, args: tuple[Any, ...]) -> None:
        maps[name] = args[0].detach()

    if hasattr(module, "fused_attn"):
        stack.callback(setattr, module, "fused_attn", module.fused_attn)
        module.fused_attn = False  # type: ignore[assignment]
    drop: Any = module.attn_drop
    stack.callback(drop.register_forward_pre_hook(read).remove)


def _choose_block(names: list[str], block: int | str) -> str:
    if isinstance(block, int):
        if not -len(names) <= block < len(names):
            raise UserError(
                f"block must be from {-len(names)} to {len(names) - 1}, for attention layers counted from 0 or from "
                f"the end, but got {block}"
            )
        return names[block]
    if block not in names:
        raise UserError(f"block must be one of {', '.join(names)}, but got {block}{suggest(block, names)}")
    return block


def find_owner(model: nn.Module, name: str) -> nn.Module:
    """The module that is given the whole map: the layer, or timm's block around it, which cuts the windows."""
    around = model.get_submodule(name.rpartition(".")[0])
    return around if hasattr(around, "window_size") else model.get_submodule(name)


def _find_place(model: Any, owner: Any, shape: tuple[int, ...], image: Tensor) -> _Place:
    if isinstance(owner, Windowed):
        size = _map_size(shape, channels_last=owner.channels_last)
        window, shift = owner.fit(*size)
        return _Place(size=size, window=window, shift=shift)
    if isinstance(owner, MHSA | GroupAttention) and len(shape) == 4:
        size = _map_size(shape, channels_last=owner.channels_last)
        return _Place(size=size, window=size)
    if isinstance(model, Network):
        grid = model.config.grid
        return _Place(size=grid, window=grid, prefix=shape[1] - grid[0] * grid[1], has_class_token=True)
    if hasattr(owner, "window_size") and len(shape) == 4:
        size = _map_size(shape, channels_last=True)
        return _Place(size=size, window=tuple(owner.window_size), shift=tuple(owner.shift_size))
    prefix = getattr(model, "num_prefix_tokens", 0)
    embed: Any = getattr(model, "patch_embed", None)
    grid = embed.dynamic_feat_size(tuple(image.shape[-2:])) if hasattr(embed, "dynamic_feat_size") else (0, 0)
    if len(shape) != 3 or shape[1] != prefix + grid[0] * grid[1]:
        raise UserError(f"attention cannot be laid over the image for {type(model).__name__}: only timm's ViT and Swin")
    return _Place(size=grid, window=grid, prefix=prefix, has_class_token=getattr(model, "has_class_token", False))


def _map_size(shape: tuple[int, ...], *, channels_last: bool) -> tuple[int, int]:
    return (shape[1], shape[2]) if channels_last else (shape[2], shape[3])


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """All modules in evaluation mode; each gets its own mode back."""
    before = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in before.items():
            module.training = mode
