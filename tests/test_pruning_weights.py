"""Where the network to prune comes from: ours, timm's, or trained first; and what is refused, in one line."""

import pickle
from dataclasses import replace

import pytest
import timm
import torch
from conftest import draw_images, relative_error
from safetensors.torch import save_file
from small_pruning import KNOBS, TRAINING, make_desk, make_network, states_equal
from torch import nn

from evitlab.desk import pruning_weights
from evitlab.desk.pruning_weights import Wanted, choose_name, find_start
from evitlab.models.network import build_model
from evitlab.models.weights import load_model, save_model
from evitlab.models.zoo import make_config
from evitlab.problems import UserError
from evitlab.store import read_records

TIMM_DEIT = "deit_tiny_patch16_224"


def want(model="deit_t", *, weights=None, pretrained=False, knobs=None, training=TRAINING):
    return Wanted(model=model, knobs=knobs or {}, weights=weights, pretrained=pretrained, training=training)


def start(folder, wanted):
    said = []
    found = find_start(make_desk(folder), wanted, seed=0, say=said.append)
    return found, said


@pytest.fixture
def small_timm(monkeypatch):
    """timm's DeiT-T with two blocks of 48 channels, so that it is built in no time."""
    real = timm.create_model
    small = {"depth": 2, "embed_dim": 48}

    def create(name, **options):
        assert name == TIMM_DEIT
        if options.get("pretrained"):
            raise OSError("no connection\nhuggingface.co")
        return real(name, **small, **options)

    monkeypatch.setattr(timm, "create_model", create)
    make = pruning_weights.make_config
    monkeypatch.setattr("evitlab.models.weights.make_config", lambda name, **k: make(name, depth=2, width=48, **k))
    return lambda **options: real(TIMM_DEIT, **small, num_classes=16, **options)


def test_a_saved_model_is_taken_as_it_is(tmp_path):
    network = make_network()
    save_model(network, tmp_path / "saved")
    for wanted in (
        want(weights=tmp_path / "saved"),
        want(str(tmp_path / "saved")),
        want(weights=tmp_path / "saved" / "weights.safetensors"),
    ):
        found, said = start(tmp_path / "results", wanted)
        assert states_equal(found.network, network)
        assert str(tmp_path / "saved") in found.origin
        assert found.named.weights is not None
        assert said == []


def test_a_checkpoint_of_timm_gives_the_same_outputs(tmp_path, small_timm):
    model = small_timm(img_size=32).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    torch.save({"state_dict": model.state_dict()}, tmp_path / "model.pth")
    images = draw_images(2, 32, 32)
    for name in ("model.safetensors", "model.pth"):
        found, _ = start(tmp_path, want(weights=tmp_path / name, knobs={"image_size": 32}))
        assert relative_error(found.network(images), model(images)) < 1e-5
        assert found.network.config.num_classes == 16
        assert "timm's checkpoint" in found.origin


class Evil:
    def __reduce__(self):
        return print, ("executed",)


