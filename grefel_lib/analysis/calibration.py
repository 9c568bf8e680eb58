"""Calibration, temperature scaling and error detection.

Everything is computed from a table of predictions (see `metrics`).
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import optimize, special
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import normalize

from grefel_lib.metrics import (
    BINS,
    calibration_bins,
    class_codes,
    class_probabilities,
    compute_metrics,
    normalise_rows,
    table_classes,
)
from grefel_lib.restore import FaceTest

log = logging.getLogger(__name__)
TAUS = np.arange(21) / 20  # strengths of class offsets that are tried
COST = 0.005  # accuracy: less than one standard error of 3,000 faces
ANSWERED = 0.95  # share of validation faces that a shipped model answers
TYPICAL = 0.97  # share of validation faces that pass its face test
LOG_BOUND = 3.0  # temperatures are searched from exp(-3) to exp(3)


def calibration_errors(predictions: pd.DataFrame) -> dict[str, float]:
    """All calibration metrics of a predictions table.

    Returns:
        ece (debiased, see `metrics.calibration_error`), ece_plain (as commonly reported: 15 bins of
        equal width, biased upwards for few faces), ece_mass (15 bins of equal count),
        classwise_ece (mean over classes of the error of that class's probability, 15 bins of equal
        width), brier, nll; and where the table holds votes: soft_nll and soft_brier, against the
        distribution of all emotion votes instead of the label (faces without an emotion vote left
        out).

    Source: Guo et al. 2017 (ECE); Nixon et al. 2019 (equal mass); Kull et al. 2019 (classwise).
    """
    probs = class_probabilities(predictions)
    truth = (predictions["label"].to_numpy()[:, None] == table_classes(predictions)).astype(float)
    right = (predictions["label"] == predictions["predicted"]).to_numpy(dtype=float)
    plain = compute_metrics(predictions)
    errors = {
        "ece": plain["ece"],
        "ece_plain": _gap(probs.max(axis=1), right),
        "ece_mass": _gap(probs.max(axis=1), right, mass=True),
        "classwise_ece": float(
            np.mean([_gap(p, t) for p, t in zip(probs.T, truth.T, strict=True)])
        ),
        "brier": plain["brier"],
        "nll": plain["nll"],
    }
    columns = [f"votes_{name}" for name in table_classes(predictions)]
    if set(columns) <= set(predictions.columns):
        votes = predictions[columns].to_numpy(dtype=float)
        voted = votes.sum(axis=1) > 0
        shares, predicted = normalise_rows(votes[voted]), probs[voted]
        errors["soft_nll"] = float(-(shares * np.log(predicted.clip(1e-12))).sum(axis=1).mean())
        errors["soft_brier"] = float(((predicted - shares) ** 2).sum(axis=1).mean())
    return errors


def fit_temperature(validation: pd.DataFrame) -> float:
    """The temperature that maximises the likelihood of the validation labels: softmax(log p / T).

    If validation has no optimum (all predictions right, or no better than chance), it is the
    nearest bound of the search; this is logged, and `temperature_words` states it.

    Raises:
        ValueError: See `check_predictions`.

    Source: Guo et al., On Calibration of Modern Neural Networks, 2017.
    """
    log_probs = _log_probs(validation)
    labels = class_codes(validation, "label")
    rows = np.arange(len(labels))

    def nll(log_temperature: float) -> float:
        scaled = log_probs / np.exp(log_temperature)
        return float((np.logaddexp.reduce(scaled, axis=1) - scaled[rows, labels]).mean())

    bounds = (-LOG_BOUND, LOG_BOUND)
    inside = optimize.minimize_scalar(nll, bounds=bounds, method="bounded")
    end = min(bounds, key=nll)
    if nll(end) > inside.fun + 1e-6:
        return float(np.exp(inside.x))
    temperature = float(np.exp(end))
    log.warning("no temperature fits the validation split: %s", temperature_words(temperature))
    return temperature


def offset_curve(validation: pd.DataFrame) -> pd.DataFrame:
    """Accuracy against mean class accuracy on validation, for class offsets of every strength.

    At strength tau, -tau log m is added to the log-probabilities at the fitted temperature; m is
    the mean prediction, the model's own estimate of the class shares.

    Returns:
        A row for each of TAUS (the index, tau): accuracy, mean_class_accuracy.

    Source: Menon et al., Long-tail Learning via Logit Adjustment, 2021.
    """
    scaled = with_temperature(validation, fit_temperature(validation))
    log_probs, prior = _log_probs(scaled), _log_prior(scaled)
    labels = class_codes(validation, "label")
    rows = []
    for tau in TAUS:
        right = (log_probs - tau * prior).argmax(axis=1) == labels
        rows.append((right.mean(), pd.Series(right).groupby(labels).mean().mean()))
    columns = ["accuracy", "mean_class_accuracy"]
    return pd.DataFrame(rows, pd.Index(TAUS, name="tau"), columns)


def chosen_offset(curve: pd.DataFrame) -> float:
    """The tau of the best mean class accuracy among those that cost at most COST of the accuracy.

    Of equals the one with the better accuracy, then the weaker.
    """
    cheap = curve[curve["accuracy"] >= curve["accuracy"].iloc[0] - COST]
    best = cheap.sort_values(["mean_class_accuracy", "accuracy"], ascending=False, kind="stable")
    return float(best.index[0])


def _log_prior(predictions: pd.DataFrame) -> np.ndarray:
    return np.log(class_probabilities(predictions).mean(axis=0).clip(1e-12))


def fit_release(validation: pd.DataFrame) -> dict[str, Any]:
    """What a shipped model adds to its network, fitted on validation.

    The class offsets are those of `chosen_offset`, less their mean; a temperature before them and
    one after are combined.

    Args:
        validation: Predictions of validation faces.

    Returns:
        temperature, offsets and reliability, the arguments of `grefel.Calibration`; tau; and
        not_sure_below: the confidence that ANSWERED of these faces reach.
    """
    first = fit_temperature(validation)
    scaled = with_temperature(validation, first)
    log_probs, prior = _log_probs(scaled), _log_prior(scaled)
    tau = chosen_offset(offset_curve(validation))
    moved = _with_log_probs(validation, log_probs - tau * prior)
    second = fit_temperature(moved)
    confidence = class_probabilities(with_temperature(moved, second)).max(axis=1)
    return {
        "temperature": first * second,
        "offsets": (tau * (prior.mean() - prior) / second).tolist(),
        "reliability": fit_reliability(validation),
        "tau": tau,
        "not_sure_below": float(np.quantile(confidence, 1 - ANSWERED)),
    }


def fit_face_test(training: np.ndarray, validation: np.ndarray) -> FaceTest:
    """What a shipped model takes for a face: features that TYPICAL of validation faces pass.

    Args:
        training: (N, F) pooled features of training faces, which span the subspace; it has an
            eighth of their dimensions, and at most half as many as there are faces.
        validation: (M, F) those of validation faces, which the limit is taken from.
    """
    dimensions = max(1, min(training.shape[1] // 8, len(training) // 2))
    fitted = PCA(n_components=dimensions, svd_solver="full")
    fitted.fit(normalize(training))
    test = FaceTest(fitted.mean_, fitted.components_, np.inf)
    return replace(test, limit=float(np.quantile(test.distance(validation), TYPICAL)))


def fit_reliability(validation: pd.DataFrame) -> list[float]:
    """Scale and shift of the logit of reliability that fit `agreed` best: Platt scaling.

    Source: Platt, Probabilistic Outputs for Support Vector Machines, 1999.
    """
    if "reliability" not in validation:
        return [1.0, 0.0]
    logits = special.logit(validation["reliability"].to_numpy(dtype=float).clip(1e-6, 1 - 1e-6))
    agreed = validation["agreed"].to_numpy(dtype=float)

    def loss(values: np.ndarray) -> float:
        moved = values[0] * logits + values[1]
        return float((np.logaddexp(0, moved) - agreed * moved).mean())

    bounds = [(0.01, 100.0), (-10.0, 10.0)]  # never turned round
    return optimize.minimize(loss, [1.0, 0.0], bounds=bounds).x.tolist()


def temperature_words(temperature: float) -> str:
    """A fitted temperature for a heading or label: "temperature 1.23"; a bound is named as one."""
    if abs(np.log(temperature)) < LOG_BOUND - 1e-3:
        return f"temperature {temperature:.2f}"
    return f"temperature {temperature:.2g}, the {'lowest' if temperature < 1 else 'highest'} tried"


def with_temperature(predictions: pd.DataFrame, temperature: float) -> pd.DataFrame:
    """A copy of the table with probabilities sharpened (T < 1) or softened (T > 1).

    Predictions do not change; only p_<class> does.

    Raises:
        ValueError: The temperature is not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0; got {temperature}")
    return _with_log_probs(predictions, _log_probs(predictions) / temperature)


