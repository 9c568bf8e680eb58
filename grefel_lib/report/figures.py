"""Figures of a run and its evaluation. Each function draws its data on the given axes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from grefel_lib.metrics import normalise_rows, renamed
from grefel_lib.report.style import (
    BLUES,
    COLOURS,
    EMA,
    FAINT,
    INK,
    QUIET,
    SMALLEST,
    TRAIN,
    VAL,
    Paper,
    check_one_each,
    class_colours,
    interval_ends,
    legend_name,
    name_rows,
    paper_style,
    percent,
    short_names,
    text_width,
    two_lines,
)
from grefel_lib.report.tables import NOTHING

FEW = 10  # faces; the accuracy of fewer says little
TWO_LINES = 17  # points that a name in two lines needs
LINES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1, 1, 1)), (0, (2.5, 1)), (0, (7, 2)))


def accuracy_bars(scores: pd.DataFrame, people: pd.DataFrame, ax: Axes) -> Axes:
    """Plot accuracies as dots with their intervals, over bands of human accuracy.

    Args:
        scores: One row per checkpoint or run: value, low, high (as fractions).
        ax: Target axes; wide and flat.
        people: From `human_ceiling`; the bands are named above the axes.
    """
    ends = interval_ends(scores, "value", "low", "high")
    ax.errorbar(scores["value"], range(len(scores)), xerr=ends, fmt="o", color=VAL, lw=1.4, ms=4.5)
    for row, value in enumerate(scores["value"]):
        ax.annotate(f"{100 * value:.1f}", (value, row), (0, 4), ha="center",
                    textcoords="offset points", size=7)  # fmt: skip
    for number, (judge, line) in enumerate(people.iterrows()):
        ax.axvspan(line["low"], line["high"], color=FAINT, lw=0, zorder=0)
        at = ((line["low"] + line["high"]) / 2, 1)
        ax.annotate(judge, at, (0, 2 + 9 * number), xycoords=("data", "axes fraction"), ha="center",
                    textcoords="offset points", size=7, color=QUIET)  # fmt: skip
    name_rows(ax, list(scores.index))
    ax.margins(x=0.08)
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))  # no half percents
    ax.xaxis.set_major_formatter("{x:.0%}")
    ax.set_xlabel("accuracy")
    return ax


def per_class_bars(table: pd.DataFrame, ax: Axes) -> Axes:
    """Draw each class's recall with its interval and its number of faces (`per_class_metrics`)."""
    names = list(table["class"])
    slot = _axes_size(ax)[0] / len(names)  # points for each bar
    below, rotation = _fitting_names(names, slot)
    join = "{} ({})" if rotation else "{}\n{}"
    below = [join.format(*pair) for pair in zip(below, table["count"], strict=True)]
    ax.set_xticks(range(len(names)), below, rotation=rotation)
    ax.tick_params(axis="x", length=0)
    ax.grid(axis="y")
    table = table.mask(table["count"] == 0)  # recall is undefined without faces
    ends = interval_ends(table, "recall", "recall_low", "recall_high")
    whisker = {"ecolor": INK, "error_kw": {"lw": 0.8, "capsize": 2, "capthick": 0.8}}
    look = {"color": class_colours(names), "ec": INK} | whisker
    ax.bar(range(len(names)), table["recall"], 0.72, yerr=ends, **look)
    for x, (value, top) in enumerate(zip(table["recall"], table["recall_high"], strict=True)):
        text, y = (NOTHING, 0) if np.isnan(value) else (percent(value, slot > 30), top)
        ax.annotate(text, (x, y), (0, 2), ha="center", size=6.5, textcoords="offset points")
    ax.set(xlim=(-0.55, len(names) - 0.45), ylim=(0, 1.1), yticks=np.linspace(0, 1, 6))
    ax.set_ylabel("recall")
    ax.yaxis.set_major_formatter("{x:.0%}")
    return ax


