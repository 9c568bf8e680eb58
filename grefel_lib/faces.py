"""A data set as one FaceSet: protocols, splits, leaks, the cache of decoded images."""

import dataclasses
import functools
import hashlib
import json
import logging
import os
import shutil
import tempfile
import warnings
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock
from PIL import Image

from grefel_lib.config import PRETRAINED, PROJECT_ROOT, Config, check_name
from grefel_lib.environment import progress_bar
from grefel_lib.files import FINGERPRINT, read_json, read_table, relative
from grefel_lib.labels import CLASS_NAMES, EMOTIONS, LEFT_OUT, NO_CLASS, VOTE_COLUMNS, class_index
from grefel_lib.run import results_folder, run_places
from grefel_lib.sources.layouts import Source, find_source, in_lower_case, read_csv
from grefel_lib.sources.photo import resized

log = logging.getLogger(__name__)
SPLITS = ("train", "val", "test")
FEWEST = 2  # faces that train and val need for training to start
VALIDATION_SHARE, VALIDATION_SEED = 0.1, 0  # for sets without validation; not the run's seed


@dataclass(frozen=True)
class FaceSet:
    """Faces with their labels; splits share one memory-mapped array of images."""

    images: np.ndarray  # (M, H, W) or (M, H, W, 3) uint8, every decoded image of the data set
    table: pd.DataFrame  # N rows: id, split, row (in images), label, image_hash, file, votes
    targets: np.ndarray  # (N, C) float32, rows sum to 1
    class_names: tuple[str, ...]
    info: dict[str, Any]  # dataset, protocol, fingerprint, what was dropped, warnings
    face_format: tuple[int, str] | None = None  # to which `gather` converts, see `like_training`

    def __len__(self) -> int:
        return len(self.table)

    def split(self, name: str) -> "FaceSet":
        """The faces of one split: train, val or test."""
        if name not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}; got {name!r}")
        return self.take(np.flatnonzero(self.table["split"] == name))

    def take(self, indices: np.ndarray) -> "FaceSet":
        """The faces at table positions (N,)."""
        table = self.table.iloc[indices].reset_index(drop=True)
        return dataclasses.replace(self, table=table, targets=self.targets[indices])

    def sample(self, count: int) -> "FaceSet":
        """`count` evenly spaced faces, always the same ones; all faces if there are fewer."""
        if len(self) <= count:
            return self
        return self.take(np.linspace(0, len(self) - 1, count).round().astype(int))

    def gather(self, indices: np.ndarray) -> np.ndarray:
        """Copy the images at table positions (B,) out of the cache: (B, H, W[, 3]) uint8."""
        images = self.images[self.table["row"].to_numpy()[indices]]
        if self.face_format is None:
            return images
        return np.stack([like_training(image, *self.face_format) for image in images])

    def in_format(self, size: int, mode: str) -> "FaceSet":
        """The same faces in the format of a model's training faces."""
        shape = (size, size, 3) if mode == "RGB" else (size, size)
        if self.images.shape[1:] == shape:
            return self
        return dataclasses.replace(self, face_format=(size, mode))

    @property
    def votes(self) -> pd.DataFrame | None:
        """(N, 10) votes of the annotators, by emotion, unknown and NF; None without votes."""
        columns = list(VOTE_COLUMNS)
        return self.table[columns] if set(columns) <= set(self.table) else None

    def counts(self) -> pd.DataFrame:
        """Faces per class (rows) and split (columns)."""
        counts = pd.crosstab(self.table["label"], self.table["split"])
        counts = counts.reindex(index=range(len(self.class_names)), columns=SPLITS, fill_value=0)
        counts.index = pd.Index(self.class_names, name="class")
        return counts.rename_axis(columns=None)


def like_training(image: np.ndarray, size: int, mode: str) -> np.ndarray:
    """Convert a face crop (H, W[, 3]) to the format of a model's training faces.

    A network trained on small greyscale faces expects small greyscale faces.
    """
    return np.array(resized(Image.fromarray(image).convert(mode), (size, size)))


