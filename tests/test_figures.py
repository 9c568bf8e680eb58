"""Figures: of exact width, no text cut or covered, and what is drawn is what was given."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
from drawn_figures import FIGURES, class_table, counts_of, draw, font_sizes, history, shown, texts
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from grefel_lib.analysis.calibration import aurc, risk_coverage
from grefel_lib.analysis.robustness import SEVERITIES, with_clean
from grefel_lib.labels import COMPOUND
from grefel_lib.metrics import calibration_bins, normalise_rows
from grefel_lib.report.faces import face_grid
from grefel_lib.report.figures import (
    LOSS_PARTS,
    confusion_figure,
    confusion_matrix,
    dashboard,
    offset_path,
    per_class_bars,
    reliability_diagram,
    risk_coverage_curves,
    robustness_curves,
    training_curves,
)
from grefel_lib.report.method import anchor_map
from grefel_lib.report.style import (
    BLUES,
    CELLS,
    SMALLEST,
    TIMES,
    WIDTHS,
    Paper,
    paper_style,
    save_figure,
    short_names,
    two_lines,
)

matplotlib.use("agg")


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.mark.parametrize(
    ("name", "width"),
    [(name, "column") for name in FIGURES] + [(name, "full") for name in ("matrix11", "bars8")],
)
def test_no_text_is_cut_or_covered_and_the_width_is_exact(name, width, tmp_path, assert_readable):
    fig = draw(name, width)
    pdf, png = save_figure(fig, tmp_path / name)
    assert Image.open(png).width == round(300 * WIDTHS[width])
    assert f"/MediaBox [ 0 0 {72 * WIDTHS[width]:g} ".encode() in pdf.read_bytes()
    assert_readable(fig)
    assert len(shown(fig)) >= 5
    assert min(font_sizes(pdf)) >= SMALLEST


@pytest.mark.parametrize("cells", CELLS)
@pytest.mark.parametrize("classes", [2, 5, 11])
def test_matrices_of_any_model_can_be_read(classes, cells, tmp_path, assert_readable):
    names = [f"rather long class name {number}" for number in range(classes)]
    true = np.repeat(np.arange(classes - 1), 3)  # the last class has no faces
    fig = confusion_figure(true, true[::-1], names, paper=Paper("cvpr", cells))
    assert_readable(fig)
    pdf, _ = save_figure(fig, tmp_path / "one")
    assert min(font_sizes(pdf)) >= SMALLEST
    assert b"STIXGeneral" in pdf.read_bytes()


@pytest.mark.parametrize("options", [{}, {"percentages": False}, {"counts": False}])
@pytest.mark.parametrize("classes", [3, 8, 11])
def test_counts_of_seven_digits_do_not_overlap(classes, options, assert_readable):
    with paper_style(TIMES):
        fig = Figure(figsize=(3.25, 2.95))
        cells = counts_of(classes) * 10_000
        confusion_matrix(cells, [f"class {i}" for i in range(classes)], fig.subplots(), **options)
        assert_readable(fig)


def test_a_matrix_counts_names_or_positions():
    by_name = confusion_figure(["a", "b", "b"], ["b", "b", "b"], ["b", "a"])
    by_place = confusion_figure([1, 0, 0], [0, 0, 0], ["b", "a"])
    by_number = confusion_figure([3, 1, 1], [1, 1, 1], np.array([1, 3]))
    for fig in (by_name, by_place):
        cells = fig.axes[0].collections[0].get_array()
        np.testing.assert_array_equal(cells, [[1, 0], [1, 0]])
    cells = by_number.axes[0].collections[0].get_array()
    np.testing.assert_array_equal(cells, [[1, 0], [1, 0]])
    sorted_names = confusion_figure(["d", "c"], ["d", "d"]).axes[0].get_yticklabels()
    assert [text.get_text() for text in sorted_names] == ["c", "d"]
    for codes in ([10, 2, 1], ["10", "2", "1"]):
        ticks = confusion_figure(codes, codes).axes[0].get_yticklabels()
        assert [text.get_text() for text in ticks] == ["1", "2", "10"]
    with pytest.raises(ValueError, match="2 labels and 1 predictions"):
        confusion_figure([0, 1], [0], ["a", "b"])
    with pytest.raises(ValueError, match="'x' is not among the 2 classes"):
        confusion_figure(["a", "x"], ["a", "b"], ["a", "b"])
    for empty in (None, float("nan")):
        with pytest.raises(ValueError, match="1 of the labels and predictions are empty; drop"):
            confusion_figure(["a", empty], ["a", "b"])


def test_a_matrix_holds_counts_or_percentages_alone():
    cells = np.array([[150, 50], [0, 1]])
    written = {}
    for what in ("counts", "percentages"):
        with paper_style():
            ax = Figure(figsize=(3.3, 3)).subplots()
            confusion_matrix(cells, ["a", "b"], ax, **{what: False})
        written[what] = [text.get_text() for text in ax.texts]
    assert written == {
        "counts": ["75.0", "25.0", "0", "100.0"],
        "percentages": ["150", "50", "0", "1"],
    }


def test_a_matrix_shows_percent_of_the_row_above_the_count():
    cells = np.array([[150, 49, 1], [0, 30, 30], [0, 0, 0]])
    with paper_style():
        ax = Figure(figsize=(3.3, 3)).subplots()
        confusion_matrix(cells, ["neutral", "happiness", "fear"], ax)
    written = {}
    for text in ax.texts:
        x, y = text.get_position()
        written.setdefault((int(y), int(x)), []).append(text.get_text())
    assert written[0, 0] == ["75.0", "150"]
    assert written[0, 2] == ["0.5", "1"]
    assert written[1, 0] == ["0"]
    assert [written[2, column] for column in range(3)] == [["–"]] * 3  # no faces: no percentages
    assert [t.get_text() for t in ax.get_yticklabels()] == ["neutral", "happiness", "fear"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted (% of true class)", "true")


@pytest.mark.parametrize("recall", [0.0, np.nan])
def test_a_class_without_faces_has_a_dash_and_no_bar(recall):
    table = class_table(["neutral", "fear"])
    unseen = {"class": "contempt", "count": 0, "recall": recall, "recall_low": 0, "recall_high": 1}
    table.loc[2] = unseen | {"f1": recall}
    with paper_style():
        ax = Figure(figsize=(3.3, 3)).subplots()
        per_class_bars(table, ax)
        ax.figure.draw_without_rendering()
    assert [text.get_text() for text in ax.texts] == ["100.0", "0", "–"]
    assert ax.texts[2].xy == (2, 0)
    assert [label.get_text() for label in ax.get_xticklabels()][2] == "contempt\n0"
    (whiskers,) = ax.collections
    assert [len(line) for line in whiskers.get_segments()] == [2, 2, 0]


def test_small_cells_leave_the_counts_to_the_row_names():
    found = texts(draw("matrix11", "column"))
    total = counts_of(11)[1].sum()
    assert f"hap-dis ({total})" in found
    assert "<1" in found
    assert "1018" not in found
    assert "1018" in texts(draw("matrix11", "full"))


def test_the_colours_of_a_matrix_darken_evenly_and_its_numbers_can_be_read():
    def luminance(colour):
        linear = ((np.array(matplotlib.colors.to_rgb(colour)) + 0.055) / 1.055) ** 2.4
        return linear @ (0.2126, 0.7152, 0.0722)

    ramp = np.array([luminance(BLUES(x)) for x in np.linspace(0, 1, 65)])
    steps = np.diff(116 * np.cbrt(ramp) - 16)  # of the lightness L*
    assert steps.max() < 0
    assert steps.min() / steps.max() < 2
    with paper_style():
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
    with paper_style():
        fig = Figure()
        loss, accuracy = training_curves(table, fig.subplots(1, 2))
    assert "validation (best 95.0, epoch 12)" in texts(fig)
    assert f"EMA (best {100 * table['ema_val_accuracy'].iloc[-1]:.1f}, epoch 30)" in texts(fig)
    names = ("classification loss", "accuracy (%)")
    assert (loss.get_ylabel(), accuracy.get_ylabel()) == names


def test_the_loss_curves_show_the_same_loss_of_training_and_validation():
    table = history(4).assign(train_loss_cls=[0.9, 0.5, 0.4, 0.3], train_loss=7.0)
    with paper_style():
        loss, _ = training_curves(table, Figure().subplots(1, 2))
    training, validation = (line.get_ydata() for line in loss.get_lines())
    assert list(training) == [0.9, 0.5, 0.4, 0.3]
    assert list(validation) == list(table["val_loss"])


def test_one_epoch_can_be_drawn(tmp_path):
    with paper_style():
        fig = Figure()
        training_curves(history(1), fig.subplots(1, 2))
    save_figure(fig, tmp_path / "one")
    assert {"epoch", "EMA (best 87.9, epoch 1)"} <= texts(fig)


def test_a_reliability_diagram_draws_every_bin_where_it_is():
    claimed = np.repeat([0.1, 0.4, 0.9, 0.95], [10, 9, 20, 10])
    outcome = np.repeat([0.0, 1.0, 1.0, 0.0], [10, 9, 20, 10])
    bins = calibration_bins(claimed, outcome, bins=3)
    with paper_style():
        ax = reliability_diagram(
            bins, Figure().subplots(), xlabel="reliability", ylabel="agreement"
        )
    lines = {line.get_label(): line.get_xydata() for line in ax.lines}
    points = bins[["confidence", "accuracy"]].to_numpy()
    np.testing.assert_allclose(lines["measured"], points[[0, 2]])
    np.testing.assert_allclose(lines["fewer than 10 faces"], points[[1]])
    assert ax.get_xlabel() == "reliability"
    heights = [bar.get_height() for bar in ax.patches]
    assert heights == pytest.approx([10 / 49, 9 / 49, 30 / 49]), "shares of all faces"


def test_classes_that_begin_and_end_alike_are_told_apart():
    names = [f"happy_{x}_intensity" for x in ("low", "high", "mid")]
    assert short_names(names) == ["…low…", "…high…", "…mid…"]
    assert short_names(["participant x", "participant"]) == ["parti…nt x", "parti…pant"]
    many = [f"participant number {i} of this {kind} study" for i in range(3) for kind in "ab"]
    assert len(set(short_names(many))) == 6


def test_a_confusion_matrix_of_odd_names_is_drawn_or_refused_in_one_line(tmp_path):
    fig = confusion_figure(["$_$", r"$\foo$"], ["$_$", "$_$"])
    save_figure(fig, tmp_path / "odd")
    assert {label.get_text() for label in fig.axes[0].get_yticklabels()} == {"$_$", r"$\foo$"}
    with pytest.raises(ValueError, match="a class is named twice among a, b, b"):
        confusion_figure(["a"], ["b"], ["a", "b", "b"])
    for new, told in (({"z": "Joy"}, "no class 'z'; there are: a, b"),
                      ({"a": "Joy", "b": "Joy"}, "two classes would have one name")):  # fmt: skip
        with pytest.raises(ValueError, match=told):
            confusion_figure(["a"], ["b"], paper=Paper(class_names=new))


def test_a_long_name_is_broken_at_its_middle_space_before_it_is_cut():
    assert two_lines("No expression") == "No\nexpression"
    assert two_lines("a very long name") == "a very\nlong name"
    assert two_lines("happiness") == "happiness"
    names = ["Smiling very broadly", "Contemptuous expression"]
    with paper_style():
        ax = confusion_matrix(np.eye(2), names, Figure(figsize=(3.3, 3)).subplots())
    assert [label.get_text() for label in ax.get_yticklabels()] == [*map(two_lines, names)]


def test_the_path_of_offsets_keeps_its_texts_inside_the_axes():
    values = {"mean_class_accuracy": [0.36, 0.40, 0.38, 0.34], "accuracy": [0.60, 0.62, 0.57, 0.48]}
    curve = pd.DataFrame(values, index=[0.0, 0.3, 0.6, 1.0])
    with paper_style():
        fig = Figure(figsize=(3.3, 2.3))
        ax = offset_path(curve, 0.3, fig.subplots())
        fig.draw_without_rendering()
    for text in ax.texts:
        box = text.get_window_extent()
        assert ax.bbox.x0 <= box.x0
        assert box.x1 <= ax.bbox.x1


def test_a_wrong_number_of_names_or_titles_is_refused(rng):
    with paper_style():
        with pytest.raises(ValueError, match="3 names for 2 classes"):
            confusion_matrix(np.eye(2), ["a", "b", "c"], Figure().subplots())
        with pytest.raises(ValueError, match="1 titles for 2 faces"):
            face_grid(np.zeros((2, 8, 8), np.uint8), Figure(), titles=["one"])


# -- of an evaluation


@pytest.fixture
def ax():
    with paper_style():
        fig, ax = plt.subplots()
        yield ax
        plt.close(fig)


def test_each_measure_of_sureness_is_a_curve_with_its_area(ax):
    wrong = np.array([0, 0, 1, 0, 1, 1])
    sure = {"confidence": np.linspace(1, 0, 6), "reliability": np.linspace(0, 1, 6)}
    curves = {name: risk_coverage(values, wrong) for name, values in sure.items()}
    scores = pd.DataFrame({"aurc": {n: aurc(c) for n, c in curves.items()}})
    risk_coverage_curves(curves, ax, scores=scores)
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts.pop() == "all faces"
    assert texts == [f"{n} (AURC {scores.loc[n, 'aurc']:.3f})" for n in curves]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), curves["confidence"]["risk"])


def test_every_corruption_is_a_line_from_the_clean_score_on(ax):
    rows = [{"corruption": "clean", "severity": 0, "accuracy": 0.9}]
    rows += [
        {"corruption": kind, "severity": s, "accuracy": 0.9 - s * 0.1}
        for kind in SEVERITIES
        for s in range(1, 6)
    ]
    curves = with_clean(pd.DataFrame(rows))
    robustness_curves(curves, ax, metric="accuracy", label="accuracy")
    assert [line.get_label() for line in ax.lines] == list(SEVERITIES)
    for line in ax.lines:
        np.testing.assert_allclose(line.get_ydata(), [0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    assert len({(line.get_linestyle(), line.get_marker()) for line in ax.lines}) == 6  # in grey too


@pytest.mark.parametrize(("classes", "wide", "shaded"),
                         [(24, "column", True), (25, "full", False), (40, "full", False),
                          (60, "full", True)])  # fmt: skip
def test_many_classes_take_a_page_and_then_lose_their_texts(
    classes, wide, shaded, rng, tmp_path, assert_readable
):
    names = [f"emotion {number}" for number in range(classes)]
    labels = rng.choice(names, 3000)
    predicted = np.where(rng.random(3000) < 0.7, labels, rng.choice(names, 3000))
    fig = confusion_figure(labels, predicted, names)
    assert fig.get_figwidth() == WIDTHS[wide]
    save_figure(fig, tmp_path / "many")
    assert_readable(fig)
    assert bool(fig.axes[0].texts) != shaded
    assert ("darker" in fig.axes[0].get_xlabel()) == shaded


# -- the dashboard of a run


@pytest.mark.parametrize("names", [COMPOUND, [f"my own emotion {i}" for i in range(30)]])
def test_many_classes_have_a_legend_within_the_dashboard_and_lines_of_their_own(small_run, names):
    history = small_run.history()
    few = history.loc[:, ~history.columns.str.contains("val_accuracy_")]
    fig = dashboard(few.assign(**{f"ema_val_accuracy_{name}": 0.5 for name in names}), 7)
    fig.canvas.draw()
    box = fig.legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= fig.bbox.width
    looks = {(line.get_color(), str(line._unscaled_dash_pattern)) for line in fig.axes[3].lines}
    assert len(looks) == len(names)


def test_every_column_is_drawn_over_all_epochs(small_run):
    history = small_run.history()
    fig = dashboard(history, 7)
    loss, parts, accuracy, classes, norm, speed = fig.axes
    for ax, columns in (
        (loss, ["train_loss_cls", "val_loss", "ema_val_loss"]),
        (parts, [f"train_loss_{part}" for part in LOSS_PARTS]),
        (classes, [c for c in history if c.startswith("ema_val_accuracy_")]),
    ):
        drawn = [line.get_ydata().tolist() for line in ax.lines]
        assert drawn == [history[column].tolist() for column in columns]
    curves = [line.get_ydata() for line in accuracy.lines if len(line.get_ydata()) > 1]
    columns = ["train_accuracy", "val_accuracy", "ema_val_accuracy"]
    if len(history) > 1:
        np.testing.assert_allclose(curves, 100 * history[columns].T)
    assert norm.lines[0].get_ydata().tolist() == history["grad_norm"].tolist()
    assert len(speed.lines) == 2
    assert all(ax.get_xlim() == (0.5, 7.5) for ax in fig.axes)
    names = [text.get_text() for text in fig.legends[0].get_texts()]
    assert len(names) == len(set(names)) == len(classes.lines) == 8


def test_a_class_that_begins_with_an_underscore_stands_in_every_legend(small_run):
    history = small_run.history().rename(columns={"ema_val_accuracy_fear": "ema_val_accuracy__x"})
    votes = pd.DataFrame({"_x": [3], "smile": [7]})
    classes, faces, one = Figure(), Figure(), np.zeros((1, 8, 8), np.uint8)
    anchor_map(np.eye(2), np.arange(2), np.zeros((2, 1, 2)), ["_x", "smile"], classes.subplots())
    face_grid(one, faces, votes=votes, row_labels=["a"])
    for fig in (dashboard(history, 7), classes, faces):
        assert "_x" in [text.get_text().strip() for text in fig.legends[0].get_texts()]


def test_a_linear_head_has_one_loss_and_no_parts(small_run):
    history = small_run.history()
    history = history.drop(columns=[f"train_loss_{part}" for part in LOSS_PARTS])
    parts = dashboard(history, 1).axes[1]
    assert parts.texts[0].get_text() == "linear head: a single loss"


@pytest.mark.parametrize("epochs", [1, 40])
def test_few_epochs_are_marked_and_many_are_lines(small_run, epochs):
    history = small_run.history().loc[[0] * epochs].assign(epoch=range(1, epochs + 1))
    line = dashboard(history, epochs).axes[0].lines[0]
    assert (line.get_marker() == "o") == (epochs < 12)
