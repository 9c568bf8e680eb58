"""Every figure and table of an evaluated run, from what it saved: `grefel report RUN`.

A figure whose material is missing (no anchors, no robustness test) is None; so a table is left out.
"""

from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from sklearn.decomposition import PCA

from grefel_lib import (
    calibration,
    card,
    evaluation_plots,
    groups,
    method_plots,
    metrics,
    people,
    plots,
    record,
    report,
    robustness,
)
from grefel_lib.datasets import FaceSet
from grefel_lib.evaluated import Evaluated
from grefel_lib.folders import Folder
from grefel_lib.labels import VOTE_COLUMNS

Size = Callable[[str, float], tuple[float, float]]  # column or full, height at 6.9 in -> inches
TITLES = {  # of the tables, before what `caption` says
    "comparison": "Both checkpoints",
    "per_class": "By class",
    "calibration": "Calibration errors, before and after a temperature fitted on validation",
    "sureness": "How well two measures of sureness foretell errors",
    "robustness": "Accuracy (%) by corruption and severity; 0 is unspoiled",
    "copies": "Accuracy on faces with and without a copy in the training split",
    "attributes": "Accuracy by group of people",
}


def everything(found: Evaluated, folder: Folder, *, venue: str = "paper") -> dict:
    """Write metrics.json, model_card.md, and every figure and table there is material for.

    Args:
        found: An evaluation.
        folder: The run folder, or another place.
        venue: A key of `plots.VENUES`; figures are as wide as its columns.

    Returns:
        What metrics.json holds.

    Raises:
        ValueError: There is no such venue.
    """
    _among(venue, plots.VENUES, "venue")
    told = record.build(found)
    folder.write_json(told, "metrics.json")
    for name in FIGURES:
        if (drawn := figure(found, name, folder, venue=venue)) is not None:
            plt.close(drawn)
    for name, table in found.predictions.items():
        counts = metrics.confusion_counts(table)
        folder.write_array(counts, f"confusion_matrix_{name}.npy")
        shares = metrics.row_normalised(counts)
        folder.write_array(shares, f"confusion_matrix_{name}_normalised.npy")
    for name, table in tables(found, told).items():
        folder.write_table(table, "tables", f"{name}.csv", index=True)
        decimals = {"calibration": 2, "sureness": 3}.get(name, 1)
        words = f"{TITLES[name]}. {caption(found)}"
        latex = report.latex_table(table, caption=words, label=f"tab:{name}", decimals=decimals)
        folder.write_text(latex, "tables", f"{name}.tex")
    folder.write_text(card.model_card(found, told), "model_card.md")
    return told


def figure(
    found: Evaluated, name: str, folder: Folder | None = None, *, venue: str = "paper"
) -> Figure | None:
    """Draw one of FIGURES; with a folder, save it there too, as figures/<name>.pdf and .png.

    Raises:
        ValueError: There is no figure of that name, or no such venue.
    """
    _among(name, FIGURES, "figure")
    _among(venue, plots.VENUES, "venue")
    widths = dict(zip(plots.WIDTHS, plots.VENUES[venue], strict=True))

    def size(width: str, height: float) -> tuple[float, float]:
        return widths[width], height * widths[width] / plots.WIDTHS[width]

    with plots.paper_style("full"):
        drawn = FIGURES[name](found, size)
        if drawn is not None and folder is not None:
            plots.save(drawn, folder.file("figures", name))
    return drawn


