"""How much each knob matters for accuracy and for speed, by Optuna's evaluators, with the spread over their seeds."""

import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev

import optuna
import pandas as pd
from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState

from evitlab.store import write_atomically
from evitlab.study import Study
from evitlab.sweep.identity import objectives

IMPORTANCE = "importance.csv"
SEEDS = range(10)
FEWEST = 8
"""Trained variants of one base, without which nothing is said."""


def rank_knobs(study: Study, trials: list[FrozenTrial]) -> pd.DataFrame:
    """A row for each base, objective, evaluator and knob: mean importance and its standard deviation over seeds of
    fANOVA's forests; PED-ANOVA has no chance in it. Importances of one row group sum to 1."""
    rows = []
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE and trial.params]
    for base in sorted({str(trial.params.get("base", "")) for trial in done}):
        own = [trial for trial in done if str(trial.params.get("base", "")) == base]
        if len(own) < FEWEST:
            continue
        for number, (name, direction) in enumerate(objectives(study)):
            single = optuna.create_study(direction=direction)
            single.add_trials([_reduce(trial, number) for trial in own])
            for evaluator, made in _evaluate(single).items():
                for knob in made[0]:
                    values = [each[knob] for each in made]
                    spread = stdev(values) if len(values) > 1 else None
                    shown = {"base": base, "objective": name, "evaluator": evaluator, "knob": knob.rpartition(".")[2]}
                    rows.append(shown | {"importance": mean(values), "spread": spread, "variants": len(own)})
    columns = ["base", "objective", "evaluator", "knob", "importance", "spread", "variants"]
    return pd.DataFrame(rows, columns=columns)


def _reduce(trial: FrozenTrial, number: int) -> FrozenTrial:
    """The trial with one objective, and without the base, which is the same for all."""
    params = {name: value for name, value in trial.params.items() if name != "base"}
    distributions = {name: trial.distributions[name] for name in params}
    return optuna.trial.create_trial(params=params, distributions=distributions, value=trial.values[number])


def _evaluate(study: optuna.Study) -> dict[str, list[dict[str, float]]]:
    """Importances by evaluator, once a seed."""
    makers: dict[str, list[Callable[[], optuna.importance.BaseImportanceEvaluator]]] = {
        "fANOVA": [lambda seed=seed: FanovaImportanceEvaluator(seed=seed) for seed in SEEDS],  # type: ignore[misc]
        "PED-ANOVA": [PedAnovaImportanceEvaluator],
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental, and a knob of one value
        return {
            name: [optuna.importance.get_param_importances(study, evaluator=make()) for make in made]
            for name, made in makers.items()
        }


def write_importance(study: Study, trials: list[FrozenTrial], folder: Path) -> None:
    """Write the table beside the records, where there is enough to say."""
    table = rank_knobs(study, trials)
    if len(table):
        write_atomically(folder / IMPORTANCE, table.to_csv(index=False, lineterminator="\n"))
