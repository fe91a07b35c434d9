"""Inputs of a measurement; and no measurement may change the model or the process."""

import logging
import os
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from evitlab.measure.batch_curve import measure_batch_curve
from evitlab.measure.inputs import copy_for_inference, height_and_width, is_folded, random_images
from evitlab.measure.macs import count_macs
from evitlab.measure.operators import profile_operators
from evitlab.measure.self_test import run_self_test
from evitlab.measure.throughput import measure_throughput
from evitlab.measurements.profile import Bandwidth, Peaks
from evitlab.models.layers import ConvNorm


@pytest.fixture(autouse=True)
def one_thread():
    """Threads that wait for one another on a busy machine take longer than the work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


CPU = torch.device("cpu")


def small_net():
    # Dropout draws numbers in training mode; BatchNorm counts the batches that it sees.
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(144, 2))


PEAKS = Peaks(
    precision="fp32",
    flops_per_second=1e11,
    kernels={},
    bandwidths=(Bandwidth(working_set_bytes=1 << 20, bytes_per_second=1e10),),
    seconds_per_page_fault=1e-7,
    seconds_per_dispatch=1e-6,
)

TASKS = {
    "macs": lambda model: count_macs(model, image_size=8),
    "throughput": lambda model: measure_throughput(
        {"a": model, "b": model}, batch_size=1, image_size=8, min_rounds=2, max_rounds=2
    ),
    "batch_curve": lambda model: measure_batch_curve(model, image_size=8, largest=2, time_limit_s=0.1),
    "self_test": lambda model: run_self_test(model, batch_size=1, image_size=8, runs=1, time_limit_s=0.1),
    "operators": lambda model: profile_operators(model, peaks=PEAKS, batch_size=1, image_size=8, repeats=2),
}


def state_of(model):
    return {
        "modes": [module.training for module in model.modules()],
        "tensors": {name: (t.data_ptr(), t.clone()) for name, t in model.state_dict().items()},
        "gradients": [(p.requires_grad, None if p.grad is None else p.grad.clone()) for p in model.parameters()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
    }


def state_of_process():
    logs = [logging.getLogger(name) for name in (None, "fvcore", "fvcore.nn.jit_analysis", "torch")]
    return {
        "threads": torch.get_num_threads(),
        "gradient mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        # Not Python's own generator: beartype, which checks shapes in these tests, draws from it.
        "random": (np.random.get_state(), torch.get_rng_state()),
        "logs": [(log.level, log.disabled, log.handlers, log.filters) for log in logs],
        "warnings": list(warnings.filters),
        "variables": dict(os.environ),
    }


def assert_same(before, after):
    torch.testing.assert_close(after, before, rtol=0, atol=0) if isinstance(before, torch.Tensor) else None
    if isinstance(before, dict):
        assert before.keys() == after.keys()
        for key, value in before.items():
            assert_same(value, after[key])
    elif isinstance(before, list | tuple):
        assert len(before) == len(after)
        for a, b in zip(before, after, strict=True):
            assert_same(a, b)
    elif isinstance(before, np.ndarray):
        np.testing.assert_array_equal(after, before)
    elif not isinstance(before, torch.Tensor):
        assert before == after


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_a_task_leaves_the_model_and_the_process_as_they_were(task, capfd, caplog):
    model = small_net()
    model[2].eval()  # a mixed state: training but for one module
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    model[4].weight.requires_grad_(False)
    model[0].register_forward_hook(lambda *_: None)
    before = state_of(model), state_of_process()
    TASKS[task](model)
    assert_same(before, (state_of(model), state_of_process()))
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


@pytest.mark.parametrize("task", TASKS)
def test_a_failing_forward_leaves_them_too(task):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(99, 2)).train()
    before = state_of(model), state_of_process()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        TASKS[task](model)
    assert_same(before, (state_of(model), state_of_process()))


def test_the_guard_sees_a_change():
    model = small_net()
    before = state_of(model)
    model[0].weight.data[0] += 1
    with pytest.raises(AssertionError):
        assert_same(before, state_of(model))


def test_copy_is_ready_for_inference():
    model = small_net().to(memory_format=torch.channels_last)
    copy = copy_for_inference(model, fold=False, device=CPU)
    assert not any(module.training for module in copy.modules())
    assert all(p.is_contiguous() and not p.requires_grad for p in copy.parameters())
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(copy(images), model.eval()(images))


def test_folded_where_folding_is_possible():
    ours, foreign, without = (
        nn.Sequential(ConvNorm(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))),
        small_net(),
        nn.Linear(2, 2),
    )
    for model, folded in ((ours, True), (foreign, False), (without, True)):
        assert is_folded(copy_for_inference(model, fold=True, device=CPU), model) is folded


def test_one_number_is_a_square():
    assert height_and_width(7) == (7, 7)
    assert height_and_width((7, 9)) == (7, 9)


@pytest.mark.parametrize("image_size", [0, -3, (8, 0)])
def test_refuses_images_without_pixels(image_size):
    with pytest.raises(ValueError, match="image_size must be at least 1 pixel a side, but got image_size="):
        height_and_width(image_size)


def test_random_images_depend_on_the_seed_alone():
    draw = {seed: random_images(batch_size=2, image_size=(4, 6), device=CPU, seed=seed) for seed in (0, 1)}
    torch.manual_seed(5)
    again = random_images(batch_size=2, image_size=(4, 6), device=CPU, seed=0)
    assert draw[0].shape == (2, 3, 4, 6)
    assert torch.equal(again, draw[0])
    assert not torch.equal(draw[1], draw[0])
    with pytest.raises(ValueError, match="batch_size must be at least 1, but got batch_size=0"):
        random_images(batch_size=0, image_size=4, device=CPU, seed=0)
