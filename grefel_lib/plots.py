"""Figures for papers and notebooks: each function draws what it is given on the axes it is given.

Make the figure inside `paper_style`, in the size that it has on the page; then `save` it.
"""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator

from grefel_lib import metrics
from grefel_lib.folders import atomic
from grefel_lib.labels import COLOURS, VOTE_COLUMNS

WIDTHS = {"column": 3.3, "full": 6.9}  # inches
VENUES = {  # column and full width of their templates; two of them have one column only
    "paper": tuple(WIDTHS.values()), "cvpr": (3.25, 6.875), "icml": (3.25, 6.75),
    "aaai": (3.3, 7.0), "ieee": (3.5, 7.16), "eccv": (4.8, 4.8), "neurips": (5.5, 5.5),
}  # fmt: skip
INK, QUIET, FAINT = "#222222", "#767676", "#D9D9D9"
TRAIN, VAL, EMA = "#8C8C8C", "#0072B2", "#D55E00"
SHADES = ("#004468", "#3E91CE", "#CEE1F7")  # of splits; far enough apart for print in grey
# One hue; lightness L* falls in even steps from 99 to 27.
_RAMP = ("#FCFCFC", "#CEE1F7", "#A0C6EE", "#72ABE0", "#3E91CE", "#0177B3", "#005D8D", "#004468")
BLUES = LinearSegmentedColormap.from_list("blues", _RAMP)

_STYLE = {
    "font.family": "DejaVu Sans", "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8,
    "xtick.labelsize": 7, "ytick.labelsize": 7, "legend.fontsize": 7, "text.usetex": False,
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK,
    "ytick.color": INK, "axes.linewidth": 0.6, "axes.axisbelow": True, "axes.spines.top": False,
    "axes.spines.right": False, "axes.titlepad": 4, "axes.labelpad": 3, "axes.grid": False,
    "grid.color": "#E6E6E6", "grid.linewidth": 0.5, "lines.linewidth": 1.2, "hatch.linewidth": 0.5,
    "patch.linewidth": 0.5, "xtick.major.size": 2.5, "ytick.major.size": 2.5,
    "xtick.major.width": 0.6, "ytick.major.width": 0.6, "legend.frameon": False,
    "legend.handlelength": 1.6, "legend.borderaxespad": 0.3, "legend.labelspacing": 0.3,
    "legend.columnspacing": 0.8, "legend.handletextpad": 0.5, "figure.constrained_layout.use": True,
}  # fmt: skip
# Read at save time, when `paper_style` may have ended. Submission systems refuse Type 3 fonts, a
# tight box changes the width, and hinted letters have another width at each resolution.
_SAVING = {"pdf.fonttype": 42, "savefig.bbox": None, "savefig.dpi": 300, "text.hinting": "none"}
_FACE = {"cmap": "gray", "vmin": 0, "vmax": 255, "interpolation": "bicubic"}


_ONE_AT_A_TIME = threading.RLock()  # the style is global, and panels draw in threads of their own


@contextlib.contextmanager
def paper_style(width: str | float = "column", *, aspect: float = 0.68) -> Iterator[None]:
    """Look of a paper's figure while the block lasts.

    Without a figsize of their own, figures are column (3.3 in), full (6.9 in) or so many inches
    wide, and `aspect` times as high.
    """
    inches = WIDTHS.get(width, width)
    if isinstance(inches, str) or not 0 < inches < 100:
        raise ValueError(f"width {width!r}; choose {', '.join(WIDTHS)}, or a number of inches")
    size = {"figure.figsize": (inches, inches * aspect)}
    with _ONE_AT_A_TIME, matplotlib.rc_context({**_STYLE, **_SAVING, **size}):
        yield


