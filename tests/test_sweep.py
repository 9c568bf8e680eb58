"""Sweeps: the points of a grid, what is skipped, resumed and survived."""

import json
import os
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from grey_faces import new_run

from grefel_lib.commands.cli import main
from grefel_lib.commands.sweep import (
    _results,
    is_finished,
    over_seeds,
    run_point,
    run_sweep,
    sweep_points,
)
from grefel_lib.config import Config
from grefel_lib.faces import load_faces
from grefel_lib.files import Folder
from grefel_lib.run import (
    BEST,
    BEST_EMA,
    LAST,
    open_run,
    outputs_folder,
    run_folder,
    start_run,
)
from grefel_lib.sources.synthetic import write_synthetic


def names(**options):
    return [point.name for point in sweep_points("train", "s", **options)]


def test_every_combination_once_with_the_seed_slowest():
    found = names(grid=["delta=0.5,1", "num_anchors=1"], seeds="0,1")
    assert found == [
        "delta=0.5-num_anchors=1-seed=0", "delta=1-num_anchors=1-seed=0",
        "delta=0.5-num_anchors=1-seed=1", "delta=1-num_anchors=1-seed=1",
    ]  # fmt: skip


def test_a_case_is_settings_that_go_together():
    (linear, none) = sweep_points("train", "s", cases=["head=linear", "correction=none,lr=1e-3"],
                                  given={"epochs": "2"})  # fmt: skip
    assert linear.config().head == "linear"
    assert (none.config().correction, none.config().lr, none.config().epochs) == ("none", 1e-3, 2)
    assert run_folder(none.config()) == outputs_folder() / "s/correction=none-lr=1e-3"


def test_a_setting_can_be_left_empty_at_one_point():
    points = sweep_points("train", "s", cases=["train_protocol=all", "train_protocol="])
    assert [point.config().train_protocol for point in points] == ["all", ""]
    assert [point.name for point in points] == ["train_protocol=all", "train_protocol="]


def test_a_path_as_a_value_gives_a_folder_name():
    assert names(grid=["backbone_weights=/some/where/my weights.pth,none"]) == [
        "backbone_weights=my_weights.pth", "backbone_weights=none",
    ]  # fmt: skip


@pytest.mark.parametrize(("options", "told"), [
    ({"grid": ["detla=1"]}, "did you mean 'delta'"),
    ({"grid": ["delta=0.5,wide"]}, "delta must be a number; got 'wide'"),
    ({"grid": ["delta"]}, "'delta' has no value; write key=value"),
    ({"grid": ["delta=1,"]}, "delta must be a number; got ''"),
    ({"cases": ["head=linear,delta"]}, "'delta' has no value"),
    ({"cases": ["=1"]}, "'=1' has no name"),
    ({"grid": ["delta=1,1"]}, "two points of the sweep would be called delta=1"),
    ({"grid": ["label_fixes=a/f.csv,b/f.csv"]}, "called label_fixes=f.csv: .* other names"),
    ({"grid": ["delta=1", "delta=2"]}, "delta is set twice"),
    ({"grid": ["epochs=1"], "given": {"epochs": "2"}}, "epochs is set twice"),
    ({"given": {"run_name": "x"}}, "names its runs itself; remove run_name"),
    ({"cases": ["run_name=x,lr=1"]}, "names its runs itself; remove run_name"),
    ({"grid": ["resume=x,y"]}, "names its runs itself; remove resume"),
    ({"grid": ["output_dir=a,b"]}, "give output_dir as --output-dir DIR"),
    ({"seeds": "0,one"}, "seed must be a whole number; got 'one'"),
])  # fmt: skip
def test_a_bad_grid_is_refused_before_the_first_run(options, told):
    with pytest.raises(ValueError, match=told):
        sweep_points("train", "s", **options)


@pytest.mark.parametrize(("command", "name", "told"), [
    ("evaluate", "s", "sweep runs train or finetune"),
    ("train", "", "needs --name"),
    ("train", "a/b", "needs --name"),
])  # fmt: skip
def test_a_bad_command_or_name_is_refused(command, name, told):
    with pytest.raises(ValueError, match=told):
        sweep_points(command, name)


