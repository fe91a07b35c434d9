"""Running work: what is recorded, skipped, taken over, and what a failure leaves."""

from dataclasses import replace

import pytest

from evitlab import runner
from evitlab.environment import describe_environment
from evitlab.lab import Lab, find_missing, list_work
from evitlab.measurements.by_task import MEASUREMENTS
from evitlab.measurements.profile import Bandwidth, Peaks
from evitlab.models.config import config_from_dict
from evitlab.models.zoo import make_config
from evitlab.runner import make_proxy, run_variants
from evitlab.store import measured, read_records
from evitlab.study import Work, load_study

TINY = """
question: q
source: s
expect: e
cost: c
base: {name: deit_t, width: 48, depth: 2, image_size: 32, patch_size: 8, num_classes: 8}
grid: {mhsa_ratio: [0.5, 1]}
tasks:
  macs: {}
  throughput: {batch_size: 1, min_rounds: 2, max_rounds: 2}
  operators: {batch_size: 1, repeats: 2}
  train: {train_images: 32, val_images: 32, seeds: [0, 1], recipe: {steps: 1, batch_size: 8, evaluations: 1}}
"""

PEAKS = Peaks(
    precision="fp32",
    flops_per_second=1e11,
    kernels={"mm": 1e11},
    bandwidths=(Bandwidth(working_set_bytes=1 << 20, bytes_per_second=1e10),),
    seconds_per_page_fault=1e-7,
    seconds_per_dispatch=1e-6,
)


@pytest.fixture
def make_lab(tmp_path):
    def make(text: str = TINY, progress=lambda work, share: None) -> Lab:
        path = tmp_path / "tiny.yaml"
        path.write_text(text)
        return Lab(
            study=load_study(path),
            folder=tmp_path / "results",
            environment=describe_environment("cpu"),
            peaks=lambda precision: PEAKS,
            on_progress=progress,
            records=read_records(tmp_path / "results"),
        )

    return make


def everything(lab: Lab):
    return [lab.study.base, *lab.study.variants()]


def test_every_task_is_recorded_once_with_its_conditions(make_lab):
    seen: dict[Work, list[float]] = {}
    lab = make_lab(progress=lambda work, share: seen.setdefault(work, []).append(share))
    planned = find_missing(lab, everything(lab))
    assert len(planned) == 2 + 1 + 2 * (3 + 2)  # the base's three tasks; two variants, three tasks and two trainings
    run_variants(lab, everything(lab))
    records = read_records(lab.folder)
    assert [record.status for record in records] == ["ok"] * len(planned)
    assert {(r.variant, r.task, r.seed) for r in records} == {(w.variant, w.task, w.seed) for w in planned}
    assert len({record.key for record in records}) == 13 - 3  # at 0.5 it is the base itself: its work is taken over
    assert set(seen) == set(planned)
    assert all(shares[-1] == 1.0 for shares in seen.values())
    for record in records:
        assert isinstance(measured(record), MEASUREMENTS[record.task])
        assert record.environment == lab.environment
        assert record.seconds > 0


def test_throughput_is_one_run_in_turn_with_the_base(make_lab):
    lab = make_lab()
    run_variants(lab, everything(lab))
    timed = {r.variant: measured(r) for r in lab.records if r.task == "throughput"}
    group = ("base", "mhsa_ratio=0.5", "mhsa_ratio=1")
    assert set(timed) == set(group)
    assert all(result.group == group and result.reference == "base" for result in timed.values())
    assert timed["base"].ratio is None


def test_nothing_is_done_twice(make_lab, monkeypatch):
    lab = make_lab()
    run_variants(lab, everything(lab))
    before = (lab.folder / "records.jsonl").read_bytes()
    for name in runner.TASKS:
        monkeypatch.setitem(runner.TASKS, name, lambda *_: pytest.fail("ran again"))
    monkeypatch.setattr(runner, "measure_throughput", lambda *_, **__: pytest.fail("timed again"))
    again = make_lab()
    assert find_missing(again, everything(again)) == []
    run_variants(again, everything(again))
    assert (lab.folder / "records.jsonl").read_bytes() == before


@pytest.mark.slow
def test_other_conditions_are_other_work(make_lab):
    lab = make_lab()
    run_variants(lab, everything(lab))
    for field, value in [("machine", "00000000"), ("torch", "0"), ("threads", 99), ("allocator", "x")]:
        elsewhere = replace(lab, environment=replace(lab.environment, **{field: value}))
        assert len(find_missing(elsewhere, everything(lab))) == 13, field


