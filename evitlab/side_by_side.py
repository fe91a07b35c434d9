"""Trainings beside one another on a CPU: each in a process of its own, with its share of the threads.

A small network leaves most cores idle, as its operators are too short to be divided; several at once do not.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, MutableSequence
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from multiprocessing.synchronize import Event

import torch

from evitlab.cores import take_cores
from evitlab.environment import tune_allocator
from evitlab.measurements.accuracy import TrainResult
from evitlab.models.config import ModelConfig
from evitlab.problems import UserError
from evitlab.records import Environment
from evitlab.settings import TrainSettings
from evitlab.stopping import Stopped
from evitlab.study import Study, Work
from evitlab.tasks import Machine, run_train

MOST = 4
"""Trainings at once unless asked otherwise: each process holds torch and what its training keeps for gradients."""
POLL_S = 0.1
SPAWN = multiprocessing.get_context("spawn")  # threads of torch do not survive a fork


@dataclass(frozen=True, kw_only=True)
class Training:
    """What a process needs to train one network."""

    work: Work
    config: ModelConfig
    settings: TrainSettings
    machine: Machine


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a training came to, and when."""

    result: TrainResult
    start: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Line:
    """What the processes and this one tell each other."""

    shares: MutableSequence[float]
    """How far each training is, in the order asked."""
    stop: Event


class Trainings:
    """Trainings under way or waiting for their turn, by the key of the record that each will have."""

    def __init__(
        self,
        asked: Mapping[str, Training],
        *,
        at_once: int,
        on_progress: Callable[[Work, float], None],
        check: Callable[[], None],
    ):
        self._asked = dict(asked)
        self._check = check
        self._on_progress = on_progress
        self._at_once = at_once
        self._line = Line(shares=SPAWN.Array("d", max(len(asked), 1), lock=False), stop=SPAWN.Event())
        self._passed_on = [0.0] * len(asked)
        self._pool = self._open(at_once)
        with _interrupts_held():
            self._futures = {key: self._pool.submit(_train, number, asked[key]) for number, key in enumerate(asked)}

    def _open(self, processes: int) -> ProcessPoolExecutor:
        threads = max(1, torch.get_num_threads() // self._at_once)
        return ProcessPoolExecutor(processes, SPAWN, initializer=_begin, initargs=(self._line, threads, self._at_once))

    def __contains__(self, key: str) -> bool:
        return key in self._futures

    def finish(self, key: str) -> Trained:
        """Wait for a training and return it, or raise what it raised, passing on how far all of them are.

        Where the system has ended one of the processes, such as for want of memory, each training that was not done is
        tried once more with no other beside it. Raises RuntimeError where that ends in the same way.
        """
        try:
            return self._wait(self._futures[key])
        except BrokenExecutor:
            self._pool.shutdown()
        with self._open(1) as alone:
            try:
                return self._wait(alone.submit(_train, list(self._asked).index(key), self._asked[key]))
            except BrokenExecutor:
                raise RuntimeError("the system ended its process, such as for want of memory") from None

    def _wait(self, future: Future[Trained]) -> Trained:
        while not future.done():
            wait([future], timeout=POLL_S)
            self._check()
            for number, training in enumerate(self._asked.values()):
                share = self._line.shares[number]
                if share != self._passed_on[number]:
                    self._passed_on[number] = share
                    self._on_progress(training.work, min(share, 0.99))  # the end comes with the record
        return future.result()

    def close(self) -> None:
        """Let each running training end its step and save, and begin no other."""
        self._line.stop.set()
        try:
            self._pool.shutdown(cancel_futures=True)
        except BaseException:  # asked twice
            for process in multiprocessing.active_children():
                process.kill()
            raise


@contextmanager
def train_side_by_side(
    asked: Mapping[str, Training],
    *,
    at_once: int,
    on_progress: Callable[[Work, float], None],
    check: Callable[[], None] = lambda: None,
) -> Iterator[Trainings]:
    """Begin all these trainings, so many at once; give what to ask for each. Leaving stops those that still run.

    `check` is called while they run, and raises where somebody has asked to stop.
    """
    trainings = Trainings(asked, at_once=at_once, on_progress=on_progress, check=check)
    try:
        yield trainings
    finally:
        trainings.close()


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C inside comes afterwards, and to no process that is started inside: those still loading would die of it."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def choose_at_once(study: Study, environment: Environment, *, shared: bool, asked: int | None = None) -> int:
    """How many trainings run beside one another: as asked, or one a thread up to `MOST` where that pays.

    A search proposes one variant after the other, and workers that share a study are processes already. Raises
    UserError where more than one is asked for and cannot be: on a GPU, and with a rule that stops a training by those
    before it.
    """
    possible = environment.device == "cpu" and study.file.stop is None
    if asked is None:
        pays = possible and not shared and not study.smoke and study.file.search is None
        return min(environment.threads, MOST) if pays else 1
    if asked > 1 and not possible:
        why = "on a GPU" if study.file.stop is None else "in a study with stop, whose trainings are judged by others"
        raise UserError(f"--trainings must be 1 {why}, but got {asked}")
    return asked


class _Process:
    """What one of the processes knows."""

    line: Line
    at_once: int
    told_to_end = False


def _begin(line: Line, threads: int, at_once: int) -> None:
    """Prepare a process that trains: Ctrl-C is the parent's to notice, and nobody outlives it."""
    _Process.line, _Process.at_once = line, at_once
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: setattr(_Process, "told_to_end", True))
    threading.Thread(target=_follow_parent, daemon=True).start()
    tune_allocator()
    torch.set_num_threads(threads)


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _check() -> None:
    if _Process.told_to_end or _Process.line.stop.is_set():
        raise Stopped("its study")


def _train(number: int, training: Training) -> Trained:
    _check()

    def tell(done: float) -> None:
        _Process.line.shares[number] = done
        _check()

    start, clock = datetime.now(UTC).isoformat(), time.perf_counter()
    with take_cores(training.work.task, tell, _check) as share:
        result = run_train(training.config, training.settings, training.work.seed, training.machine, share)
    return Trained(result=replace(result, at_once=_Process.at_once), start=start, seconds=time.perf_counter() - clock)
