"""Knobs: every wrong one is named with its value and with what is allowed."""

import pytest

from evitlab.models.knobs import KNOBS, KnobError, check_knobs, knobs_of, per_stage
from evitlab.models.zoo import ZOO, default_knobs

ISSUE = (
    "mhsa_ratio", "qk_dim", "v_ratio", "ffn_ratio", "num_heads", "attention", "sandwich", "depthwise", "norm", "act",
    "width", "depth", "image_size", "num_classes",
)  # fmt: skip


def check(family: str = "deit", num_stages: int = 1, **knobs: object) -> None:
    check_knobs(knobs, family=family, num_stages=num_stages)


@pytest.mark.parametrize("family", ["deit", "swin", "efficientvit"])
def test_every_promised_knob_applies_to_every_family(family):
    assert set(ISSUE) <= set(knobs_of(family))


def test_knobs_are_listed_where_they_apply():
    assert set(knobs_of("swin")) == set(KNOBS)
    assert set(knobs_of("deit")) == set(KNOBS) - {"window_size"}
    assert knobs_of("resnet") == []
    for name, published in ZOO.items():
        assert set(default_knobs(name)) == set(knobs_of(published.family))


def test_a_knob_that_does_not_apply_lists_those_that_do():
    with pytest.raises(KnobError, match=r"^window_size does not apply to the family deit \(allowed: (.*)\)$") as caught:
        check(window_size=4)
    allowed = str(caught.value).split("allowed: ")[1].rstrip(")").split(", ")
    assert allowed == knobs_of("deit")


@pytest.mark.parametrize(
    ("typo", "right"),
    [("qk_dmi", "qk_dim"), ("mhsa_ration", "mhsa_ratio"), ("imgsize", "image_size"), ("nrom", "norm")],
)
def test_a_typo_gives_the_nearest_name(typo, right):
    with pytest.raises(KnobError, match=rf"^{typo} is not a knob; did you mean {right}\? \(allowed: mhsa_ratio, .*\)$"):
        check(**{typo: 1})


def test_a_name_like_no_other_has_no_nearest():
    with pytest.raises(KnobError, match=r"^zzz is not a knob \(allowed: mhsa_ratio, .*\)$"):
        check(zzz=1)


INTEGERS = {
    "qk_dim": r"an integer from 1 to 1024, or null for width / num_heads",
    "num_heads": r"an integer from 1 to 256",
    "sandwich": r"an integer from 1 to 16, or null for one attention, one FFN",
    "width": r"an integer from 1 to 8192",
    "depth": r"an integer from 1 to 200",
    "num_classes": r"an integer from 1 to 100000",
    "patch_size": r"an integer from 1 to 64 \(EfficientViT: 2, 4, 8 or 16\)",
}
NUMBERS = {
    "mhsa_ratio": (r"a number from 0 to 1", 0, 1),
    "v_ratio": (r"a number from 0\.05 to 8", 0.05, 8),
    "ffn_ratio": (r"a number from 0\.05 to 16", 0.05, 16),
}
CHOICES = {
    "attention": ("mhsa", "group", "cascaded"),
    "norm": ("batch", "layer"),
    "act": ("relu", "gelu", "hardswish"),
}


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("value", [0, -1, 10**6, 1.5, 2.0, True, "2", [], float("nan"), {}])
def test_integers(name, value):
    with pytest.raises(KnobError, match=rf"^{name} must be {INTEGERS[name]}, but got ") as caught:
        check(**{name: value})
    assert str(caught.value).endswith(f"but got {value!r}")


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [-0.1, 1e9, float("nan"), float("inf"), True, "0.5", None, []])
def test_numbers(name, value):
    with pytest.raises(KnobError, match=rf"^{name} must be {NUMBERS[name][0]}, but got ") as caught:
        check(**{name: value})
    assert str(caught.value).endswith(f"but got {value!r}")


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("value", ["Batch", "", None, 1, True, ["mhsa"]])
def test_choices(name, value):
    with pytest.raises(KnobError, match=rf"^{name} must be one of {', '.join(CHOICES[name])}, but got "):
        check(**{name: value})


