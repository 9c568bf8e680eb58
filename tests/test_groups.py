"""Accuracy by group and the human ceiling, on tables small enough for paper."""

import pandas as pd
import pytest

from grefel_lib.analysis.groups import attribute_accuracy, copy_accuracy, human_ceiling, largest_gap
from grefel_lib.labels import EMOTIONS, VOTE_COLUMNS
from grefel_lib.metrics import rename_classes, reorder_classes


def voted(*faces):
    """Faces given as (label, {column: votes})."""
    return pd.DataFrame([
        {"id": f"f{i}", "label": label, "predicted": label}
        | {f"p_{name}": float(name == label) for name in EMOTIONS}
        | {f"votes_{name}": votes.get(name, 0) for name in VOTE_COLUMNS}
        for i, (label, votes) in enumerate(faces)
    ])  # fmt: skip


def test_one_annotator_is_right_as_often_as_the_votes_say():
    table = human_ceiling(voted(("fear", {"fear": 8, "surprise": 2}),
                                 ("anger", {"anger": 6, "unknown": 4})))  # fmt: skip
    assert table.loc["one annotator", "accuracy"] == pytest.approx(0.7, abs=1e-12)
    assert table.loc["a second panel", "accuracy"] > 0.97  # ten people hardly ever say otherwise


def test_where_all_agree_people_are_always_right():
    table = human_ceiling(voted(*[("sadness", {"sadness": 10})] * 5))
    assert (table == 1).all(axis=None)


def test_an_even_split_is_a_coin():
    faces = [("anger", {"anger": 5, "disgust": 5})] * 400
    table = human_ceiling(voted(*faces), draws=50)
    assert table.loc["a second panel", "accuracy"] == pytest.approx(0.5, abs=0.03)


def test_classes_renamed_or_in_another_order_have_the_same_ceiling():
    faces = [("fear", {"fear": 8, "surprise": 2}), ("anger", {"anger": 6, "unknown": 4})] * 40
    table = voted(*faces)
    words = {"fear": "Angst", "anger": "fear"}
    for changed in (rename_classes(table, words), reorder_classes(table, EMOTIONS[::-1])):
        pd.testing.assert_frame_equal(human_ceiling(changed), human_ceiling(table))


def test_without_votes_there_is_no_ceiling():
    assert human_ceiling(voted(("fear", {})).drop(columns="votes_fear")) is None


def test_copies_and_groups_are_counted_by_hand():
    table = pd.DataFrame({"id": [f"face{i}" for i in range(6)], "label": "neutral"})
    table["predicted"] = ["neutral"] * 3 + ["fear"] * 3
    table["gender"] = ["male"] * 4 + ["female"] * 2
    copies = pd.DataFrame({"id": ["face0", "face5"], "exact": [True, False]})
    rows = copy_accuracy(table, copies)
    assert list(rows.index) == ["no copy", "near copy", "exact copy"]
    assert list(rows["count"]) == [4, 1, 1]
    assert list(rows["accuracy"]) == [0.5, 0, 1]
    people = attribute_accuracy(table)
    assert list(people) == ["gender"]
    assert people["gender"]["accuracy"].to_dict() == {"female": 0, "male": 0.75}


def test_the_largest_gap_leaves_out_groups_too_small_to_tell():
    table = pd.DataFrame({"count": [100, 50, 3], "accuracy": [0.9, 0.7, 0.1]}, index=list("abc"))
    assert largest_gap(table) == ("a", "b", pytest.approx(0.2))
    assert largest_gap(table.iloc[1:])[:2] == ("", "")
    assert largest_gap(table.assign(accuracy=0.5)) == ("a", "b", 0)
