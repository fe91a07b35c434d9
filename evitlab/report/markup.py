"""The parts that pages are made of, and their frame: everything that others wrote is escaped here."""

import json
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from urllib.parse import quote

import pandas as pd
from rich.table import Table
from rich.text import Text

from evitlab.records import Environment, Record
from evitlab.report.frame import Drawn, write_figure
from evitlab.report.repeats import RAW
from evitlab.store import measured

VERDICT = "verdict.txt"
"""In a folder of results: what somebody concluded from them, written by hand, shown on the page."""
NO_VERDICT = "No verdict written."


@dataclass(frozen=True, kw_only=True)
class Page:
    """The words of a page; the study's own, in plain text."""

    study: str
    question: str
    source: str
    expect: str
    cost: str
    verdict: str = ""
    """What somebody concluded from these results, paragraphs apart by an empty line; empty where nobody has."""
    proxy_note: str = ""
    """What the accuracies are of, and what not; empty where nothing was trained."""
    notes: str = ""
    """Remarks of the study's author, paragraphs apart by an empty line."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure on the page."""

    png: bytes
    alt: str
    """What the picture shows, for those who cannot see it."""
    caption: str
    files: Sequence[str] = ()
    """Where it lies in files, as paths from the page."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a page with a heading of its own, in plain text."""

    title: str
    paragraphs: Sequence[str]
    tables: Mapping[str, pd.DataFrame]
    """By caption; all cells are text, of which a second line becomes small print."""
    pictures: Sequence[Picture] = ()


def write_pictures(drawn: Mapping[str, Drawn], folder: Path) -> list[Picture]:
    """Write figures, by the names of their files, into the page's folder; give them as the page shows them."""
    pictures = []
    for name, each in drawn.items():
        files = write_figure(each.figure, folder, name, formats=each.formats)
        png = files[f"{name}.png"]
        pictures.append(Picture(png=png, alt=each.alt, caption=each.caption, files=tuple(files)))
    return pictures


def read_verdict(folder: Path) -> str:
    """What somebody concluded from the results in a folder; empty where nobody has."""
    path = folder / VERDICT
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""


def fill_page(*, data: str, sections: str = "", **parts: str) -> str:
    """The page's frame with its script and its parts, HTML already, by the names that stand in `page.html`.

    `data` is what the script reads, see `page_data`.
    """
    script = read_part("page.js")
    code = b64encode(sha256(script.encode()).digest()).decode()
    filled = {"data": data, "sections": sections, "style": read_part("page.css"), "script": script, "script_hash": code}
    return Template(read_part("page.html")).substitute({**parts, **filled})


def read_part(name: str) -> str:
    """One of the files that pages are made of."""
    return resources.files("evitlab.report").joinpath(name).read_text(encoding="utf-8")


def html_footer(records: Sequence[Record]) -> str:
    """How many records a page is made from, and when they were measured."""
    starts = sorted(record.start for record in records)
    span = f", measured {starts[0]} to {starts[-1]}" if starts else ""
    return escape(f"Made by evitlab from {len(records)} records{span}.")


def html_facts(page: Page, findings: Sequence[str]) -> str:
    """Source, expectation, result in sentences, verdict and cost, as far as there are words for them."""
    facts = {
        "Source": page.source,
        "Expectation": page.expect,
        "Result": "\n\n".join(findings),
        "Verdict": page.verdict or NO_VERDICT,
        "Cost": page.cost,
    }
    items = (f"<dt>{name}</dt><dd>{html_paragraphs(text)}</dd>" for name, text in facts.items() if text.strip())
    return "<dl>" + "".join(items) + "</dl>"


def html_paragraphs(text: str) -> str:
    """Plain text as HTML, a paragraph each after an empty line."""
    """Plain text as HTML, a paragraph each after an empty line."""
    first, *others = (escape(part.strip()) for part in text.split("\n\n") if part.strip())
    return first + "".join(f"<p>{part}</p>" for part in others)


def smoke_warning(records: Sequence[Record]) -> str:
    """A warning where the records are those of a smoke run."""
    """A warning where the records are those of a smoke run."""
    if not any(record.smoke for record in records):
        return ""
    return '<p class="note"><strong>Smoke run.</strong> Tiny sizes: these numbers mean nothing.</p>'


LONG = 200
"""From so many rows on, a browser lays out only those in view, in columns whose widths are set beforehand."""


def html_table(headers: Iterable[str], rows: Iterable[Sequence[str]], *, caption: str, kind: str = "") -> str:
    """A table. Cells must be escaped already; the first of each row is its header."""
    headers, rows = list(headers), list(rows)
    head = "".join(f'<th scope="col">{escape(header)}</th>' for header in headers)
    body = "".join(
        f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in rest) + "</tr>\n"
        for first, *rest in rows
    )
    look = f'class="{kind}"' if len(rows) < LONG else f'class="{kind} long" style="--columns: {_set_widths(rows)}"'
    return (
        f"<table {look}><caption>{escape(caption)}</caption>\n"
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table>"
    )


