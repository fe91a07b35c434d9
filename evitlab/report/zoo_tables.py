"""The zoo for people and for programs: its networks, and the knobs with what they may be."""

import json
from typing import Any

from rich.table import Table

from evitlab.models.knobs import KNOBS, knobs_of
from evitlab.models.zoo import DEFAULTS, ZOO, default_knobs


def describe_zoo() -> dict[str, Any]:
    """Every network with its own knobs, and every knob with its meaning and range, as plain data."""
    networks = {
        name: {"family": published.family, "source": published.source, "knobs": default_knobs(name)}
        for name, published in ZOO.items()
    }
    knobs = {
        name: {"meaning": knob.meaning, "allowed": knob.allowed, "families": knob.families, "per_stage": knob.per_stage}
        for name, knob in KNOBS.items()
    }
    return {"networks": networks, "knobs": knobs}


def zoo_tables() -> list[Table]:
    """The networks, and the knobs with each family's published value."""
    networks = _start_table("Networks", "name", "family", "width", "depth", "num_heads")
    for name, published in ZOO.items():
        stages = (published.widths, published.depths, published.heads)
        networks.add_row(name, published.family, *(" ".join(map(str, values)) for values in stages))
    networks.caption = "; ".join(dict.fromkeys(f"{p.family}: {p.source}" for p in ZOO.values()))
    knobs = _start_table("Knobs, with the published values", "knob", *DEFAULTS, "meaning, and what is allowed")
    for name, knob in KNOBS.items():
        allowed = knob.allowed + (", or a list, one a stage" if knob.per_stage else "")
        values = [_published_value(family, name) for family in DEFAULTS]
        knobs.add_row(name, *values, f"{knob.meaning}\n[dim]{allowed}[/dim]")
    knobs.caption = "-: the knob does not apply. A knob that is left out keeps the published value."
    return [networks, knobs]


def _start_table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", caption_justify="left", box=None, padding=(0, 2, 0, 0))
    for number, column in enumerate(columns):
        table.add_column(column, no_wrap=number < 4)
    return table


def _published_value(family: str, knob: str) -> str:
    """The family's value of a knob as a study would write it; `above` where its members differ."""
    if knob not in knobs_of(family):
        return "-"
    values = [default_knobs(name)[knob] for name, published in ZOO.items() if published.family == family]
    if isinstance(values[0], tuple) or any(value != values[0] for value in values):
        return "above"
    return f"{values[0]:.3g}" if isinstance(values[0], float) else json.dumps(values[0]).strip('"')
