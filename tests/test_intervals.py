"""Do the 95% intervals hold the truth 95 times in a hundred? `interval_coverage` says how."""

import numpy as np
import pandas as pd
import pytest
from interval_coverage import coverage, perfect_world, world
from scipy import stats

from grefel_lib.metrics import bootstrap_intervals, calibration_error, compute_metrics

SAMPLES = 300


@pytest.fixture(scope="module")
def found():
    return coverage(SAMPLES, draws=200)


def test_intervals_cover(found):
    shares = found["coverage"]  # with 1,000 samples: see tests/README.md
    assert shares.min() > 0.93 - 0.03, shares.to_dict()  # two standard deviations of 300 samples
    assert shares[["one model", "difference"]].max() < 0.97 + 0.02


def test_misses_lie_on_both_sides(found):
    one = found.loc["one model"].drop("ece of a calibrated model")  # which none can lie below
    assert (one[["below", "above"]] < 0.07).all(axis=None)


def test_the_calibration_error_has_no_bias_where_the_plain_one_has():
    first, perfect = world(100_000)[0], perfect_world(100_000)
    for pool in (first, perfect):
        truth = calibration_error(pool)[0]
        rng = np.random.default_rng(3)
        samples = [pool.iloc[rng.integers(len(pool), size=250)] for _ in range(100)]
        debiased = np.mean([calibration_error(sample)[0] for sample in samples])
        plain = np.mean([plain_error(sample) for sample in samples])
        assert abs(debiased - truth) < 0.5 * (plain - truth)
        assert plain > truth + 0.01


def plain_error(predictions):
    confidence = predictions.filter(like="p_").max(axis=1)
    right = predictions["label"] == predictions["predicted"]
    gaps = (right - confidence).groupby(np.minimum((confidence * 15).astype(int), 14)).sum()
    return gaps.abs().sum() / len(predictions)


def test_many_faces_need_no_correction():
    pool = world()[0]
    value, low, high = calibration_error(pool)
    assert value == pytest.approx(plain_error(pool), rel=0.02)
    assert low < value < high < low + 0.005


def test_a_constant_answer_has_a_mean_class_accuracy_without_doubt():
    predictions = world(3000)[0]
    first = "p_neutral"
    certain = {c: float(c == first) for c in predictions.filter(like="p_").columns}
    constant = predictions.assign(predicted="neutral", **certain)
    row = bootstrap_intervals(constant, draws=200).loc["mean_class_accuracy"]
    assert list(row) == pytest.approx([1 / 8] * 3)
    assert compute_metrics(constant)["mean_class_accuracy"] == pytest.approx(1 / 8)


@pytest.mark.parametrize("metric", ["accuracy", "weighted_f1"])
@pytest.mark.parametrize("share", [0.9, 0.97])
def test_intervals_of_few_faces_cover(share, metric):
    faces, inside = 30, 0.0
    for right in range(faces + 1):
        if (chance := stats.binom.pmf(right, faces, share)) < 1e-4:
            continue
        labels = np.arange(faces) % 2
        predicted = np.where(np.arange(faces) < right, labels, 1 - labels)
        names = np.array(["a", "b"])
        table = pd.DataFrame({"id": np.arange(faces), "label": names[labels],
                              "predicted": names[predicted], "p_a": np.where(predicted, 0.1, 0.9),
                              "p_b": np.where(predicted, 0.9, 0.1)})  # fmt: skip
        low, high = bootstrap_intervals(table).loc[metric, ["low", "high"]]
        inside += chance * (low <= share <= high)
    assert inside > 0.93  # resampling alone: 0.6 at 97%, where most samples have no mistake
