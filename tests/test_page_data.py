"""What a page's script reads, beside the table that it came from."""

import base64
import gzip
import json

import pytest
from fake_records import make_config, make_macs, make_record, make_study, requests

from evitlab.report.page_data import embed_json, embed_packed, list_networks, list_points
from evitlab.report.tables import study_table

STUDY = make_study()


def table_of(records):
    return study_table(records, study="mhsa_ratio", requests=requests(records))


def axis(points, label):
    return next(each for each in points["axes"] if each["label"] == label)


def test_points_are_the_tables_numbers_in_the_units_of_their_labels():
    table = table_of(STUDY)
    points = list_points(table)
    assert points["names"] == list(table["variant"])
    row = points["names"].index("mhsa_ratio=0.4")
    record = next(r for r in STUDY if r.variant == "mhsa_ratio=0.4" and r.task == "throughput")
    speed = axis(points, "images/s")
    assert speed["values"][row] == record.measurement["images_per_second"]
    assert speed["low"][row] == record.measurement["images_per_second_low"]
    assert axis(points, "MACs (M)")["values"][row] == pytest.approx(table["macs"][row] / 1e6)
    assert axis(points, "top-1 %")["high"][row] == pytest.approx(100 * table["top1_high"][row])
    assert axis(points, "mhsa_ratio")["values"][row] == 0.4
    assert axis(points, "mhsa_ratio")["values"][0] is None  # the base has no change
    assert points["notes"][row] == "mhsa_ratio 0.4"


def test_it_begins_with_speed_and_accuracy_or_with_what_there_is():
    points = list_points(table_of(STUDY))
    assert [points["axes"][points[name]]["label"] for name in "xy"] == ["speed over the reference", "top-1 %"]
    counted = list_points(table_of([record for record in STUDY if record.task == "macs"]))
    assert counted["axes"][counted["x"]]["label"] == "MACs (M)"
    assert counted["x"] != counted["y"]
    assert "top-1 %" not in [each["label"] for each in counted["axes"]]
    assert list_points(table_of([]))["axes"] == []


def test_knobs_that_are_no_numbers_are_told_and_not_drawn():
    knobs = {"act": "relu", "depth": [1, 2], "depthwise": True, "qk_dim": 16}
    points = list_points(table_of([make_record("macs", make_macs(), variant="a", knobs=knobs)]))
    assert points["notes"] == ["act relu, depth [1, 2], depthwise True, qk_dim 16"]
    assert {"act", "depth", "depthwise"} & {each["label"] for each in points["axes"]} == set()
    assert axis(points, "qk_dim")["values"] == [16.0]


def test_networks_are_listed_once_with_all_that_was_measured_of_them():
    first, second = make_config(width=8, size=32), make_config(width=9, size=32)
    records = [
        make_record("macs", make_macs(), variant="a", config=first),
        make_record("throughput", make_macs(), variant="a", config=first),
        make_record("train", make_macs(), variant="a", config=second, seed=0),
        make_record("train", make_macs(), variant="a", config=second, seed=1),
    ]
    assert list_networks(records) == {"a": [("macs, throughput", json.dumps(first)), ("train", json.dumps(second))]}


def test_data_cannot_leave_its_script():
    evil = {"</script><script>alert(1)</script>": "<!-- & -->"}
    text = embed_json("points", evil)
    inside = text.removeprefix('<script type="application/json" id="points">').removesuffix("</script>")
    assert not set("<>&") & set(inside)
    assert json.loads(inside) == evil
    packed = embed_packed("networks", evil)
    inside = packed.removeprefix('<script type="text/plain" id="networks">').removesuffix("</script>")
    assert json.loads(gzip.decompress(base64.b64decode(inside))) == evil
    assert packed == embed_packed("networks", evil)
