"""Figures of faces: grids, cards, votes below their face, what a decision was made of."""

import numpy as np
import pytest
from drawn_figures import draw, texts
from matplotlib.figure import Figure

from grefel_lib.labels import EMOTIONS, VOTE_COLUMNS
from grefel_lib.report.faces import attention_overlay, decision_figure, detected_faces, face_grid
from grefel_lib.report.style import paper_style


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def test_a_grid_leaves_empty_places_empty_and_frames_faces_in_colour(rng):
    faces = rng.integers(0, 256, size=(5, 8, 8), dtype=np.uint8)
    with paper_style("column"):
        axes = face_grid(faces, Figure(), ncols=3, colours=["#123456"] * 5)
    assert axes.shape == (2, 3)
    assert [len(ax.images) for ax in axes.flat] == [1, 1, 1, 1, 1, 0]
    np.testing.assert_array_equal(axes[1, 1].images[0].get_array(), faces[4])
    assert axes[0, 0].images[0].get_clim() == (0, 255)  # a dark face stays dark
    seen = [ax.spines["left"].get_visible() for ax in axes.flat]
    assert seen == [True] * 5 + [False]


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


def test_a_card_sets_people_beside_the_model():
    fig = draw("cards", "column")
    assert {"people", "model", *EMOTIONS} <= texts(fig)
    assert len(fig.axes[1].patches) == 16


def test_attention_lies_over_the_whole_face():
    with paper_style("column"):
        ax = Figure().subplots()
    attention_overlay(np.zeros((48, 40), np.uint8), np.eye(3), ax)
    face, over = ax.images
    assert face.get_extent() == over.get_extent() == [0, 40, 48, 0]
    assert over.get_alpha() < 1


def draw_decision(rng, *, notes=True):
    titles = (
        "p\nprimary",
        "g\nanchors",
        "t\nattention",
        "r\n0.30 g + 0.70 t",
        "q\n0.29 p + 0.71 r",
    )
    values = dict(zip(titles, rng.dirichlet(np.full(8, 0.4), size=5), strict=True))
    with paper_style("full"):
        fig = Figure(figsize=(6.9, 1.75))
        axes = fig.subplots(1, 7, width_ratios=(1.2, *[1] * 6))
    face = rng.integers(0, 256, size=(48, 48), dtype=np.uint8)
    notes = ["confidence 0.46"] * 5 if notes else None
    decision_figure(face, np.full(8, 1 / 8), values, EMOTIONS, axes, notes=notes)
    return fig, axes, values


def test_a_decision_shows_each_distribution_and_names_its_largest_share(rng, assert_readable):
    fig, axes, values = draw_decision(rng)
    assert_readable(fig)
    for ax, (title, shares) in zip(axes[2:], values.items(), strict=True):
        np.testing.assert_allclose([bar.get_width() for bar in ax.patches], shares)
        assert ax.get_title() == title
        assert ax.get_xlabel() == "confidence 0.46"
        written = {text.get_text() for text in ax.texts} - {""}
        assert written == {f"{shares.max():.0%}"}
    assert len({ax.get_ylim() for ax in axes[1:]}) == 1
    assert [label.get_text() for label in axes[1].get_yticklabels()] == list(EMOTIONS)


def test_a_decision_needs_an_axis_for_each_part(rng):
    _, axes, values = draw_decision(rng, notes=False)
    with pytest.raises(ValueError, match="6 axes for 5 distributions"):
        decision_figure(np.zeros((8, 8), np.uint8), np.ones(8) / 8, values, EMOTIONS, axes[:6])


def test_found_faces_are_numbered_and_framed():
    fig = detected_faces(np.zeros((100, 300, 3), np.uint8), [(10, 20, 60, 70), (-5, 0, 45, 50)])
    (ax,) = fig.axes
    assert [text.get_text() for text in ax.texts] == ["1", "2"]
    assert [patch.get_bbox().bounds for patch in ax.patches] == [(10, 20, 50, 50), (-5, 0, 50, 50)]
    width, height = fig.get_size_inches()
    assert width / height == pytest.approx(3)
