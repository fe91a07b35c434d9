"""Rows of `evitlab.load` as text: the columns asked for, each under its own name and unit."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import pandas as pd
from rich.markup import escape
from rich.table import Table

from evitlab.report.columns import COLUMNS
from evitlab.report.tables import percent, si, significant

SHOWN = (
    "variant", "macs", "param_count", "infer_samples_per_sec", "speed_ratio", "best_batch_size", "self_test_error",
    "memory_bound_share", "top1", "macro_auc", "head_similarity", "pruning_target", "missing",
)  # fmt: skip
"""What is shown of a command's rows unless columns are named, as far as anything was measured."""
CONDITIONS = (
    "machine", "device", "torch", "threads", "allocator", "protocol", "infer_batch_size", "infer_img_size", "precision",
    "memory_format", "mode", "linear_library",
)  # fmt: skip
"""Shown as well where they differ."""

FORMATS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "share": ("%", percent),
    "images/s": ("images/s", significant),
    "s": ("s", lambda seconds: f"{seconds:.3g}"),
    "ratio": ("", "{:.3f}".format),
}
"""Unit -> how it is called and shown to people."""
LARGE = ("macs", "param_count")


def find_differing(table: pd.DataFrame) -> list[str]:
    """The conditions that the rows do not share."""
    return [name for name in CONDITIONS if table[name].nunique() > 1]


def choose_shown(table: pd.DataFrame) -> list[str]:
    """The columns that show most of a command's rows."""
    return [name for name in SHOWN if table[name].notna().any()] + find_differing(table)


def as_text(table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """These columns as text in handy units, which their headings name; an empty cell is empty."""
    text = {}
    for name in names:
        unit, show = FORMATS.get(_unit(name), ("", str))
        show = si if name in LARGE else show
        heading = f"{name} ({unit})" if unit and unit not in name else name
        text[heading] = ["" if _is_empty(cell) else show(cell) for cell in table[name]]
    return pd.DataFrame(text, dtype=str)


def render_rows(text: pd.DataFrame, *, title: str) -> Table:
    """Text for a terminal."""
    shown = Table(title=escape(title), box=None, padding=(0, 1, 0, 0))
    shown.title_justify = "left"
    for name in text.columns:
        justify: Literal["left", "right"] = "left" if _is_words(text[name]) else "right"
        shown.add_column(escape(name.replace(" (", "\n(")), justify=justify, overflow="fold")
    for row in text.itertuples(index=False):
        shown.add_row(*(escape(cell) for cell in row))
    return shown


def to_markdown(text: pd.DataFrame) -> str:
    """Text as a table of GitHub's Markdown."""
    rules = ["---" if _is_words(text[name]) else "---:" for name in text.columns]
    rows = [list(text.columns), rules, *(list(row) for row in text.itertuples(index=False))]
    return "".join(f"| {' | '.join(_escape(cell) for cell in row)} |\n" for row in rows)


def _escape(cell: str) -> str:
    return cell.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _unit(name: str) -> str:
    return COLUMNS[name][0] if name in COLUMNS else "any"


def _is_empty(cell: Any) -> bool:
    return not isinstance(cell, list | dict | Mapping) and bool(pd.isna(cell))


def _is_words(column: "pd.Series[Any]") -> bool:
    return any(cell and not cell.lstrip("-")[:1].isdigit() for cell in column)
