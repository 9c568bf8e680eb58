"""Many runs in, tables out: seeds side by side, means with intervals, paired tests.

A run takes part once it is evaluated: it has metrics.json and its predictions. Nothing here needs
a model, so published runs without checkpoints compare as well as those just trained.
"""

import dataclasses
import gzip
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from grefel_lib import evaluated, metrics, runs
from grefel_lib.config import Config
from grefel_lib.folders import Folder, relative

PUBLISHED = "notebooks/published_runs"  # evaluated runs without weights or images, committed

_NOT_A_VARIANT = (
    "seed", "run_name", "finetune_name", "output_dir", "resume", "device", "num_workers",
    "data_dir", "micro_batch_size", "processes", "compile", "checkpoint_path", "checkpoint_dir",
    "split", "profile", "robustness_images", "inspect_labels", "picture",
)  # fmt: skip
_OF_THE_HEAD = (  # what a linear head has no use for
    "correction", "branches", "primary", "num_anchors", "embedding_dim", "attention_heads",
    "attention_levels", "delta", "temperature", "lambda_branch", "lambda_anchor", "lambda_center",
    "lambda_rel",
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """One evaluated run: its config, its metrics.json, and its headline predictions."""

    path: Path
    config: Config
    record: Mapping[str, Any]
    predictions: pd.DataFrame

    @property
    def name(self) -> str:
        """The folder as people write it."""
        return relative(self.path)

    @property
    def headline(self) -> Mapping[str, Any]:
        """The record of the checkpoint that validation chose."""
        return self.record["checkpoints"][self.record["headline"]]


def collect(output_dir: str = "outputs") -> list[Result]:
    """Every evaluated run in a folder, by name.

    Raises:
        FileNotFoundError: There is none.
        ValueError: See `same_faces`.
    """
    found = evaluated_runs(output_dir)
    same_faces(found)
    return found


def evaluated_runs(output_dir: str = "outputs") -> list[Result]:
    """Every evaluated run in a folder, by name, whatever it was scored on.

    Raises:
        FileNotFoundError: There is none.
    """
    found = [load(r) for r in runs.all_runs(output_dir) if (r.path / "metrics.json").is_file()]
    if not found:
        raise FileNotFoundError(
            f"no evaluated run under {relative(runs.outputs(output_dir))}; first: grefel evaluate "
            f"--checkpoint-dir RUN, or grefel sweep train ... --evaluate"
        )
    return sorted(found, key=lambda result: result.name)


def same_faces(results: Sequence[Result]) -> None:
    """Refuse to compare what cannot be.

    Raises:
        ValueError: They were scored on different faces, splits or protocols.
    """
    told = ("dataset", "protocol", "split", "fingerprint")
    for other, key in itertools.product(results[1:], told):
        if other.record[key] != results[0].record[key]:
            raise ValueError(
                f"{results[0].name} and {other.name} cannot be compared: {key} is "
                f"{results[0].record[key]!r} in one and {other.record[key]!r} in the other"
            )


def load(run: runs.Run) -> Result:
    """An evaluated run.

    Raises:
        FileNotFoundError: It was not evaluated.
    """
    record = evaluated.read_record(run)
    return Result(run.path, run.config, record, evaluated.read_headline(run, record))


def variants(results: Iterable[Result]) -> dict[str, list[Result]]:
    """Runs that differ in nothing but their seed, together and in order of the seeds.

    A variant is named by what sets it apart: "linear head", or "GReFEL, correction none". Linear
    heads come first.

    Raises:
        ValueError: A variant holds the same seed twice.
    """
    results = list(results)
    settings = [_settings(result.config) for result in results]
    varying = [
        key
        for key in settings[0]
        if key != "head" and len({s[key] for s in settings if s[key] is not None}) > 1
    ]
    groups: dict[str, list[Result]] = {}
    order = sorted(zip(settings, results, strict=True), key=lambda p: p[0]["head"] != "linear")
    for own, result in order:
        head = {"linear": "linear head", "grefel": "GReFEL"}[own["head"]]
        parts = [f"{key} {own[key]}" for key in varying if own[key] is not None]
        groups.setdefault(", ".join([head, *parts]), []).append(result)
    for name, members in groups.items():
        members.sort(key=lambda result: result.config.seed)
        seeds = [result.config.seed for result in members]
        if len(set(seeds)) < len(seeds):
            names = ", ".join(result.name for result in members)
            raise ValueError(f"{name}: the same seed twice ({names}); move one of them away")
    return groups


def seed_table(groups: Mapping[str, Sequence[Result]]) -> pd.DataFrame:
    """One row a run, nothing averaged: variant, seed, checkpoint, epoch, val_accuracy, metrics."""
    rows = [
        {
            "variant": name,
            "seed": result.config.seed,
            "checkpoint": result.record["headline"],
            "epoch": result.headline["epoch"],
            "val_accuracy": result.headline["val_accuracy"],
            **result.headline["metrics"],
        }
        for name, members in groups.items()
        for result in members
    ]
    return pd.DataFrame(rows).drop(columns="n")


def summary(
    groups: Mapping[str, Sequence[Result]], *, draws: int = 1000
) -> dict[str, pd.DataFrame]:
    """Each variant's mean over its seeds.

    Returns:
        By metric, one row a variant: value (mean over seeds), low and high (95% bootstrap interval
        of that mean, images resampled), spread (standard deviation over seeds; NaN for one seed),
        seeds (their number).
    """
    tables: dict[str, dict[str, pd.Series]] = {}
    for name, members in groups.items():
        found = metrics.intervals(*(result.predictions for result in members), draws=draws)
        each = pd.DataFrame([metrics.evaluate(result.predictions) for result in members])
        found["spread"] = each.std(ddof=1)
        found["seeds"] = len(members)
        for metric, row in found.iterrows():
            tables.setdefault(metric, {})[name] = row
    return {metric: pd.DataFrame(rows).T for metric, rows in tables.items()}


def against(
    groups: Mapping[str, Sequence[Result]], reference: str, *, draws: int = 1000
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
        sides = [[r.predictions for r in side] for side in (base, members)]
        found = metrics.difference(*sides, draws=draws)
        by_seed = {result.config.seed: result for result in base}
        p = [
            float(f"{metrics.mcnemar(by_seed[r.config.seed].predictions, r.predictions)['p']:.2g}")
            for r in members
            if r.config.seed in by_seed
        ]
        for metric, row in found.iterrows():
            rows.append({"variant": name, "metric": metric, **row.rename({"value": "difference"})})
            rows[-1]["mcnemar"] = p if metric == "accuracy" else None
    return pd.DataFrame(rows)


def agreement(groups: Mapping[str, Sequence[Result]]) -> pd.DataFrame:
    """How often two runs give a face the same answer, within variants and between them.

    Returns:
        Rows "two seeds of a variant" and "two variants" (as far as there are such pairs): mean,
        min, max over the pairs.
    """
    answers = [(name, r.predictions["predicted"]) for name, side in groups.items() for r in side]
    pairs = pd.DataFrame(
        {
            "pairs": "two seeds of a variant" if mine == other else "two variants",
            "same": (a == b).mean(),
        }
        for (mine, a), (other, b) in itertools.combinations(answers, 2)
    )
    return pairs.groupby("pairs")["same"].agg(["mean", "min", "max"]).rename_axis(None)


def detection_table(groups: Mapping[str, Sequence[Result]]) -> pd.DataFrame:
    """How well wrong labels were found in runs with `label_noise`, mean and range over seeds.

    Returns:
        One row a noise and measure: noise_kind, label_noise, measure, auroc (mean), min, max,
        seeds. Empty where no run was asked.
    """
    rows = [
        {"noise_kind": r.config.noise_kind, "label_noise": r.config.label_noise, "measure": name,
         "auroc": value}
        for members in groups.values() for r in members
        for name, value in r.record.get("label_detection", {}).items()
    ]  # fmt: skip
    if not rows:
        return pd.DataFrame()
    noise = pd.DataFrame(rows).groupby(["noise_kind", "label_noise", "measure"], sort=False)
    table = noise["auroc"].agg(["mean", "min", "max", "size"])
    return table.set_axis(["auroc", "min", "max", "seeds"], axis=1).reset_index()


def write_tables(groups: Mapping[str, Sequence[Result]], folder: Folder) -> None:
    """Write what a comparison found as tables that name no face, to be shared.

    tables/: about.json (data, protocol, selection), seeds.csv, summary.csv, differences.csv (to the
    first variant), and detection.csv where labels were made wrong.
    """
    first = next(iter(groups.values()))[0]
    told = ("dataset", "protocol", "split", "training_leaks_dropped", "selection")
    about = {key: first.record[key] for key in told} | {"faces": len(first.predictions)}
    folder.write_json(about, "tables", "about.json")
    folder.write_table(seed_table(groups), "tables", "seeds.csv")
    parts = summary(groups)
    long = pd.concat(parts, names=["metric", "variant"])
    folder.write_table(long, "tables", "summary.csv", index=True)
    folder.write_table(against(groups, next(iter(groups))), "tables", "differences.csv")
    if len(detection := detection_table(groups)):
        folder.write_table(detection, "tables", "detection.csv")


def read_tables(path: Path) -> dict[str, Any]:
    """What `write_tables` wrote: about, seeds, summary (by metric, as `summary`), and so on."""
    found: dict[str, Any] = {p.stem: pd.read_csv(p) for p in sorted(path.glob("*.csv"))}
    found["about"] = json.loads((path / "about.json").read_text())
    long = found["summary"].set_index(["metric", "variant"])
    found["summary"] = {m: long.loc[m] for m in long.index.unique("metric")}
    return found


def folder(output_dir: str) -> Folder:
    """Where a comparison's tables and figures go: beside its runs; outputs/ for published ones."""
    inside = runs.outputs(output_dir)
    published = inside.is_relative_to(runs.outputs(PUBLISHED))
    return Folder(runs.outputs() / "comparison" if published else inside / "comparison")


def reported_elsewhere(dataset: str = "") -> pd.DataFrame:
    """What others report, on one data set or on all, with their protocol and what became of it.

    Columns: dataset, method, accuracy and mean class accuracy (percent), protocol, what others
    found, source.
    """
    table = pd.read_csv(Path(__file__).with_name("published.csv"))
    mine = table["dataset"] == dataset if dataset in set(table["dataset"]) else slice(None)
    return table[mine].reset_index(drop=True)


def publish(results: Iterable[Result], destination: Path) -> list[Path]:
    """Copy what a reader needs to check a result: settings, history, metrics, predictions.

    No weights, no images and no paths of this machine go along. The predictions keep what the
    comparison reads, to five significant digits.

    Raises:
        FileExistsError: A run of that name is there already, with other predictions.
    """
    made = []
    for result in results:
        target = Folder(destination / result.path.name)
        config = dataclasses.asdict(result.config)
        for key in ("data_dir", "backbone_weights", "checkpoint_path", "output_dir"):
            config[key] = Path(config[key]).name
        kept = ("id", "label", "predicted", "agreed", "reliability")
        columns = [c for c in result.predictions if c in kept or c.startswith("p_")]
        text = result.predictions.to_csv(index=False, float_format="%.5g", columns=columns)
        content = gzip.compress(text.encode(), mtime=0)  # the same bytes whenever it is made
        name = f"{result.record['split']}_{result.record['headline']}.csv.gz"
        there = target.path / "predictions" / name
        if there.is_file() and there.read_bytes() != content:
            raise FileExistsError(f"{relative(there)} exists with other predictions; move it away")
        target.write_json(config, "config.json")
        target.write_json(result.record, "metrics.json")
        target.write_text((result.path / "history.csv").read_text(), "history.csv")
        target.write_bytes(content, "predictions", name)
        made.append(target.path)
    return made


def _settings(config: Config) -> dict[str, Any]:
    """What can set a variant apart; None where a setting has no effect."""
    values = {k: v for k, v in dataclasses.asdict(config).items() if k not in _NOT_A_VARIANT}
    if config.head == "linear":
        values |= dict.fromkeys(_OF_THE_HEAD)
    elif config.correction == "none":
        values |= dict.fromkeys(
            (
                "branches",
                "num_anchors",
                "attention_heads",
                "attention_levels",
                "delta",
                "lambda_anchor",
                "lambda_center",
            )
        )
    values["backbone_weights"] = Path(config.backbone_weights).name
    return values
