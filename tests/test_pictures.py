"""Notebook pictures: small, closed, of the right size."""

import io

import numpy as np
from matplotlib import pyplot as plt
from PIL import Image

from grefel_lib.report.faces import face_grid
from grefel_lib.report.style import VAL, as_drawing, as_photo, paper_style


def test_a_photo_is_a_small_jpeg_and_its_figure_is_closed():
    grain = np.random.default_rng(0).integers(90, 110, (20, 48, 48), dtype=np.uint8)
    with paper_style("full"):
        fig = plt.figure(figsize=(6, 1.2))
        face_grid(grain, fig, ncols=10)
    shown = as_photo(fig, dpi=100)
    assert not plt.fignum_exists(fig.number)
    picture = Image.open(io.BytesIO(shown.data))
    assert (picture.format, picture.size) == ("JPEG", (600, 120))
    assert len(shown.data) < 60_000


def test_a_drawing_is_a_small_sharp_png_shown_in_the_size_of_its_figure():
    with paper_style("full"):
        fig, ax = plt.subplots(figsize=(6, 2))
        ax.plot(np.linspace(0, 1, 50) ** 2, color=VAL)
    shown = as_drawing(fig, dpi=150)
    assert not plt.fignum_exists(fig.number)
    picture = Image.open(io.BytesIO(shown.data))
    assert (picture.format, picture.mode, picture.size) == ("PNG", "P", (900, 300))
    assert shown.width == 600
    assert len(shown.data) < 20_000
    colours = {tuple(c) for c in np.asarray(picture.convert("RGB")).reshape(-1, 3)}
    assert {(255, 255, 255), (0x00, 0x72, 0xB2)} <= colours