def reliability_diagram(bins: pd.DataFrame, ax: Axes, *, xlabel: str, ylabel: str) -> Axes:
    """Draw the bins of `confidence_bins` or `calibration_bins` on square axes, without a legend.

    Bins with fewer than FEW faces are hollow, and the line leaves them out.
    """
    low, high, count = (bins[name].to_numpy() for name in ("low", "high", "count"))
    few, points = count < FEW, bins[["confidence", "accuracy"]].to_numpy()
    look = {"color": VAL, "ms": 3.5, "mew": 0.4}
    share = {"color": FAINT, "ec": "white", "label": "share of faces"}
    ax.bar(low, count / count.sum(), high - low, align="edge", **share)
    ax.plot([0, 1], [0, 1], ls=(0, (4, 2)), lw=0.8, color=QUIET, label="calibrated")
    ax.plot(*points[~few].T, "o-", lw=1, mec="white", label="measured", **look)
    if few.any():
        ax.plot(*points[few].T, "o", mfc="white", label=f"fewer than {FEW} faces", **look)
    claimed, outcome = points[~few].T
    ax.vlines(claimed, claimed, outcome, color=EMA, lw=1.6, zorder=1.9, label="calibration gap")
    ax.set(xlabel=xlabel, ylabel=ylabel, xlim=(0, 1), ylim=(0, 1.02), box_aspect=1)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter("{x:.0%}")
    return ax


def risk_coverage_curves(
    curves: Mapping[str, pd.DataFrame], ax: Axes, *, scores: pd.DataFrame
) -> Axes:
    """Plot the error rate of the most confident faces against coverage.

    Args:
        curves: By confidence measure, from `risk_coverage`.
        ax: Where to draw.
        scores: From `error_detection`; its AURC goes into the legend.
    """
    for (name, curve), colour, line in zip(curves.items(), (VAL, EMA), LINES, strict=False):
        label = f"{name} (AURC {scores.loc[name, 'aurc']:.3f})"
        ax.plot(curve["coverage"], curve["risk"], color=colour, linestyle=line, label=label)
    whole = next(iter(curves.values()))["risk"].iloc[-1]
    ax.axhline(whole, color=FAINT, linewidth=0.8, zorder=0, label="all faces")
    ax.set(xlabel="coverage (share of faces kept)", ylabel="error rate", xlim=(0, 1))
    ax.set_ylim(0, None)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter("{x:.0%}")
    _legend_above(ax)
    return ax


def _legend_above(ax: Axes) -> None:
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), borderpad=0.2)


def offset_path(curve: pd.DataFrame, chosen: float, ax: Axes) -> Axes:
    """Plot accuracy against mean class accuracy as class offsets grow stronger.

    Args:
        curve: From `offset_curve`.
        chosen: The tau to mark.
        ax: Where to draw.
    """
    x, y = curve["mean_class_accuracy"], curve["accuracy"]
    ax.plot(x, y, color=VAL, marker="o", markersize=2.5)
    ax.plot(x[chosen], y[chosen], color=EMA, marker="o", markersize=6, zorder=4)
    for tau in dict.fromkeys((0.0, 1.0, chosen)):
        mark = {"color": QUIET, "va": "top"}
        if tau == chosen:  # above its point, the others below
            mark = {"color": EMA, "weight": "bold", "va": "bottom"}
        left = x[tau] < (x.min() + x.max()) / 2  # a text leads away from the nearer edge
        words = "no offsets" if tau == 0 else f"strength {tau:g}"
        mark |= {"ha": "left" if left else "right", "textcoords": "offset points", "fontsize": 7}
        pale = {"fc": "white", "ec": "none", "alpha": 0.7, "pad": 0.5}
        shift = -3 if left else 3, 8 if tau == chosen else -5
        ax.annotate(words, (x[tau], y[tau]), shift, bbox=pale, **mark)
    ax.set(xlabel="mean class accuracy (validation)", ylabel="accuracy (validation)")
    ax.xaxis.set_major_formatter("{x:.0%}")
    ax.yaxis.set_major_formatter("{x:.1%}")
    ax.margins(0.15)
    return ax


