"""Evaluation: the predictions table, single images, batch independence."""

import dataclasses
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from drawn_layouts import write_layout
from matplotlib.cbook import get_sample_data
from PIL import Image

from grefel_lib.analysis.evaluation import evaluate_run
from grefel_lib.config import Config
from grefel_lib.faces import like_training, load_faces
from grefel_lib.fit import fit
from grefel_lib.grefel import build_model
from grefel_lib.labels import EMOTIONS, FORMATS, VOTE_COLUMNS
from grefel_lib.predict import (
    annotate_files,
    attention_maps,
    predict,
    predict_files,
    score_images,
    write_features,
)
from grefel_lib.restore import load_model
from grefel_lib.run import checkpoint_file, start_run
from grefel_lib.sources.photo import Photo, read_frames


@pytest.fixture(scope="module")
def run(faces_dir, tmp_path_factory):
    config = Config.resolve(
        {"profile": "demo", "dataset": "ferplus", "data_dir": str(faces_dir), "epochs": 1,
         "output_dir": str(tmp_path_factory.mktemp("outputs")), "run_name": "r"}
    )  # fmt: skip
    faces = load_faces(config)
    made = start_run(config, faces.info)
    fit(faces, made)
    return made


@pytest.fixture(scope="module")
def trained(run):
    return load_model(checkpoint_file(run.path))


@pytest.fixture(scope="module")
def faces(run):
    return load_faces(run.config).split("test")


def test_the_table_has_a_row_a_face_with_everything_known_about_it(trained, faces):
    table = predict(trained.model, faces, trained.config)
    assert table["id"].tolist() == faces.table["id"].tolist()
    for prefix in ("p_", "primary_"):
        np.testing.assert_allclose(
            table[[f"{prefix}{n}" for n in faces.class_names]].sum(axis=1), 1, atol=1e-5
        )
    top = table.filter(regex="^p_").idxmax(axis=1).str.removeprefix("p_")
    assert (top == table["predicted"]).all()
    assert table["reliability"].between(0, 1).all()
    assert {"confidence_primary", "confidence_geometric", "confidence_attentive"} <= set(table)
    np.testing.assert_array_equal(table["votes_happiness"], faces.table["happiness"])


def test_agreed_is_the_share_of_the_emotion_votes_for_the_prediction(trained, faces):
    everyone = dataclasses.replace(faces, info=faces.info | {"protocol": "all"})
    table = predict(trained.model, everyone, trained.config)
    votes = faces.table[list(EMOTIONS)].to_numpy()
    places = [EMOTIONS.index(name) for name in table["predicted"]]
    chosen = votes[range(len(votes)), places]
    np.testing.assert_allclose(table["agreed"], chosen / votes.sum(axis=1))
    plain = dataclasses.replace(faces, table=faces.table.drop(columns=list(VOTE_COLUMNS)))
    table = predict(trained.model, plain, trained.config)
    assert table["agreed"].tolist() == (table["label"] == table["predicted"]).tolist()


def test_scores_do_not_depend_on_the_batch(trained, faces):
    many = predict(trained.model, faces, trained.config)
    few = predict(trained.model, faces, trained.config.replace(batch_size=3))
    # through the backbone: convolutions may sum in another order for another batch size
    columns = [c for c in many if many[c].dtype.kind == "f"]
    np.testing.assert_allclose(many[columns], few[columns], atol=1e-4)


def test_loader_processes_change_nothing(trained, faces):
    here = predict(trained.model, faces, trained.config)
    elsewhere = predict(trained.model, faces, trained.config.replace(num_workers=2))
    pd.testing.assert_frame_equal(here, elsewhere)


def test_a_single_image_file_scores_as_the_same_face_of_the_data_set(trained, faces, tmp_path):
    table = predict(trained.model, faces, trained.config)
    paths = []
    for position in range(4):
        paths.append(tmp_path / f"{position}.png")
        Image.fromarray(faces.gather(np.array([position]))[0]).save(paths[-1])
    found, embeddings, unread = predict_files(trained, paths, whole=True)
    assert unread == []
    assert len(embeddings) == 4
    assert set(found["face"]) == {"whole picture"}
    names = [f"p_{name}" for name in faces.class_names]
    np.testing.assert_allclose(found[names], table[names].head(4), atol=1e-4)
    np.testing.assert_allclose(found["reliability"], table["reliability"].head(4), atol=1e-4)


@pytest.fixture
def hopper(tmp_path):
    """Grace Hopper in 1984, a photograph in the public domain that matplotlib brings along."""
    return Path(shutil.copy(get_sample_data("grace_hopper.jpg", asfileobj=False), tmp_path))


