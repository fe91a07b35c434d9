"""Judging what a study has trained: which weights, once, again when they are lost, and what is drawn of them."""

import re
import shutil
from dataclasses import replace

import pytest
from test_runner import TINY, everything, make_lab  # noqa: F401 (a fixture)

from evitlab import tasks
from evitlab.drawings import place_drawings, read_drawings, write_drawings
from evitlab.lab import Lab, find_missing
from evitlab.models.weights import load_model
from evitlab.proxies import load_for
from evitlab.runner import run_variants
from evitlab.store import folder_name, measured
from evitlab.study import TRAINED, Work
from evitlab.train.evaluation import evaluate

HEAD, _, REST = TINY.partition("tasks:")
TRAIN = REST[REST.index("  train:") :]
STUDY = f"{HEAD.replace('[0.5, 1]', '[0.5]')}tasks:\n{TRAIN}  evaluate: {{maps: 2}}\n"
OTHER_MAPS = STUDY.replace("maps: 2", "maps: 1")
OTHER_RECIPE = STUDY.replace("steps: 1", "learning_rate: 0.2, steps: 1")
NAME = "mhsa_ratio=0.5"


def run(lab: Lab) -> Lab:
    run_variants(lab, everything(lab))
    return lab


def of_task(lab: Lab, task: str):
    return [record for record in lab.records if record.task == task]


def drawings_of(lab: Lab, variant: str = NAME, seed: int = 0):
    record = next(each for each in of_task(lab, "evaluate") if (each.variant, each.seed) == (variant, seed))
    return read_drawings(place_drawings(lab.folder, variant, seed), key=record.key)


def refuse(monkeypatch, *names: str) -> None:
    for name in names:
        monkeypatch.setitem(tasks.TASKS, name, lambda *_, **__: pytest.fail("done again"))


def test_each_training_is_judged_on_the_images_that_it_held_out(make_lab):  # noqa: F811
    lab = run(make_lab(STUDY))
    assert [(each.task, each.seed, each.status) for each in lab.records] == [
        ("train", 0, "ok"), ("train", 1, "ok"), ("evaluate", 0, "ok"), ("evaluate", 1, "ok"),
    ]  # fmt: skip
    images = load_for(lab.study.tasks.train, image_size=32).val
    for trained, judged in zip(of_task(lab, "train"), of_task(lab, "evaluate"), strict=True):
        result, found = measured(trained), measured(judged)
        assert (found.top1, found.top5, found.loss) == (result.top1, result.top5, result.loss)
        assert (found.images, found.data, found.num_classes) == (32, "shapes", 16)
        own = load_model(lab.folder / "weights" / NAME / f"seed{judged.seed}")
        assert evaluate(own, images).loss == pytest.approx(found.loss, rel=1e-6)
        assert judged.settings == {"maps": 2, "block": -1, "train": trained.settings}
        assert judged.config == trained.config
    assert find_missing(lab, everything(lab)) == []


def test_what_is_drawn_comes_back_for_its_record_alone(make_lab, tmp_path):  # noqa: F811
    lab = run(make_lab(STUDY))
    record = of_task(lab, "evaluate")[0]
    found, labels = drawings_of(lab), load_for(lab.study.tasks.train, image_size=32).val
    assert found.curves.classes == labels.classes
    assert found.curves.confusion.sum(axis=1).tolist() == [(labels.labels == c).sum() for c in range(16)]
    assert [image.tolist() for image in found.images] == labels.pixels[:2].permute(0, 2, 3, 1).tolist()
    assert [each.shape for each in found.maps] == [(3, 4, 4)] * 2  # heads; 32 px in patches of 8
    assert found.titles[0].startswith(labels.classes[labels.labels[0]])
    path = place_drawings(lab.folder, NAME, 0)
    assert read_drawings(path, key="0" * 16) is None
    assert read_drawings(tmp_path / "none.npz", key=record.key) is None
    bare = replace(found, images=(), maps=(), titles=(), without_maps="why")
    write_drawings(bare, tmp_path / "bare.npz", key="k")
    back = read_drawings(tmp_path / "bare.npz", key="k")
    assert (back.images, back.maps, back.titles, back.without_maps) == ((), (), (), "why")


def test_broken_drawings_are_named(make_lab, tmp_path):  # noqa: F811
    lab = run(make_lab(STUDY))
    whole, broken = place_drawings(lab.folder, NAME, 0).read_bytes(), tmp_path / "curves.npz"
    for damage in (b"", whole[:-100], b"junk", whole[:200] + bytes(60) + whole[260:]):
        broken.write_bytes(damage)
        with pytest.raises(ValueError, match=re.escape(f"{broken}: must hold the curves of an evaluation")):
            read_drawings(broken, key=of_task(lab, "evaluate")[0].key)


def test_nothing_is_judged_twice_nor_trained_for_other_maps(make_lab, monkeypatch):  # noqa: F811
    run(make_lab(STUDY))
    refuse(monkeypatch, "train")
    lab = make_lab(OTHER_MAPS)
    assert {work.task for work in find_missing(lab, everything(lab))} == {"evaluate"}
    run(lab)
    assert len(of_task(lab, "evaluate")) == 4
    refuse(monkeypatch, *TRAINED)
    again = run(make_lab(OTHER_MAPS))
    assert len(again.records) == len(lab.records)


