"""Labels: every data set's codes, pinned to the published tables."""

import pytest

from grefel_lib.labels import (
    BASIC,
    CLASS_NAMES,
    COLOURS,
    COMPOUND,
    EMOTIONS,
    VOTE_COLUMNS,
    class_index,
)

PINNED = {
    "fer2013": [
        "anger",
        "disgust",
        "fear",
        "happiness",
        "sadness",
        "surprise",
        "neutral",
    ],  # codes 0..6
    "rafdb": [
        "surprise",
        "fear",
        "disgust",
        "happiness",
        "sadness",
        "anger",
        "neutral",
    ],  # codes 1..7
}


@pytest.mark.parametrize(("dataset", "first"), [("fer2013", 0), ("rafdb", 1)])
def test_codes_mean_what_the_data_set_says(dataset, first):
    names = CLASS_NAMES[dataset]
    for code, emotion in enumerate(PINNED[dataset], start=first):
        assert names[class_index(dataset, code)] == emotion


def test_compound_codes_follow_the_published_order():
    index = [class_index("rafdb_compound", code) for code in range(1, 12)]
    assert index == list(range(11))
    assert COMPOUND[0] == "happily surprised"
    assert COMPOUND[-1] == "disgustedly surprised"


def test_the_canonical_order_is_ferplus_column_order():
    assert VOTE_COLUMNS[:8] == EMOTIONS
    assert VOTE_COLUMNS[8:] == ("unknown", "NF")
    assert EMOTIONS[:7] == BASIC


def test_an_unknown_code_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="no label code 0; it has: 1 surprise"):
        class_index("rafdb", 0)


def test_every_class_has_its_own_colour():
    for names in (EMOTIONS, COMPOUND):
        assert len({COLOURS[name] for name in names}) == len(names)
