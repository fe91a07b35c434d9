"""The commands on models: `bench` and `profile`. Parse, call, print."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from evitlab.commands.options import MODEL_HELP, Device, ImageSize, Json, Knobs, Results, Seed, Smoke, open_desk, report

if TYPE_CHECKING:
    from evitlab.desk.desk import Desk
    from evitlab.models.named import NamedModel
    from evitlab.options import ProcessOptions
    from evitlab.records import Record
    from evitlab.settings import ThroughputSettings

With = Annotated[
    list[str] | None,
    typer.Option(
        "--with",
        metavar="FIELD=VALUE",
        help="A condition: precision=fp32|bf16|fp16, memory_format=contiguous|channels_last, "
        "mode=eager|compiled|traced, linear=torch|onednn, fold=true|false, threads=N, allocator=tuned|system, "
        "or another setting of the task, such as half_width=0.02, time_limit_s=120 or repeats=15; may repeat.",
    ),
]
Protocol = Annotated[
    Literal["evitlab", "cream"],
    typer.Option(
        help="evitlab: medians, until every ratio is known to 1%. cream: as the official EfficientViT speed test "
        "(traced, batch 16 and one thread on a CPU, 2048 and fp16 on a GPU, 10 s of warm-up, 60 s, mean)."
    ),
]
BatchCurve = Annotated[
    bool, typer.Option("--batch-curve", help="Time batch 1, 2, 4, ... to the largest that fits, model by model.")
]
SelfTest = Annotated[
    bool, typer.Option("--self-test", help="Time one model under two names, 20 times: do the intervals hold here?")
]
BENCH_ROUNDS = 2000
"""Of a bench, whose limits are precision and time."""
LARGEST_BATCH = 1024
SELF_TEST_MODEL, SELF_TEST_RUNS = "efficientvit_m0", 20
SELF_TEST_SECONDS = 10.0
"""Of each run at most, unless the user sets another limit: 20 of them end in minutes."""


def bench(
    models: Annotated[list[str] | None, typer.Argument(metavar="MODEL", help=MODEL_HELP)] = None,
    knobs: Knobs = None,
    batch_size: Annotated[int | None, typer.Option(help="Images in a forward pass; default 16.")] = None,
    image_size: ImageSize = None,
    conditions: With = None,
    protocol: Protocol = "evitlab",
    batch_curve: BatchCurve = False,
    self_test: SelfTest = False,
    results: Results = Path("results"),
    device: Device = "cpu",
    seed: Seed = 0,
    smoke: Smoke = False,
    as_json: Json = False,
) -> None:
    """Images per second of some models, timed in turn, with 95% intervals and the ratio to the first.

    Each round times every model once, in a new random order, until every ratio is
    known to 1% (--with half_width=0.01) or a minute is over (--with time_limit_s=60).
    BatchNorm is folded; weights are random unless loaded, and so are the images.
    Every call is kept, with its conditions, in results/bench_MODELS.

    Examples:

    evitlab bench deit_t swin_t efficientvit_m4 timm:mobilenetv3_large_100

    evitlab bench deit_t deit_t:mhsa_ratio=0.2 --batch-size 8 --with threads=1

    evitlab bench efficientvit_m0 --batch-curve
    """
    from evitlab.options import parse_image_size

    command = _choose_measurement(models, batch_curve=batch_curve, self_test=self_test, protocol=protocol)
    names, size = models or [SELF_TEST_MODEL], parse_image_size(image_size)
    process, settings = _read_bench(command, conditions, batch_size, protocol=protocol, device=device, smoke=smoke)
    with open_desk(command, names, process, results, device=device, seed=seed, smoke=smoke) as desk:
        loaded = [_load(name, knobs, size, seed) for name in names]
        records = _measure(command, desk, loaded, settings)
    report(records, desk, as_json=as_json)
    failed = command == "self_test" and not smoke and not (records[0].measurement or {})["passed"]
    raise typer.Exit(1 if failed else 0)


def profile(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    knobs: Knobs = None,
    batch_size: Annotated[int | None, typer.Option(help="Images in a forward pass; default 16.")] = None,
    image_size: ImageSize = None,
    conditions: With = None,
    trace: Annotated[
        bool, typer.Option("--trace", help="Also write a Chrome trace of one pass (chrome://tracing, Perfetto).")
    ] = False,
    results: Results = Path("results"),
    device: Device = "cpu",
    seed: Seed = 0,
    smoke: Smoke = False,
    as_json: Json = False,
) -> None:
    """Where a model's time goes: by operator, by part of the network, by class, and what bounds it.

    "Memory-bound" is shown two ways: by the paper's classes (reshape and copy,
    element-wise, normalisation), and by roofline, from this machine's peaks,
    which are measured once (about 15 s) and kept in results/peaks.
    Page faults and dispatch are set apart from memory traffic.
    Tables, figures and the record are kept in results/profile_MODEL.

    Examples:

    evitlab profile deit_t

    evitlab profile deit_t:attention_path=explicit --batch-size 8 --with threads=1

    evitlab profile timm:mobilenetv3_large_100 --trace
    """
    from evitlab.options import make_settings, parse_image_size
    from evitlab.settings import OperatorsSettings

    size, (process, options) = parse_image_size(image_size), _read_conditions(conditions, batch_size)
    settings = make_settings(OperatorsSettings, options)
    settings = replace(settings, batch_size=1, repeats=2) if smoke else settings
    with open_desk("profile", [model], process, results, device=device, seed=seed, smoke=smoke) as desk:
        from evitlab.desk import bench as lab

        loaded = _load(model, knobs, size, seed)
        precision = settings.execution.precision
        peaks = lab.find_peaks(results, desk.environment, precision, on_progress=desk.on_progress)
        record = lab.profile(desk, loaded, settings, peaks)
        traced = lab.write_trace(desk, loaded, settings) if trace else None
    report([record], desk, as_json=as_json)
    if traced is not None:
        Console(stderr=True).print(f"trace of one pass: {traced}", highlight=False, soft_wrap=True)


def _choose_measurement(models: list[str] | None, *, batch_curve: bool, self_test: bool, protocol: str) -> str:
    """What `bench` is asked for, where the options fit one another."""
    from evitlab.problems import UserError

    if batch_curve and self_test:
        raise UserError("--batch-curve and --self-test are two measurements: ask for one at a time")
    if (batch_curve or self_test) and protocol == "cream":
        raise UserError("--protocol cream is a way to time models: it has neither a batch curve nor a self-test")
    if not models and not self_test:
        raise UserError("bench needs at least one model, such as deit_t: " + MODEL_HELP)
    if self_test and models and len(models) > 1:
        raise UserError(f"--self-test times one model under two names, but got {', '.join(models)}")
    return "batch_curve" if batch_curve else "self_test" if self_test else "bench"


def _read_conditions(conditions: list[str] | None, batch_size: int | None) -> "tuple[ProcessOptions, dict[str, Any]]":
    """What the user set: for the whole process, and for the task."""
    from evitlab.options import parse_pairs, take_process_options

    options = parse_pairs(conditions or [], option="--with")
    process = take_process_options(options)
    return process, options if batch_size is None else {**options, "batch_size": batch_size}


def _read_bench(
    command: str, conditions: list[str] | None, batch_size: int | None, *, protocol: str, device: str, smoke: bool
) -> "tuple[ProcessOptions, ThroughputSettings]":
    """What the user set on top of the protocol's own."""
    from evitlab.options import make_settings
    from evitlab.problems import UserError
    from evitlab.settings import ThroughputSettings, cream_settings

    process, options = _read_conditions(conditions, batch_size)
    if protocol == "cream":
        if options or process.threads is not None:
            raise UserError("protocol cream sets its own conditions: leave --with and --batch-size out")
        settings = cream_settings(device)
        process = replace(process, threads=1 if device == "cpu" else None)
    else:
        limits = {"max_rounds": BENCH_ROUNDS} | ({"time_limit_s": SELF_TEST_SECONDS} if command == "self_test" else {})
        settings = make_settings(ThroughputSettings, {**limits, **options})
    few: dict[str, Any] = {"protocol": "evitlab", "batch_size": 1, "min_rounds": 2, "max_rounds": 2}
    return process, replace(settings, **few) if smoke else settings


def _measure(command: str, desk: "Desk", models: "list[NamedModel]", settings: "ThroughputSettings") -> "list[Record]":
    from evitlab.desk import bench as lab

    if command == "bench":
        return lab.bench(desk, models, settings)
    if command == "batch_curve":
        return lab.measure_curves(desk, models, settings, largest=2 if desk.smoke else LARGEST_BATCH)
    return [lab.check_intervals(desk, models[0], settings, runs=2 if desk.smoke else SELF_TEST_RUNS)]


def _load(name: str, knobs: list[str] | None, size: tuple[int, int] | None, seed: int) -> "NamedModel":
    from evitlab.models.named import load_named
    from evitlab.options import parse_pairs

    return load_named(name, knobs=parse_pairs(knobs or [], option="--set"), image_size=size, seed=seed)
