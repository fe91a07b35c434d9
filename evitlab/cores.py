"""Who may use a host's cores: one timing alone, or any number of trainings, of all workers of one user on the host.

Two locked files beside the machine's number (see `environment.py`): a timing holds both alone, a training shares the
second and looks at the first between two steps, so that a timing waits for one step, not for a training. A killed
worker's locks are gone with it. Where the system has no flock, nobody waits.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from evitlab.study import TRAINED

try:
    import fcntl
except ImportError:  # Windows has no flock
    fcntl = None  # type: ignore[assignment]

PATIENCE_S = 600.0
"""A timing waits no longer for trainings that do not make way, such as one whose process is stopped, and says so."""
POLL_S = 0.02


def _open(name: str) -> IO[bytes]:
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    folder = state / "evitlab"
    folder.mkdir(parents=True, exist_ok=True)
    return open(folder / f"{name}.lock", "ab")


def _take(file: IO[bytes], kind: int, check: Callable[[], None], patience_s: float | None = None) -> bool:
    """Wait for a lock, looking up now and then; whether it came in time."""
    began = time.monotonic()
    while True:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if patience_s is not None and time.monotonic() - began > patience_s:
                return False
            check()
            time.sleep(POLL_S)


@contextmanager
def time_alone(check: Callable[[], None] = lambda: None) -> Iterator[bool | None]:
    """Time inside, once no other worker of this host times or trains; gives whether that came true.

    Gives None where the system cannot tell. `check` is called while it waits, and may raise.
    """
    if fcntl is None:
        yield None
        return
    try:
        timing, training = _open("timing"), _open("training")
    except OSError:  # no home that can be written: nobody to agree with
        yield None
        return
    with timing, training:
        first = _take(timing, fcntl.LOCK_EX, check)
        yield first and _take(training, fcntl.LOCK_EX, check, PATIENCE_S)


@contextmanager
def train_beside(check: Callable[[], None] = lambda: None) -> Iterator[Callable[[], None]]:
    """Train inside, beside other trainings; gives what to call between two steps, which lets a timing pass."""
    if fcntl is None:
        yield check
        return
    try:
        timing, training = _open("timing"), _open("training")
    except OSError:
        yield check
        return

    def let_pass() -> None:
        check()
        try:
            fcntl.flock(timing, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(training, fcntl.LOCK_UN)
            _take(timing, fcntl.LOCK_SH, check)
        _take(training, fcntl.LOCK_SH, check)  # at once where it is still held
        fcntl.flock(timing, fcntl.LOCK_UN)

    with timing, training:
        let_pass()
        yield let_pass


@contextmanager
def take_cores(
    task: str, tell: Callable[[float], None], check: Callable[[], None]
) -> Iterator[Callable[[float], None]]:
    """Do a task inside, alone on this host or beside others as it needs; gives what is to be told the share done."""
    if task == "operators":
        with time_alone(check):
            yield tell
    elif task in TRAINED:
        with train_beside(check) as let_pass:

            def share(done: float) -> None:
                tell(done)
                let_pass()

            yield share
    else:
        yield tell
