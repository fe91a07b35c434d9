"""Made-up records of the study `mhsa_ratio`: plausible, but nobody measured them. For tests of store and report."""

from dataclasses import asdict, replace
from typing import Any

import numpy as np

from evitlab.records import (
    Environment,
    Epoch,
    MacCount,
    Match,
    MatchStep,
    OperatorProfile,
    OperatorTime,
    Record,
    Throughput,
    TrainResult,
    digest,
)

PAPER = {0.0: 0.468, 0.2: 0.623, 0.4: 0.630, 0.5: 0.619, 0.6: 0.585, 0.8: 0.539, 1.0: 0.385}
"""DeiT-T-1.25x in Fig. 3 of the paper (arXiv 2305.07027)."""

PROXY_TOP1 = {0.0: 0.52, 0.2: 0.71, 0.4: 0.745, 0.5: 0.74, 0.6: 0.70, 0.8: 0.63, 1.0: 0.41}
WIDTH = {0.0: 140, 0.2: 152, 0.4: 158, 0.5: 162, 0.6: 168, 0.8: 174, 1.0: 188}

ENVIRONMENT = Environment(
    device="cpu",
    device_name="Example CPU @ 2.10GHz",
    machine="0a1b2c3d",
    cores=2,
    threads=2,
    memory_bytes=8 * 2**30,
    allocator="glibc, default",
    platform="Linux x86_64",
    python="3.11.7",
    torch="2.13.0",
    timm="1.0.26",
    evitlab="0.1.0",
    git_commit="0123456789abcdef0123456789abcdef01234567",
    git_dirty=False,
)


def make_config(*, width: int, size: int, depth: int = 12) -> dict[str, Any]:
    return {
        "image_size": [size, size],
        "num_classes": 1000 if size == 224 else 16,
        "stages": [{"width": width, "depth": depth}],
    }


def make_record(task: str, measurement: Any, *, variant: str = "mhsa_ratio=0.4", **changes: Any) -> Record:
    """An `ok` record of one task; `changes` replace any of its fields."""
    seed = changes.get("seed", 0)
    record = Record(
        key=digest([variant, task, seed, changes.get("smoke", False)]),
        study="mhsa_ratio",
        request=request(variant, task),
        variant=variant,
        knobs={},
        config=make_config(width=158, size=32 if task == "train" else 224),
        task=task,
        settings=SETTINGS[task],
        status="ok",
        measurement=None if measurement is None else asdict(measurement),
        environment=ENVIRONMENT,
        seed=seed,
        start="2026-01-02T03:04:05+00:00",
        seconds=1.5,
    )
    return replace(record, **changes)


def fail(record: Record, error: str) -> Record:
    return replace(record, status="failed", measurement=None, error=error)


def request(variant: str, task: str) -> str:
    return digest([variant, task])


SETTINGS: dict[str, dict[str, Any]] = {
    "match": {"speedup": 1.25, "tolerance": 0.03},
    "macs": {},
    "throughput": {"batch_size": 16, "repeats": 9},
    "operators": {"batch_size": 16, "passes": 5},
    "train": {"steps": 400, "batch_size": 64, "proxy": {"image_size": 32, "width": 48}},
}


def make_macs(width: int = 158) -> MacCount:
    macs = 6_000_000 * width
    return MacCount(
        macs=macs,
        params=150 * width * width,
        params_unfolded=151 * width * width,
        image_size=(224, 224),
        macs_by_operator={"linear": macs},
        macs_by_module={"": macs},
    )


def make_throughput(speed: float = 60.0, *, ratio: float | None = 1.25, seed: int = 0) -> Throughput:
    seconds = 16 / speed * np.random.default_rng(seed).normal(1.0, 0.02, size=9)
    return Throughput(
        images_per_second=speed,
        images_per_second_low=speed * 0.975,
        images_per_second_high=speed * 1.02,
        seconds=tuple(float(value) for value in seconds),
        ratio=ratio,
        ratio_low=None if ratio is None else ratio - 0.02,
        ratio_high=None if ratio is None else ratio + 0.03,
        reference="base",
        group=("base", "mhsa_ratio=0.4"),
        batch_size=16,
        image_size=(224, 224),
        precision="fp32",
        memory_format="contiguous",
        folded=True,
        execution="eager",
        attention_path="as built",
        warmup_calls=2,
        calls_per_repeat=1,
        load_average_before=0.4,
        load_average_after=1.1,
    )


