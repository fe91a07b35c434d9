"""What a measurement runs on: a copy of the model that may be changed, and random images."""

from copy import deepcopy

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from evitlab.models.network import fold_batchnorm


def copy_for_inference(model: nn.Module, *, fold: bool, device: torch.device) -> nn.Module:
    """A copy in evaluation mode on the device, in torch's contiguous layout; the model stays as it is.

    With `fold`, BatchNorm is folded as for deployment, in the layers that `fold_batchnorm` knows.
    """
    copy = fold_batchnorm(model) if fold else deepcopy(model).eval()
    return copy.requires_grad_(False).to(device).to(memory_format=torch.contiguous_format)


def is_folded(copy: nn.Module, model: nn.Module) -> bool:
    """Whether folding left fewer BatchNorms in the copy, or there were none to fold."""

    def count(network: nn.Module) -> int:
        return sum(isinstance(module, _BatchNorm) for module in network.modules())

    return count(model) == 0 or count(copy) < count(model)


def height_and_width(image_size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width in pixels; one number means a square."""
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    if min(size) < 1:
        raise ValueError(f"image_size must be at least 1 pixel a side, but got {image_size=}")
    return size


def random_images(
    *, batch_size: int, image_size: int | tuple[int, int], device: torch.device, seed: int
) -> Float[Tensor, "B 3 H W"]:
    """Standard normal RGB images, drawn on the CPU so that a seed means the same ones on every device."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, but got {batch_size=}")
    shape = (batch_size, 3, *height_and_width(image_size))
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)
