"""Metrics against scikit-learn and against cases small enough for paper."""

import contextlib

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn import metrics as reference

from grefel_lib.labels import EMOTIONS
from grefel_lib.metrics import (
    average_predictions,
    bootstrap_intervals,
    calibration_bins,
    calibration_error,
    compute_metrics,
    confidence_bins,
    confusion_counts,
    mcnemar_test,
    normalise_rows,
    paired_difference,
    per_class_metrics,
    reorder_classes,
    wilson_interval,
)


def table(probs, labels, names):
    """A predictions table from (N, C) probabilities and label positions."""
    probs, names = np.asarray(probs, dtype=float), list(names)
    content = {
        "id": [f"face{i}" for i in range(len(probs))],
        "label": [names[i] for i in labels],
        "predicted": [names[i] for i in probs.argmax(axis=1)],
    }
    return pd.DataFrame(content | {f"p_{n}": probs[:, i] for i, n in enumerate(names)})


@pytest.fixture
def eight():
    """600 faces of eight imbalanced classes, right about two times in three."""
    rng = np.random.default_rng(5)
    shares = [0.35, 0.28, 0.13, 0.12, 0.08, 0.02, 0.015, 0.005]
    labels = np.concatenate([np.arange(8), rng.choice(8, size=592, p=shares)])
    logits = rng.normal(size=(600, 8)) + 2.2 * np.eye(8)[labels]
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return table(probs, labels, EMOTIONS)


@pytest.fixture
def by_hand():
    """Four faces, three classes: cat right at 0.8 and 0.6, dog taken for cat, bird right."""
    probs = [[0.8, 0.1, 0.1], [0.6, 0.4, 0.0], [0.5, 0.3, 0.2], [0.0, 0.0, 1.0]]
    return table(probs, [0, 0, 1, 2], ["cat", "dog", "bird"])


def test_a_case_worked_by_hand(by_hand):
    found = compute_metrics(by_hand)
    assert found["n"] == 4
    assert found["accuracy"] == 3 / 4
    assert found["mean_class_accuracy"] == pytest.approx((1 + 0 + 1) / 3)
    assert found["macro_f1"] == pytest.approx((0.8 + 0 + 1) / 3)  # cat: precision 2/3, recall 1
    assert found["weighted_f1"] == pytest.approx((2 * 0.8 + 0 + 1) / 4)
    assert 0 <= found["ece"] < (0.2 + 0.4 + 0.5 + 0) / 4  # the plain ECE: |0.8-1|, |0.6-1| ...
    assert found["nll"] == pytest.approx(-np.log([0.8, 0.6, 0.3, 1.0]).mean())
    assert found["brier"] == pytest.approx((0.06 + 0.32 + 0.78 + 0) / 4)


def test_the_numbers_are_those_of_scikit_learn(eight):
    found = compute_metrics(eight)
    true, predicted = eight["label"], eight["predicted"]
    probs = eight[[f"p_{name}" for name in EMOTIONS]].to_numpy()
    codes = [EMOTIONS.index(name) for name in true]
    expected = {
        "n": 600,
        "accuracy": reference.accuracy_score(true, predicted),
        "mean_class_accuracy": reference.balanced_accuracy_score(true, predicted),
        "macro_f1": reference.f1_score(true, predicted, average="macro", zero_division=0),
        "weighted_f1": reference.f1_score(true, predicted, average="weighted", zero_division=0),
        "nll": reference.log_loss(codes, probs, labels=range(8)),
        "brier": ((probs - np.eye(8)[codes]) ** 2).sum(axis=1).mean(),
    }
    assert set(expected) == set(found) - {"ece"}
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-12), name


def test_precision_recall_and_f1_of_each_class_are_those_of_scikit_learn(eight):
    found = per_class_metrics(eight)
    precision, recall, f1, count = reference.precision_recall_fscore_support(
        eight["label"], eight["predicted"], labels=list(EMOTIONS), zero_division=0
    )
    assert list(found["class"]) == list(EMOTIONS)
    assert list(found["count"]) == list(count)
    np.testing.assert_allclose(
        found[["precision", "recall", "f1"]], np.stack([precision, recall, f1], 1)
    )


