"""A classifier that trains in milliseconds, for tests of the loop."""

from dataclasses import asdict, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from evitlab.measurements.accuracy import TrainResult


class Small(nn.Module):
    """A classifier with what a loop can get wrong: BatchNorm, dropout and a frozen parameter."""

    def __init__(self, num_classes: int = 16, *, seed: int = 0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.pool = nn.AdaptiveAvgPool2d(4)
        self.norm = nn.BatchNorm1d(48)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(48, num_classes)
        self.frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)
        nn.init.normal_(self.head.weight, std=0.1, generator=generator)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B classes"]:
        return self.head(self.drop(self.norm(self.pool(x).flatten(1))))


def without_time(result: TrainResult) -> dict[str, object]:
    return asdict(replace(result, train_seconds=0.0, wait_seconds=0.0, peak_memory=0))
