"""A clock that only the models under test move: timings of which every number is known."""

import pytest
import torch
from torch import nn

from evitlab.measure import clock as clock_module
from evitlab.measure import rounds


class Clock:
    """A clock that only the models under test move."""

    def __init__(self):
        self.now = 1000.0
        self.calls = []

    def model(self, name, cost):
        """A model whose forward pass takes `cost(now)` seconds."""

        def spend():  # copying a model does not copy a function, so all copies share this clock
            self.calls.append(name)
            self.now += cost(self.now)

        return Spender(spend)


class Spender(nn.Module):
    def __init__(self, spend):
        super().__init__()
        self.spend = spend

    def forward(self, x):
        assert not self.training
        assert torch.is_inference_mode_enabled()
        self.spend()
        return x


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    for module in (clock_module, rounds):
        monkeypatch.setattr(module, "perf_counter", lambda: clock.now)
    return clock
