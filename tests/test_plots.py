"""Figures: exact width, embedded fonts, the same bytes twice, and no text cut or covered."""

import subprocess
import sys
from itertools import combinations

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from grefel_lib.labels import COMPOUND, EMOTIONS, VOTE_COLUMNS
from grefel_lib.metrics import calibration_bins, normalise_rows, wilson_interval
from grefel_lib.report.faces import face_card, face_grid
from grefel_lib.report.figures import (
    class_counts,
    confusion_matrix,
    per_class_bars,
    reliability_diagram,
    training_curves,
)
from grefel_lib.report.style import (
    BLUES,
    COLOURS,
    SHADES,
    WIDTHS,
    paper_style,
    save_figure,
    short_name,
)

matplotlib.use("agg")


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def counts_of(classes: int) -> np.ndarray:
    """Imbalanced counts with an empty cell, an empty row and a cell under half a percent."""
    rng = np.random.default_rng(classes)
    counts = rng.integers(1, 20, size=(classes, classes))
    counts[np.arange(classes), np.arange(classes)] = np.geomspace(1018, 2, classes).astype(int)
    counts[0, 1], counts[0, 2], counts[-1] = 0, 1, 0
    return counts


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
    with paper_style(width):
        inches = WIDTHS[width]
        fig = Figure(figsize=(inches, {"matrix": 0.9}.get(name[:6], 0.65) * inches))
        if name in ("matrix8", "matrix11"):
            names = COMPOUND if name == "matrix11" else EMOTIONS
            confusion_matrix(counts_of(len(names)), names, fig.subplots())
        elif name == "curves":
            training_curves(history(30), fig.subplots(2, 1))
        elif name in ("counts", "counts_log", "counts_one"):
            splits = {"train": np.geomspace(8740, 119, 8), "val": np.geomspace(1182, 13, 8)}
            table = pd.DataFrame(splits | {"test": splits["val"]}, index=EMOTIONS).astype(int)
            table = table[["train"]] if name == "counts_one" else table
            class_counts(table, fig.subplots(), log=name == "counts_log")
        elif name in ("bars8", "bars11"):
            table = class_table(EMOTIONS if name == "bars8" else COMPOUND)
            per_class_bars(table, fig.subplots())
        elif name == "reliability":
            claimed = rng.beta(4, 1.5, size=800)
            bins = calibration_bins(claimed, rng.random(800) < claimed**2)
            reliability_diagram(bins, fig.subplots())
        elif name == "faces":
            faces = rng.integers(0, 256, size=(7, 48, 48), dtype=np.uint8)
            face_grid(faces, fig, ncols=4, titles=["surprise → happiness"] * 7)
        elif name == "votes":
            faces = rng.integers(0, 256, size=(8, 48, 48, 3), dtype=np.uint8)
            votes = rng.multinomial(10, [0.1] * 10, size=8)
            face_grid(faces, fig, ncols=4, row_labels=["least", "most"], votes=votes)
        elif name == "cards":
            face = rng.integers(0, 256, size=(48, 48), dtype=np.uint8)
            axes = fig.subplots(1, 2, width_ratios=(1, 1.6))
            target, probs = rng.dirichlet(np.ones(8), size=2)
            face_card(face, target, EMOTIONS, axes, class_probs=probs)
    return fig


FIGURES = (
    "matrix8", "matrix11", "curves", "counts", "counts_log", "counts_one", "bars8", "bars11",
    "reliability", "faces", "votes", "cards",
)  # fmt: skip


def shown(fig: Figure) -> list[Text]:
    """Every text that is drawn and not empty."""
    return [t for t in fig.findobj(Text) if t.get_visible() and t.get_text().strip()]


def texts(fig: Figure) -> set[str]:
    return {text.get_text() for text in shown(fig)}


@pytest.mark.parametrize(
    ("name", "width"),
    [(name, "column") for name in FIGURES]
    + [(name, "full") for name in ("matrix11", "counts", "bars8")],
)
def test_no_text_is_cut_or_covered_and_the_width_is_exact(name, width, tmp_path, monkeypatch):
    fig = draw(name, width)
    pdf, png = save_figure(fig, tmp_path / name)
    assert Image.open(png).width == round(300 * WIDTHS[width])
    assert f"/MediaBox [ 0 0 {72 * WIDTHS[width]:g} ".encode() in pdf.read_bytes()
    drawn = []  # matplotlib keeps ticks beyond the limits, and never draws them
    paint = Text.draw
    monkeypatch.setattr(Text, "draw", lambda text, r: (drawn.append(text), paint(text, r))[1])
    renderer = FigureCanvasAgg(fig).get_renderer()
    with matplotlib.rc_context({"text.hinting": "none"}):
        fig.draw(renderer)
        boxes = {t: t.get_window_extent(renderer) for t in drawn if t.get_text().strip()}
    for text, box in boxes.items():
        assert box.x0 >= -0.5, text
        assert box.y0 >= -0.5, text
        assert box.x1 <= fig.bbox.x1 + 0.5, text
        assert box.y1 <= fig.bbox.y1 + 0.5, text
        assert text.get_fontsize() >= 4.5, text
    assert len(boxes) >= 5
    for (one, a), (other, b) in combinations(boxes.items(), 2):
        wide = min(a.x1, b.x1) - max(a.x0, b.x0)
        high = min(a.y1, b.y1) - max(a.y0, b.y0)
        assert wide < 1 or high < 2, f"{one} and {other} overlap by {wide:.1f} x {high:.1f}"


