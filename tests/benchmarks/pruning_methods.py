"""Which pruning loses least accuracy at equal MACs: our five scores, and torch-pruning on timm's network.

    python tests/benchmarks/pruning_methods.py [--seeds 3] [--targets 0.6 0.4] [--rounds 8] [--out methods.csv]

A small DeiT is trained on the embedded data for each seed, then pruned from the same weights by every method, at once
and in rounds with new scores in each; all see the same training images. MACs are those of the pruned network. Ours
cut queries with keys, values and hidden channels on their own, each head its own. torch-pruning gets the same weights
in timm's network and cuts Q, K and V at the same channels in all heads; its ratio is searched, so that its MACs meet
the target where they can: as it comes (embedding too, scores divided by each group's mean), with the embedding kept
as ours is, and so without dividing. `--finetune` trains every result for some steps more.
"""

import argparse
import copy
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import pandas as pd
import timm
import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.nn import functional as F

from evitlab.measure.macs import count_macs
from evitlab.models.config import ModelConfig
from evitlab.models.network import Network, build_model
from evitlab.models.weights import to_timm
from evitlab.models.zoo import make_config
from evitlab.prune.costs import count_config_macs
from evitlab.prune.groups import find_groups, resize_groups
from evitlab.prune.importance import IMPORTANCES, score_importance
from evitlab.prune.plan import choose_channels
from evitlab.prune.surgery import cut
from evitlab.recipes import TrainRecipe
from evitlab.train.data import DataSet, load_data, scale_pixels
from evitlab.train.evaluation import evaluate
from evitlab.train.loop import train

THEIRS = {
    "torch-pruning": {"keeps_embedding": False, "normalizer": "mean"},
    "torch-pruning, embedding kept": {"keeps_embedding": True, "normalizer": "mean"},
    "torch-pruning, embedding kept, not normalised": {"keeps_embedding": True, "normalizer": None},
}
COARSE, FINEST = 0.04, 0.001
"""Steps in torch-pruning's ratio while its value for a target is searched."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One network pruned by one method."""

    seed: int
    target: float
    """Share of the MACs that was asked for."""
    schedule: str
    method: str
    macs: float
    """Share of the MACs that is left."""
    top1_before: float
    top1: float
    loss: float
    top1_tuned: float | None


def make_network(asked: argparse.Namespace, data: DataSet, seed: int) -> Network:
    """Trained from scratch."""
    config = make_config(
        "deit_t", width=asked.width, depth=asked.depth, num_heads=4, image_size=32, patch_size=8,
        num_classes=len(data.train.classes),
    )  # fmt: skip
    model = build_model(config, seed=seed)
    train(model, data, TrainRecipe(steps=asked.steps, batch_size=64, init="xavier", evaluations=1), seed=seed)
    return model.eval()


