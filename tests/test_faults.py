"""Many workers on one study: killed at random, the database restarted, and every variant ends exactly once."""

import os
import random
import subprocess
import sys
import time
from collections import Counter
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import pandas as pd
import pytest
from postgres import PASSWORD, QUOTED, start_postgres

from evitlab.cli import main
from evitlab.store import read_records

GRID = """
question: q
source: s
expect: e
cost: c
base: {name: deit_t, width: 16, depth: 1, num_heads: 1, image_size: 32, patch_size: 16, num_classes: 4}
grid:
  width: [8, 10, 12, 14, 16, 18, 20, 22, 24, 26]
  ffn_ratio: [1, 2, 3, 4]
  qk_dim: [2, 4, 6, 8, 10]
tasks:
  macs: {}
"""
START = get_context("forkserver")
START.set_forkserver_preload(["evitlab.sweep.run", "evitlab.desk.bench", "evitlab.report.study_report", "test_faults"])
VARIANTS = 200
WORKERS = 8
KILLS = 8


def work(study: str, storage: str, results: str) -> None:
    """The command, in a process of its own."""
    with open(Path(results) / "output.txt", "ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    os.environ["EVITLAB_STORAGE"] = storage
    sys.argv = ["evitlab", "run", study, "--results", results]
    sys.exit(main())


def start_worker(study: Path, storage: str, results: Path) -> BaseProcess:
    """A worker forked from a process that has loaded everything, as torch takes seconds."""
    results.mkdir(parents=True, exist_ok=True)
    worker = START.Process(target=work, args=(str(study), storage, str(results)))
    worker.start()
    return worker


def count_done(*results: Path) -> int:
    files = [each / "grid" / "records.jsonl" for each in results]
    return sum(file.read_bytes().count(b"\n") for file in files if file.exists())


def wait_until(done, *, workers, seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, [worker.exitcode for worker in workers]
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.alone
def test_killed_workers_and_a_restarted_database_lose_nothing_and_double_nothing(tmp_path):
    study = tmp_path / "grid.yaml"
    study.write_text(GRID)
    draw = random.Random(0)
    shared, other = tmp_path / "shared", tmp_path / "other"
    with start_postgres() as server:
        homes = [shared if number % 2 else other for number in range(WORKERS)]
        workers = [start_worker(study, server.url, home) for home in homes]
        for kill in range(KILLS):  # spread over the study
            wanted = 10 + kill * 20
            wait_until(lambda: count_done(shared, other) >= wanted, workers=workers)  # noqa: B023
            victim = draw.randrange(WORKERS)
            workers[victim].kill()
            workers[victim].join()
            workers[victim] = start_worker(study, server.url, homes[victim])
            if kill == KILLS // 2:
                server.restart()
        for worker in workers:
            worker.join(timeout=600)
        codes = [worker.exitcode for worker in workers]
        said = [(home / "output.txt").read_text() for home in (shared, other)]
        assert codes == [0] * WORKERS, [line for text in said for line in text.splitlines() if "rror" in line]
        environment = os.environ | {"EVITLAB_STORAGE": server.url}
        for name in ("first", "second"):
            command = [sys.executable, "-m", "evitlab", "collect", str(study), "--results", str(tmp_path / name)]
            assert subprocess.run(command, check=False, env=environment).returncode == 0
    lines = (tmp_path / "first" / "grid" / "records.jsonl").read_bytes()
    assert lines == (tmp_path / "second" / "grid" / "records.jsonl").read_bytes()
    ended = Counter(r.variant for r in read_records(tmp_path / "first" / "grid") if r.variant != "base")
    assert len(ended) == VARIANTS
    assert set(ended.values()) == {1}
    alone = [sys.executable, "-m", "evitlab", "run", str(study), "--results", str(tmp_path / "alone")]
    assert subprocess.run(alone, check=False, capture_output=True).returncode == 0
    tables = [pd.read_csv(tmp_path / name / "grid" / "table.csv") for name in ("first", "alone")]
    pd.testing.assert_frame_equal(*tables)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert PASSWORD.encode() not in data, path
            assert QUOTED.encode() not in data, path
