"""The benchmarks run, and tell their spread; what they measure is for `make bench`, when idle."""

import json
import subprocess
import sys

import numpy as np
import pytest

from grefel_lib.config import PROJECT_ROOT
from grefel_lib.files import Folder

FOLDER = PROJECT_ROOT / "tests/benchmarks"
RUN = [sys.executable, str(FOLDER / "run.py"), "--quick"]


@pytest.fixture
def benchmarks(monkeypatch):
    """The modules of the benchmarks, which lie beside each other in no package."""
    monkeypatch.syspath_prepend(FOLDER)
    import measure
    import run

    return measure, run


def test_the_quick_ones_write_what_they_measured(tmp_path):
    names = ["input_pipeline", "head_against_backbone", "fit_against_bare_loop",
             "predict_against_forward"]  # fmt: skip
    done = subprocess.run(
        [*RUN, "--output", str(tmp_path), *names], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert sorted(p.stem for p in tmp_path.glob("*.json")) == sorted(names)
    for path in tmp_path.glob("*.json"):
        found = json.loads(path.read_text())
        for pair in found.get("parts", {"": found}).values():
            assert np.isfinite(pair["ratios"]).all()
            assert min(pair["ratios"]) > 0
        assert found["machine"]["cores"]
        assert found["load_average"].keys() == {"before", "after"}
        assert found["load_average"]["after"] > 0
        assert found["quick"]
    assert "(one round)" in (tmp_path / "table.md").read_text()


def test_a_ratio_is_told_with_its_spread_and_refused_where_rounds_differ_too_much(benchmarks):
    measure, run = benchmarks
    assert measure.told([1.02, 0.98, 1.1]) == "1.02 (0.980 to 1.10)"
    assert measure.told([5.41, 0.43, 1.02, 1.03, 0.92]) == "not a result: rounds from 0.430 to 5.41"
    assert measure.told([0.45]) == "0.450 (one round)"
    found = {"ours": "a", "other": "b", "wanted": "1", "parts": {
        "x": {"ratios": [1.0, 1.5]}, "y": {"ratios": [0.4, 1.0]}}}  # fmt: skip
    assert [(row["what"], row["ratio"]) for row in run.rows(found)] == [
        ("a, x", "1.25 (1.00 to 1.50)"), ("a, y", "not a result: rounds from 0.400 to 1.00"),
    ]  # fmt: skip


def test_the_page_tells_every_saved_result_with_its_spread(benchmarks):
    _, run = benchmarks
    lines = run.table(Folder(FOLDER / "results")).splitlines()[2:]
    assert len(lines) == len(list((FOLDER / "results").glob("*.json"))) + 7  # of several parts
    page = (FOLDER / "README.md").read_text().splitlines()[2:]
    shown = [line.split(" | ")[2] for line in page if line.startswith("| ")]
    assert sorted(shown[1:]) == sorted(line.split(" | ")[2] for line in lines)
