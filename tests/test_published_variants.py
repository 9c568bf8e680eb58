"""Tables and folders as they circulate are read; a faulty one names file, line and value."""

import re
import shutil

import numpy as np
import pandas as pd
import pytest
from drawn_layouts import write_layout

from grefel_lib.config import Config
from grefel_lib.faces import SPLITS, load_faces
from grefel_lib.labels import VOTE_COLUMNS


def load(folder, dataset, **changes):
    return load_faces(Config(dataset=dataset, data_dir=str(folder), **changes))


def same(ours, theirs):
    pd.testing.assert_frame_equal(
        ours.table.drop(columns="file"), theirs.table.drop(columns="file")
    )
    np.testing.assert_array_equal(ours.images, theirs.images)


def sizes(faces):
    return [len(faces.split(split)) for split in SPLITS]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """One folder of each layout, which tests copy."""
    root, made = tmp_path_factory.mktemp("drawn"), {}

    def draw(layout):
        if layout not in made:
            made[layout] = write_layout(root / layout, layout, images=220)
        return made[layout]

    return draw


@pytest.fixture
def copy(drawn, tmp_path):
    return lambda layout: shutil.copytree(drawn(layout), tmp_path / layout)


def rewrite(path, change):
    path.write_text(change(path.read_text()), newline="")


PLACES = {
    "ferplus": "fer2013new.csv", "fer2013": "fer2013.csv",
    "rafdb": "basic/EmoLabel/list_patition_label.txt", "rafdb_kaggle": "train_labels.csv",
}  # fmt: skip


@pytest.mark.parametrize("layout", PLACES)
@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace(",", " , ").replace("\n", " \n"),
        lambda text: text.replace(",", ";"),
        lambda text: text.replace(",", "\t"),
        lambda text: "\ufeff" + text.replace(",", ";").replace("\n", "\r\n\r\n"),
        lambda text: "\ufeff\r\n\n" + text,
        lambda text: text.rstrip("\n"),
    ],
    ids=["mark", "crlf", "spaces", "semicolons", "tabs", "all", "blank", "no-last-line-end"],
)
def test_a_table_is_read_in_every_form(layout, change, drawn, copy):
    folder, dataset = copy(layout), layout.removesuffix("_kaggle")
    rewrite(folder / PLACES[layout], change)
    faces = load(folder, dataset)
    same(faces, load(drawn(layout), dataset))
    assert faces.info["warnings"] == []


def test_spaces_in_the_votes_header_matter_neither_with_images_nor_with_pixels(drawn, copy):
    folder, straight = copy("ferplus"), load(drawn("ferplus"), "ferplus")
    rewrite(folder / "fer2013new.csv", lambda text: " " + text.replace(",", " , ", 11))
    same(load(folder, "ferplus"), straight)
    shutil.rmtree(folder / "Images")
    shutil.copy(drawn("fer2013") / "fer2013.csv", folder)
    same(load(folder, "ferplus"), straight)


@pytest.mark.parametrize(
    "change",
    [lambda pixels: pixels.replace(" ", ".0 "), lambda pixels: f"[{pixels}]",
     lambda pixels: '"[' + pixels.replace(" ", ", ") + ']"'],
)  # fmt: skip
def test_pixels_may_be_decimals_or_in_brackets(change, drawn, copy):
    folder = copy("fer2013")
    rewrite(
        folder / "fer2013.csv",
        lambda text: re.sub(r"(?<=,)[\d ]{99,}(?=,)", lambda found: change(found[0]), text),
    )
    same(load(folder, "fer2013"), load(drawn("fer2013"), "fer2013"))


# -- published variants


def test_kaggles_competition_table_is_found(drawn, copy, tmp_path):
    folder = copy("fer2013")
    table = pd.read_csv(folder / "fer2013.csv")[["emotion", "Usage", "pixels"]]
    table.columns = ["emotion", " Usage", " pixels"]
    (folder / "fer2013.csv").unlink()
    table.to_csv(folder / "icml_face_data.csv", index=False)
    same(load(folder, "fer2013"), load(drawn("fer2013"), "fer2013"))
    votes = copy("ferplus")
    shutil.rmtree(votes / "Images")
    shutil.copy(folder / "icml_face_data.csv", votes)
    same(load(votes, "ferplus"), load(drawn("ferplus"), "ferplus"))


def test_the_published_ferplus_clone_has_folders_without_images(drawn, copy):
    folder = copy("ferplus")
    shutil.rmtree(folder / "Images")
    for part in ("Train", "Valid", "Test"):
        (folder / f"data/FER2013{part}").mkdir(parents=True)
        (folder / f"data/FER2013{part}/label.csv").write_text('fer0000000.png,"(0, 0, 48, 48)",4\n')
    with pytest.raises(FileNotFoundError, match=r"no images for .*fer2013new\.csv"):
        load(folder, "ferplus")
    shutil.copy(drawn("fer2013") / "fer2013.csv", folder)
    faces = load(folder, "ferplus")
    same(faces, load(drawn("ferplus"), "ferplus"))
    assert "row by row" in faces.info["warnings"][0]


