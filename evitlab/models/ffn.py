"""The channel mixer: a two-layer perceptron on every position."""

from torch import Tensor, nn

from evitlab.models.layers import Parts


class FFN(nn.Module):
    """Widen, activate, narrow."""

    def __init__(self, width: int, hidden_dim: int, parts: Parts):
        super().__init__()
        self.widen = parts.pointwise(width, hidden_dim)
        self.act = parts.act()
        self.narrow = parts.pointwise(hidden_dim, width, ends_branch=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.narrow(self.act(self.widen(x)))
