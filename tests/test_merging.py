"""The records of several machines put into one folder, and their speeds beside one another."""

from dataclasses import replace

import pytest
from fake_records import ENVIRONMENT, fail, make_macs, make_record, make_throughput, make_training

from evitlab import store
from evitlab.records import Record
from evitlab.report.search.tables import split_by_machine
from evitlab.study import load_study

OTHER = replace(ENVIRONMENT, machine="99999999", device_name="Other CPU")


def fill(folder, records: list[Record]) -> bytes:
    for record in records:
        store.append(record, folder)
    return (folder / "records.jsonl").read_bytes() if records else b""


def lines(records: list[Record]) -> bytes:
    return "".join(f"{record.to_json()}\n" for record in records).encode()


PUBLISHED = [make_record("macs", make_macs()), make_record("train", make_training(), environment=OTHER)]
TAKEN_OVER = fail(make_record("train", None), "interrupted by Ctrl-C; the next start goes on")
ANOTHER_SEED = make_record("train", make_training(0.5), seed=7)
ANOTHER_STUDY = make_record("macs", make_macs(100), request="asked otherwise")


@pytest.mark.parametrize("before", [[], PUBLISHED[:1], PUBLISHED[::-1], [TAKEN_OVER], [*PUBLISHED, TAKEN_OVER]])
def test_the_same_comes_out_whatever_attempts_a_machine_made(tmp_path, before):
    fill(tmp_path, before)
    for _ in range(2):
        assert store.merge(PUBLISHED, tmp_path) == PUBLISHED
        assert (tmp_path / "records.jsonl").read_bytes() == lines(PUBLISHED)
    replaced = tmp_path / "records.jsonl.replaced"
    assert (replaced.read_bytes() if replaced.exists() else b"") == lines([TAKEN_OVER] if TAKEN_OVER in before else [])


def test_work_that_nobody_published_stays(tmp_path):
    fill(tmp_path, [ANOTHER_SEED, TAKEN_OVER, ANOTHER_STUDY])
    merged = [*PUBLISHED, ANOTHER_SEED, ANOTHER_STUDY]
    assert lines(store.merge(PUBLISHED, tmp_path)) == lines(merged)
    assert (tmp_path / "records.jsonl").read_bytes() == lines(merged)


STUDY = """
question: q
source: s
expect: e
cost: c
base: deit_t
grid: {mhsa_ratio: [0.2, 0.4]}
tasks: {macs: {}, throughput: {}}
"""


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "two.yaml"
    path.write_text(STUDY)
    return load_study(path)


def time_on(study, environment, speeds: dict[str, float]) -> list[Record]:
    rows = {row.name: row for row in study.rows()}
    return [
        make_record(
            "throughput",
            make_throughput(speed, ratio=None if name == "base" else speed / 48),
            variant=name,
            study=study.name,
            request=study.request(rows[name], "throughput"),
            environment=environment,
        )
        for name, speed in speeds.items()
    ]


def test_speeds_of_two_machines_stand_in_columns_of_their_own_and_are_never_averaged(study):
    first = time_on(study, ENVIRONMENT, {"base": 48.0, "mhsa_ratio=0.2": 60.0})
    second = time_on(study, OTHER, {"base": 300.0, "mhsa_ratio=0.2": 400.0, "mhsa_ratio=0.4": 500.0})
    table = split_by_machine(study, [*first, *second])
    assert table is not None
    named = {column.partition(" (")[0] for column in table if column.startswith("infer_samples_per_sec")}
    assert named == {"infer_samples_per_sec"}
    found = table.set_index("variant").filter(like="infer_samples_per_sec")
    assert [column.partition("(")[2].partition(",")[0] for column in found] == ["0a1b2c3d", "99999999"]
    expected = {"base": (48.0, 300.0), "mhsa_ratio=0.2": (60.0, 400.0)}
    for name, (here, there) in expected.items():
        assert tuple(found.loc[name]) == pytest.approx((here, there))
    assert split_by_machine(study, first) is None


def test_what_one_machine_alone_measured_is_not_left_out(study):
    first = time_on(study, ENVIRONMENT, {"base": 48.0, "mhsa_ratio=0.2": 60.0})
    second = time_on(study, OTHER, {"base": 300.0, "mhsa_ratio=0.4": 500.0})
    table = split_by_machine(study, [*first, *second])
    assert table is not None
    found = table.set_index("variant").filter(like="infer_samples_per_sec")
    assert found.loc["mhsa_ratio=0.2"].isna().tolist() == [False, True]
    assert found.loc["mhsa_ratio=0.4"].isna().tolist() == [True, False]
