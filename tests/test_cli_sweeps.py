"""`evitlab run` and `collect` as processes: what fails, who stops them and how, what is left, and how it goes on."""

import errno
import json
import os
import signal
import sys
import time
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from evitlab.cli import main
from evitlab.store import read_records

HEAD = """
question: q
source: s
expect: e
cost: c
base: {name: deit_t, width: 16, depth: 1, num_heads: 1, image_size: 32, patch_size: 16, num_classes: 4}
"""
TRAINED = (
    HEAD
    + """
variants: {fine: {width: 8}, cuda: {width: 12}, memory: {width: 20}, nan: {width: 24}, build: {width: 28}}
tasks:
  macs: {}
  train: {train_images: 32, val_images: 32, seeds: [0], recipe: {steps: 30, batch_size: 8, evaluations: 1}}
"""
)
ONE = TRAINED.replace(", cuda: {width: 12}, memory: {width: 20}, nan: {width: 24}, build: {width: 28}", "")
SEARCH = (
    HEAD
    + """
search: {variants: 12, sampler: tpe, knobs: {width: {low: 8, high: 32, step: 4}, ffn_ratio: [1, 2], qk_dim: [4, 8]}}
tasks: {macs: {}}
"""
)
START = get_context("forkserver")
START.set_forkserver_preload(
    ["evitlab.sweep.run", "evitlab.desk.bench", "evitlab.report.study_report", "test_cli_sweeps"]
)


def break_some() -> None:
    """Each variant of `TRAINED` fails in a way of its own, but one."""
    import torch

    from evitlab import runner, tasks
    from evitlab.train.step import Stepper

    real, build, loss = runner.TASKS["train"], tasks.build_model, Stepper._loss

    def train(config, *more, **others):
        width = config.stages[0].width
        if width == 12:
            raise torch.OutOfMemoryError("CUDA out of memory.\nadvice")
        if width == 20:
            raise MemoryError("too large")
        Stepper._loss = (lambda self, batch: loss(self, batch) * float("nan")) if width == 24 else loss
        return real(config, *more, **others)

    def make(config, **others):
        if config.stages[0].width == 28:
            raise RuntimeError("no such layer")
        return build(config, **others)

    runner.TASKS["train"], tasks.build_model = train, make


def fill_disk() -> None:
    """A training finds no room for its weights."""
    from evitlab import runner

    def train(config, settings, seed, machine, share):
        raise OSError(errno.ENOSPC, "No space left on device", str(machine.weights.folder))

    runner.TASKS["train"] = train


def be_slow() -> None:
    """A training says when it is under way, and takes its time from one step to the next."""
    from evitlab import runner

    real = runner.TASKS["train"]

    def train(config, settings, seed, machine, share):
        def tell(done):
            (machine.weights.folder.parents[2] / "under way").touch()
            time.sleep(0.05)
            share(done)

        return real(config, settings, seed, machine, tell)

    runner.TASKS["train"] = train


def hang() -> None:
    """A training's first step takes for ever."""
    from evitlab import runner

    def train(config, settings, seed, machine, share):
        (machine.weights.folder.parents[2] / "under way").touch()
        time.sleep(600)

    runner.TASKS["train"] = train


FAULTS = {"none": lambda: None, "some": break_some, "disk": fill_disk, "slow": be_slow, "hang": hang}


