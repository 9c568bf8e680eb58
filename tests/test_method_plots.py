"""Figures of the method: everything given is drawn, nothing is cut off, bad input is refused."""

from itertools import combinations

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from grefel_lib.labels import COLOURS, EMOTIONS
from grefel_lib.report.faces import decision_figure
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


@pytest.fixture
def assert_readable(monkeypatch):
    """Every text that is drawn lies inside its figure and covers no other."""
    drawn = []  # matplotlib keeps ticks beyond the limits, and never draws them
    paint = Text.draw
    monkeypatch.setattr(Text, "draw", lambda text, r: (drawn.append(text), paint(text, r))[1])

    def look(fig: Figure) -> None:
        for _ in range(3):
            fig.draw_without_rendering()
        drawn.clear()
        with matplotlib.rc_context({"text.hinting": "none"}):
            renderer = FigureCanvasAgg(fig).get_renderer()
            fig.draw(renderer)
            boxes = [(t, t.get_window_extent(renderer)) for t in drawn if t.get_text().strip()]
        assert len(boxes) >= 2
        for text, box in boxes:
            assert min(box.x0, box.y0) > -0.5, text
            assert box.x1 < fig.bbox.x1 + 0.5, text
            assert box.y1 < fig.bbox.y1 + 0.5, text
        for (one, a), (other, b) in combinations(boxes, 2):
            wide, high = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
            assert wide < 1 or high < 2, f"{one} and {other} overlap by {wide:.1f} x {high:.1f}"

    return look


def draw_decision(rng, *, notes=True):
    titles = (
        "p\nprimary",
        "g\nanchors",
        "t\nattention",
        "r\n0.30 g + 0.70 t",
        "q\n0.29 p + 0.71 r",
    )
    values = dict(zip(titles, rng.dirichlet(np.full(C, 0.4), size=5), strict=True))
    fig, axes = empty(7, 1.75, width_ratios=(1.2, *[1] * 6))
    face = rng.integers(0, 256, size=(48, 48), dtype=np.uint8)
    notes = ["confidence 0.46"] * 5 if notes else None
    decision_figure(face, np.full(C, 1 / C), values, EMOTIONS, axes, notes=notes)
    return fig, axes, values


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
        decision_figure(np.zeros((8, 8), np.uint8), np.ones(C) / C, values, EMOTIONS, axes[:6])