def load_faces(config: Config) -> FaceSet:
    """Read the data set that a config names.

    Args:
        config: dataset, data_dir, protocol, train_protocol, use_soft_labels, drop_leaks, folds,
            fold, rafdb_images, synthetic_images, label_fixes, label_noise, noise_kind, and seed
            (of the label noise).

    Returns:
        All splits. Validation and test targets are one-hot; training targets are vote
        distributions with soft labels. With `drop_leaks`, training rows whose pixels also occur
        in any validation or test image (kept by the protocol or not) are dropped, and validation
        rows whose pixels occur in any test image, which would bias checkpoint selection. With
        `label_noise` the table has a column true_label.

    Raises:
        FileNotFoundError: A folder, table or image is missing.
        ValueError: A file has the wrong format, or no row is left.
        OSError: The cache cannot be written.
    """
    source = find_source(config)
    table, images = _cached(source)
    fingerprint = content_fingerprint(table)
    notes = list(source.notes)
    if config.folds and not config.unmet("folds"):
        table = _with_test_fold(table, config)
    drawn_from = ""
    if not (table["split"] == "val").any():
        learnable = table[table["split"] == "train"]
        drawn_from = content_fingerprint(learnable.drop(columns="image_hash"))
        table = _with_validation(table, LEFT_OUT.get(config.dataset, (NO_CLASS,)))
        if not config.dataset.startswith("rafdb"):
            drawn = (table["split"] == "val").sum()
            notes.append(f"no validation split: using {drawn} of the training faces, stratified")
    names = source.class_names or CLASS_NAMES[config.dataset]
    train = (table["split"] == "train").to_numpy()
    own_votes = [f"votes_{name}" for name in names if f"votes_{name}" in table]
    if "votes" in source.kind:
        votes = table[list(VOTE_COLUMNS)].to_numpy(dtype=float)
        targets, keep = ferplus_targets(votes, config.protocol, soft=False)
        protocol = config.train_protocol or config.protocol
        train_targets, train_keep = ferplus_targets(votes, protocol, soft=config.use_soft_labels)
        targets = np.where(train[:, None], train_targets, targets)
        keep = np.where(train, train_keep, keep)
        table["label"] = targets.argmax(axis=1)
        emotion_votes = votes[:, : len(EMOTIONS)]
        label_votes = emotion_votes[np.arange(len(votes)), table["label"]]
        table["agreement"] = label_votes / np.maximum(emotion_votes.sum(axis=1), 1)
    else:
        codes = table.pop("code")
        if not source.class_names:
            codes = [class_index(config.dataset, code) for code in codes]
        table["label"] = codes
        keep = (table["label"] != NO_CLASS).to_numpy()
        targets = np.eye(len(names))[table["label"]]
        if own_votes:
            votes = table[own_votes].to_numpy(dtype=float)
            shares = votes / np.maximum(votes.sum(axis=1, keepdims=True), 1e-12)
            table = table.drop(columns=own_votes).assign(agreement=shares.max(axis=1))
            if config.use_soft_labels:
                targets = np.where(train[:, None], shares, targets)
    unlabelled = table["split"][~keep].value_counts()
    splits, hashes = table["split"], table["image_hash"]
    leaks = keep & train & hashes.isin(hashes[~train])
    copies = keep & (splits == "val") & hashes.isin(hashes[splits == "test"])
    if config.drop_leaks:
        keep = keep & ~(leaks | copies).to_numpy()
    if not keep.any():
        rule = f" under protocol {config.protocol!r}" if "votes" in source.kind else ""
        raise ValueError(
            f"no face in {source.root} has a label{rule}: all votes are zero, unknown or not a face"
        )
    for warning in notes:
        log.warning("%s", warning)
    info = {
        "dataset": config.dataset,
        "protocol": config.protocol if "votes" in source.kind else source.protocol,
        "train_protocol": config.train_protocol if "votes" in source.kind else "",
        "soft_labels": bool(("votes" in source.kind or own_votes) and config.use_soft_labels),
        "fingerprint": fingerprint,
        "no_label": {split: int(unlabelled.get(split, 0)) for split in SPLITS},
        "leaks": int(leaks.sum()),
        "leaks_dropped": int(leaks.sum()) if config.drop_leaks else 0,
        "validation_copies": int(copies.sum()),
        "validation_copies_dropped": int(copies.sum()) if config.drop_leaks else 0,
        "warnings": notes,
    }
    if source.class_names:  # part of what the faces are; the published sets' are known
        info["classes"] = list(names)
    if drawn_from:
        info["validation_drawn_from"] = drawn_from
    ids = set(table["id"])
    table, targets = table[keep].reset_index(drop=True), targets[keep].astype(np.float32)
    if config.label_fixes:
        table, targets, info["label_fixes"] = _with_fixes(table, targets, ids, names, config)
    if config.label_noise:
        info["labels_made_wrong"] = _make_wrong(table, targets, names, config)
    return FaceSet(images, table, targets, names, info)


