"""A run finds its data from any working folder, wherever its data_dir was given."""

import os
import re
from pathlib import Path

import pytest
from drawn_layouts import write_layout

from grefel_lib.commands.notebook import resolve, resolve_evaluation, run_command
from grefel_lib.config import PROJECT_ROOT, Config, from_here
from grefel_lib.faces import load_faces
from grefel_lib.run import BEST, LAST, open_run, start_run

TRAIN = {"profile": "demo", "dataset": "fer2013", "epochs": 2, "run_name": "r"}


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Two working folders with different faces under one name; the first is the current one."""
    for seed, name in enumerate(("here", "there")):
        (tmp_path / name).mkdir()
        write_layout(tmp_path / name / "faces", "fer2013", images=120, seed=seed)
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here", tmp_path / "there"


@pytest.mark.parametrize("data_dir", ["faces", "./faces", "../here/faces", Path("faces")])
def test_a_run_is_evaluated_tuned_and_resumed_from_elsewhere_on_its_own_faces(places, data_dir):
    here, there = places
    outputs = str(here / "outputs")
    config = resolve(TRAIN | {"data_dir": data_dir, "output_dir": outputs})
    faces = load_faces(config)
    run = start_run(config, faces.info)
    for name in (BEST, LAST):
        facts = {"config": run.config.to_dict(), "val_accuracy": 0.5}
        run.save_checkpoint(name, {}, facts)
    os.chdir(there)
    assert Path(open_run(run.path).config.data_dir).is_absolute()
    _, _, evaluation = resolve_evaluation({"checkpoint_dir": str(run.path)})
    resumed = resolve({"resume": str(run.path)})
    tuned = resolve({"checkpoint_path": str(run.path)}, command="finetune")
    for again in (evaluation, resumed, tuned):
        assert load_faces(again).info["fingerprint"] == faces.info["fingerprint"]
    # a data_dir that is given now is one of this folder
    _, _, moved = resolve_evaluation({"checkpoint_dir": str(run.path), "data_dir": "faces"})
    resumed = resolve({"resume": str(run.path), "data_dir": "faces", "micro_batch_size": 8})
    assert resumed.micro_batch_size == 8
    os.chdir(here)
    for again in (moved, resumed):
        assert load_faces(again).info["fingerprint"] != faces.info["fingerprint"]
        assert Path(again.data_dir) == there / "faces"


def test_the_notebook_of_a_command_gets_the_absolute_path(places, monkeypatch):
    calls = []
    monkeypatch.setattr(
        "grefel_lib.commands.notebook.execute_notebook",
        lambda notebook, output, parameters: calls.append(parameters),
    )
    run_command("train", TRAIN | {"data_dir": "faces", "output_dir": "outputs"})
    assert calls[0]["data_dir"] == str(places[0] / "faces")
    assert calls[0]["output_dir"] == str(places[0] / "outputs")


def test_the_working_folder_goes_before_the_project_root_and_nothing_stays_as_given(places):
    assert from_here("notebooks") == str(PROJECT_ROOT / "notebooks")
    (places[0] / "notebooks").mkdir()
    assert from_here("notebooks") == str(places[0] / "notebooks")
    assert from_here("no/such") == "no/such"
    assert Config.resolve({"data_dir": "no/such"}).data_dir == "no/such"
    assert Config.resolve({"data_dir": ""}).data_dir == ""


def test_of_a_folder_that_is_nowhere_both_places_are_named(places):
    here, _ = places
    folders = f"no folder {here / 'raf'} or {PROJECT_ROOT / 'raf'} for rafdb"
    with pytest.raises(FileNotFoundError, match=re.escape(folders)):
        load_faces(Config(dataset="rafdb", data_dir="raf"))
