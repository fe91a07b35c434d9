"""The machine, the software and the settings behind a measurement: what they are, and how they are set.

A speed means nothing without them. `describe_environment` reads them for the record; the other functions set
what moves a timing most: device, threads, the C allocator.
"""

import ctypes
import hashlib
import os
import platform
import random
import re
import secrets
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

from evitlab import __version__
from evitlab.problems import UserError
from evitlab.records import Environment

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # mallopt's option numbers, from glibc's malloc.h
MMAP_THRESHOLDS = (1 << 30, 32 << 20)  # bytes; the second where glibc refuses the first
TOP_PAD = 64 << 20  # bytes
SYSTEM_DEFAULT = "system default"
BLAS_NAMES = {"mkl": "MKL", "open": "OpenBLAS", "accelerate": "Accelerate", "armpl": "Arm Performance Libraries"}
CPU_FOLDER = Path("/sys/devices/system/cpu")

_tuned: str | None = None  # what tune_allocator did to this process: the C library cannot be asked


def describe_environment(device: str = "cpu") -> Environment:
    """Everything about machine and software that a measurement's record keeps."""
    chosen = resolve_device(device)
    commit, dirty = _git_state(Path(__file__).resolve().parents[1])
    return Environment(
        device=str(chosen),
        device_name=torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else cpu_model(),
        machine=_machine_id(),
        cores=_usable_cores(),
        threads=torch.get_num_threads(),
        memory_bytes=_memory_bytes(),
        allocator=_allocator_set_outside(os.environ) or _tuned or SYSTEM_DEFAULT,
        platform=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        torch=str(torch.__version__),
        timm=metadata.version("timm"),
        evitlab=__version__,
        git_commit=commit,
        git_dirty=dirty,
    )


def resolve_device(name: str) -> torch.device:
    """The device of that name, with its index where it is an accelerator: `cuda` becomes `cuda:0`."""
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (":" in name and not (kind == "cuda" and index.isdecimal())):
        raise UserError(f"device must be cpu, cuda or cuda:N, but got {name=}")
    if kind == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if count == 0:
        raise UserError(f"device must be cpu, as torch finds no CUDA device here, but got {name=}")
    number = int(index) if index else torch.cuda.current_device()
    if number >= count:
        raise UserError(f"device must be one of cuda:0 to cuda:{count - 1}, but got {name=}")
    return torch.device("cuda", number)


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def pin_threads(count: int | None) -> int:
    """Set how many threads torch computes with on the CPU, unless None; return how many they are."""
    if count is not None:
        if count < 1:
            raise UserError(f"threads must be at least 1, but got {count=}")
        torch.set_num_threads(count)
    return torch.get_num_threads()


def linear_library(device: torch.device, linear: str, *, precision: str = "fp32") -> str:
    """The library that runs a linear layer: oneDNN where asked for, else what this build of torch takes.

    In bf16 and fp16 a CPU takes oneDNN where that has kernels for it, and else torch's own loops. Builds for ARM may
    hand some sizes to the Arm Compute Library; this is not told apart.
    """
    if device.type == "cuda":
        return "cuBLAS" if torch.version.hip is None else "hipBLAS"
    if linear == "onednn":
        return "oneDNN"
    if precision != "fp32":
        supported = getattr(torch.ops.mkldnn, f"_is_mkldnn_{precision}_supported")
        return "oneDNN" if torch.backends.mkldnn.is_available() and supported() else "torch"
    built = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
    return BLAS_NAMES.get(built[1], built[1]) if built else "not known"


def tune_allocator() -> str:
    """Make glibc keep freed memory, for the whole process; return how the allocator is set now.

    By default glibc maps every activation of some megabytes afresh and gives it back, so a timing counts page
    faults, most of all in memory-bound operators. Settings from outside (`MALLOC_*`, `GLIBC_TUNABLES`, a
    preloaded allocator) stay as they are, and so does every other C library.
    """
    global _tuned
    outside = _allocator_set_outside(os.environ)
    if outside is None and _tuned is None and platform.libc_ver()[0] == "glibc":
        _tuned = _set_glibc_thresholds()
    return outside or _tuned or SYSTEM_DEFAULT


