"""The page of prunings, and what `show` and `report` make of their records."""

import json
import re

import pandas as pd
import pytest
from fake_pruning import make_pruned_record
from fake_records import make_record, make_training

from evitlab.report.models.report import write_models
from evitlab.report.models.tables import show_models
from evitlab.report.pruning.claims import tabulate_prunings
from evitlab.report.pruning.report import find
from evitlab.report.timing_tables import select_latest
from evitlab.store import append


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "prune_deit_t"


def test_a_pruning_leaves_tables_figures_and_a_page_that_needs_nothing_else(folder):
    write_models([make_pruned_record(), make_pruned_record(target_value=0.4)], folder)
    assert {path.name for path in folder.iterdir()} == {
        "pruning.csv", "channels.csv", "claims.csv", "steps.csv", "channels.png", "steps.png", "report.html",
        "channels.svg", "steps.svg",
    }  # fmt: skip
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert not re.search(r"<script[^>]* src|https?://(?!www\.w3)", page)
    for words in ("untrained control does the same", "macs=0.4", "trained here", "control", "Wilson", "explicit"):
        assert words in page
    assert len(pd.read_csv(folder / "claims.csv")) == 6


def test_words_of_the_user_are_escaped_and_a_verdict_is_shown(folder):
    folder.mkdir()
    (folder / "verdict.txt").write_text("It <b>holds</b>.\n\nSo far.")
    write_models([make_pruned_record(origin="<i>weights</i>")], folder)
    page = (folder / "report.html").read_text()
    assert "&lt;i&gt;weights" in page
    assert "It &lt;b&gt;holds&lt;/b&gt;.<p>So far.</p>" in page
    assert "<i>weights" not in page


@pytest.mark.slow
def test_smoke_runs_say_so(folder):
    write_models([make_pruned_record()], folder)
    assert "Smoke run" not in (folder / "report.html").read_text()
    write_models([type(r)(**{**vars(r), "smoke": True}) for r in [make_pruned_record()]], folder)
    assert "Smoke run" in (folder / "report.html").read_text()


@pytest.mark.parametrize("name", ["prune_{}", "real_images_prune_{}"])
def test_the_other_network_is_found_in_the_folder_beside(tmp_path, name):
    append(make_pruned_record(model="swin_t"), tmp_path / name.format("swin_t"))
    claims = tabulate_prunings([make_pruned_record()], tmp_path / name.format("deit_t"))["claims"]
    assert any("Swin-T" in claim for claim in claims["claim"])
    assert not any("Swin-T" in claim for claim in tabulate_prunings([make_pruned_record()])["claims"]["claim"])


def test_findings_name_accuracies_speed_and_claims():
    record = make_pruned_record()
    first, *others = find([record], tabulate_prunings([record])["claims"])
    assert first == (
        "deit_t at macs=0.6: top-1 91.0% before, 80.0% after pruning, 90.0% after fine-tuning; "
        "1.50x as fast (1.48-1.53)."
    )
    assert others[0].startswith("Q and K are trimmed most: holds, but the untrained control does the same")


def test_show_prints_prunings_beside_the_training_that_they_began_with(folder, capsys):
    records = [make_record("train", make_training(), variant="deit_t"), make_pruned_record()]
    show_models(records, folder=folder)
    shown = capsys.readouterr().out
    for words in ("channels over the embedding width", "Pruned: deit_t", "The paper's claims", "Trainings"):
        assert words in shown
    show_models(records, as_json=True)
    assert {"pruning", "channels", "claims", "steps", "training"} == set(json.loads(capsys.readouterr().out))


def test_every_pruning_is_shown_and_repeated_ones_once():
    first, again, other = make_pruned_record(), make_pruned_record(), make_pruned_record(seed=1)
    assert len(select_latest([first, again, other])) == 2
