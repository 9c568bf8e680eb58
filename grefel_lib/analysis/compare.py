"""Comparison of runs: seeds, means with intervals, paired tests.

A run needs metrics.json and its predictions. No model is needed, so published runs without
checkpoints can be compared too.
"""

import gzip
import itertools
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from grefel_lib.analysis.evaluation import Evaluation, load_evaluation
from grefel_lib.config import PROJECT_ROOT, SETTINGS, Config
from grefel_lib.files import Folder, relative
from grefel_lib.metrics import (
    bootstrap_intervals,
    compute_metrics,
    mcnemar_test,
    paired_difference,
    per_class_metrics,
)
from grefel_lib.run import all_runs, open_run, outputs_folder

log = logging.getLogger(__name__)
PUBLISHED = "notebooks/published_runs"  # evaluated runs without weights or images, committed


@dataclass(frozen=True)
class Comparison:
    """Variants of a run side by side, each over its seeds; what was not compared is empty."""

    about: Mapping[str, Any]  # dataset, protocol, split, faces, selection, training_leaks_dropped
    seeds: pd.DataFrame  # one row a run, see `seed_table`
    summary: Mapping[str, pd.DataFrame]  # by metric, see `summarise_variants`
    differences: pd.DataFrame  # to the first variant, see `paired_differences`
    detection: pd.DataFrame  # see `detection_table`
    recall: pd.DataFrame = field(default_factory=pd.DataFrame)  # (variants, classes), mean of seeds
    agreement: pd.DataFrame = field(default_factory=pd.DataFrame)  # see `prediction_agreement`
    config: Config | None = None  # of the first run
    folder: Folder | None = None  # where its tables and figures go


def compare_runs(output_dir: str = PUBLISHED) -> Comparison:
    """Compare every evaluated run in a folder.

    Args:
        output_dir: Holds the runs; the published ones lie beside the notebooks.

    Raises:
        FileNotFoundError: There is none.
        ValueError: They cannot be compared, see `check_same_faces`.
    """
    groups = group_variants(collect_runs(output_dir))
    first = next(iter(groups.values()))[0]
    if len(groups) == 1:
        log.warning("one variant, %s: there are no differences to show", *groups)
    names = ("dataset", "protocol", "split", "training_leaks_dropped", "selection")
    classes = per_class_metrics(first.table)
    recall = pd.DataFrame(
        {
            name: np.mean([per_class_metrics(r.table)["recall"] for r in members], axis=0)
            for name, members in groups.items()
        },
        index=classes["class"] + " (" + classes["count"].astype(str) + ")",
    ).T
    return Comparison(
        about={key: first.saved[key] for key in names} | {"faces": len(first.table)},
        seeds=seed_table(groups),
        summary=summarise_variants(groups),
        differences=paired_differences(groups, next(iter(groups))),
        detection=detection_table(groups),
        recall=recall.rename_axis(columns=None),
        agreement=prediction_agreement(groups),
        config=first.config,
        folder=comparison_folder(output_dir),
    )


def collect_runs(output_dir: str = "outputs") -> list[Evaluation]:
    """Every evaluated run in a folder, by name.

    Raises:
        FileNotFoundError: There is none.
        ValueError: See `check_same_faces`.
    """
    evaluations = evaluated_runs(output_dir)
    check_same_faces(evaluations)
    return evaluations


def evaluated_runs(output_dir: str = "outputs") -> list[Evaluation]:
    """Every evaluated run in a folder, by name, whatever it was scored on.

    Those of a sweep of fine-tuning lie in their parents; the sweep's table.csv names them.

    Raises:
        FileNotFoundError: There is none.
    """
    table = outputs_folder(output_dir) / "table.csv"
    named = pd.read_csv(table).get("run", ()) if table.is_file() else ()
    swept = [
        open_run(PROJECT_ROOT / p) for p in named if (PROJECT_ROOT / p / "config.json").is_file()
    ]
    runs = {run.path.resolve(): run for run in [*swept, *all_runs(output_dir)]}
    evaluations = [
        load_evaluation(run, headline_only=True)
        for run in runs.values()
        if (run.path / "metrics.json").is_file()
    ]
    if not evaluations:
        raise FileNotFoundError(
            f"no evaluated run under {relative(outputs_folder(output_dir))}; first: "
            f"grefel evaluate --checkpoint-dir RUN, or grefel sweep train ... --evaluate"
        )
    return sorted(evaluations, key=lambda result: result.run.name)


