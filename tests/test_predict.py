"""Evaluation: the predictions table, single images, batch independence."""

import numpy as np
import pandas as pd
import pytest
import torch
from drawn_layouts import write_layout
from PIL import Image

from grefel_lib.analysis.evaluation import evaluate_run
from grefel_lib.config import Config
from grefel_lib.faces import load_faces
from grefel_lib.fit import fit
from grefel_lib.grefel import build_model
from grefel_lib.labels import FORMATS
from grefel_lib.predict import like_training, predict, predict_files, score_images
from grefel_lib.restore import load_model
from grefel_lib.run import checkpoint_file, start_run


@pytest.fixture(scope="module")
def run(faces_dir, tmp_path_factory):
    config = Config.resolve(
        {"profile": "demo", "dataset": "ferplus", "data_dir": str(faces_dir), "epochs": 1,
         "output_dir": str(tmp_path_factory.mktemp("outputs")), "run_name": "r"}
    )  # fmt: skip
    faces = load_faces(config)
    made = start_run(config, faces.info)
    fit(faces, made)
    return made


@pytest.fixture(scope="module")
def trained(run):
    return load_model(checkpoint_file(run.path))


@pytest.fixture(scope="module")
def faces(run):
    return load_faces(run.config).split("test")


def test_the_table_has_a_row_a_face_with_everything_known_about_it(trained, faces):
    table = predict(trained.model, faces, trained.config)
    assert table["id"].tolist() == faces.table["id"].tolist()
    for prefix in ("p_", "primary_"):
        np.testing.assert_allclose(
            table[[f"{prefix}{n}" for n in faces.class_names]].sum(axis=1), 1, atol=1e-5
        )
    top = table.filter(regex="^p_").idxmax(axis=1).str.removeprefix("p_")
    assert (top == table["predicted"]).all()
    assert table["reliability"].between(0, 1).all()
    assert {"confidence_primary", "confidence_geometric", "confidence_attentive"} <= set(table)
    np.testing.assert_array_equal(table["votes_happiness"], faces.table["happiness"])


def test_scores_do_not_depend_on_the_batch(trained, faces):
    many = predict(trained.model, faces, trained.config)
    few = predict(trained.model, faces, trained.config.replace(batch_size=3))
    # through the backbone: convolutions may sum in another order for another batch size
    columns = [c for c in many if many[c].dtype.kind == "f"]
    np.testing.assert_allclose(many[columns], few[columns], atol=1e-4)


def test_loader_processes_change_nothing(trained, faces):
    here = predict(trained.model, faces, trained.config)
    elsewhere = predict(trained.model, faces, trained.config.replace(num_workers=2))
    pd.testing.assert_frame_equal(here, elsewhere)


def test_a_single_image_file_scores_as_the_same_face_of_the_data_set(trained, faces, tmp_path):
    table = predict(trained.model, faces, trained.config)
    paths = []
    for position in range(4):
        paths.append(tmp_path / f"{position}.png")
        Image.fromarray(faces.gather(np.array([position]))[0]).save(paths[-1])
    found = predict_files(trained, paths)
    names = [f"p_{name}" for name in faces.class_names]
    np.testing.assert_allclose(found[names], table[names].head(4), atol=1e-4)
    np.testing.assert_allclose(found["reliability"], table["reliability"].head(4), atol=1e-4)


def test_colour_and_odd_sizes_are_accepted(trained):
    images = [np.zeros((31, 57), np.uint8), np.full((200, 100, 3), 90, np.uint8)]
    output = score_images(trained, images)
    torch.testing.assert_close(output.class_probs.sum(1), torch.ones(2))


def test_a_linear_head_has_no_reliability_column(faces):
    config = Config(backbone="test_resnet", backbone_weights="none", head="linear", image_size=48)
    table = predict(build_model(config, 8), faces, config)
    assert not [c for c in table if c.startswith(("primary", "confidence", "reliability"))]


def test_other_classes_are_refused_with_the_mend(run, tmp_path):

    folder = write_layout(tmp_path / "seven", "fer2013", images=200)
    config = run.config.replace(dataset="fer2013", data_dir=str(folder))
    with pytest.raises(ValueError, match="fine-tune the run on this data set first"):
        evaluate_run(run, load_faces(config), config, run)


@pytest.mark.parametrize(("dataset", "shape"), [("ferplus", (48, 48)), ("rafdb", (100, 100, 3))])
@pytest.mark.parametrize("given", [(30, 40), (300, 200, 3)])
def test_a_crop_becomes_like_the_training_faces(dataset, shape, given):
    face = like_training(np.full(given, 77, np.uint8), *FORMATS[dataset])
    assert face.shape == shape
    assert (face == 77).all()


def test_a_face_of_the_right_kind_is_left_as_it_is():
    face = np.random.default_rng(0).integers(0, 255, (48, 48), dtype=np.uint8)
    np.testing.assert_array_equal(like_training(face, *FORMATS["ferplus"]), face)
