"""The figures of the commands on models, each with its words: what `bench`, `profile`, `train`, `heads` drew."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evitlab.records import Record
from evitlab.report.frame import FORMATS, Drawn
from evitlab.report.heads.figures import drop_plot, matrix_plot, similarity_plot
from evitlab.report.heads.tables import find_paper
from evitlab.report.markup import Picture
from evitlab.report.profile_figures import mhsa_ffn_bars, roofline_plot, runtime_breakdown
from evitlab.report.pruning.report import draw_prunings
from evitlab.report.timing_figures import batch_curve_plot, ratio_plot
from evitlab.report.training_figures import training_plot
from evitlab.report.training_tables import group_runs
from evitlab.store import measured


def draw_models(records: Sequence[Record]) -> dict[str, Drawn]:
    """Figures by file name, each with what it shows in words and a caption."""
    figures = draw_prunings(pruned) if (pruned := [record for record in records if record.task == "prune"]) else {}
    timings = [record for record in records if record.task == "throughput"]
    if len(timings) > 1:
        figures["ratios"] = Drawn(
            figure=ratio_plot(timings, mixed=True),
            alt="Speed of each model over that of its reference, with intervals; the numbers are in the table.",
            caption="Timed in turn. Where the line of an interval crosses 1, the two are not separable.",
        )
    if runs := group_runs([record for record in records if record.task == "train"]):
        figures["training"] = Drawn(
            figure=training_plot(runs, title=f"Training {', '.join(runs)}"),
            alt="Training loss and held-out accuracy against the step.",
            caption="Loss is on augmented images with smoothed labels where those are on.",
        )
    if curves := _by_model(records, "batch_curve"):
        figures["batch_curve"] = Drawn(
            figure=batch_curve_plot(curves),
            alt="Milliseconds of a call and images per second against the batch size; the numbers are in the table.",
            caption="Where the band lies under the line, a larger batch costs nothing.",
        )
    for record in records:
        if record.task == "heads":
            figures |= _draw_heads(record)
    for name, profile in _by_model(records, "operators").items():
        figures |= _draw_profile(name, profile)
    return figures


def _draw_profile(name: str, profile: Any) -> dict[str, Drawn]:
    return {
        "breakdown": Drawn(
            figure=runtime_breakdown({name: profile}, title=f"Where the time of {name} goes"),
            alt="Share of the runtime by class of operator, memory-bound classes set off; numbers in classes.csv.",
            caption="Share of operator time by class; the paper's Fig. 2 asks the same.",
        ),
        "mhsa_ffn": Drawn(
            figure=mhsa_ffn_bars({name: profile}, title=f"MHSA and FFN of {name}"),
            alt="Milliseconds in MHSA and FFN layers, MHSA by its steps.",
            caption="MHSA against FFN; norms, residuals, stem and head are in neither.",
        ),
        "roofline": Drawn(
            figure=roofline_plot(profile, title=f"Operators of {name} under this machine's roofs"),
            alt="Operations a second of every operator against its operations a byte, under the machine's roofs.",
            caption="What lies left of the ridge is bound by memory. The numbers are in operators.csv.",
        ),
    }


def _draw_heads(record: Record) -> dict[str, Drawn]:
    result, name = measured(record), record.variant
    what = f"{result.images:,} images of {result.data}"
    alike = "How alike the heads of each block are, head by head, as matrices."
    numbers = "The numbers are in head_matrices.csv."
    figures = {
        "head_similarity": Drawn(
            figure=similarity_plot(result, title=f"How alike the heads of {name} are", paper=find_paper(record.config)),
            alt="Similarity of heads by block, by both definitions, of features and of attention maps.",
            caption="Dotted: the same network untrained. Diamonds: the paper's Fig. 4, on ImageNet, where it has one.",
        ),
        "head_matrices": Drawn(
            figure=matrix_plot(result.blocks, title=f"Heads of {name}, each with each", subtitle=what),
            alt=alike,
            caption=numbers,
        ),
    }
    if result.control is not None:
        title = f"Heads of {name} untrained, each with each"
        figure = matrix_plot(result.control, title=title, subtitle=what)
        figures["head_matrices_untrained"] = Drawn(figure=figure, alt=alike, caption=f"Untrained. {numbers}")
    if result.drop_one is not None:
        figures["head_drops"] = Drawn(
            figure=drop_plot(result, title=f"What each head of {name} is worth"),
            alt="Accuracy lost and cross-entropy gained without each head, with intervals.",
            caption="One head at a time. Where a bar's interval holds 0, nothing is lost for certain.",
        )
    return figures


EVALUATED = {
    "roc": ("ROC curves, each class against the rest.", "Areas and curves are in roc.csv."),
    "confusion": ("What is taken for what, as a matrix of the classes.", "The counts are in confusion.csv."),
    "reliability": ("Accuracy against confidence.", "The bins are in reliability.csv."),
    "per_class": ("F1, recall and precision of the classes.", "All of them are in classes.csv."),
    "attention": ("Where each head of a block looks, over an image.", "Bright: looked at most, each head by itself."),
}
"""Figures that only the command `evaluate` can draw, as their curves are in no record: what they show, a caption."""


def find_pictures(records: Sequence[Record], folder: Path) -> list[Picture]:
    """The figures of an evaluation that lie in the folder."""
    if not any(record.task == "evaluate" for record in records):
        return []
    pictures = []
    for name, (alt, caption) in EVALUATED.items():
        for path in sorted(folder.glob(f"{name}*.png")):
            files = [f"{path.stem}.{kind}" for kind in FORMATS if path.with_suffix(f".{kind}").exists()]
            pictures.append(Picture(png=path.read_bytes(), alt=alt, caption=caption, files=files))
    return pictures


def _by_model(records: Sequence[Record], task: str) -> dict[str, Any]:
    return {record.variant: measured(record) for record in records if record.task == task}
