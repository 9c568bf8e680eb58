"""Published data set layouts on disk: which files belong to a data set and how to read them."""

import itertools
import re
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
    CODES,
    FOLDER_NAMES,
    FORMATS,
    NO_CLASS,
    RAFDB_ATTRIBUTES,
    VALIDATION_AS_TEST,
    VOTE_COLUMNS,
    own_classes,
)
from grefel_lib.sources.synthetic import write_synthetic

USAGES = {"Training": "train", "PublicTest": "val", "PrivateTest": "test"}
FERPLUS_FOLDERS = {"train": "FER2013Train", "val": "FER2013Valid", "test": "FER2013Test"}
RAFDB_SIZE, _ = FORMATS["rafdb"]
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
CLASS_FOLDERS = {  # name of a folder -> label code
    "fer2013": {
        folder: code for code, emotion in CODES["fer2013"].items()
        for folder, meant in FOLDER_NAMES.items() if meant == emotion
    },
    "rafdb": {str(code): code for code in CODES["rafdb"]},
}  # fmt: skip

Content = tuple[pd.DataFrame, Iterable[np.ndarray]]  # per image: id, split, file; code or votes


@dataclass(frozen=True)
class Source:
    """Where a data set's files are, and how to read them."""

    kind: str
    root: Path
    files: list[Path]  # the cache is rebuilt when any of them changes
    read: Callable[[], Content]
    notes: list[str] = field(default_factory=list)  # warnings to the user about choices made
    class_names: tuple[str, ...] = ()  # of a user's own set; its codes are positions in them
    protocol: str = ""  # what is said of the splits wherever a result stands


def find_source(config: Config) -> Source:
    """Find the files of the data set that a config names.

    Raises:
        NotADirectoryError: data_dir is a file.
        FileNotFoundError: There is no such folder, or it has no known layout of the data set.
    """
    root = _root(config)
    if config.dataset == "fer2013":  # the csv may exist even if the folder does not
        return _fer2013(root)
    if root.is_file():
        raise NotADirectoryError(f"{root} is a file; data_dir must be the {config.dataset} folder")
    if not root.exists():
        raise FileNotFoundError(
            f"no folder {root} for {config.dataset}; pass data_dir, or see data/README.md for "
            f"where to put the files"
        )
    if config.dataset.startswith("rafdb"):
        return _rafdb(root, config)
    if config.dataset == "folder":
        return _own(root)
    if config.dataset.startswith("affectnet"):
        return _affectnet(root)
    return _ferplus(root)  # or the drawn faces, in the same layout


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
            f"no fer2013new.csv in {root} (found: {content}); data_dir must be the FERPlus folder, "
            f"see data/README.md"
        )
    for base in (root / "Images", root / "data", root):
        if (base / FERPLUS_FOLDERS["train"]).is_dir():
            folders = {split: base / name for split, name in FERPLUS_FOLDERS.items()}
            files = [votes, *itertools.chain(*map(list_images, folders.values()))]
            return Source("votes", root, files, partial(_read_ferplus, votes, folders))
    for pixels in (root / "fer2013.csv", root.parent / "fer2013.csv"):
        if pixels.is_file():
            note = f"no image folders in {root}: reading pixels from {pixels.name}, row by row"
            read = partial(_read_ferplus_pixels, votes, pixels)
            return Source("votes-pixels", root, [votes, pixels], read, [note])
    raise FileNotFoundError(
        f"no images for {votes}: looked for {FERPLUS_FOLDERS['train']}/ under Images/, data/ and "
        f"the folder itself, and for fer2013.csv in it and next to it"
    )


def _ids_and_splits(path: Path, usages: pd.Series) -> pd.DataFrame:
    unknown = sorted(set(map(str, usages)) - set(USAGES))
    if unknown:
        raise ValueError(f"{path} has the Usage {unknown[0]!r}; known: {', '.join(USAGES)}")
    split = usages.map(USAGES)
    ids = [f"{name}_{row:05d}" for row, name in enumerate(split)]  # not from the file name
    return pd.DataFrame({"id": ids, "split": split})


