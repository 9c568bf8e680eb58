"""What was tried by hand and works goes on working: odd files, links, names, environments."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from drawn_layouts import write_layout
from PIL import Image

from grefel_lib.config import PROJECT_ROOT, Config
from grefel_lib.faces import load_faces
from grefel_lib.predict import predict_files
from grefel_lib.restore import load_model
from grefel_lib.run import checkpoint_file

USAGES = ("Training", "PublicTest", "PrivateTest")
ROOT_USER = hasattr(os, "geteuid") and os.geteuid() == 0  # permissions do not bind root


@pytest.fixture(scope="module")
def trained(small_run):
    return load_model(checkpoint_file(small_run.path), device="cpu")


@pytest.fixture
def ferplus(faces_dir, tmp_path):
    """A copy of the small data set, to be spoiled."""
    return shutil.copytree(faces_dir, tmp_path / "FERPlus")


def read(folder, dataset="ferplus"):
    return load_faces(Config(dataset=dataset, data_dir=str(folder)))


@pytest.mark.parametrize(
    ("name", "options"),
    [("a.webp", {"lossless": True}), ("a.avif", {"quality": 100}), ("a.bmp", {}),
     ("a", {"format": "png"}), ("a.jpg", {"format": "png"}), ("a.tiff", {}), ("a.PNG", {})],
)  # fmt: skip
def test_a_picture_of_any_format_and_ending_is_seen_alike(trained, tmp_path, name, options):
    grey = (np.add.outer(np.arange(48), np.arange(48)) * 255 // 94).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "plain.png")
    Image.fromarray(grey).convert("RGB").save(tmp_path / name, **options)
    table, _, unread = predict_files(trained, [tmp_path / "plain.png", tmp_path / name], whole=True)
    assert not unread
    columns = [c for c in table if c.startswith("p_")]
    plain, other = table[columns].to_numpy()
    np.testing.assert_allclose(plain, other, atol=5e-3)


def test_a_picture_of_one_bit_is_read(trained, tmp_path):
    Image.new("1", (48, 48), 1).save(tmp_path / "bit.png")
    Image.new("L", (48, 48), 255).save(tmp_path / "white.png")
    table, _, unread = predict_files(trained, [tmp_path / "bit.png", tmp_path / "white.png"])
    assert not unread
    assert table["probability"].nunique() == 1


@pytest.mark.parametrize("litter", [".DS_Store", "Thumbs.db", "desktop.ini"])
def test_files_that_systems_leave_behind_are_no_faces(ferplus, litter):
    before = read(ferplus)
    for folder in ferplus.rglob("*"):
        if folder.is_dir():
            (folder / litter).write_bytes(b"\0\1")
    assert read(ferplus).table["id"].tolist() == before.table["id"].tolist()


def test_the_folder_of_a_data_set_may_be_a_link(ferplus, tmp_path):
    (tmp_path / "link").symlink_to(ferplus)
    assert len(read(tmp_path / "link")) == len(read(ferplus))


def test_a_path_with_spaces_and_letters_of_any_alphabet(ferplus, tmp_path):
    folder = tmp_path / "Gesichter für Ämter 表情"
    ferplus.rename(folder)
    assert len(read(folder)) > 100


def test_votes_in_a_file_with_byte_order_mark_and_windows_lines(ferplus):
    before, table = read(ferplus), ferplus / "fer2013new.csv"
    lines = table.read_text().splitlines()
    table.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode() + b"\r\n")
    assert read(ferplus).table["label"].tolist() == before.table["label"].tolist()


@pytest.mark.skipif(ROOT_USER, reason="root may write anywhere")
def test_data_that_cannot_be_written_can_be_read(ferplus):
    for path in (ferplus, *ferplus.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    assert len(read(ferplus)) > 100


def test_rafdb_as_png(tmp_path):
    root = write_layout(tmp_path / "RAF-DB", "rafdb", images=100)
    for path in root.rglob("*.jpg"):
        with Image.open(path) as image:
            image.save(path.with_suffix(".png"))
        path.unlink()
    assert len(read(root, "rafdb")) == 100


def test_a_fer2013_table_with_codes_as_fractions(tmp_path):
    pixels = " ".join(["7"] * 2304)
    kinds = [(code, usage) for usage in USAGES for code in range(7)]
    rows = [
        (f"{code}.0", pixels.replace("7", str(number), 1), usage)
        for number, (code, usage) in enumerate(kinds)
    ]
    table = pd.DataFrame(rows, columns=["emotion", "pixels", "Usage"])
    table.to_csv(tmp_path / "fer2013.csv", index=False)
    assert len(load_faces(Config(dataset="fer2013", data_dir=str(tmp_path)))) == 21


ASCII = {"LC_ALL": "C", "LANG": "C", "PYTHONIOENCODING": "ascii"}


@pytest.mark.parametrize(
    "environment",
    [ASCII, {"HOME": "/dev/null"}, {"MPLBACKEND": "svg"}, {"MPLBACKEND": "nosuch"}],
)  # fmt: skip
def test_predict_in_an_odd_environment(small_run, tmp_path, environment):
    Image.new("L", (48, 48), 90).save(tmp_path / "é.png")
    done = subprocess.run(
        [sys.executable, "-m", "grefel_lib.commands.cli", "predict", str(tmp_path / "é.png"),
         "--checkpoint-path", str(small_run.path), "--device", "cpu"],
        capture_output=True, check=False, cwd=PROJECT_ROOT, env=dict(os.environ) | environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert b"whole" in done.stdout


def test_a_picture_from_standard_input(small_run, tmp_path):
    Image.new("L", (48, 48), 90).save(tmp_path / "a.png")
    done = subprocess.run(
        [sys.executable, "-m", "grefel_lib.commands.cli", "predict", "/dev/stdin",
         "--checkpoint-path", str(small_run.path), "--device", "cpu"],
        input=(tmp_path / "a.png").read_bytes(), capture_output=True, check=False, cwd=PROJECT_ROOT,
    )  # fmt: skip
    assert done.returncode in (0, 1)
    assert b"Traceback" not in done.stderr
    assert done.returncode == 0 or b"/dev/stdin" in done.stderr
