"""What a training reached, and how a network does on held-out images."""

from dataclasses import dataclass

from pydantic import with_config

from evitlab.measurements.terms import STRICT


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One evaluation on the way of a training."""

    step: int
    train_loss: float
    """Mean over the steps since the last evaluation."""
    top1: float


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """Accuracy of a network trained at a stated budget; a proxy's accuracy is not ImageNet's."""

    top1: float
    """Share of held-out images whose highest score is the true class."""
    top5: float
    loss: float
    """Mean cross-entropy on the held-out images."""
    train_top1: float
    """Share correct on a part of the training images as large as the held-out set: shows over- and underfitting."""
    data: str
    num_classes: int
    train_images: int
    """Different images in the training set."""
    val_images: int
    steps: int
    batch_size: int
    images_seen: int
    params: int
    train_seconds: float
    """Seconds in the training loop, evaluation left out."""
    curve: tuple[Epoch, ...]
    wait_seconds: float | None = None
    """Seconds of them that the loop waited for images; None in records from before it was measured."""
    peak_memory: int | None = None
    """Bytes: the most that the process held while training, or on a GPU what torch had there; None if not known."""
    processes: int = 1
    threads: int | None = None
    """Threads of each process on the CPU; None in records from before it was kept."""
    at_once: int = 1
    """Trainings that shared the CPU's cores, each with these threads: `train_seconds` are those of all together."""


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class ClassScore:
    """How well one class is told from the others."""

    name: str
    precision: float | None
    """Share that is right of the images taken for this class; None where there are none."""
    recall: float | None
    """Share of the class's images that are found; None where it has none."""
    f1: float | None
    """Harmonic mean of the two; 0 where nothing is found, None where there was nothing to find or to mistake."""
    support: int
    """Images of this class."""
    auc: float | None
    """Area under the ROC curve of this class against the rest, by its probability; None where one side is empty."""


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Accuracy of one network on one set of images in every way that is reported."""

    top1: float
    """Share of images whose highest score is the true class."""
    top1_low: float
    """Wilson 95% interval over images: another draw of them, not another training."""
    top1_high: float
    top5: float
    """Share whose true class is among the five highest; 1 for five classes or fewer."""
    loss: float
    """Mean cross-entropy in nats, without label smoothing."""
    macro_auc: float | None
    """Mean of the classes' AUC where it is defined; None where it is for none."""
    ece: float
    """Expected calibration error: mean over images of |accuracy - confidence| of their bin, 15 of equal width."""
    num_classes: int
    images: int
    data: str
    classes: tuple[ClassScore, ...]
    """In the order of the data set."""
    peak_memory: int | None = None
    """Bytes that the process held at most while it scored; None where the system does not tell."""
