"""Reading studies: what they expand to, and that every mistake is named, all at once."""

import re
import textwrap
from pathlib import Path

import pytest

from evitlab.models.config import config_from_dict
from evitlab.models.zoo import make_config
from evitlab.settings import choose_proxy
from evitlab.store import read_records
from evitlab.study import StudyError, load_study

GOOD = """
question: Which?
source: Fig. 3
expect: A peak.
cost: seconds
base: deit_t
grid:
  mhsa_ratio: [0, 0.5]
match: {speedup: 1.25}
tasks:
  macs: {}
  throughput: {batch_size: 2}
  train: {seeds: [0, 1], proxy: {image_size: 32, patch_size: 8, width: 48}}
"""


@pytest.fixture
def write(tmp_path):
    def write_study(text: str, name: str = "a_study.yaml") -> Path:
        path = tmp_path / name
        path.write_text(textwrap.dedent(text))
        return path

    return write_study


def problems_of(path: Path) -> list[str]:
    with pytest.raises(StudyError) as caught:
        load_study(path)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{path}: ") for line in lines)
    return [line.removeprefix(f"{path}: ") for line in lines]


def test_grid_crosses_its_lists_in_the_order_of_the_file(write):
    text = GOOD.replace("mhsa_ratio: [0, 0.5]", "mhsa_ratio: [0.2, 0.5]\n  qk_dim: [16, 32]")
    study = load_study(write(text))
    assert [variant.name for variant in study.variants()] == [
        "mhsa_ratio=0.2, qk_dim=16",
        "mhsa_ratio=0.2, qk_dim=32",
        "mhsa_ratio=0.5, qk_dim=16",
        "mhsa_ratio=0.5, qk_dim=32",
    ]
    assert study.variants()[1].make_config() == make_config("deit_t", mhsa_ratio=0.2, qk_dim=32)


def test_named_variants_change_the_base_or_replace_it(write):
    text = GOOD.replace("base: deit_t", "base: {name: deit_t, image_size: 64}").replace(
        "grid:\n  mhsa_ratio: [0, 0.5]", "variants:\n  thin: {qk_dim: 16}\n  small: {base: efficientvit_m0}"
    )
    thin, small = load_study(write(text)).variants()
    assert thin.make_config() == make_config("deit_t", image_size=64, qk_dim=16)
    assert small.make_config() == make_config("efficientvit_m0")


def test_a_base_may_be_among_what_is_crossed(write):
    grid = "grid:\n  base: [deit_t, {name: swin_t, attention_path: fused}]\n  mhsa_ratio: [0.5]"
    first, second = load_study(write(GOOD.replace("grid:\n  mhsa_ratio: [0, 0.5]", grid))).variants()
    assert first.name == "base=deit_t, mhsa_ratio=0.5"
    assert second.name == "base=swin_t attention_path=fused, mhsa_ratio=0.5"
    assert first.make_config() == make_config("deit_t", mhsa_ratio=0.5)
    assert second.make_config() == make_config("swin_t", mhsa_ratio=0.5, attention_path="fused")
    assert first.reference == second.reference == "base"


OWN = GOOD.replace("speedup: 1.25", "speedup: 1.25, reference: own").replace(
    "grid:\n  mhsa_ratio: [0, 0.5]",
    "grid:\n  base: [deit_t, {name: swin_t, attention_path: fused}]\n  speedup: [1.25, 1.5]",
)


def test_speed_may_be_compared_with_the_network_that_a_variant_starts_from(write):
    study = load_study(write(OWN))
    assert list(study.references) == ["base", "swin_t attention_path=fused"]
    assert [(v.reference, v.speedup) for v in study.variants()] == [
        ("base", 1.25), ("base", 1.5), ("swin_t attention_path=fused", 1.25), ("swin_t attention_path=fused", 1.5),
    ]  # fmt: skip
    assert [row.name for row in study.rows()][:2] == list(study.references)
    assert study.references["swin_t attention_path=fused"].make_config() == make_config(
        "swin_t", attention_path="fused"
    )
    tasks = [task for variant, task in study.requests() if variant == "swin_t attention_path=fused"]
    assert tasks == ["macs", "throughput"]


