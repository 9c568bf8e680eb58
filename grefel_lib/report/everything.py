"""Registry of all figures and tables, by name, and `write_report`. Add figures to FIGURES."""

import importlib.util
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import display
from matplotlib.figure import Figure
from sklearn.decomposition import PCA

from grefel_lib.analysis.calibration import (
    chosen_offset,
    confidence_measures,
    offset_curve,
    risk_coverage,
    temperature_words,
    with_temperature,
)
from grefel_lib.analysis.compare import Comparison, write_comparison
from grefel_lib.analysis.evaluation import INSIDE, Evaluation
from grefel_lib.analysis.explain import Explained
from grefel_lib.analysis.robustness import SEVERITIES, with_clean
from grefel_lib.analysis.suspects import most_suspect
from grefel_lib.environment import progress_bar
from grefel_lib.faces import FaceSet
from grefel_lib.files import Folder, other_faces, relative
from grefel_lib.metrics import (
    calibration_bins,
    confidence_bins,
    confusion_counts,
    interval_unit,
    normalise_rows,
    table_classes,
)
from grefel_lib.report.card import model_card
from grefel_lib.report.comparison import ablation, detection_curves, differences_figure
from grefel_lib.report.faces import (
    attention_overlay,
    detected_faces,
    explanation_figure,
    face_cards,
    suspect_faces,
)
from grefel_lib.report.figures import (
    accuracy_bars,
    confusion_matrix,
    dashboard,
    offset_path,
    per_class_bars,
    reliability_diagram,
    risk_coverage_curves,
    robustness_curves,
    training_curves,
)
from grefel_lib.report.method import anchor_graph, anchor_map
from grefel_lib.report.style import Paper, as_picture, in_words, paper_style, save_figure
from grefel_lib.report.tables import (
    BEST,
    PERCENT,
    TITLES,
    bracketed,
    class_table,
    data_title,
    interval_table,
    latex_table,
    split_title,
    with_intervals,
)
from grefel_lib.run import Run, event_writer
from grefel_lib.sources.photo import Photo

Source = Run | Evaluation | Comparison | Explained | Photo
TABLE_TITLES = {  # start of the caption, before the text of `caption`
    "comparison": "Results",
    "per_class": "Results by class",
    "calibration": "Calibration errors, before and after a temperature fitted on validation faces "
    "of the same data",
    "class_offsets": "Accuracy (%) against mean class accuracy (%) on validation, by the strength "
    "of class offsets",
    "sureness": "Error detection by confidence and reliability",
    "robustness": "Accuracy (%) by corruption and severity; 0 is uncorrupted",
    "copies": "Accuracy on faces with and without a copy in the training split",
    "attributes": "Accuracy by demographic group",
}


