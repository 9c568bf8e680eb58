"""What an evaluation saves and reads back; all numbers and figures follow from it without a model.

`evaluate_run` needs the model and the faces and scores them; `load_evaluation`
only reads files and is fast.
"""

import contextlib
import copy
import dataclasses
import hashlib
import logging
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from grefel_lib.analysis.calibration import (
    calibration_errors,
    error_detection,
    fit_temperature,
    with_temperature,
)
from grefel_lib.analysis.copies import find_copies
from grefel_lib.analysis.groups import attribute_accuracy, copy_accuracy, human_ceiling
from grefel_lib.analysis.robustness import evaluate_corruptions
from grefel_lib.analysis.suspects import label_detection
from grefel_lib.config import SETTINGS, Config
from grefel_lib.faces import FaceSet, load_faces
from grefel_lib.files import (
    Folder,
    other_faces,
    read_facts,
    read_json,
    reading,
    relative,
    same_data,
)
from grefel_lib.files import read_table as read_faces_table
from grefel_lib.metrics import (
    bootstrap_intervals,
    check_predictions,
    per_class_metrics,
    rename_classes,
    reorder_classes,
    table_classes,
)
from grefel_lib.predict import attention_maps, look_inside, predict, predict_each
from grefel_lib.restore import load_model
from grefel_lib.run import BEST, BEST_EMA, Run, check_folds, learned_validation, results_folder

log = logging.getLogger(__name__)
EVALUATED = re.compile(r"(train|val|test)_.+\.(csv|csv\.gz|npz)|(copies|robustness)\.csv")
INSIDE = 1000  # faces whose embedding and attention are saved, for maps
FACTS = (  # in metrics.json, but not in any predictions table
    "dataset", "fingerprint", "protocol", "split", "tta", "training_dataset",
    "training_fingerprint", "training_protocol", "training_leaks_dropped",
    "validation_copies_dropped", "learned_faces", "labels_made_wrong", "label_fixes", "selection",
    "headline",
)  # fmt: skip
CHECKPOINT_FACTS = ("epoch", "val_accuracy", "sha256")  # of metrics.json, by checkpoint
SELECTION = "validation accuracy"


