"""A study of heads: run, recorded, on its page; and what is said of splits against plain heads, on made-up records."""

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_heads import make_heads
from test_cli import _allocator_stays, evitlab  # noqa: F401 (a fixture)
from test_runner import everything, make_lab  # noqa: F401 (a fixture)

from evitlab import tasks
from evitlab.comparing import make_untrained
from evitlab.lab import find_missing
from evitlab.measure.heads import head_similarity
from evitlab.models.network import build_model
from evitlab.models.weights import load_model
from evitlab.paper import HEAD_SIMILARITY
from evitlab.proxies import load_for, make_proxy
from evitlab.recipes import TrainRecipe
from evitlab.records import Record
from evitlab.report.heads.report import collect, likeness_plot, readable_splits, split_table
from evitlab.report.study_report import write_report
from evitlab.runner import run_variants
from evitlab.store import measured, read_records
from evitlab.study import load_study
from evitlab.train.data import scale_pixels
from evitlab.train.optim import draw_xavier

STUDIES = Path(__file__).parents[1] / "studies"
STUDY = """
question: q
source: s
expect: e
cost: c
base: {name: deit_t, width: 24, depth: 2, image_size: 32, patch_size: 8}
variants: {plain: {}, splits: {attention: group}}
tasks:
  train:
    {train_images: 32, val_images: 32, seeds: [0, 1], recipe: {steps: 1, batch_size: 8, evaluations: 1, init: xavier}}
  heads: {images: 16, drop_one: true}
"""


def make_records(lines: dict[str, list[list[float]]], *, lab, kinds: dict[str, str]) -> list[Record]:
    """Records of a study of heads: for each variant the similarity of its blocks, seed by seed."""
    template = lab.records[-1]
    return [
        replace(
            template,
            variant=name,
            seed=seed,
            config=make_config_of(template.config, kinds[name], len(values)),
            measurement=asdict(make_heads(values, untrained=[0.1] * len(values))),
        )
        for name, seeds in lines.items()
        for seed, values in enumerate(seeds)
    ]


def make_config_of(config: dict, kind: str, depth: int) -> dict:
    plain = json.loads(json.dumps(config))
    block = plain["stages"][0]["blocks"][0]
    for layer in block["layers"]:
        if layer["type"] == "attention":
            layer["kind"] = kind
    plain["stages"][0]["blocks"] = [block] * depth
    return plain


@pytest.fixture
def ran(make_lab):  # noqa: F811
    """A lab in which the small study has been run."""
    lab = make_lab(STUDY)
    run_variants(lab, everything(lab))
    return lab


def test_heads_are_those_of_the_weights_kept_beside_where_they_began(ran):
    records = {(each.variant, each.task, each.seed): each for each in ran.records}
    assert {each.status for each in ran.records} == {"ok"}
    assert set(records) == {(v, t, s) for v in ("plain", "splits") for t in ("train", "heads") for s in (0, 1)}
    images = load_for(ran.study.tasks.train, image_size=32).val.pixels[:16]
    for (variant, task, seed), record in records.items():
        if task == "train":
            continue
        found = measured(record)
        network = load_model(ran.folder / "weights" / variant / f"seed{seed}")
        began = build_model(network.config, seed=seed)
        draw_xavier(began, seed=seed)
        for blocks, model in ((found.blocks, network), (found.control, began)):
            expected = head_similarity(model, images, prepare=scale_pixels)
            assert blocks[1].features.author == pytest.approx(expected[1].features.author, rel=1e-5)
            assert blocks[0].maps.cka == pytest.approx(expected[0].maps.cka, rel=1e-4)
        assert found.drop_one.top1 == pytest.approx(
            (network(scale_pixels(images)).argmax(1) == load_for(ran.study.tasks.train, image_size=32).val.labels[:16])
            .double()
            .mean()
            .item()
        )
        assert (found.images, found.image_size, found.drop_one.images) == (16, (32, 32), 16)
        assert record.settings == {"images": 16, "drop_one": True, "train": records[variant, "train", seed].settings}
    assert find_missing(ran, everything(ran)) == []


