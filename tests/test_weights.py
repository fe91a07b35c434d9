"""Weights: timm's into ours and back with the same outputs; to disk and back bit by bit; files that are refused."""

import copy
import json
import os
import pickle
from dataclasses import replace

import pytest
import timm
import torch
from conftest import draw_images, make_tiny, perturb, relative_error
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from evitlab.models.config import ModelConfig
from evitlab.models.network import Network, build_model, fold_batchnorm
from evitlab.models.weights import from_timm, load_model, save_model, to_timm
from evitlab.models.zoo import ZOO, make_config

TIMM = {"deit_t": "deit_tiny_patch16_224", "swin_t": "swin_tiny_patch4_window7_224"}


def make_timm(name: str, *, seed: int = 1, **settings) -> torch.nn.Module:
    """timm's network of a zoo name, with no weight, bias or BatchNorm statistic that is zero or one."""
    model = timm.create_model(TIMM.get(name, name), pretrained=False, **settings)
    perturb(model, seed=seed)
    return refresh(model)


def refresh(timm_model: torch.nn.Module) -> torch.nn.Module:
    """In eval mode, without the attention biases that timm keeps from earlier weights and drops only in train()."""
    timm_model.train()
    timm_model.eval()
    return timm_model


# timm

CASES = [(name, None) for name in ZOO]
CASES += [("deit_t", 96), ("swin_t", (128, 224)), ("efficientvit_m0", 256), ("efficientvit_m3", 96)]


@pytest.mark.parametrize(("name", "size"), CASES, ids=str)
def test_outputs_agree_with_timm_s_both_ways(name, size):
    elsewhere = {} if size is None else {"img_size": size}
    ours = {} if size is None else {"image_size": size}
    theirs = make_timm(name, **elsewhere)
    images = draw_images(1, *make_config(name, **ours).image_size)
    with torch.no_grad():
        model = from_timm(theirs, name, **ours)
        assert not model.training
        assert relative_error(model(images), theirs(images)) < 1e-5

        perturb(model, seed=2)
        edited = model(images)
        assert relative_error(edited, theirs(images)) > 1e-2
        assert to_timm(model, theirs) is theirs
        assert not theirs.training
        assert relative_error(theirs(images), edited) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("size", [32, 64, 256, 384])
@pytest.mark.parametrize("name", list(ZOO))
def test_outputs_agree_with_timm_s_at_other_sizes(name, size):
    theirs = make_timm(name, img_size=size)
    images = draw_images(2, size, size)
    with torch.no_grad():
        assert relative_error(from_timm(theirs, name, image_size=size)(images), theirs(images)) < 1e-5


@pytest.mark.parametrize("name", ["deit_t", "efficientvit_m1"])
def test_every_tensor_comes_back(name):
    theirs = make_timm(name)
    before = copy.deepcopy(theirs.state_dict())
    back = to_timm(from_timm(theirs, name), make_timm(name, seed=3))
    assert back.state_dict().keys() == before.keys()
    for key, tensor in back.state_dict().items():
        assert torch.equal(tensor, before[key]), key
        assert torch.equal(theirs.state_dict()[key], before[key]), key


def test_ours_is_a_copy():
    theirs = make_timm("efficientvit_m0")
    before = copy.deepcopy(theirs.state_dict())
    perturb(from_timm(theirs, "efficientvit_m0"), seed=2)
    assert all(torch.equal(tensor, before[key]) for key, tensor in theirs.state_dict().items())


@pytest.mark.parametrize("name", ["deit_t", "efficientvit_m0"])
def test_the_number_of_classes_is_timm_s(name):
    theirs = make_timm(name, num_classes=7)
    assert from_timm(theirs, name).config == make_config(name, num_classes=7)


