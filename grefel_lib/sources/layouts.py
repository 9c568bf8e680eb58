"""Published data set layouts on disk: which files belong to a data set and how to read them."""

import dataclasses
import glob
import itertools
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock
from PIL import Image

from grefel_lib.config import DATA_DIRS, PROJECT_ROOT, Config, from_here
from grefel_lib.labels import (
    CODES,
    FOLDER_NAMES,
    FORMATS,
    NO_CLASS,
    RAFDB_ATTRIBUTES,
    VALIDATION_AS_TEST,
    VOTE_COLUMNS,
    check_names,
    own_classes,
)
from grefel_lib.sources.photo import VIDEO_SUFFIXES, open_image, printable, resized
from grefel_lib.sources.synthetic import write_synthetic

USAGES = {"Training": "train", "PublicTest": "val", "PrivateTest": "test"}
MAX_VOTES = 1000  # of one kind for one face; a larger number is no count of annotators
VALIDATION_FOLDERS = ("val", "valid", "validation")
FER2013_TABLES = ("fer2013.csv", "icml_face_data.csv")  # the second from Kaggle's competition
FERPLUS_FOLDERS = {"train": "FER2013Train", "val": "FER2013Valid", "test": "FER2013Test"}
RAFDB_SIZE, _ = FORMATS["rafdb"]
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".jp2", ".bmp", ".webp", ".gif", ".avif",
                  ".tif", ".tiff", ".ppm", ".pgm")  # fmt: skip
PHONE_SUFFIXES = (".heic", ".heif")  # pictures that Pillow cannot read: to be named, not skipped
LEFT_OUT = "left_out.csv"  # what `grefel data crop` left out
CLASS_FOLDERS = {  # name of a folder -> label code
    "fer2013": {
        folder: code for code, emotion in CODES["fer2013"].items()
        for folder, meant in FOLDER_NAMES.items() if meant == emotion
    },
    "rafdb": {str(code): code for code in CODES["rafdb"]},
}  # fmt: skip

