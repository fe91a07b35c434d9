"""Records on disk: one JSON line each in `results/<study>/records.jsonl`, only ever appended.

A line is written whole or not at all. A crash can still leave half a line at the end; it is moved to
`records.jsonl.torn` before anything more is written, so it is neither lost nor read as a measurement.
"""

import json
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from evitlab.measurements.by_task import MEASUREMENTS
from evitlab.problems import UserError, explain, shorten
from evitlab.records import RECORD, SCHEMA, Record, digest

try:
    import fcntl
except ImportError:  # Windows has no flock: there, only one process may write to a folder at a time
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:  # pandas takes half a second to import, and only `load_records` needs it
    import pandas as pd

RECORDS = "records.jsonl"
TORN = "records.jsonl.torn"
REPLACED = "records.jsonl.replaced"


class StoreError(UserError):
    """A results folder that cannot be read or written; names file, line, field and what is allowed."""


def prepare_folder(folder: str | Path) -> None:
    """Make a folder for results and see that it can be written to."""
    path = Path(folder) / RECORDS
    with _os_errors_name(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab"):
            pass


def discard_empty(folder: str | Path) -> None:
    """Take back what `prepare_folder` made, where nothing has been recorded since and nothing else lies there."""
    path = Path(folder) / RECORDS
    with suppress(OSError):  # it is not there, or other files are
        if path.stat().st_size == 0:
            path.unlink()
            path.parent.rmdir()


def append(record: Record, folder: str | Path) -> None:
    """Add one record to the folder's file, on disk before this returns; on an error the file is as it was.

    Creates the folder. Sets a torn last line aside first, with a warning. Refuses a record that could not be
    read back. Processes that append to one file wait for each other.
    """
    path = Path(folder) / RECORDS
    where = f"{path}: new record of {record.variant!r}, {record.task!r}"
    try:
        line = record.to_json().encode()
    except (TypeError, ValueError) as error:
        raise StoreError(f"{where}: must hold finite numbers and plain data, but got: {error}") from None
    _parse(line, where=where)
    with _os_errors_name(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _open_locked(path, "ab+") as file:
            _set_torn_tail_aside(file, path)
            _write_or_undo(file, line + b"\n")


def merge(published: Sequence[Record], folder: str | Path) -> list[Record]:
    """Put records into a folder, first and in their order, and return all that it then holds.

    They replace what the folder has of the same work, such as attempts that another machine took over, so that the
    same records come out wherever that is done; what is replaced moves to `records.jsonl.replaced`. Work that is in
    none of them follows. In one step: a reader, or a crash, sees the old records or the new; those who append wait.
    """
    path = Path(folder) / RECORDS
    with _os_errors_name(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _open_locked(path, "ab+") as file:
            _set_torn_tail_aside(file, path)
            lines, done = {record.to_json() for record in published}, {_work(record) for record in published}
            besides = [record for record in read_records(folder) if record.to_json() not in lines]
            merged = [*published, *(record for record in besides if _work(record) not in done)]
            if replaced := [record for record in besides if _work(record) in done]:
                with open(path.with_name(REPLACED), "ab", buffering=0) as aside:
                    _write_or_undo(aside, _to_lines(replaced))
            if (data := _to_lines(merged)) != path.read_bytes():
                write_atomically(path, data)
    return merged


def _work(record: Record) -> tuple[str, str, int, bool]:
    return record.variant, record.request, record.seed, record.smoke


def _to_lines(records: Sequence[Record]) -> bytes:
    return "".join(f"{record.to_json()}\n" for record in records).encode()


@contextmanager
def _open_locked(path: Path, mode: Literal["ab+", "rb+"]) -> Iterator[FileIO]:
    """The file, once no other process writes to it, and not one that `merge` has replaced meanwhile."""
    while True:
        with open(path, mode, buffering=0) as file:
            _lock(file)
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                yield file
                return


def repair(folder: str | Path) -> bool:
    """Move a torn last line to `records.jsonl.torn`; say whether there was one."""
    path = Path(folder) / RECORDS
    with _os_errors_name(path), suppress(FileNotFoundError), _open_locked(path, "rb+") as file:
        return _set_torn_tail_aside(file, path)
    return False


def read_records(folder: str | Path) -> list[Record]:
    """All records of a folder in the order written; none if it has no file. Changes nothing on disk.

    A torn last line is skipped with a warning; any other line must be a record of this schema.
    """
    path = Path(folder) / RECORDS
    with _os_errors_name(path):
        try:
            *lines, tail = path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
    if tail and _is_json(tail):
        lines.append(tail)  # a whole record that only lacks its newline
    elif tail:
        warnings.warn(f"{path}: line {len(lines) + 1}: skipped, a crash tore it", stacklevel=2)
    return [_parse(line, where=f"{path}: line {number}") for number, line in enumerate(lines, start=1)]


def measured(record: Record) -> Any:
    """The measurement of an `ok` or `stopped` record, as its task's dataclass in `MEASUREMENTS`."""
    return record.found


def load_records(*folders: str | Path, smoke: bool = False) -> "pd.DataFrame":
    """All records of some folders as one tidy table, a row each; smoke records only on request.

    A column is a field of `Record`; where that is a mapping, one column for each of its entries, after a dot:
    `knobs.mhsa_ratio`, `settings.batch_size`, `config.stages`, `environment.torch`. The fields of a
    measurement stand under the name of its task, in base units: `throughput.images_per_second`, `train.top1`.
    Failed records have a row too: `status` tells them apart.
    """
    import pandas as pd

    records = [record for folder in folders for record in read_records(folder)]
    rows = [_as_row(record) for record in records if smoke or not record.smoke]
    plain = [field.name for field in fields(Record) if field.name != "measurement"]
    return pd.json_normalize(rows, max_level=1) if rows else pd.DataFrame(columns=plain)


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Replace a file in one step: a reader, or a crash, sees the old content or the new, never a part."""
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with _os_errors_name(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            with suppress(OSError):  # gone after a successful replace
                temporary.unlink()


def folder_name(variant: str) -> str:
    """A variant's name as a folder's, of characters that every file system takes; different names stay different."""
    plain = re.sub(r"[^A-Za-z0-9_.=+-]+", "-", variant).strip("-.")[:80]
    return plain if plain == variant else f"{plain}-{digest(variant)[:8]}".lstrip("-")


@contextmanager
def _os_errors_name(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"{error.filename or path}: {error.strerror or error}") from error


def _lock(file: FileIO) -> None:
    """Wait until no other process appends; closing the file gives the lock back."""
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX)


def _write_or_undo(file: FileIO, data: bytes) -> None:
    end = file.seek(0, os.SEEK_END)
    try:
        written = 0
        while written < len(data):  # a disk that fills up takes a part and reports the error on the next call
            written += file.write(data[written:])
        os.fsync(file.fileno())
    except OSError:
        with suppress(OSError):  # the first error is the one to report
            file.truncate(end)
        raise


def _set_torn_tail_aside(file: FileIO, path: Path) -> bool:
    """End the file with a newline: finish a whole last record, move half of one to the file beside it."""
    end = file.seek(0, os.SEEK_END)
    if end == 0:
        return False
    file.seek(end - 1)
    if file.read(1) == b"\n":
        return False
    file.seek(0)
    tail = file.read().rpartition(b"\n")[2]
    if _is_json(tail):
        _write_or_undo(file, b"\n")
        return False
    with open(path.with_name(TORN), "ab", buffering=0) as torn:
        _write_or_undo(torn, tail + b"\n")  # on disk there before it goes here: a crash in between keeps both
    file.truncate(end - len(tail))
    warnings.warn(f"{path}: last line was torn by a crash; moved to {TORN}", stacklevel=4)
    return True


def _is_json(line: bytes) -> bool:
    """Whether a line is whole: no proper part of a JSON object is JSON itself."""
    try:
        json.loads(line.decode())
    except ValueError:
        return False
    return True


def _parse(line: bytes, *, where: str) -> Record:
    try:
        record = RECORD.validate_json(line, strict=True)
    except ValidationError as error:
        _check_schema(line, where=where)
        raise StoreError(f"{where}: " + "; ".join(explain(error, Record))) from None
    if record.schema != SCHEMA:
        _check_schema(line, where=where)
    _check_measurement(record, where=where)
    return record


def _check_schema(line: bytes, *, where: str) -> None:
    """What no look at single fields would find: a line that is no JSON, or is of another version."""
    try:
        data = json.loads(line.decode())
    except ValueError:
        text = shorten(line.decode(errors="replace"))
        raise StoreError(f"{where}: must be one JSON object, but got {text}") from None
    schema = data.get("schema", SCHEMA) if isinstance(data, dict) else SCHEMA
    if isinstance(schema, int) and schema > SCHEMA:
        raise StoreError(f"{where}: schema {schema} is newer than {SCHEMA}: update evitlab to read it")
    if isinstance(schema, int) and 0 < schema < SCHEMA:
        raise StoreError(f"{where}: schema {schema} is older than {SCHEMA}: move the file away and measure again")
    if schema != SCHEMA:
        raise StoreError(f"{where}: schema: must be {SCHEMA}, but got {schema!r}")


def _check_measurement(record: Record, *, where: str) -> None:
    if record.task not in MEASUREMENTS:
        raise StoreError(f"{where}: task: must be one of {', '.join(MEASUREMENTS)}, but got {record.task!r}")
    if record.status in ("failed", "infeasible"):
        return
    try:
        _ = record.found  # read once, kept for those who ask for it
    except ValidationError as error:
        problems = explain(error, MEASUREMENTS[record.task])
        raise StoreError(f"{where}: " + "; ".join(f"measurement.{problem}" for problem in problems)) from None


def _as_row(record: Record) -> dict[str, Any]:
    row = asdict(record)
    measurement = row.pop("measurement")
    return row if measurement is None else row | {record.task: measurement}
