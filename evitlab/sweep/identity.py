"""What tells studies and variants in a storage apart: hashes of what is asked of them."""

import json
from collections.abc import Mapping
from typing import Any, Literal

from evitlab.models.knobs import KnobError
from evitlab.records import RECORD, Record, digest
from evitlab.study import Study, Variant

Direction = Literal["minimize", "maximize"]


def objectives(study: Study) -> list[tuple[str, Direction]]:
    """What a trial is told, and which way is better: accuracy and speed where they are measured."""
    told: list[tuple[str, Direction]] = []
    if study.tasks.train is not None:
        told.append(("top1", "maximize"))
    if study.tasks.throughput is not None:
        told.append(("speed_ratio", "maximize"))
    if not told:
        told.append(("macs", "minimize") if study.tasks.macs is not None else ("memory_bound_share", "minimize"))
    return told


def name_trials(study: Study) -> str:
    """The name of the study's trials: another grid, search or other objectives are another set of trials."""
    file = study.file
    base = file.base if isinstance(file.base, str) else dict(file.base)
    asked: list[Any] = [file.grid, file.variants, base, objectives(study)]
    if file.search is not None:  # its proposals follow from all that they were judged by
        spaces = [file.search.space_of(name) for name in file.search.bases or [None]]
        spaces_plain = [{knob: repr(values) for knob, values in space.items()} for space in spaces]
        asked += [spaces_plain, file.search.sampler, file.search.seed, study.seed]
        asked += [study.settings(task) for task in study.tasks_of(study.vary("any", {}))]
    return f"{study.name}-{digest(asked)}{'-smoke' if study.smoke else ''}"


def hash_asked(study: Study, variant: Variant) -> str:
    """Hash of all that a study asks of a variant."""
    study = study.with_found([(variant.name, variant.changes)])
    requests = [(task, study.request(variant, task), study.seeds(task)) for task in study.tasks_of(variant)]
    return digest([requests, repr(study.file.limits), repr(study.file.stop)])


def identify(study: Study, changes: Mapping[str, Any]) -> str:
    """Hash of the network that some changes make, with its target speed; of the changes where they make none."""
    variant = study.vary("any", changes)
    try:
        return digest([variant.make_config().to_dict(), variant.speedup, variant.reference])
    except KnobError:
        return digest(dict(changes))


def make_lost_record(study: Study, variant: Variant, owner: Mapping[str, Any], reason: str) -> Record:
    """The record of a variant whose workers died, under the conditions of the last."""
    study = study.with_found([(variant.name, variant.changes)])
    task = study.tasks_of(variant)[0]
    plain = {
        "key": digest([study.request(variant, task), owner["environment"], reason]),
        "study": study.name,
        "request": study.request(variant, task),
        "variant": variant.name,
        "knobs": dict(variant.changes),
        "config": variant.make_config().to_dict(),
        "task": task,
        "settings": study.asked(variant, task),
        "status": "failed",
        "error": f"WorkerLost: {reason}",
        "environment": owner["environment"],
        "seed": study.seeds(task)[0],
        "start": owner["since"],
        "seconds": 0.0,
        "smoke": study.smoke,
    }
    return RECORD.validate_json(json.dumps(plain))
