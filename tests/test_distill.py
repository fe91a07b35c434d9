"""Teachers and their part in the loss: against DeiT's equations in double loops and timm's own normalisation."""

import math

import pytest
import timm
import torch
from conftest import draw_images, make_tiny, perturb
from safetensors.torch import save_file
from timm.models import _builder
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as tv

from evitlab.models.network import build_model
from evitlab.models.weights import save_model
from evitlab.problems import UserError
from evitlab.recipes import Distillation
from evitlab.train.data import scale_pixels
from evitlab.train.distill import Teacher, distillation_loss, load_teacher

TIMM = "test_vit"
"""timm's smallest, 160 pixels a side, 1000 classes, normalised by a mean and deviation of 0.5; `test_byobnet` takes any
size."""


def teach(teacher: str, *, num_classes: int = 7, image_size: tuple[int, int] = (64, 64)) -> Teacher:
    return load_teacher(Distillation(teacher=teacher), num_classes=num_classes, image_size=image_size, device="cpu")


def draw_pixels(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def checkpoint(tmp_path) -> str:
    """Weights of timm's small convolutional network, as a file."""
    torch.manual_seed(5)
    model = timm.create_model("test_byobnet", num_classes=7)
    save_file(model.state_dict(), tmp_path / "teacher.safetensors")
    return str(tmp_path / "teacher.safetensors")


# the loss


def softmax(scores: list[float], temperature: float) -> list[float]:
    powers = [math.exp(score / temperature) for score in scores]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize(("weight", "temperature"), [(0.5, 3.0), (0.1, 1.0), (1.0, 0.7)])
def test_soft_distillation_is_deits_second_equation(weight: float, temperature: float):
    torch.manual_seed(1)
    student, teacher = torch.randn(5, 4, dtype=torch.float64), 3 * torch.randn(5, 4, dtype=torch.float64)
    divergence = 0.0
    for ours, theirs in zip(student.tolist(), teacher.tolist(), strict=True):
        for p, q in zip(softmax(theirs, temperature), softmax(ours, temperature), strict=True):
            divergence += p * math.log(p / q)
    expected = (1 - weight) * 2.5 + weight * temperature**2 * divergence / 5
    settings = Distillation(teacher="x", kind="soft", weight=weight, temperature=temperature)
    got = distillation_loss(student, teacher, torch.tensor(2.5, dtype=torch.float64), settings)
    assert got.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("weight", [0.5, 0.1, 1.0])
def test_hard_distillation_is_deits_third_equation(weight: float):
    torch.manual_seed(2)
    student, teacher = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    entropy = 0.0
    for ours, theirs in zip(student.tolist(), teacher.tolist(), strict=True):
        entropy -= math.log(softmax(ours, 1.0)[theirs.index(max(theirs))])
    expected = (1 - weight) * 1.25 + weight * entropy / 6
    settings = Distillation(teacher="x", kind="hard", weight=weight, temperature=9.0)
    got = distillation_loss(student, teacher, torch.tensor(1.25, dtype=torch.float64), settings)
    assert got.item() == pytest.approx(expected, rel=1e-12)


def test_a_student_that_agrees_has_nothing_to_learn_softly():
    logits = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    settings = Distillation(teacher="x", kind="soft", weight=1.0)
    loss = distillation_loss(logits, logits.detach() + 4.0, torch.tensor(7.0, dtype=torch.float64), settings)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-12


# teachers


def test_a_saved_teacher_reads_our_images_as_they_are(tmp_path):
    model = build_model(make_tiny("efficientvit_m0"), seed=1)
    perturb(model, seed=2)
    save_model(model, tmp_path)
    teacher, images = teach(str(tmp_path)), draw_images(3, 64, 64)
    assert torch.equal(teacher(images), model.eval()(images))


def test_a_timm_teacher_gets_images_normalised_its_own_way(checkpoint: str):
    teacher = teach(f"timm:test_byobnet:num_classes=7,checkpoint_path={checkpoint}")
    reference = timm.create_model("test_byobnet", num_classes=7, checkpoint_path=checkpoint).eval()
    mean, std = reference.pretrained_cfg["mean"], reference.pretrained_cfg["std"]
    assert len(set(std)) == 3  # ImageNet's, not one for all channels
    pixels = draw_pixels(4, 3, 64, 64)
    expected = reference(tv.normalize(pixels.float() / 255, mean=list(mean), std=list(std)))
    torch.testing.assert_close(teacher(scale_pixels(pixels)), expected.detach(), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(reference(scale_pixels(pixels)), expected, rtol=1e-2)


def test_pretrained_timm_teachers_load_their_weights(monkeypatch: pytest.MonkeyPatch):
    """Without a network, what timm would fetch is handed to it."""
    torch.manual_seed(6)
    source = timm.create_model(TIMM)
    monkeypatch.setattr(_builder, "load_state_dict_from_hf", lambda *_, **__: source.state_dict())
    teacher = teach(f"timm:{TIMM}:pretrained=true", num_classes=1000, image_size=(160, 160))
    pixels = draw_pixels(2, 3, 160, 160)
    expected = source.eval()((pixels.float() / 255 - 0.5) / 0.5)
    torch.testing.assert_close(teacher(scale_pixels(pixels)), expected.detach(), rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="its 7 classes would be random: the weights know 1000"):
        teach(f"timm:{TIMM}:pretrained=true,num_classes=7", image_size=(160, 160))


FILE = """
import torch
from torch import nn

class Tokens(nn.Module):
    def forward(self, x):
        return x.flatten(2)

def dropping(classes=7):
    return nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3 * 64 * 64, classes))

def tokens():
    return Tokens()
"""


@pytest.fixture
def nets(tmp_path) -> str:
    (tmp_path / "nets.py").write_text(FILE)
    return f"{tmp_path}/nets.py"


def test_a_teacher_stays_in_eval_mode_without_gradients(nets: str):
    teacher = teach(f"{nets}:dropping")
    images = draw_images(4, 64, 64).requires_grad_()
    expected = teacher.model(images)
    wrapper = nn.ModuleList([teacher]).train()
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in wrapper.parameters())
    scores = teacher(images)
    assert torch.equal(scores, expected)
    assert not scores.requires_grad
    assert torch.equal(teacher.model[1].running_mean, torch.zeros(3))


@pytest.mark.parametrize(
    ("teacher", "size", "message"),
    [
        ("deit_t", 64, r"teacher deit_t must be trained, but its weights would be random \(allowed: timm:NAME:pretr"),
        ("deit_t:depth=2", 64, "must be trained"),
        ("timm:test_vit", 160, "teacher timm:test_vit must be trained"),
        ("timm:test_vit:pretrained=false", 160, "must be trained"),
        ("timm:test_vit:checkpoint_path=a.pth", 160, r"checkpoint_path must end in \.safetensors, but got 'a\.pth'"),
        ("deit_tt", 64, "unknown model 'deit_tt'"),
        (
            "{saved}",
            32,
            r"cannot take images of 32 x 32 pixels, it was made for 64 x 64 pixels \(ValueError: a network",
        ),
        ("{nets}:dropping", 32, r"cannot take images of 32 x 32 pixels \(RuntimeError"),
        ("{nets}:dropping:classes=9", 64, "must score the 7 classes of the data, but gives 9 scores an image"),
        ("{nets}:tokens", 64, r"7 classes of the data, but gives an output of shape \(1, 3, 4096\) an image"),
        (
            "timm:test_byobnet:checkpoint_path={checkpoint},num_classes=7,in_chans=1",
            64,
            r"cannot be built",
        ),
    ],
)
def test_what_cannot_teach_is_one_clear_line(
    tmp_path, nets: str, checkpoint: str, teacher: str, size: int, message: str
):
    save_model(build_model(make_tiny("deit_t"), seed=1), tmp_path / "saved")
    name = teacher.format(saved=tmp_path / "saved", nets=nets, checkpoint=checkpoint)
    with pytest.raises(UserError, match=message) as caught:
        teach(name, image_size=(size, size))
    if "cannot be built" not in message:
        assert "\n" not in str(caught.value)
