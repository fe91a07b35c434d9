"""Stochastic depth against the linear rule, timm's own networks and expectations."""

import subprocess
import sys
from collections.abc import Callable

import pytest
import timm
import torch
from conftest import draw_images, perturb
from scipy import stats
from timm.layers import DropPath
from torch import Tensor, nn

from evitlab.models.config import ModelConfig
from evitlab.models.layers import Residual
from evitlab.models.network import Network, build_model
from evitlab.problems import UserError
from evitlab.train.stochastic_depth import drop_branches


class Chain(nn.Module):
    """Residual layers that each add one power of two: the output says which were left out."""

    def __init__(self, depth: int):
        super().__init__()
        self.layers = nn.Sequential(*(Residual(nn.Identity(), Constant(2.0**i)) for i in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Constant(nn.Module):
    """The same number whatever comes in."""

    def __init__(self, value: float):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.value.expand(x.shape)


def count_hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def fail_inside(model: nn.Module, rate: float, look: Callable[[], object]) -> None:
    """An error that tells what was to be seen inside."""
    with drop_branches(model, rate):
        raise RuntimeError(f"inside {look() or 'nothing'}")


def record_branches(model: nn.Module, images: Tensor) -> list[Tensor]:
    """For every residual layer, whether an image's branch was left out (True) in a forward pass."""
    left_out = []

    def note(module: Residual, inputs: tuple[Tensor], output: Tensor) -> None:
        left_out.append((output == inputs[0]).flatten(1).all(1))

    handles = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, Residual)]
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    return left_out


@pytest.fixture
def network(tiny_config: ModelConfig) -> Network:
    model = build_model(tiny_config)
    perturb(model, seed=1)
    return model


@pytest.mark.slow
def test_rates_rise_in_a_line_from_none_to_the_rate(network: Network):
    """Layer by layer, counted over many images; a dropped branch adds exactly nothing."""
    network.train()
    images = draw_images(500, 64, 64)
    with drop_branches(network, 0.6):
        counts = [int(each.sum()) for each in record_branches(network, images)]
    last = len(counts) - 1
    assert last >= 3
    for index, count in enumerate(counts):
        low, high = stats.binom.interval(0.99999, 500, 0.6 * index / last)
        assert low <= count <= high, index
    assert counts[0] == 0


def test_images_and_layers_are_left_out_apart_and_the_kept_ones_make_up_for_it():
    model, rate, count = Chain(3), 0.5, 20000
    zeros = torch.zeros(count, 1, dtype=torch.float64)
    with drop_branches(model, rate):
        outputs = model(zeros).flatten()
    # the first layer always adds 1, the second 2 / 0.75 or nothing, the third 4 / 0.5 or nothing
    possible = {1 + two * 2 / 0.75 + three * 4 / 0.5: (two, three) for two in (0, 1) for three in (0, 1)}
    assert set(outputs.unique().tolist()) == set(possible)
    for value, (two, _) in possible.items():
        low, high = stats.binom.interval(0.9999, count, (0.75 if two else 0.25) * 0.5)
        assert low <= int((outputs == value).sum()) <= high, value
    assert outputs.mean().item() == pytest.approx(7, abs=5 * outputs.std().item() / count**0.5)
    assert torch.equal(model.eval()(zeros[:1]), torch.full((1, 1), 7.0, dtype=torch.float64))


def test_gradients_of_what_is_left_out_are_zero_and_of_what_is_kept_divided():
    model = Chain(2)
    with drop_branches(model, 0.5):
        outputs = model(torch.zeros(64, 1, dtype=torch.float64))
    outputs.sum().backward()
    last = model.layers[1].branch.value
    kept = int((outputs > 1).sum())
    assert 0 < kept < 64
    assert last.grad.item() == kept / 0.5
    assert model.layers[0].branch.value.grad.item() == 64


@pytest.mark.parametrize("mode", ["eval", "rate 0"])
def test_nothing_changes_in_eval_mode_or_at_rate_zero(network: Network, mode: str):
    images = draw_images(4, 64, 64)
    network.train(mode == "rate 0")
    before = [buffer.clone() for buffer in network.buffers()]
    expected = network(images)
    for buffer, old in zip(network.buffers(), before, strict=True):
        buffer.copy_(old)
    with drop_branches(network, 0.0 if mode == "rate 0" else 0.9):
        assert torch.equal(network(images), expected)


