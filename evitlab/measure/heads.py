"""How alike the heads of a network are, block by block, and what the network loses without each of them.

EfficientViT: Liu et al., CVPR 2023, arXiv 2305.07027, Sec. 2.2 and Fig. 4. The author's definition is in
microsoft/Cream#178: per layer Max_i(Max_j(CosineSim(feat(head i), feat(head j)))), j != i, averaged over batches. The
caption has the mean over heads of each one's largest. What is left open there is decided here: the features of a head
are what it gives before the projection, of one image, all positions and channels as one vector. Averaging over images
in place of batches makes the result independent of the batch size; of batches of one image it is the author's.
"""

from collections.abc import Callable, Iterator
from math import sqrt
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from evitlab.measure.head_outputs import HeadOutputs, count_heads, read_heads, without_head
from evitlab.measure.head_statistics import HeadStatistics
from evitlab.measurements.heads import DropOne, HeadBlock, HeadCost
from evitlab.models.capture import evaluating, find_attention
from evitlab.models.network import Network
from evitlab.problems import UserError

Share = Callable[[float], None]
Prepare = Callable[[Tensor], Tensor]
"""From the images as they are stored to what a network reads."""


def head_similarity(
    model: nn.Module,
    images: Tensor,
    *,
    prepare: Prepare = torch.Tensor.float,
    batch_size: int = 64,
    on_progress: Share = lambda share: None,
) -> tuple[HeadBlock, ...]:
    """Similarity of the heads of every block, on images (N, C, H, W) that are read batch by batch.

    Runs in evaluation mode, on the device of the model, which comes back as it was. Memory holds one batch, one
    layer's heads on it, and sums that do not grow with the images. Blocks without attention are among the result,
    without numbers. Raises UserError for a network whose heads cannot be read, ValueError for no images.
    """
    if len(images) == 0:
        raise ValueError("head_similarity needs at least one image, but got none")
    places = list_blocks(model)
    sums: dict[str, _Sums] = {}

    def take(name: str, outputs: HeadOutputs) -> None:
        if name not in sums:
            sums[name] = _Sums(outputs)
        sums[name].add(outputs)

    if any(heads for _, _, heads in places):
        with evaluating(model), torch.inference_mode(), read_heads(model, take):
            for done, inputs in _batches(model, images, prepare, batch_size):
                model(inputs)
                on_progress(done)
    return tuple(_describe(number, name, heads, sums.get(name)) for number, name, heads in places)


def list_blocks(model: nn.Module) -> list[tuple[int, str, int]]:
    """Number, path and heads of each attention layer, and of each block without one (0 heads), from the input on.

    Two layers of one block share its number; timm's are numbered alone.
    """
    if not isinstance(model, Network):
        found = find_attention(model)
        return [(number, name, count_heads(layer)) for number, (name, layer) in enumerate(found.items(), start=1)]
    attends = any(layer.type == "attention" for layer in model.config.layers)
    layers = find_attention(model) if attends else {}
    places: list[tuple[int, str, int]] = []
    blocks = [f"stages.{s}.blocks.{b}" for s, stage in enumerate(model.config.stages) for b in range(len(stage.blocks))]
    for number, block in enumerate(blocks, start=1):
        own = [(number, name, count_heads(each)) for name, each in layers.items() if name.startswith(f"{block}.")]
        places += own or [(number, block, 0)]
    return places


class _Sums:
    """One layer's statistics."""

    def __init__(self, outputs: HeadOutputs):
        heads, self.positions = outputs.features.shape[1:3]
        device = outputs.features.device
        self.features = HeadStatistics(heads, outputs.features.shape[3], device=device)
        self.maps = HeadStatistics(heads, outputs.maps.shape[3], device=device)

    def add(self, outputs: HeadOutputs) -> None:
        self.features.add(outputs.features)
        self.maps.add(outputs.maps)