def write_report(
    source: Evaluation | Comparison,
    folder: Folder | None = None,
    *,
    paper: Paper | None = None,
    faces: FaceSet | None = None,
) -> dict[str, pd.DataFrame]:
    """Write every figure and table the data allow; for an evaluation, the metrics as well.

    An evaluation gets metrics.json, model_card.md, confusion matrices (.npy), figures/ and tables/
    (CSV and LaTeX); a comparison figures/ and tables/.

    Args:
        source: An evaluation or a comparison.
        folder: Where to write; by default the source's own folder.
        paper: Widths, font and names of figures and tables; by default those of the workbook.
        faces: The data set, for figures that show faces; without it, those are left as they are.

    Returns:
        The tables, by name.
    """
    paper, folder = paper or Paper(), folder or source.folder
    folder.remove_litter("figures", "tables", "predictions")
    shown = source  # under the paper's class names, and in its order
    if isinstance(source, Evaluation) and paper.class_order:
        shown = source.in_order(paper.class_order)
    if isinstance(source, Evaluation) and paper.class_names:
        shown = shown.with_class_names(paper.class_names)
    bar = progress_bar(len(FIGURES[type(source)]), "drawing", unit=" figures")
    for name in FIGURES[type(source)]:
        bar.update()
        if faces is not None or name not in NEED_FACES:
            draw(shown, name, folder=folder, paper=paper, faces=faces)
    bar.close()
    if isinstance(source, Comparison):
        return _write_comparison(source, folder)
    folder.write_json(source.record, "metrics.json")
    if source.config.log and importlib.util.find_spec("tensorboard"):
        for name, numbers in source.metrics["checkpoints"].items():
            shutil.rmtree(folder.path / "tensorboard" / name, ignore_errors=True)
            with event_writer(folder, name) as events:
                for metric, value in numbers["metrics"].items():
                    tag = f"{source.facts['split']}_{metric}"
                    events.add_scalar(tag, value, numbers["epoch"])
    for name, predictions in source.predictions.items():
        counts = confusion_counts(predictions)
        folder.write_array(counts, f"confusion_matrix_{name}.npy")
        shares = normalise_rows(counts)
        folder.write_array(shares, f"confusion_matrix_{name}_normalised.npy")
    numbers = source.metrics["checkpoints"]  # whose intervals do not depend on the order of classes
    tables = {"comparison": with_intervals(numbers, split=source.facts["split"])}
    tables |= evaluation_tables(shown)
    titles = {name: paper.checkpoint(name) for name in source.predictions}
    for name in TABLE_TITLES.keys() - tables.keys():
        _remove(folder, "tables", name)
    for name, table in tables.items():
        folder.write_table(table, "tables", f"{name}.csv", index=True)
        decimals = {"calibration": 2, "sureness": 3}.get(name, 1)
        words = f"{TABLE_TITLES[name]}: {caption(source, paper, table=name)}"
        if "[" in table.to_csv(index=False, header=False):
            over = interval_unit(source.table) if name == "comparison" else "faces"
            words += f" Brackets: 95% intervals over {over}{' (ECE: faces)' * (over != 'faces')}."
        latex = latex_table(
            table.rename(columns=titles),
            caption=words,
            label=_label(folder, name),
            decimals=decimals,
            bold=None if name in ("copies", "attributes") else BEST,  # groups do not compete
        )
        folder.write_text(latex, "tables", f"{name}.tex")
    if source.training is not None:
        folder.write_table(most_suspect(source.training), "tables", "labels_to_check.csv")
    else:
        _remove(folder, "tables", "labels_to_check")
    folder.write_text(model_card(source), "model_card.md")
    return tables


def _write_comparison(comparison: Comparison, folder: Folder) -> dict[str, pd.DataFrame]:
    write_comparison(comparison, folder)
    about = comparison.about
    several = comparison.seeds["variant"].duplicated().any()
    mean = "Mean ± standard deviation over seeds " if several else ""
    words = (
        f"{data_title(about['dataset'], about['protocol'])}, {split_title(about)}, "
        f"{about['faces']:,} faces. {mean}[95% interval over {about.get('over', 'faces')}]. "
        f"{_seeds(comparison)}. Checkpoints chosen by {about['selection']}."
    )
    if about.get("tta") == "flip":
        words += " Each face is averaged with its mirror image."
    shown = ("accuracy", "mean_class_accuracy", "macro_f1")
    table = interval_table({metric: comparison.summary[metric] for metric in shown})
    label = _label(folder, "ablation")
    latex = latex_table(table, caption=words, label=label, wide=True, bold=BEST)
    folder.write_text(latex, "tables", "ablation.tex")
    return {"ablation": table}


def _label(folder: Folder, name: str) -> str:
    """A LaTeX label of a table, unlike that of another run."""
    place = Path(relative(folder.path))
    parts = place.parts[-2:] if place.is_absolute() else place.parts
    words = "-".join([*(part for part in parts if part != "outputs"), name])
    return "tab:" + re.sub(r"[^A-Za-z0-9._-]+", "-", words)


def _seeds(comparison: Comparison) -> str:
    """ "3 seeds of each variant", or "2 to 3 seeds of a variant"."""
    counts = comparison.seeds.groupby("variant")["seed"].size()
    least, most = counts.min(), counts.max()
    if least < most:
        return f"{least} to {most} seeds of a variant"
    return f"{most} seed{'s' if most > 1 else ''} of each variant"


