"""Numbers from a table of predictions; nothing here needs the model.

A predictions table has one row a face: id, label and predicted (class names), p_<class> (the
corrected probabilities, summing to 1) and what else `evaluation.predict` adds. The order of the
p_ columns is the order of the classes.
"""

import numpy as np
import pandas as pd

BINS = 15  # of the calibration error and the reliability diagram


def class_names(predictions: pd.DataFrame) -> list[str]:
    """The classes, in the order of the p_ columns."""
    return [name.removeprefix("p_") for name in predictions.columns if name.startswith("p_")]


def probabilities(predictions: pd.DataFrame) -> np.ndarray:
    """(N, C) corrected probabilities.

    Raises:
        ValueError: No rows, a column is missing, values that are no probabilities, an unknown
            label, or a `predicted` that is not the most probable class.
    """
    names = class_names(predictions)
    if not len(predictions) or not names:
        raise ValueError("the predictions table is empty: no rows or no p_<class> columns")
    missing = [name for name in ("id", "label", "predicted") if name not in predictions]
    if missing:
        raise ValueError(f"the predictions table has no column {', '.join(missing)}")
    ids = predictions["id"]
    probs = predictions[[f"p_{name}" for name in names]].to_numpy(dtype=float)
    bad = ~np.isfinite(probs).all(axis=1)
    if bad.any():
        raise ValueError(f"probabilities are not finite for: {_some(ids[bad])}")
    bad = (np.abs(probs.sum(axis=1) - 1) > 1e-3) | (probs < 0).any(axis=1)
    if bad.any():
        raise ValueError(f"probabilities are negative or do not sum to 1 for: {_some(ids[bad])}")
    for column in ("label", "predicted"):
        strange = predictions[column][~predictions[column].isin(names)]
        if len(strange):
            raise ValueError(f"{column} {strange.iloc[0]!r} has no p_ column; classes: {names}")
    chosen = probs[np.arange(len(probs)), _codes(predictions, "predicted")]
    bad = chosen < probs.max(axis=1) - 1e-6  # a CSV may turn a hair's breadth into a tie
    if bad.any():
        raise ValueError(f"predicted is not the most probable class for: {_some(ids[bad])}")
    return probs


def evaluate(predictions: pd.DataFrame) -> dict[str, float]:
    """Every headline number of a table.

    Returns:
        n; accuracy; mean_class_accuracy (mean recall over the classes that occur); macro_f1
        (mean F1 over the classes that occur, 0 where nothing was predicted); weighted_f1; ece
        (top label, 15 bins of equal width); nll (natural logarithm, probabilities clipped at
        1e-12); brier (sum over classes, 0 to 2).

    Raises:
        ValueError: See `probabilities`.
    """
    probs = probabilities(predictions)
    labels, predicted = _codes(predictions, "label"), _codes(predictions, "predicted")
    table = per_class(predictions)
    table = table[table["count"] > 0]
    bins = reliability_bins(predictions)
    gaps = (bins["accuracy"] - bins["confidence"]).abs()
    truth = np.eye(probs.shape[1])[labels]
    return {
        "n": len(predictions),
        "accuracy": float((predicted == labels).mean()),
        "mean_class_accuracy": float(table["recall"].mean()),
        "macro_f1": float(table["f1"].mean()),
        "weighted_f1": float(np.average(table["f1"], weights=table["count"])),
        "ece": float((gaps * bins["count"]).sum() / len(predictions)),
        "nll": float(-np.log(probs[np.arange(len(labels)), labels].clip(1e-12)).mean()),
        "brier": float(((probs - truth) ** 2).sum(axis=1).mean()),
    }


def per_class(predictions: pd.DataFrame) -> pd.DataFrame:
    """One row a class: class, count (true faces), precision, recall, f1; 0 where undefined."""
    counts = confusion_counts(predictions)
    right, true, predicted = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    return pd.DataFrame(
        {
            "class": class_names(predictions),
            "count": true,
            "precision": right / np.maximum(predicted, 1),
            "recall": right / np.maximum(true, 1),
            "f1": 2 * right / np.maximum(true + predicted, 1),
        }
    )


def confusion_counts(predictions: pd.DataFrame) -> np.ndarray:
    """(C, C) faces by true class (row) and predicted class (column)."""
    classes = probabilities(predictions).shape[1]
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (_codes(predictions, "label"), _codes(predictions, "predicted")), 1)
    return counts


def row_normalised(counts: np.ndarray) -> np.ndarray:
    """Divide each row (C, C) by its sum; empty rows stay zero."""
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-12)


def reliability_bins(predictions: pd.DataFrame, bins: int = BINS) -> pd.DataFrame:
    """Confidence against accuracy, in bins of equal width over the top probability.

    Returns:
        One row a bin that holds faces: low, high, count, confidence (mean), accuracy.
    """
    probs = probabilities(predictions)
    right = (predictions["predicted"] == predictions["label"]).to_numpy(dtype=float)
    return calibration(probs.max(axis=1), right, bins)


def calibration(claimed: np.ndarray, found: np.ndarray, bins: int = BINS) -> pd.DataFrame:
    """Mean claim against mean outcome, in bins of equal width over the claim.

    Args:
        claimed: (N,) values in 0..1, a confidence or a reliability.
        found: (N,) what it should foretell: right or wrong, or a share of votes.
        bins: Number of bins over 0..1; each holds its lower edge, the last also 1.

    Raises:
        ValueError: A claim outside 0..1 or not a number, or no bins.
    """
    claimed, found = np.asarray(claimed, dtype=float), np.asarray(found, dtype=float)
    if bins < 1:
        raise ValueError(f"bins={bins}; give at least 1")
    inside = (claimed >= -1e-6) & (claimed <= 1 + 1e-6)  # False for NaN
    if not inside.all():
        raise ValueError(f"{(~inside).sum()} of {len(claimed)} claims are no numbers in 0..1")
    place = np.clip((claimed * bins).astype(int), 0, bins - 1)
    table = pd.DataFrame({"bin": place, "confidence": claimed, "accuracy": found})
    table = table.groupby("bin").agg(
        count=("confidence", "size"),
        confidence=("confidence", "mean"),
        accuracy=("accuracy", "mean"),
    )
    table.insert(0, "low", table.index / bins)
    table.insert(1, "high", (table.index + 1) / bins)
    return table.reset_index(drop=True)


def images_in_cell(predictions: pd.DataFrame, true: str, predicted: str) -> pd.DataFrame:
    """The rows of one cell of the confusion matrix, most confident first.

    Raises:
        ValueError: There is no such class.
    """
    names = class_names(predictions)
    for name in (true, predicted):
        if name not in names:
            raise ValueError(f"no class {name!r}; classes: {', '.join(names)}")
    cell = predictions[(predictions["label"] == true) & (predictions["predicted"] == predicted)]
    return cell.sort_values(f"p_{predicted}", ascending=False, kind="stable")


def _codes(predictions: pd.DataFrame, column: str) -> np.ndarray:
    """(N,) positions of the class names of a column."""
    return pd.Index(class_names(predictions)).get_indexer(predictions[column])


def _some(ids: pd.Series) -> str:
    return ", ".join(map(str, ids[:5])) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