def check_same_faces(results: Sequence[Evaluation]) -> None:
    """Refuse runs that cannot be compared.

    Raises:
        ValueError: They were scored on different faces, splits or protocols.
    """
    keys = ("dataset", "protocol", "split", "fingerprint")
    for other, key in itertools.product(results[1:], keys):
        if other.saved[key] != results[0].saved[key]:
            raise ValueError(
                f"{results[0].run.name} and {other.run.name} cannot be compared: {key} is "
                f"{results[0].saved[key]!r} in one and {other.saved[key]!r} in the other"
            )


def group_variants(results: Iterable[Evaluation]) -> dict[str, list[Evaluation]]:
    """Runs that differ in nothing but their seed, together and in order of the seeds.

    A variant is named by what sets it apart: "linear head", or "GReFEL, correction none". The run
    that a run was fine-tuned from is part of it: "GReFEL, parent A". Linear heads come first.

    Raises:
        ValueError: A variant holds the same seed twice.
    """
    results = list(results)
    settings = [
        _settings(result.config) | {"parent": parent or "none"}
        for result, parent in zip(results, _parents(results), strict=True)
    ]
    varying = [
        key
        for key in settings[0]
        if key != "head" and len({s[key] for s in settings if s[key] is not None}) > 1
    ]
    groups: dict[str, list[Evaluation]] = {}
    order = sorted(zip(settings, results, strict=True), key=lambda p: p[0]["head"] != "linear")
    for own, result in order:
        head = {"linear": "linear head", "grefel": "GReFEL"}[own["head"]]
        parts = [f"{key} {own[key]}" for key in varying if own[key] is not None]
        groups.setdefault(", ".join([head, *parts]), []).append(result)
    for name, members in groups.items():
        members.sort(key=lambda result: result.config.seed)
        seeds = [result.config.seed for result in members]
        if len(set(seeds)) < len(seeds):
            names = ", ".join(result.run.name for result in members)
            raise ValueError(f"{name}: the same seed twice ({names}); move one of them away")
    return groups


def seed_table(groups: Mapping[str, Sequence[Evaluation]]) -> pd.DataFrame:
    """One row a run, nothing averaged: variant, seed, checkpoint, epoch, val_accuracy, metrics."""
    rows = [
        {
            "variant": name,
            "seed": result.config.seed,
            "checkpoint": result.headline,
            "epoch": result.saved_headline["epoch"],
            "val_accuracy": result.saved_headline["val_accuracy"],
            **result.saved_headline["metrics"],
        }
        for name, members in groups.items()
        for result in members
    ]
    return pd.DataFrame(rows).drop(columns="n")


def summarise_variants(
    groups: Mapping[str, Sequence[Evaluation]], *, draws: int = 1000
) -> dict[str, pd.DataFrame]:
    """Each variant's mean over its seeds.

    Returns:
        By metric, one row a variant: value (mean over seeds), low and high (95% bootstrap interval
        of that mean, images resampled), spread (standard deviation over seeds; NaN for one seed),
        seeds (their number).
    """
    tables: dict[str, dict[str, pd.Series]] = {}
    for name, members in groups.items():
        table = bootstrap_intervals(*(result.table for result in members), draws=draws)
        each = pd.DataFrame([compute_metrics(result.table) for result in members])
        table["spread"] = each.std(ddof=1)
        table["seeds"] = len(members)
        for metric, row in table.iterrows():
            tables.setdefault(metric, {})[name] = row
    return {metric: pd.DataFrame(rows).T for metric, rows in tables.items()}


