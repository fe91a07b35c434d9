"""What a search leaves beside its table: the front, its growth, early stopping replayed."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from evitlab.records import Record
from evitlab.report.frame import Drawn
from evitlab.report.markup import Picture, write_pictures
from evitlab.report.search.figures import importance_bars, search_front
from evitlab.report.search.tables import front_table, growth_table, replay_table
from evitlab.report.tables import to_csv
from evitlab.store import write_atomically
from evitlab.study import Study
from evitlab.sweep.domination import list_rivals

IMPORTANCE = "importance.csv"
"""What a search leaves beside its records, see `sweep.knob_importance`."""


def write_search(
    study: Study, table: pd.DataFrame, chosen: Sequence[Record], folder: Path, *, subtitle: str
) -> list[Picture]:
    """Write front, hypervolume and early stopping as tables and a figure; give the page's picture.

    None where the study does not search, or where nothing is trained yet.
    """
    rivals = list_rivals(chosen)
    if study.file.search is None or not rivals:
        return []
    front = front_table(table, named=set(study.file.variants or ()))
    growth = growth_table(rivals)
    for name, found in (("front", front), ("hypervolume", growth), ("early_stopping", replay_table(rivals))):
        write_atomically(folder / f"{name}.csv", to_csv(found))
    figure = search_front(front, growth, title=study.file.question, subtitle=subtitle)
    alt = "Accuracy over speed of every subnetwork trained, found and made by hand apart; the numbers are in front.csv."
    caption = (
        "The front that the search found beside what was made by hand, and its hypervolume as variants were trained."
    )
    drawn = {"front": Drawn(figure=figure, alt=alt, caption=caption)}
    if (folder / IMPORTANCE).exists():
        importance = pd.read_csv(folder / IMPORTANCE, keep_default_na=False, na_values={"spread": ""})
        drawn["importance"] = Drawn(
            figure=importance_bars(importance, title="Which knobs matter"),
            alt=f"Importance of each knob for each objective, by two evaluators; the numbers are in {IMPORTANCE}.",
            caption=f"Correlated with the outcome over the variants tried, not its cause. Numbers: {IMPORTANCE}.",
        )
    return write_pictures(drawn, folder)
