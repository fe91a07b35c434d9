"""What an attempt at some work came to, whatever happened: a measurement, or a status with its reason."""

import errno
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from evitlab.stopping import DiskFullError, Stopped
from evitlab.tasks import GivenUpError


@dataclass(frozen=True, kw_only=True)
class Group:
    """Measurements of several variants, by name."""

    found: Mapping[str, Any]


def attempt(run: Callable[[], Any]) -> tuple[dict[str, Any], BaseException | None]:
    """What work came to, as a record has it, and the error that ends the study where it is one."""
    try:
        return {"status": "ok", "measurement": _plain(run())}, None
    except GivenUpError as given_up:
        return {"status": "stopped", "error": str(given_up), "measurement": _plain(given_up.result)}, None
    except Stopped as stop:
        return {"status": "failed", "error": f"interrupted by {stop}; the next start goes on"}, stop
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            return _failure(error), None
        full = DiskFullError(f"{error.filename or 'a file of the study'}: {error.strerror}; make room, then go on")
        return _failure(error), full
    except Exception as error:
        return _failure(error), None


def _plain(measurement: Any) -> dict[str, Any]:
    """A measurement as plain data; one that is not finite is no measurement."""
    plain = asdict(measurement)
    json.dumps(plain, allow_nan=False)
    return plain


def _failure(error: Exception) -> dict[str, Any]:
    """Status and reason: the first line says it, what follows is torch's advice."""
    reason = (str(error).strip().splitlines() or ["no message"])[0]
    return {"status": "failed", "error": f"{type(error).__name__}: {reason}"}
