"""Notebooks run headless: their parameters arrive, are checked, and nothing else counts."""

import ast
import io
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch
from nbconvert import PythonExporter

from grefel_lib.commands import NotebookError
from grefel_lib.commands.notebook import (
    _Unbuffered,
    execute_notebook,
    notebook_path,
    resolve,
    run_command,
)
from grefel_lib.commands.sweep import sweep_points
from grefel_lib.commands.worker import train_worker
from grefel_lib.config import PROFILES, PROJECT_ROOT, Config
from grefel_lib.faces import load_faces
from grefel_lib.files import only_one
from grefel_lib.run import LAST, start_run

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
    page = (tmp_path / "out/n.html").read_text()
    assert "<title>n</title>" in page
    assert "<pre>5\n</pre>" in page


def test_the_page_of_an_evaluation_ends_with_the_model_card(tmp_path):
    (tmp_path / "model_card.md").write_text("# Model card: mine")
    source = notebook(tmp_path / "n.ipynb", "a: int = 1")
    execute_notebook(source, tmp_path / "out/n.ipynb", {})
    assert "Model card: mine" not in (tmp_path / "out/n.html").read_text()
    (tmp_path / "out/model_card.md").write_text("# Model card: mine")
    execute_notebook(source, tmp_path / "out/n.ipynb", {})
    assert "Model card: mine" in (tmp_path / "out/n.html").read_text()


def test_in_a_terminal_a_line_takes_the_place_of_the_bar():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for stream, clear in ((Terminal(), "\r\x1b[K"), (io.StringIO(), "")):
        out = _Unbuffered(stream)
        for text in ("one ", "line\n", "two\n"):
            out.write(text)
        assert stream.getvalue() == f"{clear}one line\n{clear}two\n"


def test_a_failing_cell_fails_the_run_and_an_empty_folder_is_taken_away(tmp_path):
    source = notebook(tmp_path / "n.ipynb", "a: int = 1", "raise ValueError('a is too small')")
    with pytest.raises(NotebookError, match=r"^a is too small$"):
        execute_notebook(source, tmp_path / "out/n.ipynb", {})
    assert not (tmp_path / "out").exists()


