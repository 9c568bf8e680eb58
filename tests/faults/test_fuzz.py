"""Damaged files of a run or a data set: read as before, or refused in one line that names them."""

import json
import os
import random
import shutil

import pytest
from drawn_layouts import write_layout
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


# -- what a format can detect


def cells(change):
    """A line whose cells are changed, in place or into others."""

    def mutate(line, rng):
        parts = line.split(",")
        return ",".join(change(parts, rng) or parts)

    return mutate


def pixels(change):
    """A line of fer2013.csv whose pixels are changed in place at a random one."""

    @cells
    def mutate(parts, rng):
        values = parts[1].split()
        change(values, rng.randrange(len(values)))
        parts[1] = " ".join(values)

    return mutate


def cell(value, position=None):
    """A line with another value in a cell: that at a position, or any of the votes."""
    return cells(lambda parts, rng: parts.__setitem__(position or rng.randrange(2, 12), value))


NUMBER, PIXELS = "a pixel must be a whole number of 0 to 255", "expected 2304 pixel values"
VOTE, USAGE = "must be a whole number of 0 to 1000", "Usage must be Training"
DETECTED = {  # layout, mutation: the change of a line, and what must be said
    ("fer2013", "a missing pixel"): (pixels(lambda v, i: v.pop(i)), PIXELS),
    ("fer2013", "an extra pixel"): (pixels(lambda v, i: v.insert(i, "7")), PIXELS),
    ("fer2013", "a pixel over 255"): (pixels(lambda v, i: v.__setitem__(i, "256")), NUMBER),
    ("fer2013", "a pixel below 0"): (pixels(lambda v, i: v.__setitem__(i, "-1")), NUMBER),
    ("fer2013", "a half pixel"): (pixels(lambda v, i: v.__setitem__(i, "1.5")), NUMBER),
    ("fer2013", "a pixel of letters"): (pixels(lambda v, i: v.__setitem__(i, "x")), NUMBER),
    ("fer2013", "a row cut short"): (lambda line, rng: line[: rng.randrange(2, 2000)], USAGE),
    ("fer2013", "a usage cut short"): (lambda line, rng: line[:-3], USAGE),
    ("fer2013", "an extra cell"): (lambda line, rng: line + ",9", "not a readable csv file"),
    ("fer2013", "an unknown label"): (lambda line, rng: "7" + line[1:], "emotion must be one of"),
    ("fer2013", "no label"): (lambda line, rng: line[1:], "emotion must be one of"),
    ("ferplus", "a row cut short"): (cells(lambda p, rng: p[: rng.randrange(3, 12)]), VOTE),
    ("ferplus", "an extra cell"): (cells(lambda p, rng: [*p, "0"]), "not a readable csv file"),
    ("ferplus", "a negative vote"): (cell("-1"), VOTE),
    ("ferplus", "a half vote"): (cell("0.5"), VOTE),
    ("ferplus", "no vote"): (cell(""), VOTE),
    ("ferplus", "votes that do not add up"): (cell("11"), "have more than 10 votes in all"),
    ("ferplus", "an unknown usage"): (cells(lambda p, rng: ["Holdout", *p[1:]]), USAGE),
    ("ferplus", "another image"): (cell("fer9999999.png", 1), "missing images: 1 of"),
    ("ferplus", "a missing row"): (lambda line, rng: None, "1 images are not in fer2013new.csv"),
    ("ferplus", "a doubled row"): (lambda line, rng: f"{line}\n{line}", "repeat an earlier row"),
    ("rafdb", "an unknown label"): (lambda line, rng: line[:-1] + "8", "label must be one of"),
    ("rafdb", "a row cut short"): (lambda line, rng: line[: rng.randrange(3, 15)], "expected `tra"),
    ("rafdb", "a missing row"): (lambda line, rng: None, "1 images are not in list_patition_label"),
    ("rafdb", "a doubled row"): (lambda line, rng: f"{line}\n{line}", "may be listed once"),
}
LISTS = {"fer2013": "fer2013.csv", "ferplus": "fer2013new.csv",
         "rafdb": "basic/EmoLabel/list_patition_label.txt"}  # fmt: skip


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("drawn")
    for layout in LISTS:
        write_layout(root / layout, layout, images=100)
    return root


@pytest.mark.parametrize(("layout", "mutation"), DETECTED)
def test_what_the_format_can_detect_changes_nothing_in_silence(
    drawn, tmp_path, monkeypatch, layout, mutation
):
    monkeypatch.setenv("GREFEL_CACHE", str(tmp_path))
    path, (change, told) = drawn / layout / LISTS[layout], DETECTED[layout, mutation]
    content, rng = path.read_text(), random.Random(mutation)
    config = Config(dataset=layout, data_dir=str(drawn / layout))
    faces = [n for n, line in enumerate(content.splitlines()) if ".png" in line or "," not in line]
    faces = faces or range(1, 101)
    try:
        for row in (faces[0], *rng.sample(faces, 2)):
            lines = content.splitlines()
            lines[row] = change(lines[row], rng)
            path.write_text("\n".join(filter(None, lines)) + "\n")
            try:
                said = load_faces(config).info["warnings"]
            except (ValueError, FileNotFoundError) as error:
                said = [str(error)]
            assert any(told in words for words in said), (row, said)
    finally:
        path.write_text(content)
