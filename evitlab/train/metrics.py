"""Accuracy of class scores."""

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """How well scores name the true classes of a set of images."""

    top1: float
    """Share of images whose highest score is the true class."""
    top5: float
    """Share of images whose true class is among the five highest scores; with fewer than five classes, always 1."""
    loss: float
    """Mean cross-entropy in nats, without label smoothing."""


def score(logits: Float[Tensor, "N classes"], labels: Int64[Tensor, " N"]) -> Accuracy:
    """Top-1, top-5 and cross-entropy of one set of scores; ties go to either class, as in `torch.topk`."""
    ranked = logits.topk(min(5, logits.shape[1])).indices
    hits = ranked == labels[:, None]
    return Accuracy(
        top1=hits[:, 0].double().mean().item(),
        top5=hits.any(1).double().mean().item(),
        loss=F.cross_entropy(logits.double(), labels).item(),
    )