def _with_fixes(
    table: pd.DataFrame, targets: np.ndarray, ids: set[str], names: tuple[str, ...], config: Config
) -> tuple[pd.DataFrame, np.ndarray, dict[str, Any]]:
    """Training faces with the labels that a file of fixes gives them, or without them.

    Faces of other splits stay as they are, and so does what training leaves out anyway.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It names a face that is not among `ids`, or an unknown label.
    """
    path = PROJECT_ROOT / config.label_fixes
    if not path.is_file():
        raise FileNotFoundError(f"label_fixes: no file {config.label_fixes}")
    fixes = read_label_fixes(path)
    if unknown := [face for face in fixes if face not in ids]:
        raise ValueError(
            f"{relative(path)}: {config.dataset} has no face {unknown[0]!r} (of {len(fixes)} ids, "
            f"{len(unknown)} are unknown); use the ids that a predictions table shows"
        )
    for label in set(fixes.values()) - {""}:
        check_name(label, dict.fromkeys(names), f"label in {relative(path)}:")
    new = table["id"].map(fixes).where(table["split"] == "train")
    named, left_out = new.isin(names), (new == "").to_numpy()
    places = new[named].map(names.index).astype(int)
    table.loc[named, "label"] = places
    targets[named] = np.eye(len(names))[places]
    counts = {"relabelled": int(named.sum()), "left_out": int(left_out.sum())}
    log.warning(
        "label fixes: %d training faces take another label, %d are left out; %d of the file's %d "
        "are not in training", *counts.values(), len(fixes) - sum(counts.values()), len(fixes),
    )  # fmt: skip
    content = hashlib.sha256(json.dumps(fixes, sort_keys=True).encode()).hexdigest()[:16]
    info = counts | {"fingerprint": FINGERPRINT + content}
    return table[~left_out].reset_index(drop=True), targets[~left_out], info


def read_label_fixes(path: Path) -> dict[str, str]:
    """Face id -> the right label, or "" to leave the face out of training.

    Raises:
        ValueError: The file is no such table, or names a face twice.
    """
    table = read_csv(path, (), dtype=str, as_written=True, may_be_empty=True)
    table = in_lower_case(path, table, ("id", "label"))
    if "id" not in table:
        raise ValueError(f"{relative(path)} has no column id; it needs id, and may have label")
    if "label" not in table and len(table.columns) > 1:
        raise ValueError(
            f"{relative(path)} has the columns {', '.join(table)}; call that of the right labels "
            f"label, or keep id alone to leave these faces out"
        )
    ids = table["id"].fillna("").str.strip()
    if ids.duplicated().any():
        twice = ids[ids.duplicated()].iloc[0]
        raise ValueError(f"{relative(path)} names the face {twice!r} twice; remove one of its rows")
    labels = table["label"].fillna("").str.strip() if "label" in table else [""] * len(ids)
    return dict(zip(ids, labels, strict=True))


def _make_wrong(
    table: pd.DataFrame, targets: np.ndarray, names: tuple[str, ...], config: Config
) -> int:
    """Corrupt a share of the training labels, in place, and keep the originals as true_label.

    In a changed target the masses of the old and the new class are swapped. Confusion: a class
    becomes another as often as annotators mistake it for that one, over all training faces.
    """
    train = np.flatnonzero(table["split"] == "train")
    labels = table["label"].to_numpy()[train]
    chances = np.ones((len(names), len(names)))
    if config.noise_kind == "confusion":
        columns = [column for column in VOTE_COLUMNS[: len(names)] if column in table]
        if len(columns) < len(names):
            raise ValueError(
                f"noise_kind=confusion needs the votes of FERPlus, and {config.dataset} has none; "
                f"use symmetric"
            )
        votes = table.loc[train, columns].to_numpy(dtype=float)
        chances = np.stack([votes[labels == i].sum(axis=0) for i in range(len(names))])
    flipped, changed = flip_labels(labels, config.label_noise, chances, names, seed=config.seed)
    table["true_label"] = table["label"]
    table.loc[train, "label"] = flipped
    rows, old, new = train[changed], labels[changed], flipped[changed]
    targets[rows, old], targets[rows, new] = targets[rows, new], targets[rows, old]
    return int(changed.sum())