@pytest.mark.slow
def test_nothing_is_taken_over_from_another_machine(make_lab, monkeypatch):
    lab = make_lab()
    run_variants(lab, everything(lab))
    counted, real = [], runner.TASKS["macs"]
    monkeypatch.setitem(runner.TASKS, "macs", lambda *given: counted.append(given) or real(*given))
    elsewhere = replace(lab, environment=replace(lab.environment, machine="00000000"))
    run_variants(elsewhere, everything(lab))
    assert len(counted) == 2  # the base, which is 0.5 as well, and 1


@pytest.mark.slow
def test_a_new_seed_trains_only_that_seed(make_lab):
    lab = make_lab()
    run_variants(lab, everything(lab))
    more = make_lab(TINY.replace("seeds: [0, 1]", "seeds: [0, 1, 2]"))
    assert find_missing(more, everything(more)) == [
        Work(variant=variant, task="train", seed=2) for variant in ("mhsa_ratio=0.5", "mhsa_ratio=1")
    ]


def test_a_failure_is_a_record_and_the_rest_goes_on(make_lab, monkeypatch):
    def explode(config, settings, seed, device, share):
        raise RuntimeError("no luck\nand advice")

    monkeypatch.setitem(runner.TASKS, "operators", explode)
    lab = make_lab()
    run_variants(lab, everything(lab))
    failed = [record for record in lab.records if record.status == "failed"]
    assert [record.task for record in failed] == ["operators"] * 3
    assert {record.error for record in failed} == {"RuntimeError: no luck"}
    assert all(record.measurement is None for record in failed)
    assert {work.task for work in find_missing(lab, everything(lab))} == {"operators"}
    monkeypatch.undo()
    again = make_lab()
    run_variants(again, everything(again))
    assert find_missing(again, everything(again)) == []


@pytest.mark.slow
def test_one_variant_that_cannot_be_timed_spoils_no_other(make_lab, monkeypatch):
    real = runner.measure_throughput

    def measure(models, **settings):
        if any(model.config.mhsa_ratio == 1 for model in models.values()):
            raise MemoryError("too large")
        return real(models, **settings)

    monkeypatch.setattr(runner, "measure_throughput", measure)
    lab = make_lab()
    run_variants(lab, everything(lab))
    outcome = {record.variant: record.status for record in lab.records if record.task == "throughput"}
    assert outcome == {"base": "ok", "mhsa_ratio=0.5": "ok", "mhsa_ratio=1": "failed"}


def test_a_variant_that_cannot_be_matched_goes_no_further(make_lab, monkeypatch):
    def explode(*_, **__):
        raise RuntimeError("lost")

    monkeypatch.setattr(runner, "match_throughput", explode)
    lab = make_lab(TINY + "match: {speedup: 1.2}\n")
    run_variants(lab, everything(lab))
    tasks = [(record.task, record.status) for record in lab.records if record.variant == "mhsa_ratio=1"]
    assert tasks == [("match", "failed")]
    assert any(record.variant == "base" and record.status == "ok" for record in lab.records)


@pytest.mark.slow
def test_equal_work_asked_for_otherwise_is_taken_over(make_lab, monkeypatch):
    """Another batch size of the profile changes nothing about a training."""
    text = TINY.replace("grid: {mhsa_ratio: [0.5, 1]}", "variants: {one: {mhsa_ratio: 1}}")
    lab = make_lab(text)
    run_variants(lab, everything(lab))
    monkeypatch.setitem(runner.TASKS, "train", lambda *_: pytest.fail("trained again"))
    renamed = make_lab(text.replace("{one:", "{two:"))
    run_variants(renamed, renamed.study.variants())
    theirs = {r.seed: r for r in renamed.records if r.variant == "two" and r.task == "train"}
    ours = {r.seed: r for r in renamed.records if r.variant == "one" and r.task == "train"}
    assert {s: r.measurement for s, r in theirs.items()} == {s: r.measurement for s, r in ours.items()}
    assert set(theirs) == {0, 1}


def test_the_proxy_is_scaled_as_the_network_was(make_lab):
    text = TINY.replace("seeds: [0, 1]", "seeds: [0], proxy: {width: 24, image_size: 64, patch_size: 16}")
    lab = make_lab(text)
    variant = lab.study.variants()[1]
    proxy = make_proxy(lab.study, variant, variant.resize(36))  # 36 / 48 of the width
    assert proxy == make_config("deit_t", mhsa_ratio=1, depth=2, width=18, image_size=64, patch_size=16, num_classes=16)


