"""How much of the machine's memory this process takes and may still take, where Linux tells it; elsewhere None."""

import ctypes
from contextlib import suppress
from pathlib import Path

PROCESS = Path("/proc/self")
MACHINE = Path("/proc/meminfo")
CONTAINER = Path("/sys/fs/cgroup")
# Limit, use, and cached files that count as used but can be dropped: of control groups in versions 2 and 1.
CONTAINER_FILES = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)


def resident_bytes() -> int | None:
    """Physical memory that this process holds now."""
    return _read_kibibytes(PROCESS / "status", "VmRSS:")


def reset_peak() -> None:
    """Let `peak_bytes` start from what is in use now; memory that was freed goes back to the system first."""
    with suppress(AttributeError):  # glibc alone has it; a pool kept by it would hide how much a batch needs
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):  # where it may not be written, the peak stays that of the whole process
        (PROCESS / "clear_refs").write_text("5")  # proc(5): resets the peak resident set size


def peak_bytes() -> int | None:
    """The most physical memory that this process has held since `reset_peak`."""
    return _read_kibibytes(PROCESS / "status", "VmHWM:")


def available_bytes() -> int | None:
    """Memory that this process may still take before the system, or its container, must end a process."""
    left = [_read_kibibytes(MACHINE, "MemAvailable:"), *(_left_in_container(*names) for names in CONTAINER_FILES)]
    return min((count for count in left if count is not None), default=None)


def _left_in_container(limit: str, use: str, statistics: str, cached: str) -> int | None:
    try:
        left = int((CONTAINER / limit).read_text()) - int((CONTAINER / use).read_text())
        rows = dict(line.split() for line in (CONTAINER / statistics).read_text().splitlines())
    except (OSError, ValueError):  # no container, or one without a limit, which says `max`
        return None
    return left + int(rows.get(cached, 0))


def _read_kibibytes(path: Path, name: str) -> int | None:
    with suppress(OSError):
        rows = (line.split() for line in path.read_text().splitlines())
        return next((1024 * int(row[1]) for row in rows if row and row[0] == name), None)
    return None
