"""What claims still need and what fits a budget, against hand calculation and against all subsets."""

import re
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from fake_claims import RATIOS, lay, spread, train, write
from fake_pruning import make_pruned_record
from fake_records import ENVIRONMENT, fail

from evitlab.agenda import Job, choose_jobs, find_pace, find_share_left, list_jobs
from evitlab.claims import Claim


def claim(name: str, *groups: tuple[str, ...]) -> Claim:
    return Claim(name=name, source="s", short="s", text="t", paper="p", judge="best", judged_by=groups)


def jobs(**minutes: float | None) -> dict[str, Job]:
    return {name: Job(folder=name, command=f"make {name}", minutes=cost) for name, cost in minutes.items()}


def names(chosen: list[Job]) -> list[str]:
    return [job.folder for job in chosen]


CLAIMS = [claim("1", ("real",), ("drawn",)), claim("2", ("real",), ("drawn",)), claim("3", ("pair", "other"))]
COSTS = {"real": 60.0, "drawn": 5.0, "pair": 2.0, "other": 8.0}


@pytest.mark.parametrize(
    ("minutes", "expected"),
    [
        (4, []),  # nothing fits
        (5, ["drawn"]),  # 2 claims in 5 minutes
        (12, ["drawn"]),  # the pair, worth 1.5, needs 10 minutes together
        (15, ["drawn", "pair", "other"]),
        (74, ["drawn", "pair", "other"]),  # real images would gain 2 x 0.5, in 60 minutes
        (75, ["drawn", "pair", "other", "real"]),
    ],
)
def test_by_worth_a_minute_as_far_as_they_fit(minutes, expected):
    assert names(choose_jobs(CLAIMS, jobs(**COSTS), minutes=minutes)) == expected


def test_a_slow_machine_fits_less_and_what_is_there_costs_nothing():
    assert names(choose_jobs(CLAIMS, jobs(**COSTS), minutes=25, pace=2.0)) == ["drawn"]
    there = jobs(**COSTS) | {"pair": Job(folder="pair", command="", minutes=0.0, done=True)}
    assert names(choose_jobs(CLAIMS, there, minutes=13)) == ["drawn", "other"]


def test_what_cannot_be_made_or_has_no_estimate_is_left_out():
    lacking = jobs(**COSTS) | {"drawn": Job(folder="drawn", command="", minutes=5, obstacle="no data")}
    assert names(choose_jobs(CLAIMS, lacking, minutes=15)) == ["pair", "other"]
    assert names(choose_jobs(CLAIMS, jobs(**COSTS) | jobs(drawn=None), minutes=15)) == ["pair", "other"]


@pytest.mark.parametrize("seed", range(5))
def test_of_equally_long_work_no_choice_is_worth_more(seed):
    """Claims with one judge each add up, so that the best of all subsets is known."""
    rng = np.random.default_rng(seed)
    folders = [f"f{number}" for number in range(7)]
    claims = [claim(str(number), (str(rng.choice(folders)),)) for number in range(15)]
    room = int(rng.integers(1, 7))
    chosen = names(choose_jobs(claims, jobs(**dict.fromkeys(folders, 10.0)), minutes=10.0 * room + 5))
    judged = {name: sum(each.judged_by == ((name,),) for each in claims) for name in folders}
    best = max(sum(judged[name] for name in subset) for subset in combinations(folders, room))
    assert sum(judged[name] for name in chosen) == best
    assert len(chosen) <= room


@pytest.mark.parametrize("seed", range(5))
def test_no_budget_is_overdrawn(seed):
    rng = np.random.default_rng(seed)
    folders = [f"f{number}" for number in range(8)]
    groups = [tuple(rng.choice(folders, size=rng.integers(1, 3), replace=False).tolist()) for _ in range(12)]
    claims = [claim(str(number), group, *groups[number : number + 1]) for number, group in enumerate(groups)]
    costs = dict(zip(folders, rng.uniform(1, 30, size=8).tolist(), strict=True))
    chosen = names(choose_jobs(claims, jobs(**costs), minutes=40.0))
    assert sum(costs[name] for name in chosen) <= 40.0
    assert len(set(chosen)) == len(chosen)


