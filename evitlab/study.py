"""A study: one YAML file, one question. Read it, say everything that is wrong with it, expand it into variants."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from evitlab.checks import (
    BASE,
    NO_KNOBS,
    expand,
    find_contradictions,
    find_network_problems,
    show_base,
    split_base,
)
from evitlab.models.config import ModelConfig
from evitlab.models.knobs import per_stage
from evitlab.models.scale import scale_width
from evitlab.models.zoo import default_knobs, make_config
from evitlab.problems import UserError, explain, shorten
from evitlab.recipes import as_asked
from evitlab.records import Record, digest
from evitlab.settings import MatchSettings, StudyFile, Tasks, TrainSettings, shrink_training
from evitlab.yamlfile import YamlError, read_yaml


class StudyError(UserError):
    """A study that cannot be run; every line of the message is `file: field: what is wrong, what is allowed`."""

    def __init__(self, path: Path | str, problems: list[str]):
        super().__init__("\n".join(f"{path}: {problem}" for problem in problems))
        self.problems = problems


TASK_ORDER = ("match", "throughput", "macs", "operators", "train", "evaluate", "heads")
"""Speed first, before training warms the machine up; matching first of all, as it decides the width."""

ON_WEIGHTS = ("evaluate", "heads")
"""The tasks on the weights that a training leaves."""

TRAINED = ("train", *ON_WEIGHTS)
"""The tasks on what is trained, once for each seed of the training."""

_STUDY_FILE = TypeAdapter(StudyFile)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One network of a study: a zoo network and the knobs that make it differ."""

    name: str
    network: str
    """Zoo name that the knobs start from."""
    knobs: Mapping[str, Any]
    """All knobs set, the study's base's among them."""
    changes: Mapping[str, Any]
    """The variant's own."""
    reference: str = BASE
    """The row that its speed is compared with."""
    speedup: float | None = None
    """Target speed over the reference's, where the study matches."""

    def make_config(self) -> ModelConfig:
        """The variant's network."""
        return make_config(self.network, **self.knobs)

    @property
    def depths(self) -> list[int]:
        """The knob `depth` of each stage; a share of attention other than the published one regroups the blocks."""
        settings = {**default_knobs(self.network), **self.knobs}
        return per_stage(settings["depth"], len(self.make_config().stages))

    def with_knobs(self, **knobs: Any) -> "Variant":
        """The same variant with further knobs set."""
        return replace(self, knobs={**self.knobs, **knobs})

    def resize(self, width: float, *, first: int | None = None) -> ModelConfig:
        """The variant's network with its first stage near this width, all in proportion; a stated `qk_dim` stays.

        See `scale_width`.
        """
        derived = {**default_knobs(self.network), **self.knobs}["qk_dim"] is None
        return scale_width(self.make_config(), width, scale_qk=derived, first=first)


