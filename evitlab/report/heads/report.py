"""What a study of heads leaves: their likeness block by block beside the paper's (Fig. 4), splits against plain."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evitlab.measurements.heads import HeadSimilarity
from evitlab.records import Record
from evitlab.report.frame import COLORBLIND, MARKERS, Drawn, start_figure, style
from evitlab.report.heads.figures import Line, draw_lines
from evitlab.report.heads.tables import (
    DEFINITIONS,
    QUANTITIES,
    block_table,
    find_paper,
    list_networks,
    mean_with_interval,
)
from evitlab.report.markup import Section, write_pictures
from evitlab.report.tables import to_csv
from evitlab.store import measured, write_atomically

BLOCKS, SPLITS = "heads.csv", "head_splits.csv"
FIGURES = {"features": "head_similarity", "maps": "head_maps"}
"""Quantity -> file of its figure."""
MEANING = (
    "Author's definition: in each image the largest cosine of any two heads of the block, averaged over images "
    "(microsoft/Cream#178). Caption's: the mean over heads of each head's largest. Which of them the paper's points "
    "follow is not known for certain, so both stand beside them.",
    "Untrained networks are no zero line by chance: of many heads with few channels some two are alike whatever they "
    "do. What training made of them is the difference to the dotted lines.",
)
SPLITS_CAPTION = (
    "Head splits less plain heads, similarity of head features by block. Surely: by the 95% interval of the "
    "difference, seed by seed, each block by itself, so that one of 40 is taken for either by chance. "
    "Numbers: head_splits.csv, heads.csv."
)


@dataclass(frozen=True, kw_only=True)
class Heads:
    """One variant's heads in a study: a result a seed."""

    variant: str
    config: Mapping[str, object]
    results: Mapping[int, HeadSimilarity]
    """By seed."""

    @property
    def family(self) -> str:
        """Of the zoo: what is drawn in one panel."""
        return str(self.config["family"])

    @property
    def paper(self) -> Sequence[float] | None:
        """The paper's line for this network, as shares."""
        found = find_paper(dict(self.config))
        return None if found is None else found[1]

    @property
    def kind(self) -> str:
        """How its heads are fed: mhsa, group or cascaded; several where its layers differ."""
        kinds = {
            layer["kind"]
            for stage in self.config["stages"]  # type: ignore[attr-defined]
            for block in stage["blocks"]
            for layer in block["layers"]
            if layer["type"] == "attention"
        }
        return "+".join(sorted(kinds))

    def line(self, quantity: str, definition: str, network: str) -> dict[int, dict[int, float]]:
        """Block -> seed -> similarity, where there is one, of the network `itself` or `untrained`."""
        found: dict[int, dict[int, float]] = {}
        for seed, result in self.results.items():
            for block in list_networks(result).get(network, ()):
                value = getattr(getattr(block, quantity), definition, None)
                if value is not None:
                    found.setdefault(block.number, {})[seed] = value
        return found


def write_heads(records: Sequence[Record], folder: Path) -> list[Section]:
    """Write tables and figures of all heads that were compared, and give the page's section; none where there are none.

    `records` are those of the study's table.
    """
    found = collect(records)
    if not found:
        return []
    write_atomically(folder / BLOCKS, to_csv(all_blocks(found)))
    drawn = {}
    for quantity, name in FIGURES.items():
        alt = f"Similarity of {QUANTITIES[quantity]} by block, a panel a network and definition; numbers in {BLOCKS}."
        beside = " Diamonds: the paper's Fig. 4, on ImageNet." if quantity == "features" else ""
        caption = f"{QUANTITIES[quantity].capitalize()} by block; dotted: the same networks untrained.{beside}"
        drawn[name] = Drawn(figure=likeness_plot(found, quantity), alt=alt, caption=caption)
    pictures = write_pictures(drawn, folder)
    table = split_table(found)
    tables = {}
    if not table.empty:
        write_atomically(folder / SPLITS, to_csv(table))
        tables[SPLITS_CAPTION] = readable_splits(table)
    return [Section(title="How alike heads are", paragraphs=MEANING, tables=tables, pictures=pictures)]


def collect(records: Sequence[Record]) -> list[Heads]:
    """The heads of each variant, seeds together, in the order of the records."""
    done = [record for record in records if record.task == "heads" and record.status == "ok"]
    return [
        Heads(
            variant=variant,
            config=next(record.config for record in done if record.variant == variant),
            results={record.seed: measured(record) for record in done if record.variant == variant},
        )
        for variant in dict.fromkeys(record.variant for record in done)
    ]


def all_blocks(found: Sequence[Heads]) -> pd.DataFrame:
    """`block_table` of every variant and seed."""
    tables = []
    for heads in found:
        for seed, result in heads.results.items():
            table = block_table(result)
            table.insert(0, "seed", seed)
            table.insert(0, "variant", heads.variant)
            tables.append(table)
    return pd.concat(tables, ignore_index=True)


