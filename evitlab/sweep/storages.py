"""Where a study's trials are kept: a SQLite file, a journal on a shared disk, or PostgreSQL; and one claim at a time.

A storage is written as `postgresql://user:password@host/database`, as `sqlite:///file`, or as the path of a journal.
Its label, which may be shown, has neither password nor query.
"""

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, quote_plus, unquote

import optuna
from filelock import FileLock, Timeout
from optuna.exceptions import StorageInternalError
from optuna.storages.journal import JournalFileBackend
from sqlalchemy import Connection, NullPool, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from evitlab.problems import UserError, shorten
from evitlab.records import digest

Result = TypeVar("Result")

PATIENCE_S = 180.0
"""A database that does not answer, as while it restarts, is waited for so long."""
OPENING_S = 15.0
"""The same when a worker starts, as then the address may be wrong."""
POLL_S = 0.05
DRIVER = "postgresql+psycopg2"
"""Of the extra `postgres`, unless the URL names another; SQLAlchemy's own choice depends on its version."""
ERRORS = (SQLAlchemyError, StorageInternalError)


class SweepError(UserError):
    """A study that cannot be run now; the message says why."""


class LostClaimError(Exception):
    """The connection that kept others out broke while something was claimed."""


class Storage:
    """Optuna's storage with what it lacks: exclusion across machines, patience, and a name without secrets."""

    def __init__(self, asked: str, *, patience_s: float = PATIENCE_S, new: bool = True):
        """Opens what is asked for; a file that is not there is made where `new`, else refused."""
        self._url = _parse(asked)
        self._is_file = self._url is None or self._url.get_backend_name() == "sqlite"
        self._patience_s = 0.0 if self._is_file else patience_s
        self._path = asked if self._url is None else self._url.database or ""
        self.label = asked if self._url is None else _label(self._url)
        self._secrets = _secrets(self._url)
        if self._is_file and not new and not Path(self._path).is_file():
            raise SweepError(f"{self.label}: no worker has shared a study there, as there is no such file")
        with self.one_line_errors():
            self.optuna = self.patiently(self._open_once, most_s=OPENING_S)

    def _open_once(self) -> optuna.storages.BaseStorage:
        """Workers that start together would make the same tables, which Optuna does not allow for."""
        if self._is_file:
            return self._open()
        with self.exclusive("tables"):
            return self._open()

    def _open(self) -> optuna.storages.BaseStorage:
        if self._url is None:
            path = Path(self._path)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with open(path, "ab+") as file:
                    file.seek(0)
                    if (line := file.readline()) and not line.startswith(b'{"op_code":'):
                        raise SweepError(f"{path}: is not a journal of trials, nor empty")
                backend = JournalFileBackend(str(path), lock_obj=_FileLock(path))  # type: ignore[arg-type]
                return optuna.storages.JournalStorage(backend)
            except OSError as error:
                raise SweepError(f"{path}: {error.strerror}") from None
        options: dict[str, Any] = {"pool_pre_ping": True}
        if self._url.get_backend_name() == "sqlite":
            options["connect_args"] = {"timeout": 60}
        made = optuna.storages.RDBStorage(self._url.render_as_string(hide_password=False), engine_kwargs=options)
        if self._url.get_backend_name() == "sqlite":
            event.listen(made.engine, "connect", _do_not_wait_for_disk)
            made.engine.dispose()  # connections made before
        return optuna.storages.get_storage(made)

    def hide(self, message: str) -> str:
        """A message without the storage's passwords."""
        for secret in self._secrets:
            message = message.replace(secret, "***")
        return message

    @contextmanager
    def one_line_errors(self) -> Iterator[None]:
        """Inside, an error of the database is one message that names the storage and holds no password."""
        try:
            yield
        except ImportError:
            raise SweepError(f"{self.label}: needs a driver: pip install 'evitlab[postgres]'") from None
        except OSError as error:
            raise SweepError(f"{error.filename or self.label}: {error.strerror or error}") from None
        except ERRORS as error:
            cause = (error.__cause__ or error).args
            reason = self.hide(f"{cause[0] if cause else error}".strip().splitlines()[0])
            local = " (of a local study the file may be deleted: records say what is done)" if self._is_file else ""
            raise SweepError(f"{self.label}: the trials cannot be kept there: {reason}{local}") from None

    def patiently(
        self, action: Callable[[], Result], check: Callable[[], None] = lambda: None, *, most_s: float = PATIENCE_S
    ) -> Result:
        """Do what may be done twice, again until the database answers, or patience ends."""
        began = time.monotonic()
        while True:
            try:
                return action()
            except (*ERRORS, LostClaimError):
                if time.monotonic() - began >= min(self._patience_s, most_s):
                    raise
                check()
                time.sleep(0.5)

    @contextmanager
    def exclusive(self, name: str, check: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Keep every other worker of the study of that name out, on all machines, while inside.

        A dead worker's hold ends with its connection or process. Raises LostClaimError at the end where the hold
        broke on the way, as when the database restarted: what was claimed inside must then be given back.
        """
        if self._is_file:
            lock = FileLock(f"{self._path}.claims.lock")
            while True:
                try:
                    lock.acquire(timeout=POLL_S)
                    break
                except Timeout:
                    check()
            try:
                yield
            finally:
                lock.release()
            return
        assert self._url is not None
        engine = create_engine(self._url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        key = int(digest(name)[:15], 16)
        with engine.connect() as connection:
            while not _ask(connection, "SELECT pg_try_advisory_lock(:key)", key):
                check()
                time.sleep(POLL_S)
            yield
            try:
                held = _ask(connection, "SELECT pg_advisory_unlock(:key)", key)
            except SQLAlchemyError:
                held = False
            if not held:
                raise LostClaimError


def _do_not_wait_for_disk(connection: Any, _: object) -> None:
    """A power cut may cost the trials, which records replace, and not the records; a killed process costs neither."""
    connection.execute("PRAGMA synchronous=OFF")


def _ask(connection: Connection, query: str, key: int) -> bool:
    return bool(connection.execute(text(query), {"key": key}).scalar())


class _FileLock:
    """Optuna's lock of a journal for one who appends, which ends with the process that holds it.

    It takes away half a line at the end, which a killed process or a full disk left: Optuna reads no further.
    """

    def __init__(self, path: Path):
        self._path = path
        self._lock = FileLock(f"{path}.lock", thread_local=False)

    def acquire(self) -> bool:
        self._lock.acquire()
        try:
            _mend(self._path)
        except OSError:
            self._lock.release()
            raise
        return True

    def release(self) -> None:
        self._lock.release()


def _mend(path: Path) -> None:
    with open(path, "rb+") as file:
        if end := file.seek(0, os.SEEK_END):
            file.seek(end - 1)
            if file.read(1) != b"\n":
                file.seek(0)
                file.truncate(end - len(file.read().rpartition(b"\n")[2]))


def _parse(asked: str) -> URL | None:
    """The database's address; None for a journal's path. What may hold a password is in no message."""
    if "://" not in asked:
        if re.search(":.*@", asked):  # a folder of that name would show the password to all
            raise SweepError("--storage must begin with postgresql:// where it names a user, but it has no ://")
        if not asked.strip() or Path(asked).is_dir():
            raise SweepError(f"--storage must be a database's URL or a journal file's path, but got {asked!r}")
        return None
    kind = asked.partition(":")[0]
    allowed = "postgresql://..., sqlite:///FILE or the path of a journal file"
    try:
        url = make_url(asked)
    except (ArgumentError, ValueError):
        raise SweepError(f"--storage must be {allowed}, but got a {shorten(kind)} URL that cannot be read") from None
    if url.get_backend_name() not in ("postgresql", "sqlite"):
        raise SweepError(f"--storage must be {allowed}, but got one of {shorten(kind)}")
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        raise SweepError(f"--storage must be {allowed}, but got sqlite:// without a file")
    if url.get_backend_name() == "postgresql" and "@" in f"{url.host}{url.database}":  # a password's end, not yet shown
        raise SweepError("--storage must have one @, before the host: in a user or a password, write %40 for it")
    return url.set(drivername=DRIVER) if url.drivername == "postgresql" else url


def _label(url: URL) -> str:
    """The address without what may be secret."""
    if url.get_backend_name() == "sqlite":
        return url.database or "sqlite"
    return URL.create(url.get_backend_name(), host=url.host, port=url.port, database=url.database).render_as_string()


def _secrets(url: URL | None) -> list[str]:
    """Passwords as they may appear in messages, the longest first."""
    if url is None:
        return []
    found = [str(url.password)] if url.password else []
    for name, value in url.query.items():
        if re.search("pass", name):
            found += [value] if isinstance(value, str) else list(value)
    forms = {form for secret in found for form in (secret, quote(secret, safe=""), quote_plus(secret), unquote(secret))}
    return sorted(filter(None, forms), key=len, reverse=True)


@contextmanager
def ignore_outage() -> Iterator[None]:
    """Inside, a storage that does not answer or no longer knows the trial is nobody's trouble."""
    with suppress(*ERRORS, optuna.exceptions.UpdateFinishedTrialError, KeyError, OSError):
        yield
