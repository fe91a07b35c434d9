"""Folders of results as one tidy table: a row a variant, what every task found of it, and its conditions.

Rows of different folders stand below each other, whatever machine they come from: their conditions are columns.
Within a folder, rows are there to be compared, so it may not mix machines, versions or protocols unless that is asked
for; then each set of conditions has rows of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from evitlab.problems import suggest
from evitlab.records import Environment, Record, digest
from evitlab.report.columns import COLUMNS, column_types
from evitlab.report.models_tables import list_results, select_latest
from evitlab.report.row_cells import describe_row, pruned_rows
from evitlab.report.study_tables import STUDY_COPY, of_seeds, read_study
from evitlab.report.tables import TIMINGS, TableError, select_records, study_table
from evitlab.report.timing_tables import timing_table
from evitlab.store import RECORDS, read_records
from evitlab.study import TRAINED, Study

PROCESS = ("threads", "allocator")
"""Conditions of a process, which count for timings."""
PROTOCOL = ("protocol", "batch_size", "precision", "memory_format", "mode", "linear_library")
"""Conditions of a timing that its measurement holds."""
ALIASES = {"infer_batch_size": "batch_size"}


@dataclass(frozen=True, kw_only=True)
class _Results:
    """One folder's records of one kind, smoke runs or measurements, under the conditions asked for."""

    name: str
    records: Sequence[Record]
    requests: Mapping[tuple[str, str], str]
    study: Study | None
    """None for those of a command."""


def load(
    *folders: str | Path,
    results: str | Path = "results",
    where: Mapping[str, Any] | None = None,
    mixed: bool = False,
    smoke: bool = False,
    seed: int = 0,
) -> pd.DataFrame:
    """All that some folders of results hold, as a tidy table: one row a variant; columns as in `results/README.md`.

    A folder is a path, or a name in `results`; none means all that are there, and a folder of such folders those in
    it. `where` keeps what was measured under some conditions, such as `{"machine": "0a1b2c3d", "threads": 2}`.
    A folder that still mixes conditions is a `TableError` that names them; `mixed` gives each set of them rows of its
    own. `smoke` reads smoke runs in place of measurements. `seed` is the one that a study was run with.
    """
    asked = _check_where(where or {})
    found = find_folders(folders, Path(results), smoke=smoke)
    rows: list[dict[str, Any]] = []
    for folder in found:
        held = _read(folder, asked, smoke=smoke, seed=seed)
        try:
            rows += [{"study": held.name, "smoke": smoke} | row for row in _rows(held, mixed=mixed)]
        except TableError as error:
            raise TableError(f"{folder}: {error}") from None
    if not rows and found and (folders or asked):
        raise TableError(_explain_nothing(found, asked, smoke=smoke))
    knobs = dict.fromkeys(name for row in rows for name in row if name.startswith("knob_"))
    names = [name for column in COLUMNS for name in (knobs if column == "knob_*" else [column])]
    return pd.DataFrame(rows, columns=names).astype(column_types(COLUMNS))


def _check_where(where: Mapping[str, Any]) -> dict[str, Any]:
    known = [*(field.name for field in fields(Environment)), *PROTOCOL, *ALIASES]
    for name in where:
        if name not in known:
            raise TableError(
                f"where must name fields of the environment or of a timing ({', '.join(known)}), "
                f"but got {name!r}{suggest(name, known)}"
            )
    return {ALIASES.get(name, name): value for name, value in where.items()}


def _explain_nothing(found: Sequence[Path], where: Mapping[str, Any], *, smoke: bool) -> str:
    places = ", ".join(str(folder) for folder in found)
    if where:
        return f"{places}: no measurement was made with {', '.join(f'{n}={v}' for n, v in where.items())}"
    other = "; smoke=True (--smoke) reads smoke runs" if not smoke and any(map(_has_smoke, found)) else ""
    return f"{places}: no {'smoke run' if smoke else 'measurement'} that makes a row{other}"


def _has_smoke(folder: Path) -> bool:
    return (folder / "smoke" / RECORDS).is_file() or any(record.smoke for record in read_records(folder))


def find_folders(folders: Sequence[str | Path], results: Path, *, smoke: bool = False) -> list[Path]:
    """The folders with records that were asked for; one that has none, or is not there, is a mistake."""
    if not folders:
        if not results.is_dir():
            raise TableError(f"{results}: no such folder; results= names the one that holds results")
        return _list(results, smoke=smoke)
    return [each for folder in folders for each in _find(Path(folder), results, smoke=smoke)]


def _find(folder: Path, results: Path, *, smoke: bool) -> list[Path]:
    for place in (folder, results / folder):
        if _holds(place, smoke=smoke):
            return [place]
        if place.is_dir() and (inside := _list(place, smoke=smoke)):
            return inside
    if folder.is_dir() or (results / folder).is_dir():
        place = folder if folder.is_dir() else results / folder
        hint = "; smoke=True (--smoke) reads its smoke runs" if not smoke and _holds(place, smoke=True) else ""
        raise TableError(f"{place}: holds no records{' of smoke runs' if smoke else ''}{hint}")
    near = folder.parent if folder.parent != Path() else results
    names = list_results(near)
    raise TableError(
        f"{near}: no results of {folder.name!r}{suggest(folder.name, names)} (there are: {', '.join(names) or 'none'})"
    )


def _list(results: Path, *, smoke: bool) -> list[Path]:
    return sorted(
        path for path in results.glob("*") if path.name not in ("peaks", "smoke") and _holds(path, smoke=smoke)
    )


