"""The pages of commands on models, and `evitlab report` over all folders."""

import re
from dataclasses import replace

import pytest
from fake_evaluation import make_evaluation
from fake_records import (
    make_curve,
    make_peaks,
    make_profile,
    make_record,
    make_self_test,
    make_throughput,
    make_training,
)
from typer.testing import CliRunner

from evitlab.cli import app
from evitlab.report.models.page import find
from evitlab.report.models.report import write_models
from evitlab.store import append

EVIL = "<script>alert(1)</script>&"


def page_of(records, folder):
    write_models(records, folder)
    return (folder / "report.html").read_text()


def test_a_bench_has_a_page_with_question_result_table_and_repeats(tmp_path):
    records = [
        make_record("throughput", make_throughput(48.0, ratio=None), variant="deit_t", key="a" * 16),
        make_record("throughput", make_throughput(60.0, ratio=1.25), variant=EVIL, key="b" * 16),
    ]
    page = page_of(records, tmp_path / "bench_deit_t")
    assert "How fast is deit_t, &lt;script&gt;" in page
    assert EVIL not in page
    assert "60.0 images/s at batch 16, 1.25x base (1.23-1.28)." in page
    assert "No verdict written." in page
    assert page.count("<details data-variant=") == 2
    assert page.count("data:image/png;base64,") == 1
    assert 'href="ratios.svg"' in page
    assert "Throughput holds for the machine" in page


def test_a_ratio_that_the_interval_does_not_part_from_one_is_not_separable():
    timing = make_throughput(48.0, ratio=1.01)
    (sentence,) = find([make_record("throughput", timing, variant="v")])
    assert sentence.endswith("1.01x base (0.99-1.04): not separable.")


@pytest.mark.parametrize(
    ("task", "measurement", "words"),
    [
        ("operators", make_profile(), "% by this machine's roofline."),
        ("self_test", make_self_test(), "v: failed. 3 of 4 intervals contain 1; the median of |ratio - 1| is 0.30%."),
        ("batch_curve", make_curve(), "v: fastest at batch 4, 500 images/s; overhead-bound up to batch 2."),
        ("train", make_training(0.7), "v: top-1 70.0% on scenes (one training: no interval)."),
        ("peaks", make_peaks(), "v: 500 GFLOP/s in fp32, 60.0 GB/s from memory."),
    ],
)
def test_the_result_in_a_sentence(task, measurement, words):
    (sentence,) = find([make_record(task, measurement, variant="v")])
    assert words in sentence


def test_an_evaluation_shows_the_figures_that_lie_beside_it(tmp_path):
    evaluation, _ = make_evaluation(4)
    (tmp_path / "roc.png").write_bytes(b"made up")
    (tmp_path / "attention_0.png").write_bytes(b"made up")
    page = page_of([make_record("evaluate", evaluation, variant="v")], tmp_path)
    assert page.count("data:image/png;base64,") == 2
    assert re.search(r"v: top-1 [\d.]+% \(95% interval [\d.]+-[\d.]+, n=", page)


def test_report_writes_every_folder_and_the_index_and_names_what_cannot_be_read(tmp_path):
    append(make_record("throughput", make_throughput(), variant="deit_t"), tmp_path / "bench_a")
    append(make_record("self_test", make_self_test(), variant="deit_t"), tmp_path / "self_test_a")
    done = CliRunner().invoke(app, ["report", "--results", str(tmp_path)])
    assert done.exit_code == 0, done.output
    for name in ("bench_a/report.html", "self_test_a/report.html", "index.html"):
        assert (tmp_path / name).exists()
        assert name in done.stdout
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "records.jsonl").write_text('{"schema": 1}\n')
    (tmp_path / "bench_a" / "report.html").unlink()
    done = CliRunner().invoke(app, ["report", "--results", str(tmp_path)])
    assert done.exit_code == 2
    assert "broken" in done.stderr
    assert (tmp_path / "bench_a" / "report.html").exists()
    assert "Not readable" in (tmp_path / "index.html").read_text()


def test_report_takes_one_name_and_conditions(tmp_path):
    record = make_record("throughput", make_throughput(), variant="deit_t")
    other = replace(record, key="b" * 16, environment=replace(record.environment, machine="ffffffff"))
    for each in (record, other):
        append(each, tmp_path / "bench_a")
    done = CliRunner().invoke(app, ["report", "bench_a", "--results", str(tmp_path), "--where", "machine=ffffffff"])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "bench_a" / "report.html").read_text()
    assert "ffffffff" in page
    assert "0a1b2c3d" not in page
