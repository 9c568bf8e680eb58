"""What was tried by hand and works goes on working: odd files, links, names, environments."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from drawn_layouts import write_layout
from nbconvert import HTMLExporter, MarkdownExporter, SlidesExporter
from PIL import Image
from test_notebook import PARAMETERS, RESOLVE, notebook

from grefel_lib.config import PROJECT_ROOT, Config
from grefel_lib.faces import load_faces
from grefel_lib.files import load_checkpoint, save_checkpoint
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
     ("a", {"format": "png"}), ("a.jpg", {"format": "png"}), ("a.tiff", {}), ("a.PNG", {}),
     ("a.ppm", {}), ("a.jp2", {"irreversible": False})],
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
    path = fer2013_table(tmp_path / "fer2013.csv", "3.0")
    assert len(read(path.parent, "fer2013")) == 21


def fer2013_table(path, emotion="3"):
    kinds = [(str(code), usage) for usage in USAGES for code in range(7)]
    kinds[0] = (emotion, USAGES[0])
    pixels = " ".join(["7"] * 2303)
    rows = [(code, f"{number} {pixels}", usage) for number, (code, usage) in enumerate(kinds)]
    pd.DataFrame(rows, columns=["emotion", "pixels", "Usage"]).to_csv(path, index=False)
    return path


def test_a_packed_fer2013_table_is_read(tmp_path):
    packed = fer2013_table(tmp_path / "fer2013.csv.gz")
    assert len(read(packed, "fer2013")) == 21


@pytest.mark.parametrize("emotion", ["happy", "", "7", "1.5"])
def test_a_label_that_is_no_code_is_named_with_its_line(tmp_path, emotion):
    path = fer2013_table(tmp_path / "fer2013.csv", emotion)
    with pytest.raises(ValueError, match=r"fer2013\.csv, line 2: emotion must be one of"):
        read(path, "fer2013")


def test_a_raf_list_of_three_columns_is_refused_with_its_line(tmp_path):
    root = write_layout(tmp_path / "RAF-DB", "rafdb", images=100)
    path = root / "basic/EmoLabel/list_patition_label.txt"
    path.write_text("".join(f"{line} 9\n" for line in path.read_text().splitlines()))
    with pytest.raises(ValueError, match=r"list_patition_label\.txt, line 1"):
        read(root, "rafdb")


def test_raf_folders_that_count_from_zero_are_refused_by_name(tmp_path):
    root = write_layout(tmp_path / "RAF-DB", "rafdb_kaggle", images=100)
    for code in range(1, 8):
        (root / f"DATASET/train/{code}").rename(root / f"DATASET/train/{code - 1}")
    with pytest.raises(ValueError, match=r"train/0 is not an emotion folder; known: 1, 2"):
        read(root, "rafdb")


def test_a_face_of_no_bytes_is_named(ferplus):
    face = min(ferplus.rglob("*.png"))
    face.write_bytes(b"")
    with pytest.raises(ValueError, match=rf"{face.name} cannot be read as a picture"):
        read(ferplus)


def test_garbage_behind_the_last_row_is_named(ferplus):
    with (ferplus / "fer2013new.csv").open("a") as file:
        file.write("\x1a\x1a\n")
    with pytest.raises(ValueError, match=r"fer2013new\.csv, line \d+"):
        read(ferplus)


def test_a_run_may_be_renamed(small_run, trained, tmp_path):
    shutil.copytree(small_run.path, tmp_path / "another name é")
    again = load_model(checkpoint_file(tmp_path / "another name é"), device="cpu")
    for name, tensor in trained.model.state_dict().items():
        assert (again.model.state_dict()[name] == tensor).all()


def test_a_checkpoint_of_a_cluster_is_opened_on_a_cpu(small_run, trained, tmp_path):
    tensors, facts = load_checkpoint(checkpoint_file(small_run.path))
    facts["config"] |= {"device": "cuda", "processes": 4, "precision": "bf16", "num_workers": 8}
    path = save_checkpoint(tmp_path / "c.safetensors", tensors, facts)
    Image.new("L", (48, 48), 90).save(tmp_path / "a.png")
    here, _, _ = predict_files(load_model(path, device="cpu"), [tmp_path / "a.png"])
    there, _, _ = predict_files(trained, [tmp_path / "a.png"])
    columns = [c for c in here if c.startswith("p_")]
    np.testing.assert_allclose(here[columns], there[columns], atol=0.02)


@pytest.mark.parametrize("exporter", [HTMLExporter, SlidesExporter, MarkdownExporter])
def test_a_committed_notebook_becomes_a_page_slides_and_markdown(exporter):
    text, _ = exporter().from_filename(PROJECT_ROOT / "notebooks/05_evaluation.ipynb")
    assert "Evaluation" in text


OTHERS = {  # what a kernel of somebody's own profile does
    "autoreload": ["%load_ext autoreload", "%autoreload 2"],
    "every line shown": ["get_ipython().ast_node_interactivity = 'all'"],
    "pylab": ["from pylab import *"],
}


@pytest.mark.parametrize("lines", OTHERS.values(), ids=OTHERS)
def test_parameters_arrive_through_plain_tools_in_anybodys_profile(tmp_path, lines):
    profile = tmp_path / "ipython/profile_default"
    profile.mkdir(parents=True)
    config = f"get_config().InteractiveShellApp.exec_lines = {lines}"
    (profile / "ipython_kernel_config.py").write_text(config)
    source = notebook(tmp_path / "n.ipynb", PARAMETERS, RESOLVE, "print(config.lr, config.seed)")
    flags = ["-p", "lr", "0.25", "-y", "{epochs: 3}", "--report-mode", "--log-output", "--cwd",
             str(tmp_path), "--stdout-file", str(tmp_path / "told")]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "papermill", str(source), str(tmp_path / "out.ipynb"), *flags],
        capture_output=True, text=True, check=False,
        env=os.environ | {"IPYTHONDIR": str(profile.parent)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "told").read_text() == "0.25 0\n"


ASCII = {"LC_ALL": "C", "LANG": "C", "PYTHONIOENCODING": "ascii"}


@pytest.mark.parametrize(
    "environment",
    [ASCII, {"HOME": "/dev/null"}, {"MPLBACKEND": "svg"}, {"MPLBACKEND": "nosuch"},
     {"LC_ALL": "zh_CN.GBK"}],
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
