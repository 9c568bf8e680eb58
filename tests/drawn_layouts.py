"""Drawn faces in the file layouts of the published data sets, to test the readers on."""

import numpy as np
from PIL import Image

from grefel_lib.labels import BASIC, CODES
from grefel_lib.sources.synthetic import (
    Sketch,
    deal_classes,
    ferplus_rows,
    mix_emotions,
    write_synthetic,
)

RAFDB_COUNTS = {  # how often each class occurs
    "rafdb": (1290, 281, 717, 4772, 1982, 705, 2524),
    "rafdb_compound": (697, 266, 129, 163, 86, 738, 150, 560, 176, 841, 148),
}
STEMS = {"neut": 0, "happ": 1, "surp": 2, "sadn": 3, "sadl": 3, "ange": 4, "angr": 4, "disg": 5,
         "fear": 6}  # an emotion's noun, adjective and adverb  # fmt: skip
FOLDERS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")  # codes 0 to 6


def write_layout(dest, layout, *, images, seed=0):
    """Write drawn faces in one layout; a seed fixes every byte.

    Args:
        dest: A new folder.
        layout: ferplus, fer2013 (one csv), fer2013_folders, rafdb, rafdb_compound or rafdb_kaggle;
            the first three hold the same rows.
        images: Rows of the data set, 100 or more.
        seed: Another seed draws other people.

    Returns:
        `dest`.
    """
    if layout == "ferplus":
        return write_synthetic(dest, images=images, seed=seed)
    write = {
        "fer2013": _write_csv, "fer2013_folders": _write_folders, "rafdb": _write_rafdb,
        "rafdb_compound": _write_compound, "rafdb_kaggle": _write_kaggle,
    }[layout]  # fmt: skip
    dest.mkdir()
    write(dest, images, seed)
    return dest


def _put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
        path.write_text(content, encoding="utf-8", newline="\n")
    else:
        content.save(path, quality=95)


def _csv(rows):
    return "".join(",".join(map(str, row)) + "\n" for row in rows)


def _fer2013_rows(images, seed):
    """Yield each row's usage, label code and image.

    A label is one person's guess over seven classes, and sometimes plainly wrong.
    """
    rng = np.random.default_rng([seed, 6])
    codes = {emotion: code for code, emotion in CODES["fer2013"].items()}
    for usage, _, votes, face in ferplus_rows(images, seed):
        chances = votes[:7] + 1e-6 if rng.random() > 0.15 else np.ones(7)
        yield usage, codes[BASIC[rng.choice(7, p=chances / chances.sum())]], face


def _write_csv(folder, images, seed):
    lines = [("emotion", "pixels", "Usage")]
    for usage, code, face in _fer2013_rows(images, seed):
        lines.append((code, " ".join(map(str, face.ravel().tolist())), usage))
    _put(folder / "fer2013.csv", _csv(lines))


def _write_folders(folder, images, seed):
    for row, (usage, code, face) in enumerate(_fer2013_rows(images, seed)):
        place = folder / ("train" if usage == "Training" else "test") / FOLDERS[code]
        _put(place / f"{usage}_{row}.jpg", Image.fromarray(face))


def _rafdb_faces(dataset, images, seed):
    """Yield each row's split, file stem, code, generator, sketch, box, picture and aligned face."""
    rng, codes, tests = np.random.default_rng([seed, 3]), list(CODES[dataset]), images // 5
    row = 0
    for split, digits, count in (("train", 5, images - tests), ("test", 4, tests)):
        for number, label in enumerate(deal_classes(RAFDB_COUNTS[dataset], count, rng), start=1):
            code, own = codes[label], np.random.default_rng([seed, 4, row])
            words = CODES[dataset][code].split()
            emotions = np.array([STEMS[word[:4]] for word in words])
            mixture = mix_emotions(emotions, own).sum(axis=0) * (1, 0.85)[len(words) - 1]
            *centre, radius = own.uniform((58, 60, 34), (92, 80, 42)).tolist()
            sketch = Sketch(mixture, own, (140, 150), centre, radius, True)
            box = (sketch.centre + np.outer((-1, 1), (1.2, 1.3)) * sketch.radius).ravel()
            box = tuple(np.clip(box, 0, (150, 140, 150, 140)).tolist())  # left, top, right, bottom
            picture = Image.fromarray(sketch.picture())
            aligned = picture.resize((100, 100), Image.Resampling.BILINEAR, box=box)
            yield split, f"{split}_{number:0{digits}d}", code, own, sketch, box, picture, aligned
            row += 1


def _write_rafdb(folder, images, seed, dataset="rafdb"):
    base, lines = folder / ("basic" if dataset == "rafdb" else "compound"), []
    for _, stem, code, own, sketch, box, picture, aligned in _rafdb_faces(dataset, images, seed):
        lines.append(f"{stem}.jpg {code}\n")
        _put(base / f"Image/original/{stem}.jpg", picture)
        _put(base / f"Image/aligned/{stem}_aligned.jpg", aligned)
        edges = " ".join(f"{edge:.3f}" for edge in box)
        _put(base / f"Annotation/boundingbox/{stem}_boundingbox.txt", edges + "\n")
        about = "".join(f"{x:.3f}\t{y:.3f}\n" for x, y in _landmarks(sketch))
        # Gender, race and age codes are drawn by lot: they say nothing about the face.
        about += "".join(f"{code}\n" for code in own.integers(0, (3, 3, 5)))
        _put(base / f"Annotation/manual/{stem}_manu_attri.txt", about)
    _put(base / "EmoLabel/list_patition_label.txt", "".join(lines))


def _write_compound(folder, images, seed):
    _write_rafdb(folder, images, seed, "rafdb_compound")


def _write_kaggle(folder, images, seed):
    tables = {"train": [("image", "label")], "test": [("image", "label")]}
    for split, stem, code, *_, aligned in _rafdb_faces("rafdb", images, seed):
        tables[split].append((f"{stem}_aligned.jpg", code))
        _put(folder / f"DATASET/{split}/{code}/{stem}_aligned.jpg", aligned)
    for split, table in tables.items():
        _put(folder / f"{split}_labels.csv", _csv(table))


def _landmarks(sketch):
    """(5, 2) pixels of the eyes, the nose and the corners of the mouth."""
    p, (cos, sin) = sketch.p, sketch.turn
    across = np.array([-p.eye_x, p.eye_x, 0, -p.mouth_w, p.mouth_w])
    down = np.array([-0.1, -0.1, p.nose_y, p.mouth_y, p.mouth_y])
    marks = np.stack([across + p.yaw * (1 - across**2), down + p.pitch], axis=1)
    return marks @ [[cos, sin], [-sin, cos]] * sketch.radius + sketch.centre
