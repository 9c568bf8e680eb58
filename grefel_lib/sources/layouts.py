"""The published layouts on disk: which files belong to a data set, and how they are read."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock
from PIL import Image, UnidentifiedImageError

from grefel_lib.config import DATA_DIRS, PROJECT_ROOT, Config
from grefel_lib.labels import (
    CLASS_NAMES,
    FOLDER_NAMES,
    FORMATS,
    RAFDB_ATTRIBUTES,
    VOTE_COLUMNS,
    class_index,
)
from grefel_lib.sources.synthetic import write_synthetic

USAGES = {"Training": "train", "PublicTest": "val", "PrivateTest": "test"}
FERPLUS_FOLDERS = {"train": "FER2013Train", "val": "FER2013Valid", "test": "FER2013Test"}
RAFDB_SIZE, _ = FORMATS["rafdb"]


@dataclass(frozen=True)
class Source:
    """Where a data set's files are, and how to read them."""

    kind: str
    root: Path
    files: list[Path]  # everything whose change makes the cache stale
    read: Callable[[], tuple[pd.DataFrame, Iterable[np.ndarray]]]
    notes: list[str] = field(default_factory=list)  # remarks on what was chosen, for the user


def find_source(config: Config) -> Source:
    root = _root(config)
    if config.dataset == "synthetic":
        return _ferplus(root)
    if root.is_file() and config.dataset != "fer2013":
        raise NotADirectoryError(f"{root} is a file; data_dir is the folder of {config.dataset}")
    beside = config.dataset == "fer2013" and (root.parent / "fer2013.csv").is_file()
    if not root.exists() and not beside:
        raise FileNotFoundError(
            f"no folder {root} for {config.dataset}; pass data_dir, or see data/README.md for "
            f"where to put the files"
        )
    if config.dataset == "ferplus":
        return _ferplus(root)
    if config.dataset == "fer2013":
        return _fer2013(root)
    return _rafdb(root, config)


def _root(config: Config) -> Path:
    if config.data_dir:
        path = Path(config.data_dir).expanduser()
        return path.absolute() if path.exists() else PROJECT_ROOT / path
    if config.dataset != "synthetic":
        return PROJECT_ROOT / DATA_DIRS[config.dataset]
    folder = PROJECT_ROOT / f"{DATA_DIRS['synthetic']}-{config.synthetic_images}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                write_synthetic(folder, images=config.synthetic_images)
    return folder


def _ferplus(root: Path) -> Source:
    root = root / "FERPlus" if (root / "FERPlus/fer2013new.csv").is_file() else root
    votes = root / "fer2013new.csv"
    if not votes.is_file():
        content = ", ".join(sorted(p.name for p in root.iterdir())[:5]) or "nothing"
        raise FileNotFoundError(
            f"no fer2013new.csv in {root} (it holds: {content}); data_dir is the FERPlus folder, "
            f"see data/README.md"
        )
    for base in (root / "Images", root / "data", root):
        if (base / FERPLUS_FOLDERS["train"]).is_dir():
            folders = {split: base / name for split, name in FERPLUS_FOLDERS.items()}
            files = [
                votes,
                *(f for folder in folders.values() for f in list_images(folder)),
            ]
            return Source("votes", root, files, partial(_read_ferplus, votes, folders))
    for pixels in (root / "fer2013.csv", root.parent / "fer2013.csv"):
        if pixels.is_file():
            note = f"no image folders in {root}: pixels come from {pixels.name}, row by row"
            read = partial(_read_ferplus_pixels, votes, pixels)
            return Source("votes-pixels", root, [votes, pixels], read, [note])
    raise FileNotFoundError(
        f"no images for {votes}: looked for {FERPLUS_FOLDERS['train']}/ under Images/, data/ and "
        f"the folder itself, and for fer2013.csv in it and beside it"
    )


