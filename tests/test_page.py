"""The page in a browser, opened from disk: what it loads, how it sorts, filters and answers."""

import json
import shutil
from dataclasses import replace

import pytest
from fake_records import make_config, make_macs, make_record, make_study, make_throughput, make_training, requests

from evitlab.report.html import render_page
from evitlab.report.markup import Page
from evitlab.report.tables import select_records, study_table

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)")
PAGE = Page(study="mhsa_ratio", question="Which ratio?", source="Fig. 3", expect="0.2 is best", cost="5 minutes")
MANY = 2000


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, tmp_path):
    """Open a study's page; at the end, nothing but the page must have been asked for, and nothing complained."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    asked, said = [], []

    def open_(records):
        selection = {"study": "mhsa_ratio", "requests": requests(records)}
        table = study_table(records, **selection)
        text = render_page(PAGE, table=table, pictures=(), records=select_records(records, **selection))
        path = tmp_path / "report.html"
        path.write_text(text, encoding="utf-8")
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(path.as_uri())
        assert asked == [path.as_uri()]
        return page

    yield open_
    context.close()
    assert said == []
    assert len(asked) == 1


def column(page, number):
    """The first lines of a column of the result table, top to bottom."""
    return page.eval_on_selector_all(
        f"table.results tbody tr:not([hidden]) > :nth-child({number})",
        "cells => cells.map(c => c.firstChild?.textContent ?? '')",
    )


def names(page):
    return column(page, 1)


def header(page, text):
    return page.locator("table.results thead button", has_text=text)


def test_it_opens_from_disk_with_every_variant_as_row_and_point(open_page):
    page = open_page(make_study())
    assert len(names(page)) == 8
    assert page.locator("g.point").count() == 7  # the base was not trained
    assert page.locator("g.point circle").first.is_visible()


def test_columns_sort_both_ways_by_their_numbers_and_empty_cells_stay_last(open_page):
    page = open_page(make_study())
    speeds = {r.variant: r.measurement["images_per_second"] for r in make_study() if r.task == "throughput"}
    rising = sorted(speeds, key=speeds.get)
    header(page, "images/s").click()
    assert names(page) == rising
    assert page.locator("th[aria-sort=ascending]").inner_text().strip() == "images/s"
    header(page, "images/s").click()
    assert names(page) == rising[::-1]
    header(page, "top-1").click()
    assert names(page)[-1] == "base"
    header(page, "top-1").click()
    assert names(page)[-1] == "base"
    assert page.locator("th[aria-sort]").count() == 1
    header(page, "variant").press("Enter")
    assert names(page) == sorted(speeds)


def test_units_count_when_sorting(open_page):
    sizes = {"a": 950, "b": 1_250_000_000, "c": 79_000_000, "d": 4_500, "e": 522_000_000}
    records = [
        make_record("macs", replace(make_macs(), macs=macs), variant=name, config=make_config(width=8, size=32))
        for name, macs in sizes.items()
    ]
    page = open_page(records)
    header(page, "MACs").click()
    assert names(page) == sorted(sizes, key=sizes.get)


def test_the_filter_leaves_rows_and_points_with_all_its_words(open_page):
    page = open_page(make_study())
    page.get_by_label("Filter").fill("mhsa 0.4")
    assert names(page) == ["mhsa_ratio=0.4"]
    assert page.locator("g.point:not([hidden])").count() == 1
    assert page.get_by_role("status").inner_text().strip() == "1 of 8"
    page.get_by_label("Filter").fill("")
    assert len(names(page)) == 8
    assert page.locator("g.point:not([hidden])").count() == 7


def test_pointing_at_a_point_tells_its_knobs_and_lights_its_row_and_the_other_way_round(open_page):
    page = open_page(make_study())
    point = page.locator('g.point[aria-label^="mhsa_ratio=0.4,"]')
    point.locator("circle").hover()
    tip = page.get_by_role("tooltip")
    assert tip.inner_text().split("\n")[:2] == ["mhsa_ratio=0.4", "mhsa_ratio 0.4"]
    assert "top-1 %: 74.55 (68.83 to 80.27)" in tip.inner_text()
    assert page.locator("tr.hot > th").all_inner_texts() == ["mhsa_ratio=0.4"]
    page.locator("tbody th", has_text="mhsa_ratio=0.8").hover()
    assert page.locator("tr.hot > th").all_inner_texts() == ["mhsa_ratio=0.8"]
    assert page.locator("g.point.hot").get_attribute("aria-label").startswith("mhsa_ratio=0.8,")


def test_a_tip_tells_every_value(open_page):
    page = open_page(make_study())
    page.locator('g.point[aria-label^="mhsa_ratio=0.4,"] circle').hover()
    told = page.get_by_role("tooltip").inner_text()
    for words in ("images/s: ", "top-1 %: ", "MACs (M): 948", "memory-bound share %: "):
        assert words in told


def test_a_variants_name_leads_to_its_every_repeat(open_page):
    page = open_page(make_study())
    details = page.locator('details[data-variant="mhsa_ratio=0.4"]')
    assert details.get_attribute("open") is None
    page.locator("tbody th a", has_text="mhsa_ratio=0.4").press("Enter")
    details.locator("table").wait_for(state="visible")
    details.locator("pre").first.wait_for()


def test_all_can_be_done_by_keyboard(open_page):
    page = open_page(make_study())
    header(page, "images/s").focus()
    page.keyboard.press("Space")
    assert page.locator("th[aria-sort=ascending]").inner_text().strip() == "images/s"
    page.get_by_label("Filter").focus()
    page.keyboard.type("0.4")
    assert names(page) == ["mhsa_ratio=0.4"]
    page.keyboard.press("Tab")
    page.locator("g.point:not([hidden])").focus()
    page.keyboard.press("Enter")
    assert page.locator("tr.hot > th").all_inner_texts() == ["mhsa_ratio=0.4"]


def test_a_dark_page_is_dark_and_its_pictures_keep_a_light_card(open_page):
    page = open_page(make_study())
    back = "element => getComputedStyle(element).backgroundColor"
    assert page.eval_on_selector("body", back) == "rgb(255, 255, 255)"
    page.emulate_media(color_scheme="dark")
    assert page.eval_on_selector("body", back) == "rgb(20, 23, 28)"
    page.evaluate("document.querySelector('main').append(document.createElement('figure'))")
    page.evaluate("document.querySelector('figure').append(document.createElement('img'))")
    assert page.eval_on_selector("figure img", back) == "rgb(255, 255, 255)"


def test_points_answer_to_the_keyboard_too(open_page):
    page = open_page(make_study())
    page.locator("g.point").first.focus()
    assert page.get_by_role("tooltip").is_visible()
    page.locator("g.point").first.blur()
    assert page.get_by_role("tooltip").is_hidden()


def test_axes_can_be_chosen(open_page):
    page = open_page(make_study())
    page.get_by_label("Across").select_option("MACs (M)")
    assert "MACs (M)" in page.locator(".scatter svg").text_content()
    page.get_by_label("Up").select_option("speed over the reference")
    assert page.locator("g.point").count() == 8


def test_a_variants_networks_are_unpacked_when_asked_for(open_page):
    study = make_study()
    page = open_page(study)
    details = page.locator('details[data-variant="mhsa_ratio=0.4"]')
    assert details.locator("pre").count() == 0
    details.locator("summary").click()
    details.locator("pre").first.wait_for()
    configs = {json.dumps(r.config) for r in study if r.variant == "mhsa_ratio=0.4"}
    assert set(details.locator("pre").all_inner_texts()) == configs
    details.locator("summary").click()
    details.locator("summary").click()
    assert details.locator("pre").count() == len(configs)


def test_names_from_a_study_stay_text(open_page):
    evil = '<img src=x onerror=alert(1)>"'
    page = open_page(
        [make_record("macs", make_macs(), variant=evil), make_record("throughput", make_throughput(), variant=evil)]
    )
    assert names(page) == [evil]
    page.locator("g.point circle").hover()
    assert page.get_by_role("tooltip").locator("strong").inner_text() == evil
    assert page.locator("img").count() == 0


@pytest.mark.slow
@pytest.mark.alone
def test_thousands_of_variants_can_be_opened_and_sorted(open_page):
    records = []
    for number in range(MANY):
        name, knobs = f"v{number:04d}", {"qk_dim": number}
        timing = replace(make_throughput(), images_per_second=float(1 + number * 7919 % 4001))
        training = make_training(0.2 + number / MANY / 2)
        records += [
            make_record(task, measurement, variant=name, knobs=knobs)
            for task, measurement in (("macs", make_macs()), ("throughput", timing), ("train", training))
        ]
    page = open_page(records)
    assert page.locator("g.point").count() == MANY
    header(page, "images/s").click()
    speeds = [float(cell.replace(",", "")) for cell in column(page, 5)]
    assert speeds == sorted(speeds)
    assert len(speeds) == MANY
