"""One self-contained page for a study: question, expectation, result, conditions, and every repeat behind it."""

import json
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from importlib import resources
from string import Template
from typing import Any
from urllib.parse import quote

import pandas as pd

from evitlab.records import Environment, Record
from evitlab.report.repeats import RAW
from evitlab.report.tables import readable
from evitlab.store import measured


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


def render_page(
    page: Page,
    *,
    table: pd.DataFrame,
    pictures: Sequence[Picture],
    records: Sequence[Record],
    files: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """The page as one HTML text: no network, no script, images inside, everything escaped.

    `table` comes from `study_table` and `records` from `select_records`, called alike; `files` are paths of further
    files by variant, from the page, that it links to. Nothing in the page depends on when it was made, so equal
    records give equal pages.
    """
    template = Template(resources.files("evitlab.report").joinpath("page.html").read_text(encoding="utf-8"))
    starts = sorted(record.start for record in records)
    span = f", measured {starts[0]} to {starts[-1]}" if starts else ""
    return template.substitute(
        title=escape(f"{page.study}: {page.question}"),
        study=escape(page.study),
        question=escape(page.question),
        facts=_facts(page),
        warning=_smoke_warning(records),
        findings="".join(f"<p>{escape(sentence)}</p>" for sentence in find(table)),
        proxy=_proxy_note(table, page),
        table=_result_table(table),
        figures="\n".join([*(_figure(picture) for picture in pictures), *_links(files or {})]),
        failures=_failures(table, records),
        meaning=_meaning(table, notes=page.notes),
        conditions=_conditions(records),
        repeats="\n".join(_variant_details(variant, records) for variant in table["variant"]),
        footer=escape(f"Made by evitlab from {len(records)} records{span}."),
    )


def find(table: pd.DataFrame) -> list[str]:
    """The result in sentences: the most accurate variant, which others its interval covers, the speeds reached."""
    sentences = []
    kind = "proxy top-1" if table["proxy_width"].notna().any() else "top-1"
    if table["top1"].notna().any():
        best = table.loc[table["top1"].idxmax()]
        sentences.append(f"Highest {kind}: {best['variant']} with {_interval(best, 'top1', scale=100, unit='%')}.")
        high = table["top1_high"].fillna(table["top1"])
        near = table[(high >= best["top1_low"]) & (table["variant"] != best["variant"])]
        if pd.isna(best["top1_low"]):
            sentences.append("One seed gives no interval: differences between variants may be chance.")
        elif len(near):
            sentences.append(
                f"Its 95% interval overlaps that of {', '.join(near['variant'])}: the study does not tell these apart."
            )
        else:
            sentences.append("Its 95% interval overlaps no other.")
    if table["paper_top1"].notna().any():
        best = table.loc[table["paper_top1"].idxmax()]
        sentences.append(f"In the source, on its own data, {best['variant']} is highest.")
    speeds = table["speed_ratio"][table["speed_ratio_low"].notna()]
    if len(speeds):
        over = " or ".join(table["speed_reference"][speeds.index].unique())
        sentences.append(f"Measured speed over {over}: {speeds.min():.2f} to {speeds.max():.2f}.")
    shares = table.set_index("variant")["memory_bound_share"].dropna()
    if len(shares) > 1:
        low, high = shares.idxmin(), shares.idxmax()
        ends = f"{100 * shares[low]:.1f}% ({low}) to {100 * shares[high]:.1f}% ({high})"
        sentences.append(f"Memory-bound share of operator time: {ends}.")
    return sentences


def _interval(row: "pd.Series[Any]", name: str, *, scale: float, unit: str) -> str:
    text = f"{scale * row[name]:.1f}{unit}"
    if pd.isna(row[f"{name}_low"]):
        return text
    low, high = scale * row[f"{name}_low"], scale * row[f"{name}_high"]
    return f"{text} (95% interval {low:.1f}-{high:.1f}, n={row['top1_seeds']} seeds)"


def _facts(page: Page) -> str:
    facts = {"Source": page.source, "Expectation": page.expect, "Verdict": page.verdict, "Cost": page.cost}
    items = (f"<dt>{name}</dt><dd>{_paragraphs(text)}</dd>" for name, text in facts.items() if text.strip())
    return "<dl>" + "".join(items) + "</dl>"


def _paragraphs(text: str) -> str:
    first, *others = (escape(part.strip()) for part in text.split("\n\n") if part.strip())
    return first + "".join(f"<p>{part}</p>" for part in others)


def _smoke_warning(records: Sequence[Record]) -> str:
    if not any(record.smoke for record in records):
        return ""
    return '<p class="note"><strong>Smoke run.</strong> Tiny sizes: these numbers mean nothing.</p>'


def _proxy_note(table: pd.DataFrame, page: Page) -> str:
    if not page.proxy_note:
        return ""
    kind = "Proxy." if table["proxy_width"].notna().any() else "Accuracy."
    return f'<p class="note"><strong>{kind}</strong> {escape(page.proxy_note)}</p>'


def _html_table(headers: Iterable[str], rows: Iterable[Sequence[str]], *, caption: str, kind: str = "") -> str:
    """Cells must be escaped already; the first of each row is its header."""
    head = "".join(f'<th scope="col">{escape(header)}</th>' for header in headers)
    body = "".join(
        f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in rest) + "</tr>\n"
        for first, *rest in rows
    )
    return (
        f'<table class="{kind}"><caption>{escape(caption)}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table>"
    )


