"""What commands on models measured, as tables: all timings in one, of everything else the latest of each model."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from evitlab.options import name_folder
from evitlab.records import Record
from evitlab.report.evaluation.tables import evaluation_table, render_evaluation
from evitlab.report.heads.tables import block_table, drop_table, matrix_table, render_heads
from evitlab.report.profile_tables import (
    by_class,
    by_module,
    by_operator,
    by_part,
    memory_bound_ways,
    render_profile,
)
from evitlab.report.pruning.claims import render_prunings, tabulate_prunings
from evitlab.report.tables import TableError
from evitlab.report.timing_tables import (
    curve_table,
    render_curve,
    render_self_test,
    render_timing,
    select_latest,
    timing_table,
)
from evitlab.report.training_tables import render_training, training_table
from evitlab.store import measured


def show_models(
    records: Sequence[Record],
    *,
    where: Mapping[str, Any] | None = None,
    mixed: bool = False,
    as_json: bool = False,
    folder: Path | None = None,
) -> None:
    """Print what the records hold: all timings in one table, of everything else the latest of each model.

    `folder` is theirs, where what lies beside it is to be compared.
    """
    chosen = choose_latest(records, where or {})
    if as_json:
        tables = tabulate_models(chosen, mixed=mixed, folder=folder)
        print(json.dumps({name: json.loads(table.to_json(orient="records")) for name, table in tables.items()}))
        return
    console = Console()
    for shown in render_models(chosen, mixed=mixed, folder=folder):
        console.print(shown)


def choose_latest(records: Sequence[Record], where: Mapping[str, Any]) -> list[Record]:
    """What `select_latest` gives of the records made `where` environment or measurement have these fields.

    Raises TableError where none was.
    """
    chosen = [record for record in records if _matches(record, where)]
    if not chosen:
        asked = ", ".join(f"{name}={value}" for name, value in where.items())
        raise TableError(f"no measurement here was made with {asked or 'anything'} (there are {len(records)} in all)")
    return select_latest(chosen)


def _matches(record: Record, where: Mapping[str, Any]) -> bool:
    """Whether a record was made under these conditions: fields of its environment or of its measurement."""
    known = record.measurement or {}
    return all(
        (getattr(record.environment, name) if hasattr(record.environment, name) else known.get(name)) == value
        for name, value in where.items()
    )


def find_measured(records: Sequence[Record], task: str) -> dict[str, Any]:
    """Measurements of a task by model."""
    return {record.variant: measured(record) for record in records if record.task == task}


def select_task(records: Sequence[Record], task: str) -> list[Record]:
    """The records of a task."""
    return [record for record in records if record.task == task]


def tabulate_models(
    records: Sequence[Record], *, mixed: bool = False, folder: Path | None = None
) -> dict[str, pd.DataFrame]:
    """Tables by name, in base units."""
    tables: dict[str, pd.DataFrame] = {}
    if pruned := select_task(records, "prune"):
        tables |= tabulate_prunings(pruned, folder)
    if timings := [record for record in records if record.task == "throughput"]:
        tables["table"] = timing_table(timings, mixed=mixed)
    if trained := [record for record in records if record.task == "train"]:
        tables["training"] = training_table(trained)
    for name, evaluation in find_measured(records, "evaluate").items():
        tables[_join("evaluation", name, records)] = evaluation_table(evaluation)
    for name, curve in find_measured(records, "batch_curve").items():
        tables[_join("batch_curve", name, records)] = curve_table(curve)
    for result in find_measured(records, "self_test").values():
        tables["self_test"] = pd.DataFrame([asdict(run) for run in result.runs])
    for name, result in find_measured(records, "heads").items():
        for table, make in HEAD_TABLES.items():
            tables[_join(table, name, records)] = make(result)
    for profile in find_measured(records, "operators").values():
        tables |= {name: make(profile) for name, make in PROFILE_TABLES.items()}
    return tables


PROFILE_TABLES: dict[str, Callable[..., pd.DataFrame]] = {
    "classes": by_class,
    "parts": by_part,
    "modules": by_module,
    "operators": by_operator,
    "memory_bound": memory_bound_ways,
}


HEAD_TABLES: dict[str, Callable[..., pd.DataFrame]] = {
    "heads": block_table,
    "head_matrices": matrix_table,
    "head_drops": drop_table,
}


def _join(table: str, model: str, records: Sequence[Record]) -> str:
    """The table's name, with the model's where there are several."""
    several = len({record.variant for record in records}) > 1
    return name_folder(table, [model]) if several else table


def render_models(records: Sequence[Record], *, mixed: bool, folder: Path | None = None) -> list[Table]:
    """What a person sees in the terminal."""
    shown = []
    if pruned := select_task(records, "prune"):
        shown += render_prunings(pruned, folder)
    if timings := [record for record in records if record.task == "throughput"]:
        shown.append(render_timing(timing_table(timings, mixed=mixed)))
    if trained := [record for record in records if record.task == "train"]:
        shown.append(render_training(training_table(trained)))
    counted = find_measured(records, "macs")
    for name, evaluation in find_measured(records, "evaluate").items():
        shown.append(render_evaluation(evaluation, title=name, macs=counted.get(name)))
    shown += [
        render_curve(curve, title=f"Batch curve of {name}")
        for name, curve in find_measured(records, "batch_curve").items()
    ]
    shown += [render_self_test(result, title=name) for name, result in find_measured(records, "self_test").items()]
    for name, result in find_measured(records, "heads").items():
        shown += render_heads(result, title=name)
    for name, profile in find_measured(records, "operators").items():
        shown += render_profile(profile, title=name)
    return shown
