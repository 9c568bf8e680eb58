"""Does GReFEL help where labels are noisy and classes rare? The labels before, the tables after.

    python notebooks/noise_study/study.py labels DATA      # FER2013's own labels of FERPlus's faces
    STUDY="--dataset ferplus --profile mobile --train-protocol official --image-size 48 --epochs 3 \
        --case head=linear --case correction=paper --grid class_weights=none,logit_adjusted \
        --seeds 0,1,2 --evaluate"
    grefel sweep train --name study-clean $STUDY
    grefel sweep train --name study-confused $STUDY --label-noise 0.4 --noise-kind confusion
    grefel sweep train --name study-fer2013 $STUDY --label-fixes outputs/fer2013_labels.csv
    python notebooks/noise_study/study.py tables
    for name in clean confused fer2013; do
        grefel publish outputs/study-$name notebooks/noise_study/study-$name; done

Changes to the method, on validation alone, with changes.patch applied to commit 45be3c5 (of its two
settings the better one, branch_features, has been kept since; $SAME is $STUDY without its cases,
its grid, its seeds and --evaluate):

    CHANGES="--case anchor_start=faces --case branch_features=earlier --case correction=trust"
    grefel sweep train --name changes-clean $SAME $CHANGES --seeds 2
    grefel sweep train --name changes-confused $SAME $CHANGES --seeds 0,2 \
        --label-noise 0.4 --noise-kind confusion
    python notebooks/noise_study/study.py changes
    python notebooks/noise_study/study.py epochs DATA  # a run of each, looked at after every epoch
    python notebooks/noise_study/study.py shown        # notebook 06's tables, from those above

All runs are judged by FERPlus's majority labels; those that FER2013 taught, by the seven classes
that it has.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score

from grefel_lib import load_faces
from grefel_lib.analysis.calibration import confidence_measures, risk_coverage
from grefel_lib.analysis.compare import evaluated_runs
from grefel_lib.analysis.evaluation import Evaluation, read_table
from grefel_lib.analysis.suspects import suspicion
from grefel_lib.config import PROJECT_ROOT, Config
from grefel_lib.faces import FaceSet, read_label_fixes
from grefel_lib.fit import fit
from grefel_lib.metrics import class_probabilities, compute_metrics, paired_difference
from grefel_lib.predict import model_outputs
from grefel_lib.restore import Trained, load_model
from grefel_lib.run import LAST, Run, open_run, start_run

LABELS = {"study-clean": "FERPlus as it is", "study-confused": "FERPlus, 40% confused",
          "study-fer2013": "FER2013's own"}  # fmt: skip
BALANCE = {"none": "no balance", "logit_adjusted": "logit-adjusted"}
METRICS = ["accuracy", "mean_class_accuracy", "nll", "ece"]
COVERAGE = 0.8
WORDS = {  # of what notebook 06 shows; all but AUROC and KL in percent
    "errors by confidence (AUROC)": "errors, by confidence (AUROC)",
    "errors by reliability (AUROC)": "errors, by reliability (AUROC)",
    "risk at 80% by confidence": "errors at 80% coverage, by confidence (%)",
    "risk at 80% by reliability": "errors at 80% coverage, by reliability (%)",
    "wrong labels (share)": "wrong labels (%)",
    "wrong labels by loss (AUROC)": "wrong labels, by loss (AUROC)",
    "wrong labels by reliability (AUROC)": "wrong labels, by reliability (AUROC)",
    "same_geometric": "anchors name the primary's class (%)",
    "same_attentive": "attention names the primary's class (%)",
    "kl_geometric": "anchors, KL (nats)", "kl_attentive": "attention, KL (nats)",
    "anchors_used": "anchors used (%)", "changed": "predictions changed (%)",
    "mended": "predictions mended (%)", "spoilt": "predictions spoilt (%)",
    "accuracy": "accuracy (%)", "mean_class_accuracy": "mean class accuracy (%)",
}  # fmt: skip
TRIED = {"clean": (2,), "confused": (0, 2)}  # seeds of the changes to the method
HERE = Path(__file__).parent


def write_labels(data_dir: str) -> Path:
    """FER2013's label of every face that FERPlus has a label for, as a file for `label_fixes`."""
    faces, voted = (
        load_faces(Config(dataset=name, data_dir=data_dir, protocol="all", drop_leaks=False))
        for name in ("fer2013", "ferplus")
    )
    train = faces.split("train").table
    train = train[train["id"].isin(voted.table["id"])]
    labels = np.asarray(faces.class_names)[train["label"]]
    path = PROJECT_ROOT / "outputs" / "fer2013_labels.csv"
    path.parent.mkdir(exist_ok=True)
    pd.DataFrame({"id": train["id"], "label": labels}).to_csv(path, index=False)
    return path