def test_lost_weights_are_trained_again_only_where_something_is_to_be_judged(make_lab):  # noqa: F811
    """As after a clone: records are in git, weights are not."""
    lab = run(make_lab(STUDY))
    shutil.rmtree(lab.folder / "weights" / NAME / "seed1")
    assert find_missing(lab, everything(lab)) == []
    lab = make_lab(OTHER_MAPS)
    missing = [(work.task, work.seed) for work in find_missing(lab, everything(lab))]
    assert missing == [("train", 1), ("evaluate", 0), ("evaluate", 1)]
    run(lab)
    assert [record.seed for record in of_task(lab, "train")] == [0, 1, 1]
    first, second = (measured(record) for record in of_task(lab, "train")[1:])
    assert first.loss == second.loss
    assert [measured(record).loss for record in of_task(lab, "evaluate")[-1:]] == [first.loss]
    assert find_missing(lab, everything(lab)) == []


@pytest.mark.parametrize("name", ["training.txt", "weights.safetensors"])
def test_weights_that_are_not_whole_are_lost(make_lab, name):  # noqa: F811
    lab = run(make_lab(STUDY))
    (lab.folder / "weights" / NAME / "seed0" / name).unlink()
    lab = make_lab(OTHER_MAPS)
    assert find_missing(lab, everything(lab))[0] == Work(variant=NAME, task="train", seed=0)
    run(lab)
    assert find_missing(lab, everything(lab)) == []


def test_weights_of_another_recipe_are_not_judged(make_lab):  # noqa: F811
    """Back at a recipe of before, its record is found, but the weights there are of the recipe since."""
    first, _ = of_task(run(make_lab(STUDY)), "evaluate")
    other = of_task(run(make_lab(OTHER_RECIPE)), "evaluate")[2]
    back = of_task(run(make_lab(OTHER_MAPS)), "evaluate")[4]
    assert measured(other).loss != measured(first).loss
    assert measured(back).loss == measured(first).loss


def test_a_variant_of_another_name_takes_all_of_it_over(make_lab, monkeypatch):  # noqa: F811
    lab = run(make_lab(STUDY))
    refuse(monkeypatch, *TRAINED)
    name = "half / MHSA"
    named = run(make_lab(STUDY.replace("grid: {mhsa_ratio: [0.5]}", f"variants: {{{name}: {{mhsa_ratio: 0.5}}}}")))
    assert find_missing(named, everything(named)) == []
    theirs, ours = drawings_of(named), drawings_of(named, name)
    assert (theirs.curves.confusion == ours.curves.confusion).all()
    config = load_model(lab.folder / "weights" / folder_name(name) / "seed1").config
    assert config == load_model(lab.folder / "weights" / NAME / "seed1").config
    assert {path.name for path in (lab.folder / "weights").iterdir()} == {NAME, folder_name(name)}


def test_a_variant_of_another_name_is_trained_where_the_weights_are_lost(make_lab):  # noqa: F811
    lab = run(make_lab(STUDY))
    shutil.rmtree(lab.folder / "weights")
    shutil.rmtree(lab.folder / "evaluations")
    text = STUDY.replace("grid: {mhsa_ratio: [0.5]}", "variants: {half: {mhsa_ratio: 0.5}}")
    named = run(make_lab(text))
    assert find_missing(named, everything(named)) == []
    assert drawings_of(named, "half") is not None


def test_where_the_training_failed_nothing_is_judged(make_lab, monkeypatch):  # noqa: F811
    run(make_lab(STUDY))  # leaves weights, but of another recipe

    def explode(*_):
        raise RuntimeError("no luck")

    monkeypatch.setitem(tasks.TASKS, "train", explode)
    lab = run(make_lab(OTHER_RECIPE))
    failed = [record for record in lab.records if record.status == "failed"]
    assert [record.task for record in failed] == ["train", "train", "evaluate", "evaluate"]
    folder = lab.folder / "weights" / NAME / "seed0"
    assert failed[2].error == f"ValueError: {folder}: does not hold the network to judge: its training failed"


def test_a_block_that_is_not_there_fails_and_is_judged_once_it_is(make_lab, monkeypatch):  # noqa: F811
    lab = run(make_lab(STUDY.replace("maps: 2", "maps: 2, block: 9")))
    assert {record.error for record in of_task(lab, "evaluate")} == {
        "UserError: block must be from -2 to 1, for attention layers counted from 0 or from the end, but got 9"
    }
    refuse(monkeypatch, "train")
    right = run(make_lab(STUDY.replace("maps: 2", "maps: 2, block: 0")))
    assert find_missing(right, everything(right)) == []
    assert drawings_of(right, seed=1) is None  # that of the failure, which is first
    assert [record.status for record in of_task(right, "evaluate")] == ["failed"] * 2 + ["ok"] * 2


@pytest.mark.parametrize(
    ("first", "second"),
    [("a/b", "a b"), ("a/b", "a-b"), ("..", "."), ("x" * 199, "x" * 200), ("é", "è"), ("a.", "a"), ("-", "/")],
)
def test_folders_of_two_variants_are_two_and_lie_inside(first, second):
    names = [folder_name(first), folder_name(second)]
    assert names[0] != names[1]
    for name in names:
        assert re.fullmatch(r"[A-Za-z0-9_.=+-]{1,100}", name)
        assert name.strip(".")
