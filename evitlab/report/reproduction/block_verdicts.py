"""How heads and prunings judge what the paper says of networks block by block, each beside an untrained control."""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from evitlab.report.heads.report import Heads, collect
from evitlab.report.heads.tables import DEFINITIONS, mean_with_interval
from evitlab.report.pruning.claims import claim_table
from evitlab.report.pruning.tables import find_published, group_targets
from evitlab.report.reproduction.evidence import (
    FAILS,
    HOLDS,
    MISSING,
    OPEN,
    Finding,
    Part,
    Results,
    combine,
    judge_sign,
)

JUDGED = ("caption", "author")
"""The definitions of similarity that the paper's points may follow: both must say so."""
CONTROL = "an untrained network does the same: no evidence that training matters"
Line = Mapping[int, Mapping[int, float]]
"""Block -> seed -> similarity."""


def judge_splits(results: Results, *, family: str) -> Finding:
    """Whether head splits lower similarity in more than half of the blocks: the share of such blocks, seed by seed."""
    found = [heads for heads in collect(results.records) if heads.family == family]
    plain = next((heads for heads in found if heads.kind == "mhsa"), None)
    split = next((heads for heads in found if heads.kind in ("group", "cascaded")), None)
    if plain is None or split is None:
        return _lack(results, f"heads of {family}, plain and with splits")
    parts, controls = [], []
    for definition in JUDGED:
        shares, blocks = _count_lower(plain, split, definition, "itself")
        control, _ = _count_lower(plain, split, definition, "untrained")
        note = f"{_describe_counts(shares, blocks)}{_describe_control(control, blocks)}"
        what = f"blocks with lower similarity, {DEFINITIONS[definition]} definition"
        parts.append(_judge_mean(what, list(shares.values()), than=0.5, unit="share", note=note))
        controls.append(_judge_mean(what, list(control.values()), than=0.5, unit="share", note="").verdict)
    return _conclude(results, parts, controls)


def judge_growth(results: Results, *, family: str) -> Finding:
    """Whether plain heads are more alike in the last third of the blocks than in the first, seed by seed."""
    found = [heads for heads in collect(results.records) if heads.family == family and heads.kind == "mhsa"]
    if not found:
        return _lack(results, f"heads of {family}")
    parts, controls = [], []
    for definition in JUDGED:
        own = _subtract_thirds(found[0].line("features", definition, "itself"))
        control = _subtract_thirds(found[0].line("features", definition, "untrained"))
        note = "" if not control else f"In the untrained network {100 * mean(control.values()):+.1f} points."
        what = (
            f"similarity in the last third of the blocks less that in the first, {DEFINITIONS[definition]} definition"
        )
        parts.append(_judge_mean(what, list(own.values()), than=0.0, unit="points", note=note))
        controls.append(_judge_mean(what, list(control.values()), than=0.0, unit="points", note="").verdict)
    return _conclude(results, parts, controls)


def judge_pruning(results: Results, beside: Results | None = None, *, claim: str) -> Finding:
    """A claim of `pruning_claims.CLAIMS`, or that about two networks; `beside` holds the other network's prunings.

    It holds where it does at every target with every seed; where seeds differ it is open.
    """
    folders = (results.name, *(() if beside is None else (beside.name,)))
    table = claim_table(results.records, () if beside is None else beside.records)
    rows = table[table["claim"] == claim]
    parts = [_judge_target(row, results) for row in rows.to_dict("records")]
    if not parts:
        return Finding(folders=folders, verdict=MISSING, parts=(Part(what=claim, verdict=MISSING),))
    verdict = combine(parts)
    caveats = ["one seed"] if verdict != MISSING and any(part.n == 1 for part in parts) else []
    if verdict == HOLDS and all(rows["control_holds"] == 1):
        caveats.append(CONTROL)
    return Finding(folders=folders, verdict=verdict, parts=tuple(parts), caveat="; ".join(caveats))


def _judge_target(row: Mapping[Any, Any], results: Results) -> Part:
    model = find_published(results.records[0].config) or results.records[0].variant
    what = f"{model} pruned to {row['target']}"
    holds = row.get("holds")
    if holds is None or holds != holds:  # too few blocks, or the other network was not pruned so far
        return Part(what=what, verdict=MISSING, note=f"{row['verdict']}.")
    seeds = len(group_targets(results.records)[row["target"]])
    verdict = HOLDS if holds == 1 else FAILS if holds == 0 else OPEN
    what += f", channels kept {row['kept']} (untrained control {row['control_kept']}); seeds in which it holds"
    note = f"{row['verdict'][:1].upper()}{row['verdict'][1:]}."
    return Part(what=what, verdict=verdict, value=float(holds), n=seeds, unit="share", note=note)


def _count_lower(plain: Heads, split: Heads, definition: str, network: str) -> tuple[dict[int, float], int]:
    """Share of the blocks in which splits are less alike, by seed, and how many blocks there are."""
    first, second = (heads.line("features", definition, network) for heads in (plain, split))
    blocks = [block for block in first if block in second]
    seeds = set.intersection(*({*first[block]} & {*second[block]} for block in blocks)) if blocks else set()
    return {s: mean(second[block][s] < first[block][s] for block in blocks) for s in sorted(seeds)}, len(blocks)


def _describe_counts(shares: Mapping[int, float], blocks: int) -> str:
    counts = [round(share * blocks) for share in shares.values()]
    return f"{', '.join(map(str, counts))} of {blocks} blocks by seed."


def _describe_control(shares: Mapping[int, float], blocks: int) -> str:
    return f" Untrained: {_describe_counts(shares, blocks)}" if shares else ""


def _subtract_thirds(line: Line) -> dict[int, float]:
    """Mean over the last third of the blocks less that over the first, by seed; empty for too few blocks."""
    blocks = sorted(line)
    third = len(blocks) // 3
    if not third:
        return {}
    seeds = set.intersection(*(set(line[block]) for block in blocks))
    first, last = blocks[:third], blocks[-third:]
    return {s: mean(line[b][s] for b in last) - mean(line[b][s] for b in first) for s in sorted(seeds)}


def _judge_mean(what: str, values: Sequence[float], *, than: float, unit: str, note: str) -> Part:
    if not values:
        return Part(what=what, verdict=MISSING, note="No seed has it.")
    value, low, high = mean_with_interval(values)
    verdict = judge_sign(low, high, than=than)
    return Part(what=what, verdict=verdict, value=value, low=low, high=high, n=len(values), unit=unit, note=note)


def _conclude(results: Results, parts: Sequence[Part], controls: Sequence[str]) -> Finding:
    verdict = combine(parts)
    same = verdict == HOLDS and all(each == HOLDS for each in controls)
    return Finding(folders=(results.name,), verdict=verdict, parts=tuple(parts), caveat=CONTROL if same else "")


def _lack(results: Results, what: str) -> Finding:
    part = Part(what=what, verdict=MISSING, note="Not compared.")
    return Finding(folders=(results.name,), verdict=MISSING, parts=(part,))
