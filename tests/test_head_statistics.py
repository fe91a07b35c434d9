"""Similarity of heads: by hand, against double loops in float64, and against CKA written with Gram matrices."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from evitlab.measure.head_statistics import HeadStatistics, compare, summarise
from evitlab.measurements.heads import Alikeness
from evitlab.problems import UserError


def describe(outputs: Tensor, *, batch: int = 1000) -> Alikeness:
    """Statistics of (images, heads, N, d), so many images at a time."""
    sums = HeadStatistics(outputs.shape[1], outputs.shape[3])
    for part in outputs.split(batch):
        sums.add(part)
    return sums.describe()


def draw(images: int, heads: int, rows: int, channels: int, *, seed: int = 0) -> Tensor:
    """Heads that have something in common, so that no statistic is near 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(images, 1, rows, channels, generator=generator)
    return 0.7 * shared + torch.randn(images, heads, rows, channels, generator=generator) + 0.2


def compare_by_loops(outputs: np.ndarray) -> dict[str, tuple[float, float]]:
    """Means and deviations of the three cosine statistics: image by image, head by head, number by number."""
    found: dict[str, list[float]] = {"author": [], "caption": [], "mean_pair": []}
    for image in outputs.astype(np.float64):
        best, pairs = [], []
        for i, first in enumerate(image):
            others = []
            for j, second in enumerate(image):
                dot = sum(float(a) * float(b) for a, b in zip(first.flat, second.flat, strict=True))
                norms = math.sqrt(sum(float(a) ** 2 for a in first.flat) * sum(float(b) ** 2 for b in second.flat))
                if i != j:
                    others.append(dot / norms)
                if i < j:
                    pairs.append(dot / norms)
            best.append(max(others))
        found["author"].append(max(best))
        found["caption"].append(sum(best) / len(best))
        found["mean_pair"].append(sum(pairs) / len(pairs))
    return {name: (float(np.mean(values)), float(np.std(values, ddof=1))) for name, values in found.items()}


def align_by_kernels(outputs: np.ndarray) -> float:
    """Linear CKA as Kornblith et al. define it: HSIC of two Gram matrices of all examples, centred by H = I - 1/n."""
    images, heads, rows, channels = outputs.shape
    examples = images * rows
    centring = np.eye(examples) - np.ones((examples, examples)) / examples
    kernels = []
    for head in range(heads):
        x = outputs[:, head].reshape(examples, channels).astype(np.float64)
        kernels.append(x @ x.T)

    def hsic(first: np.ndarray, second: np.ndarray) -> float:
        return float(np.trace(first @ centring @ second @ centring)) / (examples - 1) ** 2

    values = []
    for i in range(heads):
        for j in range(i + 1, heads):
            own = math.sqrt(hsic(kernels[i], kernels[i]) * hsic(kernels[j], kernels[j]))
            values.append(hsic(kernels[i], kernels[j]) / own)
    return float(np.mean(values))


def test_identical_heads_are_1():
    one = draw(3, 1, 5, 4)
    found = describe(one.repeat(1, 3, 1, 1))
    assert (found.author, found.caption, found.mean_pair) == pytest.approx((1, 1, 1), abs=1e-12)
    assert found.cka == pytest.approx(1, abs=1e-12)
    assert np.array(found.matrix) == pytest.approx(np.ones((3, 3)))
    assert found.author_deviation == pytest.approx(0, abs=1e-7)


def test_orthogonal_heads_are_0():
    """Each head alone where the others are zero, and each with a channel of its own that goes with no other's."""
    outputs = torch.zeros(1, 3, 8, 1)
    bits = torch.tensor([[(row >> bit) & 1 for bit in range(3)] for row in range(8)]) * 2.0 - 1.0
    for head in range(3):
        outputs[0, head, :, 0] = bits[:, head]  # Walsh functions: orthogonal, of mean 0
    found = describe(outputs)
    assert (found.author, found.caption, found.mean_pair, found.cka) == (0, 0, 0, 0)
    assert np.array(found.matrix) == pytest.approx(np.eye(3), abs=1e-12)


def test_three_heads_by_hand():
    """At 0, 60 and 90 degrees: cosines 1/2, 0 and sqrt(3)/2."""
    angles = [0, 60, 90]
    outputs = torch.tensor([[[[math.cos(math.radians(a)), math.sin(math.radians(a))]] for a in angles]])
    outputs *= torch.tensor([1.0, 5.0, 0.01])[None, :, None, None]  # lengths do not matter
    found = describe(outputs.double())
    root = math.sqrt(3) / 2
    assert found.author == pytest.approx(root)
    assert found.caption == pytest.approx((1 / 2 + root + root) / 3)
    assert found.mean_pair == pytest.approx((1 / 2 + 0 + root) / 3)
    assert np.array(found.matrix) == pytest.approx(np.array([[1, 0.5, 0], [0.5, 1, root], [0, root, 1]]), abs=1e-7)
    assert (found.images, found.author_deviation) == (1, None)


def test_opposite_heads_are_minus_1_but_their_cka_is_1():
    one = draw(2, 1, 6, 3)
    found = describe(torch.cat([one, -one], dim=1))
    assert (found.author, found.caption, found.mean_pair) == pytest.approx((-1, -1, -1))
    assert found.cka == pytest.approx(1)


