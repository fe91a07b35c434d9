"""What a search leaves: its front beside what was made by hand, the front's growth, how much each knob matters."""

from dataclasses import replace
from statistics import mean, stdev

import optuna
import pandas as pd
import pytest
from fake_records import make_record, make_throughput, make_training
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator

from evitlab.report.search.report import write_search
from evitlab.report.search.tables import front_table, growth_table
from evitlab.report.study_report import tabulate
from evitlab.study import Study, load_study
from evitlab.sweep.domination import list_rivals
from evitlab.sweep.knob_importance import FEWEST, SEEDS, rank_knobs, write_importance

STUDY = """
question: q
source: s
expect: e
cost: c
base: deit_t
variants: {by hand: {mhsa_ratio: 0.2}}
search: {variants: 4, knobs: {width: {low: 96, high: 192, step: 24}, ffn_ratio: [1, 2, 4]}}
tasks: {macs: {}, throughput: {}, train: {seeds: [0]}}
"""


@pytest.fixture
def study(tmp_path) -> Study:
    path = tmp_path / "found.yaml"
    path.write_text(STUDY)
    found = [(f"deit_t-{width}", {"width": width, "ffn_ratio": 2}) for width in (96, 144)]
    return load_study(path).with_found(found)


def measure(study: Study, results: dict[str, tuple[float, float]]) -> list:
    """Records of speeds and accuracies, a training an hour."""
    rows, records = {row.name: row for row in study.rows()}, []
    for hour, (name, (ratio, top1)) in enumerate(results.items()):
        for task, made in (("throughput", make_throughput(48 * ratio, ratio=ratio)), ("train", make_training(top1))):
            request = study.request(rows[name], task)
            start = f"2026-01-02T{hour:02d}:00:00+00:00"
            record = make_record(task, made, variant=name, request=request, study=study.name, start=start)
            records.append(replace(record, seconds=1800.0 if task == "train" else 1.0))
    return records


RESULTS = {"by hand": (1.0, 0.5), "deit_t-96": (2.0, 0.6), "deit_t-144": (1.5, 0.8)}


def test_the_front_stands_beside_what_was_made_by_hand(study):
    records = measure(study, RESULTS)
    front = front_table(tabulate(study, records, {}), named={"by hand"})
    assert front["variant"].tolist() == ["deit_t-96", "deit_t-144", "by hand"]  # the fastest first
    assert front["found"].tolist() == [True, True, False]
    assert front["on_front"].tolist() == [True, True, False]
    assert front["top1"].tolist() == pytest.approx([0.6, 0.8, 0.5])


def test_the_front_grows_over_time(study):
    growth = growth_table(list_rivals(measure(study, RESULTS)))
    assert growth["variant"].tolist() == list(RESULTS)
    assert growth["hours"].tolist() == pytest.approx([0.0, 1.0, 2.0])
    assert growth["hypervolume"].tolist() == pytest.approx([1.0 * 0.5, 2.0 * 0.6, 1.5 * 0.8 + 0.5 * 0.6])


def test_a_search_leaves_its_tables_and_its_picture(study, tmp_path):
    records = measure(study, RESULTS)
    pictures = write_search(study, tabulate(study, records, {}), records, tmp_path / "out", subtitle="")
    assert len(pictures) == 1
    assert (tmp_path / "out" / "front.png").read_bytes().startswith(b"\x89PNG")
    for name in ("front", "hypervolume", "early_stopping"):
        assert len(pd.read_csv(tmp_path / "out" / f"{name}.csv"))
    assert write_search(study, tabulate(study, [], {}), [], tmp_path / "none", subtitle="") == []


def make_trials(count: int, *, base: str | None = None) -> list[optuna.trial.FrozenTrial]:
    """Accuracy hangs on the width alone, speed mostly on the FFN ratio."""
    trials = []
    for number in range(count):
        width, ratio = 96 + 24 * (number % 5), (1, 2, 4)[number % 3]
        distributions = {"width": IntDistribution(96, 192, step=24), "ffn_ratio": CategoricalDistribution([1, 2, 4])}
        params: dict = {"width": width, "ffn_ratio": ratio}
        if base is not None:
            distributions = {f"{base}.{knob}": each for knob, each in distributions.items()}
            params = {f"{base}.{knob}": each for knob, each in params.items()} | {"base": base}
            distributions |= {"base": CategoricalDistribution(["deit_t", "swin_t"])}
        values = [width / 200, 10 / ratio + width / 1e4]
        trials.append(optuna.trial.create_trial(params=params, distributions=distributions, values=values))
    return trials


@pytest.mark.slow
def test_importances_are_optunas_with_their_spread_over_seeds(study):
    trials = make_trials(20)
    table = rank_knobs(study, trials)
    for number, objective in enumerate(("top1", "speed_ratio")):
        single = optuna.create_study(direction="maximize")
        single.add_trials([
            optuna.trial.create_trial(params=t.params, distributions=t.distributions, value=t.values[number])
            for t in trials
        ])  # fmt: skip
        forests = [FanovaImportanceEvaluator(seed=seed) for seed in SEEDS]
        expected = [optuna.importance.get_param_importances(single, evaluator=each) for each in forests]
        plain = optuna.importance.get_param_importances(single, evaluator=PedAnovaImportanceEvaluator())
        own = table[table["objective"] == objective].set_index(["evaluator", "knob"])
        for knob in ("width", "ffn_ratio"):
            values = [each[knob] for each in expected]
            assert own.loc[("fANOVA", knob), "importance"] == pytest.approx(mean(values))
            assert own.loc[("fANOVA", knob), "spread"] == pytest.approx(stdev(values))
            assert own.loc[("PED-ANOVA", knob), "importance"] == pytest.approx(plain[knob])
            assert pd.isna(own.loc[("PED-ANOVA", knob), "spread"])
    top = table[table["evaluator"] == "fANOVA"].set_index(["objective", "knob"])["importance"]
    assert top["top1", "width"] > 0.9
    assert top["speed_ratio", "ffn_ratio"] > 0.9
    assert set(table["variants"]) == {20}


@pytest.mark.slow
def test_each_base_is_judged_by_itself_and_too_few_say_nothing(study, tmp_path):
    table = rank_knobs(study, [*make_trials(FEWEST, base="deit_t"), *make_trials(FEWEST - 1, base="swin_t")])
    assert set(table["base"]) == {"deit_t"}
    assert set(table["knob"]) == {"width", "ffn_ratio"}
    write_importance(study, make_trials(FEWEST - 1), tmp_path / "none")
    assert not (tmp_path / "none").exists()
    write_importance(study, make_trials(FEWEST), tmp_path / "some")
    assert len(pd.read_csv(tmp_path / "some" / "importance.csv"))