def test_a_raf_list_may_name_the_aligned_images(drawn, copy):
    folder = copy("rafdb")
    rewrite(folder / PLACES["rafdb"], lambda text: text.replace(".jpg", "_aligned.jpg"))
    same(load(folder, "rafdb"), load(drawn("rafdb"), "rafdb"))


@pytest.mark.parametrize("place", ["basic", "."])
def test_basic_emotions_are_not_relabelled_as_compound_ones(place, copy):
    folder = copy("rafdb")
    if place == ".":
        (folder / "basic").rename(folder / "mine")
        place = "mine"
    load(folder / place, "rafdb")
    with pytest.raises(ValueError, match=r"list_patition_label\.txt .* pass dataset=rafdb"):
        load(folder / place, "rafdb_compound")


def test_compound_emotions_are_not_basic_ones(copy):
    folder = copy("rafdb_compound")
    with pytest.raises(ValueError, match=r"label\.txt, line \d+: label must be one of 1 surprise"):
        load(folder / "compound", "rafdb")


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
@pytest.mark.parametrize(("layout", "dataset"), [("fer2013_folders", "fer2013"),
                                                 ("rafdb_kaggle", "rafdb")])  # fmt: skip
def test_a_validation_folder_is_the_validation_split(layout, dataset, name, copy):
    folder = copy(layout)
    base = folder / "DATASET" if dataset == "rafdb" else folder
    before = load(folder, dataset, drop_leaks=False)
    moved = [file for file in sorted(base.glob("test/*/*")) if "Private" not in file.name][::2]
    for file in moved:
        target = base / name / file.parent.name / file.name.replace("PublicTest", "face")
        target.parent.mkdir(parents=True, exist_ok=True)
        file.rename(target)
    for file in base.glob("test/*/PublicTest*"):
        file.unlink()
    faces = load(folder, dataset, drop_leaks=False)
    train = len(before.split("train")) + (len(before.split("val")) if dataset == "rafdb" else 0)
    assert sizes(faces)[:2] == [train, len(moved)]
    assert len(moved) > 5
    assert faces.info["warnings"] == []


def test_ferplus_without_validation_rows_gets_a_stratified_tenth(copy):
    folder = copy("ferplus")
    rewrite(
        folder / "fer2013new.csv",
        lambda text: "".join(line for line in text.splitlines(True) if "PublicTest" not in line),
    )
    shutil.rmtree(folder / "Images/FER2013Valid")
    faces = load(folder, "ferplus", protocol="all", drop_leaks=False)
    train, val, test = sizes(faces)
    assert val == pytest.approx((train + val) / 10, abs=3)
    assert test > 5
    assert "of the training faces, stratified" in faces.info["warnings"][0]


# -- faults


def cell(row, column, value):
    """Replace one cell of a comma-separated text: row 1 is the line after the header."""

    def change(text):
        lines = text.splitlines()
        cells = lines[row].split(",")
        cells[column] = value
        return "\n".join([*lines[:row], ",".join(cells), *lines[row + 1 :], ""])

    return change


VOTE = 2 + VOTE_COLUMNS.index("sadness")


@pytest.mark.parametrize(
    ("layout", "change", "words"),
    [
        *[("ferplus", cell(4, VOTE, value), rf"new\.csv, line 5: a vote for sadness .*{shown}")
          for value, shown in [("-1", "-1"), ("0.5", "0.5"), ("1e20", "1e"), ("99999", "99999"),
                               ("", "empty cell"), ("many", "'many'"), ("9" * 30, "999")]],
        ("ferplus", cell(4, 0, "Train"), r"new\.csv, line 5: Usage must be .*found 'Train'"),
        ("ferplus", lambda text: text.replace("Usage", "Use"), r"new\.csv lacks the columns Usage"),
        ("fer2013", cell(3, 0, "9"), r"2013\.csv, line 4: emotion must be one of 0 ang.*found '9'"),
        ("fer2013", cell(3, 0, "happy"), r"2013\.csv, line 4: emotion .*found 'happy'"),
        ("fer2013", cell(3, 0, ""), r"2013\.csv, line 4: emotion .*found an empty cell"),
        ("fer2013", cell(3, 2, ""), r"2013\.csv, line 4: Usage .*found an empty cell"),
        ("fer2013", cell(3, 1, "1 2 3"), r"2013\.csv, line 4: expected 2304 .* found 3 in '1 2 3'"),
        *[("fer2013", cell(3, 1, f"7 {value} " + "7 " * 2302),
           rf"2013\.csv, line 4: a pixel must be .*'{value}'")
          for value in ("0.27", "-1", "256", "nan", "x", "1e20")],
        ("fer2013", lambda text: "\n".join(line for line in text.splitlines()
                                           if "PrivateTest" not in line),
         "has no test faces: a table or folder is incomplete"),
        ("rafdb", lambda text: text.replace("train_00002.jpg ", "train_00002.jpg 9"),
         r"label\.txt, line 2: label must be one of 1 surprise.*found '9\d'"),
        ("rafdb", lambda text: text.replace("train_00002.jpg ", "train_00002.jpg -"),
         r"label\.txt, line 2: expected"),
        ("rafdb", lambda text: text + "train_00002_aligned.jpg 5\n",
         r"label\.txt, line 221: an image may be listed once; found 'train_00002'"),
        ("rafdb", lambda text: text.partition("test_")[0], "has no test faces"),
        ("rafdb_kaggle", lambda text: text + "train_99999_aligned.jpg,5\n",
         r"train_labels\.csv, line 178: there is no image train_99999_aligned\.jpg"),
        ("rafdb_kaggle", cell(2, 1, "8"), r"train_labels\.csv, line 3: label must .*found '8'"),
        ("rafdb_kaggle", lambda text: text + re.sub(r"\d$", lambda code: str(int(code[0]) % 7 + 1),
                                                    text.splitlines()[1]) + "\n",
         r"its table says \d \(.*train_labels\.csv, line 178\)"),
    ],
)  # fmt: skip
def test_a_fault_is_named_by_file_line_and_value(layout, change, words, copy):
    folder = copy(layout)
    rewrite(folder / PLACES[layout], change)
    with pytest.raises((ValueError, FileNotFoundError), match=words) as error:
        load(folder, layout.removesuffix("_kaggle"))
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_list_in_another_encoding_is_named_with_its_line(copy):
    path = copy("rafdb") / PLACES["rafdb"]
    path.write_bytes(path.read_bytes().replace(b"train_00003", "trän_00003".encode("latin-1")))
    with pytest.raises(ValueError, match=r"label\.txt, line 3: expected"):
        load(path.parents[2], "rafdb")


