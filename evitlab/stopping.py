"""Ctrl-C and SIGTERM: the first lets the running repeat or training step end and saves, the second stops at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from evitlab.problems import UserError


class Stopped(KeyboardInterrupt):
    """Work given up because somebody asked for it; the message says how."""


class DiskFullError(UserError):
    """No room left for what a study writes; the study stops, and goes on once there is some."""


class Stops:
    """Whether somebody has asked this process to stop."""

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None

    def check(self) -> None:
        """Raise Stopped if somebody has."""
        if self.asked is not None:
            raise Stopped("SIGTERM" if self.asked == signal.SIGTERM else "Ctrl-C")

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked is not None:
            raise Stopped("asked twice")
        self.asked = signal.Signals(number)


@contextmanager
def notice_stops() -> Iterator[Stops]:
    """Note Ctrl-C and SIGTERM while inside, for `check` at the next good moment; handlers come back as they were."""
    stops = Stops()
    if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
        yield stops
        return
    before = {number: signal.signal(number, stops._note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stops
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
