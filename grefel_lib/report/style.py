"""Figure style for papers and notebooks; saving and displaying figures.

Create a figure inside `paper_style`, at its printed size; then save it with `save_figure`.
"""

import contextlib
import io
import itertools
import logging
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from cycler import cycler
from IPython.display import Image, display
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.textpath import TextPath
from PIL import Image as PillowImage

from grefel_lib.files import Folder
from grefel_lib.labels import COLOURS

WIDTHS = {"column": 3.3, "full": 6.9}  # inches
VENUES = {  # column and full width of their templates; two are single-column
    "paper": tuple(WIDTHS.values()), "cvpr": (3.25, 6.875), "icml": (3.25, 6.75),
    "aaai": (3.3, 7.0), "ieee": (3.5, 7.16), "eccv": (4.8, 4.8), "neurips": (5.5, 5.5),
}  # fmt: skip
log = logging.getLogger(__name__)
SANS, TIMES = "DejaVu Sans", "STIXGeneral"  # both come with matplotlib
WIDE = ("Noto Sans CJK JP", "Microsoft YaHei", "PingFang SC")
SMALLEST = 6  # points; no text of a figure in a paper is smaller
CELLS = ("both", "counts", "percent")
CHECKPOINTS = {"best_model": "raw weights", "best_ema_model": "EMA weights"}
INK, QUIET, FAINT = "#222222", "#767676", "#D9D9D9"
TRAIN, VAL, EMA = "#8C8C8C", "#0072B2", "#D55E00"

# One hue; lightness L* falls in even steps from 99 to 27.
_RAMP = ("#FCFCFC", "#CEE1F7", "#A0C6EE", "#72ABE0", "#3E91CE", "#0177B3", "#005D8D", "#004468")
BLUES = LinearSegmentedColormap.from_list("blues", _RAMP)
_STYLE = {
    "font.size": 8, "mathtext.fontset": "stix", "axes.titlesize": 8, "axes.labelsize": 8,
    "xtick.labelsize": 7, "ytick.labelsize": 7, "legend.fontsize": 7, "text.usetex": False,
    "text.parse_math": False,  # a class may be called $5
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK,
    "ytick.color": INK, "axes.linewidth": 0.6, "axes.axisbelow": True, "axes.spines.top": False,
    "axes.spines.right": False, "axes.titlepad": 4, "axes.labelpad": 3, "axes.grid": False,
    "grid.color": "#E6E6E6", "grid.linewidth": 0.5, "lines.linewidth": 1.2, "hatch.linewidth": 0.5,
    "patch.linewidth": 0.5, "xtick.major.size": 2.5, "ytick.major.size": 2.5,
    "xtick.major.width": 0.6, "ytick.major.width": 0.6, "legend.frameon": False,
    "legend.handlelength": 1.6, "legend.borderaxespad": 0.3, "legend.labelspacing": 0.3,
    "legend.columnspacing": 0.8, "legend.handletextpad": 0.5, "figure.constrained_layout.use": True,
    "axes.prop_cycle": cycler(color=list(COLOURS.values())),
}  # fmt: skip

# Submission systems reject Type 3 fonts, a tight bounding box changes the width, and hinting
# changes letter widths with resolution.
_SAVING = {"pdf.fonttype": 42, "savefig.bbox": None, "savefig.dpi": 300, "text.hinting": "none"}
_DEFAULTS = {k: v for k, v in matplotlib.rcParamsDefault.items() if "backend" not in k}
_ONE_AT_A_TIME = threading.RLock()  # the style is global, and panels draw in threads of their own
_fonts = [SANS]  # of the blocks of `paper_style` that are open


@contextlib.contextmanager
def paper_style(font: str = "") -> Iterator[None]:
    """The matplotlib style of a paper's figures, inside the block, whatever the user's own is.

    Args:
        font: SANS or TIMES; by default that of the block around this one, else SANS.
    """
    with _ONE_AT_A_TIME:
        _fonts.append(font or _fonts[-1])
        try:
            here = {font.name for font in fontManager.ttflist}
            others = [SANS, *(name for name in WIDE if name in here)]  # letters that TIMES lacks
            own = {"font.family": [_fonts[-1], *others]}
            with matplotlib.rc_context(_DEFAULTS | _STYLE | _SAVING | own):
                yield
        finally:
            _fonts.pop()


