"""Memory: against what Linux's own files say, and on containers made of files."""

import platform
import subprocess
import sys

import pytest

from evitlab import memory
from evitlab.memory import available_bytes, peak_bytes, reset_peak, resident_bytes

on_linux = pytest.mark.skipif(platform.system() != "Linux", reason="needs Linux's /proc")

GROW = """
from evitlab.memory import peak_bytes, reset_peak, resident_bytes

reset_peak()
before = peak_bytes()
block = bytearray(b"1") * (200 << 20)
del block
peak = peak_bytes()
reset_peak()
print(peak - before, peak_bytes() - before)
"""


@on_linux
def test_peak_is_that_since_the_reset():
    # In a process of its own, where nothing else grows.
    done = subprocess.run([sys.executable, "-c", GROW], capture_output=True, text=True, check=True)
    grown, left = map(int, done.stdout.split())
    assert grown == pytest.approx(200 << 20, rel=0.1)
    assert left < 20 << 20


@on_linux
def test_what_is_held_and_left_is_plausible():
    reset_peak()
    assert 0 < resident_bytes() <= 1.1 * peak_bytes()
    assert available_bytes() > 0


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with 8 GiB available; files of a container go below the folder."""
    (tmp_path / "meminfo").write_text("MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\n")
    monkeypatch.setattr(memory, "MACHINE", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CONTAINER", tmp_path)
    return tmp_path


def write(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_without_a_container_the_machine_decides(machine):
    assert available_bytes() == 8 << 30
    write(machine, memory__max="max\n", memory__current="5\n", memory__stat="inactive_file 1\n")
    assert available_bytes() == 8 << 30


def test_a_containers_limit_counts_with_cached_files_as_free(machine):
    write(
        machine,
        memory__max=f"{4 << 30}\n",
        memory__current=f"{3 << 30}\n",
        memory__stat=f"anon 7\ninactive_file {1 << 30}\n",
    )
    assert available_bytes() == 2 << 30


def test_so_does_one_of_the_older_kind(machine):
    write(
        machine / "memory",
        memory__limit_in_bytes=f"{2 << 30}\n",
        memory__usage_in_bytes=f"{1 << 30}\n",
        memory__stat=f"inactive_file 9\ntotal_inactive_file {1 << 29}\n",
    )
    assert available_bytes() == 3 << 29


def test_elsewhere_nothing_is_known(monkeypatch, tmp_path):
    for name in ("MACHINE", "CONTAINER", "PROCESS"):
        monkeypatch.setattr(memory, name, tmp_path / "none")
    reset_peak()
    assert (available_bytes(), resident_bytes(), peak_bytes()) == (None, None, None)
