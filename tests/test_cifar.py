"""CIFAR's files against torchvision's reader, and pickles that want more than arrays."""

import hashlib
import io
import os
import pickle
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from fake_images import make_cifar, pickle_like_python2, write_archive, write_folder

from evitlab.problems import UserError
from evitlab.train.cifar import KINDS, download_cifar, find_cifar, read_cifar


@pytest.fixture(params=list(KINDS))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.filterwarnings("ignore:dtype")  # torchvision hands numpy the official files' 0 and 1 for booleans
def test_images_labels_and_classes_are_torchvisions(name: str, packed: bool, tmp_path: Path, monkeypatch):
    kind = KINDS[name]
    files = make_cifar(kind)
    write_folder(tmp_path / "loose", files)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5: True)
    expected = [kind(tmp_path / "loose", train=train) for train in (True, False)]
    root = tmp_path / "packed" if packed else tmp_path / "loose"
    if packed:
        write_archive(root / kind.filename, files)
    path = find_cifar(name, root)
    assert path is not None
    classes, *splits = read_cifar(name, path)
    assert list(classes) == expected[0].classes
    for split, theirs in zip(splits, expected, strict=True):
        np.testing.assert_array_equal(split.pixels.transpose(0, 2, 3, 1), theirs.data)
        assert list(split.labels) == theirs.targets


def test_arrays_that_todays_python_pickled_are_read(name: str, tmp_path: Path):
    data = np.arange(6144, dtype=np.uint8).reshape(2, 3072)
    kind = KINDS[name]
    files = {f: pickle.dumps({"data": data, "labels": [0, 1]}, 4) for f, _ in [*kind.train_list, *kind.test_list]}
    files[kind.meta["filename"]] = pickle.dumps({kind.meta["key"]: ["a", "b"]}, 4)
    _, _, val = read_cifar(name, write_folder(tmp_path, files))
    np.testing.assert_array_equal(val.pixels.reshape(2, -1), data)


BLACK = np.zeros((1, 3072), np.uint8)


class Evil:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("function", "arguments"), [(os.mkdir, ("{root}/owned",)), (eval, ("1",)), (np.load, ("x",)), (getattr, ("", "x"))]
)
def test_a_pickle_that_calls_something_is_refused_and_calls_nothing(function, arguments, tmp_path: Path):
    kind = KINDS["cifar10"]
    evil = Evil(function, *(each.format(root=tmp_path) for each in arguments))
    path = write_folder(tmp_path / "data", make_cifar(kind) | {f"{kind.base_folder}/data_batch_3": pickle.dumps(evil)})
    with pytest.raises(UserError, match=rf"data_batch_3: must be a pickle of arrays .*{function.__name__}"):
        read_cifar("cifar10", path / kind.base_folder)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must be a pickle"),
        (pickle.dumps([1]), "must be CIFAR's 'fine_labels'"),
        (pickle.dumps(np.array([None]), 4), "must be a pickle of arrays .*'O8'"),
        (pickle_like_python2({"fine_labels": [3], "data": BLACK}), "must be CIFAR's 'fine_labels'"),
        (pickle_like_python2({"fine_labels": [0], "data": BLACK[:, 1:].copy()}), "must be CIFAR's 'data'"),
    ],
)
def test_a_wrong_file_is_named(content: bytes, message: str, tmp_path: Path):
    path = write_folder(tmp_path, make_cifar(KINDS["cifar100"]) | {"cifar-100-python/test": content})
    with pytest.raises(UserError, match=rf"cifar-100-python: (cifar-100-python/)?test: {message}"):
        read_cifar("cifar100", path / "cifar-100-python")


def test_a_missing_file_is_named(tmp_path: Path):
    path = write_folder(tmp_path, make_cifar(KINDS["cifar10"])) / "cifar-10-batches-py"
    (path / "data_batch_2").unlink()
    with pytest.raises(UserError, match="data_batch_2 is missing"):
        read_cifar("cifar10", path)


def test_a_download_stands_under_its_name_once_its_checksum_is_right(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: io.BytesIO(b"archive of " + url.encode()))
    with pytest.raises(OSError, match="its md5 must be c58f30108f718f92721af3b95e74349a, but got"):
        download_cifar("cifar10", tmp_path)
    assert list(tmp_path.iterdir()) == []
    right = hashlib.md5(b"archive of " + KINDS["cifar10"].url.encode()).hexdigest()
    monkeypatch.setattr(KINDS["cifar10"], "tgz_md5", right)
    path = download_cifar("cifar10", tmp_path)
    assert [path] == list(tmp_path.iterdir()) == [find_cifar("cifar10", tmp_path)]


def test_a_download_that_breaks_off_leaves_nothing(tmp_path: Path, monkeypatch):
    def fail(url: str, timeout: float) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", fail)
    with pytest.raises(OSError, match="no network"):
        download_cifar("cifar100", tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []
