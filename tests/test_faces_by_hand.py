"""A data set of fourteen faces, every consequence of which can be worked out by hand."""

import logging
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from grefel_lib import faces as module
from grefel_lib.config import PROJECT_ROOT, Config
from grefel_lib.faces import SPLITS, FaceSet, cache_root, ferplus_targets, flip_labels, load_faces
from grefel_lib.labels import EMOTIONS, VOTE_COLUMNS
from grefel_lib.sources.layouts import Source

NEU, HAP, SUR, SAD, ANG, DIS, FEA, CON = range(8)
ROWS = [  # split, grey of the picture, votes
    ("train", 10, {"happiness": 10}),  # 0: also in val
    ("train", 20, {"sadness": 6, "neutral": 2, "anger": 1, "fear": 1}),
    ("train", 30, {"neutral": 4, "anger": 3, "disgust": 2, "sadness": 1}),  # no majority
    ("train", 40, {"unknown": 10}),
    ("train", 50, {"surprise": 10}),  # 4: also in test
    ("train", 60, {"NF": 10}),  # also in val, but without a label
    ("train", 70, {"fear": 10}),  # 6: also in val, where it has no label
    ("val", 10, {"happiness": 10}),
    ("val", 60, {"anger": 8, "sadness": 2}),
    ("val", 70, {"contempt": 5, "neutral": 5}),
    ("val", 80, {"disgust": 10}),  # 10: also in test
    ("test", 50, {"surprise": 10}),
    ("test", 80, {"disgust": 10}),
    ("test", 90, {"NF": 10}),
]


def votes_table(rows):
    table = pd.DataFrame({"id": [f"f{i:02d}" for i in range(len(rows))]})
    table["split"], table["file"] = [split for split, *_ in rows], table["id"] + ".png"
    return table.join(
        pd.DataFrame([{name: votes.get(name, 0) for name in VOTE_COLUMNS} for *_, votes in rows])
    )


def coded_table(splits, codes):
    table = pd.DataFrame({"id": [f"f{i:03d}" for i in range(len(codes))], "split": splits})
    return table.assign(file=table["id"], code=codes)


@pytest.fixture
def given(tmp_path, monkeypatch):
    """Make `load_faces` read a table and pictures, from a cache of this test alone."""
    monkeypatch.setenv("GREFEL_CACHE", str(tmp_path / "cache"))

    def give(table, images, kind="votes", files=(), root=tmp_path, notes=()):
        reads = []

        def read():
            reads.append(1)
            return table.copy(), iter(images)

        source = Source(kind, root, list(files), read, list(notes))
        monkeypatch.setattr(module, "find_source", lambda config: source)
        return reads

    return give


def flat(greys, shape=(6, 6)):
    return [np.full(shape, grey, np.uint8) for grey in greys]


@pytest.fixture
def fourteen(given):
    return given(votes_table(ROWS), flat(grey for _, grey, _ in ROWS), notes=["a note"])


def load(**changes):
    return load_faces(Config(dataset="ferplus", **changes))


def numbers(faces, split):
    return [int(name[1:]) for name in faces.split(split).table["id"]]


# -- what is kept


def test_faces_without_a_label_and_leaks_are_left_out_of_training_and_counted(fourteen, caplog):
    with caplog.at_level(logging.WARNING):
        faces = load()
    assert [numbers(faces, split) for split in SPLITS] == [[1, 2], [7, 8], [11, 12]]
    fingerprint = faces.info.pop("fingerprint")
    assert fingerprint.startswith("content-")
    assert len(fingerprint) == len("content-") + 16
    assert faces.info == {
        "dataset": "ferplus", "protocol": "official", "train_protocol": "", "soft_labels": True,
        "no_label": {"train": 2, "val": 1, "test": 1},
        "leaks": 3,  # of faces with a label: 0, 4, 6
        "leaks_dropped": 3,
        "validation_copies": 1,
        "validation_copies_dropped": 1,
        "warnings": ["a note"],
    }  # fmt: skip
    assert caplog.messages == ["a note"]


