"""Figures of one evaluated run: how sure it is, how it breaks, where it looks."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from grefel_lib.labels import COLOURS
from grefel_lib.plots import EMA, FAINT, QUIET, VAL

LINES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1, 1, 1)), (0, (2.5, 1)), (0, (7, 2)))


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
