"""evitlab: where does a fast vision transformer's time go, and which knob buys speed at what accuracy?"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    import pandas as pd

    from evitlab.models.network import Network

__version__ = "0.1.0"


def create_model(name: str, **knobs: Any) -> "Network":
    """Build a network of the zoo with some knobs changed, freshly initialised from torch's random state.

    `evitlab list` prints names and knobs. Raises ValueError that names every wrong knob and what is allowed.

    >>> create_model("deit_t", mhsa_ratio=0.25, image_size=64, num_classes=100).config.mhsa_ratio
    0.25
    """
    from evitlab.models.network import build_model  # late: names and tables must not wait for torch
    from evitlab.models.zoo import make_config

    return build_model(make_config(name, **knobs))


def load(
    *folders: "str | Path",
    results: "str | Path" = "results",
    where: "Mapping[str, Any] | None" = None,
    mixed: bool = False,
    smoke: bool = False,
    seed: int = 0,
) -> "pd.DataFrame":
    """What was measured, as a tidy table: one row a variant; its columns are explained in `results/README.md`.

    `load("results/mhsa_ratio")`, `load("mhsa_ratio", "prune_deit_t")`, `load()` for all folders of `results`. Folders
    may come from different machines: conditions are columns. A folder that mixes conditions within itself raises
    ValueError that names them; `where={"machine": "0a1b2c3d"}` chooses, `mixed=True` keeps each set of conditions in
    rows of its own. Smoke runs are left out; `smoke=True` reads them instead. `seed` is the one a study was run with.
    """
    from evitlab.report.rows import tidy  # late: pandas takes half a second

    return tidy.load(*folders, results=results, where=where, mixed=mixed, smoke=smoke, seed=seed)


def pareto(
    df: "pd.DataFrame",
    *,
    up: "str | Sequence[str] | None" = None,
    down: "str | Sequence[str]" = (),
    by: "Iterable[str] | None" = None,
) -> "pd.DataFrame":
    """The rows of `load` that no other beats: as good in every column of `up` and `down`, and better in one.

    By default speed and `top1` are up: speed as `speed_ratio` among rows over one reference, else images/s.

    Rows that lack one of the values are left out; ties are kept. Rows compete within one study, machine and protocol,
    as speeds of different machines do not compare; `by` names other columns to share, `by=()` none.
    """
    from evitlab.report.rows import comparison

    return comparison.pareto(df, up=up, down=down, by=by)


def compare(df: "pd.DataFrame", to: str = "paper") -> "pd.DataFrame":
    """How each row of `load` differs in top-1 and speed from the row that its study compares it with, beside the
    paper's own differences; or with `to=VARIANT` from that row. Intervals are over seeds, paired.

    Rows are compared within one study, machine and protocol. Raises ValueError where there is nothing to compare with.
    """
    from evitlab.report.rows import comparison

    return comparison.compare(df, to)
