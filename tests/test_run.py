"""The run folder: names, status, finding runs."""

import json
import time

import pytest

from grefel_lib.commands.notebook import demo_run, resolve, resolve_evaluation
from grefel_lib.config import PROFILES, Config
from grefel_lib.run import (
    BEST,
    BEST_EMA,
    LAST,
    all_runs,
    check_run,
    checkpoint_file,
    every_run,
    newest_run,
    open_run,
    run_folder,
    run_id,
    start_run,
)


@pytest.fixture
def config(tmp_path):
    return Config.resolve({"output_dir": str(tmp_path), "run_name": "a"})


def touch_best(run, accuracy=0.5):
    import torch

    facts = {"config": {}, "val_accuracy": accuracy}
    for name in (BEST, BEST_EMA):
        run.save_checkpoint(name, {"x": torch.zeros(1)}, facts)


def test_a_name_says_what_the_run_is(tmp_path):
    config = Config.resolve({"dataset": "ferplus", "head": "linear", "seed": 3})
    assert run_id(config).startswith("ferplus-vit_base_patch16_224-linear-seed3-20")


def test_the_stored_config_is_the_resolved_one(config):
    run = start_run(config)
    assert open_run(run.path).config == config
    environment = json.loads((run.path / "environment.json").read_text())
    assert {"torch", "timm", "python", "commit", "dirty", "gpu"} <= environment.keys()


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "ok"), (ValueError("no"), "failed"), (KeyboardInterrupt(), "interrupted")],
)
def test_the_status_comes_from_the_exception(config, error, status):
    run = start_run(config)
    assert run.status() == "new"
    try:
        with run.recording():
            assert run.status() == "running"
            if error:
                raise error
    except (ValueError, KeyboardInterrupt):
        pass
    assert run.status() == status


def test_a_run_whose_process_is_gone_has_died(config):
    run = start_run(config)
    with run.recording():
        told = json.loads((run.path / "status.json").read_text())
    run.write_json(told | {"status": "running", "pid": 2**22 + 1}, "status.json")
    assert run.status() == "died"
    run.write_json(told | {"status": "running", "host": "elsewhere"}, "status.json")
    assert run.status() == "running"
    with pytest.raises(ValueError, match="is running now"):
        start_run(config)


def test_the_newest_run_is_the_last_with_a_checkpoint_and_the_demo_only_if_alone(tmp_path):
    options = {"output_dir": str(tmp_path)}
    for name in ("demo", "one", "two", "three"):
        run = start_run(Config.resolve(options | {"run_name": name}))
        if name != "three":
            touch_best(run)
        time.sleep(0.01)
    assert newest_run(str(tmp_path)).path.name == "two"
    assert len(all_runs(str(tmp_path))) == 4


def test_without_a_run_the_way_out_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="grefel train"):
        newest_run(str(tmp_path))


def test_the_better_checkpoint_on_validation_is_taken(config):
    import torch

    run = start_run(config)
    run.save_checkpoint(BEST, {"x": torch.zeros(1)}, {"val_accuracy": 0.7})
    run.save_checkpoint(BEST_EMA, {"x": torch.zeros(1)}, {"val_accuracy": 0.6})
    assert checkpoint_file(run.path).stem == BEST
    run.save_checkpoint(BEST_EMA, {"x": torch.zeros(1)}, {"val_accuracy": 0.8})
    assert checkpoint_file(run.path).stem == BEST_EMA
    assert checkpoint_file(run.path / "checkpoints").stem == BEST_EMA


def test_resuming_takes_the_stored_settings(config, tmp_path):
    run = start_run(config.replace(lr=0.123))
    found = resolve({"resume": str(run.path), "dataset": "synthetic", "num_workers": 2})
    assert (found.lr, found.num_workers, found.run_name) == (0.123, 2, "a")
    assert run_folder(found) == run.path


def test_evaluation_results_can_go_elsewhere(config, tmp_path):
    run = start_run(config)
    _, results, used = resolve_evaluation(
        {"checkpoint_dir": str(run.path), "output_dir": str(tmp_path / "else"), "batch_size": 7}
    )
    assert results.path == tmp_path / "else"
    assert used.batch_size == 7
    assert used.backbone == config.backbone


def test_the_demo_run_is_trained_once_and_again_when_its_profile_changed(
    tmp_path, monkeypatch, faces_dir
):

    short = PROFILES["demo"] | {"epochs": 1, "dataset": "ferplus"}
    monkeypatch.setitem(PROFILES, "demo", short | {"data_dir": str(faces_dir)})
    monkeypatch.setattr("grefel_lib.run.PROJECT_ROOT", tmp_path)
    first = demo_run()
    stamp = (first.path / "status.json").stat().st_mtime_ns
    assert demo_run().path == first.path == tmp_path / "outputs/demo"
    assert (first.path / "status.json").stat().st_mtime_ns == stamp
    monkeypatch.setitem(PROFILES, "demo", short | {"data_dir": str(faces_dir), "lr": 0.001})
    assert demo_run().config.lr == 0.001
    assert demo_run().status() == "ok"


def test_everywhere_finds_runs_fine_tuned_ones_and_those_of_sweeps(other_outputs):
    for place, name in ((other_outputs, "one"), (other_outputs / "sweep", "point")):
        start_run(Config.resolve({"output_dir": str(place), "run_name": name}))
    config = json.loads((other_outputs / "one/config.json").read_text())
    (other_outputs / "one/finetune_a").mkdir()
    (other_outputs / "one/finetune_a/config.json").write_text(json.dumps(config))
    (other_outputs / "comparison").mkdir()  # not of a run
    found = [run.path.relative_to(other_outputs).as_posix() for run in every_run()]
    assert sorted(found) == ["one", "one/finetune_a", "sweep/point"]


def test_a_stop_can_be_asked_for_and_taken_back(config):
    run = start_run(config)
    assert not run.asked_to_stop
    run.ask_to_stop()
    assert open_run(run.path).asked_to_stop  # any process sees it
    run.ask_to_stop(False)
    run.ask_to_stop(False)
    assert not run.asked_to_stop


def test_a_block_can_say_how_it_ended(config):
    run = start_run(config)
    with run.recording() as ending:
        ending["status"] = "stopped"
    assert run.status() == "stopped"
    check_run(config)  # and can go on


def test_a_run_goes_on_with_the_data_it_has_learned_from_alone(config, monkeypatch):
    import torch

    def record():
        return json.loads((run.path / "environment.json").read_text())

    first, other = ({"fingerprint": f, "warnings": [f], "no_label": {"val": 2}} for f in "ab")
    run = start_run(config, first)
    start_run(config, other)  # nothing was learned from the first
    assert record()["data"] == other
    run.save_checkpoint(LAST, {"x": torch.zeros(1)}, {})
    before = record()
    told = r"has learned from other data \(fingerprint 'b' there, 'a' here\); bring that data back"
    with pytest.raises(ValueError, match=told):
        start_run(config, first)
    assert record() == before
    start_run(config, other | {"warnings": []})
    assert record() == before
    monkeypatch.setattr(
        "grefel_lib.run.describe_environment", lambda: before | {"commit": "c", "torch": "9"}
    )
    start_run(config, other)
    assert record() == before | {"continued": [{"commit": "c", "torch": "9"}]}
