"""The folders of results at a glance: what was asked, how many variants, what was measured; no record is checked."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evitlab.store import RECORDS
from evitlab.yamlfile import YamlError, read_yaml

QUESTIONS = {
    "bench": "How fast is {models}?",
    "batch_curve": "How does the speed of {models} grow with the batch?",
    "self_test": "Do intervals of timings hold what they promise? {models} under two names.",
    "profile": "Where does the time of {models} go?",
    "train": "How accurate does {models} become?",
    "evaluate": "How does {models} do on held-out images?",
    "heads": "How alike are the heads of {models}?",
    "prune": "Which channels does pruning leave of {models}, and would it leave them untrained?",
}
"""What a folder's name holds, which the command gave it -> what was asked."""
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
        question=_ask(folder, ", ".join(map(str, variants))),
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


def _ask(folder: Path, models: str) -> str:
    if (folder / STUDY_COPY).is_file():
        try:
            study = read_yaml(folder / STUDY_COPY)
        except YamlError as error:
            return f"{STUDY_COPY}: {error}"
        return str(study.get("question", "")) if isinstance(study, dict) else ""
    asked = next((text for name, text in QUESTIONS.items() if f"_{name}_" in f"_{folder.name}"), "")
    return asked.format(models=models)
