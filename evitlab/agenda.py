"""Which results the paper's claims still need, what each costs, and which of them fit a budget."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evitlab.claims import COMMANDS, Claim
from evitlab.problems import UserError
from evitlab.progress import EXPECTED_S
from evitlab.records import Record
from evitlab.store import RECORDS, measured, read_records
from evitlab.study import Study, load_study

EMBEDDED = "shapes"
"""The data set that needs no folder."""
PREFERRED = 0.5
"""What a claim that is judged gains once those results judge it that are preferred: half of being judged at all."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One folder of results: how it is made, and what is left to do."""

    folder: str
    command: str
    """What a person types to make it."""
    study: Path | None = None
    """Its file; None of a pruning."""
    minutes: float | None = None
    """For what is left, on the machine that the study's `cost` names; None where nobody has said."""
    done: bool = False
    """Whether nothing is left."""
    obstacle: str = ""
    """Why it cannot be made here."""


def list_jobs(
    folders: Sequence[str],
    *,
    results: Path,
    studies: Path,
    data_root: str | None = None,
    smoke: bool = False,
    conditions: Mapping[str, Any] | None = None,
) -> dict[str, Job]:
    """A job for each folder of results. What was wholly measured under any one set of conditions is done; of the
    rest counts what is left under the `conditions` of this machine, or where they are not given under the best.
    """
    asked: dict[str, Any] = {"data_root": data_root, "smoke": smoke, "conditions": conditions}
    jobs = {}
    for name in folders:
        try:
            jobs[name] = _list_job(name, results / name / "smoke" if smoke else results / name, studies, **asked)
        except UserError as error:  # the other folders can be made all the same
            jobs[name] = Job(folder=name, command="", obstacle=f"cannot be read: {error}")
    return jobs


def _list_job(name: str, place: Path, studies: Path, *, smoke: bool, **asked: Any) -> Job:
    records = [r for r in read_records(place) if r.smoke == smoke] if (place / RECORDS).exists() else []
    if name in COMMANDS:
        return _list_command(name, records)
    if (path := studies / f"{name}.yaml").exists():
        return _list_study(name, path, records, smoke=smoke, **asked)
    obstacle = "made by hand" if "prune" in name else f"there is no {path}"
    return Job(folder=name, command="", done=bool(records), obstacle=obstacle)


def _list_command(name: str, records: Sequence[Record]) -> Job:
    command = COMMANDS[name]
    done = any(r.task == "prune" and r.status == "ok" and measured(r).importance == "taylor" for r in records)
    return Job(folder=name, command=f"evitlab prune {command.model}", minutes=command.minutes, done=done)


def _list_study(
    name: str,
    path: Path,
    records: Sequence[Record],
    *,
    data_root: str | None,
    smoke: bool,
    conditions: Mapping[str, Any] | None,
) -> Job:
    study = load_study(path, smoke=smoke)
    made = [dict(each) for each in {tuple(r.environment.conditions.items()) for r in records}]
    shares = [find_share_left(study, records, each) for each in made]
    here = 1.0 if conditions is None else find_share_left(study, records, conditions)
    left = min([here, *shares]) if conditions is None or 0.0 in shares else here
    command = f"evitlab run {path}"
    obstacle = ""
    if study.tasks.train is not None and study.tasks.train.data != EMBEDDED:
        command += f" --data-root {data_root or 'DIR'}"
        obstacle = "" if data_root else f"needs --data-root: it trains on {study.tasks.train.data}"
    minutes = None if study.file.minutes is None else left * study.file.minutes
    return Job(folder=name, command=command, study=path, minutes=minutes, done=left == 0, obstacle=obstacle)


def find_share_left(study: Study, records: Sequence[Record], conditions: Mapping[str, Any]) -> float:
    """Share of a study's work that has no measurement under these conditions, each task weighed by the seconds that
    one of its kind is expected to take."""
    settled = {
        (record.variant, record.request, record.seed)
        for record in records
        if record.status != "failed" and record.environment.conditions == conditions
    }
    whole = left = 0.0
    for variant in study.rows():
        for task in study.tasks_of(variant):
            request = study.request(variant, task)
            for seed in study.seeds(task):
                whole += EXPECTED_S[task]
                left += EXPECTED_S[task] * ((variant.name, request, seed) not in settled)
    return left / whole


def find_pace(jobs: Mapping[str, Job], results: Path, machine: str, device: str) -> float:
    """Minutes of this machine for a minute of the studies' estimates, by what was measured here; 1 where nothing was.

    Only studies that are done count, and only those measured on this machine and device alone.
    """
    measured_s = estimated_s = 0.0
    for job in jobs.values():
        if job.study is None or not job.done:
            continue
        records = [record for record in read_records(results / job.folder) if not record.smoke]
        places = {(record.environment.machine, record.environment.device) for record in records}
        estimate = load_study(job.study).file.minutes
        if places == {(machine, device)} and estimate is not None:
            measured_s += sum(record.seconds for record in records)
            estimated_s += 60 * estimate
    return measured_s / estimated_s if measured_s else 1.0


def choose_jobs(claims: Sequence[Claim], jobs: Mapping[str, Job], *, minutes: float, pace: float = 1.0) -> list[Job]:
    """What to run within a budget, in that order: again and again the results that are worth most a minute of those
    that still fit. A claim that nothing judged is worth 1, one that gains the judge it prefers `PREFERRED`.

    Results that judge a claim only together are chosen together.
    """
    have = {name for name, job in jobs.items() if job.done}
    chosen: list[Job] = []
    while True:
        offers = [_offer(group, claims, jobs, have) for group in _list_groups(claims)]
        fitting = [(gain / cost, new) for gain, cost, new in offers if gain > 0 and pace * cost <= minutes]
        if not fitting:
            return chosen
        _, new = max(fitting, key=lambda each: each[0])  # of equals the first in the order of the claims
        chosen += [jobs[name] for name in new]
        minutes -= pace * sum(jobs[name].minutes or 0.0 for name in new)
        have |= set(new)


def _list_groups(claims: Sequence[Claim]) -> list[tuple[str, ...]]:
    return list(dict.fromkeys(group for claim in claims for group in claim.judged_by))


def _offer(
    group: Sequence[str], claims: Sequence[Claim], jobs: Mapping[str, Job], have: set[str]
) -> tuple[float, float, tuple[str, ...]]:
    """What results would add, their minutes, and those of them that are not there; nothing where one cannot be made."""
    new = tuple(name for name in group if name not in have)
    costs = [jobs[name].minutes for name in new]
    if not new or any(jobs[name].obstacle for name in new) or None in costs:
        return 0.0, 0.0, ()
    gain = sum(_value(claim, have | set(new)) - _value(claim, have) for claim in claims)
    return gain, sum(cost for cost in costs if cost is not None), new


def _value(claim: Claim, have: set[str]) -> float:
    first, *others = (set(group) <= have for group in claim.judged_by)
    return (1.0 + PREFERRED) if first else 1.0 * any(others)
