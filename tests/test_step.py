"""One step: what accumulation, clipping, the moving average, lower precision and a teacher do to it."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_training import Small
from torch import nn

from evitlab import create_model
from evitlab.models.weights import save_model
from evitlab.recipes import Augmentation, Distillation, TrainRecipe
from evitlab.train.batches import Batch, Batches, draw_order
from evitlab.train.data import DataSet, load_data, scale_pixels
from evitlab.train.loop import train
from evitlab.train.optim import clip_gradients
from evitlab.train.step import Stepper, open_stepper

RECIPE = TrainRecipe(steps=8, batch_size=16, learning_rate=1e-2, evaluations=1, warmup=0.0)


@pytest.fixture(scope="module")
def data() -> DataSet:
    return load_data("shapes", train_images=80, val_images=48)


def still(model: Small) -> Small:
    """Without what depends on how a batch is divided."""
    model.norm = nn.LayerNorm(48)
    model.drop.p = 0.0
    return model


def take(stepper: Stepper, data: DataSet, steps: int) -> list[float]:
    batches = Batches(images=data.train, recipe=stepper.recipe, seed=stepper.seed, device=torch.device("cpu"))
    return [stepper.take(parts, step) for step, parts in zip(range(steps), batches, strict=False)]


@pytest.mark.parametrize("parts", [2, 4, 16])
def test_accumulated_parts_make_the_step_of_the_whole(data: DataSet, parts: int):
    whole, divided = still(Small()), still(Small())
    train(whole, data, RECIPE, seed=0)
    train(divided, data, replace(RECIPE, accumulate=parts), seed=0)
    torch.testing.assert_close(divided.head.weight, whole.head.weight, rtol=1e-3, atol=1e-5)


def test_adaptive_clipping_is_brock_s_formula():
    """Each unit of a layer: its gradient is at most 0.1 times its weights (Brock et al., 2021, equation 3)."""
    model = nn.Sequential(nn.Linear(6, 5, bias=False), nn.Linear(5, 4, bias=False), nn.Linear(4, 3))
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter) * torch.logspace(-3, 1, len(parameter)).view(
            -1, *[1] * (parameter.ndim - 1)
        )
    before = [parameter.grad.clone() for parameter in model.parameters()]
    clip_gradients(model, replace(RECIPE, agc=0.1))
    for layer in (0, 1):
        for unit, gradient in enumerate(before[layer]):
            limit = 0.1 * max(model[layer].weight[unit].norm().item(), 1e-3)
            expected = gradient * min(1.0, limit / gradient.norm().item())
            torch.testing.assert_close(model[layer].weight.grad[unit], expected)
    assert torch.equal(model[2].weight.grad, before[2])  # the classifier keeps its own


def test_the_average_follows_the_weights_and_is_what_counts(data: DataSet):
    recipe = replace(RECIPE, ema=0.9, steps=3)
    seen = []
    with open_stepper(still(Small()), data.train, recipe, seed=0) as stepper:
        batches = Batches(images=data.train, recipe=recipe, seed=0, device=torch.device("cpu"))
        for step, parts in enumerate(batches):
            stepper.take(parts, step)
            seen.append(stepper.model.head.weight.detach().clone())
    expected = seen[0]
    for step in (1, 2):  # timm's warm-up: min(decay, 1 - (1 + t) ** (-2 / 3))
        decay = min(0.9, 1 - (1 + step) ** (-2 / 3))
        expected = decay * expected + (1 - decay) * seen[step]
    torch.testing.assert_close(stepper.average.module.head.weight, expected)
    trained = still(Small())
    train(trained, data, recipe, seed=0)
    torch.testing.assert_close(trained.head.weight, expected)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_trains_nearly_the_same(data: DataSet, precision: str):
    dtypes = []
    full, low = still(Small()), still(Small())
    low.head.register_forward_hook(lambda module, args, output: dtypes.append(output.dtype))
    expected, found = train(full, data, RECIPE, seed=0), train(low, data, replace(RECIPE, precision=precision), seed=0)
    assert dtypes[0] == {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    assert dtypes[-1] == torch.float32  # judged in full precision
    assert found.curve[0].train_loss == pytest.approx(expected.curve[0].train_loss, rel=0.02)
    assert found.curve[0].train_loss != expected.curve[0].train_loss


def test_fp16_scales_its_loss_and_skips_steps_that_overflow(data: DataSet):
    with open_stepper(still(Small()), data.train, replace(RECIPE, precision="fp16"), seed=0) as stepper:
        scale, before = stepper.scaler.get_scale(), stepper.model.head.weight.detach().clone()
        images = torch.full((16, 3, 32, 32), 3e4)  # gradients beyond 65504 once they are scaled
        stepper.model.norm = nn.Identity()
        stepper.take([Batch(images=images, targets=torch.eye(16))], 0)
        assert stepper.scaler.get_scale() == scale / 2
        assert torch.equal(stepper.model.head.weight, before)


def test_channels_last_is_how_it_trains_and_not_how_it_comes_back(data: DataSet):
    seen = []
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.Flatten(), nn.Linear(8 * 15 * 15, 16))
    model[0].register_forward_hook(
        lambda module, args, output: seen.append(args[0].is_contiguous(memory_format=torch.channels_last))
    )
    recipe = replace(RECIPE, memory_format="channels_last", steps=2)
    with open_stepper(model, data.train, recipe, seed=0) as stepper:
        take(stepper, data, 2)
        assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert seen == [True, True]
    assert model[0].weight.is_contiguous()


def test_compiled_training_is_the_same_training(data: DataSet, monkeypatch: pytest.MonkeyPatch):
    compiled = []

    def compile_nothing(module: nn.Module) -> nn.Module:
        compiled.append(module)
        return module

    monkeypatch.setattr(torch, "compile", compile_nothing)
    model = still(Small())
    train(model, data, replace(RECIPE, compile=True), seed=0)
    assert compiled == [model]


def test_stochastic_depth_acts_while_training_and_is_gone_afterwards(data: DataSet):
    model = create_model("deit_t", depth=2, width=24, num_heads=2, image_size=32, patch_size=8, num_classes=16)
    with open_stepper(model, data.train, replace(RECIPE, stochastic_depth=0.9), seed=0) as stepper:
        images = scale_pixels(data.train.pixels[:8])
        torch.manual_seed(0)
        assert not torch.equal(stepper.run(images), stepper.run(images))
    assert torch.equal(model.train()(images), model(images))


def test_a_teacher_is_followed(data: DataSet, tmp_path: Path):
    """Hard distillation alone: the student's loss is against the classes that the teacher names, not the labels."""
    torch.manual_seed(1)
    teacher = create_model("deit_t", depth=1, width=24, num_heads=2, image_size=32, patch_size=8, num_classes=16)
    nn.init.normal_(teacher.head.linear.weight)
    save_model(teacher, tmp_path)
    recipe = replace(RECIPE, distillation=Distillation(teacher=str(tmp_path), kind="hard", weight=1.0))
    student = still(Small())
    rows = next(draw_order(80, recipe, seed=0))
    images = scale_pixels(data.train.pixels[rows])
    with torch.no_grad():
        expected = nn.functional.cross_entropy(student.train()(images), teacher.eval()(images).argmax(1)).item()
    with open_stepper(student, data.train, recipe, seed=0) as stepper:
        assert take(stepper, data, 1)[0] == pytest.approx(expected, rel=1e-5)


