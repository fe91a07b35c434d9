"""The training loop: its schedule, its order, its care for the model, and its refusals."""

import math
from dataclasses import replace

import pytest
import torch
from sklearn.metrics import log_loss, top_k_accuracy_score
from small_training import Small, without_time
from timm.optim import param_groups_weight_decay
from torch import nn

from evitlab.recipes import TrainRecipe
from evitlab.train.batches import draw_order
from evitlab.train.data import DataSet, Images, load_data, scale_pixels
from evitlab.train.evaluation import evaluate
from evitlab.train.loop import train
from evitlab.train.optim import draw_xavier, learning_rate_at

RECIPE = TrainRecipe(steps=6, batch_size=16, learning_rate=1e-2, evaluations=2)


@pytest.fixture(scope="module")
def data() -> DataSet:
    return load_data("shapes", train_images=80, val_images=48)


def test_one_seed_is_one_result_and_another_seed_another(data: DataSet):
    results, weights = [], []
    for seed in (0, 0, 1):
        torch.rand(seed + 3)  # wherever torch's own state is
        model = Small()
        results.append(without_time(train(model, data, RECIPE, seed=seed)))
        weights.append(model.head.weight)
    assert results[0] == results[1] != results[2]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_training_learns_what_can_be_learned():
    """Dark images are class 0, light ones class 1."""
    labels = torch.arange(64) % 2
    images = Images(
        pixels=(labels * 200).to(torch.uint8)[:, None, None, None].repeat(1, 3, 32, 32),
        labels=labels,
        classes=("dark", "light"),
    )
    result = train(Small(2), DataSet(name="shades", train=images, val=images), replace(RECIPE, steps=40), seed=0)
    assert result.top1 == result.top5 == result.train_top1 == 1.0
    assert result.loss < result.curve[0].train_loss < math.log(2)


def test_the_result_says_what_was_done(data: DataSet):
    model = Small()
    result = train(model, data, RECIPE, seed=0)
    assert (result.data, result.num_classes) == ("shapes", 16)
    assert (result.train_images, result.val_images) == (80, 48)
    assert (result.steps, result.batch_size, result.images_seen) == (6, 16, 96)
    assert result.params == 48 * 2 + 48 * 16 + 16  # the frozen 2 x 2 is not trained
    assert [epoch.step for epoch in result.curve] == [3, 6]
    accuracy = evaluate(model, data.val)
    assert (result.top1, result.top5, result.loss) == (accuracy.top1, accuracy.top5, accuracy.loss)
    assert result.curve[-1].top1 == result.top1
    assert result.train_top1 == evaluate(model, data.train.first(48)).top1
    assert result.train_seconds > 0


def test_the_first_loss_is_that_of_the_given_model_on_the_first_batch(data: DataSet):
    """One step with label smoothing, from the formula, in float64."""
    recipe = replace(RECIPE, steps=1, evaluations=1, label_smoothing=0.3)
    model = Small()
    model.drop.p = 0.0
    batch = next(draw_order(80, recipe, seed=4))
    log_p = (
        Small()
        .eval()
        .norm.train()(scale_pixels(data.train.pixels[batch]).view(16, 3, 4, 8, 4, 8).mean((3, 5)).flatten(1))
    )
    log_p = (log_p.double() @ model.head.weight.detach().double().T).log_softmax(1)
    target = 0.7 * nn.functional.one_hot(data.train.labels[batch], 16) + 0.3 / 16
    expected = -(target * log_p).sum(1).mean().item()
    assert train(model, data, recipe, seed=4).curve[0].train_loss == pytest.approx(expected, rel=1e-5)


def test_the_curve_holds_the_mean_loss_since_the_last_point(data: DataSet):
    fine = train(Small(), data, replace(RECIPE, evaluations=6), seed=0).curve
    coarse = train(Small(), data, RECIPE, seed=0).curve
    for i, epoch in enumerate(coarse):
        assert epoch.train_loss == pytest.approx(sum(e.train_loss for e in fine[3 * i : 3 * i + 3]) / 3)


