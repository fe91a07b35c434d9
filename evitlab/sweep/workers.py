"""Who works on a trial, and whether they still live.

Optuna's heartbeats exist for databases alone, act inside `optimize` alone, and compare clocks of different machines.
Here a worker keeps raising a number in each of its trials, in any storage, and each observer uses its own clock: a
number that has not changed for `GRACE_S` means a dead worker. On the observer's own host the process itself tells,
at once.
"""

import hashlib
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage

from evitlab.sweep.storages import ignore_outage

BEAT_S = 5.0
GRACE_S = 60.0
RETRIES = 3
"""So often a variant whose worker died is tried again."""
OWNER, BEAT = "owner", "beat"


def describe_worker(**more: Any) -> dict[str, Any]:
    """This process, so that others on its host can see whether it lives."""
    return {"host": _host(), "pid": os.getpid(), "started": _started(os.getpid()), **more}


def _host() -> str | None:
    """This boot of this system and its processes' name space, as a hash; None where the system does not tell."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        return hashlib.sha256(f"{boot}{os.readlink('/proc/self/ns/pid')}".encode()).hexdigest()[:12]
    return None


def _started(pid: int) -> str | None:
    """When a process began, in the system's ticks, as its number may be given away later. None: there is none."""
    with suppress(OSError, IndexError):
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        return None if state in "ZX" else fields[18]
    return None


class Watch:
    """Which owners live, as seen from here."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._seen: dict[int, tuple[Any, float]] = {}

    def is_dead(self, trial_id: int, attributes: dict[str, Any]) -> bool:
        """Whether the owner of a running trial is gone."""
        owner = attributes[OWNER]
        if owner["host"] is not None and owner["host"] == _host():
            return bool(_started(owner["pid"]) != owner["started"])
        beat, now = attributes.get(BEAT), self._clock()
        last, since = self._seen.get(trial_id, (None, now))
        if trial_id not in self._seen or beat != last:
            self._seen[trial_id] = (beat, now)
            return False
        return now - since > GRACE_S


class Heart:
    """Raises a number in every trial held, from a thread of its own. Use as a context manager."""

    def __init__(self, storage: BaseStorage):
        self._storage = storage
        self._held: set[int] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="heartbeat")

    def hold(self, trial_ids: set[int]) -> None:
        """Beat for these trials from now on, and no others."""
        self._held = set(trial_ids)

    def __enter__(self) -> "Heart":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _beat(self) -> None:
        count = 0
        while not self._ended.wait(BEAT_S):
            count += 1
            for trial_id in list(self._held):
                with ignore_outage():
                    self._storage.set_trial_user_attr(trial_id, BEAT, count)
