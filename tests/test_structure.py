"""Imports run one way: a flat core that knows no folder but `sources`, and no circle anywhere."""

import ast
import re
from graphlib import CycleError, TopologicalSorter

import pytest

from grefel_lib.config import PROJECT_ROOT

LIBRARY = PROJECT_ROOT / "grefel_lib"
FLOORS = [  # a module imports from floors below its own, or from its own floor
    {"config", "labels", "metrics", "files"},
    {"environment", "sources", "window_attention", "backbone"},
    {"run", "faces", "grefel"},
    {"optim", "losses", "batches", "restore", "processes"},
    {"predict"},
    {"fit", "analysis"},
    {"report"},
    {"panels", "commands"},
]
FLOOR = {place: number for number, places in enumerate(FLOORS) for place in places}
MAY_NAME = {("processes", "commands.worker")}  # the program that a child process runs


def sources(root=LIBRARY):
    """Module name -> its text, as "fit" or "report.figures"; packages without their __init__."""
    paths = {p.relative_to(root).with_suffix("").as_posix().replace("/", "."): p
             for p in root.rglob("*.py")}  # fmt: skip
    return {name.removesuffix(".__init__"): p.read_text()
            for name, p in paths.items() if name != "__init__"}  # fmt: skip


def arrows(name, text, modules):
    """The modules that a module imports, wherever it says so, and those it runs with `-m`."""
    found = set()
    tree = ast.parse(text)
    typing = {
        inner for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }  # fmt: skip
    for node in ast.walk(tree):
        if node in typing:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("grefel_lib"):
            base = node.module.removeprefix("grefel_lib").removeprefix(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}".removeprefix(".")
                found.add(inner if inner in modules else base)
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("grefel_lib.") for a in node.names
                      if a.name.startswith("grefel_lib.")}  # fmt: skip
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            told = re.fullmatch(r"grefel_lib\.([\w.]+)", node.value)
            if told and told[1] in modules and (name, told[1]) not in MAY_NAME:
                found.add(told[1])
    return found - {"", name}


def faults(modules):
    """Every arrow that runs up, every core module that knows a folder, every circle."""
    graph = {name: arrows(name, text, modules) for name, text in modules.items()}
    told = []
    for name, targets in graph.items():
        place = name.split(".")[0]
        for target in targets:
            there = target.split(".")[0]
            if place == there:
                continue
            if FLOOR[there] > FLOOR[place]:
                told.append(f"{name} imports {target}, which stands above it")
            if "." not in name and name not in FOLDERS and there in FOLDERS - {"sources"}:
                told.append(f"the core module {name} imports {target}")
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        told.append(f"a circle: {' -> '.join(error.args[1])}")
    return told


FOLDERS = {path.name for path in LIBRARY.iterdir() if (path / "__init__.py").is_file()}


def test_imports_run_one_way_without_a_circle():
    modules = sources()
    assert {name.split(".")[0] for name in modules} == set(FLOOR)
    assert faults(modules) == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("losses", "from grefel_lib.fit import fit"),  # an arrow that runs up
        ("metrics", "def f():\n    from grefel_lib.predict import predict"),  # in a function, too
        ("optim", "COMMAND = ['-m', 'grefel_lib.commands.sweep']"),  # a program to be run
        ("predict", "from grefel_lib.sources import photo"),  # allowed
        ("fit", "import grefel_lib.report.tables"),  # the core knows no folder
        ("labels", "from grefel_lib import metrics"),  # with the next line: a circle
    ],
)
def test_an_arrow_put_in_on_purpose_is_noticed(module, line):
    modules = sources()
    modules[module] += f"\n{line}\n"
    if module == "labels":
        modules["metrics"] += "\nfrom grefel_lib.labels import EMOTIONS\n"
    assert bool(faults(modules)) == (module != "predict")


def test_every_module_says_in_its_first_line_what_it_answers():
    for name, text in sources().items():
        assert ast.get_docstring(ast.parse(text)), name
