import io
import json
from dataclasses import replace
from statistics import median

import pandas as pd
import pytest
from fake_records import (
    ENVIRONMENT,
    fail,
    make_curve,
    make_macs,
    make_record,
    make_self_test,
    make_throughput,
)
from rich.console import Console

from evitlab.report.tables import TableError, to_csv
from evitlab.report.timing_tables import (
    COLUMNS,
    FIXED,
    curve_table,
    describe_conditions,
    render_curve,
    render_self_test,
    render_timing,
    timing_table,
)

BASE = make_record("throughput", make_throughput(48.0, ratio=None), variant="base")
FAST = make_record("throughput", make_throughput(60.0, ratio=1.25, seed=1), variant="fast")


def changed(record, **changes):
    """The record with other fields of its environment or its measurement."""
    environment = {name: value for name, value in changes.items() if hasattr(record.environment, name)}
    measurement = {name: value for name, value in changes.items() if name not in environment}
    assert measurement.keys() <= record.measurement.keys()
    return replace(
        record,
        environment=replace(record.environment, **environment),
        measurement=record.measurement | measurement,
    )


def shown(table, width=100):
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(table)
    return console.export_text()


def test_cells_are_the_measured_values():
    table = timing_table([BASE, FAST])
    timing = make_throughput(60.0, ratio=1.25, seed=1)
    row = table.iloc[1]
    assert table["model"].tolist() == ["base", "fast"]
    for column, value in {
        "infer_samples_per_sec": 60.0,
        "infer_samples_per_sec_low": timing.images_per_second_low,
        "infer_samples_per_sec_high": timing.images_per_second_high,
        "latency_s": median(timing.seconds),
        "ratio": 1.25,
        "ratio_low": timing.ratio_low,
        "ratio_high": timing.ratio_high,
        "reference": "base",
        "rounds": 9,  # 18 calls, two a repeat
        "stopped_by": "half-width",
        "infer_batch_size": 16,
        "infer_img_size": "224x224",
        "threads": ENVIRONMENT.threads,
        "device_name": ENVIRONMENT.device_name,
        "load_average_before": 0.4,
        "cpu_hz_before": 2.1e9,
        "start": FAST.start,
    }.items():
        assert row[column] == value, column
    assert table[["latency_p90_s", "latency_p99_s", "cpu_hz_after"]].isna().all(axis=None)
    assert pd.isna(table["ratio"][0])


def test_every_column_is_in_the_dictionary_and_filled_where_measured():
    table = timing_table([changed(FAST, latency_p90_s=0.3, latency_p99_s=0.31, cpu_hz_after=2.2e9)])
    assert table.columns.tolist() == [*COLUMNS]
    assert table.notna().all(axis=None)
    assert set(FIXED) < set(COLUMNS)


def test_failed_records_and_other_tasks_are_left_out():
    records = [fail(FAST, "no"), make_record("macs", make_macs()), BASE]
    assert timing_table(records)["model"].tolist() == ["base"]
    empty = timing_table([])
    assert empty.columns.tolist() == [*COLUMNS]
    assert "Throughput" in shown(render_timing(empty))


def test_tables_can_be_written_as_csv_and_json():
    table = timing_table([BASE, FAST])
    back = pd.read_csv(io.StringIO(to_csv(table)))
    assert back["infer_samples_per_sec"].tolist() == [48.0, 60.0]
    assert json.loads(table.to_json(orient="records"))[0]["ratio"] is None


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("machine", "ffff0000", r"share their machine, but got 0a1b2c3d \(1 records\), ffff0000 \(1 records\)"),
        ("device", "cuda:0", r"share their device, but got cpu .*, cuda:0"),
        ("torch", "2.14.0", r"share their torch, but got 2\.13\.0 .*, 2\.14\.0"),
        (
            "threads",
            1,
            r"share their threads, but got 2 .*, 1 .*where=.'threads': 2. .--where 'threads=2'., or allow",
        ),
        ("allocator", "glibc, tuned", r"share their allocator, but got glibc, default .*, glibc, tuned"),
        ("protocol", "cream", r"share their protocol, but got evitlab .*, cream"),
        ("precision", "bf16", r"share their precision, but got fp32 .*, bf16"),
        ("mode", "traced", r"share their mode, but got eager .*, traced"),
        ("memory_format", "channels_last", r"share their memory_format, but got contiguous .*, channels_last"),
        ("linear_library", "oneDNN", r"share their linear_library, but got MKL .*, oneDNN"),
        (
            "batch_size",
            1,
            r"share their batch_size, but got 16 .*where=.'batch_size': 16. .--where 'batch_size=16'., or .*--mixed",
        ),
    ],
)
def test_conditions_do_not_mix_unless_asked_for(field, value, message):
    other = changed(FAST, **{field: value})
    with pytest.raises(TableError, match="timings of one table must " + message):
        timing_table([BASE, other])
    mixed = timing_table([BASE, other], mixed=True)
    column = {"batch_size": "infer_batch_size"}.get(field, field)
    assert mixed[column].tolist()[1] == value
    assert str(value) in shown(render_timing(mixed), width=140)
    common = describe_conditions(mixed)
    assert len(common.split("; ")) == len(describe_conditions(timing_table([BASE, FAST])).split("; ")) - 1


