import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from fake_records import PAPER, fail, make_study, requests
from matplotlib.image import imread
from matplotlib.text import Text

from evitlab.report.figures import throughput_accuracy
from evitlab.report.frame import name_points, start_figure, to_bytes
from evitlab.report.tables import study_table

STUDY = make_study()
NOTE = "Accuracy is a PROXY's (width 48, 32 px, drawn data), not ImageNet's."
PAPER_BY_NAME = {f"mhsa_ratio={ratio:g}": top1 for ratio, top1 in PAPER.items()}


def table_of(records, *, wanted=None, paper=None):
    return study_table(records, study="mhsa_ratio", requests=wanted or requests(records), paper_top1=paper)


def draw(table):
    figure = throughput_accuracy(table, title="A question", proxy_note=NOTE, paper_note="paper, ImageNet")
    figure.draw_without_rendering()  # lays it out: a layout that collapses is a warning, so an error
    return figure


def panels(figure):
    return {axes.get_title(loc="left"): axes for axes in figure.axes}


def words(figure):
    return " ".join(text.get_text() for text in figure.texts).replace("\n", " ")


def with_knobs(records, *, norm, elsewhere):
    """A second knob: `norm` in one variant, `elsewhere` in the others."""
    values = {"mhsa_ratio=0.2": norm}
    return [replace(r, knobs=r.knobs and {**r.knobs, "norm": values.get(r.variant, elsewhere)}) for r in records]


def line(axes, number=0):
    x, y = axes.lines[number].get_data()
    return np.asarray(x, dtype=float), np.asarray(y, dtype=float)


def test_panels_show_the_table_s_values():
    table = table_of(STUDY, paper=PAPER_BY_NAME)
    found = panels(draw(table))
    accuracy, tradeoff, paper, memory = found.values()
    rows = table[table["variant"] != "base"]
    for axes, name in ((accuracy, "top1"), (paper, "paper_top1"), (memory, "memory_bound_share")):
        x, y = line(axes)
        assert x.tolist() == rows["knob_mhsa_ratio"].tolist()
        assert y.tolist() == pytest.approx((100 * rows[name]).tolist())
        assert axes.get_xlabel() == "mhsa_ratio"
    x, y = line(tradeoff)
    assert x.tolist() == rows["speed_ratio"].tolist()
    assert tradeoff.get_xlabel() == "measured throughput over that of base, timed in turn"
    assert y.tolist() == pytest.approx((100 * rows["top1"]).tolist())
    assert [text.get_text() for text in tradeoff.texts] == ["0", "0.2", "0.4", "0.5", "0.6", "0.8", "1"]
    assert "proxy top-1 %" in accuracy.get_title(loc="left")
    assert "proxy top-1 %" in tradeoff.get_title(loc="left")
    assert "paper, ImageNet" in paper.get_title(loc="left")


def test_a_base_that_is_only_timed_has_no_place_among_accuracies():
    table = table_of(with_knobs(STUDY, norm="layer", elsewhere="batch"), paper=PAPER_BY_NAME)
    accuracy, _, paper, memory = panels(draw(table)).values()
    names = table["variant"].tolist()
    assert [label.get_text() for label in memory.get_xticklabels()] == names
    for axes in (accuracy, paper):
        assert [label.get_text() for label in axes.get_xticklabels()] == [name for name in names if name != "base"]


def test_rows_over_several_references_stand_at_their_images_per_second():
    """Then no ratio compares them all."""
    table = table_of(STUDY)
    table.loc[table.index[-1], "speed_reference"] = "another"
    _, tradeoff, _ = panels(draw(table)).values()
    assert line(tradeoff)[0].tolist() == table["infer_samples_per_sec"][table["variant"] != "base"].tolist()
    assert tradeoff.get_xlabel() == "measured throughput, images/s"


def test_intervals_and_seeds_are_drawn():
    table = table_of(STUDY)
    accuracy, tradeoff, _ = panels(draw(table)).values()
    rows = table[table["variant"] != "base"]
    segments = accuracy.collections[0].get_segments()
    ends = [(segment[0][1], segment[1][1]) for segment in segments]
    assert ends == [pytest.approx(pair) for pair in zip(100 * rows["top1_low"], 100 * rows["top1_high"], strict=True)]
    seeds = [line(accuracy, number)[1].tolist() for number in range(1, 8)]
    assert seeds == [pytest.approx([100 * value for value in values]) for values in rows["top1_values"]]
    wide = [(segment[0][0], segment[1][0]) for segment in tradeoff.collections[0].get_segments()]
    speeds = zip(rows["speed_ratio_low"], rows["speed_ratio_high"], strict=True)
    assert wide == [pytest.approx(pair) for pair in speeds]


