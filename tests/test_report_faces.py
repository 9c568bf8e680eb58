"""Figures of faces: grids, cards, votes below their face, what a decision was made of."""

import numpy as np
import pandas as pd
import pytest
from drawn_figures import draw, texts
from matplotlib.figure import Figure

from grefel_lib.labels import VOTE_COLUMNS
from grefel_lib.report.faces import attention_overlay, detected_faces, face_cards, face_grid
from grefel_lib.report.style import paper_style


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def test_a_grid_leaves_empty_places_empty(rng):
    faces = rng.integers(0, 256, size=(5, 8, 8), dtype=np.uint8)
    with paper_style():
        axes = face_grid(faces, Figure(), ncols=3)
    assert axes.shape == (2, 3)
    assert [len(ax.images) for ax in axes.flat] == [1, 1, 1, 1, 1, 0]
    np.testing.assert_array_equal(axes[1, 1].images[0].get_array(), faces[4])
    assert axes[0, 0].images[0].get_clim() == (0, 255)  # a dark face stays dark


def test_votes_stand_under_their_own_face(rng):
    fig = draw("votes", "full")
    assert set(VOTE_COLUMNS) <= texts(fig)
    assert {"least", "most"} <= texts(fig)
    below = [ax for ax in fig.axes if ax.patches]
    assert [sum(bar.get_height() for bar in ax.patches) for ax in below] == [10] * 8
    fig.draw_without_rendering()
    for face, bars in zip([ax for ax in fig.axes if ax.images], below, strict=True):
        over, under = face.get_position(), bars.get_position()
        assert (under.x0, under.x1) == pytest.approx((over.x0, over.x1), abs=0.02)
        assert under.y1 < over.y0


def test_attention_lies_over_the_whole_face():
    with paper_style():
        ax = Figure().subplots()
    attention_overlay(np.zeros((48, 40), np.uint8), np.eye(3), ax)
    face, over = ax.images
    assert face.get_extent() == over.get_extent() == [0, 40, 48, 0]
    assert over.get_alpha() < 1


def test_found_faces_are_numbered_and_framed():
    fig = detected_faces(np.zeros((100, 300, 3), np.uint8), [(10, 20, 60, 70), (-5, 0, 45, 50)])
    (ax,) = fig.axes
    assert [text.get_text() for text in ax.texts] == ["1", "2"]
    assert [patch.get_bbox().bounds for patch in ax.patches] == [(10, 20, 50, 50), (-5, 0, 50, 50)]
    width, height = fig.get_size_inches()
    assert width / height == pytest.approx(3)


def test_ids_that_are_long_paths_keep_their_end_and_cover_nothing(assert_readable):
    name = "train/surprised/IMG_20240101_1200"
    rows = [{"id": f"{name}{i}.png", "label": "happiness", "predicted": "sadness", "reliability": 0,
             "p_happiness": 0.4, "p_sadness": 0.6} for i in range(4)]  # fmt: skip
    with paper_style():
        fig = face_cards(
            np.zeros((4, 9, 9), np.uint8), pd.DataFrame(rows), ["happiness", "sadness"]
        )
        fig.draw_without_rendering()
        assert_readable(fig)
    assert any("…" in text and "_12003\n" in text for text in texts(fig))