def test_each_face_of_a_photograph_is_predicted_as_its_crop(trained, hopper):
    with Image.open(hopper) as photograph:
        pair = Image.new("RGB", (photograph.width * 2 + 80, photograph.height), "grey")
        pair.paste(photograph, (0, 0))
        pair.paste(photograph, (photograph.width + 80, 0))
        shift = photograph.width + 80
    pair.save(hopper.with_name("pair.png"))
    table, embeddings, _ = predict_files(trained, [hopper.with_name("pair.png")])
    assert table["face"].tolist() == ["found", "found"]
    photo = Photo.of(np.asarray(pair))
    boxes = table[["left", "top", "width", "height"]].to_numpy(dtype=int)
    np.testing.assert_array_equal(
        np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]]), photo.boxes
    )
    assert abs(boxes[1] - boxes[0] - [shift, 0, 0, 0]).max() < 20
    output = score_images(trained, [photo.crop(0), photo.crop(1)])
    np.testing.assert_allclose(table.filter(regex="^p_"), output.class_probs, atol=1e-5)
    np.testing.assert_allclose(table["reliability"], output.reliability, atol=1e-5)
    np.testing.assert_allclose(embeddings, output.embeddings, atol=1e-4)


@pytest.mark.parametrize("turned", [False, True])
def test_a_photograph_that_lies_on_its_side_is_predicted_as_the_upright_one(
    trained, hopper, turned
):
    with Image.open(hopper) as photograph:
        lying, exif = photograph.convert("L").rotate(90, expand=True), Image.Exif()
        photograph.convert("L").save(hopper.with_name("upright.png"))
    exif[0x0112] = 6 if turned else 1
    lying.save(hopper.with_name("phone.png"), exif=exif)
    paths = [hopper.with_name(name) for name in ("upright.png", "phone.png")]
    table, _, _ = predict_files(trained, paths, whole=True)
    probs = table.filter(regex="^p_").to_numpy()
    assert np.allclose(probs[0], probs[1], atol=1e-5) == turned


@pytest.mark.parametrize(
    ("size", "face"),
    [
        ((256, 256), "whole picture"),
        ((48, 48), "whole picture"),
        ((200, 250), "whole picture"),
        ((257, 257), "no face found"),
        ((200, 252), "no face found"),
    ],
)
def test_without_a_face_only_a_crop_is_taken_whole(trained, tmp_path, size, face):
    Image.new("RGB", size, "navy").save(tmp_path / "x.png")
    for whole, told in ((False, face), (True, "whole picture")):
        table, embeddings, _ = predict_files(trained, [tmp_path / "x.png"], whole=whole)
        assert table["face"].tolist() == [told]
        labelled = told == "whole picture"
        assert table["predicted"].notna().tolist() == [labelled]
        assert table["p_anger"].notna().tolist() == [labelled]
        assert (embeddings is not None) == labelled


def test_rows_and_embeddings_belong_together_whatever_has_a_face(trained, hopper, tmp_path):
    Image.new("RGB", (400, 300), "navy").save(tmp_path / "sea.png")
    Image.new("L", (48, 48), 90).save(tmp_path / "crop.png")
    sea, crop = tmp_path / "sea.png", tmp_path / "crop.png"
    one, mine, _ = predict_files(trained, [crop])
    many, theirs, _ = predict_files(trained, [sea, hopper, sea, crop])
    assert many["predicted"].notna().tolist() == [False, True, False, True]
    np.testing.assert_allclose(
        many.filter(regex="^p_").to_numpy()[3], one.filter(regex="^p_").to_numpy()[0], atol=1e-5
    )
    np.testing.assert_allclose(theirs[1], mine[0], atol=1e-4)
    write_features(tmp_path / "f.csv", many, theirs)
    features = pd.read_csv(tmp_path / "f.csv")
    assert features["file"].tolist() == [str(hopper), str(crop)]
    assert features["width"].tolist()[1] == 48
    np.testing.assert_allclose(features.filter(regex=r"^e\d"), theirs, atol=1e-6)


def test_boxes_replace_earlier_boxes_and_nothing_else(trained, hopper, tmp_path):
    table, _, _ = predict_files(trained, [hopper])
    (there := tmp_path / "there").mkdir()
    theirs = {f"{hopper.stem}.jpg": Image.new("L", (9, 9)), f"{hopper.stem}_2.jpg": None}
    for name, image in theirs.items():
        image.save(there / name) if image else (there / name).write_text("no picture")
    before = {name: (there / name).read_bytes() for name in theirs}
    for _ in range(2):
        assert annotate_files(table, [hopper], there) == 1
    assert {name: (there / name).read_bytes() for name in theirs} == before
    assert {path.name for path in there.iterdir()} == {*theirs, f"{hopper.stem}_3.jpg"}


