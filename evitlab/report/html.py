"""One self-contained page for a study: question, expectation, result, conditions, and every repeat behind it."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

import pandas as pd

from evitlab.records import Record
from evitlab.report.markup import (
    Page,
    Picture,
    Section,
    fill_page,
    html_conditions,
    html_facts,
    html_figure,
    html_footer,
    html_repeats,
    html_section,
    html_table,
    smoke_warning,
    two_lines,
)
from evitlab.report.page_data import embed_json, embed_packed, list_networks, list_points
from evitlab.report.tables import readable

RULES = {
    "proxy_width": (
        "Accuracies are a proxy's, not ImageNet's: they rank variants only as far as the proxy stands for the "
        "network that was timed."
    ),
    "top1": (
        "Accuracy intervals are Student t 95% intervals of the mean over seeds. They cover the luck of a "
        "seed, not the choice of data or budget."
    ),
    "macro_auc": (
        "Macro AUC is the mean over the classes of the area under the ROC curve, one class against the rest; "
        "50% is chance."
    ),
    "ece": ("ECE is the expected calibration error: how far confidence is from accuracy, in 15 bins of equal width."),
    "paper_top1": "The paper's values are of its own data and training: compare their order, not their height.",
    "infer_samples_per_sec": (
        "Throughput holds for the machine, versions and settings named below. Intervals are bootstrap 95% "
        "intervals of the median; they do not cover a change of machine."
    ),
    "speed_ratio": (
        "Speed over base, or another reference, compares timings taken in turn, round by round. Many variants are "
        "timed a few at a time, each time with their references: the machine may be faster one time, which moves "
        "images/s but not the ratios."
    ),
    "memory_bound_share": (
        "Memory-bound operators are copies and reshapes, element-wise operations and norms; the share is of "
        "operator time, not of wall time."
    ),
    "macs": (
        "MACs are multiply-accumulates of convolutions, linear layers and attention products; papers print "
        'them as "FLOPs".'
    ),
}
"""How to read a column of a study's table."""


def render_page(
    page: Page,
    *,
    table: pd.DataFrame,
    pictures: Sequence[Picture],
    records: Sequence[Record],
    files: Mapping[str, Sequence[str]] | None = None,
    sections: Sequence[Section] = (),
) -> str:
    """The page as one HTML text: no network, images and script inside, everything escaped.

    `table` comes from `study_table` and `records` from `select_records`, called alike; `files` are paths of further
    files by variant, from the page, that it links to; `sections` stand below the figures. Nothing in the page depends
    on when it was made, so equal records give equal pages.
    """
    return fill_page(
        title=escape(f"{page.study}: {page.question}"),
        study=escape(page.study),
        question=escape(page.question),
        facts=html_facts(page, find(table)),
        warning=smoke_warning(records),
        proxy=_proxy_note(table, page),
        table=_result_table(table),
        figures="\n".join([*(html_figure(picture) for picture in pictures), *_links(files or {})]),
        sections="\n".join(html_section(number, section) for number, section in enumerate(sections)),
        failures=_failures(table, records),
        meaning=_meaning(table, notes=page.notes),
        conditions=html_conditions(records),
        repeats="\n".join(
            html_repeats(variant, records, place=f"repeats{number}") for number, variant in enumerate(table["variant"])
        ),
        data=embed_json("points", list_points(table)) + embed_packed("networks", list_networks(records)),
        footer=html_footer(records),
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


def _proxy_note(table: pd.DataFrame, page: Page) -> str:
    if not page.proxy_note:
        return ""
    kind = "Proxy." if table["proxy_width"].notna().any() else "Accuracy."
    return f'<p class="note"><strong>{kind}</strong> {escape(page.proxy_note)}</p>'


def _result_table(table: pd.DataFrame) -> str:
    text = readable(table).drop(columns="not measured", errors="ignore")
    rows = [
        [f'<a href="#repeats{number}">{escape(name)}</a>', *map(two_lines, cells)]
        for number, (name, *cells) in enumerate(text.itertuples(index=False))
    ]
    caption = "Small print below a value: its 95% interval. A variant's name leads to its every repeat."
    return html_table(text.columns, rows, caption=caption, kind="results sortable")


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
    listed = html_table(["variant", "files"], rows, caption=caption, kind="text")
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
    needed = [text for column, text in RULES.items() if table[column].notna().any()]
    paragraphs = "".join(f"<p>{escape(text)}</p>" for text in notes.split("\n\n") if text.strip())
    return "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in needed) + f"</ul>{paragraphs}"
