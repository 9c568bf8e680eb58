"""Tables and image files, read with errors that a person can act on."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, UnidentifiedImageError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")


def read_csv(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """Read a table that must have these columns."""
    try:
        table = pd.read_csv(path)
    except pd.errors.EmptyDataError:
        raise ValueError(f"{path} is empty") from None
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a readable csv file: {error}") from error
    table.columns = [str(name).strip() for name in table.columns]
    absent = [name for name in columns if name not in table.columns]
    if absent:
        raise ValueError(
            f"{path} lacks the columns {', '.join(absent)}; it has: {', '.join(table.columns[:14])}"
        )
    if table.empty:
        raise ValueError(f"{path} has a header but no row")
    return table


def list_images(folder: Path, *, deep: bool = False) -> list[Path]:
    """Image files of a folder (with `deep` of its subfolders), sorted by name."""
    if not folder.is_dir():
        raise FileNotFoundError(f"no image folder {folder}")
    found = folder.rglob("*") if deep else folder.iterdir()
    images = [file for file in found if file.suffix.lower() in IMAGE_SUFFIXES]
    return sorted(images, key=None if deep else lambda file: file.name)  # names compare faster


def find_images(paths: Sequence[str | Path]) -> list[Path]:
    """Image files named directly or inside folders (not below), sorted within a folder.

    Raises:
        FileNotFoundError: A path is not there, or a folder holds no image.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        inside = list_images(path) if path.is_dir() else [path]
        if not inside:
            raise FileNotFoundError(f"no image ({', '.join(IMAGE_SUFFIXES)}) in folder {path}")
        if not inside[0].exists():
            raise FileNotFoundError(f"no image or folder at {path}")
        found += inside
    return found


def open_image(path: Path, mode: str | None = None) -> Image.Image:
    """Decode one image file, into a mode of Pillow's or, without one, into L or RGB.

    Raises:
        ValueError: The file is no readable image.
    """
    try:
        with Image.open(path) as image:
            grey = image.mode in ("1", "L", "I;16")
            return image.convert(mode or ("L" if grey else "RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{path} is not a readable image: {error}") from error


def read_face(path: Path) -> np.ndarray:
    """Read one image file: (H, W) for grey ones, (H, W, 3) otherwise, uint8."""
    return np.array(open_image(path))


def missing(folder: Path, names: list) -> str:
    """The sentence about images that a table names but a folder lacks."""
    return f"{len(names)} images are missing in {folder}, the first is {names[0]}"


def decode(
    files: list[Path], mode: str, *, size: int | None = None, boxes: list[Path] | None = None
) -> Iterator[np.ndarray]:
    """Decode image files in order; all take the size given, or that of the first."""
    absent = [file for file in files if not file.is_file()]
    if absent:
        raise FileNotFoundError(missing(absent[0].parent, [file.name for file in absent]))

    def read(file: Path, box: Path | None) -> Image.Image:
        image = open_image(file, mode)
        return image.crop(_box(box)) if box is not None and box.is_file() else image

    wanted = (size, size) if size else None
    with ThreadPoolExecutor(4) as pool:
        work = list(zip(files, boxes or [None] * len(files), strict=True))
        for start in range(0, len(work), 1024):  # a bounded number is held at once
            for image in pool.map(read, *zip(*work[start : start + 1024], strict=True)):
                wanted = wanted or image.size
                yield np.asarray(image if image.size == wanted else image.resize(wanted))


def _box(path: Path) -> tuple[float, ...]:
    try:
        values = tuple(float(value) for value in path.read_text().split())
        if len(values) != 4 or values[2] <= values[0] or values[3] <= values[1]:
            raise ValueError
    except ValueError:
        raise ValueError(f"{path} must hold left, top, right, bottom of a box") from None
    return values
