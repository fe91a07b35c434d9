"""Identity of work: what makes a key another, and what does not."""

from dataclasses import replace

import pytest
from fake_records import make_record, make_throughput

from evitlab.measurements.by_task import MEASUREMENTS
from evitlab.records import RECORD, digest, record_key

RECORDED = make_record("throughput", make_throughput(1.0))
WORK = {
    "config": {"stages": [{"width": 192}], "norm": "layer"},
    "weights": None,
    "task": "throughput",
    "settings": {"batch_size": 8},
    "seed": 0,
    "environment": RECORDED.environment,
    "smoke": False,
}


def test_the_order_of_keys_is_no_difference():
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest([1, 2]) != digest([2, 1])
    assert record_key(**WORK) == record_key(**{**WORK, "config": {"norm": "layer", "stages": [{"width": 192}]}})


@pytest.mark.parametrize(
    "change",
    [
        {"config": {"stages": [{"width": 191}], "norm": "layer"}},
        {"weights": "a" * 16},
        {"task": "operators"},
        {"settings": {"batch_size": 16}},
        {"seed": 1},
        {"smoke": True},
        *({"environment": replace(RECORDED.environment, **{name: "other"})} for name in ("machine", "device", "torch")),
        {"environment": replace(RECORDED.environment, threads=99)},
        {"environment": replace(RECORDED.environment, allocator="other")},
    ],
)
def test_whatever_changes_the_result_changes_the_key(change):
    assert record_key(**WORK) != record_key(**{**WORK, **change})


@pytest.mark.parametrize("name", ["git_commit", "evitlab", "python"])
def test_what_does_not_change_the_result_keeps_the_key(name):
    environment = replace(RECORDED.environment, **{name: "other"})
    assert record_key(**WORK) == record_key(**{**WORK, "environment": environment})


def test_a_record_comes_back_from_its_line():
    line = RECORDED.to_json()
    assert "\n" not in line
    back = RECORD.validate_json(line, strict=True)
    assert back.to_json() == line
    assert set(MEASUREMENTS) == {
        "macs", "throughput", "operators", "match", "train", "peaks", "batch_curve", "self_test", "evaluate",
        "prune", "heads",
    }  # fmt: skip
