"""Where data sets are looked for, and what is said when they are not there."""

import urllib.error
import urllib.request
from pathlib import Path

import pytest
from fake_images import as_tiny_imagenet, make_cifar, make_tree, write_archive, write_folder

from evitlab.problems import UserError
from evitlab.train.cifar import KINDS
from evitlab.train.sources import find_source

TREE = make_tree()


def tiny() -> dict[str, bytes]:
    return {f"tiny-imagenet-200/{name}": content for name, content in as_tiny_imagenet(TREE).items()}


def put_tiny(root: Path, how: str) -> None:
    match how:
        case "folder below":
            write_folder(root, tiny())
        case "folder itself":
            write_folder(root, as_tiny_imagenet(TREE))
        case "official zip":
            write_archive(root / "tiny-imagenet-200.zip", tiny())
        case "another archive":
            write_archive(root / "tiny-imagenet.tar.gz", TREE)
        case "archives of classes":
            for label in ("cat", "dog"):
                part = {name: content for name, content in TREE.items() if f"/{label}/" in name}
                write_archive(root / f"part-{label}.tar.gz", part)
        case "archives of splits":
            for split in ("train", "val"):
                part = {name: content for name, content in TREE.items() if name.startswith(split)}
                write_archive(root / f"{split}.zip", part)


@pytest.mark.parametrize(
    "how",
    ["folder below", "folder itself", "official zip", "another archive", "archives of classes", "archives of splits"],
)
@pytest.mark.parametrize("others", [False, True])
def test_tiny_imagenet_is_found_however_it_lies(how: str, others: bool, tmp_path: Path):
    put_tiny(tmp_path, how)
    if others:  # what else a folder of data may hold
        write_archive(tmp_path / "cifar-10-python.tar.gz", make_cifar(KINDS["cifar10"]))
        (tmp_path / "README.md").write_text("")
    source = find_source("tiny-imagenet", root=tmp_path)
    listing = source.list_images()
    assert (len(listing.train), len(listing.val), len(listing.classes)) == (8, 4, 2)
    wanted = set(list(listing.train)[:3]) | set(list(listing.val)[:2])
    read = {picture.key: picture.content for picture in source.read_images(wanted)}
    assert read.keys() == wanted
    images = {name.rpartition("/")[2]: content for name, content in TREE.items()}
    for name, content in read.items():
        found = content.read_bytes() if isinstance(content, Path) else content
        assert found == images[name.rpartition("/")[2]]


def test_one_image_in_two_archives_is_named(tmp_path: Path):
    for name in ("a.zip", "b.tar"):
        write_archive(tmp_path / "data" / name, TREE)
    with pytest.raises(UserError, match=r"b\.tar: train/cat/cat_0\.png: must be there once, but .*a\.zip holds it too"):
        find_source("data", root=tmp_path).list_images()


def test_a_flat_tree_is_told_what_it_lacks(tmp_path: Path):
    write_folder(tmp_path / "data", {"cat/a.png": b"", "dog/a.png": b""})
    with pytest.raises(UserError, match=r"data: must hold train/CLASS/IMAGE and val/CLASS/IMAGE, but got cat, dog"):
        find_source("data", root=tmp_path).list_images()


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("tiny-imagenet", [r"not found in .*nowhere", r"tiny-imagenet-200\.zip", "--data-root"]),
        ("imagenet", [r"not found in .*nowhere", r"https://image-net\.org", "train/CLASS/IMAGE", "--data-root"]),
        ("./mine", [r"data must be one of shapes, .*, or the path of a folder or an archive", r"'\./mine'", "nowhere"]),
    ],
)
def test_missing_data_is_told_where_it_was_looked_for_and_how_to_get_it(name: str, parts: list[str], tmp_path: Path):
    for part in parts:
        with pytest.raises(UserError, match=part):
            find_source(name, root=tmp_path / "nowhere")


@pytest.mark.parametrize("name", list(KINDS))
def test_cifar_without_a_network_says_what_to_get(name: str, tmp_path: Path, monkeypatch):
    def fail(url: str, timeout: float) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", fail)
    url = f"https://www.cs.toronto.edu/~kriz/cifar-{name[5:]}-python.tar.gz"
    with pytest.raises(UserError, match=r"looked for cifar-.*no network") as error:
        find_source(name, root=tmp_path)
    assert f"get {url} and give its folder with --data-root" in str(error.value)


@pytest.mark.parametrize("packed", [False, True])
def test_cifar_is_found_below_the_root_or_there(packed: bool, tmp_path: Path):
    kind = KINDS["cifar100"]
    files = make_cifar(kind)
    write_archive(tmp_path / kind.filename, files) if packed else write_folder(tmp_path, files)
    roots = [tmp_path, tmp_path / (kind.filename if packed else kind.base_folder)]
    for root in roots:
        assert len(find_source("cifar100", root=root).list_images().train) == 12


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path):
    (tmp_path / "data.txt").write_text("")
    with pytest.raises(UserError, match=r"data\.txt: must be a folder or an archive \(\.tar, "):
        find_source("data.txt", root=tmp_path)
