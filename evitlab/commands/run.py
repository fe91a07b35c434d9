"""The command `run`, and the running of a study file that other commands share."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from evitlab.commands.show import print_study
from evitlab.commands.sweeps import StorageOption
from evitlab.commands.training import DataRoot

if TYPE_CHECKING:
    import pandas as pd

    from evitlab.lab import Lab
    from evitlab.report.comparison.paper import Comparison
    from evitlab.study import Study

Results = Annotated[Path, typer.Option(help="Folder that holds a folder of results for each study.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table for people.")]
Seed = Annotated[int, typer.Option(min=0, help="Of timing order and weights; added to the study's own.")]

RESULTS = Path("results")


def run(
    study: Annotated[Path, typer.Argument(help="The study's YAML file.")],
    results: Results = RESULTS,
    data_root: DataRoot = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    seed: Seed = 0,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="The same path in tiny sizes; the numbers mean nothing.")
    ] = False,
    storage: StorageOption = None,
    trainings: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Trainings at once on a CPU, each a process with its share of the threads. "
            "[default: one a thread, at most 4; 1 in a search and with --storage]",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Run a study: measure and train every variant, then write records, table, figures and page.

    What has been measured is kept: run it again after an interruption and it goes on, after an edit and only what the
    edit changed is measured. With --storage, the same command on any machine is another worker of the same study.
    Ctrl-C ends the running repeat or training step and saves; twice, it stops at once.
    """
    try:
        ran = run_file(
            study,
            results=results,
            data_root=data_root,
            device=device,
            seed=seed,
            smoke=smoke,
            storage=storage,
            trainings=trainings,
        )
    except KeyboardInterrupt as stop:
        where = "" if results == RESULTS else f" --results {results}"
        said = f"interrupted; what was measured is kept. Go on with: evitlab run {study}{where}"
        Console(stderr=True, soft_wrap=True).print(said, markup=False, highlight=False)
        raise typer.Exit(143 if str(stop) == "SIGTERM" else 130) from None
    if as_json:
        print(ran.table.to_json(orient="records"))
    else:
        print_study(ran.study, ran.table, ran.comparison)
        place = f"records, table, figures and page: {ran.folder}"
        Console().print(place, highlight=False, soft_wrap=True)
    raise typer.Exit(0 if ran.done else 1)


@dataclass(frozen=True, kw_only=True)
class Ran:
    """A study that has been run and written down."""

    study: "Study"
    folder: Path
    table: "pd.DataFrame"
    comparison: "Comparison | None"
    done: bool
    """Whether nothing that it asks for is missing at the end."""


def run_file(
    path: Path,
    *,
    results: Path,
    data_root: str | None = None,
    device: str = "cpu",
    seed: int = 0,
    smoke: bool = False,
    storage: str | None = None,
    trainings: int | None = None,
) -> Ran:
    """Do what a study file asks for and is not measured yet; write records, table, figures and page, print nothing.

    Raises KeyboardInterrupt where somebody has asked to stop; what was measured is kept.
    """
    from evitlab.study import load_study, place_data

    study = place_data(load_study(path, seed=seed, smoke=smoke), data_root)
    folder = results / study.name / "smoke" if smoke else results / study.name
    lab, done = _measure(study, results, folder, device=device, storage=storage, trainings=trainings)
    from evitlab.report.folders import STUDY_COPY
    from evitlab.report.index import refresh_index
    from evitlab.report.study_report import write_report
    from evitlab.report.study_tables import compare
    from evitlab.store import write_atomically

    write_atomically(folder / STUDY_COPY, path.read_text(encoding="utf-8"))
    found, where = lab.study.with_recorded(lab.records), lab.environment.conditions
    table = write_report(found, lab.records, where, folder)
    if not smoke:
        refresh_index(results)
    compared = compare(found, lab.records, where)
    return Ran(study=found, folder=folder, table=table, comparison=compared, done=done)


def _measure(
    study: "Study", results: Path, folder: Path, *, device: str, storage: str | None, trainings: int | None
) -> "tuple[Lab, bool]":
    """All missing work of a study; what has measured it, and whether nothing is missing at the end."""
    from evitlab.problems import UserError
    from evitlab.store import discard_empty, prepare_folder, read_records

    prepare_folder(folder)  # mistakes first: torch takes seconds to load
    records = read_records(folder)
    notes = Console(stderr=True)
    with notes.status("loading torch", spinner="dots"):
        from evitlab.desk.bench import find_peaks
        from evitlab.environment import describe_environment, tune_allocator
        from evitlab.lab import Lab
        from evitlab.side_by_side import choose_at_once
        from evitlab.stopping import notice_stops

    tune_allocator()
    environment = describe_environment(device)
    at_once = choose_at_once(study, environment, shared=storage is not None, asked=trainings)
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
                at_once=at_once,
            )
            return lab, _run_missing(lab, notes, storage=storage, check=stops.check)
    except UserError:  # such as data that are not there
        discard_empty(folder)
        raise


def _run_missing(lab: "Lab", notes: Console, *, storage: str | None, check: Callable[[], None]) -> bool:
    from evitlab.lab import find_missing
    from evitlab.progress import StudyProgress, show_share
    from evitlab.proxies import read_data
    from evitlab.study import TRAINED, Work
    from evitlab.sweep.run import run_study

    study = lab.study
    missing = find_missing(lab, study.rows())
    if study.file.search is not None or any(work.task in TRAINED for work in missing):
        with show_share(notes, "decoding images") as share:
            read_data(study, on_progress=share)
    with StudyProgress(missing, notes, at_once=lab.at_once) as bar:

        def update(work: Work, share: float) -> None:
            bar.update(work, share)
            check()

        return run_study(
            replace(lab, on_progress=update),
            storage=storage,
            on_found=lambda found: bar.expect(find_missing(lab, found.found_rows())),
        )
