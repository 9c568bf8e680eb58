"""The face panel: pictures that come in, faces that are chosen, runs that are changed."""

import base64
import dataclasses
import datetime
import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from grefel_lib.faces import load_faces
from grefel_lib.panels.face import WHOLE, FacePanel
from grefel_lib.restore import FaceTest
from grefel_lib.sources.photo import find_faces, group_picture, whole_picture


@pytest.fixture(scope="module")
def photo(small_run):
    faces = load_faces(small_run.config).gather(range(12))
    one = [f for f in faces if len(find_faces(group_picture([f]))) == 1]
    return group_picture(one[:2])


@pytest.fixture
def panel(small_run, photo, other_outputs, monkeypatch):
    """Two faces to look at, nothing drawn."""
    for name in ("explanation_figure", "detected_faces"):
        monkeypatch.setattr(f"grefel_lib.panels.face.{name}", lambda *_: Figure(figsize=(1, 1)))
    return FacePanel(small_run, photo)


def png(image):
    content = io.BytesIO()
    image.save(content, "png")
    return content.getvalue()


def drop(panel, name, content, *, cut=0):
    """What the zone writes when a file falls on it."""
    data = base64.b64encode(content).decode()
    panel.dropped.value = f"{name}|data:image/png;base64,{data[: len(data) - cut]}"


def test_it_opens_on_the_first_face_and_each_can_be_chosen(panel, photo, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "grefel_lib.panels.face.explanation_figure",
        lambda explained: seen.append(explained.face) or Figure(figsize=(1, 1)),
    )
    assert panel.face.options == ("face 1", "face 2", WHOLE)
    assert "a picture with 2 faces" in panel.found.value
    for choice in ("face 2", WHOLE, "face 1"):
        panel.face.value = choice
        assert f"{choice}: " in panel.message.value
    boxes = panel.photo.boxes
    shown = (boxes[1], whole_picture(panel.photo.picture), boxes[0])
    for (left, top, right, bottom), face in zip(shown, seen, strict=True):
        crop = Image.fromarray(photo[top:bottom, left:right]).convert("L")
        np.testing.assert_array_equal(face, crop.resize((48, 48), Image.Resampling.BICUBIC))


def test_the_whole_picture_gets_no_label_where_it_is_unlike_a_face(panel):
    size = panel.trained.model.backbone.num_features
    none = FaceTest(np.zeros(size), np.zeros((1, size)), limit=0.0)
    panel.trained = dataclasses.replace(panel.trained, face_test=none)
    for choice, words in ((WHOLE, f"{WHOLE}: not sure (unlike a face)"), ("face 1", "face 1: ")):
        panel.face.value = choice
        assert panel.message.value.count(words) == 1
        assert ("unlike" in panel.message.value) == (choice == WHOLE)


def test_a_dropped_picture_replaces_the_first_and_may_come_again(panel):
    content = png(Image.new("RGB", (300, 200), "navy"))
    for _ in range(2):
        drop(panel, "blue.png", content)
        assert panel.photo.picture.shape == (200, 300, 3)
        assert panel.face.options == (WHOLE,)
        assert "no face was found" in panel.message.value
        assert panel.face.value is None
        assert panel.shown.value == panel.dropped.value == ""
    panel.face.value = WHOLE
    assert f"{WHOLE}: " in panel.message.value


def test_what_is_dropped_is_one_file(panel, photo):
    panel.dropped.value = "|"  # what the zone writes for text, or for several files
    assert "drop one picture file" in panel.message.value
    np.testing.assert_array_equal(panel.photo.picture, photo)


def test_an_uploaded_picture_is_taken_too(panel, photo):
    panel.look_at(photo[:, : photo.shape[1] // 2])
    assert panel.photo.found == 1
    content = png(Image.fromarray(photo))
    file = {"name": "two.png", "type": "image/png", "size": len(content), "content": content,
            "last_modified": datetime.datetime.now()}  # fmt: skip
    for _ in range(2):  # the same file may come again
        panel.look_at(photo[:, : photo.shape[1] // 2])
        panel.upload.value = (file,)
        assert panel.photo.found == 2


@pytest.mark.parametrize(
    ("content", "cut", "told"),
    [
        (b"hello", 0, "mine.png cannot be read as a picture"),
        (b"hello there", 3, "mine.png was not received completely"),
    ],
)
def test_what_is_no_picture_is_said_and_the_last_one_stays(panel, photo, content, cut, told):
    drop(panel, "mine.png", content, cut=cut)
    assert 'role="alert"' in panel.message.value
    assert told in panel.message.value
    assert panel.photo.picture is photo
    panel.face.value = "face 2"
    assert "face 2: " in panel.message.value


def test_another_run_looks_at_the_same_face(panel, monkeypatch):
    panel.face.value = "face 2"
    monkeypatch.setattr(
        "grefel_lib.sources.photo.find_faces", lambda _: pytest.fail("the faces are known already")
    )
    panel.guard(panel._choose_run)()
    assert "face 2: " in panel.message.value


def test_a_run_that_is_gone_is_said(panel):
    panel.chosen.options = (*panel.chosen.options, "gone")
    panel.chosen.value = "gone"
    assert "no run &#x27;gone&#x27;" in panel.message.value


def test_a_first_run_that_cannot_be_loaded_is_said_again_with_a_picture(
    small_run, photo, other_outputs
):
    gone = dataclasses.replace(small_run, path=other_outputs / "gone")
    panel = FacePanel(gone)
    panel.guard(lambda: panel.look_at(photo))()
    assert "could not be loaded; choose another run" in panel.message.value
    panel.chosen.options = (*panel.chosen.options, small_run.name)
    panel.chosen.value = small_run.name
    assert "face 1: " in panel.message.value


def test_without_a_picture_it_waits(small_run, other_outputs):
    panel = FacePanel(small_run)
    assert panel.shown.value == panel.found.value == panel.message.value == ""
    assert panel.face.options == ()