def show_figure(source: Source, name: str, faces: FaceSet | None = None) -> None:
    """Show one figure in a notebook, small enough to commit; a line if its data are missing.

    With `faces`, it is also saved in figures/ of the evaluation.

    Args:
        source: The object to plot; FIGURES lists the figures of each type.
        name: Name of the figure.
        faces: The data set, for figures that show faces: errors, attention, suspects.

    Raises:
        ValueError: There is no figure of that name.
    """
    folder = source if isinstance(source, Run) else source.folder if faces is not None else None
    fig = draw(source, name, faces=faces, folder=folder)
    words = name.replace("_", " ")
    if fig is None:
        print(f"no figure here: {words} (there is nothing to draw)")
        return
    display(as_picture(fig, f"{words}: {in_words(fig)}", photo=name in PHOTOS))


def draw(
    source: Source,
    name: str,
    *,
    faces: FaceSet | None = None,
    folder: Folder | None = None,
    paper: Paper | None = None,
) -> Figure | None:
    """Draw one of FIGURES; with a folder, also save it there as figures/<name>.pdf and .png.

    Returns:
        None if the data are missing: no anchors, no robustness test, no faces.

    Raises:
        ValueError: There is no figure of that name.
    """
    figures = FIGURES[type(source)]
    if name not in figures:
        raise ValueError(f"no figure {name!r}; there are: {', '.join(figures)}")
    paper = paper or Paper()
    if name in NEED_FACES and faces is None:
        return None
    with paper_style(paper.font):
        fig = figures[name](source, paper, *[faces] * (name in NEED_FACES))
        if folder is not None and fig is not None:
            save_figure(fig, folder.file("figures", name))
    if folder is not None and fig is None:
        _remove(folder, "figures", name)
    return fig


def _remove(folder: Folder, kind: str, name: str) -> None:
    """Remove stale files of a figure or table written by an earlier evaluation."""
    for old in folder.path.glob(f"{kind}/{name}.*"):
        old.unlink()


def caption(evaluation: Evaluation, paper: Paper | None = None, *, table: str = "") -> str:
    """Caption with the provenance of the numbers: data, protocol, split, faces, selection rule.

    Args:
        evaluation: Whose numbers they are.
        paper: Names the model.
        table: A key of TABLE_TITLES, for those of other faces than the scored ones.
    """
    facts, model = evaluation.facts, (paper or Paper()).model
    data = data_title(facts["dataset"], facts["protocol"])
    split, faces = split_title(facts), f"{len(evaluation.table):,} faces"
    if table == "class_offsets":
        split = split_title({**facts, "split": "val"})
        faces = f"{len(_validation(evaluation)):,} faces"
    if table == "robustness":
        faces = evaluation.robustness.get("faces", pd.Series()).max()
        faces = "a sample" if pd.isna(faces) else f"{faces:,} faces"
    words = [f"{model and model + ' on '}{data}, {split}, {faces}"]
    if evaluation.config.folds and not evaluation.pooled and not other_faces(facts):
        words.append(f"fold {evaluation.config.fold} of {evaluation.config.folds}")
    if facts["tta"] == "flip":
        words.append("each face averaged with its mirror image")
    trained = facts["training_dataset"], facts["training_protocol"]
    if trained != (facts["dataset"], facts["protocol"]):
        words.append(f"trained on {data_title(*trained)}")
    elif other_faces(facts):
        words.append("trained on other faces")
    words.append(Paper().checkpoint(evaluation.headline))
    return f"{'; '.join(words)}, chosen by {facts['selection']}."