def test_the_model_keeps_modes_and_gets_no_gradients(data: DataSet):
    model = Small().train()
    model.norm.eval()
    modes = [module.training for module in model.modules()]
    frozen = model.frozen.clone()
    statistics = model.norm.running_mean.clone()
    evaluate(model, data.val)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(model.norm.running_mean, statistics)
    train(model, data, RECIPE, seed=0)
    assert [module.training for module in model.modules()] == modes
    assert not torch.equal(model.norm.running_mean, statistics)  # while training, all of it was in training mode
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(model.frozen, frozen)


def test_modes_come_back_after_an_error(data: DataSet):
    model = Small(15).eval()
    with pytest.raises(ValueError, match="model must give one score per class"):
        train(model, data, RECIPE, seed=0)
    assert not any(module.training for module in model.modules())


def test_torch_keeps_its_random_state(data: DataSet):
    model = Small()
    state = torch.get_rng_state()
    train(model, data, replace(RECIPE, init="xavier"), seed=0)
    assert torch.equal(state, torch.get_rng_state())


def test_progress_is_told_each_step(data: DataSet):
    told: list[tuple[int, int]] = []
    train(Small(), data, RECIPE, seed=0, on_step=lambda done, total: told.append((done, total)))
    assert told == [(i, 6) for i in range(1, 7)]


def test_a_loss_that_is_not_finite_stops_with_step_and_rate(data: DataSet):
    model = Small()
    model.head.weight.data.fill_(math.nan)
    with pytest.raises(
        FloatingPointError,
        match=r"training loss must stay finite, but got nan at step=0, learning rate 0\.01",
    ):
        train(model, data, RECIPE, seed=0)


def test_scores_of_another_number_of_classes_are_refused(data: DataSet):
    with pytest.raises(
        ValueError, match=r"per class of the data \(16\), but got scores of shape \(48, 7\) for 48 images"
    ):
        evaluate(Small(7), data.val)


@pytest.mark.parametrize(("steps", "warmup"), [(40, 0.1), (37, 0.25), (20, 0.0)])
def test_the_rate_equals_torch_s_schedulers(steps: int, warmup: float):
    recipe = TrainRecipe(steps=steps, warmup=warmup, learning_rate=0.3, evaluations=1)
    rises = round(steps * warmup)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps - rises)
    for step in range(rises, steps):
        assert learning_rate_at(step, recipe) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        cosine.step()
    assert [learning_rate_at(i, recipe) for i in range(rises)] == pytest.approx(
        [0.3 * (i + 1) / rises for i in range(rises)]
    )