def test_with_leaks_kept_they_are_counted_all_the_same(fourteen):
    faces = load(drop_leaks=False)
    assert [numbers(faces, split) for split in ("train", "val")] == [[0, 1, 2, 4, 6], [7, 8, 10]]
    assert (faces.info["leaks"], faces.info["leaks_dropped"]) == (3, 0)
    assert faces.info["validation_copies"] == 1
    assert faces.info["validation_copies_dropped"] == 0


def test_hard_labels_need_a_majority_in_training_too(fourteen):
    faces = load(use_soft_labels=False)
    assert numbers(faces, "train") == [1]
    assert faces.info["no_label"]["train"] == 3
    assert faces.info["soft_labels"] is False


@pytest.mark.parametrize(("protocol", "train", "val"), [
    ("official", [0, 1, 2, 4, 6], [7, 8, 10]),
    ("argmax", [0, 1, 2, 4, 6], [7, 8, 9, 10]),
    ("all", [0, 1, 2, 4, 6], [7, 8, 9, 10]),
])  # fmt: skip
def test_each_protocol_keeps_its_rows(fourteen, protocol, train, val):
    faces = load(protocol=protocol, drop_leaks=False)
    assert (numbers(faces, "train"), numbers(faces, "val")) == (train, val)
    assert faces.info["protocol"] == protocol


def test_labels_targets_and_agreement(fourteen):
    faces = load(drop_leaks=False)
    table = faces.table.set_index("id")
    assert table.loc[["f01", "f02", "f08"], "label"].tolist() == [SAD, NEU, ANG]
    assert table.loc[["f00", "f01", "f02", "f08"], "agreement"].tolist() == [1, 0.6, 0.4, 0.8]
    targets = dict(zip(faces.table["id"], faces.targets, strict=True))
    assert faces.targets.dtype == np.float32
    assert targets["f02"].tolist() == pytest.approx([4 / 7, 0, 0, 0, 3 / 7, 0, 0, 0])
    assert targets["f08"].tolist() == [0, 0, 0, 0, 1, 0, 0, 0]  # validation: one-hot
    soft = load(protocol="all", drop_leaks=False)
    targets = dict(zip(soft.table["id"], soft.targets, strict=True))
    assert targets["f01"].tolist() == pytest.approx([0.2, 0, 0, 0.6, 0.1, 0, 0.1, 0])
    assert targets["f08"].tolist() == [0, 0, 0, 0, 1, 0, 0, 0]
    assert targets["f09"].tolist() == [1, 0, 0, 0, 0, 0, 0, 0]  # of a tie, the first


def test_a_data_set_without_one_label_is_refused(given, tmp_path):
    rows = [("train", 1, {"NF": 10}), ("val", 2, {}), ("test", 3, {"unknown": 10})]
    given(votes_table(rows), flat([1, 2, 3]))
    match = f"no face in {tmp_path} has a label under protocol 'argmax'"
    with pytest.raises(ValueError, match=match):
        load(protocol="argmax")


def test_codes_become_labels_and_a_set_without_votes_has_no_protocol(given):
    given(
        coded_table(["train", "train", "val", "test"], [0, 6, 3, 5]), flat([1, 2, 3, 4]), "fer2013"
    )
    faces = load_faces(Config(dataset="fer2013"))
    assert faces.table["label"].tolist() == [ANG, NEU, HAP, SUR]
    np.testing.assert_array_equal(faces.targets, np.eye(7)[[ANG, NEU, HAP, SUR]])
    assert faces.class_names == EMOTIONS[:7]
    assert (faces.info["protocol"], faces.info["soft_labels"]) == ("", False)
    assert faces.info["no_label"] == {"train": 0, "val": 0, "test": 0}
    assert "code" not in faces.table
    assert faces.votes is None
    assert faces.info["warnings"] == []


# -- the validation split