def save(fig: Figure, stem: Path) -> tuple[Path, Path]:
    """Write <stem>.pdf and <stem>.png (300 dpi), each atomically, exactly as wide as the figure.

    The folder exists. The first save fixes the layout, so that a second one writes the same bytes.
    """
    pdf, png = (stem.with_name(f"{stem.name}.{kind}") for kind in ("pdf", "png"))
    with _ONE_AT_A_TIME, matplotlib.rc_context(_SAVING):
        for _ in range(4):  # beside square axes one pass leaves labels outside the figure
            fig.draw_without_rendering()
        fig.set_layout_engine("none")
        undated = {"CreationDate": None}
        atomic(pdf, lambda path: fig.savefig(path, format="pdf", metadata=undated))
        atomic(png, lambda path: fig.savefig(path, format="png"))
    return pdf, png


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
    _one_each(names, "names", len(cells), "classes")
    shares = metrics.row_normalised(cells) if normalise else cells / max(cells.max(), 1)
    side = min(_size(ax)) / len(cells)  # points
    size = float(np.clip(0.34 * side, 5, 8))
    below = normalise and counts and 0.72 * size > 4.8
    look = {"cmap": BLUES, "cbar": False, "square": True, "linewidths": 0.4, "linecolor": "white"}
    seaborn.heatmap(shares, ax=ax, vmin=0, vmax=1, **look)
    for (row, column), share in np.ndenumerate(shares):
        value = cells[row, column]
        colour = "white" if share > 0.63 else INK if value else QUIET
        text = percent(share, side > 30) if normalise else f"{value:.0f}"
        at = {"ha": "center", "va": "center", "color": colour}
        two = size / side if below and value > 0 else 0
        ax.text(column + 0.5, row + 0.5 - 0.42 * two, text, size=size, **at)
        if two:
            ax.text(column + 0.5, row + 0.5 + 0.66 * two, f"{value:.0f}", size=0.72 * size, **at)
    roomy = max(map(_width, names)) < 0.22 * 72 * ax.figure.get_figwidth()
    left = list(names) if roomy else [short_name(name) for name in names]
    if normalise and counts and not below:
        left = [f"{n} ({s:.0f})" for n, s in zip(left, cells.sum(axis=1), strict=True)]
    bottom, rotation = _fitting_names(names, side)
    ax.set_xticks(np.arange(len(cells)) + 0.5, bottom, rotation=rotation)
    ax.set_yticks(np.arange(len(cells)) + 0.5, left, rotation=0)
    ax.tick_params(length=0)
    ax.set(xlabel="predicted (% of true class)" if normalise else "predicted", ylabel="true")
    return ax


def training_curves(history: pd.DataFrame, axes: Sequence[Axes]) -> Sequence[Axes]:
    """Draw loss and accuracy over the epochs of a history on two axes; the best are marked."""
    loss, accuracy = axes
    epoch = history["epoch"]
    few = {"marker": "o", "ms": 2.5} if len(history) < 12 else {}
    loss.plot(epoch, history["train_loss"], color=TRAIN, label="training", **few)
    loss.plot(epoch, history["val_loss"], color=VAL, ls="--", label="validation", **few)
    accuracy.plot(epoch, 100 * history["train_accuracy"], color=TRAIN, label="training", **few)
    for column, name, colour, ls, marker in (
        ("val_accuracy", "validation", VAL, "--", "s"),
        ("ema_val_accuracy", "EMA", EMA, "-", "D"),
    ):
        percent = 100 * history[column]
        accuracy.plot(epoch, percent, color=colour, ls=ls, **few)
        x, y = epoch[percent.idxmax()], percent.max()
        mark = {"color": colour, "ls": ls, "marker": marker, "mfc": "white", "ms": 4}
        accuracy.plot(x, y, **mark, zorder=4, label=f"{name} (best {y:.1f}, epoch {x})")
    for ax, name in zip(axes, ("loss", "accuracy (%)"), strict=True):
        ax.set(xlabel="epoch", ylabel=name)
        ax.xaxis.set_major_locator(MaxNLocator(7, integer=True, min_n_ticks=1))
        ax.grid(axis="y")
        ax.legend(loc="best")
    return axes