def _result_table(table: pd.DataFrame) -> str:
    text = readable(table).drop(columns="not measured", errors="ignore")
    rows = [[_two_lines(cell) for cell in row] for row in text.itertuples(index=False)]
    return _html_table(text.columns, rows, caption="Small print below a value: its 95% interval.")


def _two_lines(cell: str) -> str:
    value, _, interval = escape(cell).partition("\n")
    return f"{value}<br><small>{interval}</small>" if interval else value


def _figure(picture: Picture) -> str:
    data = b64encode(picture.png).decode()
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{escape(picture.alt)}">'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
    )


def _links(files: Mapping[str, Sequence[str]]) -> list[str]:
    """A table of the files that lie beside the page, a row a variant; none where there are none."""
    if not files:
        return []
    rows = [
        [
            escape(variant),
            ", ".join(f'<a href="{quote(path)}">{escape(path.rpartition("/")[2])}</a>' for path in paths)
            or "not here: the curves behind them are not among these results",
        ]
        for variant, paths in files.items()
    ]
    caption = "Evaluation of each variant's first seed: its tables and figures, in files beside this page."
    listed = _html_table(["variant", "files"], rows, caption=caption, kind="text")
    return [f'<div class="wide" role="region" aria-label="Evaluations" tabindex="0">{listed}</div>']


def _failures(table: pd.DataFrame, records: Sequence[Record]) -> str:
    lost = table[table["missing"].notna()]
    if lost.empty:
        return ""
    items = "".join(
        f"<li><strong>{escape(row['variant'])}</strong>: {escape(row['missing'])}</li>" for _, row in lost.iterrows()
    )
    errors = "".join(
        f"<details><summary>{escape(record.variant)}, {escape(record.task)}, seed {record.seed}</summary>"
        f"<div><pre>{escape(record.error or '')}</pre></div></details>"
        for record in records
        if record.status != "ok"
    )
    return (
        f'<section aria-labelledby="missing"><h2 id="missing">Not measured</h2>\n<ul>{items}</ul>\n{errors}</section>'
    )


def _meaning(table: pd.DataFrame, *, notes: str) -> str:
    """The rules of reading, only those that the table needs."""
    rules = [
        ("proxy_width", "Accuracies are a proxy's, not ImageNet's: they rank variants only as far as the proxy "
                        "stands for the network that was timed."),
        ("top1", "Accuracy intervals are Student t 95% intervals of the mean over seeds. They cover the luck of a "
                 "seed, not the choice of data or budget."),
        ("macro_auc", "Macro AUC is the mean over the classes of the area under the ROC curve, one class against the "
                      "rest; 50% is chance."),
        ("ece", "ECE is the expected calibration error: how far confidence is from accuracy, in 15 bins of equal "
                "width."),
        ("paper_top1", "The paper's values are of its own data and training: compare their order, not their height."),
        ("infer_samples_per_sec", "Throughput holds for the machine, versions and settings named below. "
                                  "Intervals are bootstrap 95% intervals of the median; they do not cover a change "
                                  "of machine."),
        ("speed_ratio", "Speed over base compares timings taken in turn, round by round."),
        ("memory_bound_share", "Memory-bound operators are copies and reshapes, element-wise operations and norms; "
                               "the share is of operator time, not of wall time."),
        ("macs", 'MACs are multiply-accumulates of convolutions, linear layers and attention products; papers '
                 'print them as "FLOPs".'),
    ]  # fmt: skip
    needed = [text for column, text in rules if table[column].notna().any()]
    paragraphs = "".join(f"<p>{escape(text)}</p>" for text in notes.split("\n\n") if text.strip())
    return "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in needed) + f"</ul>{paragraphs}"


def _conditions(records: Sequence[Record]) -> str:
    environments: dict[Environment, list[Record]] = {}
    for record in records:
        environments.setdefault(record.environment, []).append(record)
    columns = [asdict(environment) for environment in environments]
    rows = [[f"<code>{name}</code>", *(_plain(column[name]) for column in columns)] for name in (columns or [{}])[0]]
    rows.append(["records", *(str(len(own)) for own in environments.values())])
    headers = ["field", *(f"environment {number}" for number in range(1, len(columns) + 1))]
    parts = [_html_table(headers, rows, caption="Machine and software.", kind="text")] if columns else []
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
    parts.append(_html_table(["task", "settings", "seeds", "records"], rows, caption=caption, kind="text"))
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


def _variant_details(variant: str, records: Sequence[Record]) -> str:
    own = [r for r in records if r.variant == variant and r.status in ("ok", "stopped")]
    rows = []
    configs: dict[str, list[str]] = {}
    for record in own:
        rows.append([escape(record.task), str(record.seed), escape(RAW[record.task](measured(record)))])
        tasks = configs.setdefault(json.dumps(record.config), [])
        if record.task not in tasks:
            tasks.append(record.task)
    body = _html_table(["task", "seed", "values"], rows, caption="In the order taken.", kind="text")
    body += "".join(
        f"<p>Network of {escape(', '.join(tasks))}:</p><pre>{escape(config)}</pre>" for config, tasks in configs.items()
    )
    return f"<details><summary>{escape(variant)}</summary><div>{body}</div></details>"
