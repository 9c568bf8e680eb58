"""The confusion explorer: the right faces behind each cell, in the order asked for."""

import dataclasses
import html
import itertools
import time

import numpy as np
import pandas as pd
import pytest
from conftest import TAG
from drawn_figures import sheet

from grefel_lib.analysis.evaluation import evaluate_run
from grefel_lib.faces import load_faces, read_label_fixes
from grefel_lib.files import Folder
from grefel_lib.metrics import table_classes
from grefel_lib.panels.confusion import ORDERS, ConfusionPanel, select_cell
from grefel_lib.report.figures import confusion_figure


@pytest.fixture(scope="module")
def found(small_run, tmp_path_factory):

    config = small_run.config.on_data(robustness_images=0, inspect_labels=False)
    results = Folder(tmp_path_factory.mktemp("results"))
    return evaluate_run(small_run, load_faces(config), config, results)


@pytest.fixture(scope="module")
def faces(small_run):
    return load_faces(small_run.config).split("test")


@pytest.fixture
def explorer(found, faces):
    return ConfusionPanel(found, faces)


def test_the_cells_hold_every_face_once(found):
    table = found.table
    names = table_classes(table)
    cells = [select_cell(table, a, b) for a in names for b in names]
    for (a, b), cell in zip(itertools.product(names, names), cells, strict=True):
        assert (set(cell["label"]), set(cell["predicted"])) == ({a}, {b}) or cell.empty
    assert sorted(i for cell in cells for i in cell.index) == list(range(len(table)))


@pytest.mark.parametrize("order", ORDERS)
def test_the_order_is_the_one_asked_for(found, order):
    table = found.table.assign(label="anger", predicted="anger")
    rows = select_cell(table, "anger", "anger", order=order)
    column, ascending = ORDERS[order]
    values = rows["p_anger" if column == "confidence" else column].to_numpy()
    assert len(values) > 2
    assert values[0] != values[-1]
    assert (np.diff(values if ascending else values[::-1]) >= 0).all()


def test_reliability_filters_and_a_table_without_it_keeps_all(found):
    table = found.table.assign(label="anger", predicted="anger")
    middle = float(table["reliability"].median())
    kept = select_cell(table, "anger", "anger", between=(middle, 1))
    assert 0 < len(kept) < len(table)
    assert (kept["reliability"] >= middle).all()
    plain = table.drop(columns="reliability")
    assert len(select_cell(plain, "anger", "anger", between=(middle, 1))) == len(table)


def test_it_opens_on_the_most_frequent_mistake(explorer, found):
    wrong = found.table[found.table["label"] != found.table["predicted"]]
    checkpoint, true, predicted = explorer.chosen
    most = wrong.groupby(["label", "predicted"]).size()
    assert checkpoint == found.headline
    assert most[true, predicted] == most.max()


def test_names_in_a_shared_run_are_text_and_no_tags(found, faces, assert_escaped):
    first = table_classes(found.table)[0]
    other = {TAG: found.table.assign(predicted=found.table["label"])}
    shared = dataclasses.replace(found, predictions={**found.predictions, **other})
    panel = ConfusionPanel(shared.with_class_names({first: TAG}), faces)
    for checkpoint in (found.headline, TAG):
        panel.choose(checkpoint, TAG, TAG)
        assert_escaped(panel)
    assert html.escape(TAG) in panel.matrices[TAG].children[0].value


@pytest.mark.parametrize("split", ["test", "val"])
def test_the_accuracy_above_a_matrix_names_its_split(explorer, found, split):
    explorer.evaluation = dataclasses.replace(found, facts={**found.facts, "split": split})
    title = explorer._matrix(found.headline).children[0].value
    right = (found.table["label"] == found.table["predicted"]).mean()
    assert title == f"{found.headline} (headline), {split} split: {right:.1%}"


def test_every_cell_counts_its_faces_and_a_click_shows_them(explorer, found):
    for (checkpoint, true, predicted), cell in explorer.cells.items():
        table = found.predictions[checkpoint]
        count = ((table["label"] == true) & (table["predicted"] == predicted)).sum()
        assert cell.tooltip.split()[0] == str(count)
        assert cell.disabled == (count == 0)
    key = next(
        k for k, cell in explorer.cells.items() if not cell.disabled and k[0] != found.headline
    )
    before = explorer.chosen
    explorer.cells[key].click()
    assert explorer.chosen == key != before
    assert f"{key[1]} predicted as {key[2]} by {key[0]}" in explorer.message.value
    framed = [k for k, cell in explorer.cells.items() if cell.layout is explorer.framed]
    assert framed == [key]


