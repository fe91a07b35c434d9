"""What every command on models shares: where they are measured, how long it took, the record that it leaves."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evitlab.models.named import NamedModel
from evitlab.problems import UserError
from evitlab.records import Environment, Record, digest, record_key
from evitlab.store import append


@dataclass(frozen=True, kw_only=True)
class Desk:
    """Where models are measured, and the folder that keeps it."""

    folder: Path
    environment: Environment
    on_progress: Callable[[float], None]
    """Hears how far the present measurement is, from 0 to 1."""
    seed: int = 0
    smoke: bool = False

    @property
    def where(self) -> dict[str, Any]:
        """What every measurement is told."""
        return {"device": self.environment.device, "seed": self.seed, "on_progress": self.on_progress}


class Clock:
    """When a measurement began, and how long it has taken."""

    def __init__(self) -> None:
        self.start = datetime.now(UTC).isoformat()
        self._began = time.perf_counter()

    def read(self) -> dict[str, Any]:
        """As fields of a record."""
        return {"start": self.start, "seconds": time.perf_counter() - self._began}


@contextmanager
def one_line_errors() -> Iterator[None]:
    """A model that cannot run on such images, does not fit into memory or diverges is one line for the user."""
    try:
        yield
    except UserError:
        raise
    except (RuntimeError, ValueError, TypeError, AssertionError, FloatingPointError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(lines[0]) from error


def keep(
    desk: Desk, variant: str, model: NamedModel | None, task: str, settings: dict[str, Any], found: Any, clock: Clock
) -> Record:
    """Record a measurement, of a model or of the machine itself."""
    config = {} if model is None else model.config
    weights = None if model is None else model.weights
    record = Record(
        key=record_key(
            config=config,
            weights=weights,
            task=task,
            settings=settings,
            seed=desk.seed,
            environment=desk.environment,
            smoke=desk.smoke,
        ),
        study=desk.folder.parent.name if desk.smoke else desk.folder.name,
        request=digest([config, weights, task, settings]),
        variant=variant,
        knobs={} if model is None else dict(model.knobs),
        config=config,
        task=task,
        settings=settings,
        status="ok",
        measurement=asdict(found),
        environment=desk.environment,
        seed=desk.seed,
        smoke=desk.smoke,
        **clock.read(),
    )
    append(record, desk.folder)
    return record