def test_the_proxy_loses_blocks_where_matching_took_some(make_lab):
    text = TINY.replace("seeds: [0, 1]", "seeds: [0], proxy: {width: 24, image_size: 64, patch_size: 16}")
    lab = make_lab(text)
    variant = lab.study.variants()[1]
    shallow = variant.with_knobs(depth=1).resize(36)
    proxy = make_proxy(lab.study, variant, shallow)
    assert proxy == make_config("deit_t", mhsa_ratio=1, depth=1, width=18, image_size=64, patch_size=16, num_classes=16)
    assert sum(len(block.layers) for block in proxy.stages[0].blocks) == 2  # one block's attention and FFN


OWN = """
match: {speedup: 1.2, reference: own, max_measurements: 1, tolerance: 0.4}
"""


@pytest.mark.slow
def test_each_variant_is_timed_in_turn_with_the_network_it_starts_from(make_lab):
    other = "{name: deit_t, width: 24, depth: 1, image_size: 32, patch_size: 8, num_classes: 8}"
    text = TINY.replace("grid: {mhsa_ratio: [0.5, 1]}", f"grid: {{base: [{other}], mhsa_ratio: [1]}}")
    lab = make_lab(text.split("  train:")[0] + OWN)
    rows = lab.study.rows()
    assert rows[0].name == "base"
    reference, variant = rows[1].name, rows[2].name
    run_variants(lab, rows)
    timed = {r.variant: measured(r) for r in lab.records if r.task == "throughput"}
    assert timed[variant].reference == reference
    assert timed[reference].ratio is None
    match = next(measured(r) for r in lab.records if r.task == "match")
    assert match.reference == reference
    assert config_from_dict(match.base_config) == rows[1].make_config()
    assert find_missing(lab, rows) == []


MATCHED = TINY.split("  operators:")[0] + "match: {speedup: 1.2, max_measurements: 1, tolerance: 0.4}\n"


def test_the_full_timings_of_matching_are_the_rows_speeds(make_lab, monkeypatch):
    """At the matched width, the base's among them; nothing is timed a second time."""
    monkeypatch.setattr(runner, "measure_throughput", lambda *_, **__: pytest.fail("timed twice"))
    lab = make_lab(MATCHED)
    run_variants(lab, everything(lab))
    matches = {r.variant: measured(r) for r in lab.records if r.task == "match"}
    timed = {r.variant: r for r in lab.records if r.task == "throughput"}
    assert set(timed) == {"base", *matches} == {"base", "mhsa_ratio=0.5", "mhsa_ratio=1"}
    assert measured(timed["base"]).ratio is None
    assert config_from_dict(timed["base"].config) == lab.study.base.make_config()
    for name, match in matches.items():
        assert config_from_dict(timed[name].config) == config_from_dict(match.matched_config)
        assert match.matched_config != match.base_config
        assert measured(timed[name]).ratio == match.ratio
        assert measured(timed[name]).alone is not None
    assert find_missing(lab, everything(lab)) == []


def test_a_speed_lost_after_matching_is_timed_at_the_matched_width(make_lab):
    """A study killed between the two records goes on with the second."""
    lab = make_lab(MATCHED)
    run_variants(lab, everything(lab))
    last = [r for r in lab.records if r.task == "throughput" and r.variant == "mhsa_ratio=1"]
    lab.records.remove(*last)
    before = list(lab.records)
    run_variants(lab, everything(lab))
    (again,) = [record for record in lab.records if record not in before]
    assert (again.task, again.variant, again.config) == ("throughput", "mhsa_ratio=1", last[0].config)
    assert measured(again).reference == "base"


def test_a_reference_is_recorded_once_however_many_groups_it_is_timed_in(make_lab):
    lab = make_lab(MATCHED)
    base, first, second = everything(lab)
    run_variants(lab, [base, first])
    run_variants(lab, [base, second])
    assert [r.variant for r in lab.records if r.task == "throughput"] == ["base", first.name, second.name]


def test_a_variant_matched_without_its_reference_times_no_row_of_it(make_lab):
    """As when a worker has claimed that variant alone: the reference is another's row."""
    lab = make_lab(MATCHED)
    run_variants(lab, everything(lab)[2:])
    assert {(r.task, r.variant) for r in lab.records if r.task != "macs"} == {
        ("match", "mhsa_ratio=1"),
        ("throughput", "mhsa_ratio=1"),
    }


def test_without_a_proxy_the_matched_network_itself_is_trained(make_lab):
    lab = make_lab()
    variant = lab.study.variants()[0]
    matched = variant.resize(36)
    assert make_proxy(lab.study, variant, matched) == replace(matched, num_classes=16)


def test_work_is_listed_speed_first(make_lab):
    lab = make_lab(TINY + "match: {speedup: 1.2}\n")
    assert [work.task for work in list_work(lab.study, lab.study.variants()[0])] == [
        "match", "throughput", "macs", "operators", "train", "train",
    ]  # fmt: skip
