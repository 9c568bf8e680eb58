"""Figures for papers and notebooks: each function draws what it is given on the axes it is given.

Make the figure inside `paper_style`, in the size that it has on the page; then `save` it.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Patch
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator, PercentFormatter

from grefel_lib import metrics
from grefel_lib.labels import COLOURS, VOTE_COLUMNS

WIDTHS = {"column": 3.3, "full": 6.9}  # inches
INK, QUIET, FAINT = "#222222", "#767676", "#D9D9D9"
TRAIN, VAL, EMA = "#8C8C8C", "#0072B2", "#D55E00"
SHADES = ("#004468", "#3E91CE", "#CEE1F7")  # dark to light, so that print in grey keeps them apart

# One hue; lightness L* falls in even steps from 99 to 27.
BLUES = LinearSegmentedColormap.from_list(
    "blues",
    ["#FCFCFC", "#CEE1F7", "#A0C6EE", "#72ABE0", "#3E91CE", "#0177B3", "#005D8D", "#004468"],
)

_STYLE = {
    "font.family": "DejaVu Sans", "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8,
    "xtick.labelsize": 7, "ytick.labelsize": 7, "legend.fontsize": 7, "legend.title_fontsize": 7,
    "text.usetex": False, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK,
    "xtick.color": INK, "ytick.color": INK, "axes.linewidth": 0.6, "axes.axisbelow": True,
    "axes.spines.top": False, "axes.spines.right": False, "axes.titlepad": 4, "axes.labelpad": 3,
    "axes.grid": False, "grid.color": "#E6E6E6", "grid.linewidth": 0.5, "lines.linewidth": 1.2,
    "lines.markersize": 4, "patch.linewidth": 0.5, "hatch.linewidth": 0.5,
    "xtick.major.size": 2.5, "ytick.major.size": 2.5, "xtick.major.width": 0.6,
    "ytick.major.width": 0.6, "xtick.major.pad": 2.5, "ytick.major.pad": 2.5,
    "legend.frameon": False, "legend.handlelength": 1.6, "legend.borderaxespad": 0.3,
    "legend.labelspacing": 0.3, "figure.constrained_layout.use": True, "figure.dpi": 120,
    "figure.facecolor": "white", "axes.facecolor": "white", "savefig.facecolor": "white",
}  # fmt: skip
# Also set while saving, which may happen after `paper_style` has ended. Type 3 fonts are refused
# by submission systems; a tight box would change the width.
_SAVING = {"pdf.fonttype": 42, "ps.fonttype": 42, "savefig.bbox": None, "savefig.dpi": 300}


@contextlib.contextmanager
def paper_style(width: str | float = "column", *, aspect: float = 0.68) -> Iterator[None]:
    """Look of a paper's figure while the block lasts.

    Args:
        width: column (3.3 in), full (6.9 in), or inches.
        aspect: Height over width of figures that give no figsize of their own.

    Raises:
        ValueError: An unknown width.
    """
    inches = WIDTHS.get(width, width)
    if isinstance(inches, str) or not 0 < inches < 100:
        raise ValueError(f"width {width!r}; choose {', '.join(WIDTHS)}, or a number of inches")
    size = {"figure.figsize": (inches, inches * aspect)}
    with matplotlib.rc_context({**_STYLE, **_SAVING, **size}):
        yield


def save(fig: Figure, stem: Path) -> tuple[Path, Path]:
    """Write <stem>.pdf and <stem>.png (300 dpi), each atomically, exactly as wide as the figure.

    The layout is fixed by the first save, so that a second one writes the same bytes.

    Args:
        fig: The finished figure.
        stem: Path without ending; its folder exists.
    """
    from grefel_lib import checkpoints  # it imports torch

    fig.draw_without_rendering()
    fig.set_layout_engine("none")
    paths = [stem.parent / f"{stem.name}.{kind}" for kind in ("pdf", "png")]
    for path, metadata in zip(paths, ({"CreationDate": None}, None), strict=True):

        def write(temporary: Path, kind=path.suffix[1:], metadata=metadata) -> None:
            fig.savefig(temporary, format=kind, metadata=metadata)

        with matplotlib.rc_context(_SAVING):
            checkpoints.atomic(path, write)
    return paths[0], paths[1]


def confusion_matrix(
    matrix: np.ndarray,
    class_names: Sequence[str],
    ax: Axes,
    *,
    normalise: bool = True,
    counts: bool = True,
) -> Axes:
    """Draw a confusion matrix, its cells square.

    Args:
        matrix: (C, C) counts by true class (row) and predicted class (column).
        class_names: C names.
        ax: Give it a nearly square figure.
        normalise: Colour and write percent of each row; otherwise the counts themselves.
        counts: Write the counts under the percentages; where the cells are too small for that,
            each row's sum stands beside its name.
    """
    import seaborn  # slow to import

    matrix = np.asarray(matrix)
    _check_names(len(matrix), class_names)
    shares = metrics.row_normalised(matrix) if normalise else matrix / max(matrix.max(), 1)
    cell = min(_size(ax)) / len(matrix)  # points
    size = float(np.clip(0.34 * cell, 5, 8))
    below = normalise and counts and cell > 2.9 * size
    seaborn.heatmap(
        shares, ax=ax, cmap=BLUES, vmin=0, vmax=1, cbar=False, square=True, linewidths=0.4,
        linecolor="white",
    )  # fmt: skip
    for (row, column), share in np.ndenumerate(shares):
        value = matrix[row, column]
        colour = "white" if _luminance(BLUES(share)) < 0.2 else INK if value else QUIET
        text = _percent(share, cell > 30) if normalise else f"{value:.0f}"
        at = {"ha": "center", "color": colour}
        small = below and value > 0
        ax.text(column + 0.5, row + (0.42 if small else 0.5), text, va="center", size=size, **at)
        if small:
            ax.text(column + 0.5, row + 0.78, f"{value:.0f}", va="center", size=0.72 * size, **at)
    beside, rotation = fitting_names(class_names, cell)
    roomy = max(map(_width, class_names)) < 0.22 * 72 * ax.figure.get_figwidth()
    left = list(class_names) if roomy else [short_name(name) for name in class_names]
    if normalise and counts and not below:
        left = [f"{n} ({s:.0f})" for n, s in zip(left, matrix.sum(axis=1), strict=True)]
    ax.set_xticks(np.arange(len(matrix)) + 0.5, beside, rotation=rotation)
    ax.set_yticks(np.arange(len(matrix)) + 0.5, left, rotation=0)
    ax.tick_params(length=0)
    ax.set(xlabel="predicted" + (" (% of true class)" if normalise else ""), ylabel="true")
    return ax


def training_curves(history: pd.DataFrame, axes: Sequence[Axes]) -> Sequence[Axes]:
    """Draw loss and accuracy over the epochs, the best validation epochs marked.

    Args:
        history: As `Run.history` reads it.
        axes: Two: for the loss and for the accuracy.
    """
    loss, accuracy = axes
    few = {"marker": "o", "markersize": 2.5} if len(history) < 12 else {}
    epoch = history["epoch"]
    loss.plot(epoch, history["train_loss"], color=TRAIN, label="training", **few)
    loss.plot(epoch, history["val_loss"], color=VAL, ls="--", label="validation", **few)
    loss.set_ylabel("loss")
    accuracy.plot(epoch, history["train_accuracy"], color=TRAIN, label="training", **few)
    for column, name, colour, dashes, marker in (
        ("val_accuracy", "validation", VAL, "--", "s"),
        ("ema_val_accuracy", "EMA", EMA, "-", "D"),
    ):
        best = history[column].idxmax()
        x, y = epoch[best], history[column][best]
        accuracy.plot(epoch, history[column], color=colour, ls=dashes, **few)
        accuracy.plot(
            x, y, marker, ms=4.5, mfc="white", mec=colour, mew=1.2, zorder=4, clip_on=False
        )
        accuracy.plot(
            [], [], color=colour, ls=dashes, marker=marker, ms=3.5, mfc="white",
            label=f"{name} (best {y:.1%}, epoch {x})",
        )  # fmt: skip
    accuracy.set_ylabel("accuracy")
    accuracy.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    accuracy.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    for ax in axes:
        ax.set_xlabel("epoch")
        ax.xaxis.set_major_locator(MaxNLocator(7, integer=True))
        ax.grid(axis="y")
        ax.legend(loc="best")
    return axes


def lr_curve(history: pd.DataFrame, ax: Axes) -> Axes:
    """Draw the learning rate over the epochs."""
    ax.plot(history["epoch"], history["lr"], color=INK)
    ax.set(xlabel="epoch", ylabel="learning rate", ylim=(0, None))
    ax.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    ax.ticklabel_format(axis="y", scilimits=(0, 0))
    ax.grid(axis="y")
    return ax


def class_counts(counts: pd.DataFrame, ax: Axes, *, log: bool = False) -> Axes:
    """Draw how many images each class has: one bar a split, or class colours for a single split.

    Args:
        counts: Classes (index) by splits (columns).
        ax: Where to draw.
        log: Logarithmic scale, for rare classes.
    """
    names, splits = list(counts.index), list(counts.columns)
    if len(splits) > len(SHADES):
        raise ValueError(
            f"{len(splits)} splits ({splits}); at most {len(SHADES)} can be told apart"
        )
    slot = _size(ax)[0] / len(names)  # points
    wide = 0.84 / len(splits)
    fits = max(_width(str(v), 5.5) for v in counts.to_numpy().ravel()) < wide * slot
    for i, split in enumerate(splits):
        where = np.arange(len(names)) + (i - (len(splits) - 1) / 2) * wide
        colours = SHADES[i] if len(splits) > 1 else [COLOURS.get(name, VAL) for name in names]
        bars = ax.bar(where, counts[split], 0.92 * wide, color=colours, ec=INK, label=split)
        if fits:
            ax.bar_label(bars, counts[split], padding=1, size=5.5)
    if log:
        ax.set_yscale("log")
    texts, rotation = fitting_names(names, slot)
    ax.set_xticks(range(len(names)), texts, rotation=rotation)
    ax.tick_params(axis="x", length=0)
    ax.set(ylabel="images", xlim=(-0.55, len(names) - 0.45))
    ax.margins(y=0.1)
    ax.grid(axis="y")
    if len(splits) > 1:
        ax.legend(loc="upper right")
    return ax


def per_class_bars(table: pd.DataFrame, ax: Axes, metric: str = "recall") -> Axes:
    """Draw precision, recall or f1 of each class, with the number of its images.

    Args:
        table: From `metrics.per_class`.
        ax: Where to draw.
        metric: A column of the table.
    """
    if metric not in ("precision", "recall", "f1"):
        raise ValueError(f"metric {metric!r}; choose precision, recall or f1")
    names = list(table["class"])
    slot = _size(ax)[0] / len(names)
    colours = [COLOURS.get(name, VAL) for name in names]
    bars = ax.bar(range(len(names)), table[metric], 0.72, color=colours, ec=INK)
    values = [_percent(v, slot > 30) if n else "–" for v, n in table[[metric, "count"]].to_numpy()]
    ax.bar_label(bars, values, padding=1.5, size=7 if slot > 22 else 5.5)
    texts, rotation = fitting_names(names, slot)
    join = "{} ({})" if rotation else "{}\n{}"
    texts = [join.format(text, n) for text, n in zip(texts, table["count"], strict=True)]
    ax.set_xticks(range(len(names)), texts, rotation=rotation)
    ax.tick_params(axis="x", length=0)
    ax.set(ylabel=metric.replace("f1", "F1"), ylim=(0, 1.08), xlim=(-0.6, len(names) - 0.4))
    ax.set_yticks(np.linspace(0, 1, 6))
    ax.yaxis.set_major_formatter(PercentFormatter(1))
    ax.grid(axis="y")
    return ax


def reliability_diagram(
    bins: pd.DataFrame,
    ax: Axes,
    *,
    xlabel: str = "confidence",
    ylabel: str = "accuracy",
    ece: float | None = None,
) -> Axes:
    """Draw what was claimed against what was found, above the share of images in each bin.

    Args:
        bins: From `metrics.reliability_bins` or `metrics.calibration`.
        ax: Where to draw.
        xlabel: What was claimed.
        ylabel: What was found.
        ece: The expected calibration error, written into the legend.
    """
    low, high, count = (bins[name].to_numpy() for name in ("low", "high", "count"))
    claimed, found = bins["confidence"].to_numpy(), bins["accuracy"].to_numpy()
    height = 0.3 * count / count.max()
    ax.bar(
        low, height, high - low, align="edge", color=FAINT, ec="white",
        label=f"images (largest bin: {count.max()})",
    )  # fmt: skip
    ax.plot([0, 1], [0, 1], ls=(0, (4, 2)), lw=0.8, color=QUIET, label="claim = outcome")
    ax.vlines(claimed, np.minimum(claimed, found), np.maximum(claimed, found), color=EMA, lw=1.6)
    title = None if ece is None else f"ECE {ece:.1%}"
    ax.plot(claimed, found, "o-", color=VAL, lw=1, ms=3.5, mec="white", mew=0.4, label=ylabel)
    ax.plot([], [], color=EMA, lw=1.6, label="gap")
    ax.set(xlabel=xlabel, ylabel=ylabel, xlim=(0, 1), ylim=(0, 1.02))
    ax.set_box_aspect(1)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    ax.legend(loc="upper left", title=title, alignment="left")
    return ax


def face_grid(
    images: Sequence[np.ndarray],
    fig: Figure,
    *,
    ncols: int = 8,
    titles: Sequence[str] | None = None,
    row_labels: Sequence[str] | None = None,
    colours: Sequence[str] | None = None,
) -> np.ndarray:
    """Draw faces in rows; titles shrink to their column.

    Args:
        images: N arrays (H, W) or (H, W, 3), uint8.
        fig: An empty figure.
        ncols: Faces in a row.
        titles: N texts above the faces.
        row_labels: A text beside each row.
        colours: N colours of a frame around the faces.

    Returns:
        (rows, ncols) axes; those without a face are empty.
    """
    _check_faces(len(images), titles=titles, colours=colours)
    rows = -(-len(images) // ncols)
    if row_labels is not None and len(row_labels) != rows:
        raise ValueError(f"{len(row_labels)} row labels for {rows} rows of {ncols} faces")
    # the compressed layout would push the columns together, whatever the titles need
    fig.set_layout_engine("constrained" if titles else "compressed", w_pad=0.02, h_pad=0.02)
    axes = fig.subplots(rows, ncols, squeeze=False)
    size = 7.0
    if titles:
        longest = max(_width(line) for text in titles for line in text.split("\n"))
        size = float(np.clip(7 * 0.94 * 72 * fig.get_figwidth() / ncols / longest, 4.5, 7))
    for i, ax in enumerate(axes.flat):
        _bare(ax)
        if i < len(images):
            _show(images[i], ax)
            if titles:
                ax.set_title(titles[i], size=size, pad=2)
            if colours:
                ax.spines[:].set(visible=True, color=colours[i], linewidth=1.5)
        if row_labels is not None and i % ncols == 0:
            ax.set_ylabel(row_labels[i // ncols], rotation=0, ha="right", va="center", size=7)
    return axes


def vote_bars(
    votes: np.ndarray, axes: Sequence[Axes], *, columns: Sequence[str] = VOTE_COLUMNS
) -> Sequence[Axes]:
    """Draw the votes for each face as small bars under it, and one legend for all.

    Args:
        votes: (N, V) votes, or shares of them.
        axes: N axes, each with a face; those of `face_grid`, flattened.
        columns: V names; those that are no class are grey.
    """
    _check_names(np.shape(votes)[1], columns)
    _check_faces(len(votes), axes=axes)
    colours = [COLOURS.get(name, FAINT) for name in columns]
    for row, ax in zip(np.asarray(votes), axes, strict=True):
        below = ax.inset_axes((0, -0.36, 1, 0.32))
        below.bar(range(len(row)), row, 0.9, color=colours, ec=INK, linewidth=0.3)
        below.set(xlim=(-0.6, len(row) - 0.4), ylim=(0, np.max(votes)))
        _bare(below)
        below.spines["bottom"].set_visible(True)
    keys = [Patch(fc=c, ec=INK, label=n) for c, n in zip(colours, columns, strict=True)]
    ax.figure.legend(handles=keys, loc="outside lower center", ncols=5, handlelength=0.8)
    return axes


def face_card(
    image: np.ndarray,
    target: np.ndarray | None,
    class_names: Sequence[str],
    axes: Sequence[Axes],
    *,
    class_probs: np.ndarray | None = None,
) -> Sequence[Axes]:
    """Draw a face beside what people said of it and what the model says.

    Args:
        image: (H, W) or (H, W, 3), uint8.
        target: (C,) shares of the votes; None for a face without a label.
        class_names: C names.
        axes: Two: for the face and for the bars.
        class_probs: (C,) predicted distribution.
    """
    given = {"votes": target, "model": class_probs}
    given = {name: np.asarray(values) for name, values in given.items() if values is not None}
    if not given:
        raise ValueError("nothing to draw beside the face; give target, class_probs or both")
    face, ax = axes
    _bare(face)
    _show(image, face)
    high = 0.8 / len(given)
    for i, (name, values) in enumerate(given.items()):
        _check_names(len(values), class_names)
        where = np.arange(len(values)) + (i - (len(given) - 1) / 2) * high
        colours = [COLOURS.get(n, VAL) for n in class_names]
        hollow = name == "votes" and len(given) > 1
        bars = ax.barh(
            where, values, 0.9 * high, color="white" if hollow else colours,
            ec=colours if hollow else INK, hatch="//////" if hollow else None,
        )  # fmt: skip
        texts = [f"{value:.0%}" if value >= 0.005 else "" for value in values]
        ax.bar_label(bars, texts, padding=1.5, size=7 if len(given) == 1 else 5.5)
    ax.set_yticks(range(len(class_names)), class_names)
    ax.tick_params(axis="y", length=0)
    ax.invert_yaxis()
    ax.set(xlim=(0, 1.15 * max(values.max() for values in given.values())), xticks=[])
    ax.spines["bottom"].set_visible(False)
    if len(given) > 1:
        keys = [Patch(fc="white", ec=QUIET, hatch="//////", label="votes")]
        ax.legend(handles=[*keys, Patch(fc=QUIET, ec=INK, label="model")], loc="lower right")
    return axes


def short_name(name: str) -> str:
    """A class name where space is short: happiness -> hap, fearfully angry -> fea-ang."""
    return "-".join(word[:3] for word in name.split())


def fitting_names(names: Sequence[str], slot: float) -> tuple[list[str], int]:
    """Names for ticks `slot` points apart, and their rotation: full, short, or short upright."""
    for texts in (list(names), [short_name(name) for name in names]):
        if max(map(_width, texts)) < 0.94 * slot:
            return texts, 0
    return texts, 90


def _width(text: str, size: float = 7) -> float:
    """Width of a text in points."""
    font = FontProperties(family="DejaVu Sans")
    return TextPath((0, 0), text, size=size, prop=font).get_extents().width if text.strip() else 0


def _size(ax: Axes) -> np.ndarray:
    """Width and height of axes in points, roughly: the layout is not known before drawing."""
    return 72 * np.array(ax.get_position().size) * ax.figure.get_size_inches()


def _percent(share: float, fine: bool) -> str:
    value = 100 * share
    if 0 < value < (0.05 if fine else 0.5):
        return "<0.1" if fine else "<1"
    return f"{value:.1f}" if fine and value > 0 else f"{value:.0f}"


def _luminance(colour: tuple[float, ...]) -> float:
    """Relative luminance: 0 black, 1 white."""
    linear = ((np.array(to_rgb(colour)) + 0.055) / 1.055) ** 2.4
    return float(linear @ (0.2126, 0.7152, 0.0722))


def _show(image: np.ndarray, ax: Axes) -> None:
    ax.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="bicubic")


def _bare(ax: Axes) -> None:
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def _check_names(classes: int, names: Sequence[str]) -> None:
    if classes != len(names):
        raise ValueError(f"{len(names)} names for {classes} classes: {', '.join(names)}")


def _check_faces(faces: int, **given: Sequence | None) -> None:
    for name, values in given.items():
        if values is not None and len(values) != faces:
            raise ValueError(f"{len(values)} {name} for {faces} faces; give one for each")
