"""What an evaluation leaves in its folder; attention over images; curves of trainings."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from fake_evaluation import make_evaluation
from fake_records import make_training
from matplotlib.image import imread

from evitlab.measurements.accuracy import Epoch
from evitlab.report.evaluation.attention import attention_plot
from evitlab.report.evaluation.report import write_attention, write_evaluation
from evitlab.report.training_figures import training_plot


@pytest.mark.slow
def test_tables_and_figures_are_written(tmp_path):
    evaluation, curves = make_evaluation(10, absent=1)
    write_evaluation(evaluation, curves, tmp_path, model="deit_t")
    assert {path.name for path in tmp_path.iterdir()} == {
        "classes.csv", "confusion.csv", "roc.csv", "reliability.csv",
        "roc.png", "confusion.png", "reliability.png", "per_class.png",
        "roc.svg", "confusion.svg", "reliability.svg", "per_class.svg",
    }  # fmt: skip
    assert pd.read_csv(tmp_path / "classes.csv")["support"].sum() == evaluation.images
    assert (pd.read_csv(tmp_path / "confusion.csv").iloc[:, 1:].to_numpy() == curves.confusion).all()
    roc = pd.read_csv(tmp_path / "roc.csv").iloc[:, 2:].to_numpy().T
    assert np.array_equal(roc, curves.true_positive_rates, equal_nan=True)
    assert imread(tmp_path / "roc.png").ndim == 3


@pytest.mark.slow
def test_the_report_needs_no_torch():
    modules = "evaluation.report", "training_figures"
    code = "\n".join(f"import evitlab.report.{module}" for module in modules) + "\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "evitlab.curves" in done.stdout.split()
    assert "torch" not in done.stdout.split()


# Attention

IMAGE = np.arange(8 * 12 * 3, dtype=np.uint8).reshape(8, 12, 3)


def test_each_head_is_stretched_over_the_grey_image():
    maps = np.random.default_rng(0).random((6, 2, 3))
    figure = attention_plot(IMAGE, maps, title="T")
    figure.draw_without_rendering()
    image, *heads = (axes for axes in figure.axes if axes.images)
    assert (image.images[0].get_array() == IMAGE).all()
    assert [axes.get_title(loc="left") for axes in heads] == [f"head {number}" for number in range(6)]
    for axes, looked in zip(heads, maps, strict=True):
        below, above = axes.images
        assert (above.get_array() == looked).all()
        assert below.get_extent() == above.get_extent()
        assert above.get_clim() == (looked.min(), looked.max())
        assert 0 < above.get_alpha() < 1
    assert "2x3 positions" in " ".join(text.get_text() for text in figure.texts)


@pytest.mark.slow
@pytest.mark.parametrize("heads", [1, 4, 5, 24])
@pytest.mark.parametrize("shape", [(8, 8), (32, 8), (8, 64)])
def test_any_number_of_heads_and_any_shape_is_laid_out(heads, shape):
    figure = attention_plot(np.zeros((*shape, 3), dtype=np.uint8), np.zeros((heads, 4, 4)), title="T")
    figure.draw_without_rendering()
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) == heads + 1
    boxes = [axes.get_window_extent() for axes in shown]
    assert not any(box.count_overlaps(boxes[:number]) for number, box in enumerate(boxes))


@pytest.mark.parametrize(
    ("image", "maps", "message"),
    [
        (IMAGE.astype(float), np.zeros((1, 2, 2)), r"\(H, W, 3\) of uint8, but got \(8, 12, 3\) of float64"),
        (IMAGE[..., 0], np.zeros((1, 2, 2)), r"but got \(8, 12\)"),
        (IMAGE, np.zeros((2, 2)), r"maps must be \(heads, h, w\), but got \(2, 2\)"),
        (IMAGE, np.zeros((0, 2, 2)), r"but got \(0, 2, 2\)"),
    ],
)
def test_other_arrays_are_refused(image, maps, message):
    with pytest.raises(ValueError, match=message):
        attention_plot(image, maps, title="T")


def test_attention_is_written_by_number(tmp_path):
    write_attention([IMAGE, IMAGE], [np.ones((1, 2, 2)), np.ones((3, 4, 4))], tmp_path, titles=["a", "b"])
    assert {path.name for path in tmp_path.iterdir()} == {"attention_0.png", "attention_1.png"}


# Trainings


def test_seeds_have_their_mean_and_a_band():
    runs = [make_training(0.70), make_training(0.76)]
    figure = training_plot({"deit_t": runs}, title="T")
    figure.draw_without_rendering()
    loss, top1 = figure.axes
    *seeds, mean = top1.lines
    assert [list(line.get_ydata()) for line in seeds] == [[100 * e.top1 for e in run.curve] for run in runs]
    assert mean.get_xdata().tolist() == [200, 400]
    assert mean.get_ydata() == pytest.approx([58, 73])
    assert mean.get_linewidth() > seeds[0].get_linewidth()
    band = top1.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == pytest.approx((55, 76))
    assert loss.lines[-1].get_ydata().tolist() == [1.9, 1.2]
    assert "data: scenes; 2 seeds" in " ".join(text.get_text() for text in figure.texts)


def test_runs_evaluated_at_other_steps_stand_alone():
    other = replace(make_training(), curve=(Epoch(step=100, train_loss=2.0, top1=0.1),))
    figure = training_plot({"a": [make_training(), other], "b": [make_training(0.5)]}, title="T")
    figure.draw_without_rendering()
    _, top1 = figure.axes
    assert [list(line.get_xdata()) for line in top1.lines] == [[200, 400], [100], [200, 400]]
    assert not top1.collections
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


def test_no_curve_says_so():
    bare = replace(make_training(), curve=())
    assert not training_plot({"a": [bare]}, title="T").axes
