"""Data sets as tensors, and what it takes to tell the classes of `shapes` apart."""

import io
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_images import as_tiny_imagenet, make_cifar, make_tree, write_archive, write_folder
from jaxtyping import Float
from PIL import Image
from pydantic import ValidationError
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from evitlab import create_model
from evitlab.problems import UserError
from evitlab.recipes import TrainRecipe
from evitlab.settings import DATA_NAMES, TrainSettings
from evitlab.train.cache import find_entry, read_index
from evitlab.train.cifar import KINDS, read_cifar
from evitlab.train.data import DataSet, Images, check_data, classes_of, load_data, make_shapes, scale_pixels
from evitlab.train.evaluation import evaluate
from evitlab.train.loop import train
from evitlab.train.shapes import RELATIONS
from evitlab.train.sources import find_source


class PatchBag(nn.Module):
    """The additive model: a sum over patches of a function of patch and place, then linear scores."""

    def __init__(self, num_classes: int, *, patch_size: int = 8, width: int = 64):
        super().__init__()
        self.patches = nn.Unfold(patch_size, stride=patch_size)
        self.read = nn.Linear(3 * patch_size**2, width)
        self.place = nn.Parameter(torch.zeros(16, width))
        self.layers = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 128),
            nn.GELU(),
            nn.Linear(128, 128),
            nn.GELU(),
            nn.Linear(128, width),
        )
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Float[Tensor, "B 3 32 32"]) -> Float[Tensor, "B classes"]:
        x = self.read(self.patches(x).mT) + self.place
        return self.head(self.layers(x).mean(1))


@pytest.fixture(scope="module")
def shapes() -> DataSet:
    return load_data("shapes", train_images=8192, val_images=1600)


def share_right(model: nn.Module, images: Images) -> tuple[float, float]:
    """Share of images whose texture, and whose relation, the highest score names."""
    with torch.inference_mode():
        guess = model(scale_pixels(images.pixels)).argmax(1)
    count = len(RELATIONS)
    texture = guess // count == images.labels // count
    relation = guess % count == images.labels % count
    return texture.double().mean().item(), relation.double().mean().item()


def test_images_have_the_promised_types_and_sizes():
    images = make_shapes(num_images=20, seed=0, image_size=64)
    assert images.pixels.shape == (20, 3, 64, 64)
    assert (images.pixels.dtype, images.labels.dtype) == (torch.uint8, torch.int64)
    assert len(images.classes) == len(set(images.classes)) == 16


@pytest.mark.parametrize("num_images", [160, 165])
def test_classes_are_balanced_to_one_image(num_images: int):
    counts = make_shapes(num_images=num_images, seed=3).labels.bincount(minlength=16)
    assert counts.sum() == num_images
    assert counts.max() - counts.min() == (0 if num_images % 16 == 0 else 1)


def test_classes_come_in_random_order():
    labels = make_shapes(num_images=160, seed=3).labels
    assert labels[:80].bincount(minlength=16).unique().numel() > 1


