"""Throughput: on a clock of our own, where every number is known, and loosely on the real one."""

from collections import Counter
from math import sin

import numpy as np
import pytest
import torch
from torch import nn

from evitlab.measure import throughput
from evitlab.measure.throughput import measure_throughput
from evitlab.measurements.speed import Throughput
from evitlab.models.layers import ConvNorm
from evitlab.settings import Execution, ThroughputSettings, as_arguments, cream_settings


def measure(models, **options):
    settings = {"batch_size": 4, "image_size": 8, "min_rounds": 10, "time_limit_s": 1e9} | options
    return measure_throughput(models, **settings)


def test_speed_and_ratio_of_steady_models(clock):
    models = {"slow": clock.model("slow", lambda now: 0.5), "fast": clock.model("fast", lambda now: 0.2)}
    found = measure(models)
    slow, fast = found["slow"], found["fast"]
    assert slow.images_per_second == pytest.approx(4 / 0.5)
    assert fast.images_per_second == pytest.approx(4 / 0.2)
    assert fast.images_per_second_low == pytest.approx(fast.images_per_second_high)
    assert (fast.ratio, fast.ratio_low, fast.ratio_high) == (pytest.approx(2.5),) * 3
    assert (slow.ratio, slow.ratio_low, slow.ratio_high) == (None, None, None)
    assert (slow.reference, fast.reference) == ("slow", "slow")
    assert fast.group == slow.group == ("slow", "fast")


def test_each_model_is_compared_with_its_own_reference(clock):
    seconds = {"a": 1.0, "b": 0.5, "c": 0.25, "d": 2.0}
    models = {name: clock.model(name, lambda now, s=s: s) for name, s in seconds.items()}
    found = measure(models, references={"b": "b", "c": "b", "d": "c"})
    ratios = {name: (one.reference, one.ratio and round(one.ratio, 6)) for name, one in found.items()}
    assert ratios == {"a": ("a", None), "b": ("b", None), "c": ("b", 2.0), "d": ("c", 0.125)}


def test_a_drifting_machine_does_not_move_the_ratio(clock):
    def drift(now):
        return 1.5 + sin(now / 60)  # the machine is up to five times slower at one time than at another

    models = {
        "a": clock.model("a", lambda now: drift(now)),
        "b": clock.model("b", lambda now: drift(now) / 2),
    }
    found = measure(models, min_rounds=200, max_rounds=200)["b"]
    assert max(found.seconds) > 3 * min(found.seconds)
    assert found.ratio == pytest.approx(2, rel=0.02)
    assert found.ratio_low <= 2 <= found.ratio_high


def test_interval_is_that_of_the_noise(clock):
    noise = np.random.default_rng(0)
    models = {"a": clock.model("a", lambda now: noise.lognormal(sigma=0.1))}
    found = measure(models, min_rounds=400, max_rounds=400)["a"]
    # Standard error of a median: sqrt(pi / 2) sigma / sqrt(n); 1.96 of them a side, in images per second.
    half = 1.96 * np.sqrt(np.pi / 2) * 0.1 / np.sqrt(400) * 4
    assert found.images_per_second_low < 4 < found.images_per_second_high
    width = found.images_per_second_high - found.images_per_second_low
    assert width == pytest.approx(2 * half, rel=0.35)


def test_every_call_is_kept_and_repeats_are_long_enough(clock):
    costs = {"a": 0.008, "b": 0.2}
    models = {name: clock.model(name, lambda now, cost=cost: cost) for name, cost in costs.items()}
    found = measure(models, max_rounds=10)
    assert found["a"].calls_per_repeat == 7  # 0.05 s / 0.008 s = 6.25
    assert found["b"].calls_per_repeat == 1
    assert found["a"].seconds == pytest.approx([0.008] * 70)
    assert found["b"].seconds == pytest.approx([0.2] * 10)
    # 0.25 s / 0.008 s = 31.25, and at least 3 calls
    assert (found["a"].warmup_calls, found["b"].warmup_calls) == (32, 3)
    assert Counter(clock.calls) == {"a": 32 + 70, "b": 3 + 10}


