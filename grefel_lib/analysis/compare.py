"""Comparison of runs: seeds, means with intervals, paired tests.

A run needs metrics.json and its predictions, but no checkpoint: published runs have none.
"""

import gzip
import itertools
import logging
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from grefel_lib.analysis.evaluation import (
    FACTS,
    Evaluation,
    load_evaluation,
    pooled_name,
    stale_because,
    trained_in,
    training_facts,
)
from grefel_lib.config import PROJECT_ROOT, SETTINGS, Config
from grefel_lib.files import (
    FINGERPRINT,
    Folder,
    read_json,
    read_table,
    reading,
    relative,
    same_data,
    without_paths,
)
from grefel_lib.metrics import (
    average_predictions,
    bootstrap_intervals,
    compute_metrics,
    interval_unit,
    mcnemar_test,
    paired_difference,
    per_class_metrics,
    subject_codes,
    table_classes,
)
from grefel_lib.run import Run, all_runs, open_run, outputs_folder

log = logging.getLogger(__name__)
# must be equal for runs to be comparable
SAME = ("class order", "dataset", "protocol", "split", "tta", "fingerprint")
PUBLISHED = "notebooks/published_runs"  # evaluated runs without weights or images, committed
PLACES = (  # settings that are paths; published runs keep only the last part
    "data_dir", "backbone_weights", "landmark_weights", "output_dir", "resume", "checkpoint_path",
    "checkpoint_dir", "picture", "label_fixes",
)  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """Variants side by side, each over its seeds; missing parts are empty."""

    about: Mapping[str, Any]  # facts of the first run: dataset, protocol, split, faces, selection
    seeds: pd.DataFrame  # one row a run, see `seed_table`
    summary: Mapping[str, pd.DataFrame]  # by metric, see `summarise_variants`
    differences: pd.DataFrame  # to the first variant, see `paired_differences`
    detection: pd.DataFrame  # see `detection_table`
    recall: pd.DataFrame = field(default_factory=pd.DataFrame)  # (variants, classes), mean of seeds
    agreement: pd.DataFrame = field(default_factory=pd.DataFrame)  # see `prediction_agreement`
    ensembles: Mapping[str, pd.DataFrame] = field(default_factory=dict)  # see `seed_ensembles`
    config: Config | None = None  # of the first run
    folder: Folder | None = None  # where its tables and figures go


def compare_runs(output_dir: str = PUBLISHED) -> Comparison:
    """Compare every evaluated run in a folder.

    Args:
        output_dir: Holds the runs; the published ones lie beside the notebooks.

    Raises:
        FileNotFoundError: There is none.
        ValueError: They cannot be compared, see `group_variants`.
    """
    groups = group_variants(evaluated_runs(output_dir))
    first = next(iter(groups.values()))[0]
    if len(groups) == 1:
        log.warning("only one variant, %s: there are no differences to show", *groups)
    names = ("dataset", "protocol", "fingerprint", "split", "training_leaks_dropped", "selection")
    runs = itertools.chain(*groups.values())
    leaks = dict.fromkeys(str(run.saved["training_leaks_dropped"]) for run in runs)
    classes = per_class_metrics(first.table)
    recall = {
        name: np.mean([per_class_metrics(r.table)["recall"] for r in members], axis=0)
        for name, members in groups.items()
    }
    columns = classes["class"] + " (" + classes["count"].astype(str) + ")"
    return Comparison(
        about={key: first.saved[key] for key in names}
        | ({"training_leaks_dropped": " or ".join(leaks)} if len(leaks) > 1 else {})
        | {"faces": len(first.table), "over": interval_unit(first.table)}
        | {"tta": first.facts.get("tta", "none")},
        seeds=seed_table(groups),
        summary=summarise_variants(groups),
        differences=paired_differences(groups, next(iter(groups))),
        detection=detection_table(groups),
        recall=pd.DataFrame.from_dict(recall, orient="index", columns=list(columns)),
        agreement=prediction_agreement(groups),
        ensembles=seed_ensembles(groups),
        config=first.config,
        folder=comparison_folder(output_dir),
    )


