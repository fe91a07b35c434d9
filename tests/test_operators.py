"""Operators: counted by hand on toys, complete on every network, with no time counted twice."""

import numpy as np
import pytest
import torch
from torch import nn

import evitlab
from evitlab.measure import operators
from evitlab.measure.operators import (
    MEMORY_BOUND,
    OPERATOR_CLASSES,
    classify,
    memory_bound_share,
    profile_operators,
)
from evitlab.models.attention import attention_path
from evitlab.models.zoo import ZOO


@pytest.fixture(autouse=True)
def one_thread():
    """Threads that wait for one another on a busy machine take longer than the work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def profile(model, **options):
    return profile_operators(model, **({"batch_size": 2, "image_size": 16, "repeats": 3} | options))


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.LayerNorm(8)
        self.widen = nn.Linear(8, 32)
        self.narrow = nn.Linear(32, 8)

    def forward(self, x):
        x = self.stem(x).flatten(2).transpose(1, 2)
        for _ in range(3):
            x = x + self.narrow(self.widen(self.norm(x)).relu())
        return x.softmax(-1)


def test_calls_are_those_of_one_pass():
    found = {time.operator: time for time in profile(Toy()).operators}
    by_hand = {
        "aten::conv2d": 1,
        "aten::flatten": 1,
        "aten::layer_norm": 3,
        "aten::linear": 6,
        "aten::relu": 3,
        "aten::add": 3,
        "aten::softmax": 1,
    }
    assert {name: found[name].calls for name in by_hand} == by_hand


def test_parts_add_up():
    found = profile(Toy(), repeats=5)
    assert set(found.seconds_by_class) == {*OPERATOR_CLASSES, "other"}
    assert all(0 < share < 1 for share in found.memory_bound_shares)
    assert len(found.memory_bound_shares) == 5
    assert found.memory_bound_share == np.median(found.memory_bound_shares)
    assert found.memory_bound_share_low <= found.memory_bound_share <= found.memory_bound_share_high
    # Medians of parts need not add up to the median of the sum: bounds, not equality.
    assert sum(found.seconds_by_class.values()) == pytest.approx(found.profiled_seconds, rel=0.5)
    seconds = [time.seconds for time in found.operators]
    assert seconds == sorted(seconds, reverse=True)
    assert found.wall_seconds > 0


def test_shares_of_a_pass_by_hand():
    a_pass = {"aten::copy_": (2, 1.0), "aten::add": (1, 2.0), "aten::bmm": (1, 4.0), "mystery::op": (1, 1.0)}
    assert memory_bound_share(a_pass) == (1 + 2) / 8
    other_pass = {"aten::copy_": (2, 3.0), "aten::add": (1, 2.0), "aten::bmm": (1, 3.0)}
    third = {"aten::copy_": (2, 2.0), "aten::add": (1, 1.0), "aten::bmm": (1, 9.0)}
    passes = [a_pass, other_pass, third]
    by_class = operators._median_by_class(passes)
    assert {name: seconds for name, seconds in by_class.items() if seconds} == {
        "reshape and copy": 2.0,
        "element-wise": 2.0,
        "matrix product": 4.0,
    }
    times = operators._median_by_operator(passes)
    assert [(time.operator, time.calls, time.seconds) for time in times] == [
        ("aten::bmm", 1, 4.0),
        ("aten::copy_", 2, 2.0),
        ("aten::add", 1, 2.0),
        ("mystery::op", 1, 0.0),
    ]


def test_self_time_leaves_out_what_an_operator_calls():
    # `linear` only calls `addmm`: counted with its children it would take as long.
    model = nn.Sequential(nn.Flatten(), *(nn.Linear(768, 768) for _ in range(4)))
    found = {time.operator: time.seconds for time in profile(model, batch_size=256).operators}
    assert found["aten::linear"] < 0.5 * found["aten::addmm"]


def test_linear_layers_are_matrix_products():
    found = profile(nn.Sequential(nn.Flatten(), *(nn.Linear(768, 768) for _ in range(4))), batch_size=256)
    assert found.seconds_by_class["matrix product"] > 0.9 * found.profiled_seconds
    assert found.memory_bound_share < 0.1


def test_convolutions_are_convolutions():
    found = profile(nn.Sequential(nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3)), image_size=64, batch_size=8)
    assert found.seconds_by_class["convolution"] > 0.9 * found.profiled_seconds


class ElementWise(nn.Module):
    def forward(self, x):
        for _ in range(5):
            x = nn.functional.gelu(x + 1.0).mul_(2.0)
        return x.permute(0, 2, 3, 1).contiguous()


def test_element_wise_operators_are_memory_bound():
    found = profile(ElementWise(), image_size=64)
    assert found.memory_bound_share > 0.99
    assert found.seconds_by_class["element-wise"] > found.seconds_by_class["reshape and copy"] > 0


def test_classes_are_disjoint_and_know_in_place_operators():
    names = [name for members in OPERATOR_CLASSES.values() for name in members]
    assert len(names) == len(set(names))
    assert set(MEMORY_BOUND) < set(OPERATOR_CLASSES)
    assert classify("aten::relu_") == classify("aten::relu") == "element-wise"
    assert classify("aten::erfinv") == classify("my::relu_relu") == "other"


def test_every_name_is_an_operator_of_torch():
    known = {schema.name.split("::")[-1] for schema in torch._C._jit_get_all_schemas()}
    names = {name for members in OPERATOR_CLASSES.values() for name in members}
    assert {name for name in names if not {name, f"{name}_"} & known} == set()


@pytest.mark.parametrize(
    ("name", "fold", "path"),
    [(name, False, "explicit") for name in ZOO]
    + [(name, True, "fused") for name in ("deit_t", "swin_t", "efficientvit_m0")],
)
def test_knows_every_operator_of_every_network(name, fold, path):
    model = evitlab.create_model(name, image_size=64)
    with attention_path(model, path):
        found = profile(model, image_size=64, batch_size=1, repeats=2, fold=fold)
    assert [time.operator for time in found.operators if time.operator_class == "other"] == []
    assert found.folded is fold


def test_an_unknown_operator_is_visible():
    class Unknown(nn.Module):
        def forward(self, x):
            return torch.erfinv(x.tanh())

    found = profile(Unknown(), image_size=64)
    assert found.seconds_by_class["other"] > 0
    assert {time.operator for time in found.operators if time.operator_class == "other"} == {"aten::erfinv"}


def test_conditions_are_recorded():
    found = profile(Toy(), batch_size=3, image_size=(8, 12), fold=False)
    assert (found.batch_size, found.image_size, found.folded) == (3, (8, 12), False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repeats": 1}, "repeats must be at least 2, but got repeats=1"),
        ({"batch_size": 0}, "batch_size must be at least 1, but got batch_size=0"),
        ({"image_size": (4, 0)}, "image_size must be at least 1 pixel a side"),
        ({"device": "tpu"}, "device must be cpu, cuda or cuda:N, but got name='tpu'"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        profile(nn.Flatten(), **options)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_profiles_kernels_on_a_gpu():
    found = profile(nn.Sequential(nn.Flatten(), nn.Linear(768, 768)), batch_size=4096, device="cuda")
    assert found.seconds_by_class["matrix product"] > 0.5 * found.profiled_seconds
    assert found.profiled_seconds < 1.5 * found.wall_seconds
