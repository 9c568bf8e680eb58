"""Accuracy by group: faces with copies in training, demographic groups; human accuracy."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from grefel_lib.labels import RAFDB_ATTRIBUTES, VOTE_COLUMNS
from grefel_lib.metrics import table_classes, wilson_interval

SMALLEST = 20  # minimum number of faces of a group to count for the largest gap


def by_group(predictions: pd.DataFrame, groups: Sequence) -> pd.DataFrame:
    """Accuracy by group.

    Args:
        predictions: N rows.
        groups: (N,) the group of each face; faces without one (NaN or None) are left out.

    Returns:
        One row a group, by name: count, accuracy, low, high (95%, see `wilson_interval`).
    """
    right = (predictions["label"] == predictions["predicted"]).to_numpy()
    table = pd.DataFrame({"group": np.asarray(groups), "right": right}).groupby("group")["right"]
    table = table.agg(count="size", right="sum")
    ends = [wilson_interval(*pair) for pair in table[["right", "count"]].to_numpy()]
    table["accuracy"] = table.pop("right") / table["count"]
    table[["low", "high"]] = np.reshape(ends, (-1, 2))
    return table


def copy_accuracy(predictions: pd.DataFrame, copies: pd.DataFrame) -> pd.DataFrame:
    """Accuracy on faces that have a copy in the training split, and on those that have none.

    Args:
        predictions: N rows.
        copies: From `find_copies`.

    Returns:
        One row per group present: count, accuracy, low, high (95%). The training originals of exact
        copies were dropped if `drop_leaks` was on.
    """
    exact = copies.set_index("id")["exact"]
    status = predictions["id"].map(exact).map({True: "exact copy", False: "near copy"})
    table = by_group(predictions, status.fillna("no copy"))
    order = [name for name in ("no copy", "near copy", "exact copy") if name in table.index]
    return table.loc[order]


def attribute_accuracy(predictions: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Accuracy by gender, race and age group, where the data set records them.

    Returns:
        By attribute, one row a group: count, accuracy, low, high (95%).
    """
    return {
        name: by_group(predictions, predictions[name])
        for name in RAFDB_ATTRIBUTES
        if name in predictions and predictions[name].notna().any()
    }


def largest_gap(table: pd.DataFrame) -> tuple[str, str, float]:
    """The groups of at least 20 faces with the highest and lowest accuracy, and the gap.

    Returns:
        Their names and the difference of their accuracies; ("", "", NaN) with fewer than two.
    """
    large = table.loc[table["count"] >= SMALLEST, "accuracy"]
    if len(large) < 2:
        return "", "", np.nan
    best = large.idxmax()
    return best, large.drop(best).idxmin(), float(large.max() - large.min())


def human_ceiling(predictions: pd.DataFrame, *, draws: int = 200) -> pd.DataFrame | None:
    """How often annotators would agree with a face's label, estimated from its votes.

    Args:
        predictions: A table with votes_<column> for every class and for what else was voted.
        draws: Panels drawn for each face.

    Returns:
        None without votes; otherwise one row per judge, with its accuracy and 95% range over draws:
        "one annotator" (one of the votes, at random; unknown and non-face count as wrong) and
        "a second panel" (ten votes resampled from the face's own, then the class with the most,
        unknown and non-face aside; a tie is broken at random). Both are slightly optimistic: the
        label came from these votes.
    """
    named = {f"votes_{name}": name for name in table_classes(predictions)}
    columns = [c for c in predictions if c in named]  # in the table's order, whatever the view's
    others = [c for c in predictions if c.startswith("votes_") and c not in named]
    if len(columns + others) != len(VOTE_COLUMNS) or len(columns) < len(named):
        return None
    votes = predictions[columns + others].to_numpy(dtype=float)
    voted = votes.sum(axis=1) > 0
    shares = votes[voted] / votes[voted].sum(axis=1, keepdims=True)
    label = pd.Index([named[c] for c in columns]).get_indexer(predictions["label"])[voted]
    rng = np.random.default_rng(0)
    accuracies: dict[str, list[float]] = {"one annotator": [], "a second panel": []}
    for _ in range(draws):
        panel = rng.multinomial(10, shares).astype(float)  # (N, 10)
        one = rng.multinomial(1, shares).argmax(axis=1)
        untied = panel[:, : len(columns)] + rng.random((len(panel), len(columns))) / 2
        accuracies["one annotator"].append((one == label).mean())
        accuracies["a second panel"].append((untied.argmax(axis=1) == label).mean())
    table = pd.DataFrame(accuracies)
    means, ends = table.mean(), table.quantile([0.025, 0.975])
    means["one annotator"] = shares[np.arange(len(label)), label].mean()  # exactly
    return pd.DataFrame({"accuracy": means, "low": ends.iloc[0], "high": ends.iloc[1]})
