"""Mutation testing: how many small faults in a module do its own fast tests notice?

    python tests/mutate.py [MODULE ...]

mutmut makes the mutants and forks a pytest for each; every module is tested in a copy of its own
under .mutation/, with the tests named here and no others. The table and the survivors, each with
its diff, are printed and kept in .mutation/<module>.txt.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / ".mutation"
SLOW = "vit_base or vit_tiny or swin or convnext or lite0 or mobilenet or non_finite"
TESTS = {  # module: its fast tests
    "losses": ["tests/test_losses.py"],
    "optim": ["tests/test_optim.py"],
    "grefel": ["tests/test_grefel.py", "tests/test_properties.py::test_it_holds"],
    "batches": ["tests/test_batches.py"],
    "faces": ["tests/test_faces_by_hand.py", "tests/test_faces.py", "tests/test_suspects.py"],
    "metrics": ["tests/test_metrics.py"],
    "fit": ["tests/test_every_setting.py", "tests/test_fit.py"],
}
STATES = {0: "survived", 5: "no test", 33: "no test", 34: "skipped", 24: "timeout", 36: "timeout"}


def mutate(module: str) -> dict[str, str]:
    """The state of each mutant of a module."""
    folder = WORK / module
    shutil.rmtree(folder, ignore_errors=True)
    ignored = shutil.ignore_patterns("__pycache__")
    for part in ("grefel_lib", "tests"):
        shutil.copytree(ROOT / part, folder / part, ignore=ignored)
    settings = {
        "source_paths": ["grefel_lib"],
        "only_mutate": [f"grefel_lib/{module}.py"],
        "pytest_add_cli_args": ["-p", "no:cacheprovider", "-k", f"not ({SLOW})"],
        "pytest_add_cli_args_test_selection": TESTS[module],
    }
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    project = (ROOT / "pyproject.toml").read_text()
    text = "\n".join([project, "[tool.mutmut]", *lines, "track_dependencies = false", ""])
    (folder / "pyproject.toml").write_text(text)
    subprocess.run([sys.executable, "-m", "mutmut", "run"], cwd=folder, check=True)
    found = json.loads((folder / f"mutants/grefel_lib/{module}.py.meta").read_text())
    return {name: STATES.get(code, "killed") for name, code in found["exit_code_by_key"].items()}


def report(module: str, states: dict[str, str]) -> str:
    """One line of numbers, then the diff of every mutant that no test noticed."""
    left = [name for name, state in states.items() if state not in ("killed", "timeout")]
    lines = [f"{module}: {len(states)} mutants, {1 - len(left) / len(states):.1%} noticed"]
    for name in left:
        command = [sys.executable, "-m", "mutmut", "show", name]
        shown = subprocess.run(command, cwd=WORK / module, capture_output=True, text=True)
        changed = [line for line in shown.stdout.splitlines() if line.startswith(("-", "+"))]
        lines += ["", f"{name}: {states[name]}", *changed[2:]]
    return "\n".join(lines)


def main() -> None:
    for module in sys.argv[1:] or TESTS:
        text = report(module, mutate(module))
        (WORK / f"{module}.txt").write_text(text + "\n")
        print(text)


if __name__ == "__main__":
    main()
