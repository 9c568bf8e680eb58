"""The project around the library: one list of packages, commands that exist, links that resolve."""

import re
import runpy
import subprocess
import sys
import tomllib

import numpy as np

from grefel_lib.analysis.compare import compare_runs, evaluated_runs
from grefel_lib.analysis.evaluation import load_evaluation
from grefel_lib.commands.cli import _parser
from grefel_lib.config import PROJECT_ROOT
from grefel_lib.report.tables import bracketed
from grefel_lib.run import open_run

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


def parsers(parser):
    """A parser's commands by name, and theirs: "data", "data check"."""
    for action in parser._actions:
        if isinstance(action.choices, dict):
            for name, command in action.choices.items():
                yield name, command
                yield from ((f"{name} {inner}", one) for inner, one in parsers(command))


def test_the_readme_names_real_commands_flags_and_files():
    text = (PROJECT_ROOT / "README.md").read_text()
    commands = dict(parsers(_parser([])))
    assert {"train", "data check"} <= set(commands)
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


def test_the_pictures_are_those_of_the_committed_notebooks():
    folder = PROJECT_ROOT / "notebooks/pictures"
    source = runpy.run_path(str(folder / "extract.py"))["pictures"]()
    assert {p.name for p in folder.iterdir() if p.suffix in (".png", ".jpg")} == set(source)
    for name, content in source.items():
        assert (folder / name).read_bytes() == content, f"run: make notebooks ({name})"
        assert f"pictures/{name}" in (PROJECT_ROOT / "notebooks/README.md").read_text()


def test_every_panel_is_shown_in_a_small_picture():
    folder = PROJECT_ROOT / "notebooks/pictures/panels"
    names = {path.name for path in folder.iterdir()}
    text = (PROJECT_ROOT / "notebooks/README.md").read_text()
    shown = re.findall(r"pictures/panels/(\w+\.webp)", text)
    assert names == set(shown)
    assert all((folder / name).stat().st_size < 150_000 for name in names)


def test_the_help_needs_neither_torch_nor_any_other_slow_package():
    slow = ("torch", "sklearn", "seaborn", "matplotlib", "timm", "scipy", "papermill")
    code = "import sys, grefel_lib.commands.cli as cli; cli._parser(['train'])\n"
    code += f"print([m for m in {slow} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_readme_is_short():
    text = (PROJECT_ROOT / "README.md").read_text()
    assert len(text.split()) <= 1300
    assert max(map(len, text.splitlines())) <= 120


def test_the_model_in_the_readme_is_the_one_that_comes_along():
    evaluation = load_evaluation(
        open_run(PROJECT_ROOT / "notebooks/ferplus_model/pretrained_ferplus")
    )
    numbers = evaluation.saved_headline
    text = (PROJECT_ROOT / "README.md").read_text()
    three = {
        name: table.iloc[0]
        for name, table in compare_runs("notebooks/ferplus_model").summary.items()
    }
    assert {row["seeds"] for row in three.values()} == {3}
    rows = {
        "| `ferplus` |": {
            name: (numbers["metrics"][name], *ends) for name, ends in numbers["intervals"].items()
        },
        "| three seeds |": {
            name: tuple(row[["value", "low", "high"]]) for name, row in three.items()
        },
    }
    names = ("accuracy", "mean_class_accuracy", "macro_f1", "ece", "nll")
    for start, found in rows.items():
        [row] = [line for line in text.splitlines() if line.startswith(start)]
        for cell, name in zip(row.strip("| ").split(" | ")[1:], names, strict=True):
            scale, decimals = (1, 3) if name == "nll" else (100, 1)
            value, low, high = (f"{scale * number:.{decimals}f}" for number in found[name])
            assert cell == f"{value} [{low}, {high}]"
    text = " ".join(text.split())
    runs = evaluated_runs("notebooks/ferplus_model")
    plain = [100 * run.saved_headline["calibration"]["ece_plain"] for run in runs]
    own = 100 * numbers["calibration"]["ece_plain"]
    assert own in plain
    assert f"(plain: {own:.1f} and {np.mean(plain):.1f})" in text
    rare = evaluation.table["label"].value_counts()
    assert f"Only {rare['contempt']} test faces show contempt and {rare['disgust']} disgust" in text


def test_the_number_of_fer2013_in_the_readme_is_that_of_its_run():
    evaluation = load_evaluation(open_run(PROJECT_ROOT / "notebooks/fer2013_model/facenet"))
    numbers = evaluation.saved_headline
    value, low, high = (100 * v for v in (numbers["metrics"]["accuracy"],
                                          *numbers["intervals"]["accuracy"]))  # fmt: skip
    text = " ".join((PROJECT_ROOT / "README.md").read_text().split())
    assert f"has {value:.1f}% [{low:.1f}, {high:.1f}] over {len(evaluation.table):,}" in text
    assert (evaluation.facts["dataset"], evaluation.facts["tta"]) == ("fer2013", "flip")


def test_the_heads_in_the_readme_are_those_of_the_runs():
    """Every cell of the table, and the differences below it."""
    comparison = compare_runs("notebooks/ferplus_heads")
    text = (PROJECT_ROOT / "README.md").read_text()
    lines = [x for x in text.splitlines() if x.startswith(("| linear head", "| GReFEL"))]
    rows = {row[0]: row[1:] for row in (line.strip("| ").split(" | ") for line in lines)}
    assert list(rows) == ["linear head", "GReFEL"]
    for name, (seeds, *cells) in rows.items():
        assert int(seeds) == (comparison.seeds["variant"] == name).sum()
        metrics = ("accuracy", "mean_class_accuracy", "macro_f1", "nll")
        for cell, metric in zip(cells, metrics, strict=True):
            scale, decimals = (1, 3) if metric == "nll" else (100, 1)
            told = bracketed(comparison.summary[metric], "value", scale=scale, decimals=decimals)
            assert cell == told[name]
    apart = comparison.differences.set_index("metric")
    words = " ".join(text.split())
    for metric in ("accuracy", "mean_class_accuracy"):
        value, low, high = 100 * apart.loc[metric, ["difference", "low", "high"]].astype(float)
        name = metric.replace("_", " ")
        assert f"{name} {value:+.1f} points [{low:.1f}, {high:.1f}]" in words
    assert f"{comparison.about['faces']:,} faces" in text
    assert comparison.seeds["seed"].nunique() == max(int(row[0]) for row in rows.values())
