"""`evitlab heads`: what it compares, trains first, records, draws, says and refuses."""

import json
from pathlib import Path

import pandas as pd
import pytest
from fake_images import draw
from test_training_commands import FEW, MODEL, QUICK, evitlab, only, options  # noqa: F401 (a fixture)

from evitlab.desk import likeness
from evitlab.measure.heads import drop_one, head_similarity
from evitlab.models.named import load_named
from evitlab.models.network import build_model
from evitlab.models.weights import load_model
from evitlab.models.zoo import ZOO, make_config
from evitlab.store import measured, read_records
from evitlab.train.data import load_data, scale_pixels
from evitlab.train.optim import draw_xavier

FIGURES = {"head_similarity.png", "head_matrices.png", "head_matrices_untrained.png", "head_drops.png"}
TABLES = {"heads.csv", "head_matrices.csv", "head_drops.csv"}


@pytest.fixture(autouse=True)
def _smaller(monkeypatch, tmp_path):
    """The small network of the zoo, smaller still; a cache of its own."""
    monkeypatch.setenv("EVITLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(likeness.SMALL, "deit", {"image_size": 32, "patch_size": 8, "width": 24, "depth": 2})


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.slow
def test_a_zoo_network_is_trained_first_once_and_its_heads_compared(evitlab, tmp_path):  # noqa: F811
    command = ["heads", "deit_t", "--images", "24", *options(*QUICK)]
    code, out, err = evitlab(*command)
    assert code == 0
    folder = tmp_path / "results" / "heads_deit_t"
    train, heads = read_records(folder)
    assert (train.task, heads.task) == ("train", "heads")
    assert train.settings["recipe"]["init"] == "xavier"
    assert "note: deit_t has no weights, so a small one (image_size 32, patch_size 8, width 24, depth 2) was" in err
    assert f"top-1 {100 * measured(train).top1:.1f}%, chance 6.2%" in err
    for part in ("author's", "caption's", "linear CKA", "attention maps", "without each head", "untrained"):
        assert part in out, part
    assert names_in(folder) >= FIGURES | TABLES | {"training.csv", "weights"}
    found = measured(heads)
    network = load_model(folder / "weights" / "seed0")
    began = build_model(network.config, seed=0)
    draw_xavier(began, seed=0)
    data = load_data("shapes", image_size=32, train_images=96, val_images=48).val.first(24)
    for blocks, model in ((found.blocks, network), (found.control, began)):
        expected = head_similarity(model, data.pixels, prepare=scale_pixels)
        assert blocks[1].features.caption == pytest.approx(expected[1].features.caption, rel=1e-5)
    worth = drop_one(network, data.pixels, data.labels, num_classes=16, prepare=scale_pixels)
    assert found.drop_one.loss == pytest.approx(worth.loss, rel=1e-6)
    assert [[cost.lost for cost in costs] for costs in found.drop_one.costs] == [
        [cost.lost for cost in costs] for costs in worth.costs
    ]
    assert heads.config["num_classes"] == 16
    evitlab(*command)
    assert [record.task for record in read_records(folder)] == ["train", "heads", "heads"]


@pytest.mark.slow
def test_knobs_recipe_and_control_are_the_user_s(evitlab, tmp_path):  # noqa: F811
    fields = options(*QUICK, "init=as given")
    code, out, _ = evitlab("heads", "deit_t:attention=group", "--set", "width=36", "--no-drop-one", "--json", *fields)
    assert code == 0
    train, heads = read_records(only(tmp_path / "results"))
    assert "init" not in train.settings["recipe"] or train.settings["recipe"]["init"] == "as given"
    assert heads.config["stages"][0]["width"] == 36
    assert heads.config["stages"][0]["blocks"][0]["layers"][0]["kind"] == "group"
    assert measured(heads).drop_one is None
    rows = json.loads(out)["heads"]
    assert {(row["network"], row["quantity"]) for row in rows} == {
        (network, quantity) for network in ("itself", "untrained") for quantity in ("features", "maps")
    }


def test_a_saved_model_is_compared_as_it_is_and_shown_again(evitlab, tmp_path):  # noqa: F811
    evitlab("train", MODEL, *options(*QUICK))
    weights = only(tmp_path / "results") / "weights" / "seed0"
    code, out, err = evitlab("heads", str(weights), *options(*FEW), "--images", "16", "--results", "compared")
    assert code == 0
    assert "note" not in err
    folder = only(tmp_path / "compared")
    (record,) = read_records(folder)
    assert record.settings == {"data": "shapes", "val_images": 48, "images": 16, "drop_one": True}
    assert names_in(folder) >= FIGURES | TABLES
    code, again, _ = evitlab("show", folder.name, "--results", "compared")
    assert code == 0
    assert again.strip() == out[: out.index("records, tables and figures")].strip()
    table = pd.read_csv(folder / "heads.csv")
    assert table["images"].unique().tolist() == [16]


@pytest.mark.slow
def test_timm_s_network_has_a_control_and_is_said_not_to_be_trained(evitlab, tmp_path):  # noqa: F811
    code, _, err = evitlab(
        "heads", "timm:test_vit", "--image-size", "160", "--images", "4", "--no-drop-one", *options(*FEW)
    )
    assert code == 0
    assert "note: timm:test_vit is not trained: its weights are random; trained ones: timm:test_vit:pretrained" in err
    found = measured(read_records(only(tmp_path / "results"))[0])
    own, control = (blocks[0].features.author for blocks in (found.blocks, found.control))
    assert own != control
    named = [load_named("timm:test_vit", knobs={"num_classes": 16}, seed=seed).model for seed in (0, 1)]
    pixels = load_data("shapes", image_size=160, train_images=96, val_images=48).val.pixels[:4]
    for value, model in zip((own, control), named, strict=True):
        assert value == pytest.approx(
            head_similarity(model, pixels, prepare=scale_pixels)[0].features.author, rel=1e-4, abs=1e-5
        )


def test_a_function_s_network_has_no_control_and_says_so(evitlab, tmp_path):  # noqa: F811
    (tmp_path / "mine.py").write_text(
        "import timm\ndef make():\n"
        "    return timm.create_model('deit_tiny_patch16_224', depth=1, img_size=32, num_classes=16)\n"
    )
    code, out, err = evitlab(
        "heads", "mine.py:make", "--image-size", "32", "--images", "8", "--no-drop-one", *options(*FEW)
    )
    assert code == 0
    assert "note: no untrained control: mine.py:make does not say how its weights were drawn" in err
    assert measured(read_records(only(tmp_path / "results"))[0]).control is None
    assert "untrained" not in out
    assert "head_matrices_untrained.png" not in names_in(only(tmp_path / "results"))


def test_without_attention_it_says_so_and_leaves_nothing(evitlab, tmp_path):  # noqa: F811
    code, _, err = evitlab("heads", "timm:test_resnet", "--image-size", "32", *options(*FEW))
    assert code == 2
    assert "error: attention maps can be read from networks built here and from timm's ViT, DeiT and Swin" in err
    assert not list((tmp_path / "results").iterdir())


def test_blocks_without_attention_are_named_in_the_table(evitlab):  # noqa: F811
    code, out, _ = evitlab("heads", "deit_t:mhsa_ratio=0", *options(*QUICK), "--images", "8")
    assert code == 0
    assert "no attention" in out


@pytest.mark.slow
def test_smoke_walks_the_same_path(evitlab, tmp_path):  # noqa: F811
    code, _, _ = evitlab("heads", "deit_t", "--smoke", *options("threads=1"))
    assert code == 0
    folder = tmp_path / "results" / "heads_deit_t" / "smoke"
    records = read_records(folder)
    assert [record.smoke for record in records] == [True, True]
    assert measured(records[1]).images == 8
    assert names_in(folder) >= FIGURES


@pytest.mark.slow
def test_images_of_another_number_of_classes_are_compared_but_not_judged(evitlab, tmp_path):  # noqa: F811
    evitlab("train", MODEL, *options(*QUICK))
    weights = only(tmp_path / "results") / "weights" / "seed0"
    for number, name in enumerate(["cat", "dog"]):
        for split, count in (("train", 2), ("val", 2)):
            folder = tmp_path / "tree" / split / name
            folder.mkdir(parents=True)
            for image in range(count):
                write_image(folder / f"{split}{image}.png", seed=10 * number + image)
    data = ["--data", str(tmp_path / "tree")]
    code, _, err = evitlab("heads", str(weights), *data, "--results", "a")
    assert code == 2
    assert "needs one score for each of the 2 classes" in err
    assert "--no-drop-one" in err
    code, _, _ = evitlab("heads", str(weights), *data, "--no-drop-one", "--results", "b")
    assert code == 0


def write_image(path: Path, *, seed: int) -> None:
    path.write_bytes(draw(seed, width=32, height=32))


def test_small_networks_keep_the_published_blocks_and_heads(monkeypatch):
    monkeypatch.undo()
    for name, published in ZOO.items():
        config = make_config(name, **likeness.SMALL[published.family])
        heads = [layer.num_heads for layer in config.layers if layer.type == "attention"]
        full = [layer.num_heads for layer in make_config(name).layers if layer.type == "attention"]
        assert heads == full, name
