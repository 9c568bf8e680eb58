"""A face taken apart: the same as in an evaluation, the nearest really nearest."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from grefel_lib.analysis.explain import explain_face, load_photo, remember_faces
from grefel_lib.config import Config
from grefel_lib.faces import load_faces
from grefel_lib.grefel import Calibration, build_model
from grefel_lib.predict import NOT_SURE, predict
from grefel_lib.report.faces import explanation_figure
from grefel_lib.restore import Trained, load_model
from grefel_lib.run import checkpoint_file


@pytest.fixture(scope="module")
def trained(small_run):
    return load_model(checkpoint_file(small_run.path))


@pytest.fixture(scope="module")
def faces(small_run):
    return load_faces(small_run.config).split("test")


@pytest.fixture(scope="module")
def seen(trained, faces):
    return explain_face(trained, faces.gather([5])[0])


@pytest.fixture(scope="module")
def memory(trained, small_run):
    return remember_faces(trained, small_run.config)


def test_a_face_of_the_data_set_gets_its_row_of_the_evaluation(seen, trained, faces):
    row = predict(trained.model, faces, trained.config).iloc[5]
    for kind, prefix in (("corrected", "p_"), ("primary", "primary_")):
        known = row[[prefix + name for name in faces.class_names]].to_numpy(dtype=float)
        np.testing.assert_allclose(seen.distributions[kind], known, atol=1e-5)
    assert seen.predicted == row["predicted"]
    assert seen.reliability == pytest.approx(row["reliability"], abs=1e-5)


def test_every_branch_is_a_distribution_and_the_map_covers_the_face(seen):
    assert list(seen.distributions) == ["primary", "geometric", "attentive", "corrected"]
    for values in seen.distributions.values():
        assert values.sum() == pytest.approx(1, abs=1e-5)
    assert seen.attention.shape[0] == seen.attention.shape[1]
    assert seen.before in seen.class_names


def test_a_face_below_the_threshold_is_not_sure(seen, trained, faces):
    corrected = seen.distributions["corrected"]
    best, label = float(corrected.max()), seen.class_names[int(corrected.argmax())]
    for limit, told in ((best + 0.01, NOT_SURE), (best - 0.01, label)):
        strict = dataclasses.replace(trained, facts=trained.facts | {"not_sure_below": limit})
        assert explain_face(strict, faces.gather([5])[0]).predicted == told


def test_the_nearest_anchors_are_those_with_the_smallest_distance(seen):
    found = seen.nearest(4)
    distances = [seen.distances[anchor] for anchor in found]
    np.testing.assert_allclose(distances, np.sort(seen.distances.ravel())[:4])
    class_of_geometric = int(seen.distributions["geometric"].argmax())
    assert class_of_geometric in {label for label, _ in found}


def test_remembered_distances_are_those_of_single_faces(memory, trained):
    for position in (0, 7):
        alone = explain_face(trained, memory.faces.gather([position])[0])
        np.testing.assert_allclose(memory.distances[position], alone.distances, atol=0.05)


def test_near_faces_are_nearer_than_all_others(memory):
    near = memory.near((2, 1), 4)
    distances = memory.distances[:, 2, 1]
    assert list(distances[near]) == sorted(distances[near])
    assert distances[near].max() <= np.delete(distances, near).min()
    assert (memory.faces.table["split"] == "train").all()


def test_without_anchors_or_data_the_reason_is_said(trained, small_run, tmp_path):
    said = []
    away = small_run.config.replace(data_dir=str(tmp_path / "away"))
    assert remember_faces(trained, away, say=said.append) is None
    assert said[0].endswith("ferplus is not on this machine")
    assert remember_faces(trained, Config(), say=said.append) is None
    assert said.pop().endswith("the run has not learned from synthetic")
    colour = dataclasses.replace(trained, facts=trained.facts | {"face_shape": [32, 32, 3]})
    faces = remember_faces(colour, small_run.config).faces
    assert faces.gather([0]).shape == (1, 32, 32, 3), "as the model was trained"

    net = build_model(trained.config.replace(head="linear", backbone_weights="none"), 8)
    linear = Trained(net.eval(), trained.config, trained.class_names, {}, trained.path)
    assert remember_faces(linear, small_run.config, say=said.append) is None
    assert said[1] == "this head has no anchors"
    seen = explain_face(linear, np.zeros((48, 48), np.uint8))
    assert list(seen.distributions) == ["corrected"]
    assert (seen.nearest(), seen.reliability, seen.attention) == ([], None, None)
    assert not explanation_figure(seen).axes[1].images  # nothing to lay over the face


def test_the_figure_names_the_anchors_and_shows_their_faces(seen, memory):
    fig = explanation_figure(dataclasses.replace(seen, memory=memory))
    top, below = fig.subfigs
    np.testing.assert_array_equal(top.axes[0].images[0].get_array(), seen.face)
    assert seen.predicted in top.axes[2].get_title()
    for column, (label, number) in zip(below.subfigs, seen.nearest(), strict=True):
        assert column._suptitle.get_text().startswith(
            f"{seen.class_names[label]} anchor {number + 1}"
        )
        shown = [ax.images[0].get_array() for ax in column.axes]
        near = memory.faces.gather(memory.near((label, number)))
        for image, expected in zip(shown, near, strict=True):
            np.testing.assert_array_equal(image, expected)


def test_without_training_faces_the_anchors_are_a_line_and_no_blank(seen, assert_readable):
    fig = explanation_figure(dataclasses.replace(seen, memory=None))
    assert not fig.subfigs
    assert fig.get_figheight() < 2.5
    label, number = seen.nearest()[0]
    assert f"nearest: {seen.class_names[label]} anchor {number + 1}," in fig._supxlabel.get_text()
    assert_readable(fig)


def test_primary_is_drawn_calibrated_as_the_answer_is(trained, faces):
    face, calibrated = faces.gather([0])[0], copy.deepcopy(trained.model)
    plain = explain_face(trained, face)
    np.testing.assert_array_equal(plain.primary, plain.distributions["primary"])
    fitted = calibrated.calibration = Calibration(2.0, torch.linspace(-1, 1, 8).tolist())
    shown = explain_face(dataclasses.replace(trained, model=calibrated), face)
    expected = fitted(torch.tensor(plain.primary)[None].log())[0].exp()
    np.testing.assert_allclose(shown.primary, expected, atol=1e-4)
    assert shown.before == shown.class_names[int(expected.argmax())]
    # the branches stay what the correction is computed from
    np.testing.assert_array_equal(shown.distributions["primary"], plain.primary)
    fig = explanation_figure(shown)
    bars = fig.axes[2].containers[0]
    np.testing.assert_allclose([bar.get_width() for bar in bars], expected, atol=1e-4)


def test_explaining_leaves_the_model_as_it_was(trained, faces):
    before = {k: v.clone() for k, v in trained.model.state_dict().items()}
    explain_face(trained, faces.gather([0])[0])
    for name, value in trained.model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_photograph_without_a_face_is_refused_and_a_crop_is_taken(small_run, tmp_path):
    for size in ((600, 400), (48, 48)):
        Image.new("RGB", size, "navy").save(tmp_path / f"{size[0]}.png")
    wide, crop = (
        small_run.config.replace(picture=str(tmp_path / f"{side}.png")) for side in (600, 48)
    )
    with pytest.raises(ValueError, match=r"no face was found in .*600\.png; cut the face out"):
        load_photo(wide)
    assert (load_photo(crop).found, load_photo(crop).boxes) == (0, [(0, 0, 48, 48)])


def test_without_a_picture_there_are_two_photographs_each_with_a_face(small_run):
    photo = load_photo(small_run.config)
    pytest.importorskip("skimage", reason="the second comes with scikit-image")
    assert photo.found == 2
