"""Scores of a model on a set of images; every process takes its share of them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from evitlab.train.data import Images, scale_pixels
from evitlab.train.metrics import Accuracy, score
from evitlab.train.processes import add_up, find_processes


def evaluate(model: nn.Module, images: Images, *, batch_size: int = 256) -> Accuracy:
    """Accuracy on all the images, in fp32 and evaluation mode; the model comes back in the mode it had.

    With fewer than five classes, top-5 counts as many as there are and is 1.
    """
    return score(predict(model, images, batch_size=batch_size), images.labels)


def predict(
    model: nn.Module, images: Images, *, batch_size: int = 256, on_progress: Callable[[float], None] | None = None
) -> Float[Tensor, "N classes"]:
    """Class scores of all images, on the CPU, in fp32.

    Among several processes each scores every n-th image, and all get the whole: the same numbers, no image twice.
    """
    device, own = next(model.parameters()).device, find_processes()
    mine = torch.arange(own.rank, len(images.labels), own.count)
    scores = torch.zeros(len(images.labels), len(images.classes), device=device)
    with in_mode(model, training=False), torch.inference_mode():
        for rows in mine.split(batch_size):
            scores[rows] = score_images(model, scale_pixels(images.pixels[rows].to(device)), images).float()
            if on_progress is not None:
                on_progress(int(rows[-1] + 1) / len(images.labels))
    return add_up(scores).cpu()


def score_images(model: nn.Module, inputs: Float[Tensor, "B C H W"], images: Images) -> Float[Tensor, "B classes"]:
    """Scores of some images as a network reads them; refuses those of another number of classes."""
    logits = model(inputs)
    if logits.shape != (len(inputs), len(images.classes)):
        raise ValueError(
            f"model must give one score per class of the data ({len(images.classes)}), "
            f"but got scores of shape {tuple(logits.shape)} for {len(inputs)} images"
        )
    return logits


@contextmanager
def in_mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """All modules in one mode; each gets its own back, whatever happens."""
    before = {module: module.training for module in model.modules()}
    model.train(training)
    try:
        yield
    finally:
        for module, mode in before.items():
            module.training = mode