_PUNCTUATION = str.maketrans("[](),;", "      ")

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
        ValueError: A list of its images has the wrong format.
    """
    source = _find(_root(config), config)
    return dataclasses.replace(source, read=partial(_read_splits, source))


def _read_splits(source: Source) -> Content:
    """Read a source, which must have training faces; a published one test faces as well."""
    table, images = source.read()
    for split in ("train",) if source.class_names else ("train", "test"):
        if len(table) and not (table["split"] == split).any():
            raise ValueError(
                f"{source.root} has no {split} faces: a table or folder is incomplete ("
                f"{', '.join(f'{n} {s}' for s, n in table['split'].value_counts().items())})"
            )
    return table, images


def _find(root: Path, config: Config) -> Source:
    if config.dataset == "fer2013":  # the csv may exist even if the folder does not
        return _fer2013(root)
    if not root.exists():
        here = Path(config.data_dir or root).expanduser().absolute()  # else it is the project's
        places = " or ".join(dict.fromkeys(map(str, (here, root))))
        raise FileNotFoundError(
            f"no folder {places} for {config.dataset}; pass --data-dir, or see data/README.md for "
            f"where to put the files"
        )
    if not root.is_dir():
        raise NotADirectoryError(f"{root} is a file; data_dir must be the {config.dataset} folder")
    if config.dataset.startswith("rafdb"):
        return _rafdb(root, config)
    if config.dataset == "folder":
        return _own(root)
    if config.dataset.startswith("affectnet"):
        return _affectnet(root)
    return _ferplus(root)  # or the drawn faces, in the same layout


def _root(config: Config) -> Path:
    if config.data_dir:
        return PROJECT_ROOT / from_here(config.data_dir)
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
            f"no fer2013new.csv in {root} (found: {content}); data_dir must be the FERPlus folder "
            f"(faces of your own: --dataset folder), see data/README.md"
        )
    for base in (root / "Images", root / "data", root):
        train = base / FERPLUS_FOLDERS["train"]
        if train.is_dir() and list_images(train):  # the published clone has folders without images
            table = _read_votes(votes)
            notes, table = _odd_votes(table, votes), table.dropna(subset="file")
            folders = {split: base / name for split, name in FERPLUS_FOLDERS.items()}
            if not (folders["val"].is_dir() or (table["split"] == "val").any()):
                del folders["val"]
            images = list(itertools.chain(*map(list_images, folders.values())))
            files = [folders[s] / f for s, f in zip(table["split"], table["file"], strict=True)]
            notes += _not_listed(images, files, votes)
            again = table["file"][table.drop(columns="id").duplicated()]
            if len(again):
                notes.append(
                    f"{len(again)} rows of {votes.name} repeat an earlier row and count again, "
                    f"first: {again.iloc[0]}"
                )
            read = partial(_read_ferplus, table, files, root)
            return Source("votes", root, [votes, *images], read, notes)
    for pixels in (folder / name for folder in (root, root.parent) for name in FER2013_TABLES):
        if pixels.is_file():
            note = f"no image folders in {root}: reading pixels from {pixels.name}, row by row"
            table = _read_votes(votes)
            read = partial(_read_ferplus_pixels, votes, table, pixels)
            notes = [note, *_odd_votes(table, votes)]
            return Source("votes-pixels", root, [votes, pixels], read, notes)
    raise FileNotFoundError(
        f"no images for {votes}: looked for {FERPLUS_FOLDERS['train']}/*.png under Images/, data/ "
        f"and the folder itself, and for {' or '.join(FER2013_TABLES)} in it and next to it"
    )


def _not_listed(images: Iterable[Path], listed: Iterable[Path], path: Path) -> list[str]:
    """A note when images are in no row of their list, as where its end is missing."""
    others = sorted(set(images) - set(listed))
    return [f"{len(others)} images are not in {path.name}, first: {others[0]}"] if others else []


def _odd_votes(table: pd.DataFrame, path: Path) -> list[str]:
    """A note when a few rows have more votes than there are annotators; fewer are common."""
    totals = table[list(VOTE_COLUMNS)].sum(axis=1)
    usual = totals.mode().max()
    odd = totals[totals > usual]
    if not 0 < len(odd) < len(totals) / 10:
        return []
    first = f"{table['id'][odd.index[0]]} has {odd.iloc[0]}"
    return [f"{len(odd)} rows of {path.name} have more than {usual} votes in all, first: {first}"]


def _ids_and_splits(path: Path, usages: pd.Series) -> pd.DataFrame:
    usages = usages.map(lambda usage: str(usage).strip(), na_action="ignore")
    _check_rows(path, usages.isin(USAGES), usages, f"Usage must be {', '.join(USAGES)}")
    split = usages.map(USAGES)
    ids = [f"{name}_{row:05d}" for row, name in enumerate(split)]  # not from the file name
    return pd.DataFrame({"id": ids, "split": split.to_numpy()})


def _check_rows(path: Path, good: pd.Series, values: pd.Series, rule: str) -> None:
    """Every row of a table keeps a rule; the index of its values is the line in the file."""
    if not good.all():
        line = good.index[~good][0]
        cell = "an empty cell" if pd.isna(values[line]) else repr(str(values[line]))
        raise ValueError(f"{path}, line {line}: {rule}; found {cell}")


def _read_votes(path: Path) -> pd.DataFrame:
    """Every row of fer2013new.csv; the file column is NaN for non-faces."""
    table = read_csv(path, ("Usage", "Image name", *VOTE_COLUMNS))
    votes = {}
    for name in VOTE_COLUMNS:
        votes[name] = pd.to_numeric(table[name], errors="coerce")
        good = votes[name].between(0, MAX_VOTES) & (votes[name] % 1 == 0)
        rule = f"a vote for {name} must be a whole number of 0 to {MAX_VOTES}"
        _check_rows(path, good, table[name], rule)
    rows = _ids_and_splits(path, table["Usage"])
    names = table["Image name"].map(lambda name: str(name).strip(), na_action="ignore")
    rows["file"] = names.to_numpy()
    return rows.join(pd.DataFrame(votes).astype(int).reset_index(drop=True))


def _read_ferplus(table: pd.DataFrame, files: list[Path], root: Path) -> Content:
    return table.assign(file=[str(file.relative_to(root)) for file in files]), decode(files, "L")


def _read_ferplus_pixels(path: Path, table: pd.DataFrame, pixels: Path) -> Content:
    rows, images = _read_fer2013_csv(pixels)
    if len(rows) != len(table):
        raise ValueError(
            f"{path.name} has {len(table)} rows but {pixels} has {len(rows)}: they are joined row "
            f"by row and must be from the same release"
        )
    other = np.flatnonzero(rows["split"] != table["split"])
    if len(other):
        here, there = table["split"][other[0]], rows["split"][other[0]]
        raise ValueError(
            f"{path.name} and {pixels} name different splits for the same row: row {other[0] + 1} "
            f"is {here} in the first and {there} in the second"
        )
    named = table["file"].notna()
    return table.assign(file=rows["file"])[named], itertools.compress(images, named)


def _fer2013(root: Path) -> Source:
    folders = (root, root / "fer2013", root.parent)
    for path in (root, *(folder / name for name in FER2013_TABLES for folder in folders)):
        if path.is_file():
            return Source("fer2013", path.parent, [path], partial(_read_fer2013_csv, path))
    for base in (root, root / "fer2013"):
        if (base / "train").is_dir() and (base / "test").is_dir():
            files, read = _class_folders(base, "fer2013")
            return Source("fer2013-folders", base, files, read)
    raise FileNotFoundError(
        f"no FER2013 in {root}: looked for {' or '.join(FER2013_TABLES)} in it and beside it, "
        f"and for train/ and test/ with a folder for each emotion; pass --data-dir, or see "
        f"data/README.md"
    )


def _read_fer2013_csv(path: Path) -> Content:
    table = read_csv(path, ("emotion", "pixels", "Usage"))
    codes = _codes(path, table["emotion"], "fer2013")
    files = [f"{path.name}:{line}" for line in table.index]
    rows = _ids_and_splits(path, table["Usage"]).assign(file=files, code=codes.to_numpy())
    return rows, (_face(path, line, text) for line, text in table["pixels"].astype(str).items())


def _codes(path: Path, column: pd.Series, dataset: str) -> pd.Series:
    """The label codes of a column, which are whole numbers that the data set has."""
    codes = pd.to_numeric(column, errors="coerce")
    known = ", ".join(f"{code} {name}" for code, name in CODES[dataset].items())
    _check_rows(path, codes.isin(CODES[dataset]), column, f"{column.name} must be one of {known}")
    return codes.astype(int)


def _face(path: Path, line: int, text: str) -> np.ndarray:
    """The image in one cell of fer2013.csv: numbers between spaces, commas, brackets."""
    words = text.translate(_PUNCTUATION).split()
    if len(words) != 48 * 48:
        raise ValueError(
            f"{path}, line {line}: expected {48 * 48} pixel values, found {len(words)} in "
            f"{text[:20]!r}"
        )
    try:
        values = np.array(words, dtype=float)
    except ValueError:  # slower: which of them is no number
        values = pd.to_numeric(np.array(words, dtype=object), errors="coerce")
    wrong = np.flatnonzero(~((values >= 0) & (values <= 255) & (values % 1 == 0)))
    if len(wrong):
        raise ValueError(
            f"{path}, line {line}: a pixel must be a whole number of 0 to 255; found "
            f"{words[wrong[0]]!r}"
        )
    return values.astype(np.uint8).reshape(48, 48)


def _class_folders(base: Path, dataset: str, tables: Sequence[Path] = ()) -> tuple[list, Callable]:
    """The images below train/, test/ and a validation folder, in a folder for each class, and how
    to read them."""
    parts = ("train", *(name for name in VALIDATION_FOLDERS if (base / name).is_dir()), "test")
    files = [f for part in parts for f in list_images(base / part, deep=True)]
    return files, partial(_read_class_folders, base, dataset, files, tables)


def _read_class_folders(
    base: Path, dataset: str, files: list[Path], tables: Sequence[Path]
) -> Content:
    codes, fer2013 = CLASS_FOLDERS[dataset], dataset == "fer2013"
    rows, by_id = [], {}
    for file in files:
        part, folder = file.relative_to(base).parts[0], file.parent.name.lower()
        if folder not in codes:
            raise ValueError(
                f"{file.parent} is not an emotion folder; known: {', '.join(sorted(codes))}"
            )
        split = "val" if part in VALIDATION_FOLDERS else part
        split = "val" if part == "test" and file.name.startswith("PublicTest") else split
        name = f"{part}_{folder}_{file.stem}" if fer2013 else file.stem.removesuffix("_aligned")
        _add_image(by_id, name, file)
        rows.append((name, split, str(file.relative_to(base)), codes[folder]))
    for path in tables:
        listed = read_csv(path, ("image", "label"))
        labels = _codes(path, listed["label"], dataset)
        for line, name in listed["image"].astype(str).items():
            file = by_id.get(Path(name.strip()).stem.removesuffix("_aligned"))
            if file is None:
                raise FileNotFoundError(f"{path}, line {line}: there is no image {name} in {base}")
            if codes[file.parent.name.lower()] != labels[line]:
                raise ValueError(
                    f"{file} is in folder {file.parent.name} but its table says {labels[line]} "
                    f"({path}, line {line})"
                )
    table = pd.DataFrame(rows, columns=["id", "split", "file", "code"])
    return table, decode(files, "L") if fer2013 else decode(files, "RGB", size=RAFDB_SIZE)


def _add_image(by_id: dict[str, Path], name: str, file: Path) -> None:
    if name in by_id:
        raise ValueError(f"two image files for {name}: {by_id[name]} and {file}; keep one")
    by_id[name] = file


def _rafdb(root: Path, config: Config) -> Source:
    subset = "compound" if config.dataset == "rafdb_compound" else "basic"
    for base, folder in itertools.product((root / subset, root), ("EmoLabel", "Annotation")):
        listing = base / folder / "list_patition_label.txt"
        if listing.is_file():
            return _rafdb_original(base, listing, config)
    for base in (root / "DATASET", root):
        if (base / "train/1").is_dir() and (base / "test").is_dir() and subset == "basic":
            tables = [p for d in (base, root) for p in sorted(d.glob("[!.]*_labels.csv"))]
            files, read = _class_folders(base, "rafdb", tables)
            return Source("rafdb-kaggle", root, files + tables, read)
    raise FileNotFoundError(
        f"no RAF-DB {subset} in {root}: looked for {subset}/EmoLabel/list_patition_label.txt (also "
        f"under Annotation/) and for the Kaggle mirror DATASET/train/1..7; see data/README.md"
    )


def _rafdb_original(base: Path, listing: Path, config: Config) -> Source:
    kind = config.rafdb_images
    folder = base / "Image" / kind
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}; rafdb_images must be aligned or original")
    table, images = _read_listing(listing, config.dataset), list_images(folder)
    by_id: dict[str, Path] = {}
    for file in images:
        _add_image(by_id, file.stem.removesuffix("_aligned"), file)
    files = [by_id.get(name, folder / name) for name in table["id"]]
    notes = _not_listed(images, files, listing)
    boxes, attributes = base / "Annotation/boundingbox", base / "Annotation/manual"
    if kind == "original" and not boxes.is_dir():
        notes.append(f"no Annotation/boundingbox in {base.name}: using uncropped images")
    boxes = boxes if kind == "original" and boxes.is_dir() else None
    crops = [boxes / f"{name}_boundingbox.txt" for name in table["id"]] if boxes else None
    if lost := [crop.name for crop in crops or [] if not crop.is_file()]:
        notes.append(f"images without a box, used uncropped: {len(lost)}, the first: no {lost[0]}")
    texts = [p for d in (boxes, attributes) if d for p in sorted(d.glob("*.txt"))]
    table["file"] = [str(file.relative_to(base)) for file in files]
    read = partial(_read_rafdb, table, files, crops, attributes)
    return Source(f"rafdb-{base.name}-{kind}", base, [listing, *images, *texts], read, notes)


def _read_listing(path: Path, dataset: str) -> pd.DataFrame:
    """Id, split and label code of each line of list_patition_label.txt."""
    text, rows = path.read_text(encoding="utf-8-sig", errors="replace"), {}
    for number, line in enumerate(text.splitlines(), start=1):
        row = re.fullmatch(r"\s*((train|test)_[^\s,;]+)[\s,;]+(\d+)\s*", line)
        if row:
            rows[number] = (Path(row[1]).stem.removesuffix("_aligned"), row[2], int(row[3]))
        elif line.strip():
            raise ValueError(f"{path}, line {number}: expected `train_00001.jpg 5`, found {line!r}")
    if not rows:
        raise ValueError(f"{path} is empty")
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["id", "split", "code"])
    _codes(path, table["code"].rename("label"), dataset)
    _check_rows(path, ~table["id"].duplicated(), table["id"], "an image may be listed once")
    if dataset == "rafdb_compound" and table["code"].max() in CODES["rafdb"]:
        raise ValueError(
            f"{path} has no label above {table['code'].max()}: it is a list of the basic emotions, "
            f"not of the compound ones; pass dataset=rafdb"
        )
    return table.reset_index(drop=True)


def _read_rafdb(
    table: pd.DataFrame, files: list[Path], crops: list[Path] | None, attributes: Path
) -> Content:
    if attributes.is_dir():
        people = [_people(attributes / f"{name}_manu_attri.txt") for name in table["id"]]
        table = table.join(pd.DataFrame(people, columns=list(RAFDB_ATTRIBUTES), dtype=object))
    return table, decode(files, "RGB", size=RAFDB_SIZE, boxes=crops)


def _people(path: Path) -> list[str | None]:
    """Gender, race and age group of a face; None without the annotation file."""
    if not path.is_file():
        return [None] * len(RAFDB_ATTRIBUTES)
    after_landmarks = slice(-len(RAFDB_ATTRIBUTES), None)
    codes = path.read_text(encoding="utf-8", errors="replace").split()[after_landmarks]
    words = [kind.get(code) for kind, code in zip(RAFDB_ATTRIBUTES.values(), codes, strict=False)]
    if len(words) < len(RAFDB_ATTRIBUTES) or None in words:
        raise ValueError(
            f"{path} must end with the codes of gender (0-2), race (0-2) and age group (0-4), a "
            f"line each; it ends with {', '.join(codes) or 'nothing'}"
        )
    return words


def read_csv(
    path: Path,
    columns: Sequence[str],
    *,
    dtype: type | None = None,
    as_written: bool = False,
    may_be_empty: bool = False,
) -> pd.DataFrame:
    """Read a table that must have these columns; its index is each row's line in the file.

    Cells such as NA and None count as empty, except with `as_written`. A column without a name, as
    pandas writes row numbers, is left out, and so are blank lines and Excel's `sep=;` above the
    header. Without rows it is refused, except with `may_be_empty`.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there, or no regular file; a csv file is needed")
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        blank = r"[\s,;|]*(sep=.*)?"
        above = next((n for n, line in enumerate(file) if not re.fullmatch(blank, line, re.S)), 0)
    try:
        names = pd.read_csv(path, skiprows=above, nrows=0).columns
        others = [sign for sign in ";\t|" if sign in names[0]]
        separator = others[0] if others and len(names) == 1 else ","
        header = pd.read_csv(
            path, sep=separator, header=None, skiprows=above, nrows=1, dtype=str,
            keep_default_na=False,
        )  # fmt: skip
        with warnings.catch_warnings():  # that the first row has more cells than the header
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(
                path, sep=separator, skiprows=above, skipinitialspace=True,
                skip_blank_lines=False, index_col=False, dtype=dtype, na_values=[""],
                keep_default_na=not as_written,
            )  # fmt: skip
    except pd.errors.EmptyDataError:
        raise ValueError(f"{path} is empty") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no csv file in UTF-8; save it as CSV UTF-8") from error
    except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
        raise ValueError(f"{path} is not a readable csv file: {error}") from error
    table.columns = [str(name).strip() for name in table.columns]
    header = header.iloc[0].str.strip()
    if (repeated := header.duplicated() & (header != "")).any():
        twice = header[repeated].iloc[0]
        raise ValueError(f"{path} has two columns {twice!r}; rename or remove one of them")
    table = table.loc[:, (header != "").to_numpy()]
    table.index += 2 + above
    table = in_lower_case(path, table.dropna(how="all"), columns)
    absent = [name for name in columns if name not in table.columns]
    if absent:
        raise ValueError(
            f"{path} lacks the columns {', '.join(absent)}; it has: {', '.join(table.columns[:14])}"
        )
    if table.empty and not may_be_empty:
        raise ValueError(f"{path} has a header but no rows")
    return table


