"""The model card of a run: data, training, results, limits, licence."""

import html
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

import pandas as pd

from grefel_lib.analysis.calibration import temperature_words
from grefel_lib.analysis.evaluation import Evaluation, trained_in
from grefel_lib.analysis.groups import largest_gap
from grefel_lib.backbone import reads_earlier
from grefel_lib.config import Config
from grefel_lib.files import other_faces, without_paths
from grefel_lib.metrics import subject_codes
from grefel_lib.report.figures import FEW
from grefel_lib.report.tables import class_table, data_title, split_title, with_intervals
from grefel_lib.run import Run, started_from

DATA = {  # description and terms of each data set
    "synthetic": "drawn faces; they test the code, not its performance on real people",
    "ferplus": "FER2013 images (Kaggle, for research) with the votes of FERPlus (MIT)",
    "fer2013": "FER2013 images and labels (Kaggle, for research)",
    "rafdb": "RAF-DB basic expressions (non-commercial research only, on signed terms)",
    "rafdb_compound": "RAF-DB compound expressions (non-commercial research only, on signed terms)",
    "affectnet7": "AffectNet without contempt (non-commercial research only, on signed terms)",
    "affectnet8": "AffectNet (non-commercial research only, on signed terms)",
    "folder": "the user's own faces and classes; their source and terms are not recorded here",
}
TERMS = {  # of start weights; they come before everything else
    "face": "Terms: share alike, for research. The model started from the weights `face`, of a "
    "network that tells the faces of VGGFace2 (CC BY-SA 4.0) apart; see grefel_lib/pretrained.",
}
CHOICE = {  # role of the scored split in checkpoint selection
    "test": "The test split was not used for selection.",
    "val": "The results below are on the split used for selection: expect less on new faces.",
    "train": "The results below are on the training faces: expect less on new faces.",
}
RARE = 50  # below this number of faces, the recall of a class is uncertain


def model_card(evaluation: Evaluation) -> str:
    """Markdown: data, training, selection rule, results with intervals, limitations, licence.

    Args:
        evaluation: Of any split.
    """
    config, facts, metrics = evaluation.config, evaluation.facts, evaluation.metrics
    headline = metrics["checkpoints"][evaluation.headline]
    title = config.run_name or config.dataset
    title = f"{evaluation.run.path.name}, {evaluation.headline}" if evaluation.pooled else title
    head = f"GReFEL, correction {config.correction}"
    if not config.unmet("num_anchors"):
        head += f", {config.num_anchors} anchors per class"
    if config.branches != "both":
        head += f", of {config.branches} alone"
    if reads_earlier(config):
        head += ", branches on an earlier feature map"
    if config.correction == "none":
        head = "GReFEL, no correction"
    if config.head == "linear":
        head = "plain linear head"
    if config.variant:
        head += f"; variant `{config.variant}`: a network or loss of one's own replaces these"
    weights = started_from(Run(trained_in(evaluation.run), config))
    over = "faces"
    if "subject" in evaluation.table:
        people = subject_codes(evaluation.table).max() + 1
        over = f"the {people} people in the pictures (of the ECE and of each class: over faces)"
    lines = [
        f"# Model card: {title}",
        "",
        *(f"{TERMS[name]}\n" for name in sorted(TERMS.keys() & weights)),
        f"A classifier of facial expressions on face crops: {config.backbone} "
        f"({config.image_size} px), {head}.",
        "",
        "## Data",
        "",
        *_data(evaluation),
        *_noise(evaluation),
        "",
        "## Training and selection",
        "",
        f"- At most {config.epochs} epochs, batch {config.batch_size}, seed {config.seed}, initial "
        f"weights: {_start(evaluation)}. All settings are in config.json.",
        *_teacher(config),
        f"- {_checkpoint(evaluation)} by {facts['selection']} ({headline['val_accuracy']:.2%}). "
        f"{_choice(facts)}",
        "",
        f"## Results on {data_title(facts['dataset'], '')}, {split_title(facts)} "
        f"({len(evaluation.table)} faces)",
        "",
        *["Each face is averaged with its mirror image.", ""] * (facts["tta"] == "flip"),
        _markdown(with_intervals({evaluation.headline: headline}, split=facts["split"])),
        "",
        f"Intervals: 95%, over {over}; results on other seeds and data sets vary more. The ECE is "
        f"debiased.",
        *_people(metrics),
        *_copies(metrics),
        "",
        _markdown(class_table(headline["per_class"])[["faces", "recall (%)"]]),
        "",
        *_sure(headline),
        *_robust(evaluation),
        *_attributes(evaluation),
        "## Limits",
        "",
        *_limits(metrics, headline),
        "",
        "## Licence",
        "",
        "The code is MIT. The weights inherit the terms of the data and of the weights they "
        "were initialised from; see above.",
        "",
    ]
    return html.escape(without_paths("\n".join(lines)), quote=False)