SWEEP = (
    "sweep train --name s --grid num_anchors=1,2 --case head=linear --case backbone_weights=none "
    "--case backbone_weights=/no/such/file --seeds 3 --profile demo --epochs 1 --evaluate"
)


def test_a_sweep_survives_a_failing_point_and_skips_what_is_finished(
    faces_dir, tmp_path, capfd, monkeypatch
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    text = SWEEP.replace("--grid num_anchors=1,2 ", "")
    argv = [*text.split(), "--dataset", "ferplus", "--data-dir", str(faces_dir),
            "--output-dir", "."]  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 1
    told = capfd.readouterr()
    (line,) = [line for line in told.err.splitlines() if line.startswith("grefel sweep: error")]
    assert line.endswith("1 of 3 points failed: backbone_weights=file-seed=3")
    assert "no weight file at /no/such/file" in told.out
    table = pd.read_csv(tmp_path / "s/table.csv", keep_default_na=False).set_index("point")
    assert list(table["status"]) == ["ok", "ok", "not started"]
    assert "no weight file" in table.loc["backbone_weights=file-seed=3", "error"]
    for point in ("head=linear-seed=3", "backbone_weights=none-seed=3"):
        run = open_run(tmp_path / "s" / point)
        assert json.loads((run.path / "metrics.json").read_text())["split"] == "test"
        assert (run.path / "03_training.ipynb").is_file()
        assert float(table.loc[point, "val_accuracy"]) > 0.1
        last = run.history().iloc[-1]
        assert float(table.loc[point, "val_nll"]) == pytest.approx(last["val_loss"])
        recall = [last[column] for column in last.index if column.startswith("val_accuracy_")]
        measured = float(table.loc[point, "val_mean_class_accuracy"])
        assert measured == pytest.approx(np.nanmean(recall))
        assert float(table.loc[point, "minutes"]) * 60 == pytest.approx(last["seconds"])

    ran = []
    monkeypatch.setattr(
        "grefel_lib.commands.sweep.run_command", lambda command, given: ran.append(given)
    )
    assert main(argv) == 0  # the stand-in does not fail
    assert [given["backbone_weights"] for given in ran[:1]] == ["/no/such/file"]
    assert sum("already finished" in line for line in capfd.readouterr().out.splitlines()) == 2
    other = tmp_path / "other"
    write_synthetic(other, images=400, seed=9)
    assert main([str(other) if word == str(faces_dir) else word for word in argv]) == 1
    assert "already finished" not in capfd.readouterr().out
    table = pd.read_csv(tmp_path / "s/table.csv", keep_default_na=False)
    assert table["error"].str.contains("has learned from other data").tolist()[:2] == [True, True]
    assert table["status"].tolist()[:2] == ["refused", "refused"]
    assert "val_accuracy" not in table  # a number would be of the other data
    (tmp_path / "s/head=linear-seed=3/status.json").write_text("[")
    assert main(argv) == 1
    capfd.readouterr()
    table = pd.read_csv(tmp_path / "s/table.csv", keep_default_na=False).set_index("point")
    assert list(table["status"]) == ["damaged", "ok", "not started"]
    assert "head=linear-seed=3/status.json cannot be read" in table["error"].iloc[0]


def test_the_numbers_of_a_point_are_those_of_its_best_epochs(tmp_path):
    run = new_run(tmp_path, Config())
    run.write_table(pd.DataFrame({
        "epoch": [1, 2, 3], "seconds": [60, 120, 30],
        "val_loss": [1.0, 0.5, 2.0], "ema_val_loss": [0.25, 0.75, 1.5],
        "val_accuracy_fear": [0.1, 0.2, 0.3], "val_accuracy_anger": [0.5, 0.6, 0.7],
        "ema_val_accuracy_fear": [0.4, 0, 0], "ema_val_accuracy_anger": [0.8, 0, 0],
    }), "history.csv")  # fmt: skip
    for name, epoch, accuracy in ((BEST, 2, 0.7), (BEST_EMA, 1, 0.9)):
        facts = {"epoch": epoch, "val_accuracy": accuracy}
        run.save_checkpoint(name, {"x": torch.zeros(1)}, facts)
    assert _results(run) == pytest.approx({
        "status": "new", "minutes": 3.5,
        "val_accuracy": 0.7, "val_epoch": 2, "val_mean_class_accuracy": 0.4, "val_nll": 0.5,
        "ema_val_accuracy": 0.9, "ema_val_epoch": 1, "ema_val_mean_class_accuracy": 0.6,
        "ema_val_nll": 0.25,
    })  # fmt: skip


def test_means_leave_unfinished_runs_out_and_tell_the_spread(monkeypatch, tmp_path, capsys):
    table = pd.DataFrame({
        "point": ["head=linear-seed=0", "delta=1-seed=0", "head=linear-seed=1", "delta=1-seed=1"],
        "status": ["ok", "ok", "ok", "died"],
        "val_accuracy": [0.5, 0.7, 0.6, 0.1], "val_nll": [1.0, 0.5, 2.0, 9.0],
        "val_mean_class_accuracy": 0.3, "ema_val_mean_class_accuracy": [0.2, 0.3, 0.4, 0.9],
        "ema_val_accuracy": [0.4, 0.8, 0.6, 0.1], "ema_val_nll": [1.0, 0.4, 3.0, 9.0],
        "minutes": [2.0, 3.0, 5.0, 1.0],
    })  # fmt: skip
    means = over_seeds(table)
    assert list(means.index) == ["head=linear", "delta=1"]
    assert list(means["seeds"]) == [2, 1]
    row = means.loc["head=linear"]
    assert row["val_accuracy"] == pytest.approx(0.55)
    assert row["val_nll"] == pytest.approx(1.5)
    assert row["ema_val_nll"] == pytest.approx(2.0)
    assert row["ema_val_mean_class_accuracy"] == pytest.approx(0.3)
    assert row["minutes"] == pytest.approx(3.5)
    assert (row["lowest"], row["highest"]) == (0.5, 0.6)
    monkeypatch.setattr(
        "grefel_lib.commands.sweep.run_sweep", lambda *_, **__: table.assign(error="")
    )
    argv = ["sweep", "train", "--name", "s", "--seeds", "0,1", "--output-dir", str(tmp_path)]
    assert main(argv) == 0
    told = capsys.readouterr().out
    assert told.index("delta=1-seed=1") < told.index("mean over seeds") < told.index("0.55")
    nothing = table[["point", "status"]].assign(status="not started")
    assert over_seeds(nothing).empty


def test_an_interrupted_point_goes_on_and_other_settings_are_refused(faces_dir, tmp_path):
    given = {"profile": "demo", "dataset": "ferplus", "data_dir": str(faces_dir), "epochs": 1,
             "output_dir": str(tmp_path)}  # fmt: skip
    (point,) = sweep_points("train", "s", given=given)
    run = start_run(point.config())
    assert not is_finished(point)
    run.write_json({"status": "ok"}, "status.json")
    assert is_finished(point)
    (evaluated,) = sweep_points("train", "s", given=given, evaluate=True)
    assert not is_finished(evaluated)
    for scored in (3, 4):  # the epoch whose weights were evaluated
        run.save_checkpoint(BEST, {"x": torch.zeros(1)}, {"epoch": 4, "val_accuracy": 0.5})
        run.write_json({"checkpoints": {BEST: {"epoch": scored}}}, "metrics.json")
        assert is_finished(evaluated) == (scored == 4)
    run.write_json({}, "metrics.json")
    with pytest.raises(ValueError, match=r"metrics\.json cannot be read \(no .checkpoints"):
        is_finished(evaluated)
    run.write_json({"checkpoints": {BEST: {"epoch": 4}}}, "metrics.json")
    (tmp_path / "fixes.csv").write_text("id,label\ntrain_00000,sadness\n")
    fixes = {"label_fixes": str(tmp_path / "fixes.csv")}
    (fixed,) = sweep_points("train", "s", given=given | fixes)
    run.save_checkpoint(LAST, {}, {})
    run.write_json({"data": load_faces(point.config()).info}, "environment.json")
    with pytest.raises(ValueError, match=r"has learned from other data \(label_fixes"):
        is_finished(fixed)
    info = load_faces(point.config()).info | {"fingerprint": "content-0"}
    run.write_json({"data": info}, "environment.json")
    with pytest.raises(ValueError, match=r"has learned from other data \(fingerprint"):
        is_finished(point)  # other files in the same folder
    faces_dir.rename(faces_dir.with_name("away"))
    try:
        assert is_finished(point)
    finally:
        faces_dir.with_name("away").rename(faces_dir)
    (other,) = sweep_points("train", "s", given=given | {"lr": "1e-4"})
    with pytest.raises(ValueError, match=r"other settings \(lr 0\.004 there, 0\.0001 here\)"):
        is_finished(other)
    table = run_sweep([other], Folder(tmp_path / "s"), say=lambda line: None)
    assert "other settings" in table["error"][0]


def test_submitits_local_executor_runs_point_after_point(faces_dir, tmp_path):
    pytest.importorskip("submitit", reason="the cluster extra is not installed")
    given = {"profile": "demo", "dataset": "ferplus", "data_dir": str(faces_dir), "epochs": 1,
             "output_dir": str(tmp_path)}  # fmt: skip
    todo = sweep_points("train", "s", grid=["backbone_weights=/no/such/file,none"], given=given)
    table = run_sweep(todo, Folder(tmp_path / "s"), say=lambda line: None, cluster="local",
                      options={"timeout_min": "5"})  # fmt: skip
    assert list(table["status"]) == ["not started", "ok"]
    assert "no weight file at /no/such/file" in table["error"][0]
    status = json.loads((tmp_path / "s/backbone_weights=none/status.json").read_text())
    assert status["pid"] != os.getpid()
    assert len(list((tmp_path / "s/jobs").glob("*_log.out"))) == 2


def test_an_unknown_cluster_or_option_is_refused(tmp_path):
    pytest.importorskip("submitit", reason="the cluster extra is not installed")
    todo = sweep_points("train", "s", given={"output_dir": str(tmp_path)})
    for cluster, options, told in (
        ("pbs", {}, "slurm or local"), ("local", {"gpus": "1"}, "rejects these options"),
        ("slurm", {}, '--cluster slurm: Could not detect "srun"'),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=told):
            run_sweep(todo, Folder(tmp_path / "s"), say=print, cluster=cluster, options=options)


def test_after_each_point_the_time_of_the_others_is_told(tiny, tmp_path, monkeypatch):
    clock, said = iter([0, 0, 60, 60, 240, 240, 360]), []
    monkeypatch.setattr("grefel_lib.commands.sweep.time.perf_counter", lambda: next(clock))
    monkeypatch.setattr("grefel_lib.commands.sweep.run_point", lambda point: None)
    given = {"output_dir": str(tmp_path), "data_dir": tiny.data_dir, "dataset": "ferplus"}
    run_sweep(sweep_points("train", "s", seeds="1,2,3", given=given), Folder(tmp_path / "s"),
              say=said.append)  # fmt: skip
    assert [line for line in said if "done" in line] == [
        "seed=1: done in 1.0 min, about 2.0 min for the other 2",
        "seed=2: done in 3.0 min, about 2.0 min for the other 1",
        "seed=3: done in 2.0 min",
    ]


@pytest.mark.parametrize(
    ("given", "inspected"),
    [({}, False), ({"label_noise": 0.2}, True), ({"label_fixes": "fixes.csv"}, True)],
)
def test_training_faces_are_scored_where_their_labels_were_changed(given, inspected, monkeypatch):
    ran = {}
    monkeypatch.setattr(
        "grefel_lib.commands.sweep.run_command", lambda command, given: ran.update({command: given})
    )
    [point] = sweep_points("train", "s", given={"dataset": "synthetic", **given}, evaluate=True)
    run_point(point)
    assert ran["evaluate"]["inspect_labels"] is inspected


def test_fine_tuning_starts_from_the_latest_run_at_every_point(small_run, other_outputs):
    mine = other_outputs / "mine"
    shutil.copytree(small_run.path, mine)
    points = sweep_points("finetune", "s", seeds="0, 1", grid=["lr=1e-4"])
    assert [point.name for point in points] == ["lr=1e-4-seed=0", "lr=1e-4-seed=1"]
    for point in points:
        assert open_run(point.config().checkpoint_path).path == mine
        assert run_folder(point.config()) == mine / f"finetune_s-{point.name}"
    for key in ("checkpoint_path", "checkpoint-path"):
        (named,) = sweep_points("finetune", "s", cases=[f"{key}={small_run.path}"])
        assert open_run(named.config().checkpoint_path).path == small_run.path
    assert not (other_outputs / "demo").exists()
