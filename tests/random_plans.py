"""Plans that keep random channels, and networks of every kind of attention to try them on."""

import torch
from conftest import make_tiny, perturb

from evitlab.models.config import ModelConfig
from evitlab.models.network import Network, build_model
from evitlab.prune.groups import Group, find_groups
from evitlab.prune.plan import Plan

NETWORKS: dict[str, ModelConfig] = {
    "DeiT": make_tiny("deit_t", depth=1, qk_dim=10),
    "DeiT, BatchNorm, head splits": make_tiny("deit_t", depth=1, attention="group", norm="batch", depthwise=True),
    "DeiT, cascaded, wide V": make_tiny("deit_t", depth=1, attention="cascaded", num_heads=3, v_ratio=1.5),
    "Swin": make_tiny("swin_t"),
    "Swin, fused, head splits": make_tiny("swin_t", attention="group", attention_path="fused"),
    "EfficientViT": make_tiny("efficientvit_m0", qk_dim=9),
    "EfficientViT, narrow V": make_tiny("efficientvit_m0", v_ratio=0.75, num_heads=4, width=24),
    "EfficientViT, head splits": make_tiny("efficientvit_m0", attention="group", attention_path="fused"),
    "EfficientViT, MHSA": make_tiny("efficientvit_m0", attention="mhsa", qk_dim=5, act="hardswish"),
}


def make_network(config: ModelConfig, *, seed: int = 1) -> Network:
    """In eval mode, no weight zero."""
    model = build_model(config, seed=0).eval()
    perturb(model, seed=seed)
    return model


def make_plan(kept: dict[str, tuple[tuple[int, ...], ...]]) -> Plan:
    """A plan that nothing was asked of."""
    return Plan(kept=kept, target=1.0, reference_cost=1.0, cost_before=1.0, cost_after=1.0)


def draw_plan(config: ModelConfig, *, seed: int, kinds: tuple[str, ...] = ("qk", "v", "ffn")) -> Plan:
    """In each group of these kinds a random number of channels, in each head its own, as far as a cascade allows."""
    generator = torch.Generator().manual_seed(seed)
    return make_plan({group.key: _draw(group, generator) for group in find_groups(config) if group.kind in kinds})


def _draw(group: Group, generator: torch.Generator) -> tuple[tuple[int, ...], ...]:
    count = int(torch.randint(1, group.channels, (), generator=generator))
    heads = []
    for head in range(group.heads):
        order = torch.randperm(group.channels, generator=generator).tolist()
        heads.append(tuple(range(count)) if head < group.chained_heads else tuple(sorted(order[:count])))
    return tuple(heads)