def _data(evaluation: Evaluation) -> list[str]:
    """The training data; and the scored data if the data set or protocol differs."""
    facts = evaluation.facts
    trained, scored = (
        (facts[f"{part}dataset"], facts[f"{part}protocol"], facts[f"{part}fingerprint"])
        for part in ("training_", "")
    )
    lines = [f"- {DATA[trained[0]]}.", f"- {_files('Training data', *trained)}"]
    for what, key in (
        ("Training faces dropped as exact copies of validation or test faces", "training_leaks_"),
        ("Validation faces dropped as exact copies of test faces", "validation_copies_"),
    ):
        count = facts.get(f"{key}dropped")
        where = " (in the files it was trained on)" if other_faces(facts) else ""
        lines.append(f"- {what}{where}: {'not recorded' if count is None else count}.")
    if scored[:2] != trained[:2] or other_faces(facts):
        lines.append(f"- {_files('Scored', *scored)} {DATA[scored[0]]}.")
    return lines


def _files(what: str, dataset: str, protocol: str, fingerprint: str | None) -> str:
    protocol = f"protocol {protocol}" if protocol else "the labels as they are on disk"
    return f"{what}: {dataset}, {protocol}; fingerprint {fingerprint or 'not recorded'}."


def _teacher(config: Config) -> list[str]:
    if not config.teacher:
        return []
    names = ", ".join(Path(name).name for name in config.teacher.split(","))
    return [f"- {config.teacher_weight:.0%} of each training target: the predictions of {names}."]


def _checkpoint(evaluation: Evaluation) -> str:
    headline = evaluation.metrics["checkpoints"][evaluation.headline]
    if evaluation.pooled:
        return (
            f"{evaluation.config.folds} models, each scored on the part of the faces that it was "
            f"not trained on; each checkpoint (mean epoch {headline['epoch']}) was selected"
        )
    return f"The checkpoint, {evaluation.headline} of epoch {headline['epoch']}, was selected"


def _choice(facts: Mapping[str, Any]) -> str:
    if not other_faces(facts):
        return CHOICE[facts["split"]]
    if (learned := facts.get("learned_faces")) is None:
        return "Whether faces scored below were used for training or selection was not checked."
    if learned:
        return (
            f"{learned} of the faces scored below are copies of faces used for training or "
            f"selection: expect less on new faces."
        )
    return "No exact copy of a face scored below was used for training or selection."


def _start(evaluation: Evaluation) -> str:
    if evaluation.config.checkpoint_path:
        return f"the run {evaluation.config.checkpoint_path}"
    weights = evaluation.config.backbone_weights
    return "timm's pretrained ones" if weights == "hub" else PureWindowsPath(weights).name


def _noise(evaluation: Evaluation) -> list[str]:
    wrong = evaluation.facts.get("labels_made_wrong")
    kind = evaluation.config.noise_kind
    lines = [f"- Training labels corrupted on purpose ({kind}): {wrong}."] if wrong else []
    if fixes := evaluation.facts.get("label_fixes"):
        lines.append(
            f"- Training labels corrected: {fixes['relabelled']}; training faces left out as "
            f"wrongly labelled: {fixes['left_out']}; fingerprint {fixes['fingerprint']}."
        )
    return lines