def test_an_unexpected_error_names_its_type_and_keeps_the_notebook(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/config.json").touch()
    source = notebook(tmp_path / "n.ipynb", "a: int = 1", "{}['k']")
    with pytest.raises(NotebookError, match=r"KeyError: 'k' \(see .*n\.ipynb\)"):
        execute_notebook(source, tmp_path / "out/n.ipynb", {})
    assert (tmp_path / "out/n.ipynb").is_file()


def test_braces_are_letters_like_others_in_any_folder(tmp_path):
    source = notebook(tmp_path / "{n}.ipynb", "a: int = 1", "print(a)")
    execute_notebook(source, tmp_path / "{a}{b}/{}.ipynb", {"a": 5})
    assert (tmp_path / "{a}{b}/{}.ipynb").is_file()


def test_the_kernel_is_this_python_whatever_is_called_python3(tmp_path, monkeypatch):
    other = tmp_path / "kernels/python3/kernel.json"
    other.parent.mkdir(parents=True)
    other.write_text(json.dumps({"argv": ["false"], "display_name": "P", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.delenv("GREFEL_PANELS", raising=False)
    which = tmp_path / "which"
    cell = f"import os, pathlib, sys\npathlib.Path({str(which)!r}).write_text(sys.executable)"
    cell += "\nassert os.environ['GREFEL_PANELS'] == '0'"
    execute_notebook(notebook(tmp_path / "n.ipynb", "a: int = 1", cell), tmp_path / "o/n.ipynb", {})
    assert which.read_text() == sys.executable
    assert "GREFEL_PANELS" not in os.environ, "a command in an open notebook leaves its panels"


def test_a_killed_kernel_is_one_line(tmp_path, capfd):
    kill = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
    source = notebook(tmp_path / "n.ipynb", "a: int = 1", kill)
    with pytest.raises(NotebookError, match=r"^the process that ran n\.ipynb was killed: memory"):
        execute_notebook(source, tmp_path / "out/n.ipynb", {})
    assert capfd.readouterr() == ("", "")


def test_an_output_that_another_command_writes_is_left_alone(tmp_path):
    source = notebook(tmp_path / "n.ipynb", "a: int = 1")
    execute_notebook(source, tmp_path / "out/n.ipynb", {})
    before = (tmp_path / "out/n.ipynb").read_bytes()
    with (
        only_one(tmp_path / "out/.n.lock", ""),
        pytest.raises(ValueError, match=r"another command is writing .*out/n\.ipynb; wait"),
    ):
        execute_notebook(source, tmp_path / "out/n.ipynb", {})
    assert (tmp_path / "out/n.ipynb").read_bytes() == before


def test_a_folder_deleted_while_the_notebook_runs_is_named(tmp_path):
    out = tmp_path / "out"
    delete = f"import shutil\nshutil.rmtree({str(out)!r})"
    source = notebook(tmp_path / "n.ipynb", "a: int = 1", delete)
    with pytest.raises(OSError, match=rf"^cannot write {out}/n\.ipynb: .*No such file"):
        execute_notebook(source, out / "n.ipynb", {})


def test_a_run_whose_kernel_could_not_record_its_end_has_ended(tiny, monkeypatch, faces_dir):
    names = ("dataset", "data_dir", "profile", "epochs", "output_dir", "run_name")
    given = {name: getattr(tiny, name) for name in names}

    def killed(error):
        def execute(*_):
            run = start_run(tiny, load_faces(tiny).info)
            facts = {"status": "running", "host": socket.gethostname(), "pid": 2**22 + 1}
            run.write_json(facts, "status.json")
            raise error

        return execute

    for error, status in (NotebookError(""), "failed"), (KeyboardInterrupt(), "interrupted"):
        monkeypatch.setattr("grefel_lib.commands.notebook.execute_notebook", killed(error))
        with pytest.raises(type(error)):
            run_command("train", given)
        path = Path(tiny.output_dir, "tiny", "status.json")
        assert json.loads(path.read_text())["status"] == status


# -- parameters


def test_a_setting_outside_the_parameters_cell_arrives_and_other_names_change_nothing(run_cells):
    other = "image_size = 32\nseed = 5; print(seed)\ndef epochs():\n    return 3"
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
    with pytest.raises(ValueError, match="outside a notebook, pass the parameters"):
        resolve()
    assert resolve({}).lr == PROFILES["demo"]["lr"]


def test_a_notebook_exported_as_a_script_has_its_parameters(tmp_path):
    cells = "# Parameters\nmix_prob = 0.25\nlr = 2 * 0.25", RESOLVE, "print(config.to_dict())"
    book = nbformat.read(notebook(tmp_path / "n.ipynb", PARAMETERS, *cells), as_version=4)
    book.cells.insert(2, nbformat.v4.new_markdown_cell("Text, and\nmore of it"))
    script = tmp_path / "n.py"
    script.write_text(PythonExporter().from_notebook_node(book)[0])
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    config = Config.from_dict(ast.literal_eval(done.stdout))
    assert config == Config.resolve({"mix_prob": 0.25, "lr": 0.5})


# -- the parameters cell and the command


@pytest.fixture
def edited(tmp_path, monkeypatch):
    """Change lines of a notebook's parameters cell, as a person does in the workbook."""

    def edit(command, **changes):
        name = notebook_path(command).name
        book = nbformat.read(PROJECT_ROOT / "notebooks" / name, as_version=4)
        (cell,) = [c for c in book.cells if "parameters" in c.metadata.get("tags", [])]
        lines = cell.source.splitlines()
        for key, text in changes.items():
            (place,) = [i for i, line in enumerate(lines) if line.startswith(f"{key}:")]
            lines[place] = f"{lines[place].partition('=')[0]}= {text}"
        cell.source = "\n".join(lines)
        nbformat.write(book, tmp_path / name)
        monkeypatch.setattr("grefel_lib.commands.notebook.NOTEBOOKS", tmp_path)

    return edit


@pytest.fixture
def executed(monkeypatch):
    """What would be executed: the output and the injected parameters of each notebook."""
    calls = []
    monkeypatch.setattr(
        "grefel_lib.commands.notebook.execute_notebook",
        lambda notebook, output, parameters: calls.append((output, parameters)),
    )
    return calls


def test_an_edited_parameters_cell_names_the_run_that_is_trained(edited, executed, tmp_path):
    edited("train", profile='"lite"', backbone_weights='"no" + "ne"', lr="2 * 0.25")
    given = {"synthetic_images": "200", "output_dir": str(tmp_path / "out"), "seed": "3"}
    folder = run_command("train", given)
    assert folder.name.startswith("synthetic-tf_efficientnet_lite0-grefel-seed3-")
    ((output, parameters),) = executed
    assert output.parent == folder
    assert parameters == {"synthetic_images": 200, "output_dir": str(tmp_path / "out"), "seed": 3,
                          "run_name": folder.name}  # fmt: skip
    (point,) = sweep_points("train", "s", given=given)
    assert (point.config().backbone, point.config().lr) == ("tf_efficientnet_lite0", 0.5)


def test_a_flag_goes_before_the_parameters_cell(edited, executed, tmp_path):
    edited("train", lr="0.5", dataset='"ferplus"')
    given = {"lr": "0.25", "dataset": "synthetic", "profile": "demo", "synthetic_images": 200}
    folder = run_command("train", given | {"output_dir": str(tmp_path / "out")})
    assert folder.name.startswith("synthetic-test_resnet-")
    assert (executed[0][1]["lr"], executed[0][1]["dataset"]) == (0.25, "synthetic")


def test_an_edited_source_of_evaluation_and_fine_tuning_is_taken(
    edited, executed, small_run, tmp_path, capsys
):
    edited("evaluate", checkpoint_dir=repr(str(small_run.path)), split='"val"')
    folder = small_run.path / "evaluate_ferplus_official_val"
    assert run_command("evaluate", {}) == folder
    assert capsys.readouterr().out.endswith(
        "official_val, validation split, which chose the checkpoint\n"
    )
    run_command("evaluate", {"split": "test"})
    assert capsys.readouterr().out.endswith("small\n")
    edited("finetune", checkpoint_path=repr(str(small_run.path)), finetune_name='"mine"')
    assert run_command("finetune", {}) == small_run.path / "finetune_mine"
    edited("compare", output_dir=repr(str(tmp_path)))
    with pytest.raises(FileNotFoundError, match=f"no evaluated run under {tmp_path}"):
        run_command("compare", {})
    assert [parameters for _, parameters in executed] == [{}, {"split": "test"}, {}]


def test_a_stopped_fine_tuned_run_goes_on_by_the_command_it_names(executed, small_run):
    given = {"checkpoint_path": str(small_run.path), "finetune_name": "half", "precision": "fp32"}
    run = start_run(resolve(given, command="finetune"))
    try:
        assert run_command("train", {"resume": str(run.path)}) == run.path
        assert executed[-1][1] == {"resume": str(run.path)}
        with pytest.raises(ValueError, match="started with profile='demo' and cannot"):
            run_command("train", {"resume": str(run.path), "profile": "lite"})
        with pytest.raises(ValueError, match="started with precision='fp32' and cannot"):
            run_command("train", {"resume": str(run.path), "precision": "auto"})
        assert run_command("train", {"resume": str(run.path), "profile": "auto"}) == run.path
    finally:
        shutil.rmtree(run.path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("0.1 / 0", "the parameters cell of .* fails: ZeroDivisionError"),
        ('"fast"', "lr must be a number; got 'fast'"),
    ],
)
def test_a_bad_value_in_the_cell_is_refused_before_anything_runs(edited, executed, text, told):
    edited("train", lr=text)
    with pytest.raises(ValueError, match=told):
        run_command("train", {})
    with pytest.raises(ValueError, match=told):  # a process under torchrun runs no notebook
        train_worker({"run_name": "a"})
    assert executed == []


@pytest.mark.parametrize("line", ["import os", "'a word'", "lr: float", "epochs = batch_size = 3"])
def test_a_parameters_cell_with_more_than_settings_is_refused(edited, executed, run_cells, line):
    edited("train", lr=f"0.5\n{line}")
    with pytest.raises(ValueError, match=r"03_training\.ipynb may hold nothing but lines like"):
        run_command("train", {})
    with pytest.raises(NotebookError, match="a cell that assigns settings may hold nothing but"):
        run_cells(f"{PARAMETERS}\n{line}", RESOLVE, KEEP)
    assert executed == []


def test_settings_that_belong_together_are_given_together(executed, tmp_path):
    given = {"output_dir": str(tmp_path), "embedding_dim": "96", "attention_heads": "6"}
    run_command("train", given | {"synthetic_images": "200"})
    assert (executed[0][1]["embedding_dim"], executed[0][1]["attention_heads"]) == (96, 6)


def test_other_data_is_refused_before_the_record_of_the_run_is_touched(
    tiny, faces_dir, tmp_path, executed
):
    shutil.copytree(faces_dir, tmp_path / "faces")
    config = tiny.replace(data_dir=str(tmp_path / "faces"))
    run = start_run(config, load_faces(config).info)
    run.save_checkpoint(LAST, {"x": torch.zeros(1)}, {})
    names = ("dataset", "data_dir", "profile", "epochs", "output_dir", "run_name")
    given = {name: getattr(config, name) for name in names}
    run_command("train", given)
    votes = tmp_path / "faces/fer2013new.csv"
    head, first, *rest = votes.read_text().splitlines()
    votes.write_text("\n".join([head, first.rpartition(",")[0] + ",10", *rest, ""]))
    record = (run.path / "environment.json").read_bytes()
    with pytest.raises(ValueError, match="has learned from other data"):
        run_command("train", given)
    assert len(executed) == 1
    assert (run.path / "environment.json").read_bytes() == record
