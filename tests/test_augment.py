"""Augmentation of batches against torchvision, timm, formulas and images that show where their pixels come from."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from timm.data.mixup import Mixup, mixup_target, rand_bbox
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from evitlab.recipes import Augmentation
from evitlab.train import augment
from evitlab.train.augment import COLOURS, WARPS, apply_operations, augment_images, mix_images

SIZES = [(1, 24, 40), (7, 40, 24), (4, 32, 32)]
"""Images in a batch, height, width."""


def make(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw_pixels(count: int, height: int, width: int, *, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=make(seed))


def draw_places(count: int, height: int, width: int) -> Tensor:
    """Images whose channels are the row, the column and the image's number."""
    rows = torch.arange(height).view(1, 1, -1, 1).expand(count, 1, height, width)
    columns = torch.arange(width).view(1, 1, 1, -1).expand(count, 1, height, width)
    numbers = torch.arange(count).view(-1, 1, 1, 1).expand(count, 1, height, width)
    return torch.cat([rows, columns, numbers], dim=1).to(torch.uint8)


def mix(images: Tensor, labels: Tensor, generator: torch.Generator, **fields: float) -> tuple[Tensor, Tensor]:
    return mix_images(images, labels, Augmentation(**fields), num_classes=9, label_smoothing=0.1, generator=generator)


def is_within(count: int, tries: int, probability: float) -> bool:
    """Whether a count lies inside 99.99% of a binomial distribution."""
    low, high = stats.binom.interval(0.9999, tries, probability)
    return bool(low <= count <= high)


@pytest.mark.parametrize("size", SIZES)
def test_nothing_set_changes_nothing(size: tuple[int, int, int]):
    pixels, labels = draw_pixels(*size), torch.arange(size[0])
    before = make(0).get_state()
    generator = make(0)
    assert augment_images(pixels, Augmentation(), generator) is pixels
    images, targets = mix(pixels.float(), labels, generator)
    assert torch.equal(images, pixels.float())
    assert torch.equal(targets, mixup_target(labels, 9, 1.0, 0.1))
    expected = 0.9 * F.one_hot(labels, 9) + 0.1 / 9
    torch.testing.assert_close(targets, expected)
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("crop", ["pad", "resized"])
def test_a_seed_means_one_batch_and_the_images_given_stay(size: tuple[int, int, int], crop: str):
    augmentation = Augmentation(flip=0.5, crop=crop, rand_augment=9, random_erasing=0.9, mixup=0.8, cutmix=1.0)
    pixels, labels = draw_pixels(*size), torch.arange(size[0])
    untouched, state = pixels.clone(), torch.get_rng_state()
    runs = []
    for seed in (5, 5, 6):
        generator = make(seed)
        augmented = augment_images(pixels, augmentation, generator)
        scaled = augmented.float() / 64
        kept = scaled.clone()
        images, targets = mix_images(
            scaled, labels, augmentation, num_classes=9, label_smoothing=0.1, generator=generator
        )
        assert torch.equal(scaled, kept)
        assert (augmented.dtype, augmented.shape) == (torch.uint8, pixels.shape)
        assert (images.dtype, images.shape, targets.shape) == (torch.float32, pixels.shape, (size[0], 9))
        runs.append((augmented, images, targets))
        np.random.seed(2)  # numpy's own state is not read
    assert torch.equal(pixels, untouched)
    assert all(torch.equal(one, two) for one, two in zip(runs[0], runs[1], strict=True))
    assert not torch.equal(runs[0][1], runs[2][1])
    assert torch.equal(torch.get_rng_state(), state)


# flips


def test_flips_are_mirror_images_at_the_given_rate():
    pixels = draw_pixels(2000, 2, 5)
    flipped = augment_images(pixels, Augmentation(flip=0.3), make(0))
    same = (flipped == pixels).flatten(1).all(1)
    mirrored = (flipped == torch.from_numpy(pixels.numpy()[:, :, :, ::-1].copy())).flatten(1).all(1)
    assert torch.equal(same, ~mirrored)
    assert is_within(int(mirrored.sum()), 2000, 0.3)


