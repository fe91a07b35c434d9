"""What a folder of results holds for a claim, and what a judge makes of it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from evitlab.claims import VERDICTS
from evitlab.problems import UserError
from evitlab.records import Record
from evitlab.report.comparison.differences import Difference
from evitlab.report.comparison.paper import Comparison, compare_with_paper
from evitlab.report.folders import PAGE, STUDY_COPY
from evitlab.report.study_tables import describe_proxy, tabulate
from evitlab.report.tables import select_records
from evitlab.store import RECORDS, measured, read_records
from evitlab.study import Study, load_study

HOLDS, FAILS, OPEN, MISSING = VERDICTS


@dataclass(frozen=True, kw_only=True)
class Results:
    """The measurements of one folder that a claim is judged by: made under one set of conditions."""

    name: str
    records: Sequence[Record]
    """Chosen as for the study's own table; of prunings, the `ok` ones."""
    study: Study | None
    """None of prunings."""
    table: pd.DataFrame
    """`study_table`; empty of prunings."""
    comparison: Comparison | None
    page: str | None
    """Its page, from the folder of all results; None where there is none."""
    remarks: tuple[str, ...] = ()
    """What a reader must know of them, such as that other machines have measured too."""

    def missing(self, variant: str) -> str:
        """Why a variant has not all that was asked, in words."""
        reasons = self.table.loc[self.table["variant"] == variant, "missing"]
        return str(reasons.iloc[0]) if len(reasons) and pd.notna(reasons.iloc[0]) else "not run"


@dataclass(frozen=True, kw_only=True)
class Part:
    """One comparison behind a verdict: a number with its interval."""

    what: str
    """What it is of, in words that a number may follow."""
    verdict: str
    value: float | None = None
    low: float | None = None
    """Of its 95% interval; None where one repeat gives none."""
    high: float | None = None
    n: int | None = None
    of: str = "seeds"
    """What is counted by `n`, and what the interval is over."""
    unit: str = "points"
    """points: a difference of shares. ratio: of speeds. share: of some whole. tau: a rank correlation."""
    note: str = ""
    """Further numbers, a sentence or two."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What some results say of a claim."""

    folders: tuple[str, ...]
    verdict: str
    parts: tuple[Part, ...] = ()
    caveat: str = ""
    """What takes from the verdict, in a few words; shown wherever it is."""
    notes: tuple[str, ...] = ()
    """Sentences on all of it: the budget's power, counts, what is missing."""


def read_results(root: Path, name: str, *, smoke: bool = False, studies: Path = Path("studies")) -> Results | str:
    """What a folder of results holds, or in words why it holds nothing to judge by.

    Of several machines, devices or versions that measured the same study, those conditions count under which most was
    measured, of equals the latest: a table never mixes them. Smoke records and others never meet.
    """
    folder = root / name / "smoke" if smoke else root / name
    if not (folder / RECORDS).exists():
        return "no results"
    try:
        records = [record for record in read_records(folder) if record.smoke == smoke]
        if not records:
            return "no measurements"
        done = [record for record in records if record.status == "ok"]
        conditions = _choose_conditions(done or records)
        remarks = _remark(done, conditions)
        page = f"{folder.relative_to(root)}/{PAGE}" if (folder / PAGE).exists() else None
        same: dict[str, Any] = {"name": name, "page": page, "remarks": remarks}
        if any(record.task == "prune" for record in records):
            return _read_prunings(done, conditions, same)
        return _read_study(records, conditions, same, [folder / STUDY_COPY, studies / f"{name}.yaml"], smoke=smoke)
    except UserError as error:
        return f"its results cannot be read: {error}"


def _choose_conditions(records: Sequence[Record]) -> dict[str, Any]:
    """Those that most measurements were made under; of equals the latest."""
    latest = sorted(records, key=lambda record: record.start, reverse=True)
    counts = Counter(tuple(record.environment.conditions.items()) for record in latest)
    return dict(counts.most_common(1)[0][0])


def _remark(records: Sequence[Record], conditions: dict[str, Any]) -> tuple[str, ...]:
    others = [record for record in records if record.environment.conditions != conditions]
    if not others:
        return ()
    machines = len({tuple(record.environment.conditions.items()) for record in others})
    where = "one other machine, device or version" if machines == 1 else f"{machines} other machines or versions"
    return (f"Not counted: {len(others)} measurements of {where}; most were made under the conditions named.",)


