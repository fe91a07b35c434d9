"""The command line: parse, call, exit code. 0 done, 1 some variants failed, 2 bad input, 130 interrupted."""

import json
import sys
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from evitlab.commands.heads import heads
from evitlab.commands.models import bench, profile
from evitlab.commands.pruning import prune
from evitlab.commands.sweeps import StorageOption, collect
from evitlab.commands.training import DataRoot, evaluate, train

if TYPE_CHECKING:
    import pandas as pd

    from evitlab.records import Record
    from evitlab.report.paper_comparison import Comparison
    from evitlab.runner import Lab
    from evitlab.study import Study

app = typer.Typer(
    help="An architecture-analysis and ablation lab for fast vision transformers.",
    epilog="Begin with: evitlab run studies/mhsa_ratio.yaml",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command()(bench)
app.command()(profile)
app.command()(train)
app.command()(evaluate)
app.command()(heads)
app.command()(prune)
app.command()(collect)

Results = Annotated[Path, typer.Option(help="Folder that holds a folder of results for each study.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table for people.")]
Seed = Annotated[int, typer.Option(min=0, help="Of timing order and weights; added to the study's own.")]
Where = Annotated[
    list[str] | None,
    typer.Option(help="Only measurements made so: machine=0a1b2c3d, device=cpu, threads=2, torch=2.15.0; may repeat."),
]


@app.command()
def run(
    study: Annotated[Path, typer.Argument(help="The study's YAML file.")],
    results: Results = Path("results"),
    data_root: DataRoot = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    seed: Seed = 0,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="The same path in tiny sizes; the numbers mean nothing.")
    ] = False,
    storage: StorageOption = None,
    as_json: Json = False,
) -> None:
    """Run a study: measure and train every variant, then write records, table, figures and page.

    What has been measured is kept: run it again after an interruption and it goes on, after an edit and only what the
    edit changed is measured. With --storage, the same command on any machine is another worker of the same study.
    Ctrl-C ends the running repeat or training step and saves; twice, it stops at once.
    """
    from evitlab.study import load_study, place_data

    read = place_data(load_study(study, seed=seed, smoke=smoke), data_root)
    folder = results / read.name / "smoke" if smoke else results / read.name
    failed = _run(read, study, results, folder, device=device, storage=storage, as_json=as_json)
    raise typer.Exit(1 if failed else 0)


def _run(
    study: "Study", path: Path, results: Path, folder: Path, *, device: str, storage: str | None, as_json: bool
) -> bool:
    """Run and report; whether a measurement is missing at the end."""
    from evitlab.problems import UserError
    from evitlab.store import discard_empty, prepare_folder, read_records, write_atomically
    from evitlab.study import TRAINED, Work

    prepare_folder(folder)  # mistakes first: torch takes seconds to load
    records = read_records(folder)
    notes = Console(stderr=True)
    with notes.status("loading torch", spinner="dots"):
        from evitlab.desk.bench import find_peaks
        from evitlab.environment import describe_environment, tune_allocator
        from evitlab.progress import StudyProgress, show_share
        from evitlab.proxies import read_data
        from evitlab.report.study_report import STUDY_COPY
        from evitlab.runner import Lab, find_missing
        from evitlab.stopping import notice_stops
        from evitlab.sweep.run import run_study

    tune_allocator()
    environment = describe_environment(device)
    try:
        with notice_stops() as stops:
            lab = Lab(
                study=study,
                folder=folder,
                environment=environment,
                peaks=partial(find_peaks, results, environment),
                on_progress=lambda work, share: None,
                records=records,
                check=stops.check,
            )
            missing = find_missing(lab, study.rows())
            if study.file.search is not None or any(work.task in TRAINED for work in missing):
                with show_share(notes, "decoding images") as share:
                    read_data(study, on_progress=share)
            with StudyProgress(missing, notes) as bar:

                def update(work: Work, share: float) -> None:
                    bar.update(work, share)
                    stops.check()

                done = run_study(
                    replace(lab, on_progress=update),
                    storage=storage,
                    on_found=lambda found: bar.expect(find_missing(lab, found.found_rows())),
                )
    except UserError:  # such as data that are not there
        discard_empty(folder)
        raise
    except KeyboardInterrupt as stop:
        notes.print(f"interrupted; what was measured is kept. Go on with: evitlab run {path}", highlight=False)
        raise typer.Exit(143 if str(stop) == "SIGTERM" else 130) from None
    write_atomically(folder / STUDY_COPY, path.read_text(encoding="utf-8"))
    _report(lab, as_json=as_json)
    return not done


def _report(lab: "Lab", *, as_json: bool) -> None:
    """Table, figures and page of all that a study has found, the index, and the table for the terminal."""
    from evitlab.report.index import refresh_index
    from evitlab.report.study_report import compare, write_report

    study, where = lab.study.with_recorded(lab.records), lab.environment.conditions
    table = write_report(study, lab.records, where, lab.folder)
    if not study.smoke:
        refresh_index(lab.folder.parent)
    _print_table(study, table, compare(study, lab.records, where), as_json=as_json)
    if not as_json:
        Console().print(f"records, table, figures and page: {lab.folder}", highlight=False, soft_wrap=True)


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
    _print_table(read, tabulate(read, records, chosen), compare(read, records, chosen), as_json=as_json)


@app.command()
def report(
    name: Annotated[
        str | None, typer.Argument(help="A folder of results, of a study or of a command; none means all of them.")
    ] = None,
    results: Results = Path("results"),
    where: Where = None,
    seed: Seed = 0,
) -> None:
    """Write tables, figures and page of a folder of results anew from its records, and the index page over all.

    Without a name, of every folder; one that cannot be read is named, and the others are written.
    """
    from evitlab.problems import UserError, suggest
    from evitlab.progress import show_share
    from evitlab.report.index import list_folders, write_index
    from evitlab.report.markup import PAGE

    names = list_folders(results)
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
    print("\n".join(map(str, written)))
    raise typer.Exit(2 if failed else 0)


def _write_page(results: Path, name: str, where: list[str] | None, seed: int) -> None:
    """All that one folder of results leaves for people."""
    from evitlab.report.models_report import select_latest, write_models
    from evitlab.report.study_report import write_report
    from evitlab.store import read_records

    records = read_records(results / name)
    if name not in _find_studies(results):
        write_models(select_latest(records, where=_parse_where(where)), results / name)
        return
    write_report(_load_results(results, name, seed), records, _choose(records, where), results / name)


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


def _print_table(study: "Study", table: "pd.DataFrame", comparison: "Comparison | None", *, as_json: bool) -> None:
    """The study's table, and below it the paper's differences beside ours where there are any."""
    from evitlab.report.comparison_tables import render_comparison
    from evitlab.report.study_report import describe_proxy
    from evitlab.report.tables import render_terminal

    if as_json:
        print(table.to_json(orient="records"))
        return
    console = Console()
    console.print(render_terminal(table, title=study.file.question))
    console.print(describe_proxy(study), highlight=False)
    if comparison is not None:
        console.print()
        console.print(render_comparison(comparison))


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
