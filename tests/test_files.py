"""Tables that name faces: an id is read as it was written."""

import pandas as pd
import pytest

from grefel_lib.files import Folder, read_table


@pytest.mark.parametrize(
    "ids", [("00074", "00075"), ("05003", "x05004"), ("1e5", "0.50"), ("NA", "nan"), ("", "True")]
)
def test_an_id_is_text_whatever_it_looks_like(tmp_path, ids):
    table = pd.DataFrame(
        {"id": ids, "copy": ids[::-1], "image_hash": ["0012", "34e5"], "p_fear": [0.25, None],
         "exact": [True, False], "count": [7, 8], "race": [None, "Asian"]}
    )  # fmt: skip
    path = Folder(tmp_path).write_table(table, "predictions", "a.csv")
    pd.testing.assert_frame_equal(read_table(path), table)


def test_a_table_without_rows_or_ids_can_be_read(tmp_path):
    empty = Folder(tmp_path).write_table(pd.DataFrame(columns=["id", "copy", "exact"]), "a.csv")
    assert read_table(empty).empty
    history = pd.DataFrame({"epoch": [1, 2], "loss": [0.5, None]})
    pd.testing.assert_frame_equal(
        read_table(Folder(tmp_path).write_table(history, "b.csv")), history
    )