@pytest.mark.parametrize("name", ["matrix8", "faces"])
def test_a_second_save_writes_the_same_bytes(name, tmp_path):
    fig = draw(name, "column")
    first = [path.read_bytes() for path in save_figure(fig, tmp_path / "one")]
    second = [path.read_bytes() for path in save_figure(fig, tmp_path / "two")]
    fresh = [path.read_bytes() for path in save_figure(draw(name, "column"), tmp_path / "three")]
    assert first == second == fresh
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        f"{stem}.{kind}" for stem in ("one", "two", "three") for kind in ("pdf", "png")
    )


def test_a_stem_with_a_point_in_it_keeps_its_name(tmp_path):
    saved = save_figure(draw("bars8", "column"), tmp_path / "lr0.5_run")
    assert [path.name for path in saved] == ["lr0.5_run.pdf", "lr0.5_run.png"]


def test_fonts_are_embedded_as_truetype_though_the_style_has_ended(tmp_path):
    pdf, _ = save_figure(draw("counts", "column"), tmp_path / "figure")
    content = pdf.read_bytes()
    assert b"/CIDFontType2" in content
    assert b"/Type3" not in content


def test_a_save_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    fig = draw("bars8", "column")
    old = save_figure(fig, tmp_path / "figure")[0].read_bytes()
    fig.text(0.5, 0.5, r"$\nonsense$")
    with pytest.raises(ValueError, match="nonsense"):
        save_figure(fig, tmp_path / "figure")
    assert (tmp_path / "figure.pdf").read_bytes() == old
    assert len(list(tmp_path.iterdir())) == 2


def test_the_style_ends_with_its_block():
    before = dict(matplotlib.rcParams)
    with paper_style("full", aspect=0.5):
        assert Figure().get_size_inches() == pytest.approx((6.9, 3.45))
        assert matplotlib.rcParams["pdf.fonttype"] == 42
    with paper_style(5.5):
        assert Figure().get_figwidth() == 5.5
    assert dict(matplotlib.rcParams) == before
    for width in ("wide", 0, -1):
        with pytest.raises(ValueError, match="choose column, full"), paper_style(width):
            pass


