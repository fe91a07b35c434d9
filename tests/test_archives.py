"""Names and contents of archives, and those that are cut off, damaged, or would unpack elsewhere."""

import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest
from fake_images import make_tree, write_archive, write_folder

from evitlab.problems import UserError
from evitlab.train.archives import is_archive, list_names, read_files

SUFFIXES = [".tar", ".tar.gz", ".tgz", ".zip"]


@pytest.mark.parametrize("suffix", ["", *SUFFIXES])
def test_names_and_contents_are_those_that_were_packed(suffix: str, tmp_path: Path):
    files = make_tree() | {
        "train/empty/": b"",
        ".DS_Store": b"x",
        "train/.old/cat/x.png": b"x",
        "train/._cat": b"x",
        "__MACOSX/cat": b"x",
    }
    path = write_archive(tmp_path / f"a{suffix}", files) if suffix else write_folder(tmp_path / "a", files)
    assert is_archive(path) == bool(suffix)
    shown = {name for name in files if "/." not in name and ".DS" not in name and "MACOSX" not in name}
    assert {name for name in list_names(path) if not name.endswith("/")} == shown - {"train/empty/"}
    assert "train/empty/" in list_names(path)
    wanted = {"val/cat/cat_100.png", "train/dog/dog_3.png", "not there"}
    read = {
        name: content if isinstance(content, bytes) else content.read_bytes()
        for name, content in read_files(path, wanted)
    }
    assert read == {name: files[name] for name in wanted if name in files}


def test_names_with_a_dot_before_them_are_the_same(tmp_path: Path):
    path = write_archive(tmp_path / "a.tar.gz", {"./": b"", "./train/": b"", "./train/x.png": b"x"})
    assert list_names(path) == ["train/", "train/x.png"]
    assert list(read_files(path, {"train/x.png"})) == [("train/x.png", b"x")]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_archive_cut_off_anywhere_is_refused(suffix: str, tmp_path: Path):
    whole = write_archive(tmp_path / f"whole{suffix}", make_tree(train=2, val=1)).read_bytes()
    path = tmp_path / f"cut{suffix}"
    end = whole.rstrip(b"\0") if suffix == ".tar" else whole  # a tar ends with padding, which nobody needs
    for length in {0, 1, 300, 512, 1000, 1024, len(end) // 2, len(end) - len(end) % 512, len(end) - 1}:
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=rf"cut{suffix}: truncated or damaged archive"):
            list_names(path)


@pytest.mark.parametrize("suffix", [".tar.gz", ".zip"])
def test_a_changed_byte_is_found_by_its_checksum(suffix: str, tmp_path: Path):
    files = {"train/x.bin": os.urandom(5000)}
    path = write_archive(tmp_path / f"a{suffix}", files)
    content = bytearray(path.read_bytes())
    content[2500] ^= 1  # noise is stored, not compressed: nothing but the checksum can tell
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"a{suffix}: truncated or damaged archive"):
        list(read_files(path, set(files)))


@pytest.mark.parametrize("suffix", [".tar.gz", ".zip"])
@pytest.mark.parametrize("name", ["../x.png", "/x.png", "train/../../x.png", "C:\\x.png", "train\\..\\..\\x.png"])
def test_a_member_that_would_unpack_elsewhere_is_named(name: str, suffix: str, tmp_path: Path):
    path = write_archive(tmp_path / f"a{suffix}", {"train/a.png": b"a", name: b"x"})
    with pytest.raises(UserError, match="must stay inside its folder") as error:
        list_names(path)
    assert name in str(error.value)
    assert path.name in str(error.value)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_a_tar_are_refused(kind: bytes, tmp_path: Path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("train/cat/x.png")
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    with pytest.raises(UserError, match=r"a\.tar: train/cat/x\.png: must be a file or a folder, no link"):
        list_names(path)


def test_links_in_a_zip_are_refused(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        member = zipfile.ZipInfo("train/x.png")
        member.external_attr = 0o120777 << 16
        archive.writestr(member, "/etc/passwd")
    with pytest.raises(UserError, match=r"train/x\.png: must be a file or a folder, no link"):
        list_names(tmp_path / "a.zip")


def test_a_folder_that_links_to_itself_ends(tmp_path: Path):
    write_folder(tmp_path, {"train/x.png": b"x"})
    (tmp_path / "train" / "again").symlink_to(tmp_path / "train")
    with pytest.raises(UserError, match=r"again: must not link back"):
        list_names(tmp_path)


def test_linked_folders_are_followed(tmp_path: Path):
    write_folder(tmp_path / "there", {"cat/x.png": b"x"})
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train").symlink_to(tmp_path / "there")
    assert list_names(tmp_path / "data") == ["train/", "train/cat/", "train/cat/x.png"]


def test_a_broken_link_is_named(tmp_path: Path):
    (tmp_path / "x.png").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match=r"x\.png: cannot be read"):
        list_names(tmp_path)


def test_what_is_no_archive_is_refused(tmp_path: Path):
    for suffix in SUFFIXES:
        path = tmp_path / f"a{suffix}"
        path.write_bytes(io.BytesIO(b"<html>not found</html>" * 99).getvalue())
        with pytest.raises(UserError, match="truncated or damaged archive"):
            list_names(path)
