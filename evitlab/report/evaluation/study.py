"""The evaluations of a study: a folder of figures and tables for each variant, and what of them stands on the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evitlab.drawings import EVALUATIONS, Drawings, place_drawings, read_drawings
from evitlab.measurements.accuracy import TrainResult
from evitlab.records import Record
from evitlab.report.evaluation.report import write_attention, write_evaluation
from evitlab.report.frame import FORMATS, Drawn
from evitlab.report.markup import Picture, write_pictures
from evitlab.report.training_figures import training_plot
from evitlab.store import folder_name, measured

TRAINING = "training"
SHOWN = {
    "roc": ("ROC curves of {}, each class against the rest.", "Areas and curves are in the tables beside the page."),
    "confusion": ("What {} takes for what, as a matrix of the classes.", "The counts are in confusion.csv."),
}
"""The figures of a variant that stand on the page: what they show, and where their numbers are."""


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """What a study's page shows of its evaluations."""

    pictures: list[Picture] = field(default_factory=list)
    files: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By variant: paths from the page to all that was written; none where its curves are not here."""


def write_evaluations(records: Sequence[Record], folder: Path) -> Evaluated:
    """Write figures and tables of each evaluated variant, of its first seed, and how all trainings went.

    `records` are those of the study's table. Without evaluations among them, nothing is written.
    """
    done = [record for record in records if record.status == "ok"]
    first = {record.variant: record for record in reversed(done) if record.task == "evaluate"}
    variants = [variant for variant in dict.fromkeys(record.variant for record in done) if variant in first]
    if not variants:
        return Evaluated()
    pictures, files = [_write_training(done, folder)], {}
    for variant in variants:
        record = first[variant]
        drawings = read_drawings(place_drawings(folder, variant, record.seed), key=record.key)
        files[variant] = [] if drawings is None else _write_variant(record, drawings, folder)
        pictures += [] if drawings is None else _show(record, drawings, folder)
    return Evaluated(pictures=pictures, files=files)


def _write_training(done: Sequence[Record], folder: Path) -> Picture:
    runs: dict[str, list[TrainResult]] = {}
    for record in done:
        if record.task == "train":
            runs.setdefault(record.variant, []).append(measured(record))
    alt = "Training loss and held-out accuracy of every variant against the step."
    caption = "Loss is on augmented images with smoothed labels where those are on."
    drawn = Drawn(figure=training_plot(runs, title="How the trainings went"), alt=alt, caption=caption)
    return write_pictures({TRAINING: drawn}, folder)[0]


def _write_variant(record: Record, drawings: Drawings, folder: Path) -> list[str]:
    """Write all of a variant, remove what an earlier evaluation had more; the paths written, from the page."""
    place = f"{EVALUATIONS}/{folder_name(record.variant)}"
    for old in (folder / place).glob("attention_*.png"):
        old.unlink()
    write_evaluation(measured(record), drawings.curves, folder / place, model=record.variant)
    write_attention(drawings.images, drawings.maps, folder / place, titles=drawings.titles)
    kinds = {".csv", *(f".{kind}" for kind in FORMATS)}
    return sorted(f"{place}/{path.name}" for path in (folder / place).iterdir() if path.suffix in kinds)


def _show(record: Record, drawings: Drawings, folder: Path) -> list[Picture]:
    own = folder / EVALUATIONS / folder_name(record.variant)
    bare = f" No attention maps: {drawings.without_maps}." if drawings.without_maps else ""
    pictures = []
    for name, (what, where) in SHOWN.items():
        caption = f"{record.variant}, seed {record.seed}. {where}{bare}"
        pictures.append(
            Picture(png=(own / f"{name}.png").read_bytes(), alt=what.format(record.variant), caption=caption)
        )
    return pictures
