"""Environment: what it says is true, what it sets is set, and nothing leaks."""

import os
import platform
import random
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from evitlab import environment
from evitlab.environment import (
    cpu_hz,
    cpu_model,
    describe_environment,
    linear_library,
    load_average,
    pin_threads,
    resolve_device,
    seeded,
    tune_allocator,
)
from evitlab.problems import UserError
from evitlab.records import Environment

GLIBC = platform.libc_ver()[0] == "glibc"


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


@pytest.fixture
def bare_variables(monkeypatch):
    """No allocator settings from outside, and none made by an earlier test."""
    for name in list(os.environ):
        if name.startswith(("MALLOC_", "LD_PRELOAD", "DYLD_INSERT", "GLIBC_TUNABLES")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(environment, "_tuned", None)
    return monkeypatch


def test_describes_this_process():
    found = describe_environment()
    assert (found.device, found.threads) == ("cpu", torch.get_num_threads())
    assert (found.torch, found.python) == (torch.__version__, platform.python_version())
    assert re.fullmatch(r"[0-9a-f]{8}", found.machine)
    assert found == describe_environment()
    assert TypeAdapter(Environment).validate_json(TypeAdapter(Environment).dump_json(found)) == found


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="needs Linux to check against")
def test_cores_memory_and_processor_are_what_linux_says():
    found = describe_environment()
    kibibytes = re.search(r"^MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    assert found.memory_bytes == int(kibibytes[1]) * 1024
    assert found.cores == int(subprocess.check_output(["nproc"], env={"PATH": os.environ["PATH"]}))
    assert found.device_name in Path("/proc/cpuinfo").read_text() or platform.machine() != "x86_64"


def test_names_no_host(monkeypatch):
    monkeypatch.setattr(platform, "node", lambda: "atelier-7")
    first = describe_environment()
    monkeypatch.setattr(platform, "node", lambda: "atelier-8")
    second = describe_environment()
    assert first.machine != second.machine
    assert "atelier" not in repr(asdict(first))


def test_machines_of_one_image_differ_by_a_number_drawn_once(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "one"))
    first = describe_environment().machine
    assert describe_environment().machine == first
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "two"))
    assert describe_environment().machine != first
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))  # cannot be written to: still an answer
    assert re.fullmatch(r"[0-9a-f]{8}", describe_environment().machine)


@pytest.mark.parametrize("information", [None, "processor : 0\nFeatures : fp asimd\n"])
def test_processor_without_a_name_is_still_named(monkeypatch, information):
    def read_text(path):
        if information is None:
            raise FileNotFoundError(path)
        return information

    monkeypatch.setattr(Path, "read_text", read_text)
    monkeypatch.setattr(environment, "_run", lambda *command: None)
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert cpu_model() == "aarch64"


def git(folder, *command):
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(["git", "-C", folder, *identity, *command], capture_output=True, env=variables)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode().strip()


@pytest.fixture
def checkout(tmp_path):
    git(tmp_path, "init", "--quiet")
    (tmp_path / "code.py").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    return tmp_path


def test_commit_of_a_clean_checkout(checkout):
    assert environment._git_state(checkout) == (git(checkout, "rev-parse", "HEAD"), False)


@pytest.mark.parametrize(("path", "dirty"), [("code.py", True), ("new.py", True), ("results/a/records.jsonl", False)])
def test_results_do_not_make_a_checkout_dirty(checkout, path, dirty):
    (checkout / path).parent.mkdir(parents=True, exist_ok=True)
    (checkout / path).write_text("2")
    assert environment._git_state(checkout)[1] is dirty


def test_a_hooks_git_variables_do_not_mislead(checkout, monkeypatch, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    git(other, "init", "--quiet")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert environment._git_state(checkout) == (git(checkout, "rev-parse", "HEAD"), False)


def test_no_commit_is_claimed_without_a_checkout_of_our_own(checkout, tmp_path_factory, monkeypatch):
    inside = checkout / "site-packages"
    inside.mkdir()
    assert environment._git_state(inside) == (None, None)
    empty = tmp_path_factory.mktemp("empty")
    git(empty, "init", "--quiet")
    assert environment._git_state(empty) == (None, None)
    monkeypatch.setenv("PATH", "")
    assert environment._git_state(checkout) == (None, None)


def test_resolves_devices(monkeypatch):
    assert resolve_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert resolve_device("cuda") == torch.device("cuda", 0)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(ValueError, match=r"device must be one of cuda:0 to cuda:1, but got name='cuda:2'"):
        resolve_device("cuda:2")


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cpu:0", "", "cuda:-1", "CUDA"])
def test_refuses_what_is_no_device(name):
    message = re.escape(f"device must be cpu, cuda or cuda:N, but got {name=}")
    with pytest.raises(ValueError, match=message):
        resolve_device(name)


@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_says_when_there_is_no_cuda(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match="device must be cpu, as torch finds no CUDA device here, but got"):
        resolve_device(name)


def test_threads_are_read_back(threads):
    for count in (1, 2):
        torch.set_num_threads(count)
        assert describe_environment().threads == count


def draw():
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_seeded_repeats_itself_and_leaves_no_trace():
    with seeded(0):
        expected = [draw(), draw()]
    draw()
    with seeded(0):
        first = draw()
        with seeded(1):
            other = draw()
        second = draw()
    assert [first, second] == expected
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_seeded_restores_after_an_error():
    with seeded(0):
        draw()
        expected = draw()
    with seeded(0):
        draw()
        with pytest.raises(KeyError), seeded(1):
            raise KeyError
        assert draw() == expected


FAULTS = """
import resource
import torch
from evitlab.environment import SYSTEM_DEFAULT, describe_environment, tune_allocator

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(10 << 20)  # 40 MiB, over the largest threshold that glibc chooses by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

assert describe_environment().allocator == SYSTEM_DEFAULT
torch.ones(10 << 20)
untuned = faults()
text = tune_allocator()
assert text == tune_allocator() == describe_environment().allocator
assert text.startswith("glibc, mmap threshold 1073741824") or "threshold 33554432" in text
faults()  # until the heap has found its size, which takes up to four rounds
print(untuned, faults())
"""


@pytest.mark.slow
@pytest.mark.skipif(not GLIBC, reason="needs glibc's mallopt")
def test_tuned_allocator_faults_less(bare_variables):
    # In a process of its own: the setting cannot be taken back.
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    untuned, tuned = map(int, done.stdout.split())
    assert tuned < untuned / 4


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("MALLOC_ARENA_MAX", "2", "MALLOC_ARENA_MAX=2"),
        ("MALLOC_CONF", "prof_prefix:/home/ann/heap", "MALLOC_CONF"),
        ("GLIBC_TUNABLES", "glibc.malloc.top_pad=1", "GLIBC_TUNABLES=glibc.malloc.top_pad=1"),
        ("LD_PRELOAD", "/home/ann/libjemalloc.so.2:/lib/libc10.so", "preloaded libjemalloc.so.2"),
    ],
)
def test_allocator_set_from_outside_stays_and_is_recorded(bare_variables, name, value, text):
    bare_variables.setattr(environment, "_set_glibc_thresholds", lambda: pytest.fail("must not touch it"))
    bare_variables.setenv(name, value)
    assert tune_allocator() == text
    assert describe_environment().allocator == text