@dataclass(frozen=True)
class Evaluation:
    """One evaluated run; parts that were not requested are None or empty."""

    run: Run  # whose folder contains it
    config: Config  # the run was trained with
    facts: Mapping[str, Any]  # FACTS, and for each checkpoint CHECKPOINT_FACTS
    predictions: Mapping[str, pd.DataFrame]  # by checkpoint
    validation: Mapping[str, pd.DataFrame]  # by checkpoint, of the validation split
    history: pd.DataFrame | None = None
    training: pd.DataFrame | None = None  # headline checkpoint's predictions on training faces
    copies: pd.DataFrame | None = None  # test faces that also occur in training, see `find_copies`
    robustness: pd.DataFrame | None = None  # see `evaluate_corruptions`; headline checkpoint
    inside: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    saved: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # metrics.json, as read

    @property
    def folder(self) -> Folder:
        """Where it was written, or read from."""
        return self.run

    @property
    def headline(self) -> str:
        """The checkpoint with the higher validation accuracy, regardless of the test split."""
        return self.facts["headline"]

    @property
    def table(self) -> pd.DataFrame:
        """The headline's predictions."""
        return self.predictions[self.headline]

    @property
    def pooled(self) -> bool:
        """Whether these are all folds of a cross-validation, each scored by its own model."""
        return self.headline == pooled_name(self.config)

    @property
    def saved_headline(self) -> Mapping[str, Any]:
        """The headline checkpoint's part of metrics.json, as read."""
        return self.saved["checkpoints"][self.headline]

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The content of metrics.json: all numbers of the evaluation, computed from predictions.

        dataset, protocol, split; the same for training, and what it dropped; the selection rule;
        the headline checkpoint; for each checkpoint: its epoch, validation accuracy, checksum,
        metrics, their 95% intervals, calibration, temperature (fitted on validation; null without
        it) and the calibration after it, sureness (how well errors are detected),
        surest_on_validation (the measure that detects them best there), per_class; and for the
        headline, where known: people (annotator accuracy), copies (accuracy on faces that
        also occur in training), attributes (accuracy by demographic group), label_detection.
        What can no longer be computed, as published runs keep only some predictions, is as saved.

        Raises:
            ValueError: The checkpoints were scored on different images.
        """
        if len({tuple(table["id"]) for table in self.predictions.values()}) > 1:
            sizes = ", ".join(f"{name} {len(t)}" for name, t in self.predictions.items())
            raise ValueError(f"the checkpoints were scored on different images ({sizes})")
        content = dict(self.facts) | {
            "checkpoints": {
                name: dict(self.facts["checkpoints"][name])
                | _checkpoint_metrics(table, self.validation.get(name))
                for name, table in self.predictions.items()
            }
        }
        people = human_ceiling(self.table)
        copies = None if self.copies is None else copy_accuracy(self.table, self.copies)
        for name, part in (("people", people), ("copies", copies)):
            if part is not None:
                content[name] = part.to_dict(orient="index")
        content["attributes"] = {
            name: table.to_dict(orient="index")
            for name, table in attribute_accuracy(self.table).items()
        }
        if self.training is not None:
            content["label_detection"] = label_detection(self.training)
        checkpoints = self.saved.get("checkpoints", {})
        known = {name: checkpoints.get(name, {}) for name in self.predictions}
        return _completed(content, {**self.saved, "checkpoints": known})

    @property
    def record(self) -> dict[str, Any]:
        """`metrics`, and the saved numbers of checkpoints whose predictions are not there."""
        return self.metrics | {
            "checkpoints": {**self.saved.get("checkpoints", {}), **self.metrics["checkpoints"]}
        }

    def in_order(self, names: Sequence[str]) -> "Evaluation":
        """A copy with the classes in another order, for figures and tables.

        Raises:
            ValueError: The names are not a permutation of the classes.
        """
        known = table_classes(self.table)
        if sorted(names) != sorted(known):
            raise ValueError(f"the class order must contain each of {', '.join(known)} once")
        inside = dict(self.inside)
        if "anchors" in inside:
            inside["anchors"] = inside["anchors"][[known.index(name) for name in names]]
        return self._changed(lambda table: reorder_classes(table, names), inside=inside)

    def with_class_names(self, names: Mapping[str, str]) -> "Evaluation":
        """A copy with other names for some classes, for figures and tables.

        Raises:
            ValueError: A key is no class, or two classes would have the same name.
        """
        inside = dict(self.inside)
        if "labels" in inside:
            inside["labels"] = np.array([names.get(name, name) for name in inside["labels"]])
        training = None if self.training is None else rename_classes(self.training, names)
        return self._changed(
            lambda table: rename_classes(table, names), inside=inside, training=training
        )

    def _changed(self, change: Callable[[pd.DataFrame], pd.DataFrame], **more: Any) -> "Evaluation":
        """A copy with every table of predictions changed."""
        tables = {
            name: {key: change(table) for key, table in getattr(self, name).items()}
            for name in ("predictions", "validation")
        }
        return dataclasses.replace(self, **tables, **more)

    def attention_of(self, ids: Sequence[str]) -> np.ndarray:
        """(N, side, side) attention of the attentive correction, summed over scales.

        Raises:
            ValueError: There is a face that `inside` does not hold.
        """
        rows = pd.Index(self.inside["ids"]).get_indexer(ids)
        if (rows < 0).any():
            raise ValueError(f"{(rows < 0).sum()} of {len(rows)} faces are not among those kept")
        return attention_maps(self.inside["attention"][rows], self.config)


def _completed(computed: Any, saved: Any) -> Any:
    """The computed values, completed by saved ones where they are missing."""
    if isinstance(computed, Mapping) and isinstance(saved, Mapping):
        both = {key: _completed(value, saved.get(key)) for key, value in computed.items()}
        return both | {key: value for key, value in saved.items() if key not in computed}
    return saved if computed is None else computed


def _checkpoint_metrics(table: pd.DataFrame, validation: pd.DataFrame | None) -> dict[str, Any]:
    intervals = bootstrap_intervals(table)
    temperature = None if validation is None else fit_temperature(validation)
    after = None if temperature is None else with_temperature(table, temperature)
    sureness = error_detection(table).replace({float("nan"): None})
    chosen = None if validation is None else error_detection(validation)["auroc"].dropna()
    return {
        "metrics": {"n": len(table), **intervals["value"]},
        "intervals": {name: [row["low"], row["high"]] for name, row in intervals.iterrows()},
        "calibration": calibration_errors(table),
        "temperature": temperature,
        "calibration_after": None if after is None else calibration_errors(after),
        "sureness": sureness.to_dict(orient="index"),
        "surest_on_validation": None if chosen is None or chosen.empty else chosen.idxmax(),
        "per_class": [
            {k: None if pd.isna(v) else v for k, v in row.items()}  # NaN is not valid JSON
            for row in per_class_metrics(table).to_dict(orient="records")
        ],
    }


def evaluate_run(
    run: Run, faces: FaceSet, config: Config, results: Folder, net: nn.Module | None = None
) -> Evaluation:
    """Score a run on a split and write all results into a folder.

    Both checkpoints are scored on the split and on validation; only the headline is scored on the
    training faces (`inspect_labels`) and corrupted faces (`robustness_images`). Files of an earlier
    evaluation that this one does not overwrite are removed.

    Args:
        run: A trained run.
        faces: All splits.
        config: split, robustness_images, inspect_labels; batch size, device and workers.
        results: Receives predictions/, inside/, copies.csv, robustness.csv; the run's config.json
            if it is another folder.
        net: Where `fit` trained a network of one's own, one of its kind.

    Raises:
        ValueError: The classes of the faces differ from those of the run; the results folder holds
            an evaluation on other files of a published data set; see `check_folds` and,
            of split val, `learned_validation`.
    """
    check_folds(run, config, faces.info)
    _check_same_files(results, faces)
    split = config.split
    learned = learned_validation(run, config, faces.info)
    if learned and split == "val":
        raise ValueError(learned)
    if learned:
        log.warning("nothing is fitted on validation: %s", learned)
    if not len(faces.split(split)):
        raise ValueError(
            f"there are no {split} faces in {faces.info['dataset']}; evaluate another split, such "
            f"as split=val"
        )
    models = {
        name: load_model(run.best_checkpoint(name), device=config.device, net=copy.deepcopy(net))
        for name in (BEST, BEST_EMA)
        if name == BEST or run.has_checkpoint(name)  # a shipped model has one
    }
    for trained in models.values():
        if trained.class_names != faces.class_names:
            raise ValueError(
                f"the run knows {', '.join(trained.class_names)}, but {faces.info['dataset']} has "
                f"{', '.join(faces.class_names)}; fine-tune the run on this data set first"
            )
    faces = faces.in_format(*models[BEST].face_format)
    nets = {name: trained.model for name, trained in models.items()}
    tables: dict[str, dict[str, pd.DataFrame]] = {"val": {}}
    for part in (split,) if learned else dict.fromkeys((split, "val")):
        if not len(faces.split(part)):  # all were copies of test faces: there is no temperature
            continue
        tables[part] = {
            name: _written(results, table, "predictions", f"{part}_{name}")
            for name, table in predict_each(nets, faces.split(part), config).items()
        }
    checkpoints = {
        name: {key: trained.facts.get(key) for key in CHECKPOINT_FACTS}
        for name, trained in models.items()
    }
    headline = better_checkpoint(checkpoints)
    net = nets[headline]
    facts = {
        "dataset": faces.info["dataset"],
        "fingerprint": faces.info["fingerprint"],
        "protocol": faces.info["protocol"],
        "split": split,
        "tta": config.tta,
        **training_facts(run),
        "selection": SELECTION,
        "headline": headline,
        "checkpoints": checkpoints,
    }
    if other_faces(facts):
        facts["learned_faces"] = _learned_faces(run, faces.split(split))
    inside = look_inside(net, faces.split(split).sample(INSIDE), config)
    path = results.write_arrays("inside", f"{split}_{headline}.npz", **inside)
    extra: dict[str, pd.DataFrame] = {}
    same_rows = not other_faces(facts) and config.protocol == run.config.protocol
    same_rows = same_rows and not run.config.label_fixes
    # label noise on other rows would make other labels wrong than those it learned
    if config.inspect_labels and split != "train" and (same_rows or not config.label_noise):
        table = predict(net, faces.split("train"), config)
        extra["training"] = _written(results, table, "predictions", f"train_{headline}")
    if config.robustness_images:
        sample = faces.split(split).sample(config.robustness_images)
        rows = evaluate_corruptions(net, sample, config)
        extra["robustness"] = _written(results, pd.DataFrame(list(rows)), "robustness")
    known = facts["training_dataset"] == facts["dataset"] != "folder"  # maybe in other files
    if split != "train" and (known or not other_faces(facts)):  # copies of faces it has learned
        rule = "" if config.unmet("train_protocol") else facts["training_protocol"]
        whole = load_faces(config.replace(drop_leaks=False, train_protocol=rule))
        extra["copies"] = _written(results, find_copies(whole, split), "copies")
    if results.path != run.path:
        results.write_json(run.config.to_dict(), "config.json")
        if results.path.parent != run.path:  # what a subfolder finds in its run
            for name in ("environment.json", "history.csv"):
                if (run.path / name).is_file():
                    results.write_text((run.path / name).read_text(encoding="utf-8"), name)
    written = {f"{part}_{name}.csv" for part, some in tables.items() for name in some}
    written |= {path.name, f"train_{headline}.csv" if "training" in extra else ""}
    written |= {f"{name}.csv" for name in extra}
    for pattern in ("predictions/*", "inside/*", "copies.csv", "robustness.csv"):
        for old in results.path.glob(pattern):
            if old.name not in written and EVALUATED.fullmatch(old.name):
                old.unlink()
    validation = tables["val"] if split != "val" else {}
    saved_in = Run(results.path, run.config)
    return Evaluation(
        saved_in, run.config, facts, tables[split], validation, read_table(run, "history"),
        inside=inside, **extra,
    )  # fmt: skip


def _check_same_files(results: Folder, faces: FaceSet) -> None:
    """Refuse to replace results on other files of a published data set; one's own may grow."""
    path, before = results.path / "metrics.json", {}
    with contextlib.suppress(ValueError):  # damaged: to be replaced
        before = read_json(path) if path.is_file() else {}
    name, found = faces.info["dataset"], faces.info["fingerprint"]
    if name != "folder" and before and not same_data(before.get("fingerprint"), found):
        raise ValueError(
            f"{relative(path)} holds results on other files of {name} (fingerprint "
            f"{before.get('fingerprint')}, now {found}); keep both with --output-dir NEW, or "
            f"delete it"
        )


