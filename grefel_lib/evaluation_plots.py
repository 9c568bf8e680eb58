"""Figures of one evaluated run: how sure it is, how it breaks, where it looks."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from grefel_lib import plots
from grefel_lib.labels import COLOURS
from grefel_lib.plots import EMA, FAINT, INK, QUIET, VAL

LINES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1, 1, 1)), (0, (2.5, 1)), (0, (7, 2)))


def accuracy(scores: pd.DataFrame, ax: Axes, *, people: pd.DataFrame | None = None) -> Axes:
    """Draw accuracies with their intervals as dots, over bands of what people reach.

    Args:
        scores: One row a checkpoint or run: value, low, high (shares).
        ax: Where to draw; wide and low.
        people: From `people.ceiling`; the bands are named above the axes.
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
    """Draw recall by class from `metrics.per_class` with its interval and each class's faces."""
    names = list(table["class"])
    slot = plots.class_axis(ax, names, table["count"])
    ends = np.abs(table[["recall_low", "recall_high"]].T.to_numpy() - table["recall"].to_numpy())
    whisker = {"ecolor": INK, "error_kw": {"lw": 0.8, "capsize": 2, "capthick": 0.8}}
    place = np.arange(len(names))
    ax.bar(
        place, table["recall"], 0.72, color=plots.class_colours(names), ec=INK, yerr=ends, **whisker
    )
    for x, value, top in zip(place, table["recall"], table["recall_high"], strict=True):
        ax.annotate(plots.percent(value, slot > 30), (x, top), (0, 2), ha="center", size=6.5,
                    textcoords="offset points")  # fmt: skip
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
    """Draw the bins of `metrics.reliability_bins` or `metrics.calibration` on square axes."""
    low, high, count = (bins[name].to_numpy() for name in ("low", "high", "count"))
    claimed, found = bins["confidence"].to_numpy(), bins["accuracy"].to_numpy()
    share = {"color": FAINT, "ec": "white", "label": "share of images"}
    ax.bar(low, 0.3 * count / count.max(), high - low, align="edge", **share)
    ax.plot([0, 1], [0, 1], ls=(0, (4, 2)), lw=0.8, color=QUIET, label="calibrated")
    ax.vlines(claimed, np.minimum(claimed, found), np.maximum(claimed, found), color=EMA, lw=1.6)
    ax.plot(claimed, found, "o-", color=VAL, lw=1, ms=3.5, mec="white", mew=0.4, label="found")
    ax.plot([], [], color=EMA, lw=1.6, label="gap to what was claimed")
    ax.set(xlabel=xlabel, ylabel=ylabel, xlim=(0, 1), ylim=(0, 1.02), box_aspect=1)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter("{x:.0%}")
    if legend:
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)  # inside it hides bins
    return ax


def risk_coverage(curves: Mapping[str, pd.DataFrame], ax: Axes, *, scores: pd.DataFrame) -> Axes:
    """Draw the error among the surest faces against the share of faces kept.

    Args:
        curves: By measure of sureness, from `calibration.risk_coverage`.
        ax: Where to draw.
        scores: From `calibration.error_detection`; its AURC goes into the legend.
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


def robustness(curves: pd.DataFrame, ax: Axes, *, metric: str, label: str) -> Axes:
    """Draw a metric against the severity of each corruption.

    Args:
        curves: From `robustness.with_clean`.
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


def attention(face: np.ndarray, weights: np.ndarray, ax: Axes) -> Axes:
    """Draw a face under what the attentive correction looked at, brighter where it looked more.

    Args:
        face: (H, W) or (H, W, 3) uint8.
        weights: (h, w) attention over the token grid; any scale.
        ax: Where to draw; its ticks go.
    """
    height, width = face.shape[:2]
    ax.imshow(face, cmap="gray", vmin=0, vmax=255, extent=(0, width, height, 0))
    ax.imshow(weights, cmap="magma", alpha=0.45, extent=(0, width, height, 0),
              interpolation="bicubic", vmin=0)  # fmt: skip
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
    return ax


