"""Studies on many machines: where they share their trials, and how the records of all come home."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from evitlab.commands.training import DataRoot

StorageOption = Annotated[
    str | None,
    typer.Option(
        envvar="EVITLAB_STORAGE",
        show_envvar=True,
        help="Share the study with other workers: postgresql://USER:PASSWORD@HOST/DATABASE, or the path of a journal "
        "file on a shared disk.",
    ),
]


def collect(
    study: Annotated[Path, typer.Argument(help="The study's YAML file.")],
    storage: StorageOption = None,
    results: Annotated[Path, typer.Option(help="Folder that holds a folder of results for each study.")] = Path(
        "results"
    ),
    data_root: DataRoot = None,
    seed: Annotated[int, typer.Option(min=0, help="The one that the workers were given.")] = 0,
    smoke: Annotated[bool, typer.Option("--smoke", help="The records of a smoke run.")] = False,
) -> None:
    """Write the records that all workers of a study have published, with table, figures and page.

    On every machine the same records come out. Speeds of several machines stay apart: choose one with
    `evitlab report NAME --where machine=...`, or see `table_by_machine.csv`.

    Example: evitlab collect studies/subnetworks.yaml --storage /shared/subnetworks.journal
    """
    from evitlab.problems import UserError

    if storage is None:
        raise UserError("--storage must say where the workers share the study, but it is not given")
    from evitlab.report.folders import PAGE, STUDY_COPY
    from evitlab.report.study_report import write_report
    from evitlab.store import write_atomically
    from evitlab.study import load_study, place_data

    read = place_data(load_study(study, seed=seed, smoke=smoke), data_root)
    folder = results / read.name / "smoke" if smoke else results / read.name
    with Console(stderr=True).status("collecting", spinner="dots"):
        from evitlab.sweep.run import collect as collect_records

        records = collect_records(read, folder, storage=storage)
    write_atomically(folder / STUDY_COPY, study.read_text(encoding="utf-8"))
    latest = max(records, key=lambda record: record.start, default=None)
    where = {} if latest is None else latest.environment.conditions
    write_report(read.with_recorded(records), records, where, folder)
    print(f"{len(records)} records: {folder / PAGE}")
