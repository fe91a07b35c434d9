"""The page of a command on models (`bench`, `profile`, `train`, `evaluate`, `heads`): the same parts as a study's."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import mean
from typing import Any

from rich.table import Table

from evitlab.records import Record
from evitlab.report.folders import word_question
from evitlab.report.html import RULES
from evitlab.report.markup import (
    Page,
    Picture,
    fill_page,
    html_conditions,
    html_facts,
    html_figure,
    html_footer,
    html_repeats,
    html_shown,
    read_verdict,
    smoke_warning,
)
from evitlab.report.page_data import embed_packed, list_networks
from evitlab.report.tables import percent, significant
from evitlab.store import measured

MEANING = {
    "throughput": (RULES["infer_samples_per_sec"], RULES["speed_ratio"]),
    "operators": (RULES["memory_bound_share"],),
    "macs": (RULES["macs"],),
    "batch_curve": (
        "Overhead-bound: a call takes about as long as for one image, so that a larger batch is free.",
        "Throughput holds for the machine, versions and settings named below.",
    ),
    "self_test": ("One model is timed under two names. An interval without 1 is a difference that is not there.",),
    "train": (
        "Accuracy is of the data named, at this budget. One seed gives no interval: another training may differ by "
        "as much as two models do.",
    ),
    "evaluate": (
        "Intervals are Wilson's, over images: how far another draw of images may lie, not another training.",
        RULES["macro_auc"],
        RULES["ece"],
    ),
    "heads": (
        "Author's definition: in each image the largest cosine of any two heads of the block, averaged over images "
        "(microsoft/Cream#178). Caption's: the mean over heads of each head's largest.",
        "Untrained networks are no zero line by chance; what training made of them is the difference to them.",
    ),
    "peaks": ("Roofs of the roofline: what the fastest kernels reach, not what is printed on the box.",),
}
"""Task -> rules of reading."""


def ask(records: Sequence[Record], folder: Path) -> Page:
    """What the records of a command answer, in the words of their page."""
    question, source = word_question((record.task for record in records), (record.variant for record in records))
    verdict = read_verdict(folder)
    return Page(study=folder.name, question=question, source=source, expect="", cost="", verdict=verdict)


def render_page(records: Sequence[Record], *, shown: Sequence[Table], pictures: Sequence[Picture], folder: Path) -> str:
    """The page as one HTML text: no network, images and script inside, everything escaped.

    `shown` are the tables as the terminal shows them, in their order.
    """
    page = ask(records, folder)
    first, *others = map(html_shown, shown) if shown else [""]
    rules = dict.fromkeys(rule for task in MEANING for rule in MEANING[task] if task in {r.task for r in records})
    return fill_page(
        title=escape(f"{page.study}: {page.question}"),
        study=escape(page.study),
        question=escape(page.question),
        facts=html_facts(page, find(records)),
        warning=smoke_warning(records),
        proxy="",
        table=first,
        figures="\n".join([*map(html_figure, pictures), *others]),
        failures="",
        meaning="<ul>" + "".join(f"<li>{escape(rule)}</li>" for rule in rules) + "</ul>",
        conditions=html_conditions(records),
        repeats="\n".join(html_repeats(name, records) for name in dict.fromkeys(r.variant for r in records)),
        data=embed_packed("networks", list_networks(records)),
        footer=html_footer(records),
    )


def find(records: Sequence[Record]) -> list[str]:
    """The result in sentences, a task after the other; of some tasks there is nothing to say in words."""
    sentences: list[str] = []
    for task, say in FINDINGS.items():
        found: dict[str, list[Any]] = {}
        for record in records:
            if record.task == task and record.status == "ok":
                found.setdefault(record.variant, []).append(measured(record))
        sentences += [sentence for name, results in found.items() for sentence in say(name, results)]
    return sentences


def _say_heads(name: str, results: Sequence[Any]) -> Iterable[str]:
    networks = {"": results[-1].blocks, " untrained": results[-1].control or ()}
    for kind, blocks in networks.items():
        values = [block.features.author for block in blocks if block.features and block.features.author is not None]
        if values:
            yield (
                f"{name}{kind}: two heads of a block reach a similarity of {percent(min(values))} to "
                f"{percent(max(values))}%, mean over blocks {percent(mean(values))}% (author's definition)."
            )


def _say_evaluation(name: str, results: Sequence[Any]) -> Iterable[str]:
    last = results[-1]
    interval = f"95% interval {percent(last.top1_low)}-{percent(last.top1_high)}, n={last.images:,} images"
    yield f"{name}: top-1 {percent(last.top1)}% ({interval}) on {last.data}, calibration error {percent(last.ece)}%."


def _say_profile(name: str, results: Sequence[Any]) -> Iterable[str]:
    last = results[-1]
    interval = f"{percent(last.memory_bound_share_low)}-{percent(last.memory_bound_share_high)}"
    yield (
        f"{name}: memory-bound share of operator time {percent(last.memory_bound_share)}% by the paper's classes "
        f"(95% interval {interval}), {percent(last.roofline_memory_bound_share)}% by this machine's roofline."
    )


def _say_self_test(name: str, results: Sequence[Any]) -> Iterable[str]:
    last = results[-1]
    yield (
        f"{name}: {'passed' if last.passed else 'failed'}. {last.contained} of {len(last.runs)} intervals contain 1; "
        f"the median of |ratio - 1| is {100 * last.median_error:.2f}%."
    )


def _say_curve(name: str, results: Sequence[Any]) -> Iterable[str]:
    curve = results[-1]
    best = next(point for point in curve.points if point.batch_size == curve.best_batch_size)
    until = curve.overhead_bound_until
    bound = "no batch is overhead-bound" if until is None else f"overhead-bound up to batch {until}"
    yield f"{name}: fastest at batch {best.batch_size}, {significant(best.images_per_second)} images/s; {bound}."


def _say_training(name: str, results: Sequence[Any]) -> Iterable[str]:
    values = [result.top1 for result in results]
    reach = f", {percent(min(values))} to {percent(max(values))}" if len(values) > 1 else ""
    count = f"{len(values)} trainings{reach}" if len(values) > 1 else "one training: no interval"
    yield f"{name}: top-1 {percent(mean(values))}% on {results[-1].data} ({count})."


def _say_timing(name: str, results: Sequence[Any]) -> Iterable[str]:
    for timing in results:
        text = f"{name}: {significant(timing.images_per_second)} images/s at batch {timing.batch_size}"
        if timing.ratio is not None and timing.ratio_low is not None and timing.ratio_high is not None:
            text += f", {timing.ratio:.2f}x {timing.reference} ({timing.ratio_low:.2f}-{timing.ratio_high:.2f})"
            if timing.ratio_low <= 1 <= timing.ratio_high:
                text += ": not separable"
        yield text + "."


def _say_peaks(name: str, results: Sequence[Any]) -> Iterable[str]:
    for peaks in results:
        memory = max(peaks.bandwidths, key=lambda each: each.working_set_bytes)
        yield (
            f"{name}: {significant(peaks.flops_per_second / 1e9)} GFLOP/s in {peaks.precision}, "
            f"{significant(memory.bytes_per_second / 1e9)} GB/s from memory."
        )


FINDINGS: Mapping[str, Callable[[str, Sequence[Any]], Iterable[str]]] = {
    "heads": _say_heads,
    "evaluate": _say_evaluation,
    "operators": _say_profile,
    "self_test": _say_self_test,
    "batch_curve": _say_curve,
    "train": _say_training,
    "throughput": _say_timing,
    "peaks": _say_peaks,
}
"""Task -> sentences about one model's results, in the order made."""
