"""Monitor a run while it trains, here or on any machine that shares its folder; stop it.

Everything shown is read from the run folder, so nothing is lost when the tab is closed:
`show_panel("training")` in any notebook watches the run that is training now.
"""

import threading
import time
from typing import ClassVar

import ipywidgets as widgets
import numpy as np
import pandas as pd

from grefel_lib.panels.panel import Panel, html_picture, run_dropdown
from grefel_lib.report.figures import dashboard
from grefel_lib.run import Run, every_run, open_run

SECONDS = 2.0  # polling interval


def seconds_left(history: pd.DataFrame, epochs: int, since_last: float) -> float | None:
    """Estimate the time left from the median of the last five epochs; None before the first.

    Args:
        history: One row an epoch, see outputs/README.md.
        epochs: Planned number of epochs.
        since_last: Seconds since the last epoch ended.
    """
    if history.empty:
        return None
    left = epochs - int(history["epoch"].iloc[-1])
    return max(left * float(history["seconds"].tail(5).median()) - since_last, 0.0)


def in_words(seconds: float) -> str:
    """Format a duration: 40 s, 12 min, 3 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


class TrainingPanel(Panel):
    """Curves, time left and a stop button for a run; other runs can be chosen."""

    title = "Training monitor"
    newest: ClassVar["TrainingPanel | None"] = None  # the one that watches its folder

    def __init__(self, run: Run | None = None) -> None:
        super().__init__()
        runs = every_run()
        if run is None and not runs:
            raise ValueError("no run yet; train one: grefel train")
        running = [r for r in runs if run is None and r.status() == "running"]
        self.run, self.seen = run or (running or runs)[-1], None
        self.chosen = run_dropdown(self.run, runs)
        self.stop = widgets.Button(
            description="stop after this epoch", icon="stop", layout={"width": "200px"},
            tooltip="stops training after this epoch; everything is saved and can be resumed",
        )  # fmt: skip
        self.bar = widgets.IntProgress(min=0, max=self.run.config.epochs, layout={"width": "240px"})
        self.state = widgets.Label()
        self.shown = widgets.HTML()
        self.fill([self.chosen, self.stop], [self.bar, self.state], self.shown)
        self.react(self._choose, self.chosen)
        self.react(self._ask, self.stop)
        self.poll = self.guard(self.look, busy="")
        self.poll()
        TrainingPanel.newest = self
        threading.Thread(target=self._watch, daemon=True).start()

    def look(self) -> None:
        """Read the run folder once, and show the changes."""
        self.run.check_folder()
        status = self.run.status()
        going = status == "running"
        path = self.run.path / "history.csv"  # not there before the first epoch
        ended = path.stat().st_mtime if path.is_file() else np.nan
        history = self.run.history() if path.is_file() else pd.DataFrame()
        epochs, done = self.run.config.epochs, int(history["epoch"].max()) if len(history) else 0
        text = f"{status}: epoch {done} of {epochs}"
        if going:
            begun = max(ended, self.run.started())  # of this epoch, also after a resume
            left = seconds_left(history, epochs, time.time() - begun)
            text += ", first epoch not finished" if left is None else f", {in_words(left)} left"
        self.bar.max, self.bar.value, self.state.value = epochs, done, text
        styles = {"running": "", "ok": "success", "stopped": "warning", "new": "info"}
        self.bar.bar_style = styles.get(status, "danger")
        stopping = self.run.asked_to_stop
        self.stop.disabled = not going
        self.stop.description = "cancel the stop" if stopping else "stop after this epoch"
        self.stop.icon, self.stop.button_style = ("play", "warning") if stopping else ("stop", "")
        if stopping and going:
            self.state.value += "; stopping after this epoch"
        if (self.run.path, ended) == self.seen:
            return
        self.seen = (self.run.path, ended)
        if history.empty:
            self.shown.value = ""
            return
        last = history.iloc[-1]
        words = (
            f"epoch {done} of {epochs}: loss {last['train_loss']:.3f}, validation accuracy "
            f"{last['val_accuracy']:.1%}, EMA {last['ema_val_accuracy']:.1%}"
        )
        self.shown.value = html_picture(dashboard(history, epochs), words)

    def _choose(self) -> None:
        before, self.run = self.run, open_run(self.chosen.value)
        try:
            self.look()
        except (ValueError, OSError):
            self.run = before  # which the panel goes on showing
            raise

    def _ask(self) -> None:
        self.run.check_folder()
        self.run.ask_to_stop(not self.run.asked_to_stop)
        self.look()

    def _watch(self) -> None:
        """Refresh every few seconds, even while a cell trains, until a newer monitor takes over."""
        while TrainingPanel.newest is self:
            time.sleep(SECONDS)
            self.poll()
