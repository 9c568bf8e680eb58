"""Calibration against hand-worked cases and scikit-learn."""

import numpy as np
import pandas as pd
import pytest
from scipy import special
from sklearn import metrics as reference
from sklearn.calibration import calibration_curve
from sklearn.decomposition import PCA

from grefel_lib.analysis.calibration import (
    aurc,
    calibration_errors,
    chosen_offset,
    error_detection,
    fit_face_test,
    fit_release,
    fit_reliability,
    fit_temperature,
    offset_curve,
    risk_coverage,
    temperature_words,
    with_temperature,
)
from grefel_lib.metrics import class_probabilities, compute_metrics


def table(probs, labels, names, **columns):
    probs, names = np.asarray(probs, dtype=float), list(names)
    return pd.DataFrame({
        "id": [f"face{i}" for i in range(len(probs))],
        "label": [names[i] for i in labels],
        "predicted": [names[i] for i in probs.argmax(axis=1)],
        **{f"p_{name}": probs[:, i] for i, name in enumerate(names)}, **columns,
    })  # fmt: skip


def drawn(size=900, temperature=1.0, seed=3):
    """Faces whose labels are drawn from the model's own distribution, then sharpened."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(size, 4)) * 2
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = [rng.choice(4, p=row) for row in true]
    told = np.exp(logits / temperature)
    return table(told / told.sum(axis=1, keepdims=True), labels, "abcd")


def test_bins_of_equal_mass_do_not_depend_on_the_order_of_equal_confidences():
    probs, labels = [[0.9, 0.1]] * 150, [1] * 15 + [0] * 135
    found = calibration_errors(table(probs, labels, "ab"))["ece_mass"]
    assert found == pytest.approx(0, abs=1e-9), "nine in ten are right"
    assert calibration_errors(table(probs, labels[::-1], "ab"))["ece_mass"] == found


def test_a_case_worked_by_hand():
    probs = [[0.9, 0.1], [0.6, 0.4], [0.7, 0.3]]
    votes = {"votes_cat": [9, 1, 0], "votes_dog": [1, 1, 0], "votes_unknown": [0, 8, 10]}
    found = calibration_errors(table(probs, [0, 1, 0], ["cat", "dog"], **votes))
    assert found["ece_plain"] == pytest.approx((0.1 + 0.6 + 0.3) / 3)  # three bins of one face
    # each class's probability against its share: 0.9-1, 0.6-0, 0.7-1 for cat, the same for dog
    assert found["classwise_ece"] == pytest.approx((0.1 + 0.6 + 0.3) / 3)
    # the votes of the first two faces: 0.9, 0.1 and 0.5, 0.5; the third has no emotion vote
    by_hand = -(0.9 * np.log(0.9) + 0.1 * np.log(0.1) + 0.5 * np.log(0.6) + 0.5 * np.log(0.4)) / 2
    assert found["soft_nll"] == pytest.approx(by_hand)
    assert found["soft_brier"] == pytest.approx((0 + 2 * 0.1**2) / 2)


def test_without_votes_there_are_no_soft_scores():
    assert set(calibration_errors(drawn())) == {
        "ece", "ece_plain", "ece_mass", "classwise_ece", "brier", "nll"}  # fmt: skip


def test_the_plain_calibration_error_is_the_textbook_sum_over_fifteen_bins():
    predictions = drawn(temperature=0.7)
    confidence = class_probabilities(predictions).max(axis=1)
    right = (predictions["label"] == predictions["predicted"]).to_numpy()
    expected = 0.0
    for low in range(15):
        inside = (confidence >= low / 15) & (confidence < (low + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert calibration_errors(predictions)["ece_plain"] == pytest.approx(expected, abs=1e-12)
    assert expected > 0.01


def test_bins_of_equal_mass_are_those_of_scikit_learn():
    predictions = drawn(size=900)  # 60 faces a bin
    sure = class_probabilities(predictions).max(axis=1)
    right = (predictions["label"] == predictions["predicted"]).to_numpy(dtype=float)
    found, claimed = calibration_curve(right, sure, n_bins=15, strategy="quantile")
    expected = np.abs(found - claimed).mean()
    assert calibration_errors(predictions)["ece_mass"] == pytest.approx(expected, abs=1e-3)


def test_the_temperature_that_spoiled_the_probabilities_is_found_again():
    spoiled = drawn(size=4000, temperature=0.5)
    fitted = fit_temperature(spoiled)
    assert fitted == pytest.approx(2.0, rel=0.08)
    mended = with_temperature(spoiled, fitted)
    before, after = calibration_errors(spoiled), calibration_errors(mended)
    assert after["nll"] < before["nll"]
    assert after["ece"] < before["ece"] / 3
    assert compute_metrics(mended)["accuracy"] == compute_metrics(spoiled)["accuracy"]
    pd.testing.assert_frame_equal(with_temperature(spoiled, 1.0), spoiled)


@pytest.mark.parametrize("temperature", [0, -1, float("nan")])
def test_no_other_temperature_is_taken(temperature):
    with pytest.raises(ValueError, match="temperature must be above 0"):
        with_temperature(drawn(20), temperature)


def test_risk_and_coverage_by_hand():
    curve = risk_coverage(np.array([0.9, 0.8, 0.7, 0.6]), np.array([0, 0, 1, 0]))
    assert list(curve["coverage"]) == [0.25, 0.5, 0.75, 1]
    assert list(curve["risk"]) == pytest.approx([0, 0, 1 / 3, 1 / 4])
    assert aurc(curve) == pytest.approx((0 + 0 + 1 / 3 + 1 / 4) / 4)


def test_faces_of_the_same_sureness_are_kept_together():
    curve = risk_coverage(np.array([0.9, 0.5, 0.5]), np.array([0, 1, 0]))
    assert list(curve["coverage"]) == pytest.approx([1 / 3, 1])
    assert list(curve["risk"]) == pytest.approx([0, 1 / 3])
    assert aurc(curve) == pytest.approx(2 / 9)
    useless = risk_coverage(np.ones(5), np.array([1, 0, 0, 0, 1]))
    assert aurc(useless) == pytest.approx(2 / 5)  # the plain error rate


def test_error_detection_is_the_auroc_of_scikit_learn():
    predictions = drawn()
    predictions["reliability"] = np.random.default_rng(1).random(len(predictions))
    right = predictions["label"] == predictions["predicted"]
    found = error_detection(predictions)
    sure = class_probabilities(predictions).max(axis=1)
    assert found.loc["confidence", "auroc"] == pytest.approx(reference.roc_auc_score(right, sure))
    assert abs(found.loc["reliability", "auroc"] - 0.5) < 0.06
    assert found.loc["confidence", "aurc"] < found.loc["reliability", "aurc"]
    perfect = predictions[right]
    assert np.isnan(error_detection(perfect).loc["confidence", "auroc"])


def test_arrays_of_different_length_are_refused():
    with pytest.raises(ValueError, match="3 values of sureness for 2 faces"):
        risk_coverage(np.ones(3), np.ones(2))


@pytest.mark.parametrize(
    ("labels", "sure", "told"),
    [
        ([0, 1, 0, 1], 0.6, "temperature 0.05, the lowest tried"),  # every answer right
        ([0, 1, 0, 1], 0.99, "temperature 0.05, the lowest tried"),  # soon as good as it gets
        ([1, 0, 1, 0], 0.6, "temperature 20, the highest tried"),  # every answer wrong
    ],
)
def test_a_temperature_at_the_bound_of_the_search_is_no_result_and_is_said(
    labels, sure, told, caplog
):
    probs = [[0.9, 0.1], [0.2, 0.8], [sure, 1 - sure], [1 - sure, sure]]
    temperature = fit_temperature(table(probs, labels, ["cat", "dog"]))
    assert temperature_words(temperature) == told
    assert caplog.messages == [f"no temperature fits the validation split: {told}"]


def test_a_fitted_temperature_is_named_with_its_number(caplog):
    assert temperature_words(fit_temperature(drawn(size=400, temperature=0.5))) == (
        f"temperature {fit_temperature(drawn(size=400, temperature=0.5)):.2f}"
    )
    assert [temperature_words(t) for t in (1.0, 0.06, 19.8)] == [
        "temperature 1.00", "temperature 0.06", "temperature 19.80"]  # fmt: skip
    assert caplog.messages == []


def released(predictions, release):
    """What `grefel.Calibration` makes of the probabilities, by hand."""
    columns = [c for c in predictions if c.startswith("p_")]
    scores = np.log(predictions[columns].to_numpy()) / release["temperature"] + release["offsets"]
    probs = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    names = np.asarray([c.removeprefix("p_") for c in columns])
    return predictions.assign(
        predicted=names[probs.argmax(axis=1)], **dict(zip(columns, probs.T, strict=True))
    )


def timid(size=4000, seed=5):
    """A model that is overconfident, and sees the rare class d half as often as it is there."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(4, size=size, p=[0.6, 0.25, 0.1, 0.05])
    logits = rng.normal(size=(size, 4)) * 1.2 + 2.5 * np.eye(4)[labels] - [0, 0.5, 1.5, 2.5]
    told = np.exp(1.7 * logits)
    return table(told / told.sum(axis=1, keepdims=True), labels, "abcd")