@pytest.fixture
def measured(tmp_path):
    """A study of 21 trainings, and their records."""
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "one.yaml").write_text(RATIOS + "minutes: 21\n")
    study = lay(tmp_path / "results", "one", RATIOS)
    return tmp_path, study, train(study, spread(0.2, 0.7, 0.6, 0.5, 0.4, 0.3, 0.1))


def list_one(folder, **changes) -> Job:
    places = {"results": folder / "results", "studies": folder / "studies"}
    return list_jobs(["one"], **places, **changes)["one"]


def test_what_is_left_of_a_study_is_counted_by_its_trainings(measured):
    folder, study, records = measured
    assert find_share_left(study, records, ENVIRONMENT.conditions) == 0
    lost = [fail(record, "no memory") for record in records[:4]]
    write(folder / "results", "one", [*lost, *records[7:]])
    job = list_one(folder)
    assert (job.done, job.obstacle) == (False, "")
    assert job.minutes == pytest.approx(7)
    assert job.command == f"evitlab run {folder}/studies/one.yaml"
    assert list_one(folder, smoke=True).minutes == 21  # these records are none of a smoke run


def test_what_another_machine_has_wholly_measured_is_done_but_not_what_it_has_begun(measured):
    folder, _, records = measured
    here = {**ENVIRONMENT.conditions, "machine": "ffffffff"}
    write(folder / "results", "one", records)
    assert list_one(folder, conditions=here).done
    write(folder / "results", "one", records[:-1])
    assert list_one(folder, conditions=here).minutes == 21  # all of it again: a table mixes no machines
    assert list_one(folder, conditions=ENVIRONMENT.conditions).minutes == pytest.approx(1)


def test_a_study_that_has_not_begun_one_without_a_file_and_one_of_other_data(measured):
    folder, _, _ = measured
    write(folder / "results", "one", [])
    assert list_one(folder).minutes == 21
    real = RATIOS.replace("seeds", "data: tiny-imagenet, seeds")
    (folder / "studies" / "one.yaml").write_text(real)
    job = list_one(folder)
    assert (job.minutes, job.obstacle) == (None, "needs --data-root: it trains on tiny-imagenet")
    assert job.command.endswith("one.yaml --data-root DIR")
    assert list_one(folder, data_root="/data").obstacle == ""
    (folder / "results" / "one" / "records.jsonl").write_text("broken\n{}\n")
    assert re.fullmatch("cannot be read: .*line 1: must be one JSON object.*", list_one(folder).obstacle)
    write(folder / "results", "one", [])
    (folder / "studies" / "one.yaml").unlink()
    assert list_one(folder).obstacle == f"there is no {folder}/studies/one.yaml"


def test_a_pruning_is_done_once_it_has_succeeded(tmp_path):
    places = {"results": tmp_path, "studies": tmp_path}
    pruned = make_pruned_record(model="swin_t")
    for records, done in (([], False), ([fail(pruned, "no")], False), ([pruned], True)):
        write(tmp_path, "prune_swin_t", records)
        job = list_jobs(["prune_swin_t"], **places)["prune_swin_t"]
        assert (job.done, job.command, job.minutes) == (done, "evitlab prune swin_t", 2)
    by_hand = list_jobs(["tiny_imagenet_prune_swin_t"], **places)["tiny_imagenet_prune_swin_t"]
    assert (by_hand.done, by_hand.obstacle) == (False, "made by hand")


def test_the_pace_of_a_machine_is_what_it_took_over_what_was_said(measured):
    folder, _, records = measured
    write(folder / "results", "one", [replace(record, seconds=30.0) for record in records])  # 10.5 minutes, not 21
    known = {"one": list_one(folder)}
    assert find_pace(known, folder / "results", ENVIRONMENT.machine, "cpu") == pytest.approx(0.5)
    assert find_pace(known, folder / "results", "ffffffff", "cpu") == 1.0
