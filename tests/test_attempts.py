"""What work comes to, whatever happens in it: a status with its reason, and whether the study goes on."""

import errno
from dataclasses import dataclass

import pytest
import torch
from fake_records import make_training

from evitlab.attempts import attempt
from evitlab.problems import UserError
from evitlab.stopping import DiskFullError, Stopped
from evitlab.tasks import GivenUpError


@dataclass(frozen=True)
class Measured:
    value: float


def fail_with(error: BaseException):
    def run():
        raise error

    return attempt(run)


def test_a_measurement_becomes_plain_data():
    assert attempt(lambda: Measured(2.0)) == ({"status": "ok", "measurement": {"value": 2.0}}, None)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_no_measurement(value):
    outcome, stop = attempt(lambda: Measured(value))
    assert outcome["status"] == "failed"
    assert outcome["error"].startswith("ValueError: Out of range float values are not JSON compliant")
    assert stop is None


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate"), "OutOfMemoryError: CUDA out of memory."),
        (MemoryError(), "MemoryError: no message"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "RuntimeError: DefaultCPUAllocator: can't al"),
        (FloatingPointError("training loss must stay finite, but got nan"), "FloatingPointError: training loss must"),
        (ValueError("num_heads must divide width"), "ValueError: num_heads must divide width"),
        (FileNotFoundError(errno.ENOENT, "No such file", "data.tar"), "FileNotFoundError: [Errno 2] No such file: 'd"),
        (UserError("no such data"), "UserError: no such data"),
    ],
)
def test_a_failure_is_a_reason_in_one_line_and_the_study_goes_on(error, said):
    outcome, stop = fail_with(error)
    assert set(outcome) == {"status", "error"}
    assert outcome["status"] == "failed"
    assert outcome["error"].startswith(said)
    assert "\n" not in outcome["error"]
    assert stop is None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize(("file", "named"), [("w.safetensors", "w.safetensors"), (None, "a file of the study")])
def test_a_full_disk_fails_the_work_and_stops_the_study(number, file, named):
    outcome, stop = fail_with(OSError(number, "No space left", file))
    assert outcome["status"] == "failed"
    assert "No space left" in outcome["error"]
    assert isinstance(stop, DiskFullError)
    assert str(stop) == f"{named}: No space left; make room, then go on"


def test_a_stop_is_recorded_and_stops_the_study():
    asked = Stopped("Ctrl-C")
    outcome, stop = fail_with(asked)
    assert outcome == {"status": "failed", "error": "interrupted by Ctrl-C; the next start goes on"}
    assert stop is asked


def test_a_training_given_up_keeps_what_it_reached():
    result = make_training(0.25)
    outcome, stop = fail_with(GivenUpError("hopeless at step 10", result))
    assert (outcome["status"], outcome["error"]) == ("stopped", "hopeless at step 10")
    assert outcome["measurement"]["top1"] == 0.25
    assert stop is None


def test_what_ends_the_process_is_not_held_up():
    with pytest.raises(SystemExit):
        fail_with(SystemExit(3))
