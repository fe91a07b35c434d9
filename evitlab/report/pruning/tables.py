"""Prunings as tables: a row a target and seed, a row a block and kind of channels, a row a step."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd
from rich.markup import escape
from rich.table import Table

from evitlab.measurements.pruning import JudgedOn, Pruning
from evitlab.models.zoo import ZOO
from evitlab.paper import PRUNED_CHANNELS
from evitlab.records import Record
from evitlab.report.tables import mean_interval, percent, si, significant
from evitlab.store import measured

KINDS = {"qk": "QK", "v": "V", "ffn": "FFN"}
"""In the order and with the names of the paper's Fig. 5."""
COSTS = {"macs": "MACs", "params": "parameters"}
SHOWN = {"taylor": ""}
"""What a row says of an importance; the others say their name."""
EMBEDDED = "shapes"
"""The data set whose name a row leaves out."""


def name_target(pruning: Pruning) -> str:
    """A target in words, with the importance and the data where they are not the defaults."""
    importance = SHOWN.get(pruning.importance, f" {pruning.importance}")
    data = "" if pruning.data == EMBEDDED else f" on {pruning.data}"
    return f"{pruning.target}={pruning.target_value:g}{importance}{data}"


def group_targets(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Prunings that differ by seed alone, by target; one asked for otherwise is a group of its own."""
    asked: dict[str, list[str]] = {}
    groups: dict[str, list[Record]] = {}
    for record in records:
        label = name_target(measured(record))
        requests = asked.setdefault(label, [])
        if record.request not in requests:
            requests.append(record.request)
        number = requests.index(record.request) + 1
        groups.setdefault(label if number == 1 else f"{label}, settings {number}", []).append(record)
    return groups


def find_published(config: dict[str, Any]) -> str | None:
    """The network of the zoo whose family and numbers of blocks a config has; None for another."""
    depths = tuple(len(stage["blocks"]) for stage in config.get("stages", []) if "blocks" in stage)
    for name, published in ZOO.items():
        if published.family == config.get("family") and published.depths == depths:
            return name
    return None


def pruning_table(records: Sequence[Record]) -> pd.DataFrame:
    """A row a pruning in base units: accuracies and costs before and after, its own and the control's."""
    rows = []
    for record in records:
        found: Pruning = measured(record)
        row: dict[str, Any] = {"model": record.variant, "target": found.target, "target_value": found.target_value}
        row |= {"importance": found.importance, "seed": record.seed, "reached": found.reached}
        row |= {"control_reached": found.control_reached}
        for name, judged in _judgements(found).items():
            row |= _spread(name, judged)
        last, control = found.curve[-1], found.control_curve[-1]
        row |= {"macs_before": found.macs_before, "macs": last.macs, "control_macs": control.macs}
        row |= {"param_count_before": found.params_before, "param_count": last.params}
        row |= {"control_param_count": control.params}
        row |= {"infer_samples_per_sec_before": found.speed_before.images_per_second}
        speed = found.speed_after
        row |= {"infer_samples_per_sec": speed.images_per_second, "speed_ratio": speed.ratio}
        row |= {"speed_ratio_low": speed.ratio_low, "speed_ratio_high": speed.ratio_high}
        row |= {"published_path_speed_ratio": found.speed_published.ratio, "infer_batch_size": speed.batch_size}
        plain = ("data", "num_classes", "steps", "finetune_epochs", "score_images", "by_cost", "cost", "weights")
        row |= {name: getattr(found, name) for name in plain} | {"images": found.before.images}
        row |= {"origin": found.origin, "device": record.environment.device, "request": record.request}
        rows.append(row)
    return pd.DataFrame(rows)


def _judgements(found: Pruning) -> dict[str, JudgedOn | None]:
    return {
        "top1_before": found.before,
        "top1_pruned": found.pruned,
        "top1_finetuned": found.finetuned,
        "top1_control_before": found.control_before,
        "top1_control": found.control_curve[-1].pruned,
    }


def _spread(name: str, judged: JudgedOn | None) -> Mapping[str, float | None]:
    if judged is None:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"))
    loss = {f"loss{name.removeprefix('top1')}": judged.loss}
    return {name: judged.top1, f"{name}_low": judged.top1_low, f"{name}_high": judged.top1_high} | loss


def channel_table(records: Sequence[Record]) -> pd.DataFrame:
    """A row a block and kind of a pruning: channels of all heads, and over the embedding width, beside the paper's.

    A block with several layers of a kind has one row, of their sum. Layers between stages have an empty `block`.
    """
    rows = []
    for label, record in _labelled(records):
        found: Pruning = measured(record)
        paper = PRUNED_CHANNELS.get(find_published(record.config) or "", {})
        same = {"model": record.variant, "target": label, "seed": record.seed}
        plain = pd.DataFrame([asdict(group) for group in found.groups])
        sums = {name: (name, "sum") for name in ("before", "after", "control")}
        first = {"heads": ("heads", "first"), "width": ("width", "first")}
        joined = plain.groupby(["block", "kind"], sort=False, dropna=False).agg(**first, **sums).reset_index()
        for group in joined.to_dict("records"):
            row = same | group | {"block": None if pd.isna(group["block"]) else int(group["block"])}
            row |= {f"{name}_ratio": group[name] / group["width"] for name in sums}
            curve = paper.get(KINDS[group["kind"]], ())
            block = row["block"]
            row["paper_ratio"] = curve[block - 1] if block is not None and block <= len(curve) else None
            rows.append(row)
    table = pd.DataFrame(rows)
    return table.astype({"block": "Int64", "paper_ratio": "float64"}) if len(table) else table


def step_table(records: Sequence[Record]) -> pd.DataFrame:
    """A row a step of a pruning, step 0 the whole network, and of its control."""
    rows = []
    for label, record in _labelled(records):
        found: Pruning = measured(record)
        same = {"model": record.variant, "target": label, "seed": record.seed}
        starts = (("trained", found.before, found.curve), ("control", found.control_before, found.control_curve))
        for which, before, curve in starts:
            whole = {"step": 0, "share": 1.0, "macs": found.macs_before, "param_count": found.params_before}
            rows.append(same | {"network": which} | whole | {"top1_pruned": before.top1, "top1_finetuned": None})
            for number, step in enumerate(curve, start=1):
                row = same | {"network": which, "step": number, "share": step.target, "macs": step.macs}
                row |= {"param_count": step.params, "top1_pruned": step.pruned.top1}
                row["top1_finetuned"] = None if step.finetuned is None else step.finetuned.top1
                rows.append(row)
    return pd.DataFrame(rows).astype({"top1_finetuned": "float64"})


def _labelled(records: Sequence[Record]) -> list[tuple[str, Record]]:
    return [(label, record) for label, own in group_targets(records).items() for record in own]


def _start(title: str, *columns: str) -> Table:
    table = Table(title=escape(title), box=None, padding=(0, 1, 0, 0))
    table.title_justify = table.caption_justify = "left"
    for number, column in enumerate(columns):
        table.add_column(escape(column), justify="right" if number else "left", overflow="fold")
    return table


def summarise(records: Sequence[Record]) -> pd.DataFrame:
    """As text, a row a target: accuracies, costs and speed, means over the seeds; second lines are 95% intervals."""
    rows = []
    for label, own in group_targets(records).items():
        table = pruning_table(own)
        row = {"model": own[0].variant, "target": label}
        row["reached"] = ", ".join(f"{value:.3f}" for value in table["reached"])
        row |= {name: _accuracy(table, column) for name, column in ACCURACIES.items()}
        for name, column in (("MACs", "macs"), ("params", "param_count")):
            row[name] = f"{si(table[f'{column}_before'].mean())}\n{si(table[column].mean())}"
        row["speed"] = ", ".join(f"{value:.2f}x" for value in table["speed_ratio"])
        if len(table) == 1:
            row["speed"] += f"\n{table['speed_ratio_low'][0]:.2f}-{table['speed_ratio_high'][0]:.2f}"
        rows.append(row)
    return pd.DataFrame(rows)


ACCURACIES = {
    "before": "top1_before",
    "pruned": "top1_pruned",
    "tuned": "top1_finetuned",
    "control": "top1_control",
}
"""Columns of the summary: top-1 % of the original, right after the last cut, after fine-tuning; the control's."""


def _accuracy(table: pd.DataFrame, column: str) -> str:
    values = list(table[column].dropna())
    if not values:
        return ""
    low, high = (table[f"{column}_low"].iloc[0], table[f"{column}_high"].iloc[0])
    if len(values) > 1:
        low, high = mean_interval(values)
    return f"{percent(sum(values) / len(values))}\n{percent(low)}-{percent(high)}"


def describe_accuracy(records: Sequence[Record]) -> str:
    """On what the accuracies are, and what their intervals are of."""
    found: Pruning = measured(records[0])
    seeds = len({record.seed for record in records})
    interval = "Student t, over seeds" if seeds > 1 else "Wilson's, over images"
    return (
        f"Top-1 % on {found.before.images:,} held-out images of {found.data}, {found.num_classes} classes; "
        f"95% intervals: {interval}. MACs and parameters: before, below it after. Control: the same on an untrained "
        "network, scored and cut alike, never trained."
    )


def render_summary(records: Sequence[Record]) -> Table:
    """The summary for a terminal."""
    text = summarise(records).drop(columns="model" if len({r.variant for r in records}) == 1 else [])
    table = _start(f"Pruned: {', '.join(dict.fromkeys(record.variant for record in records))}", *text.columns)
    for column in table.columns:
        column.no_wrap = True
    for row in text.itertuples(index=False):
        table.add_row(*(escape(cell) for cell in row))
    table.caption = escape(f"{describe_accuracy(records)} {describe_speed(measured(records[0]))}")
    return table


def describe_speed(found: Pruning) -> str:
    """How throughput was timed."""
    paths = {found.speed_before.attention_path, found.speed_after.attention_path}
    published = found.speed_published
    return (
        f"Speed: measured over the original's, timed in turn, batch {found.speed_after.batch_size}, attention "
        f"{' and '.join(sorted(paths))} in both (Q and K narrower than V leave the fused CPU kernel); the original "
        f"with attention {published.attention_path}, as published: {significant(published.ratio or 1.0)}x."
    )


def channel_text(records: Sequence[Record], *, heads: bool = False) -> pd.DataFrame:
    """As text, a row a block of one target: channels over the embedding width, means over the seeds.

    With `heads`, of one seed, also the number of heads and of channels in each, for QK and V.
    """
    table = channel_table(records)
    table = table[table["block"].notna()]
    shown = heads and table["seed"].nunique() == 1
    rows = []
    for block, own in table.groupby("block"):
        row = {"block": str(block), "width": str(own["width"].iloc[0])}
        for kind, name in KINDS.items():
            cells = own[own["kind"] == kind]
            for column, header in (("before", name), ("after", f"{name} pruned"), ("control", f"{name} control")):
                row[header] = _ratio(cells, column, heads=shown and kind != "ffn")
        rows.append(row)
    return pd.DataFrame(rows)


def _ratio(cells: pd.DataFrame, column: str, *, heads: bool) -> str:
    if cells.empty:
        return ""
    text = f"{cells[f'{column}_ratio'].mean():.2f}"
    count = cells["heads"].iloc[0]
    return f"{text}\n{count}x{cells[column].iloc[0] // count}" if heads else text


def render_channels(records: Sequence[Record], *, label: str) -> Table:
    """The channels of one target for a terminal."""
    found: Pruning = measured(records[0])
    text = channel_text(records)
    short = [name.replace(" pruned", "\npruned").replace(" control", "\ncontrol") for name in text.columns]
    table = _start(f"{records[0].variant} at {label}: channels over the embedding width", *short)
    for row in text.itertuples(index=False):
        table.add_row(*(escape(str(cell)) for cell in row))
    table.caption = escape(" ".join([describe_scores(found), *describe_unprunable(found)]))
    return table


def describe_scores(found: Pruning) -> str:
    """How it was scored and cut, in a sentence or two."""
    cost = f"over the {COSTS[found.cost]} saved" if found.by_cost else "bare"
    floors = ", ".join(f"{count} {KINDS[kind]}" for kind, count in found.floors.items())
    epochs = f"{found.finetune_epochs:g} {'epoch' if found.finetune_epochs == 1 else 'epochs'}"
    tuned = f"{epochs} of fine-tuning after each" if found.finetune_epochs else "no fine-tuning"
    return (
        f"Importance {found.importance}, scores {cost}, {found.steps} {'step' if found.steps == 1 else 'steps'}, "
        f"{tuned}, {found.score_images:,} images in batches of {found.score_batch_size}; floors: {floors} channels."
    )


def describe_unprunable(found: Pruning) -> list[str]:
    """What could not be pruned, a sentence each."""
    return [f"Not pruned: {reason}." for reason in found.unprunable]
