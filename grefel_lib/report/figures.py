"""Figures of a run and its evaluation: each draws what it is given on the axes it is given."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from grefel_lib.metrics import normalise_rows
from grefel_lib.report.style import (
    BLUES,
    COLOURS,
    EMA,
    FAINT,
    INK,
    QUIET,
    TRAIN,
    VAL,
    axes_size,
    check_one_each,
    class_axis,
    class_colours,
    fitting_names,
    paper_style,
    percent,
    short_name,
    text_width,
)
from grefel_lib.report.tables import NOTHING

LINES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1, 1, 1)), (0, (2.5, 1)), (0, (7, 2)))


def accuracy_bars(scores: pd.DataFrame, ax: Axes, *, people: pd.DataFrame | None = None) -> Axes:
    """Draw accuracies with their intervals as dots, over bands of what people reach.

    Args:
        scores: One row a checkpoint or run: value, low, high (shares).
        ax: Where to draw; wide and low.
        people: From `human_ceiling`; the bands are named above the axes.
    """
    for row, (_, line) in enumerate(scores.iterrows()):
        ax.plot([line["low"], line["high"]], [row, row], color=VAL, lw=1.4, solid_capstyle="butt")
        ax.plot(line["value"], row, "o", color=VAL, ms=4.5)
        ax.annotate(f"{100 * line['value']:.1f}", (line["value"], row), (0, 4), ha="center",
                    textcoords="offset points", size=7)  # fmt: skip
    for judge, line in () if people is None else people.iterrows():
        ax.axvspan(line["low"], line["high"], color=FAINT, lw=0, zorder=0)
        at = ((line["low"] + line["high"]) / 2, 1)
        ax.annotate(judge, at, (0, 2), xycoords=("data", "axes fraction"), ha="center",
                    textcoords="offset points", size=7, color=QUIET)  # fmt: skip
    ax.set_yticks(range(len(scores)), list(scores.index))
    ax.set_ylim(len(scores) - 0.5, -0.7)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.margins(x=0.08)
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))  # no half percents
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set_xlabel("accuracy")
    return ax


def per_class_bars(table: pd.DataFrame, ax: Axes) -> Axes:
    """Draw recall by class from `per_class_metrics` with its interval and each class's faces."""
    names = list(table["class"])
    slot = class_axis(ax, names, table["count"])
    table = table.mask(table["count"] == 0)  # no faces, no recall
    ends = np.abs(table[["recall_low", "recall_high"]].T.to_numpy() - table["recall"].to_numpy())
    whisker = {"ecolor": INK, "error_kw": {"lw": 0.8, "capsize": 2, "capthick": 0.8}}
    place = np.arange(len(names))
    ax.bar(place, table["recall"], 0.72, color=class_colours(names), ec=INK, yerr=ends, **whisker)
    for x, value, top in zip(place, table["recall"], table["recall_high"], strict=True):
        text, y = (NOTHING, 0) if np.isnan(value) else (percent(value, slot > 30), top)
        ax.annotate(text, (x, y), (0, 2), ha="center", size=6.5, textcoords="offset points")
    ax.set(ylabel="recall", ylim=(0, 1.1), yticks=np.linspace(0, 1, 6))
    ax.yaxis.set_major_formatter("{x:.0%}")
    return ax


def reliability_diagram(
    bins: pd.DataFrame,
    ax: Axes,
    *,
    xlabel: str = "confidence",
    ylabel: str = "accuracy",
    legend: bool = True,
) -> Axes:
    """Draw the bins of `confidence_bins` or `calibration_bins` on square axes."""
    low, high, count = (bins[name].to_numpy() for name in ("low", "high", "count"))
    claimed, outcome = bins["confidence"].to_numpy(), bins["accuracy"].to_numpy()
    share = {"color": FAINT, "ec": "white", "label": "share of images"}
    ax.bar(low, 0.3 * count / count.max(), high - low, align="edge", **share)
    ax.plot([0, 1], [0, 1], ls=(0, (4, 2)), lw=0.8, color=QUIET, label="calibrated")
    low_end, high_end = np.minimum(claimed, outcome), np.maximum(claimed, outcome)
    ax.vlines(claimed, low_end, high_end, color=EMA, lw=1.6)
    ax.plot(claimed, outcome, "o-", color=VAL, lw=1, ms=3.5, mec="white", mew=0.4, label="found")
    ax.plot([], [], color=EMA, lw=1.6, label="gap to what was claimed")
    ax.set(xlabel=xlabel, ylabel=ylabel, xlim=(0, 1), ylim=(0, 1.02), box_aspect=1)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter("{x:.0%}")
    if legend:
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)  # inside it hides bins
    return ax


