"""Trees of names to splits and classes, against torchvision's ImageFolder, and trees that are wrong."""

from collections import Counter
from pathlib import Path

import pytest
from fake_images import Files, as_tiny_imagenet, make_tree, write_folder
from torchvision.datasets import ImageFolder

from evitlab.problems import UserError
from evitlab.train.archives import list_names
from evitlab.train.folders import Listing, list_images


def list_files(files: Files) -> Listing:
    return list_images(files, lambda name: files[name].decode(), where="HERE")


def test_images_and_labels_are_those_of_image_folder(tmp_path: Path):
    files = make_tree(classes=("b", "a", "C"), train=3)
    files |= {"train/a/deep/er/x.JPG": files["train/a/a_0.png"], "train/b/notes.txt": b"", "val/README": b""}
    write_folder(tmp_path, files)
    listing = list_images(list_names(tmp_path), lambda name: "", where="HERE")
    for split, found in (("train", listing.train), ("val", listing.val)):
        theirs = ImageFolder(tmp_path / split)
        assert list(listing.classes) == theirs.classes
        assert {str(tmp_path / name): label for name, label in found.items()} == dict(theirs.samples)


def test_one_folder_around_everything_changes_nothing_but_names():
    files = make_tree()
    inside = list_files({f"tree-1.0/{name}": content for name, content in files.items()})
    plain = list_files(files)
    assert {name.removeprefix("tree-1.0/"): label for name, label in inside.train.items()} == plain.train


def test_tiny_imagenets_layout_is_the_same_data_set_as_the_folders():
    tree = make_tree(classes=("n1", "n2", "n3"), train=5, val=3)
    tiny, plain = list_files(as_tiny_imagenet(tree)), list_files(tree)
    assert tiny.classes == ("the n1", "the n2", "the n3")
    assert [name.replace("/images", "") for name in tiny.train] == list(plain.train)
    assert [name.rpartition("/")[2] for name in tiny.val] == [name.rpartition("/")[2] for name in plain.val]
    assert (list(tiny.train.values()), list(tiny.val.values())) == (
        list(plain.train.values()),
        list(plain.val.values()),
    )


def test_annotations_left_over_beside_folders_are_not_read():
    files = make_tree() | {"val/val_annotations.txt": b"gone.JPEG\tcat\n", "val/images/": b""}
    assert list_files(files).val == list_files(make_tree()).val


def test_classes_with_one_word_are_told_apart():
    words = b"cat\tcrane, bird\ndog\tcrane\n"
    assert list_files(make_tree() | {"words.txt": words}).classes == ("crane, bird", "crane")
    assert list_files(make_tree() | {"words.txt": b"cat\tx\ndog\tx"}).classes == ("x (cat)", "x (dog)")
    assert list_files(make_tree() | {"words.txt": b"cat\tx"}).classes == ("x", "dog")


def test_any_first_images_are_balanced_and_not_sorted():
    labels = list(list_files(make_tree(classes=("a", "b", "c", "d"), train=25)).train.values())
    for count in range(1, 101):
        counts = Counter(labels[:count])
        assert max(counts.values()) - min(counts[each] for each in range(4)) <= 1
    assert labels != sorted(labels)
    assert len({tuple(labels[i : i + 4]) for i in range(0, 100, 4)}) > 5  # nor in one order of classes


def test_the_order_knows_names_alone():
    files = make_tree(train=20)
    backwards = dict(reversed(files.items()))
    assert list(list_files(files).train) == list(list_files(backwards).train)
    images = [name for name in list_files(files).train if "cat" in name]
    assert images != sorted(images)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"HERE: must hold train/CLASS/IMAGE and val/CLASS/IMAGE, but got no folders"),
        ({"cat/a.png": b"", "dog/a.png": b""}, r"must hold train/CLASS/IMAGE and .*, but got cat, dog"),
        ({"train/cat/a.png": b""}, r"must hold train/CLASS/IMAGE and val/CLASS/IMAGE, but got train"),
        (make_tree() | {"train/a.png": b""}, r"train/a\.png: must lie in the folder of its class"),
        (make_tree() | {"val/cow/": b""}, r"val/cow: must hold images \(\.jpg, .*, but has none"),
        (make_tree() | {"val/cow/x.txt": b""}, r"val/cow: must hold images"),
        (make_tree() | {"train/cow/x.png": b""}, r"same classes, but train/cow is not in val/"),
        (make_tree() | {"val/cow/x.png": b""}, r"same classes, but val/cow is not in train/"),
        ({"train/": b"", "val/": b""}, r"train/ must hold folders of images, but has none"),
        (make_tree() | {"more/train/cat/b.png": b""}, r"must hold train/ and val/ in one place, but got \./, more/"),
    ],
)
def test_a_tree_that_is_no_data_set_is_named(files: Files, message: str):
    with pytest.raises(UserError, match=message):
        list_files(files)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"val/images/extra.png": b""}, r"val_annotations\.txt lists no class of extra\.png"),
        ({"val/val_annotations.txt": b"gone.png\tcat"}, r"val_annotations\.txt lists"),
        ({"val/val_annotations.txt": b"cat_100.png cat"}, r"must be FILE, tab, CLASS, but got 'cat_100\.png cat'"),
    ],
)
def test_annotations_that_do_not_fit_are_named(change: Files, message: str):
    with pytest.raises(UserError, match=message):
        list_files(as_tiny_imagenet(make_tree()) | change)