def draw_batches(data: DataSet, asked: argparse.Namespace, *, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Training images to score on: the same for all methods."""
    order = torch.randperm(len(data.train.labels), generator=torch.Generator().manual_seed(seed))
    for rows in order[: asked.score_images].split(32):
        yield scale_pixels(data.train.pixels[rows]), data.train.labels[rows]


def share_rounds(target: float, rounds: int) -> list[float]:
    """Shares of the MACs after each round, evenly down to the target."""
    return [1 - (1 - target) * (number + 1) / rounds for number in range(rounds)]


def prune_ours(model: Network, method: str, target: float, rounds: int, data: DataSet, asked, seed: int) -> nn.Module:
    """By one of our scores."""
    whole = float(count_config_macs(model.config))
    for number, share in enumerate(share_rounds(target, rounds)):
        batches = draw_batches(data, asked, seed=1000 * seed + number)
        scores = score_importance(model, batches, importance=method, seed=1000 * seed + number)
        plan = choose_channels(model.config, scores, cost=count_config_macs, target=share, reference_cost=whole)
        model = cut(model, plan)
    return model


def prune_theirs(model: Network, method: str, target: float, rounds: int, data: DataSet, asked, seed: int) -> nn.Module:
    """By torch-pruning, the same weights in timm's network."""
    config = model.config
    pruned = timm.create_model(
        "deit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=config.stages[0].width, num_heads=4,
        depth=len(config.stages[0].blocks), num_classes=config.num_classes,
    ).eval()  # fmt: skip
    to_timm(model, pruned)
    whole = count_config_macs(config)
    for number, share in enumerate(share_rounds(target, rounds)):
        pruned.zero_grad()
        for images, labels in draw_batches(data, asked, seed=1000 * seed + number):
            F.cross_entropy(pruned(images), labels).backward()
        pruned = search_ratio(pruned, share * whole, config, **THEIRS[method])
    return pruned


def search_ratio(model: nn.Module, macs: float, config: ModelConfig, **how) -> nn.Module:
    """The network at the smallest ratio that brings its MACs to so many; where none does, the one with fewest.

    Upwards in steps, then by halves: at larger ratios MACs may rise again, as groups whose every channel would go
    are left whole.
    """
    low, high, best = 0.0, None, model
    while high is None or high - low > FINEST:
        ratio = low + COARSE if high is None else (low + high) / 2
        if ratio >= 1:
            break
        tried = step_theirs(copy_with_gradients(model), ratio, **how)
        cost = count_config_macs(describe(tried, config))
        if cost <= macs:
            high, best = ratio, tried
        else:
            low = ratio
            if high is None and cost < count_config_macs(describe(best, config)):
                best = tried
    return best


def copy_with_gradients(model: nn.Module) -> nn.Module:
    """`deepcopy` leaves them behind."""
    copied = copy.deepcopy(model)
    for parameter, original in zip(copied.parameters(), model.parameters(), strict=True):
        parameter.grad = None if original.grad is None else original.grad.clone()
    return copied


def step_theirs(model: nn.Module, ratio: float, *, keeps_embedding: bool, normalizer: str | None) -> nn.Module:
    """One step of its global pruner on the gradients that are there."""
    heads = {block.attn.qkv: block.attn.num_heads for block in model.blocks}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # class token and position embedding go along with the embedding
        pruner = tp.pruner.BasePruner(
            model, torch.randn(1, 3, 32, 32), importance=tp.importance.GroupTaylorImportance(normalizer=normalizer),
            global_pruning=True, pruning_ratio=ratio, num_heads=heads, in_channel_groups={}, out_channel_groups={},
            channel_groups={}, ignored_layers=[model.head, *([model.patch_embed.proj] if keeps_embedding else [])],
        )  # fmt: skip
    pruner.step()
    for block in model.blocks:
        block.attn.head_dim = block.attn.qkv.out_features // (3 * block.attn.num_heads)
        block.attn.attn_dim = block.attn.head_dim * block.attn.num_heads
        block.attn.fused_attn = False  # fused, timm would scale by the pruned head dimension, which costs accuracy
    return model.eval()


def describe(model: nn.Module, config: ModelConfig) -> ModelConfig:
    """The sizes of a pruned network of timm's as a config of ours."""
    width = model.patch_embed.proj.out_channels
    sizes = {}
    for group in find_groups(config):
        block = model.blocks[group.block]
        sizes[group.key] = block.mlp.fc1.out_features if group.kind == "ffn" else block.attn.head_dim
    resized = resize_groups(config, sizes)
    stages = (replace(resized.stages[0], width=width),)
    return replace(resized, stem=replace(resized.stem, widths=(width,)), stages=stages)


def judge(model: nn.Module, data: DataSet, asked: argparse.Namespace, seed: int) -> dict[str, float | None]:
    """Accuracy and loss after pruning, and accuracy after some more training."""
    accuracy = evaluate(model, data.val)
    tuned = None
    if asked.finetune:
        recipe = TrainRecipe(steps=asked.finetune, batch_size=64, learning_rate=3e-4, evaluations=1)
        tuned = train(copy.deepcopy(model), data, recipe, seed=seed).top1
    return {"top1": accuracy.top1, "loss": accuracy.loss, "top1_tuned": tuned}


def compare(asked: argparse.Namespace) -> Iterator[Row]:
    """Every method at every target, at once and in rounds, from every seed's network."""
    data = load_data("shapes", image_size=32, train_images=asked.images, val_images=2048)
    methods = [(name, prune_ours) for name in IMPORTANCES] + [(name, prune_theirs) for name in THEIRS]
    for seed in range(asked.seeds):
        model = make_network(asked, data, seed)
        before, whole = evaluate(model, data.val).top1, count_macs(model, image_size=32).macs
        for target in asked.targets:
            for rounds in (1, asked.rounds):
                for method, prune in methods:
                    pruned = prune(model, method, target, rounds, data, asked, seed)
                    share = count_macs(pruned, image_size=32).macs / whole
                    schedule = "at once" if rounds == 1 else f"{rounds} rounds"
                    yield Row(
                        seed=seed, target=target, schedule=schedule, method=method, macs=share, top1_before=before,
                        **judge(pruned, data, asked, seed),
                    )  # fmt: skip


def tabulate(rows: list[Row]) -> pd.DataFrame:
    """Mean over seeds, with the least and the most; accuracy lost is a difference of shares."""
    table = pd.DataFrame([asdict(row) for row in rows])
    table["lost"] = table["top1_before"] - table["top1"]
    table["lost_tuned"] = table["top1_before"] - table["top1_tuned"].astype(float)
    by_method = table.groupby(["target", "schedule", "method"], sort=False)
    return by_method.agg(
        macs=("macs", "mean"), top1_before=("top1_before", "mean"), top1=("top1", "mean"), lost=("lost", "mean"),
        lost_least=("lost", "min"), lost_most=("lost", "max"), loss=("loss", "mean"),
        lost_tuned=("lost_tuned", "mean"), seeds=("seed", "count"),
    )  # fmt: skip


def parse(arguments: list[str]) -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--targets", type=float, nargs="+", default=[0.6, 0.4])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=1200, help="of the training")
    parser.add_argument("--finetune", type=int, default=0, help="steps of training after pruning")
    parser.add_argument("--images", type=int, default=8192)
    parser.add_argument("--score-images", type=int, default=512)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--out", default="pruning_methods.csv", help="every row; the table is printed")
    return parser.parse_args(arguments)


def main() -> None:
    """Run, telling each row as it comes."""
    asked = parse(sys.argv[1:])
    torch.set_num_threads(1)
    start = time.perf_counter()
    rows = []
    count = asked.seeds * len(asked.targets) * 2 * (len(IMPORTANCES) + len(THEIRS))
    for row in compare(asked):
        rows.append(row)
        pd.DataFrame([asdict(each) for each in rows]).to_csv(asked.out, index=False)
        print(
            f"{len(rows)}/{count} {time.perf_counter() - start:.0f} s: seed {row.seed}, {row.macs:.3f} of the MACs "
            f"{row.schedule}, {row.method}: {row.top1_before:.3f} -> {row.top1:.3f}",
            flush=True,
        )
    with pd.option_context("display.width", 200, "display.max_columns", None, "display.precision", 3):
        print(tabulate(rows))


if __name__ == "__main__":
    main()
