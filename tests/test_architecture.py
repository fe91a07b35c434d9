"""The house rules: who may import whom, what stays free of torch, how long files and functions may be."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "evitlab"
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))

# Lowest first. A module may import what stands before it: in its own row to the left, and every row above.
# A `*` stands for a folder whose modules do not import one another unless they are named.
LAYERS: dict[str, list[str]] = {
    "paper": [
        "problems", "paper", "claims", "models.config", "models.knobs", "models.sandwich", "models.zoo", "models.scale",
        "prune.groups", "prune.costs",
        "measurements.terms", "measurements.macs", "measurements.speed", "measurements.profile",
        "measurements.accuracy", "measurements.heads", "measurements.pruning", "measurements.by_task",
        "curves", "recipes", "bounds", "records", "sweep.search", "settings", "yamlfile", "options", "pruning_settings",
        "checks", "study", "width_search",
        "store", "drawings", "sweep.domination", "sweep.gate", "cores", "stopping", "sweep.identity",
    ],
    "reports": [
        "report.columns", "report.student", "report.folders", "report.tables", "report.conditions",
        "report.timing_tables", "report.profile_tables", "report.repeats", "report.comparison.differences",
        "report.comparison.paper", "report.comparison.tables", "report.study_tables", "report.pruning.tables",
        "report.pruning.claims", "report.rows.cells", "report.rows.tidy", "report.rows.comparison",
        "report.rows.choice", "report.rows.tables", "report.index_text", "report.frame", "report.comparison.figures",
        "report.knob_figures", "report.figures", "report.timing_figures", "report.profile_figures",
        "report.series_figures", "report.evaluation.tables", "report.training_tables", "report.evaluation.figures",
        "report.evaluation.attention", "report.training_figures", "report.evaluation.report", "report.page_data",
        "report.markup", "report.html", "report.comparison.report", "report.heads.tables", "report.heads.figures",
        "report.heads.report", "report.evaluation.study", "report.search.tables", "report.search.figures",
        "report.search.report", "report.study_report", "report.pruning.figures", "report.pruning.report",
        "report.models.tables", "report.models.figures", "report.models.page", "report.models.report",
        "report.index", "report.zoo_tables", "progress", "agenda", "report.reproduction.evidence",
        "report.reproduction.memory_verdicts", "report.reproduction.block_verdicts",
        "report.reproduction.claim_verdicts", "report.reproduction.verdicts", "report.reproduction.figures",
        "report.reproduction.page",
    ],
    "networks": [
        "models.layers", "models.attention", "models.ffn", "models.network", "models.weights", "models.named",
        "models.capture",
    ],
    "environment": ["environment", "memory"],
    "tasks": [
        "measure.inputs", "measure.intervals", "measure.macs", "measure.execution",
        "measure.clock", "measure.rounds", "measure.throughput", "measure.self_test",
        "measure.batch_curve",
        "measure.kernels", "measure.classes", "measure.dispatch", "measure.parts", "measure.passes", "measure.roofline",
        "measure.operators",
        "measure.head_outputs", "measure.head_statistics", "measure.heads",
        "train.shapes", "train.decode", "train.archives", "train.folders", "train.cifar", "train.sources",
        "train.cache", "train.data", "train.metrics", "train.processes", "train.augment", "train.batches",
        "train.optim", "train.stochastic_depth", "train.distill", "train.evaluation", "train.step", "train.checkpoint",
        "train.loop",
        "prune.importance", "prune.plan", "prune.surgery",
    ],
    "orchestration": [
        "proxies", "subnetworks", "judging", "comparing", "tasks", "lab", "attempts", "side_by_side", "runner",
        "sweep.storages", "sweep.workers", "sweep.sampling", "sweep.trials", "sweep.knob_importance", "sweep.run",
        "desk.desk", "desk.bench", "desk.trainings", "desk.likeness", "desk.pruning_weights", "desk.pruning_steps",
        "desk.pruning_speed", "desk.prunings",
    ],
    "entry": [
        "commands.options", "commands.models", "commands.training", "commands.heads", "commands.pruning",
        "commands.sweeps", "commands.show", "commands.run", "commands.report", "commands.reproduce", "cli", "__main__",
    ],
}  # fmt: skip
BELOW = {
    "paper": [],
    "reports": ["paper"],
    "networks": ["paper"],
    "environment": ["paper"],
    "tasks": ["paper", "networks", "environment"],
    "orchestration": ["paper", "networks", "environment", "tasks"],
    "entry": list(LAYERS),
}
TORCH_FREE = ("paper", "reports")
APART = ("measure", "train", "prune")  # rooms of one layer that must not know each other


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports_of(source: str) -> set[str]:
    """Modules of evitlab that a source imports anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "evitlab":
            room = (node.module or "").removeprefix("evitlab").removeprefix(".")
            inside = {f"{room}.{name.name}".removeprefix(".") for name in node.names}
            found |= (inside & {name_of(path) for path in MODULES}) or {room}
        if isinstance(node, ast.Import):
            found |= {a.name.removeprefix("evitlab.") for a in node.names if a.name.startswith("evitlab.")}
    return found


