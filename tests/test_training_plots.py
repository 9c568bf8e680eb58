"""The dashboard of a run: everything the history holds is in it."""

import pytest

from grefel_lib.report.figures import LOSS_PARTS, dashboard


def test_every_column_is_drawn_over_all_epochs(small_run):
    history = small_run.history()
    fig = dashboard(history, 7)
    loss, parts, accuracy, classes, norm, speed = fig.axes
    for ax, columns in (
        (loss, ["train_loss", "val_loss", "ema_val_loss"]),
        (parts, [f"train_loss_{part}" for part in LOSS_PARTS]),
        (accuracy, ["train_accuracy", "val_accuracy", "ema_val_accuracy"]),
        (classes, [c for c in history if c.startswith("ema_val_accuracy_")]),
    ):
        drawn = [line.get_ydata().tolist() for line in ax.lines]
        assert drawn == [history[column].tolist() for column in columns]
    assert norm.lines[0].get_ydata().tolist() == history["grad_norm"].tolist()
    assert len(speed.lines) == 2
    assert all(ax.get_xlim() == (0.5, 7.5) for ax in fig.axes)
    names = [text.get_text() for text in fig.legends[0].get_texts()]
    assert len(names) == len(set(names)) == len(classes.lines) == 8


def test_a_linear_head_has_one_loss_and_no_parts(small_run):
    history = small_run.history()
    history = history.drop(columns=[f"train_loss_{part}" for part in LOSS_PARTS])
    parts = dashboard(history, 1).axes[1]
    assert parts.texts[0].get_text() == "a linear head has one"


@pytest.mark.parametrize("epochs", [1, 40])
def test_few_epochs_are_marked_and_many_are_lines(small_run, epochs):
    history = small_run.history().loc[[0] * epochs].assign(epoch=range(1, epochs + 1))
    line = dashboard(history, epochs).axes[0].lines[0]
    assert (line.get_marker() == "o") == (epochs < 12)