def list_images(
    folder: Path, *, deep: bool = False, endings: tuple[str, ...] = IMAGE_SUFFIXES
) -> list[Path]:
    """Image files of a folder (with `deep` also of its subfolders), sorted by name.

    Links are followed; hidden files and folders (`._face.jpg`, `.ipynb_checkpoints`) are not read.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: The name of a file is not UTF-8, so no table can hold it.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no image folder {folder}")
    images = list(_images_in(folder, deep=deep, endings=endings))
    for file in images:
        if re.search(r"[\ud800-\udfff]", str(file)):  # bytes of the name that are not UTF-8
            raise ValueError(f"{printable(file)}: this name is not UTF-8; rename it")
    return sorted(images, key=None if deep else lambda file: file.name)  # names compare faster


def _images_in(
    folder: Path, *, deep: bool, endings: tuple[str, ...], above: tuple[str, ...] = ()
) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if real in above:  # a link to a folder that holds it
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                if deep:
                    inside = Path(entry.path)
                    yield from _images_in(inside, deep=True, endings=endings, above=(*above, real))
            elif entry.name.lower().endswith(endings):
                yield Path(entry.path)


def find_images(
    paths: Sequence[str | Path], *, recursive: bool = False
) -> tuple[list[Path], list[str]]:
    """Image and video files given by name, by a pattern (`faces/*.png`) and by folder; each once.

    Args:
        paths: Files, folders and patterns. The files of a folder are sorted by name.
        recursive: Also read the subfolders.

    Returns:
        The files, and a message for each path that gives none.
    """
    files, unread = [], []
    for path in map(str, paths):
        exist = os.path.lexists(path)
        for place in [path] if exist else sorted(glob.glob(path, recursive=True)) or [path]:
            try:
                if not os.path.isdir(place):
                    os.lstat(place)
                    files.append(Path(place))
                    continue
                endings = IMAGE_SUFFIXES + PHONE_SUFFIXES + VIDEO_SUFFIXES
                inside = sorted(_images_in(Path(place), deep=recursive, endings=endings))
                if not inside:
                    known = ", ".join(IMAGE_SUFFIXES)
                    more = not recursive and any(p.is_dir() for p in Path(place).iterdir())
                    hint = "; --recursive reads its subfolders too" * more
                    unread.append(f"no image ({known}) in folder {printable(place)}{hint}")
                files += inside
            except FileNotFoundError:
                unread.append(f"no image or folder at {printable(place)}")
            except OSError as error:
                unread.append(f"{printable(place)} cannot be read: {error.strerror}")
    return list(dict.fromkeys(files)), unread


def decode(
    files: list[Path], mode: str, *, size: int | None = None, boxes: list[Path] | None = None
) -> Iterator[np.ndarray]:
    """Decode image files in order, all resized to `size` or to the size of the first image."""
    _check_present(files)

    side = (size, size) if size else None

    def read(file: Path, box: Path | None) -> Image.Image:
        image = open_image(file, mode)
        if box is not None and box.is_file():
            image = image.crop(_box(box, image.size))
        return resized(image, side) if side else image  # here: up to 1024 wait in memory

    with ThreadPoolExecutor(4) as pool:
        work = list(zip(files, boxes or [None] * len(files), strict=True))
        for start in range(0, len(work), 1024):  # bounds the number held in memory
            for image in pool.map(read, *zip(*work[start : start + 1024], strict=True)):
                side = side or image.size
                yield np.asarray(image if image.size == side else resized(image, side))


def _check_present(files: list[Path]) -> None:
    if absent := [file for file in files if not file.is_file()]:
        raise FileNotFoundError(
            f"missing images: {len(absent)} of {len(files)}, the first: {absent[0]}"
        )


def _box(path: Path, size: tuple[int, int]) -> tuple[float, ...]:
    """The box in a file, at least in part inside a picture of this width and height."""
    try:
        values = tuple(float(value) for value in path.read_text().split())
        whole = len(values) == 4 and np.isfinite(values).all()
        if not whole or values[2] <= values[0] or values[3] <= values[1]:
            raise ValueError
    except ValueError:
        raise ValueError(f"{path} must contain left, top, right, bottom of a box") from None
    if values[0] >= size[0] or values[1] >= size[1] or values[2] <= 0 or values[3] <= 0:
        raise ValueError(
            f"{path}: the box {values} lies outside its picture of {size[0]} x {size[1]} pixels; "
            f"mend it, or remove this file to use the whole picture"
        )
    return values


# -- a user's own faces

OWN_SIZE = 112  # side in pixels to which they are resized
OWN_COLUMNS = ("image", "label", "split", "subject")  # of its table; without label also classes
NOTHING = ("NA", "N/A", "NaN", "nan", "None", "NULL", "null", "<NA>")  # as programs write it
OWN_SPLITS = {"train": "train", **dict.fromkeys(VALIDATION_FOLDERS, "val"), "test": "test"}


def _own(root: Path) -> Source:
    """A table with a column image, or train/<class>/, val/<class>/, test/<class>/, or <class>/."""
    paths = [path for path in sorted(root.glob("[!.]*.csv")) if path.name != LEFT_OUT]
    splits = [p for p in sorted(root.iterdir()) if p.is_dir() and p.name.lower() in OWN_SPLITS]
    listing = _own_listing(root, folders := _own_folders(splits or [root]))
    tables = _own_tables(paths, needed=not len(listing))
    if tables:
        kind, table = "folder-table", pd.concat(_own_rows(*item) for item in tables.items())
        labels = [name.removeprefix("votes_") for name in table if name.startswith("votes_")]
        labels = labels or table["label"].dropna()
    elif len(listing):
        kind, table, labels = "folder-classes", listing, [folder.name for folder in folders]
    else:
        found = list_images(root, deep=True)[:1] or sorted(root.iterdir())[:5]
        content = ", ".join(p.relative_to(root).as_posix() for p in found) or "nothing"
        raise FileNotFoundError(
            f"no faces in {root} (found: {content}): looked for train/<class>/ or <class>/ with "
            f"images, and for a .csv with the columns image and label; see data/README.md"
        )
    other = [path.name for path in paths if path not in tables]
    unread = f" ({other[0]} is not read: it has no column image)" if other else ""
    repeated = table["file"].map(os.path.normpath).duplicated()
    if repeated.any():
        raise ValueError(f"the tables in {root} list {table['file'][repeated].iloc[0]} twice")
    classes = own_classes(labels)
    names = tuple(dict.fromkeys(classes.values()))
    check_names(names, str(root))
    if len(names) < 2:
        raise ValueError(
            f"{root} has {len(names)} class ({', '.join(names)}); two are needed{unread}"
        )
    notes = []
    if "label" in table:
        code = [names.index(classes[n]) if n in classes else NO_CLASS for n in table.pop("label")]
    else:
        votes = np.zeros((len(table), len(names)))
        for name, emotion in classes.items():  # two columns of one emotion add up
            votes[:, names.index(emotion)] += table.pop(f"votes_{name}").fillna(0)
        code = np.where(votes.any(axis=1), votes.argmax(axis=1), NO_CLASS)
        table[[f"votes_{name}" for name in names]] = votes
        other = [name for name in classes if name.lower() not in FOLDER_NAMES]
        if other:
            notes.append(f"columns read as the votes for a class: {', '.join(other)}")
    files = [root / name for name in table["file"]]
    _check_present(files)
    table = table.assign(id=table["file"], code=code).reset_index(drop=True)
    used = {*tables, *files, root / LEFT_OUT}
    left = [f for f in root.rglob("[!.]*") if f.is_file() and f not in used]
    if left:
        first = min(left).relative_to(root)
        notes.append(f"files not used: {len(left)}, the first: {first}{unread}")
    return Source(kind, root, [*tables, *files], partial(_read_own, table, files), notes, names)


def _own_tables(paths: list[Path], *, needed: bool) -> dict[Path, pd.DataFrame]:
    """The tables that have a column image.

    One that cannot be read is an error if `needed`, or if its first line has the word image.
    """
    tables = {}
    for path in paths:
        try:
            table = read_csv(path, (), dtype=str, as_written=True)
            table = in_lower_case(path, table, OWN_COLUMNS)
        except ValueError:
            with path.open("rb") as file:
                if needed or b"image" in file.readline().lower().replace(b"\0", b""):  # UTF-16
                    raise
            continue
        if "image" in table:
            tables[path] = table
    labelled = [path for path in tables if "label" in tables[path]]
    if voted := [path for path in tables if labelled and path not in labelled]:
        raise ValueError(
            f"{labelled[0]} has a column label and {voted[0].name} has none; give labels in both, "
            f"or votes in both"
        )
    return tables


def in_lower_case(path: Path, table: pd.DataFrame, known: Sequence[str]) -> pd.DataFrame:
    """A table whose known columns, such as image, may be written Image or IMAGE."""
    columns = {name: name.lower() for name in table if name.lower() in known}
    for name in set(columns.values()):
        if len(same := [column for column in columns if columns[column] == name]) > 1:
            raise ValueError(f"{path} has two columns for {name}: {', '.join(same)}; remove one")
    return table.rename(columns=columns)


def _own_folders(splits: list[Path]) -> list[Path]:
    """The class folders of the splits, or of a set without splits."""
    folders = [folder for split in splits for folder in sorted(split.iterdir())]
    return [f for f in folders if f.is_dir() and not f.name.startswith((".", "__"))]


def _own_listing(root: Path, folders: list[Path]) -> pd.DataFrame:
    """Every image of the class folders, its split and the name of its folder."""
    rows = [
        (
            file.relative_to(root).as_posix(),
            "train" if folder.parent == root else OWN_SPLITS[folder.parent.name.lower()],
            folder.name,
        )
        for folder in folders
        for file in list_images(folder)
    ]
    return pd.DataFrame(rows, columns=["file", "split", "label"])


def _own_rows(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """One table's file, split, subject if known, and label or votes_<name>; checked."""
    table = table.apply(lambda column: column.str.strip().replace("", np.nan))
    if "label" in table:
        rule = "label must be a class, or empty; give a class of this name another"
        _check_rows(path, ~table["label"].isin(NOTHING), table["label"], rule)
        table["label"] = table["label"].str.replace(r"^(\d+)\.0+$", r"\1", regex=True)  # 1.0: 1
    table = table.replace(dict.fromkeys(NOTHING, np.nan))
    _check_rows(path, table["image"].notna(), table["image"], "image must name a file")
    rows = pd.DataFrame({"file": table["image"]})
    rows["split"] = OWN_SPLITS.get(path.stem.lower(), "train")  # train.csv, test.csv
    if "split" in table:
        rows["split"] = table["split"].str.lower().map(OWN_SPLITS)
        rule = f"split must be one of {', '.join(OWN_SPLITS)}"
        _check_rows(path, rows["split"].notna(), table["split"], rule)
    if "subject" in table:
        rows["subject"] = table["subject"]
    if "label" in table:
        return rows.assign(label=table["label"])
    if codes := [name for name in table if name.lower() in ("emotion", "expression", "class")]:
        raise ValueError(f"{path} has a column {codes[0]} and no column label; rename it label")
    no_class = {*OWN_COLUMNS, "unknown", "nf"}
    for name in [name for name in table if name.lower() not in no_class]:
        rows[f"votes_{name}"] = pd.to_numeric(table[name].fillna("0"), errors="coerce")
        rule = f"without a column label, {name} must count the votes for a class, up to {MAX_VOTES}"
        _check_rows(path, rows[f"votes_{name}"].between(0, MAX_VOTES), table[name], rule)
    return rows


