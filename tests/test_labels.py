"""Labels: every data set's codes, pinned to the published tables."""

import pytest

from grefel_lib.labels import (
    BASIC,
    CLASS_NAMES,
    COLOURS,
    COMPOUND,
    EMOTIONS,
    FOLDER_NAMES,
    RAFDB_ATTRIBUTES,
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
    published = (
        "happily surprised, happily disgusted, sadly fearful, sadly angry, sadly surprised, sadly "
        "disgusted, fearfully angry, fearfully surprised, angrily surprised, angrily disgusted, "
        "disgustedly surprised"
    )
    index = [class_index("rafdb_compound", code) for code in range(1, 12)]
    assert [CLASS_NAMES["rafdb_compound"][i] for i in index] == published.split(", ")


def test_the_codes_of_people_are_those_of_raf_dbs_readme_in_its_order():
    assert list(RAFDB_ATTRIBUTES.items()) == [
        ("gender", {"0": "male", "1": "female", "2": "unsure"}),
        ("race", {"0": "Caucasian", "1": "African-American", "2": "Asian"}),
        ("age_group", {"0": "0-3", "1": "4-19", "2": "20-39", "3": "40-69", "4": "70+"}),
    ]


def test_every_usual_name_of_a_folder_is_its_emotion():
    usual = {
        "neutral": "neutral", "happiness": "happy happiness", "surprise": "surprise surprised",
        "sadness": "sad sadness", "anger": "angry anger", "disgust": "disgust disgusted",
        "fear": "fear fearful", "contempt": "contempt contemptuous",
    }  # fmt: skip
    meant = {name: emotion for emotion, names in usual.items() for name in names.split()}
    assert meant == FOLDER_NAMES


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
