"""Damaged files of a run or a data set: read as before, or refused in one line that names them."""

import json
import os
import shutil

import pytest
from hypothesis import HealthCheck, Verbosity, given, settings
from hypothesis import strategies as st

from grefel_lib.analysis.evaluation import evaluate_run, load_evaluation, training_facts
from grefel_lib.config import Config
from grefel_lib.faces import load_faces
from grefel_lib.restore import load_model
from grefel_lib.run import LAST, open_run

MUTANTS = settings(
    max_examples=int(os.environ.get("FUZZ", "200")), deadline=None, derandomize=True, database=None,
    suppress_health_check=list(HealthCheck), verbosity=Verbosity.quiet,
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from([1e308, 10**400, "../..", "{a}", "\x1b[31m"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)  # fmt: skip


@st.composite
def damaged_bytes(draw, content):
    """Content that is cut, or in which a piece is replaced, left out or doubled."""
    kind = draw(st.sampled_from(["cut", "replace", "leave", "double"]))
    start = draw(st.integers(0, len(content) - 1) | st.integers(0, min(400, len(content) - 1)))
    end = start + draw(st.integers(1, 30))
    piece = {"cut": b"", "leave": b"", "double": content[start:end] * 2,
             "replace": draw(st.binary(min_size=1, max_size=8))}[kind]  # fmt: skip
    return content[:start] + piece + (b"" if kind == "cut" else content[end:])


@st.composite
def damaged_json(draw, content):
    """JSON in which one value is left out or is another."""
    whole = node = json.loads(content)
    while True:
        key = draw(st.sampled_from(list(node) if isinstance(node, dict) else range(len(node))))
        if not (isinstance(node[key], dict | list) and node[key] and draw(st.booleans())):
            break
        node = node[key]
    if draw(st.booleans()):
        del node[key]
    else:
        node[key] = draw(JSON)
    return json.dumps(whole).encode()


@pytest.fixture(scope="module")
def evaluated(small_run, faces_dir, tmp_path_factory):
    """A copy of an evaluated run."""
    folder = tmp_path_factory.mktemp("fuzz") / "run"
    shutil.copytree(small_run.path, folder)
    run = open_run(folder)
    config = run.config.replace(robustness_images=0, inspect_labels=False)
    evaluation = evaluate_run(run, load_faces(config), config, run)
    run.write_json(evaluation.metrics, "metrics.json")
    shutil.copy(run.checkpoint("best_model"), run.checkpoint("plain"))
    return run


READERS = {
    "config.json": lambda run: open_run(run.path),
    "status.json": lambda run: run.status(),
    "environment.json": training_facts,
    "metrics.json": load_evaluation,
    "history.csv": lambda run: run.history(),
    "predictions/test_*.csv": load_evaluation,
    "inside/*.npz": load_evaluation,
    "checkpoints/last.safetensors": lambda run: run.load_checkpoint(LAST),
    "checkpoints/plain.safetensors": lambda run: load_model(run.checkpoint("plain"), device="cpu"),
}


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_of_a_run_is_refused_by_name(evaluated, name):
    path = sorted(evaluated.path.glob(name))[0]
    content, told = path.read_bytes(), []
    mutants = damaged_bytes(content)
    if path.suffix == ".json":
        mutants = mutants | damaged_json(content)

    @MUTANTS
    @given(mutants)
    def refused_or_read(mutant):
        path.write_bytes(mutant)
        try:
            READERS[name](evaluated)
        except (ValueError, FileNotFoundError) as error:
            told.append(str(error))
            if str(evaluated.path) not in told[-1] or "\n" in told[-1].strip():
                raise AssertionError(told[-1]) from error

    try:
        refused_or_read()
    finally:
        path.write_bytes(content)
    assert told  # some were noticed


@pytest.mark.parametrize("layout", ["ferplus"])
def test_a_damaged_table_of_a_data_set_is_refused_by_name(faces_dir, tmp_path, monkeypatch, layout):
    monkeypatch.setenv("GREFEL_CACHE", str(tmp_path / "cache"))
    shutil.copytree(faces_dir, tmp_path / "faces")
    path = tmp_path / "faces/fer2013new.csv"
    content, told = path.read_bytes(), []
    config = Config(dataset=layout, data_dir=str(tmp_path / "faces"))

    @MUTANTS
    @given(damaged_bytes(content))
    def refused_or_read(mutant):
        path.write_bytes(mutant)
        try:
            load_faces(config)
        except (ValueError, FileNotFoundError) as error:
            told.append(str(error))
            if path.parent.name not in told[-1] and "face" not in told[-1]:
                raise AssertionError(told[-1]) from error

    refused_or_read()
