"""Accuracy by group of faces: those that training holds too, and groups of people."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from grefel_lib import metrics
from grefel_lib.evaluated import Evaluated
from grefel_lib.labels import RAFDB_ATTRIBUTES

SMALLEST = 20  # faces of a group that takes part in the largest gap


def by_group(predictions: pd.DataFrame, groups: Sequence) -> pd.DataFrame:
    """Accuracy of parts of a table apart.

    Args:
        predictions: N rows.
        groups: (N,) the group of each face; faces without one (NaN or None) are left out.

    Returns:
        One row a group, by name: count, accuracy, low, high (95%, see `metrics.share_interval`).
    """
    right = (predictions["label"] == predictions["predicted"]).to_numpy()
    table = pd.DataFrame({"group": np.asarray(groups), "right": right}).groupby("group")["right"]
    table = table.agg(["size", "sum"])
    ends = [metrics.share_interval(*pair) for pair in table[["sum", "size"]].to_numpy()]
    return pd.DataFrame(
        {
            "count": table["size"],
            "accuracy": table["sum"] / table["size"],
            "low": [low for low, _ in ends],
            "high": [high for _, high in ends],
        },
        index=table.index,
    )


def copies(found: Evaluated) -> pd.DataFrame | None:
    """The headline's accuracy on faces that have a copy in training and on those that have none.

    Returns:
        One row a group that occurs: count, accuracy, low, high (95%). None where copies were not
        looked for. The exact copies' originals were left out of training if `drop_leaks` was on.
    """
    if found.copies is None:
        return None
    exact = found.copies.set_index("id")["exact"]
    status = found.table["id"].map(exact).map({True: "exact copy", False: "near copy"})
    table = by_group(found.table, status.fillna("no copy"))
    order = [name for name in ("no copy", "near copy", "exact copy") if name in table.index]
    return table.loc[order]


def attributes(found: Evaluated) -> dict[str, pd.DataFrame]:
    """The headline's accuracy by gender, race and age group, as far as the data set tells them.

    Returns:
        By attribute, one row a group: count, accuracy, low, high (95%).
    """
    return {
        name: by_group(found.table, found.table[name])
        for name in RAFDB_ATTRIBUTES
        if name in found.table and found.table[name].notna().any()
    }


def largest_gap(table: pd.DataFrame) -> tuple[str, str, float]:
    """The best and the worst served group of 20 faces or more, and how far apart they are.

    Returns:
        Their names and the difference of their accuracies; ("", "", NaN) with fewer than two.
    """
    large = table.loc[table["count"] >= SMALLEST, "accuracy"]
    if len(large) < 2:
        return "", "", np.nan
    return large.idxmax(), large.idxmin(), float(large.max() - large.min())