def paired_differences(
    groups: Mapping[str, Sequence[Evaluation]], reference: str, *, draws: int = 1000
) -> pd.DataFrame:
    """Each variant against one of them, on the same faces.

    Returns:
        One row a variant and metric: difference (means over seeds), low, high (95%, paired
        bootstrap); and mcnemar (exact p of each pair of equal seeds, in order of the seeds,
        to two digits).

    Raises:
        ValueError: There is no such variant.
    """
    if reference not in groups:
        raise ValueError(f"no variant {reference!r}; there are: {'; '.join(groups)}")
    base = groups[reference]
    rows = []
    for name, members in groups.items():
        if name == reference:
            continue
        sides = [[r.table for r in side] for side in (base, members)]
        metrics = paired_difference(*sides, draws=draws)
        by_seed = {result.config.seed: result for result in base}
        p = [
            float(f"{mcnemar_test(by_seed[r.config.seed].table, r.table)['p']:.2g}")
            for r in members
            if r.config.seed in by_seed
        ]
        for metric, row in metrics.iterrows():
            rows.append({"variant": name, "metric": metric, **row.rename({"value": "difference"})})
            rows[-1]["mcnemar"] = p if metric == "accuracy" else None
    columns = ["variant", "metric", "difference", "low", "high", "mcnemar"]
    return pd.DataFrame(rows, columns=columns)


def prediction_agreement(groups: Mapping[str, Sequence[Evaluation]]) -> pd.DataFrame:
    """How often two runs predict the same class, within and between variants.

    Returns:
        Rows "two seeds of a variant" and "two variants" (as far as there are such pairs): mean,
        min, max over the pairs.
    """
    answers = [(name, r.table["predicted"]) for name, side in groups.items() for r in side]
    pairs = pd.DataFrame(
        [
            ("two seeds of a variant" if one == other else "two variants", (a == b).mean())
            for (one, a), (other, b) in itertools.combinations(answers, 2)
        ],
        columns=["pairs", "same"],
    )
    return pairs.groupby("pairs")["same"].agg(["mean", "min", "max"]).rename_axis(None)


def detection_table(groups: Mapping[str, Sequence[Evaluation]]) -> pd.DataFrame:
    """How well wrong labels were found in runs with `label_noise`, mean and range over seeds.

    Returns:
        One row a noise and measure: noise_kind, label_noise, measure, auroc (mean), min, max,
        seeds. Empty where no run was asked.
    """
    rows = [
        {"noise_kind": r.config.noise_kind, "label_noise": r.config.label_noise, "measure": name,
         "auroc": value}
        for members in groups.values() for r in members
        for name, value in r.saved.get("label_detection", {}).items()
    ]  # fmt: skip
    if not rows:
        return pd.DataFrame()
    noise = pd.DataFrame(rows).groupby(["noise_kind", "label_noise", "measure"], sort=False)
    table = noise["auroc"].agg(["mean", "min", "max", "size"])
    return table.set_axis(["auroc", "min", "max", "seeds"], axis=1).reset_index()


def write_comparison(comparison: Comparison, folder: Folder) -> None:
    """Write a comparison as tables that name no face, to be shared.

    tables/: about.json, seeds.csv, summary.csv, differences.csv, and detection.csv where labels
    were made wrong.
    """
    folder.write_json(dict(comparison.about), "tables", "about.json")
    folder.write_table(comparison.seeds, "tables", "seeds.csv")
    long = pd.concat(comparison.summary, names=["metric", "variant"])
    folder.write_table(long, "tables", "summary.csv", index=True)
    folder.write_table(comparison.differences, "tables", "differences.csv")
    if len(comparison.detection):
        folder.write_table(comparison.detection, "tables", "detection.csv")