def _votes_table(path: Path) -> pd.DataFrame:
    table = read_csv(path, ("Usage", "Image name", *VOTE_COLUMNS))
    _check_usages(path, table["Usage"])
    votes = table[list(VOTE_COLUMNS)].apply(pd.to_numeric, errors="coerce")
    if votes.isna().any(axis=None) or (votes < 0).any(axis=None):
        row = int(np.flatnonzero((votes.isna() | (votes < 0)).any(axis=1))[0])
        raise ValueError(
            f"{path}: row {row} has a vote that is no count: {table.loc[row].tolist()}"
        )
    split = table["Usage"].map(USAGES)
    ids = [f"{name}_{row:05d}" for row, name in enumerate(split)]  # never from the file name
    named = table["Image name"].notna()
    named_rows = pd.DataFrame({"id": ids, "split": split, "file": table["Image name"]})
    return pd.concat([named_rows, votes.astype(int)], axis=1)[named]


def _check_usages(path: Path, usages: pd.Series) -> None:
    unknown = sorted(set(map(str, usages)) - set(USAGES))
    if unknown:
        raise ValueError(f"{path} has the Usage {unknown[0]!r}; known: {', '.join(USAGES)}")


def _read_ferplus(path: Path, folders: dict[str, Path]) -> tuple[pd.DataFrame, Iterable]:
    table = _votes_table(path)
    files = [
        folders[split] / name for split, name in zip(table["split"], table["file"], strict=True)
    ]
    table["file"] = [str(file.relative_to(path.parent)) for file in files]
    return table, decode(files, "L")


def _read_ferplus_pixels(path: Path, pixels: Path) -> tuple[pd.DataFrame, Iterable]:
    table = _votes_table(path)
    emotions, images = _read_fer2013_csv(pixels)
    rows = len(pd.read_csv(path, usecols=["Usage"]))
    if len(emotions) != rows:
        raise ValueError(
            f"{path.name} has {rows} rows but {pixels} has {len(emotions)}: they are joined row by "
            f"row and must be of the same edition"
        )
    if not (emotions["split"].to_numpy()[table.index] == table["split"]).all():
        raise ValueError(f"{path.name} and {pixels} name different splits for the same row")
    table["file"] = [f"{pixels.name}:{row + 2}" for row in table.index]
    return table, (image for row, image in enumerate(images) if row in table.index)


def _fer2013(root: Path) -> Source:
    candidates = (
        root,
        root / "fer2013.csv",
        root / "fer2013/fer2013.csv",
        root.parent / "fer2013.csv",
    )
    for path in candidates:
        if path.is_file():
            return Source("fer2013", path.parent, [path], partial(_read_fer2013_csv, path))
    for base in (root, root / "fer2013"):
        if (base / "train").is_dir() and (base / "test").is_dir():
            files = [f for part in ("train", "test") for f in list_images(base / part, deep=True)]
            return Source(
                "fer2013-folders", base, files, partial(_read_fer2013_folders, base, files)
            )
    raise FileNotFoundError(
        f"no FER2013 in {root}: looked for fer2013.csv in it and beside it, and for train/ and "
        f"test/ with a folder an emotion"
    )


def _read_fer2013_csv(path: Path) -> tuple[pd.DataFrame, Iterable]:
    table = read_csv(path, ("emotion", "pixels", "Usage"))
    _check_usages(path, table["Usage"])
    split = table["Usage"].map(USAGES)
    rows = pd.DataFrame(
        {
            "id": [f"{name}_{row:05d}" for row, name in enumerate(split)],
            "split": split,
            "file": [f"{path.name}:{row + 2}" for row in range(len(table))],
            "code": table["emotion"],
        }
    )

    def images() -> Iterable[np.ndarray]:
        for row, text in enumerate(table["pixels"]):
            try:
                values = np.array(str(text).split(), dtype=int)
                if len(values) != 48 * 48 or values.min() < 0 or values.max() > 255:
                    raise ValueError
            except ValueError:
                raise ValueError(
                    f"{path}, line {row + 2}: expected {48 * 48} pixel values of 0 to 255, found "
                    f"{len(str(text).split())}"
                ) from None
            yield values.astype(np.uint8).reshape(48, 48)

    return rows, images()


