"""How to train: every setting of a training as plain data, and whole recipes by name."""

from dataclasses import asdict, fields
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from evitlab.measurements.terms import Precision
from evitlab.problems import suggest

STRICT = ConfigDict(extra="forbid", defer_build=True)  # checks are built once, with those of the class around
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Augmentation:
    """What is drawn anew for an image each time that it is seen; all of it is off unless set."""

    flip: Probability = 0.0
    """How often an image is mirrored left to right."""
    crop: Literal["none", "pad", "resized"] = "none"
    """pad: reflect the border by an eighth and cut the old size out of it. resized: stretch a part of random area
    and shape to the old size (Szegedy et al., 2015)."""
    min_area: Annotated[float, Field(gt=0, le=1)] = 0.08
    """Smallest share of the image that a resized crop shows."""
    rand_augment: Annotated[int, Field(ge=0, le=10)] = 0
    """Magnitude of RandAugment's two operations (Cubuk et al., 2020); 0: none."""
    random_erasing: Probability = 0.0
    """How often a rectangle is replaced by noise (Zhong et al., 2020)."""
    mixup: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Alpha of Mixup's Beta distribution (Zhang et al., 2018); 0: none."""
    cutmix: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Alpha of CutMix's (Yun et al., 2019); 0: none. With both, each batch takes one or the other."""
    repeats: Count = 1
    """How often each image of a batch is in it, augmented anew (Hoffer et al., 2020)."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Distillation:
    """Learning from another network's scores (Touvron et al., 2021, Sec. 4)."""

    teacher: str
    """timm:NAME, the folder of a saved model, or any other name of a model."""
    kind: Literal["soft", "hard"] = "hard"
    """soft: the teacher's distribution. hard: the class that it scores highest."""
    weight: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Of the teacher's part in the loss; the labels have the rest."""
    temperature: Positive = 3.0
    """Divides the scores of both before the softmax, if soft."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainRecipe:
    """How to train: AdamW with a linear warm-up and a cosine to zero. The defaults are the preset `proxy`."""

    steps: Count = 320
    """Optimiser steps."""
    epochs: Positive | None = None
    """Passes over the training images; where given, they decide the number of steps."""
    batch_size: Count = 32
    """Images in an optimiser step, all processes and accumulated parts together."""
    accumulate: Count = 1
    """Parts that a batch is computed in, to save memory; BatchNorm sees a part at a time."""
    learning_rate: Positive = 1e-3
    """The highest of the schedule, whatever the batch size."""
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.05
    """On weights of two or more dimensions; biases and norms have none."""
    warmup: Share = 0.1
    """Share of the steps in which the learning rate rises."""
    label_smoothing: Share = 0.0
    """Share of the target that is spread over all classes."""
    clip_norm: Positive = 1.0
    """Longest gradient, as one vector over all parameters."""
    agc: Positive | None = None
    """Adaptive gradient clipping (Brock et al., 2021): where given, each unit's gradient is at most so many times
    its weights, in place of `clip_norm`."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of a moving average of the weights, which is then what is judged and kept."""
    stochastic_depth: Share = 0.0
    """How often the last residual branch is left out for an image; earlier ones in proportion (Huang et al., 2016)."""
    augmentation: Augmentation = Augmentation()
    distillation: Distillation | None = None
    precision: Precision = "fp32"
    """fp32, or torch's autocast to a lower one; fp16 scales its loss."""
    memory_format: Literal["contiguous", "channels_last"] = "contiguous"
    compile: bool = False
    """Train through `torch.compile`."""
    evaluations: Count = 2
    """Points of the curve, evenly spaced; the last one is the result."""
    init: Literal["as given", "xavier"] = "as given"
    """`xavier` draws the linear layers anew before training: for proxies, see `train.optim.draw_xavier`."""

    def __post_init__(self) -> None:
        parts = self.accumulate * self.augmentation.repeats
        if self.batch_size % parts:
            raise ValueError(
                f"batch_size must be a multiple of accumulate x repeats ({parts}), but got {self.batch_size=}"
            )
        if self.epochs is None and self.evaluations > self.steps:
            raise ValueError(f"evaluations must be at most {self.steps=}, but got {self.evaluations=}")

    def count_steps(self, train_images: int) -> int:
        """Optimiser steps on so many training images."""
        if self.epochs is None:
            return self.steps
        return max(self.evaluations, round(self.epochs * train_images / self.batch_size))


RECIPES: dict[str, TrainRecipe] = {
    "proxy": TrainRecipe(),
    "small": TrainRecipe(
        epochs=60,
        batch_size=256,
        weight_decay=0.05,
        warmup=0.08,
        label_smoothing=0.1,
        stochastic_depth=0.05,
        augmentation=Augmentation(flip=0.5, crop="resized", min_area=0.25, rand_augment=6, mixup=0.2, cutmix=1.0),
        precision="bf16",
        memory_format="channels_last",
        evaluations=12,
    ),
    "paper": TrainRecipe(
        epochs=300,
        batch_size=2048,
        weight_decay=0.025,
        warmup=5 / 300,
        label_smoothing=0.1,
        agc=0.02,
        ema=0.99996,
        augmentation=Augmentation(
            flip=0.5, crop="resized", rand_augment=9, random_erasing=0.25, mixup=0.8, cutmix=1.0, repeats=2
        ),
        precision="fp16",
        memory_format="channels_last",
        evaluations=30,
    ),
}
"""By name: `proxy` takes minutes on a CPU, `small` about an hour on one GPU at 64 px, `paper` is EfficientViT's own.

The paper's recipe is that of the official repository (microsoft/Cream, EfficientViT/classification), its timm parts
replaced by the same ones on whole batches; repeated augmentation is twice here, as 2048 is no multiple of 3.
"""


STATED = (
    "steps", "batch_size", "learning_rate", "weight_decay", "warmup", "label_smoothing", "clip_norm", "evaluations",
    "init",
)  # fmt: skip
"""Fields that a recipe always states; of the others, what is left alone is left out."""


def as_asked(recipe: TrainRecipe) -> dict[str, Any]:
    """A recipe as records keep it: without what is off, so that a new field of the lab makes no other recipe of it."""
    plain, off = asdict(recipe), asdict(TrainRecipe())
    return {name: value for name, value in plain.items() if name in STATED or value != off[name]}


def expand_recipe(value: Any) -> Any:
    """A recipe's name, or `{preset: NAME, field: value, ...}`, as the fields that it stands for; others unchanged."""
    if isinstance(value, str):
        value = {"preset": value}
    if not isinstance(value, dict) or "preset" not in value:
        return value
    name = value["preset"]
    if not isinstance(name, str) or name not in RECIPES:
        hint = suggest(name, RECIPES) if isinstance(name, str) else ""
        raise ValueError(f"unknown recipe {name!r}{hint} (allowed: {', '.join(RECIPES)})")
    preset = RECIPES[name]
    own = {key: each for key, each in value.items() if key != "preset"}
    if isinstance(own.get("augmentation"), dict):
        augmentation = preset.augmentation
        own["augmentation"] = {f.name: getattr(augmentation, f.name) for f in fields(augmentation)} | own[
            "augmentation"
        ]
    if "steps" in own and "epochs" not in own:
        own["epochs"] = None
    return {f.name: getattr(preset, f.name) for f in fields(preset)} | own


RecipeField = Annotated[TrainRecipe, BeforeValidator(expand_recipe)]
"""A recipe as a study may write it: by name, by fields, or both."""
