"""The project around the library: one list of packages, commands that exist, links that resolve."""

import re
import runpy
import subprocess
import sys
import tomllib

from grefel_lib.commands.cli import _parser
from grefel_lib.config import PROJECT_ROOT

NAMED_BY_THE_USER = {
    "torch", "timm", "jupyterlab", "ipywidgets", "matplotlib", "seaborn", "pandas",
    "scikit-learn", "nbval", "papermill",
}  # fmt: skip


def project():
    return tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["project"]


def names(requirements):
    return {re.match(r"[\w-]+", line)[0] for line in requirements}


def test_environment_yml_leaves_every_package_to_pyproject():
    lines = (PROJECT_ROOT / "environment.yml").read_text().splitlines()
    dependencies = [line.strip() for line in lines if line.strip().startswith("- ")]
    assert dependencies == ["- conda-forge", "- python=3.11", "- pip", "- pip:", "- -e .[dev]"]
    assert project()["requires-python"] == ">=3.11"


def test_every_package_the_user_named_is_declared():
    declared = names(project()["dependencies"]) | names(project()["optional-dependencies"]["dev"])
    assert declared >= NAMED_BY_THE_USER


def test_importing_the_library_changes_nothing_and_prints_nothing():
    code = (
        "import torch, matplotlib as m; s = torch.get_rng_state(); r = dict(m.rcParams)\n"
        "import grefel_lib.commands.cli, grefel_lib.fit, grefel_lib.report.everything\n"
        "assert torch.equal(s, torch.get_rng_state()) and r == dict(m.rcParams)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert done.stderr == ""


def test_the_readme_names_real_commands_flags_and_files():
    text = (PROJECT_ROOT / "README.md").read_text()
    _, commands = _parser([])
    for command in re.findall(r"grefel (\w+)", text):
        assert command in commands or command == "workbook", command
    known = {option for parser in commands.values() for option in parser._option_string_actions}
    known |= {"--ntasks-per-node", "--nnodes", "--nproc-per-node"}  # of srun and torchrun
    known |= {"--rdzv-id", "--rdzv-backend", "--rdzv-endpoint"}
    for flag in re.findall(r"(?<![\w-])--[a-z][\w-]+", text):
        assert flag.replace("_", "-") in known, flag
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith("http"):
            assert (PROJECT_ROOT / target).exists(), target


def test_the_readmes_pictures_are_those_of_the_committed_notebooks():
    folder = PROJECT_ROOT / "notebooks/pictures"
    source = runpy.run_path(str(folder / "extract.py"))["pictures"]()
    assert {p.name for p in folder.iterdir() if p.suffix in (".png", ".jpg")} == set(source)
    for name, content in source.items():
        assert (folder / name).read_bytes() == content, f"run: make notebooks ({name})"
        assert f"notebooks/pictures/{name}" in (PROJECT_ROOT / "README.md").read_text()


def test_the_readme_shows_every_panel_in_small_pictures():
    folder = PROJECT_ROOT / "notebooks/pictures/panels"
    names = {path.name for path in folder.iterdir()}
    shown = re.findall(
        r"notebooks/pictures/panels/(\w+\.webp)", (PROJECT_ROOT / "README.md").read_text()
    )
    assert names == set(shown)
    assert all((folder / name).stat().st_size < 150_000 for name in names)


def test_the_help_needs_neither_torch_nor_any_other_slow_package():
    slow = ("torch", "sklearn", "seaborn", "matplotlib", "timm", "scipy", "papermill")
    code = "import sys, grefel_lib.commands.cli as cli; cli._parser(['train'])\n"
    code += f"print([m for m in {slow} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
