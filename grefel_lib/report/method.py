"""Figures of the method: embeddings and anchors. Each function draws on the given axes."""

from collections.abc import Sequence

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from grefel_lib.report.style import INK, QUIET, class_colours, legend_name, short_names, text_width


def anchor_map(
    points: np.ndarray,
    labels: np.ndarray,
    anchors: np.ndarray,
    class_names: Sequence[str],
    ax: Axes,
) -> Axes:
    """Draw embeddings and anchors in a plane, both in the colours of their classes.

    Each class's short name is written among its points, so the map is readable in greyscale.

    Args:
        points: (N, 2) embeddings, already projected.
        labels: (N,) positions in `class_names`.
        anchors: (C, K, 2) anchors in the same plane.
        class_names: C names.
        ax: Target axes; the legend is below their figure.
    """
    look = {"ec": INK, "lw": 0.6, "marker": "D", "s": 15, "zorder": 3}
    halo = [patheffects.withStroke(linewidth=2, foreground="white")]
    colours = class_colours(class_names)
    present = np.unique(labels)
    every = np.concatenate([points, anchors.reshape(-1, 2)])
    scale = 1 / min(72 * ax.figure.get_size_inches() * (0.3, 0.5) / np.ptp(every, axis=0))
    middles = np.array([np.median(points[labels == i], axis=0) for i in present])
    names = short_names(class_names)
    room = scale * max(map(text_width, names)) * 1.15, scale * 9
    places = dict(zip(present, apart(middles, room), strict=True))
    ax.update_datalim(list(places.values()))
    for i, name in enumerate(names):
        members = points[labels == i]
        ax.scatter(*members.T, s=9, color=colours[i], alpha=0.6, lw=0, zorder=2)
        ax.scatter(*anchors[i].T, color=colours[i], **look)
        if len(members):
            ax.text(*places[i], name, ha="center", va="center",
                    size=7, weight="bold", path_effects=halo, zorder=5)  # fmt: skip
    round_, square = {"ls": "", "marker": "o", "mew": 0}, {"ls": "", "marker": "D", "mfc": "white"}
    keys = [
        Line2D([], [], color=colour, ms=4, label=legend_name(name), **round_)
        for name, colour in zip(class_names, colours, strict=True)
    ]
    keys.append(Line2D([], [], color=QUIET, ms=3, alpha=0.6, label="a face", **round_))
    keys.append(Line2D([], [], mec=INK, mew=0.6, ms=4, label="an anchor", **square))
    across = 72 * ax.figure.get_figwidth() // (max(map(text_width, class_names)) + 22)
    ax.figure.legend(handles=keys, loc="outside lower center", ncols=int(np.clip(across, 1, 5)))
    ax.set_aspect("equal")
    return ax


def apart(places: np.ndarray, size: tuple[float, float]) -> np.ndarray:
    """The centres (N, 2) of N boxes of one size, moved up until none covers another."""
    moved, done = places.astype(float), []
    for i in np.argsort(places[:, 1], kind="stable"):
        for j in sorted(done, key=lambda j: moved[j, 1]):
            if (np.abs(moved[i] - moved[j]) < size).all():
                moved[i, 1] = moved[j, 1] + 1.001 * size[1]
        done.append(i)
    return moved


def anchor_graph(
    anchors: np.ndarray,
    places: np.ndarray,
    faces: np.ndarray,
    class_names: Sequence[str],
    ax: Axes,
) -> Axes:
    """Draw each anchor, sized by the faces nearest to it, with a line to its nearest anchor.

    Args:
        anchors: (C, K, D) on their sphere; nearest means smallest angle.
        places: (C, K, 2) positions to draw them at.
        faces: (C, K) number of faces nearest to each anchor; unused anchors are hollow.
        class_names: C names.
        ax: Where to draw.
    """
    flat = anchors.reshape(-1, anchors.shape[-1])
    flat = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    alike = flat @ flat.T - 2 * np.eye(len(flat))
    points, count = places.reshape(-1, 2), faces.ravel()
    for a, b in enumerate(alike.argmax(axis=1)):
        ax.plot(*points[[a, b]].T, color=QUIET, lw=0.3 + 1.2 * max(alike[a, b], 0), zorder=1)
    colour = np.repeat(class_colours(class_names), anchors.shape[1])
    size = 12 + 160 * count / max(count.max(), 1)
    inside = np.where(count > 0, colour, "white")
    ax.scatter(*points.T, s=size, c=inside, edgecolors=colour, linewidths=0.8, zorder=2)
    ax.set_aspect("equal")
    return ax
