"""Everything that a study leaves for people: table, figures and page, written from its records."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from evitlab.checks import BASE, show_base
from evitlab.records import Record
from evitlab.report.comparison.paper import Comparison, compare_with_paper
from evitlab.report.comparison.report import write_comparison
from evitlab.report.evaluation.study import write_evaluations
from evitlab.report.figures import throughput_accuracy
from evitlab.report.folders import PAGE
from evitlab.report.frame import Drawn
from evitlab.report.heads.report import write_heads
from evitlab.report.html import render_page
from evitlab.report.knob_figures import find_knob, knob_curves
from evitlab.report.markup import Page, Section, read_verdict, write_pictures
from evitlab.report.profile_figures import mhsa_ffn_bars, runtime_breakdown
from evitlab.report.search.report import write_search
from evitlab.report.search.tables import split_by_machine
from evitlab.report.series_figures import KNOB as RATIO
from evitlab.report.series_figures import accuracy_lines, find_series, memory_bound_lines
from evitlab.report.study_tables import TABLE, describe_proxy, of_seeds, tabulate
from evitlab.report.tables import select_records, to_csv
from evitlab.store import measured, write_atomically
from evitlab.study import Study

BY_MACHINE = "table_by_machine.csv"


def write_report(study: Study, records: Sequence[Record], where: Mapping[str, Any], folder: Path) -> pd.DataFrame:
    """Write table, figures, page and evaluations beside the records, each file in one step; return the table."""
    table = tabulate(study, records, where)
    chosen = select_records(
        of_seeds(study, records), study=study.name, requests=study.requests(), where=where, smoke=study.smoke
    )
    pictures = write_pictures(_draw(study, table, chosen), folder)
    evaluated = write_evaluations(chosen, folder)
    comparison = compare_with_paper(study, table, chosen)
    sections = [] if comparison is None else [_write_comparison(study, comparison, folder)]
    page = Page(
        study=study.name,
        question=study.file.question,
        source=study.file.source,
        expect=study.file.expect,
        cost=study.file.cost,
        verdict=read_verdict(folder),
        proxy_note=describe_proxy(study),
        notes=study.file.notes,
    )
    pictures += evaluated.pictures
    pictures += write_search(study, table, chosen, folder, subtitle=describe_proxy(study))
    if (by_machine := split_by_machine(study, records)) is not None:
        write_atomically(folder / BY_MACHINE, to_csv(by_machine))
    sections += write_heads(chosen, folder)
    text = render_page(page, table=table, pictures=pictures, records=chosen, files=evaluated.files, sections=sections)
    write_atomically(folder / PAGE, text)
    write_atomically(folder / TABLE, to_csv(table))
    return table


def _write_comparison(study: Study, comparison: Comparison, folder: Path) -> Section:
    title = f"{study.file.source}: its differences, and ours"
    return write_comparison(comparison, folder, title=title, subtitle=describe_proxy(study))


def _draw(study: Study, table: pd.DataFrame, chosen: Sequence[Record]) -> dict[str, Drawn]:
    """Figures by file name, each with what it shows in words and a caption."""
    drawn = {}
    if len(find_series(table, "top1")) > 1:  # too many variants to be named one by one
        lines = accuracy_lines(table, title=study.file.question, subtitle=describe_proxy(study))
        alt = "Accuracy against the MHSA ratio, a line a series, beside the source's; the numbers are in the table."
        drawn["accuracy_lines"] = Drawn(
            figure=lines, alt=alt, caption="Accuracy over the MHSA ratio; bars reach from seed to seed."
        )
    elif table["top1"].notna().any() or study.tasks.operators is None:
        figure = throughput_accuracy(table, title=study.file.question, proxy_note=describe_proxy(study))
        alt = "Accuracy, measured throughput and memory-bound share of every variant; the numbers are in the table."
        caption = "Accuracy and speed of every variant, with 95% intervals."
        drawn["throughput_accuracy"] = Drawn(figure=figure, alt=alt, caption=caption)
    knob = find_knob(table)
    if knob not in (None, RATIO) and (table["top1"].notna().any() or table["infer_samples_per_sec"].notna().any()):
        curves = knob_curves(table, study.paper_speeds(), title=study.file.question, subtitle=describe_proxy(study))
        alt = "Accuracy and throughput over the knob, the source's own curves beside; the numbers are in the table."
        drawn["knob_curves"] = Drawn(
            figure=curves, alt=alt, caption="Accuracy and throughput over the knob, and the source's own."
        )
    if find_series(table):
        lines = memory_bound_lines(table, title=study.file.question)
        alt = "Memory-bound share of the runtime against the MHSA ratio, a line a series; the numbers are in the table."
        drawn["memory_bound_lines"] = Drawn(
            figure=lines, alt=alt, caption="Memory-bound share over the MHSA ratio, with 95% intervals."
        )
    names = {BASE: f"{BASE}: {show_base(study.file.base)}"}  # a picture stands alone
    profiled = [record for record in chosen if record.task == "operators" and record.status == "ok"]
    profiles = {names.get(record.variant, record.variant): measured(record) for record in profiled}
    if profiles:
        bars = runtime_breakdown(profiles, title="Where the time of a forward pass goes, by class of operator")
        alt = "Share of the runtime by class of operator for every variant, memory-bound classes set off."
        drawn["memory_bound"] = Drawn(
            figure=bars, alt=alt, caption="Share of operator time by class; the paper's Fig. 2 asks the same."
        )
        parts = mhsa_ffn_bars(profiles, title="Time in MHSA, by its steps, and in FFN")
        alt = "Milliseconds in MHSA and FFN layers of every variant, MHSA by its steps."
        drawn["mhsa_ffn"] = Drawn(
            figure=parts, alt=alt, caption="MHSA against FFN; norms, residuals, stem and head are in neither."
        )
    return drawn
