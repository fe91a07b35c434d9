"""Trials claimed by several workers: each variant by one, lost ones again, and the same proposals from one seed."""

import json
from dataclasses import asdict, replace

import pytest
from fake_records import make_macs, make_record
from optuna.trial import TrialState
from test_runner import PEAKS

from evitlab.environment import describe_environment
from evitlab.lab import Lab
from evitlab.store import read_records
from evitlab.study import load_study
from evitlab.sweep import workers
from evitlab.sweep.run import collect, open_trials, run_study
from evitlab.sweep.storages import Storage

HEAD = """
question: q
source: s
expect: e
cost: c
base: {name: deit_t, width: 16, depth: 1, num_heads: 1, image_size: 32, patch_size: 16, num_classes: 4}
tasks: {macs: {}}
"""
GRID = HEAD + "grid: {width: [8, 12, 24]}\n"
SEARCH = (
    HEAD
    + """
search:
  variants: 8
  sampler: random
  knobs: {width: {low: 8, high: 32, step: 4}, ffn_ratio: [1, 2, 4], num_heads: [1, 2]}
"""
)


@pytest.fixture
def make_lab(tmp_path):
    def make(text: str, folder: str = "results") -> Lab:
        path = tmp_path / "tiny.yaml"
        path.write_text(text)
        return Lab(
            study=load_study(path),
            folder=tmp_path / folder,
            environment=describe_environment("cpu"),
            peaks=lambda precision: PEAKS,
            on_progress=lambda work, share: None,
            records=read_records(tmp_path / folder),
        )

    return make


@pytest.fixture
def journal(tmp_path) -> str:
    return str(tmp_path / "shared" / "trials.journal")


def open_worker(lab: Lab, journal: str):
    return open_trials(lab, Storage(journal), alone=False)


def pretend_elsewhere(monkeypatch) -> None:
    """Owners are seen as on another host, where only their beat tells."""
    monkeypatch.setattr(workers, "_host", lambda: None)


def names(claims) -> list[str]:
    return [claim.variant.name for claim in claims]


def test_two_workers_share_the_variants(make_lab, journal):
    first, second = (open_worker(make_lab(GRID), journal) for _ in range(2))
    assert names(first.claim(1)) == ["width=8"]
    assert names(second.claim(1)) == ["width=12"]
    assert names(first.claim(2)) == ["width=24"]
    assert second.claim(1) == []
    assert second.others_at_work()


def propose_all(lab: Lab, storage: str) -> list[tuple[str, str]]:
    """Name and knobs of all that one worker is given, where a network's MACs are its width times its FFN ratio."""
    worker = open_worker(lab, storage)
    found = []
    while claims := worker.claim(1):
        (claim,) = claims
        found.append((claim.variant.name, json.dumps(dict(claim.variant.changes), sort_keys=True)))
        macs = float(claim.variant.changes["width"] * claim.variant.changes["ffn_ratio"])
        worker.finish(claim, "ok", records=[], values={"macs": macs})
    return found


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_one_seed_and_one_worker_give_the_same_proposals_none_twice(make_lab, tmp_path, sampler):
    text = SEARCH.replace("random", sampler).replace("variants: 8", "variants: 18")
    first, second = (propose_all(make_lab(text), str(tmp_path / name)) for name in ("one", "two"))
    assert first == second
    assert len({knobs for _, knobs in first}) == len({name for name, _ in first}) == len(first) == 18
    seeded = text.replace(f"sampler: {sampler}", f"sampler: {sampler}\n  seed: 1")
    assert propose_all(make_lab(seeded), str(tmp_path / "three")) != first


def test_a_study_that_was_killed_goes_on_with_the_proposals_it_would_have_made(make_lab, tmp_path):
    text = SEARCH.replace("random", "tpe").replace("variants: 8", "variants: 14")
    whole = propose_all(make_lab(text), str(tmp_path / "one"))
    begun = propose_all(make_lab(text.replace("variants: 14", "variants: 6")), str(tmp_path / "two"))
    went_on = propose_all(make_lab(text), str(tmp_path / "two"))
    assert begun + went_on == whole


