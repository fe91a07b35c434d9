"""Recipes: presets and what is changed in them, what they refuse, how records keep them."""

from dataclasses import replace

import pytest
from pydantic import TypeAdapter, ValidationError

from evitlab.recipes import RECIPES, Augmentation, Distillation, TrainRecipe, as_asked
from evitlab.settings import TrainSettings, shrink_training

SETTINGS = TypeAdapter(TrainSettings)


def read(text: str) -> TrainRecipe:
    return SETTINGS.validate_json(f'{{"recipe": {text}}}', strict=True).recipe


@pytest.mark.parametrize("name", RECIPES)
def test_a_name_stands_for_the_whole_recipe(name: str):
    assert read(f'"{name}"') == RECIPES[name] == read(f'{{"preset": "{name}"}}')


def test_fields_stand_before_those_of_the_preset():
    recipe = read('{"preset": "paper", "epochs": 3, "augmentation": {"mixup": 0.1}}')
    paper = RECIPES["paper"]
    assert recipe == replace(paper, epochs=3.0, augmentation=replace(paper.augmentation, mixup=0.1))


def test_steps_stand_before_the_epochs_of_a_preset():
    recipe = read('{"preset": "paper", "steps": 40, "evaluations": 1}')
    assert recipe.count_steps(10**6) == 40


def test_without_a_preset_the_defaults_are_proxy():
    assert read("{}") == TrainRecipe() == RECIPES["proxy"]


def test_the_paper_s_recipe_is_the_official_one():
    """What shared sources say of the repository's command line: AdamW 1e-3, 0.025, 300 epochs of 2048, 5 to warm up."""
    paper = RECIPES["paper"]
    assert (paper.learning_rate, paper.weight_decay, paper.epochs, paper.batch_size) == (1e-3, 0.025, 300, 2048)
    assert paper.warmup * paper.epochs == pytest.approx(5)
    assert (paper.agc, paper.ema, paper.label_smoothing) == (0.02, 0.99996, 0.1)
    augmentation = paper.augmentation
    assert (augmentation.mixup, augmentation.cutmix, augmentation.random_erasing) == (0.8, 1.0, 0.25)
    assert augmentation.rand_augment == 9
    assert augmentation.repeats > 1


@pytest.mark.parametrize(
    ("recipe", "images", "steps"),
    [
        (TrainRecipe(), 50_000, 320),
        (TrainRecipe(epochs=2, batch_size=64), 50_000, 1562),  # 2 x 50,000 / 64 = 1562.5, to even
        (TrainRecipe(epochs=0.5, batch_size=100), 1000, 5),
        (TrainRecipe(epochs=1, batch_size=1024, evaluations=2), 10, 2),  # one for each evaluation at least
    ],
)
def test_epochs_decide_the_steps(recipe: TrainRecipe, images: int, steps: int):
    assert recipe.count_steps(images) == steps


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('"papr"', r"unknown recipe 'papr'; did you mean paper\? \(allowed: proxy, small, paper\)"),
        ('{"preset": 3}', r"unknown recipe 3"),
        ('{"agc": 0}', "greater than 0"),
        ('{"ema": 1.0}', "less than 1"),
        ('{"batch_size": 10, "accumulate": 4}', r"multiple of accumulate x repeats \(4\)"),
        ('{"batch_size": 10, "augmentation": {"repeats": 3}}', r"multiple of accumulate x repeats \(3\)"),
        ('{"augmentation": {"rand_augment": 11}}', "less than or equal to 10"),
        ('{"augmentation": {"flip": 1.5}}', "less than or equal to 1"),
        ('{"augmentation": {"mixop": 1.0}}', "mixop"),
        ('{"distillation": {"kind": "soft"}}', "teacher"),
        ('{"precision": "int8"}', "fp32"),
    ],
)
def test_what_cannot_be_is_refused(text: str, message: str):
    with pytest.raises(ValidationError, match=message):
        read(text)


def test_a_record_keeps_what_is_asked_and_not_what_is_off():
    assert set(as_asked(TrainRecipe())) == {
        "steps", "batch_size", "learning_rate", "weight_decay", "warmup", "label_smoothing", "clip_norm",
        "evaluations", "init",
    }  # fmt: skip
    recipe = TrainRecipe(
        ema=0.99, augmentation=Augmentation(flip=0.5), distillation=Distillation(teacher="deit"), compile=True
    )
    extra = {name: value for name, value in as_asked(recipe).items() if name not in as_asked(TrainRecipe())}
    assert set(extra) == {"ema", "augmentation", "distillation", "compile"}
    assert extra["augmentation"]["flip"] == 0.5


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_can_be_made_small(name: str):
    small = shrink_training(TrainSettings(recipe=RECIPES[name])).recipe
    assert small.count_steps(64) == 2
    assert small.batch_size == 8
