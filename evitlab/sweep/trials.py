"""A study's trials in a storage: queued, proposed and claimed by any number of workers, each variant by one at a time.

Optuna's own states say too little, so a trial's attribute `outcome` says more:
`ok`, `infeasible`, `stopped` (the variant is done), `failed` (and recorded so), `lost` (its worker died), `released`
(its worker was asked to stop), `duplicate`, `withdrawn` (claimed while the storage was lost).
"""

import json
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from evitlab.checks import expand
from evitlab.records import RECORD, Record, digest
from evitlab.study import Study, Variant
from evitlab.sweep.identity import hash_asked, identify, make_lost_record, name_trials, objectives
from evitlab.sweep.sampling import propose, to_choice
from evitlab.sweep.search import fit_heads, name_proposal
from evitlab.sweep.storages import Storage
from evitlab.sweep.workers import OWNER, RETRIES, Watch, describe_worker

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
        self._me = secrets.token_hex(8)
        self._described: dict[str, dict[str, Any]] = {}
        self._named = [study.vary(*each) for each in expand(study.file.grid, study.file.variants)]
        self.optuna = storage.patiently(self._create)
        self._study_id = storage.patiently(lambda: storage.optuna.get_study_id_from_name(self.name))

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
                trials = self.read()
                fresh = not self._begun and (self.alone or not any(trial.state == RUNNING for trial in trials))
                if self._take_back(trials):
                    trials = self.read()
                if self._queue(trials, fresh=fresh):
                    trials = self.read()
                for trial in trials:
                    if trial.state == WAITING and len(claims) < most:
                        claims += self._start(trial, trials)
                while len(claims) < most and (claim := self._propose()):
                    claims.append(claim)
        except BaseException:
            self._held = before  # the next section finds the trials, and gives them back
            raise
        self._begun = True
        return claims

    def _start(self, trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> list[Claim]:
        """Claim a queued trial; nothing where its network is at work or done after all."""
        own = trial.user_attrs
        variant = self.study.vary(own[VARIANT], json.loads(own[CHANGES]))
        self.storage.optuna.set_trial_state_values(self._find_id(trial), RUNNING)
        if self._is_taken(variant, trial, trials):
            self._end(self._find_id(trial), "duplicate")
            return []
        return [self._mark(trial, variant)]

    def _is_taken(self, variant: Variant, trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> bool:
        """Whether another trial of the same network, asked for the same, is at work or done."""
        for other in trials:
            own = other.user_attrs
            if other.number == trial.number or any(own.get(n) != trial.user_attrs[n] for n in (ASKED, NETWORK)):
                continue
            at_work = other.state == RUNNING or (other.state == WAITING and other.number in self._held)
            if at_work or (own.get(OUTCOME) in DONE and not self._is_missing_here(variant)):
                return True
        return False

    def _propose(self) -> Claim | None:
        search = self.study.file.search
        if search is None:
            return None
        trials = self.read()
        sampled = [trial.user_attrs for trial in trials if trial.user_attrs.get(SAMPLED)]
        looked = {own[VARIANT] for own in sampled if own.get(OUTCOME) not in ("duplicate", "withdrawn")}
        outside = {own[VARIANT] for own in sampled if own.get(OUTCOME) == "infeasible"}
        if len(looked - outside) >= search.variants or len(looked) >= search.most:
            return None
        networks = {trial.user_attrs.get(NETWORK) for trial in trials}
        proposal = propose(
            trials,
            self.optuna.directions,
            search,
            seed=self.study.seed,
            is_known=lambda changes: identify(self.study, self._fit(changes)) in networks,
        )
        if proposal is None:
            return None
        trial, drawn = proposal
        changes = self._fit(drawn)
        variant = self.study.vary(name_proposal(changes, self.study.base.network), changes)
        trial.user_attrs.update(self._describe(variant) | {SAMPLED: True})
        trial_id = self.storage.optuna.create_new_trial(self._study_id, template_trial=trial)
        return self._mark(self.storage.optuna.get_trial(trial_id), variant)

    def _fit(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        return fit_heads(changes, str(changes.get("base", self.study.base.network)))

    def _find_id(self, trial: FrozenTrial) -> int:
        """What the storage calls a trial. Optuna's public study only ends trials: it neither starts a chosen one nor
        writes into one that another process began, so that is asked of the storage itself."""
        return self.storage.optuna.get_trial_id_from_study_id_trial_number(self._study_id, trial.number)

    def _mark(self, trial: FrozenTrial, variant: Variant) -> Claim:
        trial_id = self._find_id(trial)
        owner = describe_worker(name=self._me, environment=self._environment, since=datetime.now(UTC).isoformat())
        self.storage.optuna.set_trial_user_attr(trial_id, OWNER, owner)
        self._held[trial.number] = Claim(number=trial.number, trial_id=trial_id, variant=variant)
        return self._held[trial.number]

    def _describe(self, variant: Variant) -> dict[str, Any]:
        """What a trial says of its variant; reckoned once, as every claim looks at every variant."""
        if variant.name not in self._described:
            self._described[variant.name] = {
                VARIANT: variant.name,
                CHANGES: json.dumps(dict(variant.changes)),
                ASKED: hash_asked(self.study, variant),
                NETWORK: identify(self.study, variant.changes),
            }
        return self._described[variant.name]

    def _queue(self, trials: Sequence[FrozenTrial], *, fresh: bool) -> bool:
        """Queue every variant that is neither at work nor done, and say whether there was one.

        What failed is queued by a worker that starts when no other is at work, `fresh`: that is a new attempt, and not
        a share in the old one.
        """
        own: dict[tuple[Any, Any], list[FrozenTrial]] = {}
        for trial in trials:
            own.setdefault((trial.user_attrs.get(VARIANT), trial.user_attrs.get(ASKED)), []).append(trial)
        queued = False
        for variant in self._named:
            asked = self._describe(variant)
            if self._is_due(variant, own.get((variant.name, asked[ASKED]), []), fresh=fresh):
                self.optuna.add_trial(self._make_trial(variant))
                queued = True
        for name, changes in dict(self.find_proposals(trials)).items():
            variant = self.study.vary(name, changes)
            attempts = own.get((name, self._describe(variant)[ASKED]), [])
            if self._is_due(variant, attempts, fresh=fresh):
                first = next(trial for trial in trials if trial.user_attrs.get(VARIANT) == name)
                self.optuna.add_trial(
                    optuna.trial.create_trial(
                        state=WAITING,
                        params=first.params,
                        distributions=first.distributions,
                        user_attrs=self._describe(variant) | {SAMPLED: True},
                    )
                )
                queued = True
        return queued

    def _is_due(self, variant: Variant, attempts: Sequence[FrozenTrial], *, fresh: bool) -> bool:
        """Whether a variant must be queued, after these trials of it."""
        if any(trial.state in (RUNNING, WAITING) for trial in attempts):
            return False
        outcomes = [trial.user_attrs.get(OUTCOME) for trial in attempts]
        ended = [outcome for outcome in outcomes if outcome in (*DONE, "failed")]
        if not ended:
            return True
        return fresh and (ended[-1] == "failed" or self._is_missing_here(variant))

    def _make_trial(self, variant: Variant) -> FrozenTrial:
        """A queued trial of a grid's or a named variant: the grid's knobs, or its name, as Optuna's parameters."""
        file = self.study.file
        choices: dict[str, list[Any]] = {}
        if file.grid is not None:
            choices = {knob: [to_choice(value) for value in values] for knob, values in file.grid.items()}
        elif file.search is None:  # samplers cross what has all parameters: beside a search, a name must not be one
            choices = {"variant": list(file.variants or ())}
        changes = {**variant.changes, "variant": variant.name}
        return optuna.trial.create_trial(
            state=WAITING,
            params={name: to_choice(changes[name]) for name in choices},
            distributions={name: CategoricalDistribution(values) for name, values in choices.items()},
            user_attrs=self._describe(variant),
        )

    def _is_missing_here(self, variant: Variant) -> bool:
        return self.alone and self._is_missing(variant)

    def _take_back(self, trials: Sequence[FrozenTrial]) -> bool:
        """End the trials of workers that are gone, to be queued again, or recorded as failed after too many; whether
        there was one."""
        ended = False
        for trial in trials:
            own = trial.user_attrs
            if trial.state != RUNNING or trial.number in self._held:
                continue
            ended = True
            if OWNER not in own or VARIANT not in own:  # claims are marked before the section ends
                self._end(self._find_id(trial), "withdrawn")
            elif self.alone:
                self._end(self._find_id(trial), "lost")
            elif own[OWNER]["name"] == self._me:  # of a section that broke
                self._end(self._find_id(trial), "withdrawn")
            elif self._watch.is_dead(self._find_id(trial), own):
                self._end_lost(trial, trials)
        return ended

    def _end_lost(self, trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> None:
        own = trial.user_attrs
        same = [t.user_attrs for t in trials if t.user_attrs.get(VARIANT) == own[VARIANT]]
        outcomes = [each.get(OUTCOME) for each in same if each.get(ASKED) == own[ASKED]]
        recent = outcomes[max((i for i, o in enumerate(outcomes) if o in (*DONE, "failed")), default=-1) + 1 :]
        if recent.count("lost") < RETRIES:
            self._end(self._find_id(trial), "lost")
            return
        reason = f"its worker died {RETRIES + 1} times, such as by kill -9 or for want of memory"
        variant = self.study.vary(own[VARIANT], json.loads(own[CHANGES]))
        record = make_lost_record(self.study, variant, own[OWNER], reason)
        self._end(self._find_id(trial), "failed", records=[record.to_json()])

    def finish(
        self, claim: Claim, outcome: str, *, records: Sequence[Record], values: Mapping[str, float] | None = None
    ) -> None:
        """Publish what a variant came to; nothing where another worker has taken it over."""
        lines = [record.to_json() for record in records]
        self.storage.patiently(lambda: self._end(claim.trial_id, outcome, records=lines, values=values), self._check)
        self._held.pop(claim.number, None)

    def release(self, claims: Iterable[Claim]) -> None:
        """Give back what is not done, for others to do or for the next start."""
        for claim in claims:
            if claim.number in self._held:
                self._end(claim.trial_id, "released")
                del self._held[claim.number]

    def _end(
        self,
        trial_id: int,
        outcome: str,
        *,
        records: Sequence[str] = (),
        values: Mapping[str, float] | None = None,
    ) -> None:
        """Write what a trial came to, then end it; nothing where it has ended already. May be done twice."""
        storage = self.storage.optuna
        try:
            for name, value in ((RECORDS, list(records)), ("values", values), (OUTCOME, outcome)):
                if value:
                    storage.set_trial_user_attr(trial_id, name, value)
            searches = self.study.file.search is not None
            named = searches and outcome == "ok" and not storage.get_trial(trial_id).user_attrs.get(SAMPLED)
            if outcome == "ok" and values is not None and not named:
                told = [float(values[name]) for name, _ in objectives(self.study)]
                storage.set_trial_state_values(trial_id, TrialState.COMPLETE, told)
            else:  # samplers keep away from what was given up, and do not learn from what they could not propose
                storage.set_trial_state_values(trial_id, TrialState.PRUNED if outcome in DONE else TrialState.FAIL)
        except UpdateFinishedTrialError:
            return

    def find_proposals(self, trials: Sequence[FrozenTrial] | None = None) -> list[tuple[str, dict[str, Any]]]:
        """Name and changes of all that has been proposed, in order."""
        trials = self.read() if trials is None else trials
        proposed = [trial.user_attrs for trial in trials if trial.user_attrs.get(SAMPLED)]
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
