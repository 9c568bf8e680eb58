"""`grefel data check`: what is on disk, what training drops, what keeps it from starting."""

import json
import shutil

import pytest
from drawn_layouts import write_layout
from PIL import Image
from test_own_faces import draw, in_a_table, in_folders

from grefel_lib.analysis.check import check_data, describe
from grefel_lib.commands.cli import main
from grefel_lib.config import Config
from grefel_lib.faces import load_faces


def check(root, dataset="folder", **settings):
    return check_data(Config(dataset=dataset, data_dir=str(root), **settings))


@pytest.fixture
def folder(tmp_path):
    return in_folders(tmp_path / "set", {"train/yawn": 6, "train/smile": 5, "val/yawn": 2,
                                         "val/smile": 2, "test/yawn": 3})  # fmt: skip


def test_copies_are_counted_by_split_and_dropped_once(folder):
    (folder / "train/yawn/a.png").write_bytes((folder / "test/yawn/000.png").read_bytes())
    (folder / "val/yawn/b.png").write_bytes((folder / "test/yawn/001.png").read_bytes())
    facts = check(folder)
    assert facts["layout"] == "folder-classes"
    assert facts["copies"] == {"train, val": 0, "train, test": 1, "val, test": 1}
    assert facts["dropped"]["copy of a validation or test face"] == {"train": 1}
    assert facts["dropped"]["copy of a test face"] == {"val": 1}
    assert facts["counts"] == {
        "smile": {"train": 5, "val": 2, "test": 0}, "yawn": {"train": 6, "val": 2, "test": 3},
    }  # fmt: skip
    assert facts["warnings"] == ["no test faces of smile"]
    assert facts["problems"] == []


def test_odd_sizes_and_unused_files_are_warned_of(folder):
    draw(folder / "train/yawn/wide.png", 901, size=(90, 60))
    draw(folder / "train/yawn/small.png", 902, size=(39, 39))
    (folder / "train/smile/face.heic").write_text("another format")
    facts = check(folder)
    assert facts["sizes"] == {"64 x 64": 18, "90 x 60": 1, "39 x 39": 1}
    stretched, small, unused = facts["warnings"][:3]
    assert "far from square" in stretched
    assert stretched.endswith(": 1 of 20")
    assert small == "pictures smaller than 40 pixels: 1 of 20"
    assert unused == "files not used: 1, the first: train/smile/face.heic"