def test_a_second_timing_is_another_request_and_one_is_the_usual(write):
    texts = (GOOD.replace("speedup: 1.25", f"speedup: 1.25{more}") for more in ("", ", timings: 1", ", timings: 3"))
    plain, one, three = (load_study(write(text)).requests() for text in texts)
    assert plain == one, "so that records from before there was a choice still answer"
    assert not {plain[key] for key in plain if key[0] != "base"} & set(three.values())


def test_a_request_knows_the_target_and_the_reference(write):
    ours = load_study(write(OWN)).requests()
    faster = load_study(write(OWN.replace("[1.25, 1.5]", "[1.3, 1.5]"))).requests()
    first, second = "base=deit_t, speedup=1.5", "base=deit_t, speedup=1.25"
    assert ours[first, "match"] == faster[first, "match"]
    assert ours[second, "match"] not in faster.values()
    elsewhere = load_study(write(OWN.replace("reference: own", "reference: base"))).requests()
    name = "base=swin_t attention_path=fused, speedup=1.5"
    assert ours[name, "throughput"] != elsewhere[name, "throughput"]


def test_a_relative_speed_is_asked_anew_when_the_base_changes(write):
    text = GOOD.replace("match: {speedup: 1.25}\n", "").replace("mhsa_ratio: [0, 0.5]", "base: [swin_t]")
    ours, theirs = (
        load_study(write(text.replace("base: deit_t", f"base: {base}"))).requests()
        for base in ("deit_t", "efficientvit_m0")
    )
    changed = {task for (variant, task) in ours if variant != "base" and ours[variant, task] != theirs[variant, task]}
    assert changed == {"throughput"}


def test_resize_keeps_every_knob_and_the_proportion_of_the_stages(write):
    text = GOOD.replace("base: deit_t", "base: swin_t").replace(
        ", proxy: {image_size: 32, patch_size: 8, width: 48}", ""
    )
    variant = load_study(write(text)).variants()[0]
    config = variant.resize(71.6)
    assert [stage.width for stage in config.stages] == [72, 144, 286, 572]  # 71.6 / 96 of each, even
    assert config.mhsa_ratio == 0
    wide = variant.with_knobs(width=[96, 192, 192, 192]).resize(48)
    assert [stage.width for stage in wide.stages] == [48, 96, 96, 96]
    assert config_from_dict(wide.to_dict()) == wide


def test_requests_ignore_prose_and_seeds_but_nothing_that_is_measured(write):
    study = load_study(write(GOOD))
    same = load_study(write(GOOD.replace("Which?", "What?").replace("seeds: [0, 1]", "seeds: [2]")))
    assert study.requests() == same.requests()
    ours = study.requests()
    for old, new, changed in [
        ("speedup: 1.25", "speedup: 1.5", {"match", "macs", "throughput", "train"}),
        ("width: 48", "width: 60", {"train"}),
        ("batch_size: 2", "batch_size: 4", {"match", "macs", "throughput", "train"}),
    ]:
        theirs = load_study(write(GOOD.replace(old, new))).requests()
        different = {task for (variant, task), request in theirs.items() if ours[variant, task] != request}
        assert different == changed, (old, new)
    assert not set(ours.values()) & set(load_study(write(GOOD), smoke=True).requests().values())


def test_the_base_is_measured_but_neither_matched_nor_trained(write):
    tasks = [task for variant, task in load_study(write(GOOD)).requests() if variant == "base"]
    assert tasks == ["macs", "throughput"]


EVALUATED = GOOD + "  evaluate: {maps: 3}\n"


def test_an_evaluation_is_asked_anew_with_its_training_and_changes_no_other_request(write):
    without, study = load_study(write(GOOD)).requests(), load_study(write(EVALUATED)).requests()
    assert {pair: study[pair] for pair in without} == without
    assert {pair for pair in study if pair not in without} == {
        ("mhsa_ratio=0", "evaluate"), ("mhsa_ratio=0.5", "evaluate"),
    }  # fmt: skip
    for old, new, again in [
        ("maps: 3", "maps: 4", {"evaluate"}),
        ("maps: 3", "maps: 3, block: blocks.0.attn", {"evaluate"}),
        ("seeds: [0, 1]", "seeds: [0, 1], val_images: 64", {"train", "evaluate"}),
        ("seeds: [0, 1]", "seeds: [2]", set()),
    ]:
        theirs = load_study(write(EVALUATED.replace(old, new))).requests()
        assert {task for (name, task), request in theirs.items() if study[name, task] != request} == again, new