def ferplus_targets(
    votes: np.ndarray, protocol: str, *, soft: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Turn FERPlus votes into targets under a protocol.

    Args:
        votes: (N, 10) counts, in the order of `labels.VOTE_COLUMNS`.
        protocol: official, argmax or all.
        soft: Vote distributions instead of one-hot labels.

    Returns:
        Targets (N, 8), where rows of kept faces sum to 1 (others are zero), and keep (N,) bool.

    Source: FERPlus (Barsoum et al. 2016) and its published code for "official": majority, or
    with `soft` its cross-entropy mode; "argmax" as SCN does; "all" as EmotionNet does.
    """
    votes = np.asarray(votes, dtype=float)
    emotions = votes[:, : len(EMOTIONS)]
    if protocol == "official":
        votes = np.where(votes <= 1, 0, votes)  # a single vote is an outlier
        if soft:
            taken = _take_top(votes)
        else:
            enough = votes.max(axis=1) > 0.5 * votes.sum(axis=1)
            taken = np.eye(votes.shape[1])[votes.argmax(axis=1)] * enough[:, None]
        keep = (taken.sum(axis=1) > 0) & (taken.argmax(axis=1) < len(EMOTIONS))
        mass = taken[:, : len(EMOTIONS)]
    else:
        keep = emotions.sum(axis=1) > 0
        if protocol == "argmax":
            keep &= votes.argmax(axis=1) < len(EMOTIONS)
        mass = emotions if soft else np.eye(len(EMOTIONS))[emotions.argmax(axis=1)]
    mass = mass * keep[:, None]
    return mass / np.maximum(mass.sum(axis=1, keepdims=True), 1e-12), keep


def _take_top(votes: np.ndarray) -> np.ndarray:
    """The votes (N, 10) that the official cross-entropy mode keeps; all zero if discarded."""
    emotions = len(EMOTIONS)
    left, taken = votes.copy(), np.zeros_like(votes)
    total, count = votes.sum(axis=1), np.zeros(len(votes))
    for _ in range(3):
        going = (taken.sum(axis=1) < 0.75 * total) & (count < 3)
        top = (left == left.max(axis=1, keepdims=True)) & going[:, None]  # one column, or a tie
        chosen = top[:, :emotions]  # unknown and NF are never taken: once on top, they stay there
        taken[:, :emotions] += left[:, :emotions] * chosen
        left[:, :emotions] *= ~chosen
        count += chosen.sum(axis=1)
    integrated = (taken.sum(axis=1) > 0.5 * total) & (count <= 3)
    return taken * integrated[:, None]


def _with_test_fold(table: pd.DataFrame, config: Config) -> pd.DataFrame:
    """All rows as train, except part `fold` of `folds`: that is test. No subject is divided.

    Raises:
        ValueError: There are fewer faces or subjects than parts.
    """
    subjects = table["id"].astype(object)
    if "subject" in table:
        subjects = table["subject"].astype(object).fillna(subjects)
    if not 2 <= config.folds <= subjects.nunique():
        raise ValueError(
            f"folds is {config.folds}; it must be between 2 and the {subjects.nunique()} "
            f"{'subjects' if 'subject' in table else 'faces'} there are"
        )
    split = np.full(len(table), "train", dtype=object)
    split[_parts(table["code"], subjects, config.folds)[config.fold - 1]] = "test"
    return table.assign(split=split)


def _parts(codes: pd.Series, subjects: pd.Series, count: int) -> list[np.ndarray]:
    """The positions of each of `count` parts; no subject is divided."""
    from sklearn.model_selection import StratifiedGroupKFold

    folds = StratifiedGroupKFold(count, shuffle=True, random_state=VALIDATION_SEED)
    with warnings.catch_warnings():  # that a class has fewer faces than there are folds
        warnings.simplefilter("ignore")
        return [part for _, part in folds.split(codes, codes, subjects.astype(str))]


def _with_validation(table: pd.DataFrame, left_out: tuple[int, ...]) -> pd.DataFrame:
    """Move a stratified tenth of train to val, always the same rows; no subject is divided."""
    from sklearn.model_selection import train_test_split

    codes = table["code"] if "code" in table else table[list(VOTE_COLUMNS)].idxmax(axis=1)
    train = table.index[(table["split"] == "train") & ~codes.isin(left_out)]
    codes = codes[train]
    rare = codes.map(codes.value_counts()) < 2  # a class with one face cannot be split
    try:
        if "subject" in table:
            subjects = table["subject"].astype(object).fillna(table["id"])[train]
            folds = min(round(1 / VALIDATION_SHARE), subjects.nunique(), codes.value_counts().max())
            val = train[_parts(codes, subjects, folds)[0]]
        else:
            _, val = train_test_split(
                train[~rare], test_size=VALIDATION_SHARE, random_state=VALIDATION_SEED,
                stratify=codes[~rare],
            )  # fmt: skip
    except ValueError as error:
        raise ValueError(
            f"{len(train)} training faces"
            + (f" of {table['subject'].nunique()} subjects" if "subject" in table else "")
            + " are too few to split off a validation set; add faces, or give some as validation "
            "(a folder val/, or split=val in a table)"
        ) from error
    table.loc[val, "split"] = "val"
    return table


def taught(train: FaceSet, config: Config) -> FaceSet:
    """Training faces whose targets are mixed with what teachers say of them.

    y <- (1 - w) y + w softmax(mean_r log p_r / T), p_r the predictions of the r-th teacher.

    Args:
        train: N training faces.
        config: teacher, teacher_weight w, teacher_temperature T. A teacher's predictions are
            predictions/train_<checkpoint>.csv of its folder, as `grefel evaluate` writes them.

    Raises:
        FileNotFoundError: A teacher has no predictions of its training faces.
        ValueError: They are of other classes, a training face is not among them, or over a fifth
            of the labels differ: they are of other faces that have the same ids.

    Source: Hinton et al., Distilling the Knowledge in a Neural Network, 2015.
    """
    logs = []
    for name in filter(None, map(str.strip, config.teacher.split(","))):
        places = [*run_places(name, config.output_dir), results_folder(PRETRAINED / name)]
        tables = [file for p in places for file in sorted(p.glob("predictions/train_*.csv*"))]
        if not tables:
            raise FileNotFoundError(
                f"teacher {name} has no predictions of training faces (predictions/train_*.csv); "
                f"write them with: grefel evaluate --checkpoint-dir {name} --inspect-labels"
            )
        table = read_table(tables[0]).set_index("id")
        columns = [f"p_{label}" for label in train.class_names]
        if missing := [column for column in columns if column not in table]:
            raise ValueError(f"teacher {name} knows no class {missing[0].removeprefix('p_')}")
        unknown = train.table["id"][~train.table["id"].isin(table.index)]
        if len(unknown):
            raise ValueError(
                f"teacher {name} has no prediction of {len(unknown)} of {len(train)} training "
                f"faces, the first {unknown.iloc[0]}; it needs the same files and train_protocol"
            )
        table = table.loc[train.table["id"]]
        known = train.table.get("true_label", train.table["label"])  # before label noise
        labels = np.asarray(train.class_names)[known.to_numpy()]
        theirs = table.get("true_label", table.get("label", pd.Series(labels)))
        if (same := (theirs.to_numpy() == labels).mean()) < 0.8:
            raise ValueError(
                f"teacher {name} has other faces under these ids: only {same:.0%} of the labels "
                f"are the same; it needs the same files and train_protocol"
            )
        logs.append(np.log(table[columns].to_numpy().clip(1e-8)))
    if not logs:
        return train
    soft = np.exp(np.mean(logs, axis=0) / config.teacher_temperature)
    soft /= soft.sum(axis=1, keepdims=True)
    weight = config.teacher_weight
    targets = (1 - weight) * train.targets + weight * soft
    return dataclasses.replace(train, targets=targets.astype(np.float32))


# -- the cache


def cache_root() -> Path:
    """Where decoded images are kept: data/cache, or the folder in GREFEL_CACHE."""
    return Path(os.environ.get("GREFEL_CACHE") or PROJECT_ROOT / "data/cache").expanduser()


def content_fingerprint(table: pd.DataFrame) -> str:
    """A fingerprint of ids, splits, labels and pixels: equal on every machine, see `same_data`."""
    content = table.drop(columns=["file", "row"]).to_csv(index=False)
    return FINGERPRINT + hashlib.sha256(content.encode()).hexdigest()[:16]


def _cached(source: Source) -> tuple[pd.DataFrame, np.ndarray]:
    """Raw table and images of a source, decoded once and kept until its files change."""
    digest = hashlib.sha256(" ".join([f"{VERSION} {source.kind}", *source.class_names]).encode())
    root = os.path.join(source.root, "")
    for file in source.files:  # up to 100,000 files: pathlib would take seconds
        stat = os.stat(file)
        name = str(file).removeprefix(root) if str(file).startswith(root) else file.name
        digest.update(f"{name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    state = digest.hexdigest()[:16]
    place = hashlib.sha256(str(source.root.resolve()).encode()).hexdigest()[:8]
    prefix = f"{source.kind}-{place}-"
    folder = cache_root() / (prefix + state)
    if not _undamaged(folder):
        _writing(folder, folder.parent.mkdir, parents=True, exist_ok=True)
        with _writing(folder, FileLock(folder.parent / f"{prefix}.lock").acquire):
            if not _undamaged(folder):
                for unfinished in folder.parent.glob(f".filling-{prefix}*"):
                    shutil.rmtree(unfinished, ignore_errors=True)
                if folder.is_dir():
                    log.error("the cache %s is damaged: the images are decoded again", folder)
                    shutil.rmtree(folder)
                _fill(source, folder, prefix)
                for old in folder.parent.glob(f"{prefix}*"):
                    if old.is_dir() and old != folder:
                        log.info("the files of %s changed: removing its old cache", source.root)
                        shutil.rmtree(old, ignore_errors=True)
    images = np.load(folder / "images.npy", mmap_mode="r")
    return read_table(folder / "table.csv"), images


VERSION = 5  # of the cache content: increase it when the output of readers changes


def _undamaged(folder: Path) -> bool:
    """Whether a cache is there, and its files are as they were written."""
    try:
        return read_json(folder / "checksums.json") == _checksums(folder)
    except (OSError, ValueError):
        return False


def _checksums(folder: Path) -> dict[str, int]:
    """The CRC-32 of each file of a cache; it takes a second for a few gigabytes."""
    sums = {}
    for name in ("images.npy", "table.csv"):
        with (folder / name).open("rb") as file:
            parts = iter(lambda: file.read(2**22), b"")
            sums[name] = functools.reduce(lambda crc, part: zlib.crc32(part, crc), parts, 0)
    return sums


def _fill(source: Source, folder: Path, prefix: str) -> None:
    table, images = source.read()
    if not len(table):
        raise ValueError(f"{source.root} holds no image of a known layout")
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".filling-{prefix}"))
    try:
        store, hashes = None, []
        bar = progress_bar(len(table), "decoding", unit=" faces")
        for position, image in enumerate(images):
            bar.update()
            if store is None:
                shape = (len(table), *image.shape)
                store = _writing(folder, _room, temporary / "images.npy", shape)
            store[position] = image
            hashes.append(hashlib.blake2b(image.tobytes(), digest_size=8).hexdigest())
        bar.close()
        store.flush()
        table = table.assign(row=np.arange(len(table)), image_hash=hashes)
        _writing(folder, table.to_csv, temporary / "table.csv", index=False)
        sums = json.dumps(_checksums(temporary))
        _writing(folder, (temporary / "checksums.json").write_text, sums)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _room(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A memory-mapped uint8 array with its disk space reserved, so a full disk raises an error."""
    store = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return store


def _writing(folder: Path, write: Callable, *arguments: Any, **options: Any) -> Any:
    try:
        return write(*arguments, **options)
    except OSError as error:
        raise OSError(
            f"cannot write the cache of decoded images in {folder.parent} ("
            f"{error.strerror or error}); free some space, or set GREFEL_CACHE to a writable folder"
        ) from error


def flip_labels(
    labels: np.ndarray,
    share: float,
    chances: np.ndarray,
    names: Sequence[str] = (),
    *,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Corrupt a share of the labels.

    Args:
        labels: (N,) positions of the classes.
        share: Exact share of labels to corrupt, 0 to 1 (rounded to whole faces).
        chances: (C, C) relative probability of turning a class (row) into another; diagonal unused.
        names: The C classes, for the error; without them it gives the position.
        seed: Random seed.

    Returns:
        (N,) labels, and (N,) bool, which were changed; a changed label always differs.

    Raises:
        ValueError: A class to be changed has no other class to become.
    """
    rng = np.random.default_rng([seed, 5])
    changed = np.zeros(len(labels), dtype=bool)
    changed[rng.permutation(len(labels))[: round(share * len(labels))]] = True
    others = np.asarray(chances, dtype=float) * (1 - np.eye(len(chances)))
    empty = np.flatnonzero(others.sum(axis=1) == 0)
    if len(stuck := np.intersect1d(labels[changed], empty)):
        name = names[stuck[0]] if names else stuck[0]
        raise ValueError(f"class {name} is never confused with another; use symmetric noise")
    edges = (others / np.maximum(others.sum(axis=1, keepdims=True), 1e-12)).cumsum(axis=1)
    edges[:, -1] = 1
    draws = rng.random((len(labels), 1))
    flipped = (edges[labels] <= draws).sum(axis=1)
    return np.where(changed, flipped, labels), changed
