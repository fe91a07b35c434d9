"""`evitlab show` on the committed results, its filters, and `results/README.md`."""

import json
import re
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest

from evitlab.cli import main
from evitlab.problems import UserError
from evitlab.report.columns import COLUMNS
from evitlab.report.folders import list_folders
from evitlab.report.index_text import render_index_text
from evitlab.report.rows.choice import choose_rows
from evitlab.report.rows.tables import to_markdown

ROOT = Path(__file__).parents[1]


@pytest.fixture
def show(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["evitlab", "show", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return run


def test_sorted_and_filtered_it_is_the_same_numbers(show):
    written = pd.read_csv(ROOT / "results/tiny_imagenet_swin/table.csv")
    expected = written[(written["top1"] > 0.15) & written["variant"].str.contains("1.5")].sort_values("top1")
    options = ("--filter", "top1>0.15", "--filter", "variant~1.5", "--sort", "top1", "--columns", "variant,top1")
    code, out, _ = show("tiny_imagenet_swin", *options, "--csv")
    assert code == 0
    assert pd.read_csv(StringIO(out))["top1"].tolist() == expected["top1"].tolist()
    rows = json.loads(show("tiny_imagenet_swin", *options, "--json")[1])
    assert [row["variant"] for row in rows] == expected["variant"].tolist()
    text = show("tiny_imagenet_swin", *options, "--markdown")[1].splitlines()
    assert text[:2] == ["| variant | top1 (%) |", "| --- | ---: |"]
    assert len(text) == 2 + len(expected)


def test_sorted_for_people_the_order_holds(show):
    out = show("tiny_imagenet_efficientvit", "--sort", "-infer_samples_per_sec", "--filter", "top1>0")[1]
    assert re.findall(r"M\d", out)[:6] == ["M0", "M1", "M2", "M3", "M4", "M5"]
    out = show("prune_deit_t", "--sort", "-macs", "--columns", "variant,macs")[1]
    assert out.index("6.12M") < out.index("3.67M")


def test_with_no_name_it_lists_folders_with_their_questions(show):
    code, out, _ = show()
    assert code == 0
    assert re.search(r"mhsa_ratio +8 variants +match, throughput, macs, operators, train\n +At equal throughput", out)
    names = [folder["name"] for folder in json.loads(show("--json")[1])]
    assert names == sorted(
        path.parent.name for path in ROOT.glob("results/*/records.jsonl") if "peaks" not in str(path)
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mhsa_ration"], "no results of 'mhsa_ration'; did you mean mhsa_ratio?"),
        (["../results/mhsa_ratio"], "no results of '../results/mhsa_ratio'"),
        (["mhsa_ratio", "--sort", "top11"], "no column 'top11'; did you mean top1?"),
        (["mhsa_ratio", "--columns", "variant,mac"], "no column 'mac'; did you mean macs?"),
        (["mhsa_ratio", "--filter", "top_1>0.5"], "no column 'top_1'; did you mean top1?"),
        (["mhsa_ratio", "--filter", "top1>high"], "top1 is a number, which 'high' is not"),
        (["mhsa_ratio", "--filter", "top1"], "a filter must be COLUMN"),
        (["mhsa_ratio", "--filter", "match_reached>1"], "match_reached is a flag"),
        (["mhsa_ratio", "--where", "machine=x"], "no measurement was made with machine=x"),
        (["mhsa_ratio", "--smoke"], "no smoke runs"),
        (["mhsa_ratio", "--csv", "--json"], "exclude each other"),
        (["--results", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_mistakes_are_one_line(show, arguments, message):
    code, out, err = show(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.strip().splitlines()) == 1


TABLE = pd.DataFrame(
    {
        "variant": ["DeiT-a", "swin", "deit-b"],
        "top1": [0.5, None, 0.7],
        "macs": pd.array([3, 1, None], dtype="Int64"),
        "match_reached": pd.array([True, False, None], dtype="boolean"),
    }
)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("top1>0.5", [2]), ("top1>=0.5", [0, 2]), ("top1 < 0.7", [0]), ("top1!=0.5", [2]), ("macs=3", [0]),
        ("variant~DEIT", [0, 2]), ("variant!~deit", [1]), ("variant=swin", [1]), ("variant == 'swin'", [1]),
        ("match_reached=true", [0]), ("match_reached!=true", [1]), ("macs<=1e0", [1]),
    ],
)  # fmt: skip
def test_filters(text, kept):
    assert list(choose_rows(TABLE, [text], []).index) == kept


@pytest.mark.parametrize(
    "text", ["__import__('os').system('true')", "@pd", "top1.abs()>0", "(top1)>0", "top1>0 or 1=1"]
)
def test_a_filter_cannot_execute(text):
    with pytest.raises(UserError):
        choose_rows(TABLE, [text], [])


def test_sorting_keeps_empty_cells_last_and_takes_several_columns():
    assert list(choose_rows(TABLE, [], ["-top1"]).index) == [2, 0, 1]
    assert list(choose_rows(TABLE, [], ["macs"]).index) == [1, 0, 2]
    tied = TABLE.assign(top1=[1.0, 1.0, 2.0])
    assert list(choose_rows(tied, [], ["top1", "-variant"]).index) == [1, 0, 2]


def test_markdown_is_escaped():
    assert to_markdown(pd.DataFrame({"a": ["x|<b>"]})).splitlines()[-1] == "| x\\|&lt;b> |"


def test_it_loads_neither_torch_nor_what_draws():
    code = "import sys; sys.argv[1:] = ['show', 'mhsa_ratio']\nfrom evitlab.cli import app\n"
    code += "app(standalone_mode=False); print(*sys.modules, file=sys.stderr)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "Paper against measured" in ran.stdout
    assert not {"torch", "matplotlib", "seaborn", "scipy", "optuna"} & set(ran.stderr.split())


def test_the_committed_readme_of_the_results_is_what_the_code_writes():
    written = (ROOT / "results/README.md").read_text()
    assert written == render_index_text(ROOT / "results"), "write it anew with: evitlab report"
    assert all(f"| `{name}` | {about[0]} |" in written for name, about in COLUMNS.items())
    for folder in list_folders(ROOT / "results"):
        assert folder.question in written
    for link in re.findall(r"\]\(([^)]+)\)", written):
        assert (ROOT / "results" / link).exists(), link
