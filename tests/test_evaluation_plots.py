"""Figures of an evaluation: what is drawn is what was given."""

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from grefel_lib.analysis.calibration import aurc, risk_coverage
from grefel_lib.analysis.robustness import SEVERITIES, with_clean
from grefel_lib.report.faces import attention_overlay
from grefel_lib.report.figures import risk_coverage_curves, robustness_curves
from grefel_lib.report.style import paper_style


@pytest.fixture
def ax():
    with paper_style("column"):
        fig, ax = plt.subplots()
        yield ax
        plt.close(fig)


def test_each_measure_of_sureness_is_a_curve_with_its_area(ax):
    wrong = np.array([0, 0, 1, 0, 1, 1])
    sure = {"confidence": np.linspace(1, 0, 6), "reliability": np.linspace(0, 1, 6)}
    curves = {name: risk_coverage(values, wrong) for name, values in sure.items()}
    scores = pd.DataFrame({"aurc": {n: aurc(c) for n, c in curves.items()}})
    risk_coverage_curves(curves, ax, scores=scores)
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == [f"{n} (AURC {100 * scores.loc[n, 'aurc']:.1f})" for n in curves]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), curves["confidence"]["risk"])


def test_every_corruption_is_a_line_from_the_clean_score_on(ax):
    rows = [{"corruption": "clean", "severity": 0, "accuracy": 0.9}]
    rows += [
        {"corruption": kind, "severity": s, "accuracy": 0.9 - s * 0.1}
        for kind in SEVERITIES
        for s in range(1, 6)
    ]
    curves = with_clean(pd.DataFrame(rows))
    robustness_curves(curves, ax, metric="accuracy", label="accuracy")
    assert [line.get_label() for line in ax.lines] == list(SEVERITIES)
    for line in ax.lines:
        np.testing.assert_allclose(line.get_ydata(), [0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    assert len({(line.get_linestyle(), line.get_marker()) for line in ax.lines}) == 6  # in grey too


def test_attention_lies_over_the_whole_face(ax):
    attention_overlay(np.zeros((48, 40), np.uint8), np.eye(3), ax)
    face, over = ax.images
    assert face.get_extent() == over.get_extent() == [0, 40, 48, 0]
    assert over.get_alpha() < 1
