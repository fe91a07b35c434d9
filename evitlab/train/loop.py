"""The training loop."""

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import nn

from evitlab.measurements.accuracy import Epoch, TrainResult
from evitlab.memory import peak_bytes, reset_peak
from evitlab.recipes import TrainRecipe
from evitlab.train.batches import Batches
from evitlab.train.checkpoint import Progress, find_checkpoint, load_checkpoint, save_checkpoint
from evitlab.train.data import DataSet
from evitlab.train.evaluation import evaluate
from evitlab.train.optim import draw_xavier
from evitlab.train.processes import find_processes, wait_for_all
from evitlab.train.step import Stepper, open_stepper

OnStep = Callable[[int, int], None]
"""Is told the steps done and their total; what it raises stops the training, which is saved first."""
GoesOn = Callable[[Epoch, int], bool]
"""Is told every evaluation on the way and the training's steps; says whether to go on."""


def train(
    model: nn.Module,
    data: DataSet,
    recipe: TrainRecipe,
    *,
    seed: int,
    checkpoint: Path | None = None,
    checkpoint_every_s: float = 60.0,
    on_step: OnStep | None = None,
    goes_on: GoesOn | None = None,
) -> TrainResult:
    """Train the model in place, on the device of its parameters, and judge it on the held-out images.

    The caller initialises the model, unless the recipe says so. The seed sets the order of the images, their
    augmentation and torch's own randomness: one seed gives one result on one machine at one number of threads. The
    result is that of the last step, of the moving average where the recipe asks for one, which the model then holds.
    Modes come back as they were, gradients are cleared. A loss that is not finite raises FloatingPointError.

    With a folder for checkpoints, the state is saved there every so many seconds and after the last step, and a
    training that finds one goes on from it to the same result. `goes_on` may end it at an evaluation before the last:
    the result is then that of the steps made. Where `torch.distributed` is initialised, each
    process takes its share of every batch and all return the same.
    """
    _check_division(recipe)
    recipe = replace(recipe, steps=recipe.count_steps(len(data.train.labels)), epochs=None)
    if recipe.init == "xavier":
        draw_xavier(model, seed=seed)
    device = next(model.parameters()).device
    _reset_peak(device)
    saver = _Saver(folder=checkpoint, every_s=checkpoint_every_s, identity=_identify(model, data, recipe, seed))
    with open_stepper(model, data.train, recipe, seed=seed) as stepper:
        progress = saver.resume(stepper)
        _run_steps(stepper, data, progress, saver, on_step, goes_on)
        if stepper.average is not None:
            model.load_state_dict(stepper.average.module.state_dict())
    return _describe(model, data, recipe, progress, peak_memory=_peak(device))


def _run_steps(
    stepper: Stepper,
    data: DataSet,
    progress: Progress,
    saver: "_Saver",
    on_step: OnStep | None,
    goes_on: GoesOn | None,
) -> None:
    """All steps that are left, until told to stop; `progress` is kept up to date."""
    recipe = stepper.recipe
    marks = {recipe.steps * (i + 1) // recipe.evaluations for i in range(recipe.evaluations)}
    batches = Batches(images=data.train, recipe=recipe, seed=stepper.seed, device=stepper.device, first=progress.step)
    waited, start = progress.wait_seconds, time.perf_counter()
    for parts in batches:
        try:
            progress.losses.append(stepper.take(parts, progress.step))
        except FloatingPointError as error:
            raise FloatingPointError(f"{error}; last good checkpoint: {saver.last or 'none'}") from None
        progress.step += 1
        progress.seconds += time.perf_counter() - start
        progress.wait_seconds = waited + batches.wait_seconds
        if progress.step in marks:
            progress.accuracy = evaluate(stepper.judged, data.val)
            loss = sum(progress.losses) / len(progress.losses)
            progress.curve.append(Epoch(step=progress.step, train_loss=loss, top1=progress.accuracy.top1))
            progress.losses.clear()
        saver.offer(stepper, progress, last=progress.step == recipe.steps)
        if on_step is not None:
            try:
                on_step(progress.step, recipe.steps)
            except BaseException:
                saver.offer(stepper, progress, last=progress.step != recipe.steps)  # then it has been saved
                raise
        if progress.step in marks and goes_on is not None and not goes_on(progress.curve[-1], recipe.steps):
            return
        start = time.perf_counter()


class _Saver:
    """Saves a training now and then; without a folder never."""

    def __init__(self, *, folder: Path | None, every_s: float, identity: dict[str, object]):
        self.folder = folder
        self.every_s = every_s
        self.identity = identity
        self.last: Path | None = None
        self._saved_at = time.monotonic()

    def resume(self, stepper: Stepper) -> Progress:
        """Where the newest checkpoint left off, or the beginning."""
        found = None if self.folder is None else find_checkpoint(self.folder)
        if found is None:
            return Progress(step=0, curve=[], losses=[], seconds=0.0, wait_seconds=0.0)
        self.last = found
        return load_checkpoint(found, stepper, self.identity)

    def offer(self, stepper: Stepper, progress: Progress, *, last: bool) -> None:
        """Save if it is time. Only the first process writes."""
        due = last or time.monotonic() - self._saved_at >= self.every_s
        if self.folder is None or not due:
            return
        if find_processes().first:
            self.last = save_checkpoint(self.folder, stepper, progress, self.identity)
            self._saved_at = time.monotonic()
        if last:
            wait_for_all()


def _identify(model: nn.Module, data: DataSet, recipe: TrainRecipe, seed: int) -> dict[str, object]:
    """What two trainings must share for one to go on where the other stopped."""
    return {
        "recipe": asdict(recipe),
        "seed": seed,
        "data": data.name,
        "train_images": len(data.train.labels),
        "image_size": list(data.train.pixels.shape[-2:]),
        "processes": find_processes().count,
        "parameters": {name: list(p.shape) for name, p in model.named_parameters()},
    }


def _describe(
    model: nn.Module,
    data: DataSet,
    recipe: TrainRecipe,
    progress: Progress,
    *,
    peak_memory: int | None,
) -> TrainResult:
    accuracy = progress.accuracy
    assert accuracy is not None, "the last step is always judged"
    return TrainResult(
        top1=accuracy.top1,
        top5=accuracy.top5,
        loss=accuracy.loss,
        train_top1=evaluate(model, data.train.first(len(data.val.labels))).top1,
        data=data.name,
        num_classes=len(data.train.classes),
        train_images=len(data.train.labels),
        val_images=len(data.val.labels),
        steps=progress.step,
        batch_size=recipe.batch_size,
        images_seen=progress.step * recipe.batch_size,
        params=sum(p.numel() for p in model.parameters() if p.requires_grad),
        train_seconds=progress.seconds,
        wait_seconds=progress.wait_seconds,
        peak_memory=peak_memory,
        processes=find_processes().count,
        threads=torch.get_num_threads(),
        curve=tuple(progress.curve),
    )


def _check_division(recipe: TrainRecipe) -> None:
    parts = recipe.accumulate * find_processes().count
    if recipe.batch_size % parts:
        raise ValueError(
            f"batch_size must be a multiple of accumulate x processes ({parts}), but got {recipe.batch_size=}"
        )


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        reset_peak()


def _peak(device: torch.device) -> int | None:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_bytes()
