import base64
import gzip
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest
from fake_records import (
    PAPER,
    fail,
    make_config,
    make_macs,
    make_match,
    make_profile,
    make_record,
    make_study,
    make_throughput,
    make_training,
    requests,
)

from evitlab.report.html import find, render_page
from evitlab.report.markup import Page, Picture, html_table, read_part
from evitlab.report.tables import select_records, study_table

STUDY = make_study()
NOTE = "Accuracy is a proxy's (width 48, 32 px), not ImageNet's."
EVIL = '<script>alert("x")</script>&'
PAGE = Page(
    study="mhsa_ratio",
    question="Which ratio?",
    source="Fig. 3",
    expect="0.2 to 0.4 is best",
    cost="5 minutes",
    proxy_note=NOTE,
    notes="First remark.\n\nSecond remark.",
)
PNG = b"\x89PNG made up"
PICTURE = Picture(png=PNG, alt="accuracy against ratio", caption="Four panels.")
PAPER_BY_NAME = {f"mhsa_ratio={ratio:g}": top1 for ratio, top1 in PAPER.items()}


class Reader(HTMLParser):
    """Every tag with its attributes, the text, the scripts, and whether all tags are closed in order."""

    VOID = frozenset({"meta", "img", "br", "link", "input", "hr"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.scripts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text += data
        if "script" in self.open:
            self.scripts.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def page_of(records, *, page=PAGE, smoke=False, paper=None, wanted=None, pictures=(PICTURE,)):
    selection = {"study": "mhsa_ratio", "requests": wanted or requests(records), "smoke": smoke}
    table = study_table(records, paper_top1=paper, **selection)
    return render_page(page, table=table, pictures=pictures, records=select_records(records, **selection))


def unpack(script):
    return json.loads(gzip.decompress(base64.b64decode(script)))


def table_of(records, **options):
    return study_table(records, study="mhsa_ratio", requests=requests(records), **options)


def test_the_page_says_question_source_expectation_cost_and_notes():
    read = Reader(page_of(STUDY))
    for words in (PAGE.question, PAGE.source, PAGE.expect, PAGE.cost, NOTE, "First remark.", "Second remark."):
        assert words in read.text
    assert read.text.index(PAGE.expect) < read.text.index("Highest proxy top-1")


def test_the_page_is_whole_and_reaches_for_nothing():
    page = page_of(STUDY)
    read = Reader(page)
    assert read.open == []
    assert page.startswith("<!DOCTYPE html>")
    tags = {tag for tag, _ in read.tags}
    assert not tags & {"link", "iframe", "object", "form", "base"}
    assert all(attributes["href"].startswith("#") for attributes in read.all("a"))
    assert all(attributes["src"].startswith("data:image/png;base64,") for attributes in read.all("img"))
    calm = page.replace("http://www.w3.org/2000/svg", "")  # the name of a namespace
    assert not re.search(r"https?:|url\(|@import|src=\"(?!data:)|\son\w+=|fetch|XMLHttp|import\(", calm)
    policies = [meta for meta in read.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    script = read.scripts[-1]
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert [meta["content"] for meta in policies] == [
        f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{allowed}'"
    ]
    assert [tag.get("type") for tag in read.all("script")] == ["application/json", "text/plain", None]
    assert not re.search(r"\$[a-z_]", page)


def test_pictures_are_inside_with_words_for_those_who_cannot_see_them():
    read = Reader(page_of(STUDY))
    (image,) = read.all("img")
    assert base64.b64decode(image["src"].removeprefix("data:image/png;base64,")) == PNG
    assert image["alt"] == "accuracy against ratio"
    assert "Four panels." in read.text


def test_a_picture_leads_to_its_files():
    read = Reader(page_of(STUDY, pictures=[replace(PICTURE, files=("a b.png", "a b.svg"))]))
    links = [link["href"] for link in read.all("a") if not link["href"].startswith("#")]
    assert links == ["a%20b.png", "a%20b.svg"]
    assert "SVG of a b.svg" in read.text


def test_the_verdict_stands_on_top_or_is_said_to_be_missing():
    assert "No verdict written." in Reader(page_of(STUDY)).text
    read = Reader(page_of(STUDY, page=replace(PAGE, verdict="It does not hold.\n\nMore.")))
    assert "No verdict" not in read.text
    assert read.text.index("It does not hold.") < read.text.index("Table and figures")


def luminance(color: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    shares = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_words_stand_out_in_both_schemes():
    """WCAG 2.2 AA: a contrast of at least 4.5 between words and what is behind them."""
    schemes = re.findall(r":root \{(.*?)\}", read_part("page.css"), re.DOTALL)
    assert len(schemes) == 2
    for scheme in schemes:
        colors = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", scheme))
        for words in ("text", "soft", "accent", "note"):
            for back in ("page", "card", "note-back"):
                low, high = sorted((luminance(colors[words]), luminance(colors[back])))
                assert (high + 0.05) / (low + 0.05) >= 4.5, (words, back)


def test_long_tables_have_columns_of_widths_set_beforehand():
    rows = [[f"variant {number}", "1.00<br><small>0.9-1.1</small>"] for number in range(200)]
    assert 'style="--columns: minmax(0, 11fr) minmax(0, 6fr)"' in html_table(["a", "b"], rows, caption="")
    assert "--columns" not in html_table(["a", "b"], rows[:199], caption="")


def test_the_page_is_accessible():
    read = Reader(page_of(STUDY))
    assert read.all("html") == [{"lang": "en"}]
    assert len(read.all("h1")) == len(read.all("main")) == len(read.all("title")) == 1
    assert {attributes.get("scope") for attributes in read.all("th")} == {"col", "row"}
    assert len(read.all("caption")) == len(read.all("table"))
    ids = [attributes["id"] for tag, attributes in read.tags if "id" in attributes and tag != "script"]
    labels = [attributes["aria-labelledby"] for attributes in read.all("section")]
    assert set(labels) <= set(ids)
    assert len(ids) == len(set(ids))
    targets = [attributes["href"] for attributes in read.all("a")]
    assert {target.removeprefix("#") for target in targets} <= set(ids)
    assert len(targets) == 3 + 8, "the page's parts, and every variant's repeats"
    assert any(meta.get("name") == "viewport" for meta in read.all("meta"))
    assert "prefers-color-scheme: dark" in page_of(STUDY)


def test_everything_written_by_others_is_escaped():
    variant, profile = f"v {EVIL}", make_profile()
    operator = replace(profile.operators[0], operator=EVIL, module=EVIL)
    ok = [
        make_record("train", make_training(), variant=variant, knobs={EVIL: EVIL}, settings={EVIL: EVIL}),
        make_record("match", make_match(), variant=variant, config={"stages": [{"width": 1}], "name": EVIL}),
        make_record("throughput", replace(make_throughput(), linear_library=EVIL), variant=variant),
        make_record("operators", replace(profile, operators=(operator,)), variant=variant),
    ]
    records = [*ok, fail(make_record("macs", None, variant=variant), f"Error {EVIL}\nline 2 {EVIL}")]
    evil = Page(
        study=EVIL, question=EVIL, source=EVIL, expect=EVIL, cost=EVIL, proxy_note=EVIL, notes=EVIL, verdict=EVIL
    )
    records = [replace(r, environment=replace(r.environment, device_name=EVIL)) for r in records]
    page = page_of(records, page=evil, pictures=[Picture(png=PNG, alt=f'"{EVIL}', caption=EVIL)])
    read = Reader(page)
    assert EVIL not in page
    assert read.open == []
    assert len(read.all("script")) == 3
    assert json.loads(read.scripts[0])["names"] == [variant]
    assert EVIL in json.dumps(unpack(read.scripts[1]), ensure_ascii=False).replace("\\", "")
    assert read.all("img")[0]["alt"] == f'"{EVIL}'
    assert read.text.count(EVIL) >= 19


def test_the_result_table_is_the_readable_table():
    page = page_of(STUDY, paper=PAPER_BY_NAME)
    result = ElementTree.fromstring(re.search(r"<table.*?</table>", page, re.DOTALL)[0].replace("<br>", "<br/>"))
    headers = ["".join(cell.itertext()) for cell in result.find("thead").iter("th")]
    rows = [["".join(cell.itertext()) for cell in row] for row in result.find("tbody")]
    row = dict(zip(headers, next(row for row in rows if row[0] == "mhsa_ratio=0.4"), strict=True))
    assert row["top-1 %, proxy (n=2)"] == "74.668.8-80.3"
    assert row["images/s"] == "60.959.4-62.1"
    assert row["top-1 %, paper"] == "63.0"
    assert [row[0] for row in rows] == ["base", *PAPER_BY_NAME]


def test_conditions_name_machine_versions_settings_seeds_and_commit():
    read = Reader(page_of(STUDY))
    environment = STUDY[0].environment
    for value in (environment.device_name, environment.torch, environment.allocator, environment.git_commit):
        assert value in read.text
    for record in STUDY:
        assert json.dumps(record.settings, sort_keys=True) in read.text
    assert "train" in read.text
    assert "0, 1" in read.text
    assert "environment 2" not in read.text


def test_two_environments_have_a_column_each():
    other = replace(STUDY[0], environment=replace(STUDY[0].environment, git_commit=None, git_dirty=None))
    read = Reader(page_of([other, *STUDY[1:]]))
    assert "environment 2" in read.text
    assert "not known" in read.text


def test_variants_timed_apart_are_pointed_out():
    together = [make_record("throughput", make_throughput()), make_record("throughput", make_throughput(), variant="b")]
    apart = [together[0], replace(together[1], measurement={**together[1].measurement, "group": ("base", "b")})]
    assert "timed in 2 groups" in page_of(apart)
    assert "groups" not in Reader(page_of(together)).text


def test_every_repeat_is_on_the_page():
    read = Reader(page_of(STUDY))
    assert len(read.all("details")) == 8
    for record in STUDY:
        if record.task == "throughput":
            first, second, *_ = record.measurement["seconds"]
            assert f"(each the mean of 2 calls) in turn with 1 other models: {(first + second) / 2:.4g}, " in read.text
        if record.task == "train":
            assert f"top-1 {record.measurement['top1']:.4f}" in read.text
            networks = unpack(read.scripts[1])[record.variant]
            assert json.dumps(record.config) in dict(map(reversed, networks))


def test_failures_are_told_with_their_whole_error():
    records = [
        fail(record, "RuntimeError: out of memory\n  at line 7") if record.variant == "mhsa_ratio=1" else record
        for record in STUDY
    ]
    read = Reader(page_of(records))
    assert "Not measured" in read.text
    assert "mhsa_ratio=1: match: RuntimeError: out of memory" in read.text
    assert "at line 7" in read.text
    assert "Not measured" not in Reader(page_of(STUDY)).text


def test_smoke_records_are_called_meaningless():
    smoke = [replace(record, smoke=True) for record in STUDY]
    assert "these numbers mean nothing" in page_of(smoke, smoke=True)
    assert "these numbers mean nothing" not in page_of(STUDY)


def test_rules_of_reading_fit_what_was_measured():
    counted = [record for record in STUDY if record.task == "macs"]
    text = Reader(page_of(counted, page=replace(PAGE, proxy_note=""))).text
    assert "multiply-accumulates" in text
    assert "proxy" not in text
    assert "Throughput holds" not in text
    assert "not ImageNet's" in Reader(page_of(STUDY, page=replace(PAGE, proxy_note=""))).text


def test_files_beside_the_page_are_linked_and_those_that_are_lost_said():
    name = 'a "<b>" #1'
    files = {name: ["evaluations/a b#1?/x.csv", "evaluations/a b#1?/y&.png"], "lost": []}
    page = render_page(PAGE, table=table_of(STUDY), pictures=(), records=STUDY, files=files)
    read = Reader(page)
    assert read.open == []
    links = [link["href"] for link in read.all("a") if not link["href"].startswith("#")]
    assert [unquote(link) for link in links] == files[name]
    assert not any(set(link) & set('?#" ') for link in links)
    assert "x.csv, y&.png" in read.text
    assert name in read.text
    assert "not here: the curves behind them are not among these results" in read.text
    assert len(read.all("caption")) == len(read.all("table"))


def test_a_study_without_records_has_a_page():
    read = Reader(page_of([], wanted=requests(STUDY), pictures=()))
    assert "train: not run" in read.text
    assert read.open == []


def test_equal_records_give_equal_pages():
    assert page_of(STUDY) == page_of(STUDY)


def test_only_a_proxy_is_called_one():
    assert "<strong>Proxy.</strong>" in page_of(STUDY)
    config = make_config(width=158, size=224)
    itself = [
        make_record("macs", make_macs(), config=config),
        make_record("train", make_training(), config=config),
    ]
    assert "<strong>Accuracy.</strong>" in page_of(itself)
    assert "Proxy." not in page_of(itself)


# The result in sentences


def test_the_best_variant_is_named_with_those_it_is_not_told_apart_from():
    sentences = find(table_of(STUDY, paper_top1=PAPER_BY_NAME))
    assert sentences == [
        "Highest proxy top-1: mhsa_ratio=0.4 with 74.6% (95% interval 68.8-80.3, n=2 seeds).",
        "Its 95% interval overlaps that of mhsa_ratio=0.2, mhsa_ratio=0.5, mhsa_ratio=0.6: "
        "the study does not tell these apart.",
        "In the source, on its own data, mhsa_ratio=0.4 is highest.",
        "Measured speed over base: 1.23 to 1.28.",
        "Memory-bound share of operator time: 33.1% (mhsa_ratio=1) to 34.4% (mhsa_ratio=0).",
    ]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"a": (0.90, 0.901), "b": (0.50, 0.501)}, "Its 95% interval overlaps no other."),
        (
            {"a": (0.90, 0.91), "b": (0.89,)},
            "Its 95% interval overlaps that of b: the study does not tell these apart.",
        ),
        ({"a": (0.90,), "b": (0.50,)}, "One seed gives no interval: differences between variants may be chance."),
    ],
)
def test_clear_and_unknown_differences_are_told(values, expected):
    records = [
        make_record("train", make_training(top1), variant=name, seed=seed)
        for name, seeds in values.items()
        for seed, top1 in enumerate(seeds)
    ]
    sentences = find(table_of(records))
    assert sentences[0].startswith("Highest proxy top-1: a with 90.")
    assert sentences[1] == expected


def test_without_training_nothing_is_said_of_accuracy():
    timed = [record for record in STUDY if record.task == "throughput"]
    assert find(table_of(timed)) == ["Measured speed over base: 1.23 to 1.28."]