def pooled_name(config: Config) -> str:
    """What the headline of a pooled cross-validation is called, in place of a checkpoint."""
    return f"{config.folds} folds"


def training_facts(run: Run) -> dict[str, Any]:
    """Facts about a run's training data, from environment.json; None if not recorded."""
    path = run.path / "environment.json"
    with reading(path):
        data = dict(read_json(path).get("data", {})) if path.is_file() else {}
    config = run.config
    protocol = "" if config.unmet("protocol") else config.protocol
    learned = "" if config.unmet("train_protocol") else config.train_protocol
    return {
        "training_dataset": config.dataset,
        "training_fingerprint": data.get("fingerprint"),
        "training_protocol": learned or data.get("protocol", protocol),
        "training_leaks_dropped": data.get("leaks_dropped"),
        "validation_copies_dropped": data.get("validation_copies_dropped"),
        "labels_made_wrong": data.get("labels_made_wrong", 0),
        "label_fixes": data.get("label_fixes"),
    }


def evaluation_folder(run: Run, config: Config) -> Folder:
    """Folder of an evaluation: for the test split of the run's own data, the run folder itself.

    Any other goes to a subfolder: evaluate_<dataset>[_<protocol>]_<split>[_<tta>]; for other faces
    of one's own with the name of their folder and four characters for its place. A model that comes
    with the library has its own folder under outputs/.

    Args:
        run: A trained run.
        config: Its settings with the dataset, protocol, split and tta to evaluate.
    """
    path = results_folder(run.path)
    folder = run if path == run.path else Folder(path)
    own_data = run.config.same_data(config)
    same_faces = own_data and config.protocol == run.config.protocol
    if same_faces and (config.split, config.tta) == ("test", "none"):
        return folder
    protocol = "" if config.unmet("protocol") else config.protocol
    tta = "" if config.tta == "none" else config.tta
    own = Path(config.data_dir).name if config.dataset == "folder" else ""
    if own and not own_data:
        own += f"-{hashlib.sha256(os.path.realpath(config.data_dir).encode()).hexdigest()[:4]}"
    parts = ["evaluate", config.dataset, own, protocol, config.split, tta]
    return Folder(folder.path / "_".join(filter(None, parts)))


