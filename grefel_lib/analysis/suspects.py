"""Which training labels look wrong? Scores, a list for review, and detection of known errors.

Label noise is injected by `flip_labels`, and `label_detection` measures how well the
scores detect it. The model was trained on these labels, so long training on few faces
memorises the wrong ones and detects fewer.
"""

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from grefel_lib.metrics import class_codes, class_probabilities


def suspicion(predictions: pd.DataFrame) -> pd.DataFrame:
    """Suspicion scores for each face's label; larger is more suspicious.

    Returns:
        loss (negative log-probability of the label: the usual measure); and, where the table has
        reliability, reliability: the expected share of annotators who disagree with the label. The
        predicted class gets the reliability as its share; the rest is split over the others as the
        model's probabilities are.
    """
    probs = class_probabilities(predictions)
    rows = np.arange(len(probs))
    of_label = probs[rows, class_codes(predictions, "label")]
    table = pd.DataFrame({"loss": -np.log(of_label.clip(1e-12))}, index=predictions.index)
    if "reliability" in predictions:
        sure = predictions["reliability"].to_numpy(dtype=float)
        top = probs[rows, class_codes(predictions, "predicted")]
        rest = (1 - sure) * of_label / np.maximum(1 - top, 1e-12)
        agrees = (predictions["label"] == predictions["predicted"]).to_numpy()
        table["reliability"] = 1 - np.where(agrees, sure, rest)
    return table


def label_detection(predictions: pd.DataFrame) -> dict[str, float]:
    """How well each score detects the corrupted labels.

    Args:
        predictions: Training faces with label and true_label (`Config.label_noise`).

    Returns:
        By measure of `suspicion`: AUROC, the chance that a wrong label looks more suspect than a
        right one. Empty if no label, or every label, is wrong, or if the truth is unknown.
    """
    if "true_label" not in predictions:
        return {}
    wrong = (predictions["label"] != predictions["true_label"]).to_numpy()
    if wrong.all() or not wrong.any():
        return {}
    table = suspicion(predictions)
    return {name: float(roc_auc_score(wrong, table[name])) for name in table}


def most_suspect(predictions: pd.DataFrame, count: int = 100) -> pd.DataFrame:
    """The training faces whose labels look most wrong, for review: those with the highest loss.

    The loss detected corrupted labels better than reliability did in every published condition
    without logit adjustment (notebook 06).

    Returns:
        Up to `count` rows, most suspicious first, indexed as in `predictions`: id, label,
        predicted, confidence, reliability, loss, true_label and votes_<column> where known.
    """
    scores = suspicion(predictions)
    table = predictions.assign(
        confidence=class_probabilities(predictions).max(axis=1), loss=scores["loss"]
    )
    order = scores["loss"].sort_values(ascending=False, kind="stable").index[:count]
    names = ("id", "label", "predicted", "confidence", "reliability", "loss", "true_label")
    columns = [name for name in names if name in table]
    columns += [name for name in table if name.startswith("votes_")]
    return table.loc[order, columns]
