"""Files in a folder, a tar or a zip archive: their names, and their bytes without unpacking anything.

Names are relative, with `/` between their parts; those of folders end with `/`.
"""

import gzip
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path

from evitlab.problems import UserError

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")


def is_archive(path: Path) -> bool:
    """Whether it is a file with an archive's name."""
    return path.name.lower().endswith(SUFFIXES) and path.is_file()


def list_names(path: Path) -> list[str]:
    """Every file and folder in a folder or an archive, hidden ones left out.

    An archive is read to its end. Raises UserError, which names archive and member, where it is truncated or damaged,
    or where a member would unpack outside its folder: an absolute name, `..`, a link, a device.
    """
    if path.is_dir():
        return [name for name, _ in scan_folder(path)]
    with _damage_names(path):
        names = _list_zip(path) if _is_zip(path) else _list_tar(path)
    return [name for name in names if not _is_hidden(name)]


def read_files(path: Path, wanted: Collection[str]) -> Iterator[tuple[str, bytes | Path]]:
    """Name and content of the wanted files that are there, in their order there; of a folder's, where they lie."""
    if path.is_dir():
        yield from ((name, path / name) for name in sorted(wanted) if (path / name).is_file())
        return
    with _damage_names(path):
        yield from _read_zip(path, wanted) if _is_zip(path) else _read_tar(path, wanted)


def scan_folder(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Every file and folder below a folder with its state, sorted by name; links are followed, hidden ones left out."""
    pending = [""]
    seen: set[tuple[int, int]] = set()
    while pending:
        parent = pending.pop()
        for entry in sorted(_scan(folder / parent), key=lambda entry: entry.name):
            name = parent + entry.name
            if _is_hidden(name):
                continue
            state = _state_of(entry)
            if not stat.S_ISDIR(state.st_mode):
                yield name, state
                continue
            if entry.is_symlink() and (state.st_dev, state.st_ino) in seen:
                raise UserError(f"{entry.path}: must not link back to a folder that holds it")
            seen.add((state.st_dev, state.st_ino))
            yield name + "/", state
            pending.append(name + "/")


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}") from error


def _state_of(entry: os.DirEntry[str]) -> os.stat_result:
    try:
        return entry.stat()
    except OSError as error:
        raise UserError(f"{entry.path}: cannot be read: {error.strerror}") from error


def _is_zip(path: Path) -> bool:
    return path.name.lower().endswith(".zip")


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX/")) or "/." in name


@contextmanager
def _damage_names(path: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: truncated or damaged archive: {error}") from error
    except (RuntimeError, NotImplementedError) as error:  # zipfile's: a password, an unknown compression
        raise UserError(f"{path}: cannot be unpacked: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error


@contextmanager
def _open_tar(path: Path) -> Iterator[tarfile.TarFile]:
    with open(path, "rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        file: BufferedIOBase = gzip.GzipFile(fileobj=raw) if packed else raw
        with file, tarfile.open(fileobj=file, mode="r:") as tar:
            yield tar
            _check_end(tar, file)


def _check_end(tar: tarfile.TarFile, file: BufferedIOBase) -> None:
    """tarfile takes a file cut between two members for a whole one, and stops before gzip's checksum is compared."""
    file.seek(tar.offset)
    if file.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it has no end mark")
    while file.read(1 << 20):
        pass


def _walk(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := tar.next()) is not None:
        yield member
        tar.members.clear()  # type: ignore[attr-defined]  # it keeps them all, a million of ImageNet


def _list_tar(path: Path) -> list[str]:
    names = []
    with _open_tar(path) as tar:
        for member in _walk(tar):
            if not (member.isfile() or member.isdir()):
                raise UserError(f"{path}: {member.name}: must be a file or a folder, no link or device")
            names.append(_check_name(path, member.name) + ("/" if member.isdir() else ""))
    return [name for name in names if name != "/"]


def _read_tar(path: Path, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
    with _open_tar(path) as tar:
        for member in _walk(tar):
            name = _check_name(path, member.name)
            if member.isfile() and name in wanted:
                file = tar.extractfile(member)
                assert file is not None
                yield name, file.read()


def _list_zip(path: Path) -> list[str]:
    names = []
    with zipfile.ZipFile(path) as file:
        for member in file.infolist():
            if stat.S_ISLNK(member.external_attr >> 16):
                raise UserError(f"{path}: {member.filename}: must be a file or a folder, no link or device")
            names.append(_check_name(path, member.filename) + ("/" if member.is_dir() else ""))
    return [name for name in names if name != "/"]


def _read_zip(path: Path, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as file:
        for member in file.infolist():
            name = _check_name(path, member.filename)
            if not member.is_dir() and name in wanted:
                yield name, file.read(member)


def _check_name(path: Path, name: str) -> str:
    parts = name.replace("\\", "/").split("/")
    if not parts[0] or parts[0][1:2] == ":" or ".." in parts:
        raise UserError(f"{path}: {name}: must stay inside its folder, but is absolute or has ..")
    return "/".join(part for part in parts if part not in ("", "."))
