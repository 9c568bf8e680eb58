"""Metrics computed from a predictions table; no model needed.

A predictions table has one row per face: id, label and predicted (class names), p_<class> (the
corrected probabilities, summing to 1) and whatever else `predict` adds. The order of the
p_ columns is the order of the classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import optimize, special, stats

BINS = 15  # of the calibration error and the reliability diagram


def table_classes(predictions: pd.DataFrame) -> list[str]:
    """The classes, in the order of the p_ columns."""
    return [name.removeprefix("p_") for name in predictions.columns if name.startswith("p_")]


def reorder_classes(predictions: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """The same table with its classes in another order: that of its p_ columns."""
    probs = [f"p_{name}" for name in names]
    return predictions[[c for c in predictions if c not in probs] + probs]


def renamed(names: Sequence[str], new: Mapping[str, str]) -> list[str]:
    """The classes, some of them under new names.

    Raises:
        ValueError: A key of `new` is no class, or two classes would have the same name.
    """
    if unknown := set(new) - set(names):
        raise ValueError(f"no class {min(unknown)!r}; there are: {', '.join(names)}")
    changed = [new.get(name, name) for name in names]
    if len(set(changed)) < len(changed):
        raise ValueError(f"two classes would have one name: {', '.join(changed)}")
    return changed


def rename_classes(predictions: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """The same table with other names for some classes; raises as `renamed` does."""
    renamed(table_classes(predictions), names)
    kinds = ("p", "primary", "votes")
    columns = {f"{kind}_{a}": f"{kind}_{b}" for kind in kinds for a, b in names.items()}
    texts = predictions.filter(["label", "predicted", "true_label"])
    return predictions.assign(**texts.replace(names)).rename(columns=columns)


def check_predictions(predictions: pd.DataFrame) -> pd.DataFrame:
    """Reject a table that is not a valid predictions table; the functions here rely on this.

    Tables are checked once, where they are created or read.

    Raises:
        ValueError: No rows, a missing column, values that are not probabilities, an unknown
            label, or a `predicted` that is not the most probable class.
    """
    names = table_classes(predictions)
    if not len(predictions) or not names:
        raise ValueError("the predictions table is empty: no rows or no p_<class> columns")
    missing = [name for name in ("id", "label", "predicted") if name not in predictions]
    if missing:
        raise ValueError(f"the predictions table has no column {', '.join(missing)}")
    ids = predictions["id"]
    probs = class_probabilities(predictions)
    bad = ~np.isfinite(probs).all(axis=1)
    if bad.any():
        raise ValueError(f"probabilities are not finite for: {_some(ids[bad])}")
    bad = (np.abs(probs.sum(axis=1) - 1) > 1e-3) | (probs < 0).any(axis=1)
    if bad.any():
        raise ValueError(f"probabilities are negative or do not sum to 1 for: {_some(ids[bad])}")
    for column in ("label", "predicted"):
        unknown = predictions[column][~predictions[column].isin(names)]
        if len(unknown):
            raise ValueError(f"{column} {unknown.iloc[0]!r} has no p_ column; classes: {names}")
    chosen = probs[np.arange(len(probs)), class_codes(predictions, "predicted")]
    bad = chosen < probs.max(axis=1) - 1e-6  # a CSV may round a near tie to a tie
    if bad.any():
        raise ValueError(f"predicted is not the most probable class for: {_some(ids[bad])}")
    return predictions


def class_probabilities(predictions: pd.DataFrame) -> np.ndarray:
    """(N, C) corrected probabilities, in the order of `table_classes`."""
    return predictions[[f"p_{name}" for name in table_classes(predictions)]].to_numpy(dtype=float)


def compute_metrics(predictions: pd.DataFrame) -> dict[str, float]:
    """All metrics of a predictions table.

    Returns:
        n; accuracy; mean_class_accuracy (mean recall over the classes that occur); macro_f1
        (mean F1 over the classes that occur, 0 where nothing was predicted); weighted_f1; nll
        (natural logarithm, probabilities clipped at 1e-12); brier (sum over classes, 0 to 2); ece
        (debiased, see `calibration_error`).

    Raises:
        ValueError: See `check_predictions`.
    """
    check_predictions(predictions)
    scores = _Faces.of(predictions).scores(np.ones(len(predictions)))
    return {"n": len(predictions), **scores, "ece": calibration_error(predictions)[0]}


def calibration_error(predictions: pd.DataFrame) -> tuple[float, float, float]:
    """Debiased expected calibration error of the top label, with its 95% interval.

    The plain ECE, sum_b w_b |g_b| over 15 bins of equal width (g_b = accuracy - confidence, w_b the
    share of faces), is biased upwards: a perfectly calibrated model has gaps by chance alone, and
    resampling adds more. The gaps are modelled as l h_b, with h_b half as observed and half the
    same in every bin, and normal errors: those of an accuracy that is l h_b off the confidence, as
    in Wilson's interval, on the observed side (for the upper end also below the confidence, where
    errors are larger). The value is the sum of w_b l h_b for the l under which the observed plain
    ECE is the median; the interval holds the l under which it is not among the 2.5% most extreme on
    either side, give or take half a face.

    Returns:
        value, low, high; 0 to 1.

    Source: ours (test inversion); the bias: Kumar et al., Verified Uncertainty Calibration, 2019.
    """
    bins = confidence_bins(predictions)
    count, accuracy = bins["count"].to_numpy(), bins["accuracy"].to_numpy()
    confidence, share = bins["confidence"].to_numpy(), count / count.sum()
    gaps, seen = np.abs(accuracy - confidence), np.where(accuracy > confidence, 1, -1)
    observed, half_a_face = share @ gaps, 0.5 / count.sum()
    shape = (gaps + observed) / (2 * observed) if observed > 0 else np.ones_like(gaps)

    def chance(size: float, ece: float, side: np.ndarray | int) -> float:
        """P(plain ECE below this one); the sum over bins is approximated as a gamma."""
        gap = size * shape
        right = (np.clip(confidence + side * gap, 0, 1) * count + 0.5) / (count + 1)  # never 0 or 1
        error = np.sqrt(right * (1 - right) / count)
        # mean and variance of the absolute value of a normal variable
        means = error * np.sqrt(2 / np.pi) * np.exp(-((gap / error) ** 2) / 2)
        means += gap * (1 - 2 * special.ndtr(-gap / error))
        mean, variance = share @ means, share**2 @ (gap**2 + error**2 - means**2)
        return float(special.gammainc(mean**2 / variance, ece * mean / variance))

    def size_at(level: float, ece: float, side: np.ndarray | int = seen) -> float:
        if chance(0, ece, side) <= level:
            return 0.0
        high = 1.0
        while chance(high, ece, side) > level:
            high *= 2
        root = optimize.brentq(lambda size: chance(size, ece, side) - level, 0, high)
        return min(1.0, float(root))

    low, high = max(0, observed - half_a_face), observed + half_a_face
    ends = size_at(0.975, low), max(size_at(0.025, high), size_at(0.025, high, -1))
    return size_at(0.5, observed), *ends


@dataclass(frozen=True)
class _Faces:
    """Contribution of each of N faces to the metrics, so that a resample needs only sums."""

    classes: int
    cell: np.ndarray  # (N,) its cell of the confusion matrix: true * classes + predicted
    nll: np.ndarray  # (N,)
    brier: np.ndarray  # (N,)

    @classmethod
    def of(cls, predictions: pd.DataFrame) -> "_Faces":
        probs = class_probabilities(predictions)
        labels, predicted = (class_codes(predictions, name) for name in ("label", "predicted"))
        label_probs = probs[np.arange(len(probs)), labels]
        return cls(
            classes=probs.shape[1],
            cell=labels * probs.shape[1] + predicted,
            nll=-np.log(label_probs.clip(1e-12)),
            brier=(probs**2).sum(axis=1) - 2 * label_probs + 1,
        )

    def scores(self, times: np.ndarray, extra: np.ndarray | float = 0) -> dict[str, float]:
        """The metrics when each face has weight `times`; no ECE, which is not a mean over faces.

        Args:
            times: (N,).
            extra: (2, C) faces of each class, right and wrong, added for the means over classes;
                no correct ones for a class never predicted, no wrong ones for one always predicted.
                Accuracy and weighted F1 have those of the first class alone, shared by all.
        """
        counts = np.bincount(self.cell, weights=times, minlength=self.classes**2)
        counts = counts.reshape(self.classes, self.classes)
        right, true, total = counts.diagonal(), counts.sum(axis=1), times.sum()
        predicted, occurs = counts.sum(axis=0), true > 0
        extra = np.broadcast_to(extra, (2, self.classes))
        more_right, more_wrong = extra * np.stack([predicted > 0, predicted < total * (1 - 1e-9)])
        likely = right + more_right, true + more_right + more_wrong
        recall = likely[0] / np.maximum(likely[1], 1e-12)
        class_f1 = 2 * likely[0] / np.maximum(likely[1] + predicted + more_right, 1e-12)
        more_right, more_wrong = extra[:, :1] * true / total
        right, faces = right + more_right, true + more_right + more_wrong
        f1 = 2 * right / np.maximum(faces + predicted + more_right + more_wrong, 1e-12)
        return {
            "accuracy": float(right.sum() / faces.sum()),
            "mean_class_accuracy": float(recall[occurs].mean()),
            "macro_f1": float(class_f1[occurs].mean()),
            "weighted_f1": float((f1 * faces).sum() / faces.sum()),
            "nll": float(times @ self.nll / total),
            "brier": float(times @ self.brier / total),
        }


def bootstrap_intervals(
    *predictions: pd.DataFrame, draws: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """All metrics with their 95% intervals over images; over people where there are subjects.

    The interval is that of the Bayesian bootstrap, in which every face keeps some weight, so that
    no class is ever absent; faces of one subject share theirs. The interval of the ECE is that of
    `calibration_error`, which takes faces as independent.

    Args:
        predictions: One table of N faces, or several seeds' tables of the same faces: then every
            number is their mean, and the interval covers other faces, not other seeds; the ECE's
            is the mean of the seeds' intervals, which is conservative (too wide).
        draws: Number of weight vectors drawn.
        seed: Random seed of the draws.

    Returns:
        One row a metric: value, low, high.

    Raises:
        ValueError: The tables are not of the same images with the same labels.

    Source: Rubin, The Bayesian Bootstrap, 1981. `tests/interval_coverage.py` measures how often
    the intervals cover the true value.
    """
    resampled = _resampled(predictions, draws, subject_codes(predictions[0]), seed=seed)
    table = _with_interval(_mean_scores(predictions), resampled)
    ends = np.mean([calibration_error(one) for one in predictions], axis=0)
    table.loc["ece", ["low", "high"]] = ends[1:]
    return table


def paired_difference(
    first: Sequence[pd.DataFrame], second: Sequence[pd.DataFrame], *, draws: int = 1000
) -> pd.DataFrame:
    """Difference of `second` minus `first` on the same images, with its 95% interval.

    Each side may have several seeds; their metrics are averaged. A draw gives the same weights to
    the images on both sides, so the interval covers other test images (other people,
    where there are subjects), not other seeds. The ECE's difference has no interval (NaN):
    resampling cannot provide one.

    Returns:
        One row a metric: value (second minus first), low, high.

    Raises:
        ValueError: The tables are not of the same images with the same labels.
    """
    _same_images(first[0], second[0])
    value = _mean_scores(second) - _mean_scores(first)
    people = subject_codes(first[0])
    apart = _resampled(second, draws, people, side=1) - _resampled(first, draws, people)
    return _with_interval(value, apart)


def subject_codes(predictions: pd.DataFrame) -> np.ndarray:
    """(N,) a number for each face's subject; a face without one is a person of its own."""
    if "subject" not in predictions:
        return np.arange(len(predictions))
    return pd.factorize(predictions["subject"].astype(object).fillna(predictions["id"]))[0]


