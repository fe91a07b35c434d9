import csv
import io
import json
from dataclasses import replace
from statistics import mean

import numpy as np
import pytest
from fake_evaluation import make_evaluation
from fake_records import (
    ENVIRONMENT,
    PAPER,
    fail,
    make_config,
    make_macs,
    make_match,
    make_profile,
    make_record,
    make_study,
    make_throughput,
    make_training,
    requests,
)
from rich.console import Console
from scipy import stats

from evitlab.report import tables
from evitlab.report.tables import TableError, select_records, study_table

STUDY = make_study()
WANTED = requests(STUDY)
NAME = "mhsa_ratio=0.4"


def table_of(records, *, wanted=None, **options):
    return study_table(records, study="mhsa_ratio", requests=wanted or requests(records), **options)


def chosen_of(records, **options):
    return select_records(records, study="mhsa_ratio", requests=requests(records), **options)


def row_of(table, variant=NAME):
    return table[table["variant"] == variant].iloc[0]


def elsewhere(record, **changes):
    return replace(record, environment=replace(record.environment, **changes))


# Selection


def test_rows_follow_the_study_s_order_not_the_file_s():
    table = study_table(reversed(STUDY), study="mhsa_ratio", requests=WANTED)
    ratios = [f"mhsa_ratio={ratio}" for ratio in ("0", "0.2", "0.4", "0.5", "0.6", "0.8", "1")]
    assert table["variant"].tolist() == ["base", *ratios]
    backwards = dict(reversed(WANTED.items()))
    assert table_of(STUDY, wanted=backwards)["variant"].tolist() == [*reversed(ratios), "base"]
    selected = select_records(STUDY, study="mhsa_ratio", requests=backwards)
    assert [record.seed for record in selected[:2]] == [0, 1]
    assert (selected[0].variant, selected[0].task) == ("mhsa_ratio=1", "train")


def test_the_latest_ok_record_counts():
    old = make_record("throughput", make_throughput(10.0), start="2026-01-01T00:00:00+00:00")
    new = make_record("throughput", make_throughput(20.0), start="2026-01-02T00:00:00+00:00")
    broken = fail(replace(new, start="2026-01-03T00:00:00+00:00"), "later, but failed")
    for order in ([old, new, broken], [broken, new, old]):
        assert row_of(table_of(order))["infer_samples_per_sec"] == 20.0
        assert chosen_of(order) == [new]


def test_equal_starts_leave_the_later_line():
    first, second = (make_record("train", make_training(top1)) for top1 in (0.5, 0.6))
    assert chosen_of([first, second]) == [second]


@pytest.mark.parametrize("change", [{"request": "asked before the study changed"}, {"study": "other"}])
def test_records_that_the_study_does_not_ask_for_are_left_out(change):
    stray = replace(make_record("macs", make_macs()), **change)
    wanted = {(NAME, "macs"): make_record("macs", make_macs()).request}
    assert select_records([stray], study="mhsa_ratio", requests=wanted) == []
    assert row_of(table_of([stray], wanted=wanted))["missing"] == "macs: not run"


def test_a_variant_or_task_no_longer_asked_for_has_no_row():
    wanted = {pair: value for pair, value in WANTED.items() if pair[0] != "base" and pair[1] != "match"}
    table = study_table(STUDY, study="mhsa_ratio", requests=wanted)
    assert "base" not in table["variant"].tolist()
    assert table["match_reached"].isna().all()


def test_smoke_records_never_meet_the_others():
    real = make_record("train", make_training(0.7))
    smoke = make_record("train", make_training(0.1), smoke=True)
    assert chosen_of([real, smoke]) == [real]
    assert chosen_of([real, smoke], smoke=True) == [smoke]
    assert row_of(table_of([smoke], smoke=False))["missing"] == "train: not run"


