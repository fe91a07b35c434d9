"""What the engine costs for each variant, beside the work: python tests/benchmarks/engine_overhead.py

Claims and ends trials of a grid of 200 variants whose work takes no time, in a SQLite file, in a journal and in
PostgreSQL (where it is installed), then those of a search of 200 by each sampler in a SQLite file, and prints
milliseconds a variant.
"""

import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import optuna
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from postgres import start_postgres
from test_faults import GRID
from test_trials import SEARCH

from evitlab.environment import describe_environment
from evitlab.study import load_study
from evitlab.sweep.storages import Storage
from evitlab.sweep.trials import Trials


def measure(study_path: Path, storage: str, *, alone: bool) -> str:
    """Milliseconds a variant, and those that this process computed: the rest waits for disk, server or cores."""
    study = load_study(study_path)
    environment = asdict(describe_environment())
    trials = Trials(study, Storage(storage), alone=alone, environment=environment, is_missing=lambda _: False)
    begin, computed, count = time.perf_counter(), time.process_time(), 0
    while claims := trials.claim(7 if alone else 1):
        for claim in claims:
            trials.finish(claim, "ok", records=[], values={"macs": 1.0})
        count += len(claims)
    took, computed = time.perf_counter() - begin, time.process_time() - computed
    return f"{1e3 * took / count:.1f} ms a variant, {1e3 * computed / count:.1f} computed"


def main() -> None:
    """Print a line a storage."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        study = Path(folder) / "grid.yaml"
        study.write_text(GRID)
        storages = {"SQLite, alone": f"sqlite:///{folder}/trials.db", "journal": f"{folder}/journal"}
        try:
            storages["PostgreSQL, loopback"] = stack.enter_context(start_postgres()).url
        except pytest.skip.Exception as reason:
            print(reason)
        for name, storage in storages.items():
            print(f"{name}: {measure(study, storage, alone='alone' in name)}", flush=True)
        for sampler in ("random", "tpe", "nsga2"):
            wide = SEARCH.replace("high: 32, step: 4", "high: 400, step: 4").replace("variants: 8", "variants: 200")
            study.write_text(wide.replace("sampler: random", f"sampler: {sampler}"))
            took = measure(study, f"sqlite:///{folder}/{sampler}.db", alone=True)
            print(f"SQLite, alone, a search by {sampler}: {took}", flush=True)


if __name__ == "__main__":
    main()