def without_contempt(table: pd.DataFrame) -> pd.DataFrame:
    """Predictions of the seven other classes, on faces that are one of them."""
    table = table[table["label"] != "contempt"].drop(columns="p_contempt").reset_index(drop=True)
    probs = class_probabilities(table)
    columns = [column for column in table if column.startswith("p_")]
    table[columns] = probs / probs.sum(axis=1, keepdims=True)
    return table.assign(
        predicted=np.array([c.removeprefix("p_") for c in columns])[probs.argmax(axis=1)]
    )


def judged(result: Evaluation) -> pd.DataFrame:
    """A run's predictions of the test faces."""
    return without_contempt(result.table) if result.config.label_fixes else result.table


def scores(result: Evaluation) -> dict[str, float]:
    """Every number of one run; what does not exist for it is left out."""
    table = judged(result)
    row = {name: compute_metrics(table)[name] for name in METRICS}
    wrong = (table["label"] != table["predicted"]).to_numpy()
    for name, sure in confidence_measures(table).items():
        row[f"errors by {name} (AUROC)"] = roc_auc_score(~wrong, sure)
        curve = risk_coverage(sure, wrong)
        row[f"risk at 80% by {name}"] = np.interp(COVERAGE, curve["coverage"], curve["risk"])
    training = read_table(result.run, "predictions", f"train_{result.headline}")
    if training is not None:
        taught, wrong = labels_taught(training, result)
        row["wrong labels (share)"] = wrong.mean()
        for name, values in suspicion(taught).items():
            row[f"wrong labels by {name} (AUROC)"] = roc_auc_score(wrong, values)
    return row


def labels_taught(training: pd.DataFrame, result: Evaluation) -> tuple[pd.DataFrame, np.ndarray]:
    """Predictions of training faces with the labels a run was taught, and which are wrong: (N,)."""
    if "true_label" in training:
        return training, (training["label"] != training["true_label"]).to_numpy()
    fixes = read_label_fixes(PROJECT_ROOT / result.config.label_fixes)
    taught = training.assign(label=training["id"].map(fixes))
    return taught, (taught["label"] != training["label"]).to_numpy()


def _order(result: Evaluation) -> tuple[int, bool, int]:
    config = result.config
    return list(BALANCE).index(config.class_weights), config.head == "grefel", config.seed


def collect(
    folder: str = "outputs", *, read: Callable[[str], list[Evaluation]] = evaluated_runs
) -> dict[str, pd.DataFrame]:
    """runs (a row a run) and differences (of GReFEL to the linear head, seeds averaged).

    From published runs (notebooks/noise_study) all but what concerns wrong training labels.
    """
    rows, apart = [], []
    for sweep, labels in LABELS.items():
        groups: dict[tuple[str, str], list[Evaluation]] = {}
        for result in sorted(read(f"{folder}/{sweep}"), key=_order):
            keys = (result.config.class_weights, result.config.head)
            groups.setdefault(keys, []).append(result)
            names = dict(zip(("labels", "balance", "head"), (labels, *keys), strict=True))
            rows.append(names | {"seed": result.config.seed} | scores(result))
        for balance in (key for key in BALANCE if (key, "grefel") in groups):
            first, second = ([judged(r) for r in groups[balance, h]] for h in ("linear", "grefel"))
            table = paired_difference(first, second).rename_axis("metric").reset_index()
            table = table.rename(columns={"value": "difference"})
            apart.append(table.assign(variant=f"{labels}, {BALANCE[balance]}"))
    return {"runs": pd.DataFrame(rows), "differences": pd.concat(apart, ignore_index=True)}