@pytest.mark.parametrize("task", ["throughput", "operators", "match", "train"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"machine": "ffff0000"}, r"share their machine, but got 0a1b2c3d \(1 records\), ffff0000 \(1 records\); "),
        (
            {"device": "cuda:0", "device_name": "GPU"},
            r"share their device, but got cpu .*for example where=.'device': 'cpu'. .--where 'device=cpu'",
        ),
        ({"torch": "2.14.0"}, r"share their torch, but got 2\.13\.0 \(1 records\), 2\.14\.0"),
    ],
)
def test_measurements_of_two_places_do_not_mix(task, change, message):
    measurement = {
        "throughput": make_throughput(),
        "operators": make_profile(),
        "match": make_match(),
        "train": make_training(),
    }[task]
    records = [make_record(task, measurement), elsewhere(make_record(task, measurement, variant="other"), **change)]
    with pytest.raises(TableError, match=message):
        table_of(records)
    field, value = next(iter(change.items()))
    assert chosen_of(records, where={field: value}) == records[1:]
    assert chosen_of(records, where={field: getattr(ENVIRONMENT, field)}) == records[:1]


@pytest.mark.parametrize("change", [{"threads": 1}, {"allocator": "jemalloc"}])
def test_timings_under_other_threads_or_allocators_do_not_mix_but_trainings_may(change):
    pair = [make_record("train", make_training()), make_record("train", make_training(), variant="other")]
    assert len(chosen_of([pair[0], elsewhere(pair[1], **change)])) == 2
    pair = [make_record("operators", make_profile()), make_record("operators", make_profile(), variant="other")]
    with pytest.raises(TableError, match=f"must share their {next(iter(change))}, but got"):
        chosen_of([pair[0], elsewhere(pair[1], **change)])


def test_a_full_repeat_with_a_newer_torch_replaces_the_old():
    later = [replace(elsewhere(r, torch="2.14.0"), start="2027-01-01T00:00:00+00:00") for r in STUDY]
    assert {record.environment.torch for record in chosen_of([*STUDY, *later])} == {"2.14.0"}


def test_counts_of_several_machines_are_one():
    here = make_record("macs", make_macs())
    there = elsewhere(replace(here, start="2027-01-01T00:00:00+00:00"), machine="ffff0000")
    assert chosen_of([here, there]) == [there]


def test_where_must_name_a_field_of_the_environment():
    with pytest.raises(TableError, match=r"where must name fields .*\(device, .*but got unknown=\['host'\]"):
        chosen_of(STUDY, where={"host": "x"})


# Cells


def test_cells_are_the_measured_values():
    row = row_of(table_of(STUDY))
    macs, timing, profile = make_macs(158), make_throughput(60.9, ratio=60.9 / 48), make_profile(0.4)
    assert (row["macs"], row["param_count"], row["width"]) == (macs.macs, macs.params, 158)
    assert row["infer_samples_per_sec"] == timing.images_per_second
    assert row["infer_samples_per_sec_low"] == timing.images_per_second_low
    assert row["infer_samples_per_sec_high"] == timing.images_per_second_high
    assert (row["infer_batch_size"], row["infer_img_size"]) == (16, "224x224")
    assert (row["speed_ratio"], row["speed_ratio_low"]) == (timing.ratio, timing.ratio_low)
    assert row["memory_bound_share"] == profile.memory_bound_share
    assert row["roofline_memory_bound_share"] == profile.roofline_memory_bound_share
    assert row["speed_reference"] == "base"
    assert (row["proxy_img_size"], row["proxy_width"], row["train_data"]) == ("32x32", 48, "scenes")
    assert row["knob_mhsa_ratio"] == 0.4
    assert bool(row["match_reached"]) is True
    assert row_of(table_of(STUDY), "base")["speed_ratio"] == 1.0
    assert np.isnan(row_of(table_of(STUDY), "base")["speed_ratio_low"])


def test_every_column_is_in_the_dictionary_with_its_unit():
    table = table_of(STUDY)
    documented = {"knob_mhsa_ratio" if name == "knob_*" else name for name in tables.COLUMNS}
    assert set(table.columns) == documented
    assert table["macs"].dtype == "Int64"
    shares = [name for name, (unit, _) in tables.COLUMNS.items() if unit == "share"]
    assert all(table[name].dropna().between(0, 1).all() for name in shares)


