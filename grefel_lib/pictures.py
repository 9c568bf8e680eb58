"""Figures as outputs of a notebook, small enough to commit."""

import io

from IPython.display import Image
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image as PillowImage


def photo(fig: Figure, *, dpi: int = 72) -> Image:
    """Turn a figure full of faces into a JPEG and close it; their grain bloats a PNG five times.

    Args:
        fig: Drawn with `plots`; not saved anywhere.
        dpi: Pixels per inch of the picture.

    Returns:
        What a notebook shows when it is the value of a cell, or given to `display`.
    """
    content = io.BytesIO()
    fig.savefig(content, format="jpeg", dpi=dpi, pil_kwargs={"quality": 72})
    plt.close(fig)
    return Image(content.getvalue(), format="jpeg")


def drawing(fig: Figure | None, *, dpi: int = 100) -> Image | None:
    """Turn a figure of lines and areas into a PNG of 256 colours and close it.

    It is a fifth of the size of the usual PNG, and shown as large as that one.

    Args:
        fig: Drawn with `plots` and its kin, or by `rebuild.figure`, which gives None where there
            is nothing to draw.
        dpi: Pixels per inch of the picture.

    Returns:
        What a notebook shows when it is the value of a cell, or given to `display`; None of None.
    """
    if fig is None:
        return None
    content, small = io.BytesIO(), io.BytesIO()
    fig.savefig(content, format="png", dpi=dpi)
    width = round(100 * fig.get_figwidth())
    plt.close(fig)
    colours = PillowImage.open(content).convert("RGB").quantize(256, dither=PillowImage.Dither.NONE)
    colours.save(small, format="png", optimize=True)
    return Image(small.getvalue(), format="png", width=width)