def test_importing_is_light():
    code = "import sys, grefel_lib.plots as p; print([m for m in ('torch', 'seaborn', 'sklearn', "
    code += "'matplotlib.pyplot') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_matrix_shows_percent_of_the_row_above_the_count():
    cells = np.array([[150, 49, 1], [0, 30, 30], [0, 0, 0]])
    with paper_style("column"):
        ax = Figure(figsize=(3.3, 3)).subplots()
        confusion_matrix(cells, ["neutral", "happiness", "fear"], ax)
    written = {}
    for text in ax.texts:
        x, y = text.get_position()
        written.setdefault((int(y), int(x)), []).append(text.get_text())
    assert written[0, 0] == ["75.0", "150"]
    assert written[0, 2] == ["0.5", "1"]
    assert written[1, 0] == written[2, 2] == ["0"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["neutral", "happiness", "fear"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted (% of true class)", "true")


def test_small_cells_leave_the_counts_to_the_row_names():
    found = texts(draw("matrix11", "column"))
    total = counts_of(11)[1].sum()
    assert f"hap-dis ({total})" in found
    assert "<1" in found
    assert "1018" not in found
    assert "1018" in texts(draw("matrix11", "full"))


def test_counts_alone_can_be_shown():
    with paper_style("column"):
        ax = Figure(figsize=(3.3, 3)).subplots()
        confusion_matrix(np.array([[7, 2], [0, 9]]), ["sad", "fear"], ax, normalise=False)
    assert [text.get_text() for text in ax.texts] == ["7", "2", "0", "9"]


def test_the_colours_of_a_matrix_darken_evenly_and_its_numbers_can_be_read():
    def luminance(colour):
        linear = ((np.array(matplotlib.colors.to_rgb(colour)) + 0.055) / 1.055) ** 2.4
        return linear @ (0.2126, 0.7152, 0.0722)

    ramp = np.array([luminance(BLUES(x)) for x in np.linspace(0, 1, 65)])
    steps = np.diff(116 * np.cbrt(ramp) - 16)  # of the lightness L*
    assert steps.max() < 0
    assert steps.min() / steps.max() < 2
    with paper_style("full"):
        ax = Figure(figsize=(6.9, 6)).subplots()
        square = np.zeros((20, 20), dtype=int)
        square[:, 0] = np.arange(0, 1000, 50)
        square[:, 1] = 1000 - square[:, 0] - 20
        square[:, 2] = 20
        confusion_matrix(square, [str(i) for i in range(20)], ax, counts=False)
    shares = normalise_rows(square)
    for text in ax.texts:
        x, y = text.get_position()
        paper, ink = luminance(BLUES(shares[int(y), int(x)])), luminance(text.get_color())
        contrast = (max(paper, ink) + 0.05) / (min(paper, ink) + 0.05)
        assert contrast > 3.9, (text.get_text(), contrast)


def test_curves_name_the_best_epoch():
    table = history(30)
    table.loc[11, "val_accuracy"] = 0.95
    with paper_style("full"):
        fig = Figure()
        loss, accuracy = training_curves(table, fig.subplots(1, 2))
    assert "validation (best 95.0, epoch 12)" in texts(fig)
    assert f"EMA (best {100 * table['ema_val_accuracy'].iloc[-1]:.1f}, epoch 30)" in texts(fig)
    assert (loss.get_ylabel(), accuracy.get_ylabel()) == ("loss", "accuracy (%)")


def test_one_epoch_can_be_drawn(tmp_path):
    with paper_style("full"):
        fig = Figure()
        training_curves(history(1), fig.subplots(1, 2))
    save_figure(fig, tmp_path / "one")
    assert {"epoch", "EMA (best 87.9, epoch 1)"} <= texts(fig)


def test_splits_differ_in_lightness_and_one_split_takes_the_class_colours():
    grey = [np.dot(matplotlib.colors.to_rgb(c), (0.299, 0.587, 0.114)) for c in SHADES]
    assert min(np.abs(np.diff(grey))) > 0.2
    ax = draw("counts_one", "full").axes[0]
    drawn = [matplotlib.colors.to_hex(bar.get_facecolor()).upper() for bar in ax.patches]
    assert drawn == [COLOURS[name] for name in EMOTIONS]
    assert "8740" in texts(draw("counts", "full"))
    with pytest.raises(ValueError, match="4 splits"):
        class_counts(pd.DataFrame(np.ones((2, 4))), ax)


def test_a_reliability_diagram_draws_every_bin_where_it_is():
    bins = calibration_bins(np.array([0.1, 0.9, 0.9, 0.95]), np.array([0.0, 1, 1, 0]), bins=2)
    with paper_style("column"):
        ax = reliability_diagram(bins, Figure().subplots(), xlabel="reliability")
    line = next(line for line in ax.lines if line.get_label() == "found")
    np.testing.assert_allclose(line.get_xydata(), bins[["confidence", "accuracy"]])
    assert ax.get_xlabel() == "reliability"
    heights = [bar.get_height() for bar in ax.patches]
    assert heights[1] == pytest.approx(3 * heights[0])


def test_a_grid_leaves_empty_places_empty_and_frames_faces_in_colour(rng):
    faces = rng.integers(0, 256, size=(5, 8, 8), dtype=np.uint8)
    with paper_style("column"):
        axes = face_grid(faces, Figure(), ncols=3, colours=["#123456"] * 5)
    assert axes.shape == (2, 3)
    assert [len(ax.images) for ax in axes.flat] == [1, 1, 1, 1, 1, 0]
    np.testing.assert_array_equal(axes[1, 1].images[0].get_array(), faces[4])
    assert axes[0, 0].images[0].get_clim() == (0, 255)  # a dark face stays dark
    seen = [ax.spines["left"].get_visible() for ax in axes.flat]
    assert seen == [True] * 5 + [False]


def test_votes_stand_under_their_own_face(rng):
    fig = draw("votes", "full")
    assert set(VOTE_COLUMNS) <= texts(fig)
    assert {"least", "most"} <= texts(fig)
    below = [ax for ax in fig.axes if ax.patches]
    assert [sum(bar.get_height() for bar in ax.patches) for ax in below] == [10] * 8
    fig.draw_without_rendering()
    for face, bars in zip([ax for ax in fig.axes if ax.images], below, strict=True):
        over, under = face.get_position(), bars.get_position()
        assert (under.x0, under.x1) == pytest.approx((over.x0, over.x1), abs=0.02)
        assert under.y1 < over.y0


def test_a_card_sets_people_beside_the_model():
    fig = draw("cards", "column")
    assert {"people", "model", *EMOTIONS} <= texts(fig)
    assert len(fig.axes[1].patches) == 16


def test_short_names_are_consistent_and_unique():
    assert short_name("happiness") == "hap"
    assert short_name("fearfully angry") == "fea-ang"
    for names in (EMOTIONS, COMPOUND):
        assert len({short_name(name) for name in names}) == len(names)


def test_a_wrong_number_of_names_or_titles_is_refused(rng):
    with paper_style("column"):
        with pytest.raises(ValueError, match="3 names for 2 classes"):
            confusion_matrix(np.eye(2), ["a", "b", "c"], Figure().subplots())
        with pytest.raises(ValueError, match="1 titles for 2 faces"):
            face_grid(np.zeros((2, 8, 8), np.uint8), Figure(), titles=["one"])