def test_a_repeat_counts_as_the_mean_of_its_calls(clock):
    costs = iter([0.02] * 13 + [0.02, 0.02, 0.05] * 10)  # the warm-up takes 13 calls; then three make a repeat
    found = measure({"a": clock.model("a", lambda now: next(costs))}, max_rounds=10)["a"]
    assert found.calls_per_repeat == 3
    assert found.images_per_second == pytest.approx(4 / 0.03)  # the median of all calls is 0.02


def test_one_slow_warm_up_call_does_not_shorten_the_repeats(clock):
    costs = iter([0.1, 0.011, 0.2])
    found = measure({"a": clock.model("a", lambda now: next(costs, 0.011))}, max_rounds=10)["a"]
    assert (found.warmup_calls, found.calls_per_repeat) == (3, 5)


@pytest.mark.parametrize(
    ("calls", "p90", "p99"), [(63, False, False), (64, True, False), (661, True, False), (662, True, True)]
)
def test_percentiles_only_where_enough_calls_tell_them(clock, calls, p90, p99):
    costs = np.random.default_rng(0).permutation(np.arange(1, calls + 1)) / 10
    queue = iter([1.0] * 3 + list(costs))
    found = measure({"a": clock.model("a", lambda now: next(queue))}, min_rounds=calls, max_rounds=calls)["a"]
    for percentile, share, shown in ((found.latency_p90_s, 90, p90), (found.latency_p99_s, 99, p99)):
        least = min(cost for cost in costs if 100 * sum(costs <= cost) >= share * calls)
        assert percentile == (pytest.approx(least) if shown else None)


def noisy_pair(clock):
    noise = np.random.default_rng(0)
    return {name: clock.model(name, lambda now: noise.lognormal(sigma=0.3)) for name in "ab"}


def test_stops_when_the_ratio_is_known_well_enough(clock):
    rough = measure(noisy_pair(clock), half_width=0.2, max_rounds=2000)["b"]
    exact = measure(noisy_pair(clock), half_width=0.05, max_rounds=2000)["b"]
    assert 10 <= len(rough.seconds) < len(exact.seconds) < 2000
    for found, half_width in ((rough, 0.2), (exact, 0.05)):
        assert found.stopped_by == "half-width"
        assert (found.ratio_high - found.ratio_low) / 2 / found.ratio <= half_width


@pytest.mark.parametrize("noisy", ["b", "c"])
def test_every_ratio_must_be_known(clock, noisy):
    noise = np.random.default_rng(0)
    cost = {True: lambda now: noise.lognormal(sigma=0.3), False: lambda now: 1.0}
    found = measure({name: clock.model(name, cost[name == noisy]) for name in "abc"}, half_width=0.05, max_rounds=1000)
    assert {len(one.seconds) for one in found.values()} == {len(found["a"].seconds)}
    assert 10 < len(found["a"].seconds) < 1000
    assert (found[noisy].ratio_high - found[noisy].ratio_low) / 2 / found[noisy].ratio <= 0.05


@pytest.mark.parametrize("names", ["a", "ab"])
def test_without_ratios_it_stops_on_the_medians(clock, names):
    noise = np.random.default_rng(0)
    models = {name: clock.model(name, lambda now: noise.lognormal(sigma=0.3)) for name in names}
    found = measure(models, half_width=0.05, max_rounds=1000, references={name: name for name in names})
    assert 10 < len(found["a"].seconds) < 1000
    for one in found.values():
        width = 1 / one.images_per_second_low - 1 / one.images_per_second_high
        assert width * one.images_per_second / 2 <= 0.05


def test_limits_on_rounds_and_time(clock):
    by_rounds = measure(noisy_pair(clock), half_width=1e-6, max_rounds=23)["a"]
    assert (len(by_rounds.seconds), by_rounds.stopped_by) == (23, "rounds")
    steady = measure({name: clock.model(name, lambda now: 1.0) for name in "ab"}, half_width=1e-9, min_rounds=12)["a"]
    assert (len(steady.seconds), steady.stopped_by) == (12, "half-width")
    by_time = measure(noisy_pair(clock), half_width=1e-6, min_rounds=2, max_rounds=1000, time_limit_s=100.0)["a"]
    assert 35 <= len(by_time.seconds) <= 65  # 100 s of rounds that take about 2 s
    assert by_time.stopped_by == "time limit"
    assert len(measure(noisy_pair(clock), min_rounds=8, time_limit_s=0.1)["a"].seconds) == 8


