"""What an ordinary install holds: a wheel, unpacked outside the checkout, is the whole library."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from grefel_lib.config import PROJECT_ROOT

LOOK = """
import importlib, json, pkgutil
import grefel_lib
from grefel_lib.analysis.compare import published_results
found = pkgutil.walk_packages(grefel_lib.__path__, "grefel_lib.")
files = {module.name: importlib.import_module(module.name).__file__ for module in found}
print(json.dumps({"files": files, "published": len(published_results())}))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Run Python outside the checkout, where only the installed wheel is; and where that lies."""
    root = tmp_path_factory.mktemp("packaging")
    source, site = root / "source", root / "site"
    source.mkdir()  # a build leaves files beside the sources
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT_ROOT / name, source)
    without = shutil.ignore_patterns("__pycache__")
    for name in ("grefel_lib", "notebooks"):
        shutil.copytree(PROJECT_ROOT / name, source / name, ignore=without)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(root), str(source)]
    subprocess.run(build, check=True, cwd=root)
    [wheel] = root.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)

    def run(*arguments):
        environment = os.environ | {"PYTHONPATH": str(site)}
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run, site


def test_an_installed_library_holds_every_module_and_table(installed):
    run, site = installed
    found = json.loads(run("-c", LOOK))
    assert all(file.startswith(f"{site}{os.sep}") for file in found["files"].values())
    inside = {path.relative_to(site) for path in (site / "grefel_lib").rglob("*.*")}
    inside = {path for path in inside if path.parts[1] != "notebooks"}
    mine = {path.relative_to(PROJECT_ROOT) for path in (PROJECT_ROOT / "grefel_lib").rglob("*.*")}
    assert {p for p in inside if p.suffix != ".pyc"} == {p for p in mine if p.suffix != ".pyc"}
    assert len(found["files"]) == len([p for p in mine if p.suffix == ".py"]) - 1  # its __init__
    assert found["published"] > 10


def test_an_installed_library_writes_its_notebooks_into_the_current_folder(installed):
    run, site = installed
    code = """
from grefel_lib.commands.notebook import cell_parameters
from grefel_lib.run import outputs_folder
from grefel_lib.analysis.compare import compare_runs
print(cell_parameters("train")["profile"], outputs_folder(), len(compare_runs().summary) > 3)"""
    assert run("-c", code) == f"auto {site.parent / 'outputs'} True\n"
    mine = {path.relative_to(PROJECT_ROOT) for path in (PROJECT_ROOT / "notebooks").rglob("*.*")}
    there = {path.relative_to(site.parent) for path in (site.parent / "notebooks").rglob("*.*")}
    assert {p for p in mine if p.suffix != ".pyc"} == {p for p in there if p.suffix != ".pyc"}


def test_the_installed_command_tells_its_help(installed):
    run, _ = installed
    shown = run("-m", "grefel_lib.commands.cli", "--help")
    assert shown.startswith("usage: grefel")
    assert "finetune" in shown
