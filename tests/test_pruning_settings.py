"""Targets and settings of a pruning, from the words of a command line."""

import pytest

from evitlab.models.zoo import make_config
from evitlab.problems import UserError
from evitlab.pruning_settings import STAND_INS, Target, make_prune_settings, parse_targets


def make(options=None, *, trains=True, smoke=False, **named):
    named = {"importance": "taylor", "steps": 5, "finetune": 1.0, **named}
    same = {"data": ["shapes"], "data_root": None, "seeds": range(2)}
    return make_prune_settings(options or {}, trains=trains, smoke=smoke, **same, **named)


def test_targets_are_read_in_order():
    found = parse_targets(["macs=0.6", "params=.5", "throughput=1.25", "macs=1"])
    assert [(target.kind, target.value) for target in found] == [
        ("macs", 0.6), ("params", 0.5), ("throughput", 1.25), ("macs", 1.0),
    ]  # fmt: skip
    assert found[0].label == "macs=0.6"
    assert found[0] == Target(kind="macs", value=0.6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mac=0.6", r"did you mean macs\?"),
        ("0.6", "--target must be macs=SHARE"),
        ("macs=60", "share above 0 and up to 1, such as macs=0.6, but got 'macs=60'"),
        ("macs=0", "share above 0"),
        ("params=-0.5", "share above 0"),
        ("macs=half", "share above 0"),
        ("throughput=0.8", "from 1 on, such as throughput=1.25, but got 'throughput=0.8'"),
        ("throughput=nan", "from 1 on"),
    ],
)
def test_wrong_targets_say_what_is_allowed(text, message):
    with pytest.raises(UserError, match=message):
        parse_targets([text])


def test_a_target_given_twice_is_a_mistake():
    with pytest.raises(UserError, match=r"macs=0.6 is given twice"):
        parse_targets(["macs=0.6", "macs=0.60"])


def test_steps_of_the_pruning_and_of_the_recipe_are_two_things():
    settings, training = make(
        {"steps": 50, "min_qk": 4, "by_cost": False, "batch_size": 16, "train_images": 64}, steps=3
    )
    assert (settings.steps, settings.floors["qk"], settings.by_cost) == (3, 4, False)
    assert (training.recipe.steps, training.recipe.batch_size, training.train_images) == (50, 16, 64)
    assert training.seeds == (0, 1)


def test_a_stand_in_has_a_recipe_of_its_own():
    assert make()[1].recipe.init == "xavier"
    assert make(trains=False)[1].recipe.init == "as given"
    assert make({"recipe": "small"})[1].recipe.epochs == 60
    assert make({"epochs": 2})[1].recipe.count_steps(320) == 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_q": 3}, "min_q cannot be set; did you mean min_qk"),
        ({"min_qk": 0}, "min_qk"),
        ({"lerning_rate": 3}, r"did you mean"),
        ({"tolerance": 2}, "tolerance"),
    ],
)
def test_wrong_fields_are_named(options, message):
    with pytest.raises(UserError, match=message):
        make(options)


@pytest.mark.parametrize("named", [{"importance": "tailor"}, {"steps": 0}, {"finetune": -1.0}])
def test_wrong_options_are_named(named):
    with pytest.raises(UserError, match=next(iter(named))):
        make(**named)


def test_smoke_is_tiny():
    settings, training = make(smoke=True)
    assert settings.steps == 2
    assert settings.score_images * settings.steps < 100
    assert training.recipe.steps == 2


@pytest.mark.parametrize(("name", "blocks"), [("deit_t", 12), ("swin_t", 12), ("efficientvit_m0", 6)])
def test_stand_ins_keep_the_published_blocks(name, blocks):
    config = make_config(name, **STAND_INS[make_config(name).family])
    assert sum(len(stage.blocks) for stage in config.stages) == blocks
