"""Cores of one host: a timing is alone, trainings make way between two steps."""

import threading
import time
from contextlib import nullcontext

import pytest
from fake_records import make_throughput
from test_runner import PEAKS, TINY

from evitlab import cores, runner
from evitlab.cores import take_cores, time_alone, train_beside
from evitlab.environment import describe_environment
from evitlab.lab import Lab
from evitlab.study import load_study

pytestmark = pytest.mark.skipif(cores.fcntl is None, reason="this system has no flock")


def test_a_timing_waits_for_a_step_and_the_training_for_the_timing():
    order: list[str] = []
    began = threading.Event()

    def time_something() -> None:
        began.set()
        with time_alone() as alone:
            order.append(f"timing, alone: {alone}")
            time.sleep(0.1)
            order.append("timed")

    timer = threading.Thread(target=time_something)
    with train_beside() as let_pass:
        timer.start()
        began.wait()
        time.sleep(0.1)
        order.append("a step")
        while timer.is_alive():
            let_pass()
        order.append("the next step")
    assert order == ["a step", "timing, alone: True", "timed", "the next step"]


def test_trainings_run_side_by_side_and_a_timing_waits_for_all_of_them(monkeypatch):
    monkeypatch.setattr(cores, "PATIENCE_S", 0.05)
    was_alone = []
    with train_beside() as first:
        with train_beside() as second:
            first()
            second()
            with time_alone() as alone:
                was_alone.append(alone)
        with time_alone() as alone:
            was_alone.append(alone)
    with time_alone() as alone:
        was_alone.append(alone)
    assert was_alone == [False, False, True]


def test_a_training_that_makes_no_way_is_not_waited_for_forever(monkeypatch):
    monkeypatch.setattr(cores, "PATIENCE_S", 0.05)
    with train_beside(), time_alone() as alone:
        assert alone is False


def test_who_is_asked_to_stop_does_not_wait():
    def stop() -> None:
        raise KeyboardInterrupt

    with train_beside(), pytest.raises(KeyboardInterrupt), time_alone(stop):
        pass


def test_a_task_is_alone_or_makes_way_as_it_needs(monkeypatch):
    monkeypatch.setattr(cores, "PATIENCE_S", 0.05)
    seen: list[float] = []

    def look() -> bool | None:
        with time_alone() as alone:
            return alone

    with take_cores("train", seen.append, lambda: None) as share:
        assert look() is False
        timer = threading.Thread(target=lambda: seen.append(look()))
        monkeypatch.setattr(cores, "PATIENCE_S", 60.0)
        timer.start()
        while timer.is_alive():
            share(0.5)
    assert True in seen
    assert 0.5 in seen
    monkeypatch.setattr(cores, "PATIENCE_S", 0.05)
    with take_cores("macs", seen.append, lambda: None) as share:
        assert look() is True
        assert share == seen.append
    inside = threading.Event()

    def train() -> None:
        with train_beside():
            inside.set()

    trainer = threading.Thread(target=train)
    with take_cores("operators", seen.append, lambda: None):
        trainer.start()
        assert not inside.wait(0.2)
    trainer.join()
    assert inside.is_set()


def test_a_record_says_whether_its_timing_was_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(cores, "PATIENCE_S", 0.05)
    monkeypatch.setattr(
        runner, "measure_throughput", lambda models, **_: {name: make_throughput(ratio=1.0) for name in models}
    )
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    said = []
    for folder in ("beside", "alone"):
        lab = Lab(
            study=load_study(path),
            folder=tmp_path / folder,
            environment=describe_environment("cpu"),
            peaks=lambda precision: PEAKS,
            on_progress=lambda work, share: None,
        )
        with train_beside() if folder == "beside" else nullcontext():
            runner._time(lab, [lab.study.base], {"base": lab.study.base.make_config()})
        said.append([record.measurement["alone"] for record in lab.records])
    assert said == [[False], [True]]
