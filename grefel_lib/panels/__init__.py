"""Interactive panels for JupyterLab, by name: data, training, confusion, runs, face."""

import io
from importlib import import_module
from typing import Any

from IPython.display import Image, display
from PIL import Image as PillowImage

from grefel_lib.config import PROJECT_ROOT
from grefel_lib.environment import watched

PANELS = {
    "data": "DataPanel",
    "training": "TrainingPanel",
    "confusion": "ConfusionPanel",
    "runs": "ComparisonPanel",
    "face": "FacePanel",
}
PICTURES = PROJECT_ROOT / "notebooks/pictures/panels"
WIDTH = 480  # pixels of the picture that replaces a panel


def show_panel(name: str, *arguments: Any) -> None:
    """Show a panel in a live notebook; elsewhere, a picture of it and how to open it.

    Args:
        name: A key of PANELS.
        arguments: For the panel: data takes a config, training a run, confusion an evaluation and a
            data set, runs a folder, face a run and a photograph.

    Raises:
        ValueError: There is no such panel.
    """
    if name not in PANELS:
        raise ValueError(f"no panel {name!r}; there are: {', '.join(PANELS)}")
    panel = getattr(import_module(f"grefel_lib.panels.{name}"), PANELS[name])
    if watched():
        display(panel(*arguments))
        return
    where = "live when this notebook is open in JupyterLab (make lab)"
    print(f"{panel.title}: {where}; the picture is an example")
    picture = PICTURES / f"{name}.webp"
    if picture.is_file():
        small, content = PillowImage.open(picture).convert("RGB"), io.BytesIO()
        small.thumbnail((WIDTH, WIDTH))
        small.save(content, "JPEG", quality=30, optimize=True)
        display(Image(content.getvalue(), format="jpeg"))
