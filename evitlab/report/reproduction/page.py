"""The page that says claim by claim what the paper has, what was found here, and the verdict."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from evitlab.records import Record
from evitlab.report.frame import Drawn
from evitlab.report.markup import (
    Page,
    Picture,
    fill_page,
    html_facts,
    html_figure,
    html_footer,
    html_table,
    smoke_warning,
    write_pictures,
)
from evitlab.report.reproduction.evidence import (
    FAILS,
    HOLDS,
    MISSING,
    OPEN,
    Finding,
    Results,
    describe_conditions,
    describe_part,
)
from evitlab.report.reproduction.figures import verdict_plot
from evitlab.report.reproduction.verdicts import Judged, Reproduction, claim_frame, describe_evidence, summarise
from evitlab.report.tables import to_csv
from evitlab.store import write_atomically

FOLDER, PAGE, TABLE, FIGURE = "reproduction", "report.html", "claims.csv", "claims"
QUESTION = "Which claims of the EfficientViT paper hold here, at these budgets?"
SIGNS = {HOLDS: "\u25cf", FAILS: "\u2715", OPEN: "\u25cb", MISSING: "\u2013"}
EXPECT = (
    "The paper trained on ImageNet and timed on a V100. What small budgets on another machine can tell apart, they can "
    "contradict; what they cannot tell apart is said to be open, whatever the means."
)
MEANING = (
    "Holds and does not hold: the 95% interval of what is compared lies on the paper's side of equality, or on the "
    "other. Not separable at this budget: it holds equality, or there is none, as of one seed. A claim of several "
    "parts holds where all do, and does not where one does not.",
    "Accuracies are compared seed by seed, by the paired t test; shares of time by bootstrap intervals over profiled "
    "passes; speeds by timings taken in turn. None covers another data set, budget or machine.",
    "Every claim is judged by itself: of twenty that are neither true nor false, one would look decided by chance.",
    "Where the best of some rows is compared with the best of others, they are the best by their means over the same "
    "seeds: of equals, the group with more rows looks better.",
    "Where several results judge a claim, the verdict is that of the first named: real images before embedded data. "
    "What the others say stands beside it.",
    "Prunings are judged beside an untrained network that was scored and cut alike. What it does too is no evidence "
    "that training matters. They have no interval: a claim holds where it does with every seed.",
)


def write_reproduction(reproduction: Reproduction, root: Path, *, offers: Mapping[str, str]) -> Path:
    """Write page, picture and table, each in one step; return where the page is.

    `offers` says of folders of results that are not whole how they are made, a sentence each.
    """
    folder = root / FOLDER / "smoke" if reproduction.smoke else root / FOLDER
    alt = "A row a claim, marked in the column of its verdict; the table below says the same in words."
    caption = "The number below a verdict: how many claims have it. All numbers: claims.csv."
    overview = verdict_plot(reproduction.judged, title=QUESTION, subtitle=summarise(reproduction))
    pictures = write_pictures({FIGURE: Drawn(figure=overview, alt=alt, caption=caption)}, folder)
    write_atomically(folder / TABLE, to_csv(claim_frame(reproduction)))
    up = "../../" if reproduction.smoke else "../"
    write_atomically(folder / PAGE, render_page(reproduction, pictures, offers=offers, up=up))
    return folder / PAGE


def render_page(
    reproduction: Reproduction, pictures: Sequence[Picture], *, offers: Mapping[str, str], up: str = "../"
) -> str:
    """The page as one HTML text: everything inside, everything escaped; equal results give equal pages.

    `up` leads from its folder to that of all results.
    """
    records = [record for results in reproduction.results.values() for record in results.records]
    source = "EfficientViT (Liu et al., CVPR 2023, arXiv 2305.07027), its figures, tables and supplement"
    verdict = summarise(reproduction)
    page = Page(study=FOLDER, question=QUESTION, source=source, expect=EXPECT, cost="", verdict=verdict)
    return fill_page(
        title=escape(f"{FOLDER}: {QUESTION}"),
        study=escape(FOLDER),
        question=escape(QUESTION),
        facts=html_facts(page, []),
        warning=smoke_warning(records),
        proxy="",
        table=_verdict_table(reproduction, up),
        figures="".join(map(html_figure, pictures)),
        sections="\n".join(_sections(reproduction, up)),
        failures=_list_offers(offers),
        meaning="<ul>" + "".join(f"<li>{escape(text)}</li>" for text in MEANING) + "</ul>",
        conditions=_conditions(reproduction.results),
        repeats=_link_pages(reproduction.results, up),
        data="",
        footer=html_footer(records),
    )


def _verdict_table(reproduction: Reproduction, up: str) -> str:
    rows = []
    for judged in reproduction.judged:
        verdict = f"{SIGNS[judged.verdict]}&nbsp;{escape(judged.verdict)}"
        verdict += f"<br>{escape(judged.caveat)}" if judged.caveat else ""
        anchor = f'<a href="#{judged.claim.name}">{escape(judged.claim.text)}</a>'
        evidence = _html_evidence(judged, reproduction.results, up)
        rows.append([escape(judged.claim.source), anchor, escape(judged.claim.paper), evidence, verdict])
    headers = ["source", "claim", "in the paper", "here", "verdict"]
    return html_table(
        headers, rows, caption="Here: the first number that decides; all of them below.", kind="text sortable"
    )


def _html_evidence(judged: Judged, results: Mapping[str, Results], up: str) -> str:
    """What decided, with links to its pages, or why nothing could."""
    if judged.deciding is None:
        return escape("; ".join(f"{name}: {why}" for name, why in judged.absent.items()))
    names = " with ".join(_link(results[name], up) for name in judged.deciding.folders)
    return f"{names}: {escape(describe_evidence(judged))}"


def _sections(reproduction: Reproduction, up: str) -> list[str]:
    """A section for each figure or table of the paper, in the order of the claims."""
    groups: dict[str, list[Judged]] = {}
    for judged in reproduction.judged:
        groups.setdefault(judged.claim.source.partition(", row")[0], []).append(judged)
    sections = []
    for number, (source, own) in enumerate(groups.items()):
        body = "\n".join(_html_claim(judged, reproduction.results, up) for judged in own)
        body = f"<dl>{_judges(own, reproduction.results, up)}</dl>\n{body}"
        heading = f'<h2 id="source{number}">{escape(source)}</h2>'
        sections.append(f'<section aria-labelledby="source{number}">{heading}\n{body}</section>')
    return sections


def _judges(own: Sequence[Judged], results: Mapping[str, Results], up: str) -> str:
    """What the numbers of a section are of, and where they were made; once for all its claims."""
    names = dict.fromkeys(name for judged in own for finding in judged.findings for name in finding.folders)
    words = (
        f"<dt>{_link(results[name], up)}</dt><dd>{escape(describe_conditions(results[name]))}</dd>" for name in names
    )
    return "".join(words)


def _html_claim(judged: Judged, results: Mapping[str, Results], up: str) -> str:
    claim = judged.claim
    verdict = judged.verdict + (f" ({judged.caveat})" if judged.caveat else "")
    facts = f"<dt>In the paper</dt><dd>{escape(claim.paper)}</dd>"
    facts += f"<dt>Verdict</dt><dd>{SIGNS[judged.verdict]} {escape(verdict)}</dd>"
    found = "".join(_html_finding(finding, results, up) for finding in judged.findings)
    absent = "".join(f"<dt>{escape(name)}</dt><dd>{escape(why)}</dd>" for name, why in judged.absent.items())
    return f'<h3 id="{claim.name}">{escape(claim.text)}</h3>\n<dl>{facts}{found}{absent}</dl>'


def _html_finding(finding: Finding, results: Mapping[str, Results], up: str) -> str:
    names = " with ".join(_link(results[name], up) for name in finding.folders)
    parts = [f"<li>{escape(describe_part(part))} <em>{escape(part.verdict)}</em></li>" for part in finding.parts]
    parts += [f"<li>{escape(note)}</li>" for note in finding.notes]
    said = f"{SIGNS[finding.verdict]} {escape(finding.verdict)}"
    return f"<dt>{names}</dt><dd>{said}<ul>{''.join(parts)}</ul></dd>"


def _link(results: Results, up: str) -> str:
    if results.page is None:
        return escape(results.name)
    return f'<a href="{up}{quote(results.page)}">{escape(results.name)}</a>'


def _list_offers(offers: Mapping[str, str]) -> str:
    if not offers:
        return ""
    rows = [[f"<code>{escape(name)}</code>", escape(text)] for name, text in offers.items()]
    shown = html_table(["results", "how"], rows, caption="Results that are missing or not whole.", kind="text")
    heading = '<h2 id="missing">Not measured</h2>'
    return f'<section aria-labelledby="missing">{heading}\n{_wide(shown, "Not measured")}</section>'


def _conditions(results: Mapping[str, Results]) -> str:
    rows = [[escape(name), escape(describe_conditions(each)), *_span(each.records)] for name, each in results.items()]
    headers = ["results", "what, and where", "measured from", "until", "records"]
    return _wide(html_table(headers, rows, caption="Each page has them in full.", kind="text"), "Conditions")


def _span(records: Sequence[Record]) -> list[str]:
    starts = sorted(record.start for record in records)
    return [escape(starts[0][:16]), escape(starts[-1][:16]), str(len(records))]


def _link_pages(results: Mapping[str, Results], up: str) -> str:
    links = "".join(f"<li>{_link(each, up)}</li>" for each in results.values())
    return f"<p>On the page of each study:</p><ul>{links}</ul>" if links else "<p>None yet.</p>"


def _wide(table: str, label: str) -> str:
    return f'<div class="wide" role="region" aria-label="{escape(label)}" tabindex="0">{table}</div>'