def test_an_evaluation_needs_a_training(write):
    text = EVALUATED.replace("  train: {seeds: [0, 1], proxy: {image_size: 32, patch_size: 8, width: 48}}\n", "")
    assert problems_of(write(text)) == [
        "tasks.evaluate: needs the task train, which makes the networks that it judges, but got none"
    ]
    (problem,) = problems_of(write(EVALUATED.replace("maps: 3", "maps: -1")))
    assert problem.startswith("tasks.evaluate.maps: must be")


def test_heads_are_asked_with_their_training_and_need_one(write):
    without, study = load_study(write(GOOD)).requests(), load_study(write(GOOD + "  heads: {images: 9}\n"))
    assert {task for pair in study.requests() if pair not in without for task in pair[1:]} == {"heads"}
    assert study.seeds("heads") == (0, 1)
    assert study.settings("heads") == {"images": 9, "drop_one": False, "train": study.settings("train")}
    assert load_study(write(GOOD + "  heads: {}\n"), smoke=True).tasks.heads.images == 8
    assert problems_of(write(GOOD[: GOOD.index("  train:")] + "  heads: {}\n")) == [
        "tasks.heads: needs the task train, which makes the networks that it compares heads of, but got none"
    ]


def test_each_network_may_have_a_proxy_of_its_own(write):
    two = GOOD.replace("grid:\n  mhsa_ratio: [0, 0.5]", "variants: {a: {}, b: {base: swin_t}}")
    own = "proxy: {deit_t: {width: 48}, swin_t: {window_size: 4}}"
    study = load_study(write(two.replace("proxy: {image_size: 32, patch_size: 8, width: 48}", own)))
    proxy = study.tasks.train.proxy
    assert [choose_proxy(proxy, variant.network) for variant in study.variants()] == [
        {"width": 48}, {"window_size": 4},
    ]  # fmt: skip
    assert choose_proxy({"width": 48}, "swin_t") == {"width": 48}
    lacking = two.replace("proxy: {image_size: 32, patch_size: 8, width: 48}", "proxy: {deit_t: {width: 48}}")
    assert problems_of(write(lacking)) == [
        "tasks.train.proxy: must be knobs, or knobs of each network that variants start from, but has none of swin_t"
    ]
    wrong = two.replace("proxy: {image_size: 32, patch_size: 8, width: 48}", own.replace("width: 48", "window_size: 4"))
    (problem,) = problems_of(write(wrong))
    assert problem.startswith("tasks.train.proxy: window_size does not apply to the family deit")


@pytest.mark.parametrize("name", ["mhsa_ratio", "runtime_profile", "subnetwork_profiles"])
def test_what_the_shipped_studies_ask_is_in_their_records(name):
    """A new field of the lab must not make other work of what has been measured."""
    root = Path(__file__).parents[1]
    recorded = {record.request for record in read_records(root / "results" / name) if record.status == "ok"}
    assert set(load_study(root / "studies" / f"{name}.yaml").requests().values()) <= recorded


