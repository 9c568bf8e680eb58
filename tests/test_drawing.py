"""Drawn faces: people and expressions differ as they should."""

from itertools import pairwise

import numpy as np
import pytest

from grefel_lib.labels import EMOTIONS
from grefel_lib.sources.synthetic import draw_face, draw_non_face


def person(seed):
    return np.random.default_rng(seed)


def test_the_expressions_of_one_person_differ_visibly():
    for seed in range(5):
        faces = {e: draw_face(e, person(seed)).astype(int) for e in EMOTIONS}
        for one in EMOTIONS:
            for other in EMOTIONS[: EMOTIONS.index(one)]:
                middle = np.abs(faces[one] - faces[other])[8:44, 8:40]
                assert middle.mean() > 1.0, (seed, one, other)
                assert (middle > 20).sum() >= 20, (seed, one, other)


def test_strength_zero_is_the_neutral_face_and_more_strength_moves_further_away():
    neutral = draw_face("neutral", person(3)).astype(int)
    drawn = [draw_face("fear", person(3), strength=s) for s in (0.0, 0.5, 1.0)]
    distance = [np.abs(face - neutral).mean() for face in drawn]
    assert distance[0] == 0
    assert 0 < distance[1] < distance[2]


def test_a_blend_lies_between_its_emotions():
    def draw(emotion):
        return draw_face(emotion, person(1)).astype(int)

    blend = draw({"happiness": 0.5, "surprise": 0.5})
    apart = np.abs(draw("happiness") - draw("surprise")).mean()
    assert np.abs(blend - draw("happiness")).mean() < apart
    assert np.abs(blend - draw("surprise")).mean() < apart


def test_faces_have_the_size_and_channels_asked_for():
    assert draw_face("anger", person(0)).shape == (48, 48)
    colour = draw_face("anger", person(0), size=64, colour=True)
    assert colour.shape == (64, 64, 3)
    assert colour.dtype == np.uint8
    assert np.abs(colour[..., 0].astype(int) - colour[..., 2]).mean() > 5


def test_every_face_has_contrast_and_no_two_people_look_alike():
    faces = [draw_face("neutral", person(seed)).astype(int) for seed in range(40)]
    assert min(face.std() for face in faces) > 8
    apart = [np.abs(one - other).mean() for one, other in pairwise(faces)]
    assert min(apart) > 8


def test_an_unknown_emotion_is_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"'joy'; choose from: neutral, happiness"):
        draw_face("joy", person(0))


def test_non_faces_are_grey_pictures_of_the_size_asked_for():
    pictures = [draw_non_face(person(seed), size=20) for seed in range(12)]
    assert {(picture.shape, picture.dtype.name) for picture in pictures} == {((20, 20), "uint8")}
    assert len({picture.tobytes() for picture in pictures}) == 12