def test_the_confusion_matrix_is_that_of_scikit_learn_with_true_classes_in_rows(eight):
    counts = confusion_counts(eight)
    expected = reference.confusion_matrix(eight["label"], eight["predicted"], labels=list(EMOTIONS))
    np.testing.assert_array_equal(counts, expected)
    assert counts.dtype.kind == "i"
    assert not np.array_equal(counts, counts.T)  # so the direction is really tested


def test_normalised_rows_sum_to_one_and_an_empty_row_stays_zero(recwarn):
    shares = normalise_rows(np.array([[1, 3], [0, 0]]))
    np.testing.assert_array_equal(shares, [[0.25, 0.75], [0, 0]])
    assert not recwarn.list


def test_a_class_nobody_has_is_left_out_of_the_means(by_hand):
    without = by_hand.iloc[:3]  # no bird
    found = compute_metrics(without)
    assert found["mean_class_accuracy"] == pytest.approx((1 + 0) / 2)
    assert found["macro_f1"] == pytest.approx((0.8 + 0) / 2)
    row = per_class_metrics(without).iloc[2]
    assert row["count"] == 0
    assert row.drop(["class", "count"]).isna().all()
    assert confusion_counts(without).shape == (3, 3)


def test_one_class_alone_is_scored():
    found = compute_metrics(table([[1.0], [1.0]], [0, 0], ["neutral"]))
    perfect = dict.fromkeys(("accuracy", "mean_class_accuracy", "macro_f1", "weighted_f1"), 1)
    assert found == {"n": 2, "nll": 0, "brier": 0, "ece": 0} | perfect


def test_certain_and_wrong_costs_a_finite_likelihood():
    found = compute_metrics(table([[1.0, 0.0]], [1], ["neutral", "fear"]))
    assert found["nll"] == pytest.approx(-np.log(1e-12))
    assert 0.9 < found["ece"] <= 1
    assert found["brier"] == 2


def test_the_order_of_the_rows_changes_nothing(eight):
    shuffled = eight.sample(frac=1, random_state=0)
    one, other = compute_metrics(eight), compute_metrics(shuffled)
    assert one == pytest.approx(other, abs=1e-12)


def test_a_table_scores_the_same_after_a_trip_through_csv(eight, tmp_path):
    probs = [name for name in eight.columns if name.startswith("p_")]
    eight[probs] = eight[probs].astype(np.float32)
    eight.to_csv(tmp_path / "test.csv", index=False)
    again = pd.read_csv(tmp_path / "test.csv")
    assert compute_metrics(again) == pytest.approx(compute_metrics(eight), abs=1e-6)
    np.testing.assert_array_equal(confusion_counts(again), confusion_counts(eight))


def test_the_bins_hold_every_face_once(eight):
    bins = confidence_bins(eight, bins=10)
    assert bins["count"].sum() == 600
    assert ((bins["confidence"] >= bins["low"]) & (bins["confidence"] <= bins["high"])).all()
    right = (bins["accuracy"] * bins["count"]).sum()
    assert right == pytest.approx((eight["label"] == eight["predicted"]).sum())


def test_claims_of_zero_and_one_fall_into_the_outer_bins():
    bins = calibration_bins(np.array([0.0, 1.0, 1.0]), np.array([0.0, 1.0, 0.0]), bins=4)
    assert list(bins["low"]) == [0, 0.75]
    assert list(bins["high"]) == [0.25, 1]
    assert list(bins["count"]) == [1, 2]
    assert list(bins["accuracy"]) == [0, 0.5]


@pytest.mark.parametrize("claim", [np.nan, -0.2, 1.2])
def test_a_claim_that_is_no_probability_is_refused(claim):
    with pytest.raises(ValueError, match=r"1 of 2 values are not in 0\.\.1"):
        calibration_bins(np.array([0.5, claim]), np.ones(2))
    with pytest.raises(ValueError, match="bins must be at least 1; got 0"):
        calibration_bins(np.array([0.5]), np.ones(1), bins=0)