def test_seed_is_added_to_the_trainings(write):
    study = load_study(write(EVALUATED), seed=10)
    assert study.seeds("train") == study.seeds("evaluate") == (10, 11)
    assert study.seeds("throughput") == (10,)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("mhsa_ratio: [0, 0.5]", "mhsa_ratio: [1.3]", r"grid .*mhsa_ratio must be a number from 0 to 1, but got 1\.3"),
        ("mhsa_ratio: [0, 0.5]", "mhsa_ratio: []", "grid: every knob needs at least one value, but got none for mhsa"),
        ("mhsa_ratio: [0, 0.5]", "mhsa_ratio: 0.5", "grid.mhsa_ratio: must be a list, but got 0.5"),
        (
            "mhsa_ratio: [0, 0.5]",
            "mhsa_ratio: [0.5, 0.5]",
            "two variants must not have one name, but got mhsa_ratio=0.5",
        ),
        ("mhsa_ratio:", "mhsa_rato:", "grid: mhsa_rato is not a knob; did you mean mhsa_ratio"),
        (
            "base: deit_t",
            "base: deit_s",
            r"base: unknown network 'deit_s'; did you mean deit_t\? \(allowed: deit_t, swin_t",
        ),
        (
            "base: deit_t",
            "base: {name: deit_t, num_heads: 5}",
            "base: num_heads must divide width, but got num_heads=5",
        ),
        ("mhsa_ratio: [0, 0.5]", "speedup: [1.5, 0]", "speedup=0: speedup must be a number above 0, but got 0"),
        ("mhsa_ratio: [0, 0.5]", "base: [deit_s]", r"unknown network 'deit_s'; did you mean deit_t\?"),
        (
            "speedup: 1.25",
            "speedup: 1.25, reference: mine",
            "match.reference: must be 'base' or 'own', but got 'mine'",
        ),
        ("base: deit_t", "base: {nam: deit_t}", "base: unknown network None"),
        ("question: Which?", "quest: Which?", "quest: unknown; did you mean question"),
        ("question: Which?", "", "question: required, but missing"),
        ("speedup: 1.25", "speedup: fast", "match.speedup: must be a valid number, but got 'fast'"),
        ("speedup: 1.25", "speedup: -1", "match.speedup: must be greater than 0, but got -1"),
        ("batch_size: 2", "batch_size: 2.5", "tasks.throughput.batch_size: must be a valid integer"),
        ("batch_size: 2", "batch_size: '2'", "tasks.throughput.batch_size: must be a valid integer, but got '2'"),
        ("batch_size: 2", "batch: 2", "tasks.throughput.batch: unknown; did you mean batch_size"),
        (
            "batch_size: 2",
            "min_rounds: 50",
            "tasks.throughput.min_rounds: must be at most .*max_rounds=40, but got min",
        ),
        ("  macs: {}", "  mac: {}", "tasks.mac: unknown; did you mean macs"),
        ("seeds: [0, 1]", "seeds: [1, 1]", r"seeds: must hold different seeds, at least one, but got \[1, 1\]"),
        ("seeds: [0, 1]", "recipe: {steps: 1}", "recipe: evaluations must be at most steps=1, but got evaluations=2"),
        ("seeds: [0, 1]", "data: cifar", "tasks.train.data: must be one of shapes, cifar10, .*; did you mean cifar10"),
        ("width: 48", "width: 50", "tasks.train.proxy: num_heads must divide width, but got num_heads=3 and width=50"),
        ("  throughput: {batch_size: 2}\n", "", "match: needs the task throughput"),
        ("mhsa_ratio: [0, 0.5]", "width: [48, 96]", "match: sets the width of every variant"),
        (
            "grid:",
            "variants: {base: {qk_dim: 4}}\ngrid:",
            "grid, variants: a study must have one of them, but got both",
        ),
        (
            "grid:\n  mhsa_ratio: [0, 0.5]",
            "variants: {base: {qk_dim: 4}}",
            "variants.base: this is the name of the base's",
        ),
        ("grid:\n  mhsa_ratio: [0, 0.5]", "variants: {}", "variants: must name at least one variant"),
        ("grid:\n  mhsa_ratio: [0, 0.5]\n", "", "grid, variants: a study must have one of them, but got neither"),
        ("match:", "paper: {top1: {a: 120}}\nmatch:", "paper.top1.a: must be percent from 0 to 100, but got 120"),
        ("match:", "paper: {top5: {a: 20}}\nmatch:", r"paper: unknown top5 \(allowed: top1, images_per_second\)"),
        (
            "match:",
            "paper: {top1: {mhsa_ratio=0.50: 20}}\nmatch:",
            r"paper.top1.mhsa_ratio=0.50: no variant has this name; did you mean mhsa_ratio=0.5\?",
        ),
        (
            "match:",
            "paper: {images_per_second: {mhsa_ratio=0: 0}}\nmatch:",
            "paper.images_per_second.mhsa_ratio=0: must be a number above 0, but got 0",
        ),
        ("match:", "compare_to: base\nmatch:", "compare_to: must be a variant's name, but got 'base'"),
    ],
)
def test_every_mistake_names_field_value_and_rule(write, old, new, expected):
    assert old in GOOD
    found = problems_of(write(GOOD.replace(old, new)))
    assert any(re.search(expected, problem) for problem in found), found


