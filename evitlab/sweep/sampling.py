"""Optuna's samplers by name, and proposals that are new."""

import random
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from evitlab.records import digest
from evitlab.sweep.search import Range, SearchSettings, draw_changes, name_parameter

SAME_AGAIN = 20
"""Proposals in a row that were known before something new is drawn at random instead."""
HEEDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
"""What samplers learn from or keep away from."""
MANY = 100_000
"""Combinations that are still listed one by one."""

Choose = Callable[[str, list[Any] | Range], Any]


def make_sampler(search: SearchSettings, *, seed: int, asked: int, again: int = 0) -> optuna.samplers.BaseSampler:
    """The sampler for the proposal after so many, asked again so often: its seed follows from that alone, so that a
    killed study goes on as one that was not."""
    own = int(digest([search.seed, seed, asked, again])[:8], 16)
    if search.sampler == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=own, population_size=12)
    if search.sampler == "tpe":
        with warnings.catch_warnings():  # constant_liar is experimental: what others are at work on is kept away from
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(seed=own, n_startup_trials=10, constant_liar=True)
    return optuna.samplers.RandomSampler(seed=own)


def choose_by(trial: optuna.Trial) -> Choose:
    """Values that a trial suggests, or was queued with."""

    def choose(parameter: str, values: list[Any] | Range) -> Any:
        if isinstance(values, list):
            plain = [to_choice(value) for value in values]
            return values[plain.index(trial.suggest_categorical(parameter, plain))]
        low, high = values.values[0], values.values[-1]
        if all(isinstance(value, int) for value in (low, high, values.step)):
            return trial.suggest_int(parameter, int(low), int(high), step=int(values.step))
        return round(trial.suggest_float(parameter, float(low), float(high), step=float(values.step)), 10)

    return choose


def to_choice(value: Any) -> Any:
    """Optuna's choices are single values: a list or a mapping becomes its text."""
    return str(value) if isinstance(value, list | dict) else value


def propose(
    told: Sequence[FrozenTrial],
    directions: Sequence[optuna.study.StudyDirection],
    search: SearchSettings,
    *,
    seed: int,
    is_known: Callable[[dict[str, Any]], bool],
) -> tuple[FrozenTrial, dict[str, Any]] | None:
    """A proposal that is not known yet, as a trial and as changes; None once there is none left to be found.

    `told` are all trials of the study, from which the sampler learns. It works on a copy in memory: a storage would
    take longer for a proposal than the sampler does, and would keep those that were known.
    """
    copy = optuna.create_study(directions=list(directions))
    copy.add_trials(_strip(trial) for trial in told if trial.state in HEEDED)
    for again in range(SAME_AGAIN):
        copy.sampler = make_sampler(search, seed=seed, asked=len(told), again=again)
        trial = copy.ask()
        changes = draw_changes(search, choose_by(trial))
        if not is_known(changes):
            return copy.get_trials(deepcopy=False)[trial.number], changes
        copy.tell(trial, state=TrialState.FAIL)
    new = _draw_new(search, random.Random(len(told) + search.seed), is_known)
    if new is None:
        return None
    copy.enqueue_trial(as_parameters(search, new))
    trial = copy.ask()
    changes = draw_changes(search, choose_by(trial))
    return copy.get_trials(deepcopy=False)[trial.number], changes


def _strip(trial: FrozenTrial) -> FrozenTrial:
    """A trial without its records, which no sampler reads and which are long."""
    return optuna.trial.create_trial(
        state=trial.state,
        values=trial.values,
        params=trial.params,
        distributions=trial.distributions,
        system_attrs=trial.system_attrs,
    )


def _draw_new(
    search: SearchSettings, generator: random.Random, is_known: Callable[[dict[str, Any]], bool]
) -> dict[str, Any] | None:
    if search.count() <= MANY:
        left = [changes for changes in search.combinations() if not is_known(changes)]
        return generator.choice(left) if left else None
    pick: Choose = lambda _, values: generator.choice(values.values if isinstance(values, Range) else values)  # noqa: E731
    drawn = (draw_changes(search, pick) for _ in range(1000))
    return next((changes for changes in drawn if not is_known(changes)), None)


def as_parameters(search: SearchSettings, changes: dict[str, Any]) -> dict[str, Any]:
    """A proposal as Optuna's parameters."""
    base = changes.get("base")
    named = partial(name_parameter, base if search.bases else None, search=search)
    return {knob if knob == "base" else named(knob): to_choice(value) for knob, value in changes.items()}
