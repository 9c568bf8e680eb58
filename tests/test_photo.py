"""Faces in pictures: found where they are, whatever the size; pictures read the right way up."""

import io

import numpy as np
import pytest
from matplotlib.cbook import get_sample_data
from PIL import Image

from grefel_lib.config import Config
from grefel_lib.faces import load_faces
from grefel_lib.sources.photo import (
    crop_box,
    find_faces,
    group_picture,
    read_photo,
    whole_picture,
)


@pytest.fixture(scope="module")
def drawn(faces_dir):
    """Four drawn faces that the detector takes for faces."""
    config = Config.resolve({"dataset": "ferplus", "data_dir": str(faces_dir), "profile": "demo"})
    faces = load_faces(config).gather(range(12))
    one = [f for f in faces if len(find_faces(group_picture([f]))) == 1]
    return one[:4]


def overlap(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0) / ((a[2] - a[0]) * (a[3] - a[1]))


@pytest.mark.parametrize("side", [60, 160, 420])
def test_several_faces_are_found_from_left_to_right_at_any_size(drawn, side):
    picture = group_picture(drawn, side=side)
    boxes = find_faces(picture)
    gap = side // 2
    assert len(boxes) == len(drawn) == 4
    for number, box in enumerate(boxes):
        left = gap + number * (side + gap)
        assert box[2] - box[0] == pytest.approx(box[3] - box[1], abs=1)  # a square
        assert overlap(box, (left, gap, left + side, gap + side)) > 0.8
        assert 0.5 < (box[2] - box[0]) / side < 1.3


@pytest.mark.parametrize("angle", [-45, -15, 0, 15, 45])
@pytest.mark.parametrize("scale", [1.0, 0.25, 0.125])
def test_the_face_in_a_photograph_is_found_large_and_small_upright_and_tilted(scale, angle):
    # Grace Hopper in 1984, a photograph in the public domain that matplotlib brings along
    with Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)) as photograph:
        size = [round(edge * scale) for edge in photograph.size]
        turned = photograph.rotate(angle, Image.Resampling.BICUBIC).resize(size)
    (box,) = find_faces(np.asarray(turned))
    assert overlap(box, (0, 0, *size)) == 1.0
    assert 0.3 < (box[2] - box[0]) / size[0] < 0.6
    if angle == 0:  # eyes and mouth, seen in the photograph
        for x, y in ((0.44, 0.33), (0.60, 0.33), (0.52, 0.48)):
            assert box[0] < x * size[0] < box[2]
            assert box[1] < y * size[1] < box[3]


def test_no_face_in_a_picture_without_one():
    rng = np.random.default_rng(0)
    assert find_faces(rng.integers(0, 255, (200, 300, 3), dtype=np.uint8)) == []
    assert find_faces(np.zeros((7, 500, 3), np.uint8)) == []


def test_a_crop_is_what_is_in_the_box_and_repeats_the_border_beyond_the_edge():
    picture = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    np.testing.assert_array_equal(crop_box(picture, (1, 0, 3, 2)), picture[0:2, 1:3])
    beyond = crop_box(picture, (-2, 2, 2, 6))
    assert beyond.shape == (4, 4, 3)
    np.testing.assert_array_equal(beyond[0], picture[2, [0, 0, 0, 1]])
    np.testing.assert_array_equal(beyond[3], beyond[1])
    np.testing.assert_array_equal(crop_box(picture, whole_picture(picture)), picture)


def test_a_photograph_is_read_the_right_way_up():
    sideways = Image.new("RGB", (4, 2), "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    content = io.BytesIO()
    sideways.save(content, "jpeg", exif=exif)
    content.seek(0)
    assert read_photo(content).shape == (4, 2, 3)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "I;16"])
def test_every_kind_of_picture_becomes_rgb(mode):
    content = io.BytesIO()
    Image.new(mode, (3, 2)).save(content, "png")
    content.seek(0)
    read = read_photo(content)
    assert (read.shape, read.dtype) == ((2, 3, 3), np.uint8)


def test_what_is_no_picture_is_named(tmp_path):
    file = tmp_path / "notes.png"
    with pytest.raises(FileNotFoundError, match=r"no picture at .*notes\.png"):
        read_photo(file)
    file.write_text("hello")
    with pytest.raises(ValueError, match=r"notes\.png cannot be read as a picture"):
        read_photo(file)
    with pytest.raises(ValueError, match=r"^mine\.jpg cannot be read as a picture"):
        read_photo(io.BytesIO(b"\xff\xd8 cut off"), "mine.jpg")


def test_a_group_picture_holds_the_faces_side_by_side():
    bright, dark = np.full((48, 48), 255, np.uint8), np.zeros((48, 48, 3), np.uint8)
    picture = group_picture([bright, dark], side=20)
    assert picture.shape == (40, 70, 3)
    assert (picture[10:30, 10:30] == 255).all()
    assert (picture[10:30, 40:60] == 0).all()
    picture[10:30, 10:30] = picture[10:30, 40:60] = 150
    assert (picture == 150).all()
