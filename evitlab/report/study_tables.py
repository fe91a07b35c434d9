"""A study's results as they were when it last ran: the study, its table, and the paper's differences beside ours."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from evitlab.records import Record
from evitlab.report.comparison.paper import Comparison, compare_with_paper
from evitlab.report.folders import STUDY_COPY
from evitlab.report.tables import select_records, study_table
from evitlab.study import Study, load_study

TABLE = "table.csv"


def read_study(folder: Path, records: Sequence[Record], *, seed: int = 0, smoke: bool = False) -> Study:
    """The study whose copy lies in a folder of results, as it was when it last ran; of a search with what it found."""
    name = folder.parent.name if smoke else folder.name
    return replace(load_study(folder / STUDY_COPY, seed=seed, smoke=smoke), name=name).with_recorded(records)


def tabulate(study: Study, records: Sequence[Record], where: Mapping[str, Any]) -> pd.DataFrame:
    """The study's table of the records made under the conditions `where`; see `study_table`."""
    return study_table(
        of_seeds(study, records),
        study=study.name,
        requests=study.requests(),
        where=where,
        smoke=study.smoke,
        paper_top1=study.paper_top1(),
    )


def compare(study: Study, records: Sequence[Record], where: Mapping[str, Any]) -> Comparison | None:
    """The study's differences beside its source's, where it cites accuracies; see `compare_with_paper`."""
    chosen = select_records(
        of_seeds(study, records), study=study.name, requests=study.requests(), where=where, smoke=study.smoke
    )
    return compare_with_paper(study, tabulate(study, records, where), chosen)


def describe_proxy(study: Study) -> str:
    """What the accuracies of a study are of, and what not; empty where it trains nothing."""
    train = study.tasks.train
    if train is None:
        return ""
    what = "the network itself"
    if train.proxy is not None:
        what = f"a proxy of the network timed: the same knobs at {_show_knobs(train.proxy)} (scaled as the network was)"
    recipe = train.recipe
    length = (
        f"{recipe.steps} steps"
        if recipe.epochs is None
        else f"{recipe.epochs:g} {'epoch' if recipe.epochs == 1 else 'epochs'} in batches"
    )
    data = train.data if isinstance(train.data, str) else ", ".join(train.data)
    return (
        f"Accuracy is that of {what}, trained for {length} of {recipe.batch_size} images of "
        f"the data set '{data}' with {len(train.seeds)} seeds."
        + ("" if data == "imagenet" else " It is not ImageNet's.")
    )


def _show_knobs(knobs: Mapping[str, Any]) -> str:
    """Knobs in words; those of several networks one after the other, equal ones once."""
    if all(isinstance(value, dict) for value in knobs.values()):
        names: dict[str, list[str]] = {}
        for name, own in knobs.items():
            names.setdefault(_show_knobs(own), []).append(name)
        return "; ".join(f"{', '.join(same)}: {words}" for words, same in names.items())
    return ", ".join(f"{name} {value}" for name, value in knobs.items())


def of_seeds(study: Study, records: Sequence[Record]) -> list[Record]:
    """The records of the seeds that a study asks for."""
    return [record for record in records if record.seed in study.seeds(record.task)]
