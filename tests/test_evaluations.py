"""What a study's evaluations leave in its folder: for each variant, of its first seed, without torch."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_evaluation import make_evaluation
from fake_records import fail, make_record, make_training

from evitlab.drawings import Drawings, place_drawings, write_drawings
from evitlab.report.evaluation.study import write_evaluations
from evitlab.store import folder_name

ODD = "qk_dim=4, a/b"


def judge(folder: Path, variant: str, seed: int, *, skill: float = 0.6, maps: int = 0, without: str = ""):
    """A record of an evaluation and what it draws; the better the skill, the more images are found."""
    evaluation, curves = make_evaluation(5, skill=skill)
    record = make_record("evaluate", evaluation, variant=variant, seed=seed)
    drawings = Drawings(
        curves=curves,
        images=(np.zeros((8, 8, 3), np.uint8),) * maps,
        maps=(np.ones((2, 2, 2), np.float32),) * maps,
        titles=("it",) * maps,
        without_maps=without,
    )
    write_drawings(drawings, place_drawings(folder, variant, seed), key=record.key)
    return record


def found_in(folder: Path, variant: str) -> int:
    """Images on the diagonal of the confusions written."""
    table = pd.read_csv(folder / "evaluations" / folder_name(variant) / "confusion.csv")
    return int(np.trace(table.iloc[:, 1:].to_numpy()))


@pytest.mark.slow
def test_each_variant_has_a_folder_with_its_first_seed(tmp_path):
    trainings = [make_record("train", make_training(), variant=name) for name in ("v", ODD)]
    records = [
        *trainings,
        judge(tmp_path, "v", 0, skill=0.5, maps=2),
        judge(tmp_path, "v", 1, skill=1.0),
        judge(tmp_path, ODD, 3, skill=1.0),
    ]
    shown = write_evaluations(records, tmp_path)
    curves = [make_evaluation(5, skill=skill)[1] for skill in (0.5, 1.0)]
    assert [found_in(tmp_path, name) for name in ("v", ODD)] == [np.trace(each.confusion) for each in curves]
    for name, links in shown.files.items():
        place = tmp_path / "evaluations" / folder_name(name)
        assert {tmp_path / link for link in links} == {path for path in place.iterdir() if path.is_file()}
    assert list(shown.files) == ["v", ODD]
    assert sum("attention" in link for link in shown.files["v"]) == 2
    names = [
        "training.png",
        *(f"evaluations/{folder_name(n)}/{f}.png" for n in ("v", ODD) for f in ("roc", "confusion")),
    ]
    assert [picture.png for picture in shown.pictures] == [(tmp_path / name).read_bytes() for name in names]
    assert [picture.caption[:12] for picture in shown.pictures[1:]] == ["v, seed 0. A", "v, seed 0. T"] + [
        f"{ODD}"[:12]
    ] * 2


@pytest.mark.slow
def test_maps_of_an_earlier_evaluation_are_gone(tmp_path):
    write_evaluations([judge(tmp_path, "v", 0, maps=2)], tmp_path)
    shown = write_evaluations([judge(tmp_path, "v", 0, maps=1)], tmp_path)
    assert {path.name for path in (tmp_path / "evaluations/v").glob("attention*")} == {"attention_0.png"}
    assert sum("attention" in link for link in shown.files["v"]) == 1


def test_curves_that_are_lost_or_of_another_record_are_said_not_drawn(tmp_path):
    lost, other, failed = (judge(tmp_path, name, 0) for name in ("lost", "other", "failed"))
    place_drawings(tmp_path, "lost", 0).unlink()
    shown = write_evaluations([lost, replace(other, key="0" * 16), fail(failed, "x")], tmp_path)
    assert shown.files == {"lost": [], "other": []}
    assert not list((tmp_path / "evaluations").rglob("*.csv"))


@pytest.mark.slow
def test_a_network_without_attention_says_so(tmp_path):
    shown = write_evaluations([judge(tmp_path, "v", 0, without="it has none")], tmp_path)
    assert all(picture.caption.endswith(" No attention maps: it has none.") for picture in shown.pictures[1:])


@pytest.mark.parametrize("records", [[], [make_record("train", make_training())]])
def test_a_study_that_judges_nothing_has_no_new_file(tmp_path, records):
    shown = write_evaluations(records, tmp_path)
    assert (shown.pictures, shown.files, list(tmp_path.iterdir())) == ([], {}, [])


def test_drawing_a_study_needs_no_torch():
    code = "import evitlab.report.study_report, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "evitlab.report.evaluation.study" in done.stdout.split()
    assert "torch" not in done.stdout.split()