# crops


@pytest.mark.parametrize(("height", "width"), [(24, 40), (40, 24), (9, 17), (7, 7)])
def test_padded_crops_are_cuts_of_the_mirrored_image(height: int, width: int):
    pad_y, pad_x = height // 8, width // 8
    places = draw_places(255, height, width)
    crops = augment_images(places, Augmentation(crop="pad"), make(0)).numpy()
    mirrored = np.pad(places[0].numpy(), ((0, 0), (pad_y, pad_y), (pad_x, pad_x)), mode="reflect")
    offsets = set()
    for number, crop in enumerate(crops):
        mirrored[2] = number
        found = [
            (top, left)
            for top in range(2 * pad_y + 1)
            for left in range(2 * pad_x + 1)
            if np.array_equal(crop, mirrored[:, top : top + height, left : left + width])
        ]
        assert len(found) == 1
        offsets.add(found[0])
    tops, lefts = ({offset[axis] for offset in offsets} for axis in (0, 1))
    assert (tops, lefts) == (set(range(2 * pad_y + 1)), set(range(2 * pad_x + 1)))


def find_box(crop: Tensor, height: int, width: int) -> tuple[float, float, float, float]:
    """Top, left, height and width of what a resized image of places shows, from the slope inside it."""
    ends = []
    for axis, side in ((0, height), (1, width)):
        line = crop[axis].float().mean(1 - axis)
        # clamped ends apart, the line is start + (i + 1/2) length / side - 1/2
        inner = slice(side // 4, side - side // 4)
        index = torch.arange(side)[inner] + 0.5
        slope = ((index - index.mean()) * (line[inner] - line[inner].mean())).sum() / (
            index - index.mean()
        ).square().sum()
        start = line[inner].mean() + 0.5 - slope * index.mean()
        ends.append((start.item(), slope.item() * side))
    (top, high), (left, wide) = ends
    return top, left, high, wide


@pytest.mark.parametrize(("height", "width"), [(200, 120), (120, 200), (160, 160)])
def test_resized_crops_show_the_promised_share_and_shape(height: int, width: int):
    crops = augment_images(draw_places(100, height, width), Augmentation(crop="resized", min_area=0.2), make(0))
    assert torch.equal(crops[:, 2], draw_places(100, height, width)[:, 2])
    boxes = np.array([find_box(crop, height, width) for crop in crops])
    top, left, high, wide = boxes.T
    slack = 1.5  # pixels: what is seen of a box is rounded to whole ones
    assert min(top.min(), left.min()) > -slack
    assert (top + high).max() < height + slack
    assert (left + wide).max() < width + slack
    area, ratio = high * wide / (height * width), wide / high
    assert 0.19 < area.min() < 0.3
    assert 0.6 < area.max() < 1.02
    assert 0.73 < ratio.min() < 0.85
    assert 1.18 < ratio.max() < 1.36
    assert np.ptp(top) > 0.2 * height
    assert np.ptp(left) > 0.2 * width


def test_a_resized_crop_is_torchvisions(monkeypatch: pytest.MonkeyPatch):
    """Each result is the resize of exactly one box; its antialias would change nothing."""
    pixels = draw_pixels(5, 20, 28)
    seen: list[tuple[int, ...]] = []
    real = augment._draw_boxes

    def note(*arguments: object, **options: object) -> tuple[Tensor, Tensor]:
        drawn = real(*arguments, **options)
        seen.extend(map(tuple, drawn[0].tolist()))
        return drawn

    monkeypatch.setattr(augment, "_draw_boxes", note)
    crops = augment_images(pixels, Augmentation(crop="resized", min_area=0.3), make(1))
    assert len(set(seen)) == len(pixels)
    for image, (top, left, high, wide), crop in zip(pixels, seen, crops, strict=True):
        cut = image[None, :, top : top + high, left : left + wide]
        assert torch.equal(crop, tv.resized_crop(image, top, left, high, wide, size=[20, 28], antialias=False))
        for antialias in (False, True):
            expected = F.interpolate(cut.double(), (20, 28), mode="bilinear", antialias=antialias)[0]
            assert (crop - expected).abs().max() <= 1


def test_the_whole_of_a_square_image_is_left_alone():
    """No other shape of that area fits in, so that all tries fail."""
    pixels = draw_pixels(20, 32, 32)
    assert torch.equal(augment_images(pixels, Augmentation(crop="resized", min_area=1.0), make(0)), pixels)


def test_an_image_too_long_for_any_try_shows_its_middle():
    crops = augment_images(draw_places(3, 16, 160), Augmentation(crop="resized", min_area=1.0), make(0))
    for crop in crops:  # torchvision: the widest shape allowed, 16 x 21, in the middle
        top, left, high, wide = find_box(crop, 16, 160)
        assert (top, left) == pytest.approx((0, (160 - 21) // 2), abs=0.5)
        assert (high, wide) == pytest.approx((16, 21), abs=1)


# RandAugment


@pytest.mark.parametrize("magnitude", [1, 5, 9, 10])
def test_every_colour_operation_is_one_of_torchvisions(magnitude: int):
    """A hundred drawings of torchvision's RandAugment leave none of its outcomes out: at most 28, one in 28 likely."""
    image = draw_pixels(1, 12, 20)
    reference = v2.RandAugment(num_ops=1, magnitude=magnitude, num_magnitude_bins=11)
    theirs = {reference(image).numpy().tobytes() for _ in range(400)}
    level = magnitude / 10
    ours = [apply_operations(image, [name], [sign * level]).numpy().tobytes() for name in COLOURS for sign in (1, -1)]
    assert set(ours) <= theirs
    assert len(set(COLOURS)) == 9
    nearest = 10  # shears, shifts and rotations, which torchvision resamples by the nearest pixel unless told
    assert len(theirs - set(ours)) <= nearest


@pytest.mark.parametrize(("height", "width"), [(20, 32), (33, 24)])
@pytest.mark.parametrize("level", [-1.0, -0.9, 0.3, 1.0])
@pytest.mark.parametrize("name", WARPS)
def test_every_resampling_is_torchvisions(name: str, level: float, height: int, width: int):
    """On floating point: there, torchvision fills in zeros as exactly as we do grey."""
    pixels = draw_pixels(2, height, width).float()
    bilinear = v2.InterpolationMode.BILINEAR
    axis = int(name.endswith("_y"))
    if name == "rotate":
        expected = tv.rotate(pixels - 128, 30 * level, bilinear) + 128
    elif name.startswith("shear"):
        shear = [0.0, 0.0]
        shear[axis] = math.degrees(math.atan(0.3 * level))
        expected = tv.affine(pixels - 128, 0.0, [0, 0], 1.0, shear, bilinear, center=[0.0, 0.0]) + 128
    else:
        translate = [0, 0]
        translate[axis] = int(150 / 331 * (width, height)[axis] * level)
        expected = tv.affine(pixels - 128, 0.0, translate, 1.0, [0.0, 0.0], bilinear) + 128
    got = apply_operations(pixels.to(torch.uint8), [name] * 2, [level] * 2)
    assert (got - expected).abs().max() < 0.51
    assert (got != pixels).float().mean() > 0.3


def test_level_zero_is_the_image():
    pixels = draw_pixels(3, 20, 31).clamp(max=254)  # torchvision solarizes what is at the threshold, 255
    for name in (*WARPS, *COLOURS):
        if name not in ("autocontrast", "equalize"):
            assert torch.equal(apply_operations(pixels, [name] * 3, [0.0] * 3), pixels), name


def test_each_image_gets_its_own_operation():
    names = [*WARPS, *COLOURS]
    operations = [names[i] for i in torch.randint(len(names), (60,), generator=make(3)).tolist()]
    levels = [(-1) ** i * 0.7 for i in range(60)]
    pixels = draw_pixels(60, 16, 24)
    together = apply_operations(pixels, operations, levels)
    for index in range(60):
        alone = apply_operations(pixels[index : index + 1], operations[index : index + 1], levels[index : index + 1])
        assert torch.equal(together[index], alone[0])


def test_operations_and_signs_are_equally_likely(monkeypatch: pytest.MonkeyPatch):
    rounds = []
    monkeypatch.setattr("evitlab.train.augment.apply_operations", lambda pixels, *drawn: rounds.append(drawn) or pixels)
    augment_images(draw_pixels(2800, 2, 2), Augmentation(rand_augment=7), make(0))
    assert len(rounds) == 2
    names = [*WARPS, *COLOURS]
    assert len(names) == 14
    for operations, levels in rounds:
        assert set(levels) == {0.7, -0.7}
        assert is_within(levels.count(0.7), 2800, 0.5)
        assert all(is_within(list(operations).count(name), 2800, 1 / 14) for name in names)
    both = sum(one == two for one, two in zip(rounds[0][0], rounds[1][0], strict=True))
    assert is_within(both, 2800, 1 / 14)  # drawn with replacement, the second apart from the first


# erasing


@pytest.mark.parametrize(("height", "width"), [(40, 60), (64, 64)])
def test_erasing_puts_noise_into_one_rectangle_of_some_images(height: int, width: int):
    count = 400
    images = torch.full((count, 3, height, width), 7.0)
    erased, targets = mix(images, torch.arange(count) % 9, make(0), random_erasing=0.25)
    assert torch.equal(targets, mixup_target(torch.arange(count) % 9, 9, 1.0, 0.1))
    changed = erased != 7
    chosen = changed.flatten(1).any(1)
    assert is_within(int(chosen.sum()), count, 0.25)
    areas, ratios = [], []
    for mask in changed[chosen]:
        assert torch.equal(mask[0], mask[1])
        rows, columns = mask[0].any(1).nonzero(), mask[0].any(0).nonzero()
        high, wide = (int(each.max() - each.min()) + 1 for each in (rows, columns))
        assert mask[0].sum() == high * wide  # one whole rectangle
        assert high < height
        assert wide < width
        areas.append(high * wide / (height * width))
        ratios.append(wide / high)
    assert 0.018 < min(areas) < 0.06
    assert 0.28 < max(areas) < 0.35
    assert 0.25 < min(ratios) < 0.5
    assert 2 < max(ratios) < 4
    assert stats.kstest(erased[changed][:20000].numpy(), "norm").pvalue > 1e-4


def test_nothing_as_high_as_the_image_is_erased():
    """A third of 12 x 40 pixels is often higher than 12 as drawn: it is drawn again."""
    images = torch.full((600, 3, 12, 40), 7.0)
    erased, _ = mix(images, torch.arange(600) % 9, make(0), random_erasing=1.0)
    heights = (erased != 7)[:, 0].any(2).sum(1)
    assert heights.max() == 11
    assert heights.min() > 0


def test_images_are_erased_before_they_are_mixed():
    """As in timm: the noise is mixed too, so that a mixed image holds its share of it."""
    images = torch.zeros(2, 3, 40, 40)
    mixed, targets = mix(images, torch.arange(2), make(1), random_erasing=1.0, mixup=5.0)
    alone, _ = mix(images, torch.arange(2), make(1), random_erasing=1.0)
    share = mixup_target(torch.arange(2), 9, 1.0, 0.1)
    share = (targets[0, 0] - share[0, 1]) / (share[0, 0] - share[0, 1])
    assert 0.05 < share < 0.95
    torch.testing.assert_close(mixed, share * alone + (1 - share) * alone.flip(0), atol=1e-5, rtol=0)


# Mixup and CutMix


@pytest.mark.parametrize("size", SIZES)
def test_mixup_is_the_weighted_sum_with_the_reversed_batch(size: tuple[int, int, int]):
    images = torch.randn(size[0], 3, *size[1:], dtype=torch.float64, generator=make(0))
    labels = torch.arange(size[0])
    mixed, targets = mix_images(
        images, labels, Augmentation(mixup=0.8), num_classes=9, label_smoothing=0.0, generator=make(4)
    )
    share = targets[0, 0].item() if size[0] > 1 else 1.0
    for index in range(size[0]):
        other = size[0] - 1 - index
        expected = share * images[index] + (1 - share) * images[other]
        torch.testing.assert_close(mixed[index], expected, atol=1e-6, rtol=0)
        wanted = torch.zeros(9)
        wanted[index] += share
        wanted[other] += 1 - share
        torch.testing.assert_close(targets[index], wanted)


@pytest.mark.parametrize("size", [(2, 24, 40), (7, 40, 24), (4, 32, 32)])
def test_cutmix_shows_where_each_pixel_comes_from_and_labels_count_them(size: tuple[int, int, int]):
    count, height, width = size
    places = draw_places(*size).double()
    labels = torch.arange(count)
    for seed in range(40):
        mixed, targets = mix_images(
            places, labels, Augmentation(cutmix=1.0), num_classes=9, label_smoothing=0.1, generator=make(seed)
        )
        assert torch.equal(mixed[:, :2], places[:, :2])  # pixels keep their place
        assert torch.equal(mixed[0, 2] != 0, mixed[-1, 2] != count - 1)
        foreign = mixed[0, 2] == count - 1
        assert torch.equal(mixed[0, 2], foreign * (count - 1.0))
        if foreign.any():
            rows, columns = foreign.any(1).nonzero(), foreign.any(0).nonzero()
            assert foreign.sum() == (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
        expected = mixup_target(labels, 9, 1 - int(foreign.sum()) / (height * width), 0.1)
        assert torch.equal(targets, expected)


def test_cutmix_cuts_what_timm_would_of_the_same_numbers(monkeypatch: pytest.MonkeyPatch):
    """timm's box for the same share and centre, both drawn by numpy from one seed."""
    images = draw_places(2, 30, 50).float()
    for seed in range(30):
        mixed, _ = mix(images, torch.arange(2), make(seed), cutmix=1.0)
        numbers = np.random.default_rng(int(torch.randint(2**62, (), generator=make(seed))))
        share = numbers.beta(1.0, 1.0)
        monkeypatch.setattr(np.random, "randint", lambda low, high, size, numbers=numbers: numbers.integers(low, high))
        top, bottom, left, right = rand_bbox((2, 3, 30, 50), share)
        monkeypatch.undo()
        expected = images.clone()
        expected[:, :, top:bottom, left:right] = images.flip(0)[:, :, top:bottom, left:right]
        assert torch.equal(mixed, expected)


def draw_shares(**fields: float) -> tuple[np.ndarray, np.ndarray]:
    """The share that an image keeps of itself, and whether it was cut, over many batches."""
    images = torch.cat([torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 32, 32)])
    shares, cut = [], []
    for seed in range(1200):
        mixed, _ = mix(images, torch.arange(2), make(seed), **fields)
        shares.append(1 - mixed[0].mean().item())
        cut.append(mixed[0].unique().tolist() in ([0.0], [1.0], [0.0, 1.0]))
    return np.array(shares), np.array(cut)


def test_mixups_shares_have_its_beta_distribution():
    shares, cut = draw_shares(mixup=0.8)
    assert not cut.any()
    assert stats.kstest(shares, stats.beta(0.8, 0.8).cdf).pvalue > 1e-4


def test_a_batch_is_mixed_or_cut_and_either_is_as_likely():
    shares, cut = draw_shares(mixup=0.8, cutmix=1.0)
    assert is_within(int(cut.sum()), 1200, 0.5)
    assert stats.kstest(shares[~cut], stats.beta(0.8, 0.8).cdf).pvalue > 1e-4
    np.random.seed(0)
    images = torch.cat([torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 32, 32)])
    timms = Mixup(mixup_alpha=0.0, cutmix_alpha=1.0, num_classes=2)
    theirs = [1 - timms(images.clone(), torch.arange(2))[0][0].mean().item() for _ in range(1200)]
    assert stats.ks_2samp(shares[cut], theirs).pvalue > 1e-4
