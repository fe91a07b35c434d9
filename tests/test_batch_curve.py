"""Batch curves: models that take known times and memory, on a clock of our own; a real one that runs out of memory."""

import platform
import subprocess
import sys

import pytest
import torch
from torch import nn

from evitlab.measure import batch_curve, clock, rounds
from evitlab.measure.batch_curve import find_overhead_bound, is_out_of_memory, measure_batch_curve

FULL = RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you")


class Fake(nn.Module):
    """Takes `seconds(batch)` on the fake clock; does not fit from batch `limit` on."""

    def __init__(self, now, seconds, limit=1 << 30, error=FULL):
        super().__init__()
        self.spend = lambda batch: now.__setitem__(0, now[0] + seconds(batch))
        self.limit, self.error = limit, error

    def forward(self, x):
        if len(x) >= self.limit:
            raise self.error
        self.spend(len(x))
        return x


@pytest.fixture
def now(monkeypatch):
    now = [100.0]
    for module in (clock, rounds):
        monkeypatch.setattr(module, "perf_counter", lambda: now[0])
    return now


def sizes(curve):
    return [point.batch_size for point in curve.points]


def test_a_call_that_does_not_grow_is_all_overhead(now):
    curve = measure_batch_curve(Fake(now, lambda batch: 0.1), image_size=4, largest=64, time_limit_s=1e9)
    assert sizes(curve) == [1, 2, 4, 8, 16, 32, 64]
    assert (curve.overhead_bound_until, curve.best_batch_size) == (64, 64)
    assert [point.images_per_second for point in curve.points] == pytest.approx([10.0 * 2**n for n in range(7)])
    assert (curve.ended_by, curve.image_size) == ("largest asked", (4, 4))
    assert all(point.seconds == pytest.approx([0.1] * batch_curve.MAX_ROUNDS) for point in curve.points)


def test_a_call_that_grows_with_every_image_has_no_overhead(now):
    curve = measure_batch_curve(Fake(now, lambda batch: 0.1 * batch), image_size=4, largest=8, time_limit_s=1e9)
    assert curve.overhead_bound_until is None
    assert [point.images_per_second for point in curve.points] == pytest.approx([10.0] * 4)


def test_overhead_ends_where_work_begins_and_the_best_batch_may_be_smaller(now):
    # 0.1 s until 8 images, then 0.0125 s an image, and from 64 on twice that.
    model = Fake(now, lambda batch: max(0.1, 0.0125 * batch * (2 if batch >= 64 else 1)))
    curve = measure_batch_curve(model, image_size=4, largest=128, time_limit_s=1e9)
    assert curve.overhead_bound_until == 8
    assert curve.best_batch_size in (8, 16, 32)  # all at 80 images a second; 64 at 40
    assert sizes(curve)[-1] == 128


def test_overhead_needs_proof_to_end():
    one = [1.0] * 40
    unsure, sure = [0.9, 1.5] * 20, [1.15, 1.25] * 20  # medians of 1.2; their intervals begin at 0.9 and 1.15
    assert find_overhead_bound({1: one, 2: unsure, 4: one, 8: sure, 16: one}, seed=0) == 4
    assert find_overhead_bound({1: one, 2: sure}, seed=0) is None
    assert find_overhead_bound({1: one}, seed=0) is None
    assert find_overhead_bound({1: [5.0, 1.0] * 20, 2: [5.2, 1.04] * 20}, seed=0) == 2  # paired by round


