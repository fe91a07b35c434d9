import errno
import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from fake_records import fail, make_macs, make_record, make_study, make_throughput, make_training

from evitlab import store
from evitlab.measurements.speed import Throughput
from evitlab.records import SCHEMA
from evitlab.store import StoreError

RECORD = make_record("macs", make_macs())

needs_dev_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full: a disk that is always full")


def write_lines(folder: Path, *lines: str | bytes) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "records.jsonl"
    path.write_bytes(b"".join(line.encode() if isinstance(line, str) else line for line in lines))
    return path


def changed(**changes: object) -> str:
    return json.dumps(json.loads(RECORD.to_json()) | changes) + "\n"


def in_fresh_process(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    tests = Path(__file__).parent
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tests.parent,
        env=os.environ | {"PYTHONPATH": f"{tests.parent}{os.pathsep}{tests}"},
        check=False,
    )


# What is appended comes back


def test_records_come_back_equal_and_in_order(tmp_path):
    for record in make_study():
        store.append(record, tmp_path / "new" / "folder")
    lines = (tmp_path / "new" / "folder" / "records.jsonl").read_text().splitlines()
    assert [json.loads(line)["variant"] for line in lines] == [record.variant for record in make_study()]
    back = store.read_records(tmp_path / "new" / "folder")
    assert [record.to_json() for record in back] == [record.to_json() for record in make_study()]


def test_a_missing_file_means_no_records(tmp_path):
    assert store.read_records(tmp_path / "none") == []
    assert store.load_records(tmp_path / "none").empty
    assert "task" in store.load_records(tmp_path / "none").columns
    assert store.repair(tmp_path / "none") is False
    assert not (tmp_path / "none").exists()


def test_measured_is_the_task_s_dataclass(tmp_path):
    store.append(RECORD, tmp_path)
    assert store.measured(store.read_records(tmp_path)[0]) == make_macs()
    assert isinstance(store.measured(make_record("throughput", make_throughput())), Throughput)


def test_append_refuses_what_could_not_be_read_back(tmp_path):
    with pytest.raises(StoreError, match="'train': must hold finite numbers and plain data, but got: Out of"):
        store.append(make_record("train", make_training(float("nan"))), tmp_path)
    wrong = replace(RECORD, measurement={**RECORD.measurement, "macs": 1.5})
    with pytest.raises(
        StoreError, match=r"new record of 'mhsa_ratio=0.4', 'macs': measurement\.macs: must be a valid integer"
    ):
        store.append(wrong, tmp_path)
    assert not (tmp_path / "records.jsonl").exists()


def test_two_processes_append_whole_lines(tmp_path):
    code = (
        "import sys; from fake_records import *; from evitlab import store\n"
        "for seed in range(30): store.append(make_record('train', make_training(), seed=seed), sys.argv[1])"
    )
    results = []
    threads = [threading.Thread(target=lambda: results.append(in_fresh_process(code, tmp_path))) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.returncode for result in results] == [0, 0], results
    assert sorted(record.seed for record in store.read_records(tmp_path)) == sorted([*range(30)] * 2)


@pytest.mark.skipif(store.fcntl is None, reason="no flock here")
def test_append_waits_for_the_process_that_holds_the_lock(tmp_path):
    path = write_lines(tmp_path, changed())
    with path.open("ab") as file:
        store.fcntl.flock(file, store.fcntl.LOCK_EX)
        appending = threading.Thread(target=store.append, args=(RECORD, tmp_path))
        appending.start()
        appending.join(0.3)
        assert appending.is_alive()
        assert len(path.read_text().splitlines()) == 1
    appending.join()
    assert len(path.read_text().splitlines()) == 2


# One table


def test_load_gives_a_row_a_record_and_keeps_failures(tmp_path):
    failed = fail(make_record("train", make_training(), variant="mhsa_ratio=1"), "out of memory")
    store.append(make_record("train", make_training(0.5), knobs={"mhsa_ratio": 0.4}), tmp_path / "a")
    store.append(failed, tmp_path / "a")
    store.append(RECORD, tmp_path / "b")
    frame = store.load_records(tmp_path / "a", tmp_path / "b")
    assert list(frame["task"]) == ["train", "train", "macs"]
    assert list(frame["status"]) == ["ok", "failed", "ok"]
    assert frame["train.top1"].tolist()[0] == 0.5
    assert frame["train.top1"].isna().tolist() == [False, True, True]
    assert frame["knobs.mhsa_ratio"].tolist()[0] == 0.4
    assert frame["settings.proxy"].tolist()[0] == {"image_size": 32, "width": 48}
    assert frame["macs.macs"].tolist()[2] == make_macs().macs
    assert set(frame["environment.torch"]) == {"2.13.0"}
    assert not any(column.startswith("measurement") for column in frame.columns)


