"""The page over all results: what it says of each folder, and that nothing wrong with one hides the others."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from fake_pruning import make_pruned_record
from fake_records import make_record, make_study, make_throughput

from evitlab.report.index import list_entries as list_all
from evitlab.report.index import refresh_index, render_index, shorten_verdict, write_index
from evitlab.store import append
from evitlab.study import load_study

EVIL = '<script>alert("x")</script>&'
STUDY = """
question: Which ratio <b>is best</b>?
source: Fig. 3
expect: the low one
cost: 1 minute
base: deit_t
grid: {mhsa_ratio: [0.4, 0.5]}
tasks: {macs: {}}
"""


@pytest.fixture
def results(tmp_path) -> Path:
    """A study with a verdict and one of its two variants measured, a bench, and a pruning."""
    study = tmp_path / "ratio"
    study.mkdir()
    (study / "study.yaml").write_text(STUDY)
    (study / "verdict.txt").write_text("Agrees, in part. More here.\n\nDoes not hold for 0.5: it is worse.\n")
    read = load_study(study / "study.yaml")
    wanted = next(each for (name, _), each in read.requests().items() if name == "mhsa_ratio=0.4")
    counted = next(record for record in make_study() if record.task == "macs")
    append(replace(counted, study="ratio", variant="mhsa_ratio=0.4", request=wanted), study)
    append(replace(counted, study="ratio", variant="old", request="0" * 16), study)
    for name, key in (("deit_t", "a"), (EVIL, "b")):
        append(make_record("throughput", make_throughput(), variant=name, key=key * 16), tmp_path / "bench_a b#1")
    (tmp_path / "bench_a b#1" / "ratios.png").write_bytes(b"made up")
    append(make_pruned_record(), tmp_path / "prune_deit_t")
    return tmp_path


class Links(HTMLParser):
    """All references of a page, and whether every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.found += [given[name] for name in ("href", "src") if name in given]
        self.images += [given] if tag == "img" else []


def test_every_folder_is_there_studies_first(results):
    entries = {entry.name: entry for entry in list_all(results)}
    assert list(entries) == ["ratio", "bench_a b#1", "prune_deit_t"]
    assert [entry.variants for entry in entries.values()] == [1, 2, 1], "of a study, those that it asks for"
    assert all(entry.machines == ["Example CPU @ 2.10GHz (0a1b2c3d)"] for entry in entries.values())
    text = write_index(results).read_text()
    for words in (
        "Which ratio &lt;b&gt;is best&lt;/b&gt;?",
        "Fig. 3",
        "How fast is deit_t, ",
        "would it leave them un",
    ):
        assert words in text
    assert text.count("No verdict written.") == 2
    assert "Agrees, in part. Does not hold for 0.5: it is worse." in text
    assert EVIL not in text
    assert "<b>" not in text


def test_its_links_and_pictures_lead_to_files(results):
    (results / "ratio" / "report.html").write_text("page")
    (results / "ratio" / "table.csv").write_text("a\n")
    read = Links(write_index(results).read_text())

    assert all((results / unquote(link)).is_file() for link in read.found)
    assert {"ratio/report.html", "ratio/table.csv", "ratio/records.jsonl"} <= set(read.found)
    assert [image["alt"] for image in read.images] == ["Figure ratios of bench_a b#1"]


def test_a_folder_that_cannot_be_read_is_named_and_the_others_are_shown(results):
    (results / "broken").mkdir()
    (results / "broken" / "records.jsonl").write_text('{"schema": 1}\n')
    (results / "ratio" / "study.yaml").write_text("question: 1\n")
    entries = {entry.name: entry for entry in list_all(results)}
    assert "schema 1 is older" in entries["broken"].problem
    assert "study.yaml" in entries["ratio"].problem
    text = render_index(list(entries.values()))
    assert text.count("Not readable") == 2
    assert "would it leave them untrained" in text


def test_it_is_the_same_every_time_and_empty_folders_are_left_out(results):
    (results / "empty").mkdir()
    (results / "empty" / "records.jsonl").write_text("")
    first = write_index(results).read_bytes()
    assert write_index(results).read_bytes() == first
    assert b"empty" not in first


def test_nothing_measured_says_so(tmp_path):
    assert "Nothing has been measured yet." in write_index(tmp_path).read_text()


def test_after_a_run_it_warns_and_never_raises(tmp_path):
    (tmp_path / "index.html").mkdir()
    with pytest.warns(UserWarning, match=r"index\.html: not written"):
        refresh_index(tmp_path)


@pytest.mark.parametrize(
    ("verdict", "short"),
    [
        ("It holds.", "It holds."),
        ("It holds. By 0.5 points, i.e. little.\n\nNot for Swin-T. So far.", "It holds. Not for Swin-T."),
        ("M0 reaches 18.4% vs. 20% there: so\nit is lower. End.", "M0 reaches 18.4% vs. 20% there: so it is lower."),
    ],
)
def test_a_verdict_in_short_is_the_first_sentence_of_each_paragraph(verdict, short):
    assert shorten_verdict(verdict) == short


def test_it_reaches_for_nothing_else(results):
    text = write_index(results).read_text()
    assert not re.search(r"https?:|<script|\son\w+=|@import|url\(", text)
    assert text.count("<h1") == 1
    assert '<html lang="en">' in text