def likeness_plot(found: Sequence[Heads], quantity: str) -> Figure:
    """A column a family, a row a definition (author's, caption's); means over seeds with their 95% intervals."""
    families = list(dict.fromkeys(heads.family for heads in found))
    result = next(iter(found[0].results.values()))
    seeds = sorted({len(heads.results) for heads in found})
    count = "one seed" if seeds == [1] else f"{'-'.join(map(str, seeds))} seeds, bars: 95% intervals of their mean"
    subtitle = f"{result.images:,} images of {result.data}, {result.image_size[0]} px; {count}"
    with style():
        title = f"How alike heads are, by block: {QUANTITIES[quantity]}"
        figure = start_figure(max(6.5, 5.6 * len(families)), 7.4, title=title, subtitle=subtitle)
        panels = figure.subplots(2, len(families), squeeze=False, sharey="row")
        for row, definition in zip(panels, ("author", "caption"), strict=True):
            axes: Axes
            for axes, family in zip(row, families, strict=True):
                own = [heads for heads in found if heads.family == family]
                draw_lines(axes, _list_lines(own, quantity, definition))
                axes.set_title(f"{family}, {DEFINITIONS[definition]} definition, %", loc="left")
        for axes in panels[1]:
            handles, labels = axes.get_legend_handles_labels()
            axes.legend(
                handles, labels, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=1 if len(families) > 1 else 2
            )
    return figure


def _list_lines(own: Sequence[Heads], quantity: str, definition: str) -> list[Line]:
    lines = []
    for place, heads in enumerate(own):
        color, marker = COLORBLIND[place % len(COLORBLIND)], MARKERS[place % len(MARKERS)]
        for network, kind in (("itself", "trained"), ("untrained", "untrained")):
            values = heads.line(quantity, definition, network)
            spread = [mean_with_interval(list(seeds.values())) for seeds in values.values()]
            if values:
                lines.append(
                    Line(
                        label=heads.variant + (", untrained" if kind == "untrained" else ""),
                        numbers=list(values),
                        values=[each[0] for each in spread],
                        lows=[each[1] for each in spread] if kind == "trained" else (),
                        highs=[each[2] for each in spread] if kind == "trained" else (),
                        kind=kind,
                        color=color,
                        marker=marker,
                    )
                )
        if quantity == "features" and heads.paper is not None:
            numbers, label = range(1, 1 + len(heads.paper)), f"{heads.variant}, paper"
            lines.append(Line(label=label, numbers=numbers, values=heads.paper, kind="paper", color=color))
    return lines


def split_table(found: Sequence[Heads]) -> pd.DataFrame:
    """Head splits less plain heads: in how many blocks similarity is lower, here and in the paper.

    A row for each two variants of one family, the first plain and the second split, each definition on features, and
    network, trained or not. `lower` counts blocks by the mean over seeds; `surely_lower` and `surely_higher` those
    whose 95% interval of the difference, seed by seed, leaves out 0. `change` is the mean over blocks, with that
    interval; `paper_lower` and `paper_change` are read off Fig. 4.
    """
    rows = []
    for plain in found:
        for split in found:
            if plain.family != split.family or plain.kind != "mhsa" or split.kind not in ("group", "cascaded"):
                continue
            for definition in DEFINITIONS:
                for network in ("itself", "untrained"):
                    row = _compare(plain, split, definition, network)
                    rows += [row] if row is not None else []
    return pd.DataFrame(rows)


def _compare(plain: Heads, split: Heads, definition: str, network: str) -> dict[str, object] | None:
    first, second = (heads.line("features", definition, network) for heads in (plain, split))
    differences = {
        block: {seed: second[block][seed] - value for seed, value in first[block].items() if seed in second[block]}
        for block in first
        if block in second
    }
    by_block = [mean_with_interval(list(seeds.values())) for seeds in differences.values() if seeds]
    if not by_block:
        return None
    seeds = sorted(set.intersection(*(set(each) for each in differences.values())))
    changes = [mean(each[seed] for each in differences.values()) for seed in seeds]
    change = mean_with_interval(changes) if changes else (mean(each[0] for each in by_block), None, None)
    paper: dict[str, object] = {"paper_lower": None, "paper_blocks": None, "paper_change": None}
    if plain.paper is not None and split.paper is not None:
        theirs = [after - before for before, after in zip(plain.paper, split.paper, strict=True)]
        paper = {
            "paper_lower": sum(each < 0 for each in theirs),
            "paper_blocks": len(theirs),
            "paper_change": mean(theirs),
        }
    return {
        "plain": plain.variant,
        "splits": split.variant,
        "definition": definition,
        "network": network,
        "blocks": len(by_block),
        "lower": sum(each[0] < 0 for each in by_block),
        "surely_lower": sum(each[2] is not None and each[2] < 0 for each in by_block),
        "surely_higher": sum(each[1] is not None and each[1] > 0 for each in by_block),
        "change": change[0],
        "change_low": change[1],
        "change_high": change[2],
        "seeds": len(seeds),
        **paper,
    }


def readable_splits(table: pd.DataFrame) -> pd.DataFrame:
    """The table as text, in percent points."""
    rows = []
    for _, row in table.iterrows():
        interval = (
            "" if pd.isna(row["change_low"]) else f" ({_points(row['change_low'])} to {_points(row['change_high'])})"
        )
        known = not pd.isna(row["paper_lower"])
        rows.append(
            {
                "head splits against plain": f"{row['splits']} - {row['plain']}",
                "definition": DEFINITIONS[row["definition"]],
                "weights": "trained" if row["network"] == "itself" else "untrained",
                "lower in": f"{row['lower']} of {row['blocks']} blocks",
                "surely lower / higher": f"{row['surely_lower']} / {row['surely_higher']}"
                if row["seeds"] > 1
                else "one seed: not separable",
                "mean change, points": _points(row["change"]) + interval,
                "paper: lower in": f"{row['paper_lower']:.0f} of {row['paper_blocks']:.0f} blocks" if known else "",
                "paper: mean change": _points(row["paper_change"]) if known else "",
            }
        )
    return pd.DataFrame(rows)


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"