def risk_coverage_curves(
    curves: Mapping[str, pd.DataFrame], ax: Axes, *, scores: pd.DataFrame
) -> Axes:
    """Draw the error among the surest faces against the share of faces kept.

    Args:
        curves: By measure of sureness, from `risk_coverage`.
        ax: Where to draw.
        scores: From `error_detection`; its AURC goes into the legend.
    """
    for (name, curve), colour, line in zip(curves.items(), (VAL, EMA), LINES, strict=False):
        label = f"{name} (AURC {100 * scores.loc[name, 'aurc']:.1f})"
        ax.plot(curve["coverage"], curve["risk"], color=colour, linestyle=line, label=label)
    whole = next(iter(curves.values()))["risk"].iloc[-1]
    ax.axhline(whole, color=FAINT, linewidth=0.8, zorder=0)
    ax.annotate(
        "all faces", (0, whole), (2, 2), textcoords="offset points", color=QUIET, fontsize=7
    )
    ax.set(xlabel="share of faces kept", ylabel="error among them", xlim=(0, 1))
    ax.set_ylim(0, None)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.legend(loc="lower right")
    return ax


def robustness_curves(curves: pd.DataFrame, ax: Axes, *, metric: str, label: str) -> Axes:
    """Draw a metric against the severity of each corruption.

    Args:
        curves: From `with_clean`.
        ax: Where to draw.
        metric: A column of `curves`.
        label: Words of the vertical axis.
    """
    colours = list(COLOURS.values())
    for number, (kind, rows) in enumerate(curves.groupby("corruption", sort=False)):
        ax.plot(rows["severity"], rows[metric], marker="osD^vP"[number % 6], markersize=3,
                linestyle=LINES[number % 6], color=colours[number], label=kind)  # fmt: skip
    ax.set(xlabel="severity", ylabel=label)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return ax


LOSS_PARTS = {"cls": "corrected", "branch": "branches", "anchor": "anchor", "center": "center",
         "rel": "reliability"}  # fmt: skip


def dashboard(history: pd.DataFrame, epochs: int) -> Figure:
    """Draw a run's health in six panels, over all the epochs it is to have.

    Losses; their parts, unweighted; accuracy; recall of each class (EMA, validation); gradient
    norm before clipping; learning rate and speed.
    """
    with paper_style("full"):
        fig = Figure(figsize=(8.6, 4.4))
        axes = fig.subplots(2, 3)
        loss, parts, accuracy, classes, norm, speed = axes.flat
        epoch, few = history["epoch"], _markers(history)
        training_curves(history, (loss, accuracy))
        loss.plot(epoch, history["ema_val_loss"], color=EMA, label="EMA", **few)
        _loss_parts(history, parts, few)
        prefix = "ema_val_accuracy_"
        names = [c.removeprefix(prefix) for c in history if c.startswith(prefix)]
        for name, colour in zip(names, class_colours(names), strict=True):
            classes.plot(epoch, history[prefix + name], color=colour, label=name, **few)
        norm.plot(epoch, history["grad_norm"], color=INK, **few)
        norm.axhline(2, color=FAINT, lw=0.8, zorder=0)
        speed.plot(epoch, history["lr"] / history["lr"].max(), color=TRAIN, label="lr", **few)
        fast = history["images_per_second"]
        speed.plot(epoch, fast / fast.max(), color=VAL, ls="--", label="images/s", **few)
        titles = (
            "loss", "parts of the loss", "accuracy", "recall by class (EMA)",
            "gradient norm, before clipping",
            f"lr (up to {history['lr'].max():.1e}), images/s (up to {fast.max():.0f})",
        )  # fmt: skip
        for ax, title in zip(axes.flat, titles, strict=True):
            ax.set(title=title, xlim=(0.5, max(epochs, 2) + 0.5))
            ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            ax.grid(axis="y")
        accuracy.set_ylim(0, 105)
        for ax in (classes, speed):
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


def _markers(history: pd.DataFrame) -> dict[str, Any]:
    """A dot on each epoch, where there are few."""
    return {"marker": "o", "ms": 2.5} if len(history) < 12 else {}