@pytest.mark.parametrize(("dataset", "codes"), [("fer2013", (0, 1, 2)), ("rafdb", (1, 2, 3))])
def test_a_set_without_a_validation_split_gets_a_stratified_tenth(given, dataset, codes):
    counts = (40, 20, 1)  # the last class has one face, which stays in training
    labels = [*np.repeat(codes, counts), *[codes[0]] * 5]
    table = coded_table(["train"] * 61 + ["test"] * 5, labels)
    given(table, flat(range(66)), dataset)
    faces = load_faces(Config(dataset=dataset))
    again = load_faces(Config(dataset=dataset, seed=9))
    pd.testing.assert_frame_equal(faces.table, again.table)
    counts = faces.counts().loc[[faces.class_names[i] for i in faces.table["label"].unique()]]
    assert counts["val"].tolist() == [4, 2, 0]
    assert counts["train"].tolist() == [36, 18, 1]
    assert counts["test"].tolist() == [5, 0, 0]
    said = ["no validation split: using 6 of the training faces, stratified"]
    assert faces.info["warnings"] == (said if dataset == "fer2013" else [])  # usual for RAF-DB


def test_only_a_class_of_one_face_is_left_out_of_the_tenth(given):
    labels = np.repeat([0, 1, 2, 3], [40, 19, 2, 1])  # a tenth of 61, rounded up
    given(coded_table(["train"] * 62, labels), flat(range(62)), "fer2013")
    faces = load_faces(Config(dataset="fer2013"))
    assert (faces.table["split"] == "val").sum() == 7
    assert faces.table["split"].iloc[-1] == "train"


def test_the_validation_split_of_a_set_that_has_one_stays(given):
    table = coded_table(["train"] * 30 + ["val"] * 3 + ["test"], [0] * 34)
    given(table, flat(range(34)), "fer2013")
    assert load_faces(Config(dataset="fer2013")).table["split"].tolist() == table["split"].tolist()


def test_too_few_faces_for_a_validation_split_are_refused(given):
    given(coded_table(["train"] * 4 + ["test"], [0, 0, 1, 1, 0]), flat(range(5)), "fer2013")
    match = "4 training faces are too few to split off a validation set; add faces, or give some as"
    with pytest.raises(ValueError, match=match):
        load_faces(Config(dataset="fer2013"))


# -- a set of faces


@pytest.fixture
def small():
    table = pd.DataFrame({"id": list("abcde"), "split": ["train", "val", "train", "test", "train"],
                          "row": [4, 3, 2, 1, 0], "label": [0, 1, 2, 0, 0]})  # fmt: skip
    images = np.arange(5, dtype=np.uint8)[:, None, None].repeat(2, 1).repeat(2, 2)
    return FaceSet(images, table, np.eye(3)[table["label"]], ("x", "y", "z"), {"a": 1})


def test_splits_and_takes_keep_faces_and_targets_together(small):
    train = small.split("train")
    assert len(train) == 3
    assert train.table["id"].tolist() == ["a", "c", "e"]
    assert train.table.index.tolist() == [0, 1, 2]
    assert train.targets.argmax(axis=1).tolist() == [0, 2, 0]
    assert train.gather(np.array([2, 0]))[:, 0, 0].tolist() == [0, 4]
    assert train.images is small.images
    assert (train.class_names, train.info) == (small.class_names, small.info)
    assert small.take(np.array([3, 1])).table["id"].tolist() == ["d", "b"]


@pytest.mark.parametrize(("count", "ids"), [
    (1, "a"), (2, "ae"), (3, "ace"), (4, "abde"), (5, "abcde"), (9, "abcde")])  # fmt: skip
def test_a_sample_is_spread_from_the_first_face_to_the_last(small, count, ids):
    assert "".join(small.sample(count).table["id"]) == ids


