"""What is shown while a study runs."""

import io

from rich.console import Console

from evitlab import progress
from evitlab.progress import EXPECTED_S, StudyProgress
from evitlab.study import Work


def works(*tasks: str) -> list[Work]:
    return [Work(variant="v", task=task, seed=seed) for seed, task in enumerate(tasks)]


def test_the_time_left_is_what_the_task_took_before(monkeypatch):
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    out = io.StringIO()
    first, second, third = works("train", "train", "macs")
    with StudyProgress([first, second, third], Console(file=out)) as shown:
        shown.update(first, 0.0)
        now = 30.0
        shown.update(first, 1.0)  # trainings last 30 s, it seems; the macs are a guess
        shown.update(second, 0.0)
        shown.update(second, 0.5)
        now = 70.0
        shown.update(second, 1.0)
        shown.update(second, 1.0)  # ended already
    left = round(30 + EXPECTED_S["macs"])
    assert [line for line in out.getvalue().splitlines() if line] == [
        f"v: train, seed 0: 30.0 s, 0:{left} left",
        f"v: train, seed 1: 40.0 s, 0:{round(EXPECTED_S['macs']):02d} left",
    ]


def test_trainings_beside_one_another_and_under_way_tell_the_time_left(monkeypatch):
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    first, second, third = works("train", "train", "train")
    with StudyProgress([first, second, third], Console(file=io.StringIO()), at_once=2) as shown:
        assert shown._seconds_left() == 3 * EXPECTED_S["train"] / 2
        shown.update(first, 0.0)
        shown.update(second, 0.5)  # goes on from where it was
        now = 40.0
        shown.update(first, 0.25)
        shown.update(second, 0.75)  # 160 s each at this speed: 120, 40 and 160 of training left, by two
        assert shown._seconds_left() == (120 + 40 + 160) / 2
        now = 150.0
        shown.update(first, 1.0)
        assert shown._seconds_left() == (0.25 + 1) * 150 / 2


def test_what_is_measured_in_turn_is_one_wait_and_not_one_each(monkeypatch):
    """Two variants matched together in 100 s; two more, beside one another as well, will take 100 s and not 200."""
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    first, second, third, fourth = works("match", "match", "match", "match")
    with StudyProgress([first, second, third, fourth], Console(file=io.StringIO())) as shown:
        shown.update(first, 0.0)
        shown.update(second, 0.0)
        now = 50.0
        shown.update(first, 0.5)
        shown.update(second, 0.5)
        assert shown._seconds_left() == 50 + 100
        now = 100.0
        shown.update(first, 1.0)
        shown.update(second, 1.0)
        assert shown._seconds_left() == 100


def test_on_a_terminal_there_is_a_bar_with_variant_task_and_time_left():
    out = io.StringIO()
    (work,) = works("macs")
    with StudyProgress([work], Console(file=out, force_terminal=True, width=100)) as shown:
        shown.update(work, 0.5)
        shown._bar.refresh()
    assert "v: macs" in out.getvalue()
    assert " left" in out.getvalue()
