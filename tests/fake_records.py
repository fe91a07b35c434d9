"""Made-up records of the study `mhsa_ratio`: plausible, but nobody measured them. For tests of store and report."""

from dataclasses import asdict, replace
from typing import Any

import numpy as np

from evitlab.measurements.accuracy import Epoch, TrainResult
from evitlab.measurements.macs import MacCount
from evitlab.measurements.profile import MEMORY_BOUND, Bandwidth, OperatorProfile, OperatorTime, Peaks
from evitlab.measurements.speed import BatchCurve, BatchPoint, Match, MatchStep, SelfTest, SelfTestRun, Throughput
from evitlab.records import Environment, Record, digest

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
    "throughput": {"batch_size": 16, "half_width": 0.01},
    "operators": {"batch_size": 16, "repeats": 3},
    "train": {"steps": 400, "batch_size": 64, "proxy": {"image_size": 32, "width": 48}},
    "evaluate": {"maps": 4, "block": -1},
    "heads": {"images": 100},
    "peaks": {"precision": "fp32"},
    "batch_curve": {"largest": 64, "time_limit_s": 60.0},
    "self_test": {"batch_size": 16, "runs": 4},
    "prune": {"target": "macs", "value": 0.6},
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
    seconds = 16 / speed * np.random.default_rng(seed).normal(1.0, 0.02, size=18)
    return Throughput(
        images_per_second=speed,
        images_per_second_low=speed * 0.975,
        images_per_second_high=speed * 1.02,
        seconds=tuple(float(value) for value in seconds),
        calls_per_repeat=2,
        latency_p90_s=None,
        latency_p99_s=None,
        ratio=ratio,
        ratio_low=None if ratio is None else ratio - 0.02,
        ratio_high=None if ratio is None else ratio + 0.03,
        reference="base",
        group=("base", "mhsa_ratio=0.4"),
        stopped_by="half-width",
        protocol="evitlab",
        batch_size=16,
        image_size=(224, 224),
        warmup_calls=2,
        load_average_before=0.4,
        load_average_after=1.1,
        cpu_hz_before=2.1e9,
        cpu_hz_after=None,
        mode="eager",
        **EXECUTION,
    )


EXECUTION: dict[str, Any] = {
    "precision": "fp32",
    "memory_format": "contiguous",
    "folded": True,
    "linear_library": "MKL",
    "attention_path": "fused",
}


def make_peaks() -> Peaks:
    return Peaks(
        precision="fp32",
        flops_per_second=5e11,
        kernels={"torch.mm": 2.1e11, "oneDNN linear": 5e11, "3x3 convolution": 4.6e11},
        bandwidths=(
            Bandwidth(working_set_bytes=2**18, bytes_per_second=3.2e11),
            Bandwidth(working_set_bytes=2**22, bytes_per_second=1.9e11),
            Bandwidth(working_set_bytes=2**25, bytes_per_second=1.1e11),
            Bandwidth(working_set_bytes=2**30, bytes_per_second=6e10),
        ),
        seconds_per_page_fault=2.5e-7,
        seconds_per_dispatch=1.5e-6,
    )


def make_profile(ratio: float = 0.4, *, layers: int = 6) -> OperatorProfile:
    """A DeiT-T at batch 16, its `layers` shared between MHSA and FFN by the ratio."""
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
    share = sum(by_class[name] for name in MEMORY_BOUND) / total
    with_macs = by_class["matrix product"] + by_class["convolution"]
    operators = make_operators(by_class, ratio=ratio, layers=layers)
    return OperatorProfile(
        memory_bound_share=share,
        memory_bound_share_low=share - 0.012,
        memory_bound_share_high=share + 0.015,
        memory_bound_shares=(share - 0.01, share, share + 0.01),
        roofline_memory_bound_share=1 - with_macs / total,
        seconds_by_class=by_class,
        operators=operators,
        between_seconds=0.012,
        profiled_seconds=total + 0.012,
        wall_seconds=total,
        slowdown=(total + 0.012) / total,
        page_faults=sum(row.page_faults for row in operators),
        peaks=make_peaks(),
        batch_size=16,
        image_size=(224, 224),
        **EXECUTION,
    )


TOKENS = 16 * 197 * 192  # numbers of one activation of DeiT-T at batch 16
HIDDEN = 4 * TOKENS
MAPS = 3 * 16 * 197 * 197