def suspects(table: pd.DataFrame, training: FaceSet) -> Figure:
    """Draw training faces whose labels look wrong (`inspection.worst`), with their votes.

    Above each face: its label, what the model says instead.
    """
    titles = [f"{a} → {b}" for a, b in table[["label", "predicted"]].to_numpy()]
    voted = [f"votes_{name}" for name in VOTE_COLUMNS]
    votes = table[voted].to_numpy() if set(voted) <= set(table) else None
    rows = -(-len(table) // 6)
    with plots.paper_style("full"):
        fig = plt.figure(figsize=(6.9, (1.75 if votes is not None else 1.3) * rows))
        images = training.gather(table.index.to_numpy())
        plots.face_grid(images, fig, ncols=6, titles=titles, votes=votes)
    return fig


def caption(found: Evaluated) -> str:
    """What a reader must know of any number: data, protocol, split, faces, selection rule."""
    facts = found.facts
    protocol = f" (protocol {facts['protocol']})" if facts["protocol"] else ""
    return (
        f"{facts['dataset']}{protocol}, {facts['split']} split, {len(found.table)} faces; "
        f"headline checkpoint: {found.headline}, chosen on {facts['selection']}. Intervals: 95%."
    )


def tables(found: Evaluated, told: dict) -> dict[str, pd.DataFrame]:
    """Every table there is material for, narrow enough for a column of a paper.

    Args:
        found: An evaluation.
        told: From `record.build`.

    Returns:
        comparison (a row a metric, a column a checkpoint), per_class, calibration (before and
        after temperature), sureness, robustness (accuracy by severity), copies, attributes.
    """
    headline = told["checkpoints"][found.headline]
    made = {
        "comparison": report.with_intervals(told["checkpoints"]),
        "per_class": _per_class(found),
        "calibration": _calibration(headline),
        "sureness": pd.DataFrame(headline["sureness"]).T.rename(columns=str.upper),
    }
    made["sureness"].index.name = "measure"
    if found.robustness is not None:
        curves = robustness.with_clean(found.robustness)
        made["robustness"] = 100 * curves.pivot(
            index="corruption", columns="severity", values="accuracy"
        ).rename_axis(columns=None).reindex(list(robustness.SEVERITIES))
    parts = {"copies": groups.copies(found)}
    if attributes := groups.attributes(found):
        parts["attributes"] = pd.concat(attributes).rename_axis(["attribute", "group"])
        parts["attributes"].index = parts["attributes"].index.map(": ".join)
    for name, table in parts.items():
        if table is not None:
            made[name] = pd.DataFrame(
                {"faces": table["count"], "accuracy (%)": report.bracketed(table, "accuracy")}
            ).rename_axis("group")
    return made


def _among(given: str, known: Iterable[str], kind: str) -> None:
    if given not in known:
        raise ValueError(f"no {kind} {given!r}; there are: {', '.join(known)}")


def _per_class(found: Evaluated) -> pd.DataFrame:
    table = metrics.per_class(found.table).set_index("class")
    ends = table.rename(columns={"recall_low": "low", "recall_high": "high"})
    return pd.DataFrame(
        {
            "faces": table["count"],
            "recall (%)": report.bracketed(ends, "recall"),
            "precision (%)": 100 * table["precision"],
            "F1 (%)": 100 * table["f1"],
        }
    )


def _calibration(headline: dict) -> pd.DataFrame:
    columns = {"as trained": headline["calibration"]}
    if headline["temperature"]:
        columns[f"temperature {headline['temperature']:.2f}"] = headline["calibration_after"]
    table = pd.DataFrame(columns)
    shares = [name for name in table.index if name in report.PERCENT]
    table.loc[shares] *= 100
    return table.rename(index=report.TITLES).rename_axis("error")


# -- figures


def _accuracy(found: Evaluated, size: Size) -> Figure:
    rows = {n: metrics.intervals(t).loc["accuracy"] for n, t in found.predictions.items()}
    fig, ax = plt.subplots(figsize=size("full", 0.9 + 0.25 * len(rows)))
    evaluation_plots.accuracy(pd.DataFrame(rows).T, ax, people=people.ceiling(found.table))
    return fig


def _confusion(found: Evaluated, size: Size) -> Figure:
    fig, axes = plt.subplots(1, len(found.predictions), figsize=size("full", 3.0), squeeze=False)
    for ax, (name, table) in zip(axes[0], found.predictions.items(), strict=True):
        names = metrics.class_names(table)
        plots.confusion_matrix(metrics.confusion_counts(table), names, ax)
        ax.set_title(name)
    return fig


def _headline_confusion(found: Evaluated, size: Size) -> Figure:
    fig, ax = plt.subplots(figsize=size("column", 3.0))
    counts = metrics.confusion_counts(found.table)
    plots.confusion_matrix(counts, metrics.class_names(found.table), ax)
    return fig


def _training_curves(found: Evaluated, size: Size) -> Figure | None:
    if found.history is None:
        return None
    fig, axes = plt.subplots(1, 2, figsize=size("full", 2.6))
    plots.training_curves(found.history, axes)
    return fig


def _per_class_bars(found: Evaluated, size: Size) -> Figure:
    fig, ax = plt.subplots(figsize=size("full", 2.0))
    evaluation_plots.per_class_bars(metrics.per_class(found.table), ax)
    return fig


def _risk_coverage(found: Evaluated, size: Size) -> Figure:
    wrong = (found.table["label"] != found.table["predicted"]).to_numpy()
    offered = calibration.sureness(found.table)
    curves = {name: calibration.risk_coverage(sure, wrong) for name, sure in offered.items()}
    fig, ax = plt.subplots(figsize=size("column", 2.3))
    scores = calibration.error_detection(found.table)
    evaluation_plots.risk_coverage(curves, ax, scores=scores)
    return fig


def _reliability(found: Evaluated, size: Size) -> Figure:
    """Confidence as trained, confidence after temperature, reliability: as many as there are."""
    panels = [(metrics.reliability_bins(found.table), "confidence", "accuracy")]
    if found.headline in found.validation:
        temperature = calibration.fit_temperature(found.validation[found.headline])
        softened = calibration.with_temperature(found.table, temperature)
        told = f"confidence, temperature {temperature:.2f}"
        panels.append((metrics.reliability_bins(softened), told, "accuracy"))
    if "reliability" in found.table:
        bins = metrics.calibration(found.table["reliability"], found.table["agreed"])
        panels.append((bins, "reliability", "agreement"))
    fig, axes = plt.subplots(1, len(panels), figsize=size("full", 2.5), squeeze=False)
    for ax, (bins, xlabel, ylabel) in zip(axes[0], panels, strict=True):
        names = {"xlabel": xlabel, "ylabel": ylabel}
        evaluation_plots.reliability_diagram(bins, ax, legend=False, **names)
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return fig


def _robustness(found: Evaluated, size: Size) -> Figure | None:
    if found.robustness is None:
        return None
    curves = robustness.with_clean(found.robustness)
    fig, axes = plt.subplots(1, 2, figsize=size("full", 2.5))
    for ax, metric, label in zip(axes, ("accuracy", "ece"), ("accuracy", "ECE"), strict=True):
        evaluation_plots.robustness(curves, ax, metric=metric, label=label)
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    return fig


def _embedding_map(found: Evaluated, size: Size) -> Figure | None:
    if "anchors" not in found.inside:
        return None
    anchors = found.inside["anchors"]
    embeddings = found.inside["embeddings"].astype(np.float32)
    names = metrics.class_names(found.table)
    plane = PCA(2, random_state=0).fit(embeddings)
    places = plane.transform(anchors.reshape(-1, anchors.shape[-1])).reshape(*anchors.shape[:2], 2)
    distance = embeddings @ anchors.reshape(-1, anchors.shape[-1]).T  # all of one length
    nearest = np.bincount(distance.argmax(axis=1), minlength=anchors.shape[0] * anchors.shape[1])
    labels = pd.Index(names).get_indexer(found.inside["labels"])
    fig, axes = plt.subplots(1, 2, figsize=size("full", 3.0), sharex=True, sharey=True)
    points = plane.transform(embeddings)
    method_plots.anchor_map(points, labels, places, names, axes[1])
    method_plots.name_clusters(points, labels, names, axes[1])
    nearest = nearest.reshape(anchors.shape[:2])
    evaluation_plots.anchor_graph(anchors, places, nearest, names, axes[0])
    shown = plane.explained_variance_ratio_.sum()
    axes[0].set_title(
        f"anchors: {np.count_nonzero(nearest)} of {nearest.size} are some face's nearest"
    )
    axes[1].set_title(f"{len(points)} faces and the anchors ({shown:.0%} of the variance)")
    for ax in axes:
        ax.set(xticks=[], yticks=[], xlabel="first principal component", adjustable="box")
    axes[0].set_ylabel("second principal component")
    return fig


FIGURES: dict[str, Callable[[Evaluated, Size], Figure | None]] = {
    "accuracy": _accuracy,
    "risk_coverage": _risk_coverage,
    "confusion_matrices": _confusion,
    "confusion_matrix": _headline_confusion,
    "per_class": _per_class_bars,
    "embedding_map": _embedding_map,
    "reliability": _reliability,
    "robustness": _robustness,
    "training_curves": _training_curves,
}
