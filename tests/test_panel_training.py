"""The training monitor: time left, status in words, a stop that loses nothing."""

import os
import shutil
import time

import pandas as pd
import pytest
from conftest import TAG
from matplotlib.figure import Figure

from grefel_lib.faces import load_faces
from grefel_lib.fit import fit
from grefel_lib.panels.training import TrainingPanel, in_words, seconds_left
from grefel_lib.run import LAST, start_run


@pytest.fixture(autouse=True)
def _no_thread(monkeypatch):
    """The tests look for themselves."""
    monkeypatch.setattr(TrainingPanel, "_watch", lambda self: None)


@pytest.fixture(scope="module")
def faces(small_run):
    return load_faces(small_run.config)


def history(*seconds):
    return pd.DataFrame({"epoch": range(1, len(seconds) + 1), "seconds": seconds})


def test_time_left_is_the_typical_epoch_times_those_left():
    assert seconds_left(history(), 10, 0) is None
    assert seconds_left(history(100, 10, 10, 10, 12, 10), 9, 4) == 3 * 10 - 4
    assert seconds_left(history(10), 2, 60) == 0  # late, not negative
    assert seconds_left(history(10, 10), 2, 5) == 0


@pytest.mark.parametrize(
    ("seconds", "told"), [(41, "41 s"), (89, "89 s"), (90, "2 min"), (3600 * 2 + 300, "2 h 05 min")]
)
def test_durations_as_people_say_them(seconds, told):
    assert in_words(seconds) == told


def test_a_finished_run_is_shown_and_cannot_be_stopped(small_run):
    panel = TrainingPanel(small_run)
    assert panel.state.value == "ok: epoch 1 of 1"
    assert (panel.bar.value, panel.bar.max, panel.bar.bar_style) == (1, 1, "success")
    assert panel.stop.disabled
    assert "epoch 1 of 1: loss" in panel.shown.value


def test_a_run_is_followed_from_before_its_first_epoch(tiny):
    run = start_run(tiny)
    panel = TrainingPanel(run)
    assert panel.state.value == "new: epoch 0 of 2"
    faces = load_faces(tiny)
    seen = []

    def say(_):
        panel.look()
        seen.append((panel.state.value, panel.bar.value, panel.stop.disabled))

    fit(faces, run, say=say)
    panel.look()
    assert [bar for _, bar, _ in seen][-2:] == [1, 2]
    assert seen[-2][0].startswith("running: epoch 1 of 2")
    assert seen[-2][0].endswith("left")
    assert not seen[-2][2]
    assert panel.state.value == "ok: epoch 2 of 2"
    loss, plain, averaged = (
        run.history()[name][1] for name in ("train_loss", "val_accuracy", "ema_val_accuracy")
    )
    told = f"2 of 2: loss {loss:.3f}, validation accuracy {plain:.1%}, EMA {averaged:.1%}"
    assert told in panel.shown.value


@pytest.mark.parametrize("content", ["{", "null", '{"status": "<b>x</b>"}', '{"status": ["ok"]}'])
def test_a_damaged_status_is_one_line_and_other_runs_are_shown(
    small_run, other_outputs, content, assert_escaped
):
    run = start_run(small_run.config.replace(output_dir=str(other_outputs), run_name="other"))
    (run.path / "status.json").write_text(content)
    panel = TrainingPanel(run)
    assert f"{run.path}/status.json cannot be read" in panel.message.value
    if TAG in content:
        assert_escaped(panel)
    panel.run = small_run
    panel.guard(panel.look)()
    assert (panel.message.value, panel.state.value) == ("", "ok: epoch 1 of 1")


def test_an_error_of_the_first_look_goes_when_the_run_can_be_read(small_run, other_outputs):
    run = start_run(small_run.config.replace(output_dir=str(other_outputs), run_name="other"))
    (run.path / "status.json").write_text("{")
    panel = TrainingPanel(run)
    assert "status.json cannot be read" in panel.message.value
    (run.path / "status.json").unlink()
    panel.poll()
    assert "status.json" not in panel.message.value
    assert panel.state.value.startswith("new: ")