def trained_in(run: Run) -> Path:
    """The run folder, also for an evaluation in a subfolder of it."""
    apart = run.path.name.startswith("evaluate_") and not (run.path / "history.csv").is_file()
    return run.path.parent if apart else run.path


def stale_because(run: Run) -> str:
    """Why metrics.json does not match the checkpoints of its run; empty if it does.

    Args:
        run: A run, or the folder of one of its evaluations. Without checkpoints, always empty.
    """
    content = read_json(run.path / "metrics.json")
    trained = trained_in(run)
    with reading(run.path / "metrics.json", f"evaluate again: {_again(run)}"):
        checkpoints = dict(content["checkpoints"])
    for name, numbers in checkpoints.items():
        path = trained / "checkpoints" / f"{name}.safetensors"
        if not path.is_file():
            continue
        facts = read_facts(path)
        if any(facts.get(key) != numbers[key] for key in CHECKPOINT_FACTS if key in numbers):
            return (
                f"{relative(run.path / 'metrics.json')} is for {name}, epoch {numbers['epoch']}, "
                f"but {relative(path)} is now another one, of epoch {facts['epoch']}"
            )
    return ""


def better_checkpoint(checkpoints: Mapping[str, Mapping[str, Any]]) -> str:
    """The checkpoint with the highest val_accuracy; the first on ties."""
    return max(checkpoints, key=lambda name: checkpoints[name]["val_accuracy"])


