"""Whether a person looks on: then panels and progress bars, else plain lines; which commit runs."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from grefel_lib.config import PROJECT_ROOT
from grefel_lib.environment import progress_bars, watched

MARKS = ("JPY_SESSION_NAME", "VSCODE_PID", "COLAB_RELEASE_TAG", "GREFEL_PANELS", "GREFEL_PROGRESS")


@pytest.fixture(autouse=True)
def _nobody(monkeypatch):
    for name in MARKS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)


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


# -- the commit

TELL = (
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
    done = subprocess.run([sys.executable, "-c", TELL], cwd=project, env=env, check=True,
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
