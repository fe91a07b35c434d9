"""What each step trains on: which images, augmented how; on a GPU made ahead while the step before is computed."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from time import perf_counter

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from evitlab.recipes import TrainRecipe
from evitlab.train.augment import augment_images, mix_images
from evitlab.train.data import Images, scale_pixels
from evitlab.train.processes import find_processes

AHEAD = 2
"""Steps whose batches are made before they are needed."""
GROUP_BYTES = 2**24
"""Of images that are made in one go on a CPU; at 64 pixels five batches of 64, which take a sixth less time so."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Images as a network reads them, and what it should answer."""

    images: Float[Tensor, "B 3 H W"]
    targets: Float[Tensor, "B classes"]
    """Shares that add up to 1."""


@dataclass(kw_only=True)
class Batches:
    """The batches of a training from one step on, each as the parts that it is computed in.

    What is drawn for a step depends on the seed, the step and the process alone: a training that was interrupted goes
    on with what it would have seen.
    """

    images: Images
    recipe: TrainRecipe
    seed: int
    device: torch.device
    first: int = 0
    """Step to begin with."""
    wait_seconds: float = field(default=0.0, init=False)
    """How long the reader had to wait, all in all: on a CPU as long as it took to make them."""

    def __iter__(self) -> Iterator[list[Batch]]:
        order = draw_order(len(self.images.labels), self.recipe, seed=self.seed, first=self.first)
        steps = enumerate(order, start=self.first)
        # On a CPU no second thread: it would take turns with torch's own on the same cores, which wait for one another
        # at the end of every operator; with it, training was half as fast.
        making = self._make_in_groups(steps) if self.device.type == "cpu" else self._make_ahead(steps)
        while True:
            start = perf_counter()
            parts = next(making, None)
            self.wait_seconds += perf_counter() - start
            if parts is None:
                return
            yield parts

    def _make_in_groups(self, steps: Iterator[tuple[int, Tensor]]) -> Iterator[list[Batch]]:
        """Small batches a few at a time: right after a step the caches hold none of the code that makes them."""
        pixels = self.recipe.batch_size * self.images.pixels[0].numel()
        size = max(1, GROUP_BYTES // (4 * pixels))
        while group := [self.make(step, rows) for step, rows in islice(steps, size)]:
            yield from group

    def _make_ahead(self, steps: Iterator[tuple[int, Tensor]]) -> Iterator[list[Batch]]:
        ready: deque[Future[list[Batch]]] = deque()
        worker = ThreadPoolExecutor(max_workers=1)
        try:
            for step, rows in steps:
                ready.append(worker.submit(self.make, step, rows))
                if len(ready) > AHEAD:
                    yield ready.popleft().result()
            while ready:
                yield ready.popleft().result()
        finally:
            worker.shutdown(wait=True, cancel_futures=True)

    def make(self, step: int, rows: Int64[Tensor, " batch"]) -> list[Batch]:
        """The parts of a step's batch that fall to this process."""
        own = find_processes()
        shares = rows.view(self.recipe.accumulate, own.count, -1)[:, own.rank]
        generator = torch.Generator().manual_seed(draw_seed(self.seed, step, own.rank))
        return [self._augment(share, generator) for share in shares]

    def _augment(self, rows: Int64[Tensor, " B"], generator: torch.Generator) -> Batch:
        augmentation = self.recipe.augmentation
        pixels = self.images.pixels[rows].to(self.device)
        if self.recipe.memory_format == "channels_last":  # while they are bytes: a quarter of what floats move
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        pixels = augment_images(pixels, augmentation, generator)
        images, targets = mix_images(
            scale_pixels(pixels),
            self.images.labels[rows].to(self.device),
            augmentation,
            num_classes=len(self.images.classes),
            label_smoothing=self.recipe.label_smoothing,
            generator=generator,
        )
        if self.recipe.memory_format == "channels_last":
            images = images.contiguous(memory_format=torch.channels_last)
        return Batch(images=images, targets=targets)


def draw_order(num_images: int, recipe: TrainRecipe, *, seed: int, first: int = 0) -> Iterator[Int64[Tensor, " batch"]]:
    """Indices of every batch from a step on: shuffled passes over the images, end to end.

    How often images are used differs by one at most, times the augmentation's repeats.
    """
    generator = torch.Generator().manual_seed(seed)
    repeats = recipe.augmentation.repeats
    needed, left = recipe.batch_size // repeats, torch.empty(0, dtype=torch.int64)
    for step in range(recipe.steps):
        while len(left) < needed:
            left = torch.cat([left, torch.randperm(num_images, generator=generator)])
        rows, left = left[:needed], left[needed:]
        if step >= first:
            yield rows.repeat(repeats)


def draw_seed(seed: int, step: int, rank: int) -> int:
    """A seed of its own for each step and process."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1)