# operator, class, part, step, calls, numbers moved, MACs; of one layer
LAYER_OPERATORS = (
    ("aten::addmm", "matrix product", "MHSA", "projections", 2, 6 * TOKENS, 4 * 192 * TOKENS),
    ("aten::baddbmm", "matrix product", "MHSA", "scores", 1, 2 * TOKENS + MAPS, 64 * MAPS),
    ("aten::bmm", "matrix product", "MHSA", "mixing", 1, 2 * TOKENS + MAPS, 64 * MAPS),
    ("aten::_softmax", "softmax", "MHSA", "softmax", 1, 2 * MAPS, 0),
    ("aten::copy_", "reshape and copy", "MHSA", "reshapes", 4, 8 * TOKENS, 0),
    ("aten::addmm", "matrix product", "FFN", "", 2, 10 * TOKENS, 8 * 192 * TOKENS),
    ("aten::gelu", "element-wise", "FFN", "", 1, 2 * HIDDEN, 0),
)
# the same of the whole network
NETWORK_OPERATORS = (
    ("aten::convolution", "convolution", "stem", "", 1, 2 * TOKENS, 768 * TOKENS),
    ("aten::cat", "reshape and copy", "other", "", 1, 2 * TOKENS, 0),
    ("aten::view", "reshape and copy", "other", "", 60, 0, 0),
    ("aten::add", "element-wise", "other", "", 12, 36 * TOKENS, 0),
    ("aten::native_layer_norm", "normalisation", "norm", "", 13, 26 * TOKENS, 0),
    ("aten::cumsum", "other", "head", "", 1, 16_000, 0),
)


def make_operators(by_class: dict[str, float], *, ratio: float, layers: int) -> tuple[OperatorTime, ...]:
    """Operators whose seconds add up to those of the classes."""
    mhsa = round(2 * layers * ratio)
    counts = {"MHSA": mhsa, "FFN": 2 * layers - mhsa}
    found = [
        (f"layers.{number}.{part.lower()}", (operator, name, part, *rest))
        for operator, name, part, *rest in LAYER_OPERATORS
        for number in range(counts[part])
    ]
    found += [("" if row[2] == "other" else row[2], row) for row in NETWORK_OPERATORS]
    weights = [20_000 * row[4] + row[5] for _, row in found]  # a call takes time of its own
    weight_of = {
        name: sum(w for w, (_, row) in zip(weights, found, strict=True) if row[1] == name) for name in by_class
    }
    operators = []
    for weight, (module, (operator, name, part, step, calls, numbers, macs)) in zip(weights, found, strict=True):
        seconds = by_class[name] * weight / weight_of[name]
        times = {"operator": operator, "operator_class": name, "module": module, "part": part, "step": step}
        counted = {"calls": calls, "bytes": 4 * numbers, "macs": macs, "arithmetic": 2 * macs or numbers // 2}
        operators.append(OperatorTime(seconds=seconds, page_faults=numbers / 2000, **times, **counted))
    return tuple(sorted(operators, key=lambda row: -row.seconds))


def make_curve(*, per_call: float = 0.006, per_image: float = 0.002, largest: int = 64) -> BatchCurve:
    """A call costs a fixed time, or that of its images where this is longer."""
    sizes = [2**power for power in range(largest.bit_length()) if 2**power <= largest]
    points = []
    for size in sizes:
        seconds = max(per_call, per_image * size) * (1 + 0.15 * (size == 64))
        speed = size / seconds
        spread = (0.98, 1.0, 1.01, 0.99, 1.03)
        points.append(
            BatchPoint(
                batch_size=size,
                seconds=tuple(seconds * factor for factor in spread),
                images_per_second=speed,
                images_per_second_low=speed * 0.98,
                images_per_second_high=speed * 1.01,
            )
        )
    return BatchCurve(
        points=tuple(points),
        overhead_bound_until=max((size for size in sizes if size * per_image <= per_call), default=None),
        best_batch_size=max(points, key=lambda point: point.images_per_second).batch_size,
        ended_by="largest asked",
        end_reason=f"{largest} is the largest batch asked for",
        image_size=(224, 224),
        mode="eager",
        **EXECUTION,
    )


def make_self_test(ratios: tuple[float, ...] = (1.002, 0.996, 1.011, 0.999)) -> SelfTest:
    runs = tuple(
        SelfTestRun(ratio=ratio, ratio_low=ratio - 0.005, ratio_high=ratio + 0.005, rounds=12, stopped_by="half-width")
        for ratio in ratios
    )
    contained = sum(run.ratio_low <= 1 <= run.ratio_high for run in runs)
    error = float(np.median([abs(ratio - 1) for ratio in ratios]))
    return SelfTest(
        runs=runs,
        contained=contained,
        median_error=error,
        passed=contained >= 0.9 * len(runs) and error < 0.01,
        batch_size=16,
        image_size=(224, 224),
    )


def make_match(width: int = 158) -> Match:
    return Match(
        speedup=1.25,
        reference="base",
        tolerance=0.03,
        reached=True,
        ratio=1.26,
        ratio_low=1.24,
        ratio_high=1.28,
        width=width,
        depths=(12,),
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
