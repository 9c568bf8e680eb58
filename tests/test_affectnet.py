"""AffectNet: layouts, codes, and its validation set as the test split."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_own_faces import draw
from test_splits import predictions

from grefel_lib.analysis.check import check_data
from grefel_lib.analysis.evaluation import Evaluation
from grefel_lib.config import Config
from grefel_lib.faces import load_faces
from grefel_lib.report.card import model_card
from grefel_lib.report.everything import caption
from grefel_lib.run import Run

CODES = {  # typed in from the authors' description
    0: "neutral", 1: "happiness", 2: "sadness", 3: "surprise", 4: "fear", 5: "disgust",
    6: "anger", 7: "contempt", 8: None, 9: None, 10: None,
}  # fmt: skip
EACH = {"train": 12, "val": 2}  # faces of each code


def faces():
    """Split, code, and a number that no other face has."""
    number = 0
    for split, count in EACH.items():
        for code in CODES:
            for _ in range(count):
                yield split, code, number
                number += 1


def released(root):
    for split, code, number in faces():
        draw(root / f"{split}_set/images/{number}.jpg", number, mode="RGB")
        (root / f"{split}_set/annotations").mkdir(exist_ok=True)
        saved = np.array(str(code)) if number % 2 else np.array(code)
        np.save(root / f"{split}_set/annotations/{number}_exp.npy", saved)


def lists(root):
    rows = {split: [] for split in EACH}
    for split, code, number in faces():
        name = f"{number % 3}/{number}.jpg"
        draw(root / "Manually_Annotated_Images" / name, number, mode="RGB", size=(90, 70))
        box = ("NULL",) * 4 if code == 10 else (20, 10, 50, 50)
        rows[split].append((name, *box, "", code, 0.5, 0.5))
    columns = ["subDirectory_filePath", "face_x", "face_y", "face_width", "face_height",
               "facial_landmarks", "expression", "valence", "arousal"]  # fmt: skip
    for split, name in (("train", "training.csv"), ("val", "validation.csv")):
        pd.DataFrame(rows[split], columns=columns).to_csv(root / name, index=False)


def folders(root):
    for split, code, number in faces():
        draw(root / split / str(code) / f"{number}.jpg", number, mode="RGB")


def read(root, dataset):
    return load_faces(Config(dataset=dataset, data_dir=str(root)))


@pytest.mark.parametrize("write", [released, lists, folders])
@pytest.mark.parametrize(("dataset", "classes"), [("affectnet7", 7), ("affectnet8", 8)])
def test_every_layout_gives_the_same_faces(tmp_path, write, dataset, classes):
    write(tmp_path)
    found = read(tmp_path, dataset)
    order = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")
    assert found.class_names == order[:classes]
    counts = found.counts()
    assert counts["test"].tolist() == [EACH["val"]] * classes
    assert (counts["train"] + counts["val"]).tolist() == [EACH["train"]] * classes
    assert counts["val"].sum() >= 3
    assert found.info["protocol"] == "validation set as test"
    assert found.info["no_label"]["test"] == EACH["val"] * (11 - classes)
    assert found.info["no_label"]["val"] == 0  # a tenth of the faces that are used
    assert found.images.shape[1:] == (112, 112, 3)


@pytest.mark.parametrize("write", [released, folders])
def test_a_code_means_what_the_authors_say(tmp_path, write):
    write(tmp_path)
    found = read(tmp_path, "affectnet8")
    expected = {number: CODES[code] for _, code, number in faces()}
    for name, label in zip(found.table["file"], found.table["label"], strict=True):
        number = int(name.rpartition("/")[2].removesuffix(".jpg"))
        assert found.class_names[label] == expected[number], name


def test_faces_are_cut_out_of_listed_photographs(tmp_path):
    lists(tmp_path)
    for path in (tmp_path / "Manually_Annotated_Images").rglob("*.jpg"):
        draw(path, int(path.stem), bright=True, mode="RGB", size=(90, 70))
    csv = tmp_path / "validation.csv"
    table = pd.read_csv(csv, dtype=str, keep_default_na=False)
    path = tmp_path / "Manually_Annotated_Images" / table["subDirectory_filePath"][0]
    picture = np.zeros((70, 90, 3), np.uint8)
    picture[10:60, 20:70] = 255
    Image.fromarray(picture).save(path, quality=100)
    found = read(tmp_path, "affectnet8").split("test")
    assert found.table["id"][0] == "test_000000"
    assert found.gather(np.array([0])).mean() > 250
    told = check_data(Config(dataset="affectnet8", data_dir=str(tmp_path)))["warnings"]
    assert not [line for line in told if "square" in line], "the boxes are square"


def test_a_copy_with_its_own_test_folder_is_taken_as_it_is(tmp_path):
    folders(tmp_path)
    for code in range(8):
        draw(tmp_path / f"test/{code}/x.jpg", 5000 + code, mode="RGB")
    found = read(tmp_path, "affectnet8")
    assert found.counts().sum().tolist() == [96, 16, 8]
    assert found.info["protocol"] == ""


def test_the_check_sets_the_published_counts_beside_those_here(tmp_path):
    folders(tmp_path)
    facts = check_data(Config(dataset="affectnet7", data_dir=str(tmp_path)))
    assert facts["published"] == {"train": 283901, "val": 0, "test": 3500}
    assert facts["here"] == {"train": 84, "val": 0, "test": 14}


@pytest.mark.parametrize("code", [None, b"", np.inf, "x"])
def test_a_file_that_holds_no_code_is_refused(tmp_path, code):
    released(tmp_path)
    path = tmp_path / "train_set/annotations/3_exp.npy"
    path.unlink()
    if isinstance(code, bytes):
        path.write_bytes(code)
    elif code is not None:
        np.save(path, code)
    with pytest.raises(ValueError, match=r"3_exp\.npy must hold or be one label code"):
        read(tmp_path, "affectnet8")


@pytest.mark.parametrize(("column", "cell", "told"), [
    ("expression", "", "expression must be a code of 0 to 10; found an empty cell"),
    ("expression", "happy", "expression must be a code of 0 to 10; found 'happy'"),
    ("subDirectory_filePath", "", "subDirectory_filePath must name a file; found an empty cell"),
])  # fmt: skip
def test_a_wrong_cell_of_a_list_is_named_by_file_and_line(tmp_path, column, cell, told):
    lists(tmp_path)
    path = tmp_path / "validation.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table.loc[1, column] = cell
    table.to_csv(path, index=False)
    with pytest.raises(ValueError, match=rf"validation\.csv, line 3: {told}"):
        read(tmp_path, "affectnet8")


def test_caption_and_card_say_that_the_validation_set_is_the_test_split(tmp_path):
    folders(tmp_path)
    info = load_faces(Config(dataset="affectnet8", data_dir=str(tmp_path))).info
    about = {key: info[key] for key in ("dataset", "protocol", "fingerprint")}
    facts = about | {f"training_{key}": value for key, value in about.items()} | {
        "split": "test", "tta": "none", "selection": "validation accuracy",
        "headline": "best_model",
        "checkpoints": {"best_model": {"epoch": 2, "val_accuracy": 0.8}},
    }  # fmt: skip
    config = Config(dataset="affectnet8")
    tables = {"best_model": predictions(0.6, [str(i) for i in range(70)])}
    evaluation = Evaluation(Run(tmp_path, config), config, facts, tables, tables)
    words = "AffectNet-8 (validation set as test), test split, 70 faces"
    assert caption(evaluation).startswith(words)
    assert "affectnet8, protocol validation set as test; fingerprint" in model_card(evaluation)
