"""A PostgreSQL server for tests: Debian's package, on a loopback port, in a folder of its own, gone afterwards."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PASSWORD = "s3cret-Zq9w/wallaby@7"
"""Of the database's user; nothing that is written or said may hold it."""
QUOTED = "s3cret-Zq9w%2Fwallaby%407"


def find_programs() -> Path | None:
    """The folder of the server's programs, of the newest version; None where it is not installed."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    return next((path for path in reversed(folders) if (path / "initdb").is_file()), None)


class Server:
    """A running server."""

    def __init__(self, programs: Path, folder: Path):
        self._programs = programs
        self._folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"postgresql://lab:{QUOTED}@127.0.0.1:{self.port}/postgres"

    def _call(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), *arguments]
        if os.getuid() == 0:  # the server refuses to run as root
            command = ["runuser", "-u", "postgres", "--", *command]
        with tempfile.TemporaryFile() as output:  # no pipe: the server would keep it open, and nobody would see its end
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False, cwd="/", timeout=120
            )
            output.seek(0)
            assert done.returncode == 0, output.read().decode()

    def start(self) -> None:
        """Make the database and start."""
        secret = self._folder / "password"
        secret.write_text(PASSWORD)
        if os.getuid() == 0:
            owner = pwd.getpwnam("postgres")
            for path in (self._folder, secret):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        data = str(self._folder / "data")
        self._call("initdb", "-D", data, "-U", "lab", "--pwfile", str(secret), "-A", "scram-sha-256", "--no-sync")
        self._control("start")

    def _control(self, action: str, *more: str) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self._folder} -c fsync=off"
        log = str(self._folder / "log")
        self._call("pg_ctl", "-D", str(self._folder / "data"), "-w", "-l", log, "-o", options, *more, action)

    def restart(self) -> None:
        """Stop as in a crash, which breaks every connection, and start again."""
        self._control("restart", "-m", "immediate")

    def stop(self) -> None:
        """Stop for good."""
        self._control("stop", "-m", "immediate")


@contextmanager
def start_postgres() -> Iterator[Server]:
    """A server inside; the test is skipped with a reason where it is not installed."""
    programs = find_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    pytest.importorskip("psycopg2", reason="the driver is not installed (pip install 'evitlab[postgres]')")
    folder = Path(tempfile.mkdtemp(prefix="evitlab-postgres-", dir="/tmp"))
    server = Server(programs, folder)
    try:
        server.start()
        yield server
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)
