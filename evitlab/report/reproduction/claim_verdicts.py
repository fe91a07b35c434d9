"""How accuracies and speeds judge a claim: from a folder's records to a verdict with its numbers."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from math import exp, hypot, log
from statistics import mean
from typing import Any

import numpy as np
import pandas as pd

from evitlab.report.comparison.differences import (
    RankCorrelation,
    Values,
    detectable_difference,
    pair_difference,
    pool_deviation,
)
from evitlab.report.comparison.paper import Series, values_by_seed
from evitlab.report.reproduction.block_verdicts import judge_growth, judge_pruning, judge_splits
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
    part_of,
)
from evitlab.report.reproduction.memory_verdicts import judge_level, judge_memory_falls, judge_memory_place
from evitlab.study import Variant

Rows = Mapping[Any, str]
"""Value of a knob -> name of the row that has it."""


def judge_best(results: Results, *, knob: str, inside: Sequence[float], bases: Sequence[str] | None = None) -> Finding:
    """Whether the most accurate row is one of those `inside`: the best of them against the best of the others.

    Both are the best by their means over the seeds, and are then compared over the same seeds: of equals, the side with
    more rows looks better.
    """
    values = values_by_seed(results.records)
    parts, notes = [], []
    for label, rows in _list_series(results, knob, bases):
        if lost := [name for name in rows.values() if name not in values]:
            parts.append(_lack(results, label, lost))
            continue
        within = _find_best(rows, [value for value in rows if value in inside], values)
        beside = _find_best(rows, [value for value in rows if value not in inside], values)
        own, other = values[rows[within]], values[rows[beside]]
        height = f"Top-1 {_percent(own)} against {_percent(other)}."
        what = f"{label}: {knob} {within:g} less {beside:g}"
        parts.append(part_of(pair_difference(own, other), what, note=height))
        notes += _describe_power([values[name] for name in rows.values() if name != rows[within]], own, label)
    return Finding(folders=(results.name,), verdict=combine(parts), parts=tuple(parts), notes=tuple(notes))


def judge_ends(results: Results, *, knob: str, inside: Sequence[float], ends: Sequence[float]) -> Finding:
    """Whether each of the `ends` is less accurate than the best row `inside`."""
    values = values_by_seed(results.records)
    parts = []
    for label, rows in _list_series(results, knob, None):
        needed = [rows[value] for value in (*inside, *ends) if value in rows]
        lost = [name for name in needed if name not in values]
        if lost or len(needed) < len(inside) + len(ends):
            parts.append(_lack(results, label, lost))
            continue
        best = _find_best(rows, inside, values)
        for end in ends:
            found = pair_difference(values[rows[end]], values[rows[best]])
            parts.append(part_of(found, f"{label}: {knob} {end:g} less {best:g}", above=False))
    return Finding(folders=(results.name,), verdict=combine(parts), parts=tuple(parts))


def judge_row(results: Results, *, rows: Sequence[str]) -> Finding:
    """Whether a row's difference to the row that it is compared with has the paper's sign; the first row named that
    the study has."""
    comparison = results.comparison
    table = pd.DataFrame(columns=["variant"]) if comparison is None else comparison.table
    found = table[table["variant"].isin(rows)]
    if comparison is None or found.empty:
        asked = () if results.study is None else [v.name for v in results.study.variants() if v.name in rows]
        part = _lack(results, "top-1", list(asked))
        return Finding(folders=(results.name,), verdict=MISSING, parts=(part,))
    row = found.iloc[0]
    verdicts = {"agrees": HOLDS, "disagrees": FAILS}
    part = Part(
        what=f"{row['variant']} less {row['compared_with']}",
        verdict=verdicts.get(str(row["verdict"]), OPEN),
        value=_number(row["difference"]),
        low=_number(row["difference_low"]),
        high=_number(row["difference_high"]),
        n=None if pd.isna(row["seeds"]) else int(row["seeds"]),
        note=f"In the paper {100 * row['paper_difference']:+.1f}." + _describe_speed(row),
    )
    series = next(each for each in comparison.series if each.compared_with == row["compared_with"])
    notes = _say_power(series.detectable, series.seeds, "")
    return Finding(folders=(results.name,), verdict=part.verdict, parts=(part,), notes=tuple(notes))


def judge_order(results: Results) -> Finding:
    """Whether our order of all rows goes with the paper's: Kendall's tau above 0, by its interval over the seeds and
    against unrelated orders at 5%."""
    series: Series | None = None if results.comparison is None else results.comparison.series[0]
    tau = None if series is None else series.correlation
    paper = {} if results.study is None else results.study.paper_top1()
    lost = [name for name in paper if name not in values_by_seed(results.records)]
    if series is None or tau is None or lost:
        return Finding(folders=(results.name,), verdict=MISSING, parts=(_lack(results, "order", lost),))
    verdict = judge_sign(tau.low, tau.high)
    verdict = OPEN if tau.p_value > 0.05 else verdict
    note = f"Unrelated orders come as near with probability {max(tau.p_value, 0.001):.2g}{_or_less(tau.p_value)}."
    part = Part(
        what=f"Kendall's tau with the paper over {tau.rows} rows",
        verdict=verdict,
        value=tau.tau,
        low=tau.low,
        high=tau.high,
        n=tau.seeds,
        unit="tau",
        note=note,
    )
    return Finding(folders=(results.name,), verdict=verdict, parts=(part,))


def judge_rise(results: Results, *, knob: str | None = None) -> Finding:
    """Whether accuracy rises along a knob, or down the study's rows: the slope of a straight line, seed by seed.

    Rows are taken as equally far apart. Steps from row to row that the seeds tell to be down are a caveat.
    """
    values = values_by_seed(results.records)
    rows = _list_rows(results, knob)
    if lost := [name for name in rows if name not in values]:
        return Finding(folders=(results.name,), verdict=MISSING, parts=(_lack(results, "top-1", lost),))
    seeds = sorted(set.intersection(*(set(values[name]) for name in rows)))
    slopes = {seed: float(np.polyfit(range(len(rows)), [values[name][seed] for name in rows], 1)[0]) for seed in seeds}
    found = pair_difference(slopes, dict.fromkeys(slopes, 0.0))
    means = ", ".join(_percent(values[name]) for name in rows)
    part = part_of(found, f"slope from {rows[0]} to {rows[-1]}, a step", note=f"Top-1 {means}.")
    steps = [pair_difference(values[after], values[before]) for before, after in pairwise(rows)]
    up, down = (sum(s is not None and s.separable and (s.value > 0) == sign for s in steps) for sign in (True, False))
    notes = [f"Of {len(steps)} steps from row to row the seeds tell {up} up and {down} down."]
    if results.comparison is not None:
        notes += _describe_order(results.comparison.series[0].correlation)
    caveat = _warn_of_steps(part.verdict, down)
    return Finding(folders=(results.name,), verdict=part.verdict, parts=(part,), notes=tuple(notes), caveat=caveat)


def judge_slower(results: Results, *, knob: str | None = None) -> Finding:
    """Whether throughput falls along a knob, or down the study's rows: whether the last row is slower than the first.

    Intervals of ratios are those of both timings, as of independent logarithms. Steps that are faster are a caveat.
    """
    rows = _list_rows(results, knob)
    table = results.table.set_index("variant")
    known = table["speed_ratio_low"].reindex(rows).notna()
    if lost := [name for name in rows if not known[name]]:
        return Finding(folders=(results.name,), verdict=MISSING, parts=(_lack(results, "speed", lost),))
    value, low, high = _compare_speeds(table, rows[-1], rows[0])
    steps = [_compare_speeds(table, after, before) for before, after in pairwise(rows)]
    down, up = sum(step[2] < 1 for step in steps), sum(step[1] > 1 for step in steps)
    verdict = judge_sign(low, high, above=False, than=1.0)
    note = f"Of {len(steps)} steps from row to row {down} are slower, {up} faster, the rest not separable."
    part = Part(
        what=f"throughput of {rows[-1]} over that of {rows[0]}",
        verdict=verdict,
        value=value,
        low=low,
        high=high,
        unit="ratio",
        note=note,
    )
    caveat = _warn_of_steps(verdict, up)
    return Finding(folders=(results.name,), verdict=verdict, parts=(part,), caveat=caveat)


def _describe_order(tau: RankCorrelation | None) -> list[str]:
    if tau is None:
        return []
    interval = "" if tau.low is None else f" (95% interval over the seeds {tau.low:.2f} to {tau.high:.2f})"
    return [f"Kendall's tau of the means with the paper's order: {tau.tau:.2f}{interval}."]


def _warn_of_steps(verdict: str, against: int) -> str:
    if verdict != HOLDS or not against:
        return ""
    return f"{against} {'step goes' if against == 1 else 'steps go'} the other way"


def _list_series(results: Results, knob: str, bases: Sequence[str] | None) -> list[tuple[str, Rows]]:
    """Rows by their value of a knob, a series for each network and target speed that the study crosses it with."""
    series: dict[str, dict[Any, str]] = {}
    for variant in [] if results.study is None else results.study.variants():
        if knob in variant.changes and (bases is None or variant.network in bases):
            series.setdefault(_name_series(variant), {})[variant.changes[knob]] = variant.name
    return list(series.items())


def _name_series(variant: Variant) -> str:
    speed = "" if variant.speedup is None else f" at {variant.speedup:g}x"
    return f"{variant.network}{speed}"


def _list_rows(results: Results, knob: str | None) -> list[str]:
    """The study's rows in the order of a knob, or its own."""
    variants = [] if results.study is None else results.study.variants()
    if knob is not None:
        variants = sorted((each for each in variants if knob in each.changes), key=lambda each: each.changes[knob])
    return [variant.name for variant in variants]