def test_a_target_of_its_own_needs_a_way_to_reach_it(write):
    text = GOOD.replace("match: {speedup: 1.25}\n", "").replace("mhsa_ratio: [0, 0.5]", "speedup: [1.5]")
    assert problems_of(write(text)) == [
        "speedup=1.5: speedup needs match, which says how to reach it, but there is none"
    ]


def test_no_row_has_the_name_of_a_reference(write):
    grid = "grid:\n  mhsa_ratio: [0, 0.5]"
    text = GOOD.replace(grid, "variants: {swin_t: {base: deit_t}, b: {base: swin_t}}").replace(
        "1.25}", "1.25, reference: own}"
    )
    assert problems_of(write(text)) == ["variants.swin_t: this is the name of a reference's own row; choose another"]


def test_depth_that_matching_sets_must_not_vary(write):
    text = GOOD.replace("1.25}", "1.25, scale: width and depth}").replace("mhsa_ratio: [0, 0.5]", "depth: [6, 12]")
    assert problems_of(write(text)) == [
        "match: sets the depth of every variant, so grid and variants must not change depth"
    ]


def test_no_tasks_is_an_error(write):
    text = GOOD[: GOOD.index("match:")] + "tasks: {}\n"
    assert problems_of(write(text)) == [
        "tasks: must name at least one of macs, throughput, operators, train, evaluate, heads, but got none"
    ]


def test_all_mistakes_come_at_once(write):
    text = GOOD.replace("speedup: 1.25", "speedup: x").replace("seeds:", "sedes:").replace("mhsa_ratio:", "mhsa_rato:")
    found = "\n".join(problems_of(write(text)))
    assert "match.speedup" in found
    assert "tasks.train.sedes" in found
    assert "mhsa_rato is not a knob" in found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("question: [a\nsource: b", r"line 2, column 7: .*expected ',' or '\]'"),
        ("question: a\nquestion: b", "line 2, column 1: 'question' stands here twice"),
        ("a: !!python/object/apply:os.system [echo]", "line 1, column 4: could not determine a constructor"),
        ("- a\n- b", "must hold a mapping with the fields question, source"),
        ("", "must hold a mapping with the fields question, source, .* but got None"),
        ("question: 2020-01-01", "must hold plain finite values"),
        ("question: .nan", "must hold plain finite values"),
        ("question: \x01", "(special|control) characters are not allowed"),
    ],
)
def test_what_is_no_study_at_all_says_where(write, text, expected):
    assert re.search(expected, "\n".join(problems_of(write(text))))


def test_a_missing_file_and_a_folder(tmp_path):
    assert problems_of(tmp_path / "none.yaml") == ["cannot be read: No such file or directory"]
    (tmp_path / "folder.yaml").mkdir()
    assert problems_of(tmp_path / "folder.yaml") == ["cannot be read: Is a directory"]
    [problem] = problems_of(tmp_path / "folder.yml")
    assert problem.endswith("; did you mean folder.yaml?")


@pytest.mark.parametrize("name", ["..yaml", "a b.yaml", "-a.yaml", "ä.yaml"])
def test_names_cannot_leave_the_results_folder(write, name):
    assert "the file's name is the study's name" in problems_of(write(GOOD, name))[0]


def test_numbers_in_exponent_notation_are_numbers(write):
    study = load_study(write(GOOD.replace("seeds: [0, 1]", "recipe: {learning_rate: 2e-3}")))
    assert study.tasks.train.recipe.learning_rate == 0.002


def test_smoke_walks_the_same_path_in_tiny_sizes(write):
    study, smoke = load_study(write(EVALUATED)), load_study(write(EVALUATED), smoke=True)
    assert [variant.name for variant in smoke.variants()] == [variant.name for variant in study.variants()]
    assert list(smoke.requests()) == list(study.requests())
    assert smoke.tasks.train.recipe.steps == 2
    assert smoke.match.max_measurements == 1
    assert smoke.tasks.evaluate.maps == 1


def test_the_shipped_studies_are_right():
    studies = sorted((Path(__file__).parents[1] / "studies").glob("*.yaml"))
    assert studies
    for path in studies:
        assert load_study(path).variants()
