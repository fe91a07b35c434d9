"""Folders of results whose verdicts are known by construction. For tests of claims."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fake_records import make_record, make_throughput, make_training

from evitlab.records import Record
from evitlab.report.reproduction.evidence import Results, read_results
from evitlab.study import Study, load_study

WORDS = "question: q\nsource: s\nexpect: e\ncost: c\n"
RATIOS = (
    WORDS
    + """
base: deit_t
grid: {mhsa_ratio: [0, 0.2, 0.4, 0.5, 0.6, 0.8, 1]}
tasks: {train: {seeds: [0, 1, 2]}}
"""
)
SIZES = (
    WORDS
    + """
base: efficientvit_m0
variants: {small: {base: efficientvit_m0}, middle: {base: efficientvit_m1}, large: {base: efficientvit_m2}}
compare_to: small
tasks: {throughput: {}, train: {seeds: [0, 1, 2]}}
paper: {top1: {small: 63.2, middle: 68.4, large: 70.8}}
"""
)


def lay(root: Path, name: str, text: str) -> Study:
    """A folder of results with a study's copy, and the study."""
    (root / name).mkdir(parents=True, exist_ok=True)
    path = root / name / "study.yaml"
    path.write_text(text)
    return replace(load_study(path), name=name)


def write(root: Path, name: str, records: Sequence[Record]) -> None:
    """The folder's records."""
    (root / name).mkdir(parents=True, exist_ok=True)
    (root / name / "records.jsonl").write_text("".join(f"{record.to_json()}\n" for record in records))


def train(study: Study, top1: Mapping[str, Sequence[float]]) -> list[Record]:
    """Trainings of these variants, a seed each value."""
    found = []
    for variant in study.variants():
        for seed, value in enumerate(top1.get(variant.name, ())):
            found.append(make(study, variant.name, "train", make_training(value), seed=seed))
    return found


def time(study: Study, ratios: Mapping[str, float]) -> list[Record]:
    """Timings at these speeds over the base's, known to -2% and +3% of the base's."""
    return [make(study, name, "throughput", make_throughput(100 * r, ratio=r)) for name, r in ratios.items()]


def make(study: Study, name: str, task: str, measurement: Any, **changes: Any) -> Record:
    """A record of a row of the study."""
    variant = next(each for each in study.rows() if each.name == name)
    same = {"study": study.name, "knobs": dict(variant.changes), "request": study.request(variant, task)}
    return make_record(task, measurement, variant=name, **same, **changes)


def read(root: Path, name: str = "one") -> Results:
    """What is read of that folder, which can judge."""
    found = read_results(root, name)
    assert isinstance(found, Results), found
    return found


def spread(*means: float, by: float = 0.01) -> dict[str, list[float]]:
    """Top-1 of the ratios of `RATIOS` in their order, three seeds that lie a little apart, each row's differently."""
    names = [f"mhsa_ratio={ratio}" for ratio in (0, 0.2, 0.4, 0.5, 0.6, 0.8, 1)]
    return {
        name: [mean - by, mean + by * (number % 3 - 1) / 10, mean + by]
        for number, (name, mean) in enumerate(zip(names, means, strict=True))
    }