def _read_fer2013_folders(base: Path, files: list[Path]) -> tuple[pd.DataFrame, Iterable]:
    rows = []
    for file in files:
        folder = file.parent.name.lower()
        if folder not in FOLDER_NAMES:
            raise ValueError(
                f"{file.parent} is no emotion folder; known: {', '.join(sorted(set(FOLDER_NAMES)))}"
            )
        part = file.relative_to(base).parts[0]
        public = file.name.startswith("PublicTest")
        split = "train" if part == "train" else "val" if public else "test"
        emotion = CLASS_NAMES["fer2013"].index(FOLDER_NAMES[folder])
        code = [class_index("fer2013", c) for c in range(7)].index(emotion)
        rows.append((f"{part}_{folder}_{file.stem}", split, str(file.relative_to(base)), code))
    return pd.DataFrame(rows, columns=["id", "split", "file", "code"]), decode(files, "L")


def _rafdb(root: Path, config: Config) -> Source:
    subset = "compound" if config.dataset == "rafdb_compound" else "basic"
    for base in (root / subset, root):
        for folder in ("EmoLabel", "Annotation"):
            listing = base / folder / "list_patition_label.txt"
            if listing.is_file():
                return _rafdb_original(base, listing, config.rafdb_images)
    for base in (root / "DATASET", root):
        if (base / "train/1").is_dir() and (base / "test").is_dir() and subset == "basic":
            files = [f for part in ("train", "test") for f in list_images(base / part, deep=True)]
            tables = [p for d in (base, root) for p in sorted(d.glob("*_labels.csv"))]
            return Source(
                "rafdb-kaggle",
                root,
                files + tables,
                partial(_read_rafdb_kaggle, base, files, tables),
            )
    raise FileNotFoundError(
        f"no RAF-DB {subset} in {root}: looked for {subset}/EmoLabel/list_patition_label.txt (also "
        f"under Annotation/) and for the Kaggle mirror DATASET/train/1..7; see data/README.md"
    )


def _rafdb_original(base: Path, listing: Path, kind: str) -> Source:
    folder = base / "Image" / kind
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}; rafdb_images is aligned or original")
    files, notes, boxes = list_images(folder), [], None
    if kind == "original":
        boxes = base / "Annotation/boundingbox"
        if not boxes.is_dir():
            notes.append(f"no Annotation/boundingbox in {base.name}: whole pictures are used")
    about = base / "Annotation/manual"
    watched = [listing, *files, *(sorted(boxes.glob("*.txt")) if boxes else [])]
    watched += sorted(about.glob("*.txt"))
    read = partial(_read_rafdb, listing, files, boxes, about)
    return Source(f"rafdb-{base.name}-{kind}", base, watched, read, notes)


def _read_rafdb(
    listing: Path, files: list[Path], boxes: Path | None, about: Path
) -> tuple[pd.DataFrame, Iterable]:
    by_id: dict[str, Path] = {}
    for file in files:
        name = file.stem.removesuffix("_aligned")
        if name in by_id:
            raise ValueError(f"two image files for {name}: {by_id[name]} and {file}; keep one")
        by_id[name] = file
    rows = []
    for number, line in enumerate(listing.read_text().splitlines(), start=1):
        parts = line.split()
        if not parts:
            continue
        if (
            len(parts) != 2
            or not parts[1].isdigit()
            or parts[0].split("_")[0] not in ("train", "test")
        ):
            raise ValueError(
                f"{listing}, line {number}: expected `train_00001.jpg 5`, found {line!r}"
            )
        rows.append((Path(parts[0]).stem, parts[0].split("_")[0], int(parts[1])))
    if not rows:
        raise ValueError(f"{listing} is empty")
    table = pd.DataFrame(rows, columns=["id", "split", "code"])
    if table["id"].duplicated().any():
        twice = table["id"][table["id"].duplicated()].iloc[0]
        raise ValueError(f"{listing} lists {twice} twice")
    absent = [name for name in table["id"] if name not in by_id]
    if absent:
        raise FileNotFoundError(missing(files[0].parent if files else listing.parent, absent))
    chosen = [by_id[name] for name in table["id"]]
    table["file"] = [str(file.relative_to(listing.parents[1])) for file in chosen]
    if about.is_dir():
        attributes = [_attributes(about / f"{name}_manu_attri.txt") for name in table["id"]]
        table = table.join(pd.DataFrame(attributes, columns=list(RAFDB_ATTRIBUTES), dtype=object))
    crops = None
    if boxes is not None and boxes.is_dir():
        crops = [boxes / f"{name}_boundingbox.txt" for name in table["id"]]
    return table, decode(chosen, "RGB", size=RAFDB_SIZE, boxes=crops)


