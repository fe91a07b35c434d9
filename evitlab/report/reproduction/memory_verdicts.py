"""How profiles judge what the paper says of memory-bound operations."""

from collections.abc import Sequence
from math import hypot
from typing import Any

import pandas as pd

from evitlab.checks import BASE
from evitlab.measurements.profile import MEMORY_BOUND, OperatorProfile
from evitlab.report.reproduction.evidence import FAILS, HOLDS, MISSING, Finding, Part, Results, combine, judge_sign
from evitlab.store import measured


def judge_memory_falls(results: Results, *, network: str, ends: tuple[float, float]) -> Finding:
    """Whether the memory-bound share is smaller at the first of two MHSA ratios than at the second, series by series.

    Both intervals are over profiled passes; that of the difference takes them as independent.
    """
    table = results.table.set_index("variant")
    parts, series = [], _list_series(results, network)
    for speed, rows in series.items():
        if lost := [f"MHSA ratio {end:g}" for end in ends if end not in rows or not _is_known(table, rows[end])]:
            parts.append(Part(what=f"at {speed}", verdict=MISSING, note=f"No profile of {' or '.join(lost)}."))
            continue
        few, many = (table.loc[rows[end]] for end in ends)
        value, low, high = _subtract(few, many)
        shares = ", ".join(
            f"{100 * table['memory_bound_share'][name]:.1f}% at {ratio:g}"
            for ratio, name in sorted(rows.items())
            if _is_known(table, name)
        )
        roofline = 100 * (few["roofline_memory_bound_share"] - many["roofline_memory_bound_share"])
        parts.append(
            Part(
                what=f"memory-bound share of {rows[ends[0]]} less that of {rows[ends[1]]}",
                verdict=judge_sign(low, high, above=False),
                value=value,
                low=low,
                high=high,
                n=min(_count_passes(results, rows[end]) for end in ends),
                of="passes",
                note=f"By MHSA ratio: {shares}. By roofline the difference is {roofline:+.1f} points.",
            )
        )
    missed = [name for rows in series.values() for name in rows.values() if _missed(table, name)]
    notes = (f"Not at the speed asked for, by more than the tolerance: {len(missed)} rows.",) if missed else ()
    return Finding(folders=(results.name,), verdict=combine(parts), parts=tuple(parts), notes=notes)


def judge_level(results: Results, *, row: str, share: float) -> Finding:
    """Whether the interval of a row's memory-bound share holds the paper's."""
    table = results.table.set_index("variant")
    if row not in table.index or not _is_known(table, row):
        part = Part(what=row, verdict=MISSING, note="No profile.")
        return Finding(folders=(results.name,), verdict=MISSING, parts=(part,))
    found, low, high = (float(table.loc[row, f"memory_bound_share{end}"]) for end in ("", "_low", "_high"))
    part = Part(
        what=f"memory-bound share of {row}",
        verdict=HOLDS if low <= share <= high else FAILS,
        value=found,
        low=low,
        high=high,
        n=_count_passes(results, row),
        of="passes",
        unit="share",
        note=f"In the paper {100 * share:.2f}%.",
    )
    device = results.records[-1].environment.device_name
    caveat = f"on {device}; the paper's is a V100"
    return Finding(folders=(results.name,), verdict=part.verdict, parts=(part,), caveat=caveat)


def judge_memory_place(results: Results, *, names: Sequence[str]) -> Finding:
    """Whether more of the memory-bound time is MHSA's than the FFN's, in the networks named with explicit attention.

    Profiles keep no spread part by part: the relative spread of the whole memory-bound share over the passes is taken
    for both, and as independent.
    """
    explicit: dict[str, str] = {}
    for variant in [] if results.study is None else results.study.rows():  # of subnetworks the whole comes first
        if variant.knobs.get("attention_path") == "explicit":
            explicit.setdefault(variant.network, variant.name)
    profiles = {r.variant: measured(r) for r in results.records if r.task == "operators" and r.status == "ok"}
    parts = []
    for name in names:
        row = explicit.get(name)
        if row is None or row not in profiles:
            parts.append(Part(what=name, verdict=MISSING, note="No profile with explicit attention."))
            continue
        parts.append(_compare_parts(profiles[row], name if row == BASE else row))
    notes = ("Intervals: the relative spread of the whole share over the passes, as no other is kept.",)
    return Finding(folders=(results.name,), verdict=combine(parts), parts=tuple(parts), notes=notes)


def _compare_parts(profile: OperatorProfile, name: str) -> Part:
    bound = [each for each in profile.operators if each.operator_class in MEMORY_BOUND]
    whole = sum(each.seconds for each in bound)
    mhsa, ffn = (sum(each.seconds for each in bound if each.part == part) / whole for part in ("MHSA", "FFN"))
    spread = (profile.memory_bound_share_high - profile.memory_bound_share_low) / 2 / profile.memory_bound_share
    half = spread * hypot(mhsa, ffn)
    return Part(
        what=f"{name}: MHSA's part of the memory-bound time less the FFN's",
        verdict=judge_sign(mhsa - ffn - half, mhsa - ffn + half),
        value=mhsa - ffn,
        low=mhsa - ffn - half,
        high=mhsa - ffn + half,
        n=len(profile.memory_bound_shares),
        of="passes",
        note=f"MHSA {100 * mhsa:.0f}%, FFN {100 * ffn:.0f}%, the rest neither.",
    )


def _list_series(results: Results, network: str) -> dict[str, dict[float, str]]:
    """MHSA ratio -> row of a network's subnetworks, a series for each target speed."""
    series: dict[str, dict[float, str]] = {}
    for variant in [] if results.study is None else results.study.variants():
        if variant.network == network and "mhsa_ratio" in variant.changes:
            speed = "its own speed" if variant.speedup is None else f"{variant.speedup:g}x"
            series.setdefault(speed, {})[float(variant.changes["mhsa_ratio"])] = variant.name
    return series


def _subtract(row: "pd.Series[Any]", other: "pd.Series[Any]") -> tuple[float, float, float]:
    value = row["memory_bound_share"] - other["memory_bound_share"]
    below = hypot(_half(row, "low"), _half(other, "high"))
    above = hypot(_half(row, "high"), _half(other, "low"))
    return float(value), float(value - below), float(value + above)


def _half(row: "pd.Series[Any]", end: str) -> float:
    return abs(float(row[f"memory_bound_share_{end}"] - row["memory_bound_share"]))


def _is_known(table: pd.DataFrame, name: str) -> bool:
    return bool(pd.notna(table["memory_bound_share"][name]))


def _missed(table: pd.DataFrame, name: str) -> bool:
    reached = table["match_reached"][name]
    return bool(pd.notna(reached) and not reached)


def _count_passes(results: Results, row: str) -> int:
    profiles = [r for r in results.records if r.task == "operators" and r.status == "ok" and r.variant == row]
    return len(measured(profiles[0]).memory_bound_shares)
