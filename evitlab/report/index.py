"""The page over all results, `index.html`: what each folder asks, what came out in short, and where it lies."""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from string import Template
from urllib.parse import quote

from evitlab.problems import UserError
from evitlab.records import Record
from evitlab.report.folders import PAGE, STUDY_COPY, list_recorded
from evitlab.report.markup import NO_VERDICT, Page, read_part, read_verdict
from evitlab.report.models import page as models_page
from evitlab.report.pruning import report as pruning_report
from evitlab.report.study_tables import TABLE
from evitlab.store import RECORDS, read_records, write_atomically
from evitlab.study import load_study

INDEX = "index.html"
SHOWN = (
    "front", "head_similarity", "knob_curves", "accuracy_lines", "throughput_accuracy", "memory_bound_lines",
    "memory_bound", "channels", "roc", "ratios", "breakdown", "batch_curve", "training",
)  # fmt: skip
"""Figures by what they tell of a folder; the first that lies there is the small picture."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What the index says of one folder."""

    name: str
    page: Page
    """Question, source, expectation and verdict."""
    variants: int
    """Measured with success."""
    machines: Sequence[str]
    is_study: bool
    files: Sequence[str]
    """Names of files there: the page, a table, the records, as far as they exist."""
    picture: str | None
    """Name of a figure there."""
    problem: str = ""
    """Why it cannot be read; empty where it can."""


def write_index(results: Path) -> Path:
    """Write the page over all folders of results that hold records, in one step; where it is."""
    path = results / INDEX
    write_atomically(path, render_index(list_entries(results)))
    return path


def refresh_index(results: Path) -> None:
    """`write_index` at the end of a run; whatever goes wrong is a warning, as the run itself is done."""
    try:
        write_index(results)
    except Exception as error:  # a page must not make hours of measuring look like a failure
        warnings.warn(f"{results / INDEX}: not written ({error})", stacklevel=2)


def list_entries(results: Path) -> list[Entry]:
    """Every folder with records: studies first, each kind by name. A folder that cannot be read says why."""
    entries = [read_entry(results / name) for name in list_recorded(results)]
    return sorted(entries, key=lambda entry: (not entry.is_study, entry.name))


def read_entry(folder: Path) -> Entry:
    """What a folder holds, from its records and the study beside them."""
    is_study = (folder / STUDY_COPY).exists()
    page = Page(study=folder.name, question=folder.name, source="", expect="", cost="", verdict=read_verdict(folder))
    entry = Entry(
        name=folder.name,
        page=page,
        variants=0,
        machines=(),
        is_study=is_study,
        files=_find_files(folder),
        picture=_find_picture(folder),
    )
    try:
        records = read_records(folder)
        done = [record for record in records if record.status == "ok"]
        page, wanted = _read_study(folder, page, done) if is_study else (_ask(folder, done), done)
    except UserError as error:
        return replace(entry, problem=str(error))
    machines = sorted({f"{each.environment.device_name} ({each.environment.machine})" for each in wanted})
    return replace(entry, page=page, variants=len({each.variant for each in wanted}), machines=machines)


def _read_study(folder: Path, page: Page, done: Sequence[Record]) -> tuple[Page, list[Record]]:
    """The words of a study, and those of its records that it still asks for."""
    study = replace(load_study(folder / STUDY_COPY), name=folder.name).with_recorded(done)
    requests = study.requests()
    wanted = [record for record in done if requests.get((record.variant, record.task)) == record.request]
    words = {"question": study.file.question, "source": study.file.source, "expect": study.file.expect}
    return replace(page, **words), wanted


def _ask(folder: Path, done: Sequence[Record]) -> Page:
    pruned = [record for record in done if record.task == "prune"]
    return pruning_report.ask(pruned, folder) if pruned else models_page.ask(done, folder)


def _find_files(folder: Path) -> list[str]:
    tables = [TABLE] if (folder / TABLE).exists() else sorted(path.name for path in folder.glob("*.csv"))[:1]
    return [name for name in (PAGE, *tables, RECORDS) if (folder / name).exists()]


def _find_picture(folder: Path) -> str | None:
    return next((f"{name}.png" for name in SHOWN if (folder / f"{name}.png").exists()), None)


def shorten_verdict(verdict: str) -> str:
    """The first sentence of each paragraph: what disagrees, which often comes second, is not left out."""
    paragraphs = [" ".join(part.split()) for part in verdict.split("\n\n") if part.strip()]
    return " ".join(re.split(r"(?<=[.!?]) (?=[A-Z])", part)[0] for part in paragraphs)


def render_index(entries: Sequence[Entry]) -> str:
    """The page as one HTML text; pictures and further files lie beside it, all else is inside and escaped."""
    groups = {
        "Studies": [entry for entry in entries if entry.is_study],
        "Commands on models": [entry for entry in entries if not entry.is_study],
    }
    sections = [
        f'<section aria-labelledby="group{number}"><h2 id="group{number}">{title}</h2>\n'
        + "\n".join(map(_html_entry, group))
        + "</section>"
        for number, (title, group) in enumerate(groups.items())
        if group
    ]
    body = "\n".join(sections) or "<p>Nothing has been measured yet.</p>"
    return Template(read_part("index.html")).substitute(style=read_part("page.css"), sections=body)


def _html_entry(entry: Entry) -> str:
    title, folder = escape(entry.page.question), quote(entry.name)
    if PAGE in entry.files:
        title = f'<a href="{folder}/{PAGE}">{title}</a>'
    words = {"report.html": "page", RECORDS: "records"}
    links = " ".join(
        f'<a href="{folder}/{quote(name)}">{escape(words.get(name, name))}'
        f'<span class="apart"> of {escape(entry.name)}</span></a>'
        for name in entry.files
    )
    facts = {
        "Source": escape(entry.page.source),
        "Expectation": escape(entry.page.expect),
        "Verdict": escape(shorten_verdict(entry.page.verdict) if entry.page.verdict else NO_VERDICT),
        "Measured": f"{entry.variants} {'variant' if entry.variants == 1 else 'variants'}",
        "Machine": escape(", ".join(entry.machines)),
        "Not readable": escape(entry.problem),
        "Files": links,
    }
    if entry.problem:
        facts.pop("Measured")
    items = "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in facts.items() if text)
    return (
        f'<article class="entry">{_html_picture(entry)}<div><p class="name">{escape(entry.name)}</p>'
        f"<h3>{title}</h3><dl>{items}</dl></div></article>"
    )


def _html_picture(entry: Entry) -> str:
    if entry.picture is None:
        return '<div class="thumb"></div>'
    what = f"Figure {entry.picture.removesuffix('.png').replace('_', ' ')} of {entry.name}"
    place = f"{quote(entry.name)}/{quote(entry.picture)}"
    return f'<a class="thumb" href="{place}"><img src="{place}" alt="{escape(what)}" loading="lazy"></a>'