@torch.inference_mode()
def diagnosis(trained: Trained, faces: FaceSet) -> dict[str, float]:
    """What the parts of a GReFEL head do, on some faces.

    Returns:
        same_geometric and same_attentive (share of faces for which that branch names the class of
        the primary distribution), kl_geometric and kl_attentive (mean KL of the primary from it, in
        nats), anchors_used (share of the anchors that are nearest to some face), changed (share of
        predictions that the correction changes), mended and spoilt (of all faces: wrong before and
        right after, right before and wrong after).
    """
    outputs = list(model_outputs(trained.model, faces, trained.config))
    primary, corrected = (
        torch.cat([getattr(output, name).float() for output in outputs])
        for name in ("primary_log_probs", "log_probs")
    )
    row = {}
    for branch in ("geometric", "attentive"):
        other = torch.cat([getattr(output, f"{branch}_log_probs").float() for output in outputs])
        row[f"same_{branch}"] = float((primary.argmax(1) == other.argmax(1)).float().mean())
        row[f"kl_{branch}"] = float((primary.exp() * (primary - other)).sum(dim=1).mean())
    embeddings, anchors = torch.cat([o.embeddings for o in outputs]), outputs[0].anchors
    nearest = torch.cdist(embeddings.float(), anchors.flatten(0, 1).float()).argmin(dim=1)
    row["anchors_used"] = len(nearest.unique()) / anchors[..., 0].numel()
    labels = torch.tensor(faces.table["label"].to_numpy())
    before, after = (log_probs.argmax(1).cpu() == labels for log_probs in (primary, corrected))
    row["changed"] = float((primary.argmax(1) != corrected.argmax(1)).float().mean())
    row["mended"] = float((after & ~before).float().mean())
    row["spoilt"] = float((before & ~after).float().mean())
    return row


def diagnose() -> pd.DataFrame:
    """`diagnosis` of every run with a GReFEL head, on its validation faces."""
    rows = []
    for folder, labels in LABELS.items():
        for result in sorted(evaluated_runs(f"outputs/{folder}"), key=_order):
            if result.config.head == "grefel":
                faces = load_faces(result.config.replace(label_fixes="")).split("val")
                names = {"labels": labels, "balance": result.config.class_weights}
                rows.append(names | {"seed": result.config.seed}
                            | diagnosis(load_model(result.run), faces))  # fmt: skip
    return pd.DataFrame(rows)


def validated(run: Run) -> dict[str, float]:
    """Validation accuracy of a run's best epoch, and mean class accuracy of the same weights."""
    history = run.history()
    kind = max(("", "ema_"), key=lambda kind: history[f"{kind}val_accuracy"].max())
    best = history.loc[history[f"{kind}val_accuracy"].idxmax()]
    classes = best.filter(regex=f"^{kind}val_accuracy_")
    return {"accuracy": best[f"{kind}val_accuracy"], "mean_class_accuracy": classes.mean()}


