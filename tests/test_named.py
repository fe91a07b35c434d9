"""Networks by the name that a user gives them."""

import pytest
import timm
import torch
from conftest import make_tiny
from torch import nn

from evitlab.models.named import load_named
from evitlab.models.network import build_model
from evitlab.models.weights import save_model
from evitlab.models.zoo import make_config
from evitlab.problems import UserError


def test_a_zoo_name_with_knobs_behind_it():
    found = load_named("deit_t:depth=1,qk_dim=16", knobs={"num_classes": 5, "qk_dim": 8}, seed=3)
    assert found.model.config == make_config("deit_t", depth=1, qk_dim=16, num_classes=5)
    assert found.config == found.model.config.to_dict()
    assert found.knobs == {"depth": 1, "qk_dim": 16, "num_classes": 5}
    assert (found.image_size, found.weights) == ((224, 224), None)
    same, other = build_model(found.model.config, seed=3), build_model(found.model.config, seed=4)
    assert torch.equal(found.model.head.linear.weight, same.head.linear.weight)
    assert not torch.equal(found.model.head.linear.weight, other.head.linear.weight)


def test_a_list_is_one_knob():
    found = load_named("swin_t:depth=[1,1,2,1],num_classes=3")
    assert [len(stage.blocks) for stage in found.model.config.stages] == [1, 1, 2, 1]
    assert found.model.config.num_classes == 3


def test_a_zoo_network_is_built_for_the_image_size():
    found = load_named("deit_t", knobs={"depth": 1}, image_size=(64, 96))
    assert found.image_size == found.model.config.image_size == (64, 96)


def test_a_timm_name_with_its_own_image_size_and_keywords():
    found = load_named("timm:vit_tiny_patch16_224:img_size=64,depth=1,num_classes=3")
    assert isinstance(found.model, timm.models.VisionTransformer)
    assert len(found.model.blocks) == 1
    assert found.image_size == (64, 64)
    assert found.config == {
        "source": "timm:vit_tiny_patch16_224",
        "options": {"img_size": 64, "depth": 1, "num_classes": 3},
    }
    assert load_named("timm:mobilenetv3_small_050").image_size == (224, 224)
    assert load_named("timm:test_vit").image_size == timm.create_model("test_vit").pretrained_cfg["input_size"][1:]


def test_a_saved_model_with_its_weights(tmp_path):
    model = build_model(make_tiny("deit_t"), seed=1)
    save_model(model, tmp_path / "one")
    save_model(build_model(make_tiny("deit_t"), seed=2), tmp_path / "two")
    one, two = load_named(str(tmp_path / "one")), load_named(str(tmp_path / "two"))
    assert torch.equal(one.model.head.linear.weight, model.head.linear.weight)
    assert one.config == two.config == model.config.to_dict()
    assert one.image_size == (64, 64)
    assert one.weights is not None
    assert one.weights != two.weights


FILE = """
from torch import nn

def tiny(classes=2):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))

def number():
    return 7

def broken():
    raise OSError("no weights here")
"""


def test_a_function_in_a_file(tmp_path):
    path = tmp_path / "nets.py"
    path.write_text(FILE)
    found = load_named(f"{path}:tiny:classes=4")
    assert isinstance(found.model, nn.Sequential)
    assert found.model[1].out_features == 4
    assert found.image_size == (224, 224)
    assert load_named(f"{path}:tiny", image_size=(8, 9)).image_size == (8, 9)
    assert found.config == {"source": "nets.py:tiny", "options": {"classes": 4}}


def test_torchs_own_state_stays(tmp_path):
    path = tmp_path / "nets.py"
    path.write_text("from torch import nn\ndef net():\n    return nn.Linear(3, 3)\n")
    before = torch.get_rng_state()
    same = [load_named(f"{path}:net", seed=seed).model.weight for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(same[0], same[1])
    assert not torch.equal(same[0], same[2])


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("deit_s", r"unknown model 'deit_s'; did you mean deit_t\? \(allowed: a name of the zoo"),
        ("deit_t:qkdim=3", r"qkdim is not a knob; did you mean qk_dim\?"),
        ("deit_t:qk_dim=0", "qk_dim must be an integer from 1 to 1024, or null .* but got 0"),
        ("deit_t:qk_dim", r"unknown model 'deit_t:qk_dim'"),
        (
            "timm:vit_tinny_patch16_224",
            r"timm has no model 'vit_tinny_patch16_224'; did you mean vit_tiny_patch16_224\?",
        ),
        ("timm:vit_tiny_patch16_224:foo=1", "timm:vit_tiny_patch16_224:foo=1: cannot be built: TypeError"),
        ("none.py:net", "none.py: no such file"),
        ("{}/nets.py:nun", r"nets.py: has no function 'nun' \(there are: .*tiny.*number"),
        ("{}/nets.py:numbr", r"has no function 'numbr'; did you mean number\?"),
        ("{}/nets.py:number", "must give a torch.nn.Module, but got a int"),
        ("{}/nets.py:broken", "cannot be built: OSError: no weights here"),
        ("{}/bad.py:net", r"bad.py: cannot be run: SyntaxError"),
        ("{}", "config.json: no saved model can be read here"),
    ],
)
def test_what_cannot_be_loaded_is_one_clear_line(tmp_path, reference, message):
    (tmp_path / "nets.py").write_text(FILE)
    (tmp_path / "bad.py").write_text("def net(:")
    with pytest.raises(UserError, match=message):
        load_named(reference.format(tmp_path))


def test_a_saved_model_takes_no_knobs(tmp_path):
    save_model(build_model(make_tiny("deit_t"), seed=1), tmp_path)
    with pytest.raises(
        UserError, match=r"a saved model takes no knobs, its config.json says all, but got knobs=\{'qk_dim': 4\}"
    ):
        load_named(str(tmp_path), knobs={"qk_dim": 4})
