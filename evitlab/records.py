"""The record that keeps a measurement together with its conditions: machine, software, settings, seed."""

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, with_config

from evitlab.measurements.by_task import MEASUREMENTS

SCHEMA = 2
"""Version of the record's layout. A reader refuses a newer one instead of guessing."""

STRICT = ConfigDict(extra="forbid", ser_json_inf_nan="strings")


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Environment:
    """The machine and the software behind a measurement."""

    device: str
    """torch's name of the device: `cpu`, `cuda:0`."""
    device_name: str
    """Model of the processor or accelerator that computed."""
    machine: str
    """Eight hexadecimal digits that tell machines apart; a hash, so it names nobody's host."""
    cores: int
    """Logical cores that this process may use."""
    threads: int
    """Threads of torch's operators, read back after they were set."""
    memory_bytes: int
    """Physical memory of the machine."""
    allocator: str
    """How the C allocator was set up; it alone moves eager CPU throughput by up to 2x."""
    platform: str
    """Operating system and architecture."""
    python: str
    torch: str
    timm: str
    evitlab: str
    git_commit: str | None = None
    """Commit of the evitlab checkout that ran, where it is one."""
    git_dirty: bool | None = None
    """Whether that checkout had uncommitted changes outside `results/`."""

    @property
    def conditions(self) -> dict[str, Any]:
        """The fields that make measurements comparable: no table mixes two values of one."""
        names = ("machine", "device", "device_name", "torch", "threads", "allocator")
        return {name: getattr(self, name) for name in names}


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Record:
    """One measurement of one variant with everything needed to judge and to repeat it: one JSON line."""

    schema: int = SCHEMA
    key: str
    """Identity of the work (see `record_key`): a study skips work whose key has an `ok` record."""
    study: str
    request: str
    """Hash of what the study asked of this variant and task, prose left out (see `Study.request`)."""
    variant: str
    knobs: dict[str, Any]
    """The variant's changes to the base."""
    config: dict[str, Any]
    """The `ModelConfig` measured (for `train` with a proxy: the proxy's)."""
    task: str
    settings: dict[str, Any]
    status: Literal["ok", "failed", "infeasible", "stopped"]
    """infeasible: outside the study's limits, so it was not done. stopped: given up on the way, measured so far."""
    error: str | None = None
    """Why it is not ok."""
    measurement: dict[str, Any] | None = None
    """Fields of the task's dataclass in `measurements.MEASUREMENTS`; None where it failed or is infeasible."""
    environment: Environment
    seed: int
    start: str
    """UTC, ISO 8601."""
    seconds: float
    """Wall seconds that the task took."""
    smoke: bool = False
    """Made by `--smoke`: tiny sizes, no meaning; no table reads it."""

    @cached_property
    def found(self) -> Any:
        """The measurement as its task's dataclass, checked once. Raises pydantic's ValidationError."""
        return _adapter(self.task).validate_json(json.dumps(self.measurement), strict=True)

    def to_json(self) -> str:
        """The record as one line, keys in a fixed order, without the newline."""
        return json.dumps(asdict(self), separators=(",", ":"), allow_nan=False)


RECORD = TypeAdapter(Record)
"""Reads a record from JSON and checks every field's type."""


@cache
def _adapter(task: str) -> TypeAdapter[Any]:
    return TypeAdapter(MEASUREMENTS[task])


def digest(value: Any) -> str:
    """Sixteen hexadecimal digits that identify plain data, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def record_key(
    *,
    config: dict[str, Any],
    weights: str | None,
    task: str,
    settings: dict[str, Any],
    seed: int,
    environment: Environment,
    smoke: bool,
) -> str:
    """Identity of a piece of work: equal keys mean that doing it again would repeat it.

    `weights` is the hash of loaded weights, None for a seeded initialisation.
    """
    return digest([config, weights, task, settings, seed, environment.conditions, smoke])
