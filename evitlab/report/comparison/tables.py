"""The comparison with the paper as tables of text: for the page, for a terminal, and pair by pair."""

from collections.abc import Mapping
from typing import Any, Literal

import pandas as pd
from rich.markup import escape
from rich.table import Table

from evitlab.report.comparison.paper import Comparison, Series, summarise

NOT_SEPARABLE = "n. s."
"""How a cell says that an interval holds 0."""
PAGE_HAS_MORE = "The page has the rank correlation with the paper, and what this budget could have found."


def readable_comparison(comparison: Comparison) -> pd.DataFrame:
    """A row a variant, in percentage points, those compared with one row below it; intervals on a second line."""
    table, rows = comparison.table, comparison.table.to_dict("records")
    cells = {
        "variant": [str(name) for name in table["variant"]],
        "paper, points": [_points(row, "paper_difference") for row in rows],
        "ours, points": [_points(row, "difference") for row in rows],
        "n": ["" if pd.isna(count) else str(count) for count in table["seeds"]],
        "sign": [_sign(row) for row in rows],
        "verdict": ["" if pd.isna(verdict) else str(verdict) for verdict in table["verdict"]],
        "speed, paper": [_ratio(row, "paper_speed_ratio") for row in rows],
        "speed, ours": [_ratio(row, "speed_ratio") for row in rows],
    }
    return pd.DataFrame({name: column for name, column in cells.items() if any(column)})


def _points(row: Mapping[Any, Any], name: str) -> str:
    if row["variant"] == row["compared_with"]:
        return "compared with"
    if pd.isna(row[name]):
        return ""
    text = f"{100 * row[name]:+.1f}"
    if f"{name}_low" in row and not pd.isna(row[f"{name}_low"]):
        text += f"\n{100 * row[f'{name}_low']:+.1f} to {100 * row[f'{name}_high']:+.1f}"
    return text


def _sign(row: Mapping[Any, Any]) -> str:
    return "" if pd.isna(row["sign_agrees"]) else "agrees" if row["sign_agrees"] else "opposite"


def _ratio(row: Mapping[Any, Any], name: str) -> str:
    if pd.isna(row[name]):
        return ""
    text = f"{row[name]:.2f}"
    if name != "speed_ratio":
        return text
    return f"{text}\n{row['speed_ratio_low']:.2f}-{row['speed_ratio_high']:.2f}"


def pair_matrix(comparison: Comparison, series: Series) -> pd.DataFrame:
    """Row minus column in points where the seeds separate them, else `NOT_SEPARABLE`; columns by number."""
    found = {(pair["variant"], pair["other"]): pair for pair in comparison.pairs.to_dict("records")}
    rows = []
    for number, name in enumerate(series.rows, start=1):
        row = {"row": f"{number} {name}"}
        for column, other in enumerate(series.rows, start=1):
            row[str(column)] = _pair_cell(found, name, other)
        rows.append(row)
    return pd.DataFrame(rows)


def _pair_cell(found: dict[tuple[Any, Any], Mapping[Any, Any]], name: str, other: str) -> str:
    if name == other:
        return ""
    sign, pair = (1, found.get((name, other))) if (name, other) in found else (-1, found.get((other, name)))
    if pair is None:
        return "no seed"
    return f"{100 * sign * pair['difference']:+.1f}" if pair["separable"] else NOT_SEPARABLE


def render_comparison(comparison: Comparison, *, brief: bool = False) -> Table:
    """For a terminal, with what it comes to below; `brief` leaves rank correlation and power to the page."""
    text = readable_comparison(comparison).drop(columns="n", errors="ignore")
    shown = Table(title="Paper against measured: differences in top-1", box=None, padding=(0, 1, 0, 0))
    below = ["Second lines: 95% intervals, over the seeds.", *summarise(comparison, brief=brief)]
    shown.caption = escape("\n".join([*below, PAGE_HAS_MORE] if brief else below))
    shown.title_justify = shown.caption_justify = "left"
    for name in text.columns:
        justify: Literal["left", "right"] = "left" if name in ("variant", "verdict", "sign") else "right"
        shown.add_column(name, justify=justify, overflow="fold")
    for row in text.itertuples(index=False):
        shown.add_row(*(escape(cell) for cell in row))
    return shown
