"""The command line: parse, call, exit code. 0 done, 1 some variants failed, 2 bad input, 130 interrupted."""

import json
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from evitlab.commands.heads import heads
from evitlab.commands.models import bench, profile
from evitlab.commands.pruning import prune
from evitlab.commands.reproduce import reproduce
from evitlab.commands.run import Json, Results, Seed, print_study, run
from evitlab.commands.sweeps import collect
from evitlab.commands.training import evaluate, train

if TYPE_CHECKING:
    from evitlab.records import Record
    from evitlab.study import Study

app = typer.Typer(
    help="An architecture-analysis and ablation lab for fast vision transformers.",
    epilog="Begin with: evitlab run studies/mhsa_ratio.yaml",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command()(run)
app.command()(reproduce)
app.command()(bench)
app.command()(profile)
app.command()(train)
app.command()(evaluate)
app.command()(heads)
app.command()(prune)
app.command()(collect)

Where = Annotated[
    list[str] | None,
    typer.Option(help="Only measurements made so: machine=0a1b2c3d, device=cpu, threads=2, torch=2.15.0; may repeat."),
]


@app.command()
def check(files: Annotated[list[Path], typer.Argument(help="Study files.")]) -> None:
    """Say everything that is wrong with some study files, without running anything."""
    from evitlab.study import StudyError, load_study

    wrong = 0
    for path in files:
        try:
            study = load_study(path)
        except StudyError as error:
            wrong += 1
            print(error, file=sys.stderr)
        else:
            variants = study.variants()
            search = study.file.search
            more = "" if search is None else f" and {search.variants} of {search.count()} to be found"
            tasks = study.tasks_of(study.vary("any", {}))
            print(f"{path}: right, {len(variants)} variants{more}, tasks {', '.join(tasks)}")
    raise typer.Exit(2 if wrong else 0)


@app.command(name="list")
def list_zoo(as_json: Json = False) -> None:
    """List the networks of the zoo, and the knobs that derive variants from them."""
    from evitlab.report.zoo_tables import describe_zoo, zoo_tables

    if as_json:
        print(json.dumps(describe_zoo(), indent=1))
        return
    for table in zoo_tables():
        Console().print(table)


@app.command()
def show(
    name: Annotated[str | None, typer.Argument(help="A folder of results; none lists them all.")] = None,
    results: Results = Path("results"),
    where: Where = None,
    mixed: Annotated[
        bool, typer.Option("--mixed", help="Let one table mix machines and protocols, each in a column of its own.")
    ] = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Print what was measured: a study's table, or that of a bench or a profile."""
    from evitlab.report.models_report import list_results, show_models
    from evitlab.report.study_report import compare, tabulate
    from evitlab.store import read_records

    if name is None:
        names = list_results(results)
        print(json.dumps(names) if as_json else "\n".join(names))
        return
    if name in list_results(results) and name not in _find_studies(results):
        records = read_records(results / name)
        show_models(records, where=_parse_where(where), mixed=mixed, as_json=as_json, folder=results / name)
        return
    read, records = _load_results(results, name, seed), read_records(results / name)
    chosen = _choose(records, where)
    print_study(read, tabulate(read, records, chosen), compare(read, records, chosen), as_json=as_json)


@app.command()
def report(
    study: Annotated[
        str | None, typer.Argument(help="A study, or the folder of a prune; none means all of both with results.")
    ] = None,
    results: Results = Path("results"),
    where: Where = None,
    seed: Seed = 0,
) -> None:
    """Write table, figures and page of a study, or of prunings, anew from its records."""
    from evitlab.report.models_report import list_pruned, select_latest, write_models
    from evitlab.report.study_report import PAGE, write_report
    from evitlab.store import read_records

    studies, pruned = _find_studies(results), list_pruned(results)
    for name in [study] if study is not None else [*studies, *pruned]:
        if name in pruned and name not in studies:
            write_models(select_latest(read_records(results / name)), results / name)
            print(results / name / PAGE)
            continue
        read, records = _load_results(results, name, seed), read_records(results / name)
        write_report(read, records, _choose(records, where), results / name)
        print(results / name / PAGE)


def _find_studies(results: Path) -> list[str]:
    from evitlab.report.study_report import STUDY_COPY

    return sorted(path.parent.name for path in results.glob(f"*/{STUDY_COPY}"))


def _load_results(results: Path, name: str, seed: int) -> "Study":
    """The study as it was when it last ran."""
    from evitlab.report.study_report import STUDY_COPY
    from evitlab.store import read_records
    from evitlab.study import StudyError, load_study

    if name not in (names := _find_studies(results)):
        raise StudyError(results, [f"no results of {name!r} (there are: {', '.join(names) or 'none'})"])
    study = replace(load_study(results / name / STUDY_COPY, seed=seed), name=name)
    return study.with_recorded(read_records(results / name))


def _choose(records: "list[Record]", pairs: list[str] | None) -> dict[str, Any]:
    """The conditions asked for, or else those of the latest measurement, said so where there are others."""
    if pairs or not records:
        return _parse_where(pairs)
    latest = max(records, key=lambda record: record.start).environment
    if any(record.environment.conditions != latest.conditions for record in records):
        shown = ", ".join(f"{name}={value}" for name, value in latest.conditions.items())
        print(f"note: others were measured too; this is the latest, {shown}; choose with --where", file=sys.stderr)
    return latest.conditions


def _parse_where(pairs: list[str] | None) -> dict[str, Any]:
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


@app.callback(invoke_without_command=True)
def options(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """An architecture-analysis and ablation lab for fast vision transformers."""
    if version:
        from evitlab import __version__

        print(f"evitlab {__version__}")
        raise typer.Exit


def main() -> None:
    """Entry point: bad input is one message and exit code 2, never a traceback."""
    from evitlab.problems import UserError

    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