def test_a_loss_that_is_not_finite_leaves_the_weights_alone(data: DataSet):
    model = still(Small())
    with open_stepper(model, data.train, RECIPE, seed=0) as stepper:
        before = model.head.weight.detach().clone()
        images = torch.full((16, 3, 32, 32), math.inf)
        with pytest.raises(FloatingPointError, match="at step=5"):
            stepper.take([Batch(images=images, targets=torch.eye(16))], 5)
        assert torch.equal(model.head.weight, before)


def test_a_step_s_batch_depends_on_seed_and_step_alone(data: DataSet):
    recipe = replace(RECIPE, augmentation=Augmentation(flip=0.5, crop="pad", mixup=0.5))
    make = {"images": data.train, "recipe": recipe, "device": torch.device("cpu")}
    whole = list(Batches(**make, seed=0))
    late = list(Batches(**make, seed=0, first=5))
    assert len(late) == 3
    for (one,), (other,) in zip(whole[5:], late, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.targets, other.targets)
    ((another,), *_) = Batches(**make, seed=1)
    assert not torch.equal(another.images, whole[0][0].images)


def test_repeats_show_an_image_several_times_each_otherwise(data: DataSet):
    recipe = replace(RECIPE, augmentation=Augmentation(crop="resized", repeats=4))
    rows = next(draw_order(80, recipe, seed=0))
    assert rows.bincount().max() == 4
    assert len(rows.unique()) == 4
    (batch,) = next(iter(Batches(images=data.train, recipe=recipe, seed=0, device=torch.device("cpu"))))
    assert torch.equal(batch.targets.argmax(1), data.train.labels[rows])
    assert not torch.equal(batch.images[0], batch.images[4])  # one image, twice


def test_a_reader_that_stops_early_leaves_no_thread(data: DataSet):
    batches = Batches(images=data.train, recipe=RECIPE, seed=0, device=torch.device("cpu"))
    ahead = batches._make_ahead(enumerate(draw_order(80, RECIPE, seed=0)))
    plain = [parts[0].images for parts in Batches(images=data.train, recipe=RECIPE, seed=0, device=torch.device("cpu"))]
    first = next(ahead)
    ahead.close()
    assert torch.equal(first[0].images, plain[0])
    every = [parts[0].images for parts in batches._make_ahead(enumerate(draw_order(80, RECIPE, seed=0)))]
    assert all(torch.equal(a, b) for a, b in zip(every, plain, strict=True))