def class_counts(counts: pd.DataFrame, ax: Axes, *, log: bool = False) -> Axes:
    """Draw how many images each class (index) has in each of up to three splits (columns).

    One split alone takes the colours of the classes; `log` lets rare classes be seen.
    """
    names, splits = list(counts.index), list(counts.columns)
    if not 1 <= len(splits) <= len(SHADES):
        raise ValueError(f"{len(splits)} splits {splits}; give 1 to {len(SHADES)}")
    wide = 0.84 / len(splits)
    bar = wide * class_axis(ax, names)
    fits = max(_width(str(value), 5) for value in counts.to_numpy().ravel()) < bar
    for i, split in enumerate(splits):
        where = np.arange(len(names)) + (i - (len(splits) - 1) / 2) * wide
        colours = SHADES[i] if len(splits) > 1 else class_colours(names)
        bars = ax.bar(where, counts[split], 0.92 * wide, color=colours, ec=INK, label=split)
        if fits:
            ax.bar_label(bars, counts[split], padding=1, size=5 if len(splits) > 1 else 5.5)
    ax.set(ylabel="images", yscale="log" if log else "linear")
    ax.margins(y=0.1)
    if len(splits) > 1:
        ax.legend(loc="upper right")
    return ax


def face_grid(
    images: Sequence[np.ndarray],
    fig: Figure,
    *,
    ncols: int = 8,
    titles: Sequence[str] | None = None,
    row_labels: Sequence[str] | None = None,
    colours: Sequence[str] | None = None,
    votes: np.ndarray | None = None,
) -> np.ndarray:
    """Draw faces in rows on an empty figure, and return its (rows, ncols) axes.

    Args:
        images: N arrays (H, W) or (H, W, 3), uint8.
        fig: Where to draw; an empty one.
        ncols: Faces in a row.
        titles: N texts above the faces; they shrink to their column.
        row_labels: A text beside each row.
        colours: N colours of a frame around the faces.
        votes: (N, 10) votes in the order of VOTE_COLUMNS, as small bars under the faces.
    """
    rows = -(-len(images) // ncols)
    for given, what in ((titles, "titles"), (colours, "colours"), (votes, "rows of votes")):
        _one_each(given, what, len(images), "faces")
    _one_each(row_labels, "labels", rows, "rows")
    # the compressed layout would push the columns together, whatever the titles need
    fig.set_layout_engine("constrained" if titles else "compressed", w_pad=0.02, h_pad=0.02)
    heights = [1] * rows if votes is None else [1, 0.32] * rows
    whole = fig.subplots(len(heights), ncols, squeeze=False, height_ratios=heights)
    axes, below = (whole, []) if votes is None else (whole[::2], whole[1::2].flat)
    longest = max((_width(line) for text in titles or () for line in text.split("\n")), default=1)
    size = 7 * min(1, 0.94 * 72 * fig.get_figwidth() / ncols / longest)
    for ax in whole.flat:
        _bare(ax)
    for ax, text in zip(axes[:, 0], row_labels or (), strict=False):
        ax.set_ylabel(text, rotation=0, ha="right", va="center", size=7)
    for i, (image, ax) in enumerate(zip(images, axes.flat, strict=False)):
        ax.imshow(image, **_FACE)
        if titles:
            ax.set_title(titles[i], size=size, pad=2)
        if colours:
            ax.spines[:].set(visible=True, color=colours[i], linewidth=1.5)
    for ax, row in zip(below, () if votes is None else votes, strict=False):
        ax.bar(range(10), row, 0.9, color=class_colours(VOTE_COLUMNS), ec=INK, lw=0.3)
        ax.set(ylim=(0, max(1, np.max(votes))), box_aspect=0.3)
    if votes is not None:
        keys = [Patch(fc=class_colours([name])[0], ec=INK, label=name) for name in VOTE_COLUMNS]
        fig.legend(handles=keys, loc="outside lower center", ncols=5, handlelength=0.8)
    return axes


def face_card(
    image: np.ndarray,
    target: np.ndarray,
    class_names: Sequence[str],
    axes: Sequence[Axes],
    class_probs: np.ndarray | None = None,
) -> Sequence[Axes]:
    """Draw a face beside what people said of it and, if given, what the model says.

    The image is (H, W) or (H, W, 3), uint8; target and class_probs are (C,) distributions over
    the class names. It takes two axes: for the face and for the bars.
    """
    hollow = {"facecolor": "white", "hatch": "//////"}
    solid = {"facecolor": class_colours(class_names), "edgecolor": INK}
    given = [(target, solid)]
    if class_probs is not None:
        people = hollow | {"edgecolor": class_colours(class_names)}
        given = [(target, people), (class_probs, solid)]
    face, ax = axes
    _bare(face)
    face.imshow(image, **_FACE)
    high = 0.8 / len(given)
    for i, (values, look) in enumerate(given):
        _one_each(values, "values", len(class_names), "classes")
        where = np.arange(len(values)) + (i - (len(given) - 1) / 2) * high
        bars = ax.barh(where, values, 0.9 * high, **look)
        texts = [f"{value:.0%}" if value >= 0.005 else "" for value in values]
        ax.bar_label(bars, texts, padding=1.5, size=8.5 - 1.5 * len(given))
    if class_probs is not None:
        keys = [Patch(**hollow, ec=QUIET, label="people"), Patch(fc=QUIET, label="model")]
        ax.legend(handles=keys, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=2)
    _bare(ax)
    ax.spines["left"].set_visible(True)
    ax.set_yticks(range(len(class_names)), class_names)
    ax.tick_params(axis="y", length=0)
    ax.set_xlim(0, 1.18 * max(max(values) for values, _ in given))
    ax.invert_yaxis()
    return axes


def short_name(name: str) -> str:
    """A class name where space is short: happiness -> hap, fearfully angry -> fea-ang."""
    return "-".join(word[:3] for word in name.split())


def _fitting_names(names: Sequence[str], slot: float) -> tuple[list[str], int]:
    """Names for ticks `slot` points apart, and their rotation: full, short, or short upright."""
    short = [short_name(name) for name in names]
    if max(map(_width, names)) < 0.94 * slot:
        return list(names), 0
    return short, 0 if max(map(_width, short)) < 0.94 * slot else 90


def class_axis(ax: Axes, names: Sequence[str], counts: Sequence[int] | None = None) -> float:
    """Name the classes below an axis of bars; how many points each has."""
    slot = _size(ax)[0] / len(names)
    texts, rotation = _fitting_names(names, slot)
    if counts is not None:
        join = "{} ({})" if rotation else "{}\n{}"
        texts = [join.format(text, count) for text, count in zip(texts, counts, strict=True)]
    ax.set_xticks(range(len(names)), texts, rotation=rotation)
    ax.tick_params(axis="x", length=0)
    ax.set_xlim(-0.55, len(names) - 0.45)
    ax.grid(axis="y")
    return slot


def class_colours(names: Sequence[str]) -> list[str]:
    """The colour of each class or column of votes."""
    return [{"unknown": FAINT, "NF": "white", **COLOURS}.get(name, VAL) for name in names]


def _width(text: str, size: float = 7) -> float:
    """Width of a text in points."""
    return TextPath((0, 0), text, size=size).get_extents().width if text.strip() else 0


def _size(ax: Axes) -> np.ndarray:
    """Width and height of axes in points, roughly: the layout is not known before drawing."""
    return 72 * np.array(ax.get_position().size) * ax.figure.get_size_inches()


def percent(share: float, fine: bool) -> str:
    """A share in percent, without a sign; `fine` gives a decimal. Not 0 where there is a little."""
    least = 0.1 if fine else 1
    if 0 < 100 * share < least / 2:
        return f"<{least}"
    return f"{100 * share:.1f}" if fine and share else f"{100 * share:.0f}"


def _bare(ax: Axes) -> None:
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def _one_each(given: Sequence | None, what: str, number: int, things: str) -> None:
    if given is not None and len(given) != number:
        raise ValueError(f"{len(given)} {what} for {number} {things}; give one for each")
