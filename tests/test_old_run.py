"""A run of the earlier library (tests/old_run) still opens, evaluates, reports and fine-tunes."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from grefel_lib.analysis.evaluation import evaluate_run, load_evaluation
from grefel_lib.commands.notebook import resolve
from grefel_lib.config import VERSION
from grefel_lib.faces import load_faces
from grefel_lib.files import read_table
from grefel_lib.fit import fit
from grefel_lib.report.everything import write_report
from grefel_lib.run import BEST, BEST_EMA, checkpoint_file, open_run, start_run
from grefel_lib.sources.synthetic import write_synthetic

OLD = Path(__file__).parent / "old_run"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return shutil.copytree(OLD, tmp_path_factory.mktemp("outputs") / "old")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """The faces it was trained on, as they are drawn now."""
    return write_synthetic(tmp_path_factory.mktemp("data") / "synthetic-200", images=200)


def flat(content, key=""):
    """Every number and text of nested dicts and lists, by its path."""
    if isinstance(content, dict | list):
        pairs = content.items() if isinstance(content, dict) else enumerate(content)
        return {k: v for name, part in pairs for k, v in flat(part, f"{key}/{name}").items()}
    return {key: content}


def test_it_opens_without_a_warning_and_its_numbers_follow_from_its_predictions(folder, caplog):
    with caplog.at_level(logging.WARNING):
        run = open_run(folder)
        evaluation = load_evaluation(run)
    assert caplog.messages == []
    assert run.status() == "ok"
    assert run.config.changes().keys() == {
        "synthetic_images", "backbone", "image_size", "output_stride", "num_anchors",
        "embedding_dim", "attention_heads",
    }  # fmt: skip
    now, then = flat(evaluation.metrics), flat(json.loads((OLD / "metrics.json").read_text()))
    # what it knew of, and whose definition is still the same
    others = ("/ece", "/intervals/", "/one annotator/accuracy")  # exact since, not drawn
    now = {k: v for k, v in now.items() if k in then and not any(part in k for part in others)}
    assert len(now) > 100
    for name in [name for name, value in now.items() if not isinstance(value, int | float)]:
        assert now.pop(name) == then[name], name
    assert now == pytest.approx({name: then[name] for name in now}, rel=1e-6)


def test_it_evaluates_to_the_predictions_of_the_earlier_library(folder, data_dir):
    run = open_run(folder)
    config = run.config.replace(data_dir=str(data_dir), robustness_images=0)
    evaluation = evaluate_run(run, load_faces(config), config, run)
    for split, tables in (("test", evaluation.predictions), ("val", evaluation.validation)):
        for name in (BEST, BEST_EMA):
            now, then = tables[name], read_table(OLD / f"predictions/{split}_{name}.csv")
            if split == "val":  # a copy of a test face is left out since
                then = then[then["id"].isin(now["id"])].reset_index(drop=True)
                assert len(then) == len(now) == len(tables[name])
            assert list(now.columns) == list(then.columns)
            numbers = then.select_dtypes("number").columns
            np.testing.assert_allclose(now[numbers], then[numbers], rtol=0, atol=1e-5)
            assert now.drop(columns=numbers).equals(then.drop(columns=numbers))
    write_report(evaluation, run)
    told = evaluation.metrics
    then = json.loads((OLD / "metrics.json").read_text())
    assert told["headline"] == then["headline"]
    assert told["copies"] == then["copies"]
    assert (run.path / "model_card.md").is_file()
    assert load_evaluation(run).saved == json.loads(json.dumps(told))


def test_it_is_fine_tuned(folder, data_dir):
    given = {"checkpoint_path": str(folder), "finetune_name": "f", "data_dir": str(data_dir)}
    config = resolve(given | {"epochs": 1, "lr": 1e-9}, command="finetune")
    faces, said = load_faces(config), []
    run = start_run(config, faces.info)
    fit(faces, run, say=said.append)
    assert run.path == folder / "finetune_f"
    assert run.status() == "ok"
    assert "reinitialised" not in "\n".join(said)
    assert json.loads((run.path / "config.json").read_text())["version"] == VERSION
    parent = open_run(folder).load_checkpoint(checkpoint_file(folder).stem)[0]
    ours = run.load_checkpoint(BEST)[0]
    for name in ("head.anchors", "head.reduce.weight"):
        torch.testing.assert_close(ours[name], parent[name], rtol=0, atol=1e-6)
