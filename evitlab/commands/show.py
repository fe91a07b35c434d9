"""`evitlab show`: what lies in the folders of results, as tables for people and for programs."""

import gc
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

if TYPE_CHECKING:
    import pandas as pd

    from evitlab.records import Record
    from evitlab.report.comparison.paper import Comparison
    from evitlab.report.rows.tidy import Results
    from evitlab.study import Study


Format = Literal["people", "json", "csv", "markdown"]
WhereOption = Annotated[
    list[str] | None,
    typer.Option(help="Only measurements made so: machine=0a1b2c3d, device=cpu, threads=2, torch=2.15.0; may repeat."),
]


def show(
    name: Annotated[str | None, typer.Argument(help="A folder of results; none lists them all.")] = None,
    results: Annotated[Path, typer.Option(help="Folder that holds a folder of results for each study.")] = Path(
        "results"
    ),
    sort: Annotated[
        list[str] | None, typer.Option(metavar="[-]COLUMN", help="Order of the rows; falling after a -; may repeat.")
    ] = None,
    filters: Annotated[
        list[str] | None,
        typer.Option("--filter", metavar="EXPR", help="Rows shown: 'top1>0.5', 'variant~deit'; may repeat."),
    ] = None,
    columns: Annotated[
        str | None, typer.Option(metavar="A,B", help="Columns shown, by their names in results/README.md.")
    ] = None,
    where: WhereOption = None,
    mixed: Annotated[
        bool, typer.Option("--mixed", help="Let one table mix machines and protocols, each in rows of its own.")
    ] = False,
    smoke: Annotated[bool, typer.Option("--smoke", help="Smoke runs in place of measurements.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="The one that the study was run with.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs, in base units.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, in base units.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print a table in Markdown.")] = False,
) -> None:
    """Print what was measured: a study's table, or that of a bench, a profile, a training or a pruning.

    With no name: the folders, what each asked, and what was measured.
    """
    from evitlab.problems import UserError

    if as_json + as_csv + as_markdown > 1:
        raise UserError("--json, --csv and --markdown exclude each other")
    if name is None:
        _list(results, as_json=as_json)
        return
    folder = _check_name(name, results)
    written: Format = "json" if as_json else "csv" if as_csv else "markdown" if as_markdown else "people"
    rows = {"filters": filters or [], "sort": sort or [], "names": columns.split(",") if columns else None}
    with _no_garbage_collection():
        from evitlab.report.rows.tidy import find_folders, read_results

        find_folders([folder], results, smoke=smoke)
        held = read_results(folder, smoke=smoke, seed=seed)
        if (
            held.study is None
            and held.records
            and written in ("people", "json")
            and not any(rows.values())
            and not smoke
        ):
            _show_command(folder, where=parse_where(where), mixed=mixed, as_json=as_json)
            return
        _show_rows(held, where, rows, mixed=mixed, written=written)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Looking for cycles among what pandas and records bring is a sixth of the time that a table takes."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _show_rows(held: "Results", where: list[str] | None, rows: dict[str, Any], *, mixed: bool, written: Format) -> None:
    from evitlab.report.rows.choice import choose_columns, choose_rows
    from evitlab.report.rows.tidy import tabulate

    chosen = parse_where(where) if mixed or held.study is None else choose_conditions(held.records, where)
    table = choose_rows(tabulate([held], where=chosen, mixed=mixed), rows["filters"], rows["sort"])
    if (names := rows["names"]) is not None:
        table = choose_columns(table, names)
    if written != "people":
        print(_write(table, written, named=names is not None), end="")
    elif held.study is None or names is not None:
        _print_rows(table, title=held.name if held.study is None else held.study.file.question, named=names is not None)
    else:
        comparison = None if mixed or rows["filters"] else _compare(held, table, chosen)
        print_study(held.study, table, comparison, brief=True, mixed=mixed)


def _write(table: "pd.DataFrame", written: Format, *, named: bool) -> str:
    from evitlab.report.rows.tables import as_text, choose_shown, to_markdown
    from evitlab.report.tables import to_csv

    if written == "csv":
        return to_csv(table)
    if written == "json":
        return str(table.to_json(orient="records")) + "\n"
    return to_markdown(as_text(table, list(table) if named else choose_shown(table)))


def _print_rows(table: "pd.DataFrame", *, title: str, named: bool) -> None:
    from evitlab.report.rows.tables import as_text, choose_shown, render_rows

    Console().print(render_rows(as_text(table, list(table) if named else choose_shown(table)), title=title))


def _check_name(name: str, results: Path) -> Path:
    """The folder's path: names are those of folders inside the results, nothing else on the disk."""
    from evitlab.problems import UserError, suggest
    from evitlab.report.folders import list_names

    if name not in (names := list_names(results)):
        known = ", ".join(names) or "none"
        raise UserError(f"{results}: no results of {name!r}{suggest(name, names)} (there are: {known})")
    return results / name


def _list(results: Path, *, as_json: bool) -> None:
    from dataclasses import asdict

    from evitlab.problems import UserError
    from evitlab.report.folders import describe_folders, list_folders

    if not results.is_dir():
        raise UserError(f"{results}: no such folder; --results names the one that holds results")
    found = list_folders(results)
    if as_json:
        print(json.dumps([asdict(folder) for folder in found]))
        return
    print(*describe_folders(found), sep="\n", end="\n" if found else "")
    if not found:
        print(f"no results in {results} yet", file=sys.stderr)


def _show_command(folder: Path, *, where: dict[str, Any], mixed: bool, as_json: bool) -> None:
    from evitlab.report.models.tables import show_models
    from evitlab.store import read_records

    show_models(read_records(folder), where=where, mixed=mixed, as_json=as_json, folder=folder)


def _compare(held: "Results", table: "pd.DataFrame", where: dict[str, Any]) -> "Comparison | None":
    """The paper's differences beside those of the rows shown."""
    from evitlab.report.comparison.paper import compare_with_paper
    from evitlab.report.rows.tidy import narrow
    from evitlab.report.tables import select_records

    assert held.study is not None
    records = narrow(held, where).records
    chosen = select_records(records, study=held.name, requests=held.requests, smoke=held.study.smoke)
    return compare_with_paper(held.study, table, chosen)


def choose_conditions(records: "Sequence[Record]", pairs: list[str] | None) -> dict[str, Any]:
    """The conditions asked for, or else those of the latest measurement, said so where there are others."""
    if pairs or not records:
        return parse_where(pairs)
    latest = max(records, key=lambda record: record.start).environment
    if any(record.environment.conditions != latest.conditions for record in records):
        shown = ", ".join(f"{name}={value}" for name, value in latest.conditions.items())
        print(f"note: others were measured too; this is the latest, {shown}; choose with --where", file=sys.stderr)
    return latest.conditions


def parse_where(pairs: list[str] | None) -> dict[str, Any]:
    """Fields of environment or measurement to choose by, numbers as numbers."""
    from evitlab.problems import UserError

    parsed: dict[str, Any] = {}
    for pair in pairs or []:
        name, found, value = pair.partition("=")
        if not found:
            raise UserError(f"--where must be FIELD=VALUE, such as machine=0a1b2c3d, but got {pair!r}")
        whole = name in ("threads", "cores", "memory_bytes", "batch_size") and value.isdecimal()  # a machine is text
        parsed[name] = int(value) if whole else {"true": True, "false": False}.get(value, value)
    return parsed


def print_study(
    study: "Study",
    table: "pd.DataFrame",
    comparison: "Comparison | None",
    *,
    brief: bool = False,
    mixed: bool = False,
) -> None:
    """The study's table, and below it the paper's differences beside ours where there are any; `brief` leaves out
    what takes a second to compute, and what is `mixed` has its conditions in columns."""
    from evitlab.report.comparison.tables import render_comparison
    from evitlab.report.rows.tables import find_differing
    from evitlab.report.study_tables import describe_proxy
    from evitlab.report.tables import render_terminal

    console = Console()
    console.print(render_terminal(table, title=study.file.question, beside=find_differing(table) if mixed else ()))
    if note := describe_proxy(study):
        console.print(note, highlight=False)
    if comparison is not None:
        console.print()
        console.print(render_comparison(comparison, brief=brief))
