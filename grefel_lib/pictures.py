"""Figures as outputs of a notebook, small enough to commit."""

import io

from IPython.display import Image
from matplotlib import pyplot as plt
from matplotlib.figure import Figure


def photo(fig: Figure, *, dpi: int = 80) -> Image:
    """Turn a figure full of faces into a JPEG and close it; their grain bloats a PNG five times.

    Args:
        fig: Drawn with `plots`; not saved anywhere.
        dpi: Pixels per inch of the picture.

    Returns:
        What a notebook shows when it is the value of a cell, or given to `display`.
    """
    content = io.BytesIO()
    fig.savefig(content, format="jpeg", dpi=dpi, pil_kwargs={"quality": 80})
    plt.close(fig)
    return Image(content.getvalue(), format="jpeg")