def _read_votes(path: Path) -> pd.DataFrame:
    """Every row of fer2013new.csv; the file column is NaN for non-faces."""
    table = read_csv(path, ("Usage", "Image name", *VOTE_COLUMNS))
    votes = table[list(VOTE_COLUMNS)].apply(pd.to_numeric, errors="coerce")
    wrong = np.flatnonzero(~(votes >= 0).all(axis=1))
    if len(wrong):
        raise ValueError(
            f"{path}, line {wrong[0] + 2}: a vote is not a count: {table.loc[wrong[0]].tolist()}"
        )
    rows = _ids_and_splits(path, table["Usage"]).assign(file=table["Image name"])
    return pd.concat([rows, votes.astype(int)], axis=1)


def _read_ferplus(path: Path, folders: dict[str, Path]) -> Content:
    table = _read_votes(path).dropna(subset="file")
    files = [
        folders[split] / name for split, name in zip(table["split"], table["file"], strict=True)
    ]
    names = [str(file.relative_to(path.parent)) for file in files]
    return table.assign(file=names), decode(files, "L")


def _read_ferplus_pixels(path: Path, pixels: Path) -> Content:
    table = _read_votes(path)
    rows, images = _read_fer2013_csv(pixels)
    if len(rows) != len(table):
        raise ValueError(
            f"{path.name} has {len(table)} rows but {pixels} has {len(rows)}: they are joined row "
            f"by row and must be from the same release"
        )
    if not rows["split"].equals(table["split"]):
        raise ValueError(f"{path.name} and {pixels} name different splits for the same row")
    named = table["file"].notna()
    return table.assign(file=rows["file"])[named], itertools.compress(images, named)


def _fer2013(root: Path) -> Source:
    name = "fer2013.csv"
    for path in (root, root / name, root / "fer2013" / name, root.parent / name):
        if path.is_file():
            return Source("fer2013", path.parent, [path], partial(_read_fer2013_csv, path))
    for base in (root, root / "fer2013"):
        if (base / "train").is_dir() and (base / "test").is_dir():
            files, read = _class_folders(base, "fer2013")
            return Source("fer2013-folders", base, files, read)
    raise FileNotFoundError(
        f"no FER2013 in {root}: looked for fer2013.csv in it and beside it, and for train/ and "
        f"test/ with a folder for each emotion; pass data_dir, or see data/README.md"
    )


def _read_fer2013_csv(path: Path) -> Content:
    table = read_csv(path, ("emotion", "pixels", "Usage"))
    rows = _ids_and_splits(path, table["Usage"]).assign(
        file=[f"{path.name}:{line}" for line in range(2, len(table) + 2)], code=table["emotion"]
    )

    def images() -> Iterator[np.ndarray]:
        for line, text in enumerate(table["pixels"].astype(str), start=2):
            try:
                image = np.array(text.split(), dtype=np.uint8).reshape(48, 48)
            except (ValueError, OverflowError):
                raise ValueError(
                    f"{path}, line {line}: expected {48 * 48} pixel values of 0 to 255, found "
                    f"{len(text.split())} values"
                ) from None
            yield image

    return rows, images()


def _class_folders(base: Path, dataset: str, tables: Sequence[Path] = ()) -> tuple[list, Callable]:
    """The images below train/ and test/, in a folder for each class, and how to read them."""
    files = [f for part in ("train", "test") for f in list_images(base / part, deep=True)]
    return files, partial(_read_class_folders, base, dataset, files, tables)


