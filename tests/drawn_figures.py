"""The figures that a reader of the workbook meets, with realistic content."""

import base64
import contextlib
import io
import re
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from grefel_lib.labels import COMPOUND, EMOTIONS, VOTE_COLUMNS
from grefel_lib.metrics import calibration_bins, wilson_interval
from grefel_lib.report.faces import face_grid
from grefel_lib.report.figures import (
    confusion_matrix,
    per_class_bars,
    reliability_diagram,
    training_curves,
)
from grefel_lib.report.style import WIDTHS, paper_style


def counts_of(classes: int) -> np.ndarray:
    """Imbalanced counts with an empty cell, an empty row and a cell under half a percent."""
    rng = np.random.default_rng(classes)
    counts = rng.integers(1, 20, size=(classes, classes))
    counts[np.arange(classes), np.arange(classes)] = np.geomspace(1018, 2, classes).astype(int)
    counts[0, 1], counts[0, 2], counts[-1] = 0, 1, 0
    return counts


def sheet(shown: str) -> np.ndarray:
    """The picture that a panel's page of faces is cut from."""
    data = re.search(r"base64,([^)]+)\)", shown)[1]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def history(epochs: int) -> pd.DataFrame:
    x = np.arange(1, epochs + 1)
    rise = 0.9 - 0.6 * np.exp(-4 * x / epochs)
    table = {"epoch": x, "train_loss": 3 - 2 * rise, "val_loss": 2.5 - 2 * rise}
    table |= {"train_accuracy": rise, "val_accuracy": rise - 0.03, "ema_val_accuracy": rise - 0.01}
    return pd.DataFrame(table)


def class_table(names) -> pd.DataFrame:
    recall = np.linspace(1, 0, len(names))
    count = np.geomspace(1090, 16, len(names)).astype(int)
    ends = np.array([wilson_interval(*pair) for pair in zip(recall * count, count, strict=True)])
    columns = {"class": names, "count": count, "recall": recall, "f1": recall}
    return pd.DataFrame(columns | {"recall_low": ends[:, 0], "recall_high": ends[:, 1]})


def draw(name: str, width: str) -> Figure:
    """One of the figures that a reader of the workbook meets, with realistic content."""
    rng = np.random.default_rng(1)
    with paper_style():
        inches = WIDTHS[width]
        fig = Figure(figsize=(inches, {"matrix": 0.9}.get(name[:6], 0.65) * inches))
        if name in ("matrix8", "matrix11"):
            names = COMPOUND if name == "matrix11" else EMOTIONS
            confusion_matrix(counts_of(len(names)), names, fig.subplots())
        elif name == "curves":
            training_curves(history(30), fig.subplots(2, 1))
        elif name in ("bars8", "bars11"):
            table = class_table(EMOTIONS if name == "bars8" else COMPOUND)
            per_class_bars(table, fig.subplots())
        elif name == "reliability":
            claimed = rng.beta(4, 1.5, size=800)
            bins = calibration_bins(claimed, rng.random(800) < claimed**2)
            reliability_diagram(bins, fig.subplots(), xlabel="confidence", ylabel="accuracy")
        elif name == "faces":
            faces = rng.integers(0, 256, size=(7, 48, 48), dtype=np.uint8)
            face_grid(faces, fig, ncols=4, titles=["surprise → happiness"] * 7)
        elif name == "votes":
            faces = rng.integers(0, 256, size=(8, 48, 48, 3), dtype=np.uint8)
            votes = pd.DataFrame(rng.multinomial(10, [0.1] * 10, size=8), columns=VOTE_COLUMNS)
            face_grid(faces, fig, ncols=4, row_labels=["least", "most"], votes=votes)
    return fig


FIGURES = (
    "matrix8", "matrix11", "curves", "bars8", "bars11",
    "reliability", "faces", "votes",
)  # fmt: skip


def shown(fig: Figure) -> list[Text]:
    """Every text that is drawn and not empty."""
    return [t for t in fig.findobj(Text) if t.get_visible() and t.get_text().strip()]


def font_sizes(pdf: Path) -> set[float]:
    """The sizes of all texts of a PDF, in points."""
    streams = re.findall(rb"stream\r?\n(.*?)endstream", pdf.read_bytes(), re.DOTALL)
    sizes = set()
    for stream in streams:
        with contextlib.suppress(zlib.error):
            sizes |= set(re.findall(rb"/F\d+ ([\d.]+) Tf", zlib.decompress(stream)))
    return {float(size) for size in sizes}


def texts(fig: Figure) -> set[str]:
    return {text.get_text() for text in shown(fig)}
