"""What README and docs promise: their commands and options exist, links lead somewhere, Python and study are right."""

import os
import re
from pathlib import Path

import pytest
from typer.main import get_command

from evitlab.cli import app
from evitlab.study import load_study

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_every_command_is_in_the_readme_and_the_other_way_round():
    commands = get_command(app).commands  # type: ignore[attr-defined]
    shown = set(re.findall(rf"\bevitlab ({'|'.join(commands)})\b", "\n".join(blocks("sh"))))
    assert shown | {"report"} == set(commands)
    assert all(command.help for command in commands.values())


def test_every_option_has_help():
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        for parameter in command.params:
            assert getattr(parameter, "help", None), (name, parameter.name)


def test_the_study_in_the_readme_is_right(tmp_path):
    (block,) = blocks("yaml")
    path = tmp_path / "readme.yaml"
    path.write_text(block)
    assert len(load_study(path).variants()) == 4


def test_the_python_in_the_readme_runs(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    (block,) = blocks("python")
    exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith(f"{5 / 24}")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_links_lead_somewhere(path):
    for link in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        assert link.startswith("https://") or (path.parent / link).exists(), link


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_commands_and_options_exist(path):
    commands = get_command(app).commands  # type: ignore[attr-defined]
    for block in re.findall(r"```sh\n(.*?)```", path.read_text(), re.DOTALL):
        for line in block.splitlines():
            for name, rest in re.findall(r"\bevitlab ([a-z]+)\b([^#;&|]*)", line):
                options = {option for parameter in commands[name].params for option in parameter.opts}
                assert set(re.findall(r"(?<!\S)--[a-z-]+", rest)) <= options, line


def test_every_page_of_the_docs_can_be_reached_from_the_readme():
    assert {path.name for path in PAGES if path.parent.name == "docs"} == set(
        re.findall(r"\]\(docs/([\w.]+)\)", README)
    )


def test_the_shipped_results_are_of_the_shipped_study():
    for path in sorted((ROOT / "studies").glob("*.yaml")):
        if not (ROOT / "results" / path.stem).exists():
            assert "not run" in load_study(path).file.cost
            continue
        assert (ROOT / "results" / path.stem / "study.yaml").read_text() == path.read_text()
        assert os.path.getsize(ROOT / "results" / path.stem / "records.jsonl") > 0