def test_a_run_that_cannot_be_read_is_not_chosen(small_run, other_outputs):
    other = start_run(small_run.config.replace(output_dir=str(other_outputs), run_name="other"))
    (other.path / "status.json").write_text("{")
    panel = TrainingPanel(small_run)
    panel.chosen.options = (*panel.chosen.options, other.name)
    panel.chosen.value = other.name
    assert "status.json cannot be read" in panel.message.value
    assert (panel.chosen.value, panel.run) == (small_run.name, small_run)
    panel.poll()
    assert "status.json cannot be read" in panel.message.value


def test_a_deleted_run_is_said_and_is_not_new(tiny):
    run = start_run(tiny)
    panel = TrainingPanel(run)
    shutil.rmtree(run.path)
    panel.guard(panel.look)()
    assert "config.json is not there (any more)" in panel.message.value


def test_time_left_counts_from_the_resume_also_in_the_same_process(tiny, monkeypatch):
    run = start_run(tiny)
    history(600.0).assign(train_loss=1.0, val_accuracy=0.5, ema_val_accuracy=0.5).to_csv(
        run.path / "history.csv", index=False
    )
    an_hour_ago = time.time() - 3600
    os.utime(run.path / "history.csv", (an_hour_ago, an_hour_ago))
    monkeypatch.setattr("grefel_lib.panels.training.dashboard", lambda *_: Figure(figsize=(1, 1)))
    monkeypatch.setattr("psutil.Process.create_time", lambda _: an_hour_ago)
    with run.recording():
        assert "10 min left" in TrainingPanel(run).state.value


def test_nothing_is_drawn_again_while_nothing_changed(small_run, monkeypatch):
    panel = TrainingPanel(small_run)
    monkeypatch.setattr(
        "grefel_lib.panels.training.html_picture", lambda *_: pytest.fail("drawn again")
    )
    panel.look()


def test_the_button_asks_to_stop_and_takes_it_back(tiny):
    run = start_run(tiny)
    with run.recording():
        panel = TrainingPanel(run)
        panel.stop.click()
        assert run.asked_to_stop
        assert panel.stop.description == "cancel the stop"
        assert panel.state.value.endswith("stopping after this epoch")
        panel.stop.click()
        assert not run.asked_to_stop
        assert panel.stop.description == "stop after this epoch"


def test_a_stopped_run_has_saved_everything_and_ends_as_a_straight_one(tiny, tmp_path):
    faces = load_faces(tiny)
    straight = fit(faces, start_run(tiny.replace(run_name="straight")))
    run = start_run(tiny)
    said = []

    def say(line):
        said.append(line)
        if "epoch" in line:
            run.ask_to_stop()

    first = fit(faces, run, say=say)
    assert (len(first), run.status()) == (1, "stopped")
    assert run.load_checkpoint(LAST)[1]["epoch"] == 1
    assert "--resume" in said[-1]
    assert not run.asked_to_stop
    run.ask_to_stop()  # a leftover does not stop the continuation
    both = fit(faces, run)
    assert run.status() == "ok"
    assert both["val_loss"].tolist() == straight["val_loss"].tolist()


def test_another_run_can_be_chosen_and_only_the_newest_monitor_looks(small_run, other_outputs):
    config = small_run.config.replace(output_dir=str(other_outputs), run_name="other")
    other = start_run(config)
    first, panel = TrainingPanel(small_run), TrainingPanel(small_run)
    assert TrainingPanel.newest is panel is not first
    assert panel.chosen.options == (small_run.name, other.name)
    panel.chosen.value = other.name
    assert panel.state.value == "new: epoch 0 of 1"
    assert panel.shown.value == ""


def test_without_a_run_it_watches_the_one_that_trains(small_run, other_outputs):
    with pytest.raises(ValueError, match="no run yet; train one: grefel train"):
        TrainingPanel()
    config = small_run.config.replace(output_dir=str(other_outputs))
    busy, newest = (start_run(config.replace(run_name=name)) for name in ("busy", "newest"))
    assert TrainingPanel().run == newest
    with busy.recording():
        assert TrainingPanel().run == busy


def test_the_thread_ends_when_a_newer_monitor_looks(small_run, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr("grefel_lib.panels.training.SECONDS", 0.01)
    first = TrainingPanel(small_run)
    looks = []
    monkeypatch.setattr(first, "look", lambda: looks.append(1))
    TrainingPanel.newest = None
    time.sleep(0.1)
    count = len(looks)
    time.sleep(0.1)
    assert len(looks) == count