def test_counts_have_every_class_and_split(small):
    counts = small.counts()
    assert counts.to_dict() == {
        "train": {"x": 2, "y": 0, "z": 1}, "val": {"x": 0, "y": 1, "z": 0},
        "test": {"x": 1, "y": 0, "z": 0},
    }  # fmt: skip
    assert list(counts.columns) == ["train", "val", "test"]
    part = small.take(np.array([0, 2])).counts()  # two training faces, of x and z
    assert part.to_numpy().tolist() == [[1, 0, 0], [0, 0, 0], [1, 0, 0]]
    assert set(part.dtypes) == {np.dtype("int64")}
    assert (counts.index.name, counts.columns.name) == ("class", None)


def test_votes_are_all_ten_columns_or_none(fourteen, small):
    votes = load(drop_leaks=False).votes
    assert list(votes.columns) == list(VOTE_COLUMNS)
    assert votes.iloc[0].to_dict() == dict.fromkeys(VOTE_COLUMNS, 0) | {"happiness": 10}
    assert small.votes is None
    table = small.table.assign(**dict.fromkeys(VOTE_COLUMNS[:-1], 0))
    assert FaceSet(small.images, table, small.targets, small.class_names, {}).votes is None


# -- the official rules where they are easy to get wrong


def soft(**votes):
    counts = np.array([[votes.get(name, 0) for name in VOTE_COLUMNS]])
    targets, keep = ferplus_targets(counts, "official", soft=True)
    return {name: round(10 * v) for name, v in zip(EMOTIONS, targets[0], strict=True) if v}, keep[0]


@pytest.mark.parametrize(("votes", "tenths"), [
    # two emotions reach three quarters: the third is not taken
    ({"neutral": 4, "fear": 4, "anger": 2}, {"neutral": 5, "fear": 5}),
    # 5 of 8 are less than three quarters: the next two tie, and both are taken
    ({"neutral": 6, "fear": 2, "anger": 2}, {"neutral": 6, "fear": 2, "anger": 2}),
    # a tie of two and a third
    ({"neutral": 4, "fear": 2, "anger": 2, "sadness": 2}, None),  # four in all
    # a tie and one more are three, though less than three quarters: a fourth would be too many
    ({"neutral": 20, "fear": 20, "anger": 11, "sadness": 10, "disgust": 9, "happiness": 8},
     {"neutral": 4, "fear": 4, "anger": 2}),
    # unknown comes second: what is taken until then has to be more than half
    ({"neutral": 6, "unknown": 4}, {"neutral": 10}),
    ({"neutral": 5, "unknown": 3, "NF": 2}, None),
    # an emotion that ties with unknown is taken, and nothing after
    ({"neutral": 4, "unknown": 3, "fear": 3}, {"neutral": 6, "fear": 4}),
    ({"neutral": 4, "NF": 4, "fear": 2}, None),
    ({"unknown": 7, "neutral": 3}, None),
    ({"NF": 7, "neutral": 3}, None),
])  # fmt: skip
def test_official_soft_labels_at_the_edges(votes, tenths):
    assert soft(**votes) == (tenths or {}, tenths is not None)


@pytest.mark.parametrize("protocol", ["official", "argmax", "all"])
def test_a_row_is_read_alone_as_among_others(protocol):
    votes = np.random.default_rng(1).multinomial(10, [0.3, 0.2, *[0.05] * 6, 0.1, 0.1], size=200)
    for kind in (True, False):
        together, keep = ferplus_targets(votes, protocol, soft=kind)
        for i in range(200):
            alone, kept = ferplus_targets(votes[i : i + 1], protocol, soft=kind)
            np.testing.assert_array_equal(alone[0], together[i])
            assert kept[0] == keep[i]


def test_one_vote_for_an_emotion_is_enough_under_all():
    votes = np.array([[0, 1, 0, 0, 0, 0, 0, 0, 9, 0], [0] * 8 + [5, 5]])
    for kind in (True, False):
        targets, keep = ferplus_targets(votes, "all", soft=kind)
        assert keep.tolist() == [True, False]
        assert targets.tolist() == [[0, 1, 0, 0, 0, 0, 0, 0], [0] * 8]


