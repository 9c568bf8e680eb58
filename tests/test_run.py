"""The run folder: names, status, finding runs."""

import json
import os
import shutil
import socket
import subprocess
import time

import psutil
import pytest
import torch

from grefel_lib.commands.notebook import demo_run, resolve, resolve_evaluation
from grefel_lib.config import PROFILES, Config
from grefel_lib.files import atomic, read_json
from grefel_lib.run import (
    BEST,
    BEST_EMA,
    GONE,
    LAST,
    Run,
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


@pytest.fixture
def recorded(config):
    """A run, and a function that changes its status.json, as left by a process that was killed."""
    run = start_run(config)
    with run.recording():
        facts = read_json(run.path / "status.json")

    def record(**changes):
        return run.write_json(facts | {"status": "running"} | changes, "status.json")

    return run, record


def test_a_run_whose_process_is_gone_or_another_by_now_has_died(recorded):
    run, record = recorded
    record()
    assert run.status() == "running"
    with pytest.raises(ValueError, match="is still running"):
        check_run(run.config)
    record(pid=2**22 + 1)
    assert run.status() == "died"
    record(process_started=psutil.boot_time())  # this pid belonged to another process
    assert run.status() == "died"
    check_run(run.config)


def test_a_run_of_another_machine_has_died_without_a_sign_of_life(recorded, monkeypatch):
    run, record = recorded
    record(host="elsewhere")
    assert run.status() == "running"
    record(host="elsewhere", heartbeat=time.time() - 2 * GONE)
    assert run.status() == "died"
    check_run(run.config)
    record(host="elsewhere")
    monkeypatch.setattr("grefel_lib.run.GONE", 2)
    check_run(run.config)  # after waiting for a sign of life
    record(host="elsewhere", heartbeat=time.time())
    monkeypatch.setattr("time.sleep", lambda _: record(host="elsewhere", heartbeat=time.time()))
    with pytest.raises(ValueError, match="is still running"):
        check_run(run.config)


def test_a_sign_of_life_is_written_while_training(config, monkeypatch):
    monkeypatch.setattr("grefel_lib.run.BEAT", 0.05)
    run = start_run(config)
    with run.recording():
        first = read_json(run.path / "status.json")
        time.sleep(0.5)
        later = read_json(run.path / "status.json")
    assert later["heartbeat"] > first["heartbeat"]
    assert later | {"heartbeat": 0} == first | {"heartbeat": 0}
    with run.recording():
        shutil.rmtree(run.path)
        time.sleep(0.2)
    assert not run.path.exists()  # it does not come back


def test_one_process_trains_a_run_and_the_other_is_told(config):
    run = start_run(config)
    with run.recording(), pytest.raises(ValueError, match="trained by another process"):  # noqa: SIM117
        with Run(run.path, config).recording():
            pass
    assert run.status() == "ok"


def test_label_fixes_may_move_but_not_go_or_come_while_a_run_trains(config):
    fixes = {"label_fixes": {"relabelled": 2, "left_out": 1, "fingerprint": "content-1"}}
    run = start_run(config.replace(label_fixes="a.csv"), fixes)
    run.save_checkpoint(LAST, {"x": torch.zeros(1)}, {})
    assert start_run(config.replace(label_fixes="moved/a.csv"), fixes).path == run.path
    with pytest.raises(ValueError, match=r"learned from other data \(label_fixes .* None here\)"):
        start_run(config, {})
    other = {"label_fixes": fixes["label_fixes"] | {"fingerprint": "content-2"}}
    with pytest.raises(ValueError, match="learned from other data"):
        start_run(config.replace(label_fixes="b.csv"), other)


def test_litter_of_a_killed_process_is_removed_at_the_next_start(config):
    run = start_run(config)
    names = []

    def write(temporary):
        names.append(temporary.name)
        temporary.touch()

    atomic(run.file("checkpoints", "last.safetensors"), write)
    dead = subprocess.Popen(["true"])
    dead.wait()
    of_another_process = names[0].replace(f".{os.getpid()}-", f".{dead.pid}-")
    assert of_another_process != names[0]
    killed = [run.file(of_another_process), run.file("checkpoints", of_another_process)]
    elsewhere = run.file(of_another_process.partition("@")[0] + "@elsewhere")
    names_of_others = (".history.csv.swp", f".a.b.c@{socket.gethostname()}")  # an editor's
    foreign = [run.file(name) for name in names_of_others]
    kept = [run.file("checkpoints", names[0]), run.file(".DS_Store"), elsewhere, *foreign]
    for path in killed + kept:
        path.touch()
    with run.recording():
        assert not any(path.exists() for path in killed)
        assert all(path.exists() for path in kept)
    for path in (elsewhere, *foreign):
        os.utime(path, (0, 0))  # long ago
    with run.recording():
        assert not elsewhere.exists()
        assert all(path.exists() for path in foreign)


def test_runs_without_a_name_get_a_folder_each_even_in_the_same_second(config, monkeypatch):
    monkeypatch.setattr("grefel_lib.run.run_id", lambda config: "stamp")
    unnamed = config.replace(run_name="")
    names = [start_run(unnamed.replace(lr=lr)).path.name for lr in (0.1, 0.2, 0.3)]
    assert names == ["stamp", "stamp-2", "stamp-3"]


@pytest.mark.parametrize("content", ["", "null", "[1]", "{", '{"version": 99}', '{"lr": {}}', "\0"])
def test_an_unreadable_run_is_skipped_and_named(config, content, caplog):
    run = start_run(config)
    other = start_run(config.replace(run_name="b"))
    (other.path / "config.json").write_text(content)
    assert [found.path for found in all_runs(config.output_dir)] == [run.path]
    (message,) = [r.getMessage() for r in caplog.records if "skipped a run" in r.getMessage()]
    assert f"{other.path}/config.json" in message


def test_a_run_killed_after_its_training_can_be_finished(config):
    run = start_run(config)
    with run.recording():
        pass
    with pytest.raises(ValueError, match="is finished"):
        check_run(config)
    for end, again in ((None, True), ("2026-01-01", False)):
        record = {"metadata": {"papermill": {"end_time": end}}}
        run.write_json(record, "03_training.ipynb")
        if again:
            check_run(config)
        else:
            with pytest.raises(ValueError, match="is finished"):
                check_run(config)


def test_a_fine_tuned_run_lies_in_its_parent_or_in_the_outputs_folder_that_was_given(
    config, tmp_path
):
    run = start_run(config)
    touch_best(run)
    for name in (BEST, BEST_EMA):
        run.save_checkpoint(name, {}, {"config": config.to_dict(), "val_accuracy": 0.5})
    given = {"checkpoint_path": str(run.path), "finetune_name": "f"}
    assert run_folder(resolve(given, command="finetune")) == run.path / "finetune_f"
    elsewhere = resolve(given | {"output_dir": str(tmp_path / "b")}, command="finetune")
    assert run_folder(elsewhere) == tmp_path / "b/finetune_f"


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
    older = open_run(tmp_path / "outputs/demo-2")  # kept: it may be a user's own of that name
    assert older.config.lr == first.config.lr
    assert older.has_checkpoint(BEST)
    with older.recording():
        older.path.rename(tmp_path / "elsewhere")
        shutil.rmtree(first.path)
        (tmp_path / "elsewhere").rename(first.path)
        with pytest.raises(ValueError, match="demo, where the built-in run belongs, is being tr"):
            demo_run()


def test_everywhere_finds_runs_fine_tuned_ones_and_those_of_sweeps(other_outputs):
    for place, name in ((other_outputs, "one"), (other_outputs / "sweep", "point")):
        start_run(Config.resolve({"output_dir": str(place), "run_name": name}))
    config = json.loads((other_outputs / "one/config.json").read_text())
    (other_outputs / "one/finetune_a").mkdir()
    (other_outputs / "one/finetune_a/config.json").write_text(json.dumps(config))
    (other_outputs / "one/finetune_a/finetune_b").mkdir()
    (other_outputs / "one/finetune_a/finetune_b/config.json").write_text(json.dumps(config))
    (other_outputs / "comparison").mkdir()  # not of a run
    found = [run.path.relative_to(other_outputs).as_posix() for run in every_run()]
    assert sorted(found) == [
        "one", "one/finetune_a", "one/finetune_a/finetune_b", "sweep/point",
    ]  # fmt: skip


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

    def record():
        return json.loads((run.path / "environment.json").read_text())

    first, other = ({"fingerprint": f, "warnings": [f], "no_label": {"val": 2}} for f in "ab")
    run = start_run(config, first)
    start_run(config, other)  # nothing was learned from the first
    assert record()["data"] == other
    run.save_checkpoint(LAST, {"x": torch.zeros(1)}, {})
    before = record()
    told = r"has learned from other data \(fingerprint 'b' there, 'a' here\); restore that data"
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