def test_load_leaves_smoke_out_unless_asked(tmp_path):
    store.append(replace(RECORD, smoke=True), tmp_path)
    store.append(RECORD, tmp_path)
    assert store.load_records(tmp_path)["smoke"].tolist() == [False]
    assert store.load_records(tmp_path, smoke=True)["smoke"].tolist() == [True, False]


# Crashes


def test_a_torn_last_line_is_skipped_with_a_warning_and_left_alone(tmp_path):
    path = write_lines(tmp_path, RECORD.to_json(), "\n", RECORD.to_json()[:100])
    before = path.read_bytes()
    with pytest.warns(UserWarning, match=r"records\.jsonl: line 2: skipped, a crash tore it"):
        assert len(store.read_records(tmp_path)) == 1
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["records.jsonl"]


@pytest.mark.parametrize("torn", [b'{"schema":1,"ke', b'{"variant":"\xc3', b"\x00" * 4096])
def test_append_moves_a_torn_line_aside(tmp_path, torn):
    path = write_lines(tmp_path, RECORD.to_json(), "\n", torn)
    with pytest.warns(UserWarning, match=r"last line was torn by a crash; moved to records\.jsonl\.torn"):
        store.append(replace(RECORD, seed=7), tmp_path)
    assert [record.seed for record in store.read_records(tmp_path)] == [0, 7]
    assert path.read_text().count("\n") == 2
    assert (tmp_path / "records.jsonl.torn").read_bytes() == torn + b"\n"


def test_repair_collects_every_torn_line(tmp_path):
    for torn in (b'{"a":', b'{"b":'):
        with (tmp_path / "records.jsonl").open("ab") as file:
            file.write(torn)
        with pytest.warns(UserWarning, match="torn by a crash"):
            assert store.repair(tmp_path) is True
        assert store.repair(tmp_path) is False
    assert (tmp_path / "records.jsonl").read_bytes() == b""
    assert (tmp_path / "records.jsonl.torn").read_bytes() == b'{"a":\n{"b":\n'


@needs_dev_full
def test_a_torn_line_that_cannot_be_moved_stays(tmp_path):
    path = write_lines(tmp_path, RECORD.to_json(), "\n", '{"torn')
    (tmp_path / "records.jsonl.torn").symlink_to("/dev/full")
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"No space left on device"):
        store.append(RECORD, tmp_path)
    assert path.read_bytes() == before


def test_a_whole_last_line_without_its_newline_is_a_record(tmp_path):
    path = write_lines(tmp_path, RECORD.to_json())
    assert len(store.read_records(tmp_path)) == 1
    store.append(RECORD, tmp_path)
    assert path.read_text() == f"{RECORD.to_json()}\n" * 2


@pytest.mark.parametrize("cut", range(1, len(RECORD.to_json()), 37))
def test_wherever_a_line_is_cut_it_is_torn_and_the_rest_is_read(tmp_path, cut):
    write_lines(tmp_path, RECORD.to_json(), "\n", RECORD.to_json()[:cut])
    with pytest.warns(UserWarning, match="tore it"):
        assert len(store.read_records(tmp_path)) == 1


# Disks


@needs_dev_full
def test_disk_full_names_file_and_reason(tmp_path):
    (tmp_path / "records.jsonl").symlink_to("/dev/full")
    with pytest.raises(StoreError, match=r"records\.jsonl: No space left on device"):
        store.append(RECORD, tmp_path)


def test_a_line_that_does_not_fit_leaves_no_part_of_it(tmp_path):
    store.append(RECORD, tmp_path)
    path = tmp_path / "records.jsonl"
    before = path.read_bytes()
    code = (
        "import resource, sys; from fake_records import *; from evitlab import store\n"
        "limit = int(sys.argv[2]); resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))\n"
        "try: store.append(make_record('macs', make_macs()), sys.argv[1])\n"
        "except store.StoreError as error: print(error)"
    )
    result = in_fresh_process(code, tmp_path, len(before) + 100)  # room for 100 bytes of the next line
    assert "records.jsonl: File too large" in result.stdout, result
    assert path.read_bytes() == before


def test_a_failing_sync_undoes_the_line(tmp_path, monkeypatch):
    store.append(RECORD, tmp_path)
    before = (tmp_path / "records.jsonl").read_bytes()

    def broken(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(StoreError, match="Input/output error"):
        store.append(RECORD, tmp_path)
    assert (tmp_path / "records.jsonl").read_bytes() == before


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "taken").write_text("")
    for action in (lambda folder: store.append(RECORD, folder), store.read_records, store.repair):
        with pytest.raises(StoreError, match=r"taken.*: (File exists|Not a directory)"):
            action(tmp_path / "taken")


def test_a_folder_not_writable_is_named(tmp_path, monkeypatch):
    def forbidden(*_: object, **__: object) -> None:  # the tests may run as root, whom no permission stops
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(tmp_path / "results"))

    monkeypatch.setattr(Path, "mkdir", forbidden)
    with pytest.raises(StoreError, match="results: Permission denied"):
        store.append(RECORD, tmp_path / "results")