def test_votes_may_be_a_table_and_stay_as_they_are():
    votes = pd.DataFrame([[1, 9, 0, 0, 0, 0, 0, 0, 0, 0]], columns=VOTE_COLUMNS)
    for kind in (True, False):
        targets, keep = ferplus_targets(votes, "official", soft=kind)
        assert targets.tolist() == [[0, 1, 0, 0, 0, 0, 0, 0]]
        assert keep.tolist() == [True]
    assert votes.to_numpy().sum() == 10


# -- labels made wrong


def test_all_labels_can_be_flipped_and_none():
    labels = np.array([0, 1, 2] * 50)
    flipped, changed = flip_labels(labels, 1.0, np.ones((3, 3)))
    assert changed.all()
    assert (flipped != labels).all()
    for start in range(3):  # both others, equally often
        assert (flipped[labels == start] == (start + 1) % 3).mean() == pytest.approx(0.5, abs=0.2)
    unchanged, changed = flip_labels(labels, 0.0, np.ones((3, 3)))
    assert not changed.any()
    np.testing.assert_array_equal(unchanged, labels)


def test_which_labels_are_flipped_is_drawn_and_two_draws_are_independent():
    labels = np.zeros(4000, dtype=int)
    flipped, changed = flip_labels(labels, 0.5, np.ones((5, 5)))
    assert changed[:2000].mean() == pytest.approx(0.5, abs=0.05)
    np.testing.assert_allclose(np.bincount(flipped[changed])[1:] / 2000, 0.25, atol=0.04)
    again, other = (flip_labels(labels, 0.5, np.ones((5, 5)), seed=s)[1] for s in (0, 1))
    np.testing.assert_array_equal(changed, again)
    assert (changed == other).mean() == pytest.approx(0.5, abs=0.05)


def test_a_class_that_stays_may_be_without_confusions():
    chances = np.array([[0.0, 1], [0, 3]])  # class 1 has nothing to become
    flipped, _ = flip_labels(np.zeros(4, dtype=int), 1.0, chances)
    assert flipped.tolist() == [1] * 4
    with pytest.raises(ValueError, match="class 1 is never confused with another; use symmetric"):
        flip_labels(np.ones(4, dtype=int), 0.5, chances)
    with pytest.raises(ValueError, match="class fear is never confused with another"):
        flip_labels(np.full(4, 2), 0.5, np.eye(3), ["joy", "anger", "fear"])


def test_small_chances_count_by_their_proportions():
    flipped, _ = flip_labels(np.zeros(4000, dtype=int), 1.0, np.array([[0, 0.03, 0.01]] * 3))
    assert (flipped == 1).mean() == pytest.approx(0.75, abs=0.03)


def test_a_class_is_taken_for_what_the_voters_of_its_own_training_faces_saw(given):
    rows = [("train", i, {"neutral": 6, "sadness": 4}) for i in range(20)]
    rows += [("train", 20 + i, {"sadness": 8, "anger": 2}) for i in range(20)]
    rows += [("val", 40 + i, {"neutral": 6, "fear": 4}) for i in range(20)]
    given(votes_table(rows), flat(range(60)))
    options = {"label_noise": 0.5, "noise_kind": "confusion", "use_soft_labels": False}
    faces, other = load(**options), load(**options, seed=1)
    table = faces.table
    wrong = table[table["label"] != table["true_label"]]
    assert len(wrong) == faces.info["labels_made_wrong"] == 20
    assert set(zip(wrong["true_label"], wrong["label"], strict=True)) == {(NEU, SAD), (SAD, ANG)}
    assert (table["label"] != other.table["label"]).any()
    assert "labels_made_wrong" not in load().info
    assert "true_label" not in load().table


# -- the cache


