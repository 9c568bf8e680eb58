"""Mutation testing: how many small faults in a module do its own fast tests notice?

    python tests/mutate.py [--again] [--sample N] [MODULE ...]

mutmut makes the mutants and forks a pytest for each; every module is tested in a copy of its own
under .mutation/, with the tests named here and no others. With --again only the survivors of the
last time are tried, and functions that changed since; with --sample only N mutants of each module,
drawn at random. A line of numbers and the survivors, each with its diff, are printed and kept in
.mutation/<module>.txt.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / ".mutation"
TESTS = {  # module: its fast tests
    "losses": ["test_losses.py"],
    "optim": ["test_optim.py"],
    "grefel": ["test_grefel.py", "test_properties.py::test_it_holds"],
    "batches": ["test_batches.py"],
    "faces": ["test_faces_by_hand.py", "test_faces.py", "test_suspects.py"],
    "metrics": ["test_metrics.py", "test_calibration.py"],
    "fit": ["test_fit_by_hand.py", "test_mixed_training.py", "test_every_setting.py"],
}
SLOW = (  # tests that a mutant does not wait for
    "vit_base", "vit_tiny", "swin", "convnext", "lite0", "non_finite", "by_heart",
)  # fmt: skip
UNNOTICED = {0: "survived", 5: "no test", 33: "no test", 34: "skipped"}  # mutmut's exit codes


def mutmut(module: str, *arguments: str, check: bool = True) -> str:
    command = [sys.executable, "-m", "mutmut", *arguments]
    done = subprocess.run(command, cwd=WORK / module, stdout=subprocess.PIPE, text=True,
                          stderr=None if check else subprocess.DEVNULL)  # fmt: skip
    if check and done.returncode:
        sys.exit(f"mutmut {arguments[0]} failed on {module}:\n{done.stdout[-3000:]}")
    return done.stdout


def states(module: str) -> dict[str, str]:
    """Of each mutant that was tried: noticed, or how it was not."""
    text = (WORK / module / f"mutants/grefel_lib/{module}.py.meta").read_text()
    codes = json.loads(text)["exit_code_by_key"]
    tried = {name: code for name, code in codes.items() if code is not None}
    return {name: UNNOTICED.get(code, "noticed") for name, code in tried.items()}


def drawn(module: str, count: int) -> list[str]:
    """Names of some mutants, the same ones each time; mutmut makes all before it looks for one."""
    mutmut(module, "run", "none of them", check=False)
    text = (WORK / module / f"mutants/grefel_lib/{module}.py.meta").read_text()
    return random.Random(0).sample(sorted(json.loads(text)["exit_code_by_key"]), count)


def unnoticed(module: str) -> list[str]:
    return [name for name, state in states(module).items() if state != "noticed"]


def mutate(module: str, sample: int = 0) -> None:
    """Make a module's mutants and try them all, or a sample."""
    folder = WORK / module
    shutil.rmtree(folder, ignore_errors=True)
    for part in ("grefel_lib", "tests"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    settings = {
        "source_paths": ["grefel_lib"],
        "only_mutate": [f"grefel_lib/{module}.py"],
        "pytest_add_cli_args": ["-p", "no:cacheprovider", "-k", f"not ({' or '.join(SLOW)})"],
        "pytest_add_cli_args_test_selection": [f"tests/{name}" for name in TESTS[module]],
    }
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    project = (ROOT / "pyproject.toml").read_text()
    text = "\n".join([project, "[tool.mutmut]", *lines, "track_dependencies = false", ""])
    (folder / "pyproject.toml").write_text(text)
    mutmut(module, "run", *(drawn(module, sample) if sample else ()))


def again(module: str) -> None:
    """Try the mutants of functions that changed, and all survivors on the tests as they are now."""
    for part, folder in (("grefel_lib", "."), ("tests", "."), ("tests", "mutants")):
        shutil.copytree(ROOT / part, WORK / module / folder / part, dirs_exist_ok=True)
    path = WORK / module / "mutants/mutmut-stats.json"  # which tests reach which function: anew
    stats = json.loads(path.read_text())
    path.write_text(
        json.dumps(stats | {"tests_by_mangled_function_name": {}, "duration_by_test": {}})
    )
    mutmut(module, "run")
    if names := unnoticed(module):
        mutmut(module, "run", *names)


def report(module: str) -> str:
    """One line of numbers, then the diff of every mutant that no test noticed."""
    everything, left = states(module), unnoticed(module)
    share = 1 - len(left) / len(everything)
    lines = [f"{module}: {len(everything)} mutants, {len(left)} unnoticed, {share:.1%} noticed"]
    for name in left:
        changed = [x for x in mutmut(module, "show", name).splitlines() if x[:1] in ("-", "+")]
        lines += ["", f"{name}: {everything[name]}", *changed[2:]]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("modules", nargs="*", metavar="MODULE")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--sample", type=int, default=0)
    given = parser.parse_args()
    for module in given.modules or TESTS:
        again(module) if given.again else mutate(module, given.sample)
        text = report(module)
        (WORK / f"{module}.txt").write_text(text + "\n")
        print(text, flush=True)


if __name__ == "__main__":
    main()
