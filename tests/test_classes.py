"""Classes of operators: disjoint, spelt as torch spells them."""

import torch

from evitlab.measure.classes import OPERATOR_CLASSES, OTHER, classify
from evitlab.measurements.profile import MEMORY_BOUND


def test_classes_are_disjoint_and_know_in_place_operators():
    names = [name for members in OPERATOR_CLASSES.values() for name in members]
    assert len(names) == len(set(names))
    assert set(MEMORY_BOUND) < set(OPERATOR_CLASSES)
    assert classify("aten::relu_") == classify("aten::relu") == "element-wise"
    assert classify("aten::erfinv") == classify("my::relu_relu") == classify("my::relu") == OTHER
    assert classify("mkldnn::_linear_pointwise") == "matrix product"


def test_every_name_is_an_operator_of_torch():
    known = {schema.name.removeprefix("aten::") for schema in torch._C._jit_get_all_schemas()}
    names = {name for members in OPERATOR_CLASSES.values() for name in members}
    assert {name for name in names if not {name, f"{name}_"} & known} == set()
