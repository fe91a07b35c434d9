"""How much each channel matters: Taylor scores of gates, and the simple scores that they are compared with.

A gate is a factor of 1 on one channel. The derivative of an image's loss by it, summed over positions, is to first
order what the loss loses when the channel is cut (Molchanov et al., CVPR 2019, arXiv 1906.10771, Sec. 3). Each channel
of a group has one: on the query (that on the key, and on their product, is the same), on the value, and on the hidden
channel after the activation.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn
from torch.nn import functional as F

from evitlab.models.attention import MHSA, GroupAttention
from evitlab.models.capture import evaluating
from evitlab.models.ffn import FFN
from evitlab.models.layers import ConvNorm
from evitlab.models.network import Network
from evitlab.prune.groups import Group, find_groups

Importance = Literal["taylor", "taylor-sample", "taylor-accumulated", "magnitude", "random"]
IMPORTANCES: tuple[Importance, ...] = get_args(Importance)
Scores = dict[str, Tensor]
"""By group: (heads, channels) float64 on the CPU, 0 or more; the least is cut first."""


def score_importance(
    model: Network,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    importance: Importance,
    groups: Sequence[Group] | None = None,
    seed: int = 0,
    on_progress: Callable[[int], None] | None = None,
) -> Scores:
    """Scores of every channel of the groups (None: all), on batches of images as the network reads them and classes.

    taylor: the square of a mini-batch's mean gate gradient, averaged over mini-batches (Molchanov et al. 2019, as
    published). taylor-sample: of every image's. taylor-accumulated: the absolute value of the mean over all images.
    magnitude: sum of squares of the weights that would be cut, BatchNorm folded in. random: uniform, from the seed.
    The last two read no batch. `on_progress` is told the number of batches done.

    The network is scored in evaluation mode and comes back as it was: mode, hooks and gradients. Raises ValueError
    where Taylor scores get no batch.
    """
    groups = find_groups(model.config) if groups is None else groups
    if importance == "magnitude":
        return {group.key: _sum_squares(model, group) for group in groups}
    if importance == "random":
        generator = torch.Generator().manual_seed(seed)
        return {group.key: _draw(group, generator) for group in groups}
    total: Scores = {}
    done = 0
    images = 0
    for done, (inputs, labels) in enumerate(batches, start=1):
        images += len(inputs)
        for key, gradient in differentiate_gates(model, inputs, labels, groups).items():
            share = _aggregate(gradient, importance)
            total[key] = total[key] + share if key in total else share
        if on_progress is not None:
            on_progress(done)
    if not done:
        raise ValueError(f"{importance=} needs at least one batch of images")
    if importance == "taylor":
        return {key: each / done for key, each in total.items()}
    return {key: each.abs() / images for key, each in total.items()}


def differentiate_gates(
    model: Network, inputs: Float[Tensor, "B C H W"], labels: Tensor, groups: Sequence[Group]
) -> dict[str, Float64[Tensor, "B heads channels"]]:
    """The derivative of each image's cross-entropy by each gate, image by image, on the CPU.

    A single image is run twice: on the CPU, torch 2.15's BatchNorm gives wrong gradients for one map whose gradient
    comes with channels last, as that of queries, keys and values does.
    """
    if len(inputs) == 1:
        twice = differentiate_gates(model, inputs.repeat(2, 1, 1, 1), labels.repeat(2), groups)
        return {key: gradient[:1] for key, gradient in twice.items()}
    device = next(model.parameters()).device
    inputs, labels = inputs.to(device), labels.to(device)
    with evaluating(model), torch.enable_grad(), _gating(model, groups) as gates:
        loss = F.cross_entropy(model(inputs), labels, reduction="sum")
        flat = [gate for each in gates.values() for gate in each]
        found = iter(torch.autograd.grad(loss, flat))  # no gradient of any weight is computed, let alone kept
        return {key: torch.cat([next(found).double().cpu() for _ in each], dim=1) for key, each in gates.items()}


def _aggregate(gradient: Float64[Tensor, "B heads channels"], importance: Importance) -> Float64[Tensor, "heads c"]:
    """What one mini-batch adds to the sum over mini-batches, or over images."""
    if importance == "taylor":
        return gradient.mean(0).square()
    return gradient.square().sum(0) if importance == "taylor-sample" else gradient.sum(0)


@contextmanager
def _gating(model: Network, groups: Sequence[Group]) -> Iterator[dict[str, list[Tensor]]]:
    """Put a gate on every channel of the groups while the body runs; by key, (B, heads, channels) parts to be joined.

    Group attention runs head by head, so it has a part a head.
    """
    gates: dict[str, list[Tensor]] = {group.key: [] for group in groups}
    with ExitStack() as stack:
        batch: list[int] = []
        stack.callback(model.register_forward_pre_hook(lambda _, args: batch.append(len(args[0]))).remove)
        for group in groups:
            hook, reader = _make_hook(model.get_submodule(group.module), group, gates[group.key], batch)
            stack.callback(reader.register_forward_pre_hook(hook).remove)
        yield gates


def _make_hook(
    module: nn.Module, group: Group, gates: list[Tensor], batch: list[int]
) -> tuple[Callable[..., Any], nn.Module]:
    """A hook that puts gates before the module that reads the group's channels, and that module."""
    if isinstance(module, FFN):
        channels_last = isinstance(module.narrow, nn.Linear)

        def gate_hidden(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            hidden = args[0] if channels_last else args[0].movedim(1, -1)
            rows = hidden.flatten(1, -2)[:, None]
            gated = _gate(rows, batch[-1], gates).view(hidden.shape)
            return (gated if channels_last else gated.movedim(-1, 1),)

        return gate_hidden, module.narrow
    assert isinstance(module, MHSA | GroupAttention)
    place = 0 if group.kind == "qk" else 2

    def gate_attention(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return *args[:place], _gate(args[place], batch[-1], gates), *args[place + 1 :]

    return gate_attention, module.attend


def _gate(
    x: Float[Tensor, "rows heads N channels"], images: int, gates: list[Tensor]
) -> Float[Tensor, "rows heads N channels"]:
    """Multiply by fresh gates, one set an image; the windows of an image stand side by side and share it."""
    gate = torch.ones(images, x.shape[1], x.shape[-1], dtype=x.dtype, device=x.device, requires_grad=True)
    gates.append(gate)
    return (x.unflatten(0, (images, -1)) * gate[:, None, :, None]).flatten(0, 1)


def _draw(group: Group, generator: torch.Generator) -> Float64[Tensor, "heads channels"]:
    return torch.rand(group.heads, group.channels, generator=generator, dtype=torch.float64)


def _sum_squares(model: Network, group: Group) -> Float64[Tensor, "heads channels"]:
    """Squares of the pointwise weights that make and read a channel, biases left out."""
    module = model.get_submodule(group.module)
    if isinstance(module, FFN):
        made = [_squares(module.widen, dim=1)[None]]
        read = _squares(module.narrow, dim=0)[None]
    elif isinstance(module, MHSA):
        parts = (module.q, module.k) if group.kind == "qk" else (module.v,)
        made = [_squares(part, dim=1).view(group.heads, -1) for part in parts]
        read = _squares(_find_projection(module), dim=0).view(group.heads, -1)
    else:
        assert isinstance(module, GroupAttention)
        qk = module.config.qk_dim
        rows = torch.stack([_squares(head, dim=1) for head in module.qkv])
        made = [rows[:, :qk], rows[:, qk : 2 * qk]] if group.kind == "qk" else [rows[:, 2 * qk :]]
        read = _squares(_find_projection(module), dim=0).view(group.heads, -1)
    return sum(made[1:], made[0]) + (0 if group.kind == "qk" else read)


def _find_projection(module: MHSA | GroupAttention) -> nn.Module:
    return module.proj[1] if isinstance(module.proj, nn.Sequential) else module.proj


@torch.no_grad()
def _squares(layer: nn.Module, *, dim: int) -> Float64[Tensor, " channels"]:
    """Sums of squares of a projection's weights (outputs, inputs) over `dim`, as they are once BatchNorm is folded."""
    if isinstance(layer, ConvNorm):
        norm = layer.norm
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_var is not None
        factor = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        weight = layer.conv.weight.double().flatten(1) * factor[:, None]
    else:
        assert isinstance(layer, nn.Linear)
        weight = layer.weight.double()
    return weight.square().sum(dim).cpu()
