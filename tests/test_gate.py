"""The gate before training: limits at their very ends, what is not trained, and what others dominate."""

from dataclasses import replace

import pytest
from fake_records import make_macs, make_record, make_throughput, make_training
from test_runner import PEAKS

from evitlab import runner
from evitlab.environment import describe_environment
from evitlab.lab import Lab, find_missing
from evitlab.measurements.accuracy import Epoch
from evitlab.runner import run_variants
from evitlab.store import read_records
from evitlab.study import load_study
from evitlab.sweep.domination import Rival
from evitlab.sweep.gate import find_outside, is_unmeasured, make_judge
from evitlab.sweep.search import StopSettings
from evitlab.tasks import GivenUpError

STUDY = """
question: q
source: s
expect: e
cost: c
base: {name: deit_t, width: 16, depth: 1, num_heads: 1, image_size: 32, patch_size: 16, num_classes: 4}
variants: {one: {width: 24}, two: {width: 20}}
limits: {throughput: [0.5, 2], macs: [0.25, 4]}
tasks:
  macs: {}
  throughput: {batch_size: 1}
  train: {train_images: 32, val_images: 32, seeds: [0, 1], recipe: {steps: 4, batch_size: 8, evaluations: 2}}
"""


@pytest.fixture
def make_lab(tmp_path):
    def make(text: str = STUDY) -> Lab:
        path = tmp_path / "gate.yaml"
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


def finding(ratio: float | None, macs: int | None, base: int | None = 1000):
    """Measurements of a variant and of the base."""
    counts = {"one": macs, "base": base}

    def find(variant, task):
        if task == "throughput":
            return None if ratio is None else make_record("throughput", make_throughput(ratio=ratio))
        count = counts[variant.name]
        return None if count is None else make_record("macs", replace(make_macs(), macs=count))

    return find


@pytest.mark.parametrize(
    ("ratio", "macs", "reason"),
    [
        (0.5, 250, None),
        (2.0, 4000, None),
        (0.4999, 1000, "throughput 0.5 of the reference's, outside 0.5 to 2"),
        (2.0001, 1000, "throughput 2 of the reference's, outside 0.5 to 2"),
        (1.0, 249, "macs 0.249 of the reference's, outside 0.25 to 4"),
        (1.0, 4001, "macs 4 of the reference's, outside 0.25 to 4"),
        (9.0, 9000, "macs 9 of the reference's, outside 0.25 to 4"),
    ],
)
def test_both_ends_lie_inside_and_the_next_number_does_not(make_lab, ratio, macs, reason):
    study = make_lab().study
    one = study.variants()[0]
    assert find_outside(study, one, finding(ratio, macs)) == reason
    assert not is_unmeasured(study, one, finding(ratio, macs))


def test_what_is_not_measured_is_neither_outside_nor_let_through(make_lab):
    study = make_lab().study
    one = study.variants()[0]
    for find in (finding(None, 1000), finding(1.0, None), finding(1.0, 1000, base=None)):
        assert find_outside(study, one, find) is None
        assert is_unmeasured(study, one, find)
    assert not is_unmeasured(study, study.base, finding(None, None, None))
    assert find_outside(study, study.base, finding(9.0, 9000)) is None  # a reference has no limits
    free = make_lab(STUDY.replace("limits: {throughput: [0.5, 2], macs: [0.25, 4]}\n", "")).study
    assert find_outside(free, one, finding(9.0, 9000)) is None
    assert not is_unmeasured(free, one, finding(None, None, None))


@pytest.fixture
def speeds(monkeypatch):
    """Ratios that a timing is made to find, by variant; trainings are noted and take no time."""
    ratios, trained = {"one": 1.0, "two": 1.0}, []

    def measure(models, **settings):
        found = {name: make_throughput(ratio=ratios.get(name)) for name in models}
        if None in [ratios[name] for name in models if name != "base"]:
            raise RuntimeError("cannot be timed")
        return found

    def train(config, settings, seed, machine, share):
        trained.append((config.stages[0].width, seed))
        return make_training()

    monkeypatch.setattr(runner, "measure_throughput", measure)
    monkeypatch.setitem(runner.TASKS, "train", train)
    return ratios, trained


