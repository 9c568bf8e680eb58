"""How often the 95% intervals hold the truth: python tests/interval_coverage.py [SAMPLES].

A pool of 200,000 faces stands for the world. It is made of the predictions of two published runs:
a face's log-probabilities, moved a little, and a label drawn from a logistic regression that was
fitted to both runs and knows nothing of the estimators; classes are as frequent as in FERPlus.
Samples of 3,136 faces are drawn from it, as many as FERPlus's test split here has; counted is how
often the pool's own value lies inside the interval.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression

from grefel_lib.analysis.evaluation import load_evaluation
from grefel_lib.metrics import (
    bootstrap_intervals,
    calibration_error,
    class_codes,
    class_probabilities,
    compute_metrics,
    paired_difference,
    per_class_metrics,
    table_classes,
)
from grefel_lib.run import open_run

PUBLISHED = Path(__file__).parents[1] / "notebooks/published_runs"
RUNS = ("correction=paper-seed=0", "head=linear-seed=0")
SIZES = {  # of FERPlus's test split here, official protocol: `FaceSet.counts`
    "neutral": 1092, "happiness": 901, "surprise": 393, "sadness": 411, "anger": 244,
    "disgust": 18, "fear": 67, "contempt": 10,
}  # fmt: skip
FACES = sum(SIZES.values())


def world(
    faces: int = 200_000, *, temperatures: tuple[float, float] = (1, 1.25), seed: int = 0
) -> list[pd.DataFrame]:
    """Two models' predictions of the same faces of the pool, softened by a temperature each."""
    runs = [load_evaluation(open_run(PUBLISHED / name)).table for name in RUNS]
    names = table_classes(runs[0])
    logs = [np.log(class_probabilities(run).clip(1e-9)) for run in runs]
    told, labels = np.hstack(logs), runs[0]["label"]
    weights = (labels.map(SIZES) / labels.map(labels.value_counts())).to_numpy()
    truth = LogisticRegression(C=10, max_iter=5000)
    truth.fit(told, class_codes(runs[0], "label"), sample_weight=weights)
    rng = np.random.default_rng(seed)
    told = told[rng.choice(len(told), size=faces, p=weights / weights.sum())]
    told = told + rng.normal(0, 0.25, told.shape)
    chances = truth.predict_proba(told).cumsum(axis=1)
    labels = (chances < rng.random((faces, 1))).sum(axis=1).clip(0, len(names) - 1)
    parts = zip(np.split(told, 2, axis=1), temperatures, strict=True)
    return [predictions(part / temperature, labels, names) for part, temperature in parts]


def perfect_world(faces: int = 200_000, seed: int = 0) -> pd.DataFrame:
    """The same faces, with labels drawn from the model's own probabilities: an ECE of 0."""
    table = world(faces, seed=seed)[0]
    chances = class_probabilities(table).cumsum(axis=1)
    draws = np.random.default_rng(seed + 1).random((faces, 1))
    labels = (chances < draws).sum(axis=1).clip(0, chances.shape[1] - 1)
    return table.assign(label=np.array(table_classes(table))[labels])


def predictions(logits: np.ndarray, labels: np.ndarray, names: list[str]) -> pd.DataFrame:
    probs = np.exp(logits - np.logaddexp.reduce(logits, axis=1)[:, None])
    columns = {f"p_{name}": probs[:, i] for i, name in enumerate(names)}
    kinds = pd.Categorical.from_codes
    return pd.DataFrame(
        {
            "id": np.arange(len(labels)),
            "label": np.asarray(kinds(labels, names)),
            "predicted": np.asarray(kinds(probs.argmax(axis=1), names)),
            **columns,
        }
    )


def coverage(samples: int, draws: int = 300, faces: int = FACES) -> pd.DataFrame:
    """One row an interval: coverage (share), below and above (misses on either side)."""
    first, second = world()
    truth = {
        ("one model", name): value for name, value in compute_metrics(first).items() if name != "n"
    }
    truth |= {
        ("difference", name): compute_metrics(second)[name] - truth["one model", name]
        for _, name in list(truth)
        if name != "ece"
    }
    truth |= {
        ("recall", row["class"]): row["recall"]
        for row in per_class_metrics(first).to_dict(orient="records")
    }
    perfect = perfect_world()
    truth["one model", "ece of a calibrated model"] = 0.0
    rng = np.random.default_rng(1)
    found = {name: [] for name in truth}
    for _ in range(samples):
        rows = rng.integers(len(first), size=faces)
        one, other = (table.iloc[rows].reset_index(drop=True) for table in (first, second))
        intervals = bootstrap_intervals(one, draws=draws)
        apart = paired_difference([one], [other], draws=draws)
        recall = per_class_metrics(one).set_index("class")
        calibrated = calibration_error(perfect.iloc[rows])
        for (kind, name), value in truth.items():
            if kind == "recall":
                low, high = recall.loc[name, ["recall_low", "recall_high"]]
            elif "calibrated" in name:
                low, high = calibrated[1:]
            else:
                low, high = {"one model": intervals, "difference": apart}[kind].loc[
                    name, ["low", "high"]
                ]
            found[kind, name].append((low <= value <= high, high < value, low > value))
    rows = {key: np.mean(hits, axis=0) for key, hits in found.items()}
    return pd.DataFrame(rows, index=["coverage", "below", "above"]).T


if __name__ == "__main__":
    print("| of | metric | covered | interval below | interval above |\n|---|---|---|---|---|")
    for names, shares in coverage(int((sys.argv[1:] or ["1000"])[0])).iterrows():
        print("|", " | ".join([*names, *(f"{share:.1%}" for share in shares)]), "|")