def folders(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache").iterdir() if path.is_dir())


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3)])
def test_pictures_are_decoded_once_and_equal_ones_have_equal_hashes(given, tmp_path, shape):
    images = flat([7, 9, 7], shape)
    images[1][2, 3] = 1
    table = coded_table(["train", "val", "test"], [0, 1, 0])
    reads = given(table, images, "fer2013")
    faces = load_faces(Config(dataset="fer2013", drop_leaks=False))
    assert load_faces(Config(dataset="fer2013", drop_leaks=False)).table.equals(faces.table)
    assert len(reads) == 1
    np.testing.assert_array_equal(faces.images, images)
    assert faces.images.dtype == np.uint8
    assert faces.table["row"].tolist() == [0, 1, 2]
    first, second, third = faces.table["image_hash"]
    assert first == third != second
    assert len(first) == 16
    assert len(folders(tmp_path)) == 1
    assert list(faces.table) == ["id", "split", "file", "row", "image_hash", "label"]


def test_a_cache_is_filled_beside_its_place_so_that_it_appears_whole(given, tmp_path):
    def pictures():
        yield np.zeros((4, 4), np.uint8)
        (filling,) = folders(tmp_path)
        assert filling.startswith(".filling-")
        yield from flat([2, 3], (4, 4))

    given(coded_table(["train", "val", "test"], [0, 1, 0]), pictures(), "fer2013")
    assert len(load_faces(Config(dataset="fer2013"))) == 3
    (place,) = folders(tmp_path)
    assert not place.startswith(".")


def test_ids_and_files_that_look_like_numbers_stay_text(given):
    table = coded_table(["train", "val", "test"], [0, 1, 0])
    table["id"], table["file"] = ["001", "002", "003"], ["010", "020", "030"]
    given(table, flat([1, 2, 3]), "fer2013")
    faces = load_faces(Config(dataset="fer2013"))
    assert faces.table["id"].tolist() == ["001", "002", "003"]
    assert faces.table["file"].tolist() == ["010", "020", "030"]
    assert faces.table["image_hash"].map(type).eq(str).all()


@pytest.fixture
def files(tmp_path):
    (tmp_path / "set").mkdir()
    paths = [tmp_path / "set/a.png", tmp_path / "beside.csv"]
    for path in paths:
        path.write_bytes(b"content")
        os.utime(path, ns=(10**18, 10**18))
    return paths


def cached(given, files, kind="fer2013", root=None):
    """The cache's folders after a load, and the data set's fingerprint."""
    table = coded_table(["train", "val", "test"], [0, 1, 0])
    root = root or files[0].parent
    given(table, flat([1, 2, 3]), kind, files=files, root=root)
    print_ = load_faces(Config(dataset="fer2013")).info["fingerprint"]
    return set(folders(files[0].parents[1] if files else root.parent)), print_


@pytest.mark.parametrize("changed", ["size", "time", "name", "number", "kind", "version"])
def test_the_cache_is_filled_again_after_every_change_and_the_fingerprint_is_of_the_content(
    given, files, changed, monkeypatch
):
    before, kind = cached(given, files), "fer2013"
    assert cached(given, files) == before
    if changed == "size":
        files[0].write_bytes(b"other content")
        os.utime(files[0], ns=(10**18, 10**18))
    elif changed == "time":
        os.utime(files[1], ns=(10**18 + 1, 10**18 + 1))
    elif changed == "name":
        files[0] = files[0].rename(files[0].with_name("b.png"))
    elif changed == "number":
        files.pop()
    elif changed == "kind":
        kind = "fer2013-folders"
    else:
        monkeypatch.setattr(module, "VERSION", module.VERSION + 1)
    after = cached(given, files, kind)
    assert after[0] - before[0]
    assert after[1] == before[1]  # the decoded faces and labels are the same