@pytest.mark.parametrize(("above", "line"), [("", 7), ("\n\n", 9), ("\ufeffsep=,\r\n", 8),
                                             (",,,\n", 8)])  # fmt: skip
def test_lines_count_blank_ones_too(copy, above, line):
    folder = copy("ferplus")
    rewrite(folder / "fer2013new.csv", cell(4, VOTE, "-1"))
    rewrite(folder / "fer2013new.csv", lambda text: above + text.replace("\n", "\n\n", 2))
    with pytest.raises(ValueError, match=rf"line {line}: a vote for sadness .*-1"):
        load(folder, "ferplus")


@pytest.mark.parametrize("content", ["Usage\n".encode("utf-16"), "Usage,caf\xe9\n".encode("cp1252"),
                                     b"PK\3\4\x14\0\6\0\x08\0\0\0!\0\xb5\x9f"])  # fmt: skip
def test_a_table_that_is_not_in_utf8_says_what_to_save_it_as(copy, content):
    folder = copy("ferplus")
    (folder / "fer2013new.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"new\.csv is no csv file in UTF-8; save it as CSV UTF-8"):
        load(folder, "ferplus")


def test_a_hidden_table_of_labels_is_not_read(drawn, copy):
    folder = copy("rafdb_kaggle")
    (folder / "._train_labels.csv").write_bytes(b"\0\x05\x16\x07 Mac OS X")
    same(load(folder, "rafdb"), load(drawn("rafdb_kaggle"), "rafdb"))


@pytest.mark.parametrize(("layout", "kept"), [("rafdb", "[^7]$"), ("ferplus", "^(?!Training.*7,)")])
def test_images_that_a_list_leaves_out_are_counted_aloud(layout, kept, copy):
    folder = copy(layout)
    path, left = folder / PLACES[layout], []
    head, *lines = path.read_text().splitlines()
    lines = [head, *lines]
    stay = [line for line in lines if re.search(kept, line)]
    left = [line for line in lines if line not in stay]
    path.write_text("\n".join(stay) + "\n")
    (warning,) = load(folder, layout).info["warnings"]
    number = int(warning.split()[0])
    assert 0 < number <= len(left)
    assert re.fullmatch(rf"\d+ images are not in {path.name}, first: .*", warning)


def test_two_images_of_one_name_are_refused(copy):
    folder = copy("rafdb_kaggle")
    file = next((folder / "DATASET/train/4").iterdir())
    shutil.copy(file, file.with_name(file.stem.removesuffix("_aligned") + ".jpg"))
    with pytest.raises(ValueError, match=f"two image files for {file.stem[:11]}: .*; keep one"):
        load(folder, "rafdb")


def test_tables_of_other_releases_name_the_first_row_that_differs(drawn, copy):
    folder = copy("ferplus")
    shutil.rmtree(folder / "Images")
    shutil.copy(drawn("fer2013") / "fer2013.csv", folder)
    rewrite(folder / "fer2013.csv", cell(3, 2, "PublicTest"))
    with pytest.raises(ValueError, match="row 3 is train in the first and val in the second"):
        load(folder, "ferplus")


def test_a_row_that_is_there_twice_is_counted_aloud(copy):
    folder = copy("ferplus")
    path = folder / PLACES["ferplus"]
    row = next(line for line in path.read_text().splitlines() if ".png" in line)
    rewrite(path, lambda text: text + row + "\n")
    (warning,) = load(folder, "ferplus").info["warnings"]
    assert warning == (
        f"1 rows of {path.name} repeat an earlier row and count again, first: {row.split(',')[1]}"
    )