@pytest.mark.parametrize("value", [15, 4097, 224.0, True, None, "224", [224], [224, 224, 224], [224, 15], [224, "224"]])
def test_image_size(value):
    with pytest.raises(KnobError, match=r"^image_size must be an integer from 16 to 4096 or a list of two, but got "):
        check(image_size=value)


@pytest.mark.parametrize("value", [0, 1, None, "true"])
def test_depthwise(value):
    with pytest.raises(KnobError, match=r"^depthwise must be true or false, but got "):
        check(depthwise=value)


@pytest.mark.parametrize("value", ["flash", True, 0])
def test_attention_path(value):
    with pytest.raises(KnobError, match=r"^attention_path must be one of fused, explicit, or null .*, but got "):
        check(attention_path=value)


@pytest.mark.parametrize("value", [0, 1025, None, 7.0, [7, 7]])
def test_window_size(value):
    with pytest.raises(KnobError, match=r"^window_size must be an integer from 1 to 1024, but got "):
        check("swin", window_size=value)


def test_what_is_allowed_is_accepted():
    edges = {name: [low, high, (low + high) / 2] for name, (_, low, high) in NUMBERS.items()}
    edges |= CHOICES | {"depthwise": [True, False], "image_size": [16, 4096, (16, 64), [4096, 16]]}
    edges |= {"attention_path": ["fused", "explicit", None]}
    edges |= {"qk_dim": [1, 1024, None], "sandwich": [1, 16, None], "width": [1, 8192], "depth": [1, 200]}
    edges |= {"num_heads": [1, 256], "num_classes": [1, 100_000], "patch_size": [1, 64], "window_size": [1, 1024]}
    assert set(edges) == set(KNOBS)
    for name, values in edges.items():
        for value in values:
            check("swin", 4, **{name: value})


PER_STAGE = {"qk_dim": None, "v_ratio": 0.5, "ffn_ratio": 3, "num_heads": 2, "width": 8, "depth": 2}


def test_lists_give_each_stage_its_own_value():
    assert {name for name, knob in KNOBS.items() if knob.per_stage} == set(PER_STAGE)
    for name, value in PER_STAGE.items():
        check("swin", 4, **{name: [value] * 4})
        check("swin", 4, **{name: (value,) * 4})
        check("deit", 1, **{name: [value]})


@pytest.mark.parametrize("name", PER_STAGE)
@pytest.mark.parametrize("count", [0, 1, 3, 5])
def test_a_list_of_wrong_length_says_the_right_one(name, count):
    values = [PER_STAGE[name]] * count
    with pytest.raises(KnobError, match=rf"^{name} must be .*, or a list of 4, one a stage, but got \["):
        check("swin", 4, **{name: values})


def test_a_wrong_value_in_a_list_is_refused():
    with pytest.raises(KnobError, match=r"^width must be .*, or a list of 4, one a stage, but got \[8, 8, 8, 0\]$"):
        check("swin", 4, width=[8, 8, 8, 0])


def test_all_mistakes_at_once():
    with pytest.raises(KnobError) as caught:
        check(mhsa_ratio=1.3, qk_dmi=4, window_size=7, act="relu")
    starts = ["mhsa_ratio must be a number from 0 to 1, but got 1.3", "qk_dmi is not", "window_size does not apply"]
    assert len(caught.value.problems) == 3
    for problem, start in zip(caught.value.problems, starts, strict=True):
        assert problem.startswith(start)
    assert str(caught.value) == "; ".join(caught.value.problems)


def test_per_stage():
    assert per_stage(4, 3) == [4, 4, 4]
    assert per_stage(None, 2) == [None, None]
    assert per_stage((1, 2), 2) == [1, 2]