def layer_of(module: str) -> str:
    return next(layer for layer, modules in LAYERS.items() if module in modules)


def find_wrong_imports(module: str, imports: set[str]) -> list[str]:
    layer = layer_of(module)
    own = LAYERS[layer]
    wrong = []
    for imported in imports - {""}:
        if imported in own:
            rooms = {module.split(".")[0], imported.split(".")[0]}
            apart = len(rooms) == 2 and rooms <= set(APART)
            allowed = own.index(imported) < own.index(module) and not apart
        else:
            allowed = layer_of(imported) in BELOW[layer]
        if not allowed:
            wrong.append(f"{module} must not import {imported}")
    return wrong


def test_every_module_has_a_place_in_the_table():
    named = {module for modules in LAYERS.values() for module in modules}
    real = {name_of(path) for path in MODULES if path.name != "__init__.py"}
    assert named == real


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_one_way(path):
    if path.name == "__init__.py":
        return
    assert find_wrong_imports(name_of(path), imports_of(path.read_text())) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("study", "from evitlab.store import append"),
        ("study", "from evitlab import store"),
        ("models.config", "import evitlab.models.zoo"),
        ("store", "from evitlab.models.network import build_model"),
        ("report.html", "def f():\n    from evitlab.runner import run_variants"),
        ("train.loop", "from evitlab.measure.macs import count_macs"),
        ("prune.plan", "from evitlab.measure.macs import count_macs"),
        ("runner", "from evitlab.cli import main"),
    ],
)
def test_the_check_can_fail(module, source):
    assert len(find_wrong_imports(module, imports_of(source))) == 1


def loaded_after(code: str) -> set[str]:
    command = [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def test_the_paper_half_never_loads_torch():
    modules = [module for layer in TORCH_FREE for module in LAYERS[layer]]
    code = "import evitlab, evitlab.cli\n" + "\n".join(f"import evitlab.{module}" for module in modules)
    assert not loaded_after(code) & {"torch", "timm", "torchvision", "optuna"}


@pytest.mark.slow
def test_that_check_can_fail_too():
    assert "torch" in loaded_after("import evitlab.models.layers")


@pytest.mark.parametrize("path", [*MODULES, *sorted((ROOT / "tests").glob("*.py"))], ids=lambda path: path.stem)
def test_files_and_functions_stay_small(path):
    source = path.read_text()
    assert source.count("\n") <= 400
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno + 1 <= 60, node.name


def test_names_say_what_is_inside():
    assert not {path.stem for path in MODULES} & {"utils", "common", "helpers", "base", "core"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_public_things_have_docstrings(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "module"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), node.name


def test_nothing_that_is_loaded_can_execute():
    """Only safe YAML, no eval, no pickle but by a subclass of the unpickler that builds plain data alone."""
    for path in MODULES:
        source = path.read_text()
        assert not re.search(
            r"\bpickle\.(loads?|Unpickler)\(|\btorch\.load\(|(?<![.\w])eval\(|\bexec\(|yaml\.(unsafe|full)_load", source
        ), path


def test_the_readme_shows_exactly_the_files_that_are_there():
    tree = (ROOT / "README.md").read_text().split("```text\n")[1].split("```")[0]
    real = {
        str(path.relative_to(ROOT))
        for path in PACKAGE.rglob("*.*")
        if path.suffix in (".py", ".html", ".css", ".js") and path.name != "__init__.py"
    }
    assert set(walk_tree(tree)) == real


def walk_tree(tree: str) -> list[str]:
    """Paths of the files of a tree that is written two spaces a level, folders with a slash."""
    found, folders = [], [""]
    for line in tree.splitlines():
        depth, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        folders[depth + 1 :] = [folders[depth] + name]
        if not name.endswith("/"):
            found.append(folders[depth] + name)
    return found