def read_comparison(folder: str | Path) -> Comparison:
    """Read what `write_comparison` wrote.

    Args:
        folder: Holds the tables; a relative name starts from the project root.

    Raises:
        FileNotFoundError: A table is not there.
    """
    path = outputs_folder(str(folder))
    tables = {name: pd.read_csv(path / f"{name}.csv") for name in ("seeds", "differences")}
    long = pd.read_csv(path / "summary.csv").set_index(["metric", "variant"])
    detection = path / "detection.csv"
    return Comparison(
        about=json.loads((path / "about.json").read_text()),
        summary={metric: long.loc[metric] for metric in long.index.unique("metric")},
        detection=pd.read_csv(detection) if detection.is_file() else pd.DataFrame(),
        **tables,
    )


def comparison_folder(output_dir: str) -> Folder:
    """Where a comparison's tables and figures go: beside its runs; outputs/ for published ones."""
    inside = outputs_folder(output_dir)
    published = inside.is_relative_to(outputs_folder(PUBLISHED))
    return Folder(outputs_folder() / "comparison" if published else inside / "comparison")


def published_results(dataset: str = "") -> pd.DataFrame:
    """Published results on one data set or all, with protocol and reproductions.

    Columns: dataset, method, accuracy and mean class accuracy (percent), protocol, what others
    found, source.
    """
    table = pd.read_csv(Path(__file__).with_name("published.csv"))
    rows = table["dataset"] == dataset if dataset in set(table["dataset"]) else slice(None)
    return table[rows].reset_index(drop=True)


def publish_runs(results: Iterable[Evaluation], destination: Path) -> list[Path]:
    """Copy what is needed to check a result: settings, history, metrics, predictions.

    Weights, images and paths of this machine are left out. The predictions keep what the
    comparison reads, to five significant digits.

    Raises:
        FileExistsError: A run of that name is there already, with other predictions.
    """
    folders, results = [], list(results)
    for result, parent in zip(results, _parents(results), strict=True):
        target = Folder(destination / result.run.path.name)
        config = result.config.to_dict()
        for key in ("data_dir", "backbone_weights", "output_dir"):
            config[key] = Path(config[key]).name
        config["checkpoint_path"] = parent
        shared = ("id", "label", "predicted", "agreed", "reliability")
        columns = [c for c in result.table if c in shared or c.startswith("p_")]
        text = result.table.to_csv(index=False, float_format="%.5g", columns=columns)
        content = gzip.compress(text.encode(), mtime=0)  # the same bytes whenever it is made
        name = f"{result.saved['split']}_{result.saved['headline']}.csv.gz"
        there = target.path / "predictions" / name
        if there.is_file() and there.read_bytes() != content:
            raise FileExistsError(f"{relative(there)} exists with other predictions; move it away")
        target.write_json(config, "config.json")
        target.write_json(result.saved, "metrics.json")
        target.write_text((result.run.path / "history.csv").read_text(), "history.csv")
        target.write_bytes(content, "predictions", name)
        folders.append(target.path)
    return folders


def _settings(config: Config) -> dict[str, Any]:
    """What can set a variant apart; None where a setting has no effect."""
    names = [name for name, setting in SETTINGS.items() if setting.sets_apart]
    values = {name: None if config.unmet(name) else getattr(config, name) for name in names}
    return values | {"backbone_weights": Path(config.backbone_weights).name}


def _parents(results: Sequence[Evaluation]) -> list[str]:
    """The run or checkpoint that each was fine-tuned from, its path from where all of them lie.

    "" for a run that starts afresh.
    """
    paths = [PROJECT_ROOT / r.config.checkpoint_path for r in results]
    paths = [p.parents[1] / p.stem if p.suffix == ".safetensors" else p for p in paths]
    parents = [p for p in paths if p != PROJECT_ROOT]
    root = os.path.commonpath([p.parent for p in parents]) if parents else ""
    return ["" if p == PROJECT_ROOT else p.relative_to(root).as_posix() for p in paths]
