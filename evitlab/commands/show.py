"""`evitlab show`: what lies in the folders of results, as tables for people and for programs."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from evitlab.records import Record
    from evitlab.report.paper_comparison import Comparison
    from evitlab.report.tidy import Results
    from evitlab.study import Study

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
    from evitlab.report.tidy import find_folders, read_results

    (folder,) = find_folders([_check_name(name, results)], results, smoke=smoke)
    held = read_results(folder, smoke=smoke, seed=seed)
    asked = bool(sort or filters or columns or as_csv or as_markdown or smoke)
    if held.study is None and not asked:
        _show_command(folder, where=parse_where(where), mixed=mixed, as_json=as_json)
        return
    chosen = parse_where(where) if mixed or held.study is None else choose_conditions(held.records, where)
    table = _tabulate(held, chosen, mixed=mixed, filters=filters or [], sort=sort or [])
    names = columns.split(",") if columns else None
    if as_json or as_csv or as_markdown:
        print(_write(table, names, as_json=as_json, as_csv=as_csv), end="")
    elif held.study is None or names is not None:
        _print_rows(table, names, title=_name_title(held))
    else:
        comparison = None if mixed or filters else _compare(held, table, chosen)
        print_study(held.study, table, comparison, brief=True, mixed=mixed)


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
    from evitlab.report.models_tables import show_models
    from evitlab.store import read_records

    show_models(read_records(folder), where=where, mixed=mixed, as_json=as_json, folder=folder)


def _tabulate(
    held: "Results", where: dict[str, Any], *, mixed: bool, filters: list[str], sort: list[str]
) -> "pd.DataFrame":
    from evitlab.report.row_choice import choose_rows
    from evitlab.report.tidy import tabulate

    return choose_rows(tabulate([held], where=where, mixed=mixed), filters, sort)


def _write(table: "pd.DataFrame", names: list[str] | None, *, as_json: bool, as_csv: bool) -> str:
    from evitlab.report.row_choice import choose_columns
    from evitlab.report.row_tables import as_text, choose_shown, to_markdown
    from evitlab.report.tables import to_csv

    if as_json or as_csv:
        chosen = table if names is None else choose_columns(table, names)
        return to_csv(chosen) if as_csv else chosen.to_json(orient="records") + "\n"
    shown = choose_shown(table) if names is None else list(choose_columns(table, names))
    return to_markdown(as_text(table, shown))


def _print_rows(table: "pd.DataFrame", names: list[str] | None, *, title: str) -> None:
    from evitlab.report.row_choice import choose_columns
    from evitlab.report.row_tables import as_text, choose_shown, render_rows

    shown = choose_shown(table) if names is None else list(choose_columns(table, names))
    Console().print(render_rows(as_text(table, shown), title=title))


def _name_title(held: "Results") -> str:
    return held.name if held.study is None else held.study.file.question


def _compare(held: "Results", table: "pd.DataFrame", where: dict[str, Any]) -> "Comparison | None":
    """The paper's differences beside those of the rows shown."""
    from evitlab.report.paper_comparison import compare_with_paper
    from evitlab.report.tables import select_records
    from evitlab.report.tidy import narrow

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
    from evitlab.report.comparison_tables import render_comparison
    from evitlab.report.row_tables import find_differing
    from evitlab.report.study_tables import describe_proxy
    from evitlab.report.tables import render_terminal

    console = Console()
    console.print(render_terminal(table, title=study.file.question, beside=find_differing(table) if mixed else ()))
    if note := describe_proxy(study):
        console.print(note, highlight=False)
    if comparison is not None:
        console.print()
        console.print(render_comparison(comparison, brief=brief))
