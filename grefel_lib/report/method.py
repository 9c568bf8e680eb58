"""Figures of the method itself: curves, anchors on their sphere, one decision taken apart.

As in `plots`, each function draws what it is given on the axes it is given.
"""

from collections.abc import Sequence
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Circle

from grefel_lib.labels import COLOURS
from grefel_lib.report.style import EMA, FAINT, INK, QUIET, VAL, short_name


def curves(table: pd.DataFrame, ax: Axes) -> Axes:
    """Draw the columns of a table as lines over its index, named in a legend."""
    looks = zip(cycle((VAL, EMA, INK)), cycle(("-", "--", ":")), strict=False)
    for (name, values), (colour, ls) in zip(table.items(), looks, strict=False):
        ax.plot(table.index, values, color=colour, ls=ls, lw=1.4, label=name)
    ax.set_xlim(table.index[0], table.index[-1])
    ax.grid()
    ax.legend(loc="upper left")
    return ax


def anchor_circle(anchors: np.ndarray, class_names: Sequence[str], ax: Axes) -> Axes:
    """Draw anchors (C, K, 2) on their common circle, in the colours of their classes."""
    anchors = np.asarray(anchors)
    if len(class_names) != len(anchors):
        raise ValueError(f"{len(class_names)} names for {len(anchors)} classes; give one for each")
    radius = np.linalg.norm(anchors[0, 0])
    ax.add_patch(Circle((0, 0), radius, fc="none", ec=FAINT, lw=1))
    for points, name in zip(anchors, class_names, strict=True):
        x, y = points.T
        for end_x, end_y in points:
            ax.plot([0, end_x], [0, end_y], color=COLOURS[name], lw=0.6, alpha=0.6, zorder=2)
        ax.scatter(x, y, s=26, color=COLOURS[name], ec="white", lw=0.5, zorder=3, label=name)
    limit = 1.16 * radius
    ax.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return ax


def anchor_map(
    points: np.ndarray,
    labels: np.ndarray,
    anchors: np.ndarray,
    class_names: Sequence[str],
    ax: Axes,
) -> Axes:
    """Draw embeddings and anchors in a plane, both in the colours of their classes.

    Args:
        points: (N, 2) embeddings, already projected.
        labels: (N,) positions in `class_names`.
        anchors: (C, K, 2) anchors in the same plane.
        class_names: C names.
        ax: Where to draw; the legend stands to its right.
    """
    look = {"ec": INK, "lw": 0.6, "marker": "D", "s": 15, "zorder": 3}
    for i, name in enumerate(class_names):
        mine = points[labels == i]
        ax.scatter(*mine.T, s=9, color=COLOURS[name], alpha=0.6, lw=0, zorder=2)
        ax.scatter(*anchors[i].T, color=COLOURS[name], **look)
    round_, square = {"ls": "", "marker": "o", "mew": 0}, {"ls": "", "marker": "D", "mfc": "white"}
    keys = [Line2D([], [], color=COLOURS[name], ms=4, label=name, **round_) for name in class_names]
    keys.append(Line2D([], [], color=QUIET, ms=3, alpha=0.6, label="a face", **round_))
    keys.append(Line2D([], [], mec=INK, mew=0.6, ms=4, label="an anchor", **square))
    ax.legend(handles=keys, loc="center left", bbox_to_anchor=(1.02, 0.5))
    ax.set_aspect("equal")
    return ax


def name_clusters(
    points: np.ndarray, labels: np.ndarray, class_names: Sequence[str], ax: Axes
) -> Axes:
    """Write each class's short name amid its points, so that a map can be read in grey.

    Args:
        points: (N, 2).
        labels: (N,) positions in `class_names`; a class without points is left out.
        class_names: C names.
        ax: Where the points are drawn.
    """
    halo = [patheffects.withStroke(linewidth=2, foreground="white")]
    for i, name in enumerate(class_names):
        if (labels == i).any():
            x, y = np.median(points[labels == i], axis=0)
            ax.text(x, y, short_name(name), ha="center", va="center", size=7, weight="bold",
                    path_effects=halo, zorder=5)  # fmt: skip
    return ax
