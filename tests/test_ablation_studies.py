"""The studies of the paper's ablations: what each row changes, and what it is compared with."""

import textwrap
from pathlib import Path

import pytest

from evitlab.models.config import AttentionConfig, FFNConfig
from evitlab.models.zoo import make_config
from evitlab.study import StudyError, load_study

STUDIES = Path(__file__).parents[1] / "studies"
M4 = make_config("efficientvit_m4")
GOOD = """
question: Which?
source: Fig. 3
expect: A peak.
cost: seconds
base: deit_t
grid:
  mhsa_ratio: [0, 0.5]
match: {speedup: 1.25}
tasks:
  macs: {}
  throughput: {batch_size: 2}
  train: {seeds: [0, 1], proxy: {image_size: 32, patch_size: 8, width: 48}}
"""


@pytest.fixture
def write(tmp_path):
    def write_study(text: str) -> Path:
        path = tmp_path / "a_study.yaml"
        path.write_text(textwrap.dedent(text))
        return path

    return write_study


def rows_of(name: str) -> list:
    """Networks of a study's rows, in the order of Table 6."""
    return [variant.make_config() for variant in load_study(STUDIES / f"{name}.yaml").variants()]


def attentions(config) -> list[AttentionConfig]:
    return [layer for layer in config.layers if layer.type == "attention"]


def ffns(config) -> list[FFNConfig]:
    return [layer for layer in config.layers if layer.type == "ffn"]


def around(config) -> list[FFNConfig]:
    """The FFNs around the subsampling."""
    downs = [stage.downsample for stage in config.stages if stage.downsample is not None]
    return [ffn for down in downs for ffn in (*down.before, *down.after)]


