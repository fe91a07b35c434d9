"""What a comparison with the paper leaves: text, pictures, files."""

from io import StringIO

import numpy as np
import pandas as pd
import pytest
from fake_comparison import SPEED, TOP1, compare, make_records, read_study
from rich.console import Console

from evitlab.report.comparison.differences import pair_difference
from evitlab.report.comparison.figures import paper_differences
from evitlab.report.comparison.report import write_comparison
from evitlab.report.comparison.tables import NOT_SEPARABLE, pair_matrix, readable_comparison, render_comparison


@pytest.fixture
def study(tmp_path):
    return read_study(tmp_path)


@pytest.fixture
def comparison(study):
    return compare(study, make_records(study))


def test_the_table_in_points_with_its_interval(comparison):
    table = readable_comparison(comparison).set_index("variant")
    found = pair_difference(dict(enumerate(TOP1["worse"])), dict(enumerate(TOP1["plain"])))
    assert table["ours, points"]["worse"] == f"-9.7\n{100 * found.low:+.1f} to {100 * found.high:+.1f}"
    assert table["paper, points"]["worse"] == "-1.5"
    assert table["ours, points"]["plain"] == table["paper, points"]["plain"] == "compared with"
    assert list(table["sign"]) == ["", "agrees", "opposite", "agrees", ""]
    assert list(table["verdict"]) == ["", "agrees", "disagrees", "not separable", "lower"]
    assert table["speed, paper"]["worse"] == "1.03"  # 16411 / 15914
    assert table["speed, ours"]["worse"].startswith(f"{SPEED['worse'] / SPEED['plain']:.2f}\n")


def test_what_is_not_separable_has_no_number_among_the_pairs(comparison):
    (series,) = comparison.series
    matrix = pair_matrix(comparison, series)
    assert list(matrix["row"]) == [f"{number} {name}" for number, name in enumerate(TOP1, start=1)]
    for i, name in enumerate(TOP1):
        for j, other in enumerate(TOP1):
            cell = matrix[str(j + 1)][i]
            found = pair_difference(dict(enumerate(TOP1[name])), dict(enumerate(TOP1[other])))
            if i == j:
                assert cell == ""
            elif found.low < 0 < found.high:
                assert cell == NOT_SEPARABLE
            else:
                assert cell == f"{100 * found.value:+.1f}"


def test_the_terminal_shows_all_of_it_in_80_columns(comparison):
    console = Console(width=80, record=True, file=StringIO())
    console.print(render_comparison(comparison))
    text = console.export_text()
    assert all(name in text for name in TOP1)
    assert "not separable, and so not ranked: unsure." in " ".join(text.split())
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80


def test_the_figure_draws_both_and_leaves_open_what_is_not_separable(comparison):
    figure = paper_differences(comparison, title="T")
    accuracy, speed = figure.axes
    told, unsure, paper = (line for line in accuracy.lines if line.get_linestyle() == "None")
    assert [tick.get_text() for tick in accuracy.get_yticklabels()] == ["worse", "better", "unsure", "unknown"]
    assert told.get_xdata() == pytest.approx([-9.6667, 9.6667, -19.3333], abs=1e-3)
    assert unsure.get_xdata() == pytest.approx([-2.6667], abs=1e-3)
    assert (told.get_markerfacecolor() == "white", unsure.get_markerfacecolor()) == (False, "white")
    assert np.array(paper.get_xdata()) == pytest.approx([-1.5, -2.3, -1.4, np.nan], nan_ok=True)
    assert paper.get_color() != told.get_color()
    assert speed.get_title(loc="left") == "throughput over that of plain"


def test_files_open_in_pandas_and_the_section_says_how_to_read_it(comparison, tmp_path):
    section = write_comparison(comparison, tmp_path, title="T", subtitle="S")
    table = pd.read_csv(tmp_path / "paper_comparison.csv")
    assert list(table["variant"]) == list(TOP1)
    assert table["difference"][1] == pytest.approx(-0.29 / 3)
    assert len(pd.read_csv(tmp_path / "paper_pairs.csv")) == 10
    assert (tmp_path / "paper_comparison.png").read_bytes() == section.pictures[0].png
    assert section.title == "Paper against measured"
    assert len(section.tables) == 2
    assert "no order is claimed" in section.paragraphs[-1]
