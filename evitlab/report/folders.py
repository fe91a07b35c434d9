"""The folders of results at a glance: what was asked, how many variants, what was measured; no record is checked."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evitlab.store import RECORDS
from evitlab.yamlfile import YamlError, read_yaml

PAPER = "EfficientViT (Liu et al., CVPR 2023)"
QUESTIONS = {
    "prune": ("Which channels does pruning leave of {}, and would it leave them untrained?", f"{PAPER}, Fig. 5"),
    "heads": ("How alike are the heads of {}?", f"{PAPER}, Fig. 4"),
    "evaluate": ("How well does {} name held-out images, and what does it cost?", ""),
    "operators": ("Where does the time of a forward pass of {} go?", f"{PAPER}, Fig. 2"),
    "self_test": ("Does timing {} against itself find no difference?", ""),
    "batch_curve": ("How does the speed of {} grow with the batch?", ""),
    "train": ("How accurate does {} become?", ""),
    "throughput": ("How fast is {} here?", ""),
    "peaks": ("How much do the machines compute and move in a second?", ""),
    "macs": ("How large is {}?", ""),
}
"""Task -> what its records answer of the models named, and where the question comes from. Of several, the first."""
PAGE, STUDY_COPY = "report.html", "study.yaml"
"""What a study leaves for people, and its copy."""
TABLES = ("table.csv", "pruning.csv", "training.csv", "self_test.csv", "classes.csv", "batch_curve.csv", "heads.csv")
"""Files with the table of a folder; the first that is there counts."""


@dataclass(frozen=True, kw_only=True)
class Folder:
    """One folder of results."""

    name: str
    question: str
    variants: int
    """Networks that something was measured of, the study's base among them."""
    tasks: tuple[str, ...]
    """What was measured, in the order begun."""
    page: str | None
    """File for people, inside the folder."""
    table: str | None
    """File with the table, inside the folder."""


def list_names(results: Path) -> list[str]:
    """Names of the folders with records or smoke runs, the machines' peaks left out."""
    found = {path.parent.name for path in results.glob(f"*/{RECORDS}")}
    found |= {path.parent.parent.name for path in results.glob(f"*/smoke/{RECORDS}")}
    return sorted(found - {"peaks"})


def list_recorded(results: Path) -> list[str]:
    """Names of the folders in which something was recorded, the machines' peaks among them."""
    return sorted(path.parent.name for path in results.glob(f"*/{RECORDS}") if path.stat().st_size)


def list_folders(results: Path) -> list[Folder]:
    """The folders with measurements, by name; the machines' peaks and smoke runs are left out."""
    found = [_look(path.parent) for path in sorted(results.glob(f"*/{RECORDS}")) if path.parent.name != "peaks"]
    return [folder for folder in found if folder.variants]


def describe_folders(folders: Sequence[Folder]) -> list[str]:
    """Lines for a terminal: of each folder its name, variants and what was measured, and below it the question."""
    wide = max((len(folder.name) for folder in folders), default=0)
    lines = []
    for folder in folders:
        count = f"{folder.variants:3} {'variant ' if folder.variants == 1 else 'variants'}"
        lines += [f"{folder.name:{wide}} {count}  {', '.join(folder.tasks)}", f"  {folder.question}"]
    return lines


def _look(folder: Path) -> Folder:
    variants: dict[Any, None] = {}
    tasks: dict[Any, None] = {}
    for record in _skim(folder / RECORDS):
        if record.get("status") == "ok" and not record.get("smoke"):
            variants[record.get("variant")] = tasks[record.get("task")] = None
    files = [name for name in TABLES if (folder / name).is_file()]
    return Folder(
        name=folder.name,
        question=_ask(folder, map(str, tasks), map(str, variants)),
        variants=len(variants),
        tasks=tuple(map(str, tasks)),
        page=PAGE if (folder / PAGE).is_file() else None,
        table=files[0] if files else None,
    )


def _skim(path: Path) -> Iterator[dict[str, Any]]:
    """The records as they are; a line that is none is left to those who read them in earnest."""
    for line in path.read_bytes().splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            yield record


def _ask(folder: Path, tasks: Iterable[str], variants: Iterable[str]) -> str:
    if not (folder / STUDY_COPY).is_file():
        return word_question(tasks, variants)[0]
    try:
        study = read_yaml(folder / STUDY_COPY)
    except YamlError as error:
        return f"{STUDY_COPY}: {error}"
    return str(study.get("question", "")) if isinstance(study, dict) else ""


def word_question(tasks: Iterable[str], models: Iterable[str]) -> tuple[str, str]:
    """What a command's records of these tasks answer of some models, and where the question comes from."""
    measured = set(tasks)
    asked = next((task for task in QUESTIONS if task in measured), None)
    question, source = ("What was measured of {}?", "") if asked is None else QUESTIONS[asked]
    return question.format(", ".join(dict.fromkeys(models))), source