# Files that are not ours


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("not json\n", r"line 2: must be one JSON object, but got 'not json'"),
        ("\n", r"line 2: must be one JSON object, but got ''"),
        (b"\xff\n", r"line 2: must be one JSON object, but got"),
        ("[1]\n", r"line 2: the whole: .*, but got \[1\]"),
        (changed(seed="7"), r"line 2: seed: must be a valid integer, but got '7'"),
        (
            changed(status="maybe"),
            r"line 2: status: must be 'ok', 'failed', 'infeasible' or 'stopped', but got 'maybe'",
        ),
        (
            changed(sead=7),
            r"line 2: sead: unknown; did you mean seed\? \(allowed: schema, key, study, request, variant",
        ),
        (
            changed(environment={}),
            r"line 2: environment\.device: required, but missing; environment\.device_n",
        ),
        (changed(task="tails"), r"line 2: task: must be one of macs, throughput, .*, but got 'tails'"),
        (changed(measurement=None), r"line 2: measurement\.the whole: must be a mapping, but got None"),
        (changed(schema=0), rf"line 2: schema: must be {SCHEMA}, but got 0"),
        (changed(schema=1), rf"line 2: schema 1 is older than {SCHEMA}: move the file away and measure again"),
        (changed(schema="x"), rf"line 2: schema: must be {SCHEMA}, but got 'x'"),
        (
            changed(measurement={"macs": "many"}),
            r"line 2: measurement\.macs: must be a valid integer",
        ),
        (
            changed(environment=json.loads(changed())["environment"] | {"gpu": "x"}),
            r"line 2: environment\.gpu: unknown \(allowed: device, device_name",
        ),
        (
            changed(measurement=json.loads(changed())["measurement"] | {"flops": 1}),
            r"line 2: measurement\.flops: unknown.* \(allowed: macs, params",
        ),
    ],
)
def test_a_wrong_line_is_named_and_nothing_is_changed(tmp_path, line, message):
    path = write_lines(tmp_path, changed(), line, changed())
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"records\.jsonl: " + message):
        store.read_records(tmp_path)
    assert path.read_bytes() == before


def test_a_newer_schema_asks_for_an_update(tmp_path):
    path = write_lines(tmp_path, changed(), changed(schema=SCHEMA + 1, unheard_of="field"))
    before = path.read_bytes()
    with pytest.raises(
        StoreError, match=rf"line 2: schema {SCHEMA + 1} is newer than {SCHEMA}: update evitlab to read it"
    ):
        store.read_records(tmp_path)
    assert path.read_bytes() == before


def test_a_long_value_is_shortened_in_the_message(tmp_path):
    write_lines(tmp_path, "x" * 5000 + "\n")
    with pytest.raises(StoreError) as caught:
        store.read_records(tmp_path)
    assert len(str(caught.value)) < len(str(tmp_path)) + 150


# Atomic files


@pytest.mark.parametrize(("content", "expected"), [("grün\n", "grün\n".encode()), (b"\x00\xff", b"\x00\xff")])
def test_write_atomically_replaces_the_file(tmp_path, content, expected):
    target = tmp_path / "sub" / "table.csv"
    store.write_atomically(target, "old")
    store.write_atomically(target, content)
    assert target.read_bytes() == expected
    assert os.listdir(target.parent) == ["table.csv"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_write_atomically_keeps_the_old_file_on_an_error(tmp_path, monkeypatch, step):
    target = tmp_path / "table.csv"
    store.write_atomically(target, "old")

    def broken(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, step, broken)
    with pytest.raises(StoreError, match=r"table\.csv: No space left on device"):
        store.write_atomically(target, "new")
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["table.csv"]


def test_write_atomically_leaves_the_permissions_to_the_umask(tmp_path):
    (tmp_path / "plain").write_text("")
    store.write_atomically(tmp_path / "atomic", "")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


# Import


def test_importing_the_store_loads_neither_torch_nor_pandas():
    code = "import sys, evitlab.store; print(sorted({'torch', 'pandas', 'matplotlib'} & set(sys.modules)))"
    result = in_fresh_process(code)
    assert result.stdout.strip() == "[]", result.stderr


def test_only_an_empty_folder_is_taken_back(tmp_path):
    store.prepare_folder(tmp_path / "empty")
    store.discard_empty(tmp_path / "empty")
    store.discard_empty(tmp_path / "empty")
    assert not (tmp_path / "empty").exists()
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "verdict.txt").touch()
    store.prepare_folder(tmp_path / "used")
    store.discard_empty(tmp_path / "used")
    assert [path.name for path in (tmp_path / "used").iterdir()] == ["verdict.txt"]
    store.prepare_folder(tmp_path / "full")
    (tmp_path / "full" / store.RECORDS).write_bytes(b"{}\n")
    store.discard_empty(tmp_path / "full")
    assert (tmp_path / "full" / store.RECORDS).read_bytes() == b"{}\n"