def evaluation_tables(evaluation: Evaluation) -> dict[str, pd.DataFrame]:
    """All tables the data allow, narrow enough for one column of a paper.

    Args:
        evaluation: An evaluation.

    Returns:
        per_class, calibration (before and after temperature), sureness, robustness (accuracy by
        severity), copies, attributes.
    """
    headline = evaluation.metrics["checkpoints"][evaluation.headline]
    tables = {
        "per_class": class_table(headline["per_class"]),
        "calibration": _calibration(headline),
        "sureness": pd.DataFrame(headline["sureness"]).T.rename(columns=str.upper),
    }
    tables["sureness"].index.name = "measure"
    if (validation := _validation(evaluation)) is not None:
        curve = offset_curve(validation)
        tables["class_offsets"] = 100 * curve.rename(columns=TITLES)
    if evaluation.robustness is not None:
        curves = with_clean(evaluation.robustness)
        tables["robustness"] = 100 * curves.pivot(
            index="corruption", columns="severity", values="accuracy"
        ).rename_axis(columns=None).reindex(list(SEVERITIES))
    attributes = evaluation.metrics["attributes"].items()
    groups = {f"{name}: {group}": row for name, rows in attributes for group, row in rows.items()}
    for name, rows in (("copies", evaluation.metrics.get("copies")), ("attributes", groups)):
        if rows:
            table = pd.DataFrame.from_dict(rows, orient="index")
            columns = {"faces": table["count"], "accuracy (%)": bracketed(table, "accuracy")}
            tables[name] = pd.DataFrame(columns).rename_axis("group")
    return tables


def _calibration(headline: dict) -> pd.DataFrame:
    columns = {"as trained": headline["calibration"]}
    if headline["temperature"]:
        columns[temperature_words(headline["temperature"])] = headline["calibration_after"]
    table = pd.DataFrame(columns)
    shares = [name for name in table.index if name in PERCENT]
    table.loc[shares] *= 100
    return table.rename(index=TITLES).rename_axis("error")


# -- figures


def _accuracy(evaluation: Evaluation, paper: Paper) -> Figure:
    rows = {
        paper.checkpoint(name): [
            numbers["metrics"]["accuracy"],
            *numbers["intervals"]["accuracy"],
        ]
        for name, numbers in evaluation.metrics["checkpoints"].items()
    }
    table = pd.DataFrame(rows, index=["value", "low", "high"]).T
    fig, [[ax]] = _subplots(paper.size("full", 0.9 + 0.25 * len(rows)))
    people = pd.DataFrame.from_dict(evaluation.metrics.get("people", {}), orient="index")
    accuracy_bars(table, people, ax)
    return fig


def _confusion(evaluation: Evaluation, paper: Paper) -> Figure:
    fig, axes = _subplots(paper.size("full", 3.0), ncols=len(evaluation.predictions))
    for ax, (name, table) in zip(axes[0], evaluation.predictions.items(), strict=True):
        confusion_matrix(confusion_counts(table), table_classes(table), ax, **paper.cell_texts)
        ax.set_title(paper.checkpoint(name))
    return fig


def _headline_confusion(evaluation: Evaluation, paper: Paper) -> Figure:
    names = table_classes(evaluation.table)
    fig, [[ax]] = _subplots(paper.matrix_size(len(names)))
    confusion_matrix(confusion_counts(evaluation.table), names, ax, **paper.cell_texts)
    return fig


def _training_curves(source: Evaluation | Run, paper: Paper) -> Figure | None:
    history = source.history() if isinstance(source, Run) else source.history
    if history is None:
        return None
    fig, axes = _subplots(paper.size("full", 2.6), ncols=2)
    training_curves(history, axes[0])
    return fig


def _per_class_bars(evaluation: Evaluation, paper: Paper) -> Figure:
    fig, [[ax]] = _subplots(paper.size("full", 2.0))
    per_class = evaluation.metrics["checkpoints"][evaluation.headline]["per_class"]
    per_class_bars(pd.DataFrame(per_class), ax)
    return fig


def _risk_coverage(evaluation: Evaluation, paper: Paper) -> Figure:
    wrong = (evaluation.table["label"] != evaluation.table["predicted"]).to_numpy()
    offered = confidence_measures(evaluation.table)
    curves = {name: risk_coverage(sure, wrong) for name, sure in offered.items()}
    fig, [[ax]] = _subplots(paper.size("column", 2.3))
    sureness = evaluation.metrics["checkpoints"][evaluation.headline]["sureness"]
    scores = pd.DataFrame.from_dict(sureness, orient="index").astype(float)
    risk_coverage_curves(curves, ax, scores=scores)
    return fig