def _read_class_folders(
    base: Path, dataset: str, files: list[Path], tables: Sequence[Path]
) -> Content:
    codes, fer2013 = CLASS_FOLDERS[dataset], dataset == "fer2013"
    listed: dict[str, int] = {}
    for path in tables:
        listed |= read_csv(path, ("image", "label")).set_index("image")["label"].to_dict()
    rows = []
    for file in files:
        part, folder = file.relative_to(base).parts[0], file.parent.name.lower()
        if folder not in codes:
            raise ValueError(
                f"{file.parent} is not an emotion folder; known: {', '.join(sorted(codes))}"
            )
        if listed.get(file.name, codes[folder]) != codes[folder]:
            raise ValueError(f"{file} is in folder {folder} but its table says {listed[file.name]}")
        split = "val" if part == "test" and file.name.startswith("PublicTest") else part
        name = f"{part}_{folder}_{file.stem}" if fer2013 else file.stem.removesuffix("_aligned")
        rows.append((name, split, str(file.relative_to(base)), codes[folder]))
    table = pd.DataFrame(rows, columns=["id", "split", "file", "code"])
    return table, decode(files, "L") if fer2013 else decode(files, "RGB", size=RAFDB_SIZE)


def _rafdb(root: Path, config: Config) -> Source:
    subset = "compound" if config.dataset == "rafdb_compound" else "basic"
    for base, folder in itertools.product((root / subset, root), ("EmoLabel", "Annotation")):
        listing = base / folder / "list_patition_label.txt"
        if listing.is_file():
            return _rafdb_original(base, listing, config.rafdb_images)
    for base in (root / "DATASET", root):
        if (base / "train/1").is_dir() and (base / "test").is_dir() and subset == "basic":
            tables = [p for d in (base, root) for p in sorted(d.glob("*_labels.csv"))]
            files, read = _class_folders(base, "rafdb", tables)
            return Source("rafdb-kaggle", root, files + tables, read)
    raise FileNotFoundError(
        f"no RAF-DB {subset} in {root}: looked for {subset}/EmoLabel/list_patition_label.txt (also "
        f"under Annotation/) and for the Kaggle mirror DATASET/train/1..7; see data/README.md"
    )


def _rafdb_original(base: Path, listing: Path, kind: str) -> Source:
    folder = base / "Image" / kind
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}; rafdb_images must be aligned or original")
    files, notes = list_images(folder), []
    boxes, attributes = base / "Annotation/boundingbox", base / "Annotation/manual"
    if kind == "original" and not boxes.is_dir():
        notes.append(f"no Annotation/boundingbox in {base.name}: using uncropped images")
    boxes = boxes if kind == "original" and boxes.is_dir() else None
    texts = [p for d in (boxes, attributes) if d for p in sorted(d.glob("*.txt"))]
    read = partial(_read_rafdb, listing, folder, files, boxes, attributes)
    return Source(f"rafdb-{base.name}-{kind}", base, [listing, *files, *texts], read, notes)


def _read_rafdb(
    listing: Path, folder: Path, files: list[Path], boxes: Path | None, attributes: Path
) -> Content:
    by_id: dict[str, Path] = {}
    for file in files:
        name = file.stem.removesuffix("_aligned")
        if name in by_id:
            raise ValueError(f"two image files for {name}: {by_id[name]} and {file}; keep one")
        by_id[name] = file
    rows = []
    for number, line in enumerate(listing.read_text().splitlines(), start=1):
        row = re.fullmatch(r"\s*((train|test)_\S+)\s+(\d+)\s*", line)
        if row:
            rows.append((Path(row[1]).stem, row[2], int(row[3])))
        elif line.strip():
            raise ValueError(
                f"{listing}, line {number}: expected `train_00001.jpg 5`, found {line!r}"
            )
    if not rows:
        raise ValueError(f"{listing} is empty")
    table = pd.DataFrame(rows, columns=["id", "split", "code"])
    if table["id"].duplicated().any():
        raise ValueError(f"{listing} lists {table['id'][table['id'].duplicated()].iloc[0]} twice")
    files = [by_id.get(name, folder / name) for name in table["id"]]
    table["file"] = [str(file.relative_to(listing.parents[1])) for file in files]
    if attributes.is_dir():
        people = [_people(attributes / f"{name}_manu_attri.txt") for name in table["id"]]
        table = table.join(pd.DataFrame(people, columns=list(RAFDB_ATTRIBUTES), dtype=object))
    crops = [boxes / f"{name}_boundingbox.txt" for name in table["id"]] if boxes else None
    return table, decode(files, "RGB", size=RAFDB_SIZE, boxes=crops)