def evaluated_runs(output_dir: str) -> list[Evaluation]:
    """Every evaluated run in a folder, by name, whatever the data set.

    Runs of a fine-tuning sweep are in their parents' folders; the sweep's table.csv lists them.

    Raises:
        FileNotFoundError: There is none.
    """
    table = outputs_folder(output_dir) / "table.csv"
    named = read_table(table).get("run", ()) if table.is_file() else ()
    swept = [
        open_run(PROJECT_ROOT / p) for p in named if (PROJECT_ROOT / p / "config.json").is_file()
    ]
    runs = {run.path.resolve(): run for run in [*swept, *all_runs(output_dir)]}
    known = [run for run in runs.values() if (run.path / "metrics.json").is_file()]
    if known and (left_out := [run.name for run in runs.values() if run not in known]):
        log.warning("left out, not evaluated: %s", ", ".join(left_out))
    if unfinished := [run.name for run in known if run.status() not in ("ok", "new")]:
        log.warning("their training did not end, or was stopped: %s", ", ".join(unfinished))
    evaluations = [load_evaluation(run, headline_only=True) for run in known]
    if not evaluations:
        raise FileNotFoundError(
            f"no evaluated run under {relative(outputs_folder(output_dir))}; first: "
            f"grefel evaluate --checkpoint-dir RUN, or grefel sweep train ... --evaluate"
        )
    return sorted(evaluations, key=lambda result: result.run.name)


def transfer_table(output_dir: str = PUBLISHED) -> pd.DataFrame:
    """Test accuracy (%) of every run in a folder, by what it was trained on and scored on.

    Args:
        output_dir: Holds the runs, and in each the folders of its other evaluations.

    Returns:
        Rows: data set and protocol of the training; columns: those of the test faces; a mean over
        the runs, and their number where there are several; "" where nothing was scored.

    Raises:
        ValueError: Runs of one cell were scored on different files.
    """
    cells: dict[tuple[str, str], list[float]] = {}
    files: dict[tuple[str, str], str] = {}
    for run in all_runs(output_dir):
        done = set()
        for path in (run.path, *sorted(run.path.glob("evaluate_*"))):
            if not (path / "metrics.json").is_file() or stale_because(Run(path, run.config)):
                continue
            with reading(path / "metrics.json"):
                facts = training_facts(run) | read_json(path / "metrics.json")
                accuracy = facts["checkpoints"][facts["headline"]]["metrics"]["accuracy"]
            if facts["split"] != "test" or facts.get("tta", "none") != "none":
                continue
            own = Path(run.config.data_dir).name, Path(run.config.data_dir).name
            if path.name.startswith("evaluate_folder_"):  # _<name of the faces>_test
                own = own[0], path.name.split("_", 2)[2].rsplit("_", 1)[0]
            trained, scored = (
                " ".join(
                    filter(None, (
                        facts[f"{part}dataset"], facts[f"{part}protocol"],
                        place if facts[f"{part}dataset"] == "folder" else "",
                    ))
                )
                for part, place in zip(("training_", ""), own, strict=True)
            )  # fmt: skip
            if (trained, scored) in done:  # the same faces again, in a place of one's own choice
                continue
            done.add((trained, scored))
            found = facts["fingerprint"]
            if not same_data(files.setdefault((trained, scored), found), found):
                raise ValueError(
                    f"{relative(path)} was scored on other files of {scored} than runs beside it; "
                    f"move it to a folder of its own"
                )
            cells.setdefault((trained, scored), []).append(100 * accuracy)
    texts = {
        key: f"{np.mean(values):.1f}" + f" ({len(values)} runs)" * (len(values) > 1)
        for key, values in cells.items()
    }
    if not texts:
        return pd.DataFrame()
    table = pd.Series(texts, dtype=object).rename_axis(["trained on", "tested on"])
    return table.unstack(fill_value="")


def pooled_folds(results: Sequence[Evaluation]) -> list[Evaluation]:
    """The evaluations, the folds of one cross-validation as one: every face is scored once.

    Raises:
        ValueError: A fold is missing or occurs twice.
    """
    groups: dict[str, list[Evaluation]] = {}
    for result in results:
        settings = _settings(result) | {"seed": result.config.seed}
        key = str(settings) if result.config.folds else result.run.name
        groups.setdefault(key, []).append(result)
    return [_pooled(some) if some[0].config.folds else some[0] for some in groups.values()]


def _pooled(results: Sequence[Evaluation]) -> Evaluation:
    """One evaluation of all folds; its checkpoint is named by `pooled_name`."""
    first, here = results[0], sorted(result.config.fold for result in results)
    if here != list(range(1, first.config.folds + 1)):
        names = ", ".join(result.run.name for result in results)
        raise ValueError(
            f"{first.config.folds} folds make one result, but there are folds "
            f"{', '.join(map(str, here))} ({names}): train the missing ones, or move others away"
        )
    check_same_faces(results)
    name = pooled_name(first.config)
    tables = [result.table for result in sorted(results, key=lambda r: r.config.fold)]
    chosen = pd.DataFrame([result.saved_headline for result in results])
    facts = {"epoch": round(chosen["epoch"].mean()), "val_accuracy": chosen["val_accuracy"].mean()}
    own: dict[str, Any] = {"headline": name, "checkpoints": {name: facts}}
    for key in ("training_leaks_dropped", "validation_copies_dropped", "labels_made_wrong"):
        counts = {result.facts.get(key) for result in results} - {None}
        if len(counts) > 1:
            own[key] = f"{min(counts)} to {max(counts)}, by fold"
    return replace(
        first,
        run=Run(first.run.path.parent, first.config),
        facts=dict(first.facts) | own,
        predictions={name: pd.concat(tables, ignore_index=True)},
        validation={},
        saved={key: first.saved[key] for key in FACTS if key in first.saved} | own,
    )