def test_the_untrained_network_is_drawn_as_the_recipe_says():
    config = build_model(load_study(STUDIES / "head_similarity.yaml").base.make_config(), seed=0).config
    bare, drawn = (make_untrained(config, TrainRecipe(init=init), seed=3) for init in ("as given", "xavier"))
    plain = build_model(config, seed=3)
    assert all((a == b).all() for a, b in zip(bare.parameters(), plain.parameters(), strict=True))
    assert not (drawn.head.linear.weight == plain.head.linear.weight).all()


def test_nothing_is_trained_again_for_other_images(ran, make_lab, monkeypatch):  # noqa: F811
    monkeypatch.setitem(tasks.TASKS, "train", lambda *_, **__: pytest.fail("trained again"))
    lab = make_lab(STUDY.replace("images: 16, drop_one: true", "images: 8"))
    assert {work.task for work in find_missing(lab, everything(lab))} == {"heads"}
    run_variants(lab, everything(lab))
    assert measured(lab.records[-1]).drop_one is None
    assert find_missing(lab, everything(lab)) == []


def test_lost_weights_are_trained_again_where_heads_are_wanted(ran, make_lab):  # noqa: F811
    (ran.folder / "weights" / "plain" / "seed1" / "weights.safetensors").unlink()
    assert find_missing(ran, everything(ran)) == []
    lab = make_lab(STUDY.replace("images: 16", "images: 8"))
    missing = [(work.variant, work.task, work.seed) for work in find_missing(lab, everything(lab))]
    assert ("plain", "train", 1) in missing
    assert ("plain", "train", 0) not in missing


def test_the_page_has_figures_tables_and_both_definitions(ran):
    write_report(ran.study, ran.records, ran.environment.conditions, ran.folder)
    names = {path.name for path in ran.folder.iterdir()}
    assert names >= {"heads.csv", "head_splits.csv", "head_similarity.png", "head_maps.png", "report.html"}
    page = (ran.folder / "report.html").read_text()
    for part in ("How alike heads are", "Author&#x27;s definition", "Caption&#x27;s", "splits - plain", "untrained"):
        assert part in page, part
    table = pd.read_csv(ran.folder / "heads.csv")
    assert len(table) == 2 * 2 * 2 * 2 * 2  # variants, seeds, networks, blocks, quantities
    record = next(each for each in ran.records if (each.variant, each.task, each.seed) == ("splits", "heads", 1))
    row = table.query("variant == 'splits' and seed == 1 and network == 'itself' and block == 2").iloc[0]
    assert row["caption"] == pytest.approx(measured(record).blocks[1].features.caption)


def test_splits_against_plain_block_by_block(ran):
    """Three seeds, two blocks: in the first lower by 0.1 in every seed, in the second by 0.05, -0.07 and 0.05."""
    plain = [[0.5, 0.6], [0.52, 0.61], [0.48, 0.62]]
    split = [[0.4, 0.55], [0.42, 0.68], [0.38, 0.57]]
    found = collect(make_records({"a": plain, "b": split}, lab=ran, kinds={"a": "mhsa", "b": "group"}))
    table = split_table(found).set_index(["definition", "network"])
    row = table.loc["author", "itself"]
    assert (row["plain"], row["splits"], row["blocks"], row["seeds"]) == ("a", "b", 2, 3)
    assert (row["lower"], row["surely_lower"], row["surely_higher"]) == (2, 1, 0)
    changes = np.array([(-0.1 - 0.05) / 2, (-0.1 + 0.07) / 2, (-0.1 - 0.05) / 2])
    half = 4.302653 * changes.std(ddof=1) / np.sqrt(3)  # Student's t, 2 degrees of freedom
    assert row["change"] == pytest.approx(changes.mean())
    assert (row["change_low"], row["change_high"]) == pytest.approx((changes.mean() - half, changes.mean() + half))
    assert (table.loc["author", "untrained"][["lower", "surely_lower", "surely_higher"]] == 0).all()
    assert pd.isna(row["paper_lower"])  # the paper's networks have 12 blocks
    shown = readable_splits(split_table(found))
    assert shown["lower in"][0] == "2 of 2 blocks"
    assert shown["mean change, points"][0] == f"{100 * changes.mean():+.1f}" + (
        f" ({100 * (changes.mean() - half):+.1f} to {100 * (changes.mean() + half):+.1f})"
    )