def anchor_graph(
    anchors: np.ndarray,
    places: np.ndarray,
    faces: np.ndarray,
    class_names: Sequence[str],
    ax: Axes,
) -> Axes:
    """Draw each anchor where it lies, as large as the faces nearest to it, tied to its neighbour.

    Args:
        anchors: (C, K, D) on their sphere; a line joins each to the one at the smallest angle.
        places: (C, K, 2) where they are drawn.
        faces: (C, K) faces whose nearest anchor it is; an anchor of none is hollow.
        class_names: C names.
        ax: Where to draw.
    """
    flat = anchors.reshape(-1, anchors.shape[-1])
    flat = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    alike = flat @ flat.T - 2 * np.eye(len(flat))
    points, count = places.reshape(-1, 2), faces.ravel()
    for a, b in enumerate(alike.argmax(axis=1)):
        ax.plot(*points[[a, b]].T, color=QUIET, lw=0.3 + 1.2 * max(alike[a, b], 0), zorder=1)
    colour = np.repeat(plots.class_colours(class_names), anchors.shape[1])
    size = 12 + 160 * count / max(count.max(), 1)
    inside = np.where(count > 0, colour, "white")
    ax.scatter(*points.T, s=size, c=inside, edgecolors=colour, linewidths=0.8, zorder=2)
    ax.set_aspect("equal")
    return ax


def face_cards(
    images: Sequence[np.ndarray],
    rows: pd.DataFrame,
    class_names: Sequence[str],
    others: Mapping[str, pd.Series] | None = None,
    *,
    ncols: int = 4,
) -> Figure:
    """Draw faces beside what people said and what the model says, before and after correction.

    Args:
        images: N arrays (H, W) or (H, W, 3), uint8.
        rows: Their N rows of a predictions table.
        class_names: C names.
        others: By name of another checkpoint, what it predicts for each of them.
        ncols: Faces in a row.

    Above each face: label and prediction, id, reliability, the others' predictions.
    """
    lines = -(-len(images) // ncols)
    high = 1.7 + 0.15 * len(others or ())
    fig = Figure(figsize=(2.2 * ncols, high * lines + 0.2))
    axes = fig.subplots(lines, 2 * ncols, squeeze=False, width_ratios=[1, 1.15] * ncols)
    for ax in axes.flat:
        ax.set_axis_off()
    pairs = axes.reshape(-1, 2)
    for (face, bars), image, (index, row) in zip(pairs, images, rows.iterrows(), strict=False):
        face.imshow(image, cmap="gray", vmin=0, vmax=255)
        sure = f"reliability {row['reliability']:.2f}" if "reliability" in row else ""
        said = [f"{name}: {found[index]}" for name, found in (others or {}).items()]
        told = [row["label"], f"→ {row['predicted']}", str(row["id"]), sure, *said]
        face.set_title("\n".join(filter(None, told)), size=6.5, pad=2)
        given = {}
        for name, prefix in (("people", "votes_"), ("primary", "primary_"), ("corrected", "p_")):
            columns = [prefix + label for label in class_names]
            if set(columns) <= set(rows) and (total := row[columns].sum()) > 0:
                given[name] = row[columns].to_numpy(dtype=float) / total
        distributions(given, class_names, bars)
    fig.legend(*pairs[0][1].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return fig


def distributions(
    given: Mapping[str, np.ndarray], class_names: Sequence[str], ax: Axes, *, size: float = 6
) -> Axes:
    """Draw what people, the primary classifier and the corrected one say of a face, as bars.

    Args:
        given: (C,) by name: people, primary, corrected, as far as they are known.
        class_names: C names.
        ax: Where to draw.
        size: Of the names, in points.
    """
    looks = {"people": "white", "primary": FAINT, "corrected": VAL}
    thick = 0.82 / len(given)
    for number, (name, values) in enumerate(given.items()):
        where = np.arange(len(class_names)) + thick * (number - (len(given) - 1) / 2)
        ax.barh(where, values, thick, color=looks[name], ec=INK, lw=0.4, label=name)
    ax.set_axis_on()
    ax.set(xlim=(0, 1), ylim=(len(class_names) - 0.5, -0.5), xticks=[])
    ax.set_yticks(range(len(class_names)), [plots.short_name(n) for n in class_names], size=size)
    ax.tick_params(length=0)
    ax.spines["bottom"].set_visible(False)
    return ax