@pytest.mark.parametrize(
    ("name", "settings", "knobs", "message"),
    [
        ("deit_t", {"embed_dim": 96}, {}, r"patch_embed\.proj\.weight must have shape \(192, .*, but got \(96, 3"),
        ("deit_t", {"depth": 13}, {}, r"must be a plain deit, but it also holds blocks\.12\.attn\.proj\.bias, "),
        ("deit_t", {"depth": 11}, {}, r"must hold blocks\.11\.norm1\.weight, needed for stages\.0\.blocks\.11"),
        ("deit_t", {"num_classes": 7}, {"num_classes": 8}, r"head\.weight must have shape \(8, 192\), but got \(7"),
        ("deit_t", {"img_size": 64}, {}, r"pos_embed must have shape \(1, 197, 192\), but got \(1, 17, 192\)"),
        ("deit_t", {"init_values": 0.1}, {}, r"must be a plain deit, but it also holds blocks\.0\.ls1\.gamma, "),
        ("swin_t", {"depths": (2, 2, 8, 2)}, {}, r"must be a plain swin, but it also holds layers\.2\.blocks\.6"),
        ("swin_t", {"window_size": 4}, {}, r"position_bias_table must have shape \(3, 169\), but got \(3, 49\)"),
        ("efficientvit_m0", {}, {"attention": "mhsa"}, r"the timm model must hold .*, but it has no such tensor"),
        ("efficientvit_m0", {}, {"qk_dim": 8}, r"qkvs\.0\.conv\.weight must have shape"),
    ],
)  # fmt: skip
def test_another_architecture_is_refused(name, settings, knobs, message):
    with pytest.raises(ValueError, match=message):
        from_timm(make_timm(name, **settings), name, **knobs)


@pytest.mark.parametrize(
    ("timm_name", "settings"),
    [("resnet18", {}), ("deit_tiny_patch16_224", {"num_classes": 0}), ("deit_tiny_distilled_patch16_224", {})],
)
def test_a_model_without_our_classifier_is_refused(timm_name, settings):
    with pytest.raises(ValueError, match=r"timm model must"):
        from_timm(timm.create_model(timm_name, **settings), "deit_t")


def test_to_timm_refuses_another_architecture_and_leaves_it_alone():
    theirs = make_timm("deit_t", num_classes=7)
    before = copy.deepcopy(theirs.state_dict())
    with pytest.raises(ValueError, match=r"head"):
        to_timm(build_model(make_config("deit_t"), seed=0), theirs)
    assert not theirs.training
    assert all(torch.equal(tensor, before[key]) for key, tensor in theirs.state_dict().items())


# Disk


def make_model(config: ModelConfig, *, seed: int = 1) -> Network:
    model = build_model(config, seed=0).eval()
    perturb(model, seed=seed)
    return model


def prune_by_hand(config: ModelConfig) -> ModelConfig:
    """Every layer with widths of its own, as pruning leaves them; the scale stays."""
    numbers = iter(range(1, 1000))

    def cut(layer):
        number = next(numbers)
        if layer.type == "ffn":
            return replace(layer, hidden_dim=layer.hidden_dim - number % 5)
        return replace(layer, qk_dim=1 + number % 4, v_dim=2 + number % 7)

    stages = [
        replace(stage, blocks=tuple(replace(b, layers=tuple(map(cut, b.layers))) for b in stage.blocks))
        for stage in config.stages
    ]
    return replace(config, stages=tuple(stages))


CONFIGS = {
    **{name: make_tiny(name) for name in ("deit_t", "swin_t", "efficientvit_m0")},
    "batch norm, depthwise": make_tiny("deit_t", norm="batch", depthwise=True),
    "no attention": make_tiny("deit_t", mhsa_ratio=0),
    **{f"pruned {name}": prune_by_hand(make_tiny(name)) for name in ("deit_t", "swin_t", "efficientvit_m0")},
    "pruned cascade of tokens": prune_by_hand(make_tiny("swin_t", attention="cascaded")),
}
IMAGES = draw_images(2, 64, 64)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_saved_model_comes_back_bit_by_bit(name, tmp_path):
    model = make_model(CONFIGS[name]).train()
    save_model(model, tmp_path / "new" / "folder")
    assert model.training
    back = load_model(str(tmp_path / "new" / "folder"))
    assert back.config == model.config == CONFIGS[name]
    assert not back.training
    with torch.no_grad():
        assert torch.equal(back(IMAGES), model.eval()(IMAGES))
    assert back(IMAGES).isfinite().all()
    assert sorted(os.listdir(tmp_path / "new" / "folder")) == ["config.json", "weights.safetensors"]


def test_a_pruned_config_has_the_widths_it_says():
    model = make_model(CONFIGS["pruned deit_t"])
    first, second = (block[0].branch for block in model.stages[0].blocks)
    for mixer in (first, second):
        heads = mixer.config.num_heads
        assert mixer.q.weight.shape == mixer.k.weight.shape == (heads * mixer.config.qk_dim, 24)
        assert mixer.v.weight.shape == mixer.proj.weight.mT.shape == (heads * mixer.config.v_dim, 24)
        assert mixer.attend.scale == 12**-0.5
    assert first.config != second.config


