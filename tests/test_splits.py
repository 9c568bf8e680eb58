"""What is printed of an evaluation: split, classes without faces, temperature at its bound."""

import json

import numpy as np
import pandas as pd
import pytest

from grefel_lib.analysis.evaluation import Evaluation, load_evaluation
from grefel_lib.config import Config
from grefel_lib.labels import EMOTIONS
from grefel_lib.report.everything import caption, evaluation_tables, write_report
from grefel_lib.report.tables import SPLITS
from grefel_lib.run import Run


def predictions(sure, ids):
    """Seven of eight classes occur; every answer is right."""
    labels = np.arange(len(ids)) % 7
    probs = np.full((len(ids), 8), (1 - sure) / 7)
    probs[np.arange(len(ids)), labels] = sure
    names = [EMOTIONS[i] for i in labels]
    columns = {f"p_{n}": probs[:, i] for i, n in enumerate(EMOTIONS)}
    return pd.DataFrame({"id": ids, "label": names, "predicted": names, **columns})


@pytest.fixture
def evaluation(tmp_path):
    def make(split="test"):
        ids = [f"{i:05d}" for i in range(70)]
        facts = {
            "dataset": "ferplus", "fingerprint": "f", "protocol": "official", "split": split,
            "tta": "none", "training_dataset": "ferplus", "training_fingerprint": "f",
            "training_protocol": "official", "training_leaks_dropped": 0,
            "selection": "validation accuracy",
            "headline": "best_model",
            "checkpoints": {"best_model": {"epoch": 2, "val_accuracy": 0.8}},
        }  # fmt: skip
        config = Config(run_name="a", split=split)
        run = Run(tmp_path, config)
        run.write_json(config.to_dict(), "config.json")
        tables = {"best_model": predictions(0.6, ids)}
        validation = {"best_model": predictions(0.7, ids)} if split != "val" else {}
        run.write_table(tables["best_model"], "predictions", f"{split}_best_model.csv")
        return Evaluation(run, config, facts, tables, validation)

    return make


@pytest.mark.parametrize("split", SPLITS)
def test_the_split_is_named_wherever_an_evaluation_is_printed(evaluation, split, tmp_path):
    found = evaluation(split)
    write_report(found)
    assert f", {SPLITS[split]}, 70 faces" in caption(found)
    card = (tmp_path / "model_card.md").read_text()
    assert f"## Results on FERPlus, {SPLITS[split]} (70 faces)" in card
    assert ("was not used for selection" in card) == (split == "test")
    assert ("expect less on new faces" in card) == (split != "test")
    for path in tmp_path.glob("tables/*.tex"):
        of = "val" if path.stem == "class_offsets" else split
        assert f", {SPLITS[of]}, " in path.read_text(), path
    head = (tmp_path / "tables/comparison.csv").read_text().split(",")[0]
    assert head == {"test": "metric"}.get(split, f"metric ({split} split)")


def test_a_class_without_faces_has_dashes_everywhere(evaluation, tmp_path):
    found = evaluation()
    tables = write_report(found)
    assert tables["per_class"].loc["contempt", "recall (%)"] == "–"
    assert tables["per_class"].loc["contempt"].isna().sum() == 2
    latex = (tmp_path / "tables/per_class.tex").read_text()
    assert r"contempt & 0 & -- & -- & -- \\" in latex
    assert "| contempt | 0 | – |" in (tmp_path / "model_card.md").read_text()

    def refuse(text):
        raise AssertionError(f"{text} is no JSON")

    content = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=refuse)
    (row,) = [r for r in content["checkpoints"]["best_model"]["per_class"]
              if r["class"] == "contempt"]  # fmt: skip
    assert {row[key] for key in ("precision", "recall", "f1", "recall_low")} == {None}
    assert list(load_evaluation(Run(tmp_path, found.config)).table["id"][:2]) == ["00000", "00001"]


def test_a_temperature_at_its_bound_is_named_as_one_in_tables_and_card(evaluation, tmp_path):
    found = evaluation()
    assert list(evaluation_tables(found)["calibration"]) == [
        "as trained", "temperature 0.05, the lowest tried"]  # fmt: skip
    write_report(found)
    card = (tmp_path / "model_card.md").read_text()
    fitted = "at temperature 0.05, the lowest tried (on the validation faces of these data)"
    assert fitted in card
    assert "0.05, the lowest tried" in (tmp_path / "tables/calibration.tex").read_text()