@pytest.mark.parametrize("limits", [{"time_limit_s": 1e9}, {"time_limit_s": 30.0}, {"half_width": 10.0}])
def test_progress_rises_to_one(clock, limits):
    heard = []
    found = measure(noisy_pair(clock), **({"half_width": 1e-6, "max_rounds": 40} | limits), on_progress=heard.append)
    assert len(heard) == len(found["a"].seconds)
    assert heard == sorted(heard)
    assert heard[-1] == 1.0
    assert 0 < heard[0] < 1


def test_cream_times_as_long_as_the_official_test_and_takes_the_mean(clock):
    skewed = iter([1.0] * 10 + [1.0, 1.0, 4.0] * 100)  # ten calls are ten seconds of warm-up
    models = {"slow": clock.model("slow", lambda now: next(skewed)), "fast": clock.model("fast", lambda now: 0.25)}
    heard = []
    found = measure(models, protocol="cream", time_limit_s=1.0, max_rounds=10, on_progress=heard.append)
    slow, fast = found["slow"], found["fast"]
    assert (slow.warmup_calls, fast.warmup_calls) == (10, 40)
    assert (slow.stopped_by, slow.protocol) == ("protocol", "cream")
    # As long repeats for all: four calls of the fast one to one of the slow one, until it has had its 60 s too.
    assert (slow.calls_per_repeat, fast.calls_per_repeat) == (1, 4)
    assert (len(slow.seconds), len(fast.seconds)) == (60, 240)
    assert slow.images_per_second == pytest.approx(4 / 2.0)
    assert slow.images_per_second_low < 2 < slow.images_per_second_high
    assert fast.ratio == pytest.approx(4.0)
    assert heard == sorted(heard)
    assert heard[-1] == 1.0


def test_cream_settings_are_the_official_speed_tests():
    on_cpu, on_gpu = cream_settings("cpu"), cream_settings("cuda:0")
    assert (on_cpu.batch_size, on_gpu.batch_size) == (16, 2048)
    assert (on_cpu.execution.precision, on_gpu.execution.precision) == ("fp32", "fp16")
    for settings in (on_cpu, on_gpu):
        assert (settings.protocol, settings.execution.mode, settings.execution.fold) == ("cream", "traced", True)


def test_settings_are_its_arguments(clock):
    settings = ThroughputSettings(batch_size=2, max_rounds=20)
    found = measure_throughput({"a": clock.model("a", lambda now: 1.0)}, image_size=8, **as_arguments(settings))["a"]
    assert (found.batch_size, len(found.seconds)) == (2, 20)


def test_conditions_are_recorded(clock, monkeypatch):
    loads, clocks = iter([0.5, 1.5]), iter([3e9, 2e9])
    monkeypatch.setattr(throughput, "load_average", lambda: next(loads))
    monkeypatch.setattr(throughput, "cpu_hz", lambda: next(clocks))
    execution = Execution(precision="bf16", memory_format="channels_last")
    found = measure({"a": clock.model("a", lambda now: 0.1)}, batch_size=3, image_size=(8, 12), execution=execution)[
        "a"
    ]
    assert (found.batch_size, found.image_size) == (3, (8, 12))
    assert (found.precision, found.memory_format, found.mode) == ("bf16", "channels_last", "eager")
    assert (found.attention_path, found.folded) == ("not known", True)
    assert (found.load_average_before, found.load_average_after) == (0.5, 1.5)
    assert (found.cpu_hz_before, found.cpu_hz_after) == (3e9, 2e9)


class Eye(nn.Module):
    """Reports what it was called with."""

    def __init__(self, seen):
        super().__init__()
        self.see = seen.append

    def forward(self, x):
        self.see(x.clone())
        return x


def test_all_models_see_the_same_images():
    seen_a, seen_b = [], []
    measure({"a": Eye(seen_a), "b": Eye(seen_b)}, min_rounds=2, max_rounds=2)
    first = seen_a[0]
    assert first.shape == (4, 3, 8, 8)
    assert (first.dtype, first.is_contiguous()) == (torch.float32, True)
    assert all(torch.equal(x, first) for x in seen_a[::50] + seen_b[::50])


