"""Distillation: a trained network as teacher, and its part in the loss (DeiT: Touvron et al., 2021, Sec. 4)."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from evitlab.models.named import NamedModel, load_named
from evitlab.models.network import Network
from evitlab.models.zoo import ZOO
from evitlab.options import split_knobs
from evitlab.problems import UserError
from evitlab.recipes import Distillation

TRAINED = (
    "timm:NAME:pretrained=true, timm:NAME:checkpoint_path=FILE.safetensors, the folder of a saved model, "
    "or file.py:function"
)
"""Forms of a model's name that bring weights along."""


class Teacher(nn.Module):
    """A network that reads our images and gives its scores, always in eval mode and without gradients.

    `statistics` are the mean and deviation of each channel, of pixels from 0 to 1, that it expects images to be
    normalised by; without, it reads our images as they are.
    """

    statistics: Tensor | None

    def __init__(self, model: nn.Module, statistics: Float[Tensor, "2 3"] | None = None):
        super().__init__()
        self.model = model
        self.register_buffer("statistics", statistics)
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> "Teacher":
        """Stays in eval mode, whatever is asked."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Tensor:
        """Scores (B, classes) of images whose pixels were scaled from 0..255 to -2..2."""
        if self.statistics is not None:
            mean, deviation = self.statistics[:, :, None, None]
            images = (images / 4 + 0.5 - mean) / deviation
        return self.model(images)


def load_teacher(
    distillation: Distillation,
    *,
    num_classes: int,
    image_size: tuple[int, int],
    device: torch.device | str,
    seed: int = 0,
) -> Teacher:
    """The teacher that a recipe names, ready for images of that height and width, on the device.

    timm's networks get images normalised as their weights want them; ours, and what a function in a file makes, get
    them as all our networks do. Raises UserError for a teacher without trained weights, with other classes, or that
    cannot take such images.
    """
    name = distillation.teacher
    _check_trained(name)
    found = load_named(name, seed=seed)
    teacher = Teacher(found.model, _find_statistics(found)).to(device)
    height, width = image_size
    try:
        shape = tuple(teacher(torch.zeros(1, 3, height, width, device=device)).shape)
    except Exception as error:
        known = isinstance(found.model, Network) or name.startswith("timm:")
        made_for = f", it was made for {_say_size(found.image_size)}" if known else ""
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"teacher {name} cannot take images of {_say_size(image_size)}{made_for} ({reason})") from None
    if shape != (1, num_classes):
        given = f"{shape[1]} scores" if len(shape) == 2 else f"an output of shape {shape}"
        raise UserError(f"teacher {name} must score the {num_classes} classes of the data, but gives {given} an image")
    return teacher


def distillation_loss(
    student_logits: Float[Tensor, "B classes"],
    teacher_logits: Float[Tensor, "B classes"],
    label_loss: Float[Tensor, ""],
    distillation: Distillation,
) -> Float[Tensor, ""]:
    """The labels' loss and the teacher's, weighted (Touvron et al., 2021, Eq. 2 and 3), the mean over the images.

    Soft: T^2 KL(teacher || student) at temperature T, summed over the classes; DeiT's code divides it by the number of
    classes as well. Hard: the cross-entropy with the class that the teacher scores highest.
    """
    if distillation.kind == "hard":
        taught = F.cross_entropy(student_logits, teacher_logits.argmax(1))
    else:
        temperature = distillation.temperature
        student, teacher = (F.log_softmax(logits / temperature, dim=1) for logits in (student_logits, teacher_logits))
        taught = temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return (1 - distillation.weight) * label_loss + distillation.weight * taught


def _check_trained(teacher: str) -> None:
    """Refuse names that bring no weights; `load_named` says what is wrong with any other."""
    name, knobs = split_knobs(teacher)
    if name in ZOO or (name.startswith("timm:") and not knobs.get("pretrained") and "checkpoint_path" not in knobs):
        raise UserError(f"teacher {teacher} must be trained, but its weights would be random (allowed: {TRAINED})")
    path = str(knobs.get("checkpoint_path", ".safetensors"))
    if name.startswith("timm:") and not path.endswith(".safetensors"):
        raise UserError(f"teacher {teacher}: checkpoint_path must end in .safetensors, but got {path!r}")


def _find_statistics(found: NamedModel) -> Float[Tensor, "2 3"] | None:
    """What timm's weights were trained with; a new classifier on them, which timm draws at random, is refused."""
    if not found.label.startswith("timm:"):
        return None
    pretrained: Any = found.model.pretrained_cfg
    classes = found.knobs.get("num_classes", pretrained["num_classes"])
    if "checkpoint_path" not in found.knobs and classes != pretrained["num_classes"]:
        raise UserError(
            f"teacher {found.label} must be trained, but its {classes} classes would be random: "
            f"the weights know {pretrained['num_classes']}"
        )
    return torch.tensor([pretrained["mean"], pretrained["std"]])


def _say_size(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]} pixels"