def test_a_shipped_model_costs_little_accuracy_and_sees_rare_classes_more_often():
    plain = timid()
    release = fit_release(plain)
    after, before = compute_metrics(released(plain, release)), compute_metrics(plain)
    assert release["tau"] > 0
    assert after["accuracy"] >= before["accuracy"] - 0.005
    assert after["mean_class_accuracy"] > before["mean_class_accuracy"] + 0.02
    for k in (0.8, 1.25):  # no other temperature after the offsets is better
        other = {"temperature": k * release["temperature"]}
        other["offsets"] = np.divide(release["offsets"], k)
        assert compute_metrics(released(plain, other))["nll"] > after["nll"]
    confidence = class_probabilities(released(plain, release)).max(axis=1)
    assert (confidence >= release["not_sure_below"]).mean() == pytest.approx(0.95, abs=1e-3)


def test_offsets_of_several_strengths_by_hand():
    plain = timid()
    probs = plain[[f"p_{name}" for name in "abcd"]].to_numpy() ** (1 / fit_temperature(plain))
    probs /= probs.sum(axis=1, keepdims=True)
    labels, curve = plain["label"].map("abcd".index).to_numpy(), offset_curve(plain)
    for tau in (0, 0.5, 1):
        right = (probs / probs.mean(axis=0) ** tau).argmax(axis=1) == labels
        recall = [right[labels == label].mean() for label in range(4)]
        assert curve.loc[tau].tolist() == pytest.approx([right.mean(), np.mean(recall)])