def test_a_model_in_double_precision_comes_back_so(tmp_path):
    model = make_model(CONFIGS["efficientvit_m0"]).double()
    save_model(model, tmp_path)
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path)(IMAGES.double()), model(IMAGES.double()))


def test_saving_again_replaces(tmp_path):
    save_model(make_model(CONFIGS["swin_t"]), tmp_path)
    model = make_model(CONFIGS["deit_t"])
    save_model(model, tmp_path)
    assert torch.equal(load_model(tmp_path)(IMAGES), model(IMAGES))


@pytest.mark.parametrize("done", [0, 1])
def test_a_crash_leaves_the_old_model_or_one_that_is_refused(tmp_path, monkeypatch, done):
    old = make_model(CONFIGS["swin_t"])
    save_model(old, tmp_path)
    replaced = []

    def crash(source, target, *, really=os.replace):
        if len(replaced) == done:
            raise KeyboardInterrupt
        replaced.append(really(source, target))

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            save_model(make_model(CONFIGS["deit_t"]), tmp_path)
    if done:
        with pytest.raises(ValueError, match=r"weights\.safetensors: .* saved with another config\.json"):
            load_model(tmp_path)
    else:
        assert torch.equal(load_model(tmp_path)(IMAGES), old(IMAGES))
    save_model(old, tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["config.json", "weights.safetensors"]


def test_a_folded_network_is_not_saved_as_if_it_were_its_config(tmp_path):
    folded = fold_batchnorm(make_model(CONFIGS["efficientvit_m0"]))
    with pytest.raises(ValueError, match=r"fold"):
        save_model(folded, tmp_path)
    assert os.listdir(tmp_path) == []


# Broken files


def cut_config(folder):
    (folder / "config.json").write_text((folder / "config.json").read_text()[:-20])


def cut_weights(folder):
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-20])


def remove(name):
    return lambda folder: (folder / name).unlink()


def write(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def edit_config(**fields):
    def edit(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return edit


def edit_weights(change, *, same_digest=True):
    def edit(folder):
        path = folder / "weights.safetensors"
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, metadata=metadata if same_digest else None)

    return edit


BROKEN = {
    "no config": (remove("config.json"), r"config\.json"),
    "no weights": (remove("weights.safetensors"), r"weights\.safetensors"),
    "torn config": (cut_config, r"config\.json"),
    "config is not text": (write("config.json", b"\xff\xfe\x00"), r"config\.json"),
    "config is a list": (write("config.json", b"[1]"), r"config\.json"),
    "config lacks fields": (write("config.json", b"{}"), r"config\.json.*family"),
    "config has a wrong value": (edit_config(num_classes=0), r"config\.json.*num_classes: .*but got 0"),
    "config has an unknown field": (edit_config(colour=0), r"config\.json.*colour: unknown \(allowed: family"),
    "config contradicts itself": (edit_config(position_embedding=True), r"config\.json.*need the layout 'tokens'"),
    "config of another model": (edit_config(num_classes=8), r"weights\.safetensors: .*another config\.json than"),
    "torn weights": (cut_weights, r"weights\.safetensors"),
    "empty weights": (write("weights.safetensors", b""), r"weights\.safetensors"),
    "weights of someone else": (edit_weights(lambda t: None, same_digest=False), r"weights\.safetensors: .*another"),
    "a tensor is missing": (edit_weights(lambda t: t.pop("head.linear.bias")), r"weights\.safetensors.*linear\.bias"),
    "a tensor too many": (edit_weights(lambda t: t.update(more=torch.ones(1))), r"weights\.safetensors.*more"),
    "a tensor of another shape": (
        edit_weights(lambda t: t.update({"head.linear.bias": torch.ones(9)})),
        r"weights\.safetensors.*head\.linear\.bias",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_named(name, tmp_path):
    breaking, message = BROKEN[name]
    save_model(make_model(CONFIGS["efficientvit_m0"]), tmp_path)
    breaking(tmp_path)
    with pytest.raises(ValueError, match="(?s)" + message):
        load_model(tmp_path)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere"):
        load_model(tmp_path / "nowhere")


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def test_pickles_are_never_loaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_model(make_model(CONFIGS["deit_t"]), tmp_path)
    for content in (pickle.dumps(Bomb()), pickle.dumps({"state_dict": Bomb()}, protocol=0)):
        (tmp_path / "weights.safetensors").write_bytes(content)
        with pytest.raises(ValueError, match=r"no saved model can be read here"):
            load_model(tmp_path)
    torch.save({"head": Bomb()}, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=r"no saved model can be read here"):
        load_model(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["config.json", "weights.safetensors"]
