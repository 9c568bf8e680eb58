"""Which training labels look wrong? Scores, a list for people to look at, and a known truth.

The truth is injected: `flip` makes labels wrong on purpose, and `detection` says how well the
scores find them. A model has seen the labels it is asked about, so a long training on few faces
learns the wrong ones by heart and finds fewer.
"""

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from grefel_lib import metrics


def flip(
    labels: np.ndarray, share: float, chances: np.ndarray, *, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Make a share of the labels wrong.

    Args:
        labels: (N,) positions of the classes.
        share: Of the labels that become wrong, 0 to 1, exactly (rounded to whole faces).
        chances: (C, C) how likely each class (row) becomes which; the diagonal is not used.
        seed: Of the choice.

    Returns:
        (N,) labels, and (N,) which were changed: never into themselves.

    Raises:
        ValueError: A class that is to change has nothing to become.
    """
    rng = np.random.default_rng([seed, 5])
    changed = np.zeros(len(labels), dtype=bool)
    changed[rng.permutation(len(labels))[: round(share * len(labels))]] = True
    others = np.asarray(chances, dtype=float) * (1 - np.eye(len(chances)))
    empty = np.flatnonzero(others.sum(axis=1) == 0)
    if np.isin(labels[changed], empty).any():
        raise ValueError(f"class {empty[0]} is confused with no other; use symmetric label noise")
    edges = (others / np.maximum(others.sum(axis=1, keepdims=True), 1e-12)).cumsum(axis=1)
    edges[:, -1] = 1
    draws = rng.random((len(labels), 1))
    flipped = (edges[labels] <= draws).sum(axis=1)
    return np.where(changed, flipped, labels), changed


def suspicion(predictions: pd.DataFrame) -> pd.DataFrame:
    """How wrong each face's label looks; larger is more suspect.

    Returns:
        loss (negative log-probability of the label: the usual measure); and, where the table has
        reliability, reliability: the share of people expected to disagree with the label. They
        are expected to give the predicted class its reliability, and the others the rest, as the
        model divides it.
    """
    probs = metrics.probabilities(predictions)
    names = pd.Index(metrics.class_names(predictions))
    rows = np.arange(len(probs))
    of_label = probs[rows, names.get_indexer(predictions["label"])]
    table = pd.DataFrame({"loss": -np.log(of_label.clip(1e-12))}, index=predictions.index)
    if "reliability" in predictions:
        sure = predictions["reliability"].to_numpy(dtype=float)
        top = probs[rows, names.get_indexer(predictions["predicted"])]
        rest = (1 - sure) * of_label / np.maximum(1 - top, 1e-12)
        agrees = (predictions["label"] == predictions["predicted"]).to_numpy()
        table["reliability"] = 1 - np.where(agrees, sure, rest)
    return table


def detection(predictions: pd.DataFrame) -> dict[str, float]:
    """How well each measure finds the labels that were made wrong.

    Args:
        predictions: Training faces with label and true_label (`Config.label_noise`).

    Returns:
        By measure of `suspicion`: AUROC, the chance that a wrong label looks more suspect than a
        right one. Empty where nothing, or everything, is wrong or no truth is known.
    """
    if "true_label" not in predictions:
        return {}
    wrong = (predictions["label"] != predictions["true_label"]).to_numpy()
    if wrong.all() or not wrong.any():
        return {}
    table = suspicion(predictions)
    return {name: float(roc_auc_score(wrong, table[name])) for name in table}


def worst(predictions: pd.DataFrame, count: int = 100) -> pd.DataFrame:
    """The training faces whose labels look most wrong, for people to judge.

    Returns:
        Up to `count` rows, the most suspect first, indexed as in `predictions`: id, label,
        predicted, confidence, reliability, loss, true_label and votes_<column> where known.
    """
    scores = suspicion(predictions)
    told = predictions.assign(
        confidence=metrics.probabilities(predictions).max(axis=1), loss=scores["loss"]
    )
    measure = "reliability" if "reliability" in scores else "loss"
    order = scores.sort_values([measure, "loss"], ascending=False, kind="stable").index[:count]
    wanted = ("id", "label", "predicted", "confidence", "reliability", "loss", "true_label")
    columns = [name for name in wanted if name in told]
    columns += [name for name in told if name.startswith("votes_")]
    return told.loc[order, columns]
