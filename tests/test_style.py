"""The style of figures; how they are saved for papers and shown in notebooks."""

import io
import os
import subprocess
import sys
import warnings

import matplotlib
import numpy as np
import pytest
from drawn_figures import draw
from matplotlib.figure import Figure
from PIL import Image

from grefel_lib.labels import COLOURS, COMPOUND, EMOTIONS
from grefel_lib.report.faces import face_grid
from grefel_lib.report.figures import confusion_figure
from grefel_lib.report.style import (
    SANS,
    TIMES,
    VAL,
    as_picture,
    class_colours,
    paper_style,
    save_figure,
    short_name,
    short_names,
)


def test_a_photo_is_a_small_jpeg():
    grain = np.random.default_rng(0).integers(90, 110, (20, 48, 48), dtype=np.uint8)
    with paper_style():
        fig = Figure(figsize=(6, 1.2))
        face_grid(grain, fig, ncols=10)
    shown = as_picture(fig, photo=True)
    picture = Image.open(io.BytesIO(shown.data))
    assert (picture.format, picture.size) == ("JPEG", (504, 100))
    assert shown.width == 600
    assert len(shown.data) < 60_000


def test_a_drawing_is_a_small_sharp_png_shown_in_the_size_of_its_figure():
    with paper_style():
        fig = Figure(figsize=(6, 2))
        fig.subplots().plot(np.linspace(0, 1, 50) ** 2, color=VAL)
    shown = as_picture(fig)
    picture = Image.open(io.BytesIO(shown.data))
    assert (picture.format, picture.mode, picture.size) == ("PNG", "P", (624, 208))
    assert shown.width == 600
    assert len(shown.data) < 20_000
    colours = {tuple(c) for c in np.asarray(picture.convert("RGB")).reshape(-1, 3)}
    assert {(255, 255, 255), (0x00, 0x72, 0xB2)} <= colours


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


def test_a_saved_figure_keeps_its_name_and_embeds_truetype_fonts(tmp_path):
    saved = save_figure(draw("bars8", "column"), tmp_path / "lr0.5_run")  # the style has ended
    assert [path.name for path in saved] == ["lr0.5_run.pdf", "lr0.5_run.png"]
    content = saved[0].read_bytes()
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
    with paper_style():
        assert matplotlib.rcParams["pdf.fonttype"] == 42
    assert dict(matplotlib.rcParams) == before


def test_a_figure_is_the_same_whatever_the_users_own_style_is(tmp_path):
    first = [path.read_bytes() for path in save_figure(draw("matrix8", "column"), tmp_path / "one")]
    own = {"savefig.transparent": True, "font.weight": "bold", "lines.linestyle": ":",
           "axes.xmargin": 0.3, "savefig.format": "svg", "font.family": "serif",
           "text.usetex": True}  # fmt: skip
    with matplotlib.style.context(["dark_background", own]):
        fig = draw("matrix8", "column")
        again = [path.read_bytes() for path in save_figure(fig, tmp_path / "two")]
        assert Image.open(io.BytesIO(as_picture(fig).data)).convert("RGB").getpixel((1, 1)) == (
            255, 255, 255,
        )  # fmt: skip
    assert again == first


def test_a_figure_is_the_same_with_any_backend(tmp_path):
    first = save_figure(confusion_figure("aabb", "abba"), tmp_path / "one")
    code = "import sys; from pathlib import Path; from grefel_lib import confusion_figure; "
    code += "from grefel_lib.report.style import save_figure; "
    code += "save_figure(confusion_figure('aabb', 'abba'), Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "two")], check=True,
                   env={**os.environ, "MPLBACKEND": "svg", "OMP_NUM_THREADS": "2",
                        "PYTHONHASHSEED": "7", "SOURCE_DATE_EPOCH": "9", "TZ": "Asia/Tokyo"}
                   )  # fmt: skip
    again = [path.with_stem("two") for path in first]
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in first]


def test_a_drawing_says_in_words_what_it_shows():
    fig = draw("matrix8", "column")
    assert (
        as_picture(fig).alt
        == as_picture(fig, photo=True).alt
        == "true against predicted (% of true class)"
    )


def test_the_font_of_a_venue_holds_inside_its_block_and_no_longer():
    def family():
        with paper_style():
            return matplotlib.rcParams["font.family"][0]

    with paper_style(TIMES):
        assert family() == TIMES
    assert family() == SANS


def test_own_names_are_cut_alike_and_stay_apart_in_colour():
    assert short_names(["neutral", "Joy"]) == ["neutral", "Joy"]
    assert short_names(["neutral", "a very happy face"]) == ["neutral", "a ver…face"]
    assert short_names(["neutral", "anger"]) == ["neu", "ang"]
    colours = class_colours(["neutral", "Wut", "Anger", "NF"])
    assert len(set(colours)) == 4
    assert colours[2] == class_colours(["anger"])[0]
    assert colours[3] == "white"


def test_importing_is_light():
    code = "import sys, grefel_lib.report.style, grefel_lib.report.figures; print([m for m in "
    code += "('torch', 'seaborn', 'sklearn', 'matplotlib.pyplot') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_short_names_are_consistent_and_unique():
    assert short_name("happiness") == "hap"
    assert short_name("fearfully angry") == "fea-ang"
    for names in (EMOTIONS, COMPOUND):
        assert len({short_name(name) for name in names}) == len(names)


def test_a_figure_in_a_notebook_keeps_the_colours_of_small_marks():
    with paper_style():
        fig = Figure(figsize=(3, 2))
        ax = fig.subplots()
        ax.imshow(np.linspace(0, 1, 900).reshape(30, 30), cmap="Blues")  # many colours elsewhere
        for place, colour in enumerate(COLOURS.values()):
            ax.plot(3 * place + 2, 15, marker="s", ms=4, color=colour)
        shown = Image.open(io.BytesIO(as_picture(fig).data)).convert("RGB")
    seen = np.unique(np.asarray(shown).reshape(-1, 3), axis=0).astype(int)
    for colour in COLOURS.values():
        drawn = 255 * np.array(matplotlib.colors.to_rgb(colour))
        assert np.abs(seen - drawn).max(axis=1).min() < 16, colour


def test_letters_that_no_font_has_are_said_once_and_other_warnings_are_kept(
    tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr("grefel_lib.report.style.WIDE", ("No Such Font",))
    with paper_style():
        fig = Figure()
        fig.subplots().set_title("高兴 joy")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_figure(fig, tmp_path / "a")
    [told] = caplog.messages
    assert told.startswith("a figure has boxes for 2 letters that no font here has: install one")
    crowded = Figure(layout="constrained", figsize=(0.1, 0.1))
    crowded.subplots().set_title("a title that does not fit")
    with pytest.warns(UserWarning, match="axes sizes collapsed"):
        save_figure(crowded, tmp_path / "b")
