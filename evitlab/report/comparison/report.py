"""What a comparison with the paper leaves: a section of the page, a figure, tables that open in pandas."""

from pathlib import Path

from evitlab.report.comparison.figures import paper_differences
from evitlab.report.comparison.paper import Comparison, summarise
from evitlab.report.comparison.tables import pair_matrix, readable_comparison
from evitlab.report.frame import Drawn
from evitlab.report.markup import Section, write_pictures
from evitlab.report.tables import to_csv
from evitlab.store import write_atomically

TABLE, PAIRS, FIGURE = "paper_comparison.csv", "paper_pairs.csv", "paper_comparison"

READING = (
    "Differences are in percentage points of top-1, each to the row that it is compared with. Ours are paired by seed, "
    "as trainings of one seed see the same images in the same order; their 95% intervals are of the paired t test. "
    "Where an interval holds 0 the row is not separable, and no order is claimed, whatever the means. Every comparison "
    "stands by itself: of twenty between equals, one would look separable, so what is left after Holm's adjustment for "
    "their number is said as well. The paper trained on ImageNet and states no spread: compare signs and order, not "
    "height, and note that its own differences have no interval."
)


def write_comparison(comparison: Comparison, folder: Path, *, title: str, subtitle: str) -> Section:
    """Write figure and tables beside the page; return the page's section."""
    figure = paper_differences(comparison, title=title, subtitle=subtitle)
    write_atomically(folder / TABLE, to_csv(comparison.table))
    write_atomically(folder / PAIRS, to_csv(comparison.pairs))
    caption = "Each row's difference in the paper and here."
    alt = "The paper's differences and ours with intervals, row by row; the numbers are in the table."
    tables = {"Small print below a value: its 95% interval.": readable_comparison(comparison)}
    for series in comparison.series:
        if series.seeds > 1:
            pairs = (
                f"Rows compared with {series.compared_with}, each with each: row minus column in points; "
                "n. s.: not separable."
            )
            tables[pairs] = pair_matrix(comparison, series)
    return Section(
        title="Paper against measured",
        paragraphs=[*summarise(comparison), READING],
        tables=tables,
        pictures=write_pictures({FIGURE: Drawn(figure=figure, alt=alt, caption=caption)}, folder),
    )