def test_broken_and_foreign_checkpoints_are_refused(tmp_path, small_timm, capsys):
    whole = small_timm(img_size=32).state_dict()
    knobs = {"image_size": 32}
    (tmp_path / "torn.safetensors").write_bytes(b"\x08")
    (tmp_path / "torn.pth").write_bytes(b"nothing")
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"state_dict": Evil()}))
    torch.save({"state_dict": {"x": Evil()}}, tmp_path / "evil2.pth")
    save_file({name: t for name, t in whole.items() if name != "norm.bias"}, tmp_path / "less.safetensors")
    save_file({**whole, "extra": torch.ones(1)}, tmp_path / "more.safetensors")
    save_file({**whole, "norm.bias": torch.ones(3)}, tmp_path / "other.safetensors")
    save_file({"conv.weight": torch.ones(1)}, tmp_path / "resnet.safetensors")
    for name, message in (
        ("torn.safetensors", "cannot be read"), ("torn.pth", "cannot be read"), ("evil.pth", "cannot be read"),
        ("evil2.pth", "cannot be read"), ("less.safetensors", "norm.bias is missing"),
        ("more.safetensors", "extra is one too many"), ("other.safetensors", "norm.bias has shape"),
        ("resnet.safetensors", "head.weight is missing"), ("gone.pth", "no such folder or file"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message) as raised:
            start(tmp_path / "results", want(weights=tmp_path / name, knobs=knobs))
        assert name in str(raised.value)
        assert "\n" not in str(raised.value)
    assert "executed" not in capsys.readouterr().out
    with pytest.raises(UserError, match="no knob but image_size, but got depth"):
        start(tmp_path, want(weights=tmp_path / "less.safetensors", knobs={"depth": 3}))


def test_without_a_connection_pretrained_says_so(tmp_path, small_timm, monkeypatch):
    with pytest.raises(UserError, match="deit_tiny_patch16_224: tells 1000 classes apart, but shapes has 16"):
        start(tmp_path, want(pretrained=True))
    monkeypatch.setattr(pruning_weights, "classes_of", lambda data, root: range(1000))
    with pytest.raises(UserError, match=r"deit_tiny_patch16_224 could not be downloaded: no connection; give a file"):
        start(tmp_path, want(pretrained=True))
    with pytest.raises(UserError, match="two sources of weights"):
        start(tmp_path, want(pretrained=True, weights=tmp_path))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("deit", r"unknown model 'deit'; did you mean deit_t\?"),
        ("timm:resnet18", "whose layers evitlab knows"),
        ("timm:deit_tiny_patch16_225", f"did you mean {TIMM_DEIT}"),
        ("mine.py:make", "not those of a file"),
        ("mine.py", "not those of a file"),
    ],
)
def test_networks_that_are_not_ours_are_refused(model, message):
    with pytest.raises(UserError, match=message):
        choose_name(want(model))


def test_timms_names_of_our_networks_are_known():
    known = timm.list_models()
    assert choose_name(want("timm:swin_tiny_patch4_window7_224.ms_in1k")) == "swin_t"
    assert choose_name(want("timm:efficientvit_m3")) == "efficientvit_m3"
    assert all(name in known for name in pruning_weights.TIMM.values())


def test_a_saved_model_of_another_kind_is_refused(tmp_path):
    save_model(make_network(), tmp_path / "deit")
    with pytest.raises(UserError, match="of the family deit, not swin_t"):
        start(tmp_path, want("swin_t", weights=tmp_path / "deit"))
    with pytest.raises(UserError, match="takes no knobs"):
        start(tmp_path, want(weights=tmp_path / "deit", knobs={"width": 24}))
    m1 = build_model(make_config("efficientvit_m1", image_size=64, num_classes=16), seed=0)
    save_model(m1, tmp_path / "m1")
    with pytest.raises(UserError, match="holds efficientvit_m1, not efficientvit_m0"):
        start(tmp_path, want("efficientvit_m0", weights=tmp_path / "m1"))
    (tmp_path / "deit" / "weights.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"weights\.safetensors: no saved model can be read here"):
        start(tmp_path, want(weights=tmp_path / "deit"))


def test_classes_must_be_those_of_the_data(tmp_path):
    save_model(build_model(make_config("deit_t", num_classes=10, **KNOBS), seed=0), tmp_path / "ten")
    with pytest.raises(UserError, match="tells 10 classes apart, but shapes has 16"):
        start(tmp_path, want(weights=tmp_path / "ten"))


def test_without_weights_a_network_is_trained_once(tmp_path):
    wanted = want(knobs=KNOBS)
    found, said = start(tmp_path, wanted)
    (record,) = read_records(tmp_path)
    assert record.task == "train"
    assert states_equal(found.network, load_model(tmp_path / "weights" / "seed0"))
    assert len(said) == 2
    assert "width 24" in said[0]
    assert "trained here for 4 steps of 16 on 64 images of shapes to a top-1 of" in found.origin
    again, said = start(tmp_path, wanted)
    assert len(read_records(tmp_path)) == 1
    assert len(said) == 1
    assert again.named.weights == found.named.weights
    longer = replace(TRAINING, recipe=replace(TRAINING.recipe, steps=5))
    start(tmp_path, want(knobs=KNOBS, training=longer))
    back, _ = start(tmp_path, wanted)
    assert back.named.weights == found.named.weights, "weights of another training are not taken for these"
