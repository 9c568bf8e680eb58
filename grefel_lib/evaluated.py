"""What an evaluation saves, and reads back: every number and figure follows from it, no model.

`score` needs the model and the faces, and takes as long as they need; `load` takes a moment.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from grefel_lib import datasets, evaluation, leaks, metrics, robustness, runs
from grefel_lib.config import Config
from grefel_lib.folders import Folder, atomic, relative

INSIDE = 1000  # faces whose embedding and attention are kept, for maps
FACTS = (  # of metrics.json, that no table of predictions tells
    "dataset", "fingerprint", "protocol", "split", "training_leaks_dropped", "labels_made_wrong",
    "selection", "headline",
)  # fmt: skip
SELECTION = "validation accuracy"


@dataclass(frozen=True)
class Evaluated:
    """One evaluated run; what it was not asked for is None or empty."""

    config: Config
    facts: Mapping[str, Any]  # FACTS, and for each checkpoint its epoch and val_accuracy
    predictions: Mapping[str, pd.DataFrame]  # by checkpoint
    validation: Mapping[str, pd.DataFrame]  # by checkpoint, of the validation split
    history: pd.DataFrame | None = None
    training: pd.DataFrame | None = None  # the headline's predictions of the training faces
    copies: pd.DataFrame | None = None  # test faces that training holds too, see `leaks.copies`
    robustness: pd.DataFrame | None = None  # see `robustness.evaluate`; of the headline
    inside: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def headline(self) -> str:
        """The checkpoint with the higher validation accuracy, whatever the test split says."""
        return self.facts["headline"]

    @property
    def table(self) -> pd.DataFrame:
        """The headline's predictions."""
        return self.predictions[self.headline]

    def in_order(self, names: Sequence[str]) -> "Evaluated":
        """The same with its classes in another order, for figures and tables.

        Raises:
            ValueError: The names are not the classes, each once.
        """
        known = metrics.class_names(self.table)
        if sorted(names) != sorted(known):
            raise ValueError(f"the class order must hold each of {', '.join(known)} once")
        inside = dict(self.inside)
        if "anchors" in inside:
            inside["anchors"] = inside["anchors"][[known.index(name) for name in names]]

        def sort(tables: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
            return {name: metrics.in_order(table, names) for name, table in tables.items()}

        return dataclasses.replace(
            self,
            predictions=sort(self.predictions),
            validation=sort(self.validation),
            inside=inside,
        )

    def attention_of(self, ids: Sequence[str]) -> np.ndarray:
        """(N, side, side) what the attentive correction looked at; its scales are added up.

        Raises:
            ValueError: There is a face that `inside` does not hold.
        """
        rows = pd.Index(self.inside["ids"]).get_indexer(ids)
        if (rows < 0).any():
            raise ValueError(f"{(rows < 0).sum()} of {len(rows)} faces are not among those kept")
        return evaluation.attention_maps(self.inside["attention"][rows], self.config)


def score(run: runs.Run, data: datasets.FaceSet, config: Config, results: Folder) -> Evaluated:
    """Score a run on a split and write everything there is to know of it into a folder.

    Both checkpoints score the split and the validation split; the headline alone scores the
    training faces (`inspect_labels`) and spoiled faces (`robustness_images`).

    Args:
        run: A trained run.
        data: All splits.
        config: split, robustness_images, inspect_labels; batch size, device and workers.
        results: Gets predictions/, inside/, copies.csv and robustness.csv.

    Raises:
        ValueError: The classes of the faces are not those of the run.
    """
    split = config.split
    predictions, known = evaluation.predict_run(run, data.split(split), config)
    validation = {}
    if split != "val":
        validation, _ = evaluation.predict_run(run, data.split("val"), config)
    for part, tables in ((split, predictions), ("val", validation)):
        for name in tables:
            tables[name] = _kept(results, tables[name], "predictions", f"{part}_{name}")
    headline = better(known)
    checkpoints = {n: {k: f[k] for k in ("epoch", "val_accuracy")} for n, f in known.items()}
    facts = {
        "dataset": data.info["dataset"],
        "fingerprint": data.info["fingerprint"],
        "protocol": data.info["protocol"],
        "split": split,
        "training_leaks_dropped": data.info["leaks_dropped"],
        "labels_made_wrong": data.info.get("labels_made_wrong", 0),
        "selection": SELECTION,
        "headline": headline,
        "checkpoints": checkpoints,
    }
    net = evaluation.load(runs.checkpoint_file(run.path, which=headline), device=config.device)
    found = Evaluated(config, facts, predictions, validation, read_table(run, "history"))
    inside = evaluation.look_inside(net.model, sample(data.split(split), INSIDE), config)
    path = results.file("inside", f"{split}_{headline}.npz")
    atomic(path, lambda temporary: _write_arrays(temporary, inside))
    extra: dict[str, pd.DataFrame] = {}
    if config.inspect_labels and split != "train":
        table = evaluation.predict(net.model, data.split("train"), config)
        extra["training"] = _kept(results, table, "predictions", f"train_{headline}")
    if config.robustness_images:
        some = sample(data.split(split), config.robustness_images)
        rows = robustness.evaluate(net.model, some, config)
        extra["robustness"] = _kept(results, pd.DataFrame(list(rows)), "robustness")
    if split != "train":
        whole = datasets.load(config.replace(drop_leaks=False))
        extra["copies"] = _kept(results, leaks.copies(whole, split), "copies")
    return dataclasses.replace(found, inside=inside, **extra)


def better(checkpoints: Mapping[str, Mapping[str, Any]]) -> str:
    """The checkpoint with the highest val_accuracy; the first of equals."""
    return max(checkpoints, key=lambda name: checkpoints[name]["val_accuracy"])


def sample(faces: datasets.FaceSet, count: int) -> datasets.FaceSet:
    """As many faces, evenly spaced through a set: always the same ones; all where it is small."""
    if len(faces) <= count:
        return faces
    return faces.take(np.linspace(0, len(faces) - 1, count).round().astype(int))


def load(run: runs.Run) -> Evaluated:
    """Read what `score` wrote, and the facts of metrics.json.

    Published runs, which hold the headline's predictions alone, load as well.

    Raises:
        FileNotFoundError: The run was not evaluated, or its predictions are gone.
    """
    record = read_record(run)
    facts = {key: record[key] for key in FACTS if key in record}
    known = ("epoch", "val_accuracy")
    checkpoints = {n: {k: c[k] for k in known} for n, c in record["checkpoints"].items()}
    split, headline = record["split"], record["headline"]

    def each(part: str) -> dict[str, pd.DataFrame]:
        tables = {name: read_table(run, "predictions", f"{part}_{name}") for name in checkpoints}
        return {name: table for name, table in tables.items() if table is not None}

    return Evaluated(
        run.config.replace(split=split),
        facts | {"checkpoints": checkpoints},
        each(split) | {headline: read_headline(run, record)},
        each("val") if split != "val" else {},
        history=read_table(run, "history"),
        training=read_table(run, "predictions", f"train_{headline}") if split != "train" else None,
        copies=read_table(run, "copies"),
        robustness=read_table(run, "robustness"),
        inside=_read_arrays(run.path / "inside" / f"{split}_{headline}.npz"),
    )


def read_record(run: runs.Run) -> dict[str, Any]:
    """metrics.json of a run.

    Raises:
        FileNotFoundError: The run was not evaluated.
    """
    if not (run.path / "metrics.json").is_file():
        raise FileNotFoundError(
            f"run {run.name} was not evaluated; first: grefel evaluate --checkpoint-dir {run.name}"
        )
    return json.loads((run.path / "metrics.json").read_text())


def read_headline(run: runs.Run, record: Mapping[str, Any]) -> pd.DataFrame:
    """The headline's predictions of a run.

    Raises:
        FileNotFoundError: They are not there.
    """
    parts = ("predictions", f"{record['split']}_{record['headline']}")
    table = read_table(run, *parts)
    if table is None:
        stem = relative(run.path.joinpath(*parts))
        raise FileNotFoundError(f"run {run.name} has no predictions at {stem}.csv")
    return table


def read_table(run: Folder, *parts: str) -> pd.DataFrame | None:
    """A table of a run, as written or gzipped; None where there is none."""
    for ending in (".csv", ".csv.gz"):
        path = run.path.joinpath(*parts[:-1], parts[-1] + ending)
        if path.is_file():
            return pd.read_csv(path)
    return None


def _kept(results: Folder, table: pd.DataFrame, *parts: str) -> pd.DataFrame:
    """Write a table, and read it back: a number is the same now and in `load`, to the last bit."""
    results.write_table(table, *parts[:-1], f"{parts[-1]}.csv")
    return read_table(results, *parts)


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        return {}
    with np.load(path) as arrays:
        return dict(arrays)


def _write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)