@pytest.mark.slow
def test_a_search_ends_when_nothing_new_is_left(make_lab):
    text = SEARCH.replace("low: 8, high: 32", "low: 8, high: 12").replace("variants: 8", "variants: 12")
    lab = make_lab(text)
    assert run_study(lab)  # 2 widths, 3 ratios, 2 numbers of heads: every one of them
    assert len({r.variant for r in lab.records}) == 12 + 1


def test_proposals_of_several_workers_differ(make_lab, journal):
    several = [open_worker(make_lab(SEARCH), journal) for _ in range(3)]
    claimed = [name for _ in range(4) for worker in several for name in names(worker.claim(1))]
    assert len(claimed) == len(set(claimed)) == 8


@pytest.mark.slow
def test_what_is_outside_the_limits_is_infeasible_and_another_is_proposed(make_lab):
    lab = make_lab(SEARCH + "limits: {macs: [0.5, 1.5]}\n")
    assert run_study(lab)
    macs = {r.variant: r.measurement["macs"] for r in lab.records if r.status == "ok"}
    outside = {r.variant for r in lab.records if r.status == "infeasible"}
    base = macs.pop("base")
    assert outside == {name for name, count in macs.items() if not 0.5 <= count / base <= 1.5}
    assert outside
    assert len(macs) - len(outside) == 8
    again = make_lab(SEARCH + "limits: {macs: [0.5, 1.5]}\n")
    assert run_study(again)
    assert len(again.records) == len(lab.records)


def test_knobs_that_make_no_network_are_infeasible_and_harm_nothing(make_lab):
    text = HEAD + "search: {variants: 3, sampler: random, knobs: {width: [[12], [10]], num_heads: [1, 3]}}\n"
    lab = make_lab(text)
    run_study(lab)
    broken = [r for r in lab.records if r.status == "infeasible"]
    assert all("num_heads must divide width, but got num_heads=3 and width=10" in r.error for r in broken)
    assert [r.config for r in broken] in ([], [{}])
    assert len({r.variant for r in lab.records if r.status == "ok"}) == 3 + 1
    again = make_lab(text)
    assert run_study(again)
    assert len(again.records) == len(lab.records)


def test_a_worker_killed_on_this_host_is_seen_at_once(make_lab, journal, monkeypatch):
    dead, alive = open_worker(make_lab(GRID), journal), open_worker(make_lab(GRID), journal)
    with monkeypatch.context() as patch:
        patch.setattr(
            "evitlab.sweep.trials.describe_worker", lambda **more: workers.describe_worker(**more) | {"pid": 2**22 - 1}
        )
        (lost,) = dead.claim(1)
    assert names(alive.claim(3)) == ["width=12", "width=24", "width=8"]
    dead.finish(lost, "ok", records=[], values={"macs": 1.0})  # it was not dead after all: too late
    assert alive.read()[0].state == TrialState.FAIL


def test_a_silent_worker_elsewhere_is_taken_for_dead_after_a_while(make_lab, journal, monkeypatch):
    pretend_elsewhere(monkeypatch)
    now = [0.0]
    silent, alive = open_worker(make_lab(GRID), journal), open_worker(make_lab(GRID), journal)
    alive._watch = workers.Watch(clock=lambda: now[0])
    monkeypatch.setattr(
        "evitlab.sweep.trials.describe_worker", lambda **more: {"host": None, "pid": id(more), "started": None, **more}
    )
    (claim,) = silent.claim(1)
    alive.claim(2)
    assert alive.claim(1) == []
    now[0] = workers.GRACE_S - 1
    silent.storage.optuna.set_trial_user_attr(claim.trial_id, workers.BEAT, 1)  # it beats once more
    assert alive.claim(1) == []
    now[0] += workers.GRACE_S
    assert alive.claim(1) == []
    now[0] += 2
    assert names(alive.claim(1)) == ["width=8"]


