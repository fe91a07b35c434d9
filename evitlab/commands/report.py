"""The command `report`: tables, figures and pages anew from records."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from evitlab.commands.run import Results, Seed
from evitlab.commands.show import WhereOption, choose_conditions, parse_where


def report(
    name: Annotated[
        str | None, typer.Argument(help="A folder of results, of a study or of a command; none means all of them.")
    ] = None,
    results: Results = Path("results"),
    where: WhereOption = None,
    seed: Seed = 0,
) -> None:
    """Write tables, figures and page of a folder of results anew from its records, and the index over all.

    Without a name, of every folder, and results/README.md, which explains every column; a folder that cannot be read
    is named, and the others are written.
    """
    from evitlab.problems import UserError, suggest
    from evitlab.progress import show_share
    from evitlab.report.folders import PAGE, list_recorded
    from evitlab.report.index import write_index
    from evitlab.report.index_text import write_index_text

    names = list_recorded(results)
    if name is not None and name not in names:
        there = f"(there are: {', '.join(names) or 'none'})"
        raise UserError(f"{results}: no results of {name!r} {there}{suggest(name, names)}")
    written, failed = [], False
    with show_share(Console(stderr=True), "writing pages") as share:
        for number, each in enumerate(names if name is None else [name]):
            try:
                _write_page(results, each, where, seed)
            except UserError as error:
                if name is not None:
                    raise
                failed = True
                print(f"error: {error}", file=sys.stderr)
            else:
                written.append(results / each / PAGE)
            share((number + 1) / (len(names) + 1))
        written.append(write_index(results))
        if name is None:
            written.append(write_index_text(results))
    print("\n".join(map(str, written)))
    raise typer.Exit(2 if failed else 0)


def _write_page(results: Path, name: str, where: list[str] | None, seed: int) -> None:
    """All that one folder of results leaves for people."""
    from evitlab.report.folders import STUDY_COPY
    from evitlab.report.models.report import write_models
    from evitlab.report.models.tables import choose_latest
    from evitlab.report.study_report import write_report
    from evitlab.report.study_tables import read_study
    from evitlab.store import read_records

    records = read_records(results / name)
    if (results / name / STUDY_COPY).exists():
        study = read_study(results / name, records, seed=seed)
        write_report(study, records, choose_conditions(records, where), results / name)
    else:
        write_models(choose_latest(records, parse_where(where)), results / name)