@pytest.mark.parametrize("error", [FULL, torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_out_of_memory_ends_the_curve_with_what_was_measured(now, error):
    model = Fake(now, lambda batch: 0.1, limit=16, error=error)
    curve = measure_batch_curve(model, image_size=4, largest=64, time_limit_s=1e9)
    assert sizes(curve) == [1, 2, 4, 8]
    assert (curve.ended_by, curve.end_reason) == ("out of memory", "batch 16 did not fit into memory")
    assert all(len(point.seconds) == batch_curve.MAX_ROUNDS for point in curve.points)


def test_not_even_one_image_is_the_users_mistake(now):
    message = r"image_size must leave room for one image in memory, but got image_size=4: batch 1 did not fit"
    with pytest.raises(ValueError, match=message):
        measure_batch_curve(Fake(now, lambda batch: 0.1, limit=1), image_size=4)


def test_other_errors_are_raised(now):
    model = Fake(now, lambda batch: 0.1, limit=4, error=RuntimeError("mat1 and mat2 shapes"))
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes"):
        measure_batch_curve(model, image_size=4)
    assert not is_out_of_memory(RuntimeError("DefaultCPUAllocator: alignment"))


def test_a_batch_that_would_break_the_time_limit_is_not_tried(now):
    # Rounds of batches 1 to 8 take 15 s, with 16 they would take 31 s: six of them are 90 s and 186 s.
    curve = measure_batch_curve(Fake(now, lambda batch: float(batch)), image_size=4, time_limit_s=100.0)
    assert sizes(curve) == [1, 2, 4, 8]
    assert curve.ended_by == "time limit"
    assert curve.end_reason == "with batch 16, 6 rounds would take about 186 s, over the limit of 100 s"
    assert {len(point.seconds) for point in curve.points} == {7}  # 7 x 15 s are the first to pass the limit


def test_six_rounds_are_taken_even_where_the_warm_up_was_too_hopeful(now):
    calls = iter(range(1000))
    model = Fake(now, lambda batch: 1.0 if next(calls) < 3 else 50.0)
    curve = measure_batch_curve(model, image_size=4, largest=1, time_limit_s=60.0)
    assert curve.points[0].seconds == pytest.approx([50.0] * 6)


def test_a_batch_that_would_not_fit_is_not_tried(now, monkeypatch):
    """The process holds 1 GiB, takes 1 GiB an image, and 12 GiB are left: with 16 images it would need 16."""
    held, peak = [1 << 30], [1 << 30]
    tried = []

    def seconds(batch):
        tried.append(batch)
        peak[0] = (1 + batch) << 30
        return 0.1

    monkeypatch.setattr(batch_curve, "resident_bytes", lambda: held[0])
    monkeypatch.setattr(batch_curve, "peak_bytes", lambda: peak[0])
    monkeypatch.setattr(batch_curve, "reset_peak", lambda: None)
    monkeypatch.setattr(batch_curve, "available_bytes", lambda: 12 << 30)
    curve = measure_batch_curve(Fake(now, seconds), image_size=4, largest=64, time_limit_s=1e9)
    assert sizes(curve) == [1, 2, 4, 8]
    assert max(tried) == 8
    assert curve.ended_by == "out of memory"
    assert curve.end_reason == "batch 16 would take about 16.0 GiB more, and of the 12.0 GiB left 80% are safe to take"


def test_memory_that_nobody_tells_ends_nothing(now, monkeypatch):
    for name in ("resident_bytes", "peak_bytes", "available_bytes"):
        monkeypatch.setattr(batch_curve, name, lambda: None)
    assert sizes(measure_batch_curve(Fake(now, lambda batch: 0.1), image_size=4, largest=4)) == [1, 2, 4]


def test_all_sizes_are_timed_in_turn(now):
    order = []

    def seconds(batch):
        order.append(batch)
        return 0.1

    measure_batch_curve(Fake(now, seconds), image_size=4, largest=4, time_limit_s=1e9)
    timed = order[-3 * batch_curve.MAX_ROUNDS :]
    turns = [tuple(timed[i : i + 3]) for i in range(0, len(timed), 3)]
    assert all(sorted(turn) == [1, 2, 4] for turn in turns)
    assert len(set(turns)) == 6


def test_progress_rises_to_one(now):
    heard = []
    measure_batch_curve(Fake(now, lambda batch: 0.1), image_size=4, largest=2, on_progress=heard.append)
    assert heard == sorted(heard)
    assert heard[-1] == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"largest": 0}, "largest must be at least 1, but got largest=0"),
        ({"time_limit_s": 0.0}, "time_limit_s must be above 0, but got time_limit_s=0.0"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        measure_batch_curve(nn.Flatten(), image_size=4, **options)


LIMITED = """
import resource
import torch
from torch import nn
from evitlab.measure.batch_curve import measure_batch_curve

torch.set_num_threads(1)
measure_batch_curve(nn.ReLU(), image_size=256, largest=2)  # what torch loads at first
held = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) << 10
resource.setrlimit(resource.RLIMIT_AS, (held + (300 << 20), -1))
curve = measure_batch_curve(nn.Conv2d(3, 64, 1), image_size=256, time_limit_s=20.0)
print(curve.points[-1].batch_size, curve.ended_by, curve.end_reason)
"""


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.skipif(platform.system() != "Linux", reason="needs a limit on a process's memory")
def test_a_real_allocator_that_fails_ends_the_curve():
    # One image's result is 64 x 256 x 256 x 4 bytes = 16 MiB, so between 8 and 16 of them fit into 300 MiB.
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in {f"{n} out of memory batch {2 * n} did not fit into memory" for n in (8, 16)}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_runs_out_of_a_gpus_memory():
    model = nn.Sequential(nn.Conv2d(3, 1024, 1), nn.Conv2d(1024, 1024, 1), nn.ReLU())
    curve = measure_batch_curve(model, image_size=1024, device="cuda", time_limit_s=60.0)
    assert curve.ended_by == "out of memory"
    assert len(curve.points) > 3