def differing_fact(one: Evaluation, other: Evaluation) -> str:
    """The first of SAME in which two evaluations differ, so that they cannot be compared; or ""."""
    for key in SAME:
        first, second = _fact(one, key), _fact(other, key)
        if not (same_data(first, second) if key == "fingerprint" else first == second):
            return key
    return ""


def _fact(evaluation: Evaluation, key: str) -> Any:
    """One of SAME."""
    if key == "class order":
        return ", ".join(table_classes(evaluation.table))
    return evaluation.facts[key]


def check_same_faces(results: Sequence[Evaluation]) -> None:
    """Raise a ValueError if runs were scored on different classes, faces, splits or protocols."""
    for other in results[1:]:
        if key := differing_fact(results[0], other):
            raise ValueError(
                f"{results[0].run.name} and {other.run.name} cannot be compared: {key} is "
                f"{_fact(results[0], key)!r} in one and {_fact(other, key)!r} in the other"
            )


def group_variants(results: Sequence[Evaluation]) -> dict[str, list[Evaluation]]:
    """Group runs that differ only in their seed, sorted by seed.

    A variant is named by the settings that differ: "linear head", or "GReFEL, correction none"; the
    parent of a fine-tuned run is one of them: "GReFEL, parent A". Linear heads come first.

    The folds of a cross-validation count as one run.

    Raises:
        ValueError: The runs were scored on different faces, splits or protocols, a variant holds
            the same seed twice or runs that learned from different faces, or a fold is missing.
    """
    results = pooled_folds(results)
    check_same_faces(results)
    settings = [
        _settings(result) | {"parent": parent or "none"}
        for result, parent in zip(results, _parents(results), strict=True)
    ]
    places = [os.path.realpath(PROJECT_ROOT / r.config.backbone_weights) for r in results]
    if len(set(places)) > len({own["backbone_weights"] for own in settings}):  # two of one name
        for own, result in zip(settings, results, strict=True):
            own["backbone_weights"] = result.config.backbone_weights
    values = {key: {own[key] for own in settings} - {None} for key in settings[0]}
    varying = [key for key, differing in values.items() if key != "head" and len(differing) > 1]
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
            raise ValueError(f"{name}: the same seed occurs twice ({names}); move one of them away")
        for other in members[1:]:
            learned = [run.facts.get("training_fingerprint") for run in (members[0], other)]
            if not same_data(*learned):
                raise ValueError(
                    f"{name}: {members[0].run.name} and {other.run.name} have learned from "
                    f"different faces, so that their mean says nothing; move one of them away"
                )
    return groups