def _loss_parts(history: pd.DataFrame, ax: Axes, few: dict) -> None:
    for number, (part, name) in enumerate(LOSS_PARTS.items()):
        column = f"train_loss_{part}"
        if column in history:
            colour = list(COLOURS.values())[number]
            line = LINES[number]
            ax.plot(history["epoch"], history[column], color=colour, ls=line, label=name, **few)
    if not ax.lines:
        ax.annotate("a linear head has one", (0.5, 0.5), xycoords="axes fraction", ha="center")
        ax.plot([], [], label="cross-entropy")


def confusion_matrix(
    cells: np.ndarray, names: Sequence[str], ax: Axes, normalise: bool = True, counts: bool = True
) -> Axes:
    """Draw a confusion matrix with square cells; a nearly square figure suits it.

    Args:
        cells: (C, C) counts by true class (row) and predicted class (column).
        names: C class names.
        ax: Where to draw.
        normalise: Colour and write percent of each row; otherwise the counts themselves.
        counts: Write the counts under the percentages; where the cells are too small for that,
            each row's sum stands beside its name.
    """
    import seaborn  # slow to import

    cells = np.asarray(cells)
    check_one_each(names, "names", len(cells), "classes")
    shares = normalise_rows(cells) if normalise else cells / max(cells.max(), 1)
    side = min(axes_size(ax)) / len(cells)  # points
    size = float(np.clip(0.34 * side, 5, 8))
    below = normalise and counts and 0.72 * size > 4.8
    look = {"cmap": BLUES, "cbar": False, "square": True, "linewidths": 0.4, "linecolor": "white"}
    seaborn.heatmap(shares, ax=ax, vmin=0, vmax=1, **look)
    for (row, column), share in np.ndenumerate(shares):
        value = cells[row, column]
        colour = "white" if share > 0.63 else INK if value else QUIET
        text = percent(share, side > 30) if normalise else f"{value:.0f}"
        text = text if cells[row].any() or not normalise else NOTHING
        at = {"ha": "center", "va": "center", "color": colour}
        two = size / side if below and value > 0 else 0
        ax.text(column + 0.5, row + 0.5 - 0.42 * two, text, size=size, **at)
        if two:
            ax.text(column + 0.5, row + 0.5 + 0.66 * two, f"{value:.0f}", size=0.72 * size, **at)
    roomy = max(map(text_width, names)) < 0.22 * 72 * ax.figure.get_figwidth()
    left = list(names) if roomy else [short_name(name) for name in names]
    if normalise and counts and not below:
        left = [f"{n} ({s:.0f})" for n, s in zip(left, cells.sum(axis=1), strict=True)]
    bottom, rotation = fitting_names(names, side)
    ax.set_xticks(np.arange(len(cells)) + 0.5, bottom, rotation=rotation)
    ax.set_yticks(np.arange(len(cells)) + 0.5, left, rotation=0)
    ax.tick_params(length=0)
    ax.set(xlabel="predicted (% of true class)" if normalise else "predicted", ylabel="true")
    return ax


def training_curves(history: pd.DataFrame, axes: Sequence[Axes]) -> Sequence[Axes]:
    """Draw loss and accuracy over the epochs of a history on two axes; the best are marked."""
    loss, accuracy = axes
    epoch = history["epoch"]
    few = _markers(history)
    loss.plot(epoch, history["train_loss"], color=TRAIN, label="training", **few)
    loss.plot(epoch, history["val_loss"], color=VAL, ls="--", label="validation", **few)
    accuracy.plot(epoch, 100 * history["train_accuracy"], color=TRAIN, label="training", **few)
    for column, name, colour, ls, marker in (
        ("val_accuracy", "validation", VAL, "--", "s"),
        ("ema_val_accuracy", "EMA", EMA, "-", "D"),
    ):
        percent = 100 * history[column]
        accuracy.plot(epoch, percent, color=colour, ls=ls, **few)
        x, y = epoch.iloc[percent.argmax()], percent.max()
        mark = {"color": colour, "ls": ls, "marker": marker, "mfc": "white", "ms": 4}
        accuracy.plot(x, y, **mark, zorder=4, label=f"{name} (best {y:.1f}, epoch {x})")
    for ax, name in zip(axes, ("loss", "accuracy (%)"), strict=True):
        ax.set(xlabel="epoch", ylabel=name)
        ax.xaxis.set_major_locator(MaxNLocator(7, integer=True, min_n_ticks=1))
        ax.grid(axis="y")
        ax.legend(loc="best")
    return axes