def _log_probs(predictions: pd.DataFrame) -> np.ndarray:
    return np.log(class_probabilities(predictions).clip(1e-12))


def _with_log_probs(predictions: pd.DataFrame, scores: np.ndarray) -> pd.DataFrame:
    """The table with p_<class> = softmax of the scores (N, C)."""
    columns = [f"p_{name}" for name in table_classes(predictions)]
    return predictions.assign(**dict(zip(columns, special.softmax(scores, axis=1).T, strict=True)))


def risk_coverage(sureness: np.ndarray, wrong: np.ndarray) -> pd.DataFrame:
    """Error rate among the most confident faces, at every coverage.

    Args:
        sureness: (N,) confidence or reliability; larger is more certain. Faces with ties are
            kept or left out together.
        wrong: (N,) 1 for an error, 0 for none.

    Returns:
        One row per distinct value, in descending order: coverage (share kept), risk (error rate
        among them).

    Source: El-Yaniv and Wiener, 2010.
    """
    if len(sureness) != len(wrong) or not len(wrong):
        raise ValueError(f"{len(sureness)} values of sureness for {len(wrong)} faces")
    table = pd.DataFrame({"sure": np.asarray(sureness), "wrong": np.asarray(wrong)})
    ties = table.groupby("sure")["wrong"]
    kept = ties.agg(["size", "sum"])[::-1].cumsum().reset_index(drop=True)
    return pd.DataFrame({"coverage": kept["size"] / len(wrong), "risk": kept["sum"] / kept["size"]})


