"""The cache of decoded images: when it is used, when made anew, and that nothing half-written is ever used."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fake_images import draw, make_tree, write_archive, write_folder

from evitlab.problems import UserError
from evitlab.train import cache as cache_module
from evitlab.train.cache import find_cache, find_entry, open_pixels, read_index
from evitlab.train.sources import Source, find_source

SIZES = (8, 4)  # images of the trees here


def find(path: Path) -> Source:
    return find_source(str(path), root=path.parent)


def load(path: Path, cache: Path, *, image_size: int = 8, asked: tuple[int, int] = SIZES) -> tuple[np.ndarray, ...]:
    source = find(path)
    pixels = open_pixels(source, find_entry(source, cache), image_size=image_size, asked=asked, whole=SIZES)
    return pixels.train, pixels.val


def files_of(cache: Path) -> set[str]:
    return {path.name for path in cache.rglob("*") if path.is_file() and path.name != "lock"}


@pytest.fixture
def no_decoding(monkeypatch):
    def forbid() -> None:
        def fail(*arguments, **named):
            raise AssertionError("decoded again")

        monkeypatch.setattr(cache_module, "decode_all", fail)

    return forbid


@pytest.mark.parametrize("suffix", ["", ".tar.gz", ".zip"])
def test_a_second_start_reads_the_file_alone(suffix: str, tmp_path: Path, no_decoding):
    path = write_archive(tmp_path / "a.zip", make_tree()) if suffix else write_folder(tmp_path / "a", make_tree())
    first = load(path, tmp_path / "cache")
    no_decoding()
    for one, other in zip(first, load(path, tmp_path / "cache"), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_archive_is_known_by_its_content_wherever_it_lies(tmp_path: Path, no_decoding):
    content = write_archive(tmp_path / "a.zip", make_tree()).read_bytes()
    first = load(tmp_path / "a.zip", tmp_path / "cache")
    (tmp_path / "b.zip").write_bytes(content)
    no_decoding()
    for one, other in zip(first, load(tmp_path / "b.zip", tmp_path / "cache"), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("packed", [False, True])
def test_new_content_of_the_same_size_and_time_is_seen(packed: bool, tmp_path: Path):
    files = {name: draw(i, kind="bmp") for i, name in enumerate(make_tree())}
    write = write_archive if packed else write_folder
    path = write(tmp_path / ("a.tar" if packed else "a"), files)
    load(path, tmp_path / "cache")
    changed = "train/cat/cat_2.png"
    file = path if packed else path / changed
    state = file.stat()
    time.sleep(0.02)  # the clock of a file system ticks slowly
    write(path, files | {changed: draw(99, kind="bmp")})
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert file.stat().st_size == state.st_size
    place = list(find(path).list_images().train).index(changed)
    expected = np.random.default_rng(99).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    np.testing.assert_array_equal(load(path, tmp_path / "cache")[0][place].transpose(1, 2, 0), expected)


def test_another_size_is_another_file(tmp_path: Path):
    path = write_folder(tmp_path / "a", make_tree())
    assert load(path, tmp_path / "cache")[0].shape == (8, 3, 8, 8)
    assert load(path, tmp_path / "cache", image_size=6)[0].shape == (8, 3, 6, 6)


def test_a_part_is_decoded_alone_and_is_the_beginning_of_all(tmp_path: Path, monkeypatch):
    path = write_folder(tmp_path / "a", make_tree())
    decoded = []
    real = cache_module.decode_all

    def count(pictures, **named):
        decoded.append(0)
        for done in real(pictures, **named):
            decoded[-1] = done
            yield done

    monkeypatch.setattr(cache_module, "decode_all", count)
    part = load(path, tmp_path / "cache", asked=(3, 2))
    every = load(path, tmp_path / "cache")
    again = load(path, tmp_path / "cache", asked=(5, 1))  # out of the file of all
    assert decoded == [5, 12]
    for small, large in zip(part, every, strict=True):
        np.testing.assert_array_equal(small, large[: len(small)])
    for small, large in zip(again, every, strict=True):
        np.testing.assert_array_equal(small, large[: len(small)])
    assert [len(each) for each in again] == [5, 1]


def test_what_is_written_to_the_pixels_reaches_no_file(tmp_path: Path):
    path = write_folder(tmp_path / "a", make_tree())
    train, _ = load(path, tmp_path / "cache")
    before = train.copy()
    train[:] = 0
    np.testing.assert_array_equal(load(path, tmp_path / "cache")[0], before)


def test_a_corrupt_image_is_named_and_leaves_nothing(tmp_path: Path):
    files = make_tree()
    files["val/dog/dog_101.png"] = files["val/dog/dog_101.png"][:-40]
    path = write_archive(tmp_path / "a.tar.gz", files)
    with pytest.raises(UserError, match=r"a\.tar\.gz: val/dog/dog_101\.png: must be a whole image"):
        load(path, tmp_path / "cache")
    assert not [name for name in files_of(tmp_path / "cache") if name.endswith((".npy", ".tmp"))]


@pytest.mark.slow
def test_a_killed_process_leaves_nothing_that_is_used(tmp_path: Path):
    path = write_folder(tmp_path / "a", make_tree())
    code = f"""
