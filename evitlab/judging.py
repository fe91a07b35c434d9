"""Judging a network on held-out images, in a study or without: its scores, and where it looks."""

from collections.abc import Callable
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor, nn

from evitlab.curves import Curves
from evitlab.drawings import Drawings
from evitlab.measurements.accuracy import Evaluation
from evitlab.memory import peak_bytes, reset_peak
from evitlab.models.capture import attention_on_image
from evitlab.problems import UserError
from evitlab.train.data import DataSet, Images, scale_pixels
from evitlab.train.evaluation import predict
from evitlab.train.metrics import describe_scores


def score_network(
    network: nn.Module, data: DataSet, *, on_progress: Callable[[float], None]
) -> tuple[Evaluation, Curves, Float[Tensor, "N classes"]]:
    """Everything that is reported of a network on the held-out images, and its scores."""
    images = data.val
    reset_peak()
    scores = predict(network, images, on_progress=on_progress)
    evaluation, curves = describe_scores(scores, images.labels, images.classes, data=data.name)
    return replace(evaluation, peak_memory=peak_bytes()), curves, scores


def look(
    network: nn.Module,
    images: Images,
    scores: Float[Tensor, "N classes"],
    curves: Curves,
    *,
    count: int,
    block: int | str,
) -> Drawings:
    """The curves with attention over the first images, and for each its true class and the one it was taken for.

    A network without readable attention has no maps, and says why. Raises UserError where a `block` other than the
    last was asked for and is not there.
    """
    drawn, titles = [], []
    device = next(network.parameters()).device
    for number in range(min(count, len(images.labels))):
        pixels = images.pixels[number : number + 1].to(device)
        try:
            looked = attention_on_image(network, scale_pixels(pixels), block)
        except UserError as error:
            if isinstance(block, str) or block != -1:  # asked for: a mistake
                raise
            return Drawings(curves=curves, images=(), maps=(), titles=(), without_maps=str(error))
        drawn.append(looked.float().cpu().numpy())
        true, taken = (images.classes[int(i)] for i in (images.labels[number], scores[number].argmax()))
        layer = "last attention layer" if block == -1 else f"attention layer {block}"
        titles.append(f"{true}, taken for {'it' if true == taken else taken}; {layer}")
    shown = tuple(pixels.permute(1, 2, 0).numpy() for pixels in images.pixels[: len(drawn)])
    return Drawings(curves=curves, images=shown, maps=tuple(drawn), titles=tuple(titles), without_maps="")
