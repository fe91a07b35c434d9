"""Other widths: every width in proportion, against ratios computed here."""

import pytest
import torch

from evitlab.models.config import AttentionConfig, find_problems
from evitlab.models.network import build_model
from evitlab.models.scale import scale_width, width_step
from evitlab.models.zoo import ZOO, make_config


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("factor", [0.4, 0.83, 1.3])
def test_every_width_goes_along(name, factor):
    config = make_config(name)
    scaled = scale_width(config, config.stages[0].width * factor, scale_qk=True)
    assert find_problems(scaled) == []
    for old, new in zip(config.stages, scaled.stages, strict=True):
        assert new.width == pytest.approx(old.width * factor, abs=width_step(old) / 2)
        exact = new.width / old.width
        assert len(old.blocks) == len(new.blocks)
        for before, after in zip(old.blocks, new.blocks, strict=True):
            for was, now in zip(before.layers, after.layers, strict=True):
                if isinstance(was, AttentionConfig):
                    assert now.v_dim == pytest.approx(was.v_dim * exact, abs=1)
                    assert now.qk_dim == pytest.approx(was.qk_dim * exact, abs=1)
                    assert now.scale == pytest.approx(now.qk_dim**-0.5)
                    assert (now.num_heads, now.window, now.shift) == (was.num_heads, was.window, was.shift)
                else:
                    assert now.hidden_dim == pytest.approx(was.hidden_dim * exact, abs=0.5)
    assert scaled.stem.widths[-1] == scaled.stages[0].width


@pytest.mark.parametrize("name", ["swin_t", "efficientvit_m0", "efficientvit_m5"])
def test_the_same_width_is_the_same_network(name):
    config = make_config(name)
    assert scale_width(config, config.stages[0].width, scale_qk=True) == config


def test_widths_and_head_dimensions_stay_even_and_splits_stay_whole():
    config = scale_width(make_config("deit_t"), 159.2, scale_qk=True)
    attention = config.layers[0]
    assert (config.stages[0].width, attention.qk_dim, attention.v_dim) == (160, 54, 54)
    split = scale_width(make_config("deit_t", attention="cascaded"), 160, scale_qk=True)
    assert split.stages[0].width == 162  # 3 heads, even
    assert split.layers[0].v_dim == 54


def test_a_stated_query_dimension_stays():
    config = make_config("deit_t", qk_dim=16)
    attention = scale_width(config, 96, scale_qk=False).layers[0]
    assert (attention.qk_dim, attention.v_dim, attention.scale) == (16, 32, 0.25)


@pytest.mark.parametrize("name", ZOO)
def test_what_is_scaled_can_be_built(name):
    config = make_config(name, image_size=64)
    narrow = build_model(scale_width(config, config.stages[0].width * 0.5, scale_qk=True), seed=0).eval()
    assert narrow(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)


def test_the_first_stage_may_be_told_while_the_others_follow_the_width():
    """M4 has 128, 256 and 384 channels, in steps of 4."""
    config = make_config("efficientvit_m4")
    told = scale_width(config, 134.67, scale_qk=False, first=132)
    assert [stage.width for stage in told.stages] == [132, 268, 404]
    assert told.stem.widths[-1] == 132
    assert find_problems(told) == []
    assert scale_width(config, 132, scale_qk=False, first=132) == scale_width(config, 132, scale_qk=False)
