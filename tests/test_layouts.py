"""Every published layout is read, trained on, fine-tuned and evaluated."""

import numpy as np
import pandas as pd
import pytest
from drawn_layouts import write_layout

from grefel_lib.analysis.compare import publish_runs
from grefel_lib.analysis.evaluation import evaluate_run, load_evaluation
from grefel_lib.commands.notebook import resolve
from grefel_lib.config import Config
from grefel_lib.faces import SPLITS, load_faces
from grefel_lib.fit import fit
from grefel_lib.metrics import confusion_counts
from grefel_lib.report.card import model_card
from grefel_lib.report.everything import evaluation_tables, write_report
from grefel_lib.run import BEST, BEST_EMA, open_run, start_run

LAYOUTS = [
    ("ferplus", "ferplus", {}, 8),
    ("ferplus", "ferplus", {"protocol": "argmax", "use_soft_labels": False}, 8),
    ("fer2013", "fer2013", {}, 7),
    ("fer2013_folders", "fer2013", {}, 7),
    ("rafdb", "rafdb", {}, 7),
    ("rafdb", "rafdb", {"rafdb_images": "original"}, 7),
    ("rafdb_kaggle", "rafdb", {}, 7),
    ("rafdb_compound", "rafdb_compound", {}, 11),
]


@pytest.mark.parametrize(("layout", "dataset", "options", "classes"), LAYOUTS)
def test_a_layout_goes_from_files_to_metrics(layout, dataset, options, classes, tmp_path):
    folder = write_layout(tmp_path / layout, layout, images=220)
    config = Config.resolve(
        {"profile": "demo", "dataset": dataset, "data_dir": str(folder), "epochs": 1,
         "output_dir": str(tmp_path / "outputs"), "run_name": "r", **options}
    )  # fmt: skip
    faces = load_faces(config)
    assert len(faces.class_names) == classes
    assert all(len(faces.split(split)) > 5 for split in SPLITS)
    np.testing.assert_allclose(faces.targets.sum(axis=1), 1, atol=1e-6)
    run = start_run(config, faces.info)
    fit(faces, run)

    parameters = {"checkpoint_path": str(run.path), "finetune_name": "f", "epochs": 1}
    gentle = resolve(parameters, command="finetune")
    tuned = start_run(gentle, faces.info)
    fit(faces, tuned)
    assert tuned.path.parent == run.path

    known = {"robustness_images": 10, "split": "test"}
    found = evaluate_run(tuned, faces, gentle.replace(**known), tuned)
    write_report(found)
    told = found.metrics
    assert told["dataset"] == dataset
    assert told["headline"] in (BEST, BEST_EMA)
    people = layout in ("rafdb", "rafdb_compound")
    assert set(told["attributes"]) == ({"gender", "race", "age_group"} if people else set())
    if people:  # whose columns are not shared; their numbers are
        [folder] = publish_runs([load_evaluation(tuned)], tmp_path / "shared")
        shared = load_evaluation(open_run(folder))
        assert "gender" not in shared.table
        groups = [evaluation_tables(one)["attributes"] for one in (found, shared)]
        pd.testing.assert_frame_equal(*groups)
        cards = [model_card(one).count("## Groups of people") for one in (found, shared)]
        assert cards[0] == cards[1]
    for name, table in found.predictions.items():
        scores = told["checkpoints"][name]["metrics"]
        assert scores["n"] == len(faces.split("test"))
        assert 0 < scores["accuracy"] <= 1
        assert confusion_counts(table).shape == (classes, classes)
