"""Whether a worker lives: at once on its own host, by its beat elsewhere; and the beat itself."""

import os
import subprocess
import sys
import time
from itertools import pairwise

import pytest
from optuna.exceptions import StorageInternalError

from evitlab.sweep import workers
from evitlab.sweep.workers import BEAT, GRACE_S, OWNER, Heart, Watch, describe_worker

needs_proc = pytest.mark.skipif(workers._host() is None, reason="this system does not tell of its processes")


def elsewhere(beat: int | None) -> dict:
    return {OWNER: {"host": "another", "pid": os.getpid(), "started": "0"}, BEAT: beat}


def wait_for(check) -> None:
    end = time.monotonic() + 30
    while not check():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_beat_that_stands_still_means_death_after_the_grace_by_the_observers_clock():
    now = [100.0]
    watch = Watch(clock=lambda: now[0])
    assert not watch.is_dead(7, elsewhere(1))  # first seen
    now[0] += GRACE_S
    assert not watch.is_dead(7, elsewhere(1))
    now[0] += 0.1
    assert watch.is_dead(7, elsewhere(1))


def test_a_beat_that_changes_begins_the_grace_anew_whatever_its_number():
    now = [0.0]
    watch = Watch(clock=lambda: now[0])
    for beat in (None, 5, 6, 2):  # a worker that takes a variant back counts anew
        assert not watch.is_dead(7, elsewhere(beat))
        now[0] += GRACE_S + 1
    assert watch.is_dead(7, elsewhere(2))
    assert not watch.is_dead(8, elsewhere(2))  # each trial by itself


def test_who_never_beat_gets_the_grace_too():
    now = [0.0]
    watch = Watch(clock=lambda: now[0])
    assert not watch.is_dead(1, elsewhere(None))
    now[0] += GRACE_S + 1
    assert watch.is_dead(1, elsewhere(None))


@needs_proc
def test_on_its_own_host_the_process_itself_tells_at_once():
    me = describe_worker(name="me")
    assert me["name"] == "me"
    assert not Watch().is_dead(1, {OWNER: me})
    assert Watch().is_dead(1, {OWNER: me | {"started": "1"}})  # its number went to another process
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as other:
        owner = me | {"pid": other.pid, "started": workers._started(other.pid)}
        assert not Watch().is_dead(1, {OWNER: owner})
        other.kill()
        wait_for(lambda: workers._started(other.pid) is None)  # dead, and not yet waited for
        assert Watch().is_dead(1, {OWNER: owner})
    assert Watch().is_dead(1, {OWNER: owner})


def test_a_host_that_does_not_tell_is_watched_by_the_beat(monkeypatch):
    monkeypatch.setattr(workers, "_host", lambda: None)
    mine = describe_worker() | {"pid": 2**22 - 1, "started": "1"}
    assert not Watch(clock=lambda: 0.0).is_dead(1, {OWNER: mine})


class Written:
    """A storage that only notes what is written, and does not answer to begin with."""

    def __init__(self, outages: int):
        self.outages = outages
        self.beats: list[tuple[int, str, int]] = []

    def set_trial_user_attr(self, trial_id, name, value):
        if self.outages:
            self.outages -= 1
            raise StorageInternalError
        self.beats.append((trial_id, name, value))


def test_the_heart_beats_in_what_is_held_and_outlives_an_outage(monkeypatch):
    monkeypatch.setattr(workers, "BEAT_S", 0.005)
    storage = Written(outages=2)
    with Heart(storage) as heart:  # type: ignore[arg-type]
        heart.hold({1, 2})
        wait_for(lambda: {trial for trial, *_ in storage.beats} == {1, 2})
        heart.hold({3})
        wait_for(lambda: any(trial == 3 for trial, *_ in storage.beats))
        since = len(storage.beats)
        wait_for(lambda: len(storage.beats) > since + 2)
        assert {trial for trial, *_ in storage.beats[since:]} == {3}
    ended = len(storage.beats)
    time.sleep(0.05)
    assert len(storage.beats) == ended
    assert {name for _, name, _ in storage.beats} == {BEAT}
    counts = [count for trial, _, count in storage.beats if trial == 3]
    assert all(later > earlier for earlier, later in pairwise(counts))