def save_figure(fig: Figure, stem: Path) -> tuple[Path, Path]:
    """Write <stem>.pdf and <stem>.png (300 dpi), each atomically, exactly as wide as the figure.

    The first save freezes the layout, so saving again gives identical bytes.
    """
    pdf, png = (stem.with_name(f"{stem.name}.{kind}") for kind in ("pdf", "png"))
    with paper_style(), warnings.catch_warnings():
        _settle(fig)
        fig.set_layout_engine("none")
        warnings.filterwarnings("ignore", "Glyph")  # `_settle` has said so
        for path, kind, undated in ((pdf, "pdf", {"CreationDate": None}), (png, "png", None)):
            content = io.BytesIO()  # matplotlib trips over a full disk
            fig.savefig(content, format=kind, metadata=undated)
            Folder(path.parent).write_bytes(content.getvalue(), path.name)
    return pdf, png


@dataclass(frozen=True)
class Paper:
    """The paper that figures and tables are made for.

    Args:
        venue: A key of VENUES; sets the widths and the font: Times-like for all but "paper".
        cells: What the cells of confusion matrices hold: counts, percent or both.
        model: Name of the model, for titles and captions.
        class_names: Class -> its name in figures and tables.
        class_order: All classes (by their own names) in the order of figures and tables.

    Raises:
        ValueError: There is no such venue, or `cells` is something else.
    """

    venue: str = "paper"
    cells: str = "both"
    model: str = ""
    class_names: Mapping[str, str] = field(default_factory=dict)
    class_order: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name, names, kind in ((self.venue, VENUES, "venue"), (self.cells, CELLS, "cells")):
            if name not in names:
                raise ValueError(f"{kind} must be one of {', '.join(names)}; got {name!r}")

    @property
    def font(self) -> str:
        return SANS if self.venue == "paper" else TIMES

    def size(self, width: str, height: float) -> tuple[float, float]:
        """Inches of a figure that is a column or a page wide; its height is given at WIDTHS."""
        inches = dict(zip(WIDTHS, VENUES[self.venue], strict=True))[width]
        return inches, height * max(inches / WIDTHS[width], 0.85)  # the text keeps its size

    def matrix_size(self, classes: int) -> tuple[float, float]:
        """Inches of a confusion matrix: a column wide, or a page where names would overlap."""
        return self.size("full", 6.2) if classes > 24 else self.size("column", 3.0)

    @property
    def cell_texts(self) -> dict[str, bool]:
        """The arguments of `confusion_matrix` for `cells`."""
        return {"counts": self.cells != "percent", "percentages": self.cells != "counts"}

    def checkpoint(self, name: str) -> str:
        """A checkpoint in titles and tables: "EMA weights", or "Ours, EMA weights"."""
        return ", ".join(filter(None, (self.model, CHECKPOINTS.get(name, name))))


def legend_name(name: str) -> str:
    """A class in a legend; matplotlib leaves out what begins with _."""
    return f" {name}" if name.startswith("_") else name


def short_name(name: str) -> str:
    """An abbreviated class name: happiness -> hap, fearfully angry -> fea-ang.

    Of a user's own classes, which may begin or end alike, long names lose their middle.
    """
    if name not in COLOURS:
        return name if len(name) < 11 else f"{name[:5]}…{name[-4:]}"
    return "-".join(word[:3] for word in name.split())


def short_names(names: Sequence[str]) -> list[str]:
    """`short_name` of all; where some are a user's own, the others are not abbreviated either."""
    own = any(name not in COLOURS for name in names)
    short = [name if own and name in COLOURS else short_name(name) for name in names]
    for alike in {text for text in short if short.count(text) > 1}:  # tell them apart
        places = [place for place, text in enumerate(short) if text == alike]
        same = [names[place] for place in places]
        start = _alike(same)
        end = _alike([name[start:][::-1] for name in same])
        for place, name in zip(places, same, strict=True):
            middle = f"…{name[start : len(name) - end]}…"
            short[place] = middle if 2 < len(middle) < 13 else name
    return short


def _alike(texts: Sequence[str]) -> int:
    """With how many equal letters all texts begin."""
    return sum(
        1 for _ in itertools.takewhile(lambda x: len(set(x)) == 1, zip(*texts, strict=False))
    )