def _people(path: Path) -> list[str | None]:
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


def read_csv(path: Path, columns: Sequence[str], *, dtype: type | None = None) -> pd.DataFrame:
    """Read a CSV file that must have these columns."""
    try:
        table = pd.read_csv(path, dtype=dtype)
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
        raise ValueError(f"{path} has a header but no rows")
    return table


def list_images(folder: Path, *, deep: bool = False) -> list[Path]:
    """Image files of a folder (with `deep` also of its subfolders), sorted by name."""
    if not folder.is_dir():
        raise FileNotFoundError(f"no image folder {folder}")
    entries = folder.rglob("*") if deep else folder.iterdir()
    images = [file for file in entries if file.suffix.lower() in IMAGE_SUFFIXES]
    return sorted(images, key=None if deep else lambda file: file.name)  # names compare faster


def find_images(paths: Sequence[str | Path]) -> list[Path]:
    """Image files given by name, and those of given folders (not of subfolders), sorted.

    Raises:
        FileNotFoundError: A path does not exist, or a folder contains no image.
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
    """Decode an image file into a Pillow mode, by default L for greyscale and RGB otherwise.

    Raises:
        ValueError: The file is not a readable image.
    """
    try:
        with Image.open(path) as image:
            grey = image.mode in ("1", "L", "I;16")
            return image.convert(mode or ("L" if grey else "RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{path} is not a readable image: {error}") from error


def read_face(path: Path) -> np.ndarray:
    """Read an image file: (H, W) if greyscale, (H, W, 3) otherwise, uint8."""
    return np.array(open_image(path))


def decode(
    files: list[Path], mode: str, *, size: int | None = None, boxes: list[Path] | None = None
) -> Iterator[np.ndarray]:
    """Decode image files in order, all resized to `size` or to the size of the first image."""
    absent = [file for file in files if not file.is_file()]
    if absent:
        raise FileNotFoundError(
            f"{len(absent)} images are missing in {absent[0].parent}, first: {absent[0].name}"
        )

    def read(file: Path, box: Path | None) -> Image.Image:
        image = open_image(file, mode)
        return image.crop(_box(box)) if box is not None and box.is_file() else image

    side = (size, size) if size else None
    with ThreadPoolExecutor(4) as pool:
        work = list(zip(files, boxes or [None] * len(files), strict=True))
        for start in range(0, len(work), 1024):  # bounds the number held in memory
            for image in pool.map(read, *zip(*work[start : start + 1024], strict=True)):
                side = side or image.size
                yield np.asarray(image if image.size == side else image.resize(side))


def _box(path: Path) -> tuple[float, ...]:
    try:
        values = tuple(float(value) for value in path.read_text().split())
        if len(values) != 4 or values[2] <= values[0] or values[3] <= values[1]:
            raise ValueError
    except ValueError:
        raise ValueError(f"{path} must contain left, top, right, bottom of a box") from None
    return values


# -- a user's own faces

OWN_SIZE = 112  # side in pixels to which they are resized
OWN_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def _own(root: Path) -> Source:
    """A table with a column image, or folders train/<class>/, val/<class>/, test/<class>/."""
    tables = {path: read_csv(path, (), dtype=str) for path in sorted(root.glob("*.csv"))}
    tables = {path: table for path, table in tables.items() if "image" in table}
    splits = [p for p in sorted(root.iterdir()) if p.is_dir() and p.name.lower() in OWN_SPLITS]
    if tables:
        kind, table = "folder-table", pd.concat(_own_rows(*item) for item in tables.items())
        found = [name.removeprefix("votes_") for name in table if name.startswith("votes_")]
        found = found or table["label"].dropna()
    elif splits:
        kind, folders = "folder-classes", _own_folders(splits)
        table, found = _own_listing(root, folders), [folder.name for folder in folders]
    else:
        content = ", ".join(sorted(p.name for p in root.iterdir())[:5]) or "nothing"
        raise FileNotFoundError(
            f"no faces in {root} (found: {content}): looked for train/<class>/ with images, and "
            f"for a .csv with the columns image and label; see data/README.md"
        )
    repeated = table["file"].duplicated()
    if repeated.any():
        raise ValueError(f"the tables in {root} list {table['file'][repeated].iloc[0]} twice")
    classes = own_classes(found)
    names = tuple(dict.fromkeys(classes.values()))
    if len(names) < 2:
        raise ValueError(f"{root} has {len(names)} class ({', '.join(names)}); two are needed")
    if "label" in table:
        code = [names.index(classes[n]) if n in classes else NO_CLASS for n in table.pop("label")]
    else:
        votes = np.zeros((len(table), len(names)))
        for name, emotion in classes.items():  # two columns of one emotion add up
            votes[:, names.index(emotion)] += table.pop(f"votes_{name}").fillna(0)
        code = np.where(votes.any(axis=1), votes.argmax(axis=1), NO_CLASS)
        table[[f"votes_{name}" for name in names]] = votes
    files = [root / name for name in table["file"]]
    absent = [file for file in files if not file.is_file()]
    if absent:
        raise FileNotFoundError(f"{len(absent)} images are missing, the first: {absent[0]}")
    table = table.assign(id=table["file"], code=code).reset_index(drop=True)
    return Source(kind, root, [*tables, *files], partial(_read_own, table, files), [], names)


def _own_folders(splits: list[Path]) -> list[Path]:
    """The class folders of the splits."""
    folders = [folder for split in splits for folder in sorted(split.iterdir())]
    return [f for f in folders if f.is_dir() and not f.name.startswith((".", "__"))]


def _own_listing(root: Path, folders: list[Path]) -> pd.DataFrame:
    """Every image of the class folders, its split and the name of its folder."""
    rows = [
        (file.relative_to(root).as_posix(), OWN_SPLITS[folder.parent.name.lower()], folder.name)
        for folder in folders
        for file in list_images(folder)
    ]
    return pd.DataFrame(rows, columns=["file", "split", "label"])


def _own_rows(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """One table's file, split, subject if known, and label or votes_<name>; checked."""

    def refuse(wrong: pd.Series, name: str, mend: str) -> None:
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise ValueError(f"{path}, line {row + 2}: {name} is {table[name][row]!r}; {mend}")

    table = table.apply(lambda column: column.str.strip().replace("", np.nan))
    refuse(table["image"].isna(), "image", "every row needs a file")
    rows = pd.DataFrame({"file": table["image"]})
    rows["split"] = OWN_SPLITS.get(path.stem.lower(), "train")  # train.csv, test.csv
    if "split" in table:
        rows["split"] = table["split"].str.lower().map(OWN_SPLITS)
        refuse(rows["split"].isna(), "split", f"known: {', '.join(OWN_SPLITS)}")
    if "subject" in table:
        rows["subject"] = table["subject"]
    if "label" in table:
        return rows.assign(label=table["label"])
    known = {"image", "split", "subject", "unknown", "NF"}  # the last two name no class
    for name in [name for name in table if name not in known]:
        rows[f"votes_{name}"] = pd.to_numeric(table[name].fillna("0"), errors="coerce")
        refuse(~(rows[f"votes_{name}"] >= 0), name, "without a column label, every other column "
               "counts the votes for a class")  # fmt: skip
    return rows


