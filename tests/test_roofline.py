"""Peaks: the work of each probe against NumPy and torch, the arithmetic under a clock that is known."""

from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from evitlab.measure import roofline
from evitlab.measure.dispatch import count_page_faults
from evitlab.measure.roofline import make_kernels, make_streams, measure_peaks, time_page_fault

CPU = torch.device("cpu")
SIDE = 96


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Sizes that take no time."""
    monkeypatch.setattr(roofline, "MATRIX_SIDES", {"cpu": SIDE, "cuda": SIDE})
    monkeypatch.setattr(roofline, "MAPS", {"cpu": (2, 8, 10), "cuda": (2, 8, 10)})
    monkeypatch.setattr(roofline, "WORKING_SETS", (2**12, 2**16))
    monkeypatch.setattr(roofline, "ROUNDS", 5)
    monkeypatch.setattr(roofline, "REPEAT_SECONDS", 1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_do_the_work_that_they_say(dtype):
    for probe in make_kernels(CPU, dtype, seed=0):
        if probe.name == "matrix product, oneDNN":  # torch's counter does not know it
            assert probe.work == 2 * SIDE**3
            continue
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            probe.run()
        assert probe.work == counter.get_total_flops() or dtype == torch.bfloat16
    assert "matrix product" in {probe.name for probe in make_kernels(CPU, dtype, seed=0)}


def test_matrix_products_agree_with_numpy():
    generator = torch.Generator().manual_seed(3)
    a, b = (torch.randn(SIDE, SIDE, generator=generator).numpy().astype(np.float64) for _ in range(2))
    product, *others, _ = make_kernels(CPU, torch.float32, seed=3)
    with torch.inference_mode():
        np.testing.assert_allclose(product.run().double().numpy(), a @ b, atol=1e-4)
        for other in others:
            np.testing.assert_allclose(other.run().double().numpy(), a @ b.T, atol=1e-4)


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_streams_read_two_arrays_and_write_one(dtype, size):
    for probe, working_set in zip(make_streams(CPU, dtype), (2**12, 2**16), strict=True):
        with torch.inference_mode():
            out = probe.run()
        assert probe.work == 3 * out.numel() * size
        assert working_set - 3 * size < probe.work <= working_set
        assert bool((out == 2).all())


def test_streams_leave_memory_to_others(monkeypatch):
    monkeypatch.setattr(roofline, "_free_bytes", lambda device: 2**17)
    assert [probe.name for probe in make_streams(CPU, torch.float32)] == ["stream 4096"]
    monkeypatch.setattr(roofline, "_free_bytes", lambda device: 2**10)
    assert [probe.name for probe in make_streams(CPU, torch.float32)] == ["stream 4096"]


def test_rates_under_a_clock_that_is_known(monkeypatch):
    """Every look at the clock comes a millisecond after the one before."""
    ticks = count()
    monkeypatch.setattr(roofline, "perf_counter", lambda: next(ticks) * 1e-3)
    monkeypatch.setattr(roofline, "time_page_fault", lambda: 5e-7)
    monkeypatch.setattr(roofline, "REPEAT_SECONDS", 3.5e-3)  # four calls a repeat
    peaks = measure_peaks()
    assert peaks.kernels["matrix product"] == pytest.approx(2 * SIDE**3 * 4 / 1e-3)
    assert peaks.kernels["convolution 3x3"] == pytest.approx(2 * 2 * 100 * 64 * 9 * 4 / 1e-3)
    assert peaks.flops_per_second == max(peaks.kernels.values())
    assert peaks.seconds_per_dispatch == pytest.approx(1e-3 / 4)
    for bandwidth in peaks.bandwidths:
        assert bandwidth.bytes_per_second == pytest.approx(bandwidth.working_set_bytes * 4 / 1e-3)
    assert peaks.seconds_per_page_fault == 5e-7
    assert peaks.precision == "fp32"


def test_a_slow_kernel_is_repeated_less(monkeypatch):
    calls = []
    probe = roofline.Probe(name="slow", run=lambda: calls.append(1), work=7)
    ticks = count()
    monkeypatch.setattr(roofline, "perf_counter", lambda: float(next(ticks)))  # a second a call
    assert roofline._time_in_turn([probe], CPU, on_progress=None) == {"slow": 7.0}
    assert len(calls) == 1 + 1 + 2  # warm-up, calibration, two seconds of repeats


def test_the_middle_of_the_fastest_third():
    assert roofline._middle_of_fastest([9.0, 1.0, 8.0, 2.0, 7.0, 3.0, 100.0, 50.0, 40.0]) == 2
    assert roofline._middle_of_fastest([5.0]) == 5


def test_measures_really():
    shares = []
    peaks = measure_peaks(precision="bf16", on_progress=shares.append)
    assert all(rate > 0 for rate in peaks.kernels.values())
    assert [bandwidth.working_set_bytes for bandwidth in peaks.bandwidths] == [4092, 65532]
    assert peaks.precision == "bf16"
    assert 1e-8 < peaks.seconds_per_dispatch < 1e-3
    assert shares == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


@pytest.mark.skipif(count_page_faults() == 0, reason="the system does not count page faults")
def test_every_page_is_touched_for_the_first_time(monkeypatch):
    monkeypatch.setattr(roofline, "FAULT_PAGES", 1000)
    before = count_page_faults()
    assert time_page_fault() > 0
    assert 5 * 1000 <= count_page_faults() - before < 5 * 1100


def test_a_page_fault_is_the_first_write_less_the_second(monkeypatch):
    writes = iter([30.0, 10.0, 25.0, 10.0, 26.0, 10.0, 90.0, 1.0, 60.0, 2.0])
    monkeypatch.setattr(roofline, "FAULT_PAGES", 10)
    monkeypatch.setattr(roofline, "_time_write", lambda pages: next(writes))
    assert time_page_fault() == pytest.approx(15.5 / 10)  # between 15 and 16, the fastest two of five


def test_a_system_that_says_no_memory_gets_a_small_share(monkeypatch):
    monkeypatch.setattr(roofline, "os", SimpleNamespace())
    assert roofline._free_bytes(CPU) == 2**31


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_measures_a_gpu():
    peaks = measure_peaks(device="cuda", precision="bf16")
    assert peaks.seconds_per_page_fault is None
    assert peaks.flops_per_second > 0
