"""The built-in faces: they differ as they should, and lie on disk as FERPlus does."""

import csv
import hashlib
from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from grefel_lib.labels import EMOTIONS, VOTE_COLUMNS
from grefel_lib.sources.synthetic import (
    draw_face,
    draw_non_face,
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


def drawn(emotion, seed, strength=1.0):
    return draw_face(strength * np.eye(8)[EMOTIONS.index(emotion)], person(seed)).astype(int)


@pytest.fixture(scope="module")
def ferplus(tmp_path_factory):
    return write_synthetic(tmp_path_factory.mktemp("data") / "plus", images=IMAGES)


@pytest.fixture(scope="module")
def ferplus_rows(ferplus):
    return read_csv(ferplus / "fer2013new.csv")


def test_every_annotator_votes_once_and_clear_faces_get_clear_votes():
    votes = simulate_votes(np.repeat(np.eye(8), 200, axis=0), person(0))
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


def test_a_seed_fixes_every_byte(tmp_path):
    one, same = (tree(write_synthetic(tmp_path / name, images=100)) for name in "ab")
    assert one == same
    assert len(one) > 90


def test_another_seed_draws_other_people(tmp_path):
    one, other = (
        tree(write_synthetic(tmp_path / str(seed), images=100, seed=seed)) for seed in (0, 1)
    )
    pictures = [{data for path, data in files.items() if path.endswith("png")}
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
    faces = [drawn(EMOTIONS[e], i) for i, e in enumerate(emotions)]
    pixels = np.stack(faces).reshape(1200, -1) / 255
    pixels = (pixels - pixels.mean(axis=0)) / pixels.std(axis=0)
    train, test = pixels[:1000], pixels[1000:]
    ridge = train @ train.T + 1000 * np.eye(1000)  # the dual form: fewer faces than pixels
    scores = test @ (train.T @ np.linalg.solve(ridge, np.eye(8)[emotions[:1000]]))
    accuracy = np.mean(scores.argmax(axis=1) == emotions[1000:])
    assert 0.25 < accuracy < 0.75


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


def test_too_few_images_are_refused(tmp_path):
    with pytest.raises(ValueError, match="images=99"):
        write_synthetic(tmp_path / "new", images=99)
    assert not list(tmp_path.iterdir())


def test_a_failure_half_way_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("grefel_lib.sources.synthetic.draw_non_face", fail)  # some faces are there
    with pytest.raises(OSError, match="No space left"):
        write_synthetic(tmp_path / "new", images=100)
    assert not list(tmp_path.iterdir())


# -- one face


def test_the_expressions_of_one_person_differ_visibly():
    for seed in range(5):
        faces = {e: drawn(e, seed) for e in EMOTIONS}
        for one in EMOTIONS:
            for other in EMOTIONS[: EMOTIONS.index(one)]:
                middle = np.abs(faces[one] - faces[other])[8:44, 8:40]
                assert middle.mean() > 1.0, (seed, one, other)
                assert (middle > 20).sum() >= 20, (seed, one, other)


def test_no_weight_is_the_neutral_face_and_more_weight_moves_further_away():
    neutral = drawn("neutral", 3)
    distance = [np.abs(drawn("fear", 3, weight) - neutral).mean() for weight in (0.0, 0.5, 1.0)]
    assert distance[0] == 0
    assert 0 < distance[1] < distance[2]


def test_a_blend_lies_between_its_emotions():
    happiness, surprise = drawn("happiness", 1), drawn("surprise", 1)
    blend = draw_face(np.eye(8)[[1, 2]].mean(axis=0), person(1)).astype(int)
    apart = np.abs(happiness - surprise).mean()
    assert np.abs(blend - happiness).mean() < apart
    assert np.abs(blend - surprise).mean() < apart


def test_every_face_has_contrast_and_no_two_people_look_alike():
    faces = [drawn("neutral", seed) for seed in range(40)]
    assert min(face.std() for face in faces) > 8
    apart = [np.abs(one - other).mean() for one, other in pairwise(faces)]
    assert min(apart) > 8


def test_non_faces_are_grey_pictures_that_differ():
    pictures = [draw_non_face(person(seed)) for seed in range(12)]
    assert {(picture.shape, picture.dtype.name) for picture in pictures} == {((48, 48), "uint8")}
    assert len({picture.tobytes() for picture in pictures}) == 12