def _holds(folder: Path, *, smoke: bool) -> bool:
    """Whether there are records, or smoke runs; those of a study lie in a folder below."""
    return (folder / RECORDS).is_file() or (smoke and (folder / "smoke" / RECORDS).is_file())


def _read(folder: Path, where: Mapping[str, Any], *, smoke: bool, seed: int) -> _Results:
    place = folder / "smoke" if smoke and (folder / "smoke" / RECORDS).is_file() else folder
    name = place.parent.name if place.name == "smoke" else place.name
    records = [record for record in read_records(place) if record.smoke == smoke and record.task != "peaks"]
    study = None
    if (place / STUDY_COPY).is_file():
        study = replace(read_study(place, records, seed=seed, smoke=smoke), name=name)
        requests = study.requests()
        own = [r for r in of_seeds(study, records) if requests.get((r.variant, r.task)) == r.request]
    else:
        own = _name_rows(records, name)
        requests = {(record.variant, record.task): record.request for record in own if record.task != "prune"}
    kept = [record for record in own if record.task == "macs" or _matches(record, where)]
    if where and all(record.task == "macs" for record in kept) and len(kept) < len(own):
        kept = []  # counts are the same everywhere: by themselves they are no measurement made so
    return _Results(name=name, records=kept, requests=requests, study=study)


def _name_rows(records: Sequence[Record], study: str) -> list[Record]:
    """A command's records as those of a study that asks for each once: of every model, and where one was given with
    other knobs or another recipe, of that under a name of its own."""
    asked: dict[tuple[str, bool], list[str]] = {}
    named = []
    for record in records:
        if record.task == "prune":
            named.append(record)
            continue
        trained = record.task == "train"
        known = asked.setdefault((record.variant, trained), [])
        what = record.request if trained else digest(record.config)
        if what not in known:
            known.append(what)
        number = known.index(what) + 1
        name = record.variant if number == 1 else f"{record.variant}, settings {number}"
        seed = record.seed if record.task in TRAINED else 0
        named.append(replace(record, study=study, variant=name, request="", seed=seed))
    return named


def _conditions(record: Record) -> dict[str, Any]:
    """The conditions that a record's numbers hold under: none for a count."""
    if record.task == "macs":
        return {}
    here = record.environment
    found: dict[str, Any] = {"machine": here.machine, "device": here.device, "torch": here.torch}
    if record.task in (*TIMINGS, "batch_curve", "self_test"):
        found |= {name: getattr(here, name) for name in PROCESS}
    if record.task == "throughput" and record.measurement is not None:
        found |= {name: record.measurement[name] for name in PROTOCOL}
    return found


def _matches(record: Record, where: Mapping[str, Any]) -> bool:
    """Whether a record was made so; what does not bear on its task does not count."""
    known = vars(record.environment) | _conditions(record)
    bearing = {name: value for name, value in where.items() if name not in PROCESS or name in _conditions(record)}
    return all(known.get(name, value) == value for name, value in bearing.items())


def _find_sets(records: Sequence[Record]) -> list[dict[str, Any]]:
    """The sets of conditions that rows are of: each timing's, then those of what was not timed under any of them."""
    sets: list[dict[str, Any]] = []
    for record in sorted(records, key=lambda each: (each.task != "throughput", each.task not in TIMINGS)):
        if record.status == "ok" and record.task != "macs" and not any(_agree(record, each) for each in sets):
            sets.append(_conditions(record))
    return sets


def _agree(record: Record, conditions: Mapping[str, Any]) -> bool:
    return all(conditions.get(name, value) == value for name, value in _conditions(record).items())


def _rows(held: _Results, *, mixed: bool) -> list[dict[str, Any]]:
    if not held.records:
        return []
    if mixed and (sets := _find_sets(held.records)):
        parts = [[record for record in held.records if _agree(record, conditions)] for conditions in sets]
        return [row for part in parts for row in _join(held, part, whole=len(parts) == 1)]
    if held.study is None:
        timed = [record for record in held.records if record.task == "throughput" and record.status == "ok"]
        timing_table(select_latest(timed))  # refuses what a study cannot mix: protocols, batch sizes, precisions
    return _join(held, held.records, whole=True)


def _join(held: _Results, records: Sequence[Record], *, whole: bool) -> list[dict[str, Any]]:
    """A row a variant of what was measured under one set of conditions; unless that is the `whole`, of the variants
    that were."""
    asked: dict[str, Any] = {"study": held.name, "requests": held.requests}
    asked["smoke"] = any(record.smoke for record in records)
    chosen = select_records(records, **asked)
    paper, speeds, baselines = {}, {}, {}
    if held.study is not None:
        paper, speeds, baselines = held.study.paper_top1(), held.study.paper_speeds(), held.study.baselines
    rows = []
    for row in study_table(records, **asked, paper_top1=paper).to_dict("records"):
        name = row["variant"]
        own = [record for record in chosen if record.variant == name]
        cited = {"paper_infer_samples_per_sec": speeds.get(name), "compare_to": baselines.get(name)}
        if whole or any(record.task != "macs" for record in own):
            rows.append({**describe_row(own), **_drop_empty(row), **cited})
    pruned = [record for record in records if record.task == "prune" and record.status == "ok"]
    trained = {row["variant"]: row for row in rows}
    found = [row | _drop_empty(trained.pop(row["variant"], {})) for row in pruned_rows(pruned)]
    return [*trained.values(), *found]


def _drop_empty(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(name): value for name, value in row.items() if isinstance(value, list) or not pd.isna(value)}
