"""The benchmarks run; what they measure is for `make bench`, on an idle machine."""

import json
import subprocess
import sys

import numpy as np

from grefel_lib.config import PROJECT_ROOT

RUN = [sys.executable, str(PROJECT_ROOT / "tests/benchmarks/run.py"), "--quick"]


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
        ratio = found["ratio"]
        values = list(ratio.values()) if isinstance(ratio, dict) else [ratio]
        assert np.isfinite(values).all()
        assert min(values) > 0
        assert found["machine"]["cores"]
        assert found["quick"]
