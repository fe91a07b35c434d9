"""evitlab: where does a fast vision transformer's time go, and which knob buys speed at what accuracy?"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evitlab.models.network import Network

__version__ = "0.1.0"


def create_model(name: str, **knobs: Any) -> "Network":
    """Build a network of the zoo with some knobs changed, freshly initialised from torch's random state.

    `evitlab list` prints names and knobs. Raises ValueError that names every wrong knob and what is allowed.

    >>> create_model("deit_t", mhsa_ratio=0.25, image_size=64, num_classes=100).config.mhsa_ratio
    0.25
    """
    from evitlab.models.network import build_model  # late: names and tables must not wait for torch
    from evitlab.models.zoo import make_config

    return build_model(make_config(name, **knobs))