def test_the_box_of_a_face_is_drawn_around_it(trained, hopper, tmp_path):
    table, _, _ = predict_files(trained, [hopper])
    assert annotate_files(table, [hopper], tmp_path / "drawn") == 1
    (written,) = (tmp_path / "drawn").iterdir()
    with Image.open(written) as image:
        drawn = np.asarray(image).astype(int)
    with Image.open(hopper) as image:
        changed = abs(drawn - np.asarray(image)).max(axis=2) > 80
    left, top, width, height = table[["left", "top", "width", "height"]].iloc[0].astype(int)
    frame = np.zeros_like(changed)
    frame[top : top + height, left : left + width] = True
    assert changed[top : top + height, [left, left + width - 1]].mean() > 0.8
    assert changed[[top, top + height - 1], left : left + width].mean() > 0.8
    assert changed[frame].mean() < 0.1  # the face itself is left as it is
    assert changed[:top, left : left + width].any()  # the label above


def test_colour_and_odd_sizes_are_accepted(trained):
    images = [np.zeros((31, 57), np.uint8), np.full((200, 100, 3), 90, np.uint8)]
    output = score_images(trained, images)
    torch.testing.assert_close(output.class_probs.sum(1), torch.ones(2))


def test_a_linear_head_has_no_reliability_column(faces):
    config = Config(backbone="test_resnet", backbone_weights="none", head="linear", image_size=48)
    table = predict(build_model(config, 8), faces, config)
    assert not [c for c in table if c.startswith(("primary", "confidence", "reliability"))]


def test_other_classes_are_refused_with_the_mend(run, tmp_path):

    folder = write_layout(tmp_path / "seven", "fer2013", images=200)
    config = run.config.replace(dataset="fer2013", data_dir=str(folder))
    with pytest.raises(ValueError, match="fine-tune the run on this data set first"):
        evaluate_run(run, load_faces(config), config, run)


@pytest.mark.parametrize(("dataset", "shape"), [("ferplus", (48, 48)), ("rafdb", (100, 100, 3))])
@pytest.mark.parametrize("given", [(30, 40), (300, 200, 3)])
def test_a_crop_becomes_like_the_training_faces(dataset, shape, given):
    face = like_training(np.full(given, 77, np.uint8), *FORMATS[dataset])
    assert face.shape == shape
    assert (face == 77).all()


def test_a_face_of_the_right_kind_is_left_as_it_is():
    face = np.random.default_rng(0).integers(0, 255, (48, 48), dtype=np.uint8)
    np.testing.assert_array_equal(like_training(face, *FORMATS["ferplus"]), face)


def test_a_model_of_drawings_says_so_before_it_judges_pictures(trained, caplog):
    predict_files(trained, [])
    assert "has seen drawings only" not in caplog.text
    drawn = dataclasses.replace(trained, config=trained.config.replace(dataset="synthetic"))
    predict_files(drawn, [])
    assert "has seen drawings only: its answers on photographs mean nothing" in caplog.text


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Three seconds of ten frames: Grace Hopper's photograph, then nothing, then her again."""
    cv2 = pytest.importorskip("cv2")
    path = tmp_path_factory.mktemp("films") / "film.avi"
    with Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)) as image:
        frame = np.asarray(image.convert("RGB").resize((512, 600)))
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (512, 600))
    for number in range(30):
        shown = frame if not 10 <= number < 20 else np.full_like(frame, 90)
        writer.write(shown[..., ::-1].copy())
    writer.release()
    return path


