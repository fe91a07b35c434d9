"""What a page's script reads: the table's numbers as points, and every network, packed."""

import gzip
import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd

from evitlab.records import Record
from evitlab.report.tables import speed_column

AXES = {
    "infer_samples_per_sec": ("images/s", 1),
    "speed_ratio": ("speed over the reference", 1),
    "top1": ("top-1 %", 100),
    "memory_bound_share": ("memory-bound share %", 100),
    "roofline_memory_bound_share": ("memory-bound by roofline %", 100),
    "macro_auc": ("macro AUC %", 100),
    "ece": ("calibration error %", 100),
    "macs": ("MACs (M)", 1e-6),
    "param_count": ("parameters (M)", 1e-6),
    "width": ("width", 1),
    "paper_top1": ("top-1 %, paper", 100),
}
"""Column of a study's table -> its name on an axis, and the factor to its unit there."""
ACROSS = ("infer_samples_per_sec", "speed_ratio", "macs")
UP = ("top1", "memory_bound_share", "infer_samples_per_sec")
"""What is shown at first: of each, the first that was measured."""


def embed_json(name: str, data: Any) -> str:
    """Plain data inside a page, where nothing of it can be taken for markup."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return f'<script type="application/json" id="{name}">{text}</script>'


def list_points(table: pd.DataFrame) -> dict[str, Any]:
    """Name, knobs and every number of each row of a study's table, in its order; `x` and `y` are axes to begin with."""
    knobs = [column for column in table if column.startswith("knob_")]
    axes = {column: _axis(table, column, label, scale) for column, (label, scale) in AXES.items()}
    axes |= {name: _axis(table, name, name.removeprefix("knob_"), 1) for name in knobs if _is_number(table[name])}
    axes = {column: axis for column, axis in axes.items() if any(value is not None for value in axis["values"])}
    order = list(axes)
    across = next((name for name in (speed_column(table), *ACROSS) if name in axes), order[0] if order else "")
    up = next((name for name in UP if name in axes and name != across), order[-1] if order else "")
    return {
        "names": [str(name) for name in table["variant"]],
        "notes": [_describe_knobs(row, knobs) for _, row in table.iterrows()],
        "axes": list(axes.values()),
        "x": order.index(across) if order else 0,
        "y": order.index(up) if order else 0,
    }


def _axis(table: pd.DataFrame, column: str, label: str, scale: float) -> dict[str, Any]:
    empty = pd.Series([None] * len(table))
    names = {"values": column, "low": f"{column}_low", "high": f"{column}_high"}
    return {"label": label} | {
        part: [None if pd.isna(value) else float(value) * scale for value in table.get(name, empty)]
        for part, name in names.items()
    }


def _is_number(column: "pd.Series[Any]") -> bool:
    known = [value for value in column if not (isinstance(value, float) and pd.isna(value)) and value is not None]
    return bool(known) and all(isinstance(value, int | float) and not isinstance(value, bool) for value in known)


def _describe_knobs(row: "pd.Series[Any]", knobs: Sequence[str]) -> str:
    known = {name.removeprefix("knob_"): row[name] for name in knobs}
    return ", ".join(f"{name} {value}" for name, value in known.items() if isinstance(value, list) or pd.notna(value))


def list_networks(records: Sequence[Record]) -> dict[str, list[tuple[str, str]]]:
    """Variant -> the networks that were measured for it, each as its tasks and its config in JSON."""
    found: dict[str, dict[str, list[str]]] = {}
    for record in records:
        if record.status != "ok":
            continue
        tasks = found.setdefault(record.variant, {}).setdefault(json.dumps(record.config), [])
        if record.task not in tasks:
            tasks.append(record.task)
    return {
        variant: [(", ".join(tasks), config) for config, tasks in networks.items()]
        for variant, networks in found.items()
    }


def embed_packed(name: str, data: Mapping[str, Any]) -> str:
    """Data that is read only when asked for, compressed: networks differ little, so thousands need little room."""
    packed = gzip.compress(json.dumps(data, separators=(",", ":")).encode(), mtime=0)
    return f'<script type="text/plain" id="{escape(name)}">{b64encode(packed).decode()}</script>'