@pytest.mark.parametrize("values", [(0.70, 0.72), (0.5, 0.52, 0.49, 0.55)])
def test_accuracy_interval_is_scipy_s(values):
    records = [make_record("train", make_training(top1), seed=seed) for seed, top1 in enumerate(values)]
    row = row_of(table_of(records))
    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert row["top1"] == pytest.approx(mean(values))
    assert (row["top1_low"], row["top1_high"]) == pytest.approx((low, high))
    assert row["top5"] == pytest.approx(mean(values) + 0.2)
    assert row["top1_seeds"] == len(values)
    assert row["top1_values"] == list(values)


def test_two_seeds_use_the_tabled_t_of_12_706():
    low, high = tables.mean_interval([0.50, 0.52])  # standard error 0.01
    assert (low, high) == pytest.approx((0.51 - 0.12706, 0.51 + 0.12706), abs=1e-5)


def test_accuracy_intervals_stay_between_0_and_1_and_need_two_seeds():
    assert tables.mean_interval([0.0, 1.0]) == (0.0, 1.0)
    row = row_of(table_of([make_record("train", make_training(0.5))]))
    assert np.isnan(row["top1_low"])
    assert np.isnan(row["top1_high"])
    assert row["top1_seeds"] == 1


def test_a_knob_may_be_a_list():
    table = table_of([make_record("macs", make_macs(), knobs={"num_heads": [4, 4, 2]})])
    assert row_of(table)["knob_num_heads"] == [4, 4, 2]
    assert '"[4, 4, 2]"' in tables.to_csv(table)


def test_training_the_timed_network_itself_is_no_proxy():
    config = make_config(width=158, size=224)
    records = [
        make_record("macs", make_macs(), config=config),
        make_record("train", make_training(), config=config),
    ]
    table = table_of(records)
    assert table["proxy_width"].isna().all()
    assert "top-1 %, as trained here (n=1)" in tables.readable(table).columns


def test_evaluations_give_means_over_the_seeds():
    first, second, none = (make_evaluation(4, skill=skill)[0] for skill in (0.5, 0.6, 0.7))
    assert first.ece != second.ece
    second = replace(second, macro_auc=0.5)
    records = [make_record("evaluate", each, seed=seed) for seed, each in enumerate([first, second])]
    table = table_of(records)
    assert row_of(table)["macro_auc"] == pytest.approx(((0.99 + 0.7) / 2 + 0.5) / 2)
    assert row_of(table)["ece"] == pytest.approx((first.ece + second.ece) / 2)
    assert tables.readable(table)["macro AUC %"].tolist() == ["67.2"]
    undefined = make_record("evaluate", replace(none, macro_auc=None))
    assert np.isnan(row_of(table_of([undefined]))["macro_auc"])
    assert row_of(table_of([undefined]))["ece"] == none.ece


def test_paper_values_stand_beside_and_must_be_shares():
    table = table_of(STUDY, paper_top1={"mhsa_ratio=0.4": 0.63})
    assert row_of(table)["paper_top1"] == 0.63
    assert table["paper_top1"].notna().sum() == 1
    with pytest.raises(TableError, match=r"paper_top1 must be shares in 0\.\.1, but got {'mhsa_ratio=0\.4': 63\.0}"):
        table_of(STUDY, paper_top1={"mhsa_ratio=0.4": 63.0})


def test_missing_says_what_and_why():
    train = [make_record("train", make_training(), seed=seed) for seed in (0, 1, 2)]
    records = [train[0], fail(train[1], "RuntimeError: out of memory\ntraceback"), fail(train[2], "")]
    wanted = {(NAME, "macs"): "x", **requests(records)}
    missing = row_of(table_of(records, wanted=wanted))["missing"]
    assert missing == "macs: not run; train (seed 1): RuntimeError: out of memory; train (seed 2): failed"
    both = [fail(record, "ValueError: no") for record in train]
    assert row_of(table_of(both))["missing"] == "train: ValueError: no"


def test_operators_without_a_counting_rule_are_named():
    macs = replace(make_macs(), uncounted={"aten::fft": 2})
    assert row_of(table_of([make_record("macs", macs)]))["missing"] == "macs: not counted: aten::fft"


def test_no_records_give_a_table_of_what_is_missing():
    table = study_table([], study="mhsa_ratio", requests=WANTED)
    assert len(table) == 8
    assert table["missing"].notna().all()
    assert tables.readable(table).columns.tolist() == ["variant", "not measured"]


