"""Whether a person looks on; what started processes get; which commit is recorded."""

import json
import os
import shutil
import subprocess
import sys

import nbformat
import pytest

from grefel_lib.commands.notebook import execute_notebook
from grefel_lib.config import PROJECT_ROOT, Config
from grefel_lib.environment import openmp_settings, progress_bar, progress_bars, watched
from grefel_lib.processes import ProcessError, launch_processes
from grefel_lib.run import Run

MARKS = ("JPY_SESSION_NAME", "VSCODE_PID", "COLAB_RELEASE_TAG", "GREFEL_PANELS", "GREFEL_PROGRESS")


@pytest.fixture(autouse=True)
def _nobody(monkeypatch):
    for name in MARKS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)


def test_a_kernel_draws_its_bar_in_the_terminal_of_its_command(monkeypatch, tmp_path, capsys):
    with progress_bar(5, "scoring") as bar:
        bar.update()
    monkeypatch.setenv("GREFEL_TERMINAL", str(tmp_path / "tty"))
    (tmp_path / "tty").touch()
    with progress_bar(5, "scoring", unit=" faces") as bar:
        bar.update(5)
        bar.refresh()
    assert "scoring: 100%" in (tmp_path / "tty").read_text()
    assert " faces/s" in (tmp_path / "tty").read_text()
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("GREFEL_PROGRESS", "0")
    assert progress_bar(5, "scoring").disable


def test_a_terminal_of_another_user_gets_no_bar(monkeypatch, tmp_path, capsys):
    tty = tmp_path / "tty"
    tty.touch()
    monkeypatch.setenv("GREFEL_TERMINAL", str(tty))
    monkeypatch.setattr("os.access", lambda path, mode: str(path) != str(tty))
    with progress_bar(5, "scoring") as bar:  # root may write anywhere: access alone can tell
        bar.update(5)
    assert tty.read_text() == ""
    assert "scoring" in capsys.readouterr().err, "where the notebook's output goes"


def test_headless_nobody_looks():
    assert not watched()
    assert not progress_bars()


@pytest.mark.parametrize("mark", MARKS[:3])
def test_in_an_open_notebook_somebody_does(monkeypatch, mark):
    monkeypatch.setenv(mark, "1")
    assert watched()
    assert progress_bars()


def test_both_can_be_overridden_one_by_one(monkeypatch):
    monkeypatch.setenv("JPY_SESSION_NAME", "a.ipynb")
    monkeypatch.setenv("GREFEL_PANELS", "0")
    assert not watched()
    assert not progress_bars()
    monkeypatch.setenv("GREFEL_PROGRESS", "1")
    assert progress_bars()
    monkeypatch.setenv("GREFEL_PANELS", "1")
    monkeypatch.setenv("GREFEL_PROGRESS", "0")
    assert watched()
    assert not progress_bars()


def test_a_terminal_gets_bars_but_no_panels(monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert progress_bars()
    assert not watched()


# -- the environment of what is started

OPENMP = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
OWN = [
    ({}, {"GOMP_SPINCOUNT": "1000"}),
    ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
    ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
]
TELL = """import json, os, pathlib
names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
text = json.dumps({name: os.environ[name] for name in names if name in os.environ})
pathlib.Path(%r).write_text(text)
"""


@pytest.fixture
def user_sets(monkeypatch):
    """Set variables as a user, on a machine without a GPU."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for name in OPENMP:
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    return lambda own: [monkeypatch.setenv(*pair) for pair in own.items()]


@pytest.mark.parametrize(("own", "wanted"), OWN)
def test_threads_of_a_started_kernel_wait_asleep_unless_the_user_says(
    tmp_path, user_sets, own, wanted
):
    user_sets(own)
    cells = [nbformat.v4.new_code_cell(cell) for cell in ("a: int = 1", TELL % str(tmp_path / "t"))]
    cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "n.ipynb")
    execute_notebook(tmp_path / "n.ipynb", tmp_path / "out/n.ipynb", {})
    assert json.loads((tmp_path / "t").read_text()) == wanted


@pytest.mark.parametrize(("own", "wanted"), OWN)
def test_threads_of_started_processes_wait_asleep_unless_the_user_says(
    tmp_path, user_sets, monkeypatch, own, wanted
):
    user_sets(own)
    python = tmp_path / "python"  # in place of torchrun
    python.write_text(f"#!{sys.executable}\n{TELL % str(tmp_path / 't')}raise SystemExit(1)\n")
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))
    with pytest.raises(ProcessError):
        launch_processes(Run(tmp_path, Config(processes=2)), say=print)
    assert json.loads((tmp_path / "t").read_text()) == wanted


def test_beside_a_gpu_nothing_is_set(user_sets, monkeypatch):
    assert openmp_settings()
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert not openmp_settings()


# -- the commit

COMMIT = (
    "import json; from grefel_lib.environment import describe_environment as d; "
    "print(json.dumps([d()['commit'], d()['dirty']]))"
)


def git(folder, *words):
    names = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(["git", "-C", str(folder), *names, *words], env=env, check=True,
                          capture_output=True, text=True)  # fmt: skip
    return done.stdout.strip()


def recorded(project, **variables):
    env = os.environ | {"PYTHONPATH": str(project), "PYTHONDONTWRITEBYTECODE": "1"} | variables
    done = subprocess.run([sys.executable, "-c", COMMIT], cwd=project, env=env, check=True,
                          capture_output=True, text=True)  # fmt: skip
    return json.loads(done.stdout)


@pytest.fixture
def thesis(tmp_path):
    """A repository with one file of its own, and the library unpacked in a folder of it."""
    project = tmp_path / "thesis/project"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PROJECT_ROOT / "grefel_lib", project / "grefel_lib", ignore=ignore)
    (tmp_path / "thesis/thesis.tex").write_text("x")
    git(tmp_path / "thesis", "init", "-q")
    git(tmp_path / "thesis", "add", "thesis.tex")
    git(tmp_path / "thesis", "commit", "-qm", "a thesis")
    return tmp_path / "thesis"


def test_the_commit_of_a_repository_around_the_library_is_not_recorded(thesis):
    assert recorded(thesis / "project") == [None, None]
    git(thesis, "add", "project")  # and not before it is committed there
    assert recorded(thesis / "project") == [None, None]
    git(thesis, "commit", "-qm", "the library too")
    (thesis / "thesis.tex").write_text("y")
    assert recorded(thesis / "project") == [git(thesis, "rev-parse", "HEAD"), False]
    (thesis / "project/grefel_lib/fit.py").write_text("")
    assert recorded(thesis / "project")[1] is True


def test_the_librarys_own_commit_is_recorded_whatever_the_shell_says_of_git(thesis):
    project = thesis / "project"
    git(project, "init", "-q")
    git(project, "add", "-A")
    git(project, "commit", "-qm", "the project")
    own = git(project, "rev-parse", "HEAD")
    elsewhere = {"GIT_DIR": str(thesis / ".git"), "GIT_WORK_TREE": str(thesis)}
    assert recorded(project, **elsewhere) == [own, False]


def test_where_git_cannot_tell_nothing_is_claimed(thesis, tmp_path):
    assert recorded(thesis / "project", PATH=str(tmp_path)) == [None, None]