def test_a_video_has_a_row_for_each_face_of_each_frame_looked_at(trained, film, tmp_path):
    table, embeddings, unread = predict_files(trained, [film], every=0.5)
    assert not unread
    assert table["frame"].tolist() == [0, 5, 10, 15, 20, 25]
    assert table["second"].tolist() == [0, 0.5, 1, 1.5, 2, 2.5]
    assert table["face"].tolist() == ["found"] * 2 + ["no face found"] * 2 + ["found"] * 2
    assert table["predicted"].isna().tolist() == [False, False, True, True, False, False]
    assert len(embeddings) == 4
    picture = tmp_path / "one.png"
    Image.new("RGB", (40, 40)).save(picture)
    both, embeddings, _ = predict_files(trained, [picture, film])
    assert both["frame"].isna().tolist() == [True, False, False, False]
    write_features(tmp_path / "f.npz", both, embeddings)
    assert np.load(tmp_path / "f.npz")["frame"].tolist() == [-1, 0, 20]
    assert annotate_files(both, [picture, film], tmp_path / "marked") == 4
    names = sorted(file.name for file in (tmp_path / "marked").iterdir())
    assert names == ["film_frame0.jpg", "film_frame10.jpg", "film_frame20.jpg", "one.jpg"]
    files = [tmp_path / name for name in ("x/a.png", "x/a_3.png", "y/a.png", "z/a.png")]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 40)).save(file)
    table, _, _ = predict_files(trained, files)
    assert annotate_files(table, files, tmp_path / "all") == 4
    names = sorted(file.name for file in (tmp_path / "all").iterdir())
    assert names == ["a.jpg", "a_2.jpg", "a_3.jpg", "a_4.jpg"]
    with pytest.raises(ValueError, match="there are no faces to predict"):
        predict(trained.model, load_faces(Config()).take([]), trained.config)
    yellow = {}
    for number in (10, 20):
        with Image.open(tmp_path / f"marked/film_frame{number}.jpg") as image:
            assert image.size == (512, 600)
            red, green, blue = np.moveaxis(np.asarray(image), 2, 0)
        yellow[number] = ((red > 200) & (green > 200) & (blue < 90)).sum()
    assert yellow[10] == 0  # without a face, no box of another frame
    assert yellow[20] > 200
    alone, _, _ = predict_files(trained, [picture])
    assert not {"frame", "second"} & set(alone)


@pytest.mark.parametrize("rate", [1000, 15])
def test_frames_of_any_length_are_taken_by_their_own_time(film, monkeypatch, rate):
    """As a phone or a browser records: ten frames in the first second, then one every 1.5."""
    cv2 = pytest.importorskip("cv2")
    times = [*np.arange(10) / 10, 2.5, 4.0, 5.5]

    class Capture:
        number = -1

        def __init__(self, path):
            pass

        def isOpened(self):
            return True

        def grab(self):
            self.number += 1
            return self.number < len(times)

        def retrieve(self):
            return True, np.full((4, 4, 3), self.number, np.uint8)

        def get(self, what):
            return {cv2.CAP_PROP_FPS: rate, cv2.CAP_PROP_FRAME_COUNT: -1.0}.get(
                what, 1000 * times[min(self.number, 12)]
            )

        def release(self):
            pass

    monkeypatch.setattr("cv2.VideoCapture", Capture)
    rows = [(n, second, frame[0, 0, 0]) for n, second, frame in read_frames(film, 0.5)]
    numbers = [0, 5, 10, 11, 12]
    assert rows == [(n, times[n], n) for n in numbers]
    assert [n for n, _, _ in read_frames(film, 0.01)] == list(range(13))


def test_a_frame_has_the_colours_of_the_film(film):
    _, _, frame = next(read_frames(film, 1))
    with Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)) as image:
        shown = np.asarray(image.convert("RGB").resize((512, 600)))
    np.testing.assert_allclose(frame.mean(axis=(0, 1)), shown.mean(axis=(0, 1)), atol=2)


def test_attention_to_all_scales_adds_up_over_the_face():
    config = Config(extractor="window_cross_attention")
    maps = attention_maps(np.arange(12.0)[None], config)  # three scales of 2 x 2
    np.testing.assert_array_equal(maps, [[[0 + 4 + 8, 1 + 5 + 9], [2 + 6 + 10, 3 + 7 + 11]]])


def test_what_is_no_video_is_named_and_the_rest_is_done(trained, film, tmp_path):
    fake, cut = tmp_path / "fake.mp4", tmp_path / "cut.avi"
    fake.write_bytes(b"not a film")
    cut.write_bytes(film.read_bytes()[:200])
    table, _, unread = predict_files(trained, [fake, cut, tmp_path / "gone.mp4", film])
    assert [line.split(" cannot")[0] for line in unread] == [
        str(fake), str(cut), str(tmp_path / "gone.mp4")]  # fmt: skip
    assert set(table["file"]) == {str(film)}


def test_a_video_that_ends_early_is_named_and_its_rows_stay(trained, film, tmp_path):
    part = tmp_path / "part.avi"
    part.write_bytes(film.read_bytes()[: film.stat().st_size // 3])
    table, _, [told] = predict_files(trained, [part], every=0.5)
    assert table["frame"].tolist()[0] == 0
    assert re.fullmatch(rf"{part} ends at frame \d+ of 30: it is cut off", told)
