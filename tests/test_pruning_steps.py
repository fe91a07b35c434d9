"""Pruning in steps: what each leaves, and that an interruption anywhere changes nothing of the result."""

import pytest
import torch
from scipy.stats import norm
from small_pruning import make_data, make_network, make_walk, states_equal

from evitlab.desk import pruning_steps
from evitlab.desk.pruning_steps import judge_network, prune_in_steps, score_network
from evitlab.measure.macs import count_macs
from evitlab.models.weights import save_model
from evitlab.problems import UserError
from evitlab.train.data import scale_pixels

SHARES = [0.8, 0.64]


def walk_all(network, walk, shares=SHARES, *, last=None):
    return prune_in_steps(network, shares, walk, last=last, share=lambda done: None)


def test_every_step_leaves_its_share_of_the_macs(tmp_path):
    network = make_network()
    pruned, steps = walk_all(network, make_walk(network, tmp_path))
    whole = count_macs(network, image_size=(32, 32)).macs
    assert [step.target for step in steps] == SHARES
    for step, share in zip(steps, SHARES, strict=True):
        assert step.macs / whole == pytest.approx(share, rel=0.01)
        assert step.finetuned is not None
    counted = count_macs(pruned, image_size=(32, 32))
    assert (counted.macs, counted.params) == (steps[-1].macs, steps[-1].params)
    assert steps[-1].finetuned == judge_network(pruned, make_data())


def test_pruning_to_all_of_it_changes_nothing(tmp_path):
    network = make_network()
    pruned, (step,) = walk_all(network, make_walk(network, tmp_path, finetune=False), [1.0])
    assert pruned.config == network.config
    assert states_equal(pruned, network)
    assert step.pruned == judge_network(network, make_data())
    assert step.finetuned is None


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The result of a walk, and its steps."""
    network = make_network()
    return walk_all(network, make_walk(network, tmp_path_factory.mktemp("whole")))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["score_importance", "cut", "judge_network", "train", "_keep", "_load"])
@pytest.mark.parametrize("call", [1, 2])
def test_interrupted_anywhere_it_comes_to_the_same(undisturbed, tmp_path, monkeypatch, name, call):
    whole, steps = undisturbed
    real, calls = getattr(pruning_steps, name), []

    def interrupted(*args, **kwargs):
        calls.append(name)
        if len(calls) == call:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    walk = make_walk(make_network(), tmp_path / "torn")
    with monkeypatch.context() as patch:
        patch.setattr(pruning_steps, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            walk_all(make_network(), walk)
    again, same_steps = walk_all(make_network(), walk)
    assert states_equal(again, whole)
    assert same_steps == steps
    assert not list((tmp_path / "torn").glob("part-*"))


@pytest.mark.parametrize("call", [1, 2, 3])
def test_a_step_that_is_half_written_is_none(undisturbed, tmp_path, monkeypatch, call):
    whole, steps = undisturbed
    calls = []

    def tear(network, folder):
        calls.append(folder)
        if len(calls) == call:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "config.json").write_text("{")
            raise KeyboardInterrupt
        return save_model(network, folder)

    walk = make_walk(make_network(), tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(pruning_steps, "save_model", tear)
        with pytest.raises(KeyboardInterrupt):
            walk_all(make_network(), walk)
    again, same_steps = walk_all(make_network(), walk)
    assert states_equal(again, whole)
    assert same_steps == steps


def test_what_is_done_is_not_done_again(tmp_path, monkeypatch):
    network = make_network()
    walk = make_walk(network, tmp_path)
    whole, steps = walk_all(network, walk)
    monkeypatch.setattr(pruning_steps, "score_importance", None)
    monkeypatch.setattr(pruning_steps, "train", None)
    again, same = walk_all(make_network(), walk)
    assert states_equal(again, whole)
    assert same == steps
    kept = [path.parent.name for path in tmp_path.glob("*/weights.safetensors")]
    assert kept == ["tuned-02"], "weights that a later step replaced are let go"


def test_a_damaged_step_is_named(tmp_path):
    network = make_network()
    walk = make_walk(network, tmp_path)
    walk_all(network, walk)
    (tmp_path / "tuned-02" / "weights.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"tuned-02.*remove .* to begin anew"):
        walk_all(make_network(), walk)


def test_the_last_share_may_be_chosen_from_the_scores_before_it(tmp_path):
    network = make_network()
    seen = []

    def choose(before, scores):
        seen.append((before.config, set(scores)))
        return 0.5

    _, steps = walk_all(network, make_walk(network, tmp_path, finetune=False), last=choose)
    assert [step.target for step in steps] == [0.8, 0.5]
    assert len(seen) == 1
    assert seen[0][0] != network.config, "it is the network after the first cut"
    assert steps[-1].macs / count_macs(network, image_size=(32, 32)).macs == pytest.approx(0.5, rel=0.01)


def test_scores_are_those_of_training_images_the_same_each_time(tmp_path):
    network = make_network()
    walk = make_walk(network, tmp_path)
    first = score_network(network, walk, step=1, share=lambda done: None)
    again = score_network(network, walk, step=1, share=lambda done: None)
    other = score_network(network, walk, step=2, share=lambda done: None)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first), "each step draws images anew"


def test_accuracy_has_wilsons_interval():
    network, data = make_network(), make_data()
    found = judge_network(network, data)
    with torch.inference_mode():
        hits = network(scale_pixels(data.val.pixels)).argmax(1) == data.val.labels
    n, p, z = len(hits), hits.double().mean().item(), norm.ppf(0.975)
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    assert found.top1 == pytest.approx(p)
    assert (found.top1_low, found.top1_high) == pytest.approx((middle - half, middle + half))
    assert found.images == 48


def test_floors_that_are_in_the_way_are_named(tmp_path):
    network = make_network()
    with pytest.raises(UserError, match=r"cannot be reached.*qk 12"):
        walk_all(network, make_walk(network, tmp_path, min_qk=12, min_v=12, min_ffn=90), [0.5])
