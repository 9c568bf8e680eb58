"""The built-in data: drawn faces with simulated votes, in the published sets' file layouts."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from grefel_lib import labels
from grefel_lib.drawing import Sketch, draw_face, draw_non_face

# fmt: off
LAYOUTS = ("ferplus", "fer2013", "fer2013_folders", "rafdb", "rafdb_compound", "rafdb_kaggle")
# Emotions that people take for each other, in the order of labels.EMOTIONS.
_CONFUSED = np.array([(3, 4, 7), (0, 0, 2), (6, 6, 0), (0, 0, 5), (5, 5, 0), (4, 4, 3), (2, 2, 3),
                      (0, 0, 1)])
_COUNTS = {  # of the published sets: how often each class occurs
    "ferplus": (8740, 7287, 3149, 3014, 2100, 119, 532, 119),
    "rafdb": (1290, 281, 717, 4772, 1982, 705, 2524),
    "rafdb_compound": (697, 266, 129, 163, 86, 738, 150, 560, 176, 841, 148),
}
_STEMS = {"neut": 0, "happ": 1, "surp": 2, "sadn": 3, "sadl": 3, "ange": 4, "angr": 4, "disg": 5,
          "fear": 6}  # an emotion's noun, adjective and adverb
_FOLDERS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")  # codes 0 to 6
# fmt: on


def mix_emotions(emotions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Soften the emotion (N,) of each face, an index, into its true mixture (N, 8).

    A mostly small share goes to neutral and to an emotion that people take for the main one.
    """
    rows, mixtures = np.arange(len(emotions)), np.zeros((len(emotions), 8))
    share = 0.7 * rng.beta(1.2, 3.0, len(emotions))
    faint = share * rng.uniform(0, 1, len(emotions))
    mixtures[rows, emotions] = 1 - share
    mixtures[rows, _CONFUSED[emotions, rng.integers(0, 3, len(emotions))]] += share - faint
    mixtures[:, 0] += faint
    return mixtures


def simulate_votes(
    mixtures: np.ndarray, rng: np.random.Generator, *, annotators: int = 10
) -> np.ndarray:
    """Let simulated annotators vote on faces.

    Args:
        mixtures: (N, 8) true emotions of each face; rows sum to one.
        rng: Where the annotators' choices come from.
        annotators: Votes an image.

    Returns:
        (N, 10) counts in the order of `labels.VOTE_COLUMNS`.
    """
    confusion = np.array([np.bincount(others, minlength=8) / 3 for others in _CONFUSED])
    seen = mixtures**1.5 / (mixtures**1.5).sum(axis=1, keepdims=True)
    shares = np.tile([0.0] * 8 + [0.02, 0.005], (len(mixtures), 1))
    shares[:, :8] = 0.975 * (0.9 * seen + 0.1 * seen @ confusion)
    return rng.multinomial(annotators, shares)


