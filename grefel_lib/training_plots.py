"""A run's health in one figure: losses, accuracy, classes, gradient norm, speed."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from grefel_lib import evaluation_plots, plots

PARTS = {"cls": "corrected", "branch": "branches", "anchor": "anchor", "center": "center",
         "rel": "reliability"}  # fmt: skip


def dashboard(history: pd.DataFrame, epochs: int) -> Figure:
    """Draw a run's health in six panels, over all the epochs it is to have.

    Losses; their parts, unweighted; accuracy; recall of each class (EMA, validation); gradient
    norm before clipping; learning rate and speed.
    """
    with plots.paper_style("full"):
        fig = Figure(figsize=(8.6, 4.4))
        axes = fig.subplots(2, 3)
        epoch = history["epoch"]
        few = {"marker": "o", "ms": 2.5} if len(history) < 12 else {}
        loss, parts, accuracy, classes, norm, speed = axes.flat
        loss.plot(epoch, history["train_loss"], color=plots.TRAIN, label="training", **few)
        loss.plot(epoch, history["val_loss"], color=plots.VAL, ls="--", label="validation", **few)
        loss.plot(epoch, history["ema_val_loss"], color=plots.EMA, label="EMA", **few)
        _parts(history, parts, few)
        for column, name, colour, ls in (
            ("train_accuracy", "training", plots.TRAIN, "-"),
            ("val_accuracy", "validation", plots.VAL, "--"),
            ("ema_val_accuracy", "EMA", plots.EMA, "-"),
        ):
            accuracy.plot(epoch, history[column], color=colour, ls=ls, label=name, **few)
        prefix = "ema_val_accuracy_"
        names = [c.removeprefix(prefix) for c in history if c.startswith(prefix)]
        for name, colour in zip(names, plots.class_colours(names), strict=True):
            classes.plot(epoch, history[prefix + name], color=colour, label=name, **few)
        norm.plot(epoch, history["grad_norm"], color=plots.INK, **few)
        norm.axhline(2, color=plots.FAINT, lw=0.8, zorder=0)
        speed.plot(epoch, history["lr"] / history["lr"].max(), color=plots.TRAIN, label="lr", **few)
        fast = history["images_per_second"]
        speed.plot(epoch, fast / fast.max(), color=plots.VAL, ls="--", label="images/s", **few)
        titles = (
            "loss", "parts of the loss", "accuracy", "recall by class (EMA)",
            "gradient norm, before clipping",
            f"lr (up to {history['lr'].max():.1e}), images/s (up to {fast.max():.0f})",
        )  # fmt: skip
        for ax, title in zip(axes.flat, titles, strict=True):
            ax.set(title=title, xlim=(0.5, max(epochs, 2) + 0.5))
            ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            ax.grid(axis="y")
        for ax in (accuracy, classes, speed):
            ax.set_ylim(0, 1.05)
            ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        norm.set_ylim(0, None)
        for ax in axes[1]:
            ax.set_xlabel("epoch")
        for ax in (loss, parts, accuracy, speed):
            ax.legend(fontsize=6, frameon=True, framealpha=0.75, edgecolor="none")
        handles, names = classes.get_legend_handles_labels()
        fig.legend(handles, names, loc="outside lower center", ncols=len(names), fontsize=6.5)
    return fig


def _parts(history: pd.DataFrame, ax: Axes, few: dict) -> None:
    for number, (part, name) in enumerate(PARTS.items()):
        column = f"train_loss_{part}"
        if column in history:
            colour = list(plots.COLOURS.values())[number]
            line = evaluation_plots.LINES[number]
            ax.plot(history["epoch"], history[column], color=colour, ls=line, label=name, **few)
    if not ax.lines:
        ax.annotate("a linear head has one", (0.5, 0.5), xycoords="axes fraction", ha="center")
        ax.plot([], [], label="cross-entropy")