def test_steps_follow_adamw_written_out(data: DataSet):
    """Two steps of the head, by the formula of Loshchilov and Hutter (2019), clipped, biases not decayed."""
    recipe = TrainRecipe(
        steps=2, batch_size=16, learning_rate=0.05, weight_decay=0.4, warmup=0.0, clip_norm=0.1, evaluations=1
    )
    model, twin = Small(), Small().train()
    for network in (model, twin):
        network.drop.p = 0.0
    train(model, data, recipe, seed=0)
    named = [p for p in twin.parameters() if p.requires_grad]
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in named]
    for step, batch in enumerate(draw_order(80, recipe, seed=0)):
        loss = nn.functional.cross_entropy(twin(scale_pixels(data.train.pixels[batch])), data.train.labels[batch])
        grads = torch.autograd.grad(loss, named)
        length = torch.cat([g.flatten() for g in grads]).norm()
        assert length > 0.1
        rate = 0.05 * 0.5 * (1 + math.cos(math.pi * step / 2))
        for parameter, grad, (mean, square) in zip(named, grads, moments, strict=True):
            grad = grad * 0.1 / length
            mean.lerp_(grad, 0.1)
            square.lerp_(grad**2, 0.001)
            decay = 0.4 if parameter.ndim > 1 else 0.0
            update = mean / (1 - 0.9 ** (step + 1)) / ((square / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
            parameter.data -= rate * (update + decay * parameter.data)
    torch.testing.assert_close(model.head.weight, twin.head.weight, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(model.head.bias, twin.head.bias, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(model.norm.weight, twin.norm.weight, rtol=1e-3, atol=1e-5)


def test_no_decay_for_vectors():
    """What `train` relies on in timm."""
    bare, decayed = param_groups_weight_decay(Small(), 0.5)
    assert (bare["weight_decay"], decayed["weight_decay"]) == (0.0, 0.5)
    assert {p.ndim for p in bare["params"]} == {1}
    assert [tuple(p.shape) for p in decayed["params"]] == [(16, 48)]


def test_batches_use_every_image_equally():
    recipe = TrainRecipe(steps=7, batch_size=5, evaluations=1)
    batches = torch.stack(list(draw_order(10, recipe, seed=0)))
    assert batches.shape == (7, 5)
    flat = batches.flatten()
    for start in (0, 10, 20):
        assert sorted(flat[start : start + 10].tolist()) == list(range(10))
    assert flat[30:].unique().numel() == 5
    assert flat[:10].tolist() != flat[10:20].tolist()
    assert not torch.equal(batches, torch.stack(list(draw_order(10, recipe, seed=1))))


def test_evaluate_equals_scikit_learn(data: DataSet):
    model = Small().eval()
    accuracy = evaluate(model, data.val, batch_size=7)
    with torch.no_grad():
        probabilities = model(scale_pixels(data.val.pixels)).double().softmax(1).numpy()
    labels, every = data.val.labels.numpy(), list(range(16))
    assert accuracy.top1 == pytest.approx(top_k_accuracy_score(labels, probabilities, k=1, labels=every))
    assert accuracy.top5 == pytest.approx(top_k_accuracy_score(labels, probabilities, k=5, labels=every))
    assert accuracy.loss == pytest.approx(log_loss(labels, probabilities, labels=every), rel=1e-6)


def test_xavier_draws_linear_layers_alone(data: DataSet):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LayerNorm(4), nn.Linear(30, 120), nn.Linear(120, 30, bias=False))
    nn.init.ones_(model[2].bias)
    before = model[0].weight.clone()
    draw_xavier(model, seed=0)
    first = model[2].weight.clone()
    for linear in (model[2], model[3]):
        limit = math.sqrt(6 / (30 + 120))  # Glorot and Bengio (2010), equation 16
        assert 0.98 * limit < linear.weight.abs().max() <= limit
        assert linear.weight.detach().std() == pytest.approx(limit / math.sqrt(3), rel=0.05)
    assert model[2].bias.abs().max() == 0
    assert torch.equal(model[0].weight, before)
    draw_xavier(model, seed=0)
    assert torch.equal(model[2].weight, first)
    draw_xavier(model, seed=1)
    assert not torch.equal(model[2].weight, first)


@pytest.mark.parametrize("init", ["as given", "xavier"])
def test_the_recipe_says_who_initialises(data: DataSet, init: str):
    """One step at next to no learning rate leaves the weights where training began."""
    recipe = TrainRecipe(steps=1, batch_size=8, learning_rate=1e-12, evaluations=1, init=init)
    model, expected = Small(), Small()
    if init == "xavier":
        draw_xavier(expected, seed=2)
    train(model, data, recipe, seed=2)
    torch.testing.assert_close(model.head.weight, expected.head.weight, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, r"steps\n.*greater than or equal to 1"),
        ({"batch_size": 0}, r"batch_size\n.*greater than or equal to 1"),
        ({"evaluations": 0}, r"evaluations\n.*greater than or equal to 1"),
        ({"learning_rate": 0.0}, r"learning_rate\n.*greater than 0"),
        ({"clip_norm": math.inf}, r"clip_norm\n.*finite number"),
        ({"weight_decay": -0.1}, r"weight_decay\n.*greater than or equal to 0"),
        ({"warmup": 1.0}, r"warmup\n.*less than 1"),
        (
            {"label_smoothing": -0.1},
            r"label_smoothing\n.*greater than or equal to 0",
        ),
        ({"steps": 2, "evaluations": 3}, r"evaluations must be at most self\.steps=2, but got self\.evaluations=3"),
        ({"init": "zeros"}, r"init\n.*'as given' or 'xavier'"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(change: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        TrainRecipe(**change)  # type: ignore[arg-type]