def test_a_seed_means_the_same_images_and_leaves_torch_alone():
    state = torch.get_rng_state()
    first, again, other = (make_shapes(num_images=32, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(first.pixels, again.pixels)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.pixels, other.pixels)
    assert torch.equal(state, torch.get_rng_state())


def test_train_and_val_images_of_any_two_seeds_differ():
    sets = [load_data("shapes", train_images=64, val_images=64, seed=seed) for seed in range(3)]
    pixels = [images.pixels for data in sets for images in (data.train, data.val)]
    for i, one in enumerate(pixels):
        assert not any(torch.equal(one, other) for other in pixels[i + 1 :])


def test_no_images_are_refused():
    with pytest.raises(ValueError, match=r"num_images must be at least 1, but got num_images=0"):
        make_shapes(num_images=0, seed=0)


def test_unknown_data_names_what_there_is(tmp_path: Path):
    with pytest.raises(
        UserError, match=r"one of shapes, cifar10, cifar100, tiny-imagenet, imagenet, or the path"
    ) as error:
        load_data("shapse", root=tmp_path)
    assert "'shapse'; did you mean shapes?" in str(error.value)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a small data set for each name and kind of path."""
    tree = make_tree(classes=("a", "b", "c"), train=20, val=10)
    for kind in KINDS.values():
        write_archive(tmp_path / kind.filename, make_cifar(kind, per_file=36))
    write_archive(
        tmp_path / "tiny-imagenet-200.zip", {f"tiny-imagenet-200/{k}": v for k, v in as_tiny_imagenet(tree).items()}
    )
    write_folder(tmp_path / "imagenet", tree)
    write_archive(tmp_path / "tree.tar", tree)
    for part, label in (("x", "abc"), ("y", "d")):
        files = make_tree(classes=tuple(label), train=20, val=10)
        write_archive(tmp_path / "parts" / f"{part}.tar.gz", files)
    return tmp_path


DATA = ["shapes", "cifar10", "cifar100", "tiny-imagenet", "imagenet", "tree.tar", "parts", "./imagenet"]


@pytest.mark.parametrize("name", [*DATA, ("parts/x.tar.gz", "parts/y.tar.gz")])
def test_every_data_set_loads(name: str | tuple[str, ...], root: Path):
    shares: list[float] = []
    check_data(name, root=root, cache=root / "cache")
    sizes = {"train_images": 24, "val_images": 16}
    data = load_data(name, **sizes, image_size=32, root=root, cache=root / "cache", on_progress=shares.append)
    assert (len(data.train.labels), len(data.val.labels)) == (24, 16)
    assert data.train.pixels.shape[1:] == data.val.pixels.shape[1:] == (3, 32, 32)
    assert data.train.classes == data.val.classes == classes_of(name, root=root, cache=root / "cache")
    assert len(data.train.first(5).labels) == len(data.train.first(5).pixels) == 5
    assert data.name == (name if isinstance(name, str) else "parts/x.tar.gz, parts/y.tar.gz")
    assert shares == sorted(shares)
    assert shares[-1:] == ([1.0] if name != "shapes" else [])


def test_names_are_those_that_settings_allow():
    named = [name for name in DATA if "/" not in name and "." not in name and name != "parts"]
    assert tuple(named) == DATA_NAMES


@pytest.mark.parametrize("data", [*DATA_NAMES, "./mine", "mine.zip", ("a.tar", "b.tar"), "/"])
def test_settings_take_names_and_paths(data: str | tuple[str, ...]):
    assert TrainSettings(data=data).data == data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("cifar-10", r"must be one of shapes, .*, or a path .*'cifar-10'; did you mean cifar10"),
        ("", "or a path"),
        ((), "or a path"),
        (("shapes", "cifar10"), "must be paths"),
    ],
)
def test_settings_refuse_what_is_neither(data: str | tuple[str, ...], message: str):
    with pytest.raises(ValidationError, match=message):
        TrainSettings(data=data)


def test_pixels_and_labels_belong_together(root: Path):
    tree = make_tree(classes=("a", "b", "c"), train=20, val=10)
    data = load_data("tree.tar", image_size=8, root=root, cache=root / "cache")
    for split, images in (("train", data.train), ("val", data.val)):
        found = {
            pixels.numpy().tobytes(): int(label) for pixels, label in zip(images.pixels, images.labels, strict=True)
        }
        expected = {}
        for name, content in tree.items():
            if name.startswith(split):
                pixels = np.asarray(Image.open(io.BytesIO(content))).transpose(2, 0, 1)
                expected[pixels.tobytes()] = "abc".index(name.split("/")[1])
        assert found == expected


def test_cifars_pixels_and_labels_belong_together(root: Path):
    _, train, val = read_cifar("cifar100", root / "cifar-100-python.tar.gz")
    data = load_data("cifar100", image_size=32, root=root, cache=root / "cache")
    for images, theirs in ((data.train, train), (data.val, val)):
        found = {
            pixels.numpy().tobytes(): int(label) for pixels, label in zip(images.pixels, images.labels, strict=True)
        }
        assert found == {pixels.tobytes(): label for pixels, label in zip(theirs.pixels, theirs.labels, strict=True)}


@pytest.mark.parametrize("name", ["cifar10", "tree.tar"])
def test_a_part_is_balanced_and_the_same_for_every_seed(name: str, root: Path):
    one, other = (
        load_data(name, image_size=8, train_images=31, val_images=6, seed=seed, root=root, cache=root / "cache")
        for seed in (0, 1)
    )
    counts = one.train.labels.bincount()
    assert counts.max() - counts.min() == 1
    assert torch.equal(one.train.pixels, other.train.pixels)


def test_more_images_than_there_are_is_an_error(root: Path):
    with pytest.raises(UserError, match=r"train_images must be at most 60, all that tree\.tar has, but got 61"):
        load_data("tree.tar", train_images=61, root=root, cache=root / "cache")
    with pytest.raises(UserError, match=r"val_images must be at least 1, but got 0"):
        load_data("tree.tar", val_images=0, root=root, cache=root / "cache")


def test_reading_a_part_leaves_the_rest_on_disk(tmp_path: Path, monkeypatch):
    """A sparse file of 80 GB stands for what was decoded before: more than the memory of most machines."""
    path = write_folder(tmp_path / "tree", make_tree(train=8, val=1))
    source, size = find_source(str(path), root=tmp_path), 38_000
    entry = find_entry(source, tmp_path / "cache")
    read_index(source, entry)
    np.lib.format.open_memmap(entry / f"pixels-{size}-16-2.npy", mode="w+", dtype=np.uint8, shape=(18, 3, size, size))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    monkeypatch.setattr("evitlab.train.cache.decode_all", None)
    data = load_data(str(path), image_size=size, train_images=10, cache=tmp_path / "cache")
    assert data.train.pixels.nbytes > 40e9
    assert data.train.pixels[9, 0, -1, -5:].tolist() == [0] * 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_pixels_are_scaled_to_minus_two_and_two():
    pixels = torch.tensor([0, 255, 51], dtype=torch.uint8).view(1, 3, 1, 1)
    expected = torch.tensor([-2.0, 2.0, -1.2]).view(1, 3, 1, 1)  # (51 / 255 - 1/2) * 4
    torch.testing.assert_close(scale_pixels(pixels), expected)


def test_a_linear_classifier_stays_near_chance(shapes: DataSet):
    """A tile and its negative, red and blue are equally likely: class means are equal, and chance is 1/16."""
    train_x, val_x = (scale_pixels(i.pixels[:4000]).flatten(1).numpy() for i in (shapes.train, shapes.val))
    model = LogisticRegression(C=1e-3, tol=1e-2, max_iter=200).fit(train_x, shapes.train.labels[:4000].numpy())
    # Weights of 0 are best in the limit; those of 4000 images know one sign of some tiles better than the other.
    assert model.score(val_x, shapes.val.labels.numpy()) < 0.25


@pytest.mark.slow
def test_a_bag_of_patches_reads_the_texture_and_no_relation(shapes: DataSet):
    """The best additive score knows the texture at most, and guesses one of two relations: 1/2 (see `shapes`)."""
    torch.manual_seed(0)
    model = PatchBag(16)
    train(model, shapes, TrainRecipe(steps=300, batch_size=32, learning_rate=3e-3, evaluations=1), seed=0)
    texture, relation = share_right(model, shapes.val)
    assert texture > 0.8  # it was trained well: chance is 1/8
    assert relation < 0.56  # 1/2 + 5 standard errors of 1600 images (0.0125)
    assert evaluate(model, shapes.val).top1 < 0.53


@pytest.mark.slow
def test_a_mixed_transformer_needs_both_and_gets_both(shapes: DataSet):
    """At the budget of studies/mhsa_ratio.yaml: far above what the cheap models can reach, and no saturation."""
    model = create_model("deit_t", mhsa_ratio=0.5, width=48, image_size=32, patch_size=8, num_classes=16)
    recipe = TrainRecipe(steps=320, batch_size=32, learning_rate=1e-3, init="xavier")
    assert 0.65 < train(model, shapes, recipe, seed=0).top1 < 0.95
