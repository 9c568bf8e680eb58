"""An evaluation as saved: everything it tells is made again from its files, byte for byte."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
from collections import Counter
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import TAG
from drawn_figures import font_sizes, texts
from strict_latex import parse

from grefel_lib.analysis.compare import differing_fact
from grefel_lib.analysis.evaluation import (
    Evaluation,
    better_checkpoint,
    evaluate_run,
    load_evaluation,
    scored_faces,
    training_facts,
)
from grefel_lib.analysis.robustness import SEVERITIES
from grefel_lib.commands.cli import main
from grefel_lib.commands.notebook import evaluation_lines, resolve_evaluation
from grefel_lib.commands.sweep import Point, is_finished
from grefel_lib.config import Config
from grefel_lib.faces import load_faces
from grefel_lib.files import Folder, load_checkpoint, save_checkpoint
from grefel_lib.fit import fit
from grefel_lib.metrics import compute_metrics, confusion_counts, table_classes
from grefel_lib.predict import predict
from grefel_lib.report.card import TERMS, _copies, model_card
from grefel_lib.report.everything import (
    FIGURES,
    NEED_FACES,
    caption,
    draw,
    evaluation_tables,
    write_report,
)
from grefel_lib.report.style import SMALLEST, VENUES, WIDTHS, Paper
from grefel_lib.report.tables import with_intervals
from grefel_lib.restore import load_model
from grefel_lib.run import BEST, BEST_EMA, LAST, Run, start_run


@pytest.fixture(scope="module")
def run(faces_dir, tmp_path_factory):
    config = Config.resolve(
        {"profile": "demo", "dataset": "ferplus", "data_dir": str(faces_dir), "epochs": 2,
         "output_dir": str(tmp_path_factory.mktemp("outputs")), "run_name": "r",
         "robustness_images": 20, "label_noise": 0.2}
    )  # fmt: skip
    faces = load_faces(config)
    made = start_run(config, faces.info)
    fit(faces, made)
    return made


@pytest.fixture(scope="module")
def found(run):
    return evaluate_run(run, load_faces(run.config), run.config, run)


@pytest.fixture(scope="module")
def faces(run):
    return load_faces(run.config)


@pytest.fixture(scope="module")
def told(run, found):
    write_report(found, run)
    return found.metrics


def predictions(seed: int = 0, right: float = 0.5, size: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=size)
    probs = rng.dirichlet(np.ones(3), size=size) * (1 - right) + right * np.eye(3)[labels]
    names = np.array(["neutral", "happiness", "fear"])
    table = pd.DataFrame({"id": [f"face{i}" for i in range(size)], "label": names[labels]})
    table["predicted"] = names[probs.argmax(axis=1)]
    return table.assign(**{f"p_{name}": probs[:, i] for i, name in enumerate(names)})


def evaluation(tables, validation=None, **parts) -> Evaluation:
    facts = {
        "dataset": "ferplus", "fingerprint": "f", "protocol": "official", "split": "test",
        "tta": "none", "training_dataset": "ferplus", "training_fingerprint": "f",
        "training_protocol": "official",
        "training_leaks_dropped": 3, "selection": "validation accuracy",
        "headline": next(iter(tables)),
        "checkpoints": {name: {"epoch": 1, "val_accuracy": 0.5} for name in tables},
    }  # fmt: skip
    config = Config(dataset="ferplus")
    run = Run(Path("nowhere"), config)
    return Evaluation(run, config, facts, tables, validation or {}, **parts)


# -- each evaluation has its own folder, and fits its checkpoints


def evaluate(run, **given):
    """What notebook 05 does: its results, from parameters."""
    given = {"checkpoint_dir": str(run.path), "robustness_images": 0} | given
    run, results, config = resolve_evaluation(given)
    done = evaluate_run(run, load_faces(config), config, results)
    write_report(done)
    return done


def test_other_splits_and_protocols_have_their_own_folder_and_card(run, told, capsys):
    before = (run.path / "metrics.json").read_bytes(), (run.path / "model_card.md").read_bytes()
    val = evaluate(run, split="val", batch_size=17)
    flips = evaluate(run, tta="flip", inspect_labels=False)
    assert flips.folder.path == run.path / "evaluate_ferplus_official_test_flip"
    assert flips.facts["tta"] == "flip" != told["tta"]
    assert "each face averaged with its mirror image" in caption(flips)
    assert "averaged with its mirror image" in (flips.folder.path / "model_card.md").read_text()
    assert differing_fact(load_evaluation(run), load_evaluation(flips.folder)) == "tta"
    everyone = evaluate(run, protocol="all", inspect_labels=False)
    assert val.folder.path == run.path / "evaluate_ferplus_official_val"
    assert everyone.folder.path == run.path / "evaluate_ferplus_all_test"
    after = (run.path / "metrics.json").read_bytes(), (run.path / "model_card.md").read_bytes()
    assert before == after
    of_val, of_everyone = cards = [
        (one.folder.path / "model_card.md").read_text() for one in (val, everyone)
    ]
    for card in cards:  # what was trained stays what it was
        assert f"batch {run.config.batch_size}, seed" in card
        assert f"validation or test faces: {told['training_leaks_dropped']}." in card
        assert "Training data: ferplus, protocol official" in card
    assert "The results below are on the split used for selection" in of_val
    assert "was not used for selection" not in of_val
    assert "Scored: ferplus, protocol all" in of_everyone
    assert f"FERPlus, test split ({len(everyone.table)} faces)" in of_everyone
    assert "trained on FERPlus (protocol official)" in caption(everyone)
    for one, card in zip((val, everyone), cards, strict=True):
        (one.folder.path / "model_card.md").unlink()
        assert main(["report", str(one.folder.path)]) == 0
        assert (one.folder.path / "model_card.md").read_text() == card
        assert load_evaluation(one.folder).history is not None
    capsys.readouterr()


def test_nothing_of_an_earlier_evaluation_stays(run, told):
    first = evaluate(run, split="val", robustness_images=20)
    path = first.folder.path
    assert (path / "figures/robustness.pdf").is_file()
    assert (path / "predictions" / f"train_{first.headline}.csv").is_file()
    evaluate(run, split="val", inspect_labels=False)
    left = [p.name for p in path.rglob("*") if "robustness" in p.name or p.name[:5] == "train"]
    assert sorted(left) == ["training_curves.pdf", "training_curves.png"]
    assert load_evaluation(Run(path, run.config)).robustness is None


def test_only_tables_with_intervals_speak_of_intervals(run, told):
    texts = {p.stem: p.read_text() for p in run.path.glob("tables/*.tex")}
    speaking = {name for name, text in texts.items() if "95\\% interval" in text}
    assert speaking == {name for name, text in texts.items() if re.search(r"\d \[\d", text)}
    assert speaking == {"comparison", "per_class", "copies"}


def test_an_evaluation_older_than_the_checkpoint_is_refused(faces_dir, tmp_path, capsys):
    given = {"profile": "demo", "dataset": "ferplus", "data_dir": str(faces_dir), "epochs": 2,
             "output_dir": str(tmp_path), "run_name": "r", "early_stopping": 0}  # fmt: skip
    config = Config.resolve(given)
    faces = load_faces(config)
    run = start_run(config, faces.info)

    def stop_after_one(line):
        run.ask_to_stop()

    fit(faces, run, say=stop_after_one)
    evaluate(run, inspect_labels=False)
    evaluate(run, split="val", inspect_labels=False)
    point = Point("r", "train", given, True)
    tensors, facts = run.load_checkpoint(LAST)
    facts["history"][0] |= {"val_accuracy": -1, "ema_val_accuracy": -1}  # the next one is better
    run.save_checkpoint(LAST, tensors, facts)
    fit(faces, start_run(config, faces.info))
    for folder in (run.path, run.path / "evaluate_ferplus_official_val"):
        flags = " --dataset ferplus --protocol official --split val --tta none --data-dir "
        flags = "" if folder == run.path else f"{flags}{faces_dir}"
        again = f"epoch 1, but .* epoch 2; evaluate again: .*dir {run.path}{flags}"
        with pytest.raises(ValueError, match=again):
            load_evaluation(Run(folder, config))
        assert main(["report", str(folder)]) == 1
    assert main(["publish", str(tmp_path), str(tmp_path / "shared")]) == 1
    assert capsys.readouterr().err.count("evaluate again: grefel evaluate") == 3
    assert not is_finished(point)
    evaluate(run, inspect_labels=False)
    assert load_evaluation(run).saved_headline["epoch"] > 1
    assert is_finished(point)


def test_weights_of_another_training_with_the_same_facts_are_noticed(run, told, tmp_path):
    copy = Run(tmp_path / "copy", run.config)
    shutil.copytree(run.path, copy.path)
    path = copy.path / "checkpoints" / f"{BEST}.safetensors"
    tensors, facts = load_checkpoint(path)
    facts.pop("sha256")
    save_checkpoint(
        path, tensors | {k: v + 1 for k, v in tensors.items() if k[-4:] == "bias"}, facts
    )
    with pytest.raises(ValueError, match="is now another"):
        load_evaluation(copy)


# -- saved and read back


def test_what_was_saved_is_what_is_read(run, found, told):
    again = load_evaluation(run)
    assert again.facts == found.facts
    for mine, theirs in (
        (found.predictions, again.predictions),
        (found.validation, again.validation),
    ):
        assert mine.keys() == theirs.keys() == {BEST, BEST_EMA}
        for name in mine:
            pd.testing.assert_frame_equal(mine[name], theirs[name], check_exact=True)
    for name in ("training", "robustness", "copies", "history"):
        mine, theirs = getattr(found, name), getattr(again, name)
        pd.testing.assert_frame_equal(mine, theirs, check_exact=True)
    assert found.inside.keys() == again.inside.keys() >= {"embeddings", "anchors", "attention"}


def test_the_report_writes_the_same_bytes_again(run, told, capsys):
    kinds = (".pdf", ".png", ".tex", ".md", ".npy")
    kept = [p for p in run.path.rglob("*") if p.suffix in kinds and "/evaluate_" not in str(p)]
    kept += [run.path / "metrics.json", *run.path.glob("tables/*.csv")]
    before = {path: path.read_bytes() for path in kept}
    assert len([p for p in kept if p.suffix == ".pdf"]) == len(FIGURES[Evaluation]) - len(
        NEED_FACES
    )
    for path in kept:
        if path.name != "metrics.json":
            path.unlink()
    killed = run.path / "figures/.confusion_matrices.pdf.12-0123abcd@elsewhere"
    killed.touch()
    os.utime(killed, (0, 0))
    assert main(["report", str(run.path)]) == 0
    assert not killed.exists()
    assert "wrote metrics.json" in capsys.readouterr().out
    for path, content in before.items():
        assert path.read_bytes() == content, path.name


def test_every_font_is_truetype_and_every_figure_as_wide_as_its_column(run, told):
    for path in run.path.glob("figures/*.pdf"):
        content = path.read_bytes()
        assert b"/Type3" not in content, path.name
        points = float(re.search(rb"/MediaBox \[ 0 0 ([\d.]+)", content)[1])
        assert points / 72 in [pytest.approx(w, abs=0.01) for w in WIDTHS.values()], path.name


def test_figures_take_the_width_of_the_venue(run, found, told, tmp_path):
    folder = Run(tmp_path, run.config)
    for name, width in (("confusion_matrix", 3.5), ("reliability", 7.16)):
        draw(found, name, folder=folder, paper=Paper("ieee"))
        content = (tmp_path / f"figures/{name}.pdf").read_bytes()
        assert f"/MediaBox [ 0 0 {72 * width:g} ".encode() in content
    assert main(["report", str(run.path), "--venue", "x"]) == 1


def test_a_report_for_a_venue_draws_every_figure_in_its_width_font_and_names(
    run, found, faces, told, tmp_path, assert_readable
):
    venue = "eccv"  # the narrowest page
    paper = Paper(venue, model="Ours", class_names={"anger": "Extremely angry", "fear": "Fear"})
    write_report(found, Folder(tmp_path), paper=paper, faces=faces)
    written = {path.stem: path for path in tmp_path.glob("figures/*.pdf")}
    assert {"errors", "attention", "suspects", "training_curves"} <= written.keys()
    for name, path in written.items():
        points = float(re.search(rb"/MediaBox \[ 0 0 ([\d.]+)", path.read_bytes())[1])
        assert points / 72 in [pytest.approx(w, abs=0.01) for w in VENUES[venue]], name
        assert min(font_sizes(path), default=SMALLEST) >= SMALLEST, name
    shown = found.with_class_names(paper.class_names)
    for name in written.keys() - {"attention"}:
        assert_readable(draw(shown, name, faces=faces, paper=paper))
    titles = texts(draw(shown, "confusion_matrices", paper=paper))
    assert {"Ours, raw weights", "Ours, EMA weights"} <= titles
    latex = (tmp_path / "tables/per_class.tex").read_text()
    assert "Extremely angry" in latex
    assert "Ours on FERPlus (protocol official), test split" in latex
    assert "angry" not in (tmp_path / "metrics.json").read_text()


def test_the_command_ends_with_a_table_and_where_to_find_the_figures(run, found, told, tmp_path):
    lines = evaluation_lines(run.path)
    for name in ("accuracy (%)", "mean class accuracy (%)", "macro F1 (%)", "best_model", "anger"):
        assert name in lines
    accuracy = found.metrics["checkpoints"][found.headline]["metrics"]["accuracy"]
    assert f"{100 * accuracy:.1f} [" in lines
    numbers = json.loads((run.path / "metrics.json").read_text())
    (other,) = numbers["checkpoints"].keys() - {found.headline}
    numbers["checkpoints"][other]["per_class"] = []  # classes are told of the headline alone
    classes = evaluation_lines(Folder(tmp_path).write_json(numbers, "metrics.json").parent)
    for name, faces in found.table.groupby("label"):
        recall = 100 * (faces["predicted"] == name).mean()
        assert re.search(rf"^{name} +{len(faces)} +{recall:.1f} \[", classes, re.MULTILINE)
    last = dict(line.split(": ", 1) for line in lines.splitlines()[-5:])
    matrix = Path(last["confusion matrix for your paper"].strip())
    assert matrix.is_file()


def test_names_of_classes_are_checked(found):
    with pytest.raises(ValueError, match="no class 'wrath'"):
        found.with_class_names({"wrath": "Anger"})
    with pytest.raises(ValueError, match="two classes would have one name"):
        found.with_class_names({"anger": "fear"})


def test_other_names_of_classes_are_those_of_the_embedded_faces_as_well(found):
    before = found.inside["labels"]
    after = found.with_class_names({"anger": "Extremely angry"}).inside["labels"]
    assert "anger" in before
    assert list(after) == ["Extremely angry" if name == "anger" else name for name in before]


def test_a_report_draws_faces_only_of_the_data_that_were_scored(run, found, told, capsys):
    facts = {**found.facts, "fingerprint": found.facts["fingerprint"] + "x"}
    assert scored_faces(dataclasses.replace(found, facts=facts)) is None
    assert scored_faces(found).info["fingerprint"] == found.facts["fingerprint"]
    assert main(["report", str(run.path), "--cells", "x"]) == 1
    assert main(["report", str(run.path), "--class-names", "anger"]) == 1
    assert "write anger=NAME" in capsys.readouterr().err


def test_the_errors_drawn_are_the_most_confident_ones_of_the_scored_split(found, faces):
    table = found.validation[found.headline]
    facts = {**found.facts, "split": "val"}
    of_val = dataclasses.replace(found, facts=facts, predictions=found.validation)
    confidence = table.filter(regex="^p_").max(axis=1)[table["label"] != table["predicted"]]
    worst = table["id"][confidence.sort_values().index[:-5:-1]]
    rows = faces.table.set_index("id")["row"][worst]
    fig = draw(of_val, "errors", faces=faces)
    drawn = [ax.images[0].get_array() for ax in fig.axes if ax.images]
    np.testing.assert_array_equal(drawn, faces.images[rows])


def test_classes_come_in_any_order(found, tmp_path):
    names = table_classes(found.table)
    other = found.in_order(names[::-1])
    assert table_classes(other.table) == names[::-1]
    counts = confusion_counts(found.table)
    np.testing.assert_array_equal(confusion_counts(other.table), counts[::-1, ::-1])
    np.testing.assert_array_equal(other.inside["anchors"], found.inside["anchors"][::-1])
    assert compute_metrics(other.table) == pytest.approx(compute_metrics(found.table))
    write_report(found, Run(tmp_path, found.config), paper=Paper(class_order=names[::-1]))
    first = (tmp_path / "tables/per_class.csv").read_text().splitlines()[1]
    assert first.startswith(names[-1])
    stored = np.load(tmp_path / f"confusion_matrix_{found.headline}.npy")
    np.testing.assert_array_equal(stored, counts)  # as the predictions are
    same = with_intervals(found.metrics["checkpoints"])["best_model"].tolist()
    assert pd.read_csv(tmp_path / "tables/comparison.csv")["best_model"].tolist() == same
    shares = pd.crosstab(found.table["label"], found.table["predicted"], normalize="index")
    stored = np.load(tmp_path / f"confusion_matrix_{found.headline}_normalised.npy")
    np.testing.assert_allclose(stored, shares.reindex(index=names, columns=names, fill_value=0))
    with pytest.raises(ValueError, match=r"must contain each of neutral, .* once"):
        found.in_order(names[1:])


def test_the_record_survives_json_and_carries_every_number(found, told):
    again = json.loads(json.dumps(told, allow_nan=False))
    assert again == told
    for name, table in found.predictions.items():
        mine = told["checkpoints"][name]
        assert mine["metrics"] == compute_metrics(table)
        assert mine["calibration"]["nll"] == pytest.approx(mine["metrics"]["nll"])
        for metric, (low, high) in mine["intervals"].items():
            assert low <= high, metric
        assert mine["temperature"] > 0
        assert set(mine["sureness"]) == {"confidence", "reliability"}
    assert set(told["people"]) == {"one annotator", "a second panel"}
    assert sum(row["count"] for row in told["copies"].values()) == len(found.table)
    assert set(told["label_detection"]) == {"loss", "reliability"}
    assert told["labels_made_wrong"] == round(0.2 * len(found.training))


def test_the_temperature_comes_from_validation_alone(found, told):
    spoiled = {n: t.assign(label=t["label"].to_numpy()[::-1]) for n, t in found.predictions.items()}
    other = dataclasses.replace(found, predictions=spoiled).metrics
    for name in spoiled:
        mine, theirs = told["checkpoints"][name], other["checkpoints"][name]
        assert mine["metrics"] != theirs["metrics"]
        assert mine["temperature"] == theirs["temperature"]


def test_the_headline_is_chosen_on_validation_whatever_the_test_split_says():
    known = {"a": {"val_accuracy": 0.8}, "b": {"val_accuracy": 0.9}, "c": {"val_accuracy": 0.9}}
    assert better_checkpoint(known) == "b"


def test_what_only_the_headline_is_asked_comes_from_its_weights(run, faces, tmp_path, monkeypatch):
    monkeypatch.setattr("grefel_lib.analysis.evaluation.better_checkpoint", lambda _: BEST_EMA)
    done = evaluate_run(run, faces, run.config, Run(tmp_path, run.config))
    anchors = run.load_checkpoint(BEST_EMA)[0]["head.anchors"].numpy()
    length = np.linalg.norm(done.inside["anchors"], axis=-1) / np.linalg.norm(anchors, axis=-1)
    np.testing.assert_allclose(done.inside["anchors"], anchors * length[..., None], rtol=1e-4)
    net = load_model(run.checkpoint(BEST_EMA)).model
    expected = predict(net, faces.split("train"), run.config)["reliability"]
    np.testing.assert_allclose(done.training["reliability"], expected, rtol=1e-4)
    sample = done.table.iloc[np.linspace(0, len(done.table) - 1, 20).round().astype(int)]
    clean = done.robustness.set_index("corruption")["ece"]["clean"]
    assert clean == pytest.approx(compute_metrics(sample)["ece"])


def test_the_surest_measure_is_the_better_one_on_validation():
    test, validation = (predictions(seed, right=0.2) for seed in (0, 1))
    test["reliability"] = (test["label"] != test["predicted"]) * 1.0  # misleads there
    validation["reliability"] = (validation["label"] == validation["predicted"]) * 1.0
    told = evaluation({"a": test}, {"a": validation}).metrics["checkpoints"]["a"]
    assert told["sureness"]["reliability"]["auroc"] == 0
    assert told["surest_on_validation"] == "reliability"


def test_checkpoints_scored_on_different_images_are_not_compared():
    tables = {"a": predictions(), "b": predictions().iloc[1:]}
    with pytest.raises(
        ValueError, match=r"the checkpoints were scored on different images \(a 60, b 59\)"
    ):
        _ = evaluation(tables).metrics


def test_every_table_fits_a_column_and_is_sound_latex(run, found, told):
    tables = {"comparison": with_intervals(found.metrics["checkpoints"])}
    tables |= evaluation_tables(found)
    assert set(tables) >= {
        "per_class",
        "calibration",
        "sureness",
        "robustness",
        "copies",
    }
    for name in tables:
        rows = parse((run.path / "tables" / f"{name}.tex").read_text())["rows"]
        assert len(rows) == len(tables[name]) + 1
        widest = max(sum(len(cell) for cell in row) for row in rows)
        assert widest < 66, f"{name}: {widest} characters in a row"


def test_tables_of_two_evaluations_have_labels_of_their_own_without_a_machines_path(
    found, tmp_path
):
    labels = set()
    for place in ("one/a", "one/b=1", "two/a"):
        write_report(found, Folder(tmp_path / "secret" / place))
        for table in (tmp_path / "secret" / place).glob("tables/*.tex"):
            labels.add(label := parse(table.read_text())["label"])
            assert "secret" not in label, "no path of this machine"
    assert len(labels) == 3 * (1 + len(evaluation_tables(found)))


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no TeX engine here")
def test_the_tables_compile_in_a_two_column_paper(run, told, tmp_path):
    inputs = "".join(rf"\input{{{p}}}" for p in sorted(run.path.glob("tables/*.tex")))
    paper = r"\documentclass[twocolumn]{article}\usepackage{booktabs}\begin{document}"
    (tmp_path / "paper.tex").write_text(paper + inputs + r"\end{document}")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout


def test_the_card_says_what_a_reader_must_know(run, found, told):
    text = (run.path / "model_card.md").read_text()
    mine = told["checkpoints"][found.headline]
    for word in (
        "ferplus", "official", "validation accuracy", found.headline, f"{mine['val_accuracy']:.2%}",
        f"{100 * mine['metrics']['accuracy']:.1f} [", "one annotator", "temperature", "Limits",
        "Licence", "corrupted on purpose", "severity 3",
    ):  # fmt: skip
        assert word in text, word
    assert "None" not in text
    assert "nan" not in text


def test_the_card_names_the_teachers(found):
    taught = found.config.replace(teacher="outputs/a,outputs/b", teacher_weight=0.7)
    card = model_card(dataclasses.replace(found, config=taught))
    assert "- 70% of each training target: the predictions of a, b." in card
    assert "the predictions of" not in model_card(found).partition("## Results")[0]


def test_accuracy_under_corruption_is_told_by_severity():
    rows = [("clean", 0, 0.9)]
    rows += [(kind, severity, 0.8 - 0.1 * severity - 0.01 * place)
             for place, kind in enumerate(SEVERITIES) for severity in range(1, 6)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["corruption", "severity", "accuracy"])
    table = table.assign(faces=20, mean_class_accuracy=0.1, ece=0.2)
    found = evaluation({"a": predictions()}, robustness=table)
    assert (
        "Accuracy at severity 3 of 5 (90.0% uncorrupted, on 20 faces): rotation 45.0%, occlusion "
        "46.0%, jpeg 47.0%, low contrast 48.0%, noise 49.0%, blur 50.0%."
    ) in model_card(found)
    told = evaluation_tables(found)["robustness"]
    assert list(told.columns) == [0, 1, 2, 3, 4, 5]
    assert told.loc["noise"].tolist() == pytest.approx([90, 69, 59, 49, 39, 29])


def test_calibration_is_told_before_and_after_the_temperature():
    test, validation = predictions(0, right=0.1), predictions(1, right=0.2)
    found = evaluation({"a": test}, {"a": validation})
    temperature = found.metrics["checkpoints"]["a"]["temperature"]
    columns = [name for name in test if name.startswith("p_")]
    probs = test[columns] ** (1 / temperature)
    soft = test.assign(**probs.div(probs.sum(axis=1), axis=0))
    before, after = (compute_metrics(table) for table in (test, soft))
    told = evaluation_tables(found)["calibration"]
    assert list(told.columns) == ["as trained", words := f"temperature {temperature:.2f}"]
    assert told.loc["NLL"].tolist() == pytest.approx([before["nll"], after["nll"]])
    ece = 100 * before["ece"], 100 * after["ece"]
    assert told.loc["ECE (%)"].tolist() == pytest.approx(ece)
    assert f"- ECE {ece[0]:.1f}%, {ece[1]:.1f}% at {words} (on" in model_card(found)


def test_the_card_names_only_the_branches_there_are(found):
    for changes, said in (({}, ", 10 anchors per class"), ({"branches": "attention"}, "attention")):
        config = found.config.replace(num_anchors=10, **changes)
        card = model_card(dataclasses.replace(found, config=config))
        assert said in card
        assert ("anchors per class" in card) == (not changes)


def test_the_card_of_a_child_has_the_terms_of_its_parents_weights(found, tmp_path):
    record = {"parents_weights": ["face"]}
    (tmp_path / "environment.json").write_text(json.dumps(record))
    child = dataclasses.replace(found, run=Run(tmp_path, found.config))
    assert TERMS["face"] in model_card(child)
    assert TERMS["face"] not in model_card(found)


def test_a_measure_alone_is_not_called_the_better_one(found, told):
    assert "was better on validation" in model_card(found)
    one = json.loads(json.dumps(told))
    del one["checkpoints"][found.headline]["sureness"]["reliability"]
    alone = dataclasses.replace(found)
    vars(alone)["metrics"] = one
    assert "was better on validation" not in model_card(alone)


def test_captions_count_the_faces_of_their_own_table(run, found, told):
    sizes = {"robustness": 20, "class_offsets": len(found.validation[found.headline]),
             "comparison": len(found.table)}  # fmt: skip
    assert len(set(sizes.values())) == 3
    for name, size in sizes.items():
        text = " ".join((run.path / "tables" / f"{name}.tex").read_text().split())
        assert f", {size} faces" in text, name
    offsets = (run.path / "tables/class_offsets.tex").read_text()
    assert "test split" not in offsets
    assert "uncorrupted, on 20 faces)" in (run.path / "model_card.md").read_text()


def test_the_card_tells_copies_that_were_learned_from_those_that_were_not(found):
    told = found.metrics | {"training_leaks_dropped": 29, "copies": {
        "no copy": {"accuracy": 0.9, "count": 200}, "near copy": {"accuracy": 1.0, "count": 9},
        "exact copy": {"accuracy": 0.8, "count": 10}}}  # fmt: skip
    line = _copies(told)[1]
    assert "the exact copies were dropped from training" in line
    assert "no copy 90.0% (200 faces), exact copy 80.0% (10 faces)." in line, "nine are too few"
    assert "dropped" not in _copies(told | {"training_leaks_dropped": 0})[1]


def test_a_bar_in_the_name_of_a_class_breaks_no_table(found):
    card = model_card(found.with_class_names({table_classes(found.table)[0]: "a|b"}))
    lines = [line for line in card.splitlines() if line.startswith("| a") and "b" in line]
    assert any(line.startswith("| a\\|b |") for line in lines)
    assert not any("a|b" in line for line in lines)


def test_names_of_classes_are_text_in_the_card(found):
    card = model_card(found.with_class_names({table_classes(found.table)[0]: TAG}))
    assert TAG not in card
    assert "&lt;b&gt;x" in card


def test_a_linear_head_without_extras_is_reported_all_the_same(tmp_path):
    found = evaluation({"a": predictions()})
    run = Run(tmp_path, found.config)
    write_report(found, run)
    told = found.metrics
    assert told["checkpoints"]["a"]["temperature"] is None
    assert not {"copies", "people", "label_detection"} & told.keys()
    assert not (tmp_path / "figures/robustness.pdf").exists()
    assert (tmp_path / "figures/reliability.pdf").exists()
    assert "None" not in (tmp_path / "model_card.md").read_text()


def test_maps_of_attention_belong_to_their_faces():
    weights = np.arange(8).reshape(2, 4).astype(np.float16)
    inside = {"ids": np.array(["x", "y"]), "attention": weights}
    found = evaluation({"a": predictions()}, inside=inside)
    np.testing.assert_array_equal(found.attention_of(["y"]), weights[1:].reshape(1, 2, 2))
    with pytest.raises(ValueError, match="1 of 2 faces"):
        found.attention_of(["x", "z"])


def test_reports_of_what_is_not_there_are_refused(run, told, tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 1
    assert "no run" in capsys.readouterr().err
    run.write_json(dataclasses.asdict(run.config), "config.json")
    empty = Run(tmp_path / "e", run.config)
    empty.write_json(dataclasses.asdict(run.config), "config.json")
    assert main(["report", str(empty.path)]) == 1
    assert "was not evaluated; first: grefel evaluate" in capsys.readouterr().err
    empty.write_json({}, "evaluate_folder_x_val", "metrics.json")
    assert main(["report", str(empty.path)]) == 1
    assert f"; see {empty.path}/evaluate_folder_x_val, or: grefel" in capsys.readouterr().err
    shutil.copy(run.path / "metrics.json", empty.path)
    assert main(["report", str(empty.path)]) == 1
    assert "has no predictions at" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no figure 'x'; there are: accuracy"):
        draw(load_evaluation(run), "x")


def test_models_are_built_and_tables_checked_and_resampled_once(run, tmp_path, monkeypatch):
    counts = Counter()

    def count(name, times=lambda *arguments: 1):
        place, _, function = name.rpartition(".")
        original = getattr(import_module(f"grefel_lib.{place}"), function)

        def counted(*arguments, **options):
            counts[function] += times(*arguments)
            return original(*arguments, **options)

        monkeypatch.setattr(f"grefel_lib.{name}", counted)

    count("restore.build_model")
    count("analysis.evaluation.check_predictions")
    count("analysis.evaluation.fit_temperature")
    count("analysis.evaluation.bootstrap_intervals")
    config = run.config.replace(robustness_images=0)
    write_report(evaluate_run(run, load_faces(config), config, Run(tmp_path, config)))
    assert counts == {
        "build_model": 2,  # both checkpoints
        "check_predictions": 5,  # both on test and validation, the headline on training faces
        "fit_temperature": 2,
        "bootstrap_intervals": 2,
    }


def test_an_evaluation_leaves_what_is_not_its_own(run, tmp_path):
    own = tmp_path / "predictions/mine.csv"
    Run(tmp_path, run.config).write_text("my,own\n", "predictions", own.name)
    (tmp_path / "inside/folder").mkdir(parents=True)
    stale = tmp_path / "predictions/train_other.csv"
    stale.write_text("")
    resolve = {"checkpoint_dir": str(run.path), "output_dir": str(tmp_path)}
    _, results, config = resolve_evaluation(resolve)
    config = config.replace(robustness_images=0, inspect_labels=False)
    evaluate_run(run, load_faces(config), config, results)
    assert own.read_text() == "my,own\n"
    assert (tmp_path / "inside/folder").is_dir()
    assert not stale.exists()
    for name in ("environment.json", "history.csv"):  # what it is read with beside its run
        assert (tmp_path / name).read_text() == (run.path / name).read_text()
    resolve_evaluation(resolve)  # once more into its own folder
    other = run.config.replace(seed=run.config.seed + 1)
    for name in ("other", "its-evaluation"):
        Run(tmp_path / name, other).write_json(other.to_dict(), "config.json")
    for given in (tmp_path / "other", tmp_path / "its-evaluation"):
        with pytest.raises(ValueError, match=f"{given.name} holds another run than {run.name}"):
            resolve_evaluation({"checkpoint_dir": str(run.path), "output_dir": str(given)})
    with pytest.raises(ValueError, match=f"{run.path.parent.name} is a folder of run folders"):
        resolve_evaluation({"checkpoint_dir": str(run.path), "output_dir": str(run.path.parent)})


def test_wrong_labels_are_not_looked_for_among_other_rows_but_copies_among_those_learned(
    run, monkeypatch, tmp_path
):
    assert run.config.label_noise
    read = []
    monkeypatch.setattr("grefel_lib.analysis.evaluation.load_faces",
                        lambda config: read.append(config) or load_faces(config))  # fmt: skip
    done = evaluate(run, protocol="argmax")
    assert done.training is None
    [config] = [config for config in read if not config.drop_leaks]
    assert (config.protocol, config.train_protocol) == ("argmax", "official")
    fixed = Run(run.path, run.config.replace(label_fixes="fixes.csv"))  # drawn among other rows
    scored = run.config.replace(robustness_images=0)
    done = evaluate_run(fixed, load_faces(scored), scored, Run(tmp_path, run.config))
    assert done.training is None


def test_the_rows_that_were_trained_on_are_told_by_their_own_protocol(run):
    config = run.config.replace(protocol="official", train_protocol="all")
    assert training_facts(Run(run.path, config))["training_protocol"] == "all"
    assert (
        training_facts(Run(run.path, config.replace(train_protocol="")))["training_protocol"]
        == "official"
    )
    other = config.replace(dataset="fer2013")  # where there is no protocol
    assert training_facts(Run(run.path / "none", other))["training_protocol"] == ""


def test_copies_that_were_kept_are_not_told_as_dropped(run, tmp_path):
    data = {"leaks": 3, "leaks_dropped": 0, "validation_copies": 2, "validation_copies_dropped": 1}
    other = Run(tmp_path, run.config)
    other.write_json({"data": data}, "environment.json")
    facts = training_facts(other)
    assert (facts["training_leaks_dropped"], facts["validation_copies_dropped"]) == (0, 1)
