"""Execution: every way to run a network gives its numbers, and says truly how it ran."""

import os
import re
import subprocess
import sys
from itertools import product

import jaxtyping
import pytest
import torch
from conftest import draw_images, make_tiny, perturb, relative_error
from torch import nn

from evitlab.environment import linear_library
from evitlab.measure.execution import OneDNNLinear, find_attention_path, prepare
from evitlab.models.network import build_model
from evitlab.models.zoo import make_config
from evitlab.settings import Execution

CPU = torch.device("cpu")
HAS_ONEDNN = torch.backends.mkldnn.is_available()
needs_onednn = pytest.mark.skipif(not HAS_ONEDNN, reason="needs a torch with oneDNN")


def build(name, **knobs):
    model = build_model(make_tiny(name, **knobs)).eval()
    perturb(model, seed=0)
    return model


@torch.inference_mode()
def run(model, images, **asked):
    return prepare(model, execution=Execution(**asked), device=CPU)(images)


@pytest.fixture
def shapes_unchecked():
    """While torch traces, sizes are tensors, which the checks of types and shapes in these tests refuse."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def models():
    return {name: build(name) for name in ("deit_t", "swin_t", "efficientvit_m0")}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deit_t", "swin_t", "efficientvit_m0"])
@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"fold": False},
        {"memory_format": "channels_last"},
        pytest.param({"linear": "onednn"}, marks=needs_onednn),
        pytest.param({"linear": "onednn", "memory_format": "channels_last"}, marks=needs_onednn),
        {"mode": "traced"},
        {"mode": "traced", "memory_format": "channels_last"},
    ],
)
@pytest.mark.usefixtures("shapes_unchecked")
@torch.inference_mode()
def test_the_numbers_stay(models, name, asked):
    model = models[name]
    prepared = prepare(model, execution=Execution(**asked), device=CPU)
    for count in (2, 3):  # a trace keeps the batch size of its images
        images = draw_images(count, 64, 64)
        assert relative_error(prepared(images), model(images)) < 1e-5


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
@pytest.mark.parametrize("mode", ["eager", "traced"])
def test_low_precision_is_autocast(models, precision, dtype, mode):
    model, images = models["deit_t"], draw_images(2, 64, 64)
    with torch.inference_mode(), torch.autocast("cpu", dtype=dtype):
        expected = model(images)
    found = run(model, images, precision=precision, mode=mode)
    assert found.dtype == expected.dtype == dtype
    assert relative_error(found.float(), expected.float()) < 0.02
    assert not torch.is_autocast_enabled("cpu")
    assert all(p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "error"), [("fp32", 1e-5), ("bf16", 0.05)])
def test_compiled_numbers_stay(models, precision, error):
    model = models["swin_t"]
    for count in (2, 3):
        images = draw_images(count, 64, 64)
        with torch.inference_mode():
            expected = model(images)
        found = run(model, images, precision=precision, mode="compiled")
        assert relative_error(found.float(), expected) < error


@pytest.mark.slow
def test_every_size_and_every_network_is_compiled():
    """torch itself compiles eight of one class, and runs the rest eagerly with no more than a warning."""
    from torch._dynamo.utils import counters

    def graphs():
        return counters["stats"]["unique_graphs"]

    torch.compiler.reset()
    counters.clear()
    with torch.inference_mode():
        first, *others = (
            prepare(nn.Conv2d(3, 2 + n, 1), execution=Execution(mode="compiled"), device=CPU) for n in range(10)
        )
        for count in range(2, 14):
            first(torch.ones(count, 3, 4, 4))
        assert graphs() == 12
        for other in others:
            other(torch.ones(2, 3, 4, 4))
        assert graphs() == 12 + 9


NO_COMPILER = """
import torch
from torch import nn
from evitlab.environment import linear_library
from evitlab.measure.execution import prepare
from evitlab.problems import UserError
from evitlab.settings import Execution

prepared = prepare(nn.GELU(), execution=Execution(mode="compiled"), device=torch.device("cpu"))
try:
    prepared(torch.ones(2, 3))
except UserError as error:
    print(error)