def _set_widths(rows: Sequence[Sequence[str]]) -> str:
    """Shares of the width for CSS, by the longest line of each column, from 6 to 30 letters."""
    lines = [
        [len(re.sub(r"<[^>]*>", "", cell.split("<br>")[0])) for cell in column] for column in zip(*rows, strict=True)
    ]
    return " ".join(f"minmax(0, {min(30, max(6, *column))}fr)" for column in lines)


def html_shown(table: Table) -> str:
    """A table made for the terminal, as the page shows it: sortable, its title and the words below as caption."""
    title, below = _plain_text(table.title), _plain_text(table.caption)
    columns = [[two_lines(_plain_text(cell)) for cell in column.cells] for column in table.columns]
    headers = [_plain_text(column.header).replace("\n", " ") for column in table.columns]
    caption = f"{title}. {below}" if title and below else title + below
    shown = html_table(headers, zip(*columns, strict=True), caption=caption, kind="sortable")
    return f'<div class="wide" role="region" aria-label="{escape(title or "Table")}" tabindex="0">{shown}</div>'


def _plain_text(shown: object) -> str:
    """What the terminal would show, without its markup."""
    return "" if shown is None else Text.from_markup(str(shown)).plain


def html_section(number: int, section: Section) -> str:
    """A part of the page under its own heading; its number makes its id."""
    place = f"section{number}"
    parts = [f"<p>{escape(text)}</p>" for text in section.paragraphs]
    for caption, table in section.tables.items():
        rows = [[two_lines(cell) for cell in row] for row in table.itertuples(index=False)]
        shown = html_table(table.columns, rows, caption=caption, kind="sortable")
        parts.append(f'<div class="wide" role="region" aria-label="{escape(section.title)}" tabindex="0">{shown}</div>')
    parts += [html_figure(picture) for picture in section.pictures]
    body = "\n".join(parts)
    return f'<section aria-labelledby="{place}"><h2 id="{place}">{escape(section.title)}</h2>\n{body}</section>'


def two_lines(cell: str) -> str:
    """A cell as HTML, what follows its first line in small print."""
    """A cell as HTML, what follows its first line in small print."""
    value, _, interval = escape(cell).partition("\n")
    return f"{value}<br><small>{interval}</small>" if interval else value


def html_figure(picture: Picture) -> str:
    """A picture with its caption, inside the page."""
    """A picture with its caption, inside the page."""
    data = b64encode(picture.png).decode()
    links = ", ".join(
        f'<a href="{quote(path)}">{path.rpartition(".")[2].upper()}<span class="apart"> of {escape(path)}</span></a>'
        for path in picture.files
    )
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{escape(picture.alt)}">'
        f"<figcaption>{escape(picture.caption)}{f' Files: {links}.' if links else ''}</figcaption></figure>"
    )


def html_conditions(records: Sequence[Record]) -> str:
    """Machines, software and settings behind some records."""
    """Machines, software and settings behind some records."""
    environments: dict[Environment, list[Record]] = {}
    for record in records:
        environments.setdefault(record.environment, []).append(record)
    columns = [asdict(environment) for environment in environments]
    rows = [[f"<code>{name}</code>", *(_plain(column[name]) for column in columns)] for name in (columns or [{}])[0]]
    rows.append(["records", *(str(len(own)) for own in environments.values())])
    headers = ["field", *(f"environment {number}" for number in range(1, len(columns) + 1))]
    parts = [html_table(headers, rows, caption="Machine and software.", kind="text")] if columns else []
    settings: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        settings.setdefault((record.task, json.dumps(record.settings, sort_keys=True)), []).append(record)
    rows = [
        [
            escape(task),
            f"<code>{escape(text)}</code>",
            ", ".join(map(str, sorted({r.seed for r in own}))),
            str(len(own)),
        ]
        for (task, text), own in settings.items()
    ]
    caption = "What each task was asked to do."
    parts.append(html_table(["task", "settings", "seeds", "records"], rows, caption=caption, kind="text"))
    wide = [f'<div class="wide" role="region" aria-label="Conditions" tabindex="0">{part}</div>' for part in parts]
    return "\n".join([*wide, *_group_warning(records)])


def _group_warning(records: Sequence[Record]) -> list[str]:
    timings = [measured(record) for record in records if record.task == "throughput" and record.status == "ok"]
    groups = {frozenset(timing.group) for timing in timings}
    if len(groups) < 2:
        return []
    return [
        f'<p class="note">The variants were timed in {len(groups)} groups, one after the other. Compare variants '
        "of different groups by their speed over the base, not by their images per second.</p>"
    ]


def _plain(value: object) -> str:
    return "not known" if value is None else escape(str(value))


def html_repeats(variant: str, records: Sequence[Record], *, place: str = "") -> str:
    """Everything behind the numbers of one variant, folded up; a link to its `place` on the page unfolds it."""
    rows = [
        [escape(record.task), str(record.seed), escape(RAW[record.task](measured(record)))]
        for record in records
        if record.variant == variant and record.status in ("ok", "stopped")
    ]
    body = html_table(["task", "seed", "values"], rows, caption="In the order taken.", kind="text")
    name, mark = escape(variant), f' id="{place}"' if place else ""
    return f'<details data-variant="{name}"><summary>{name}</summary><div{mark}>{body}</div></details>'
