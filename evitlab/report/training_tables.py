"""Trainings as tables: a row a seed, and what the seeds say together."""

from collections.abc import Sequence

import pandas as pd
from rich.markup import escape
from rich.table import Table

from evitlab.measurements.accuracy import TrainResult
from evitlab.records import Record
from evitlab.report.tables import mean_interval, percent
from evitlab.store import measured


def group_runs(records: Sequence[Record]) -> dict[str, list[TrainResult]]:
    """Trainings by model and by what was asked of it; a recipe that differs is a group of its own."""
    asked: dict[str, list[str]] = {}
    groups: dict[str, list[TrainResult]] = {}
    for record in records:
        requests = asked.setdefault(record.variant, [])
        if record.request not in requests:
            requests.append(record.request)
        number = requests.index(record.request) + 1
        name = record.variant if number == 1 else f"{record.variant}, recipe {number}"
        groups.setdefault(name, []).append(measured(record))
    return groups


def training_table(records: Sequence[Record]) -> pd.DataFrame:
    """A row a training, in base units: accuracies are shares, `train_seconds` and `wait_seconds` seconds."""
    rows = []
    for record in records:
        result = measured(record)
        row = {"model": record.variant, "seed": record.seed, "weights": f"weights/seed{record.seed}"}
        plain = ("top1", "top5", "loss", "train_top1", "data", "num_classes", "train_images", "val_images", "steps")
        row |= {name: getattr(result, name) for name in plain}
        row |= {"batch_size": result.batch_size, "images_seen": result.images_seen, "param_count": result.params}
        row |= {"train_seconds": result.train_seconds, "wait_seconds": result.wait_seconds}
        row |= {"train_samples_per_sec": result.images_seen / result.train_seconds, "peak_memory": result.peak_memory}
        row |= {"processes": result.processes, "device": record.environment.device, "request": record.request}
        rows.append(row)
    return pd.DataFrame(rows)


def render_training(table: pd.DataFrame) -> Table:
    """For a terminal: a row a training, and for several seeds of one recipe their mean with its interval."""
    shown = Table(title="Trainings", box=None, padding=(0, 2, 0, 0))
    shown.title_justify = shown.caption_justify = "left"
    shown.add_column("model")
    for name in ("seed", "top-1 %", "top-5 %", "loss", "trained on: top-1 %", "images/s"):
        shown.add_column(name, justify="right")
    for (model, _), rows in table.groupby(["model", "request"], sort=False):
        for row in rows.to_dict("records"):
            shown.add_row(
                escape(str(model)),
                str(row["seed"]),
                *(percent(row[name]) for name in ("top1", "top5")),
                f"{row['loss']:.3f}",
                percent(row["train_top1"]),
                f"{row['train_samples_per_sec']:.0f}",
            )
        low, high = mean_interval(list(rows["top1"]))
        if low is not None and high is not None:
            shown.add_row("", "mean", f"{percent(rows['top1'].mean())}\n{percent(low)}-{percent(high)}")
    shown.caption = escape(_describe(table))
    return shown


def _describe(table: pd.DataFrame) -> str:
    """On what, how long, and what it cost besides time."""
    first, waited = table.iloc[0], (table["wait_seconds"] / table["train_seconds"]).max()
    costs = [] if pd.isna(waited) else [f"waiting for images took at most {percent(waited)}% of the time"]
    costs += (
        [] if pd.isna(table["peak_memory"].max()) else [f"memory at most {table['peak_memory'].max() / 1e6:.0f} MB"]
    )
    seeds = " Below a mean: Student t 95% interval over seeds." if len(table) > 1 else ""
    return (
        f"{first['data']}, {first['num_classes']} classes: {first['train_images']:,} images to train on, "
        f"{first['val_images']:,} to judge by; {first['steps']:,} steps of {first['batch_size']}"
        f"{''.join('; ' + cost for cost in costs)}.{seeds}"
    )
