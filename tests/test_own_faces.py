"""A user's own faces: folders or a table, own classes, votes, subjects; then the whole way."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.cbook import get_sample_data
from PIL import Image

from grefel_lib.analysis.check import check_data
from grefel_lib.analysis.compare import compare_runs, evaluated_runs, pooled_folds
from grefel_lib.analysis.evaluation import (
    evaluate_run,
    evaluation_folder,
    load_evaluation,
    scored_faces,
)
from grefel_lib.commands.cli import main
from grefel_lib.commands.notebook import resolve_evaluation
from grefel_lib.config import PROJECT_ROOT, Config
from grefel_lib.faces import load_faces
from grefel_lib.files import FINGERPRINT, Folder, read_table
from grefel_lib.fit import fit
from grefel_lib.metrics import confusion_counts
from grefel_lib.predict import predict_files
from grefel_lib.report.card import model_card
from grefel_lib.report.everything import caption, write_report
from grefel_lib.report.style import Paper
from grefel_lib.restore import load_model
from grefel_lib.run import open_run, start_run
from grefel_lib.sources import crops

GREY, RED = "L", "RGB"


def draw(path, number, *, bright=False, mode=GREY, size=(64, 64)):
    """A face drawn as noise, brighter for one of two classes; a number gives every pixel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(number)
    pixels = rng.integers(0, 90, (size[1], size[0], 3)[: 3 if mode == RED else 2]) + 150 * bright
    Image.fromarray(pixels.astype(np.uint8), mode).save(path)


def in_folders(root, counts, *, mode=GREY):
    """counts: "train/smile" -> number of faces. The second name of a split is the bright class."""
    for place, count in counts.items():
        for i in range(count):
            number = abs(hash_of(place)) + i
            draw(root / place / f"{i:03d}.png", number, bright="smile" in place, mode=mode)
    return root


def hash_of(text):
    return int.from_bytes(text.encode(), "little") % 10**6 * 1000


def in_a_table(root, rows, name="faces.csv"):
    """A picture for each row, and the table."""
    table = pd.DataFrame(rows)
    for number, image in enumerate(table["image"]):
        if not (root / image).exists():
            draw(root / image, number)
    table.to_csv(root / name, index=False)
    return root


def read(root, **changes):
    return load_faces(Config(dataset="folder", data_dir=str(root), **changes))


def test_class_folders_of_every_spelling_become_three_splits(tmp_path):
    in_folders(tmp_path, {"train/yawn": 3, "train/smile": 2, "valid/smile": 2, "test/yawn": 1,
                          "train/.ipynb_checkpoints": 1})  # fmt: skip
    draw(tmp_path / "validation/yawn/x.png", 77)
    faces = read(tmp_path)
    assert faces.class_names == ("smile", "yawn")
    assert faces.counts().to_numpy().tolist() == [[2, 2, 0], [3, 1, 1]]
    assert faces.table["id"][0] == "test/yawn/000.png"
    assert faces.images.shape == (9, 112, 112)
    assert faces.targets[faces.table["id"] == "test/yawn/000.png"].tolist() == [[0, 1]]


def test_class_folders_without_splits_are_training_wherever_they_lie(tmp_path):
    root = in_folders(tmp_path / "test", {"yawn": 12, "smile": 10})
    faces = read(root)
    assert faces.counts().sum(axis=1).tolist() == [10, 12]
    assert not faces.counts()["test"].any()
    assert faces.counts()["val"].min() >= 1
    assert set(faces.table["id"].str.split("/").str[0]) == {"yawn", "smile"}
    in_folders(root, {"train/yawn": 3, "train/smile": 3, "val/yawn": 1, "val/smile": 1})
    assert read(root).counts().sum(axis=1).tolist() == [4, 4]  # with splits: theirs alone


def test_a_file_that_is_not_read_is_said_when_training_starts(tmp_path, caplog):
    root = in_folders(tmp_path, {"train/yawn": 3, "train/smile": 2, "val/smile": 2})
    for litter in ("left_out.csv", "train/.DS_Store", "train/yawn/._000.png"):
        (root / litter).write_text("file,reason\n")
    assert read(root).info["warnings"] == []
    (root / "train/smile/phone.HEIC").write_bytes(b"ftypheic")
    assert len(read(root)) == 7
    assert "files not used: 1, the first: train/smile/phone.HEIC" in caplog.text


def test_one_picture_in_colour_makes_the_set_colour(tmp_path):
    in_folders(tmp_path, {"train/yawn": 3, "train/smile": 2, "val/smile": 2})
    draw(tmp_path / "val/yawn/x.png", 77, mode=RED)
    assert read(tmp_path).images.shape == (8, 112, 112, 3)


def test_usual_emotions_keep_their_order_under_any_of_their_names(tmp_path):
    in_folders(tmp_path, {"train/Sad": 2, "train/happy": 2, "val/happiness": 1, "val/Angry": 1})
    faces = read(tmp_path)
    assert faces.class_names == ("happiness", "sadness", "anger")
    assert faces.counts().to_numpy().tolist() == [[2, 1, 0], [2, 0, 0], [0, 1, 0]]