def call(arguments: list[str], output: str, fault: str, environment: dict[str, str]) -> None:
    with open(output, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(environment)
    sys.argv = ["evitlab", *arguments]
    FAULTS[fault]()
    sys.exit(main())


class Commands:
    """Commands in a folder, each a process forked from one that has loaded everything, as torch takes seconds."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.output = folder / "output.txt"
        self.output.touch()

    def start(self, *arguments: str, fault: str = "none", **environment: str) -> BaseProcess:
        one = ["--trainings", "1"] if arguments[0] == "run" else []  # faults are put into that process alone
        process = START.Process(target=call, args=([*arguments, *one], str(self.output), fault, environment))
        process.start()
        return process

    def run(self, *arguments: str, fault: str = "none", **environment: str) -> tuple[int | None, str]:
        before = len(self.output.read_text())
        process = self.start(*arguments, fault=fault, **environment)
        process.join(300)
        return process.exitcode, self.output.read_text()[before:]

    def study(self, text: str) -> list[str]:
        (self.folder / "tiny.yaml").write_text(text)
        return ["run", str(self.folder / "tiny.yaml"), "--results", str(self.folder / "results")]

    def outcomes(self) -> list[tuple[str, str, str, str]]:
        records = read_records(self.folder / "results" / "tiny")
        return [(r.variant, r.task, r.status, r.error or "") for r in records if r.variant != "base"]


@pytest.fixture
def commands(tmp_path) -> Commands:
    return Commands(tmp_path)


def wait_for(path: Path) -> None:
    end = time.monotonic() + 240
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow
def test_each_failure_is_a_record_the_rest_goes_on_and_the_next_start_mends_it(commands):
    study = commands.study(TRAINED)
    code, _ = commands.run(*study, fault="some")
    assert code == 1
    failed = {name: error for name, task, status, error in commands.outcomes() if (task, status) == ("train", "failed")}
    assert failed.pop("nan").startswith("FloatingPointError: training loss must stay finite, but got nan at step=0")
    assert failed == {
        "cuda": "OutOfMemoryError: CUDA out of memory.",
        "memory": "MemoryError: too large",
        "build": "RuntimeError: no such layer",
    }
    before = len(commands.outcomes())
    assert commands.run(*study)[0] == 0
    again = [(name, task) for name, task, status, _ in commands.outcomes()[before:] if status == "ok"]
    assert sorted(again) == [("build", "macs"), *(((name, "train")) for name in ("build", "cuda", "memory", "nan"))]


@pytest.mark.slow
def test_a_full_disk_stops_the_study_with_2_and_the_next_start_goes_on(commands):
    study = commands.study(TRAINED)
    code, said = commands.run(*study, fault="disk")
    assert code == 2
    assert said.splitlines()[-1].endswith("No space left on device; make room, then go on")
    assert "Traceback" not in said
    (trained,) = [(status, error) for _, task, status, error in commands.outcomes() if task == "train"]
    assert trained[0] == "failed"
    assert trained[1].startswith("OSError: [Errno 28] No space left on device")
    study = commands.study(ONE)
    assert commands.run(*study)[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code", "name"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")])
def test_asked_to_stop_it_ends_the_step_saves_and_goes_on_from_there(commands, number, code, name):
    storage = str(commands.folder / "shared.journal") if number == signal.SIGTERM else None
    study = [*commands.study(ONE), *(["--storage", storage] if storage else [])]
    process = commands.start(*study, fault="slow")
    wait_for(commands.folder / "results" / "tiny" / "under way")
    os.kill(process.pid, number)  # type: ignore[arg-type]
    process.join(60)
    assert process.exitcode == code
    assert "interrupted; what was measured is kept. Go on with: evitlab run " in commands.output.read_text()
    assert commands.outcomes()[-1] == ("fine", "train", "failed", f"interrupted by {name}; the next start goes on")
    checkpoints = commands.folder / "results" / "tiny" / "checkpoints"
    assert list(checkpoints.rglob("*.safetensors"))
    assert commands.run(*study)[0] == 0
    assert commands.outcomes()[-1][1:3] == ("train", "ok")
    assert not list(checkpoints.rglob("*.safetensors"))


def test_asked_twice_it_stops_at_once(commands):
    process = commands.start(*commands.study(ONE), fault="hang")
    wait_for(commands.folder / "results" / "tiny" / "under way")
    os.kill(process.pid, signal.SIGINT)  # type: ignore[arg-type]
    process.join(0.5)
    assert process.exitcode is None  # the step would be let end
    os.kill(process.pid, signal.SIGINT)  # type: ignore[arg-type]
    process.join(60)
    assert process.exitcode == 130
    assert commands.outcomes()[-1][3] == "interrupted by asked twice; the next start goes on"


@pytest.mark.slow
def test_two_workers_search_at_once_and_every_machine_collects_the_same(commands):
    journal = str(commands.folder / "shared" / "trials.journal")
    study = commands.study(SEARCH)
    workers = [
        commands.start(*study[:-1], str(commands.folder / home), EVITLAB_STORAGE=journal, XDG_STATE_HOME=home)
        for home in (str(commands.folder / "one"), str(commands.folder / "two"))
    ]
    for worker in workers:
        worker.join(300)
    assert [worker.exitcode for worker in workers] == [0, 0]
    found = []
    for home in ("one", "two", "fresh"):
        collected = ["collect", study[1], "--results", str(commands.folder / home)]
        assert commands.run(*collected, EVITLAB_STORAGE=journal)[0] == 0
        found.append((commands.folder / home / "tiny" / "records.jsonl").read_bytes())
    assert found[0] == found[1] == found[2]
    own = [json.loads(line) for line in found[0].splitlines()]
    proposed = [(record["variant"], json.dumps(record["knobs"])) for record in own if record["variant"] != "base"]
    assert len(proposed) == len(set(proposed)) == 12
    assert len({knobs for _, knobs in proposed}) == 12


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--storage", "postgresql://lab:wal%2Flaby@127.0.0.1:port/db"], "--storage must be postgresql://..., sqlite"),
        (["--storage", "lab:wal%2Flaby@127.0.0.1/db"], "--storage must begin with postgresql:// where it names a user"),
        (["--storage", "{}/none.journal"], "{}/none.journal: no worker has shared a study there"),
        ([], "--storage must say where the workers share the study, but it is not given"),
    ],
)
def test_a_wrong_storage_is_one_sentence_and_2(commands, arguments, problem):
    study = commands.study(SEARCH)
    arguments = [each.format(commands.folder) for each in arguments]
    code, said = commands.run("collect", *study[1:], *arguments)
    assert code == 2
    assert said.startswith(f"error: {problem.format(commands.folder)}")
    assert said.count("\n") == 1
    assert "laby" not in said


def test_the_address_in_the_environment_is_no_part_of_the_help(commands):
    code, said = commands.run("run", "--help", EVITLAB_STORAGE="postgresql://lab:wal%2Flaby@127.0.0.1/db")
    assert code == 0
    assert "EVITLAB_STORAGE" in said
    assert "laby" not in said
