"""What a person sees while a study runs: which variant and task, how far, and the time left."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from evitlab.study import TRAINED, Work

EXPECTED_S = {
    "match": 14.0,
    "throughput": 5.0,
    "macs": 1.0,
    "operators": 4.0,
    "train": 14.0,
    "evaluate": 2.0,
    "heads": 3.0,
}
"""Seconds a task is taken to last until one of its kind is under way; only the time left depends on it."""

IN_TURN = ("match", "throughput")
"""Tasks that are done on several variants at once."""


class StudyProgress:
    """A bar on a terminal, one line a finished piece of work elsewhere. Use as a context manager.

    `at_once` is how many trainings run beside one another.
    """

    def __init__(self, works: Sequence[Work], console: Console, *, at_once: int = 1):
        self._console = console
        self._at_once = at_once
        self._left: dict[Work, float] = dict.fromkeys(works, 1.0)
        self._began: dict[Work, tuple[float, float]] = {}
        self._seen: dict[str, list[float]] = {}
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[left]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=max(self._seconds_left(), 1e-9), left="")

    def __enter__(self) -> "StudyProgress":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def expect(self, works: Sequence[Work]) -> None:
        """Take note of work that is still to be done."""
        self._left |= {work: 1.0 for work in works if work not in self._left}

    def update(self, work: Work, share: float) -> None:
        """Take note that this work is so far done, in 0..1."""
        if work not in self._left:
            return
        self._began.setdefault(work, (time.monotonic(), share))
        self._left[work] = 1.0 - share
        if share >= 1.0:
            self._finish(work)
        left = self._seconds_left()
        done = self._bar.tasks[0].elapsed or 0.0
        self._bar.update(
            self._task, description=describe(work), completed=done, total=done + left, left=f"{_clock(left)} left"
        )

    def _finish(self, work: Work) -> None:
        del self._left[work]
        seconds = time.monotonic() - self._began[work][0]
        self._seen.setdefault(work.task, []).append(seconds / self._in_turn(work))
        if not self._console.is_terminal:
            left = _clock(self._seconds_left())
            self._console.print(f"{describe(work)}: {seconds:.1f} s, {left} left", markup=False, highlight=False)

    def _seconds_left(self) -> float:
        expected = {task: self._expect(task) for task in {work.task for work in self._left}}
        return sum(share * expected[work.task] for work, share in self._left.items())

    def _expect(self, task: str) -> float:
        """Seconds that such work adds to the study: as that which has ended, else as that under way, else a guess."""
        seen = self._seen.get(task) or self._look_ahead(task)
        mean = sum(seen) / len(seen) if seen else EXPECTED_S.get(task, 1.0)
        return mean / self._at_once if task == "train" else mean

    def _look_ahead(self, task: str) -> list[float]:
        """Seconds that the work under way will have taken if it goes on as it did."""
        now = time.monotonic()
        begun = [(work, *found) for work, found in self._began.items() if work.task == task and work in self._left]
        done = [(now - began, 1 - self._left[work] - start) for work, began, start in begun]
        count = self._in_turn(begun[0][0]) if begun else 1
        return [seconds / share / count for seconds, share in done if share > 0.01]

    def _in_turn(self, work: Work) -> int:
        """How many works share the time of this one: what is measured in turn begins at once and ends at once."""
        if work.task not in IN_TURN:
            return 1
        began, _ = self._began[work]
        others = [start for other, (start, _) in self._began.items() if other.task == work.task]
        return sum(abs(start - began) < 0.1 for start in others)


@contextmanager
def show_share(console: Console, what: str) -> Iterator[Callable[[float], None]]:
    """A bar for one measurement on a terminal, nothing elsewhere; gives what is to be told the share done, 0..1."""
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(bar_width=24))
    with Progress(
        *columns, TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(what, total=1.0)
        yield lambda share: bar.update(task, completed=share)


def describe(work: Work) -> str:
    """A piece of work in a few words."""
    return f"{work.variant}: {work.task}" + (f", seed {work.seed}" if work.task in TRAINED else "")


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