def _describe(number: int, name: str, heads: int, sums: _Sums | None) -> HeadBlock:
    return HeadBlock(
        number=number,
        name=name,
        heads=heads,
        positions=0 if sums is None else sums.positions,
        features=None if sums is None else sums.features.describe(),
        maps=None if sums is None else sums.maps.describe(),
    )


def drop_one(
    model: nn.Module,
    images: Tensor,
    labels: Int64[Tensor, " N"],
    *,
    num_classes: int,
    prepare: Prepare = torch.Tensor.float,
    batch_size: int = 64,
    on_progress: Share = lambda share: None,
) -> DropOne:
    """What the network loses without each head alone, in top-1 and cross-entropy on labelled images (N, C, H, W).

    A head is removed by making its output zero before the projection; in a cascade the next head loses it as well.
    As many passes as there are heads, and one, each in evaluation mode; the model comes back as it was. Raises
    UserError for scores of another number of classes, ValueError for no images.
    """
    if len(images) == 0:
        raise ValueError("drop_one needs at least one image, but got none")
    places = list_blocks(model)
    dropped = [(block, name, head) for block, (_, name, heads) in enumerate(places) for head in range(heads)]
    with evaluating(model), torch.inference_mode():
        whole: list[tuple[Tensor, Tensor]] = []
        found: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {(block, head): [] for block, _, head in dropped}
        for done, inputs in _batches(model, images, prepare, batch_size):
            start = sum(len(hits) for hits, _ in whole)
            own = labels[start : start + len(inputs)].to(inputs.device)
            whole.append(_score(model, inputs, own, num_classes))
            before = done - len(inputs) / len(images)
            for number, (block, name, head) in enumerate(dropped, start=1):
                with without_head(model, name, head):
                    found[block, head].append(_score(model, inputs, own, num_classes))
                on_progress(before + (done - before) * number / len(dropped))
    hits, losses = _join(whole)
    costs = {place: _charge(hits, losses, *_join(scores)) for place, scores in found.items()}
    return DropOne(
        images=len(images),
        top1=hits.double().mean().item(),
        loss=losses.mean().item(),
        costs=tuple(tuple(costs[block, head] for head in range(heads)) for block, (*_, heads) in enumerate(places)),
    )


def _score(
    model: nn.Module, inputs: Float[Tensor, "B C H W"], labels: Int64[Tensor, " B"], num_classes: int
) -> tuple[Tensor, Float[Tensor, " B"]]:
    """Whether each image is right, and its cross-entropy."""
    logits: Any = model(inputs)
    if logits.shape != (len(inputs), num_classes):
        raise UserError(
            f"what a head is worth needs one score for each of the {num_classes} classes, but got scores of shape "
            f"{tuple(logits.shape)} for {len(inputs)} images; heads can be compared without (--no-drop-one)"
        )
    losses = F.cross_entropy(logits.double(), labels, reduction="none")
    if not losses.isfinite().all():
        raise UserError("scores must be finite, but some are not: the model diverged")
    return (logits.argmax(1) == labels).cpu(), losses.cpu()


def _join(scores: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    hits, losses = zip(*scores, strict=True)
    return torch.cat(hits), torch.cat(losses)


def _charge(hits: Tensor, losses: Tensor, hits_without: Tensor, losses_without: Tensor) -> HeadCost:
    more = losses_without - losses
    count = len(more)
    return HeadCost(
        lost=int((hits & ~hits_without).sum()),
        gained=int((~hits & hits_without).sum()),
        loss_cost=more.mean().item(),
        loss_cost_deviation=sqrt(more.var(correction=1).item()) if count > 1 else None,
    )


def _batches(
    model: nn.Module, images: Tensor, prepare: Prepare, batch_size: int
) -> Iterator[tuple[float, Float[Tensor, "B C H W"]]]:
    """Share done once the batch is, and the batch as the model reads it."""
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        yield (start + len(batch)) / len(images), prepare(batch.to(device))