def test_class_names_that_are_numbers_stay_as_they_are_written(tmp_path):
    rows = [{"image": f"{i}.png", "label": f"0{i % 3}", "split": ("train", "val")[i > 5]}
            for i in range(9)]  # fmt: skip
    faces = read(in_a_table(tmp_path, rows))
    assert faces.class_names == ("00", "01", "02")
    assert faces.table["label"].tolist() == [i % 3 for i in range(9)]


def test_predictions_of_such_classes_are_read_back_as_they_were(tmp_path):
    table = pd.DataFrame({"id": ["1"], "label": ["01"], "predicted": ["02"], "p_01": [0.5]})
    Folder(tmp_path).write_table(table, "predictions.csv")
    pd.testing.assert_frame_equal(
        read_table(tmp_path / "predictions.csv"), table, check_dtype=False
    )


def test_a_class_folder_that_becomes_empty_is_still_a_class(tmp_path):
    in_folders(tmp_path, {"train/yawn": 3, "train/smile": 2, "val/smile": 2})
    assert read(tmp_path).class_names == ("smile", "yawn")
    (tmp_path / "train/frown").mkdir()
    faces = read(tmp_path)
    assert faces.class_names == ("frown", "smile", "yawn")
    assert faces.counts()["train"].tolist() == [0, 2, 3]


def test_votes_are_soft_targets_in_training_and_their_majority_elsewhere(tmp_path):
    rows = [
        {"image": "a.png", "split": "train", "smile": 1, "yawn": 3},
        {"image": "b.png", "split": "val", "smile": 3, "yawn": 1},
        {"image": "c.png", "split": "train", "smile": 0, "yawn": 0},
        {"image": "d.png", "split": "test", "smile": 0, "yawn": 2},
    ]
    faces = read(in_a_table(tmp_path, rows))
    assert faces.class_names == ("smile", "yawn")
    assert faces.targets.tolist() == [[0.25, 0.75], [1, 0], [0, 1]]
    assert faces.table["agreement"].tolist() == [0.75, 0.75, 1]
    assert faces.info["no_label"] == {"train": 1, "val": 0, "test": 0}
    hard = read(tmp_path, use_soft_labels=False)
    assert hard.targets.tolist() == [[0, 1], [1, 0], [0, 1]]


def test_two_columns_of_votes_for_one_emotion_add_up(tmp_path):
    rows = [
        {"image": "a.png", "split": "train", "happy": 2, "happiness": 1, "sad": 2},
        {"image": "b.png", "split": "val", "happy": 2, "happiness": 2, "sad": 3},
    ]
    faces = read(in_a_table(tmp_path, rows))
    assert faces.class_names == ("happiness", "sadness")
    np.testing.assert_allclose(faces.targets, [[3 / 5, 2 / 5], [1, 0]], rtol=1e-6)


