"""Everything that prunings leave for people: tables, figures and a page, written from their records."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

import pandas as pd

from evitlab.measurements.pruning import Pruning
from evitlab.paper import PRUNED_TOP1
from evitlab.records import Record
from evitlab.report.folders import PAGE, word_question
from evitlab.report.frame import Drawn
from evitlab.report.markup import (
    Page,
    Picture,
    fill_page,
    html_conditions,
    html_facts,
    html_figure,
    html_footer,
    html_repeats,
    html_table,
    read_verdict,
    smoke_warning,
    two_lines,
)
from evitlab.report.page_data import embed_packed, list_networks
from evitlab.report.pruning.claims import claim_table, find_others
from evitlab.report.pruning.figures import accuracy_plot, channels_plot
from evitlab.report.pruning.tables import (
    channel_text,
    describe_accuracy,
    describe_scores,
    describe_speed,
    describe_unprunable,
    find_published,
    group_targets,
    summarise,
)
from evitlab.report.tables import percent
from evitlab.store import measured, write_atomically

SOURCE = "EfficientViT (Liu et al., CVPR 2023), Fig. 5; for DeiT-T Fig. 5 of its supplement"
EXPECT = (
    "Q and K are trimmed most, V is kept near the embedding width, the last blocks are trimmed most, and the FFN is "
    "trimmed more in Swin-T than in DeiT-T."
)
MEANING = (
    "Channels are cut for the whole network at once: of all Q and K, V and FFN channels, what matters least for the "
    "cost that it saves. What is weighed against what therefore depends on the cost, which is named with every result.",
    "The control is an untrained network of the same config that went through the same scoring and cutting. A pattern "
    "that it shows too says something about such networks and scores, and nothing about what training made of them.",
    "Top-1 intervals are over images (one seed: Wilson's) or seeds (Student t); neither covers another data set.",
    "Fine-tuning also trains the network longer than it had been: an accuracy above the one before does not mean that "
    "pruning helped.",
    "Throughput holds for the machine, batch and settings named below, explicit attention in both networks.",
    "The paper's curve is of ImageNet weights and its own target: compare shapes, not heights.",
)


def draw_prunings(records: Sequence[Record]) -> dict[str, Drawn]:
    """Figures by file name."""
    names = ", ".join(dict.fromkeys(record.variant for record in records))
    return {
        "channels": Drawn(
            figure=channels_plot(records, title=f"Channels left of {names}, block by block"),
            alt="Channels over the embedding width by block, of QK, V and FFN, beside the untrained control's.",
            caption="As the paper's Fig. 5. Dashed grey: the same procedure on an untrained network.",
        ),
        "steps": Drawn(
            figure=accuracy_plot(records, title=f"Accuracy of {names} on the way"),
            alt="Top-1 against the MACs left, step by step, beside the untrained control's.",
            caption="Open markers right after a cut, filled after fine-tuning; bars: 95% intervals.",
        ),
    }


def write_page(records: Sequence[Record], pictures: Sequence[Picture], folder: Path) -> None:
    """Write the page, with these pictures, beside the records in one step."""
    write_atomically(folder / PAGE, render_page(records, pictures, folder))


def ask(records: Sequence[Record], folder: Path) -> Page:
    """What prunings answer, in the words of their page."""
    question, _ = word_question(["prune"], (record.variant for record in records))
    verdict = read_verdict(folder)
    return Page(study=folder.name, question=question, source=SOURCE, expect=EXPECT, cost="", verdict=verdict)


def render_page(records: Sequence[Record], pictures: Sequence[Picture], folder: Path) -> str:
    """The page as one HTML text: no network, images and script inside, everything escaped."""
    page = ask(records, folder)
    names = list(dict.fromkeys(record.variant for record in records))
    claims = claim_table(records, find_others(records, folder))
    return fill_page(
        title=escape(f"{page.study}: {page.question}"),
        study=escape(page.study),
        question=escape(page.question),
        facts=html_facts(page, find(records, claims)),
        warning=smoke_warning(records),
        proxy=_note_origin(records),
        table=_to_html(summarise(records), caption=describe_accuracy(records)),
        figures="\n".join([_claims_to_html(claims), *map(html_figure, pictures), *_channels_to_html(records)]),
        failures="",
        meaning="<ul>" + "".join(f"<li>{escape(text)}</li>" for text in _meanings(records)) + "</ul>",
        conditions=html_conditions(records),
        repeats="\n".join(html_repeats(name, records) for name in names),
        data=embed_packed("networks", list_networks(records)),
        footer=html_footer(records),
    )


def find(records: Sequence[Record], claims: pd.DataFrame) -> list[str]:
    """The result in sentences: what each target cost, and which claims hold."""
    sentences = []
    for label, own in group_targets(records).items():
        found: Pruning = measured(own[0])
        last = found.finetuned or found.pruned
        text = f"{own[0].variant} at {label}: top-1 {percent(found.before.top1)}% before, "
        text += f"{percent(found.pruned.top1)}% after pruning"
        text += f", {percent(last.top1)}% after fine-tuning" if found.finetuned else ""
        speed = found.speed_after
        if speed.ratio is not None and speed.ratio_low is not None and speed.ratio_high is not None:
            text += f"; {speed.ratio:.2f}x as fast ({speed.ratio_low:.2f}-{speed.ratio_high:.2f})"
        sentences.append(text + (f" (seed {own[0].seed} of {len(own)})." if len(own) > 1 else "."))
    for claim, rows in claims.groupby("claim", sort=False):
        by_verdict = rows.groupby("verdict", sort=False)["target"].apply(", ".join)
        verdicts = "; ".join(f"{verdict} ({targets})" for verdict, targets in by_verdict.items())
        sentences.append(f"{str(claim)[0].upper()}{str(claim)[1:]}: {verdicts}.")
    return sentences


def _meanings(records: Sequence[Record]) -> list[str]:
    found: Pruning = measured(records[0])
    paper = PRUNED_TOP1.get(find_published(records[0].config) or "")
    own = [describe_scores(found), describe_speed(found), *describe_unprunable(found)]
    if paper is not None:
        own.append(f"In the paper, on ImageNet, top-1 was {paper[0]}% before and {paper[1]}% after.")
    return [*own, *MEANING]


def _note_origin(records: Sequence[Record]) -> str:
    origins = dict.fromkeys(measured(record).origin for record in records)
    return "".join(f'<p class="note"><strong>Weights.</strong> {escape(origin)}.</p>' for origin in origins)


def _claims_to_html(claims: pd.DataFrame) -> str:
    names = {"claim": "claim", "target": "target", "kept": "channels kept", "control_kept": "control", "verdict": ""}
    text = claims.reindex(columns=list(names)).fillna("").astype(str)
    rows = [[escape(cell) for cell in row] for row in text.itertuples(index=False)]
    caption = "The paper's claims, and whether an untrained network meets them as well."
    return _wide(html_table(names.values(), rows, caption=caption, kind="text"), "Claims")


def _channels_to_html(records: Sequence[Record]) -> list[str]:
    shown = []
    for label, own in group_targets(records).items():
        title = f"{own[0].variant} at {label}: channels over the embedding width, by block"
        shown.append(_to_html(channel_text(own, heads=True), caption=title))
    return shown


def _to_html(text: pd.DataFrame, *, caption: str) -> str:
    rows = [[two_lines(str(cell)) for cell in row] for row in text.itertuples(index=False)]
    return _wide(html_table(text.columns, rows, caption=caption), caption)


def _wide(table: str, label: str) -> str:
    return f'<div class="wide" role="region" aria-label="{escape(label)}" tabindex="0">{table}</div>'
