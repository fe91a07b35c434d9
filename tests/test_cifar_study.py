"""The study on CIFAR-100 through the command line, on files of the same format, and what its evaluations leave."""

import base64
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from fake_images import make_cifar, write_folder
from sklearn.metrics import confusion_matrix, f1_score, roc_auc_score
from test_cli import _allocator_stays, evitlab  # noqa: F401 (a fixture)
from torchvision.datasets import CIFAR100

from evitlab.models.weights import load_model
from evitlab.report import study_report
from evitlab.report.evaluation.study import Evaluated
from evitlab.store import measured, read_records
from evitlab.train import sources
from evitlab.train.data import load_data, scale_pixels

STUDY = Path(__file__).parents[1] / "studies" / "cifar100_report.yaml"
FEW = ("EfficientViT-M0", "DeiT-T")
TABLES = {"classes.csv", "confusion.csv", "roc.csv", "reliability.csv"}
FIGURES = {"roc.png", "confusion.png", "reliability.png", "per_class.png"}


@pytest.fixture(scope="module")
def cifar(tmp_path_factory) -> Path:
    """A folder with 100 classes, one image of each in either split."""
    return write_folder(tmp_path_factory.mktemp("cifar"), make_cifar(CIFAR100, classes=100, per_file=100))


@pytest.fixture(autouse=True, scope="module")
def _cache_of_its_own(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVITLAB_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def run(folder: Path, cifar: Path):
    return evitlab("run", STUDY.name, "--smoke", "--data-root", cifar, cwd=folder)


def results_of(folder: Path) -> Path:
    return folder / "results" / STUDY.stem / "smoke"


@pytest.fixture(scope="module")
def first_run(tmp_path_factory, cifar):
    """A folder in which the shipped study was run, cut down to two variants."""
    folder = tmp_path_factory.mktemp("study")
    study = yaml.safe_load(STUDY.read_text())
    study["variants"] = {name: change for name, change in study["variants"].items() if name in FEW}
    (folder / STUDY.name).write_text(yaml.safe_dump(study, sort_keys=False))
    done = run(folder, cifar)
    assert done.returncode == 0, done.stderr
    return folder, done


def check_evaluations(results: Path, cifar: Path, variants) -> None:
    """Every variant has its files, and their numbers are scikit-learn's on the scores of the weights kept."""
    data = load_data("cifar100", image_size=64, val_images=64, root=cifar).val
    records = {(each.variant, each.task, each.seed): each for each in read_records(results)}
    for variant in variants:
        own = results / "evaluations" / variant
        assert {path.name for path in own.iterdir()} >= TABLES | FIGURES | {"attention_0.png", "seed0", "seed1"}
        for seed in (0, 1):
            with torch.inference_mode():
                scores = load_model(results / "weights" / variant / f"seed{seed}")(scale_pixels(data.pixels))
            found = measured(records[variant, "evaluate", seed])
            check_scores(scores.double().softmax(1).numpy(), data.labels.numpy(), found)
            trained = measured(records[variant, "train", seed])
            assert (found.top1, found.top5) == (trained.top1, trained.top5)
            if seed == 0:
                confused = confusion_matrix(data.labels, scores.argmax(1), labels=range(100))
                assert np.array_equal(pd.read_csv(own / "confusion.csv").iloc[:, 1:], confused)
        table = pd.read_csv(results / "table.csv").set_index("variant")
        both = [measured(records[variant, "evaluate", seed]) for seed in (0, 1)]
        assert table["macro_auc"][variant] == pytest.approx(np.mean([each.macro_auc for each in both]))
        assert table["ece"][variant] == pytest.approx(np.mean([each.ece for each in both]))


def check_scores(probabilities: np.ndarray, labels: np.ndarray, found) -> None:
    predicted, present = probabilities.argmax(1), sorted(set(labels))
    assert found.top1 == pytest.approx((predicted == labels).mean())
    areas = [roc_auc_score(labels == number, probabilities[:, number]) for number in present]
    assert found.macro_auc == pytest.approx(np.mean(areas))
    f1 = f1_score(labels, predicted, labels=present, average=None, zero_division=0)
    assert [found.classes[number].f1 or 0 for number in present] == pytest.approx(list(f1))


@pytest.mark.slow
def test_the_study_runs_to_the_end_and_agrees_with_scikit_learn(first_run, cifar):
    folder, done = first_run
    results = results_of(folder)
    records = read_records(results)
    assert {record.status for record in records} == {"ok"}
    asked = {(record.variant, record.task, record.seed) for record in records}
    twice = {(name, task, seed) for name in FEW for task in ("train", "evaluate") for seed in (0, 1)}
    assert asked == twice | {(name, task, 0) for name in ("base", *FEW) for task in ("macs", "throughput")}
    check_evaluations(results, cifar, FEW)
    assert measured(records[-1]).num_classes == 100
    table = pd.read_csv(results / "table.csv")
    assert table["proxy_width"].isna().all()  # what is timed is what is trained
    assert "EfficientViT-M0: evaluate, seed 1" in done.stderr


@pytest.mark.slow
def test_the_page_shows_roc_and_confusion_and_links_the_rest(first_run):
    results = results_of(first_run[0])
    page = (results / "report.html").read_text()
    shown = {base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', page)}
    places = [results / "evaluations" / name for name in FEW]
    for path in [
        results / "training.png",
        *(place / f"{name}.png" for place in places for name in ("roc", "confusion")),
    ]:
        assert path.read_bytes() in shown, path
    assert len(shown) == 2 + 2 * len(FEW)
    linked = {results / link for link in re.findall(r'href="([^"#]+)"', page)}
    written = {path for place in places for path in place.iterdir() if path.suffix in (".csv", ".png", ".svg")}
    assert written <= linked
    assert all(path.exists() for path in linked)


@pytest.mark.slow
def test_a_second_run_measures_nothing(first_run, monkeypatch):
    """Nor does it ask for the data, as no images are needed: those of the first run are in no place it knows."""
    folder, _ = first_run
    before = (results_of(folder) / "records.jsonl").read_bytes()
    monkeypatch.setattr(study_report, "write_evaluations", lambda *_: Evaluated())  # drawn by the first run
    again = evitlab("run", STUDY.name, "--smoke", "--json", cwd=folder)
    assert again.returncode == 0
    assert (results_of(folder) / "records.jsonl").read_bytes() == before
    assert " left" not in again.stderr
    rows = {row["variant"]: row for row in json.loads(again.stdout)}
    assert rows["base"]["macro_auc"] is None
    assert 0 < rows["DeiT-T"]["ece"] < 1


def test_without_the_data_one_message_says_what_where_and_how(tmp_path, monkeypatch):
    def refuse(name, root):
        raise OSError("no network")

    monkeypatch.setattr(sources, "download_cifar", refuse)
    shutil.copy(STUDY, tmp_path)
    done = evitlab("run", STUDY.name, "--data-root", tmp_path / "nothing", cwd=tmp_path)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.strip()]
    assert f"cifar100: not found in {tmp_path / 'nothing'}" in line
    assert "looked for cifar-100-python/ and cifar-100-python.tar.gz" in line
    assert "not downloaded: no network; get https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz" in line
    assert "--data-root" in line
    assert not (tmp_path / "results" / STUDY.stem).exists()


@pytest.mark.slow
def test_the_whole_shipped_study_runs_to_the_end(tmp_path, cifar):
    shutil.copy(STUDY, tmp_path)
    done = run(tmp_path, cifar)
    assert done.returncode == 0, done.stderr
    variants = list(yaml.safe_load(STUDY.read_text())["variants"])
    assert len(variants) == 7
    check_evaluations(results_of(tmp_path), cifar, variants)
