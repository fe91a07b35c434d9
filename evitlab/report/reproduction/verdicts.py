"""The paper's claims judged by all results there are: a verdict each, as table, text and JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from rich.markup import escape
from rich.table import Table

from evitlab.claims import CLAIMS, VERDICTS, Claim
from evitlab.report.reproduction.claim_verdicts import JUDGES
from evitlab.report.reproduction.evidence import MISSING, Finding, Results, describe_part, read_results


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A claim and all that is known of it here."""

    claim: Claim
    findings: tuple[Finding, ...]
    """Of all results that there are, those preferred first."""
    absent: Mapping[str, str]
    """Folder that could judge it too -> why it does not."""

    @property
    def deciding(self) -> Finding | None:
        """The finding that the verdict is of: the first that measured enough."""
        return next((finding for finding in self.findings if finding.verdict != MISSING), None)

    @property
    def verdict(self) -> str:
        """One of `VERDICTS`."""
        return MISSING if self.deciding is None else self.deciding.verdict

    @property
    def caveat(self) -> str:
        """What takes from the verdict: of the finding itself, and other results that say something else."""
        if self.deciding is None:
            return ""
        others = [f for f in self.findings if f.verdict not in (MISSING, self.verdict)]
        beside = [f"{' with '.join(finding.folders)}: {finding.verdict}" for finding in others]
        return "; ".join(text for text in (self.deciding.caveat, *beside) if text)


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """All claims, and the results that they were judged by."""

    judged: tuple[Judged, ...]
    results: Mapping[str, Results]
    smoke: bool

    def count(self) -> dict[str, int]:
        """How many claims have each verdict."""
        return {verdict: sum(each.verdict == verdict for each in self.judged) for verdict in VERDICTS}


def list_folders(claims: Sequence[Claim] = CLAIMS) -> list[str]:
    """All folders of results that some claim can be judged by."""
    return list(dict.fromkeys(name for claim in claims for group in claim.judged_by for name in group))


def judge_claims(
    root: Path, *, smoke: bool = False, studies: Path = Path("studies"), claims: Sequence[Claim] = CLAIMS
) -> Reproduction:
    """Judge every claim by each folder of results that can."""
    found = {name: read_results(root, name, smoke=smoke, studies=studies) for name in list_folders(claims)}
    results = {name: each for name, each in found.items() if isinstance(each, Results)}
    absent = {name: each for name, each in found.items() if isinstance(each, str)}
    judged = tuple(_judge(claim, results, absent) for claim in claims)
    return Reproduction(judged=judged, results=results, smoke=smoke)


def _judge(claim: Claim, results: Mapping[str, Results], absent: Mapping[str, str]) -> Judged:
    judge = JUDGES[claim.judge]
    groups = [group for group in claim.judged_by if all(name in results for name in group)]
    findings = tuple(judge(*(results[name] for name in group), **claim.about) for group in groups)
    lacking = {name: absent[name] for group in claim.judged_by for name in group if name in absent}
    return Judged(claim=claim, findings=findings, absent=lacking)


def claim_frame(reproduction: Reproduction) -> pd.DataFrame:
    """A row a comparison behind a verdict; one for a claim without any. Differences and shares are shares of 1."""
    rows: list[dict[str, Any]] = []
    for judged in reproduction.judged:
        claim = judged.claim
        same = {"claim": claim.name, "source": claim.source, "text": claim.text, "paper": claim.paper}
        same |= {"verdict": judged.verdict, "caveat": judged.caveat}
        for finding in judged.findings:
            of: dict[str, Any] = {"results": " ".join(finding.folders), "results_verdict": finding.verdict}
            of["decides"] = finding is judged.deciding
            rows += [same | of | _plain(asdict(part)) for part in finding.parts]
        if not judged.findings:
            rows.append(same)
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"n": "Int64", "decides": "boolean"})


COLUMNS = {
    "claim": "its name",
    "source": "figure, table or section of the paper",
    "text": "what is claimed",
    "paper": "the paper's own evidence",
    "verdict": "of the claim: one of `VERDICTS`",
    "caveat": "what takes from it",
    "results": "folders of results",
    "results_verdict": "what these alone say",
    "decides": "whether the verdict is theirs",
    "what": "what the number is of",
    "part_verdict": "what it says alone",
    "value": "as its unit says; a share or a difference of shares is one of 1, not of 100",
    "low": "of its 95% interval; empty where there is none",
    "high": "its upper end",
    "n": "repeats behind it",
    "of": "what these are",
    "unit": "points, share, ratio or tau",
    "note": "further numbers",
}
"""Column of `claims.csv` -> meaning."""


def _plain(part: dict[str, Any]) -> dict[str, Any]:
    return {"part_verdict" if name == "verdict" else name: value for name, value in part.items()}


def as_plain(reproduction: Reproduction) -> list[dict[str, Any]]:
    """All of it as plain data, for JSON."""
    return [
        {
            "claim": judged.claim.name,
            "source": judged.claim.source,
            "text": judged.claim.text,
            "paper": judged.claim.paper,
            "verdict": judged.verdict,
            "caveat": judged.caveat,
            "findings": [asdict(finding) for finding in judged.findings],
            "not_there": dict(judged.absent),
        }
        for judged in reproduction.judged
    ]


def summarise(reproduction: Reproduction) -> str:
    """How many claims have which verdict."""
    told = ", ".join(f"{verdict}: {count}" for verdict, count in reproduction.count().items())
    return f"{len(reproduction.judged)} claims. {told[:1].upper()}{told[1:]}."


def render_claims(reproduction: Reproduction) -> Table:
    """For a terminal: a row a claim, its verdict and the first number behind it."""
    shown = Table(title="The paper's claims", box=None, padding=(0, 1, 0, 0))
    shown.title_justify = shown.caption_justify = "left"
    for name in ("source", "claim", "verdict", "by"):
        shown.add_column(name, overflow="fold")
    for judged in reproduction.judged:
        verdict = judged.verdict + (f" ({judged.caveat})" if judged.caveat else "")
        by = "" if judged.deciding is None else f"{' with '.join(judged.deciding.folders)}: "
        cells = (judged.claim.source, judged.claim.short, verdict, by + describe_evidence(judged))
        shown.add_row(*(escape(cell) for cell in cells))
    shown.caption = escape(summarise(reproduction))
    return shown


def describe_evidence(judged: Judged) -> str:
    """The first number that says what the verdict says, with its interval; empty where nothing did."""
    if judged.deciding is None:
        return ""
    part = next(part for part in judged.deciding.parts if part.verdict == judged.verdict)
    return describe_part(replace(part, note=""))
