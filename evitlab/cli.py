"""The command line: parse, call, exit code. 0 done, 1 some variants failed, 2 bad input, 130 interrupted."""

import json
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from evitlab.commands.heads import heads
from evitlab.commands.models import bench, profile
from evitlab.commands.pruning import prune
from evitlab.commands.reproduce import reproduce
from evitlab.commands.run import Json, Results, Seed, run
from evitlab.commands.show import WhereOption, choose_conditions, show
from evitlab.commands.sweeps import collect
from evitlab.commands.training import evaluate, train

if TYPE_CHECKING:
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
app.command()(show)


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
def report(
    study: Annotated[
        str | None, typer.Argument(help="A study, or the folder of a prune; none means all of both with results.")
    ] = None,
    results: Results = Path("results"),
    where: WhereOption = None,
    seed: Seed = 0,
) -> None:
    """Write table, figures and page of a study, or of prunings, anew from its records."""
    from evitlab.report.folders import PAGE
    from evitlab.report.index_text import write_index_text
    from evitlab.report.models_report import write_models
    from evitlab.report.models_tables import list_pruned
    from evitlab.report.study_report import write_report
    from evitlab.report.timing_tables import select_latest
    from evitlab.store import read_records

    studies, pruned = _find_studies(results), list_pruned(results)
    for name in [study] if study is not None else [*studies, *pruned]:
        if name in pruned and name not in studies:
            write_models(select_latest(read_records(results / name)), results / name)
            print(results / name / PAGE)
            continue
        read, records = _load_results(results, name, seed), read_records(results / name)
        write_report(read, records, choose_conditions(records, where), results / name)
        print(results / name / PAGE)
    if study is None and results.is_dir():
        print(write_index_text(results))


def _find_studies(results: Path) -> list[str]:
    from evitlab.report.folders import STUDY_COPY

    return sorted(path.parent.name for path in results.glob(f"*/{STUDY_COPY}"))


def _load_results(results: Path, name: str, seed: int) -> "Study":
    """The study as it was when it last ran."""
    from evitlab.report.study_tables import read_study
    from evitlab.store import read_records
    from evitlab.study import StudyError

    if name not in (names := _find_studies(results)):
        raise StudyError(results, [f"no results of {name!r} (there are: {', '.join(names) or 'none'})"])
    return read_study(results / name, read_records(results / name), seed=seed)


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
