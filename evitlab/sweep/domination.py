"""Early stopping with two objectives, accuracy and speed, and how often it would have been wrong.

Optuna's pruners refuse studies with several objectives (optuna#3450). The rule here: at an evaluation of a training, it
is given up if a completed variant that is at least as fast was more accurate at the same step by a margin. Replayed
over a study whose trainings all ran to their end, in the order in which they ended, the rule says which it would have
stopped, and how many of those are on the final front: those stops are wrong.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from evitlab.measurements.accuracy import TrainResult
from evitlab.records import Record
from evitlab.store import measured
from evitlab.sweep.search import StopSettings


@dataclass(frozen=True, kw_only=True)
class Rival:
    """A variant whose training is complete."""

    variant: str
    ratio: float
    """Measured speed over the reference's."""
    curve: Mapping[int, float]
    """Accuracy by step, mean over its seeds."""
    top1: float
    """At the end, mean over its seeds."""
    ended: float = 0.0
    """When the training of its last seed ended, in seconds since 1970."""


def find_dominator(
    rivals: Iterable[Rival], *, ratio: float, step: int, top1: float, steps: int, settings: StopSettings
) -> Rival | None:
    """The completed variant that makes a training at this step hopeless, the most accurate there; None if none does.

    `ratio` is the speed of the variant in training, `steps` its training's length.
    """
    if step < settings.after * steps or step >= steps:
        return None
    ahead = [r for r in rivals if r.ratio >= ratio and step in r.curve and r.curve[step] >= top1 + settings.margin]
    return max(ahead, key=lambda rival: rival.curve[step], default=None)


def list_rivals(records: Sequence[Record]) -> list[Rival]:
    """The variants of some records with a speed and complete trainings, in the order in which the last seed began.

    The records must be of one study under one set of conditions, such as those of a table.
    """
    speeds = {r.variant: measured(r).ratio for r in records if r.task == "throughput" and r.status == "ok"}
    trained: dict[str, dict[int, Record]] = {}
    for record in records:
        if record.task == "train" and record.status == "ok" and speeds.get(record.variant) is not None:
            trained.setdefault(record.variant, {})[record.seed] = record
    rivals = [_average(name, speeds[name], list(own.values())) for name, own in trained.items()]
    ends = {name: max(record.start for record in own.values()) for name, own in trained.items()}
    return sorted(rivals, key=lambda rival: ends[rival.variant])


def _average(variant: str, ratio: float, records: Sequence[Record]) -> Rival:
    results: list[TrainResult] = [measured(record) for record in records]
    curves = [{epoch.step: epoch.top1 for epoch in result.curve} for result in results]
    shared = [step for step in curves[0] if all(step in curve for curve in curves)]
    return Rival(
        variant=variant,
        ratio=ratio,
        curve={step: sum(curve[step] for curve in curves) / len(curves) for step in shared},
        top1=sum(result.top1 for result in results) / len(results),
        ended=max(datetime.fromisoformat(record.start).timestamp() + record.seconds for record in records),
    )


def find_front(rivals: Sequence[Rival]) -> set[str]:
    """Variants that no other equals or beats in both accuracy and speed while beating it in one."""
    return {
        one.variant
        for one in rivals
        if not any(
            other.ratio >= one.ratio and other.top1 >= one.top1 and (other.ratio, other.top1) != (one.ratio, one.top1)
            for other in rivals
        )
    }


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What the rule would have done to a study that ran in full."""

    margin: float
    after: float
    trainings: int
    stopped: tuple[str, ...]
    """Variants, in the order in which they ended."""
    wrong: tuple[str, ...]
    """Those of them on the study's final front."""
    saved: float
    """Share of all training steps that would not have been made."""


def replay(rivals: Sequence[Rival], settings: StopSettings) -> Replay:
    """The rule applied to complete curves one after the other; what it stops is no rival of those that follow."""
    completed: list[Rival] = []
    stopped: list[str] = []
    saved = total = 0
    for rival in rivals:
        steps = max(rival.curve, default=0)
        total += steps
        stop = next(
            (
                step
                for step, top1 in sorted(rival.curve.items())
                if find_dominator(completed, ratio=rival.ratio, step=step, top1=top1, steps=steps, settings=settings)
            ),
            None,
        )
        if stop is None:
            completed.append(rival)
        else:
            stopped.append(rival.variant)
            saved += steps - stop
    front = find_front(rivals)
    return Replay(
        margin=settings.margin,
        after=settings.after,
        trainings=len(rivals),
        stopped=tuple(stopped),
        wrong=tuple(name for name in stopped if name in front),
        saved=saved / total if total else 0.0,
    )
