"""Figures of the method: everything given is drawn, nothing is cut off, bad input is refused."""

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from grefel_lib.labels import EMOTIONS
from grefel_lib.report.method import anchor_map
from grefel_lib.report.style import paper_style, short_name

matplotlib.use("agg")
C, K, N = len(EMOTIONS), 3, 40


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def empty(axes: int = 1, height: float = 2.5, **options) -> tuple[Figure, np.ndarray]:
    with paper_style():
        fig = Figure(figsize=(6.9, height))
        return fig, fig.subplots(1, axes, squeeze=False, **options)[0]


def test_a_map_holds_every_face_and_every_anchor(rng, assert_readable):
    labels = np.arange(N) % C
    angle = 2 * np.pi * labels / C
    points = 9 * np.stack([np.cos(angle), np.sin(angle)], axis=1) + rng.normal(size=(N, 2))
    anchors = rng.normal(size=(C, K, 2))
    fig, (ax,) = empty(height=3.4)
    anchor_map(points, labels, anchors, EMOTIONS, ax)
    assert_readable(fig)
    drawn = [collection.get_offsets() for collection in ax.collections]
    for i in range(C):
        np.testing.assert_allclose(drawn[2 * i], points[labels == i])
        np.testing.assert_allclose(drawn[2 * i + 1], anchors[i])
    named = [text.get_text() for text in ax.figure.legends[0].get_texts()]
    assert named == [*EMOTIONS, "a face", "an anchor"]
    places = {text.get_text(): text.get_position() for text in ax.texts}
    for i, name in enumerate(EMOTIONS):
        np.testing.assert_allclose(places[short_name(name)], np.median(points[labels == i], axis=0))


def test_a_class_without_a_face_still_shows_its_anchors(rng):
    _, (ax,) = empty()
    labels = np.zeros(N, dtype=int)
    anchors = rng.normal(size=(2, K, 2))
    anchor_map(rng.normal(size=(N, 2)), labels, anchors, EMOTIONS[:2], ax)
    assert [len(drawn.get_offsets()) for drawn in ax.collections] == [N, K, 0, K]
