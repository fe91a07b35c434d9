"""Run by torchrun in test_processes.py: trains a small classifier in all processes and writes what each one got."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from small_training import Small, without_time

from evitlab.recipes import TrainRecipe
from evitlab.train.data import load_data
from evitlab.train.evaluation import predict
from evitlab.train.loop import train
from evitlab.train.processes import join_processes

RECIPE = TrainRecipe(steps=12, batch_size=16, accumulate=2, learning_rate=1e-2, evaluations=2, ema=0.9)


def make_model() -> Small:
    """Without what depends on how a batch is divided: BatchNorm's statistics and dropout."""
    model = Small()
    model.norm.track_running_stats = False
    model.norm.eval()
    model.norm.train = lambda mode=True: model.norm  # type: ignore[method-assign]
    model.drop.p = 0.0
    return model


def main(folder: Path, steps: int) -> None:
    torch.set_num_threads(1)
    data = load_data("shapes", train_images=80, val_images=47)  # an odd number: processes get unequal shares
    with join_processes("cpu") as own:
        model = make_model()
        checkpoint = folder / "checkpoint"
        result = train(model, data, replace(RECIPE, steps=steps), seed=0, checkpoint=checkpoint, checkpoint_every_s=0.0)
        scores = predict(model, data.val, batch_size=5)
        found = {"result": without_time(result), "scores": scores.tolist(), "weights": model.head.weight.tolist()}
        (folder / f"rank{own.rank}of{own.count}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
