"""What is wrong with a study beyond the types of its fields: contradictions, and networks that cannot be built."""

import itertools
import json
from collections.abc import Mapping
from math import inf
from typing import Any

from pydantic import TypeAdapter

from evitlab.models.knobs import KNOBS, KnobError
from evitlab.models.zoo import ZOO, make_config
from evitlab.problems import shorten, suggest
from evitlab.settings import PAPER_FIGURES, StudyFile, Tasks, choose_proxy
from evitlab.sweep.search import SearchSettings, find_proposal_problems, find_search_contradictions, fit_heads

BASE = "base"
"""Name of the row that every variant is compared with."""

NO_KNOBS = ("base", "speedup")
"""What a variant may also set: the network that it starts from, and a target speed of its own."""

_SEARCH = TypeAdapter(SearchSettings)


def split_base(base: str | Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Name and knobs of a network written as `NAME` or `{name: NAME, knob: value, ...}`."""
    if isinstance(base, str):
        return base, {}
    return base.get("name"), {knob: value for knob, value in base.items() if knob != "name"}


def expand(
    grid: Mapping[str, list[Any]] | None, variants: Mapping[str, dict[str, Any]] | None
) -> list[tuple[str, dict[str, Any]]]:
    """Name and changes of each variant: those named, or the grid's lists crossed.

    >>> expand({"mhsa_ratio": [0.2, 0.4]}, None)[1]
    ('mhsa_ratio=0.4', {'mhsa_ratio': 0.4})
    """
    if variants is not None:
        return list(variants.items())
    if grid is None:  # a search may name none
        return []
    crossed = (dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values()))
    return [(", ".join(f"{knob}={_show(value)}" for knob, value in change.items()), change) for change in crossed]


def _show(value: Any) -> str:
    if isinstance(value, dict):
        return show_base(value)
    return "-".join(map(str, value)) if isinstance(value, list) else str(value)


def show_base(base: str | Mapping[str, Any]) -> str:
    """The network that a variant starts from, as the name of a row."""
    name, knobs = split_base(base)
    return " ".join([str(name), *(f"{knob}={_show(value)}" for knob, value in knobs.items())])


def find_contradictions(file: StudyFile) -> list[str]:
    """Fields that are well-formed, each alone, but do not fit one another."""
    problems = _find_variant_contradictions(file)
    if all(getattr(file.tasks, task) is None for task in Tasks.__dataclass_fields__):
        problems.append(f"tasks: must name at least one of {', '.join(Tasks.__dataclass_fields__)}, but got none")
    train, throughput = file.tasks.train, file.tasks.throughput
    if file.match is not None and throughput is None:
        problems.append("match: needs the task throughput, which says how speed is measured, but got none")
    for task, does in (("evaluate", "judges"), ("heads", "compares heads of")):
        if getattr(file.tasks, task) is not None and train is None:
            problems.append(
                f"tasks.{task}: needs the task train, which makes the networks that it {does}, but got none"
            )
    if train is not None and (not train.seeds or len(set(train.seeds)) < len(train.seeds)):
        problems.append(f"tasks.train.seeds: must hold different seeds, at least one, but got {list(train.seeds)}")
    if throughput is not None and throughput.min_rounds > throughput.max_rounds:
        got = f"min_rounds={throughput.min_rounds}"
        problems.append(f"tasks.throughput.min_rounds: must be at most {throughput.max_rounds=}, but got {got}")
    problems += _find_paper_contradictions(file)
    problems += _find_sweep_contradictions(file)
    return problems


def _find_sweep_contradictions(file: StudyFile) -> list[str]:
    """Search, limits and stopping beside the tasks that they need."""
    problems = find_search_contradictions(file.search, file.limits)
    needs: list[tuple[str, bool, str]] = []
    if file.limits is not None:
        needs += [(f"limits.{task}", getattr(file.limits, task) is not None, task) for task in ("throughput", "macs")]
    if file.stop is not None:
        needs += [("stop", True, "train"), ("stop", True, "throughput")]
    if file.search is not None:
        needs += [("search", file.tasks.throughput is None and file.tasks.train is None, "macs")]
    for place, asked, task in needs:
        if asked and getattr(file.tasks, task) is None:
            problems.append(f"{place}: needs the task {task}, but there is none")
    proxy = (file.tasks.train.proxy if file.tasks.train is not None else None) or {}
    scale = proxy.get("scale", 1.0)
    if not isinstance(scale, int | float) or isinstance(scale, bool) or not 0 < scale <= 1:
        problems.append(f"tasks.train.proxy.scale: must be a number above 0, at most 1, but got {scale!r}")
    if {"scale", "width"} <= set(proxy):
        problems.append("tasks.train.proxy: scale and width both set the width; give one of them")
    if file.search is not None and file.grid is not None:
        problems.append("grid, search: a study must have one of them, but got both")
    if file.search is not None and file.match is not None:
        problems.append("match, search: a search sets each width itself, so a study must have one of them")
    return problems


def _find_variant_contradictions(file: StudyFile) -> list[str]:
    problems = []
    if file.search is None and (file.grid is None) == (file.variants is None):
        got = "neither" if file.grid is None else "both"
        problems.append(f"grid, variants: a study must have one of them, but got {got}")
    if file.grid is not None and (not file.grid or not all(file.grid.values())):
        empty = [knob for knob, values in file.grid.items() if not values]
        problems.append(f"grid: every knob needs at least one value, but got none for {', '.join(empty) or 'any knob'}")
    if file.variants is not None and not file.variants:
        problems.append("variants: must name at least one variant, but got none")
    variants = expand(file.grid, file.variants)
    names = [name for name, _ in variants]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        problems.append(f"grid: two variants must not have one name, but got {', '.join(twice)} more than once")
    if BASE in names:
        problems.append(f"variants.{BASE}: this is the name of the base's own row; choose another")
    if any(not name.strip() or not name.isprintable() or len(name) > 200 for name in names):
        problems.append("variants: names must be printable, not empty and at most 200 characters long")
    return problems + _find_match_contradictions(file, variants)


def _find_paper_contradictions(file: StudyFile) -> list[str]:
    """What a study cites, and what its variants are compared with, must be of variants that it has."""
    problems, paper = [], file.paper or {}
    names = [name for name, _ in expand(file.grid, file.variants)]
    if wrong := sorted(set(paper) - set(PAPER_FIGURES)):
        problems.append(f"paper: unknown {', '.join(wrong)} (allowed: {', '.join(PAPER_FIGURES)})")
    for figure in PAPER_FIGURES:
        for name, value in (paper.get(figure) or {}).items():
            if name not in names:
                problems.append(f"paper.{figure}.{name}: no variant has this name{suggest(name, names)}")
            if figure == "top1" and not 0 <= value <= 100:
                problems.append(f"paper.top1.{name}: must be percent from 0 to 100, but got {value}")
            if figure == "images_per_second" and not 0 < value < inf:
                problems.append(f"paper.images_per_second.{name}: must be a number above 0, but got {value}")
    if file.compare_to is not None and file.compare_to not in names:
        hint = suggest(file.compare_to, names)
        problems.append(f"compare_to: must be a variant's name, but got {file.compare_to!r}{hint}")
    return problems


def _find_match_contradictions(file: StudyFile, variants: list[tuple[str, dict[str, Any]]]) -> list[str]:
    problems = []
    scaled = [] if file.match is None else file.match.scale.split(" and ")
    for knob in scaled:
        if any(knob in changes for _, changes in variants):
            problems.append(f"match: sets the {knob} of every variant, so grid and variants must not change {knob}")
    for name, changes in variants:
        speedup = changes.get("speedup", 1.0)
        if not isinstance(speedup, int | float) or isinstance(speedup, bool) or not 0 < speedup < inf:
            problems.append(f"{name}: speedup must be a number above 0, but got {speedup!r}")
        if "speedup" in changes and file.match is None:
            problems.append(f"{name}: speedup needs match, which says how to reach it, but there is none")
        if file.match is not None and file.match.reference == "own" and "base" in changes:
            row = show_base(changes["base"])
            if row in {other for other, _ in variants}:
                problems.append(f"variants.{row}: this is the name of a reference's own row; choose another")
    return list(dict.fromkeys(problems))


def find_network_problems(data: Mapping[str, Any]) -> list[str]:
    """Wrong networks and knobs in a study as read, which may have other mistakes: they all are to come at once."""
    base = _as_network(data.get("base"))
    if base is None:
        return []
    problems = _find_knob_problems(base, "base") + _find_unknown_knobs(data)
    for place, network in [] if problems else _networks(data, base):
        problems += _find_knob_problems(network, place)
    problems += [] if problems else _find_proxy_gaps(data, base)
    for place, network in [] if problems else _proposals(data, base):
        problems += _find_knob_problems(network, place)
    for network in [] if problems else _proxies(data, base):
        problems += _find_knob_problems(network, "tasks.train.proxy")
    return list(dict.fromkeys(problems))


def _find_unknown_knobs(data: Mapping[str, Any]) -> list[str]:
    """Names in grid and variants that are no knob of any network."""
    grid, variants = data.get("grid"), data.get("variants")
    named = [("grid", knob) for knob in (grid if isinstance(grid, dict) else {})]
    for name, changes in (variants if isinstance(variants, dict) else {}).items():
        named += [(f"variants.{name}", knob) for knob in (changes if isinstance(changes, dict) else {})]
    allowed = [*KNOBS, *NO_KNOBS]
    return [
        f"{place}: {knob} is not a knob{suggest(str(knob), allowed)} (allowed: {', '.join(allowed)})"
        for place, knob in named
        if knob not in allowed
    ]


def _as_network(base: Any) -> dict[str, Any] | None:
    """A base as `{name: ..., knob: ...}`; None where it has not the right form."""
    return {"name": base} if isinstance(base, str) else dict(base) if isinstance(base, dict) else None


def _changes(data: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Place in the file and changes of each variant, as far as grid and variants have the right form."""
    grid, variants = data.get("grid"), data.get("variants")
    if isinstance(grid, dict) and variants is None and all(isinstance(values, list) for values in grid.values()):
        return [(f"grid ({name})", changes) for name, changes in expand(grid, None)]
    named = variants.items() if isinstance(variants, dict) else []
    return [(f"variants.{name}", changes) for name, changes in named if isinstance(changes, dict)]


def _networks(data: Mapping[str, Any], base: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Place in the file and network of each variant."""
    return [(place, _merge(base, changes)) for place, changes in _changes(data)]


def _proxies(data: Mapping[str, Any], base: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The networks that are trained in place of the variants, which keep what they change themselves."""
    train = data["tasks"].get("train") if isinstance(data.get("tasks"), dict) else None
    proxy = train.get("proxy") if isinstance(train, dict) else None
    if not isinstance(proxy, dict):
        return []
    found = []
    for changes, network in _trained(data, base):
        knobs = {knob: value for knob, value in choose_proxy(proxy, network.get("name")).items() if knob != "scale"}
        found.append({**network, **{knob: value for knob, value in knobs.items() if knob not in changes}})
    return found


def _trained(data: Mapping[str, Any], base: Mapping[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Changes and network of each variant, and of each network that proposals start from."""
    named = [(changes, _merge(base, changes)) for _, changes in _changes(data)]
    return [*named, *(({}, network) for _, network in _starts(data, base))]


def _find_proxy_gaps(data: Mapping[str, Any], base: Mapping[str, Any]) -> list[str]:
    """Networks that have no proxy where others have one each."""
    train = data["tasks"].get("train") if isinstance(data.get("tasks"), dict) else None
    proxy = train.get("proxy") if isinstance(train, dict) else None
    if not isinstance(proxy, dict) or not any(isinstance(knobs, dict) for knobs in proxy.values()):
        return []
    names = {str(network.get("name")) for _, network in _trained(data, base)}
    return [
        f"tasks.train.proxy: must be knobs, or knobs of each network that variants start from, but has none of {name}"
        for name in sorted(names)
        if not isinstance(proxy.get(name), dict)
    ]


def _read_search(data: Mapping[str, Any]) -> SearchSettings | None:
    """The search, if it has the right form."""
    search = data.get("search")
    try:
        return None if search is None else _SEARCH.validate_json(json.dumps(search, allow_nan=False), strict=True)
    except (TypeError, ValueError):
        return None


def _starts(data: Mapping[str, Any], base: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The networks that proposals start from."""
    search = _read_search(data)
    if search is None:
        return []
    return [(f"search.bases.{name}", {"name": name}) for name in search.bases or ()] or [("base", dict(base))]


def _proposals(data: Mapping[str, Any], base: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Place and network of every knob's every value alone; knobs that do not fit one another are found as proposed."""
    search = _read_search(data)
    if search is None or find_search_contradictions(search, None):
        return []
    found = find_proposal_problems(search, base)
    return [*_starts(data, base), *((place, fit_heads(network, str(network["name"]))) for place, network in found)]


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A variant's network: its own `base` replaces the study's with all its knobs."""
    own = {knob: value for knob, value in changes.items() if knob not in NO_KNOBS}
    start = _as_network(changes["base"]) or {"name": changes["base"]} if "base" in changes else base
    return {**start, **own}


def _find_knob_problems(network: Mapping[str, Any], place: str) -> list[str]:
    name, knobs = network.get("name"), {knob: value for knob, value in network.items() if knob != "name"}
    if not isinstance(name, str) or name not in ZOO:
        hint = suggest(name, ZOO) if isinstance(name, str) else ""
        return [f"{place}: unknown network {shorten(name)}{hint} (allowed: {', '.join(ZOO)})"]
    try:
        make_config(name, **{str(knob): value for knob, value in knobs.items()})
    except KnobError as error:
        return [f"{place}: {problem}" for problem in error.problems]
    return []
