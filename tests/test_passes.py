"""Passes: self times of event trees built by hand, on a processor and on an accelerator."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
from torch.autograd.profiler_util import FunctionEvent

from evitlab.measure import passes
from evitlab.measure.passes import PlainPass, ProfiledPass, keep_middle

A_PASS = ProfiledPass(
    wall=10.0,
    calls=(
        ("aten::reshape", {"reshape and copy": 1.0}),
        ("aten::linear", {"matrix product": 4.0, "reshape and copy": 1.0}),
        ("aten::add", {"element-wise": 2.0}),
    ),
)


def event(name, start, end, *children, kernel=None):
    """An event that lasted from start to end, in microseconds, and launched a kernel of some length."""
    made = FunctionEvent(id=0, node_id=0, name=name, thread=0, start_us=start, end_us=end, use_device="cuda")
    for child in children:
        made.append_cpu_child(child)
    if kernel is not None:
        made.append_kernel("kernel", 0, kernel)
    return made


def test_self_times_by_class():
    product = event("aten::linear", 0, 100, event("aten::t", 0, 10), event("aten::addmm", 20, 90, event("x", 30, 40)))
    assert passes._seconds_by_class(product, on_gpu=False) == pytest.approx(
        {"matrix product": 90e-6, "reshape and copy": 10e-6}  # what is no operator belongs to its caller
    )


def test_two_below_of_one_class_add_up():
    product = event("aten::linear", 0, 100, event("aten::t", 0, 10), event("aten::view", 20, 50))
    assert passes._seconds_by_class(product, on_gpu=False)["reshape and copy"] == pytest.approx(40e-6)


def test_kernels_count_for_the_operator_that_launched_them():
    launch = event("cudaLaunchKernel", 30, 40)
    product = event(
        "aten::linear", 0, 100, event("aten::copy_", 0, 10, kernel=7), event("aten::addmm", 20, 90, launch, kernel=300)
    )
    assert passes._seconds_by_class(product, on_gpu=True) == pytest.approx(
        {"matrix product": 300e-6, "reshape and copy": 7e-6}
    )


def test_shares_of_a_pass_by_hand():
    assert A_PASS.memory_bound_share == (1 + 1 + 2) / 8
    assert {name: value for name, value in A_PASS.by_class.items() if value} == {
        "reshape and copy": 2.0,
        "matrix product": 4.0,
        "element-wise": 2.0,
    }


def test_the_middle_pairs_count():
    profiled = [replace(A_PASS, wall=wall) for wall in [5.0, 1.0, 9.0, 3.0, 4.0, 2.0, 8.0, 7.0, 6.0]]
    plain = [PlainPass(wall=wall, page_faults=0) for wall in [5.0, 9.5, 9.0, 3.0, 4.0, 2.0, 8.0, 7.0, 6.0]]
    slow, fast = keep_middle(profiled, plain)  # the sums, sorted: 4, 6, 8, 10, 10.5, 12, 14, 16, 18
    assert [each.wall for each in slow] == [4, 5, 1, 6, 7]
    assert [each.wall for each in fast] == [4, 5, 9.5, 6, 7]
    assert [len(side) for side in keep_middle(profiled[:2], plain[:2])] == [2, 2]


QUIET = """
import torch
from evitlab.measure import passes
with passes.quiet_profiler():
    passes.profile_pass(torch.nn.Linear(2, 2), torch.zeros(1, 2))
"""


@pytest.mark.slow
def test_the_profiler_says_nothing_where_no_one_has_asked_for_its_log():
    environment = {name: value for name, value in os.environ.items() if name != "KINETO_LOG_LEVEL"}
    done = subprocess.run([sys.executable, "-c", QUIET], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
