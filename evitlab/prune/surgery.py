"""Cutting channels out of a network: a smaller config with the weights that stay, which computes what the network does
with the others set to zero.
"""

import copy

import torch
import torch_pruning as tp
from torch import nn

from evitlab.models.attention import MHSA, GroupAttention
from evitlab.models.ffn import FFN
from evitlab.models.layers import ConvNorm
from evitlab.models.network import Network, build_model
from evitlab.prune.groups import Group, find_groups, resize_groups
from evitlab.prune.plan import Plan

Heads = tuple[tuple[int, ...], ...]


def cut(model: Network, plan: Plan) -> Network:
    """A network without the channels that the plan does not keep; the model itself stays as it is.

    An ordinary network: its config says all about it. The softmax scale is the original's. Raises ValueError for a
    plan of another network, or one that would break a cascade.
    """
    groups = check_plan(model, plan)
    small = copy.deepcopy(model)
    for group in groups:
        _cut_group(small.get_submodule(group.module), group, plan.kept[group.key])
    config = resize_groups(model.config, plan.channels)
    fresh = build_model(config, seed=0).to(next(model.parameters()).device)
    state = {name: tensor.detach().clone() for name, tensor in small.state_dict().items()}
    fresh.load_state_dict(state, assign=True)
    return fresh.train(model.training)


def mask(model: Network, plan: Plan) -> Network:
    """A copy of the network, as wide as it was, in which the channels that `cut` would remove contribute nothing."""
    groups = check_plan(model, plan)
    masked = copy.deepcopy(model)
    for group in groups:
        _mask_group(masked.get_submodule(group.module), group, plan.kept[group.key])
    return masked


def check_plan(model: Network, plan: Plan) -> list[Group]:
    """The groups that a plan shrinks; ValueError where it does not fit the network."""
    groups = {group.key: group for group in find_groups(model.config)}
    if unknown := sorted(set(plan.kept) - set(groups)):
        raise ValueError(f"plan must name groups of this network, but it also names {', '.join(unknown)}")
    for key, heads in plan.kept.items():
        if problem := _find_problem(groups[key], heads):
            raise ValueError(f"plan for {key}: {problem}")
    return [groups[key] for key, heads in plan.kept.items() if len(heads[0]) < groups[key].channels]


def _find_problem(group: Group, heads: Heads) -> str | None:
    if len(heads) != group.heads or len({len(kept) for kept in heads}) != 1 or not heads[0]:
        return f"must keep as many channels, at least one, in each of {group.heads} heads"
    for number, kept in enumerate(heads):
        if list(kept) != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= group.channels:
            return f"must keep ascending channels from 0 to {group.channels - 1}, but got {kept}"
        if number < group.chained_heads and kept != tuple(range(len(kept))):
            return f"head {number} feeds the next one: it must keep its first channels, but got {kept}"
    return None


def _removed(group: Group, heads: Heads) -> list[list[int]]:
    return [sorted(set(range(group.channels)) - set(kept)) for kept in heads]


def _across_heads(group: Group, removed: list[list[int]]) -> list[int]:
    """As rows of a projection that holds all heads one after another."""
    return [head * group.channels + index for head, indices in enumerate(removed) for index in indices]


def _cut_group(module: nn.Module, group: Group, heads: Heads) -> None:
    removed = _removed(group, heads)
    across = _across_heads(group, removed)
    if isinstance(module, FFN):
        _cut_outputs(module.widen, across)
        _cut_inputs(module.narrow, across)
        return
    for layer, rows in _find_makers(module, group, removed):
        _cut_outputs(layer, rows)
    assert isinstance(module, MHSA | GroupAttention)
    if group.kind == "v":
        _cut_inputs(module.proj[1] if isinstance(module.proj, nn.Sequential) else module.proj, across)
    elif module.query_convs is not None:
        for conv, indices in zip(module.query_convs, removed, strict=True):
            _cut_depthwise(conv, indices)


def _find_makers(module: nn.Module, group: Group, removed: list[list[int]]) -> list[tuple[nn.Module, list[int]]]:
    """The projections that make a group of attention channels, each with its rows that are removed."""
    if isinstance(module, MHSA):
        layers = [module.q, module.k] if group.kind == "qk" else [module.v]
        return [(layer, _across_heads(group, removed)) for layer in layers]
    assert isinstance(module, GroupAttention)
    found = []
    for layer, indices in zip(module.qkv, removed, strict=True):
        # rows: Q, K, V; Q and K may be narrower by now, V is last
        starts = [0, group.channels] if group.kind == "qk" else [_count_outputs(layer) - group.channels]
        found.append((layer, [start + index for start in starts for index in indices]))
    return found


def _count_outputs(layer: nn.Module) -> int:
    return layer.conv.out_channels if isinstance(layer, ConvNorm) else int(layer.out_features)  # type: ignore[arg-type]


def _cut_outputs(layer: nn.Module, removed: list[int]) -> None:
    if isinstance(layer, ConvNorm):
        tp.prune_conv_out_channels(layer.conv, removed)
        tp.prune_batchnorm_out_channels(layer.norm, removed)
    else:
        tp.prune_linear_out_channels(layer, removed)


def _cut_inputs(layer: nn.Module, removed: list[int]) -> None:
    if isinstance(layer, ConvNorm):
        tp.prune_conv_in_channels(layer.conv, removed)
    else:
        tp.prune_linear_in_channels(layer, removed)


def _cut_depthwise(layer: nn.Module, removed: list[int]) -> None:
    assert isinstance(layer, ConvNorm)
    tp.prune_depthwise_conv_out_channels(layer.conv, removed)
    tp.prune_batchnorm_out_channels(layer.norm, removed)


@torch.no_grad()
def _mask_group(module: nn.Module, group: Group, heads: Heads) -> None:
    """Hidden channels become zero where they are read, queries, keys and values where they are made."""
    removed = _removed(group, heads)
    if isinstance(module, FFN):
        narrow = module.narrow.conv if isinstance(module.narrow, ConvNorm) else module.narrow
        narrow.weight[:, removed[0]] = 0.0  # type: ignore[operator]
        return
    for layer, rows in _find_makers(module, group, removed):
        last = layer.norm if isinstance(layer, ConvNorm) else layer
        last.weight[rows] = 0.0  # type: ignore[operator]
        last.bias[rows] = 0.0  # type: ignore[operator]
