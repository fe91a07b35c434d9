"""Which rows and columns of a table are shown, from words of the command line; nothing in them can execute."""

import re
from collections.abc import Callable, Sequence
from operator import eq, ge, gt, le, lt, ne
from typing import Any

import pandas as pd

from evitlab.problems import suggest
from evitlab.report.tables import TableError

OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    ">=": ge, "<=": le, "!=": ne, "==": eq, "=": eq, ">": gt, "<": lt, "!~": eq, "~": eq,
}  # fmt: skip
"""Of numbers, texts and flags; the last two ask whether a text holds another, whatever its case."""
EXPRESSION = re.compile(r"\s*([\w.]+)\s*(>=|<=|!=|==|!~|=|>|<|~)\s*(.*?)\s*")
FLAGS = {"true": True, "yes": True, "false": False, "no": False}


def choose_rows(table: pd.DataFrame, filters: Sequence[str], sort: Sequence[str]) -> pd.DataFrame:
    """The rows that every filter holds for, such as `top1>0.5` or `variant~deit`, in the order of some columns.

    A column to sort by falls where its name begins with `-`; rows without a value come last. Rows without a value meet
    no filter.
    """
    for text in filters:
        table = table[_holds(table, text)]
    names = [name.removeprefix("-") for name in sort]
    for name in names:
        find_column(table, name)
    if names:
        rising = [not name.startswith("-") for name in sort]
        table = table.sort_values(names, ascending=rising, kind="stable", key=_sortable)
    return table


def choose_columns(table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """These columns in this order."""
    return table[[find_column(table, name) for name in names]]


def find_column(table: pd.DataFrame, name: str) -> str:
    """The name, if it is that of a column."""
    if name not in table:
        near = suggest(name, table.columns) or f" (there are: {', '.join(table.columns)})"
        raise TableError(f"no column {name!r}{near}; results/README.md explains them all")
    return name


def _holds(table: pd.DataFrame, text: str) -> "pd.Series[bool]":
    match = EXPRESSION.fullmatch(text)
    if match is None or not match[3]:
        raise TableError(f"a filter must be COLUMN, one of {' '.join(OPERATORS)}, and a value, but got {text!r}")
    name, operator, asked = match.groups()
    column = table[find_column(table, name)]
    known = column.notna()
    if operator in ("~", "!~"):
        found = [asked.lower() in str(cell).lower() for cell in column]
        return known & (pd.Series(found, index=table.index, dtype=bool) == (operator == "~"))
    value = _read_value(column, name, asked, operator)
    compared = [bool(OPERATORS[operator](_plain(cell, value), value)) if there else False
                for cell, there in zip(column, known, strict=True)]  # fmt: skip
    return pd.Series(compared, index=table.index, dtype=bool)


def _read_value(column: "pd.Series[Any]", name: str, asked: str, operator: str) -> Any:
    """The value in a filter, of the column's own kind."""
    if pd.api.types.is_bool_dtype(column.dtype):
        if asked.lower() not in FLAGS or operator not in ("=", "==", "!="):
            raise TableError(f"{name} is a flag: it can be = true or = false, but got {operator} {asked!r}")
        return FLAGS[asked.lower()]
    if not pd.api.types.is_numeric_dtype(column.dtype):
        return asked.strip("'\"")
    try:
        return float(asked)
    except ValueError:
        raise TableError(f"{name} is a number, which {asked!r} is not") from None


def _plain(cell: Any, value: Any) -> Any:
    return str(cell) if isinstance(value, str) else cell


def _sortable(column: "pd.Series[Any]") -> "pd.Series[Any]":
    """Lists and mixed values by their text."""
    return column if column.dtype != object else column.map(str, na_action="ignore")