def _read_prunings(done: Sequence[Record], conditions: dict[str, Any], same: dict[str, Any]) -> Results | str:
    prunings = [record for record in done if record.task == "prune" and record.environment.conditions == conditions]
    latest = {(record.variant, record.request, record.seed): record for record in prunings}
    chosen = [record for record in latest.values() if measured(record).importance.startswith("taylor")]
    if not chosen:
        return "no pruning by Taylor scores that succeeded"
    return Results(records=chosen, study=None, table=pd.DataFrame(), comparison=None, **same)


def _read_study(
    records: Sequence[Record], conditions: dict[str, Any], same: dict[str, Any], files: Sequence[Path], *, smoke: bool
) -> Results | str:
    """The study as it was when it last ran; where it has never ended, as it is."""
    path = next((path for path in files if path.exists()), None)
    if path is None:
        return f"measurements without a study: neither {' nor '.join(map(str, files))} is there"
    study = replace(load_study(path, smoke=smoke), name=same["name"]).with_recorded(records)
    own = [record for record in records if record.seed in study.seeds(record.task)]
    chosen = select_records(own, study=study.name, requests=study.requests(), where=conditions, smoke=smoke)
    if not chosen:
        return "no measurements of what the study asks"
    table = tabulate(study, own, conditions)
    comparison = compare_with_paper(study, table, chosen)
    return Results(records=chosen, study=study, table=table, comparison=comparison, **same)


def combine(parts: Sequence[Part]) -> str:
    """The verdict on a claim that all of these are parts of.

    It does not hold where one part does not; else it is open, or not measured, where one part is; else it holds.
    """
    found = {part.verdict for part in parts}
    return next((verdict for verdict in (FAILS, MISSING, OPEN, HOLDS) if verdict in found), MISSING)


def judge_sign(low: float | None, high: float | None, *, above: bool = True, than: float = 0.0) -> str:
    """Whether an interval lies above a value (or below it), on its other side, or holds it."""
    if low is None or high is None or low <= than <= high:
        return OPEN
    return HOLDS if (low > than) == above else FAILS


def part_of(found: Difference | None, what: str, *, above: bool = True, note: str = "") -> Part:
    """A difference over seeds as a part; the claim says on which side of 0 it is."""
    if found is None:
        return Part(what=what, verdict=MISSING, note="No seed is shared.")
    verdict = judge_sign(found.low, found.high, above=above)
    return Part(what=what, verdict=verdict, value=found.value, low=found.low, high=found.high, n=found.seeds, note=note)


def describe_part(part: Part) -> str:
    """A part as a sentence: what, how much, how sure."""
    if part.value is None:
        return f"{part.what}: {part.verdict}. {part.note}".strip()
    if part.low is None or part.high is None:
        spread = f"n = {part.n} {_count(part)}, no interval" if part.n is not None else "no interval"
    else:
        counted = f", n = {part.n} {_count(part)}" if part.n is not None else ""
        spread = f"95% interval {_show(part.low, part.unit)} to {_show(part.high, part.unit)}{counted}"
    return f"{part.what}: {_show(part.value, part.unit, unit=True)} ({spread}). {part.note}".strip()


def _count(part: Part) -> str:
    return part.of.removesuffix("s") if part.n == 1 else part.of


def _show(value: float, kind: str, *, unit: bool = False) -> str:
    if kind == "points":
        return f"{100 * value:+.1f}" + (" points" if unit else "")
    if kind == "share":
        return f"{100 * value:.1f}" + ("%" if unit else "")
    return f"{value:.2f}" + ("x" if unit and kind == "ratio" else "")


def describe_conditions(results: Results) -> str:
    """What the numbers are of, and where they were made, in sentences."""
    if results.study is not None:
        first = describe_proxy(results.study)
    else:
        first = " ".join(dict.fromkeys(f"{measured(record).origin}." for record in results.records))
    environment = results.records[-1].environment
    cores = f"{environment.threads} {'thread' if environment.threads == 1 else 'threads'}"
    machine = f"{environment.device_name}, {environment.device}, {cores}, torch {environment.torch}."
    return " ".join(text for text in (first, machine, *results.remarks) if text)