def test_after_three_retries_a_variant_is_recorded_as_failed(make_lab, journal, monkeypatch):
    lab = make_lab(HEAD + "grid: {width: [8]}\n")
    watcher = open_worker(lab, journal)
    monkeypatch.setattr(workers.Watch, "is_dead", lambda *_: True)
    monkeypatch.setattr(
        "evitlab.sweep.trials.describe_worker",
        lambda **more: {"host": "h", "pid": len(more) and 1, "started": 0, **more},
    )
    for _ in range(1 + workers.RETRIES):
        (claim,) = open_worker(lab, journal).claim(1)
        assert claim.variant.name == "width=8"
    assert watcher.claim(1) == []
    (record,) = watcher.published()
    assert (record.variant, record.status) == ("width=8", "failed")
    assert record.error == "WorkerLost: its worker died 4 times, such as by kill -9 or for want of memory"
    assert watcher.any_failed()


def test_what_was_given_back_is_done_by_another_and_is_no_death(make_lab, journal, monkeypatch):
    lab = make_lab(HEAD + "grid: {width: [8]}\n")
    for _ in range(2 * workers.RETRIES):
        worker = open_worker(lab, journal)
        claims = worker.claim(1)
        assert names(claims) == ["width=8"]
        worker.release(claims)
        assert worker.held == set()
    watcher = open_worker(lab, journal)
    monkeypatch.setattr(workers.Watch, "is_dead", lambda *_: True)
    assert {trial.user_attrs["outcome"] for trial in watcher.read()} == {"released"}
    assert names(watcher.claim(1)) == ["width=8"]
    assert names(open_worker(lab, journal).claim(1)) == ["width=8"]  # its first death


def test_who_was_taken_for_dead_publishes_nothing(make_lab, journal, monkeypatch):
    slow, other = (open_worker(make_lab(GRID), journal) for _ in range(2))
    (late,) = slow.claim(1)
    monkeypatch.setattr(workers.Watch, "is_dead", lambda *_: True)
    again = [claim for claim in other.claim(3) if claim.variant == late.variant]
    slow.finish(late, "ok", records=[make_record("macs", make_macs(1))], values={"macs": 1.0})
    assert slow.held == set()
    assert other.published() == []
    other.finish(again[0], "ok", records=[make_record("macs", make_macs(2))], values={"macs": 2.0})
    assert [record.measurement["macs"] for record in other.published()] == [12_000_000]
    ended = [trial for trial in other.read() if trial.user_attrs["variant"] == late.variant.name]
    assert [(trial.state, trial.user_attrs["outcome"]) for trial in ended] == [
        (TrialState.FAIL, "lost"),
        (TrialState.COMPLETE, "ok"),
    ]


def test_every_machine_collects_the_same_and_speeds_stay_apart(make_lab, journal, tmp_path):
    here = make_lab(GRID, "here")
    elsewhere = make_lab(GRID, "there")
    elsewhere = replace(elsewhere, environment=replace(elsewhere.environment, machine="00000000"))
    worker = open_worker(elsewhere, journal)
    assert run_study(here, storage=journal)
    assert worker.claim(1) == []  # all done by the other machine: it need not be done here
    first = collect(here.study, tmp_path / "a", storage=journal)
    second = collect(elsewhere.study, tmp_path / "b", storage=journal)
    assert first == second
    assert (tmp_path / "a" / "records.jsonl").read_bytes() == (tmp_path / "b" / "records.jsonl").read_bytes()
    assert {r.variant for r in first} == {"base", "width=8", "width=12", "width=24"}
    assert {r.environment.machine for r in first} == {here.environment.machine}
    assert asdict(first[0].environment) == asdict(here.environment)