def test_what_depends_on_the_model_may_vary_and_is_shown():
    other = changed(FAST, image_size=(240, 256), folded=False, attention_path="not known")
    text = shown(render_timing(timing_table([BASE, other])), width=140)
    for part in ("240x256", "not folded", "not known"):
        assert part in text
    assert "pixels 224x224" not in text


def test_people_see_intervals_and_the_conditions_in_one_line():
    text = shown(render_timing(timing_table([BASE, FAST]), title="[bold]"), width=400)
    lines = [line.strip() for line in text.splitlines()]
    assert lines[0] == "[bold]"
    assert lines[1].split() == ["model", "images/s", "ms", "a", "batch", "ratio", "stopped", "by"]
    latency = f"{1000 * median(BASE.measurement['seconds']):.0f}"
    assert lines[2].split() == ["base", "48.0", latency, "half-width"]
    assert lines[5].split() == ["58.5-61.2", "1.230-1.280", "9", "rounds"]
    assert " ".join(lines[6:]).strip() == (
        "ratio to base; protocol evitlab; device Example CPU @ 2.10GHz; threads 2; batch 16; pixels 224x224; "
        "precision fp32; memory format contiguous; BatchNorm folded; mode eager; linear layers by MKL; "
        "attention fused; allocator glibc, default; torch 2.13.0; machine 0a1b2c3d; load 0.4-1.1; clock 2.10 GHz"
    )


def test_percentiles_have_a_column_only_where_there_are_enough_calls():
    assert "p90" not in shown(render_timing(timing_table([BASE, FAST])))
    text = shown(render_timing(timing_table([BASE, changed(FAST, latency_p90_s=0.2825)])))
    assert "p90" in text
    assert "p99" not in text
    assert "282" in text


def test_what_the_system_does_not_tell_is_not_said():
    silent = dict.fromkeys(("load_average_before", "load_average_after", "cpu_hz_before"))
    line = describe_conditions(timing_table([changed(BASE, **silent)]))
    assert "load" not in line
    assert "clock" not in line


def test_an_accelerator_is_named_with_its_number():
    record = changed(BASE, device="cuda:1", device_name="GPU")
    assert "device GPU (cuda:1)" in describe_conditions(timing_table([record]))


def test_runs_one_after_the_other_are_pointed_out():
    later = replace(FAST, start="2026-01-02T04:00:00+00:00")
    assert "Timed in 2 runs" in shown(render_timing(timing_table([BASE, later])))
    assert "runs" not in shown(render_timing(timing_table([BASE, FAST])))


def test_a_curve_says_where_it_is_overhead_bound_and_best():
    curve = make_curve(per_call=0.006, per_image=0.002, largest=16)
    table = curve_table(curve)
    assert table["infer_batch_size"].tolist() == [1, 2, 4, 8, 16]
    assert table["overhead_bound"].tolist() == [True, True, False, False, False]
    assert table["best"].tolist() == [False, False, True, False, False]
    assert table["latency_s"].tolist() == pytest.approx([0.006, 0.006, 0.008, 0.016, 0.032])
    assert table["infer_samples_per_sec_low"][0] == curve.points[0].images_per_second_low
    text = shown(render_curve(curve), width=120)
    rows = [line.split() for line in text.splitlines()]
    assert rows[3] == ["2", "333", "327-337", "6.00", "overhead-bound"]
    assert rows[4] == ["4", "500", "490-505", "8.00", "best"]
    assert "Up to batch 2 a call takes about as long as for one image: overhead-bound." in " ".join(text.split())
    assert "Ended: 16 is the largest batch asked for." in " ".join(text.split())


def test_a_curve_may_have_no_overhead_bound_region():
    curve = replace(make_curve(), overhead_bound_until=None)
    assert not curve_table(curve)["overhead_bound"].any()
    assert "No batch is overhead-bound: two images already" in " ".join(shown(render_curve(curve)).split())


def test_a_self_test_shows_every_run_and_the_verdict():
    text = shown(render_self_test(make_self_test((1.002, 0.99, 1.011))), width=120)
    rows = [line.split() for line in text.splitlines()]
    assert rows[4] == ["3", "1.0110", "1.0060-1.0160", "no", "12", "half-width"]
    assert [row[3] for row in rows[2:5]] == ["yes", "no", "no"]
    said = " ".join(text.split())
    assert "Failed: 1 of 3 intervals contain 1 (nine in ten must)" in said
    assert "the median of |ratio - 1| is 1.00%" in said
    assert "Passed: 2 of 2" in shown(render_self_test(make_self_test((1.002, 0.996))))