def _learned_faces(run: Run, scored: FaceSet) -> int | None:
    """How many faces have the pixels of one that it was trained or selected on; None: unknown."""
    try:
        own = load_faces(run.config.replace(drop_leaks=False)).table
    except (ValueError, OSError):  # its data are not here
        return None
    learned = own["image_hash"][own["split"] != "test"]
    if count := int(scored.table["image_hash"].isin(learned).sum()):
        log.warning(
            "%d of the %d scored faces are copies of faces that the run was trained or selected "
            "on: expect less on new faces", count, len(scored),
        )  # fmt: skip
    return count


def load_evaluation(run: Run, *, headline_only: bool = False) -> Evaluation:
    """Read what `evaluate_run` wrote, and the facts of metrics.json.

    Published runs, which contain only the headline's predictions, can be loaded as well.

    Args:
        run: An evaluated run.
        headline_only: Read only the headline's predictions; used when comparing many runs.

    Raises:
        FileNotFoundError: The run was not evaluated, or its predictions are gone.
        ValueError: It was trained further since, see `stale_because`.
    """
    if not (run.path / "metrics.json").is_file():
        others = sorted(run.path.glob("evaluate_*/metrics.json"))
        mend = f"see {relative(others[-1].parent)}, or:" if others else "first:"
        raise FileNotFoundError(
            f"run {run.name} was not evaluated{' on its own test split' if others else ''}; {mend} "
            f"grefel evaluate --checkpoint-dir {run.name}"
        )
    with reading(run.path / "metrics.json", f"evaluate again: {_again(run)}"):
        content = read_json(run.path / "metrics.json")
        known = {"tta": "none"} | training_facts(run) | content  # older ones had no tta
        facts = {key: known[key] for key in FACTS if key in known}
        facts["checkpoints"] = checkpoints = {
            name: {key: numbers[key] for key in CHECKPOINT_FACTS if key in numbers}
            for name, numbers in content["checkpoints"].items()
        }
        split, headline, config = content["split"], content["headline"], run.config
        checkpoints[headline]["val_accuracy"]
    if reason := stale_because(run):
        raise ValueError(f"{reason}; evaluate again: {_again(run, content)}")

    def read(part: str) -> dict[str, pd.DataFrame]:
        names = [headline] if headline_only else checkpoints
        tables = {name: read_table(run, "predictions", f"{part}_{name}") for name in names}
        return {name: table for name, table in tables.items() if table is not None}

    predictions = read(split)
    if headline not in predictions:
        stem = relative(run.path / "predictions" / f"{split}_{headline}")
        raise FileNotFoundError(f"run {run.name} has no predictions at {stem}.csv")
    rows = len(predictions[headline])
    count = content["checkpoints"][headline].get("metrics", {}).get("n", rows)
    if count != rows:
        raise ValueError(
            f"run {run.name}: the predictions have {rows} rows, but metrics.json is of {count}; "
            f"restore them, or evaluate again: {_again(run, content)}"
        )
    if headline_only:
        return Evaluation(run, config, facts, predictions, {}, saved=content)
    return Evaluation(
        run,
        config,
        facts,
        predictions,
        read("val") if split != "val" else {},
        history=read_table(Folder(trained_in(run)), "history"),
        training=read_table(run, "predictions", f"train_{headline}") if split != "train" else None,
        copies=read_table(run, "copies"),
        robustness=read_table(run, "robustness"),
        inside=_read_arrays(run.path / "inside" / f"{split}_{headline}.npz"),
        saved=content,
    )


