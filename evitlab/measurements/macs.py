"""Multiply-accumulates and parameters."""

from dataclasses import dataclass, field

from pydantic import with_config

from evitlab.measurements.terms import STRICT


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class MacCount:
    """Multiply-accumulates of one image's forward pass; papers print them as "FLOPs".

    Counted: convolutions, linear layers and both attention products. Norms, activations, softmax, biases and
    element-wise operations are not.
    """

    macs: int
    params: int
    """Trainable scalars with BatchNorm folded into its neighbours where it can be."""
    params_unfolded: int
    """Trainable scalars as built for training."""
    image_size: tuple[int, int]
    """Height and width in pixels."""
    macs_by_operator: dict[str, int]
    macs_by_module: dict[str, int]
    """Keyed by module path; a parent includes its children, "" is the whole network."""
    uncounted: dict[str, int] = field(default_factory=dict)
    """Operators that do arithmetic but have no counting rule, with their number of calls."""
    uncalled_modules: tuple[str, ...] = ()
    """Modules with parameters that the forward pass never ran."""
