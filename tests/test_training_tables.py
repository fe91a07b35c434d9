"""Tables of trainings: a row a seed, what the seeds say together, in the record's own units."""

from dataclasses import replace

import pytest
from fake_records import make_record, make_training
from rich.console import Console
from scipy.stats import t

from evitlab.records import Record
from evitlab.report.training_tables import group_runs, render_training, training_table

TOP1 = (0.41, 0.44, 0.47)


def make_records(request: str = "a") -> list[Record]:
    return [
        replace(make_record("train", make_training(top1), seed=seed), request=request) for seed, top1 in enumerate(TOP1)
    ]


def shown(records: list[Record]) -> str:
    console = Console(width=100)
    with console.capture() as capture:
        console.print(render_training(training_table(records)))
    return capture.get()


def test_a_row_a_training_in_base_units():
    table = training_table(make_records())
    assert list(table["seed"]) == [0, 1, 2]
    assert list(table["top1"]) == list(TOP1)
    assert list(table["weights"]) == ["weights/seed0", "weights/seed1", "weights/seed2"]
    row, result = table.iloc[0], make_training(TOP1[0])
    assert row["train_samples_per_sec"] == pytest.approx(result.images_seen / result.train_seconds)
    assert row["param_count"] == result.params


def test_seeds_of_one_recipe_have_a_mean_with_student_s_interval():
    low, high = t.interval(0.95, 2, loc=0.44, scale=0.03 / 3**0.5)
    text = shown(make_records())
    assert "44.0" in text
    assert f"{100 * low:.1f}-{100 * high:.1f}" in text
    assert "Student t" in text


def test_one_training_has_no_interval():
    text = shown(make_records()[:1])
    assert "mean" not in text
    assert "Student" not in text


def test_another_recipe_is_another_group():
    records = [*make_records("a"), *make_records("b")[:2]]
    groups = group_runs(records)
    name = records[0].variant
    assert {group: len(runs) for group, runs in groups.items()} == {name: 3, f"{name}, recipe 2": 2}
    assert shown(records).count("mean") == 3  # two rows, and the words below
