"""The paper's differences beside ours: row by row with intervals over seeds, and in sentences for the whole."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import exp, hypot, log
from typing import Any

import pandas as pd

from evitlab.records import Record
from evitlab.report.comparison.differences import (
    Difference,
    RankCorrelation,
    Values,
    adjust_p_values,
    detectable_difference,
    pair_difference,
    pool_deviation,
    rank_correlation,
)
from evitlab.report.student import LEVEL
from evitlab.store import measured
from evitlab.study import Study

COLUMNS = {
    "variant": ("text", "name in the study"),
    "compared_with": ("text", "variant that the differences are to"),
    "paper_top1": ("share", "what the source reports, on its own data"),
    "paper_difference": ("share", "its difference to the row compared with"),
    "top1": ("share", "our mean over the seeds"),
    "difference": ("share", "ours to the row compared with: mean over the seeds of the difference within a seed"),
    "difference_low": ("share", "paired t 95% interval of it; empty for one seed"),
    "difference_high": ("share", "its upper end"),
    "p_value": ("share", "of that t test, two-sided"),
    "p_adjusted": ("share", "for the number of rows compared with the same one, by Holm's steps"),
    "seeds": ("count", "seeds that both rows were trained with"),
    "sign_agrees": ("flag", "whether both differences point the same way, separable from 0 or not"),
    "verdict": ("text", "one of `VERDICTS`"),
    "not_separable_from": ("list of text", "rows compared alike whose difference to this one has an interval with 0"),
    "paper_speed_ratio": ("ratio", "the source's images/s over those of the row compared with"),
    "speed_ratio": ("ratio", "ours, both timed in turn with one reference"),
    "speed_ratio_low": ("ratio", "95% interval, from those of both rows"),
    "speed_ratio_high": ("ratio", "its upper end"),
    "match_reached": ("flag", "whether its speed, as timed last, is within the tolerance of the target"),
}
"""Column -> (unit, meaning). Shares are 0..1."""
DTYPES = {"count": "Int64", "share": "float64", "ratio": "float64", "flag": "boolean"}

VERDICTS = {
    "agrees": "the interval leaves out 0, on the paper's side",
    "disagrees": "the interval leaves out 0, on the other side",
    "not separable": "the interval holds 0, or there is but one seed: no order is claimed",
    "higher": "the interval leaves out 0; the paper has no difference here",
    "lower": "likewise",
}

SEPARABLE = {
    "agrees": "separable with the paper's sign",
    "disagrees": "separable against it",
    "higher": "separable and higher, where the paper has none",
    "lower": "separable and lower, where the paper has none",
}
"""The verdicts that claim something, as a count of rows reads."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """Rows that are compared with one and the same row, all of them together."""

    compared_with: str
    rows: tuple[str, ...]
    """The row compared with first."""
    seeds: int
    """The fewest that a row shares with the row compared with."""
    deviation: float | None
    """Of a difference within a seed, as a share, pooled over the rows (`pool_deviation`)."""
    ours: tuple[Values, ...]
    """Accuracies by seed of the rows that the paper has too."""
    theirs: tuple[float, ...]
    """The paper's of the same rows."""

    @cached_property
    def correlation(self) -> RankCorrelation | None:
        """Over the rows that both have."""
        return rank_correlation(self.ours, self.theirs)

    @cached_property
    def detectable(self) -> float | None:
        """`detectable_difference` at that deviation, as a share."""
        return None if self.deviation is None else detectable_difference(self.deviation, self.seeds)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All rows of a study that stand beside the paper's."""

    table: pd.DataFrame
    """Columns as in `COLUMNS`; the rows compared with have no difference."""
    series: tuple[Series, ...]
    pairs: pd.DataFrame
    """variant, other, difference, difference_low, difference_high, seeds, separable: every pair within a series."""


def compare_with_paper(study: Study, table: pd.DataFrame, records: Sequence[Record]) -> Comparison | None:
    """Compare a study's accuracies, and speeds where there are, with its source's; None where it cites no accuracies
    or no two rows that compare were trained.

    `table` and `records` are what `study_table` and `select_records` made of one study. Speeds are compared with the
    row that accuracies are compared with.
    """
    return compare_rows(
        table,
        values_by_seed(records),
        baselines=study.baselines,
        paper=study.paper_top1(),
        paper_speeds=study.paper_speeds(),
    )


