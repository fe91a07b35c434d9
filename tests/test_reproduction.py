"""`evitlab reproduce`: the page, the table and the terminal, on the committed results and end to end."""

import json
import re
import sys
from contextlib import suppress
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from fake_claims import RATIOS, lay, spread, train, write
from fake_records import fail

from evitlab import environment
from evitlab.claims import CLAIMS, VERDICTS
from evitlab.cli import main
from evitlab.report.reproduction.page import render_page
from evitlab.report.reproduction.verdicts import COLUMNS, judge_claims
from evitlab.store import read_records
from evitlab.study import load_study

ROOT = Path(__file__).parents[1]
TINY = """
question: q
source: s
expect: e
cost: c
minutes: 1
base: {name: efficientvit_m0, width: 16, depth: 1, num_heads: 2, image_size: 32, patch_size: 4, num_classes: 4}
tasks:
  throughput: {batch_size: 1}
  train: {seeds: [0, 1]}
"""
REAL = TINY.replace("seeds", "data: ./nowhere, seeds")


@pytest.fixture(autouse=True)
def _allocator_stays(monkeypatch):
    monkeypatch.setattr(environment, "_set_glibc_thresholds", lambda: "not in a test's process")
    monkeypatch.setattr(environment, "_tuned", None)


@pytest.fixture
def evitlab(tmp_path, monkeypatch, capsys):
    """Runs a command line in a folder of its own; gives exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["evitlab", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
    """The committed results, where a page may be written beside them."""
    folder = tmp_path_factory.mktemp("committed")
    (folder / "results").mkdir()
    for path in (ROOT / "results").iterdir():
        if path.name != "reproduction":
            (folder / "results" / path.name).symlink_to(path)
    (folder / "studies").symlink_to(ROOT / "studies")
    return folder


class Parser(HTMLParser):
    """What a page links to, its ids, and whether its tags close."""

    def __init__(self, text: str):
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.links += [found["href"]] if "href" in found else []
        self.ids += [found["id"]] if "id" in found else []
        if tag not in ("meta", "br", "img", "input", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.slow
def test_the_committed_results_are_judged_claim_by_claim(evitlab, committed, monkeypatch):
    monkeypatch.chdir(committed)
    code, out, _ = evitlab("reproduce", "--json")
    assert code == 0
    printed = json.loads(out)
    assert [each["claim"] for each in printed["claims"]] == [claim.name for claim in CLAIMS]
    assert {each["verdict"] for each in printed["claims"]} <= set(VERDICTS)
    table = pd.read_csv(committed / "results/reproduction/claims.csv")
    assert list(table.columns) == list(COLUMNS)
    assert set(table["claim"]) == {claim.name for claim in CLAIMS}
    verdicts = table.drop_duplicates("claim").set_index("claim")["verdict"]
    assert verdicts.to_dict() == {each["claim"]: each["verdict"] for each in printed["claims"]}
    assert verdicts["sizes-speed"] == verdicts["memory-swin"] == "holds"  # as on the studies' own pages
    text = (committed / "results/reproduction/report.html").read_text()
    page = Parser(text)
    assert page.open == []
    assert len(set(page.ids)) == len(page.ids)
    for link in page.links:
        target = link.removeprefix("#")
        assert target in page.ids or (committed / "results/reproduction" / link).exists(), link
    assert "http://" not in re.sub(r"http://www\.w3\.org\S*", "", text)
    for claim in CLAIMS:
        assert claim.name in page.ids


def test_numbers_of_the_paper_are_those_that_the_studies_cite():
    """Accuracies within a claim's evidence are those of the study files, which were read off the paper apart."""
    cited = {
        f"{value:g}"
        for path in (ROOT / "studies").glob("*.yaml")
        for value in ((load_study(path).file.paper or {}).get("top1") or {}).values()
    }
    for claim in CLAIMS:
        if "prun" in claim.name or "top-1" not in claim.paper:
            continue
        numbers = re.findall(r"\b\d\d\.\d+(?!\d*x)", claim.paper)
        assert numbers
        assert {f"{float(number):g}" for number in numbers} <= cited, claim.name


def test_what_is_written_by_others_is_escaped_and_equal_results_give_equal_pages(tmp_path):
    study = lay(tmp_path, "mhsa_ratio", RATIOS)
    records = train(study, spread(0.2, 0.7, 0.6, 0.5, 0.4, 0.3, 0.1))
    lost = [fail(r, "<script>alert(1)</script>") if r.variant == "mhsa_ratio=0.5" else r for r in records]
    evil = replace(lost[0].environment, device_name="<b>fast</b>")
    write(tmp_path, "mhsa_ratio", [replace(record, environment=evil) for record in lost])
    first, second = (render_page(judge_claims(tmp_path), b"", offers={"<i>": "<u>"}) for _ in range(2))
    assert first == second
    for tag in ("<script>alert", "<b>fast", "<i>", "<u>"):
        assert tag not in first
    assert "&lt;script&gt;alert(1)" in first


