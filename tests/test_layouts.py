"""Every published layout is read, trained on, fine-tuned and evaluated."""

import numpy as np
import pytest

from grefel_lib import datasets, evaluated, metrics, rebuild, runs, synthetic, training
from grefel_lib.config import Config

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
    folder = synthetic.write(tmp_path / layout, layout=layout, images=220)
    config = Config.resolve(
        {"profile": "demo", "dataset": dataset, "data_dir": str(folder), "epochs": 1,
         "output_dir": str(tmp_path / "outputs"), "run_name": "r", **options}
    )  # fmt: skip
    faces = datasets.load(config)
    assert len(faces.class_names) == classes
    assert all(len(faces.split(split)) > 5 for split in datasets.SPLITS)
    np.testing.assert_allclose(faces.targets.sum(axis=1), 1, atol=1e-6)
    run = runs.start(config, faces.info)
    training.fit(faces, run)

    gentle = runs.resolve({"checkpoint_path": str(run.path), "finetune_name": "f", "epochs": 1})
    tuned = runs.start(gentle, faces.info)
    training.fit(faces, tuned)
    assert tuned.path.parent == run.path

    known = {"robustness_images": 10, "split": "test"}
    found = evaluated.score(tuned, faces, gentle.replace(**known), tuned)
    told = rebuild.everything(found, tuned)
    assert told["dataset"] == dataset
    assert told["headline"] in (runs.BEST, runs.BEST_EMA)
    people = layout in ("rafdb", "rafdb_compound")
    assert set(told["attributes"]) == ({"gender", "race", "age_group"} if people else set())
    for name, table in found.predictions.items():
        scores = told["checkpoints"][name]["metrics"]
        assert scores["n"] == len(faces.split("test"))
        assert 0 < scores["accuracy"] <= 1
        assert metrics.confusion_counts(table).shape == (classes, classes)
