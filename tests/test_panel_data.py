"""The data browser: what is selected, where a jump leads, what is written."""

import html
import re

import numpy as np
import pandas as pd
import pytest
from drawn_layouts import write_layout
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from grefel_lib.analysis.check import check_data, describe
from grefel_lib.config import Config
from grefel_lib.faces import SPLITS, load_faces
from grefel_lib.labels import VOTE_COLUMNS
from grefel_lib.panels.data import PAGE, DataPanel, data_sets_here, faces_page, select_faces
from grefel_lib.report.style import EMA


@pytest.fixture(scope="module")
def config(faces_dir):
    return Config.resolve({"dataset": "ferplus", "data_dir": str(faces_dir), "profile": "demo"})


@pytest.fixture(scope="module")
def faces(config):
    return load_faces(config.replace(drop_leaks=False))


@pytest.fixture
def browser(config, other_outputs, monkeypatch):
    """A browser that draws nothing; its words tell what it shows."""
    monkeypatch.setattr(
        "grefel_lib.panels.data.faces_page", lambda *_, **__: Figure(figsize=(1, 1))
    )
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


def test_a_data_set_that_is_not_here_is_said_and_the_way_back_works(browser):
    browser.dataset.options = (*browser.dataset.options, "rafdb_compound")  # gone meanwhile
    browser.dataset.value = "rafdb_compound"
    assert 'role="alert"' in browser.message.value
    assert "rafdb_compound" in browser.message.value
    assert browser.shown.value == ""
    browser.split.value = "test"  # nothing to select from; no further error
    browser.dataset.value = "ferplus"
    assert browser.message.value == ""
    assert "test_" in browser.shown.value


def test_an_empty_selection_says_what_to_do(browser):
    browser.agreement.value = (0, 0)
    assert "widen the agreement" in browser.message.value
    assert browser.export.disabled
    assert all(button.layout.display == "none" for button in browser.jumps)


def test_a_page_shows_each_face_with_its_votes_and_frames_one(faces):
    rows = faces.table.iloc[[3, 1]]
    fig = faces_page(faces, rows, framed=rows["id"].iloc[1])
    shown = [ax for ax in fig.axes if ax.images]
    below = [ax for ax in fig.axes if ax.patches]
    for ax, position in zip(shown, (3, 1), strict=True):
        np.testing.assert_array_equal(ax.images[0].get_array(), faces.gather([position])[0])
    for ax, votes in zip(below, rows[list(VOTE_COLUMNS)].to_numpy(), strict=True):
        assert [bar.get_height() for bar in ax.patches] == votes.tolist()
    first, second = (ax.spines["left"].get_edgecolor() for ax in shown)
    assert (first, second) == (to_rgba("white"), to_rgba(EMA))


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
    browser.split.value = "test"
    assert "<pre>" not in browser.shown.value