def _read_own(table: pd.DataFrame, files: list[Path]) -> Content:
    colour = any(np.ptp(np.asarray(open_image(file)), axis=2).any() for file in files)
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
        kind, parts = "affectnet-folders", {"train": "train", "test": "val"}
        if (root / "test").is_dir():
            parts, protocol = {split: split for split in ("train", "val", "test")}, ""
        faces = [(s, f) for s, name in parts.items() for f in list_images(root / name, deep=True)]
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
        except (OSError, ValueError, EOFError, OverflowError) as error:
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
        names, codes = rows[columns[0]], pd.to_numeric(rows["expression"], errors="coerce")
        _check_rows(path, names.notna(), names, f"{names.name} must name a file")
        rule = "expression must be a code of 0 to 10"
        _check_rows(path, codes.isin(range(11)), rows["expression"], rule)
        rows["id"] = [f"{split}_{row:06d}" for row in range(len(rows))]
        tables.append(rows.assign(split=split, expression=codes.astype(int)))
    table = pd.concat(tables, ignore_index=True)
    table = table.rename(columns={"subDirectory_filePath": "file", "expression": "code"})
    boxes = table[BOX].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=float)

    def face(number: int) -> np.ndarray:
        image = open_image(images / table["file"][number], "RGB")
        x, y, width, height = boxes[number]
        if width > 0 and height > 0:  # photographs without a face have no box
            image = image.crop((x, y, x + width, y + height))
        return np.asarray(resized(image, (AFFECTNET_SIZE, AFFECTNET_SIZE)))

    return table[["id", "split", "file", "code"]], map(face, range(len(table)))