"""


@pytest.mark.slow
def test_says_when_there_is_no_compiler(tmp_path):
    # In a process of its own: torch looks for a compiler once. An empty cache: what was compiled before needs none.
    variables = os.environ | {"CXX": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", NO_COMPILER], capture_output=True, text=True, env=variables, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.match(r"mode must be eager or traced where torch.compile fails, but got reason=.*compiler", done.stdout)


@needs_onednn
def test_onednn_runs_every_linear_layer_and_nothing_else():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    plain = nn.Linear(4, 4)
    model = nn.Sequential(plain, nn.Sequential(Doubled(4, 4), nn.Linear(4, 2, bias=False)))
    prepared = prepare(model, execution=Execution(linear="onednn"), device=CPU)
    kinds = [type(module) for module in prepared.model.modules() if isinstance(module, nn.Linear)]
    assert kinds == [OneDNNLinear, Doubled, OneDNNLinear]
    assert type(plain) is nn.Linear
    with torch.inference_mode():
        for shape in [(4,), (3, 4), (2, 3, 4), (2, 1, 3, 4), (0, 4)]:
            x = torch.randn(shape)
            torch.testing.assert_close(prepared.model(x), model(x))
        x = torch.randn(2, 4, 3).mT
        torch.testing.assert_close(prepared.model(x), model(x))


@needs_onednn
@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"precision": "bf16"}, r"linear must be torch unless precision is fp32, but got execution.precision='bf16'"),
        ({"mode": "traced"}, r"linear must be torch unless mode is eager, but got execution.mode='traced'"),
        ({"mode": "compiled"}, r"linear must be torch unless mode is eager, but got execution.mode='compiled'"),
    ],
)
def test_onednn_is_refused_where_it_would_not_run(asked, message):
    with pytest.raises(ValueError, match=message):
        prepare(nn.Linear(2, 2), execution=Execution(linear="onednn", **asked), device=CPU)


@pytest.mark.parametrize(("device", "available"), [("cuda", True), ("cpu", False)])
def test_onednn_is_refused_where_it_is_not(monkeypatch, device, available):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: available)
    with pytest.raises(ValueError, match="linear must be torch except on a CPU with oneDNN, but got"):
        prepare(nn.Linear(2, 2), execution=Execution(linear="onednn"), device=torch.device(device))


def test_says_how_it_runs(models):
    asked = Execution(precision="bf16", memory_format="channels_last", mode="traced", fold=False)
    prepared = prepare(models["efficientvit_m0"], execution=asked, device=CPU)
    assert prepared.conditions == {
        "precision": "bf16",
        "memory_format": "channels_last",
        "mode": "traced",
        "folded": False,
        "linear_library": linear_library(CPU, "torch", precision="bf16"),
        "attention_path": "explicit",
    }
    assert prepare(models["efficientvit_m0"], execution=Execution(), device=CPU).folded
    without_batchnorm = prepare(models["deit_t"], execution=Execution(fold=False), device=CPU)
    assert not without_batchnorm.folded


def test_a_trace_holds_no_casts(models, monkeypatch):
    """They come with the call, as in the official speed test."""
    casting, trace = [], torch.jit.trace

    def spy(*arguments, **options):
        casting.append(torch.is_autocast_enabled("cpu"))
        return trace(*arguments, **options)

    monkeypatch.setattr(torch.jit, "trace", spy)
    run(models["deit_t"], draw_images(2, 64, 64), mode="traced", precision="bf16")
    assert casting == [False]


def test_layout_is_that_of_weights_and_images(models):
    for name, torch_format in (("contiguous", torch.contiguous_format), ("channels_last", torch.channels_last)):
        prepared = prepare(models["efficientvit_m0"], execution=Execution(memory_format=name), device=CPU)
        images = prepared.draw_images(batch_size=2, image_size=(8, 6), seed=0)
        weights = [p for p in prepared.model.parameters() if p.ndim == 4]
        assert weights
        assert all(t.is_contiguous(memory_format=torch_format) for t in (images, *weights))
        assert images.shape == (2, 3, 8, 6)
    seen = torch.randn(2, 3, 8, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(images, seen)


def test_attention_path_is_the_networks():
    explicit, fused = build("deit_t", attention_path="explicit"), build("deit_t", attention_path="fused")
    assert find_attention_path(explicit) == "explicit"
    assert find_attention_path(fused) == "fused"
    assert find_attention_path(nn.Sequential(explicit, fused)) == "fused and explicit"
    assert find_attention_path(build_model(make_config("deit_t", depth=1, width=24, mhsa_ratio=0.0))) == "none"
    assert find_attention_path(nn.Linear(2, 2)) == "not known"


@pytest.mark.parametrize(("mode", "precision"), [*product(["eager", "traced"], ["fp32", "bf16"])])
def test_the_model_stays_as_it_was(mode, precision):
    model = build("efficientvit_m0").train()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    run(model, draw_images(2, 64, 64), mode=mode, precision=precision, memory_format="channels_last")
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert all(p.is_contiguous() for p in model.parameters())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mode", ["eager", "traced", "compiled"])
def test_runs_on_a_gpu(models, mode):
    model, device = models["efficientvit_m0"], torch.device("cuda", 0)
    prepared = prepare(model, execution=Execution(mode=mode, precision="fp16"), device=device)
    images = prepared.draw_images(batch_size=2, image_size=64, seed=0)
    with torch.inference_mode():
        assert relative_error(prepared(images).float().cpu(), model(images.cpu())) < 0.05
    assert prepared.linear_library == "cuBLAS"