def make_profile(ratio: float = 0.4) -> OperatorProfile:
    by_class = {
        "reshape and copy": 0.02 + 0.03 * ratio,
        "element-wise": 0.05 - 0.02 * ratio,
        "normalisation": 0.02,
        "softmax": 0.03 * ratio,
        "matrix product": 0.16,
        "convolution": 0.01,
        "other": 0.002,
    }
    total = sum(by_class.values())
    share = sum(by_class[name] for name in ("reshape and copy", "element-wise", "normalisation")) / total
    return OperatorProfile(
        memory_bound_share=share,
        memory_bound_share_low=share - 0.012,
        memory_bound_share_high=share + 0.015,
        memory_bound_shares=(share - 0.01, share, share + 0.01),
        seconds_by_class=by_class,
        operators=(
            OperatorTime(operator="aten::addmm", operator_class="matrix product", calls=48, seconds=0.16),
            OperatorTime(operator="aten::copy_", operator_class="reshape and copy", calls=36, seconds=0.03),
        ),
        profiled_seconds=total,
        wall_seconds=total * 0.95,
        batch_size=16,
        image_size=(224, 224),
        folded=True,
    )


def make_match(width: int = 158) -> Match:
    return Match(
        speedup=1.25,
        tolerance=0.03,
        reached=True,
        ratio=1.26,
        ratio_low=1.24,
        ratio_high=1.28,
        width=width,
        base_config=make_config(width=192, size=224),
        matched_config=make_config(width=width, size=224),
        steps=(
            MatchStep(width=176, ratio=1.11),
            MatchStep(width=width, ratio=1.26),
        ),
    )


def make_training(top1: float = 0.745) -> TrainResult:
    return TrainResult(
        top1=top1,
        top5=min(0.99, top1 + 0.2),
        loss=1 - top1,
        train_top1=top1 + 0.03,
        data="scenes",
        num_classes=16,
        train_images=8192,
        val_images=2048,
        steps=400,
        batch_size=64,
        images_seen=25600,
        params=250_000,
        train_seconds=21.0,
        curve=(
            Epoch(step=200, train_loss=1.9, top1=top1 - 0.15),
            Epoch(step=400, train_loss=1.2, top1=top1),
        ),
    )


def make_study() -> list[Record]:
    """The whole study as its runner would leave it: 7 variants, 2 training seeds, and the untrained base."""
    records = [
        make_record("macs", make_macs(192), variant="base", config=make_config(width=192, size=224)),
        make_record("throughput", make_throughput(48.0, ratio=None), variant="base"),
        make_record("operators", make_profile(0.5), variant="base"),
    ]
    for index, (ratio, top1) in enumerate(PROXY_TOP1.items()):
        width = WIDTH[ratio]
        same: dict[str, Any] = {"variant": f"mhsa_ratio={ratio:g}", "knobs": {"mhsa_ratio": ratio}}
        full = same | {"config": make_config(width=width, size=224)}
        proxy = same | {"config": make_config(width=48, size=32, depth=8)}
        speed = 60 + (-1.1, 0.4, 0.9, -0.3, 0.2, 1.3, -0.6)[index]
        records += [
            make_record("match", make_match(width), **full),
            make_record("macs", make_macs(width), **full),
            make_record("throughput", make_throughput(speed, ratio=speed / 48, seed=index), **full),
            make_record("operators", make_profile(ratio), **full),
            make_record("train", make_training(top1 - 0.004), **proxy, seed=0),
            make_record("train", make_training(top1 + 0.005), **proxy, seed=1),
        ]
    return records


def requests(records: list[Record]) -> dict[tuple[str, str], str]:
    """What a study would ask for to get exactly these records."""
    return {(record.variant, record.task): record.request for record in records}