def _again(run: Run, facts: Mapping[str, Any] = MappingProxyType({})) -> str:
    """The command that writes an evaluation again."""
    again = f"grefel evaluate --checkpoint-dir {relative(trained_in(run))}"
    if not facts or trained_in(run) == run.path:
        return again
    flags = _data_settings(facts) | {"split": facts["split"], "tta": facts.get("tta", "none")}
    if run.config.data_dir and not other_faces(facts):
        flags["data-dir"] = shlex.quote(relative(Path(run.config.data_dir)))
    return again + "".join(f" --{key} {value}" for key, value in flags.items())


def _data_settings(facts: Mapping[str, Any]) -> dict[str, str]:
    """Data set and protocol as settings; AffectNet's protocol is a sentence, not a setting."""
    known = {"dataset": facts["dataset"], "protocol": facts.get("protocol")}
    return {key: value for key, value in known.items() if value in SETTINGS[key].choices}


def scored_faces(evaluation: Evaluation) -> FaceSet | None:
    """The data set that was scored; None where it is missing, or has changed since.

    Of folds that were pooled, every face is in the split, in the order of the predictions.
    """
    facts = evaluation.facts
    config = evaluation.config.on_data(**_data_settings(facts), label_fixes="")
    try:
        faces = load_faces(config.replace(drop_leaks=False) if evaluation.pooled else config)
    except (OSError, ValueError):
        return None
    if not same_data(faces.info["fingerprint"], facts["fingerprint"]):
        return None
    if evaluation.pooled:
        faces = faces.take(pd.Index(faces.table["id"]).get_indexer(evaluation.table["id"]))
        faces = dataclasses.replace(faces, table=faces.table.assign(split=facts["split"]))
    return faces


def read_table(run: Folder, *parts: str) -> pd.DataFrame | None:
    """A table of a run, plain or gzipped, checked if of predictions; None if it does not exist."""
    for ending in (".csv", ".csv.gz"):
        path = run.path.joinpath(*parts[:-1], parts[-1] + ending)
        if path.is_file():
            with reading(path):
                table = read_faces_table(path)
                return check_predictions(table) if parts[0] == "predictions" else table
    return None


def _written(results: Folder, table: pd.DataFrame, *parts: str) -> pd.DataFrame:
    """Write a table and read it back: the numbers are those of `load_evaluation`, bit for bit."""
    results.write_table(table, *parts[:-1], f"{parts[-1]}.csv")
    return read_table(results, *parts)


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        return {}
    with reading(path), np.load(path) as arrays:
        return dict(arrays)