def changes() -> pd.DataFrame:
    """The heads of the study and the changed ones on validation: a row a run."""
    rows, known = [], pd.read_csv(HERE / "diagnosis.csv").query("balance == 'none'")
    known = known.drop(columns="balance").set_index(["labels", "seed"])
    for name, seeds in TRIED.items():
        published = [
            path for seed in seeds
            for path in sorted((HERE / f"study-{name}").glob(f"*class_weights=none-seed={seed}"))
        ]  # fmt: skip
        tried = sorted((PROJECT_ROOT / "outputs").glob(f"changes-{name}/*seed=*"))
        for path in (*published, *tried):
            run, trial = open_run(str(path)), path in tried
            what = re.sub("(-class_weights=none)?-seed=.*", "", path.name)
            names = {"labels": LABELS[f"study-{name}"], "head": what, "seed": run.config.seed}
            parts = {}
            if trial:
                parts = diagnosis(load_model(run), load_faces(run.config).split("val"))
            elif run.config.head == "grefel":
                parts = known.loc[(names["labels"], names["seed"])].to_dict()
            rows.append(names | validated(run) | parts)
    return pd.DataFrame(rows)


def shown() -> dict[str, pd.DataFrame]:
    """What notebook 06 shows of the GReFEL heads (a row a quantity) and of the changes, as text."""
    runs, parts, tried = (pd.read_csv(HERE / f"{n}.csv") for n in ("runs", "diagnosis", "changes"))
    by = ["labels", "balance"]
    means = [
        table.groupby(by, sort=False).mean(numeric_only=True)
        for table in (runs.query("head == 'grefel'"), parts)
    ]
    heads = pd.concat(means, axis=1)[[*list(WORDS)[:-2]]].rename(index=BALANCE).T
    groups = tried.groupby(["labels", "head"], sort=False)
    columns = ["accuracy", "mean_class_accuracy", "same_geometric"]
    changed = groups[columns].mean().rename(columns=WORDS).map(lambda v: _text(v, "%"))
    return {
        "shown_heads": heads.rename(index=WORDS).apply(
            lambda row: row.map(lambda v: _text(v, row.name)), axis=1
        ),
        "shown_changes": changed.assign(seeds=groups.size()),
    }


def _text(value: float, name: str) -> str:
    if pd.isna(value):
        return "–"
    return f"{100 * value:.1f}" if "%" in name else f"{value:.3f}"


def by_epoch(data_dir: str, output_dir: str = "outputs/epochs") -> pd.DataFrame:
    """`diagnosis` of a GReFEL head after each of its three epochs, for two kinds of labels."""
    rows = []
    for name, noise in (("study-clean", 0.0), ("study-confused", 0.4)):
        config = Config.resolve(
            {"dataset": "ferplus", "data_dir": data_dir, "profile": "mobile", "image_size": 48,
             "train_protocol": "official", "epochs": 3, "label_noise": noise, "seed": 2,
             "noise_kind": "confusion", "output_dir": output_dir, "run_name": name}
        )  # fmt: skip
        faces = load_faces(config)
        run = start_run(config, faces.info)

        def look(said: str, run: Run = run, faces: FaceSet = faces, name: str = name) -> None:
            epoch = len(run.history()) if run.has_checkpoint(LAST) else 0
            if epoch > sum(row["labels"] == LABELS[name] for row in rows):
                trained = load_model(run.checkpoint(LAST))
                names = {"labels": LABELS[name], "epoch": epoch}
                rows.append(names | diagnosis(trained, faces.split("val")))

        fit(faces, run, say=look)
    return pd.DataFrame(rows)


def main(what: str, data_dir: str = "") -> None:
    if what == "labels":
        print(f"wrote {write_labels(data_dir)}")
        return
    tables = {
        "tables": lambda: collect() | {"diagnosis": diagnose()},
        "changes": lambda: {"changes": changes()},
        "epochs": lambda: {"epochs": by_epoch(data_dir)},
        "shown": shown,
    }
    if what not in tables:
        sys.exit(f"study.py labels DATA, tables, changes, epochs DATA, or shown; got {what!r}")
    for name, table in tables[what]().items():
        table.to_csv(HERE / f"{name}.csv", index=what == "shown", float_format="%.6g")
        print(table.round(4).to_string(index=what == "shown"))


if __name__ == "__main__":
    main(*sys.argv[1:])
