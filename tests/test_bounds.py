"""Bounds: the roofline's arithmetic by hand, and no second of memory-bound time lost or counted twice."""

from dataclasses import replace
from math import isnan

import pytest

from evitlab.bounds import find_bandwidth, judge, split_memory_bound
from evitlab.measurements.profile import Bandwidth, OperatorProfile, OperatorTime, Peaks

KIB, MIB = 2**10, 2**20
PEAKS = Peaks(
    precision="fp32",
    flops_per_second=8e9,
    kernels={"matrix product": 8e9},
    bandwidths=(  # out of order on purpose
        Bandwidth(working_set_bytes=16 * MIB, bytes_per_second=1e9),
        Bandwidth(working_set_bytes=256 * KIB, bytes_per_second=4e9),
    ),
    seconds_per_page_fault=1e-6,
    seconds_per_dispatch=1e-5,
)
NOTHING = {"calls": 1, "bytes": 0, "macs": 0, "arithmetic": 0, "page_faults": 0.0, "seconds": 0.0}


def row(operator="aten::add", operator_class="element-wise", **numbers):
    return OperatorTime(
        operator=operator, operator_class=operator_class, module="", part="other", step="", **(NOTHING | numbers)
    )


def profile_of(*rows, peaks=PEAKS):
    return OperatorProfile(
        memory_bound_share=0.5,
        memory_bound_share_low=0.4,
        memory_bound_share_high=0.6,
        memory_bound_shares=(0.5, 0.5),
        roofline_memory_bound_share=0.5,
        seconds_by_class={},
        operators=rows,
        between_seconds=0.0,
        profiled_seconds=1.0,
        wall_seconds=1.0,
        slowdown=1.0,
        page_faults=0.0,
        peaks=peaks,
        batch_size=1,
        image_size=(8, 8),
        precision="fp32",
        memory_format="contiguous",
        folded=True,
        linear_library="MKL",
        attention_path="fused",
    )


def test_an_addition_is_memory_bound():
    # 3 MiB a call: the bandwidth of the 16 MiB set. 1/12 of an operation a byte, balance 8e9 / 1e9.
    bound = judge(row(calls=2, bytes=6 * MIB, arithmetic=MIB // 2, seconds=0.02), PEAKS)
    assert bound.balance == 8.0
    assert bound.intensity == pytest.approx(1 / 12)
    assert bound.roof_seconds == pytest.approx(6 * MIB / 1e9)
    assert bound.distance == pytest.approx(6 * MIB / 1e9 / 0.02)
    assert bound.memory_bound


def test_a_large_product_is_not():
    bound = judge(row(bytes=MIB, macs=2**25, arithmetic=2**26, seconds=0.1), PEAKS)
    assert bound.intensity == 64.0
    assert bound.roof_seconds == pytest.approx(2**26 / 8e9)
    assert bound.distance == pytest.approx(2**26 / 8e9 / 0.1)
    assert not bound.memory_bound


def test_the_verdict_depends_on_the_cache_that_holds_a_call():
    # 4 operations a byte lie between the balance in the cache, 2, and that in memory, 8.
    numbers = {"bytes": 128 * KIB, "arithmetic": 512 * KIB, "seconds": 1.0}
    assert not judge(row(**numbers), PEAKS).memory_bound
    assert judge(row(**{name: 8 * value for name, value in numbers.items()}), PEAKS).memory_bound
    assert not judge(row(calls=8, **{name: 8 * value for name, value in numbers.items()}), PEAKS).memory_bound


@pytest.mark.parametrize(
    ("size", "expected"),
    [(0, 4e9), (256 * KIB, 4e9), (256 * KIB + 1, 1e9), (16 * MIB, 1e9), (64 * MIB, 1e9)],
)
def test_bandwidth_is_that_of_the_smallest_set_that_holds_it(size, expected):
    assert find_bandwidth(PEAKS, working_set_bytes=size) == expected


def test_a_view_is_bound_by_neither_roof():
    bound = judge(row("aten::view", "reshape and copy", seconds=1e-6), PEAKS)
    assert (bound.intensity, bound.roof_seconds, bound.distance, bound.memory_bound) == (0.0, 0.0, 0.0, False)


def test_without_a_measured_time_there_is_no_distance():
    assert isnan(judge(row(bytes=MIB, arithmetic=8), PEAKS).distance)


def test_time_is_handed_out_in_the_order_that_is_written():
    addition = row(calls=2, bytes=MIB, arithmetic=8, page_faults=100.0, seconds=0.01)
    # 512 KiB a call: 1e9 bytes a second
    dispatch, faults, traffic = 2 * 1e-5, 100 * 1e-6, MIB / 1e9
    assert split_memory_bound(profile_of(addition)) == pytest.approx(
        {"dispatch": dispatch, "page faults": faults, "traffic": traffic, "rest": 0.01 - dispatch - faults - traffic}
    )
    short = replace(addition, seconds=dispatch + faults / 2)
    assert split_memory_bound(profile_of(short)) == pytest.approx(
        {"dispatch": dispatch, "page faults": faults / 2, "traffic": 0.0, "rest": 0.0}
    )
    shorter = replace(addition, seconds=dispatch / 2)
    assert split_memory_bound(profile_of(shorter))["dispatch"] == pytest.approx(dispatch / 2)


def test_a_view_is_all_dispatch_and_an_uncounted_copy_mostly_rest():
    view = row("aten::view", "reshape and copy", calls=3, seconds=1e-3)
    product = row("aten::linear", "matrix product", bytes=MIB, macs=5, arithmetic=10, seconds=1.0)
    inside = row("aten::linear", "reshape and copy", seconds=2e-3)
    split = split_memory_bound(profile_of(view, product, inside))
    assert split == pytest.approx({"dispatch": 1e-3 + 1e-5, "page faults": 0, "traffic": 0, "rest": 2e-3 - 1e-5})


def test_the_split_adds_up_to_the_memory_bound_classes():
    rows = [
        row(operator_class=name, calls=number + 1, bytes=number * MIB, arithmetic=5, page_faults=number, seconds=1e-3)
        for number, name in enumerate(("element-wise", "reshape and copy", "normalisation", "softmax", "convolution"))
    ]
    assert sum(split_memory_bound(profile_of(*rows)).values()) == pytest.approx(3e-3)


def test_an_accelerator_has_no_page_faults():
    peaks = replace(PEAKS, seconds_per_page_fault=None)
    copy = row(bytes=MIB, arithmetic=8, page_faults=50.0, seconds=0.01)
    assert split_memory_bound(profile_of(copy, peaks=peaks))["page faults"] == 0.0
