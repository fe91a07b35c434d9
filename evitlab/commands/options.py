"""What the commands on models share: options, and the desk that they work at."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from evitlab.desk.desk import Desk
    from evitlab.options import ProcessOptions
    from evitlab.records import Record

MODEL_HELP = (
    "A name of the zoo (evitlab list), timm:NAME, the folder of a saved model, or file.py:function. "
    "Knobs may follow a colon: deit_t:mhsa_ratio=0.2,qk_dim=16."
)
Knobs = Annotated[
    list[str] | None, typer.Option("--set", metavar="KNOB=VALUE", help="A knob of every model named; may repeat.")
]
ImageSize = Annotated[str | None, typer.Option(metavar="224|HxW", help="Pixels; otherwise each model's own.")]
Results = Annotated[Path, typer.Option(help="Folder that keeps the results.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")]
Seed = Annotated[int, typer.Option(min=0, help="Of weights, images and the order of timing.")]
Smoke = Annotated[bool, typer.Option("--smoke", help="The same path in tiny sizes; the numbers mean nothing.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of tables for people.")]


@contextmanager
def open_desk(
    command: str,
    names: list[str],
    process: "ProcessOptions",
    results: Path,
    *,
    device: str,
    seed: int,
    smoke: bool,
    called: str | None = None,
) -> "Iterator[Desk]":
    """A desk in this process, set up as asked; mistakes in the folder come before torch is loaded.

    The folder is named after the command and the models, unless it is `called` otherwise.
    """
    from evitlab.options import name_folder
    from evitlab.problems import UserError
    from evitlab.progress import show_share
    from evitlab.store import discard_empty, prepare_folder, read_records

    folder = results / (name_folder(command, names) if called is None else called)
    folder = folder / "smoke" if smoke else folder
    prepare_folder(folder)
    read_records(folder)
    notes = Console(stderr=True, quiet=os.environ.get("RANK", "0") != "0")  # of torchrun's processes, one speaks
    with notes.status("loading torch", spinner="dots"):
        from evitlab.desk.desk import Desk
        from evitlab.environment import describe_environment, pin_threads, tune_allocator
        from evitlab.train.processes import local_device

    if process.tune_allocator:
        tune_allocator()
    pin_threads(process.threads)
    environment = describe_environment(local_device(device))
    try:
        with show_share(notes, f"{command} {' '.join(names)}") as on_progress:
            yield Desk(folder=folder, environment=environment, on_progress=on_progress, seed=seed, smoke=smoke)
    except UserError:  # such as a model that does not exist
        discard_empty(folder)
        raise
    except KeyboardInterrupt:
        notes.print("interrupted; what had been recorded is kept", highlight=False)
        raise typer.Exit(130) from None


def report(records: "list[Record]", desk: "Desk", *, as_json: bool) -> None:
    """Write tables and figures, print the tables."""
    from evitlab.report.models.report import write_models
    from evitlab.report.models.tables import show_models

    write_models(records, desk.folder)
    show_models(records, as_json=as_json, folder=desk.folder)
    if not as_json:
        Console().print(f"records, tables and figures: {desk.folder}", highlight=False, soft_wrap=True)
