"""Figures as files: every format, the same bytes in any process, letters as paths, small."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from fake_records import make_profile

from evitlab.report.frame import FORMATS, METADATA, RASTER, to_bytes, write_figure
from evitlab.report.profile_figures import roofline_plot

DRAW = (
    "import hashlib; from fake_records import make_profile; from evitlab.report.frame import METADATA, to_bytes;"
    "from evitlab.report.profile_figures import roofline_plot;"
    "figure = roofline_plot(make_profile(), title='T');"
    "print(*(hashlib.sha256(to_bytes(figure, kind)).hexdigest() for kind in METADATA))"
)


def draw():
    return roofline_plot(make_profile(), title="T")


@pytest.mark.slow
def test_files_are_the_same_in_every_process():
    found = []
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(map(str, sys.path))}
        environment |= {"SOURCE_DATE_EPOCH": seed}  # matplotlib would write it as the date
        done = subprocess.run([sys.executable, "-c", DRAW], env=environment, capture_output=True, text=True, check=True)
        found.append(done.stdout.split())
    figure = draw()
    here = [hashlib.sha256(to_bytes(figure, kind)).hexdigest() for kind in METADATA]
    assert found == [here, here]


@pytest.mark.slow
def test_one_call_writes_every_format(tmp_path):
    files = write_figure(draw(), tmp_path, "roofline")
    assert list(files) == ["roofline.png", "roofline.svg"] == [f"roofline.{kind}" for kind in FORMATS]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files
    assert list(write_figure(draw(), tmp_path / "raster", "map", formats=RASTER)) == ["map.png"]


def test_an_svg_needs_no_font_and_tells_no_date(tmp_path):
    data = to_bytes(draw(), "svg")
    root = ElementTree.fromstring(data)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert not root.findall(".//{http://www.w3.org/2000/svg}text")
    assert b"date" not in data
    assert len(data) < 400_000


@pytest.mark.parametrize(("kind", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_each_kind_is_what_it_says(kind, start):
    assert to_bytes(draw(), kind).startswith(start)


def test_what_results_hold_is_listed_in_one_place():
    """No report writes a figure by itself."""
    room = Path(__file__).parents[1] / "evitlab"
    writers = {path.name for path in room.rglob("*.py") if "savefig(" in path.read_text()}
    assert writers == {"frame.py"}
    assert not [path.name for path in room.rglob("*.py") if "to_bytes(" in path.read_text() and path.name != "frame.py"]