def compare_rows(
    table: pd.DataFrame,
    values: Mapping[str, Values],
    *,
    baselines: Mapping[str, str],
    paper: Mapping[str, float],
    paper_speeds: Mapping[str, float],
) -> Comparison | None:
    """The same of rows whose accuracies by seed, rows to compare with, and figures in the source are given by name."""
    groups: dict[str, list[str]] = {}
    for name, other in baselines.items():
        if name in values and other in values:
            groups.setdefault(other, [other])
            groups[other] += [name] if name != other else []
    groups = {other: names for other, names in groups.items() if len(names) > 1}
    if not paper or not groups:
        return None
    indexed = table.set_index("variant")
    pairs = [pair for names in groups.values() for pair in _pair_up(names, values)]
    told = {frozenset((pair["variant"], pair["other"])) for pair in pairs if pair["separable"]}
    rows: list[dict[str, Any]] = []
    for other, names in groups.items():
        found = [_row(indexed, values, name, other, paper=paper, speeds=paper_speeds) for name in names]
        for row in adjust_rows(found):
            alike = [each for each in names if each != row["variant"] and frozenset((row["variant"], each)) not in told]
            rows.append(row | {"not_separable_from": alike})
    compared = pd.DataFrame(rows, columns=list(COLUMNS))
    return Comparison(
        table=compared.astype({name: DTYPES[unit] for name, (unit, _) in COLUMNS.items() if unit in DTYPES}),
        series=tuple(_summarise(other, names, values, paper) for other, names in groups.items()),
        pairs=pd.DataFrame(pairs),
    )


def values_by_seed(records: Sequence[Record]) -> dict[str, dict[int, float]]:
    """Top-1 of each variant by the seed of its training."""
    found: dict[str, dict[int, float]] = {}
    for record in records:
        if record.task == "train" and record.status == "ok":
            found.setdefault(record.variant, {})[record.seed] = measured(record).top1
    return found


def _row(
    table: pd.DataFrame,
    values: Mapping[str, Values],
    name: str,
    other: str,
    *,
    paper: Mapping[str, float],
    speeds: Mapping[str, float],
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "variant": name,
        "compared_with": other,
        "paper_top1": paper.get(name),
        "top1": table["top1"][name],
        "match_reached": table["match_reached"][name],
    }
    if name == other:
        return row | {"seeds": len(values[name])}
    if name in speeds and other in speeds:
        row["paper_speed_ratio"] = speeds[name] / speeds[other]
    row |= speed_cells(table, name, other)
    theirs = paper[name] - paper[other] if name in paper and other in paper else None
    ours = pair_difference(values[name], values[other])
    if ours is None:
        return row | {"paper_difference": theirs, "verdict": "not separable"}
    return row | {
        "paper_difference": theirs,
        "difference": ours.value,
        "difference_low": ours.low,
        "difference_high": ours.high,
        "p_value": ours.p_value,
        "seeds": ours.seeds,
        "sign_agrees": None if not theirs or not ours.value else (theirs > 0) == (ours.value > 0),
        "verdict": judge(ours, theirs),
    }


def adjust_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows that are compared with one and the same, with p-values adjusted for their number."""
    tested = [row for row in rows if row.get("p_value") is not None]
    for row, adjusted in zip(tested, adjust_p_values([row["p_value"] for row in tested]), strict=True):
        row["p_adjusted"] = adjusted
    return rows


def judge(ours: Difference, theirs: float | None) -> str:
    """One of `VERDICTS` for a difference of ours beside the paper's, if it has one other than 0."""
    if not ours.separable:
        return "not separable"
    if not theirs:
        return "higher" if ours.value > 0 else "lower"
    return "agrees" if (theirs > 0) == (ours.value > 0) else "disagrees"


def _pair_up(names: Sequence[str], values: Mapping[str, Values]) -> list[dict[str, Any]]:
    pairs = []
    for number, name in enumerate(names):
        for other in names[number + 1 :]:
            found = pair_difference(values[name], values[other])
            if found is not None:
                interval = {"difference_low": found.low, "difference_high": found.high}
                ends = {"seeds": found.seeds, "separable": found.separable}
                pairs.append({"variant": name, "other": other, "difference": found.value, **interval, **ends})
    return pairs


def speed_cells(table: pd.DataFrame, name: str, other: str) -> dict[str, float]:
    """Speed over another row's from both rows' over their common reference; intervals add as of independent logs.

    `table` has the variants as its index. Without a common reference there is nothing; a reference itself adds none.
    """
    if table["speed_reference"][name] != table["speed_reference"][other] or pd.isna(table["speed_ratio"][name]):
        return {}
    ratio = float(table["speed_ratio"][name] / table["speed_ratio"][other])
    ends = table[["speed_ratio_low", "speed_ratio_high"]].fillna(1.0)
    ways = {
        (end, row): log(ends[f"speed_ratio_{end}"][row] / table["speed_ratio"][row])
        for end in ("low", "high")
        for row in (name, other)
    }
    low = hypot(ways["low", name], ways["high", other])  # a quotient is least where what divides it is largest
    high = hypot(ways["high", name], ways["low", other])
    return {"speed_ratio": ratio, "speed_ratio_low": ratio * exp(-low), "speed_ratio_high": ratio * exp(high)}