def _read_own(table: pd.DataFrame, files: list[Path]) -> Content:
    colour = any(open_image(file).mode == "RGB" for file in files)
    return table, decode(files, "RGB" if colour else "L", size=OWN_SIZE)


# -- AffectNet

AFFECTNET_SIZE, _ = FORMATS["affectnet8"]
BOX = ["face_x", "face_y", "face_width", "face_height"]


def _affectnet(root: Path) -> Source:
    """As released, as lists of whole photographs, or as folders of codes.

    There is no public test split: the validation set is the test split, unless a copy made its own.
    """
    kind, protocol = "affectnet-released", VALIDATION_AS_TEST
    lists = {"train": root / "training.csv", "test": root / "validation.csv"}
    parts = {"train": root / "train_set", "test": root / "val_set"}
    if all((folder / "images").is_dir() for folder in parts.values()):
        faces = [(s, f) for s, folder in parts.items() for f in list_images(folder / "images")]
        labels = [f.parents[1] / "annotations" / f"{f.stem}_exp.npy" for _, f in faces]
        files = [file for _, file in faces] + [file for file in labels if file.is_file()]
        read = partial(_read_affectnet, root, faces, labels)
    elif all(path.is_file() for path in lists.values()):
        kind, images = "affectnet-lists", root / "Manually_Annotated_Images"
        files = [*lists.values(), *list_images(images, deep=True)]
        read = partial(_read_affectnet_lists, lists, images)
    elif (root / "train/0").is_dir():
        kind, parts = "affectnet-folders", {"train": "train", "val": "test"}
        if (root / "test").is_dir():
            parts, protocol = {"train": "train", "val": "val", "test": "test"}, ""
        faces = [
            (split, file)
            for folder, split in parts.items()
            for file in list_images(root / folder, deep=True)
        ]
        files, read = [file for _, file in faces], partial(_read_affectnet, root, faces)
    else:
        raise FileNotFoundError(
            f"no AffectNet in {root}: looked for train_set/ and val_set/ with images/ and "
            f"annotations/, for training.csv and validation.csv, and for train/0..7; see "
            f"data/README.md"
        )
    return Source(kind, root, files, read, protocol=protocol)


