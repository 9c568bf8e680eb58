"""Figures with faces: grids, cards with votes and predictions, explanation of one face."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Patch, Rectangle

from grefel_lib.analysis.explain import NEIGHBOURS, Explained, Memory
from grefel_lib.faces import FaceSet
from grefel_lib.report.style import (
    EMA,
    FAINT,
    INK,
    SMALLEST,
    VAL,
    bare,
    check_one_each,
    class_colours,
    legend_name,
    paper_style,
    short_name,
    short_names,
    text_width,
)
from grefel_lib.sources.photo import Box

GREY = {"cmap": "gray", "vmin": 0, "vmax": 255}  # for greyscale faces


def attention_overlay(
    face: np.ndarray, weights: np.ndarray, ax: Axes, *, most: float | None = None
) -> Axes:
    """Draw a face overlaid with the attention of the attentive correction; brighter is higher.

    Args:
        face: (H, W) or (H, W, 3) uint8.
        weights: (h, w) attention over the token grid; any scale.
        ax: Where to draw; its ticks are removed.
        most: The brightest value; by default the highest of the weights.
    """
    extent = (0, face.shape[1], face.shape[0], 0)
    ax.imshow(face, extent=extent, **GREY)
    look = {"cmap": "magma", "alpha": 0.45, "interpolation": "bicubic", "vmin": 0, "vmax": most}
    ax.imshow(weights, extent=extent, **look)
    bare(ax)
    return ax


def face_cards(
    images: Sequence[np.ndarray],
    rows: pd.DataFrame,
    class_names: Sequence[str],
    *,
    width: float = 6.9,
) -> Figure:
    """Draw faces next to the vote and model distributions, four per row if there is room.

    Args:
        images: N arrays (H, W) or (H, W, 3), uint8.
        rows: The N matching rows of a predictions table.
        class_names: C names.
        width: Inches.

    Above each face: label and prediction, id, reliability.
    """
    across = 4 if width > 6.5 else 2
    lines = -(-len(images) // across)
    fig = Figure(figsize=(width, 1.7 * lines + 0.2))
    axes = fig.subplots(lines, 2 * across, squeeze=False, width_ratios=[1, 1.15] * across)
    for ax in axes.flat:
        ax.set_axis_off()
    pairs = axes.reshape(-1, 2)
    for (face, bars), image, (_, row) in zip(pairs, images, rows.iterrows(), strict=False):
        face.imshow(image, **GREY)
        sure = f"reliability {row['reliability']:.2f}" if "reliability" in row else ""
        name = re.sub(r"^.+(?=.{11}$)", "…", Path(row["id"]).stem)  # a path, of one's own faces
        title_lines = [row["label"], f"→ {row['predicted']}", name, sure]
        face.set_title("\n".join(filter(None, title_lines)), size=6.3, pad=2, loc="left")
        distributions = {}
        for name, prefix in (("people", "votes_"), ("primary", "primary_"), ("corrected", "p_")):
            columns = [prefix + label for label in class_names]
            if set(columns) <= set(rows) and (total := row[columns].sum()) > 0:
                distributions[name] = row[columns].to_numpy(dtype=float) / total
        distribution_bars(distributions, class_names, bars)
    fig.legend(*pairs[0][1].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return fig


def distribution_bars(
    given: Mapping[str, np.ndarray], class_names: Sequence[str], ax: Axes, *, size: float = 6
) -> Axes:
    """Draw the distributions of a face as bars: votes, primary classifier, corrected.

    Args:
        given: (C,) by name: people, primary, corrected; any of them may be missing.
        class_names: C names.
        ax: Where to draw.
        size: Font size of the names, in points.
    """
    looks = {"people": "white", "primary": FAINT, "corrected": VAL}
    thick = 0.82 / len(given)
    for number, (name, values) in enumerate(given.items()):
        where = np.arange(len(class_names)) + thick * (number - (len(given) - 1) / 2)
        ax.barh(where, values, thick, color=looks[name], ec=INK, lw=0.4, label=name)
    ax.set_axis_on()
    ax.set(xlim=(0, 1), ylim=(len(class_names) - 0.5, -0.5))
    ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"], size=SMALLEST)
    ax.set_yticks(range(len(class_names)), short_names(class_names), size=size)
    ax.tick_params(length=0)
    ax.tick_params(axis="x", pad=1)
    return ax


def detected_faces(picture: np.ndarray, boxes: list[Box]) -> Figure:
    """Draw a picture with its faces numbered, at most 4.6 in wide and 2.8 in high."""
    height, width = picture.shape[:2]
    scale = min(4.6 / width, 2.8 / height)
    with paper_style():
        fig = Figure(figsize=(scale * width, scale * height), layout="none")
        ax = fig.add_axes((0, 0, 1, 1))
        ax.imshow(picture)
        ax.set_axis_off()
        for number, (left, top, right, bottom) in enumerate(boxes, 1):
            frame, tag = {"fill": False, "lw": 1.6}, {"fc": EMA, "ec": "none", "pad": 1.5}
            ax.add_patch(Rectangle((left, top), right - left, bottom - top, ec=EMA, **frame))
            ax.annotate(str(number), (max(left, 0), max(top, 0)), (3, -3), va="top", color="white",
                        textcoords="offset points", size=9, bbox=tag)  # fmt: skip
        ax.set(xlim=(0, width), ylim=(height, 0))
    return fig


def explanation_figure(face: Explained) -> Figure:
    """Draw a face, its attention, its distributions and the training faces near its anchors.

    Args:
        face: From `explain_face`; faces near the anchors come from its memory, if it has one.
    """
    anchors = face.nearest()
    near = bool(anchors and face.memory)
    with paper_style():
        fig = Figure(figsize=(6.9, 2.2 + 0.95 * near))
        parts = fig.subfigures(2, 1, height_ratios=(2.2, 0.95)) if near else [fig]
        axes = parts[0].subplots(1, 3, width_ratios=(1, 1, 1.7))
        axes[0].imshow(face.face, **GREY)
        axes[0].set_title("model input")
        if face.attention is not None:
            attention_overlay(face.face, face.attention, axes[1])
            axes[1].set_title("attention (brighter: higher)")
        for ax in axes[:2]:
            ax.set_axis_off()
        shown = {"primary": face.primary, "corrected": face.distributions["corrected"]}
        shown = {name: values for name, values in shown.items() if values is not None}
        distribution_bars(shown, face.class_names, axes[2], size=7)
        title = f"{face.predicted} {face.distributions['corrected'].max():.0%}"
        if face.reliability is not None:
            title += f", reliability {face.reliability:.2f}"
        axes[2].set_title(title)
        axes[2].legend(loc="lower right")
        words = [f"{face.class_names[label]} anchor {number + 1}, distance "
                 f"{face.distances[label, number]:.1f}" for label, number in anchors]  # fmt: skip
        if near:
            _resembling(face.memory, anchors, words, parts[1])
        elif words:
            fig.supxlabel(f"nearest: {'; '.join(words)}", size=7.5)
    return fig


def _resembling(
    memory: Memory, anchors: list[tuple[int, int]], titles: list[str], fig: SubFigure
) -> None:
    columns = fig.subfigures(1, len(anchors))
    for anchor, title, column in zip(anchors, titles, columns, strict=True):
        column.suptitle(title, size=7.5)
        axes = column.subplots(1, NEIGHBOURS)
        for ax in axes:
            ax.set_axis_off()
        near = memory.near(anchor)
        for ax, image, position in zip(axes, memory.faces.gather(near), near, strict=False):
            ax.imshow(image, **GREY)
            its = memory.faces.class_names[memory.faces.table["label"].iloc[position]]
            ax.set_title(short_name(its), size=6.5, pad=2)


def face_grid(
    images: Sequence[np.ndarray],
    fig: Figure,
    *,
    ncols: int = 8,
    titles: Sequence[str] | None = None,
    row_labels: Sequence[str] | None = None,
    votes: pd.DataFrame | None = None,
) -> np.ndarray:
    """Draw faces in rows on an empty figure, and return its (rows, ncols) axes.

    Args:
        images: N arrays (H, W) or (H, W, 3), uint8.
        fig: An empty figure to draw on.
        ncols: Faces in a row.
        titles: N texts above the faces; they break at an arrow, or shrink, to fit their column.
        row_labels: A text beside each row.
        votes: N rows of votes, a column for each emotion, as small bars under the faces.
    """
    rows = -(-len(images) // ncols)
    for given, what in ((titles, "titles"), (votes, "rows of votes")):
        check_one_each(given, what, len(images), "faces")
    check_one_each(row_labels, "labels", rows, "rows")
    # the compressed layout would push columns together regardless of the titles
    fig.set_layout_engine("constrained" if titles else "compressed", w_pad=0.02, h_pad=0.02)
    heights = [1] * rows if votes is None else [1, 0.32] * rows
    whole = fig.subplots(len(heights), ncols, squeeze=False, height_ratios=heights)
    axes = whole if votes is None else whole[::2]
    slot = 0.94 * 72 * fig.get_figwidth() / ncols
    if titles and max(map(text_width, titles)) > slot:
        titles = [title.replace(" →", "\n→") for title in titles]
    longest = max(map(text_width, titles or [""])) or 1
    size = max(SMALLEST, 7 * min(1, slot / longest))
    for ax in whole.flat:
        bare(ax)
    for ax, text in zip(axes[:, 0], row_labels or (), strict=False):
        ax.set_ylabel(text, rotation=0, ha="right", va="center", size=7)
    for i, (image, ax) in enumerate(zip(images, axes.flat, strict=False)):
        ax.imshow(image, interpolation="bicubic", **GREY)
        if titles:
            ax.set_title(titles[i], size=size, pad=2)
    if votes is not None:
        colours, most = class_colours(votes.columns), max(1, votes.to_numpy().max())
        for ax, row in zip(whole[1::2].flat, votes.to_numpy(), strict=False):
            ax.bar(range(len(row)), row, 0.9, color=colours, ec=INK, lw=0.3)
            ax.set(ylim=(0, most), box_aspect=0.3)
        names = map(legend_name, votes.columns)
        keys = [Patch(fc=c, ec=INK, label=n) for n, c in zip(names, colours, strict=True)]
        fig.legend(handles=keys, loc="outside lower center", ncols=5, handlelength=0.8)
    return axes


def suspect_faces(table: pd.DataFrame, training: FaceSet, *, width: float = 6.9) -> Figure:
    """Draw training faces whose labels look wrong (`most_suspect`), with their votes.

    Above each face: its label and the model's prediction. The width is in inches.
    """
    titles = [f"{a} → {b}" for a, b in table[["label", "predicted"]].to_numpy()]
    votes = table.filter(regex="^votes_").rename(columns=lambda name: name.removeprefix("votes_"))
    votes = None if votes.empty else votes
    rows = -(-len(table) // 6)
    with paper_style():
        high = width / 6 + (0.7 if votes is not None else 0.25)
        fig = Figure(figsize=(width, high * rows))
        images = training.gather(table.index.to_numpy())
        face_grid(images, fig, ncols=6, titles=titles, votes=votes)
    return fig