def test_other_variables_are_no_allocator_settings(bare_variables):
    bare_variables.setenv("GLIBC_TUNABLES", "glibc.cpu.hwcaps=-AVX2_Usable")
    bare_variables.setenv("LD_PRELOAD", "/lib/libgomp.so.1")
    assert environment._allocator_set_outside(os.environ) is None


def test_other_c_libraries_are_left_alone(bare_variables):
    bare_variables.setattr(platform, "libc_ver", lambda: ("", ""))
    assert tune_allocator() == describe_environment().allocator == "system default"


def test_load_average(monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (1.5, 2.0, 3.0), raising=False)
    assert load_average() == 1.5
    monkeypatch.delattr(os, "getloadavg")
    assert load_average() is None


def test_threads_are_pinned_and_read_back(threads):
    assert pin_threads(None) == threads
    for count in (2, 1):
        assert pin_threads(count) == torch.get_num_threads() == count
    with pytest.raises(UserError, match="threads must be at least 1, but got count=0"):
        pin_threads(0)


@pytest.fixture
def two_cores(monkeypatch, tmp_path):
    """Cores 1 and 2 are ours; the folder takes the files of core frequencies."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {1, 2}, raising=False)
    monkeypatch.setattr(environment, "CPU_FOLDER", tmp_path)
    return tmp_path


def test_clock_is_the_mean_of_the_usable_cores(two_cores):
    for core, kilohertz in enumerate((1_000_000, 2_000_000, 3_000_000)):
        folder = two_cores / f"cpu{core}" / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_cur_freq").write_text(f"{kilohertz}\n")
    assert cpu_hz() == 2.5e9


CPUINFO = """processor\t: 0
cpu MHz\t\t: 1000.0

processor\t: 1
cpu MHz\t\t: 2000.5

processor\t: 2
cpu MHz\t\t: 3000
"""


@pytest.mark.parametrize(
    ("text", "hertz"), [(CPUINFO, 2500.25e6), ("processor\t: 0\nFeatures\t: fp asimd\n", None), (None, None)]
)
def test_clock_is_else_that_of_cpuinfo(two_cores, monkeypatch, text, hertz):
    read = Path.read_text

    def read_text(path):
        if path != Path("/proc/cpuinfo"):
            return read(path)
        if text is None:
            raise FileNotFoundError(path)
        return text

    monkeypatch.setattr(Path, "read_text", read_text)
    assert cpu_hz() == (hertz and pytest.approx(hertz))


CPU = torch.device("cpu")


def test_linear_layers_run_by_what_torch_was_built_with(monkeypatch):
    assert (linear_library(CPU, "torch") == "MKL") is torch.backends.mkl.is_available()
    assert linear_library(CPU, "onednn") == "oneDNN"
    assert linear_library(torch.device("cuda", 0), "torch") in ("cuBLAS", "hipBLAS")
    for built, name in (("BLAS_INFO=open, X=1", "OpenBLAS"), ("BLAS_INFO=nvpl", "nvpl"), ("", "not known")):
        monkeypatch.setattr(torch.__config__, "show", lambda built=built: built)
        assert linear_library(CPU, "torch") == name


LOW = """
import torch
from evitlab.environment import linear_library

with torch.inference_mode(), torch.autocast("cpu", dtype={"bf16": torch.bfloat16, "fp16": torch.float16}["PRECISION"]):
    torch.nn.Linear(64, 64)(torch.randn(64, 64))
print(linear_library(torch.device("cpu"), "torch", precision="PRECISION"))
"""


@pytest.mark.slow
@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs a torch with oneDNN")
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_runs_by_onednn_where_it_can(precision):
    # oneDNN itself says whether it ran, when asked to at the start of a process.
    code, variables = LOW.replace("PRECISION", precision), os.environ | {"ONEDNN_VERBOSE": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=variables)
    ran = any(line.startswith("onednn_verbose") and ",matmul," in line for line in done.stdout.splitlines())
    assert done.stdout.splitlines()[-1] == ("oneDNN" if ran else "torch")