def test_nothing_there_is_nothing_measured_and_says_what_to_type(evitlab, tmp_path):
    (tmp_path / "studies").symlink_to(ROOT / "studies")
    code, out, _ = evitlab("reproduce")
    assert code == 0
    assert f"Not measured: {len(CLAIMS)}" in " ".join(out.split()) or f"not measured: {len(CLAIMS)}" in " ".join(
        out.split()
    )
    minutes = re.search(r"^minutes: (\d+)$", (ROOT / "studies/m4_ablation.yaml").read_text(), re.MULTILINE)[1]
    assert f"m4_ablation: evitlab run studies/m4_ablation.yaml (about {minutes} minutes)" in out
    assert "needs --data-root: it trains on tiny-imagenet" in out
    assert "prune_swin_t: evitlab prune swin_t (about 2 minutes)" in out
    assert (tmp_path / "results/reproduction/report.html").exists()


def lay_studies(folder: Path) -> None:
    (folder / "studies").mkdir()
    (folder / "studies" / "qk_dim.yaml").write_text(TINY + "grid: {qk_dim: [4, 16]}\n")
    (folder / "studies" / "v_ratio.yaml").write_text(REAL + "grid: {v_ratio: [0.5, 1]}\n")


COMMAND = ("reproduce", "--budget", "3.6", "--data-root", ".", "--smoke", "--json")


@pytest.mark.slow
def test_what_fits_is_run_what_fails_stops_nothing_and_again_nothing_is_done(evitlab, tmp_path, monkeypatch):
    monkeypatch.setattr("evitlab.commands.reproduce.time", SimpleNamespace(monotonic=lambda: 0.0))
    lay_studies(tmp_path)
    code, out, err = evitlab(*COMMAND)
    assert code == 1
    found = json.loads(out)
    assert len(found["failed"]) == 1
    assert found["failed"][0].startswith("v_ratio: ")
    assert "error: v_ratio: " in err
    assert "prune_deit_t: 1.5 minutes expected" in err  # after both studies 1.6 minutes are left; Swin-T needs 2
    assert not (tmp_path / "results/prune_swin_t").exists()
    by_name = {each["claim"]: each for each in found["claims"]}
    assert by_name["qk-speed"]["verdict"] in ("holds", "does not hold", "not separable at this budget")
    assert by_name["prune-deit-v"]["findings"][0]["folders"] == ["prune_deit_t"]
    assert by_name["v-rises"]["verdict"] == by_name["ratio-swin"]["verdict"] == "not measured"
    page = (tmp_path / "results/reproduction/smoke/report.html").read_text()
    assert "Smoke run." in page
    assert all(
        link.startswith("#") or (tmp_path / "results/reproduction/smoke" / link).exists() for link in Parser(page).links
    )
    before = (tmp_path / "results/qk_dim/smoke/records.jsonl").read_bytes()
    (tmp_path / "studies" / "v_ratio.yaml").unlink()
    code, out, err = evitlab(*COMMAND)
    assert (code, json.loads(out)["failed"]) == (0, [])
    assert "qk_dim" not in err
    assert (tmp_path / "results/qk_dim/smoke/records.jsonl").read_bytes() == before
    assert all(record.smoke for record in read_records(tmp_path / "results/qk_dim/smoke"))
    assert json.loads(evitlab("reproduce", "--json")[1])["claims"][0]["verdict"] == "not measured"  # no smoke there


def test_what_no_longer_fits_when_its_turn_comes_is_left_out(evitlab, tmp_path, monkeypatch):
    clock = iter([0.0, 300.0, 300.0, 300.0])
    monkeypatch.setattr("evitlab.commands.reproduce.time", SimpleNamespace(monotonic=lambda: next(clock)))
    lay_studies(tmp_path)
    code, _, err = evitlab(*COMMAND)
    assert code == 0
    assert "qk_dim: left out, as it needs 1.0 minutes and 0.0 minutes are left" in err
    assert not (tmp_path / "results/qk_dim").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [(("--budget", "5", "--studies", "none"), "--studies must be a folder of study files, but got 'none'")],
)
def test_wrong_input_is_one_message(evitlab, options, message):
    code, _, err = evitlab("reproduce", *options)
    assert (code, err.strip()) == (2, f"error: {message}")


def test_a_stop_ends_the_command_and_says_how_to_go_on(evitlab, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt("SIGTERM")

    monkeypatch.setattr("evitlab.commands.reproduce.run_file", stop)
    lay_studies(tmp_path)
    code, _, err = evitlab(*COMMAND)
    assert code == 143
    assert "interrupted; what was measured is kept: the same command goes on" in err
    with suppress(FileNotFoundError):
        assert not list((tmp_path / "results" / "prune_swin_t").iterdir())


def test_shipped_studies_say_in_minutes_what_their_cost_says():
    for path in sorted((ROOT / "studies").glob("*.yaml")):
        file = load_study(path).file
        number, unit = re.search(r"([\d.]+) (minute|hour)", file.cost).groups()
        assert file.minutes == pytest.approx(float(number) * {"minute": 1, "hour": 60}[unit], rel=0.3), path
