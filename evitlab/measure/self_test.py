"""An A/A test: one model timed under two names, many times, to see whether the intervals hold what they promise."""

from functools import partial
from statistics import median

from torch import nn

from evitlab.measure.rounds import OnProgress
from evitlab.measure.throughput import measure_throughput
from evitlab.measurements.speed import SelfTest, SelfTestRun
from evitlab.problems import UserError
from evitlab.settings import Execution

MAX_ROUNDS = 1000  # far more than the time limit leaves room for on any but a fast and quiet machine
CONTAINED_SHARE = 0.9  # of 20 intervals that each hold the truth in 95 of 100 cases, 18 do in 92 of 100
MEDIAN_ERROR = 0.01


def run_self_test(
    model: nn.Module,
    *,
    batch_size: int,
    image_size: int | tuple[int, int],
    device: str = "cpu",
    seed: int = 0,
    runs: int = 20,
    half_width: float = 0.01,
    time_limit_s: float = 60.0,
    execution: Execution | None = None,
    on_progress: OnProgress | None = None,
) -> SelfTest:
    """Time the model against itself in so many runs; the true ratio is 1.

    Each run makes two new copies, so that their places in memory differ too, draws its own order of rounds from
    `seed` and the number of the run, and lasts as `measure_throughput` says, `time_limit_s` at most. Passed: at least
    nine in ten intervals contain 1, and the median of |ratio - 1| is below 1%. It tests the harness and the machine
    as they are now: where others use the machine too, the time limit ends runs before their intervals are narrow.
    """
    if runs < 1:
        raise UserError(f"runs must be at least 1, but got {runs=}")
    done: list[SelfTestRun] = []
    for number in range(runs):
        found = measure_throughput(
            {"once": model, "again": model},
            batch_size=batch_size,
            image_size=image_size,
            device=device,
            seed=seed * runs + number,
            half_width=half_width,
            max_rounds=MAX_ROUNDS,
            time_limit_s=time_limit_s,
            execution=execution,
            on_progress=partial(_tell, on_progress, number, runs),
        )["again"]
        assert found.ratio is not None
        assert found.ratio_low is not None
        assert found.ratio_high is not None
        rounds = len(found.seconds) // found.calls_per_repeat
        done.append(
            SelfTestRun(
                ratio=found.ratio,
                ratio_low=found.ratio_low,
                ratio_high=found.ratio_high,
                rounds=rounds,
                stopped_by=found.stopped_by,
            )
        )
    return judge_runs(done, batch_size=batch_size, image_size=found.image_size)


def _tell(on_progress: OnProgress | None, number: int, runs: int, share: float) -> None:
    if on_progress is not None:
        on_progress((number + share) / runs)


def judge_runs(runs: list[SelfTestRun], *, batch_size: int, image_size: tuple[int, int]) -> SelfTest:
    """Whether enough intervals contain 1, and the ratios lie near enough."""
    contained = sum(run.ratio_low <= 1 <= run.ratio_high for run in runs)
    error = median(abs(run.ratio - 1) for run in runs)
    return SelfTest(
        runs=tuple(runs),
        contained=contained,
        median_error=error,
        passed=contained >= CONTAINED_SHARE * len(runs) and error < MEDIAN_ERROR,
        batch_size=batch_size,
        image_size=image_size,
    )
