"""Rows of `evitlab.load` beside each other: which are on the front, and how each differs from one or from the paper."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evitlab.problems import suggest
from evitlab.report.columns import DTYPES
from evitlab.report.comparison.differences import Values, pair_difference
from evitlab.report.comparison.paper import adjust_rows, compare_rows, speed_cells
from evitlab.report.tables import TableError, speed_column

COMPARABLE = (
    "study", "machine", "device", "torch", "threads", "allocator", "protocol", "infer_batch_size", "precision",
    "memory_format", "mode", "linear_library", "smoke",
)  # fmt: skip
"""What rows must share for their speeds, and their accuracies at a budget, to be comparable."""

PLACE = ("study", "machine", "device", "torch", "smoke")
"""Those that every row has."""

DIFFERENCES = {
    "study": ("text", "as in the rows compared"),
    "variant": ("text", "as in the rows compared"),
    "compared_with": ("text", "variant that the differences are to"),
    "top1": ("share", "mean over the seeds"),
    "difference": ("share", "top1 less that of the row compared with: mean over the seeds that both have"),
    "difference_low": ("share", "paired t 95% interval of it; empty for one seed"),
    "difference_high": ("share", "its upper end"),
    "p_value": ("share", "of that t test, two-sided"),
    "p_adjusted": ("share", "for the number of rows compared, by Holm's steps"),
    "seeds": ("count", "seeds that both rows were trained with"),
    "separable": ("flag", "whether that interval leaves out 0"),
    "speed_ratio": ("ratio", "speed over that of the row compared with, both timed in turn with one reference"),
    "speed_ratio_low": ("ratio", "95% interval, from those of both rows"),
    "speed_ratio_high": ("ratio", "its upper end"),
    "macs_ratio": ("ratio", "MACs over those of the row compared with"),
    "param_ratio": ("ratio", "parameters over those of the row compared with"),
    "machine": ("text", "as in the rows compared"),
}
"""Columns of `compare(to=VARIANT)` -> (unit, meaning). Shares are 0..1."""


def pareto(
    df: pd.DataFrame,
    *,
    up: str | Sequence[str] | None = None,
    down: str | Sequence[str] = (),
    by: Iterable[str] | None = None,
) -> pd.DataFrame:
    """The rows on the front: no other row is as good in every column of `up` and `down` and better in one.

    More is better in `up`, by default speed and `top1`, less in `down`. Speed is `speed_ratio` among rows that are all
    over one reference, unless `by` is set, else `infer_samples_per_sec`. Rows that lack a value are left out; rows that
    are equal in all columns are all kept. Rows are compared within what they share in the columns `by`: by default
    study, machine and protocol (`COMPARABLE`), as speeds of different machines do not compare. `by=()` compares all.
    """
    ups, downs = ["infer_samples_per_sec", "top1"] if up is None else _as_list(up), _as_list(down)
    shared = [name for name in COMPARABLE if name in df] if by is None else list(by)
    _check_columns(df, [*ups, *downs, *shared])
    if not ups and not downs:
        raise TableError("pareto needs a column in up or down")
    for name in (*ups, *downs):
        if not pd.api.types.is_numeric_dtype(df[name]) and df[name].notna().any():
            raise TableError(f"pareto orders numbers, but the column {name!r} holds text or lists")
    groups = _group_places(df, shared)
    columns = [df[name].astype("float64").to_numpy() for name in ups]
    if up is None and by is None:  # elsewhere a reference of the same name may be another network
        columns[0] = _find_speeds(df, groups)
    values = np.column_stack([*columns, *(-df[name].astype("float64") for name in downs)])
    kept = np.zeros(len(df), dtype=bool)
    for places in groups:
        whole = [place for place in places if not np.isnan(values[place]).any()]
        for place in whole:
            rivals = values[whole]
            better = (rivals >= values[place]).all(axis=1) & (rivals > values[place]).any(axis=1)
            kept[place] = not better.any()
    return df[kept]


def _find_speeds(df: pd.DataFrame, groups: Iterable[Sequence[int]]) -> NDArray[np.float64]:
    """Speeds in which the rows of each group compare."""
    speeds = np.full(len(df), np.nan)
    for places in groups:
        group = df.iloc[list(places)]
        speeds[list(places)] = group[speed_column(group)].astype("float64")
    return speeds


def compare(df: pd.DataFrame, to: str = "paper") -> pd.DataFrame:
    """Each row's differences: beside those of the study's source (`to="paper"`), or to the row of a variant.

    Columns are those of `paper_comparison.COLUMNS`, or `DIFFERENCES`, after `study`. Rows are compared within a study
    and one set of conditions (`COMPARABLE`); accuracies are paired by seed. Without anything to compare with it is a
    `TableError`.
    """
    needed = {"study", "variant", "top1", "top1_values", "train_seeds", "speed_ratio", "speed_reference"}
    _check_columns(df, sorted(needed))
    found = [table for group in _groups(df) if (table := _against(group, to)) is not None]
    if not found:
        raise TableError(_explain(df, to))
    return pd.concat(found, ignore_index=True)


def _against(group: pd.DataFrame, to: str) -> pd.DataFrame | None:
    if to != "paper":
        return _to_row(group, to) if to in set(group["variant"]) else None
    compared = compare_rows(
        group,
        _values(group),
        baselines=_cited(group, "compare_to"),
        paper=_cited(group, "paper_top1"),
        paper_speeds=_cited(group, "paper_infer_samples_per_sec"),
    )
    if compared is None:
        return None
    table = compared.table
    table.insert(0, "study", group["study"].iloc[0])
    return table


def _to_row(group: pd.DataFrame, to: str) -> pd.DataFrame:
    indexed, values = group.set_index("variant"), _values(group)
    rows = []
    for name in indexed.index:
        row: dict[str, Any] = {"study": group["study"].iloc[0], "variant": name, "compared_with": to}
        row |= {"top1": indexed["top1"][name], "machine": indexed["machine"][name]}
        row |= {"macs_ratio": _divide(indexed["macs"], name, to)}
        row |= {"param_ratio": _divide(indexed["param_count"], name, to)}
        if name != to:
            row |= speed_cells(indexed, name, to) | _difference(values, name, to)
        rows.append(row)
    table = pd.DataFrame(adjust_rows(rows), columns=list(DIFFERENCES))
    return table.astype({name: DTYPES[unit] for name, (unit, _) in DIFFERENCES.items() if unit in DTYPES})


def _difference(values: Mapping[str, Values], name: str, to: str) -> dict[str, Any]:
    found = pair_difference(values[name], values[to]) if name in values and to in values else None
    if found is None:
        return {}
    ends = {"difference_low": found.low, "difference_high": found.high, "p_value": found.p_value}
    return {"difference": found.value, **ends, "seeds": found.seeds, "separable": found.separable}


def _divide(column: "pd.Series[Any]", name: str, to: str) -> float | None:
    return None if pd.isna(column[name]) or pd.isna(column[to]) else float(column[name] / column[to])


def _values(group: pd.DataFrame) -> dict[str, dict[int, float]]:
    """Accuracies by seed, of the rows that have them."""
    return {
        name: dict(zip(seeds, values, strict=True))
        for name, seeds, values in zip(group["variant"], group["train_seeds"], group["top1_values"], strict=True)
        if isinstance(seeds, list) and isinstance(values, list)
    }


def _cited(group: pd.DataFrame, column: str) -> dict[str, Any]:
    if column not in group:
        return {}
    cited = group[["variant", column]].dropna()
    return dict(zip(cited["variant"], cited[column], strict=True))


def _groups(df: pd.DataFrame) -> Iterator[pd.DataFrame]:
    for places in _group_places(df, [name for name in COMPARABLE if name in df]):
        group = df.iloc[places]
        if group["variant"].duplicated().any():
            twice = group["variant"][group["variant"].duplicated()].iloc[0]
            raise TableError(f"{group['study'].iloc[0]}: two rows of {twice!r} under one set of conditions")
        yield group


def _group_places(df: pd.DataFrame, names: Sequence[str]) -> list[list[int]]:
    """Places of the rows that share these columns. An empty cell, as of a row that was not timed, is what all others
    of its study and machine have there, where they agree; else it is a value of its own."""
    shared = [name for name in names if name in PLACE]
    known: dict[tuple[Any, ...], set[Any]] = {}
    rows = [{name: None if pd.isna(cell) else cell for name, cell in row.items()} for row in _records(df, names)]
    for row in rows:
        for name in names:
            known.setdefault((name, *(row[each] for each in shared)), set()).add(row[name])
    groups: dict[tuple[Any, ...], list[int]] = {}
    for place, row in enumerate(rows):
        key = []
        for name in names:
            others = known[name, *(row[each] for each in shared)] - {None}
            key.append(next(iter(others)) if row[name] is None and len(others) == 1 else row[name])
        groups.setdefault(tuple(key), []).append(place)
    return list(groups.values())


def _records(df: pd.DataFrame, names: Sequence[str]) -> list[dict[Any, Any]]:
    return df[list(names)].to_dict("records") if names else [{} for _ in range(len(df))]


def _as_list(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _check_columns(df: pd.DataFrame, names: Iterable[str]) -> None:
    for name in names:
        if name not in df:
            raise TableError(f"no column {name!r}{suggest(name, map(str, df.columns))}")


def _explain(df: pd.DataFrame, to: str) -> str:
    if to == "paper":
        return "no study here cites accuracies of its source for two variants that were trained"
    names = list(dict.fromkeys(df["variant"]))
    return f"no variant {to!r}{suggest(to, names)} (there are: {', '.join(names) or 'none'})"