def test_the_paper_s_values_are_hollow_and_dashed_unlike_ours():
    accuracy, _, paper, _ = panels(draw(table_of(STUDY, paper=PAPER_BY_NAME))).values()
    assert paper.lines[0].get_linestyle() == "--"
    assert paper.lines[0].get_markerfacecolor() == "white"
    assert accuracy.lines[0].get_linestyle() == "-"
    assert accuracy.lines[0].get_markerfacecolor() != "white"


def test_title_and_proxy_note_stand_above_the_panels():
    figure = draw(table_of(STUDY))
    assert words(figure) == f"A question {NOTE}"
    drawn = [*figure.texts, *(label for axes in figure.axes for label in axes.get_xticklabels())]
    assert {text.get_fontfamily()[0] for text in drawn} == {"DejaVu Sans"}  # no font that a machine may lack
    lowest = min(text.get_window_extent().y0 for text in figure.texts)
    assert lowest > max(axes.title.get_window_extent().y1 for axes in figure.axes)


def test_a_long_name_of_the_source_is_cut():
    figure = throughput_accuracy(
        table_of(STUDY, paper=PAPER_BY_NAME), title="Q", proxy_note=NOTE, paper_note="very long " * 20
    )
    title = figure.axes[2].get_title(loc="left")
    assert title.startswith("top-1 %, very long")
    assert title.endswith(" ...")
    assert len(title) < 70


def test_failed_trainings_are_crosses_and_missing_values_gaps():
    records = [
        fail(record, "out of memory") if (record.variant, record.task) == ("mhsa_ratio=1", "train") else record
        for record in STUDY
        if (record.variant, record.task) != ("mhsa_ratio=0.8", "operators")
    ]
    found = panels(draw(table_of(records, wanted=requests(STUDY))))
    accuracy, _, memory = found.values()
    crosses = [drawn for drawn in accuracy.lines if drawn.get_marker() == "X"]
    assert [list(cross.get_xdata()) for cross in crosses] == [[1.0]]
    assert np.isnan(line(memory)[1]).tolist() == [False] * 5 + [True, False]


def test_several_knobs_put_the_variants_on_the_axis_unjoined():
    table = table_of(with_knobs(STUDY, norm="layer", elsewhere="batch"), paper=PAPER_BY_NAME)
    accuracy, tradeoff, paper, _ = panels(draw(table)).values()
    assert {accuracy.lines[0].get_linestyle(), paper.lines[0].get_linestyle()} == {"None"}
    heights = {text.get_text(): text.xyann[1] for text in tradeoff.texts}
    rising = table[table["top1"].notna()].sort_values("top1")["variant"].tolist()
    assert sorted(heights, key=heights.__getitem__) == rising, "names stand as high as their accuracies rank"
    assert sorted(heights) == sorted(table["variant"].tolist()[1:])


def test_long_names_of_a_grid_keep_what_tells_them_apart():
    """The network and the knob: 34 letters, more than a line beside the panel has."""
    records = [r if r.variant == "base" else replace(r, variant=f"base=efficientvit_m4, {r.variant}") for r in STUDY]
    table = table_of(records)
    table["knob_base"] = "efficientvit_m4"
    table.loc[1, "knob_base"] = "deit_t"  # two knobs vary, so that points have names
    tradeoff = list(panels(draw(table)).values())[1]
    assert sorted(text.get_text() for text in tradeoff.texts) == sorted(
        name.replace(", ", ",\n") for name in table["variant"].tolist()[1:]
    )


def test_a_knob_that_is_equal_everywhere_changes_nothing():
    accuracy, *_ = panels(draw(table_of(with_knobs(STUDY, norm=["layer"], elsewhere=["layer"])))).values()
    assert accuracy.get_xlabel() == "mhsa_ratio"


def test_a_knob_that_repeats_a_value_puts_the_variants_on_the_axis():
    records = [replace(record, knobs=record.knobs and {"mhsa_ratio": 0.4}) for record in STUDY[:15]]
    records += [replace(record, knobs={"mhsa_ratio": 0.5}) for record in STUDY[15:]]
    accuracy, *_ = panels(draw(table_of(records))).values()
    assert accuracy.get_xticklabels()[0].get_text() == "mhsa_ratio=0"


def test_a_knob_of_words_puts_the_variants_on_the_axis():
    records = [replace(r, knobs={"norm": "batch" if r.variant.endswith("0.2") else "layer"}) for r in STUDY]
    accuracy, *_ = panels(draw(table_of(records))).values()
    assert accuracy.get_xticklabels()[0].get_text() == "mhsa_ratio=0"


