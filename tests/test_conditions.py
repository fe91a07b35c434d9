from dataclasses import replace

from fake_records import make_curve, make_profile, make_throughput

from evitlab.report.conditions import describe_shared


def test_conditions_in_words():
    common = "fp32; contiguous; BatchNorm folded"
    rest = "linear layers by MKL; attention fused"
    assert describe_shared([make_throughput()]) == f"batch 16; 224x224 pixels; {common}; eager; {rest}"
    assert describe_shared([make_profile()]) == f"batch 16; 224x224 pixels; {common}; {rest}"
    assert describe_shared([make_curve()]) == f"224x224 pixels; {common}; eager; {rest}"
    assert "BatchNorm not folded" in describe_shared([replace(make_profile(), folded=False)])


def test_what_differs_is_left_out():
    other = replace(make_profile(), batch_size=8, image_size=(256, 192), folded=False)
    assert describe_shared([make_profile(), other]) == "fp32; contiguous; linear layers by MKL; attention fused"
    assert describe_shared([]) == ""