def test_one_seed_separates_nothing_and_the_paper_stands_beside(ran):
    lines = {"a": [[0.5] * 12], "b": [[0.4] * 11 + [0.6]]}
    found = collect(make_records(lines, lab=ran, kinds={"a": "mhsa", "b": "group"}))
    table = split_table(found)
    row = table.iloc[0]
    assert (row["lower"], row["surely_lower"], row["surely_higher"], row["seeds"]) == (11, 0, 0, 1)
    before, after = (np.array(HEAD_SIMILARITY[f"deit_t 1.25x{end}"]) for end in ("", ", head splits"))
    assert (row["paper_lower"], row["paper_blocks"]) == ((after < before).sum(), 12)
    assert 100 * row["paper_change"] == pytest.approx((after - before).mean())
    shown = readable_splits(table)
    assert shown["surely lower / higher"][0] == "one seed: not separable"
    assert shown["paper: lower in"][0] == "11 of 12 blocks"


def test_lines_are_means_of_seeds_with_intervals_the_paper_s_points_apart(ran):
    lines = {"a": [[0.5] * 12, [0.7] * 12], "b": [[0.4] * 12, [0.4] * 12]}
    found = collect(make_records(lines, lab=ran, kinds={"a": "mhsa", "b": "group"}))
    figure = likeness_plot(found, "features")
    figure.draw_without_rendering()
    author, caption = figure.axes
    drawn = {line.get_label(): line.get_ydata() for line in author.lines}
    assert drawn["a"] == pytest.approx([60] * 12)
    assert drawn["b, untrained"] == pytest.approx([10] * 12)
    assert drawn["b, paper"] == pytest.approx(HEAD_SIMILARITY["deit_t 1.25x, head splits"])
    assert {line.get_label(): line.get_ydata() for line in caption.lines}["a"] == pytest.approx([50] * 12)
    ends = author.collections[0].get_segments()[0]
    half = 12.7062 * np.std([50, 70], ddof=1) / np.sqrt(2)  # Student's t, 1 degree of freedom
    assert half > 40  # a cosine ends at 1
    assert ends[:, 1] == pytest.approx([60 - half, 100])
    assert not any("paper" in line.get_label() for line in likeness_plot(found, "maps").axes[0].lines)


def test_without_heads_there_is_nothing(ran, tmp_path):
    from evitlab.report.heads.report import write_heads

    assert write_heads([record for record in ran.records if record.task == "train"], tmp_path / "none") == []
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("name", ["head_similarity", "tiny_imagenet_heads"])
def test_the_shipped_studies_have_the_published_blocks_and_heads(name):
    study = load_study(STUDIES / f"{name}.yaml")
    assert [variant.speedup for variant in study.variants()] == [1.25] * 4
    kinds = []
    for variant in study.variants():
        config = variant.with_knobs(**study.tasks.train.proxy[variant.network]).make_config()
        if name == "head_similarity":  # the other's images may not be here
            scaled = make_proxy(study, variant, variant.resize(0.85 * variant.make_config().stages[0].width))
            assert scaled.stages[0].width == pytest.approx(0.85 * config.stages[0].width, abs=6.1)  # a head each
            assert scaled.image_size == config.image_size == (32, 32)
            config = scaled
        attention = [layer for layer in config.layers if layer.type == "attention"]
        heads = [layer.num_heads for layer in attention]
        assert heads == ([3] * 12 if config.family == "deit" else [3] * 2 + [6] * 2 + [12] * 6 + [24] * 2)
        kinds.append((config.family, attention[0].kind))
    assert kinds == [("deit", "mhsa"), ("deit", "group"), ("swin", "mhsa"), ("swin", "group")]


@pytest.mark.slow
def test_the_shipped_study_runs_in_tiny_sizes(tmp_path):
    done = evitlab("run", STUDIES / "head_similarity.yaml", "--smoke", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    results = tmp_path / "results" / "head_similarity" / "smoke"
    records = [record for record in read_records(results) if record.task == "heads"]
    assert len(records) == 4 * 3
    assert all(len(measured(record).blocks) == 12 for record in records)
    table = pd.read_csv(results / "head_splits.csv")
    assert set(table["paper_lower"]) == {8, 11}
    assert re.search("How alike heads are", (results / "report.html").read_text())