def _markdown(table: pd.DataFrame) -> str:
    head = f"| {table.index.name} | {' | '.join(table.columns)} |"
    table = table.rename(index=lambda name: str(name).replace("|", "\\|"))
    rows = [f"| {name} | {' | '.join(map(str, row))} |" for name, row in table.T.items()]
    return "\n".join([head, "|---" * (1 + table.shape[1]) + "|", *rows])


def _people(metrics: dict[str, Any]) -> list[str]:
    if "people" not in metrics:
        return []
    reach = ", ".join(f"{judge} {row['accuracy']:.1%}" for judge, row in metrics["people"].items())
    return ["", f"Annotators, judged by the same labels, which are made of their votes: {reach}."]


def _copies(metrics: dict[str, Any]) -> list[str]:
    parts = [
        f"{name} {row['accuracy']:.1%} ({row['count']} faces)"
        for name, row in metrics.get("copies", {}).items()
        if row["count"] >= FEW
    ]
    if not parts:
        return []
    dropped = metrics.get("training_leaks_dropped")
    why = "; the exact copies were dropped from training" * bool(dropped)
    if other_faces(metrics):
        why = " of these files, of which the model may have learned others"
    return ["", f"Accuracy by presence of a copy among training faces{why}: {', '.join(parts)}."]


def _sure(headline: dict[str, Any]) -> list[str]:
    lines = [f"- ECE {100 * headline['calibration']['ece']:.1f}%"]
    if headline["temperature"]:
        after = 100 * headline["calibration_after"]["ece"]
        fitted = temperature_words(headline["temperature"])
        lines[0] += f", {after:.1f}% at {fitted} (on the validation faces of these data)"
    for name, row in headline["sureness"].items():
        if row["auroc"] is not None:
            lines.append(f"- {name} detects errors with AUROC {row['auroc']:.3f}")
    best = headline.get("surest_on_validation")
    if best and len(headline["sureness"]) > 1:
        lines.append(f"- To reject doubtful predictions, use {best}: it was better on validation")
    return ["## Calibration and error detection", "", *(f"{line}." for line in lines), ""]


def _robust(evaluation: Evaluation) -> list[str]:
    if evaluation.robustness is None:
        return []
    table = evaluation.robustness
    clean = table.loc[table["severity"] == 0, "accuracy"].item()
    worst = table[table["severity"] == 3].set_index("corruption")["accuracy"]
    parts = ", ".join(f"{kind} {value:.1%}" for kind, value in worst.sort_values().items())
    faces = f", on {table['faces'].max()} faces" if "faces" in table else ""
    return [f"Accuracy at severity 3 of 5 ({clean:.1%} uncorrupted{faces}): {parts}.", ""]


def _attributes(evaluation: Evaluation) -> list[str]:
    lines = []
    for name, groups in evaluation.metrics["attributes"].items():
        table = pd.DataFrame.from_dict(groups, orient="index")
        best, worst, gap = largest_gap(table)
        if best:
            rows = table.loc[[best, worst], "accuracy"]
            lines.append(
                f"- {name}: {best} {rows[best]:.1%}, {worst} {rows[worst]:.1%}, a gap of "
                f"{100 * gap:.1f} points"
            )
    return ["## Groups of people", "", *lines, ""] if lines else []


def _limits(metrics: dict[str, Any], headline: dict[str, Any]) -> list[str]:
    rare = [f"{r['class']} ({r['count']})" for r in headline["per_class"] if r["count"] < RARE]
    lines = [
        "- It predicts the expression annotators would name, not what a person feels. It is not a "
        "basis for a decision about anyone.",
        "- It expects one cropped face; crops, ages and cameras unlike those of the data set "
        "were not tested.",
    ]
    if rare:
        lines.append(f"- Fewer than {RARE} faces here, so recall is uncertain: {', '.join(rare)}.")
    if metrics["training_dataset"] == "synthetic":
        lines.append("- It was trained on drawings and must not be used on photographs.")
    return lines
