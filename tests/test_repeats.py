from dataclasses import replace

import pytest
from fake_evaluation import make_evaluation
from fake_pruning import make_pruning
from fake_records import (
    make_curve,
    make_macs,
    make_match,
    make_peaks,
    make_profile,
    make_self_test,
    make_throughput,
    make_training,
)

from evitlab.measurements.by_task import MEASUREMENTS
from evitlab.report.repeats import RAW


def test_every_task_has_a_way_to_be_written_out():
    assert set(RAW) == set(MEASUREMENTS)


@pytest.mark.parametrize(
    ("task", "measurement", "parts"),
    [
        ("match", replace(make_match(), reached=False), ["176: 1.110, 158: 1.260; target 1.25 +-0.03 missed"]),
        ("macs", make_macs(100), ["linear: 600,000,000"]),
        ("operators", make_profile(), [
            "by class: 0.3281, 0.3381, 0.3481; by roofline 0.3885 of operator time",
            "aten::native_layer_norm (norm) 20, ", "linear layers by MKL", "slowed a pass 1.04x",
        ]),
        ("peaks", make_peaks(), [
            "torch.mm 2.1e+11, oneDNN linear 5e+11", "1073741824: 6e+10", "a page fault 2.5e-07, a dispatch 1.5e-06",
        ]),
        ("peaks", replace(make_peaks(), seconds_per_page_fault=None), ["a page fault not known"]),
        ("batch_curve", make_curve(), ["1: 0.00588, 0.006, 0.00606, 0.00594, 0.00618; 2: ", "64 is the largest batch"]),
        ("self_test", make_self_test(), ["1.0020 (0.9970-1.0070), 0.9960", "3 of 4 intervals contain 1; batch 16"]),
        ("train", make_training(), ["top-1 0.7450, top-5 0.9450", "200: 0.595, 400: 0.745"]),
        ("evaluate", make_evaluation(3, absent=1)[0], [
            "top-1 0.7073 (95% interval over images 0.6873-0.7273), top-5 0.8073, loss 0.7500, macro AUC 0.845, "
            "calibration error 0.2627; class: F1, AUC: n00000000: 0.6667, 0.99",
            "class 2, of a kind: not known, not known",
        ]),
        ("prune", make_pruning(), [
            "1: 775,000, 0.8800, 0.9200; 2: 600,000, 0.8000, 0.9000; before 0.9100; ",
            "control, untrained: 1: 775,000, 0.0625; 2", "probed: nothing",
        ]),
    ],
)  # fmt: skip
def test_every_repeat_is_written(task, measurement, parts):
    text = RAW[task](measurement)
    for part in parts:
        assert part in text


def test_calls_are_averaged_to_repeats():
    timing = replace(make_throughput(), seconds=(1.0, 2.0, 3.0, 5.0, 8.0, 13.0), calls_per_repeat=2)
    text = RAW["throughput"](timing)
    assert (
        "3 repeats (each the mean of 2 calls) in turn with 1 other models: 1.5, 4, 10.5; stopped by half-width" in text
    )
    assert "load average 0.4 before, 1.1 after; clock in Hz 2.1e+09 before, not known after" in text
    for condition in (
        "protocol evitlab",
        "batch 16",
        "224x224 pixels",
        "fp32",
        "contiguous",
        "BatchNorm folded",
        "eager",
    ):
        assert condition in text
