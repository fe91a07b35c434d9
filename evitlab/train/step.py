"""One step of a training, and all that changes with it: weights, optimiser, loss scale, moving average."""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from evitlab.recipes import TrainRecipe
from evitlab.train.batches import Batch, draw_seed
from evitlab.train.data import Images
from evitlab.train.distill import distillation_loss, load_teacher
from evitlab.train.evaluation import in_mode, score_images
from evitlab.train.optim import clip_gradients, learning_rate_at, make_optimizer
from evitlab.train.processes import add_up, find_processes
from evitlab.train.stochastic_depth import drop_branches

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Stepper:
    """A model in training. Make one with `open_stepper`, which also puts the model back as it was."""

    def __init__(self, model: nn.Module, images: Images, recipe: TrainRecipe, *, seed: int):
        self.model = model
        self.images = images
        self.recipe = recipe
        self.seed = seed
        self.device = next(model.parameters()).device
        self.optimizer = make_optimizer(model, recipe)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=recipe.precision == "fp16")
        # With warm-up, so that a short training's average is not that of its first weights.
        self.average = None if recipe.ema is None else ModelEmaV3(model, decay=recipe.ema, use_warmup=True)
        self.run: nn.Module = model
        if find_processes().count > 1:
            devices = [self.device.index] if self.device.type == "cuda" else None
            self.run = DistributedDataParallel(model, device_ids=devices)
        if recipe.compile:
            self.run = torch.compile(self.run)  # type: ignore[assignment]
        self.teacher: nn.Module | None = None
        if recipe.distillation is not None:
            self.teacher = load_teacher(
                recipe.distillation,
                num_classes=len(images.classes),
                image_size=(images.pixels.shape[2], images.pixels.shape[3]),
                device=self.device,
            )

    @property
    def judged(self) -> nn.Module:
        """The network whose accuracy counts: the moving average where there is one."""
        return self.model if self.average is None else self.average.module

    def take(self, parts: Sequence[Batch], step: int) -> float:
        """Move the weights once; return the loss, over all parts and processes.

        Raises FloatingPointError, the weights as before, where the loss is not finite.
        """
        rate = learning_rate_at(step, self.recipe)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(draw_seed(self.seed, step, find_processes().rank))
        loss = torch.zeros((), device=self.device)
        for number, part in enumerate(parts, start=1):
            with self._syncing(number == len(parts)):
                share = self._loss(part) / len(parts)
                self.scaler.scale(share).backward()
            loss += share.detach()
        value = add_up(loss).item() / find_processes().count
        if not math.isfinite(value):
            raise FloatingPointError(
                f"training loss must stay finite, but got {value} at {step=}, learning rate {rate:.3g}"
            )
        self.scaler.unscale_(self.optimizer)
        clip_gradients(self.model, self.recipe)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update(self.model, step=step + 1)
        return value

    def _loss(self, batch: Batch) -> Tensor:
        dtype = PRECISIONS[self.recipe.precision]
        with torch.autocast(self.device.type, dtype=dtype, enabled=self.recipe.precision != "fp32"):
            logits = score_images(self.run, batch.images, self.images).float()
            loss = F.cross_entropy(logits, batch.targets)
            if self.teacher is None or self.recipe.distillation is None:
                return loss
            with torch.no_grad():
                taught = self.teacher(batch.images).float()
            return distillation_loss(logits, taught, loss, self.recipe.distillation)

    def _syncing(self, last: bool) -> Any:
        """Processes exchange gradients after the last part alone."""
        return nullcontext() if last or not isinstance(self.run, DistributedDataParallel) else self.run.no_sync()


@contextmanager
def open_stepper(model: nn.Module, images: Images, recipe: TrainRecipe, *, seed: int) -> Iterator[Stepper]:
    """A model in training mode, in the recipe's memory format, with the recipe's stochastic depth.

    Its modes, memory format, hooks and torch's random state come back as they were; its gradients are cleared.
    """
    device = next(model.parameters()).device
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        stack.enter_context(in_mode(model, training=True))
        if recipe.memory_format == "channels_last":
            model.to(memory_format=torch.channels_last)
            stack.callback(model.to, memory_format=torch.contiguous_format)
        stepper = Stepper(model, images, recipe, seed=seed)
        stack.callback(model.zero_grad)
        if recipe.stochastic_depth:
            stack.enter_context(drop_branches(model, recipe.stochastic_depth))
        yield stepper