def robustness_curves(curves: pd.DataFrame, ax: Axes, *, metric: str, label: str) -> Axes:
    """Draw a metric against the severity of each corruption.

    Args:
        curves: From `with_clean`.
        ax: Where to draw.
        metric: A column of `curves`.
        label: Label of the vertical axis.
    """
    looks = zip(COLOURS.values(), LINES, "osD^vP", strict=False)
    kinds = curves.groupby("corruption", sort=False)
    for (kind, rows), (colour, line, marker) in zip(kinds, looks, strict=False):
        look = {"marker": marker, "ms": 3, "ls": line, "color": colour}
        ax.plot(rows["severity"], rows[metric], label=kind, **look)
    ax.set(xlabel="severity", ylabel=label)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.yaxis.set_major_formatter("{x:.0%}")
    return ax


LOSS_PARTS = {"cls": "corrected", "branch": "branches", "anchor": "anchor", "center": "center",
         "rel": "reliability"}  # fmt: skip


def dashboard(history: pd.DataFrame, epochs: int) -> Figure:
    """Plot training diagnostics in six panels, over all planned epochs.

    Losses; their unweighted parts; accuracy; recall of each class (EMA, validation); gradient
    norm before clipping; learning rate and speed.
    """
    with paper_style():
        fig = Figure(figsize=(8.6, 4.4))
        axes = fig.subplots(2, 3)
        loss, parts, accuracy, classes, norm, speed = axes.flat
        epoch, few = history["epoch"], _markers(history)
        training_curves(history, (loss, accuracy))
        loss.plot(epoch, history["ema_val_loss"], color=EMA, label="EMA", **few)
        looks = zip(LOSS_PARTS.items(), COLOURS.values(), LINES, strict=False)
        for (part, name), colour, line in looks:
            if f"train_loss_{part}" in history:
                values = history[f"train_loss_{part}"]
                parts.plot(epoch, values, color=colour, ls=line, label=name, **few)
        if not parts.lines:
            middle = {"xycoords": "axes fraction", "ha": "center"}
            parts.annotate("linear head: a single loss", (0.5, 0.5), **middle)
            parts.plot([], [], label="cross-entropy")
        recall = history.filter(regex="^ema_val_accuracy_")
        names = recall.columns.str.removeprefix("ema_val_accuracy_")
        for number, (name, colour) in enumerate(zip(names, class_colours(names), strict=True)):
            values, line = recall[f"ema_val_accuracy_{name}"], LINES[number // 8 % len(LINES)]
            classes.plot(epoch, values, color=colour, ls=line, label=legend_name(name), **few)
        norm.plot(epoch, history["grad_norm"], color=INK, **few)
        lr, rate = history["lr"], history["images_per_second"]
        speed.plot(epoch, lr / lr.max(), color=TRAIN, label="lr", **few)
        speed.plot(epoch, rate / rate.max(), color=VAL, ls="--", label="images/s", **few)
        titles = (
            "loss", "parts of the loss", "accuracy", "recall by class (EMA)",
            "gradient norm, before clipping",
            f"lr (up to {lr.max():.1e}), images/s (up to {rate.max():.0f})",
        )  # fmt: skip
        for ax, title in zip(axes.flat, titles, strict=True):
            ax.set(title=title, xlim=(0.5, max(epochs, 2) + 0.5))
            ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            ax.grid(axis="y")
        accuracy.set_ylim(0, 105)
        for ax in (classes, speed):
            ax.set_ylim(0, 1.05)
            ax.yaxis.set_major_formatter("{x:.0%}")
        norm.set_ylim(0, None)
        for ax in axes[1]:
            ax.set_xlabel("epoch")
        for ax in (loss, parts, accuracy, speed):
            ax.legend(fontsize=6, frameon=True, framealpha=0.75, edgecolor="none")
        handles, names = classes.get_legend_handles_labels()
        across = int(72 * fig.get_figwidth() / (35 + max(map(text_width, names))))  # in points
        fig.legend(handles, names, loc="outside lower center", ncols=across, fontsize=6.5)
    return fig


def _markers(history: pd.DataFrame) -> dict[str, Any]:
    """A dot on each epoch if there are few."""
    return {"marker": "o", "ms": 2.5} if len(history) < 12 else {}


def _by_value(name: Any) -> tuple[int, str]:
    """Whole numbers in their order, also as text; before them what is none."""
    return len(str(name)) * str(name).isdecimal(), str(name)


def confusion_figure(
    y_true: Sequence, y_pred: Sequence, names: Sequence[str] = (), *, paper: Paper | None = None
) -> Figure:
    """A confusion matrix from the labels and predictions of any model, one column wide.

    More than 24 classes take the width of the page.

    Args:
        y_true: (N,) labels: classes, or, if they are not among `names`, positions in it.
        y_pred: (N,) predictions, likewise.
        names: The classes in their order; by default those that occur, sorted.
        paper: Its widths, font, names and cells.

    Raises:
        ValueError: The lengths differ, there are no faces, or a label is empty or unknown.
    """
    paper = paper or Paper()
    if len(y_true) != len(y_pred) or not len(y_true):
        raise ValueError(f"{len(y_true)} labels and {len(y_pred)} predictions; give one for each")
    given = pd.Series([*y_true, *y_pred])
    if empty := int(given.isna().sum()):
        raise ValueError(f"{empty} of the labels and predictions are empty; drop these faces")
    names = list(names)
    positions = names and pd.api.types.is_numeric_dtype(given) and not given.isin(names).all()
    known = range(len(names)) if positions else names or sorted(given.unique(), key=_by_value)
    if len(set(known)) < len(known):
        raise ValueError(f"a class is named twice among {', '.join(map(str, known))}")
    codes = pd.Index(known).get_indexer(given)
    if (codes < 0).any():
        unseen = ", ".join(map(str, pd.Index(known).difference(given, sort=False)))
        raise ValueError(
            f"{given[codes < 0].iloc[0]!r} is not among the {len(known)} classes"
            + f"; no face has the class {unseen}" * bool(unseen)
        )
    counts = np.zeros((len(known), len(known)), dtype=int)
    np.add.at(counts, tuple(codes.reshape(2, -1)), 1)
    names = renamed([str(name) for name in names or known], paper.class_names)
    with paper_style(paper.font):
        fig = Figure(figsize=paper.matrix_size(len(names)))
        confusion_matrix(counts, names, fig.subplots(), **paper.cell_texts)
    return fig


def confusion_matrix(
    cells: np.ndarray,
    names: Sequence[str],
    ax: Axes,
    *,
    counts: bool = True,
    percentages: bool = True,
) -> Axes:
    """Plot a row-normalised confusion matrix, with square cells.

    Args:
        cells: (C, C) counts by true class (row) and predicted class (column).
        names: C class names.
        ax: Where to draw.
        counts: Write the counts, below the percentages if there are any; if the cells are too
            small for both, write each row's sum beside its name.
        percentages: Write the percentages of the rows.

    Cells that are too small for any text are only shaded.
    """
    import seaborn  # slow to import

    cells = np.asarray(cells)
    check_one_each(names, "names", len(cells), "classes")
    shares = normalise_rows(cells)
    room = 0.3 * _axes_size(ax)[0]
    left = list(names)
    if max(map(text_width, left)) > room:
        left = [two_lines(name) for name in names]
        if max(map(text_width, left)) > room or _cell_side(ax, left) < TWO_LINES:
            left = short_names(names)
    side = _cell_side(ax, left)
    widest = max(text_width(f"{value:.0f}") for value in cells.flat) * SMALLEST / 7
    both = counts and percentages
    below = both and widest < 0.92 * side and side > 2.8 * SMALLEST
    if both and not below:
        left = [f"{n} ({s:.0f})" for n, s in zip(left, cells.sum(axis=1), strict=True)]
        side = _cell_side(ax, left)
    size = float(np.clip(0.34 * side, SMALLEST, 8))
    mesh = {"vmin": 0, "vmax": 1, "linewidths": 0.4, "linecolor": "white", "cbar": False}
    seaborn.heatmap(shares, cmap=BLUES, square=True, ax=ax, **mesh)
    shaded = text_width("88") * SMALLEST / 7 > side
    for (row, column), share in () if shaded else np.ndenumerate(shares):
        value = cells[row, column]
        colour = "white" if share > 0.63 else INK if value else QUIET
        text = percent(share, side > 30) if percentages else _short_count(value, side, size)
        text = text if cells[row].any() else NOTHING
        at = {"ha": "center", "va": "center", "color": colour}
        two = size / side if below and value > 0 else 0
        ax.text(column + 0.5, row + 0.5 - 0.42 * two, text, size=size, **at)
        if two:
            smaller = max(SMALLEST, 0.72 * size)
            ax.text(column + 0.5, row + 0.5 + 0.66 * two, f"{value:.0f}", size=smaller, **at)
    bottom, rotation = _fitting_names(names, side)
    close = {"linespacing": 0.95, "multialignment": "right"}
    bottom_look = close | {"multialignment": "right" if rotation else "center"}
    ax.set_xticks(np.arange(len(cells)) + 0.5, bottom, rotation=rotation, **bottom_look)
    ax.set_yticks(np.arange(len(cells)) + 0.5, left, rotation=0, **close)
    ax.tick_params(length=0, **{"labelsize": SMALLEST} if shaded else {})
    ax.set(ylabel="true")
    words = "% of true class" if percentages else "number of faces"
    ax.set_xlabel(f"predicted ({'darker: a larger share' if shaded else words})")
    return ax


def _cell_side(ax: Axes, left: Sequence[str]) -> float:
    """Approximate side of a matrix' cells in points, with these names beside its rows."""
    width, height = _axes_size(ax)
    return min(width, width / 0.775 - max(map(text_width, left)) - 24, height) / len(left)


def _short_count(value: float, side: float, size: float) -> str:
    """A count that fits into its cell: 1234, 12k or 1.2M."""
    texts = (f"{value:.0f}", f"{value / 1e3:.0f}k", f"{value / 1e6:.1f}M", f"{value / 1e6:.0f}M")
    return next((t for t in texts if text_width(t) * size / 7 < 0.94 * side), texts[-1])


def _fitting_names(names: Sequence[str], slot: float) -> tuple[list[str], int]:
    """Names for ticks `slot` points apart, and their rotation: full, in two lines, or short."""
    broken, short = [two_lines(name) for name in names], short_names(names)
    for texts in (list(names), broken, short):
        if max(map(text_width, texts)) < 0.94 * slot:
            return texts, 0
    return broken if slot > TWO_LINES else short, 90


def _axes_size(ax: Axes) -> np.ndarray:
    """Approximate width and height of axes in points; the layout is not known before drawing."""
    return 72 * np.array(ax.get_position().size) * ax.figure.get_size_inches()


def training_curves(history: pd.DataFrame, axes: Sequence[Axes]) -> Sequence[Axes]:
    """Plot classification loss and accuracy over epochs on two axes; the best are marked."""
    loss, accuracy = axes
    epoch = history["epoch"]
    few = _markers(history)
    training = history["train_loss_cls" if "train_loss_cls" in history else "train_loss"]
    loss.plot(epoch, training, color=TRAIN, label="training", **few)
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
    for ax, name in zip(axes, ("classification loss", "accuracy (%)"), strict=True):
        ax.set(xlabel="epoch", ylabel=name)
        ax.xaxis.set_major_locator(MaxNLocator(7, integer=True, min_n_ticks=1))
        ax.grid(axis="y")
        _legend_above(ax)
    return axes