def aurc(curve: pd.DataFrame) -> float:
    """Area under the risk-coverage curve: the mean risk over all coverages; lower is better.

    Source: Geifman et al., Bias-Reduced Uncertainty Estimation, 2019.
    """
    return float((curve["risk"] * curve["coverage"].diff().fillna(curve["coverage"])).sum())


def confidence_measures(predictions: pd.DataFrame) -> Mapping[str, np.ndarray]:
    """The scores that may predict errors: confidence, and reliability if the table has it."""
    offered = {"confidence": class_probabilities(predictions).max(axis=1)}
    if "reliability" in predictions:
        offered["reliability"] = predictions["reliability"].to_numpy(dtype=float)
    return offered


def error_detection(predictions: pd.DataFrame) -> pd.DataFrame:
    """How well each score detects errors.

    Returns:
        One row per measure: auroc (chance that an error scores below a correct answer; NaN if
        there are no errors, or only errors) and aurc.
    """
    wrong = (predictions["label"] != predictions["predicted"]).to_numpy()
    rows = {
        name: {
            "auroc": roc_auc_score(~wrong, values) if 0 < wrong.sum() < len(wrong) else np.nan,
            "aurc": aurc(risk_coverage(values, wrong)),
        }
        for name, values in confidence_measures(predictions).items()
    }
    return pd.DataFrame(rows).T


def _gap(claimed: np.ndarray, outcome: np.ndarray, *, mass: bool = False) -> float:
    """Mean gap between prediction and outcome over 15 bins, weighted by their number of faces."""
    if mass:
        order = np.argsort(claimed, kind="stable")
        outcome = pd.Series(outcome).groupby(claimed).transform("mean").to_numpy()  # of ties
        parts = [part for part in np.array_split(order, BINS) if len(part)]
        gaps = [abs(outcome[part].mean() - claimed[part].mean()) * len(part) for part in parts]
        return float(sum(gaps) / len(claimed))
    table = calibration_bins(claimed, outcome)
    return float(
        ((table["accuracy"] - table["confidence"]).abs() * table["count"]).sum() / len(outcome)
    )
