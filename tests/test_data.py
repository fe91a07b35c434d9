"""Data sets as tensors, and what it takes to tell the classes of `shapes` apart."""

import pytest
import torch
from jaxtyping import Float
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from evitlab import create_model
from evitlab.recipes import TrainRecipe
from evitlab.train.data import DATASETS, DataSet, Images, load_data, make_shapes, scale_pixels
from evitlab.train.evaluation import evaluate
from evitlab.train.loop import train
from evitlab.train.shapes import RELATIONS


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


def test_unknown_data_names_what_there_is():
    with pytest.raises(ValueError, match=r"data must be one of shapes, but got name='imagenet'"):
        load_data("imagenet")


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_loads(name: str):
    data = load_data(name, train_images=48, val_images=32)
    assert (len(data.train.labels), len(data.val.labels), data.name) == (48, 32, name)
    assert data.train.classes == data.val.classes
    assert len(data.train.first(5).labels) == len(data.train.first(5).pixels) == 5


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
