"""Trainings beside one another: the same numbers as one after the other, whatever happens to a process."""

import contextlib
import multiprocessing
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest
import torch
from test_runner import PEAKS, TINY, make_lab  # noqa: F401 (a fixture)

from evitlab.environment import describe_environment
from evitlab.lab import Lab, find_missing
from evitlab.problems import UserError
from evitlab.runner import run_variants
from evitlab.side_by_side import choose_at_once
from evitlab.stopping import Stopped
from evitlab.store import read_records
from evitlab.study import Work, load_study

HEAD, _, REST = TINY.partition("tasks:")
STUDY = f"{HEAD}tasks:\n{REST[REST.index('  train:') :].replace('steps: 1,', 'steps: 60,')}"
LONG = STUDY.replace("steps: 60,", "steps: 300,")
"""Long enough to be seen on the way."""


def known_peaks(precision):  # a function of the module, as a lambda can be sent to no process
    return PEAKS


@pytest.fixture
def make_pair(make_lab):  # noqa: F811
    """A lab that trains two at once, each on one of two threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)

    def make(progress=lambda work, share: None, *, text: str = STUDY) -> Lab:
        return replace(make_lab(text, progress), at_once=2, peaks=known_peaks)

    yield make
    torch.set_num_threads(before)
    assert multiprocessing.active_children() == []


def run(lab: Lab) -> dict[tuple[str, int], tuple[float, ...]]:
    """All that each training measured of its network."""
    run_variants(lab, lab.study.variants())
    return read(lab.records)


def read(records) -> dict[tuple[str, int], tuple[float, ...]]:
    fields = ("top1", "loss", "train_top1")
    done = [(r.variant, r.seed, r.measurement) for r in records if r.status == "ok"]
    return {(name, seed): (*(m[f] for f in fields), m["curve"][-1]["train_loss"]) for name, seed, m in done}


def run_one_by_one(lab: Lab):
    """The same trainings in this process, on the one thread that each has beside another."""
    torch.set_num_threads(1)
    found = run(replace(lab, at_once=1, folder=lab.folder / "one_by_one", records=[]))
    torch.set_num_threads(2)
    return found


@pytest.mark.slow
def test_side_by_side_they_come_to_the_same(make_pair):
    heard: list[tuple[Work, float]] = []
    lab = make_pair(lambda work, share: heard.append((work, share)))
    assert run(lab) == run_one_by_one(make_pair())
    assert [(r.variant, r.seed, r.status) for r in lab.records] == [
        ("mhsa_ratio=0.5", 0, "ok"), ("mhsa_ratio=0.5", 1, "ok"), ("mhsa_ratio=1", 0, "ok"), ("mhsa_ratio=1", 1, "ok"),
    ]  # fmt: skip
    assert [(r.measurement["threads"], r.measurement["at_once"]) for r in lab.records] == [(1, 2)] * 4
    assert all(0 < r.measurement["train_seconds"] < r.seconds for r in lab.records)
    assert any(0 < share < 1 for _, share in heard)
    assert [work.seed for work, share in heard if share == 1] == [0, 1, 0, 1]
    before = list(lab.records)
    run_variants(lab, lab.study.variants())
    assert lab.records == before


@pytest.mark.slow
def test_a_training_that_fails_is_recorded_as_it_would_be_alone(make_pair):
    def run_to_nan(lab: Lab) -> list[tuple[str, int, str, str | None]]:
        run_variants(lab, lab.study.variants())
        return [(r.variant, r.seed, r.status, r.error) for r in lab.records]

    text = STUDY.replace("evaluations: 1", "evaluations: 1, learning_rate: 1.0e+30, warmup: 0")
    found = run_to_nan(make_pair(text=text))
    assert {status for _, _, status, _ in found} == {"failed"}
    assert "loss" in str(found[0][3])
    alone = make_pair(text=text)
    assert found == run_to_nan(replace(alone, at_once=1, folder=alone.folder / "alone", records=[]))


@pytest.mark.slow
def test_a_process_that_the_system_ends_costs_no_training(make_pair):
    killed = []

    def kill_one(work: Work, share: float) -> None:
        if 0 < share < 1 and not killed:
            killed.extend(multiprocessing.active_children()[:1])
            killed[0].kill()

    found = run(make_pair(kill_one, text=LONG))
    assert len(killed) == 1
    assert found == run_one_by_one(make_pair(text=LONG))


@pytest.mark.slow
def test_a_training_whose_process_is_ended_again_fails_alone(make_pair):
    def kill_all(work: Work, share: float) -> None:
        if 0 < share < 1 and work.seed == 0 and work.variant == "mhsa_ratio=0.5":
            for child in multiprocessing.active_children():
                child.kill()

    lab = make_pair(kill_all, text=LONG)
    run_variants(lab, lab.study.variants())
    assert [r.status for r in lab.records] == ["failed", "ok", "ok", "ok"]
    assert lab.records[0].error == "RuntimeError: the system ended its process, such as for want of memory"


@pytest.mark.slow
def test_asked_to_stop_it_saves_and_goes_on_from_there(make_pair):
    def stop(work: Work, share: float) -> None:
        if share > 0.3:
            raise Stopped("Ctrl-C")

    lab = make_pair(stop, text=LONG)
    with pytest.raises(Stopped):
        run_variants(lab, lab.study.variants())
    assert [(r.status, r.error) for r in lab.records] == [("failed", "interrupted by Ctrl-C; the next start goes on")]
    assert list((lab.folder / "checkpoints").rglob("*.safetensors"))
    again = make_pair(text=LONG)
    assert len(find_missing(again, again.study.variants())) == 4
    assert run(again) == run_one_by_one(make_pair(text=LONG))


def test_what_pays_is_the_default_and_what_cannot_be_is_refused(tmp_path):
    def load(text: str = TINY, **how):
        path = tmp_path / "tiny.yaml"
        path.write_text(text)
        return load_study(path, **how)

    def choose(study, *, threads: int = 8, device: str = "cpu", shared: bool = False, asked: int | None = None):
        environment = replace(describe_environment("cpu"), threads=threads, device=device)
        return choose_at_once(study, environment, shared=shared, asked=asked)

    study = load()
    assert [choose(study, threads=threads) for threads in (1, 2, 3, 16)] == [1, 2, 3, 4]
    assert choose(study, device="cuda:0") == choose(study, shared=True) == choose(load(smoke=True)) == 1
    assert choose(study, asked=7) == choose(study, shared=True, asked=7) == 7
    with pytest.raises(UserError, match="--trainings must be 1 on a GPU, but got 2"):
        choose(study, device="cuda:0", asked=2)


@pytest.mark.slow
def test_no_process_outlives_a_killed_study(tmp_path):
    study = tmp_path / "tiny.yaml"
    study.write_text(STUDY.replace("steps: 60,", "steps: 5000,"))
    command = [sys.executable, "-m", "evitlab", "run", str(study), "--results", str(tmp_path), "--trainings", "2"]
    process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def list_trainings() -> list[psutil.Process]:
        return [child for child in process.children() if "spawn_main" in " ".join(child.cmdline())]

    trainings = []
    try:
        while len(trainings) < 2:
            assert process.poll() is None
            time.sleep(0.2)
            trainings = list_trainings()
        process.kill()
        process.wait()
        _, alive = psutil.wait_procs(trainings, timeout=60)
        assert alive == []
    finally:
        for left in [process, *trainings]:
            with contextlib.suppress(psutil.NoSuchProcess):
                left.kill()
    assert read_records(tmp_path / "tiny") == []