def test_an_empty_table_and_a_missing_column_are_refused(by_hand):
    with pytest.raises(ValueError, match="the predictions table is empty"):
        compute_metrics(by_hand.iloc[:0])
    with pytest.raises(ValueError, match="no rows or no p_<class> columns"):
        compute_metrics(by_hand[["id", "label", "predicted"]])
    with pytest.raises(ValueError, match="has no column label"):
        compute_metrics(by_hand.drop(columns="label"))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_probabilities_that_are_not_finite_are_refused_with_the_ids(by_hand, value):
    by_hand.loc[[1, 3], "p_dog"] = value
    with pytest.raises(ValueError, match=r"not finite for: face1, face3$"):
        compute_metrics(by_hand)


def test_probabilities_that_do_not_sum_to_one_are_refused_with_the_ids(by_hand):
    by_hand.loc[2, "p_cat"] += 5e-4
    compute_metrics(by_hand)  # a table with three digits, say
    by_hand.loc[2, "p_cat"] += 2e-3
    by_hand.loc[0, ["p_cat", "p_dog"]] = [1.1, -0.2]
    with pytest.raises(ValueError, match=r"negative or do not sum to 1 for: face0, face2$"):
        compute_metrics(by_hand)


def test_only_the_first_ids_are_named_and_the_rest_counted(eight):
    eight["p_fear"] = np.nan
    with pytest.raises(ValueError, match="face0, face1, face2, face3, face4 and 595 more"):
        compute_metrics(eight)


def test_labels_and_predictions_must_be_classes_and_agree_with_the_probabilities(by_hand):
    with pytest.raises(ValueError, match="label 'cow' has no p_ column"):
        compute_metrics(by_hand.assign(label=["cat", "cat", "cow", "bird"]))
    with pytest.raises(ValueError, match="label nan has no p_ column"):
        compute_metrics(by_hand.assign(label=["cat", "cat", np.nan, "bird"]))
    for apart, told in ((1e-7, ""), (1e-3, "not the most probable class for: face2$")):
        by_hand.loc[2, ["p_cat", "p_dog"]] = 0.4 + apart, 0.4 - apart
        other = by_hand.assign(predicted=["cat", "cat", "dog", "bird"])
        with pytest.raises(ValueError, match=told) if told else contextlib.nullcontext():
            compute_metrics(other)


# -- intervals and paired tests


def test_the_interval_of_the_accuracy_is_the_binomial_one(eight):
    found = bootstrap_intervals(eight, draws=2000)
    assert list(found.columns) == ["value", "low", "high"]
    assert set(found.index) == set(compute_metrics(eight)) - {"n"}
    accuracy = found.loc["accuracy"]
    exact = stats.binomtest(round(accuracy["value"] * 600), 600).proportion_ci()
    assert accuracy["low"] == pytest.approx(exact.low, abs=0.008)
    assert accuracy["high"] == pytest.approx(exact.high, abs=0.008)
    assert ((found["low"] < found["value"]) & (found["value"] < found["high"])).all()


def test_intervals_are_reproducible_and_narrow_with_more_faces(eight):
    same = [bootstrap_intervals(eight, draws=200, seed=3) for _ in range(2)]
    pd.testing.assert_frame_equal(*same)
    four = bootstrap_intervals(pd.concat([eight] * 4, ignore_index=True), draws=200, seed=3)
    ratio = (four["high"] - four["low"]) / (same[0]["high"] - same[0]["low"])
    assert ratio.to_numpy() == pytest.approx(1 / 2, abs=0.1)
    assert four["value"].drop("ece").to_numpy() == pytest.approx(same[0]["value"].drop("ece"))