@pytest.mark.parametrize("name", ["m4_ablation", "m4_swaps", "tiny_imagenet_m4_ablation"])
class TestTable6:
    """Eleven rows; M4 is that of the paper's Table 1: depths 1, 2, 3, widths 128, 256, 384, 4 heads."""

    def test_the_layouts(self, name):
        orders = [
            [[[layer.type for layer in block.layers] for block in stage.blocks] for stage in config.stages]
            for config in rows_of(name)
        ]
        one = ["ffn", "attention", "ffn"]
        assert orders[0] == [[one], [one] * 2, [one] * 3]
        swin = ["attention", "ffn"]
        assert orders[1] == [[swin], [swin] * 2, [swin] * 3]
        for row, count in ((2, 2), (3, 3)):
            block = ["ffn"] * count + ["attention"] + ["ffn"] * count
            assert orders[row] == [[block], [block] * 2, [block] * 3]
        assert all(order == orders[0] for order in orders[4:])
        assert [len(around(config)) for config in rows_of(name)] == [4] * 11

    def test_the_attentions(self, name):
        rows = rows_of(name)
        kinds = [{layer.kind for layer in attentions(config)} for config in rows]
        assert kinds == [{"cascaded"}] * 4 + [{"mhsa"}, {"group"}] + [{"cascaded"}] * 5
        for number, config in enumerate(rows, start=1):
            widths = [(128, 1), (256, 2), (384, 3)]
            dims = [(layer.qk_dim, layer.v_dim) for layer in attentions(config)]
            qk = (lambda width: width // 4) if number == 7 else lambda width: 16
            assert dims == [(qk(width), width // 4) for width, depth in widths for _ in range(depth)]
            assert {layer.query_kernels for layer in attentions(config)} == {(7, 5, 3, 3)}

    def test_the_ffns_the_norms_and_the_activations(self, name):
        for number, config in enumerate(rows_of(name), start=1):
            for stage in config.stages:
                hidden = {layer.hidden_dim for block in stage.blocks for layer in block.layers if layer.type == "ffn"}
                assert hidden == {(4 if number == 8 else 2) * stage.width}
            kernels = {layer.depthwise_kernel for layer in [*ffns(config), *around(config)]}
            assert kernels == {None if number == 9 else 3}
            assert config.norm == ("layer" if number == 10 else "batch")
            assert config.act == ("hardswish" if number == 11 else "relu")

    def test_all_else_is_the_first_row_and_that_is_the_base(self, name):
        study = load_study(STUDIES / f"{name}.yaml")
        first, *others = study.variants()
        assert first.make_config() == M4
        assert set(study.baselines.values()) == {first.name}
        assert [variant.changes for variant in others if len(variant.changes) != 1] == []
        assert list(study.paper_top1()) == list(study.paper_speeds()) == [v.name for v in study.variants()]
        assert study.paper_top1()[first.name] == 0.713
        assert all((variant.speedup == 1.0) == (name != "m4_swaps") for variant in others)


@pytest.mark.parametrize("name", ["qk_dim", "v_ratio", "tiny_imagenet_qk_dim", "tiny_imagenet_v_ratio"])
def test_the_studies_of_figure_7_compare_with_m4(name):
    """The base row's top-1 and images/s are M4's own."""
    study = load_study(STUDIES / f"{name}.yaml")
    (other,) = set(study.baselines.values())
    variants = {variant.name: variant for variant in study.variants()}
    assert variants[other].make_config() == M4
    assert (study.paper_top1()[other], study.paper_speeds()[other]) == (0.713, 15910)
    assert list(study.paper_top1()) == list(study.paper_speeds()) == list(variants)


@pytest.mark.parametrize("name", ["ffn_ratio", "tiny_imagenet_ffn_ratio"])
def test_each_network_is_compared_with_its_own_published_expansion(name):
    study = load_study(STUDIES / f"{name}.yaml")
    published = {"deit_t": 4, "swin_t": 4, "efficientvit_m4": 2}
    assert study.baselines == {
        f"base={network}, ffn_ratio={ratio}": f"base={network}, ffn_ratio={own}"
        for network, own in published.items()
        for ratio in (1, 2, 3, 4)
    }
    assert set(study.references) == {"base", "swin_t", "efficientvit_m4"}


class TestBaselines:
    """Which row a variant's accuracy is compared with."""

    def test_a_grid_has_the_network_that_it_starts_from(self, write):
        study = load_study(write(GOOD))
        assert study.baselines == {"mhsa_ratio=0": "mhsa_ratio=0.5", "mhsa_ratio=0.5": "mhsa_ratio=0.5"}

    def test_once_for_each_speed_and_each_network(self, write):
        grid = "grid:\n  base: [deit_t, swin_t]\n  speedup: [1.25, 1.5]\n  mhsa_ratio: [0.2, 0.5]\n"
        text = GOOD.replace("grid:\n  mhsa_ratio: [0, 0.5]\n", grid).replace(
            ", proxy: {image_size: 32, patch_size: 8, width: 48}", ""
        )
        found = load_study(write(text)).baselines
        assert len(found) == 8
        for name, other in found.items():
            assert other == name.replace("mhsa_ratio=0.2", "mhsa_ratio=0.5")

    def test_none_where_no_variant_is_that_network(self, write):
        assert load_study(write(GOOD.replace("[0, 0.5]", "[0, 0.2]"))).baselines == {}

    def test_the_bases_own_knobs_count(self, write):
        text = GOOD.replace("base: deit_t", "base: {name: deit_t, mhsa_ratio: 0.2}").replace("[0, 0.5]", "[0.2, 0.5]")
        assert set(load_study(write(text)).baselines.values()) == {"mhsa_ratio=0.2"}

    def test_a_study_may_say_which(self, write):
        study = load_study(write(GOOD + "compare_to: mhsa_ratio=0\n"))
        assert set(study.baselines.values()) == {"mhsa_ratio=0"}

    def test_what_is_compared_is_no_part_of_what_is_asked(self, write):
        """Records made before stay valid."""
        plain, cited = load_study(write(GOOD)), load_study(write(GOOD + "compare_to: mhsa_ratio=0\n"))
        assert plain.requests() == cited.requests()


def test_what_a_variant_changes_the_proxy_does_not_set(write):
    """Heads of 48 / 5 would be refused; the variant's own two are kept in its proxy."""
    text = GOOD.replace("grid:\n  mhsa_ratio: [0, 0.5]", "variants: {two: {num_heads: 2}}")
    load_study(write(text.replace("width: 48}", "width: 48, num_heads: 5}")))
    with pytest.raises(StudyError, match=r"tasks\.train\.proxy: num_heads must divide width"):
        load_study(write(text.replace("num_heads: 2", "qk_dim: 4").replace("width: 48}", "width: 48, num_heads: 5}")))
