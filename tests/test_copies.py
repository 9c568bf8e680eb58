"""Copies across splits: exact ones, near ones, and faces that only look alike."""

import numpy as np
import pandas as pd
from PIL import Image

from grefel_lib.analysis.copies import find_copies
from grefel_lib.config import Config
from grefel_lib.faces import FaceSet, load_faces


def two_splits(train, test):
    """Faces of two splits; equal pixels get equal hashes, as from a reader."""
    images = np.concatenate([train, test])
    table = pd.DataFrame({
        "id": [f"train_{i}" for i in range(len(train))] + [f"test_{i}" for i in range(len(test))],
        "split": ["train"] * len(train) + ["test"] * len(test),
        "label": np.arange(len(images)) % 2, "row": np.arange(len(images)),
        "image_hash": [hash(image.tobytes()) for image in images],
    })  # fmt: skip
    targets = np.eye(2, dtype=np.float32)[table["label"]]
    return FaceSet(images, table, targets, ("glad", "sad"), {})


def test_exact_and_near_copies_are_found_and_other_faces_are_not(faces_dir):
    faces = load_faces(Config(dataset="ferplus", data_dir=str(faces_dir), drop_leaks=False))
    drawn = faces.gather(np.arange(60))
    brighter = np.clip(drawn[3] * 1.1 + 8, 0, 255).astype(np.uint8)
    resaved = np.asarray(Image.fromarray(drawn[4]).resize((96, 96)).resize((48, 48)))
    found = find_copies(two_splits(drawn[:49], np.stack([drawn[2], brighter, resaved, drawn[55]])))
    assert list(found["id"]) == ["test_0", "test_1", "test_2"]
    assert list(found["copy"]) == ["train_2", "train_3", "train_4"]
    assert list(found["exact"]) == [True, False, False]
    assert (found["correlation"] > 0.95).all()
    assert found["copy_label"].tolist() == ["glad", "sad", "glad"]
    assert found["label"].tolist() == ["sad", "glad", "sad"]


def test_the_exact_copies_are_those_that_drop_leaks_drops(faces_dir):
    config = Config(dataset="ferplus", data_dir=str(faces_dir))
    whole = load_faces(config.replace(drop_leaks=False))
    exact = find_copies(whole).query("exact")
    assert len(exact) > 0
    assert not len(find_copies(load_faces(config)).query("exact"))


def test_without_any_copy_the_table_is_empty_but_has_its_columns():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, size=(12, 48, 48), dtype=np.uint8)
    found = find_copies(two_splits(noise[:6], noise[6:]))
    assert len(found) == 0
    assert list(found.columns)[:3] == ["id", "label", "copy"]
    near = found[~found["exact"]]  # as notebook 01 does
    assert list(near.columns) == list(found.columns)
    assert len(find_copies(two_splits(noise[:6], noise[6:6]))) == 0


def test_a_large_set_is_never_whole_in_memory(monkeypatch):
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 256, size=(45, 48, 48), dtype=np.uint8)
    faces = two_splits(noise[:40], noise[[7, 39, 44]])
    held, gather = [], FaceSet.gather
    monkeypatch.setattr("grefel_lib.analysis.copies.AT_ONCE", 8)
    monkeypatch.setattr(
        FaceSet, "gather", lambda self, at: held.append(len(at)) or gather(self, at)
    )
    assert list(find_copies(faces)["copy"]) == ["train_7", "train_39"]
    assert max(held) <= 8