def test_intervals_are_over_people_where_there_are_subjects(eight):
    """Ten pictures of each person tell no more than one, whoever else has no subject."""
    ten = eight.loc[eight.index.repeat(10)].reset_index(drop=True)
    who = np.repeat(np.arange(len(eight)), 10)
    named = ten.assign(subject=who.astype(str))
    found = [bootstrap_intervals(t, draws=400).drop("ece") for t in (eight, named, ten)]
    width, people, faces = ((ends["high"] - ends["low"]).to_numpy() for ends in found)
    assert people / width == pytest.approx(1, abs=0.15)
    assert faces / width == pytest.approx(10**-0.5, abs=0.1)
    nobody = ten.assign(id=[f"f{i}" for i in range(len(ten))], subject=np.nan)
    pd.testing.assert_frame_equal(bootstrap_intervals(nobody, draws=400).drop("ece"), found[2])
    better = changed(named, named.index[:300], "neutral")
    ends = [paired_difference([t], [better], draws=200) for t in (named, ten)]
    wide, narrow = ((e["high"] - e["low"])["accuracy"] for e in ends)
    assert 2 < wide / narrow < 4.5
    assert list(average_predictions([named, named])["subject"]) == list(named["subject"])


def changed(predictions, rows, label):
    """The same faces with some of them now predicted (surely) to be `label`."""
    copy = predictions.copy()
    columns = [c for c in copy if c.startswith("p_")]
    copy.loc[rows, columns] = [[float(c == f"p_{label}") for c in columns]] * len(rows)
    copy.loc[rows, "predicted"] = label
    return copy


def test_mcnemar_by_hand(eight):
    right = eight.index[eight["label"] == eight["predicted"]]
    worse = changed(eight, [i for i in right if eight["label"][i] == "neutral"][:6], "fear")
    found = mcnemar_test(eight, worse)
    assert (found["only_first"], found["only_second"]) == (6, 0)
    assert found["p"] == pytest.approx(2 / 2**6)  # six of six, both sides
    assert mcnemar_test(eight, eight)["p"] == 1


def test_a_difference_is_paired_and_averages_seeds(eight):
    right = eight.index[(eight["label"] == eight["predicted"]) & (eight["label"] == "neutral")]
    worse = changed(eight, list(right[:30]), "happiness")
    found = paired_difference([eight], [worse], draws=300)
    assert found.loc["accuracy", "value"] == pytest.approx(-30 / 600)
    assert found.loc["accuracy", "high"] < 0
    both = paired_difference([eight, eight], [eight, worse], draws=300)
    assert both.loc["accuracy", "value"] == pytest.approx(-15 / 600)
    nothing = paired_difference([eight], [eight], draws=50)
    same = nothing.drop("ece")
    assert (same["value"] == 0).all()
    assert ((same["low"] <= 0) & (same["high"] >= 0)).all()
    assert (same.loc[["nll", "brier"], ["low", "high"]] == 0).all(axis=None)
    low, high = same.loc["accuracy", ["low", "high"]]
    assert -3 / 600 < low < 0 < high < 3 / 600  # none disagree of 600 faces: of others few may
    assert list(nothing.loc["ece"].isna()) == [False, True, True]  # resampling gives it none


def test_models_are_averaged_by_their_probabilities():
    one, two = (table([p, [0.2, 0.8]], [0, 1], "ab") for p in ([0.9, 0.1], [0.4, 0.6]))
    both = average_predictions([one, two])
    np.testing.assert_allclose(both[["p_a", "p_b"]], [[0.65, 0.35], [0.2, 0.8]])
    assert both["predicted"].tolist() == ["a", "b"]
    with pytest.raises(ValueError, match="different ids"):
        average_predictions([one, two[::-1].reset_index(drop=True)])
    turned = two[["id", "label", "predicted", "p_b", "p_a"]]
    with pytest.raises(ValueError, match="the classes are a, b in one table and b, a in the other"):
        average_predictions([one, turned])


def test_other_images_cannot_be_compared(eight):
    with pytest.raises(ValueError, match=r"different ids \(600 and 599 rows\)"):
        mcnemar_test(eight, eight.iloc[1:])
    with pytest.raises(ValueError, match="different labels"):
        paired_difference([eight], [eight.assign(label=eight["label"].iloc[::-1].to_numpy())])


def test_intervals_of_few_faces_do_not_collapse():
    low, high = wilson_interval(16, 16)
    assert (round(low, 3), high) == (0.806, 1)  # Wilson: 1 / (1 + 1.96² / 16)
    assert wilson_interval(0, 0) == (0, 1)


