"""The built-in faces: they differ as they should, and every layout holds what it promises."""

import csv
import hashlib
from collections import Counter, defaultdict

import numpy as np
import pytest
from PIL import Image

from grefel_lib.labels import EMOTIONS, FER2013_CODES, FOLDER_NAMES, RAFDB_CODES, VOTE_COLUMNS
from grefel_lib.sources.synthetic import (
    LAYOUTS,
    draw_face,
    mix_emotions,
    simulate_votes,
    write_synthetic,
)

USAGE_FOLDERS = {
    "Training": "FER2013Train", "PublicTest": "FER2013Valid", "PrivateTest": "FER2013Test",
}  # fmt: skip
IMAGES = 400


def tree(folder):
    """Every file below a folder, by its relative path."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def vote_array(rows):
    return np.array([[int(row[column]) for column in VOTE_COLUMNS] for row in rows])


def image_path(folder, row):
    return folder / "Images" / USAGE_FOLDERS[row["Usage"]] / row["Image name"]


def person(seed):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def ferplus(tmp_path_factory):
    return write_synthetic(tmp_path_factory.mktemp("data") / "plus", images=IMAGES)


@pytest.fixture(scope="module")
def ferplus_rows(ferplus):
    return read_csv(ferplus / "fer2013new.csv")


@pytest.fixture(scope="module")
def rafdb(tmp_path_factory):
    return write_synthetic(tmp_path_factory.mktemp("data") / "raf", layout="rafdb", images=100)


def test_every_annotator_votes_once_and_clear_faces_get_clear_votes():
    votes = simulate_votes(np.repeat(np.eye(8), 200, axis=0), person(0), annotators=10)
    assert votes.shape == (1600, 10)
    assert (votes.sum(axis=1) == 10).all()
    share = votes.reshape(8, 200, 10).mean(axis=1) / 10
    assert (share[np.arange(8), np.arange(8)] > 0.8).all()


def test_an_ambiguous_face_divides_the_votes():
    mixture = np.tile(0.5 * np.eye(8)[2] + 0.5 * np.eye(8)[6], (500, 1))
    share = simulate_votes(mixture, person(0)).mean(axis=0) / 10
    assert abs(share[2] - share[6]) < 0.05
    assert share[2] > 0.35


def test_true_mixtures_are_distributions_led_by_their_emotion():
    emotions = np.repeat(np.arange(8), 300)
    mixtures = mix_emotions(emotions, person(0))
    np.testing.assert_allclose(mixtures.sum(axis=1), 1)
    assert (mixtures >= 0).all()
    leads = mixtures.argmax(axis=1) == emotions
    assert 0.85 < leads.mean() < 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_seed_fixes_every_byte(layout, tmp_path):
    one, same = (tree(write_synthetic(tmp_path / n, layout=layout, images=100)) for n in "ab")
    assert one == same
    assert len(one) >= 1


@pytest.mark.parametrize("layout", ["ferplus", "rafdb"])
def test_another_seed_draws_other_people(layout, tmp_path):
    one, other = (
        tree(write_synthetic(tmp_path / str(seed), layout=layout, images=100, seed=seed))
        for seed in (0, 1)
    )
    pictures = [{data for path, data in files.items() if path.endswith(("png", "jpg"))}
                for files in (one, other)]  # fmt: skip
    assert min(map(len, pictures)) > 80
    assert not pictures[0] & pictures[1]


def test_ferplus_has_the_published_header_splits_and_images(ferplus, ferplus_rows):
    header = (ferplus / "fer2013new.csv").read_text().splitlines()[0]
    assert header == (
        "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
    )
    usages = [row["Usage"] for row in ferplus_rows]
    assert usages == ["Training"] * 320 + ["PublicTest"] * 40 + ["PrivateTest"] * 40
    named = {image_path(ferplus, row) for row in ferplus_rows if row["Image name"]}
    assert named == set(ferplus.rglob("*.png"))
    for path in named:
        with Image.open(path) as image:
            assert (image.size, image.mode) == ((48, 48), "L")


def test_ferplus_rows_have_ten_votes_and_one_row_has_nine(ferplus_rows):
    assert Counter(vote_array(ferplus_rows).sum(axis=1).tolist()) == {10: IMAGES - 1, 9: 1}


def test_rows_without_a_name_are_non_faces_and_some_faces_have_no_emotion_vote(ferplus_rows):
    emotions = vote_array(ferplus_rows)[:, :8].sum(axis=1)
    unnamed = np.array([not row["Image name"] for row in ferplus_rows])
    assert unnamed.sum() >= 3
    assert (emotions[unnamed] == 0).all()
    assert (vote_array(ferplus_rows)[unnamed].argmax(axis=1) == 9).all()
    assert (emotions[~unnamed] == 0).sum() >= 3


def test_one_image_name_occurs_twice_with_different_votes(ferplus_rows):
    names = Counter(row["Image name"] for row in ferplus_rows if row["Image name"])
    (twice,) = [name for name, count in names.items() if count == 2]
    first, second = vote_array([row for row in ferplus_rows if row["Image name"] == twice])
    assert max(names.values()) == 2
    assert (first != second).any()


def test_copies_are_pixel_identical_and_cross_every_pair_of_splits(ferplus, ferplus_rows):
    groups = defaultdict(list)
    for row in ferplus_rows:
        if row["Image name"]:
            with Image.open(image_path(ferplus, row)) as image:
                groups[hashlib.sha256(image.tobytes()).hexdigest()].append(row)
    copies = [rows for rows in groups.values() if len(rows) > 1]
    pairs = {frozenset(row["Usage"] for row in rows) for rows in copies}
    for pair in (
        {"Training"}, {"Training", "PublicTest"}, {"Training", "PrivateTest"},
        {"PublicTest", "PrivateTest"},
    ):  # fmt: skip
        assert any(pair <= found for found in pairs), pair
    extra = sum(len(rows) - 1 for rows in copies)
    assert 0.01 * IMAGES < extra < 0.04 * IMAGES
    assert any((np.ptp(vote_array(rows), axis=0) > 0).any() for rows in copies)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_class_has_a_handful_of_majority_labels_in_every_split(seed, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "grefel_lib.sources.synthetic.draw_face", lambda *_: np.zeros((48, 48), dtype=np.uint8)
    )
    write_synthetic(tmp_path / "new", images=1500, seed=seed)
    rows = read_csv(tmp_path / "new" / "fer2013new.csv")
    votes, usages = vote_array(rows), np.array([row["Usage"] for row in rows])
    votes[votes == 1] = 0
    majority = votes.max(axis=1) > votes.sum(axis=1) / 2
    for usage in USAGE_FOLDERS:
        winners = votes[majority & (usages == usage)].argmax(axis=1)
        counts = np.bincount(winners, minlength=10)[:8]
        assert counts.min() >= 4, (usage, counts)
        assert counts[:2].sum() > counts[2:].sum()  # as imbalanced as FERPlus
        assert counts[0] > 3 * counts[7]


def test_a_linear_model_on_pixels_learns_something_but_not_the_task():
    emotions = np.arange(1200) % 8
    faces = [draw_face(EMOTIONS[e], person(i)) for i, e in enumerate(emotions)]
    pixels = np.stack(faces).reshape(1200, -1) / 255
    pixels = (pixels - pixels.mean(axis=0)) / pixels.std(axis=0)
    train, test = pixels[:1000], pixels[1000:]
    ridge = train @ train.T + 1000 * np.eye(1000)  # the dual form: fewer faces than pixels
    scores = test @ (train.T @ np.linalg.solve(ridge, np.eye(8)[emotions[:1000]]))
    accuracy = np.mean(scores.argmax(axis=1) == emotions[1000:])
    assert 0.25 < accuracy < 0.75


def test_fer2013_holds_the_rows_of_ferplus_with_its_own_noisy_labels(
    ferplus, ferplus_rows, tmp_path
):
    write_synthetic(tmp_path / "fer", layout="fer2013", images=IMAGES)
    rows = read_csv(tmp_path / "fer" / "fer2013.csv")
    assert list(rows[0]) == ["emotion", "pixels", "Usage"]
    assert [row["Usage"] for row in rows] == [row["Usage"] for row in ferplus_rows]
    assert {int(row["emotion"]) for row in rows} == set(FER2013_CODES)
    agree = []
    for row, voted in zip(rows, ferplus_rows, strict=True):
        pixels = np.array(row["pixels"].split(), dtype=np.uint8).reshape(48, 48)
        if voted["Image name"]:
            with Image.open(image_path(ferplus, voted)) as image:
                np.testing.assert_array_equal(pixels, np.asarray(image))
            winner = VOTE_COLUMNS[vote_array([voted])[0].argmax()]
            agree.append(FER2013_CODES[int(row["emotion"])] == winner)
    assert 0.55 < np.mean(agree) < 0.8


def test_fer2013_folders_sort_the_same_rows_by_emotion(tmp_path):
    write_synthetic(tmp_path / "csv", layout="fer2013", images=100)
    write_synthetic(tmp_path / "kaggle", layout="fer2013_folders", images=100)
    expected = set()
    for number, row in enumerate(read_csv(tmp_path / "csv" / "fer2013.csv")):
        folder = "train" if row["Usage"] == "Training" else "test"
        emotion = FER2013_CODES[int(row["emotion"])]
        expected.add((folder, emotion, f"{row['Usage']}_{number}.jpg"))
    files = [path.split("/") for path in tree(tmp_path / "kaggle")]
    assert {(top, FOLDER_NAMES[name], file) for top, name, file in files} == expected


def test_rafdb_has_a_label_an_image_a_box_and_landmarks_for_every_row(rafdb):
    basic = rafdb / "basic"
    lines = (basic / "EmoLabel" / "list_patition_label.txt").read_text().splitlines()
    codes = dict(line.split(" ") for line in lines)
    assert lines[0].startswith("train_00001.jpg ")
    assert "test_0001.jpg" in codes
    assert Counter(name.split("_")[0] for name in codes) == {"train": 80, "test": 20}
    assert {int(code) for code in codes.values()} == set(RAFDB_CODES)
    for name in codes:
        stem = name.removesuffix(".jpg")
        with Image.open(basic / "Image" / "aligned" / f"{stem}_aligned.jpg") as aligned:
            assert (aligned.size, aligned.mode) == ((100, 100), "RGB")
        with Image.open(basic / "Image" / "original" / name) as original:
            width, height = original.size
        box = (basic / "Annotation" / "boundingbox" / f"{stem}_boundingbox.txt").read_text()
        left, top, right, bottom = map(float, box.split())
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        manual = (basic / "Annotation" / "manual" / f"{stem}_manu_attri.txt").read_text()
        *points, gender, race, age = manual.splitlines()
        marks = np.array([point.split() for point in points], dtype=float)
        assert marks.shape == (5, 2)
        assert ((left, top) < marks).all()
        assert (marks < (right, bottom)).all()
        assert marks[0, 0] < marks[1, 0]
        assert (gender in "012", race in "012", age in "01234") == (True, True, True)


def test_the_aligned_face_is_the_box_of_the_original(rafdb):
    folder = rafdb / "basic"
    box = (folder / "Annotation/boundingbox/train_00001_boundingbox.txt").read_text().split()
    with Image.open(folder / "Image/original/train_00001.jpg") as original:
        cut = original.resize((100, 100), Image.Resampling.BILINEAR, box=tuple(map(float, box)))
    with Image.open(folder / "Image/aligned/train_00001_aligned.jpg") as aligned:
        difference = np.abs(np.asarray(cut, dtype=int) - np.asarray(aligned, dtype=int))
    assert difference.mean() < 4


def test_rafdb_compound_has_its_eleven_classes_in_both_splits(tmp_path):
    folder = write_synthetic(tmp_path / "raf", layout="rafdb_compound", images=120) / "compound"
    lines = (folder / "EmoLabel" / "list_patition_label.txt").read_text().split()
    classes = {
        (name.split("_")[0], int(c)) for name, c in zip(lines[::2], lines[1::2], strict=True)
    }
    assert classes == {(split, code) for split in ("train", "test") for code in range(1, 12)}
    assert len(list((folder / "Image" / "aligned").iterdir())) == 120


def test_the_kaggle_mirror_holds_the_aligned_faces_of_rafdb(rafdb, tmp_path):
    folder = write_synthetic(tmp_path / "raf", layout="rafdb_kaggle", images=100)
    for split, count in (("train", 80), ("test", 20)):
        rows = read_csv(folder / f"{split}_labels.csv")
        assert len(rows) == count
        for row in rows:
            ours = folder / "DATASET" / split / row["label"] / row["image"]
            theirs = rafdb / "basic" / "Image" / "aligned" / row["image"]
            assert ours.read_bytes() == theirs.read_bytes()


def test_an_empty_folder_is_filled_and_nothing_else_is_left_beside_it(tmp_path):
    (tmp_path / "faces").mkdir()
    assert write_synthetic(tmp_path / "faces", images=100) == tmp_path / "faces"
    assert [path.name for path in tmp_path.iterdir()] == ["faces"]
    assert (tmp_path / "faces" / "fer2013new.csv").is_file()


def test_a_folder_that_is_not_empty_is_refused_and_untouched(tmp_path):
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(ValueError, match="not empty"):
        write_synthetic(tmp_path, images=100)
    assert tree(tmp_path) == {"mine.txt": b"keep me"}


def test_a_file_is_refused_as_the_destination(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError, match="is a file"):
        write_synthetic(tmp_path / "file", images=100)


def test_an_unknown_layout_and_too_few_images_are_refused_with_the_choices(tmp_path):
    with pytest.raises(ValueError, match="'affectnet'; choose from: ferplus, fer2013"):
        write_synthetic(tmp_path / "new", layout="affectnet")
    with pytest.raises(ValueError, match="images=99"):
        write_synthetic(tmp_path / "new", images=99)
    assert not list(tmp_path.iterdir())


def test_a_failure_half_way_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("grefel_lib.sources.synthetic._csv", fail)
    with pytest.raises(OSError, match="No space left"):
        write_synthetic(tmp_path / "new", images=100)
    assert not list(tmp_path.iterdir())
