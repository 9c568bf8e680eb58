"""Files written whole, and files that are damaged; an id is read as it was written."""

import contextlib
import errno
import os

import pandas as pd
import pytest
import torch

from grefel_lib.files import (
    Folder,
    atomic,
    check_place,
    load_checkpoint,
    only_one,
    read_json,
    read_table,
    save_checkpoint,
    whole_folder,
)
from grefel_lib.metrics import subject_codes


def test_a_place_that_cannot_be_written_is_named_by_its_file_and_not_a_temporary_one(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file/a.csv", tmp_path / "file/new/a.csv"):
        for fails in (check_place, lambda path: Folder(path.parent).write_text("", path.name)):
            with pytest.raises(OSError, match=rf"^cannot write {path}: where its folder should be"):
                fails(path)

    def full(temporary):
        raise OSError(errno.ENOSPC, "No space left on device", str(temporary))

    for name in ("a.csv", "file"):
        with pytest.raises(OSError, match=rf"^cannot write {tmp_path / name}: No space left on d"):
            atomic(tmp_path / name, full)
    check_place(tmp_path / "new/folder/a.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


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


def test_faces_without_a_subject_are_not_one_person(tmp_path):
    table = pd.DataFrame({"id": ["a", "b", "c", "d"], "subject": ["x", None, "", "x"]})
    path = Folder(tmp_path).write_table(table, "a.csv")
    assert subject_codes(read_table(path)).tolist() == [0, 1, 2, 0]


def test_a_table_without_rows_or_ids_can_be_read(tmp_path):
    empty = Folder(tmp_path).write_table(pd.DataFrame(columns=["id", "copy", "exact"]), "a.csv")
    assert read_table(empty).empty
    history = pd.DataFrame({"epoch": [1, 2], "loss": [0.5, None]})
    pd.testing.assert_frame_equal(
        read_table(Folder(tmp_path).write_table(history, "b.csv")), history
    )


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_a_file_has_the_mode_of_the_umask_also_where_chmod_is_refused(
    tmp_path, monkeypatch, umask, mode
):
    def refused(*_, **__):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "chmod", refused)
    before = os.umask(umask)
    try:
        path = Folder(tmp_path).write_json({}, "a.json")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == mode


def test_a_file_is_flushed_before_it_replaces_another(tmp_path, monkeypatch):
    path = Folder(tmp_path).write_text("old", "a.txt")

    def flush(error):
        def fsync(_):
            assert path.read_text() == "old"
            if error:
                raise OSError(error, os.strerror(error))

        return fsync

    monkeypatch.setattr(os, "fsync", flush(errno.ENOSPC))
    with pytest.raises(OSError, match="No space left"):
        Folder(tmp_path).write_text("new", "a.txt")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    monkeypatch.setattr(os, "fsync", flush(errno.EINVAL))  # as on a file system without it
    Folder(tmp_path).write_text("new", "a.txt")
    assert path.read_text() == "new"


def test_a_lock_is_held_once_and_free_after_an_error(tmp_path, monkeypatch):
    def hold():
        return only_one(tmp_path / "lock", "busy")

    with contextlib.suppress(KeyError), hold():
        with pytest.raises(ValueError, match=r"^busy$"), hold():
            pass
        raise KeyError
    with hold():
        pass

    def no_locks(*_, **__):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("grefel_lib.files.FileLock.acquire", no_locks)
    with hold():  # on such a file system
        pass


def test_a_folder_is_written_by_one_process_and_what_others_write_beside_it_stays(tmp_path):
    dest = tmp_path / "faces"
    killed = tmp_path / ".unfinished-abcd1234-faces"
    others = [tmp_path / f".unfinished-abcd1234-{name}" for name in ("faces-2", "my-faces")]
    for folder in (killed, *others):
        folder.mkdir()
    with whole_folder(dest) as whole:
        whole.mkdir()
        (whole / "1.png").write_text("first")
        with pytest.raises(ValueError, match="another process is writing"), whole_folder(dest):
            pass
    assert (dest / "1.png").read_text() == "first"
    assert sorted(tmp_path.iterdir()) == sorted([dest, *others])
    for code, told in ((errno.ENOSPC, f"^cannot write {dest}-3: No space"), (errno.EIO, "an end$")):
        with pytest.raises(OSError, match=told), whole_folder(tmp_path / "faces-3"):
            raise OSError(code, "No space left on device" if code == errno.ENOSPC else "an end")
    assert sorted(tmp_path.iterdir()) == sorted([dest, *others])


DEEP = "[" * 100_000


@pytest.mark.parametrize("content", ["", "{", "null", "3", "[]", '{"a": "\\', DEEP, "\udcff"])
def test_damaged_json_is_one_error_that_names_the_file(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=f"^{path} cannot be read .*; restore it from a backup"):
        read_json(path)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"id,a\n1,2\n1,2,3\n", b'id,a\n"1'])
def test_a_damaged_table_is_one_error_that_names_the_file(tmp_path, content):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{path} cannot be read .*; restore it from a backup"):
        read_table(path)


def test_one_wrong_bit_in_the_weights_is_noticed(tmp_path):
    path = save_checkpoint(tmp_path / "a.safetensors", {"x": torch.ones(3)}, {"epoch": 7})
    assert load_checkpoint(path)[0]["x"].tolist() == [1, 1, 1]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path} is damaged: its weights do not match their"):
        load_checkpoint(path)


@pytest.mark.skipif(os.name == "nt", reason="no umask")
@pytest.mark.parametrize("mask", [0o022, 0o007])
def test_files_have_the_permissions_of_any_new_file(tmp_path, mask):
    before = os.umask(mask)
    try:
        (tmp_path / "plain").touch()
        save_checkpoint(tmp_path / "weights.safetensors", {"a": torch.ones(2)}, {})
        Folder(tmp_path).write_text("text", "note.txt")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode for path in tmp_path.iterdir()}
    assert set(modes) == {"plain", "weights.safetensors", "note.txt"}
    assert len(set(modes.values())) == 1, modes
