"""The area under a front, beside Optuna's own."""

import random

import numpy as np
import pytest
from optuna._hypervolume import compute_hypervolume

from evitlab.report.search.tables import growth_table, measure_hypervolume, replay_table
from evitlab.sweep.domination import Rival


def draw(count: int) -> list[Rival]:
    generator = random.Random(count)
    return [
        Rival(variant=str(i), ratio=generator.uniform(0.1, 9), curve={10: 0.1, 20: 0.2}, top1=generator.random())
        for i in range(count)
    ]


@pytest.mark.parametrize("count", [1, 2, 7, 40])
def test_the_hypervolume_is_optunas(count):
    rivals = draw(count)
    losses = np.array([[-rival.ratio, -rival.top1] for rival in rivals])
    assert measure_hypervolume(rivals) == pytest.approx(compute_hypervolume(losses, np.array([0.0, 0.0])))


def test_the_front_only_grows():
    grown = growth_table(draw(20))
    assert list(grown["trained"]) == list(range(1, 21))
    assert grown["hypervolume"].is_monotonic_increasing


def test_equal_curves_stop_nothing():
    assert replay_table(draw(5))["stopped"].sum() == 0
