"""What the tests share: seeds, threads, small networks with telling weights, and a measure of error."""

import os
from collections.abc import Iterator
from typing import Any

import optuna  # noqa: F401 (what is first imported by a module whose shapes are checked is compiled anew each time)
import pytest
import sklearn.metrics  # noqa: F401 (as optuna)
import timm  # noqa: F401 (as optuna)
import torch
import torch_pruning  # noqa: F401 (as optuna)
from fake_clock import clock  # noqa: F401 (a fixture)
from torch import Tensor, nn
from torch.nn import functional as F

from evitlab.models.config import ModelConfig
from evitlab.models.zoo import make_config

os.environ["KINETO_LOG_LEVEL"] = "99"  # it is read once a process: tests that profile by hand must not make ours noisy
torch.set_num_threads(1)  # the networks here are too small to share between threads

TINY: dict[str, dict[str, Any]] = {
    "deit_t": {"width": 24, "depth": 2, "num_heads": 2},
    "swin_t": {"width": 16, "depth": [2, 1, 1, 1], "num_heads": 2},
    "efficientvit_m0": {"width": 16, "depth": 1, "num_heads": 2, "patch_size": 4},
}
"""One small network a family. At 64 pixels Swin and EfficientViT begin with 16 x 16 positions, no multiple of 7."""


def make_tiny(name: str, **knobs: Any) -> ModelConfig:
    """A small network of the family of `name`, 64 pixels a side, 7 classes, with some knobs changed."""
    return make_config(name, **{**TINY[name], "image_size": 64, "num_classes": 7, **knobs})


def perturb(model: nn.Module, *, seed: int) -> None:
    """Draw every weight, bias and BatchNorm statistic anew, in place, so that none is zero or one.

    A fresh network hides errors: its residual branches end in zeros, and its outputs hardly depend on the image.
    """
    generator = torch.Generator().manual_seed(seed)
    statistics = [(name, buffer) for name, buffer in model.named_buffers() if "running_" in name]
    for name, tensor in [*model.named_parameters(), *statistics]:
        uniform = torch.rand(tensor.shape, generator=generator)
        if name.endswith("running_var"):
            drawn = 0.5 + uniform
        elif name.endswith("weight") and tensor.ndim == 1:
            drawn = 0.3 + 0.7 * uniform
        else:
            fan_in = tensor[0].numel() if name.endswith("weight") else 16
            drawn = (uniform - 0.5) * (12 / fan_in) ** 0.5
        tensor.data.copy_(drawn)


def draw_images(count: int, *size: int, seed: int = 0) -> Tensor:
    """Images of coarse and fine noise: averaged over an image, fine noise alone would leave nothing to compare."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, 3, 3, generator=generator)
    return F.interpolate(coarse, size) + 0.3 * torch.randn(count, 3, *size, generator=generator)


def relative_error(got: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest expected value; infinite where the shapes differ."""
    if got.shape != expected.shape:
        return float("inf")
    return ((got - expected).abs().max() / expected.abs().max()).item()


@pytest.fixture(autouse=True, scope="session")
def _state_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The number that is drawn once a machine is drawn for the tests alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=list(TINY))
def tiny_config(request: pytest.FixtureRequest) -> ModelConfig:
    """A small network of each family."""
    return make_tiny(request.param)
