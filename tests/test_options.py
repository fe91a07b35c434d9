"""What is set on the command line: read like a study file, mistakes in one line."""

import pytest

from evitlab.options import (
    ProcessOptions,
    make_settings,
    name_folder,
    parse_image_size,
    parse_pairs,
    split_knobs,
    take_process_options,
)
from evitlab.problems import UserError
from evitlab.settings import Execution, OperatorsSettings, ThroughputSettings


def test_values_are_read_as_in_a_study():
    pairs = ["a=1", "b=0.5", "c=1e-3", "d=null", "e=[1, 2]", "f=relu", "g=true", "h=x=y"]
    expected = {"a": 1, "b": 0.5, "c": 0.001, "d": None, "e": [1, 2], "f": "relu", "g": True, "h": "x=y"}
    assert parse_pairs(pairs, option="--set") == expected


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["a"], "--set must be given as NAME=VALUE, but got 'a'"),
        (["=1"], "--set must be given as NAME=VALUE, but got '=1'"),
        (["a=1", "a=2"], "--set: a is given twice"),
        (["a=[1"], r"--set a=\[1: line [12], .*expected"),
        (["a=!!python/object/apply:os.system [echo]"], "could not determine a constructor"),
    ],
)
def test_wrong_pairs(pairs, message):
    with pytest.raises(UserError, match=message):
        parse_pairs(pairs, option="--set")


def test_knobs_behind_the_last_colon():
    assert split_knobs("deit_t") == ("deit_t", {})
    assert split_knobs("deit_t:a=1,b=[1,2],c=x") == ("deit_t", {"a": 1, "b": [1, 2], "c": "x"})
    assert split_knobs("timm:vit") == ("timm:vit", {})
    assert split_knobs("timm:vit:depth=2") == ("timm:vit", {"depth": 2})
    assert split_knobs("a/b.py:net:c=1") == ("a/b.py:net", {"c": 1})


def test_image_sizes():
    assert parse_image_size(None) is None
    assert parse_image_size("224") == (224, 224)
    assert parse_image_size("192x256") == (192, 256)


@pytest.mark.parametrize("text", ["0", "x", "-1", "12x", "12x0", "12x3x4", "1.5"])
def test_wrong_image_sizes(text):
    with pytest.raises(UserError, match=r"--image-size must be pixels, .* but got"):
        parse_image_size(text)


def test_folders_hold_no_path():
    assert name_folder("bench", ["deit_t", "timm:resnet18"]) == "bench_deit_t+timm-resnet18"
    assert name_folder("profile", ["../nets.py:net"]) == "profile_nets.py-net"
    assert "/" not in name_folder("bench", ["/home/me/saved/"])
    assert len(name_folder("bench", ["x" * 500])) == 120


def test_process_options_are_taken_out():
    options = {"threads": 2, "precision": "bf16", "allocator": "system"}
    assert take_process_options(options) == ProcessOptions(threads=2, tune_allocator=False)
    assert options == {"precision": "bf16"}
    assert take_process_options({}) == ProcessOptions(threads=None, tune_allocator=True)


@pytest.mark.parametrize("options", [{"threads": 0}, {"threads": "two"}, {"threads": True}, {"allocator": "fast"}])
def test_wrong_process_options(options):
    with pytest.raises(UserError, match=r"(threads|allocator) must be .* but got"):
        take_process_options(options)


def test_fields_of_the_execution_stand_beside_the_others():
    found = make_settings(ThroughputSettings, {"batch_size": 3, "precision": "bf16", "half_width": 0.5, "fold": False})
    assert found == ThroughputSettings(batch_size=3, half_width=0.5, execution=Execution(precision="bf16", fold=False))
    assert make_settings(OperatorsSettings, {}) == OperatorsSettings()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precison": "bf16"}, r"precison cannot be set; did you mean precision\? \(allowed: batch_size, .*threads"),
        ({"precision": "fp8"}, "^precision: must be 'fp32', 'bf16' or 'fp16', but got 'fp8'"),
        ({"batch_size": 0}, "^batch_size: must be greater than or equal to 1, but got 0"),
        ({"batch_size": "8"}, "^batch_size: must be a valid integer, but got '8'"),
        ({"half_width": 0}, "half_width: must be greater than 0"),
    ],
)
def test_wrong_settings(options, message):
    with pytest.raises(UserError, match=message):
        make_settings(ThroughputSettings, options)


def test_what_is_compiled_cannot_be_profiled():
    with pytest.raises(UserError, match=r"execution\.mode must be eager to be profiled"):
        make_settings(OperatorsSettings, {"mode": "compiled"})