def seed_table(groups: Mapping[str, Sequence[Evaluation]]) -> pd.DataFrame:
    """One row per run, not averaged: variant, seed, checkpoint, epoch, val_accuracy, metrics."""
    rows = [
        {
            "variant": name,
            "seed": result.config.seed,
            "checkpoint": result.headline,
            "epoch": result.saved_headline["epoch"],
            "val_accuracy": result.saved_headline["val_accuracy"],
            **compute_metrics(result.table),  # by one definition, whenever it was evaluated
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
    tables = {}
    for name, members in groups.items():
        table = bootstrap_intervals(*(result.table for result in members), draws=draws)
        each = pd.DataFrame([compute_metrics(result.table) for result in members])
        tables[name] = table.assign(spread=each.std(ddof=1), seeds=len(members))
    return _by_metric(tables)


def _by_metric(tables: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Variant -> (metrics as rows) turned into metric -> (variants as rows)."""
    if not tables:
        return {}
    long = pd.concat(tables, names=["variant", "metric"])
    return {metric: long.xs(metric, level="metric") for metric in long.index.unique("metric")}


def seed_ensembles(groups: Mapping[str, Sequence[Evaluation]]) -> dict[str, pd.DataFrame]:
    """The seeds of each variant averaged to one model, as `summarise_variants` gives their mean.

    There is no spread (NaN). Variants with one seed are left out.
    """
    tables = {}
    for name, members in groups.items():
        if len(members) > 1:
            one = average_predictions([result.table for result in members])
            tables[name] = bootstrap_intervals(one).assign(spread=np.nan, seeds=len(members))
    return _by_metric(tables)


def paired_differences(
    groups: Mapping[str, Sequence[Evaluation]], reference: str, *, draws: int = 1000
) -> pd.DataFrame:
    """Each variant against a reference variant, on the same faces.

    Returns:
        One row per variant and metric: variant, metric, difference (of the means over seeds), low,
        high (95%, paired bootstrap), and for accuracy mcnemar (exact p for each pair with equal
        seeds, sorted by seed, two digits). No rows if there is only one variant.

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
        for metric, (value, low, high) in metrics[["value", "low", "high"]].iterrows():
            rows.append((name, metric, value, low, high, p if metric == "accuracy" else None))
    columns = ["variant", "metric", "difference", "low", "high", "mcnemar"]
    return pd.DataFrame(rows, columns=columns)


def prediction_agreement(groups: Mapping[str, Sequence[Evaluation]]) -> pd.DataFrame:
    """How often two runs predict the same class, within and between variants.

    Returns:
        Rows "two seeds of a variant" and "two variants" (if there are such pairs): mean, min, max
        over the pairs.
    """
    answers = [(name, r.table["predicted"]) for name, side in groups.items() for r in side]
    pairs = [
        ("two seeds of a variant" if one == other else "two variants", (a == b).mean())
        for (one, a), (other, b) in itertools.combinations(answers, 2)
    ]
    same = pd.DataFrame(pairs, columns=["pairs", "same"]).groupby("pairs")["same"]
    return same.agg(["mean", "min", "max"]).rename_axis(None)


def detection_table(groups: Mapping[str, Sequence[Evaluation]]) -> pd.DataFrame:
    """How well wrong labels were detected in runs with `label_noise`, mean and range over seeds.

    Returns:
        One row per noise and measure: noise_kind, label_noise, measure ("loss", or "loss, linear
        head" where variants differ in more than the noise), auroc (mean), min, max, seeds. Empty
        without such runs.
    """
    keys = ["noise_kind", "label_noise", "measure"]
    noisy = {name: side for name, side in groups.items() if side[0].config.label_noise}
    others = {
        name: ", ".join(p for p in name.split(", ") if not p.startswith(("label_noise ", "noise_")))
        for name in noisy
    }
    several = len(set(others.values())) > 1
    rows = [
        (r.config.noise_kind, r.config.label_noise, name + f", {others[who]}" * several, value)
        for who, members in noisy.items() for r in members
        for name, value in r.saved.get("label_detection", {}).items()
    ]  # fmt: skip
    noise = pd.DataFrame(rows, columns=[*keys, "auroc"]).groupby(keys, sort=False)["auroc"]
    return noise.agg(auroc="mean", min="min", max="max", seeds="size").reset_index()


def write_comparison(comparison: Comparison, folder: Folder) -> None:
    """Write a comparison as tables without faces, to be shared.

    tables/: about.json, seeds.csv, summary.csv, differences.csv, and detection.csv for runs with
    `label_noise`.
    """
    folder.write_json(dict(comparison.about), "tables", "about.json")
    folder.write_table(comparison.seeds, "tables", "seeds.csv")
    long = pd.concat(comparison.summary, names=["metric", "variant"])
    folder.write_table(long, "tables", "summary.csv", index=True)
    folder.write_table(comparison.differences, "tables", "differences.csv")
    (folder.path / "tables/detection.csv").unlink(missing_ok=True)
    if len(comparison.detection):
        folder.write_table(comparison.detection, "tables", "detection.csv")


def read_comparison(folder: str | Path) -> Comparison:
    """Read what `write_comparison` wrote.

    Args:
        folder: Contains the tables; relative paths are relative to the project root.

    Raises:
        FileNotFoundError: A table is missing.
    """
    path = outputs_folder(str(folder))
    tables = {name: read_table(path / f"{name}.csv") for name in ("seeds", "differences")}
    with reading(path / "summary.csv"):
        long = read_table(path / "summary.csv").set_index(["metric", "variant"])
    detection = path / "detection.csv"
    return Comparison(
        about=read_json(path / "about.json"),
        summary={metric: long.loc[metric] for metric in long.index.unique("metric")},
        detection=read_table(detection) if detection.is_file() else pd.DataFrame(),
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
    found, where (they report it), source.
    """
    table = pd.read_csv(Path(__file__).with_name("published.csv"))
    rows = table["dataset"] == dataset if dataset in set(table["dataset"]) else slice(None)
    return table[rows].reset_index(drop=True)


def publish_runs(results: Sequence[Evaluation], destination: Path) -> list[Path]:
    """Copy what is needed to verify a result, without weights, images and local paths.

    These are settings, environment, history, metrics, predictions, scores on corrupted faces. The
    predictions keep the columns the comparison needs, with five significant digits. The numbers in
    metrics.json are computed anew where the predictions allow it; so runs of an older version can
    be published again, in place.

    Raises:
        ValueError: The runs were scored on different faces, splits or protocols.
        FileExistsError: A run of that name exists already, with other predictions.
    """
    check_same_faces(results)
    names = [result.run.path.name for result in results]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(
            f"{names.count(min(twice))} runs are called {min(twice)}, and would be one folder; "
            f"rename them, or publish one parent's at a time"
        )
    for run in (result.run for result in results):
        there = destination / run.path.name
        if there.resolve() == run.path.resolve() and (there / "checkpoints").is_dir():
            raise ValueError(f"{relative(there)} is the run itself; publish into another folder")
    folders = []
    for result, parent in zip(results, _parents(results), strict=True):
        target = Folder(destination / result.run.path.name)
        places = [getattr(result.config, key) for key in PLACES] + [str(result.run.path.resolve())]
        config = shared_config(result.config) | {"checkpoint_path": parent}
        shared = ("id", "subject", "label", "predicted", "agreed", "reliability")
        columns = [c for c in result.table if c in shared or c.startswith("p_")]
        ids = [
            without_paths(i, *places) if Path(i).is_absolute() else i for i in result.table["id"]
        ]
        table = result.table.assign(id=ids)
        if "subject" in table:  # who it is stays here
            table["subject"] = subject_codes(table)
        predictions = table.to_csv(index=False, float_format="%.5g", columns=columns)
        name = f"{result.saved['split']}_{result.saved['headline']}.csv.gz"
        there = target.path / "predictions" / name
        if there.is_file() and _unzipped(there) != predictions:
            raise FileExistsError(f"{relative(there)} has other predictions; move it away first")
        share_record(result.run, target, *places)
        target.write_json(without_paths(config, *places), "config.json")
        target.write_json(without_paths(result.record, *places), "metrics.json")
        content = gzip.compress(predictions.encode(), mtime=0)  # reproducible bytes
        target.write_bytes(content, "predictions", name)
        if (corrupted := result.run.path / "robustness.csv").is_file():
            target.write_bytes(corrupted.read_bytes(), corrupted.name)
        folders.append(target.path)
    return folders


def _unzipped(path: Path) -> str | None:
    try:
        return gzip.decompress(path.read_bytes()).decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError):
        return None


def _settings(result: Evaluation) -> dict[str, Any]:
    """The settings by which variants can differ; None where a setting has no effect."""
    config = result.config
    names = [name for name, setting in SETTINGS.items() if setting.sets_apart]
    values = {name: None if config.unmet(name) else getattr(config, name) for name in names}
    files = {n: Path(getattr(config, n)).name for n in ("backbone_weights", "label_fixes")}
    if fixes := result.facts.get("label_fixes"):  # files of one name, each run's own
        files["label_fixes"] += f" {fixes['fingerprint'].removeprefix(FINGERPRINT)[:4]}"
    return values | files


def shared_config(config: Config) -> dict[str, Any]:
    """The settings of a run as they are shared: places by their last name."""
    return config.to_dict() | {key: Path(getattr(config, key)).name for key in PLACES}


def share_record(run: Run, target: Folder, *places: str) -> None:
    """Copy environment.json, if there is one, and history.csv of a run, without local paths."""
    folder = trained_in(run)
    history = (folder / "history.csv").read_text(encoding="utf-8")
    environment = folder / "environment.json"
    if environment.is_file():
        target.write_json(without_paths(read_json(environment), *places), environment.name)
    target.write_text(without_paths(history, *places), "history.csv")


def _parents(results: Sequence[Evaluation]) -> list[str]:
    """The run or checkpoint each run was fine-tuned from, relative to their common folder.

    "" for a run that was not fine-tuned.
    """
    paths = [PROJECT_ROOT / r.config.checkpoint_path for r in results]
    paths = [p.parents[1] / p.stem if p.suffix == ".safetensors" else p for p in paths]
    parents = [p for p in paths if p != PROJECT_ROOT]
    root = os.path.commonpath([p.parent for p in parents]) if parents else ""
    return ["" if p == PROJECT_ROOT else p.relative_to(root).as_posix() for p in paths]
