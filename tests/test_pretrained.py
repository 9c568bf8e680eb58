"""Models to share: what `grefel export` writes to a folder, and the one that comes along."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.cbook import get_sample_data
from PIL import Image
from safetensors.torch import load_file
from scipy import special

from grefel_lib.analysis.calibration import fit_release
from grefel_lib.analysis.compare import compare_runs
from grefel_lib.analysis.evaluation import evaluate_run, load_evaluation
from grefel_lib.analysis.explain import explain_face, load_photo
from grefel_lib.backbone import FACE, FACE_NETWORK, build_backbone, check_backbone, weight_file
from grefel_lib.commands.cli import _face_lines, main
from grefel_lib.commands.export import export_weights
from grefel_lib.commands.notebook import resolve, resolve_evaluation
from grefel_lib.config import PRETRAINED, PROJECT_ROOT, Config
from grefel_lib.faces import load_faces
from grefel_lib.fit import fit
from grefel_lib.predict import NOT_SURE, UNLIKE, predict, predict_files
from grefel_lib.report.card import TERMS, model_card
from grefel_lib.report.everything import write_report
from grefel_lib.restore import FACE_TEST, load_model, pretrained
from grefel_lib.run import (
    BEST,
    BEST_EMA,
    Run,
    open_run,
    run_folder,
    shipped_runs,
    start_run,
    started_from,
)
from grefel_lib.sources.photo import read_photo


@pytest.fixture(scope="module")
def evaluated(faces_dir, tmp_path_factory):
    """A run of some epochs, evaluated."""
    outputs = tmp_path_factory.mktemp("outputs")
    config = Config.resolve(
        {"dataset": "ferplus", "data_dir": str(faces_dir), "profile": "demo", "epochs": 6,
         "output_dir": str(outputs), "run_name": "mine"}
    )  # fmt: skip
    faces = load_faces(config)
    run = start_run(config, faces.info)
    fit(faces, run)
    write_report(evaluate_run(run, faces, config, run))
    return run


@pytest.fixture(scope="module")
def shared(evaluated, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "mine"
    assert main(["export", str(evaluated.path), "--output", str(folder)]) == 0
    return open_run(folder)


@pytest.fixture
def shipped(shared, other_outputs, monkeypatch):
    """`shared` as if it came with the library."""
    for module in ("run", "restore", "commands.notebook"):
        monkeypatch.setattr(f"grefel_lib.{module}.PRETRAINED", shared.path.parent)
    return shared


def test_the_folder_holds_half_the_weights_and_no_path(evaluated, shared, tmp_path):
    alone = shutil.copy(shared.path / "checkpoints" / "best_model.safetensors", tmp_path)
    assert [load_model(Path(p)).folder for p in (alone, shared.checkpoint(BEST))] == [
        tmp_path, shared.path,
    ]  # fmt: skip
    files = {p.relative_to(shared.path).as_posix() for p in shared.path.rglob("*") if p.is_file()}
    assert files == {
        "config.json",
        "environment.json",
        "history.csv",
        "checkpoints/best_model.safetensors",
    }
    tensors = load_file(shared.path / "checkpoints" / "best_model.safetensors")
    weights = [v for key, v in tensors.items() if not key.startswith(FACE_TEST)]
    assert {v.dtype for v in weights if v.is_floating_point()} == {torch.float16}
    for path in shared.path.rglob("*"):
        if path.is_file():
            for place in (PROJECT_ROOT, Path.home(), evaluated.path.parent):
                assert f"{place}/".encode() not in path.read_bytes()
    assert (shared.config.data_dir, shared.config.output_dir) == ("", "outputs")


def test_its_answers_are_those_of_the_run_calibrated_on_validation(evaluated, shared):
    evaluation = load_evaluation(evaluated)
    release = fit_release(evaluation.validation[evaluation.headline])
    faces = load_faces(evaluated.config).split("test")
    before, after = (
        predict(load_model(run, device="cpu").model, faces, evaluated.config)
        for run in (evaluated, shared)
    )
    columns = [c for c in before if c.startswith("p_")]
    scores = np.log(before[columns].to_numpy()) / release["temperature"] + release["offsets"]
    by_hand = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(after[columns], by_hand, atol=5e-3)
    assert np.abs(after[columns].to_numpy() - before[columns].to_numpy()).max() > 0.02
    primary = [c for c in before if c.startswith("primary_")]
    scores = np.log(before[primary].to_numpy()) / release["temperature"] + release["offsets"]
    by_hand = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(after[primary], by_hand, atol=5e-3)
    assert (after["p_neutral"] != after["primary_neutral"]).any()
    scale, shift = release["reliability"]
    expected = special.expit(scale * special.logit(before["reliability"]) + shift)
    first, last = (t[columns].to_numpy().argmax(axis=1) for t in (before, after))
    moved, probs, rows = first != last, after[columns].to_numpy(), np.arange(len(after))
    share = probs[rows, last] / (1 - probs[rows, first])  # of what is left to other classes
    expected = np.where(moved, (1 - expected) * share, expected)
    assert moved.any()
    np.testing.assert_allclose(after["reliability"], expected, atol=5e-3)
    assert np.abs(after["reliability"] - before["reliability"]).max() > 0.02


def test_calibration_plays_no_part_in_training(shared):
    net = load_model(shared, device="cpu").model
    images, outputs, plain = torch.randn(4, 3, 48, 48), {}, {}
    for training in (False, True):
        net.train(training)
        torch.manual_seed(1)
        outputs[training] = net(images).log_probs
        kept, net.calibration = net.calibration, None
        torch.manual_seed(1)
        plain[training] = net(images).log_probs
        net.calibration = kept
    assert not torch.allclose(outputs[False], plain[False], atol=1e-2)
    torch.testing.assert_close(outputs[True], plain[True], rtol=0, atol=0)
    assert not [key for key in net.state_dict() if "calibration" in key]


def test_a_face_below_the_threshold_is_not_sure(shared, tmp_path):
    faces = load_faces(Config.resolve({"dataset": "synthetic"})).split("test")
    paths = []
    for number, image in enumerate(faces.images[:40]):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(image).save(paths[-1])
    trained = load_model(shared, device="cpu")
    assert 0.125 < trained.not_sure_below < 1
    trained = dataclasses.replace(trained, face_test=None)
    table, _, _ = predict_files(trained, paths, whole=True)
    trained.facts["not_sure_below"] = middle = float(table["probability"].median())
    table, _, _ = predict_files(trained, paths, whole=True)
    columns = [c for c in table if c.startswith("p_")]
    best = table[columns].idxmax(axis=1).str.removeprefix("p_")
    unsure = table["probability"] < middle
    assert 5 < unsure.sum() < 35
    assert (table["predicted"][unsure] == NOT_SURE).all()
    assert (table["predicted"][~unsure] == best[~unsure]).all()


def test_what_is_no_face_gets_no_label_unless_a_detector_found_it(shared, tmp_path, monkeypatch):
    trained = load_model(shared, device="cpu")
    trained.facts["not_sure_below"] = 0.0  # the face test alone
    faces = load_faces(shared.config.replace(data_dir=trained.config.data_dir, dataset="synthetic"))
    noise = np.random.default_rng(0).integers(0, 256, (20, 48, 48)).astype(np.uint8)
    paths = {name: [] for name in ("faces", "noise")}
    for name, images in {"faces": faces.split("val").images[:100], "noise": noise}.items():
        for number, image in enumerate(images):
            paths[name].append(tmp_path / f"{name}{number}.png")
            Image.fromarray(image).save(paths[name][-1])
    drawn, noisy = (predict_files(trained, paths[n], whole=True)[0] for n in ("faces", "noise"))
    assert (drawn["predicted"] == NOT_SURE).mean() < 0.15
    # how many are rejected depends on how well a few drawn faces were learned on this processor
    assert (noisy["predicted"] == NOT_SURE).mean() > (drawn["predicted"] == NOT_SURE).mean()
    assert ((noisy["face"] == UNLIKE) == (noisy["predicted"] == NOT_SURE)).all()
    assert set(noisy["face"]) <= {"whole picture", UNLIKE}
    assert "unlike a face" in _face_lines(noisy)
    crop = read_photo(paths["noise"][int(noisy["predicted"].eq(NOT_SURE).argmax())])
    assert explain_face(trained, crop, found=False).predicted == NOT_SURE
    assert explain_face(trained, crop).predicted != NOT_SURE
    monkeypatch.setattr("grefel_lib.predict.find_faces", lambda picture: [(0, 0, 48, 48)])
    table, _, _ = predict_files(trained, paths["noise"])
    assert (table["face"] == "found").all()
    assert not (table["predicted"] == NOT_SURE).any()
    monkeypatch.undo()
    shipped = pretrained("ferplus")
    shipped.facts["not_sure_below"] = 0.0
    table, _, _ = predict_files(shipped, paths["noise"], whole=True)
    assert (table["face"] == UNLIKE).all()


def test_of_two_checkpoints_the_better_is_shared(evaluated, tmp_path):
    run = Run(shutil.copytree(evaluated.path, tmp_path / "mine"), evaluated.config)
    anchors = {}
    for name, accuracy in ((BEST, 0.1), (BEST_EMA, 0.2)):
        tensors, facts = run.load_checkpoint(name)
        run.save_checkpoint(name, tensors, facts | {"val_accuracy": accuracy})
        anchors[name] = tensors["head.anchors"].half()
    export_weights(run, load_faces(run.config), tmp_path / "shared")
    tensors, _ = Run(tmp_path / "shared", run.config).load_checkpoint(BEST)
    assert torch.equal(tensors["head.anchors"], anchors[BEST_EMA])
    assert not torch.equal(anchors[BEST], anchors[BEST_EMA])


def test_a_shared_model_shared_again_is_the_same(shared, faces_dir, tmp_path, capsys):
    copy = tmp_path / "copy"
    command = ["export", str(shared.path), "--output", str(copy), "--data-dir"]
    assert main([*command, str(tmp_path / "none")]) == 1
    assert f"no folder {tmp_path / 'none'} for ferplus" in capsys.readouterr().err
    assert main([*command, str(faces_dir)]) == 0  # it knows no place of its own
    last = tmp_path / "last"
    again = ["export", str(copy), "--output", str(last), "--data-dir", str(faces_dir)]
    assert main(again) == 0
    one, two, three = (
        Run(path, shared.config).load_checkpoint("best_model") for path in (shared.path, copy, last)
    )
    for key, value in one[0].items():
        if not key.startswith(FACE_TEST):  # fitted again, on a network of half the precision
            torch.testing.assert_close(value, two[0][key], rtol=0, atol=0)
    limit, again = (facts["face_test_limit"] for _, facts in (two, three))
    assert again == pytest.approx(limit, rel=1e-4)
    for key, value in two[1]["calibration"].items():
        assert three[1]["calibration"][key] == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize("other", [{"info": {"fingerprint": "content-0123456789abcdef"}},
                                   {"class_names": tuple("abcdefgh")}])  # fmt: skip
def test_a_model_is_not_calibrated_on_other_faces_or_classes(evaluated, tmp_path, other):
    faces = load_faces(evaluated.config)
    other = other | {"info": faces.info | other.get("info", {})}
    with pytest.raises(ValueError, match="mine has learned other faces than these of ferplus"):
        export_weights(evaluated, dataclasses.replace(faces, **other), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_shipped_model_is_opened_by_its_name_and_nothing_is_written_beside_it(
    shipped, faces_dir, other_outputs
):
    before = sorted(shipped.path.parent.rglob("*"))
    assert [run.path for run in shipped_runs()] == [shipped.path]
    assert open_run("mine").path == shipped.path
    given = {"checkpoint_dir": "mine", "data_dir": str(faces_dir), "device": "cpu"}
    run, results, config = resolve_evaluation(given)
    assert results.path == other_outputs / "pretrained_mine"
    evaluation = evaluate_run(run, load_faces(config), config, results)
    write_report(evaluation)
    again = load_evaluation(Run(results.path, run.config))
    assert again.table.equals(evaluation.table)
    _, results, _ = resolve_evaluation(given | {"split": "val"})
    assert results.path == other_outputs / "pretrained_mine" / "evaluate_ferplus_official_val"
    tuned = resolve(
        {"checkpoint_path": "mine", "data_dir": str(faces_dir), "finetune_name": "x"},
        command="finetune",
    )
    assert run_folder(tuned) == other_outputs / "finetune_x"
    assert sorted(shipped.path.parent.rglob("*")) == before


def test_the_face_weights_fit_their_network_and_no_other():
    config = Config.resolve({"profile": "mobile", "dataset": "ferplus"})
    check_backbone(config)
    backbone = build_backbone(config, num_classes=0)
    stored = load_file(weight_file(FACE))
    for key, value in backbone.state_dict().items():
        torch.testing.assert_close(value, stored[key].to(value.dtype))
    with pytest.raises(ValueError, match=f"face are weights of {FACE_NETWORK}, not of test_resnet"):
        check_backbone(config.replace(backbone="test_resnet"))


def test_what_starts_from_it_inherits_the_terms_of_its_weights(tmp_path):
    parent = pretrained("ferplus", device="cpu").config
    config = Config.resolve(
        {"checkpoint_path": "ferplus", "finetune_name": "child", "output_dir": str(tmp_path)},
        parent=parent,
    )
    child = start_run(config)
    assert config.backbone_weights == "none"
    assert started_from(child) == {FACE}


@pytest.fixture(scope="module")
def ferplus_model():
    return pretrained("ferplus", device="cpu")


def test_the_model_that_comes_along_sees_that_the_astronaut_smiles(ferplus_model, tmp_path):
    photo = load_photo(Config(dataset="ferplus"))
    Image.fromarray(photo.picture).save(tmp_path / "both.png")
    table, embeddings, unread = predict_files(ferplus_model, [tmp_path / "both.png"])
    assert not unread
    assert table["face"].tolist() == ["found"] * photo.found
    assert table["predicted"].isin(["neutral", "happiness"]).all()
    assert photo.found == 1 or (table["predicted"].iloc[1], table["probability"].iloc[1] > 0.9) == (
        "happiness",
        True,
    )
    assert len(embeddings) == photo.found


def test_predict_needs_no_run_and_no_data(other_outputs, tmp_path, capsys):
    hopper = get_sample_data("grace_hopper.jpg", asfileobj=False)
    assert main(["predict", str(hopper), "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "neutral" in out or "happiness" in out
    assert "answered by grefel_lib/pretrained/ferplus, best_model" in out


def test_its_files_are_small_and_its_card_begins_with_the_terms():
    sizes = {p.name: p.stat().st_size for p in PRETRAINED.rglob("*.safetensors")}
    assert set(sizes) == {"best_model.safetensors", f"face_{FACE_NETWORK}.safetensors"}
    assert max(sizes.values()) < 8e6
    card = (PRETRAINED / "ferplus" / "model_card.md").read_text().splitlines()
    assert card[2] == TERMS[FACE]
    assert "CC BY-SA 4.0" in (PRETRAINED / "README.md").read_text()


def test_its_card_holds_the_numbers_of_its_published_evaluation(ferplus_model):
    run = open_run(PROJECT_ROOT / "notebooks/ferplus_model/pretrained_ferplus")
    evaluation = load_evaluation(run)
    shown = (PRETRAINED / "ferplus" / "model_card.md").read_text().splitlines()
    rows = [line for line in model_card(evaluation).splitlines() if line.startswith("| ")]
    assert len(rows) > 15  # metrics and the recall of every class, with intervals
    assert set(rows) <= set(shown)
    stored = evaluation.facts["checkpoints"][evaluation.headline]["sha256"]
    assert stored == ferplus_model.facts["sha256"]


def test_the_seeds_of_its_recipe_are_those_of_the_published_runs():
    text = (PRETRAINED / "README.md").read_text()
    comparison = compare_runs("notebooks/ferplus_model")
    seeds = comparison.seeds.sort_values("seed")
    assert seeds["seed"].tolist() == [0, 1, 2]
    for one in seeds.to_dict(orient="records"):
        columns = ("val_accuracy", "accuracy", "mean_class_accuracy", "ece")
        cells = [f"{100 * one[name]:.1f}" for name in columns] + [f"{one['nll']:.3f}"]
        name = f"{one['seed']}" + " (bundled)" * (one["seed"] == 0)
        assert f"| {name} | {' | '.join(cells)} |" in text
    cells = [f"{100 * seeds['val_accuracy'].mean():.1f}"]
    for name, scale, digits in (("accuracy", 100, 1), ("mean_class_accuracy", 100, 1),
                                ("ece", 100, 1), ("nll", 1, 3)):  # fmt: skip
        row = scale * comparison.summary[name].iloc[0][["value", "low", "high"]]
        value, low, high = (f"{number:.{digits}f}" for number in row)
        cells.append(f"{value} [{low}, {high}]")
    assert f"| mean | {' | '.join(cells)} |" in text
    text = " ".join(text.split())
    value, low, high = 100 * comparison.ensembles["accuracy"].iloc[0][["value", "low", "high"]]
    assert f"The three averaged have {value:.1f}% [{low:.1f}, {high:.1f}] accuracy" in text
    history = pd.read_csv(PROJECT_ROOT / "notebooks/ferplus_levers/distilled.csv")
    best = 100 * history[["val_accuracy", "ema_val_accuracy"]].max(axis=None)
    assert f"has {best:.1f}% on validation ([its history](../../notebooks/ferplus_lev" in text


def test_the_curve_of_class_offsets_is_that_of_the_published_table():
    curve = pd.read_csv(PROJECT_ROOT / "notebooks/ferplus_model/class_offsets.csv", index_col="tau")
    text = (PRETRAINED / "README.md").read_text()
    shown = [0, 0.25, 0.6, 1]
    assert "| strength of the offsets, on validation | 0 | 0.25 (bundled) | 0.6 | 1 |" in text
    for name, values in curve.loc[shown].items():
        assert f"| {name} | {' | '.join(f'{value:.1f}' for value in values)} |" in text


def test_what_notebook_06_says_of_the_levers_is_in_their_table():
    table = pd.read_csv(PROJECT_ROOT / "notebooks/ferplus_levers/table.csv", index_col="point")
    table.index = table.index.str.removesuffix("-seed=0")
    best = 100 * table[["val_accuracy", "ema_val_accuracy"]].max(axis=1)
    change = best - best["head=grefel"]
    notebook = json.loads((PROJECT_ROOT / "notebooks/06_comparing_runs.ipynb").read_text())
    [text] = [" ".join("".join(cell["source"]).split()) for cell in notebook["cells"]
              if "What we tried in order" in "".join(cell["source"])]  # fmt: skip
    none, lite = change.filter(regex="^backbone_weights=none|lite0")
    assert f"the same network loses {-none:.1f} points" in text
    assert f"ImageNet weights is {-lite:.1f} points lower" in text
    assert change["image_size=112"] == change.max(), "More pixels help"
    assert change["class_weights=logit_adjusted"] < -5, "buys rare classes dearly"
    slow = change["backbone_lr_scale=0.3"]
    assert round(slow) == -1, "A third of the learning rate for the backbone loses a point"
    rest = change.drop(["backbone_weights=none", "class_weights=logit_adjusted"]).abs()
    assert (rest.drop(rest.filter(like="lite0").index) < 1).all(), "The rest is within one"
