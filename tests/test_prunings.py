"""Whole prunings: what is recorded of network and control, costs and speed; what is done twice, and what not."""

from itertools import pairwise

import pytest
import torch
from conftest import draw_images
from small_pruning import SETTINGS, TRAINING, make_desk, make_network, make_order, states_equal

from evitlab.desk import prunings
from evitlab.desk.prunings import make_untrained, prune_targets
from evitlab.measure.macs import count_macs
from evitlab.models.weights import load_model, save_model
from evitlab.problems import UserError
from evitlab.prune.groups import find_groups
from evitlab.pruning_settings import Target
from evitlab.store import measured, read_records
from evitlab.train.optim import draw_xavier


def run(folder, order):
    said = []
    return prune_targets(make_desk(folder), order, say=said.append), said


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A network of ours pruned to two targets: the folder of results, the network, what came of it."""
    folder = tmp_path_factory.mktemp("prunings")
    network = make_network()
    save_model(network, folder / "saved")
    targets = [Target(kind="macs", value=0.6), Target(kind="params", value=0.7)]
    outcome, _ = run(folder / "results", make_order(*targets, weights=folder / "saved"))
    return folder, network, outcome


def test_targets_are_met_within_a_hundredth(done):
    _, network, outcome = done
    assert outcome.failures == []
    macs, params = (measured(record) for record in outcome.records)
    whole = count_macs(network, image_size=(32, 32))
    assert (macs.macs_before, macs.params_before) == (whole.macs, whole.params)
    assert macs.curve[-1].macs / whole.macs == pytest.approx(0.6, rel=0.01)
    assert params.curve[-1].params / whole.params == pytest.approx(0.7, rel=0.01)
    assert (macs.reached, params.reached) == pytest.approx((0.6, 0.7), rel=0.01)
    assert (macs.control_reached, params.control_reached) == pytest.approx((0.6, 0.7), rel=0.01)
    assert (macs.cost, params.cost) == ("macs", "params")


def test_the_pruned_network_is_kept_and_is_the_one_recorded(done):
    folder, _, outcome = done
    for record in outcome.records:
        found = measured(record)
        network = load_model(folder / "results" / found.weights)
        counted = count_macs(network, image_size=(32, 32))
        assert (counted.macs, counted.params) == (found.curve[-1].macs, found.curve[-1].params)
        left = {(group.module, group.kind): group.heads * group.channels for group in find_groups(network.config)}
        assert {(group.layer, group.kind): group.after for group in found.groups} == left
        assert network(draw_images(2, 32, 32)).isfinite().all()
    assert not any((folder / "results" / "checkpoints").iterdir())


def test_groups_say_what_there_was_of_every_layer(done):
    _, _, outcome = done
    groups = measured(outcome.records[0]).groups
    assert [(group.block, group.kind) for group in groups] == [(b, k) for b in (1, 2, 3) for k in ("qk", "v", "ffn")]
    assert {group.kind: group.before for group in groups} == {"qk": 24, "v": 24, "ffn": 96}
    assert {group.width for group in groups} == {24}
    assert all(0 < group.after <= group.before and 0 < group.control <= group.before for group in groups)


def test_the_control_is_untrained_cut_alike_and_never_fine_tuned(done):
    _, network, outcome = done
    found = measured(outcome.records[0])
    assert len(found.control_curve) == len(found.curve) == SETTINGS.steps
    assert all(step.finetuned is None for step in found.control_curve)
    assert all(step.finetuned is not None for step in found.curve)
    assert [step.target for step in found.control_curve] == [step.target for step in found.curve]
    by_hand = make_untrained(network.config, "xavier", seed=0)
    other = make_untrained(network.config, "as given", seed=0)
    assert not states_equal(by_hand, other)
    draw_xavier(other, seed=0)
    assert states_equal(by_hand, other)
    assert [group.control for group in found.groups] != [group.after for group in found.groups]


def test_speed_is_of_both_with_attention_alike(done):
    _, _, outcome = done
    found = measured(outcome.records[0])
    assert (found.speed_before.attention_path, found.speed_after.attention_path) == ("explicit", "explicit")
    assert found.speed_published.attention_path == "fused"
    assert found.speed_after.reference == "original"
    assert found.speed_after.group == found.speed_before.group


def test_what_has_been_pruned_is_not_pruned_again(done, monkeypatch):
    folder, _, outcome = done
    targets = [Target(kind="params", value=0.7), Target(kind="macs", value=0.6)]
    with monkeypatch.context() as patch:
        patch.setattr(prunings, "_measure", None)
        again, said = run(folder / "results", make_order(*targets, weights=folder / "saved"))
    assert [record.key for record in again.records] == [record.key for record in outcome.records[::-1]]
    assert all("pruned before" in line for line in said)
    assert len(read_records(folder / "results")) == 2


@pytest.mark.slow
def test_other_settings_are_another_pruning_and_lost_weights_are_made_again(tmp_path):
    save_model(make_network(), tmp_path / "saved")
    order = make_order(weights=tmp_path / "saved", finetune=0.0)
    (first,) = run(tmp_path / "results", order)[0].records
    assert measured(first).finetuned is None
    label = tmp_path / "results" / measured(first).weights / "training.txt"
    label.write_text("of another\n")
    (second,) = run(tmp_path / "results", order)[0].records
    assert second.start != first.start
    assert second.key == first.key
    assert label.read_text().strip() == first.key
    other = make_order(weights=tmp_path / "saved", finetune=0.0, importance="random")
    (third,) = run(tmp_path / "results", other)[0].records
    assert third.key != first.key
    assert measured(third).weights == "weights/macs=0.6-random-seed0"


@pytest.mark.slow
def test_a_target_that_cannot_be_reached_does_not_stop_the_others(tmp_path):
    save_model(make_network(), tmp_path / "saved")
    targets = [Target(kind="macs", value=0.05), Target(kind="macs", value=0.8)]
    order = make_order(*targets, weights=tmp_path / "saved", finetune=0.0, min_ffn=40)
    outcome, _ = run(tmp_path / "results", order)
    (failure,) = outcome.failures
    assert failure.startswith("macs=0.05, seed 0: target")
    assert "is left" in failure
    assert [measured(record).target_value for record in outcome.records] == [0.8]
    assert not (tmp_path / "results" / "weights" / "macs=0.05-seed0").exists()


def test_all_of_it_is_the_same_network(tmp_path):
    network = make_network()
    save_model(network, tmp_path / "saved")
    order = make_order(Target(kind="macs", value=1.0), weights=tmp_path / "saved", finetune=0.0, steps=1)
    (record,) = run(tmp_path / "results", order)[0].records
    found = measured(record)
    assert states_equal(load_model(tmp_path / "results" / found.weights), network)
    assert found.before == found.pruned
    assert found.reached == 1


@pytest.mark.slow
def test_less_is_never_more(tmp_path):
    save_model(make_network(), tmp_path / "saved")
    targets = [Target(kind="macs", value=value) for value in (0.9, 0.7, 0.5)]
    order = make_order(*targets, weights=tmp_path / "saved", finetune=0.0, steps=1)
    left = [measured(record) for record in run(tmp_path / "results", order)[0].records]
    assert left[0].curve[-1].macs > left[1].curve[-1].macs > left[2].curve[-1].macs
    for more, less in pairwise(left):
        assert all(a.after >= b.after for a, b in zip(more.groups, less.groups, strict=True))


@pytest.mark.slow
def test_a_throughput_is_aimed_at_and_its_timings_are_kept(tmp_path, monkeypatch):
    """Speeds are pretended: one over the share of MACs."""
    save_model(make_network(), tmp_path / "saved")
    real = prunings.Timer.time_beside

    def pretend(timer, pruned, *, seconds, published=False):
        found = real(timer, pruned, seconds=seconds, published=published)
        whole = count_macs(timer.original, image_size=(32, 32)).macs
        ratio = whole / count_macs(pruned, image_size=(32, 32)).macs
        timing = found["pruned"]
        changed = {"ratio": ratio, "ratio_low": 0.999 * ratio, "ratio_high": 1.001 * ratio}
        return {**found, "pruned": type(timing)(**{**vars(timing), **changed})}

    monkeypatch.setattr(prunings.Timer, "time_beside", pretend)
    order = make_order(Target(kind="throughput", value=1.25), weights=tmp_path / "saved", finetune=0.0)
    (record,) = run(tmp_path / "results", order)[0].records
    found = measured(record)
    assert found.reached == pytest.approx(1.25, rel=0.01)
    assert found.curve[-1].macs / found.macs_before == pytest.approx(0.8, rel=0.01)
    assert found.control_reached == pytest.approx(0.8, rel=0.01)
    assert found.probes[-1].ratio == pytest.approx(1 / found.probes[-1].macs_share)
    assert found.cost == "macs"


def test_images_that_are_no_squares_are_refused(tmp_path):
    network = make_untrained(make_network().config, "as given", seed=0)
    tall = type(network.config)(**{**vars(network.config), "image_size": (32, 64)})
    save_model(make_untrained(tall, "as given", seed=0), tmp_path / "tall")
    with pytest.raises(UserError, match="takes 32 x 64 pixels"):
        run(tmp_path / "results", make_order(weights=tmp_path / "tall"))


def test_the_state_of_torch_is_left_alone(tmp_path):
    save_model(make_network(), tmp_path / "saved")
    state = torch.random.get_rng_state()
    run(tmp_path / "results", make_order(weights=tmp_path / "saved", finetune=0.0, steps=1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert TRAINING.seeds == (0,)
