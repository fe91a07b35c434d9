"""The command line: parse, call, exit code. 0 done, 1 some variants failed, 2 bad input, 130 interrupted."""

import json
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from evitlab.commands.heads import heads
from evitlab.commands.models import bench, profile
from evitlab.commands.pruning import prune
from evitlab.commands.report import report
from evitlab.commands.reproduce import reproduce
from evitlab.commands.run import Json, run
from evitlab.commands.show import show
from evitlab.commands.sweeps import collect
from evitlab.commands.training import evaluate, train

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
app.command()(report)


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