def _read_affectnet(
    root: Path, faces: list[tuple[str, Path]], labels: list[Path] | None = None
) -> Content:
    """Images with their code in a file each, or else as the name of their folder."""
    rows = []
    for number, (split, file) in enumerate(faces):
        place = labels[number] if labels else file.parent
        try:  # a code is saved as text or as a number
            code = int(float(np.load(place).item() if labels else place.name))
        except (OSError, ValueError) as error:
            raise ValueError(f"{place} must hold or be one label code: {error}") from error
        name = f"{split}_{file.stem}" if labels else f"{split}_{code}_{file.stem}"
        rows.append((name, split, file.relative_to(root).as_posix(), code))
    table = pd.DataFrame(rows, columns=["id", "split", "file", "code"])
    return table, decode([file for _, file in faces], "RGB", size=AFFECTNET_SIZE)


def _read_affectnet_lists(lists: dict[str, Path], images: Path) -> Content:
    """Whole photographs; the face is cut out."""
    columns = ("subDirectory_filePath", *BOX, "expression")
    tables = []
    for split, path in lists.items():
        rows = read_csv(path, columns)
        rows["id"] = [f"{split}_{row:06d}" for row in range(len(rows))]
        tables.append(rows.assign(split=split))
    table = pd.concat(tables, ignore_index=True)
    table = table.rename(columns={"subDirectory_filePath": "file", "expression": "code"})
    boxes = table[BOX].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=float)

    def face(number: int) -> np.ndarray:
        image = open_image(images / table["file"][number], "RGB")
        x, y, width, height = boxes[number]
        if width > 0 and height > 0:  # photographs without a face have no box
            image = image.crop((x, y, x + width, y + height))
        return np.asarray(image.resize((AFFECTNET_SIZE, AFFECTNET_SIZE)))

    return table[["id", "split", "file", "code"]], map(face, range(len(table)))