@pytest.mark.parametrize(
    ("keep", "titles"),
    [
        (lambda r: r.task != "train", ["measured throughput, images/s", "memory-bound share of operator time, %"]),
        (lambda r: r.task == "train", ["proxy top-1 % (95% interval; ticks: seeds)"]),
        (lambda r: r.task == "operators", ["memory-bound share of operator time, %"]),
        (lambda r: r.task == "macs", []),
    ],
)
def test_panels_without_numbers_are_left_out(keep, titles):
    figure = draw(table_of([record for record in STUDY if keep(record)]))
    assert list(panels(figure)) == titles
    assert ("nothing" if titles else "no accuracy and no speed measured yet") in words(figure) + " nothing"


def test_one_variant_and_one_seed_is_a_figure():
    one = [record for record in STUDY if record.variant == "mhsa_ratio=0.4" and record.seed == 0]
    figure = draw(table_of(one))
    assert len(figure.axes) == 3


def test_equal_figures_have_equal_bytes_without_date_or_version():
    first, second = (to_bytes(throughput_accuracy(table_of(STUDY), title="Q", proxy_note=NOTE), "png") for _ in "ab")
    assert first == second
    height, width, _ = imread(io.BytesIO(first)).shape
    assert height > 300
    assert width > 1000
    assert first.startswith(b"\x89PNG")
    assert b"tEXt" not in first
    assert b"atplotlib" not in first


def test_settings_of_the_user_are_neither_used_nor_changed():
    plain = to_bytes(throughput_accuracy(table_of(STUDY), title="Q", proxy_note=NOTE), "png")
    with mpl.rc_context({"axes.titlesize": 30, "ytick.labelsize": 20, "ytick.color": "red", "font.family": "serif"}):
        before = dict(mpl.rcParams)
        assert to_bytes(throughput_accuracy(table_of(STUDY), title="Q", proxy_note=NOTE), "png") == plain
        assert dict(mpl.rcParams) == before


@pytest.mark.slow
def test_no_figure_is_left_with_pyplot_and_torch_is_not_imported():
    code = (
        "import sys; from fake_records import *\n"
        "from evitlab.report import figures, html, profile_figures, profile_tables, timing_figures, timing_tables\n"
        "from evitlab.report.frame import to_bytes\n"
        "to_bytes(profile_figures.roofline_plot(make_profile(), title='t'), 'png')\n"
        "to_bytes(timing_figures.batch_curve_plot({'a': make_curve()}), 'png')\n"
        "import matplotlib.pyplot as plt; print(plt.get_fignums(), 'torch' in sys.modules)"
    )
    tests = Path(__file__).parent
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={"PYTHONPATH": f"{tests.parent}:{tests}", "HOME": "/nonexistent", "MPLCONFIGDIR": mpl.get_configdir()},
    )
    assert result.stdout.strip() == "[] False", result.stderr


def write_names(names, *, avoid):
    figure = start_figure(6, 4, title="", subtitle="")
    axes = figure.add_subplot()
    axes.set_xlim(0, 10)
    axes.set_ylim(0, 10)
    figure.draw_without_rendering()
    name_points(axes, names, avoid=np.asarray(avoid, dtype=float).reshape(-1, 2))
    figure.draw_without_rendering()
    return axes, [text_box(text) for text in axes.texts]


def text_box(text):
    return Text.get_window_extent(text)  # an annotation's own has its line in it


def test_names_cover_neither_one_another_nor_points_and_stay_inside():
    crowd = [(x, y) for x in (4.8, 5.0, 5.2) for y in (4.9, 5.0, 5.1)]
    names = [(x, y, f"operator {number}") for number, (x, y) in enumerate(crowd)]
    axes, boxes = write_names([*names, (9.9, 9.9, "in the corner")], avoid=crowd)
    dots = axes.transData.transform(crowd)
    frame = axes.get_window_extent()
    for number, box in enumerate(boxes):
        assert not box.count_overlaps(boxes[:number])
        assert not box.count_contains(dots)
        assert frame.x0 <= box.x0
        assert box.x1 <= frame.x1
        assert box.y1 <= frame.y1
    assert [text.get_text() for text in axes.texts][-1] == "in the corner"


def test_a_name_alone_stands_beside_its_point():
    axes, (box,) = write_names([(5, 5, "alone")], avoid=[(5, 5)])
    x, y = axes.transData.transform((5, 5))
    assert not box.contains(x, y)
    assert box.padded(30).contains(x, y)


def test_a_name_gives_way_to_a_point_that_only_it_would_cover():
    axes, (free,) = write_names([(5, 5, "a long name")], avoid=[(5, 5)])
    corner = axes.transData.inverted().transform((free.x1 - 3, free.y1 - 3))
    _, (box,) = write_names([(5, 5, "a long name")], avoid=[(5, 5), corner])
    assert not box.contains(free.x1 - 3, free.y1 - 3)