def class_colours(names: Sequence[str]) -> list[str]:
    """The colour of each class or column of votes; a user's own classes take them in turn."""
    known = {"unknown": FAINT, "nf": "white", **COLOURS}
    colours = [known.get(name.lower()) for name in names]
    turn = itertools.cycle(c for c in COLOURS.values() if c not in colours)
    return [colour or next(turn) for colour in colours]


def text_width(text: str) -> float:
    """Width of a text's widest line at 7 pt, in points."""
    lines = filter(str.strip, text.split("\n"))
    return max((TextPath((0, 0), line, size=7).get_extents().width for line in lines), default=0)


def two_lines(name: str) -> str:
    """A long name with a line break for the space that is nearest to its middle."""
    spaces = [i for i, letter in enumerate(name) if letter == " "]
    if len(name) < 11 or not spaces:
        return name
    place = min(spaces, key=lambda i: abs(i - len(name) / 2))
    return f"{name[:place]}\n{name[place + 1 :]}"


def percent(share: float, fine: bool) -> str:
    """A share in percent without the sign, with a decimal if `fine`; "<1" for a small share."""
    least = 0.1 if fine else 1
    if 0 < 100 * share < least / 2:
        return f"<{least}"
    return f"{100 * share:.1f}" if fine and share else f"{100 * share:.0f}"


def name_rows(ax: Axes, names: Sequence[str]) -> None:
    """Name the rows of a chart, from top to bottom, without ticks or a vertical line."""
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.45, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)


def interval_ends(table: pd.DataFrame, column: str, low: str, high: str) -> np.ndarray:
    """(2, N) error bar lengths for a column and the ends of its interval."""
    return np.abs(table[[low, high]].to_numpy().T - table[column].to_numpy())


def bare(ax: Axes) -> None:
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def check_one_each(given: Sequence | None, what: str, number: int, things: str) -> None:
    if given is not None and len(given) != number:
        raise ValueError(f"{len(given)} {what} for {number} {things}; give one for each")


def _settle(fig: Figure) -> None:
    """Lay a figure out; with square axes one pass leaves labels outside it."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(4):
            fig.draw_without_rendering()
    missing = {str(w.message) for w in said if str(w.message).startswith("Glyph")}
    for other in said:
        if str(other.message) not in missing:
            warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
    if missing:
        log.warning(
            "a figure has boxes for %d letters that no font here has: install one that does (such "
            "as %s), or give the classes other names", len(missing), WIDE[0],
        )  # fmt: skip


@contextlib.contextmanager
def paper_figure(
    width: float,
    height: float,
    *,
    photo: bool = False,
    **subplots: Any,
) -> Iterator[tuple[Figure, Any]]:
    """A figure in the paper's style, shown in the notebook when the block ends.

    Args:
        width: Inches.
        height: Inches.
        photo: Show it as a JPEG, for photos of faces: image noise makes a PNG five times as large.
        subplots: Passed to `Figure.subplots`, e.g. ncols=3; axes=False leaves the figure empty.

    Yields:
        The figure, and its axes (None if left empty).
    """
    with paper_style():
        fig = Figure(figsize=(width, height))
        axes = fig.subplots(**subplots) if subplots.pop("axes", True) else None
        yield fig, axes
        _settle(fig)
        display(as_picture(fig, photo=photo))


def as_picture(fig: Figure, alt: str = "", *, photo: bool = False) -> Image:
    """A figure for a notebook, a fifth of the usual size: a JPEG of faces, a PNG of 64 colours."""
    content, small = io.BytesIO(), io.BytesIO()
    with paper_style():
        fig.savefig(content, format="png", dpi=84 if photo else 104)
    picture, kind = PillowImage.open(content).convert("RGB"), "jpeg" if photo else "png"
    if not photo:  # rare colours too
        cover = PillowImage.Quantize.MAXCOVERAGE
        picture = picture.quantize(64, method=cover, dither=PillowImage.Dither.NONE)
    picture.save(small, format=kind, optimize=True, quality=60)
    width = round(100 * fig.get_figwidth())
    return Image(small.getvalue(), format=kind, width=width, alt=alt or in_words(fig))


def in_words(fig: Figure) -> str:
    """Titles and axes of a figure, as its alternative text."""
    words = []
    for ax in fig.axes:
        axes = " against ".join(filter(None, (ax.get_ylabel(), ax.get_xlabel())))
        words.append(": ".join(filter(None, (ax.get_title(), axes))))
    return " ".join("; ".join(dict.fromkeys(filter(None, words))).split()) or "faces"
