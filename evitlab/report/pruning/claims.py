"""What the paper says of pruned networks (Fig. 5; Sec. 2.3), held against prunings and against their controls."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean

import pandas as pd
from rich.markup import escape
from rich.table import Table

from evitlab.measurements.pruning import Pruning
from evitlab.records import Record
from evitlab.report.pruning.tables import (
    KINDS,
    channel_table,
    find_published,
    group_targets,
    pruning_table,
    render_channels,
    render_summary,
    step_table,
)
from evitlab.report.tables import percent
from evitlab.store import measured, read_records

THIRDS = ("first", "middle", "last")
Kept = Mapping[str, float]
"""Shares of channels that are left, by what they are of."""
OTHER = {"deit_t": "swin_t", "swin_t": "deit_t"}
"""The other network of the paper's figures; its folder has the same name but for the network's."""


def kept_by_kind(found: Pruning, column: str) -> dict[str, float]:
    """Share of its channels that a kind keeps, the mean over its layers; `column` is `after` or `control`."""
    shares: dict[str, list[float]] = {}
    for group in found.groups:
        shares.setdefault(group.kind, []).append(getattr(group, column) / group.before)
    return {KINDS[kind]: mean(shares[kind]) for kind in KINDS if kind in shares}


def kept_by_third(found: Pruning, column: str) -> dict[str, float]:
    """Share of their channels that the thirds of the blocks keep, the mean over kinds and blocks; too few: empty."""
    blocks = sorted({group.block for group in found.groups if group.block is not None})
    if len(blocks) < len(THIRDS):
        return {}
    means = {}
    for number, third in enumerate(THIRDS):
        own = blocks[number * len(blocks) // 3 : (number + 1) * len(blocks) // 3]
        shares = [getattr(group, column) / group.before for group in found.groups if group.block in own]
        means[third] = mean(shares)
    return means


def _is_least(kept: Kept, name: str) -> bool:
    return kept[name] < min(share for other, share in kept.items() if other != name)


def _is_most(kept: Kept, name: str) -> bool:
    return kept[name] > max(share for other, share in kept.items() if other != name)


CLAIMS: dict[str, tuple[Callable[[Pruning, str], dict[str, float]], Callable[[Kept], bool]]] = {
    "Q and K are trimmed most": (kept_by_kind, lambda kept: _is_least(kept, "QK")),
    "V is kept most": (kept_by_kind, lambda kept: _is_most(kept, "V")),
    "the last third of the blocks is trimmed most": (kept_by_third, lambda kept: _is_least(kept, "last")),
}
"""What is claimed: the shares that it is about, and whether they agree."""
ACROSS = "the FFN is trimmed more in Swin-T than in DeiT-T"


def claim_table(records: Sequence[Record], others: Sequence[Record] = ()) -> pd.DataFrame:
    """A row a claim and target: `holds` of the trained network, `control_holds`, shares in words, and a verdict.

    Both are the share of seeds in which the claim holds; empty where there is nothing to compare. `others` are prunings
    of DeiT-T beside Swin-T's, or of Swin-T beside DeiT-T's: compared where the target is the same.
    """
    rows: list[dict[str, object]] = []
    for label, own in group_targets(records).items():
        prunings = [measured(record) for record in own]
        for claim, (measure, agrees) in CLAIMS.items():
            trained = [measure(found, "after") for found in prunings]
            control = [measure(found, "control") for found in prunings]
            rows.append({"target": label, "claim": claim, **_judge(trained, control, agrees)})
        rows += _compare(label, own, others)
    return pd.DataFrame(rows)


def _compare(label: str, own: Sequence[Record], others: Sequence[Record]) -> list[dict[str, object]]:
    """The claim that is about two networks."""
    names = [find_published(records[0].config) if records else None for records in (own, others)]
    if set(names) != {"deit_t", "swin_t"}:
        return []
    beside = group_targets(others).get(label, [])
    if not beside:
        verdict = f"not comparable: {names[1]} has not been pruned to {label}"
        return [{"target": label, "claim": ACROSS, "verdict": verdict}]
    pairs = []
    for column in ("after", "control"):
        ffn = [mean(kept_by_kind(measured(record), column)["FFN"] for record in each) for each in (own, beside)]
        pairs.append([dict(zip(names, ffn, strict=True))])
    found = _judge(pairs[0], pairs[1], lambda kept: kept["swin_t"] < kept["deit_t"])  # type: ignore[arg-type]
    return [{"target": label, "claim": ACROSS, **found}]


def _judge(trained: Sequence[Kept], control: Sequence[Kept], agrees: Callable[[Kept], bool]) -> dict[str, object]:
    if not all((*trained, *control)):
        return {"holds": None, "control_holds": None, "kept": "", "control_kept": "", "verdict": "too few blocks"}
    holds, same = (mean(agrees(kept) for kept in side) for side in (trained, control))
    return {
        "holds": holds,
        "control_holds": same,
        "kept": _describe(trained),
        "control_kept": _describe(control),
        "verdict": _conclude(holds, same, len(trained)),
    }


def _describe(side: Sequence[Kept]) -> str:
    means = {name: mean(kept[name] for kept in side) for name in side[0]}
    return ", ".join(f"{name} {percent(share)}%" for name, share in means.items())


def _conclude(holds: float, control: float, seeds: int) -> str:
    """The verdict in words; a claim that the control meets as well is no finding about trained networks."""
    if 0 < holds < 1:
        first = f"holds in {round(holds * seeds)} of {seeds} seeds"
    else:
        first = "holds" if holds else "does not hold"
    if 0 < control < 1:
        return f"{first}; in the untrained control in {round(control * seeds)} of {seeds}"
    if holds and control == 1:
        return f"{first}, but the untrained control does the same: no evidence that training matters"
    if not holds and not control:
        return f"{first}, nor in the untrained control"
    return f"{first}; the untrained control {'does' if control else 'does not'}"


def render_claims(table: pd.DataFrame) -> Table:
    """The claims for a terminal."""
    shown = Table(title="The paper's claims", box=None, padding=(0, 1, 0, 0))
    shown.title_justify = shown.caption_justify = "left"
    for name in ("target", "claim", "channels kept", "control", "verdict"):
        shown.add_column(name, overflow="fold")
    for row in table.to_dict("records"):
        cells = ("target", "claim", "kept", "control_kept", "verdict")
        shown.add_row(*("" if pd.isna(row.get(name)) else escape(str(row[name])) for name in cells))
    shown.caption = "Means over layers of the share of channels that is left. By MACs, kinds weigh as they cost."
    return shown


def tabulate_prunings(records: Sequence[Record], folder: Path | None = None) -> dict[str, pd.DataFrame]:
    """Tables by file name, in base units; from the folder of the results it sees what lies beside them."""
    return {
        "pruning": pruning_table(records),
        "channels": channel_table(records),
        "claims": claim_table(records, find_others(records, folder)),
        "steps": step_table(records),
    }


def render_prunings(records: Sequence[Record], folder: Path | None = None) -> list[Table]:
    """What a person sees in the terminal."""
    shown = [render_channels(own, label=label) for label, own in group_targets(records).items()]
    return [*shown, render_summary(records), render_claims(claim_table(records, find_others(records, folder)))]


def find_others(records: Sequence[Record], folder: Path | None) -> list[Record]:
    """Prunings of the paper's other network, where they lie beside these."""
    name = find_published(records[0].config) if records else None
    if folder is None or name not in OTHER or name not in folder.name:
        return []
    beside = read_records(folder.with_name(folder.name.replace(name, OTHER[name])))
    return [each for each in beside if each.task == "prune" and each.smoke == records[0].smoke and each.status == "ok"]