@dataclass(frozen=True, kw_only=True)
class Work:
    """One task on one variant with one seed: what a record will hold."""

    variant: str
    task: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study that can be run: everything in it has been checked."""

    name: str
    file: StudyFile
    seed: int = 0
    """Of timing order, inputs and weights; trainings add their own to it."""
    smoke: bool = False
    found: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    """Name and changes of what a search has proposed, in that order (see `with_found`)."""

    @property
    def tasks(self) -> Tasks:
        return self.file.tasks

    @property
    def match(self) -> MatchSettings | None:
        return self.file.match

    @cached_property
    def base(self) -> Variant:
        """The network that speeds are compared with."""
        network, knobs = split_base(self.file.base)
        return Variant(name=BASE, network=network, knobs=knobs, changes={})

    @cached_property
    def references(self) -> dict[str, Variant]:
        """Row -> network that speeds are compared with: the base, and what variants start from where that counts."""
        found = {BASE: self.base}
        for variant in self.variants():
            if variant.reference not in found:
                network, knobs = split_base(variant.changes["base"])
                found[variant.reference] = Variant(
                    name=variant.reference, network=network, knobs=knobs, changes={"base": variant.changes["base"]}
                )
        return found

    def variants(self) -> list[Variant]:
        """Every variant in the study's order, the references not among them."""
        expanded = [*expand(self.file.grid, self.file.variants), *self.found]
        return [self.vary(name, changes) for name, changes in expanded]

    def found_rows(self) -> list[Variant]:
        """The variants that a search has proposed."""
        return [self.vary(name, changes) for name, changes in self.found]

    def vary(self, name: str, changes: Mapping[str, Any]) -> Variant:
        """The variant with these changes to the base."""
        return _vary(self.base, self.match, name, changes)

    def with_found(self, found: Iterable[tuple[str, Mapping[str, Any]]]) -> "Study":
        """The same study with these proposals among its variants, each once; as it is where it does not search."""
        named = {name for name, _ in expand(self.file.grid, self.file.variants)} | {BASE}
        new = dict(self.found) | {name: dict(changes) for name, changes in found if name not in named}
        return replace(self, found=tuple(new.items())) if self.file.search is not None else self

    def with_recorded(self, records: Iterable[Record]) -> "Study":
        """The same study with the proposals that some records are of."""
        own = [record for record in records if record.study == self.name and record.smoke == self.smoke]
        return self.with_found((record.variant, record.knobs) for record in own)

    def rows(self) -> list[Variant]:
        """The references, then the variants: all that the study's table shows."""
        return [*self.references.values(), *self.variants()]

    def requests(self) -> dict[tuple[str, str], str]:
        """(variant, task) -> hash of what is asked there, for all work that belongs to the study; prose left out."""
        return {
            (variant.name, task): self.request(variant, task)
            for variant in self.rows()
            for task in self.tasks_of(variant)
        }

    def tasks_of(self, variant: Variant) -> list[str]:
        """What is done to a variant, in this order; a reference is neither matched to itself nor trained."""
        tasks = ("macs", "throughput", "operators") if variant.name in self.references else TASK_ORDER
        return [task for task in tasks if self._plain[task] is not None]

    def settings(self, task: str) -> dict[str, Any] | None:
        """A task's settings as plain data, without seeds and where data lie; None where the study does not run it.

        Those of a task on trained weights hold the training's.
        """
        plain = self._plain[task]
        return None if plain is None else dict(plain)

    @cached_property
    def _plain(self) -> dict[str, dict[str, Any] | None]:
        """What `settings` gives, by task: made once, as tables ask for it with every row."""
        plain = {task: self._make_plain(task) for task in TASK_ORDER}
        return {
            task: {**found, "train": plain["train"]} if found is not None and task in ON_WEIGHTS else found
            for task, found in plain.items()
        }

    def _make_plain(self, task: str) -> dict[str, Any] | None:
        settings = self.match if task == "match" else getattr(self.tasks, task)
        if settings is None:
            return None
        plain = {name: value for name, value in asdict(settings).items() if name not in ("seeds", "data_root")}
        if plain.get("timings") == 1:  # as before there was a choice, so that its records still answer
            del plain["timings"]
        return {**plain, "recipe": as_asked(settings.recipe)} if isinstance(settings, TrainSettings) else plain

    def seeds(self, task: str) -> tuple[int, ...]:
        """The seeds that a task runs with: one, but for what is trained."""
        train = self.tasks.train
        return tuple(self.seed + own for own in train.seeds) if task in TRAINED and train else (self.seed,)

    def request(self, variant: Variant, task: str) -> str:
        """Hash of all in the study that decides what this task measures on this variant."""
        matched = None if self.match is None or variant.name in self.references else self.match_settings(variant)
        compared = self.speed_settings(variant) if task == "throughput" else None
        asked = [variant.network, dict(variant.knobs), matched, compared, task, self.settings(task), self.smoke]
        return digest(asked)

    @property
    def on_weights(self) -> list[str]:
        """The tasks that the study runs on trained weights, which it needs until they are done."""
        return [task for task in ON_WEIGHTS if self.settings(task) is not None]

    def compare_with(self, variant: Variant) -> str:
        """The row that a variant's speed is compared with: of a reference its own."""
        return variant.name if variant.name in self.references else variant.reference

    def asked(self, variant: Variant, task: str) -> dict[str, Any]:
        """What a record says was asked of a task."""
        return self.match_settings(variant) if task == "match" else self.settings(task) or {}

    def match_settings(self, variant: Variant) -> dict[str, Any]:
        """All that decides how a variant is rescaled, beside the variant itself."""
        return {"match": {**(self.settings("match") or {}), "speedup": variant.speedup}} | self.speed_settings(variant)

    def speed_settings(self, variant: Variant) -> dict[str, Any]:
        """What a relative speed depends on beside the variant: its reference, and how both are timed."""
        reference = self.references[variant.reference]
        return {"reference": [reference.network, dict(reference.knobs)], "timing": self.settings("throughput")}

    def paper_top1(self) -> dict[str, float]:
        """The source's accuracies by variant, as shares."""
        return {name: percent / 100 for name, percent in ((self.file.paper or {}).get("top1") or {}).items()}

    def paper_speeds(self) -> dict[str, float]:
        """The source's images per second by variant."""
        return dict((self.file.paper or {}).get("images_per_second") or {})

    @cached_property
    def baselines(self) -> dict[str, str]:
        """Variant -> the variant that its accuracy is compared with, itself for those; others are compared with none.

        That is the study's `compare_to`, else the one that is the very network which the variant starts from, at the
        same target speed: of a grid over `mhsa_ratio` that of 0.5 on DeiT-T, once for each speed.
        """
        if self.file.compare_to is not None:
            return {variant.name: self.file.compare_to for variant in self.variants()}
        plain: dict[str, str] = {}
        for variant in self.variants():
            network, knobs = self._start_of(variant)
            if variant.make_config() == make_config(network, **knobs):
                plain.setdefault(digest([network, knobs, variant.speedup]), variant.name)
        starts = {v.name: digest([*self._start_of(v), v.speedup]) for v in self.variants()}
        return {name: plain[start] for name, start in starts.items() if start in plain}

    def _start_of(self, variant: Variant) -> tuple[str, dict[str, Any]]:
        """The network that a variant's own knobs change."""
        return split_base(variant.changes.get("base", self.file.base))