def write(dest: Path, *, layout: str = "ferplus", images: int = 3000, seed: int = 0) -> Path:
    """Write drawn faces in a published data set's file layout; a seed fixes every byte.

    Args:
        dest: A new or empty folder. It stays as it was if writing fails.
        layout: One of `LAYOUTS`; the first three hold the same rows.
        images: Rows of the data set, 100 or more.
        seed: Another seed draws other people.

    Returns:
        `dest`.

    Raises:
        NotADirectoryError: `dest` is a file.
        ValueError: An unknown layout, too few images, or `dest` is not empty.
    """
    dest = Path(dest)
    if layout not in LAYOUTS:
        raise ValueError(f"unknown layout {layout!r}; choose from: {', '.join(LAYOUTS)}")
    if images < 100:
        raise ValueError(f"images={images} is too few to hold every class; ask for 100 or more")
    if dest.exists() and not dest.is_dir():
        raise NotADirectoryError(f"{dest} is a file; name a new or empty folder for drawn faces")
    if dest.is_dir() and any(dest.iterdir()):
        raise ValueError(f"{dest} is not empty, and nothing is overwritten; name an empty folder")
    whole = dest.absolute()
    unfinished = whole.with_name(f".{whole.name}.unfinished-{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        (_write_fer if layout.startswith("fer") else _write_rafdb)(unfinished, layout, images, seed)
        if not dest.exists():
            unfinished.rename(dest)
        else:  # the folder itself stays: it may be a mount, or where the caller stands
            for child in unfinished.iterdir():
                child.rename(dest / child.name)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return dest


def _put(path: Path, content: str | Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
        path.write_text(content, encoding="utf-8", newline="\n")
    else:
        content.save(path, quality=95)


def _csv(rows: list[tuple]) -> str:
    return "".join(",".join(map(str, row)) + "\n" for row in rows)


def _deal(dataset: str, total: int, rng: np.random.Generator) -> np.ndarray:
    """Shuffled class indices, as imbalanced as the published set but a handful of each class."""
    shares = np.array(_COUNTS[dataset]) / sum(_COUNTS[dataset])
    dealt = np.rint(shares * total).astype(int)
    dealt = np.maximum(dealt, max(total // 50, min(total // (2 * len(shares)), 8), 1))
    dealt[np.argmax(shares)] += total - dealt.sum()
    return rng.permutation(np.repeat(np.arange(len(shares)), dealt))


def _fer_rows(images: int, seed: int) -> Iterator[tuple]:
    """Yield each row's split, image name, votes, FER2013 code and image."""
    rng, tenth, rows = np.random.default_rng([seed, 1]), images // 10, np.arange(images)
    sizes, emotions = (images - 2 * tenth, tenth, tenth), []
    for size in sizes:
        odd = [-2] + [-1] * (size // 200 + 1)  # a face without an emotion vote, and non-faces
        emotions.append(rng.permutation([*_deal("ferplus", size - len(odd), rng), *odd]))
    emotions, split, source = np.concatenate(emotions), np.repeat([0, 1, 2], sizes), rows.copy()
    mixtures = mix_emotions(np.maximum(emotions, 0), rng)

    # Copies replace common faces only, so that the rare classes keep their handful.
    common, count = np.isin(emotions, (0, 1)), max(6, images // 50)
    copies = rng.choice(rows[common & (split == 0)], count - 1, replace=False)
    copies = [*copies, rng.choice(rows[common & (split == 2)])]
    origins = [0, 1, 2, *rng.choice(3, count - 4, p=(0.5, 0.2, 0.3)), 1]
    original = (emotions >= 0) & ~np.isin(rows, copies)
    for copy, origin in zip(copies, origins, strict=True):
        source[copy] = rng.choice(rows[original & (split == origin)])
    mixtures = mixtures[source]

    votes = simulate_votes(mixtures, rng)
    unsure = np.where(emotions == -2, 6, rng.integers(0, 3, images))[emotions < 0]
    votes[emotions < 0] = 0
    votes[emotions < 0, 8:] = np.stack([unsure, 10 - unsure], axis=1)
    twin, short = copies[0], rows[(emotions == 0) & (split == 0) & original][0]
    if np.array_equal(votes[twin], votes[source[twin]]):  # one name, two different rows of votes
        votes[twin] = np.roll(votes[twin], 1)
    votes[short, np.argmax(votes[short])] -= 1  # one row of nine votes

    # FER2013's own label is one person's guess over seven classes, and sometimes plainly wrong.
    chances = simulate_votes(mixtures, rng, annotators=1)[:, :7] + 1e-6
    chances[rng.random(images) < 0.15] = 1
    chances = np.cumsum(chances, axis=1) / chances.sum(axis=1, keepdims=True)
    guesses = np.argmax(chances >= rng.random((images, 1)), axis=1)
    codes = {emotion: code for code, emotion in labels.FER2013_CODES.items()}
    for row in rows:
        own = np.random.default_rng([seed, 2, source[row]])
        blend = dict(zip(labels.EMOTIONS, mixtures[row], strict=True))
        face = draw_non_face(own) if emotions[row] == -1 else draw_face(blend, own)
        number = source[row] if row == twin else row
        name = "" if emotions[row] == -1 else f"fer{number:07d}.png"
        yield split[row], name, votes[row], codes[labels.BASIC[guesses[row]]], face


def _write_fer(folder: Path, layout: str, images: int, seed: int) -> None:
    voted = [("Usage", "Image name", *labels.VOTE_COLUMNS)]
    pixels = [("emotion", "pixels", "Usage")]
    for row, (split, name, votes, code, face) in enumerate(_fer_rows(images, seed)):
        usage = ("Training", "PublicTest", "PrivateTest")[split]
        if layout == "ferplus":
            voted.append((usage, name, *votes))
            place = ("FER2013Train", "FER2013Valid", "FER2013Test")[split]
            if name:
                _put(folder / "Images" / place / name, Image.fromarray(face))
        elif layout == "fer2013":
            pixels.append((code, " ".join(map(str, face.ravel().tolist())), usage))
        else:
            place = folder / ("test" if split else "train") / _FOLDERS[code]
            _put(place / f"{usage}_{row}.jpg", Image.fromarray(face))
    if layout == "ferplus":
        _put(folder / "fer2013new.csv", _csv(voted))
    elif layout == "fer2013":
        _put(folder / "fer2013.csv", _csv(pixels))


def _write_rafdb(folder: Path, layout: str, images: int, seed: int) -> None:
    rng, listed = np.random.default_rng([seed, 3]), {"train": [], "test": []}
    dataset = "rafdb_compound" if layout == "rafdb_compound" else "rafdb"
    base = folder / ("basic" if dataset == "rafdb" else "compound")
    codes, tests = list(labels.CODES[dataset]), images // 5
    dealt = [("train", 5, images - tests), ("test", 4, tests)]
    dealt = [(*deal[:2], *row) for deal in dealt for row in enumerate(_deal(dataset, deal[2], rng))]
    for row, (split, digits, number, label) in enumerate(dealt):
        code, own = codes[label], np.random.default_rng([seed, 4, row])
        words = labels.CODES[dataset][code].split()
        emotions = [_STEMS[word[:4]] for word in words]
        mixture = mix_emotions(np.array(emotions), own).sum(axis=0) * (1, 0.85)[len(words) - 1]
        *centre, radius = own.uniform((58, 60, 34), (92, 80, 42)).tolist()
        sketch = Sketch(mixture, own, (140, 150), centre, radius, True)
        box = (sketch.centre + np.outer((-1, 1), (1.2, 1.3)) * sketch.radius).ravel()
        box = np.clip(box, 0, (150, 140, 150, 140))  # left, top, right, bottom
        picture = Image.fromarray(sketch.picture())
        aligned = picture.resize((100, 100), Image.Resampling.BILINEAR, box=tuple(box.tolist()))
        stem = f"{split}_{number + 1:0{digits}d}"
        if layout == "rafdb_kaggle":
            listed[split].append((f"{stem}_aligned.jpg", code))
            _put(folder / f"DATASET/{split}/{code}/{stem}_aligned.jpg", aligned)
            continue
        listed[split].append(f"{stem}.jpg {code}\n")
        _put(base / f"Image/original/{stem}.jpg", picture)
        _put(base / f"Image/aligned/{stem}_aligned.jpg", aligned)
        edges = " ".join(f"{edge:.3f}" for edge in box)
        _put(base / f"Annotation/boundingbox/{stem}_boundingbox.txt", edges + "\n")
        about = "".join(f"{x:.3f}\t{y:.3f}\n" for x, y in sketch.landmarks())
        # Gender, race and age codes are drawn by lot: they say nothing about the face.
        about += "".join(f"{code}\n" for code in own.integers(0, (3, 3, 5)))
        _put(base / f"Annotation/manual/{stem}_manu_attri.txt", about)
    if layout == "rafdb_kaggle":
        for split, table in listed.items():
            _put(folder / f"{split}_labels.csv", _csv([("image", "label"), *table]))
    else:
        lines = "".join(listed["train"] + listed["test"])
        _put(base / "EmoLabel/list_patition_label.txt", lines)