def _validation(evaluation: Evaluation) -> pd.DataFrame | None:
    """The headline's predictions of validation faces, also where these are the scored ones."""
    scored = evaluation.facts["split"] == "val"
    return (evaluation.predictions if scored else evaluation.validation).get(evaluation.headline)


def _class_offsets(evaluation: Evaluation, paper: Paper) -> Figure | None:
    if (validation := _validation(evaluation)) is None:
        return None
    curve = offset_curve(validation)
    fig, [[ax]] = _subplots(paper.size("column", 2.5))
    offset_path(curve, chosen_offset(curve), ax)
    return fig


def _reliability(evaluation: Evaluation, paper: Paper) -> Figure:
    """Confidence before and after temperature scaling, and reliability, where available."""
    panels = [(confidence_bins(evaluation.table), "confidence", "accuracy")]
    temperature = evaluation.metrics["checkpoints"][evaluation.headline]["temperature"]
    if temperature is not None:
        softened = with_temperature(evaluation.table, temperature)
        label = f"confidence, {temperature_words(temperature)}"
        panels.append((confidence_bins(softened), label, "accuracy"))
    if "reliability" in evaluation.table:
        bins = calibration_bins(evaluation.table["reliability"], evaluation.table["agreed"])
        panels.append((bins, "reliability", "agreement"))
    fig, axes = _subplots(paper.size("full", 2.5), ncols=len(panels))
    for ax, (bins, xlabel, ylabel) in zip(axes[0], panels, strict=True):
        reliability_diagram(bins, ax, xlabel=xlabel, ylabel=ylabel)
    shown = [ax.get_legend_handles_labels() for ax in axes[0]]
    marks = {name: mark for some in shown for mark, name in zip(*some, strict=True)}
    fig.legend(marks.values(), marks, loc="outside lower center", ncols=5)
    return fig


def _robustness(evaluation: Evaluation, paper: Paper) -> Figure | None:
    if evaluation.robustness is None:
        return None
    curves = with_clean(evaluation.robustness)
    fig, axes = _subplots(paper.size("full", 2.5), ncols=2)
    for ax, metric, label in zip(axes[0], ("accuracy", "ece"), ("accuracy", "ECE"), strict=True):
        robustness_curves(curves, ax, metric=metric, label=label)
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    return fig


def _embedding_map(evaluation: Evaluation, paper: Paper) -> Figure | None:
    inside = evaluation.inside
    if "anchors" not in inside or len(inside["embeddings"]) < 2:
        return None
    # in float32, the last digits that are drawn vary with the threads
    anchors, embeddings = (inside[name].astype(float) for name in ("anchors", "embeddings"))
    flat, names = anchors.reshape(-1, anchors.shape[-1]), table_classes(evaluation.table)
    plane = PCA(2, svd_solver="full").fit(embeddings)
    places = plane.transform(flat).round(6).reshape(*anchors.shape[:2], 2)
    nearest = (embeddings @ flat.T).argmax(axis=1)  # all are of the same norm
    nearest = np.bincount(nearest, minlength=len(flat)).reshape(anchors.shape[:2])
    labels = pd.Index(names).get_indexer(inside["labels"])
    fig, [axes] = _subplots(paper.size("full", 3.0), ncols=2)
    points = plane.transform(embeddings).round(6)
    ends = np.concatenate([points, places.reshape(-1, 2)])
    anchor_map(points, labels, places, names, axes[1])
    anchor_graph(anchors, places, nearest, names, axes[0])
    explained = plane.explained_variance_ratio_.sum()
    axes[0].set_title(f"anchors, {np.count_nonzero(nearest)} of {nearest.size} nearest to a face")
    axes[1].set_title(f"{len(points)} faces, {explained:.0%} of the variance")
    for ax in axes:  # both of one scale, and without a blank beside them
        ax.dataLim.update_from_data_xy(ends, ignore=False)
        ax.set(xticks=[], yticks=[], xlabel="first component", adjustable="datalim")
    axes[0].set_ylabel("second component")
    return fig


