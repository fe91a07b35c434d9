"""What moves the weights: where they begin, the optimiser, its learning rate, how gradients are clipped."""

import math

import torch
from timm.models import model_parameters
from timm.optim import param_groups_weight_decay
from timm.utils import adaptive_clip_grad
from torch import nn

from evitlab.recipes import TrainRecipe


def make_optimizer(model: nn.Module, recipe: TrainRecipe) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, 2019); weights of one dimension do not decay."""
    groups = param_groups_weight_decay(model, recipe.weight_decay)
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)


def learning_rate_at(step: int, recipe: TrainRecipe) -> float:
    """The learning rate of a step, counted from 0: up in a line, then half a cosine (Loshchilov and Hutter, 2017).

    The last warm-up step has the full rate; the rate would reach zero one step after the last.
    """
    warmup = round(recipe.warmup * recipe.steps)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / (recipe.steps - warmup)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def clip_gradients(model: nn.Module, recipe: TrainRecipe) -> None:
    """Shorten the gradients where they are too long: all as one vector, or unit by unit.

    Adaptive clipping leaves the last layer's alone, as Brock et al. (2021) and the official recipe do.
    """
    if recipe.agc is None:
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
    else:
        adaptive_clip_grad(model_parameters(model, exclude_head=True), clip_factor=recipe.agc)


def draw_xavier(model: nn.Module, *, seed: int) -> None:
    """Draw all linear layers anew, Xavier-uniform as the first ViT's (Dosovitskiy et al., 2021), with biases of 0.

    DeiT's and Swin's fixed deviation of 0.02 is made for wider layers. At a proxy's width it leaves an FFN so close
    to linear that a few hundred steps do not get it away from there.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            weight = torch.empty(module.weight.shape)
            nn.init.xavier_uniform_(weight, generator=generator)
            with torch.no_grad():
                module.weight.copy_(weight)
                if module.bias is not None:
                    module.bias.zero_()