def _set_glibc_thresholds() -> str:
    mallopt = ctypes.CDLL(None).mallopt
    # Older releases refuse a threshold over 32 MiB; larger blocks are then still mapped one by one.
    mapped = next((size for size in MMAP_THRESHOLDS if mallopt(M_MMAP_THRESHOLD, size)), "unchanged")
    trimmed = "never" if mallopt(M_TRIM_THRESHOLD, -1) else "unchanged"  # mallopt(3): -1 turns trimming off
    padded = TOP_PAD if mallopt(M_TOP_PAD, TOP_PAD) else "unchanged"
    return f"glibc, mmap threshold {mapped}, trim {trimmed}, top pad {padded}"


def _allocator_set_outside(variables: Mapping[str, str]) -> str | None:
    """Allocator settings among the environment variables, without any path; None where there are none."""
    found = []
    for name, value in sorted(variables.items()):
        if name in ("LD_PRELOAD", "DYLD_INSERT_LIBRARIES"):
            libraries = [Path(path).name for path in value.replace(":", " ").split()]
            # jemalloc, tcmalloc, mimalloc; what else is preloaded does not allocate
            found += [f"preloaded {library}" for library in libraries if "malloc" in library]
        elif name.startswith("MALLOC_") or (name == "GLIBC_TUNABLES" and "glibc.malloc." in value):
            found.append(name if "/" in value else f"{name}={value}")
    return ", ".join(found) or None


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed Python, NumPy and torch inside; give all their generators back as they were."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


def load_average() -> float | None:
    """One-minute load average of the machine; None where the system has none."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):  # Windows has no such call; a sandbox may forbid it
        return None


def cpu_hz() -> float | None:
    """Mean clock of the cores that this process may use; None where the system does not tell it."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    try:
        clocks = [1e3 * int((CPU_FOLDER / f"cpu{core}/cpufreq/scaling_cur_freq").read_text()) for core in cores]
    except (OSError, ValueError):  # virtual machines have no such files
        clocks = _clocks_of_cpuinfo(cores)
    return sum(clocks) / len(clocks) if clocks else None


def _clocks_of_cpuinfo(cores: Sequence[int]) -> list[float]:
    """Hertz of each of these cores that the system lists."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    clocks, core = [], None
    for name, _, value in (line.partition(":") for line in lines):
        if name.strip() == "processor":
            core = int(value)
        elif name.strip() == "cpu MHz" and core in cores:
            clocks.append(1e6 * float(value))
    return clocks


def cpu_model() -> str:
    """The processor's name as its maker gives it, or its architecture where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):  # macOS and Windows have no such file; ARM Linux has it without a name
        return _run("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor() or platform.machine()


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows: the record says 0, unknown
        return 0


def _machine_id() -> str:
    # All cores, not the usable ones, and whole GiB: pinning and a new kernel do not make another machine.
    parts = (_drawn_number(), platform.node(), cpu_model(), os.cpu_count(), round(_memory_bytes() / 2**30))
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:8]


def _drawn_number() -> str:
    """A number drawn once for each user's machine: virtual machines of one image are alike in all else.

    Kept as `evitlab/machine` in the folder for state that XDG names; empty where that cannot be written.
    """
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    path = Path(state) / "evitlab" / "machine"
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError), open(path, "x") as file:
            file.write(secrets.token_hex(8))
        return path.read_text()
    return ""


def _git_state(folder: Path) -> tuple[str | None, bool | None]:
    """Commit of the checkout at that folder, and whether anything outside `results/` differs from it."""
    if not (folder / ".git").exists():  # an installed copy: a repository further up is somebody else's
        return None, None
    git = ("git", "--no-optional-locks", "-C", str(folder))
    commit = _run(*git, "rev-parse", "--verify", "HEAD")
    changes = _run(*git, "status", "--porcelain", "--", ".", ":(exclude)results")
    return (commit, changes != "") if commit and changes is not None else (None, None)


def _run(*command: str) -> str | None:
    """What the command printed; None where it is missing or fails."""
    # A git hook exports GIT_DIR and its like, which would point git at the repository of the hook.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=variables, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