def test_classes_that_are_alike_get_no_offsets():
    predictions = drawn(size=4000, temperature=0.5)  # classes alike: the prior says nothing
    release = fit_release(predictions)
    assert release["temperature"] == pytest.approx(fit_temperature(predictions), rel=0.05)
    assert np.abs(release["offsets"]).max() < 0.1


def test_the_face_test_passes_what_is_like_training_and_no_other_direction():
    rng = np.random.default_rng(3)
    plane = np.linalg.qr(rng.normal(size=(16, 2)))[0].T  # an eighth of 16 dimensions

    def faces(count):
        inside = rng.normal(size=(count, 2)) @ plane
        return (5 + 2 * inside + 0.05 * rng.normal(size=(count, 16))) * rng.uniform(
            1, 9, (count, 1)
        )

    training, validation = faces(2000), faces(1000)
    test = fit_face_test(training, validation)
    assert test.passes(validation).mean() == pytest.approx(0.97, abs=1e-3)
    assert test.basis.shape == (2, 16)
    unit = validation / np.linalg.norm(validation, axis=1, keepdims=True)
    fitted = PCA(2).fit(training / np.linalg.norm(training, axis=1, keepdims=True))
    back = fitted.inverse_transform(fitted.transform(unit))
    expected = np.linalg.norm(unit - back, axis=1)
    np.testing.assert_allclose(test.distance(validation), expected, rtol=1e-6)
    centre = training.mean(axis=0)
    out = np.linalg.svd(np.vstack([plane, np.ones(16)]))[2][-1]  # across plane and length
    assert not test.passes((centre + 8 * out)[None])[0]
    assert test.passes((centre + 8 * plane[0])[None])[0]
    assert test.passes(3 * centre[None])[0]  # length does not matter
    few = fit_face_test(rng.normal(size=(20, 400)), rng.normal(size=(30, 400)))
    assert few.basis.shape == (10, 400)


def test_reliability_is_scaled_to_what_annotators_agree_on():
    rng = np.random.default_rng(0)
    true = rng.uniform(0.05, 0.95, size=4000)
    claimed = special.expit(0.5 * special.logit(true) - 1)  # timid
    agreed = (rng.random((4000, 10)) < true[:, None]).mean(axis=1)
    told = pd.DataFrame({"reliability": claimed, "agreed": agreed})
    scale, shift = fit_reliability(told)
    assert scale == pytest.approx(2, abs=0.05)
    assert shift == pytest.approx(2, abs=0.06)
    back = special.expit(scale * special.logit(claimed) + shift)
    assert np.abs(back - true).max() < 0.03
    assert fit_reliability(told.drop(columns="reliability")) == [1.0, 0.0]


def test_the_chosen_offset_is_the_best_for_the_classes_that_costs_little():
    names = ["accuracy", "mean_class_accuracy"]
    rows = [(0.9, 0.6), (0.898, 0.7), (0.897, 0.65), (0.896, 0.7), (0.88, 0.8)]
    curve = pd.DataFrame(rows, [0.0, 0.2, 0.4, 0.6, 0.8], names)
    assert chosen_offset(curve) == 0.2  # 0.6 is as good for the classes, 0.8 costs too much
    assert chosen_offset(curve.assign(mean_class_accuracy=0.5)) == 0  # nothing to gain
