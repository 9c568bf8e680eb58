"""What people reach: the ceiling that annotators who disagree put over any accuracy."""

import numpy as np
import pandas as pd

from grefel_lib import metrics
from grefel_lib.labels import VOTE_COLUMNS


def ceiling(predictions: pd.DataFrame, *, draws: int = 200, seed: int = 0) -> pd.DataFrame | None:
    """How often people would give a face its label, from the votes it got.

    Args:
        predictions: A table with votes_<column> for all ten columns.
        draws: Panels drawn for each face.
        seed: Of the drawing.

    Returns:
        None without votes. Else one row a judge, with its accuracy and the 95% range over draws:
        "one annotator" (one of the votes, at random; unknown and non-face count as wrong) and
        "a second panel" (ten votes drawn anew from the face's own, the class with most of them; a
        tie is broken at random). Both flatter people a little: the label came from these votes.
    """
    columns = [f"votes_{name}" for name in VOTE_COLUMNS]
    if not set(columns) <= set(predictions.columns):
        return None
    votes = predictions[columns].to_numpy(dtype=float)
    seen = votes.sum(axis=1) > 0
    shares = votes[seen] / votes[seen].sum(axis=1, keepdims=True)
    label = pd.Index(VOTE_COLUMNS).get_indexer(predictions["label"])[seen]
    classes = len(metrics.class_names(predictions))
    rng = np.random.default_rng(seed)
    found: dict[str, list[float]] = {"one annotator": [], "a second panel": []}
    for _ in range(draws):
        panel = rng.multinomial(10, shares).astype(float)  # (N, 10)
        one = rng.multinomial(1, shares).argmax(axis=1)
        untied = panel[:, :classes] + rng.random((len(panel), classes)) / 2
        found["one annotator"].append((one == label).mean())
        found["a second panel"].append((untied.argmax(axis=1) == label).mean())
    table = pd.DataFrame(found)
    ends = table.quantile([0.025, 0.975])
    return pd.DataFrame({"accuracy": table.mean(), "low": ends.iloc[0], "high": ends.iloc[1]})