def _summarise(other: str, names: Sequence[str], values: Mapping[str, Values], paper: Mapping[str, float]) -> Series:
    both = [name for name in names if name in paper]
    rest = [values[name] for name in names if name != other]
    seeds = min(len(set(row) & set(values[other])) for row in rest)
    return Series(
        compared_with=other,
        rows=tuple(names),
        seeds=seeds,
        deviation=pool_deviation(rest, values[other]),
        ours=tuple(values[name] for name in both),
        theirs=tuple(paper[name] for name in both),
    )


def summarise(comparison: Comparison, *, brief: bool = False) -> list[str]:
    """The whole in sentences, a paragraph a series; `brief` leaves out rank correlation and power."""
    return [_describe(comparison, series, brief=brief) for series in comparison.series]


def _describe(comparison: Comparison, series: Series, *, brief: bool) -> str:
    rows = comparison.table[comparison.table["compared_with"] == series.compared_with]
    missed = list(rows["variant"][~rows["match_reached"].fillna(True)])
    rows = rows[rows["variant"] != series.compared_with]
    sentences = [_count_verdicts(rows, series), *_describe_adjusted(rows)]
    if missed:
        sentences.append(f"Not at the speed asked for, by more than the tolerance: {'; '.join(missed)}.")
    signs = rows["sign_agrees"].dropna()
    if len(signs):
        sentences.append(f"Separable or not, {signs.sum()} of {len(signs)} differences have the paper's sign.")
    pairs = comparison.pairs
    if len(pairs) and series.seeds > 1:
        pairs = pairs[pairs["variant"].isin(series.rows)]
        open_pairs = len(pairs) - int(pairs["separable"].sum())
        sentences.append(f"Of {len(pairs)} pairs of rows, {open_pairs} are not separable.")
    if brief:
        return " ".join(sentences)
    return " ".join([*sentences, *_describe_correlation(series.correlation), *_describe_budget(series, rows)])


def _count_verdicts(rows: pd.DataFrame, series: Series) -> str:
    """How many differences can be told from 0, and which cannot."""
    verdicts = rows["verdict"].value_counts()
    open_rows = list(rows["variant"][rows["verdict"] == "not separable"])
    text = f"Compared with {series.compared_with}, n = {series.seeds} {'seed' if series.seeds == 1 else 'seeds'}: "
    told = [f"{verdicts[kind]} {words}" for kind, words in SEPARABLE.items() if kind in verdicts]
    text += f"of {len(rows)} differences {', '.join(told) or 'none can be told from 0'}"
    return text + (f"; not separable, and so not ranked: {'; '.join(open_rows)}." if open_rows else ".")


def _describe_adjusted(rows: pd.DataFrame) -> list[str]:
    """Which rows are told apart even among so many."""
    tests = rows["p_value"].count()  # a row with one seed has none
    if tests < 2 or not (rows["p_value"] < 1 - LEVEL).any():
        return []
    kept = list(rows["variant"][rows["p_adjusted"] < 1 - LEVEL])
    return [f"Adjusted for {tests} comparisons (Holm), {'; '.join(kept) or 'none'} can still be told from 0."]


def _describe_correlation(found: RankCorrelation | None) -> list[str]:
    if found is None:
        return []
    text = f"Kendall's tau with the paper over {found.rows} rows: {found.tau:.2f}"
    if found.low is not None:
        text += f" (95% interval over the seeds {found.low:.2f} to {found.high:.2f}, n = {found.seeds})"
    chance = "under 0.001" if found.p_value < 0.001 else f"{found.p_value:.2g}"
    return [f"{text}; unrelated orders come as near with probability {chance}."]


def _describe_budget(series: Series, rows: pd.DataFrame) -> list[str]:
    if series.detectable is None or series.deviation is None:
        return ["With one seed no difference could have been told from chance."]
    text = (
        f"At this budget a true difference of {100 * series.detectable:.1f} points would be found in 80% of studies "
        f"(paired t test at 5%, n = {series.seeds}, deviation of a difference within a seed "
        f"{100 * series.deviation:.1f} points, pooled over the rows)"
    )
    theirs = rows["paper_difference"].dropna().abs()
    if len(theirs):
        text += f"; {int((theirs < series.detectable).sum())} of the paper's {len(theirs)} differences are smaller"
    return [text + "."]
