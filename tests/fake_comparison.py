"""A small study that cites its source, and what a run of it leaves: some rows separable, some not."""

from dataclasses import replace

from fake_records import fail, make_match, make_record, make_throughput, make_training

from evitlab.report.comparison.paper import compare_with_paper
from evitlab.report.tables import select_records, study_table
from evitlab.study import load_study

TEXT = """
question: Which?
source: Table 6
expect: A loss.
cost: seconds
base: efficientvit_m4
variants:
  plain: {}
  worse: {attention: group}
  better: {act: hardswish}
  unsure: {ffn_ratio: 4}
  unknown: {depthwise: false}
match: {speedup: 1.0, tolerance: 0.02}
tasks:
  throughput: {batch_size: 16}
  train: {seeds: [0, 1, 2]}
paper:
  top1: {plain: 71.3, worse: 69.8, better: 69.0, unsure: 69.9}
  images_per_second: {plain: 15914, worse: 16411}
"""
TOP1 = {
    "plain": [0.60, 0.50, 0.55],
    "worse": [0.50, 0.41, 0.45],  # -0.10, -0.09, -0.10
    "better": [0.70, 0.59, 0.65],  # higher, and lower in the paper
    "unsure": [0.55, 0.52, 0.50],  # -0.05, +0.02, -0.05
    "unknown": [0.40, 0.31, 0.36],  # lower; the paper has no value
}
SPEED = {"plain": 1.01, "worse": 1.015, "better": 0.99, "unsure": 0.9, "unknown": 1.0}


def read_study(tmp_path):
    """The study, read from a file there."""
    path = tmp_path / "one.yaml"
    path.write_text(TEXT)
    return load_study(path)


def make_records(study, top1=TOP1, *, lost=()):
    """What a run of the study leaves; `lost` holds (variant, seed) of trainings that failed."""
    records = []
    for variant in study.variants():
        same = {"study": study.name, "variant": variant.name, "knobs": dict(variant.changes)}
        ratio = SPEED[variant.name]
        match = replace(make_match(128), speedup=1.0, tolerance=0.02, reached=True)
        for task, made in (("match", match), ("throughput", make_throughput(ratio=ratio))):
            records.append(make_record(task, made, request=study.request(variant, task), **same))
        for seed, value in enumerate(top1[variant.name]):
            record = make_record("train", make_training(value), request=study.request(variant, "train"), **same)
            record = replace(record, seed=seed)
            records.append(fail(record, "no memory") if (variant.name, seed) in lost else record)
    return records


def compare(study, records):
    chosen = select_records(records, study=study.name, requests=study.requests())
    table = study_table(records, study=study.name, requests=study.requests(), paper_top1=study.paper_top1())
    return compare_with_paper(study, table, chosen)
