"""What the commands on models leave: tables, figures and a page, from their records."""

from collections.abc import Sequence
from pathlib import Path

from evitlab.records import Record
from evitlab.report.folders import PAGE
from evitlab.report.markup import write_pictures
from evitlab.report.models.figures import draw_models, find_pictures
from evitlab.report.models.page import render_page
from evitlab.report.models.tables import render_models, select_task, tabulate_models
from evitlab.report.pruning.report import write_page
from evitlab.report.tables import to_csv
from evitlab.store import write_atomically


def write_models(records: Sequence[Record], folder: Path) -> None:
    """Tables, figures and page of what a command on models recorded, beside its records, each in one step."""
    done = [record for record in records if record.status == "ok"]
    for name, table in tabulate_models(done, mixed=True, folder=folder).items():
        write_atomically(folder / f"{name}.csv", to_csv(table))
    pictures = write_pictures(draw_models(done), folder)
    if pruned := select_task(done, "prune"):
        write_page(pruned, pictures, folder)
        return
    pictures += find_pictures(done, folder)
    shown = render_models(done, mixed=True, folder=folder)
    write_atomically(folder / PAGE, render_page(done, shown=shown, pictures=pictures, folder=folder))