def _errors(evaluation: Evaluation, paper: Paper, faces: FaceSet) -> Figure | None:
    """The four most confident mistakes of the headline checkpoint."""
    table = evaluation.table
    wrong = table[table["label"] != table["predicted"]]
    if wrong.empty:
        return None
    names = table_classes(table)
    confidence = wrong[[f"p_{name}" for name in names]].max(axis=1)
    rows = wrong.loc[confidence.sort_values(ascending=False, kind="stable").index[:4]]
    images = faces.split(evaluation.facts["split"]).gather(rows.index.to_numpy())
    return face_cards(images, rows, names, width=paper.size("full", 0)[0])


def _attention(evaluation: Evaluation, paper: Paper, faces: FaceSet) -> Figure | None:
    if "attention" not in evaluation.inside:
        return None
    sample = faces.split(evaluation.facts["split"]).sample(INSIDE).sample(8)
    weights = evaluation.attention_of(sample.table["id"])
    weights = weights / weights.mean(axis=(1, 2), keepdims=True)
    rows = evaluation.table.set_index("id").loc[sample.table["id"], ["label", "predicted"]]
    fig, axes = _subplots(paper.size("full", 1.25), ncols=len(sample))
    images = sample.gather(np.arange(len(sample)))
    for ax, image, attention, names in zip(axes[0], images, weights, rows.values, strict=True):
        attention_overlay(image, attention, ax, most=weights.max())
        ax.set_title("\n→ ".join(names), size=6.5, pad=2, loc="left")
    fig.colorbar(axes[0][-1].images[-1], ax=list(axes[0]), label="attention (1: even)", aspect=10)
    return fig


def _suspects(evaluation: Evaluation, paper: Paper, faces: FaceSet) -> Figure | None:
    if evaluation.training is None:
        return None
    table = most_suspect(evaluation.training, 12)
    return suspect_faces(table, faces.split("train"), width=paper.size("full", 0)[0])


def _label_noise(comparison: Comparison, paper: Paper) -> Figure | None:
    if comparison.detection.empty:
        return None
    kinds = comparison.detection["noise_kind"].nunique()
    fig, axes = _subplots(paper.size("full", 2.3), ncols=kinds, sharey=True)
    detection_curves(comparison.detection, axes[0])
    return fig


def _subplots(size: tuple[float, float], **layout: Any) -> tuple[Figure, np.ndarray]:
    fig = Figure(figsize=size)
    return fig, fig.subplots(squeeze=False, **layout)


NEED_FACES = ("errors", "attention", "suspects")
PHOTOS = (*NEED_FACES, "explanation", "faces")  # shown as JPEG
FIGURES: dict[type, dict[str, Callable[..., Figure | None]]] = {
    Evaluation: {
        "accuracy": _accuracy,
        "risk_coverage": _risk_coverage,
        "confusion_matrices": _confusion,
        "confusion_matrix": _headline_confusion,
        "per_class": _per_class_bars,
        "embedding_map": _embedding_map,
        "class_offsets": _class_offsets,
        "reliability": _reliability,
        "robustness": _robustness,
        "training_curves": _training_curves,
        "errors": _errors,
        "attention": _attention,
        "suspects": _suspects,
    },
    Run: {
        "training_curves": _training_curves,
        "dashboard": lambda run, _: dashboard(run.history(), run.config.epochs),
    },
    Comparison: {
        "ablation": lambda c, p: ablation(c.summary, c.seeds, width=p.size("full", 0)[0]),
        "differences": lambda c, p: differences_figure(c.differences, width=p.size("full", 0)[0]),
        "label_noise": _label_noise,
    },
    Explained: {"explanation": lambda face, _: explanation_figure(face)},
    Photo: {"faces": lambda photo, _: detected_faces(photo.picture, photo.boxes)},
}
