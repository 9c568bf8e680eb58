"""Corruptions: shapes, reproducibility, one draw per face, monotone damage."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch

from grefel_lib.analysis.robustness import SEVERITIES, corrupt, evaluate_corruptions, with_clean
from grefel_lib.config import Config
from grefel_lib.faces import load_faces
from grefel_lib.grefel import build_model
from grefel_lib.predict import predict


@pytest.fixture(scope="module")
def drawn(faces_dir):
    faces = load_faces(Config(dataset="ferplus", data_dir=str(faces_dir)))
    return faces.gather(np.arange(16))


@pytest.mark.parametrize("kind", SEVERITIES)
@pytest.mark.parametrize("colour", [False, True])
def test_each_kind_spoils_more_with_each_severity(drawn, kind, colour):
    images = np.repeat(drawn[..., None], 3, axis=3) if colour else drawn
    damage = []
    for severity in range(1, 6):
        spoiled = corrupt(images, kind, severity, seed=3)
        assert spoiled.shape == images.shape
        assert spoiled.dtype == np.uint8
        damage.append(np.abs(spoiled.astype(float) - images).mean())
    assert all(a < b for a, b in itertools.pairwise(damage)), damage
    assert damage[0] > 0.1


@pytest.mark.parametrize("kind", SEVERITIES)
def test_the_same_seed_spoils_the_same_way(drawn, kind):
    first, again = (corrupt(drawn, kind, 3, seed=1) for _ in range(2))
    assert np.array_equal(first, again)


@pytest.mark.parametrize("kind", ["noise", "occlusion"])
def test_every_face_gets_a_draw_of_its_own(drawn, kind):
    same = np.repeat(drawn[:1], 8, axis=0)
    spoiled = corrupt(same, kind, 3)
    assert len({face.tobytes() for face in spoiled}) == 8


def test_blur_and_occlusion_scale_with_the_face(drawn):
    large = np.repeat(np.repeat(drawn, 2, axis=1), 2, axis=2)
    for kind in ("blur", "occlusion"):
        small = corrupt(drawn, kind, 4, seed=2).mean()
        assert corrupt(large, kind, 4, seed=2).mean() == pytest.approx(small, rel=0.02)


def test_faces_are_turned_by_the_angle_in_either_direction():
    dot = np.zeros((16, 48, 48), np.uint8)
    dot[:, 22:26, 40:44] = 200  # 18 pixels to the right of the centre
    turned = corrupt(dot, "rotation", 3).astype(float)  # 25 degrees
    below = turned.sum(axis=2) @ np.arange(48) / turned.sum(axis=(1, 2)) - 23.5
    assert np.abs(below) == pytest.approx(18 * np.sin(np.radians(25)), abs=0.1)
    assert set(np.sign(below)) == {-1, 1}


@pytest.mark.parametrize(("kind", "severity"), [("fog", 1), ("blur", 0), ("blur", 6)])
def test_an_unknown_corruption_is_refused(drawn, kind, severity):
    with pytest.raises(ValueError, match="corruptions are blur, noise"):
        corrupt(drawn, kind, severity)


def test_every_corruption_is_scored_and_starts_from_the_clean_score(faces_dir, monkeypatch):
    seen = []
    monkeypatch.setattr("grefel_lib.analysis.robustness.predict", lambda net, spoiled, config: (
        seen.append(spoiled.images.astype(float)), predict(net, spoiled, config))[1])  # fmt: skip
    torch.manual_seed(0)
    config = Config(dataset="ferplus", data_dir=str(faces_dir), backbone="test_resnet",
                    backbone_weights="none", image_size=48)  # fmt: skip
    faces = load_faces(config).split("test")
    net = build_model(config, 8)
    table = pd.DataFrame(evaluate_corruptions(net, faces, config))
    assert len(table) == 1 + 6 * 5
    assert table["accuracy"].between(0, 1).all()
    damage = [np.abs(images - seen[0]).mean() for images in seen[1:]]
    assert (np.diff(np.reshape(damage, (6, 5))) > 0).all(), "each severity spoils more"
    curves = with_clean(table)
    assert (curves.groupby("corruption")["severity"].agg(list).map(tuple) == tuple(range(6))).all()
    assert curves.loc[curves["severity"] == 0, "accuracy"].nunique() == 1
