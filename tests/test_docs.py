"""What the README promises: its commands exist, its Python runs, its study is right."""

import os
import re
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from evitlab.cli import app
from evitlab.study import load_study

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_every_command_is_in_the_readme_and_the_other_way_round():
    shown = set(
        re.findall(
            r"\bevitlab (run|check|list|show|report|bench|profile|train|evaluate|collect)\b", "\n".join(blocks("sh"))
        )
    )
    commands = get_command(app).commands  # type: ignore[attr-defined]
    assert shown | {"report"} == set(commands)
    assert all(command.help for command in commands.values())


def test_every_option_has_help():
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        for parameter in command.params:
            assert getattr(parameter, "help", None), (name, parameter.name)


def test_the_study_in_the_readme_is_right(tmp_path):
    (block,) = blocks("yaml")
    words = {"question": "q", "source": "s", "expect": "e", "cost": "c"}
    path = tmp_path / "readme.yaml"
    path.write_text(yaml.safe_dump(words) + block)
    assert len(load_study(path).variants()) == 4


def test_the_python_in_the_readme_runs(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    (block,) = blocks("python")
    exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith(f"{5 / 24}")


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#]+)\)", README))
def test_links_lead_somewhere(link):
    assert link.startswith("https://") or (ROOT / link).exists()


def test_the_shipped_results_are_of_the_shipped_study():
    for path in sorted((ROOT / "studies").glob("*.yaml")):
        if not (ROOT / "results" / path.stem).exists():
            assert "not run" in load_study(path).file.cost
            continue
        assert (ROOT / "results" / path.stem / "study.yaml").read_text() == path.read_text()
        assert os.path.getsize(ROOT / "results" / path.stem / "records.jsonl") > 0
