"""Whether a person looks on: then panels and progress bars, else plain lines."""

import pytest

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