def test_modes_may_change_inside():
    model = Chain(3)
    zeros = torch.zeros(200, 1, dtype=torch.float64)
    with drop_branches(model, 0.5):
        assert len(model.eval()(zeros).unique()) == 1
        assert len(model.train()(zeros).unique()) > 1


def test_everything_is_as_before_also_after_an_error(network: Network):
    network.train()
    with pytest.raises(RuntimeError, match=r"inside \d+"):
        fail_inside(network, 0.9, lambda: count_hooks(network))
    assert count_hooks(network) == 0
    assert not any(each.any() for each in record_branches(network, draw_images(8, 64, 64)))


def test_torchs_seed_decides():
    model = Chain(4)
    zeros = torch.zeros(50, 1, dtype=torch.float64)

    def run(seed: int) -> Tensor:
        torch.manual_seed(seed)
        with drop_branches(model, 0.5):
            return model(zeros)

    assert torch.equal(run(3), run(3))
    assert not torch.equal(run(3), run(4))


def test_a_single_residual_layer_has_the_rate():
    model = Chain(1)
    with drop_branches(model, 0.5):
        assert model(torch.zeros(200, 1, dtype=torch.float64)).unique().tolist() == [0.0, 2.0]


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "convnext_atto", "levit_128s"])
@pytest.mark.parametrize("made_with", [0.05, 0.4])
def test_timms_networks_get_the_rates_that_timm_gives_them(name: str, made_with: float):
    model = timm.create_model(name, drop_path_rate=made_with)
    reference = timm.create_model(name, drop_path_rate=0.2)
    rates, expected = ([m.drop_prob for m in net.modules() if isinstance(m, DropPath)] for net in (model, reference))
    assert expected
    with drop_branches(model, 0.2):
        inside = [m.drop_prob for m in model.modules() if isinstance(m, DropPath)]
    assert inside == pytest.approx(expected, abs=1e-7)
    assert [m.drop_prob for m in model.modules() if isinstance(m, DropPath)] == rates


def test_timms_rates_come_back_after_an_error():
    model = nn.Sequential(DropPath(0.1), DropPath(0.3))
    with pytest.raises(RuntimeError, match=r"inside 0\.2, 0\.6"):
        fail_inside(model, 0.6, lambda: ", ".join(f"{path.drop_prob:.1f}" for path in model))
    assert [path.drop_prob for path in model] == [0.1, 0.3]


def test_timms_modules_without_a_rate_get_a_rising_one():
    model = nn.Sequential(DropPath(), DropPath(), DropPath())
    with drop_branches(model, 0.4):
        assert [path.drop_prob for path in model] == pytest.approx([0.0, 0.2, 0.4])


@pytest.mark.parametrize("make", [lambda: nn.Linear(3, 3), lambda: timm.create_model("test_vit")])
def test_a_network_without_branches_to_drop_is_refused(make: Callable[[], nn.Module]):
    with pytest.raises(UserError, match=r"stochastic depth of 0\.1 needs .* drop_path_rate above 0"):
        drop_branches(make(), 0.1).__enter__()
    with drop_branches(make(), 0.0):
        pass


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_rates_out_of_range_are_refused(rate: float):
    with pytest.raises(ValueError, match=r"rate must be at least 0 and less than 1, but got rate="):
        drop_branches(Chain(2), rate).__enter__()


COMPILED = """
import torch
from evitlab import create_model
from evitlab.train.stochastic_depth import drop_branches

torch.manual_seed(0)
model = create_model("deit_t", depth=2, image_size=32, num_classes=5)
for parameter in model.parameters():
    torch.nn.init.normal_(parameter, std=0.1)
images = torch.randn(8, 3, 32, 32)
with drop_branches(model, 0.9):
    compiled = torch.compile(model, backend="aot_eager")
    assert not torch.allclose(compiled(images), compiled(images))
    model.eval()
    torch.testing.assert_close(compiled(images), model(images))
    model.train()
    assert not torch.allclose(compiled(images), compiled(images))
assert torch.equal(compiled(images), compiled(images))
"""


@pytest.mark.slow
def test_compiled_networks_drop_too():
    """In a process of its own: here, the shapes that are checked in tests would be compiled as well."""
    subprocess.run([sys.executable, "-c", COMPILED], check=True)