import os, signal
from pathlib import Path
from evitlab.train import cache
from evitlab.train.sources import find_source
real = cache.decode_all
def die(pictures, **named):
    list(real(pictures, **named))
    os.kill(os.getpid(), signal.SIGKILL)
cache.decode_all = die
source = find_source({str(path)!r}, root=Path("."))
entry = cache.find_entry(source, Path({str(tmp_path / "cache")!r}))
cache.open_pixels(source, entry, image_size=8, asked={SIZES}, whole={SIZES})
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert [name for name in files_of(tmp_path / "cache") if name.endswith(".tmp")]
    assert load(path, tmp_path / "cache")[0].any(axis=(1, 2, 3)).all()
    assert not [name for name in files_of(tmp_path / "cache") if name.endswith(".tmp")]


def test_a_torn_file_is_made_anew(tmp_path: Path):
    path = write_folder(tmp_path / "a", make_tree())
    before = [each.copy() for each in load(path, tmp_path / "cache")]
    [file] = (tmp_path / "cache").rglob("*.npy")
    file.write_bytes(file.read_bytes()[:-1])
    for one, other in zip(load(path, tmp_path / "cache"), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_who_comes_second_waits_and_decodes_nothing(tmp_path: Path, monkeypatch):
    path = write_archive(tmp_path / "a.zip", make_tree())
    began = []
    real = cache_module.decode_all

    def slow(pictures, **named):
        began.append(path)
        time.sleep(0.2)
        yield from real(pictures, **named)

    monkeypatch.setattr(cache_module, "decode_all", slow)
    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(load, path, tmp_path / "cache") for _ in range(4)]
    assert len(began) == 1
    for run in runs:
        np.testing.assert_array_equal(run.result()[0], runs[0].result()[0])


@pytest.mark.slow
def test_two_processes_decode_once(tmp_path: Path):
    path = write_folder(tmp_path / "a", make_tree())
    code = f"""
import time
from pathlib import Path
from evitlab.train import cache
from evitlab.train.sources import find_source
real = cache.decode_all
def slow(pictures, **named):
    print("decoded")
    time.sleep(0.5)
    yield from real(pictures, **named)
cache.decode_all = slow
source = find_source({str(path)!r}, root=Path("."))
entry = cache.find_entry(source, Path({str(tmp_path / "cache")!r}))
print(cache.open_pixels(source, entry, image_size=8, asked={SIZES}, whole={SIZES}).train.sum())
"""
    runs = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [run.communicate()[0].split() for run in runs]
    assert sorted(map(len, outputs)) == [1, 2]
    assert outputs[0][-1] == outputs[1][-1] == str(load(path, tmp_path / "cache")[0].sum())


def test_classes_are_listed_once_and_nothing_is_decoded(tmp_path: Path, no_decoding):
    path = write_archive(tmp_path / "a.zip", make_tree())
    no_decoding()
    source = find(path)
    entry = find_entry(source, tmp_path / "cache")
    index = read_index(source, entry)
    assert (index.classes, len(index.train), len(index.val)) == (("cat", "dog"), *SIZES)
    assert index.train == tuple(source.list_images().train.values())

    def fail() -> None:
        raise AssertionError("listed again")

    again = Source(kind="tree", places=source.places, list_images=fail, read_images=source.read_images)
    assert read_index(again, entry) == index


def test_a_full_disk_is_named_before_anything_is_written(tmp_path: Path, monkeypatch):
    path = write_folder(tmp_path / "a", make_tree())
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=2303))
    with pytest.raises(UserError, match=r"room for 12 images of 8 pixels, .*set EVITLAB_CACHE"):
        load(path, tmp_path / "cache")  # 12 * 3 * 8 * 8 = 2304


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path):
    path = write_folder(tmp_path / "a", make_tree())
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UserError, match=r"cache.*cannot be written: .*set EVITLAB_CACHE"):
        read_index(find(path), find_entry(find(path), tmp_path / "cache"))


def test_the_cache_is_where_it_is_said_to_be(tmp_path: Path, monkeypatch):
    monkeypatch.delenv("EVITLAB_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_cache(None) == tmp_path / ".cache" / "evitlab"
    monkeypatch.setenv("EVITLAB_CACHE", str(tmp_path / "there"))
    assert find_cache(None) == tmp_path / "there"
    assert find_cache(tmp_path / "asked") == tmp_path / "asked"
