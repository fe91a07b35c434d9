"""What the commands on models leave and print: tables and figures of `bench` and `profile`, from their records."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from evitlab.records import Record
from evitlab.report.frame import to_png
from evitlab.report.head_figures import drop_plot, matrix_plot, similarity_plot
from evitlab.report.head_tables import find_paper
from evitlab.report.models_tables import find_measured, select_task, tabulate_models
from evitlab.report.profile_figures import mhsa_ffn_bars, roofline_plot, runtime_breakdown
from evitlab.report.pruning_report import draw_prunings, write_page
from evitlab.report.tables import to_csv
from evitlab.report.timing_figures import batch_curve_plot, ratio_plot
from evitlab.report.training_figures import training_plot
from evitlab.report.training_tables import group_runs
from evitlab.store import measured, write_atomically


def write_models(records: Sequence[Record], folder: Path) -> None:
    """Tables as CSV and figures as PNG of one run of a command, beside its records, each in one step; of prunings
    also a page."""
    for name, table in tabulate_models(records, folder=folder).items():
        write_atomically(folder / f"{name}.csv", to_csv(table))
    pictures = {name: to_png(figure) for name, figure in _figures(records).items()}
    for name, png in pictures.items():
        write_atomically(folder / f"{name}.png", png)
    if pruned := select_task(records, "prune"):
        write_page(pruned, pictures, folder)


def _figures(records: Sequence[Record]) -> dict[str, Figure]:
    """Figures by name."""
    figures = draw_prunings(pruned) if (pruned := select_task(records, "prune")) else {}
    timings = [record for record in records if record.task == "throughput"]
    if len(timings) > 1:
        figures["ratios"] = ratio_plot(timings)
    if runs := group_runs([record for record in records if record.task == "train"]):
        figures["training"] = training_plot(runs, title=f"Training {', '.join(runs)}")
    if curves := find_measured(records, "batch_curve"):
        figures["batch_curve"] = batch_curve_plot(curves)
    for record in records:
        if record.task == "heads":
            figures |= _draw_heads(record)
    for name, profile in find_measured(records, "operators").items():
        title = f"Where the time of {name} goes"
        figures["breakdown"] = runtime_breakdown({name: profile}, title=title)
        figures["mhsa_ffn"] = mhsa_ffn_bars({name: profile}, title=f"MHSA and FFN of {name}")
        figures["roofline"] = roofline_plot(profile, title=f"Operators of {name} under this machine's roofs")
    return figures


def _draw_heads(record: Record) -> dict[str, Figure]:
    result, name = measured(record), record.variant
    what = f"{result.images:,} images of {result.data}"
    figures = {
        "head_similarity": similarity_plot(
            result, title=f"How alike the heads of {name} are", paper=find_paper(record.config)
        ),
        "head_matrices": matrix_plot(result.blocks, title=f"Heads of {name}, each with each", subtitle=what),
    }
    if result.control is not None:
        title = f"Heads of {name} untrained, each with each"
        figures["head_matrices_untrained"] = matrix_plot(result.control, title=title, subtitle=what)
    if result.drop_one is not None:
        figures["head_drops"] = drop_plot(result, title=f"What each head of {name} is worth")
    return figures
