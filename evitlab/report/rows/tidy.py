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
from evitlab.report.folders import STUDY_COPY, list_names
from evitlab.report.rows.cells import describe_row, pruned_rows
from evitlab.report.study_tables import of_seeds, read_study
from evitlab.report.tables import TIMINGS, TableError, select_records, study_table
from evitlab.report.timing_tables import select_latest, timing_table
from evitlab.store import RECORDS, read_records
from evitlab.study import TRAINED, Study

PROCESS = ("threads", "allocator")
"""Conditions of a process, which count for timings."""
PROTOCOL = ("protocol", "batch_size", "precision", "memory_format", "mode", "linear_library")
"""Conditions of a timing that its measurement holds."""
ALIASES = {"infer_batch_size": "batch_size"}


@dataclass(frozen=True, kw_only=True)
class Results:
    """One folder's records of one kind, smoke runs or measurements, that its study asks for."""

    folder: Path
    name: str
    records: Sequence[Record]
    requests: Mapping[tuple[str, str], str]
    """(variant, task) -> what a record must have been asked for to count."""
    study: Study | None
    """None for those of a command."""
    smoke: bool


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
    found = [
        read_results(folder, smoke=smoke, seed=seed) for folder in find_folders(folders, Path(results), smoke=smoke)
    ]
    return tabulate(found, where=where, mixed=mixed, named=bool(folders))


def tabulate(
    found: Sequence[Results], *, where: Mapping[str, Any] | None = None, mixed: bool = False, named: bool = True
) -> pd.DataFrame:
    """The tidy table of some folders; see `load`. If they were `named`, no row at all is a mistake."""
    asked = _check_where(where or {})
    rows: list[dict[str, Any]] = []
    for held in found:
        try:
            rows += _rows(narrow(held, asked), mixed=mixed)
        except TableError as error:
            raise TableError(f"{held.folder}: {error}") from None
    if not rows and found and (named or asked):
        raise TableError(_explain_nothing(found, asked))
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


def _explain_nothing(found: Sequence[Results], where: Mapping[str, Any]) -> str:
    places = ", ".join(str(held.folder) for held in found)
    if where:
        return f"{places}: no measurement was made with {', '.join(f'{n}={v}' for n, v in where.items())}"
    if found[0].smoke:
        return f"{places}: no smoke runs"
    hint = "; smoke=True (--smoke) reads its smoke runs" if any(_holds(h.folder / "smoke") for h in found) else ""
    return f"{places}: no measurement that makes a row{hint}"


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
    names = list_names(near)
    raise TableError(
        f"{near}: no results of {folder.name!r}{suggest(folder.name, names)} (there are: {', '.join(names) or 'none'})"
    )


def _list(results: Path, *, smoke: bool) -> list[Path]:
    return sorted(
        path for path in results.glob("*") if path.name not in ("peaks", "smoke") and _holds(path, smoke=smoke)
    )


def _holds(folder: Path, *, smoke: bool = False) -> bool:
    """Whether there are records, or smoke runs; those of a study lie in a folder below."""
    return (folder / RECORDS).is_file() or (smoke and (folder / "smoke" / RECORDS).is_file())


def read_results(folder: Path, *, smoke: bool = False, seed: int = 0) -> Results:
    """A folder's measurements, or its smoke runs, and the study that asked for them, if one did."""
    place = folder / "smoke" if smoke and _holds(folder / "smoke") else folder
    name = place.parent.name if place.name == "smoke" else place.name
    records = [record for record in read_records(place) if record.smoke == smoke and record.task != "peaks"]
    if not (place / STUDY_COPY).is_file():
        own = _name_rows(records, name)
        requests = {(record.variant, record.task): record.request for record in own if record.task != "prune"}
        return Results(folder=folder, name=name, records=own, requests=requests, study=None, smoke=smoke)
    study = replace(read_study(place, records, seed=seed, smoke=smoke), name=name)
    requests = study.requests()
    own = [
        record for record in of_seeds(study, records) if requests.get((record.variant, record.task)) == record.request
    ]
    return Results(folder=folder, name=name, records=own, requests=requests, study=study, smoke=smoke)


def narrow(held: Results, where: Mapping[str, Any]) -> Results:
    """What was measured under some conditions; counts are the same under all, but by themselves no measurement."""
    kept = [record for record in held.records if record.task == "macs" or _matches(record, where)]
    if len(kept) < len(held.records) and all(record.task == "macs" for record in kept):
        kept = []
    requests = held.requests
    if held.study is None:  # nobody asked for what is left out
        requests = {(record.variant, record.task): "" for record in kept if record.task != "prune"}
    return replace(held, records=kept, requests=requests)


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


def _rows(held: Results, *, mixed: bool) -> list[dict[str, Any]]:
    if not held.records:
        return []
    if mixed and (sets := _find_sets(held.records)):
        parts = [[record for record in held.records if _agree(record, conditions)] for conditions in sets]
        return [row for part in parts for row in _join(held, part, whole=len(parts) == 1)]
    if held.study is None:
        timed = [record for record in held.records if record.task == "throughput" and record.status == "ok"]
        timing_table(select_latest(timed))  # refuses what a study cannot mix: protocols, batch sizes, precisions
    return _join(held, held.records, whole=True)


def _join(held: Results, records: Sequence[Record], *, whole: bool) -> list[dict[str, Any]]:
    """A row a variant of what was measured under one set of conditions; unless that is the `whole`, of the variants
    that were."""
    asked: dict[str, Any] = {"study": held.name, "requests": held.requests, "smoke": held.smoke}
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
    return [{"study": held.name, "smoke": held.smoke} | row for row in (*trained.values(), *found)]


def _drop_empty(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(name): value for name, value in row.items() if isinstance(value, list) or not pd.isna(value)}