def test_models_may_differ_in_image_size():
    seen_a, seen_b = [], []
    sizes = {"a": (4, 6), "b": (8, 8)}
    found = measure({"a": Eye(seen_a), "b": Eye(seen_b)}, image_size=sizes, min_rounds=2, max_rounds=2)
    assert (seen_a[-1].shape, seen_b[-1].shape) == ((4, 3, 4, 6), (4, 3, 8, 8))
    assert {name: one.image_size for name, one in found.items()} == sizes


@pytest.mark.parametrize("fold", [True, False])
def test_batchnorm_is_folded_where_asked(fold):
    kinds = set()

    class Named(nn.BatchNorm2d):
        def forward(self, x):
            kinds.add("BatchNorm")
            return super().forward(x)

    model = nn.Sequential(ConvNorm(nn.Conv2d(3, 4, 1), Named(4)))
    execution = Execution(fold=fold)
    found = measure({"a": model}, execution=execution, min_rounds=2, max_rounds=2)["a"]
    assert found.folded is fold
    assert kinds == (set() if fold else {"BatchNorm"})


def test_four_times_the_work_takes_longer():
    def linears(count):
        return nn.Sequential(nn.Flatten(), *(nn.Linear(768, 768) for _ in range(count)))

    found = measure({"small": linears(2), "large": linears(8)}, batch_size=64, image_size=16, max_rounds=10)
    assert 0.1 < found["large"].ratio < 0.7
    assert found["small"].images_per_second > found["large"].images_per_second > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"models": {}}, r"models must name at least one model, but got models={}"),
        ({"references": {"a": "b"}}, r"references must name models among a, but got \['b'\]"),
        ({"references": {"c": "a"}}, r"references must name models among a, but got \['c'\]"),
        ({"batch_size": 0}, r"batch_size must be at least 1, but got batch_size=0"),
        ({"image_size": 0}, r"image_size must be at least 1 pixel a side, but got image_size=0"),
        ({"half_width": 0.0}, r"half_width must be above 0, but got self.half_width=0.0"),
        ({"half_width": float("nan")}, r"half_width must be above 0, but got self.half_width=nan"),
        ({"time_limit_s": 0.0}, r"time_limit_s must be above 0, but got self.time_limit_s=0.0"),
        (
            {"min_rounds": 1},
            r"min_rounds must be at least 2 and at most max_rounds, but got self.min_rounds=1",
        ),
        ({"min_rounds": 9, "max_rounds": 8}, r"but got self.min_rounds=9 and self.max_rounds=8"),
        ({"device": "gpu"}, r"device must be cpu, cuda or cuda:N, but got name='gpu'"),
    ],
)
def test_bad_settings_are_refused(options, message):
    settings = {"models": {"a": nn.Flatten()}, "batch_size": 1, "image_size": 4} | options
    with pytest.raises(ValueError, match=message):
        measure_throughput(**settings)


class Hungry(nn.Module):
    """Runs out of memory at its nth call."""

    def __init__(self, calls):
        super().__init__()
        self.left = iter(range(calls - 1, -1, -1)).__next__

    def __deepcopy__(self, memo):
        return self

    def forward(self, x):
        if self.left() == 0:
            raise torch.OutOfMemoryError("tried to allocate")
        return x


@pytest.mark.parametrize("calls", [1, 5])  # in the warm-up, and after
def test_an_error_keeps_its_type_and_names_the_model(monkeypatch, calls):
    monkeypatch.setattr(throughput, "WARMUP_SECONDS", 0.0)
    with pytest.raises(torch.OutOfMemoryError, match=r"^hungry: tried to allocate$"):
        measure({"flat": nn.Flatten(), "hungry": Hungry(calls)})
    with pytest.raises(RuntimeError, match=r"^grey: Given groups=1, weight of size \[1, 1, 1, 1\]"):
        measure({"flat": nn.Flatten(), "grey": nn.Conv2d(1, 1, 1)})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mode", ["eager", "traced"])
def test_times_on_a_gpu(mode):
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3))
    execution = Execution(mode=mode, precision="fp16")
    found = measure(
        {"a": model, "b": model}, device="cuda", execution=execution, min_rounds=20, image_size=224, batch_size=64
    )
    assert isinstance(found["a"], Throughput)
    assert found["a"].images_per_second > 0
    assert found["b"].ratio == pytest.approx(1, abs=0.1)
    assert found["a"].linear_library == "cuBLAS"
    assert next(model.parameters()).device.type == "cpu"
