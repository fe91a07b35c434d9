"""Comparing the heads of a network, in a study or without: on held-out images, beside the same network untrained."""

from collections.abc import Callable

from torch import nn

from evitlab.measure.heads import drop_one, head_similarity
from evitlab.measurements.heads import HeadSimilarity
from evitlab.models.config import ModelConfig
from evitlab.models.network import Network, build_model
from evitlab.recipes import TrainRecipe
from evitlab.settings import HeadsSettings
from evitlab.train.data import DataSet, scale_pixels
from evitlab.train.optim import draw_xavier

SIMILARITY_SHARE = 0.1
"""Of the time, where each head is dropped as well: of one network a pass, against one for each head."""


def make_untrained(config: ModelConfig, recipe: TrainRecipe, *, seed: int) -> Network:
    """The network that a training of this seed begins with."""
    network = build_model(config, seed=seed)
    if recipe.init == "xavier":
        draw_xavier(network, seed=seed)
    return network


def compare_heads(
    network: nn.Module,
    control: nn.Module | None,
    data: DataSet,
    settings: HeadsSettings,
    *,
    on_progress: Callable[[float], None],
) -> HeadSimilarity:
    """Similarity of heads on the first held-out images, of the network and of an untrained one; drop-one if asked."""
    images = data.val.first(settings.images)
    share = SIMILARITY_SHARE if settings.drop_one else 1.0
    networks = [each for each in (network, control) if each is not None]
    found = []
    for number, each in enumerate(networks):
        tell = _part(on_progress, share * number / len(networks), share / len(networks))
        found.append(head_similarity(each, images.pixels, prepare=scale_pixels, on_progress=tell))
    dropped = None
    if settings.drop_one:
        dropped = drop_one(
            network,
            images.pixels,
            images.labels,
            num_classes=len(images.classes),
            prepare=scale_pixels,
            on_progress=_part(on_progress, share, 1 - share),
        )
    height, width = (int(side) for side in images.pixels.shape[-2:])
    return HeadSimilarity(
        data=data.name,
        images=len(images.labels),
        image_size=(height, width),
        blocks=found[0],
        control=found[1] if control is not None else None,
        drop_one=dropped,
    )


def _part(on_progress: Callable[[float], None], start: float, share: float) -> Callable[[float], None]:
    return lambda done: on_progress(start + share * done)
