"""Flat faces, each of its own grey, held in memory: what happens to them can be read off."""

from pathlib import Path

import numpy as np
import pandas as pd

from grefel_lib.config import Config
from grefel_lib.faces import FaceSet
from grefel_lib.run import Run


def grey_faces(train=24, val=24, *, classes=None, size=32):
    """A FaceSet in which face n of a split is of class n (modulo the classes) and of grey n.

    Args:
        train: Faces of the train split.
        val: Faces of the val split.
        classes: Number of classes; one a face without it.
        size: Side of the faces in pixels.

    Returns:
        The faces; their greys, 10 to 240, rise with their number.
    """
    classes = classes or max(train, val)
    number = np.concatenate([np.arange(train), np.arange(val)])
    split = np.repeat(["train", "val"], [train, val])
    greys = np.linspace(10, 240, max(train, val)).round().astype(np.uint8)
    images = np.repeat(greys, size * size).reshape(-1, size, size)
    table = pd.DataFrame(
        {"id": [f"{s}_{n}" for s, n in zip(split, number, strict=True)], "split": split,
         "label": number % classes, "row": number}
    )  # fmt: skip
    targets = np.eye(classes, dtype=np.float32)[table["label"]]
    names = tuple(f"c{i}" for i in range(classes))
    return FaceSet(images, table, targets, names, {"protocol": "", "fingerprint": "grey"})


def new_run(path: Path, config: Config) -> Run:
    """The folder of a run with its settings, as `start_run` leaves it, whatever the names."""
    run = Run(path, config)
    run.write_json(config.to_dict(), "config.json")
    return run
