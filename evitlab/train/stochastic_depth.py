"""Stochastic depth: residual branches left out at random while a network trains."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from timm.layers import DropPath, drop_path
from torch import Tensor, nn

from evitlab.models.layers import Residual
from evitlab.problems import UserError


@contextmanager
def drop_branches(model: nn.Module, rate: float) -> Iterator[None]:
    """While it lasts, and only in training mode, leave residual branches out for single images (Huang et al., 2016).

    Over our networks' residual layers, in order, the probability rises in a line from 0 to `rate`; what is kept is
    divided by the probability of keeping it. In timm's networks the probabilities that they were made with are scaled
    so that the highest is `rate`. Drawn from torch's own generator. Enter it before the model is first called if
    that is compiled: hooks that come later may be overlooked. Raises UserError where there is no branch to leave out.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"rate must be at least 0 and less than 1, but got {rate=}")
    if rate == 0:
        yield
        return
    branches = [module.branch for module in model.modules() if isinstance(module, Residual)]
    paths = [module for module in model.modules() if isinstance(module, DropPath)]
    if not branches and not paths:
        raise UserError(
            f"stochastic depth of {rate} needs residual branches that can be left out, but {type(model).__name__} has "
            "none (a timm model has them if created with a drop_path_rate above 0, as timm:NAME:drop_path_rate=0.1)"
        )
    handles = []
    before = [path.drop_prob for path in paths]
    try:
        for branch, probability in zip(branches, _rise(rate, len(branches)), strict=True):
            handles.append(branch.register_forward_hook(_make_hook(probability)))
        for path, probability in zip(paths, _rescale(before, rate), strict=True):
            path.drop_prob = probability
        yield
    finally:
        for handle in handles:
            handle.remove()
        for path, probability in zip(paths, before, strict=True):
            path.drop_prob = probability


def _rise(rate: float, count: int) -> list[float]:
    """From 0 to the rate in equal steps; a single one has the rate."""
    return [rate * index / (count - 1) for index in range(count)] if count > 1 else [rate] * count


def _rescale(probabilities: list[float], rate: float) -> list[float]:
    """In the same proportions with the rate as the highest; rising in a line where all were 0."""
    highest = max(probabilities, default=0.0)
    if highest == 0:
        return _rise(rate, len(probabilities))
    return [probability * rate / highest for probability in probabilities]


def _make_hook(probability: float) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
    def leave_out(branch: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        return drop_path(output, probability, branch.training)

    return leave_out
