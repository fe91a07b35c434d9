"""Throughput: on a clock of our own, where every number is known, and loosely on the real one."""

from collections import Counter
from itertools import islice
from math import sin

import numpy as np
import pytest
import torch
from torch import nn

from evitlab.measure import throughput
from evitlab.measure.throughput import measure_throughput, round_orders
from evitlab.models.layers import ConvNorm


@pytest.fixture(autouse=True)
def one_thread():
    """Threads that wait for one another on a busy machine take longer than the work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Clock:
    """A clock that only the models under test move."""

    def __init__(self):
        self.now = 1000.0
        self.calls = []

    def model(self, name, cost):
        """A model whose forward pass takes `cost(now)` seconds."""

        def spend():  # copying a model does not copy a function, so all copies share this clock
            self.calls.append(name)
            self.now += cost(self.now)

        return Spender(spend)


class Spender(nn.Module):
    def __init__(self, spend):
        super().__init__()
        self.spend = spend

    def forward(self, x):
        assert not self.training
        assert torch.is_inference_mode_enabled()
        self.spend()
        return x


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(throughput, "perf_counter", lambda: clock.now)
    return clock


def measure(models, **options):
    settings = {"batch_size": 4, "image_size": 8, "time_limit_s": 1e9} | options
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


def test_a_repeat_lasts_long_enough(clock):
    found = measure({"a": clock.model("a", lambda now: 0.008), "b": clock.model("b", lambda now: 0.2)}, max_rounds=10)
    assert found["a"].calls_per_repeat == 7  # 0.05 s / 0.008 s = 6.25
    assert found["b"].calls_per_repeat == 1
    assert found["a"].seconds == pytest.approx([0.008] * 10)
    # 0.25 s / 0.008 s = 31.25, and at least 3 calls
    assert (found["a"].warmup_calls, found["b"].warmup_calls) == (32, 3)
    assert Counter(clock.calls) == {"a": 32 + 10 * 7, "b": 3 + 10}


def test_one_slow_warm_up_call_does_not_shorten_the_repeats(clock):
    costs = iter([0.1, 0.011, 0.2])
    found = measure({"a": clock.model("a", lambda now: next(costs, 0.011))}, max_rounds=10)["a"]
    assert (found.warmup_calls, found.calls_per_repeat) == (3, 5)


def test_every_round_times_each_model_once_in_a_new_order(clock):
    models = {name: clock.model(name, lambda now: 0.1) for name in "abc"}
    measure(models, min_rounds=60, max_rounds=60, seed=1)
    timed = clock.calls[3 * 3 :]
    rounds = [tuple(timed[i : i + 3]) for i in range(0, len(timed), 3)]
    assert len(rounds) == 60
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds)
    assert len(set(rounds)) == 6
    assert rounds == [tuple(order) for order in islice(round_orders(list("abc"), seed=1), 60)]


def test_orders_are_balanced_and_follow_the_seed():
    orders = list(islice(round_orders(["a", "b", "c", "d"], seed=0), 4000))
    first = Counter(order[0] for order in orders)
    assert all(count == pytest.approx(1000, abs=120) for count in first.values())  # four standard deviations
    assert orders == list(islice(round_orders(["a", "b", "c", "d"], seed=0), 4000))
    assert orders != list(islice(round_orders(["a", "b", "c", "d"], seed=1), 4000))


def noisy_pair(clock):
    noise = np.random.default_rng(0)
    return {name: clock.model(name, lambda now: noise.lognormal(sigma=0.3)) for name in "ab"}


def test_stops_when_the_ratio_is_known_well_enough(clock):
    rough = measure(noisy_pair(clock), half_width=0.2, max_rounds=2000)["b"]
    exact = measure(noisy_pair(clock), half_width=0.05, max_rounds=2000)["b"]
    assert 10 <= len(rough.seconds) < len(exact.seconds) < 2000
    for found, half_width in ((rough, 0.2), (exact, 0.05)):
        assert (found.ratio_high - found.ratio_low) / 2 / found.ratio <= half_width


def test_every_ratio_must_be_known(clock):
    noise = np.random.default_rng(0)
    models = {
        "a": clock.model("a", lambda now: 1.0),
        "steady": clock.model("steady", lambda now: 1.0),
        "noisy": clock.model("noisy", lambda now: noise.lognormal(sigma=0.3)),
    }
    found = measure(models, half_width=0.05, max_rounds=1000)
    assert len({len(one.seconds) for one in found.values()}) == 1
    assert len(found["steady"].seconds) > 10
    assert (found["noisy"].ratio_high - found["noisy"].ratio_low) / 2 / found["noisy"].ratio <= 0.05


def test_one_model_stops_on_its_own_median(clock):
    noise = np.random.default_rng(0)
    found = measure({"a": clock.model("a", lambda now: noise.lognormal(sigma=0.3))}, half_width=0.05, max_rounds=1000)
    assert 10 < len(found["a"].seconds) < 1000


def test_limits_on_rounds_and_time(clock):
    assert len(measure(noisy_pair(clock), half_width=1e-6, max_rounds=23)["a"].seconds) == 23
    steady = {name: clock.model(name, lambda now: 1.0) for name in "ab"}
    assert len(measure(steady, half_width=1e-9, min_rounds=12)["a"].seconds) == 15  # it looks every fifth round
    noisy = measure(noisy_pair(clock), half_width=1e-6, min_rounds=2, max_rounds=1000, time_limit_s=100.0)
    assert 35 <= len(noisy["a"].seconds) <= 65  # 100 s of rounds that take about 2 s
    assert len(measure(noisy_pair(clock), min_rounds=8, time_limit_s=0.1)["a"].seconds) == 8


@pytest.mark.parametrize("limits", [{"time_limit_s": 1e9}, {"time_limit_s": 30.0}, {"half_width": 10.0}])
def test_progress_rises_to_one(clock, limits):
    heard = []
    found = measure(noisy_pair(clock), **({"half_width": 1e-6, "max_rounds": 40} | limits), on_progress=heard.append)
    assert len(heard) == len(found["a"].seconds)
    assert heard == sorted(heard)
    assert heard[-1] == 1.0
    assert 0 < heard[0] < 1


def test_conditions_are_recorded(clock, monkeypatch):
    loads = iter([0.5, 1.5])
    monkeypatch.setattr(throughput, "load_average", lambda: next(loads))
    found = measure({"a": clock.model("a", lambda now: 0.1)}, batch_size=3, image_size=(8, 12))["a"]
    assert (found.batch_size, found.image_size) == (3, (8, 12))
    assert (found.precision, found.memory_format, found.execution) == ("fp32", "contiguous", "eager")
    assert (found.load_average_before, found.load_average_after) == (0.5, 1.5)


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


@pytest.mark.parametrize("fold", [True, False])
def test_batchnorm_is_folded_where_asked(fold):
    kinds = set()

    class Named(nn.BatchNorm2d):
        def forward(self, x):
            kinds.add("BatchNorm")
            return super().forward(x)

    model = nn.Sequential(ConvNorm(nn.Conv2d(3, 4, 1), Named(4)))
    found = measure({"a": model}, fold=fold, min_rounds=2, max_rounds=2)["a"]
    assert found.folded is fold
    assert kinds == (set() if fold else {"BatchNorm"})
    foreign = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    assert measure({"a": foreign}, fold=fold, min_rounds=2, max_rounds=2)["a"].folded is False


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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_times_on_a_gpu():
    model = nn.Conv2d(3, 64, 3)
    found = measure({"a": model}, device="cuda", min_rounds=2, max_rounds=2, image_size=64)["a"]
    assert found.images_per_second > 0
    assert next(model.parameters()).device.type == "cpu"