@pytest.mark.parametrize("changed", ["pixel", "label", "split", "id", "order"])
def test_the_fingerprint_is_of_ids_splits_labels_and_pixels(given, files, changed):
    faces = {"splits": ["train", "val", "test"], "codes": [0, 1, 0], "greys": [1, 2, 3]}

    def print_of(given_faces, ids=None):
        table = coded_table(given_faces["splits"], given_faces["codes"])
        table = table if ids is None else table.assign(id=ids)
        files[0].write_bytes(files[0].read_bytes() + b".")  # so that it is read again
        given(table, flat(given_faces["greys"]), "fer2013", files=files, root=files[0].parent)
        return load_faces(Config(dataset="fer2013")).info["fingerprint"]

    before = print_of(faces)
    assert print_of(faces) == before
    other = {
        "pixel": {"greys": [1, 2, 4]}, "label": {"codes": [0, 1, 1]},
        "split": {"splits": ["train", "val", "val"]}, "id": {}, "order": {"greys": [2, 1, 3]},
    }[changed]  # fmt: skip
    assert print_of(faces | other, ids=["x", "y", "z"] if changed == "id" else None) != before


def test_a_new_state_replaces_the_cache_of_its_own_folder_and_no_other(
    given, files, tmp_path, caplog
):
    (tmp_path / "other").mkdir()
    cached(given, [], root=tmp_path / "other")
    cached(given, files, kind="fer2013-folders")
    before = set(folders(tmp_path))
    old, _ = cached(given, files)
    os.utime(files[0], ns=(1, 1))
    with caplog.at_level(logging.INFO):
        new, _ = cached(given, files)
    assert f"the files of {tmp_path / 'set'} changed: removing its old cache" in caplog.messages
    assert before < new
    (left,) = new - before
    assert left.startswith("fer2013-")
    assert left not in old


@pytest.mark.parametrize("rows", [0, 2])
def test_a_set_that_cannot_be_read_leaves_nothing_and_can_be_read_later(given, tmp_path, rows):
    table = coded_table(["train", "val", "test"], [0, 1, 0])

    def broken():
        yield np.zeros((4, 4), np.uint8)
        raise ValueError("a broken picture")

    match = "a broken picture" if rows else f"{tmp_path} holds no image of a known layout"
    given(table if rows else table[:0], broken(), "fer2013")
    with pytest.raises(ValueError, match=match):
        load_faces(Config(dataset="fer2013"))
    assert folders(tmp_path) == []
    given(table, flat([1, 2, 3]), "fer2013")
    assert len(load_faces(Config(dataset="fer2013"))) == 3


@pytest.mark.parametrize("place", ["folder", "images", "table", "lock"])
def test_a_cache_that_cannot_be_written_names_the_way_out(given, tmp_path, monkeypatch, place):
    given(coded_table(["train", "val", "test"], [0, 1, 0]), flat([1, 2, 3]), "fer2013")
    cache = tmp_path / "cache"

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    if place == "folder":
        cache.write_text("a file in the way")
    else:
        name = {"images": "numpy.lib.format.open_memmap", "table": "pandas.DataFrame.to_csv",
                "lock": "grefel_lib.faces.FileLock.acquire"}[place]  # fmt: skip
        monkeypatch.setattr(name, full)
    reason = "File exists" if place == "folder" else "No space left on device"
    match = rf"cannot write the cache of decoded images in {cache} \({reason}\).*set GREFEL_CACHE"
    with pytest.raises(OSError, match=match):
        load_faces(Config(dataset="fer2013"))
    if place != "folder":
        assert folders(tmp_path) == []


def test_the_room_for_the_pictures_is_taken_at_once(tmp_path):
    store = module._room(tmp_path / "images.npy", (50, 64, 64))
    assert (tmp_path / "images.npy").stat().st_blocks * 512 >= 50 * 64 * 64
    assert store.dtype == np.uint8
    store[:] = 5
    store.flush()
    assert (np.load(tmp_path / "images.npy") == 5).all()


def test_the_cache_is_in_the_project_or_where_the_environment_says(monkeypatch):
    monkeypatch.setenv("GREFEL_CACHE", "~/somewhere")
    assert cache_root() == Path.home() / "somewhere"
    for empty in ("", None):
        monkeypatch.delenv("GREFEL_CACHE") if empty is None else monkeypatch.setenv(
            "GREFEL_CACHE", empty
        )
        assert cache_root() == PROJECT_ROOT / "data/cache"
