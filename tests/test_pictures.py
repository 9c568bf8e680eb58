"""Notebook pictures: small, closed, of the right size."""

import io

import numpy as np
from matplotlib import pyplot as plt
from PIL import Image

from grefel_lib import pictures, plots


def test_a_photo_is_a_small_jpeg_and_its_figure_is_closed():
    grain = np.random.default_rng(0).integers(90, 110, (20, 48, 48), dtype=np.uint8)
    with plots.paper_style("full"):
        fig = plt.figure(figsize=(6, 1.2))
        plots.face_grid(grain, fig, ncols=10)
    shown = pictures.photo(fig, dpi=100)
    assert not plt.fignum_exists(fig.number)
    picture = Image.open(io.BytesIO(shown.data))
    assert (picture.format, picture.size) == ("JPEG", (600, 120))
    assert len(shown.data) < 60_000
