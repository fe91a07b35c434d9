"""MACs and parameters in closed form: to the unit what is counted on the built network."""

import jaxtyping
import pytest
from conftest import make_tiny
from random_plans import NETWORKS, draw_plan

from evitlab.measure.macs import count_macs
from evitlab.models.config import ModelConfig
from evitlab.models.network import build_model
from evitlab.models.zoo import ZOO, make_config
from evitlab.prune.costs import count_config_macs, count_config_params
from evitlab.prune.groups import resize_groups


@pytest.fixture(autouse=True)
def no_type_checks():
    """While torch traces a network, its sizes are tensors; the checks of annotations would refuse them."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def assert_counts_agree(config: ModelConfig) -> None:
    counted = count_macs(build_model(config, seed=0), image_size=config.image_size)
    assert count_config_macs(config) == counted.macs
    assert count_config_params(config) == counted.params
    assert count_config_params(config, folded=False) == counted.params_unfolded


# What torch's FlopCounterMode / 2 and a count of parameters said of timm 1.0.31's networks; millions are rounded.
PUBLISHED = {"deit_t": (1_253_683_200, 5_717_416), "swin_t": (4_490_566_656, 28_288_354)}
MILLIONS = {
    "efficientvit_m0": (79.2, 2.335, 2.349),
    "efficientvit_m1": (167.1, 2.964, 2.981),
    "efficientvit_m2": (201.0, 4.168, 4.188),
    "efficientvit_m3": (262.7, 6.876, 6.901),
    "efficientvit_m4": (299.3, 8.776, 8.804),
    "efficientvit_m5": (521.6, 12.436, 12.474),
}


@pytest.mark.parametrize("name", list(ZOO))
def test_published_networks(name):
    config = make_config(name)
    macs, params, unfolded = (
        count_config_macs(config), count_config_params(config), count_config_params(config, folded=False)
    )  # fmt: skip
    if name in PUBLISHED:
        assert (macs, params) == PUBLISHED[name]
        assert params == unfolded
    else:
        assert (round(macs / 1e6, 1), round(params / 1e6, 3), round(unfolded / 1e6, 3)) == MILLIONS[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", list(ZOO))
def test_published_networks_and_pruned_ones_as_counted(name):
    assert_counts_agree(make_config(name))
    for seed in range(2):
        assert_counts_agree(resize_groups(make_config(name), draw_plan(make_config(name), seed=seed).channels))


@pytest.mark.slow
@pytest.mark.parametrize("config", NETWORKS.values(), ids=NETWORKS)
def test_every_kind_of_attention_pruned(config):
    assert_counts_agree(resize_groups(config, draw_plan(config, seed=0).channels))


VARIANTS = [
    make_tiny("deit_t", mhsa_ratio=0.0),
    make_tiny("deit_t", norm="batch", image_size=(32, 48), sandwich=2, depthwise=True),
    make_tiny("swin_t", norm="batch", image_size=(100, 72)),
    make_tiny("swin_t", window_size=3, attention="cascaded", image_size=(37, 53)),
    make_tiny("swin_t", norm="batch", window_size=16, attention="group", depthwise=True),
    make_tiny("efficientvit_m0", norm="layer", image_size=(225, 100)),
    make_tiny("efficientvit_m0", mhsa_ratio=0.7, num_heads=1, width=40, patch_size=8, window_size=2),
]


@pytest.mark.slow
@pytest.mark.parametrize("config", VARIANTS, ids=range(len(VARIANTS)))
def test_variants_of_norm_size_and_layout(config):
    assert_counts_agree(config)