def test_a_split_that_is_made_divides_no_subject(tmp_path):
    rows = [{"image": f"{i}.png", "label": ("smile", "yawn")[i % 2], "subject": i // 4}
            for i in range(80)]  # fmt: skip
    faces = read(in_a_table(tmp_path, rows))
    subjects = faces.table.groupby("split")["subject"].agg(set)
    assert not subjects["train"] & subjects["val"]
    assert 4 <= len(faces.split("val")) <= 12
    assert faces.counts()["val"].min() >= 2
    count = len(faces.split("val"))
    assert faces.info["warnings"] == [
        f"no validation split: using {count} of the training faces, stratified"]  # fmt: skip
    assert not len(faces.split("test"))


def test_tables_named_after_their_split_need_no_column(tmp_path):
    for split in ("train", "valid", "test"):
        rows = [{"image": f"{split}{i}.png", "label": "ab"[i % 2]} for i in range(2)]
        for i, line in enumerate(rows):
            draw(tmp_path / line["image"], hash_of(split) + i)
        in_a_table(tmp_path, rows, f"{split}.csv")
    assert read(tmp_path).counts().to_numpy().tolist() == [[1, 1, 1], [1, 1, 1]]


def test_the_columns_of_a_table_may_be_written_in_capitals(tmp_path):
    rows = [{"Image": f"{i}.png", "LABEL": "ab"[i % 2], "Split": ("train", "val")[i > 3],
             "Subject": f"s{i}"} for i in range(6)]  # fmt: skip
    for row in rows:
        draw(tmp_path / row["Image"], hash_of(row["Image"]))
    pd.DataFrame(rows).to_csv(tmp_path / "faces.csv", index=False)
    faces = read(tmp_path)
    assert faces.counts().to_numpy().tolist() == [[2, 1, 0], [2, 1, 0]]
    assert sorted(faces.table["subject"]) == [f"s{i}" for i in range(6)]
    pd.DataFrame(rows).assign(label="a").to_csv(tmp_path / "faces.csv", index=False)
    with pytest.raises(ValueError, match="two columns for label: LABEL, label; remove one"):
        read(tmp_path)


def test_row_numbers_are_no_class_and_a_class_has_one_column(tmp_path):
    votes = pd.DataFrame(
        {"image": [f"{i}.png" for i in range(30)], "NF": 1, "Unknown": 9,
         "smile": [3, 0] * 15, "yawn": [0, 2] * 15},
        index=range(7, 37),
    )  # fmt: skip
    for image in votes["image"]:
        draw(tmp_path / image, hash_of(image))
    votes.to_csv(tmp_path / "faces.csv")
    assert read(tmp_path).class_names == ("smile", "yawn")
    votes.rename(columns={"smile": "None"}).to_csv(tmp_path / "faces.csv", sep=";")
    assert read(tmp_path).class_names == ("None", "yawn")
    (tmp_path / "faces.csv").write_text("image,smile,yawn, smile\n0.png,3,0,1\n1.png,0,2,0\n")
    with pytest.raises(ValueError, match=r"faces.csv has two columns 'smile'; rename or remove"):
        read(tmp_path)


ROW = {"image": "a.png", "label": "smile", "split": "train"}
WRONG = [
    (
        [ROW, ROW | {"image": "b.png", "split": "dev"}],
        "line 3: split must be one of train, val, valid, validation, test; found 'dev'",
    ),
    ([ROW, ROW | {"label": "yawn"}], "list a.png twice"),
    ([ROW, ROW | {"image": "./a.png"}], r"list \./a.png twice"),
    (
        [ROW, ROW | {"image": "b.png", "label": "None"}],
        "line 3: label must be a class, or empty; give a class of this name another; found 'None'",
    ),
    ([ROW, ROW | {"image": "b.png"}], r"has 1 class \(smile\); two are needed"),
    (
        [{"image": "a.png", "age": "old", "smile": 3}],
        "line 2: without a column label, age must count the votes for a class, up to 1000; found "
        "'old'",
    ),
    (
        [{"image": "a.png", "yawn": "inf", "smile": 3}],
        "line 2: without a column label, yawn must count the votes for a class, up to 1000; found "
        "'inf'",
    ),
    *[
        (
            [{"image": "a.png", name: 3, "age": 40}, {"image": "b.png", name: 1, "age": 20}],
            rf"faces\.csv has a column {name} and no column label; rename it label",
        )
        for name in ("emotion", "Expression", "class")
    ],
]


@pytest.mark.parametrize(("rows", "words"), WRONG)
def test_a_wrong_table_is_refused_with_its_line(tmp_path, rows, words):
    with pytest.raises(ValueError, match=words):
        read(in_a_table(tmp_path, rows))


def test_a_class_that_is_a_number_is_the_same_with_and_without_a_point(tmp_path):
    """Pandas writes 1.0 for 1 once a label is missing, and NaN or NA for nothing."""
    rows = [{"image": f"{i}.png", "label": str(i % 2), "subject": "NA"} for i in range(8)]
    in_a_table(tmp_path, rows, "train.csv")
    rows = [{"image": f"t{i}.png", "label": f"{i % 2}.0"} for i in range(4)]
    in_a_table(tmp_path, [*rows, {"image": "t9.png", "label": ""}], "test.csv")
    faces = read(tmp_path)
    assert faces.class_names == ("0", "1")
    assert faces.counts()["test"].tolist() == [2, 2]
    assert faces.table["subject"].isna().all()


def test_a_table_of_two_byte_letters_is_not_taken_for_one_of_something_else(tmp_path):
    in_folders(tmp_path, {"yawn": 3, "smile": 2})
    (tmp_path / "labels.csv").write_text("image,label\nyawn/000.png,yawn\n", encoding="utf-16")
    with pytest.raises(ValueError, match=r"labels\.csv is no csv file in UTF-8; save it as CSV"):
        read(tmp_path)


def test_votes_in_one_table_and_labels_in_another_are_refused(tmp_path):
    in_a_table(tmp_path, [{"image": "a.png", "smile": 3, "yawn": 1}], "train.csv")
    in_a_table(tmp_path, [{"image": "b.png", "label": "yawn"}], "test.csv")
    with pytest.raises(ValueError, match=r"test.csv has a column label and train.csv has none"):
        read(tmp_path)


@pytest.mark.parametrize(("names", "told"), [(("happy", "sad", "age"), "age"),
                                             (("age", "width"), "age, width")])  # fmt: skip
def test_a_column_that_became_a_class_and_is_no_emotion_is_said(tmp_path, caplog, names, told):
    rows = [{"image": f"{i}.png", "split": split} | {name: (i + k) % 3 for k, name in
             enumerate(names)} for i, split in enumerate(["train"] * 6 + ["val"] * 3)]  # fmt: skip
    assert set(read(in_a_table(tmp_path, rows)).class_names) == set(names)
    assert f"columns read as the votes for a class: {told}\n" in caplog.text


@pytest.mark.parametrize("name", ["._faces.csv", ".faces.csv"])
def test_a_hidden_table_is_not_read(tmp_path, name):
    in_folders(tmp_path, {"train/yawn": 3, "train/smile": 2, "val/smile": 2})
    (tmp_path / name).write_text("image,label\ngone.png,yawn\n")
    assert len(read(tmp_path)) == 7


@pytest.mark.parametrize(("folders", "told"), [
    (("train/Yawn", "train/smile", "test/yawn"), "the classes Yawn and yawn, which mean one"),
    (("train/happy", "train/yawn", "val/Happiness"), "the classes Happiness and happy, which mean"),
])  # fmt: skip
def test_two_names_of_one_class_are_refused(tmp_path, folders, told):
    with pytest.raises(ValueError, match=rf"{tmp_path} has {told}.*; give them one name"):
        read(in_folders(tmp_path, dict.fromkeys(folders, 2)))


@pytest.mark.parametrize("content", ["", "a note\n", "a,b\n1,2,3\n", "caf\xe9"])
def test_a_table_of_something_else_does_not_hide_class_folders(tmp_path, caplog, content):
    in_folders(tmp_path, {"train/yawn": 3, "train/smile": 2, "val/smile": 2})
    (tmp_path / "notes.csv").write_text(content, encoding="latin-1")
    assert len(read(tmp_path)) == 7
    told = "files not used: 1, the first: notes.csv (notes.csv is not read: it has no column image)"
    assert told in caplog.text
    one = in_folders(tmp_path / "pictures", {"faces": 3})
    (one / "labels.csv").write_text("filename,emotion\nfaces/000.png,smile\n")
    with pytest.raises(ValueError, match=r"two are needed \(labels\.csv is not read: it"):
        read(one)
    (tmp_path / "notes.csv").write_text("image,label\na,b,c,d\n")
    with pytest.raises(ValueError, match=r"notes\.csv"):
        read(tmp_path)


def test_missing_pictures_and_unknown_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"found: nothing\): looked for train/<class>/"):
        read(tmp_path)
    deep = in_folders(tmp_path / "deep/train/anna", {"joy": 2, "rage": 1})
    with pytest.raises(FileNotFoundError, match=r"found: train/anna/joy/000\.png\): looked for"):
        read(deep.parents[1])
    in_a_table(tmp_path, [ROW, ROW | {"image": "b.png", "label": "yawn"}])
    (tmp_path / "b.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"missing images: 1 of 2, the first: .*b\.png"):
        read(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on drawn faces of two own classes, in colour."""
    root = in_folders(
        tmp_path_factory.mktemp("own") / "my_faces",
        {"train/a frown": 30, "train/the smile": 30, "val/a frown": 6, "val/the smile": 6,
         "test/a frown": 5, "test/the smile": 7},
        mode=RED,
    )  # fmt: skip
    config = Config.resolve(
        {"profile": "demo", "dataset": "folder", "data_dir": str(root), "epochs": 3,
         "output_dir": str(tmp_path_factory.mktemp("outputs")), "run_name": "own"}
    )  # fmt: skip
    faces = load_faces(config)
    run = start_run(config, faces.info)
    fit(faces, run)
    return root, run


def test_own_classes_go_from_a_folder_to_the_confusion_matrix_and_the_card(trained):
    _, run = trained
    config = run.config.replace(robustness_images=0)
    faces = load_faces(config)
    people = faces.table.assign(subject=[f"s{i // 3}" for i in range(len(faces.table))])
    shown = people.loc[people["split"] == "test", "subject"].nunique()
    evaluation = evaluate_run(run, dataclasses.replace(faces, table=people), config, run)
    write_report(evaluation, paper=Paper("cvpr"))
    counts = confusion_counts(evaluation.table)
    assert counts.sum(axis=1).tolist() == [5, 7]
    assert counts.trace() == 12  # dark or bright: a network that learned anything knows
    card = (run.path / "model_card.md").read_text()
    assert "the user's own faces and classes" in card
    assert "| the smile | 7 |" in card
    assert f"Intervals: 95%, over the {shown} people in the pictures" in card
    assert (
        evaluation.table["subject"].tolist()
        == people.loc[people["split"] == "test"]["subject"].tolist()
    )
    assert (run.path / "figures/confusion_matrix.pdf").is_file()


def test_a_single_picture_is_seen_as_in_training(trained):
    root, run = trained
    model = load_model(run)
    assert model.class_names == ("a frown", "the smile")
    assert model.face_format == (112, "RGB")
    table, _, unread = predict_files(model, sorted(root.glob("test/*/*.png")), whole=True)
    assert not unread
    assert table["predicted"].tolist() == ["a frown"] * 5 + ["the smile"] * 7


def test_an_evaluation_without_test_faces_says_so(trained, tmp_path):
    _, run = trained
    root = in_folders(tmp_path / "others", {"train/a frown": 4, "train/the smile": 4,
                                            "val/a frown": 2, "val/the smile": 2})  # fmt: skip
    config = run.config.replace(data_dir=str(root))
    with pytest.raises(ValueError, match="no test faces in folder; evaluate another split"):
        evaluate_run(run, load_faces(config), config, run)
    assert re.fullmatch(
        r"evaluate_folder_others-\w{4}_test", evaluation_folder(run, config).path.name
    )
    assert evaluation_folder(run, run.config) == run


def test_faces_in_another_folder_of_the_same_name_overwrite_no_results(trained, tmp_path):
    root, run = trained
    folders = []
    for place in ("first", "second"):
        there = tmp_path / place / root.name
        there.mkdir(parents=True)
        folders.append(evaluation_folder(run, run.config.replace(data_dir=str(there))))
    assert len({folder.path for folder in (run, *folders)}) == 3
    moved = run.config.replace(data_dir=str(tmp_path / "gone" / root.name))
    assert evaluation_folder(run, moved) == run, "a folder that is gone has moved"


def test_other_files_of_a_published_data_set_overwrite_no_results(small_run, tmp_path):
    config = small_run.config.on_data(robustness_images=0, inspect_labels=False)
    results = Folder(tmp_path / "results")
    faces = load_faces(config)
    write_report(evaluate_run(small_run, faces, config, results))
    before = (results.path / "metrics.json").read_text()
    info = faces.info | {"fingerprint": FINGERPRINT + "0123456789abcdef"}
    other = dataclasses.replace(faces, info=info)
    with pytest.raises(ValueError, match=r"other files of ferplus .* with --output-dir NEW"):
        evaluate_run(small_run, other, config, results)
    assert (results.path / "metrics.json").read_text() == before
    results.write_text("{", "metrics.json")  # a damaged record is replaced
    told = evaluate_run(small_run, other, config, results)
    assert sum(row["count"] for row in told.metrics["copies"].values()) == len(told.table)
    write_report(told)
    card = (results.path / "model_card.md").read_text()
    assert "copies of validation or test faces (in the files it was trained on): " in card


def test_faces_of_another_kind_are_seen_as_those_in_training(trained, tmp_path):
    root, run = trained
    lists = {}
    for name, side, mode in (("same", 112, RED), ("large", 224, RED), ("grey", 112, GREY)):
        for path in root.rglob("*.png"):
            place = tmp_path / name / path.relative_to(root)
            place.parent.mkdir(parents=True, exist_ok=True)
            image = Image.open(path).resize((112, 112)).convert(mode).convert(RED)
            image.resize((side, side), Image.Resampling.NEAREST).convert(mode).save(place)
        config = run.config.on_data(data_dir=str(tmp_path / name), robustness_images=0)
        faces = load_faces(config)
        results = evaluation_folder(run, config)
        table = evaluate_run(run, faces, config, results).table.set_index("id")
        files = [tmp_path / name / face for face in table.index]
        alone, _, _ = predict_files(load_model(run), files, whole=True)
        columns = [column for column in alone if column.startswith("p_")]
        np.testing.assert_allclose(table[columns], alone[columns], atol=2e-4)
        lists[name] = faces.images.shape[1:]
    assert lists == {"same": (112, 112, 3), "large": (112, 112, 3), "grey": (112, 112)}


def test_results_on_other_faces_say_so_and_tell_no_copies(trained, tmp_path):
    root, run = trained
    there = tmp_path / "others"
    shutil.copytree(root, there)
    draw(there / "test/a frown/more.png", 4711, mode=RED)
    for split, words in (("test", "test split"), ("val", "validation split")):
        config = run.config.on_data(data_dir=str(there), robustness_images=0, split=split)
        results = evaluation_folder(run, config)
        told = evaluate_run(run, load_faces(config), config, results)
        assert caption(told).startswith(f"our own faces, {words}, {len(told.table)} faces")
        assert "trained on other faces" in caption(told)
        assert "copies" not in told.metrics
        write_report(told)
        card = (results.path / "model_card.md").read_text()
        assert f"## Results on our own faces, {words} (" in card
        assert "used for selection: expect less" not in card
        assert card.count("fingerprint ") == 2, "of the faces learned and the faces scored"
    here = run.config.replace(robustness_images=0)
    own = evaluate_run(run, load_faces(here), here, run)
    assert "other faces" not in caption(own)
    assert "copies" in own.metrics


def test_one_test_face_or_no_validation_face_is_evaluated_all_the_same(trained, tmp_path):
    root, run = trained
    for name, keep in (("one", ["test/the smile/000.png"]), ("copied", None)):
        there = tmp_path / name
        shutil.copytree(root, there)
        for path in sorted((there / "test").rglob("*.png")):
            if keep and path.relative_to(there).as_posix() not in keep:
                path.unlink()
        if not keep:  # every validation face is a copy of a test face
            shutil.rmtree(there / "val")
            shutil.copytree(there / "test", there / "val")
        config = run.config.on_data(data_dir=str(there), robustness_images=0)
        results = evaluation_folder(run, config)
        told = evaluate_run(run, load_faces(config), config, results)
        write_report(told)
        numbers = json.loads((results.path / "metrics.json").read_text())
        headline = numbers["checkpoints"][numbers["headline"]]
        assert headline["metrics"]["n"] == (1 if keep else 12)
        assert (headline["temperature"] is None) == (not keep)


def test_folds_fixes_and_teacher_stay_with_their_faces(trained, tmp_path):
    root, run = trained
    config = run.config.replace(folds=3, teacher="outputs/teacher", label_fixes="fixes.csv",
                                label_noise=0.4)  # fmt: skip
    other = config.on_data(data_dir=str(tmp_path))
    assert (other.folds, other.teacher, other.label_fixes, other.label_noise) == (0, "", "", 0)
    assert config.on_data(data_dir=str(root), split="val").folds == 3
    assert config.on_data(dataset="ferplus").data_dir == ""
    there = PROJECT_ROOT / "data/folder"  # where a data_dir of "" is
    assert config.replace(data_dir="").on_data(data_dir=str(there)).folds == 3


def test_fine_tuning_keeps_what_it_knows_of_shared_classes(trained, tmp_path):
    _, run = trained
    root = in_folders(tmp_path / "more", {"train/a frown": 8, "train/the smile": 8, "train/yawn": 8,
                                          "val/yawn": 2, "val/the smile": 2})  # fmt: skip
    overrides = {"data_dir": str(root), "checkpoint_path": str(run.path), "epochs": 1,
                 "warmup_epochs": 0, "run_name": "more", "output_dir": str(tmp_path)}  # fmt: skip
    config = Config.resolve(overrides, parent=run.config)
    faces, said = load_faces(config), []
    fit(faces, start_run(config, faces.info), say=said.append)
    assert any("class layers kept for a frown, the smile; reinitialised for yawn" in line
               for line in said)  # fmt: skip


def test_faces_without_a_subject_are_not_one_person(tmp_path):
    rows = [{"image": f"{i}.png", "label": "smile" if i % 3 else "yawn",
             "subject": f"s{i // 6}" if i < 30 else ""} for i in range(60)]  # fmt: skip
    in_a_table(tmp_path, rows)
    config = Config(dataset="folder", data_dir=str(tmp_path), folds=5)
    sizes, parts = [], []
    for fold in range(1, 6):
        test = load_faces(config.replace(fold=fold)).split("test").table
        sizes.append(len(test))
        parts.append(set(test["subject"].dropna()))
    assert sum(sizes) == 60
    assert max(sizes) <= 18
    assert sum(map(len, parts)) == 5  # each of the others in one part
    assert not any("subjects in both" in text for text in check_data(config)["warnings"])


def test_folds_have_no_effect_on_a_data_set_with_splits_of_its_own(faces_dir):
    config = Config(dataset="ferplus", data_dir=str(faces_dir))
    assert load_faces(config.replace(folds=5)).table.equals(load_faces(config).table)


def test_each_face_is_tested_in_one_fold_and_no_subject_is_divided(tmp_path):
    rows = [{"image": f"{i}.png", "label": "smile" if i % 3 else "yawn", "subject": f"s{i // 6}"}
            for i in range(60)]  # fmt: skip
    root = in_a_table(tmp_path, rows)
    tested = []
    for fold in range(1, 6):
        faces = read(root, folds=5, fold=fold)
        by_split = {
            name: set(faces.split(name).table["subject"]) for name in ("train", "val", "test")
        }
        assert all(by_split.values())
        assert not by_split["train"] & by_split["test"]
        assert not (by_split["train"] | by_split["test"]) & by_split["val"]
        assert {len(faces.split("test").table)} <= {6, 12, 18}
        tested += faces.split("test").table["id"].tolist()
        assert faces.info["fingerprint"] == read(root).info["fingerprint"]
    assert sorted(tested) == sorted(row["image"] for row in rows)
    for wrong, told in (({"folds": 5, "fold": 6}, "fold is 6, but there are only 5 folds"),
                        ({"folds": 11}, "between 2 and the 10 subjects there are"),
                        ({"folds": 1}, "folds is 1; it must be between 2")):  # fmt: skip
        with pytest.raises(ValueError, match=told):
            read(root, **wrong)


@pytest.fixture
def third(tmp_path):
    """A run on the first of three folds of thirty faces; and its faces."""
    root = in_folders(tmp_path / "faces", {"frown": 14, "smile": 16})
    config = Config.resolve({"profile": "demo", "dataset": "folder", "data_dir": str(root),
        "epochs": 1, "folds": 3, "output_dir": str(tmp_path / "outputs"),
        "run_name": "third"})  # fmt: skip
    run = start_run(config, load_faces(config).info)
    fit(load_faces(config), run)
    return run, root


def test_faces_that_it_has_learned_are_found_in_another_folder(third, tmp_path, caplog):
    run, root = third
    other = in_folders(tmp_path / "other", {"train/frown": 3, "train/smile": 3, "val/smile": 2,
                                           "test/smile": 2})  # fmt: skip
    for number, name in enumerate(load_faces(run.config).split("train").table["id"][:5]):
        target = other / "test" / Path(name).parent.name / f"x{number}.png"
        target.parent.mkdir(exist_ok=True)
        shutil.copy(root / name, target)
    given = {"checkpoint_dir": str(run.path), "data_dir": str(other)}
    _, results, config = resolve_evaluation(given)
    config = config.replace(robustness_images=0, inspect_labels=False)
    done = evaluate_run(run, load_faces(config), config, results)
    assert done.facts["learned_faces"] == 5
    assert "5 of the 7 scored faces are copies of faces that the run was trained or" in caplog.text
    write_report(done)
    told = "5 of the faces scored below are copies of faces used for training or selection"
    assert told in model_card(load_evaluation(results))
    shutil.rmtree(root)
    done = evaluate_run(run, load_faces(config), config, results)
    assert done.facts["learned_faces"] is None
    assert "was not checked" in model_card(done)


def test_a_run_is_not_tested_on_folds_drawn_from_other_faces(third):
    run, root = third
    config = run.config.replace(robustness_images=0)
    assert len(evaluate_run(run, load_faces(config), config, run).table) == 10
    (root / "frown/000.png").unlink()
    with pytest.raises(ValueError, match=r"have changed since run .*third was trained"):
        evaluate_run(run, load_faces(config), config, run)


def test_validation_drawn_again_from_changed_faces_is_not_used(tmp_path, caplog):
    """Of faces added later, some that the run has learned would validate it."""
    root = in_folders(tmp_path / "faces", {"train/frown": 30, "train/smile": 30,
                                           "test/frown": 6, "test/smile": 6})  # fmt: skip
    config = Config.resolve({"profile": "demo", "dataset": "folder", "data_dir": str(root),
        "epochs": 1, "output_dir": str(tmp_path / "outputs"), "run_name": "grown"})  # fmt: skip
    run = start_run(config, load_faces(config).info)
    fit(load_faces(config), run)

    def evaluated(split):
        scored = config.replace(robustness_images=0, split=split)
        return evaluate_run(run, load_faces(scored), scored, evaluation_folder(run, scored))

    in_folders(root, {"test/smile": 8})  # the training faces, and so validation, are as they were
    assert evaluated("test").validation
    assert len(evaluated("val").table) == 6
    learned = set(load_faces(config).split("train").table["id"])
    in_folders(root, {"train/smile": 45})
    assert learned & set(load_faces(config).split("val").table["id"])
    told = evaluated("test")
    assert (told.validation, len(told.table)) == ({}, 14)
    assert "nothing is fitted on validation: the training faces of" in caplog.text
    with pytest.raises(ValueError, match=r"have changed since run .*grown was trained, and valid"):
        evaluated("val")
    more = {"checkpoint_path": str(run.path), "epochs": 1, "finetune_name": "more",
            "warmup_epochs": 0, "output_dir": str(tmp_path / "outputs")}  # fmt: skip
    tuned = Config.resolve(more, parent=run.config)
    with pytest.raises(ValueError, match="it may have learned some of these"):
        start_run(tuned, load_faces(tuned).info)


@pytest.mark.parametrize("other", [{"fold": 2}, {"folds": 4}, {"folds": 0}])
def test_a_run_is_neither_tested_nor_continued_on_a_fold_that_it_has_learned(third, other):
    run, root = third
    config = run.config.replace(robustness_images=0, **other)
    with pytest.raises(ValueError, match="third has learned from faces of this test split"):
        evaluate_run(run, load_faces(config), config, run)
    more = {"checkpoint_path": str(run.path), "epochs": 1, "warmup_epochs": 0,
            "finetune_name": "more", "output_dir": str(run.path.parent)}  # fmt: skip
    config = Config.resolve(more | other, parent=run.config)
    with pytest.raises(ValueError, match="third has learned from faces of this test split"):
        start_run(config, load_faces(config).info)
    assert not (run.path / "finetune_more").exists()
    same = Config.resolve(more, parent=run.config)
    start_run(same, load_faces(same).info)
    copied = run.config.on_data(
        data_dir=str(shutil.copytree(root, root.parent / "copied"))
    ).replace(robustness_images=0)
    with pytest.raises(ValueError, match="third has learned from faces of this test split"):
        evaluate_run(run, load_faces(copied), copied, evaluation_folder(run, copied))
    elsewhere = in_folders(root.parent / "others", {"frown": 8, "smile": 9})
    free = Config.resolve(more | other | {"data_dir": str(elsewhere), "finetune_name": "free"},
                          parent=run.config)  # fmt: skip
    start_run(free, load_faces(free).info)


def test_the_folds_of_a_sweep_are_one_result(tmp_path, other_outputs, capsys, monkeypatch):
    root = in_folders(tmp_path / "faces", {"frown": 14, "smile": 16})
    wrong = {1: 3, 2: 5, 3: 4}
    for fold in (1, 2, 3):
        config = Config.resolve({"profile": "demo", "dataset": "folder", "data_dir": str(root),
            "epochs": 1, "folds": 3, "fold": fold, "output_dir": str(other_outputs / "cv"),
            "run_name": f"fold{fold}"})  # fmt: skip
        faces = load_faces(config)
        run = start_run(config, {**faces.info, "labels_made_wrong": wrong[fold]})
        fit(faces, run)
        write_report(evaluate_run(run, faces, config, run))
        if fold == 2:
            assert main(["report", "cv"]) == 1
            assert "3 folds make one result, but there are folds 1, 2" in capsys.readouterr().err
    monkeypatch.chdir(other_outputs.parent)
    assert main(["report", f"{other_outputs.name}/cv"]) == 0
    metrics = json.loads((other_outputs / "cv" / "metrics.json").read_text())
    assert list(metrics["checkpoints"]) == ["3 folds"]
    assert not {"copies", "label_detection"} & metrics.keys(), "those of one fold are not of all"
    counts = confusion_counts(pd.concat(
        load_evaluation(open_run(f"cv/fold{fold}")).table for fold in (1, 2, 3)))  # fmt: skip
    stored = np.load(other_outputs / "cv" / "confusion_matrix_3 folds.npy")
    assert (stored == counts).all()
    assert stored.sum() == 30
    card = (other_outputs / "cv" / "model_card.md").read_text()
    assert card.startswith("# Model card: cv, 3 folds\n")
    told = "3 models, each scored on the part of the faces that it was not trained on"
    assert told in card
    assert "Training labels corrupted on purpose (symmetric): 3 to 5, by fold." in card
    assert told not in (other_outputs / "cv" / "fold1" / "model_card.md").read_text()
    texts = [(other_outputs / "cv" / place / "tables/per_class.tex").read_text()
             for place in ("fold2", "")]  # fmt: skip
    assert ["fold 2 of 3" in text for text in texts] == [True, False]
    assert "3 folds" in texts[1]
    folds = evaluated_runs(str(other_outputs / "cv"))
    for result, share in zip(folds, (0.5, 0.75, 0.4), strict=True):
        result.saved_headline["val_accuracy"] = share
    [pooled] = pooled_folds(folds)
    assert pooled.saved_headline["val_accuracy"] == pytest.approx(0.55)
    faces = scored_faces(pooled).split("test")
    assert faces.table["id"].tolist() == pooled.table["id"].tolist()
    assert faces.counts()["test"].tolist() == [14, 16]
    comparison = compare_runs(str(other_outputs / "cv"))
    assert comparison.about["faces"] == 30
    assert comparison.seeds["checkpoint"].tolist() == ["3 folds"]


def test_crops_that_were_interrupted_can_be_cut_again(tmp_path, monkeypatch):
    source, dest = in_folders(tmp_path / "photographs", {"smile": 3, "yawn": 2}), tmp_path / "new"
    cut, left = crops.is_crop, [1, 1]

    def interrupted(picture):
        if not left:
            raise KeyboardInterrupt
        left.pop()
        return cut(picture)

    with monkeypatch.context() as patch:
        patch.setattr(crops, "is_crop", interrupted)
        with pytest.raises(KeyboardInterrupt):
            crops.crop_faces(source, dest)
    assert [path.name for path in tmp_path.iterdir()] == ["photographs"]
    count, left_out = crops.crop_faces(source, dest)
    assert count == len(list(dest.glob("*/*.png"))) == 5
    assert left_out.empty


def test_photographs_become_a_set_of_crops_as_predict_cuts_them(trained, tmp_path, capsys):
    source, dest = tmp_path / "photographs", tmp_path / "crops"
    with Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)) as image:
        hopper = image.convert("RGB")
    two = Image.new("RGB", (2 * hopper.width, hopper.height))
    two.paste(hopper), two.paste(hopper, (hopper.width, 0))
    turned = hopper.rotate(90, expand=True)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 270 degrees
    empty, small = Image.new("RGB", (600, 400)), Image.new("RGB", (48, 48))
    pictures = {
        "train/smile/a.jpg": (hopper, {"quality": 95}),
        "train/smile/a.png": (hopper, {}),
        "train/yawn/two.png": (two, {}),
        "test/smile/turned.jpg": (turned, {"exif": exif, "quality": 95}),
        "test/yawn/empty.png": (empty, {}),
        "test/yawn/crop.png": (small, {}),
    }
    for name, (image, options) in pictures.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(source / name, **options)
    (source / "train/smile/broken.png").write_bytes(b"no")
    (source / "train/smile/phone.HEIC").write_bytes(b"ftypheic")
    (source / "labels.csv").write_text("image,label\n")
    Image.new("RGB", (1, 1)).save(source / "test/yawn/dot.png")
    assert main(["data", "crop", str(source), str(dest)]) == 0
    told = capsys.readouterr().out
    assert "wrote 4 crops" in told
    assert [line for line in told.splitlines() if line.startswith("no face is left of")] == [
        "no face is left of train/yawn: add photographs of it, one face each"
    ]
    for name, reason in (
        ("two.png", "2 faces"),
        ("empty.png", "no face"),
        ("broken.png", "broken.png: cannot be read"),
        ("phone.HEIC", "phone.HEIC: cannot be read"),
        ("dot.png", "no face"),
        ("labels.csv", "is not copied: the crops end in .png"),
    ):
        assert any(name in line and reason in line for line in told.splitlines())
    files = {p.relative_to(dest).as_posix() for p in dest.rglob("*.png")}
    assert files == {"train/smile/a.png", "train/smile/a.png.png", "test/smile/turned.png",
                     "test/yawn/crop.png"}  # fmt: skip
    assert len(pd.read_csv(dest / "left_out.csv")) == 5
    model = load_model(trained[1])
    whole, _, _ = predict_files(model, [source / "train/smile/a.png"])
    cut, _, _ = predict_files(model, [dest / "train/smile/a.png.png"], whole=True)
    columns = [c for c in whole if c.startswith("p_")]
    np.testing.assert_allclose(whole[columns], cut[columns], atol=1e-6)
    upright = np.asarray(Image.open(dest / "test/smile/turned.png").convert("L"), dtype=float)
    straight = np.asarray(Image.open(dest / "train/smile/a.png").convert("L").resize(
        upright.shape[::-1]), dtype=float)  # fmt: skip
    assert np.abs(upright - straight).mean() < 12
    files = {path: path.stat().st_mtime_ns for path in dest.rglob("*")}
    assert main(["data", "crop", str(source), str(dest)]) == 1
    assert f"{dest} is not empty" in capsys.readouterr().err
    assert files == {path: path.stat().st_mtime_ns for path in dest.rglob("*")}
    for inside in (source / "more", tmp_path):
        assert main(["data", "crop", str(source), str(inside)]) == 1
        assert "lies inside the other" in capsys.readouterr().err