def one_bin(confidence: float, faces: int, right: int):
    """Every face with one confidence, the first `right` of them right."""
    probs = [[confidence, 1 - confidence]] * faces
    return table(probs, [0] * right + [1] * (faces - right), ["cat", "dog"])


@pytest.mark.parametrize(
    ("confidence", "faces", "accuracy"),
    [(0.99, 100, 0.97), (0.97, 100, 0.92), (0.97, 300, 0.97), (0.6, 100, 0.8), (0.999, 20, 0.9)],
)
def test_the_interval_of_the_calibration_error_holds_the_gap_of_one_bin(
    confidence, faces, accuracy
):
    counts = np.arange(faces + 1)
    chances = stats.binom.pmf(counts, faces, accuracy)
    covered, true = 0.0, abs(accuracy - confidence)
    for right, chance in zip(counts[chances > 1e-4], chances[chances > 1e-4], strict=True):
        value, low, high = calibration_error(one_bin(confidence, faces, right))
        assert low <= value <= high
        covered += chance * (low - 1e-9 <= true <= high)
    assert covered > 0.94


def test_a_few_certain_and_right_faces_leave_the_calibration_error_open():
    value, low, high = calibration_error(one_bin(1.0, 3, 3))
    assert (value, low) == (0, 0)
    assert 0.5 < high < wilson_interval(3, 3)[1]


def test_the_debiased_calibration_error_and_its_ends_make_the_plain_one_likely_or_barely_so():
    rng = np.random.default_rng(0)
    confidence = rng.choice([0.58, 0.73, 0.95], size=900, p=[0.2, 0.3, 0.5])
    right = rng.random(900) < confidence - np.where(confidence > 0.9, 0.09, 0.02)
    probs = np.stack([confidence, 1 - confidence], axis=1)
    predictions = table(probs, (~right).astype(int), ["cat", "dog"])
    level = np.array([0.58, 0.73, 0.95])
    count = np.array([(confidence == one).sum() for one in level])
    seen = np.array([right[confidence == one].mean() for one in level])
    gaps, share = np.abs(seen - level), count / 900
    plain = share @ gaps
    shape = (gaps / plain + 1) / 2  # half as observed, half the same in every bin
    # the sum over bins is taken as a gamma variable, which it is not quite: less so in the middle
    side, half_a_face = np.sign(seen - level), 0.5 / 900
    wanted = (
        (0.5, side, 0, 0.03),
        (0.975, side, -half_a_face, 0.01),
        (0.025, -1, half_a_face, 0.01),
    )
    for size, (expected, side, moved, apart) in zip(
        calibration_error(predictions), wanted, strict=True
    ):
        truth = level + side * size * shape
        drawn = np.abs(rng.binomial(count, truth, size=(200_000, 3)) / count - level) @ share
        assert (drawn <= plain + moved).mean() == pytest.approx(expected, abs=apart)
    assert 0 < calibration_error(predictions)[1] < calibration_error(predictions)[0] < plain


def test_classes_are_brought_into_another_order(by_hand):
    turned = reorder_classes(by_hand, ["bird", "cat", "dog"])
    assert list(turned) == ["id", "label", "predicted", "p_bird", "p_cat", "p_dog"]
    pd.testing.assert_frame_equal(turned[list(by_hand)], by_hand)
    assert confusion_counts(turned).tolist() == [[1, 0, 0], [0, 2, 0], [0, 1, 0]]


def test_a_class_that_may_be_predicted_is_given_the_benefit_of_the_doubt_and_no_other():
    probs = np.eye(3)[[0] * 40 + [1] * 20]
    predictions = table(probs, [0] * 38 + [1] * 2 + [1] * 14 + [2] * 6, ["cat", "dog", "bird"])
    found = bootstrap_intervals(predictions, draws=400)
    row = found.loc["mean_class_accuracy"]
    assert row["value"] == pytest.approx((1 + 14 / 16 + 0) / 3)
    assert row["low"] < row["value"] < row["high"]
    assert row["high"] <= 2 / 3 + 1e-9  # birds are never predicted: two classes at most are right
    assert ((found["low"] <= found["value"]) & (found["value"] <= found["high"])).all()
