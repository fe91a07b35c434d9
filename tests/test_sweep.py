"""Studies on Optuna: every variant once, whatever happens in between."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from test_runner import PEAKS, TINY

from evitlab import runner
from evitlab.environment import describe_environment
from evitlab.lab import Lab, find_missing
from evitlab.store import read_records
from evitlab.study import load_study
from evitlab.sweep.identity import objectives
from evitlab.sweep.run import lock_folder, open_local, open_trials, run_study
from evitlab.sweep.storages import SweepError


@pytest.fixture
def make_lab(tmp_path):
    def make(text: str = TINY):
        path = tmp_path / "tiny.yaml"
        path.write_text(text)
        return Lab(
            study=load_study(path),
            folder=tmp_path / "results",
            environment=describe_environment("cpu"),
            peaks=lambda precision: PEAKS,
            on_progress=lambda work, share: None,
            records=read_records(tmp_path / "results"),
        )

    return make


def trials_of(lab, *states: TrialState) -> list[optuna.trial.FrozenTrial]:
    return open_trials(lab, open_local(lab.folder)).read(*states)


@pytest.mark.slow
def test_a_study_becomes_trials_with_its_knobs_and_results(make_lab):
    lab = make_lab()
    assert run_study(lab)
    trials = trials_of(lab)
    assert [(t.params, t.state) for t in trials] == [
        ({"mhsa_ratio": 0.5}, TrialState.COMPLETE),
        ({"mhsa_ratio": 1}, TrialState.COMPLETE),
    ]
    top1 = [r.measurement["top1"] for r in lab.records if r.task == "train" and r.variant == "mhsa_ratio=1"]
    ratio = [r.measurement["ratio"] for r in lab.records if r.task == "throughput" and r.variant == "mhsa_ratio=1"]
    assert trials[1].values == [sum(top1) / 2, ratio[0]]


def test_a_second_run_adds_nothing(make_lab):
    lab = make_lab()
    run_study(lab)
    again = make_lab()
    assert run_study(again)
    assert len(again.records) == len(lab.records) == len(read_records(lab.folder))
    assert len(trials_of(again)) == 2


@pytest.mark.slow
def test_a_trial_left_running_is_queued_again(make_lab):
    lab = make_lab()
    lab.folder.mkdir()
    open_trials(lab, open_local(lab.folder)).claim(1)  # and the process dies
    open_trials(lab, open_local(lab.folder)).claim(1)
    states = [(t.user_attrs["variant"], t.state) for t in trials_of(lab)]
    assert states == [
        ("mhsa_ratio=0.5", TrialState.FAIL),
        ("mhsa_ratio=1", TrialState.RUNNING),
        ("mhsa_ratio=0.5", TrialState.WAITING),
    ]
    assert run_study(lab)


@pytest.mark.slow
def test_records_and_not_trials_say_what_is_done(make_lab):
    lab = make_lab()
    run_study(lab)
    (lab.folder / "records.jsonl").unlink()
    again = make_lab()
    assert run_study(again)
    assert len(read_records(lab.folder)) == 13
    (lab.folder / "trials.db").unlink()
    third = make_lab()
    assert run_study(third)
    assert len(read_records(lab.folder)) == 13
    assert [t.state for t in trials_of(third)] == [TrialState.COMPLETE] * 2


@pytest.mark.slow
def test_a_failed_variant_fails_its_trial_and_the_study(make_lab, monkeypatch):
    def explode(*_):
        raise FloatingPointError("loss is nan")

    monkeypatch.setitem(runner.TASKS, "train", explode)
    lab = make_lab()
    assert not run_study(lab)
    assert [t.state for t in trials_of(lab)] == [TrialState.FAIL] * 2
    assert {work.task for work in find_missing(lab, lab.study.variants())} == {"train"}
    monkeypatch.undo()
    assert run_study(make_lab())


@pytest.mark.slow
def test_a_task_added_later_measures_that_alone_and_ends_its_trials(make_lab):
    first = make_lab(TINY[: TINY.index("  train:")])
    assert run_study(first)
    lab = make_lab()
    assert run_study(lab)
    assert {record.task for record in lab.records[len(first.records) :]} == {"train"}
    assert [(t.state, len(t.values)) for t in trials_of(lab)] == [(TrialState.COMPLETE, 2)] * 2


@pytest.mark.slow
def test_lists_and_named_variants_become_choices(make_lab):
    lab = make_lab(TINY.replace("grid: {mhsa_ratio: [0.5, 1]}", "variants: {one: {mhsa_ratio: 1}, two: {act: relu}}"))
    run_study(lab)
    assert [t.params for t in trials_of(lab)] == [{"variant": "one"}, {"variant": "two"}]
    text = TINY[: TINY.index("  train:")]
    lists = make_lab(text.replace("{mhsa_ratio: [0.5, 1]}", "{image_size: [[32, 64], 32]}"))
    assert run_study(lists)
    assert [t.params for t in trials_of(lists)] == [{"image_size": "[32, 64]"}, {"image_size": 32}]


@pytest.mark.slow
def test_a_broken_or_full_storage_is_one_message(make_lab, tmp_path):
    lab = make_lab()
    lab.folder.mkdir()
    (lab.folder / "trials.db").write_text("no database, but long enough to be taken for one" * 100)
    with pytest.raises(SweepError, match=r"trials\.db: the trials cannot be kept there: .*not a database"):
        run_study(lab)
    (lab.folder / "trials.db").unlink()
    assert run_study(make_lab())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="limits of file sizes are Unix's")
def test_a_full_disk_is_one_message_and_harms_nothing(tmp_path):
    study = tmp_path / "tiny.yaml"
    study.write_text(TINY)
    command = [sys.executable, "-m", "evitlab", "run", str(study), "--results", str(tmp_path)]
    limited = ["bash", "-c", 'ulimit -f 40; exec "$@"', "bash", *command]  # 40 KiB a file
    result = subprocess.run(limited, capture_output=True, text=True, check=False)
    assert result.returncode == 2, result.stderr
    assert "trials.db" in result.stderr
    assert "Traceback" not in result.stderr
    (tmp_path / "tiny" / "trials.db").unlink()
    assert all(record.status == "ok" for record in read_records(tmp_path / "tiny"))


def test_objectives_follow_the_tasks(make_lab):
    head = TINY[: TINY.index("tasks:")]
    for tasks, expected in [
        ("{macs: {}}", [("macs", "minimize")]),
        ("{operators: {}}", [("memory_bound_share", "minimize")]),
        ("{macs: {}, throughput: {}}", [("speed_ratio", "maximize")]),
    ]:
        assert objectives(make_lab(head + f"tasks: {tasks}\n").study) == expected
    assert objectives(make_lab().study) == [("top1", "maximize"), ("speed_ratio", "maximize")]


@pytest.mark.slow
def test_only_one_run_at_a_time_and_a_dead_one_locks_nothing_out(tmp_path):
    code = f"from evitlab.sweep.run import lock_folder\nfrom pathlib import Path\nimport time\n" \
           f"with lock_folder(Path({str(tmp_path)!r})): print('locked', flush=True); time.sleep(60)"  # fmt: skip
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        match = rf"another run of this study is at work here \(process {holder.pid}\)"
        with pytest.raises(SweepError, match=match), lock_folder(tmp_path):
            pass
        holder.kill()
    with lock_folder(tmp_path):
        assert (tmp_path / "run.lock").read_text() == str(os.getpid())


@pytest.mark.slow
@pytest.mark.parametrize("kills", [3])
def test_killed_at_any_moment_it_goes_on_and_ends_the_same(tmp_path, kills):
    study, results = tmp_path / "tiny.yaml", tmp_path / "results"
    study.write_text(TINY.replace("steps: 1,", "steps: 40,"))
    command = [sys.executable, "-m", "evitlab", "run", str(study), "--results", str(results)]
    for kill in range(kills):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        records = results / "tiny" / "records.jsonl"
        wanted = 2 + 3 * kill
        while process.poll() is None and (not records.exists() or records.read_text().count("\n") < wanted):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    done = [(r.variant, r.task, r.seed) for r in read_records(results / "tiny") if r.status == "ok"]
    assert len(done) == len(set(done)) == 13
    assert (results / "tiny" / "report.html").exists()
    undisturbed = [sys.executable, "-m", "evitlab", "run", str(study), "--results", str(tmp_path / "other")]
    assert subprocess.run(undisturbed, check=False, capture_output=True).returncode == 0
    assert _top1s(results / "tiny") == _top1s(tmp_path / "other" / "tiny")


def _top1s(folder: Path) -> dict[tuple[str, int], float]:
    return {(r.variant, r.seed): r.measurement["top1"] for r in read_records(folder) if r.task == "train"}