def _find_best(rows: Rows, among: Sequence[float], values: Mapping[str, Values]) -> float:
    """The value of the knob with the highest mean over the seeds."""
    return max(among, key=lambda value: mean(values[rows[value]].values()))


def _lack(results: Results, label: str, lost: Sequence[str]) -> Part:
    """A part that cannot be judged, and why."""
    reasons = dict.fromkeys(f"{name}: {results.missing(name)}" for name in lost[:3])
    more = f"; and {len(lost) - 3} more rows" if len(lost) > 3 else ""
    return Part(what=label, verdict=MISSING, note="; ".join(reasons) + more)


def _describe_power(rows: Sequence[Values], other: Values, label: str) -> list[str]:
    deviation = pool_deviation(rows, other)
    seeds = min(len(set(row) & set(other)) for row in rows)
    return _say_power(None if deviation is None else detectable_difference(deviation, seeds), seeds, f" for {label}")


def _say_power(detectable: float | None, seeds: int, label: str) -> list[str]:
    if detectable is None:
        return ["With one seed no difference can be told from chance."]
    return [f"This budget would find a true difference of {100 * detectable:.1f} points in 80% of studies{label}."]


def _describe_speed(row: "pd.Series[Any]") -> str:
    if pd.isna(row["match_reached"]) or row["match_reached"]:
        return ""
    return " Its speed is not the one asked for, by more than the tolerance."


def _compare_speeds(table: pd.DataFrame, name: str, other: str) -> tuple[float, float, float]:
    """Speed over another row's with its interval, both timed in turn with one reference."""
    ratio = float(table["speed_ratio"][name] / table["speed_ratio"][other])
    low, high = (
        hypot(*(log(table[f"speed_ratio_{end}"][row] / table["speed_ratio"][row]) for row in (name, other)))
        for end in ("low", "high")
    )
    return ratio, ratio * exp(-low), ratio * exp(high)


def _percent(values: Values) -> str:
    return f"{100 * mean(values.values()):.1f}%"


def _number(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)


def _or_less(p_value: float) -> str:
    return " or less" if p_value < 0.001 else ""


JUDGES: Mapping[str, Callable[..., Finding]] = {
    "best": judge_best,
    "ends_lose": judge_ends,
    "row": judge_row,
    "order": judge_order,
    "rises": judge_rise,
    "slower": judge_slower,
    "memory_falls": judge_memory_falls,
    "memory_level": judge_level,
    "memory_in_mhsa": judge_memory_place,
    "splits": judge_splits,
    "grow_alike": judge_growth,
    "pruning": judge_pruning,
}
"""By the name that a claim has for it: from results, those that judge together one after the other, to a finding."""