def _attributes(path: Path) -> list[str | None]:
    """Gender, race and age group of a face; None without the annotation file."""
    if not path.is_file():
        return [None] * len(RAFDB_ATTRIBUTES)
    codes = path.read_text().split()[-len(RAFDB_ATTRIBUTES) :]  # after the landmarks
    words = [kind.get(code) for kind, code in zip(RAFDB_ATTRIBUTES.values(), codes, strict=False)]
    if len(words) < len(RAFDB_ATTRIBUTES) or None in words:
        raise ValueError(
            f"{path} must end with the codes of gender (0-2), race (0-2) and age group (0-4), a "
            f"line each; it ends with {', '.join(codes) or 'nothing'}"
        )
    return words


def _read_rafdb_kaggle(
    base: Path, files: list[Path], tables: list[Path]
) -> tuple[pd.DataFrame, Iterable]:
    rows = []
    for file in files:
        if not file.parent.name.isdigit():
            raise ValueError(f"{file.parent} is no class folder; expected 1 to 7")
        part = file.relative_to(base).parts[0]
        name = str(file.relative_to(base))
        rows.append((file.stem.removesuffix("_aligned"), part, int(file.parent.name), name))
    table = pd.DataFrame(rows, columns=["id", "split", "code", "file"])
    listed = {
        row.image: row.label
        for path in tables
        for row in read_csv(path, ("image", "label")).itertuples(index=False)
    }
    for file, code in zip(files, table["code"], strict=True):
        if listed.get(file.name, code) != code:
            raise ValueError(
                f"{file.name} lies in folder {code} but its table says {listed[file.name]}"
            )
    return table, decode(files, "RGB", size=RAFDB_SIZE)


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
    entries = folder.rglob("*") if deep else folder.iterdir()
    images = [file for file in entries if file.suffix.lower() in IMAGE_SUFFIXES]
    return sorted(images, key=None if deep else lambda file: file.name)  # names compare faster


def find_images(paths: Sequence[str | Path]) -> list[Path]:
    """Image files named directly or inside folders (not below), sorted within a folder.

    Raises:
        FileNotFoundError: A path is not there, or a folder holds no image.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        inside = list_images(path) if path.is_dir() else [path]
        if not inside:
            raise FileNotFoundError(f"no image ({', '.join(IMAGE_SUFFIXES)}) in folder {path}")
        if not inside[0].exists():
            raise FileNotFoundError(f"no image or folder at {path}")
        files += inside
    return files


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
    """The message about images that a table lists but a folder lacks."""
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

    side = (size, size) if size else None
    with ThreadPoolExecutor(4) as pool:
        work = list(zip(files, boxes or [None] * len(files), strict=True))
        for start in range(0, len(work), 1024):  # a bounded number is held at once
            for image in pool.map(read, *zip(*work[start : start + 1024], strict=True)):
                side = side or image.size
                yield np.asarray(image if image.size == side else image.resize(side))


def _box(path: Path) -> tuple[float, ...]:
    try:
        values = tuple(float(value) for value in path.read_text().split())
        if len(values) != 4 or values[2] <= values[0] or values[3] <= values[1]:
            raise ValueError
    except ValueError:
        raise ValueError(f"{path} must hold left, top, right, bottom of a box") from None
    return values