def test_the_mean_is_over_images_not_of_the_matrix():
    """In one image the first two heads are the same, in the other the last two: some two always are."""
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    outputs = torch.stack([torch.stack([a, a, b]), torch.stack([a, b, b])])[:, :, None]
    found = describe(outputs)
    assert found.author == 1
    assert found.matrix[0][1] == found.matrix[1][2] == 0.5
    assert (found.caption, found.mean_pair) == pytest.approx((2 / 3, 1 / 3))


@pytest.mark.parametrize(("heads", "rows", "channels"), [(2, 5, 3), (4, 3, 2), (5, 1, 4)])
def test_all_agrees_with_plain_loops_in_float64(heads, rows, channels):
    outputs = draw(6, heads, rows, channels, seed=heads)
    found, expected = describe(outputs, batch=4), compare_by_loops(outputs.numpy())
    for name, (mean, deviation) in expected.items():
        assert getattr(found, name) == pytest.approx(mean, rel=1e-10), name
        assert getattr(found, f"{name}_deviation") == pytest.approx(deviation, rel=1e-8), name
    assert found.cka == pytest.approx(align_by_kernels(outputs.numpy()), rel=1e-9)
    assert 0.05 < found.cka < 0.95


def test_cka_is_not_moved_by_rotations_shifts_and_scales():
    outputs = draw(6, 2, 7, 3).double()
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)).double()).Q
    moved = outputs.clone()
    moved[:, 1] = 3 * outputs[:, 1] @ rotation + 100
    assert describe(moved).cka == pytest.approx(describe(outputs).cka, rel=1e-7)
    assert describe(moved).author != pytest.approx(describe(outputs).author, rel=0.01)


@pytest.mark.parametrize("batch", [1, 2, 5, 7])
def test_batches_do_not_matter(batch):
    outputs = draw(7, 3, 4, 2)
    found, expected = describe(outputs, batch=batch), describe(outputs)
    for name in ("author", "author_deviation", "caption", "caption_deviation", "mean_pair", "cka"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-10), name
    assert np.array(found.matrix) == pytest.approx(np.array(expected.matrix), rel=1e-12)
    assert found.images == expected.images == 7


def test_a_head_that_is_zero_has_no_cosine_and_hides_no_other():
    outputs = draw(4, 3, 5, 2)
    pair = describe(outputs[:, [0, 2]])
    outputs[:, 1] = 0
    found = describe(outputs)
    for name in ("author", "caption", "mean_pair", "cka"):
        assert getattr(found, name) == pytest.approx(getattr(pair, name), rel=1e-9), name
    assert found.silent == (1,)
    assert found.matrix[1] == (None, None, None)
    assert [row[1] for row in found.matrix] == [None] * 3
    assert found.images == 4


def test_a_head_that_is_zero_in_some_images_counts_in_the_others():
    outputs = draw(4, 2, 5, 2)
    rest = describe(outputs[2:])
    outputs[:2, 1] = 0
    found = describe(outputs)
    assert (found.images, found.silent) == (2, ())
    assert found.author == pytest.approx(rest.author, rel=1e-12)
    assert found.author_deviation == pytest.approx(rest.author_deviation, rel=1e-9)
    assert found.matrix[0][0] == pytest.approx(1)


@pytest.mark.parametrize("outputs", [torch.zeros(3, 2, 4, 2), draw(3, 1, 4, 2)], ids=["all zero", "one head"])
def test_where_nothing_can_be_compared_nothing_is_said(outputs):
    found = describe(outputs)
    for name in (
        "author",
        "author_deviation",
        "caption",
        "caption_deviation",
        "mean_pair",
        "mean_pair_deviation",
        "cka",
    ):
        assert getattr(found, name) is None, name
    assert found.images == 0
    assert found.silent == ((0, 1) if outputs.shape[1] == 2 else ())


def test_a_head_that_does_not_vary_has_no_cka():
    outputs = draw(5, 3, 4, 2)
    pair = describe(outputs[:, :2]).cka
    outputs[:, 2] = torch.tensor([0.1, 0.7])
    found = describe(outputs)
    assert found.cka == pytest.approx(pair, rel=1e-9)
    assert found.author is not None
    assert describe(outputs[:, 2:].repeat(1, 2, 1, 1)).cka is None


def test_memory_does_not_grow_with_the_images():
    def size(images: int) -> int:
        sums = HeadStatistics(4, 6)
        for part in draw(images, 4, 9, 6).split(3):
            sums.add(part)
        return sum(value.nbytes for value in vars(sums).values() if isinstance(value, Tensor))

    assert size(6) == size(60) == 8 * (1 + 3 + 3 + 16 + 16 + 24 + 24 * 24)
    sums = HeadStatistics(4, 6)
    sums.add(draw(3, 4, 9, 6))
    assert not [name for name, value in vars(sums).items() if isinstance(value, list | dict | set)]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_refused(bad):
    outputs = draw(2, 2, 3, 2)
    outputs[1, 0, 2, 1] = bad
    with pytest.raises(UserError, match="heads must give finite numbers, but some are not: the model diverged"):
        describe(outputs)


def test_cosines_stay_within_1():
    cosines = compare(draw(50, 2, 1, 3).double()[:, :1].repeat(1, 2, 1, 1).flatten(2))
    assert cosines.max() <= 1
    assert summarise(cosines).max() <= 1
