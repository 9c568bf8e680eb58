"""The committed notebooks keep the house rules; nbval runs them (see the Makefile)."""

import ast
import json
import re
import statistics
import subprocess
import sys

import papermill
import pytest
from nbconvert import ScriptExporter

from grefel_lib.commands import COMMANDS
from grefel_lib.commands.notebook import notebook_path
from grefel_lib.config import FIELDS, PROJECT_ROOT, command_settings
from grefel_lib.faces import load_faces
from grefel_lib.run import start_run

COMMAND_OF = {  # how a notebook asks for its settings: whose they are
    ("resolve", ""): "train",
    ("resolve", 'command="finetune"'): "finetune",
    ("resolve", 'command="explore"'): "explore",
    ("resolve_evaluation", ""): "evaluate",
    ("resolve_evaluation", 'command="explain"'): "explain",
    ("resolve_comparison", ""): "compare",
}
PATHS = sorted((PROJECT_ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def notebook(request):
    return request.param, json.loads(request.param.read_text())


def code_cells(content):
    return [cell for cell in content["cells"] if cell["cell_type"] == "code"]


def source(cell):
    return "".join(cell["source"])


def tagged(content, tag):
    return [c for c in code_cells(content) if tag in c["metadata"].get("tags", [])]


def test_there_are_notebooks_and_each_is_named_for_what_it_answers():
    assert len(PATHS) >= 4
    assert all(re.fullmatch(r"\d\d_[a-z_]+", path.stem) for path in PATHS)


def parameter_lines(content):
    """The lines of the one parameters cell, without a comment at its end."""
    (cell,) = tagged(content, "parameters")
    lines = source(cell).splitlines()
    assert len(lines) <= 20
    return lines[:-1] if lines[-1].startswith("# ") else lines


def test_one_short_parameters_cell_of_plain_scalars_named_like_settings(notebook):
    _, content = notebook
    for line in parameter_lines(content):
        match = re.fullmatch(r"(\w+): (str|int|float|bool) = ([^#=]+)", line)
        assert match, line
        name, kind, value = match.groups()
        assert FIELDS[name].type.__name__ == kind
        assert value == "None" or isinstance(ast.literal_eval(value), FIELDS[name].type)


def test_papermill_sees_every_parameter(notebook):
    path, content = notebook
    declared = [line.split(":")[0] for line in parameter_lines(content)]
    assert list(papermill.inspect_notebook(str(path))) == declared


def test_parameters_reach_the_library_as_settings_of_the_notebooks_command(notebook):
    path, content = notebook
    text = "\n".join(source(cell) for cell in code_cells(content))
    (call,) = re.findall(r"= (resolve\w*)\(([^)]*)\)", text)
    command = COMMAND_OF[call]
    declared = {line.split(":")[0] for line in parameter_lines(content)}
    assert declared <= command_settings(command).keys()
    run_by = {name: notebook_path(name) for name in COMMANDS}
    assert path == run_by.get(command, path)
    assert command in run_by or path not in run_by.values()


def test_executed_from_top_to_bottom_without_an_error(notebook):
    _, content = notebook
    cells = code_cells(content)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [o for o in outputs if o["output_type"] == "error"]
    shown = {kind for output in outputs for kind in output.get("data", {})}
    assert shown & {"image/png", "image/jpeg"}, "no figure to see"
    for cell in tagged(content, "nbval-check-output"):
        assert cell["outputs"]


def test_no_leaked_path_progress_bar_warning_or_foreign_metadata(notebook):
    path, content = notebook
    text = path.read_text()
    for leak in ("/root/", "/home/", "/tmp/", "/Users/", str(PROJECT_ROOT), "it/s]", "Warning"):
        assert leak not in text, leak
    assert not {"papermill", "widgets"} & content["metadata"].keys()
    assert "jupyter.widget" not in text, "run headless: a widget lives in no file"
    assert content["metadata"]["kernelspec"]["name"] == "python3"
    assert len(text) < 200_000


def test_cells_are_few_and_short(notebook):
    _, content = notebook
    cells = code_cells(content)
    longest = [len(source(c).splitlines()) for c in cells if c not in tagged(content, "parameters")]
    assert 8 <= len(cells) <= 25
    assert statistics.median(longest) <= 6
    assert max(longest) <= 25
    text = "\n".join(map(source, cells))
    assert text.count("\ndef ") + text.startswith("def ") <= 1
    assert not re.search(r"^class |^!|^%|autoreload|filterwarnings", text, re.M)


def test_no_line_of_a_text_is_there_twice(notebook):
    _, content = notebook
    for cell in content["cells"]:
        lines = [line for line in source(cell).splitlines() if len(line) > 30]
        assert cell["cell_type"] == "code" or len(set(lines)) == len(lines), cell["id"]


def test_every_name_that_is_imported_is_used(notebook):
    _, content = notebook
    tree = ast.parse("\n".join(map(source, code_cells(content))))
    imported = {
        (alias.asname or alias.name).split(".")[0]
        for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }  # fmt: skip
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert imported <= used


def test_exported_as_a_script_every_name_is_defined(notebook):
    script, _ = ScriptExporter().from_filename(str(notebook[0]))
    command = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--isolated",
        "--select",
        "F821,F822",
        "--quiet",
        "-",
    ]
    done = subprocess.run(command, input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_links_resolve(notebook):
    path, content = notebook
    text = "".join("".join(c["source"]) for c in content["cells"] if c["cell_type"] == "markdown")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target


def test_the_cell_with_an_own_loss_can_be_run_again(tiny):
    """As when the command was killed after it: the same command then runs it once more."""
    content = json.loads((PROJECT_ROOT / "notebooks/03_training.ipynb").read_text())
    first, (own,) = code_cells(content)[0], [c for c in code_cells(content) if "focal" in source(c)]
    names = {"config": tiny, "faces": load_faces(tiny)}
    names["run"] = start_run(tiny, names["faces"].info)
    for code in (first, own, own):
        exec(source(code), names)
    assert names["own"].path == names["run"].path / "own_loss"
    assert names["own"].status() == "ok"
    assert len(names["own"].history()) == 1
