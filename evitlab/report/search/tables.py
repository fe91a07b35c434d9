"""What a search found: its front, how the front grew, and what the rule of early stopping would have done."""

from collections.abc import Collection, Sequence

import pandas as pd

from evitlab.records import Record
from evitlab.report.tables import study_table
from evitlab.study import Study
from evitlab.sweep.domination import Rival, find_front, replay
from evitlab.sweep.search import StopSettings

RULES = tuple(StopSettings(margin=margin, after=after) for margin in (0.02, 0.05, 0.1) for after in (0.2, 0.4))
"""The rules that are replayed over a study that ran in full."""


def front_table(table: pd.DataFrame, *, named: Collection[str]) -> pd.DataFrame:
    """The trained variants of a study's table, fastest first: whether each is on the front, and whether a search found
    it (`named` are the variants made by hand)."""
    rows = table[table["top1"].notna() & table["speed_ratio_low"].notna()]
    rivals = [
        Rival(variant=v, ratio=r, curve={}, top1=t) for v, r, t in rows[["variant", "speed_ratio", "top1"]].values
    ]
    front = find_front(rivals)
    shown = rows.assign(on_front=[v in front for v in rows["variant"]], found=[v not in named for v in rows["variant"]])
    knobs = [name for name in rows if name.startswith("knob_")]
    columns = ["variant", "found", "on_front", "top1", "speed_ratio", "infer_samples_per_sec", "macs", *knobs]
    return shown[columns].sort_values("speed_ratio", ascending=False)


def measure_hypervolume(rivals: Sequence[Rival]) -> float:
    """The area that a front of accuracy and speed over the reference's dominates, above no accuracy and no speed.

    >>> two = [Rival(variant="a", ratio=1.0, curve={}, top1=0.5), Rival(variant="b", ratio=2.0, curve={}, top1=0.25)]
    >>> measure_hypervolume(two)
    0.75
    """
    area, slower = 0.0, 0.0
    for rival in sorted(rivals, key=lambda each: each.ratio):
        best = max(other.top1 for other in rivals if other.ratio >= rival.ratio)
        area += (rival.ratio - slower) * best
        slower = rival.ratio
    return area


def growth_table(rivals: Sequence[Rival]) -> pd.DataFrame:
    """The hypervolume after each trained variant, in the order given, and the hours since the first had ended."""
    rows = []
    for count, rival in enumerate(rivals, start=1):
        done = rivals[:count]
        hours = (max(each.ended for each in done) - rivals[0].ended) / 3600
        area = measure_hypervolume(done)
        rows.append({"trained": count, "hours": hours, "variant": rival.variant, "hypervolume": area})
    return pd.DataFrame(rows, columns=["trained", "hours", "variant", "hypervolume"])


def replay_table(rivals: Sequence[Rival]) -> pd.DataFrame:
    """For each of `RULES`: how many trainings it would have stopped, how many of those wrongly, the steps saved."""
    found = [replay(rivals, rule) for rule in RULES]
    return pd.DataFrame(
        {
            "margin": [each.margin for each in found],
            "after": [each.after for each in found],
            "trainings": [each.trainings for each in found],
            "stopped": [len(each.stopped) for each in found],
            "stopped_from_front": [len(each.wrong) for each in found],
            "steps_saved": [each.saved for each in found],
        }
    )


def split_by_machine(study: Study, records: Sequence[Record]) -> pd.DataFrame | None:
    """A row a variant with the speeds and accuracies of each machine in columns of their own, nothing averaged over
    machines; None where there is only one set of conditions."""
    records = [record for record in records if record.seed in study.seeds(record.task)]
    requests = study.requests()
    own = [r for r in records if requests.get((r.variant, r.task)) == r.request and r.smoke == study.smoke]
    every = {tuple(record.environment.conditions.items()): record.environment for record in own}
    if len(every) < 2:
        return None
    merged: pd.DataFrame | None = None
    for number, environment in enumerate(every.values(), start=1):
        where = environment.conditions
        table = study_table(own, study=study.name, requests=requests, where=where, smoke=study.smoke)
        table = table.set_index("variant")
        names = ["infer_samples_per_sec", "speed_ratio", "speed_ratio_low", "speed_ratio_high", "top1", "missing"]
        part = table[names].add_suffix(f" ({environment.machine}, conditions {number})")
        merged = part if merged is None else merged.join(part)
    return None if merged is None else merged.reset_index()