def load_study(path: Path | str, *, seed: int = 0, smoke: bool = False) -> Study:
    """Read a study file; with `smoke` in tiny sizes that walk the same path.

    Raises StudyError that names every mistake: file, field, value, what is allowed.
    """
    path = Path(path)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", path.stem):
        rule = "the file's name is the study's name: letters, digits, _ and -, beginning with a letter or digit"
        raise StudyError(path, [f"{rule}, but got {path.stem!r}"])
    try:
        data = read_yaml(path)
    except YamlError as error:
        raise StudyError(path, [str(error)]) from None
    if not isinstance(data, dict):
        names = ", ".join(StudyFile.__dataclass_fields__)
        raise StudyError(path, [f"must hold a mapping with the fields {names}, but got {shorten(data)}"])
    try:
        file = _STUDY_FILE.validate_json(json.dumps(data, allow_nan=False), strict=True)
    except ValidationError as error:
        raise StudyError(path, explain(error, StudyFile) + find_network_problems(data)) from None
    except (TypeError, ValueError) as error:
        raise StudyError(path, [f"must hold plain finite values (dates need quotes), but got: {error}"]) from None
    if problems := find_contradictions(file) + find_network_problems(data):
        raise StudyError(path, problems)
    study = Study(name=path.stem, file=file, seed=seed)
    return _shrink(study) if smoke else study


def place_data(study: Study, root: str | None) -> Study:
    """The same study with the folder that its data lies in on this machine, which is no part of what it asks."""
    train = study.tasks.train
    if root is None or train is None:
        return study
    tasks = replace(study.tasks, train=replace(train, data_root=root))
    return replace(study, file=replace(study.file, tasks=tasks))


def _vary(base: Variant, match: MatchSettings | None, name: str, changes: Mapping[str, Any]) -> Variant:
    """A variant: from another network where its changes name one, else from the study's base."""
    own = {knob: value for knob, value in changes.items() if knob not in NO_KNOBS}
    network, knobs, reference = base.network, base.knobs, BASE
    if "base" in changes:
        network, knobs = split_base(changes["base"])
        if match is not None and match.reference == "own" and (network, knobs) != (base.network, base.knobs):
            reference = show_base(changes["base"])
    speedup = None if match is None else changes.get("speedup", match.speedup)
    return Variant(
        name=name,
        network=network,
        knobs={**knobs, **own},
        changes=changes,
        reference=reference,
        speedup=speedup,
    )


def _shrink(study: Study) -> Study:
    """The same path in seconds: sizes so small that the numbers mean nothing."""
    tasks, match = study.tasks, study.match
    if tasks.throughput is not None:
        few: dict[str, Any] = {"batch_size": 1, "min_rounds": 2, "max_rounds": 2}
        tasks = replace(tasks, throughput=replace(tasks.throughput, **few))
    if tasks.operators is not None:
        tasks = replace(tasks, operators=replace(tasks.operators, batch_size=1, repeats=2))
    if tasks.train is not None:
        tasks = replace(tasks, train=shrink_training(tasks.train))
    if tasks.evaluate is not None:
        tasks = replace(tasks, evaluate=replace(tasks.evaluate, maps=min(tasks.evaluate.maps, 1)))
    if tasks.heads is not None:
        tasks = replace(tasks, heads=replace(tasks.heads, images=8))
    match = None if match is None else replace(match, max_measurements=1, timings=1)
    search = study.file.search
    search = None if search is None else replace(search, variants=min(2, search.variants), proposals=8)
    return replace(study, file=replace(study.file, tasks=tasks, match=match, search=search), smoke=True)