def test_what_is_too_slow_is_recorded_and_never_trained(make_lab, speeds):
    ratios, trained = speeds
    ratios["one"] = 0.4
    lab = make_lab()
    run_variants(lab, lab.study.rows())
    assert trained == [(20, 0), (20, 1)]
    (refused,) = [record for record in lab.records if record.status == "infeasible"]
    assert (refused.variant, refused.task) == ("one", "train")
    assert refused.error == "throughput 0.4 of the reference's, outside 0.5 to 2"
    assert refused.measurement is None
    assert find_missing(lab, lab.study.rows()) == []
    again = make_lab()
    run_variants(again, again.study.rows())
    assert len(again.records) == len(lab.records)


def test_what_is_too_large_is_not_even_timed(make_lab, speeds):
    lab = make_lab(STUDY.replace("macs: [0.25, 4]", "macs: [0.25, 1.5]"))
    run_variants(lab, lab.study.rows())
    assert [r.task for r in lab.records if r.variant == "one" and r.status == "ok"] == ["macs"]
    assert [r.task for r in lab.records if r.variant == "one" and r.status == "infeasible"] == ["train"]


def test_what_cannot_be_timed_is_not_trained_until_it_can(make_lab, speeds):
    ratios, trained = speeds
    ratios["one"] = None
    lab = make_lab()
    run_variants(lab, lab.study.rows())
    assert trained == [(20, 0), (20, 1)]
    assert {(work.variant, work.task) for work in find_missing(lab, lab.study.rows())} == {
        ("one", "throughput"), ("one", "train"),
    }  # fmt: skip
    ratios["one"] = 1.0
    again = make_lab()
    run_variants(again, again.study.rows())
    assert trained[2:] == [(24, 0), (24, 1)]


def test_a_training_that_was_stopped_spares_the_other_seeds(make_lab, speeds, monkeypatch):
    seeds = []

    def give_up(config, settings, seed, machine, share):
        seeds.append((config.stages[0].width, seed))
        raise GivenUpError("hopeless", make_training(0.1))

    monkeypatch.setitem(runner.TASKS, "train", give_up)
    lab = make_lab(STUDY + "stop: {margin: 0.1, after: 0.5}\n")
    run_variants(lab, lab.study.rows())
    assert seeds == [(24, 0), (20, 0)]
    assert [r.status for r in lab.records if r.task == "train"] == ["stopped"] * 2
    assert find_missing(lab, lab.study.rows()) == []


def test_a_real_training_is_stopped_by_what_another_worker_published(make_lab, monkeypatch):
    monkeypatch.setattr(
        runner, "measure_throughput", lambda models, **_: {name: make_throughput(ratio=1.0) for name in models}
    )
    lab = make_lab(STUDY.replace("two: {width: 20}", "two: {width: 24}") + "stop: {margin: 0.1, after: 0.5}\n")
    best = replace(make_training(0.99), curve=(Epoch(step=2, train_loss=0.1, top1=2.0),))
    asked = {task: lab.study.request(lab.study.variants()[1], task) for task in ("throughput", "train")}
    lab.others.append(make_record("throughput", make_throughput(ratio=1.0), variant="two", request=asked["throughput"]))
    lab.others.append(make_record("train", best, variant="two", request=asked["train"]))
    run_variants(lab, [lab.study.base, lab.study.variants()[0]])
    (stopped,) = [record for record in lab.records if record.status == "stopped"]
    assert stopped.measurement["curve"][-1]["step"] == 2
    assert "of 4 accuracy was" in stopped.error
    assert stopped.error.endswith("that of two 2.000 at 1")


def test_without_a_rule_or_a_speed_nothing_is_stopped():
    rule = StopSettings(margin=0.1, after=0.5)
    rival = Rival(variant="best", ratio=2.0, curve={5: 0.9}, top1=0.9)
    epoch = Epoch(step=5, train_loss=1.0, top1=0.1)
    assert make_judge(rule, [rival], None)(epoch, 10) is None
    assert make_judge(rule, [], 1.0)(epoch, 10) is None
    assert make_judge(rule, [rival], 1.0)(epoch, 10) == (
        "at step 5 of 10 accuracy was 0.100 at 1 of the reference's speed, that of best 0.900 at 2"
    )
