"""Exact and near duplicates of test faces among the training faces."""

import imagehash
import numpy as np
import pandas as pd
from PIL import Image

from grefel_lib.faces import FaceSet

BITS = 6  # maximum Hamming distance of the 64-bit perceptual hashes of near copies
ALIKE = 0.9  # minimum pixel correlation of near copies
AT_ONCE = 1000  # faces in memory; AffectNet's training faces would fill 11 GB


def find_copies(faces: FaceSet, split: str = "test") -> pd.DataFrame:
    """Which faces of a split occur in the training split, exactly or nearly.

    A near copy has almost the same perceptual hash (six bits of 64 at most) and, pixel by pixel,
    correlates with its original at 0.9 or more: re-saved, relit or slightly cropped.

    Args:
        faces: All splits; load with drop_leaks=False to see what it would drop.
        split: The split to search for copies.

    Returns:
        One row per face with a copy: id, label, copy (id of the closest training face),
        copy_label, exact (same pixels), bits (hash distance), correlation. Labels are class names.
    """
    here, there = faces.split(split), faces.split("train")
    hashes = _hashes(there)
    by_pixels = dict(zip(there.table["image_hash"], range(len(there)), strict=True))
    names = np.asarray(faces.class_names)
    rows = []
    for i, code in enumerate(_hashes(here)):
        bits = np.bitwise_count(hashes ^ code)
        exact = by_pixels.get(here.table["image_hash"].iloc[i])
        near = np.flatnonzero(bits <= BITS) if exact is None else np.array([exact])
        if not len(near):
            continue
        alike = _standardised(there.gather(near)) @ _standardised(here.gather(np.array([i])))[0]
        best = int(alike.argmax())
        if exact is None and alike[best] < ALIKE:
            continue
        face, other = here.table.iloc[i], there.table.iloc[near[best]]
        rows.append((face["id"], names[face["label"]], other["id"], names[other["label"]],
                     exact is not None, int(bits[near[best]]), float(alike[best])))  # fmt: skip
    columns = ["id", "label", "copy", "copy_label", "exact", "bits", "correlation"]
    return pd.DataFrame(rows, columns=columns).astype({"exact": bool, "correlation": float})


def _hashes(faces: FaceSet) -> np.ndarray:
    """(N,) uint64 perceptual hashes: the signs of a face's 64 lowest frequencies (pHash)."""
    parts = np.array_split(np.arange(len(faces)), max(1, len(faces) // AT_ONCE))
    hashes = [imagehash.phash(Image.fromarray(f)).hash for p in parts for f in faces.gather(p)]
    bits = np.array(hashes, dtype=bool).reshape(len(faces), 64)
    return np.packbits(bits, axis=1).view(np.uint64)[:, 0]


def _standardised(images: np.ndarray) -> np.ndarray:
    """(N, P) float32: rows of mean 0 and length 1, so that a product is a correlation."""
    flat = images.reshape(len(images), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