def interval_unit(predictions: pd.DataFrame) -> str:
    """What the intervals of `bootstrap_intervals` are over."""
    return "people" if "subject" in predictions else "faces"


def average_predictions(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Several models' predictions of the same faces as those of one: the mean of p_<class>.

    Raises:
        ValueError: The tables are not of the same images with the same labels.

    Source: Lakshminarayanan et al., Simple and Scalable Predictive Uncertainty Estimation using
    Deep Ensembles, 2017.
    """
    for other in tables[1:]:
        _same_images(tables[0], other)
    probs = np.mean([class_probabilities(table) for table in tables], axis=0)
    names = table_classes(tables[0])
    scores = pd.DataFrame(probs, tables[0].index, [f"p_{name}" for name in names])
    predicted = np.asarray(names)[probs.argmax(axis=1)]
    about = tables[0].filter(["id", "label", "subject"])
    return about.assign(predicted=predicted).join(scores)


def mcnemar_test(first: pd.DataFrame, second: pd.DataFrame) -> dict[str, float]:
    """Exact McNemar test of whether two models differ on the same faces.

    Returns:
        only_first and only_second (faces that only this model gets right), p (two-sided, exact
        binomial; 1 if they never disagree).

    Raises:
        ValueError: The tables are not of the same images with the same labels.

    Source: McNemar, Psychometrika 12 (1947).
    """
    _same_images(first, second)
    right = [(t["label"] == t["predicted"]).to_numpy() for t in (first, second)]
    only_first, only_second = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    apart = only_first + only_second
    p = stats.binomtest(only_first, apart).pvalue if apart else 1.0
    return {"only_first": only_first, "only_second": only_second, "p": float(p)}


def _mean_scores(tables: Sequence[pd.DataFrame]) -> pd.Series:
    """Every headline number, averaged over the tables."""
    for other in tables[1:]:
        _same_images(tables[0], other)
    return pd.DataFrame([compute_metrics(table) for table in tables]).mean().drop("n")


def _resampled(
    tables: Sequence[pd.DataFrame], draws: int, people: np.ndarray, *, seed: int = 0, side: int = 0
) -> pd.DataFrame:
    """The scores of each draw, averaged over the tables: the same weights for every table.

    The faces of one of the `people` (N,) have the same weight.

    With few faces in a class, resampling alone shows no uncertainty (0 of 10 in all draws), so
    Jeffreys' prior adds one pseudo-face to each class, or to all faces where the metric is not a
    mean over classes, split into right and wrong for two models.
    """
    faces = [_Faces.of(table) for table in tables]
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(draws):
        times = rng.exponential(size=people.max() + 1)[people]
        prior = rng.gamma(0.25, size=(2, 2, faces[0].classes))  # first right or wrong, second
        scores = [one.scores(times, prior.sum(axis=1 - side)) for one in faces]
        rows.append({name: np.mean([one[name] for one in scores]) for name in scores[0]})
    return pd.DataFrame(rows)


def _with_interval(value: pd.Series, resampled: pd.DataFrame) -> pd.DataFrame:
    ends = resampled.quantile([0.025, 0.975]).T.reindex(value.index)
    low, high = np.minimum(ends[0.025], value), np.maximum(ends[0.975], value)
    return pd.DataFrame({"value": value, "low": low, "high": high})


def _same_images(first: pd.DataFrame, second: pd.DataFrame) -> None:
    for column in ("id", "label"):
        if list(first[column]) != list(second[column]):
            raise ValueError(
                f"the two tables have different {column}s ({len(first)} and {len(second)} rows); "
                f"compare predictions of the same split, in the same order"
            )
    names = [", ".join(table_classes(table)) for table in (first, second)]
    if names[0] != names[1]:
        raise ValueError(f"the classes are {names[0]} in one table and {names[1]} in the other")


def per_class_metrics(predictions: pd.DataFrame) -> pd.DataFrame:
    """One row per class: class, count (true faces), precision, recall, f1; NaN without true faces.

    Precision is 0 where nothing was predicted. recall_low and recall_high are the 95% interval of
    `wilson_interval`.
    """
    counts = confusion_counts(predictions)
    right, true, predicted = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    ends = [wilson_interval(*pair) for pair in zip(right, true, strict=True)]
    table = pd.DataFrame(
        {
            "class": table_classes(predictions),
            "count": true,
            "precision": right / np.maximum(predicted, 1),
            "recall": right / np.maximum(true, 1),
            "recall_low": [low for low, _ in ends],
            "recall_high": [high for _, high in ends],
            "f1": 2 * right / np.maximum(true + predicted, 1),
        }
    )
    table.loc[true == 0, table.columns[2:]] = np.nan
    return table


def wilson_interval(right: int, total: int) -> tuple[float, float]:
    """95% Wilson interval of a proportion, for small counts, where resampling fails.

    (0, 1) for no faces.

    Source: Wilson, JASA 22 (1927).
    """
    if not total:
        return 0.0, 1.0
    interval = stats.binomtest(int(right), int(total)).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def confusion_counts(predictions: pd.DataFrame) -> np.ndarray:
    """(C, C) faces by true class (row) and predicted class (column)."""
    classes = len(table_classes(predictions))
    cells = class_codes(predictions, "label") * classes + class_codes(predictions, "predicted")
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


def normalise_rows(counts: np.ndarray) -> np.ndarray:
    """Divide each row (C, C) by its sum; empty rows stay zero."""
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-12)


def confidence_bins(predictions: pd.DataFrame, bins: int = BINS) -> pd.DataFrame:
    """Confidence against accuracy, in bins of equal width over the top probability.

    Returns:
        One row per non-empty bin: low, high, count, confidence (mean), accuracy.
    """
    probs = class_probabilities(predictions)
    right = (predictions["predicted"] == predictions["label"]).to_numpy(dtype=float)
    return calibration_bins(probs.max(axis=1), right, bins)


def calibration_bins(claimed: np.ndarray, outcome: np.ndarray, bins: int = BINS) -> pd.DataFrame:
    """Mean predicted value against mean outcome, in bins of equal width over the prediction.

    Args:
        claimed: (N,) values in 0..1, a confidence or a reliability.
        outcome: (N,) the outcome it should predict: right or wrong, or a share of votes.
        bins: Number of bins over 0..1; each includes its lower edge, the last one also 1.

    Raises:
        ValueError: A value outside 0..1 or NaN, or no bins.
    """
    claimed, outcome = np.asarray(claimed, dtype=float), np.asarray(outcome, dtype=float)
    if bins < 1:
        raise ValueError(f"bins must be at least 1; got {bins}")
    inside = (claimed >= -1e-6) & (claimed <= 1 + 1e-6)  # False for NaN
    if not inside.all():
        raise ValueError(f"{(~inside).sum()} of {len(claimed)} values are not in 0..1")
    place = np.clip((claimed * bins).astype(int), 0, bins - 1)
    table = pd.DataFrame({"bin": place, "confidence": claimed, "accuracy": outcome})
    table = table.groupby("bin").agg(
        count=("confidence", "size"),
        confidence=("confidence", "mean"),
        accuracy=("accuracy", "mean"),
    )
    table.insert(0, "low", table.index / bins)
    table.insert(1, "high", (table.index + 1) / bins)
    return table.reset_index(drop=True)


def class_codes(predictions: pd.DataFrame, column: str) -> np.ndarray:
    """(N,) class indices of a column of class names."""
    return pd.Index(table_classes(predictions)).get_indexer(predictions[column])


def _some(ids: pd.Series) -> str:
    return ", ".join(map(str, ids[:5])) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