# Text


def test_csv_keeps_full_precision():
    text = tables.to_csv(table_of(STUDY))
    rows = list(csv.DictReader(io.StringIO(text)))
    row = next(row for row in rows if row["variant"] == NAME)
    assert float(row["speed_ratio"]) == 60.9 / 48
    assert row["macs"] == "948000000"
    assert json.loads(row["top1_values"]) == [0.745 - 0.004, 0.745 + 0.005]
    assert rows[0]["top1"] == ""
    assert "\r" not in text


def test_readable_rounds_and_says_proxy():
    table = table_of(STUDY, paper_top1={f"mhsa_ratio={ratio:g}": top1 for ratio, top1 in PAPER.items()})
    row = tables.readable(table).set_index("variant").loc[NAME]
    assert row.to_dict() == {
        "width": "158",
        "MACs (papers: FLOPs)": "948M",
        "params": "3.74M",
        "images/s": "60.9\n59.4-62.1",
        "speed over base": "1.27\n1.25-1.30",
        "memory bound %": "33.8\n32.6-35.3",
        "by roofline %": "38.8",
        "top-1 %, proxy (n=2)": "74.6\n68.8-80.3",
        "top-1 %, paper": "63.0",
    }


def test_readable_names_unequal_seeds_and_a_missed_target():
    records = [
        make_record("train", make_training()),
        *(make_record("train", make_training(), variant="other", seed=seed) for seed in (0, 1)),
        make_record("match", make_match()),
        make_record("throughput", make_throughput(ratio=1.3)),  # 4% from the target of 1.25, where 3% are allowed
    ]
    text = tables.readable(table_of(records))
    assert text["top-1 %, proxy"].tolist() == ["74.5 (n=1)", "74.5 (n=2)\n74.5-74.5"]
    assert text["speed over base"].tolist()[0].startswith("1.30 (target missed)\n")


@pytest.mark.parametrize(("ratio", "reached"), [(1.25, True), (1.287, True), (1.288, False), (1.2, False)])
def test_the_timing_that_followed_says_whether_the_target_was_met(ratio, reached):
    """Whatever matching itself had seen: 1.25 +- 3%."""
    seen = replace(make_match(), reached=not reached)
    both = table_of([make_record("match", seen), make_record("throughput", make_throughput(ratio=ratio))])
    assert bool(both["match_reached"][0]) is reached
    assert bool(table_of([make_record("match", seen)])["match_reached"][0]) is not reached


def test_the_reference_itself_misses_no_target():
    seen = replace(make_match(), speedup=1.0, reached=False)
    itself = replace(seen, matched_config=seen.base_config)
    for match, reached in ((seen, False), (itself, True)):
        table = table_of([make_record("match", match), make_record("throughput", make_throughput(ratio=1.1))])
        assert bool(table["match_reached"][0]) is reached


@pytest.mark.parametrize(
    ("count", "text"), [(999, "999"), (5_717_416, "5.72M"), (79_200_000, "79.2M"), (1_253_700_000, "1.25G")]
)
def test_counts_have_three_digits(count, text):
    assert tables.si(count) == text


@pytest.mark.parametrize(("value", "text"), [(0.0, "0"), (0.5, "0.500"), (60.94, "60.9"), (15914.2, "15,914")])
def test_rates_have_three_digits(value, text):
    assert tables.significant(value) == text


def test_the_terminal_shows_every_cell_at_80_columns():
    console = Console(width=80, record=True, file=io.StringIO())
    paper = {f"mhsa_ratio={ratio:g}": top1 for ratio, top1 in PAPER.items()}
    broken = [fail(r, "[red]boom") if (r.variant, r.task) == ("mhsa_ratio=1", "train") else r for r in STUDY]
    table = table_of(broken, paper_top1=paper)
    console.print(tables.render_terminal(table, title="[bold]study"))
    shown = console.export_text()
    assert "proxy" in shown
    assert "[bold]study" in shown
    assert "not measured: mhsa_ratio=1: train: [red]boom" in shown
    assert "params" not in shown
    for column, values in tables.readable(table).drop(columns=["not measured", "params"]).items():
        assert all(part in shown for cell in values for part in cell.split("\n")), column
