"""Notebooks run headless: their parameters arrive, are checked, and nothing else counts."""

import json
import subprocess
import sys

import nbformat
import pytest

from grefel_lib.commands import NotebookError
from grefel_lib.commands.notebook import execute_notebook, resolve
from grefel_lib.config import PROFILES, Config

PARAMETERS = 'profile: str = "auto"\nlr: float = None'
RESOLVE = "from grefel_lib.commands.notebook import resolve\nconfig = resolve()"
KEEP = """import json, pathlib
with pathlib.Path({!r}).open("a") as file:
    print(json.dumps(config.to_dict()), file=file)"""


def notebook(path, *cells):
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    made.cells[0].metadata["tags"] = ["parameters"]
    made.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "P"}
    nbformat.write(made, path)
    return path


@pytest.fixture
def run_cells(tmp_path):
    """Run cells in one kernel; the configs that they resolved, one for each KEEP among them."""

    def run(*cells, **parameters):
        file = tmp_path / "configs.jsonl"
        cells = [cell.replace(KEEP, KEEP.format(str(file))) for cell in cells]
        source = notebook(tmp_path / "n.ipynb", *cells)
        execute_notebook(source, tmp_path / "out/n.ipynb", parameters)
        return [Config.from_dict(json.loads(line)) for line in file.read_text().splitlines()]

    return run


# -- running


def test_parameters_arrive_and_the_executed_notebook_is_kept(tmp_path, capsys):
    parameters = "a: int = 1  # a number\nb: str = None  # text"
    work = "import json\nopen('found.json', 'w').write(json.dumps([a, b]))\nprint(a)"
    source = notebook(tmp_path / "n.ipynb", parameters, work)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        execute_notebook(source, tmp_path / "out/n.ipynb", {"a": 5, "b": "x"})
    assert json.loads((tmp_path / "found.json").read_text()) == [5, "x"]
    assert "5" in capsys.readouterr().out
    assert (tmp_path / "out/n.ipynb").is_file()


def test_a_failing_cell_fails_the_run_and_an_empty_folder_is_taken_away(tmp_path):
    source = notebook(tmp_path / "n.ipynb", "a: int = 1", "raise ValueError('a is too small')")
    with pytest.raises(NotebookError, match=r"^a is too small$"):
        execute_notebook(source, tmp_path / "out/n.ipynb", {})
    assert not (tmp_path / "out").exists()


def test_an_unexpected_error_names_its_type_and_keeps_the_notebook(tmp_path):
    (tmp_path / "out").mkdir()
    source = notebook(tmp_path / "n.ipynb", "a: int = 1", "{}['k']")
    with pytest.raises(NotebookError, match=r"KeyError: 'k' \(see .*n\.ipynb\)"):
        execute_notebook(source, tmp_path / "out/n.ipynb", {})
    assert (tmp_path / "out/n.ipynb").is_file()


# -- parameters


def test_a_setting_outside_the_parameters_cell_arrives_and_other_names_change_nothing(run_cells):
    other = "image_size = 32\nseed: int = 5; print(seed)\ndef epochs():\n    return 3"
    (config,) = run_cells(PARAMETERS, other, RESOLVE, KEEP, mix_prob=0.25, lr=0.5)
    assert config == Config.resolve({"mix_prob": 0.25, "lr": 0.5})
    assert config.changes() == {"mix_prob": 0.25, "lr": 0.5}


def test_an_unknown_parameter_fails_the_run_and_the_nearest_name_is_told(tmp_path):
    source = notebook(tmp_path / "n.ipynb", PARAMETERS, RESOLVE)
    with pytest.raises(NotebookError, match=r"^unknown parameter 'lrr'; did you mean 'lr'\?$"):
        execute_notebook(source, tmp_path / "out/n.ipynb", {"lrr": 0.1})


def test_cells_run_again_in_one_kernel_give_the_same(run_cells):
    injected = "# Parameters\nmix_prob = 0.25\n"  # as papermill writes them
    cells = PARAMETERS, injected, "image_size = 32", RESOLVE, KEEP
    first, again, without = run_cells(*cells, *cells, PARAMETERS, "lr = 0.5", RESOLVE, KEEP)
    assert first == again == Config.resolve({"mix_prob": 0.25})
    assert without == Config.resolve({})  # what was injected before is forgotten


def test_plain_papermill_refuses_an_unknown_parameter(tmp_path):
    source = notebook(tmp_path / "n.ipynb", PARAMETERS, RESOLVE)
    command = [sys.executable, "-m", "papermill", str(source), str(tmp_path / "out.ipynb"),
               "--no-progress-bar", "-p", "lrr", "0.1"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "ValueError: unknown parameter 'lrr'; did you mean 'lr'?" in done.stderr


def test_outside_a_notebook_parameters_must_be_given():
    with pytest.raises(ValueError, match="outside a notebook the parameters must be given"):
        resolve()
    assert resolve({}).lr == PROFILES["demo"]["lr"]