def test_a_label_is_tagged_as_wrong_and_the_tag_taken_back(explorer, found, faces):
    file = found.folder.path / "label_fixes.csv"
    face, other = (explorer.face.options * 2)[:2]
    assert (explorer.tag.disabled, explorer.untag.disabled) == (False, True)
    explorer.tag.click()
    assert read_label_fixes(file) == {face: ""}
    assert explorer.shown.value.count("✗") == 1
    assert "it leaves faces of the test split as they are" in explorer.message.value
    assert not explorer.untag.disabled
    explorer.right.value = "fear"
    explorer.tag.click()
    assert read_label_fixes(file) == {face: "fear"}
    assert "label tagged as wrong: fear" in explorer.shown.value
    again = ConfusionPanel(found, faces)  # opened anew, it knows the tags
    assert (again.face.value, again.right.value) == (face, "fear")
    again.untag.click()
    assert read_label_fixes(file) == {}
    assert "✗" not in again.shown.value
    explorer.face.value = other
    explorer.tag.click()  # the other panel's change is not undone
    assert read_label_fixes(file) == {other: "fear"} if other == face else {other: ""}


def test_a_tag_written_by_hand_with_an_unknown_label_can_be_mended(explorer, found, faces):
    face = explorer.face.value
    found.folder.write_text(f"id,label\n{face},bored\n", "label_fixes.csv")
    again = ConfusionPanel(found, faces)
    assert (again.face.value, again.right.value) == (face, again.right.options[0])
    assert not again.untag.disabled
    again.untag.click()
    assert read_label_fixes(found.folder.path / "label_fixes.csv") == {}


def test_a_deleted_run_is_not_created_again(explorer, found):
    moved = found.folder.path.rename(found.folder.path.with_name("moved"))
    for button in (explorer.save, explorer.export, explorer.tag):
        button.click()
        assert "is not there (any more)" in explorer.message.value
        assert not found.folder.path.exists()
    assert "✗" not in explorer.shown.value
    assert explorer.fixes == {}
    moved.rename(found.folder.path)


def test_a_range_without_faces_is_said(explorer):
    explorer.between.value = (0, 0)
    assert "in this reliability range; widen it" in explorer.message.value
    assert explorer.shown.value == ""
    explorer.between.value = (0, 1)
    assert explorer.shown.value.count("<i ") > 0


def test_a_face_tells_its_distributions_and_the_other_checkpoints_prediction(found, faces):
    (other,) = set(found.predictions) - {found.headline}
    rows = found.table.iloc[[4]]
    shown = html.unescape(ConfusionPanel(found, faces)._cards(rows))
    assert f"{other}: {found.predictions[other]['predicted'].iloc[4]}" in shown
    assert f"{rows['label'].iloc[0]} → {rows['predicted'].iloc[0]}, " in shown
    assert rows["id"].iloc[0] in shown
    best = rows["predicted"].iloc[0]
    assert f"corrected: {best} {rows[f'p_{best}'].iloc[0]:.0%}" in shown
    assert "primary: " in shown
    assert "votes: " in shown
    np.testing.assert_array_equal(sheet(shown), faces.images[faces.table["row"][4]])


def test_a_click_costs_little(explorer):
    keys = [key for key, cell in explorer.cells.items() if not cell.disabled][:5]
    before = time.process_time()
    for key in keys:
        explorer.cells[key].click()
    assert (time.process_time() - before) / len(keys) < 0.2


def test_the_other_checkpoint_shows_its_own_matrix(explorer, found):
    (other,) = set(found.predictions) - {found.headline}
    explorer.checkpoint.value = other
    assert explorer.chosen[0] == other
    shown = [name for name, matrix in explorer.matrices.items() if matrix.layout.display is None]
    assert shown == [other]


def test_cells_hold_counts_or_percent(explorer, found):
    explorer.cell_text.value = "counts"
    for cell in explorer.cells.values():
        assert cell.description == ("" if cell.disabled else cell.tooltip.split()[0])
    explorer.cell_text.value = "percent"
    for (checkpoint, true, predicted), cell in explorer.cells.items():
        table = found.predictions[checkpoint]
        share = (table["predicted"][table["label"] == true] == predicted).mean()
        assert cell.description == ("" if cell.disabled else f"{100 * share:.0f}")


def test_the_matrix_and_the_faces_can_be_kept(explorer, found, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "grefel_lib.panels.confusion.confusion_figure",
        lambda *given, **options: drawn.append(given) or confusion_figure(*given, **options),
    )
    explorer.cell_text.value = "counts"
    (explorer.checkpoint.value,) = set(found.predictions) - {found.headline}
    checkpoint, true, predicted = explorer.chosen
    other = found.table.assign(predicted=found.table["label"].to_numpy()[::-1])
    explorer.evaluation = dataclasses.replace(
        found, predictions={**found.predictions, checkpoint: other}
    )
    explorer.save.click()
    explorer.evaluation = found
    for column, given in zip(("label", "predicted"), drawn[0], strict=False):
        assert list(given) == list(other[column])
    for kind in ("pdf", "png"):
        assert (found.folder.path / f"figures/confusion_{checkpoint}_counts.{kind}").is_file()
    explorer.export.click()
    (file,) = found.folder.path.glob("selections/*.csv")
    written = pd.read_csv(file)
    assert len(written) == len(select_cell(found.predictions[checkpoint], true, predicted))
    assert set(written["predicted"]) == {predicted}
    assert str(len(written)) in explorer.message.value