def test_subjects_of_several_splits_and_faces_without_label_are_counted(tmp_path):
    rows = [{"image": f"{i}.png", "label": ("smile", "yawn")[i % 2], "subject": f"s{i // 2}",
             "split": ("train", "val", "test")[i // 4]} for i in range(12)]  # fmt: skip
    rows[11]["subject"] = "s0"
    rows.append({"image": "x.png", "label": "", "subject": "s9", "split": "val"})
    facts = check(in_a_table(tmp_path, rows))
    assert facts["subjects"] == {"train, val": 0, "train, test": 1, "val, test": 0}
    assert facts["dropped"]["no label"] == {"train": 0, "val": 1, "test": 0}
    assert facts["warnings"] == ["subjects in both train and test: 1"]


def test_one_picture_under_two_labels_is_told(tmp_path):
    rows = [{"image": f"{i}.png", "label": ("smile", "yawn")[i % 2],
             "split": ("train", "train", "val")[i % 3]} for i in range(30)]  # fmt: skip
    in_a_table(tmp_path, rows)
    shutil.copy(tmp_path / "2.png", tmp_path / "3.png")
    shutil.copy(tmp_path / "4.png", tmp_path / "6.png")  # of the same label
    told = "faces with the same pixels and different labels: 2, the first: 2.png"
    assert check(tmp_path)["warnings"] == ["no test faces", told]


def test_every_dropped_copy_is_a_copy_of_something_that_is_named(tmp_path):
    rows = [{"image": f"{i}.png", "label": ("smile", "yawn")[i % 2],
             "split": ("train", "val", "test")[i // 4]} for i in range(12)]  # fmt: skip
    rows.append({"image": "x.png", "label": "", "split": "test"})
    root = in_a_table(tmp_path, rows)
    for copy, original in (("0.png", "x.png"), ("1.png", "4.png")):
        (root / copy).write_bytes((root / original).read_bytes())
    facts = check(root)
    assert facts["dropped"]["copy of a validation or test face"] == {"train": 2}
    assert facts["copies"] == {"train, val": 1, "train, test": 0, "val, test": 0,
                               "train, faces without a label": 1}  # fmt: skip
    assert "train faces with an exact copy in faces without a label: 1" in describe(facts)


def test_what_fixes_leave_out_is_still_a_copy(tmp_path):
    rows = [{"image": f"{i}.png", "label": ("smile", "yawn")[i % 2],
             "split": ("train", "val", "test")[i // 4]} for i in range(12)]  # fmt: skip
    root = in_a_table(tmp_path / "faces", rows)
    (root / "0.png").write_bytes((root / "8.png").read_bytes())
    fixes = tmp_path / "fixes.csv"
    fixes.write_text("id,label\n0.png,\n")
    facts = check(root, label_fixes=str(fixes))
    assert facts["copies"] == {"train, val": 0, "train, test": 1, "val, test": 0}


def test_every_unreadable_picture_is_found_and_the_command_fails(folder, capsys):
    for name in ("train/yawn/bad.png", "val/smile/bad.jpg"):
        (folder / name).write_text("no picture")
    arguments = ["data", "check", "--dataset", "folder", "--data-dir", str(folder)]
    assert main([*arguments, "--json"]) == 1
    out, err = capsys.readouterr()
    facts = json.loads(out)
    assert len(facts["unreadable"]) == 2
    assert facts["problems"][0].startswith("unreadable pictures: 2, the first: ")
    why = "training could not start: see the problems printed above"
    assert err == f"grefel data check: error: {why}\n"
    assert main(arguments) == 1
    assert "problem: unreadable pictures: 2" in capsys.readouterr().out


def test_a_set_that_can_be_trained_on_passes_and_columns_are_aligned(folder, capsys):
    assert main(["data", "check", "--dataset", "folder", "--data-dir", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    table = lines[lines.index("pictures 18: 64 x 64 (18)") + 1 :][:4]
    assert [line.split() for line in table] == [
        ["class", "train", "val", "test"], ["smile", "5", "2", "0"], ["yawn", "6", "2", "3"],
        ["all", "11", "4", "3"],
    ]  # fmt: skip
    assert len({len(line) for line in table}) == 1


def test_a_warning_is_said_once(tmp_path, caplog, capsys):
    root = in_folders(tmp_path / "faces", {"yawn": 12, "smile": 10})
    assert main(["data", "check", "--dataset", "folder", "--data-dir", str(root)]) == 0
    assert capsys.readouterr().out.count("no validation split") == 1
    assert "no validation split" not in caplog.text
    load_faces(Config(dataset="folder", data_dir=str(root)))
    assert caplog.text.count("no validation split") == 1


def test_a_damaged_cache_is_said_and_made_again(folder, caplog, monkeypatch, tmp_path):
    monkeypatch.setenv("GREFEL_CACHE", str(tmp_path / "cache"))
    before = check(folder)
    assert "damaged" not in caplog.text
    (path,) = (tmp_path / "cache").glob("*/images.npy")
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert check(folder) == before
    assert f"the cache {path.parent} is damaged" in caplog.text
    assert path.read_bytes() == content


def test_too_few_faces_and_no_layout_are_problems(tmp_path, folder):
    in_folders(tmp_path / "few", {"train/yawn": 1, "train/smile": 1, "val/smile": 1})
    (problem,) = check(tmp_path / "few")["problems"]
    assert problem == "the val split has 1 faces; at least 2 are needed"
    (tmp_path / "none").mkdir()
    facts = check(tmp_path / "none")
    assert facts["problems"][0].startswith(f"no faces in {tmp_path / 'none'} (found: nothing)")
    assert describe(facts).splitlines()[-1] == f"problem: {facts['problems'][0]}"


def test_published_counts_stand_beside_those_here(tmp_path):
    root = write_layout(tmp_path / "rafdb", "rafdb_kaggle", images=200)
    Image.new("RGB", (100, 100)).save(root / "DATASET/train/7/train_99999_aligned.jpg")
    facts = check(root, "rafdb")
    assert facts["published"] == {"train": 12271, "val": 0, "test": 3068}
    assert facts["here"] == {"train": 161, "val": 0, "test": 40}
    assert "the numbers of faces differ from those of the published files" in facts["warnings"]
