"""The training loop and evaluation."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn

from evitlab.measurements import Epoch, TrainResult
from evitlab.recipes import TrainRecipe
from evitlab.train.data import DataSet, Images, scale_pixels
from evitlab.train.metrics import Accuracy, score

OnStep = Callable[[int, int], None]
"""Is told the steps done and their total."""


def train(
    model: nn.Module,
    data: DataSet,
    recipe: TrainRecipe,
    *,
    seed: int,
    on_step: OnStep | None = None,
) -> TrainResult:
    """Train the model in place, on the device of its parameters, and judge it on the held-out images.

    The caller initialises the model, unless the recipe says so. The seed sets the order of the images and torch's
    own randomness (dropout): one seed gives one result on one machine at one number of threads. Left out:
    augmentation, a moving average of weights, early stopping; the result is that of the last step. Modes come back
    as they were, gradients are cleared. A loss that is not finite raises FloatingPointError.
    """
    if recipe.init == "xavier":
        draw_xavier(model, seed=seed)
    device = next(model.parameters()).device
    with _mode(model, training=True), torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        curve, seconds, accuracy = _run_steps(model, data, recipe, seed=seed, on_step=on_step)
    return TrainResult(
        top1=accuracy.top1,
        top5=accuracy.top5,
        loss=accuracy.loss,
        train_top1=evaluate(model, data.train.first(len(data.val.labels))).top1,
        data=data.name,
        num_classes=len(data.train.classes),
        train_images=len(data.train.labels),
        val_images=len(data.val.labels),
        steps=recipe.steps,
        batch_size=recipe.batch_size,
        images_seen=recipe.steps * recipe.batch_size,
        params=sum(p.numel() for p in model.parameters() if p.requires_grad),
        train_seconds=seconds,
        curve=tuple(curve),
    )


def _run_steps(
    model: nn.Module, data: DataSet, recipe: TrainRecipe, *, seed: int, on_step: OnStep | None
) -> tuple[list[Epoch], float, Accuracy]:
    """The curve, the seconds of the steps alone, and the accuracy after the last step."""
    groups = param_groups_weight_decay(model, recipe.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)
    marks = {recipe.steps * (i + 1) // recipe.evaluations for i in range(recipe.evaluations)}
    curve: list[Epoch] = []
    losses: list[float] = []
    seconds = 0.0
    for step, batch in enumerate(draw_batches(len(data.train.labels), recipe, seed=seed)):
        start = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, recipe)
        losses.append(_take_step(model, optimizer, data.train, batch, recipe, step=step))
        seconds += time.perf_counter() - start
        if step + 1 in marks:
            accuracy = evaluate(model, data.val)
            curve.append(Epoch(step=step + 1, train_loss=sum(losses) / len(losses), top1=accuracy.top1))
            losses.clear()
        if on_step is not None:
            on_step(step + 1, recipe.steps)
    optimizer.zero_grad()
    return curve, seconds, accuracy


def draw_xavier(model: nn.Module, *, seed: int) -> None:
    """Draw all linear layers anew, Xavier-uniform as the first ViT's (Dosovitskiy et al., 2021), with biases of 0.

    DeiT's and Swin's fixed deviation of 0.02 is made for wider layers. At a proxy's width it leaves an FFN so close
    to linear that a few hundred steps do not get it away from there.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            weight = torch.empty(module.weight.shape)
            nn.init.xavier_uniform_(weight, generator=generator)
            with torch.no_grad():
                module.weight.copy_(weight)
                if module.bias is not None:
                    module.bias.zero_()


def learning_rate_at(step: int, recipe: TrainRecipe) -> float:
    """The learning rate of a step, counted from 0: up in a line, then half a cosine (Loshchilov and Hutter, 2017).

    The last warm-up step has the full rate; the rate would reach zero one step after the last.
    """
    warmup = round(recipe.warmup * recipe.steps)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / (recipe.steps - warmup)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def draw_batches(num_images: int, recipe: TrainRecipe, *, seed: int) -> Int64[Tensor, "steps batch"]:
    """Indices of every batch: shuffled passes over the images, end to end; counts of use differ by one at most."""
    generator = torch.Generator().manual_seed(seed)
    needed = recipe.steps * recipe.batch_size
    passes = [torch.randperm(num_images, generator=generator) for _ in range(math.ceil(needed / num_images))]
    return torch.cat(passes)[:needed].view(recipe.steps, recipe.batch_size)


def evaluate(model: nn.Module, images: Images, *, batch_size: int = 256) -> Accuracy:
    """Accuracy on all the images, in evaluation mode; the model comes back in the mode it had.

    With fewer than five classes, top-5 counts as many as there are and is 1.
    """
    with _mode(model, training=False), torch.inference_mode():
        logits = [_predict(model, pixels, images).cpu() for pixels in images.pixels.split(batch_size)]
    return score(torch.cat(logits), images.labels)


def _take_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Images,
    batch: Int64[Tensor, " batch"],
    recipe: TrainRecipe,
    *,
    step: int,
) -> float:
    logits = _predict(model, images.pixels[batch], images)
    labels = images.labels[batch].to(logits.device)
    loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
    value = loss.item()
    if not math.isfinite(value):
        rate = learning_rate_at(step, recipe)
        raise FloatingPointError(
            f"training loss must stay finite, but got {value} at {step=}, learning rate {rate:.3g}"
        )
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
    optimizer.step()
    return value


def _predict(model: nn.Module, pixels: Tensor, images: Images) -> Float[Tensor, "B classes"]:
    device = next(model.parameters()).device
    logits = model(scale_pixels(pixels.to(device)))
    if logits.shape != (len(pixels), len(images.classes)):
        raise ValueError(
            f"model must give one score per class of the data ({len(images.classes)}), "
            f"but got scores of shape {tuple(logits.shape)} for {len(pixels)} images"
        )
    return logits


@contextmanager
def _mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """All modules in one mode; each gets its own back, whatever happens."""
    before = {module: module.training for module in model.modules()}
    model.train(training)
    try:
        yield
    finally:
        for module, mode in before.items():
            module.training = mode
