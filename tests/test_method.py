"""Figures of the method: everything given is drawn, nothing is cut off, bad input is refused."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from grefel_lib.labels import COLOURS, EMOTIONS
from grefel_lib.report.method import anchor_circle, anchor_map, curves
from grefel_lib.report.style import paper_style

matplotlib.use("agg")
C, K, N = len(EMOTIONS), 3, 40


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def empty(axes: int = 1, height: float = 2.5, **options) -> tuple[Figure, np.ndarray]:
    with paper_style("full"):
        fig = Figure(figsize=(6.9, height))
        return fig, fig.subplots(1, axes, squeeze=False, **options)[0]


def test_curves_are_named_and_can_be_told_apart_without_colour(assert_readable):
    x = np.linspace(0, 1, 11)
    fig, (ax,) = empty()
    curves(pd.DataFrame({"low": x, "high": 2 * x}, index=x), ax)
    assert_readable(fig)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["low", "high"]
    assert len({line.get_linestyle() for line in ax.lines}) == 2
    np.testing.assert_allclose(ax.lines[1].get_xydata(), np.stack([x, 2 * x], axis=1))


def test_anchors_lie_on_their_circle_in_the_colours_of_their_classes(assert_readable):
    angles = np.linspace(0, 6, 2 * K).reshape(2, K)
    anchors = 1.5 * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    fig, (ax,) = empty()
    anchor_circle(anchors, ["fear", "anger"], ax)
    ax.set(title="start", xlabel="smallest gap")
    assert_readable(fig)
    assert ax.patches[0].get_radius() == pytest.approx(1.5)
    for points, given, name in zip(ax.collections, anchors, ("fear", "anger"), strict=True):
        np.testing.assert_allclose(points.get_offsets(), given)
        assert to_hex(points.get_facecolor()[0]).upper() == COLOURS[name]
    with pytest.raises(ValueError, match="1 names for 2 classes"):
        anchor_circle(anchors, ["fear"], ax)


def test_a_map_holds_every_face_and_every_anchor(rng, assert_readable):
    labels = np.arange(N) % C
    points, anchors = rng.normal(size=(N, 2)), rng.normal(size=(C, K, 2))
    fig, (ax,) = empty(height=3.4)
    anchor_map(points, labels, anchors, EMOTIONS, ax)
    assert_readable(fig)
    drawn = [collection.get_offsets() for collection in ax.collections]
    for i in range(C):
        np.testing.assert_allclose(drawn[2 * i], points[labels == i])
        np.testing.assert_allclose(drawn[2 * i + 1], anchors[i])
    named = [text.get_text() for text in ax.get_legend().get_texts()]
    assert named == [*EMOTIONS, "a face", "an anchor"]


def test_a_class_without_a_face_still_shows_its_anchors(rng):
    _, (ax,) = empty()
    labels = np.zeros(N, dtype=int)
    anchors = rng.normal(size=(2, K, 2))
    anchor_map(rng.normal(size=(N, 2)), labels, anchors, EMOTIONS[:2], ax)
    assert [len(drawn.get_offsets()) for drawn in ax.collections] == [N, K, 0, K]
