"""A study's trials in a storage: queued, proposed and claimed by any number of workers, each variant by one at a time.

Optuna's own states say too little, so a trial's attribute `outcome` says more:
`ok`, `infeasible`, `stopped` (the variant is done), `failed` (and recorded so), `lost` (its worker died), `released`
(its worker was asked to stop), `duplicate`, `withdrawn` (claimed while the storage was lost).
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from evitlab.checks import expand
from evitlab.identity import hash_asked, identify, make_lost_record, name_trials, objectives
from evitlab.records import RECORD, Record, digest
from evitlab.sampling import choose_by, propose, to_choice
from evitlab.search import draw_changes, fit_heads, name_proposal
from evitlab.storages import Storage
from evitlab.study import Study, Variant
from evitlab.workers import OWNER, RETRIES, Watch, describe_worker

VARIANT, CHANGES, ASKED, NETWORK, OUTCOME, RECORDS, SAMPLED = (
    "variant", "changes", "asked", "network", "outcome", "records", "sampled",
)  # fmt: skip
DONE = ("ok", "infeasible", "stopped")
RUNNING, WAITING = TrialState.RUNNING, TrialState.WAITING


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A variant that this worker alone is to do now."""

    number: int
    trial_id: int
    variant: Variant


class Trials:
    """The trials of one study, as one worker sees them."""

    def __init__(
        self,
        study: Study,
        storage: Storage,
        *,
        alone: bool,
        environment: Mapping[str, Any],
        is_missing: Callable[[Variant], bool],
        check: Callable[[], None] = lambda: None,
    ):
        """`alone` says that no other worker can be at work; `is_missing` whether a variant lacks a measurement here,
        which only counts then: elsewhere, a variant is done once some worker has done it."""
        self.study = study
        self.storage = storage
        self.name = name_trials(study)
        self.alone = alone
        self._environment = dict(environment)
        self._is_missing = is_missing
        self._check = check
        self._watch = Watch()
        self._held: dict[int, Claim] = {}
        self._begun = False
        self.optuna = storage.patiently(self._create)

    def _create(self) -> optuna.Study:
        return optuna.create_study(
            storage=self.storage.optuna,
            study_name=self.name,
            directions=[direction for _, direction in objectives(self.study)],
            sampler=optuna.samplers.RandomSampler(seed=0),  # until something is proposed
            load_if_exists=True,
        )

    def read(self, *states: TrialState) -> list[FrozenTrial]:
        """All trials, or those in some states."""
        return self.optuna.get_trials(deepcopy=False, states=states or None)

    @property
    def held(self) -> set[int]:
        """Optuna's ids of what this worker has claimed and not finished."""
        return {claim.trial_id for claim in self._held.values()}

    def others_at_work(self) -> bool:
        """Whether another worker has a variant, which may yet come back."""
        return bool([trial for trial in self.read(RUNNING, WAITING) if trial.number not in self._held])

    def claim(self, most: int) -> list[Claim]:
        """At most so many variants for this worker: queued ones first, then proposals. Empty where none are left."""
        return self.storage.patiently(lambda: self._claim(most), self._check)

    def _claim(self, most: int) -> list[Claim]:
        claims: list[Claim] = []
        before = dict(self._held)
        try:
            with self.storage.exclusive(self.name, self._check):
                self._take_back()
                self._queue()
                while len(claims) < most and (claim := self._next()):
                    claims.append(claim)
        except BaseException:
            self._held = before  # the next section finds the trials, and gives them back
            raise
        return claims

    def _next(self) -> Claim | None:
        while self.read(WAITING):
            trial = self.optuna.ask()
            known = dict(self.optuna.get_trials(deepcopy=False)[trial.number].user_attrs)
            changes = self._suggest(trial, known)
            variant = self.study.vary(known[VARIANT], changes)
            if not self._is_taken(variant, known[NETWORK], trial.number):
                return self._mark(trial, variant)
            self._end(trial.number, "duplicate")
        return self._propose()

    def _suggest(self, trial: optuna.Trial, known: Mapping[str, Any]) -> dict[str, Any]:
        """The queued changes; a grid's knobs become the trial's parameters."""
        grid = self.study.file.grid
        changes = dict(json.loads(known[CHANGES]))
        if grid is not None:
            for knob, values in grid.items():
                trial.suggest_categorical(knob, [to_choice(value) for value in values])
        elif known.get(SAMPLED) and self.study.file.search is not None:
            search = self.study.file.search
            draw_changes(search, choose_by(trial))
        elif self.study.file.search is None:
            trial.suggest_categorical("variant", [name for name, _ in expand(None, self.study.file.variants)])
        return changes

    def _is_taken(self, variant: Variant, network: str, number: int) -> bool:
        """Whether another trial of the same network, asked for the same, is at work or done."""
        asked = hash_asked(self.study, variant)
        for trial in self.read():
            own = trial.user_attrs
            if trial.number == number or own.get(ASKED) != asked or own.get(NETWORK) != network:
                continue
            if trial.state == RUNNING or (own.get(OUTCOME) in DONE and not self._is_missing_here(variant)):
                return True
        return False

    def _propose(self) -> Claim | None:
        search = self.study.file.search
        if search is None:
            return None
        sampled = [trial.user_attrs for trial in self.read() if trial.user_attrs.get(SAMPLED)]
        looked = {own[VARIANT] for own in sampled if own.get(OUTCOME) not in ("duplicate", "withdrawn")}
        outside = {own[VARIANT] for own in sampled if own.get(OUTCOME) == "infeasible"}
        if len(looked - outside) >= search.variants or len(looked) >= search.most:
            return None
        networks = {trial.user_attrs.get(NETWORK) for trial in self.read()}
        proposal = propose(
            self.optuna,
            search,
            seed=self.study.seed,
            is_known=lambda changes: identify(self.study, self._fit(changes)) in networks,
        )
        if proposal is None:
            return None
        trial, drawn = proposal
        changes = self._fit(drawn)
        variant = self.study.vary(name_proposal(changes, self.study.base.network), changes)
        for name, value in self._describe(variant).items():
            trial.set_user_attr(name, value)
        trial.set_user_attr(SAMPLED, True)
        return self._mark(trial, variant)

    def _fit(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        return fit_heads(changes, str(changes.get("base", self.study.base.network)))

    def _mark(self, trial: optuna.Trial, variant: Variant) -> Claim:
        since = datetime.now(UTC).isoformat()
        trial.set_user_attr(OWNER, describe_worker(environment=self._environment, since=since))
        claim = Claim(number=trial.number, trial_id=trial._trial_id, variant=variant)
        self._held[trial.number] = claim
        return claim

    def _describe(self, variant: Variant) -> dict[str, Any]:
        return {
            VARIANT: variant.name,
            CHANGES: json.dumps(dict(variant.changes)),
            ASKED: hash_asked(self.study, variant),
            NETWORK: identify(self.study, variant.changes),
        }

    def _queue(self) -> None:
        """Queue every variant that is neither at work nor done. What failed is queued by a worker that starts when no
        other is at work: that is a new attempt, and not a share in the old one."""
        trials = self.read()
        fresh = not self._begun and not any(trial.state == RUNNING for trial in trials)
        for variant in [self.study.vary(*each) for each in expand(self.study.file.grid, self.study.file.variants)]:
            self._queue_one(variant, trials, fresh=fresh)
        seen = set()
        for trial in trials:
            own = trial.user_attrs
            if own.get(SAMPLED) and VARIANT in own and own[VARIANT] not in seen:
                seen.add(own[VARIANT])
                variant = self.study.vary(own[VARIANT], json.loads(own[CHANGES]))
                self._queue_one(variant, trials, fresh=fresh, parameters=trial.params)
        self._begun = True

    def _queue_one(
        self,
        variant: Variant,
        trials: Sequence[FrozenTrial],
        *,
        fresh: bool,
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        asked = hash_asked(self.study, variant)
        own = [t for t in trials if t.user_attrs.get(VARIANT) == variant.name and t.user_attrs.get(ASKED) == asked]
        if any(trial.state in (RUNNING, WAITING) for trial in own):
            return
        outcomes = [trial.user_attrs.get(OUTCOME) for trial in own]
        ended = [outcome for outcome in outcomes if outcome in (*DONE, "failed")]
        if ended and ended[-1] in DONE and not (fresh and self._is_missing_here(variant)):
            return
        if ended and ended[-1] == "failed" and not fresh:
            return
        attributes = self._describe(variant) | ({} if parameters is None else {SAMPLED: True})
        self.optuna.enqueue_trial(dict(parameters or self._choices(variant)), user_attrs=attributes)

    def _is_missing_here(self, variant: Variant) -> bool:
        return self.alone and self._is_missing(variant)

    def _choices(self, variant: Variant) -> dict[str, Any]:
        """A variant as Optuna's parameters: the grid's knobs, or the name of a named variant."""
        if self.study.file.search is not None:
            return {}  # samplers cross what has all parameters: a named variant must not be among them
        if self.study.file.grid is None:
            return {"variant": variant.name}
        return {knob: to_choice(value) for knob, value in variant.changes.items()}

    def _take_back(self) -> None:
        """End the trials of workers that are gone, to be queued again, or recorded as failed after too many."""
        for trial in self.read(RUNNING):
            own = trial.user_attrs
            if trial.number in self._held:
                continue
            if OWNER not in own or VARIANT not in own:  # claims are marked before the section ends
                self._end(trial.number, "withdrawn")
            elif self.alone or describe_worker().items() <= own[OWNER].items():  # this worker's, of a broken section
                self._end(trial.number, "lost" if self.alone else "withdrawn")
            elif self._watch.is_dead(trial._trial_id, own):
                self._end_lost(trial)

    def _end_lost(self, trial: FrozenTrial) -> None:
        own = trial.user_attrs
        same = [t.user_attrs for t in self.read() if t.user_attrs.get(VARIANT) == own[VARIANT]]
        outcomes = [each.get(OUTCOME) for each in same if each.get(ASKED) == own[ASKED]]
        recent = outcomes[max((i for i, o in enumerate(outcomes) if o in (*DONE, "failed")), default=-1) + 1 :]
        if recent.count("lost") < RETRIES:
            self._end(trial.number, "lost")
            return
        reason = f"its worker died {RETRIES + 1} times, such as by kill -9 or for want of memory"
        variant = self.study.vary(own[VARIANT], json.loads(own[CHANGES]))
        record = make_lost_record(self.study, variant, own[OWNER], reason)
        self._end(trial.number, "failed", records=[record.to_json()])

    def finish(
        self, claim: Claim, outcome: str, *, records: Sequence[Record], values: Mapping[str, float] | None = None
    ) -> None:
        """Publish what a variant came to; nothing where another worker has taken it over."""
        lines = [record.to_json() for record in records]
        self.storage.patiently(lambda: self._end(claim.number, outcome, records=lines, values=values), self._check)
        self._held.pop(claim.number, None)

    def release(self, claims: Iterable[Claim]) -> None:
        """Give back what is not done, for others to do or for the next start."""
        for claim in claims:
            if claim.number in self._held:
                self._end(claim.number, "released")
                del self._held[claim.number]

    def _end(
        self,
        number: int,
        outcome: str,
        *,
        records: Sequence[str] = (),
        values: Mapping[str, float] | None = None,
    ) -> None:
        trial_id = self.optuna._storage.get_trial_id_from_study_id_trial_number(self.optuna._study_id, number)
        try:
            for name, value in ((RECORDS, list(records)), ("values", values), (OUTCOME, outcome)):
                if value:
                    self.optuna._storage.set_trial_user_attr(trial_id, name, value)
            named = self.study.file.search is not None and not self._get(trial_id).user_attrs.get(SAMPLED)
            if outcome == "ok" and values is not None and not named:
                self.optuna.tell(number, [values[name] for name, _ in objectives(self.study)])
            else:  # samplers keep away from what was given up, and do not learn from what they could not propose
                pruned = outcome in DONE
                self.optuna.tell(number, state=TrialState.PRUNED if pruned else TrialState.FAIL)
        except UpdateFinishedTrialError:
            return

    def _get(self, trial_id: int) -> FrozenTrial:
        return self.optuna._storage.get_trial(trial_id)

    def find_proposals(self) -> list[tuple[str, dict[str, Any]]]:
        """Name and changes of all that has been proposed, in order."""
        proposed = [trial.user_attrs for trial in self.read() if trial.user_attrs.get(SAMPLED)]
        return [(own[VARIANT], json.loads(own[CHANGES])) for own in proposed if VARIANT in own]

    def publish(self, record: Record) -> None:
        """Publish the record of a reference, which is no trial's own."""
        line = record.to_json()
        self.storage.patiently(lambda: self.optuna.set_user_attr(f"record {digest(line)}", line), self._check)

    def published(self) -> list[Record]:
        """All records of the study, references first, then trial by trial; the same on every machine."""
        shared = [str(v) for name, v in self.optuna.user_attrs.items() if name.startswith("record ")]
        references = sorted(
            (RECORD.validate_json(line, strict=True) for line in shared), key=lambda r: (r.start, r.key)
        )
        found = {_place(record): record for record in reversed(references)}
        own = [
            RECORD.validate_json(line, strict=True)
            for trial in self.read()
            if trial.state.is_finished() and trial.user_attrs.get(OUTCOME) in (*DONE, "failed")
            for line in trial.user_attrs.get(RECORDS, [])
        ]
        unique = {record.to_json(): record for record in [*reversed(found.values()), *own]}
        return list(unique.values())

    def any_failed(self) -> bool:
        """Whether a variant's last attempt failed."""
        last: dict[tuple[Any, Any], Any] = {}
        for trial in self.read():
            own = trial.user_attrs
            if own.get(OUTCOME) in (*DONE, "failed"):
                last[own[VARIANT], own[ASKED]] = own[OUTCOME]
        return "failed" in last.values()


def _place(record: Record) -> tuple[Any, ...]:
    """What there is to be one record of, of a reference."""
    return record.request, record.task, record.seed, json.dumps(record.environment.conditions), record.status
