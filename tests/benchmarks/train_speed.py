"""How fast the training loop is beside timm's: same network, images, batch, augmentation, optimiser; in turn.

    python tests/benchmarks/train_speed.py [--model efficientvit_m0] [--batch-size 64] [--steps 40] [--rounds 3]

timm's side is the loop of its `train.py` (v1.0) made of timm's own parts: a folder of JPEG files, `create_loader` with
its transforms, worker processes and prefetcher, Mixup and CutMix on the batch, `create_optimizer_v2`, clipping, a step
of the scheduler. Three ways: as it comes (`contiguous`), with `--channels-last`, and ours, which reads the decoded
cache, augments whole batches, keeps freed memory and takes the memory format of the recipe. Each turn is a process of
its own, so that no worker of one runs while another is timed; starting and the first steps are left out.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

CLASSES, PER_CLASS, PIXELS = 16, 128, 64
WARM_UP = 4
"""Steps of each turn before the clock starts."""
WAYS = ("timm", "timm, channels last", "evitlab")


def draw_folder(folder: Path) -> None:
    """A tree of JPEG files, train and val, as an ImageFolder."""
    from PIL import Image

    from evitlab.train.data import make_shapes

    for split, per_class, seed in (("train", PER_CLASS, 0), ("val", 2, 1)):
        images = make_shapes(num_images=CLASSES * per_class, seed=seed, image_size=PIXELS)
        for number, (pixels, label) in enumerate(zip(images.pixels, images.labels.tolist(), strict=True)):
            path = folder / split / f"class{label:02d}" / f"{number:05d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path, quality=90)


def time_timm(folder: Path, asked: argparse.Namespace, *, channels_last: bool) -> dict[str, float]:
    """Images per second of timm's loop, and the share of its time that it waits for batches."""
    import torch
    from timm.data import FastCollateMixup, create_dataset, create_loader
    from timm.loss import SoftTargetCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.scheduler import CosineLRScheduler

    device = torch.device("cpu")
    dataset = create_dataset("", root=str(folder), split="train", is_training=True, batch_size=asked.batch_size)
    loader = create_loader(
        dataset,
        input_size=(3, PIXELS, PIXELS),
        batch_size=asked.batch_size,
        is_training=True,
        scale=(0.25, 1.0),
        color_jitter=0.0,
        auto_augment=f"rand-m{asked.rand_augment}-n2" if asked.rand_augment else None,
        num_workers=asked.workers,
        collate_fn=FastCollateMixup(mixup_alpha=0.2, cutmix_alpha=1.0, label_smoothing=0.1, num_classes=CLASSES),
        device=device,
    )
    model, loss_of = build(asked), SoftTargetCrossEntropy()
    if channels_last:
        model.to(memory_format=torch.channels_last)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05)
    scheduler = CosineLRScheduler(optimizer, t_initial=1000, warmup_t=10, t_in_epochs=False)
    step, waited = 0, 0.0
    while True:
        start = time.perf_counter()
        for images, targets in loader:
            waited += time.perf_counter() - start
            if step == WARM_UP:
                began, waited = time.perf_counter(), 0.0
            if channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            loss = loss_of(model(images), targets)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step_update(step)
            step += 1
            if step == WARM_UP + asked.steps:
                return describe(asked, time.perf_counter() - began, waited)
            start = time.perf_counter()


def time_ours(folder: Path, asked: argparse.Namespace) -> dict[str, float]:
    """The same of ours."""
    from evitlab.environment import tune_allocator
    from evitlab.recipes import Augmentation, TrainRecipe
    from evitlab.train.batches import Batches
    from evitlab.train.data import load_data
    from evitlab.train.step import open_stepper

    tune_allocator()
    data = load_data(str(folder), image_size=PIXELS, cache=folder.parent / "cache")
    recipe = TrainRecipe(
        steps=WARM_UP + asked.steps,
        batch_size=asked.batch_size,
        label_smoothing=0.1,
        precision=asked.precision,
        memory_format=asked.memory_format,
        evaluations=1,
        augmentation=Augmentation(
            flip=0.5, crop="resized", min_area=0.25, rand_augment=asked.rand_augment, mixup=0.2, cutmix=1.0
        ),
    )
    with open_stepper(build(asked), data.train, recipe, seed=0) as stepper:
        batches = Batches(images=data.train, recipe=recipe, seed=0, device=stepper.device)
        for step, parts in enumerate(batches):
            if step == WARM_UP:
                began, before = time.perf_counter(), batches.wait_seconds
            stepper.take(parts, step)
        return describe(asked, time.perf_counter() - began, batches.wait_seconds - before)


def build(asked: argparse.Namespace):
    """The network that all train, in training mode."""
    from evitlab import create_model

    return create_model(asked.model, image_size=PIXELS, num_classes=CLASSES).train()


def describe(asked: argparse.Namespace, seconds: float, waited: float) -> dict[str, float]:
    """What a turn found."""
    from evitlab.memory import peak_bytes

    speed = asked.batch_size * asked.steps / seconds
    return {"images_per_second": speed, "waiting": waited / seconds, "peak_memory": peak_bytes() or 0}


def take_turn(way: str, folder: Path) -> dict[str, float]:
    """One way in a process of its own."""
    command = [sys.executable, __file__, *sys.argv[1:], "--way", way, "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def compare(asked: argparse.Namespace) -> None:
    """All ways in turn, and what they say together."""
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "images"
        draw_folder(folder)
        take_turn("evitlab", folder)  # decodes once, which is not timed
        for number in range(asked.rounds):
            for way in WAYS[number % len(WAYS) :] + WAYS[: number % len(WAYS)]:
                found[way].append(take_turn(way, folder))
    print(
        f"{asked.model}, {PIXELS} px, batch {asked.batch_size}, RandAugment {asked.rand_augment}, "
        f"ours in {asked.precision}; {asked.rounds} turns of {asked.steps} steps"
    )
    for way, turns in found.items():
        speeds = [turn["images_per_second"] for turn in turns]
        ratios = [
            turn["images_per_second"] / first["images_per_second"]
            for turn, first in zip(turns, found["timm"], strict=True)
        ]
        print(
            f"{way:20} {median(speeds):7.1f} images/s ({min(speeds):.1f}-{max(speeds):.1f}), "
            f"{median(ratios):.2f}x timm ({min(ratios):.2f}-{max(ratios):.2f}), "
            f"waiting {median(turn['waiting'] for turn in turns):.1%}, "
            f"peak memory {max(turn['peak_memory'] for turn in turns) / 1e6:.0f} MB (workers not counted)"
        )


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="efficientvit_m0", help="a name of the zoo")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=40, help="timed in each turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="timm's worker processes; its own default is 4")
    parser.add_argument("--rand-augment", type=int, default=0, help="magnitude of RandAugment; 0: none")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of ours; timm's stays fp32")
    parser.add_argument("--memory-format", choices=("contiguous", "channels_last"), default="channels_last")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """One turn where a way is named, else all of them."""
    asked = parse()
    if asked.way is None:
        compare(asked)
    elif asked.way == "evitlab":
        print(json.dumps(time_ours(asked.folder, asked)))
    else:
        print(json.dumps(time_timm(asked.folder, asked, channels_last=asked.way != "timm")))


if __name__ == "__main__":
    main()
