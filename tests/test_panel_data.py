"""The data browser: what is selected, where a jump leads, what is written."""

import html
import re

import numpy as np
import pandas as pd
import pytest
from drawn_figures import sheet
from drawn_layouts import write_layout

from grefel_lib.analysis.check import check_data, describe
from grefel_lib.config import Config
from grefel_lib.faces import SPLITS, load_faces
from grefel_lib.labels import VOTE_COLUMNS
from grefel_lib.panels.data import FACES, PAGE, DataPanel, data_sets_here, faces_page, select_faces
from grefel_lib.panels.panel import vote_words


@pytest.fixture(scope="module")
def config(faces_dir):
    return Config.resolve({"dataset": "ferplus", "data_dir": str(faces_dir), "profile": "demo"})


@pytest.fixture(scope="module")
def faces(config):
    return load_faces(config.replace(drop_leaks=False))


@pytest.fixture
def browser(config, other_outputs):
    return DataPanel(config)


def test_nothing_asked_for_is_every_face_and_the_parts_add_up(faces):
    assert len(select_faces(faces)) == len(faces)
    parts = [select_faces(faces, split=s, label=n) for s in SPLITS
             for n in faces.class_names]  # fmt: skip
    assert sorted(i for part in parts for i in part.index) == list(range(len(faces)))


def test_a_selection_holds_what_was_asked_for_and_leaves_nothing_out(faces):
    chosen = select_faces(faces, split="train", label="anger", agreement=(0.5, 0.8))
    table = faces.table
    right = (table["split"] == "train") & (table["label"] == faces.class_names.index("anger"))
    right &= (table["agreement"] >= 0.5) & (table["agreement"] <= 0.8)
    assert 0 < len(chosen) < (table["split"] == "train").sum()
    assert list(chosen.index) == list(table.index[right])


def test_a_copy_has_its_pixels_in_another_split_and_is_found_from_both_sides(faces):
    copies = select_faces(faces, copies=True)
    assert len(copies)
    assert (copies.groupby("image_hash")["split"].nunique() > 1).all()
    others = faces.table.drop(copies.index).groupby("image_hash")["split"].nunique()
    assert (others == 1).all()


def test_what_was_read_is_told_where_no_face_can_be(other_outputs, tmp_path):
    panel = DataPanel(Config(dataset="folder", data_dir=str(tmp_path / "nothing")))
    panel.check.click()
    assert "no folder" in panel.shown.value + panel.message.value
    assert panel.check.description == FACES


def test_a_jump_shows_the_copy_in_its_own_split_and_back(browser):
    browser.copies.value = True
    start, target = re.findall(r"\w+_\d+", browser.jumps[0].description)
    browser.copies.value = False
    browser.copies.value = True
    browser.jumps[0].click()
    assert browser.split.value == target.split("_")[0]
    assert target in browser.shown.value
    assert browser.framed == target
    back = [b for b in browser.jumps if b.layout.display is None and start in b.description]
    back[0].click()
    assert (browser.split.value, browser.framed) == (start.split("_")[0], start)


def test_every_page_is_written_with_class_names(browser, faces, other_outputs):
    browser.label.value = "happiness"
    browser.split.value = "train"
    browser.export.click()
    (file,) = other_outputs.glob("selections/*.csv")
    written = pd.read_csv(file)
    chosen = select_faces(faces, split="train", label="happiness")
    assert len(chosen) > PAGE
    assert written["id"].tolist() == chosen["id"].tolist()
    assert set(written["label"]) == {"happiness"}
    assert "train-happiness" in file.name


def test_a_data_set_that_is_not_here_is_said_and_the_one_before_stays(browser):
    before = browser.shown.value
    with browser.hushed():
        browser.dataset.options = ("ferplus", "rafdb_compound")  # gone meanwhile
    browser.dataset.value = "rafdb_compound"
    assert 'role="alert"' in browser.message.value
    assert "rafdb_compound" in browser.message.value
    assert (browser.dataset.value, browser.shown.value) == ("ferplus", before)
    browser.split.value = "test"
    assert browser.message.value == ""
    assert "test_" in browser.shown.value


def test_an_empty_selection_says_what_to_do(browser):
    browser.agreement.value = (0, 0)
    assert "widen the agreement" in browser.message.value
    assert browser.export.disabled
    assert all(button.layout.display == "none" for button in browser.jumps)


def test_a_page_shows_each_face_with_its_votes_and_frames_one(faces):
    rows = faces.table.iloc[[3, 1]]
    shown = faces_page(faces, rows, framed=rows["id"].iloc[1])
    np.testing.assert_array_equal(sheet(shown), np.concatenate(list(faces.gather([3, 1])), axis=1))
    told = [f"{faces.class_names[label]} · {split}" for label, split in
            rows[["label", "split"]].to_numpy()]  # fmt: skip
    assert re.findall(r"</i>(.*?)</div>", shown) == told
    one, two = re.findall(r"<i [^>]+>", shown)
    assert "outline:3px" not in one
    assert "outline:3px" in two
    for words, (_, row) in zip((one, two), rows.iterrows(), strict=True):
        votes = row[list(VOTE_COLUMNS)].astype(int)
        assert row["id"] in words
        assert f"{votes.idxmax()} {votes.max()}" in words


def test_words_of_votes_begin_with_the_largest():
    assert vote_words(["a", "b", "c"], np.array([1, 7, 0])) == "b 7, a 1"
    assert vote_words(["a", "b", "c"], np.array([0.25, 0.7496, 0.0004])) == "b 75%, a 25%"


def test_only_data_sets_that_are_here_can_be_chosen(config, other_outputs, tmp_path, monkeypatch):
    monkeypatch.setattr("grefel_lib.sources.layouts.PROJECT_ROOT", tmp_path)
    assert data_sets_here(config) == ["synthetic", "ferplus"]
    (tmp_path / "data").mkdir()
    write_layout(tmp_path / "data/RAF-DB", "rafdb", images=100)
    assert data_sets_here(config) == ["synthetic", "ferplus", "rafdb"]
    assert not (tmp_path / "data/synthetic-3000").exists()


def test_the_browser_tells_what_was_read_as_grefel_data_check_does(browser, config):
    browser.check.click()
    assert html.escape(describe(check_data(config))) in browser.shown.value
    assert browser.message.value == ""
    browser.check.click()  # it shows the faces again
    assert "<pre>" not in browser.shown.value
    browser.check.click()
    browser.split.value = "test"
    assert "<pre>" not in browser.shown.value
    assert browser.check.description == "what was read"


def test_without_a_data_set_a_choice_says_so(config, tmp_path):
    browser = DataPanel(config.replace(dataset="ferplus", data_dir=str(tmp_path)))
    assert str(tmp_path) in browser.message.value
    browser.split.value = "val"
    assert "no data set is loaded; choose another" in browser.message.value
