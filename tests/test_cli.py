"""The command line: what it refuses, in one line and with nothing lost; what it runs."""

import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zlib

import numpy as np
import pandas as pd
import pytest
import torch
from drawn_layouts import write_layout
from grey_faces import new_run
from matplotlib.cbook import get_sample_data
from matplotlib.figure import Figure
from PIL import Image
from safetensors.torch import load_file

from grefel_lib import __version__
from grefel_lib.analysis.evaluation import evaluate_run
from grefel_lib.commands import COMMANDS
from grefel_lib.commands.cli import _face_lines, main
from grefel_lib.commands.notebook import check_parameters
from grefel_lib.commands.rerun import differences
from grefel_lib.config import DATA_DIRS, SETTINGS, Config, command_settings
from grefel_lib.faces import load_faces
from grefel_lib.files import load_checkpoint, save_checkpoint
from grefel_lib.fit import fit
from grefel_lib.grefel import build_model
from grefel_lib.run import BEST, BEST_EMA, LAST, open_run, start_run


@pytest.fixture(scope="module")
def trained(faces_dir, tmp_path_factory):
    """The outputs folder of one small finished run."""

    outputs = tmp_path_factory.mktemp("outputs")
    config = Config.resolve(
        {"profile": "demo", "dataset": "ferplus", "data_dir": str(faces_dir), "epochs": 1,
         "output_dir": str(outputs), "run_name": "small"}
    )  # fmt: skip
    faces = load_faces(config)
    fit(faces, start_run(config, faces.info))
    return outputs


@pytest.fixture(scope="module")
def layouts(tmp_path_factory):
    """Each published layout once, to be copied and broken."""
    root = tmp_path_factory.mktemp("layouts")
    for layout in ("ferplus", "fer2013", "fer2013_folders", "rafdb", "rafdb_kaggle"):
        write_layout(root / layout, layout, images=100)
    return root


# -- bad inputs: name -> (what is broken, the command, what the line must say)

BAD = {}


def bad(command, *told):
    def keep(prepare):
        BAD[prepare.__name__] = (prepare, command.split(), told)
        return prepare

    return keep


def lines(path, change):
    text = path.read_text().splitlines()
    path.write_text("\n".join(change(text)) + "\n")


FERPLUS = "train --dataset ferplus --data-dir {}/ferplus"
FER2013 = "train --dataset fer2013 --data-dir {}/fer2013"
RAFDB = "train --dataset rafdb --data-dir {}/rafdb"


@bad("train --dataset ferplus --data-dir {}/nowhere", "no folder", "nowhere", "--data-dir")
def missing_folder(data): ...


@bad("train --dataset ferplus --data-dir {}/rafdb", "no fer2013new.csv", "basic")
def wrong_layout(data): ...


@bad("train --dataset rafdb --data-dir {}/ferplus", "no RAF-DB basic", "list_patition_label.txt")
def wrong_layout_for_rafdb(data): ...


@bad("train --dataset ferplus --data-dir {}/ferplus/fer2013new.csv", "is a file")
def a_file_where_a_folder_is_needed(data): ...


@bad(FERPLUS, "fer2013new.csv is empty")
def empty_csv(data):
    (data / "ferplus/fer2013new.csv").write_text("")


@bad(FERPLUS, "has a header but no row")
def header_only(data):
    lines(data / "ferplus/fer2013new.csv", lambda text: text[:1])


@bad(FERPLUS, "lacks the columns", "contempt")
def wrong_columns(data):
    lines(data / "ferplus/fer2013new.csv",
          lambda text: [line.replace("contempt", "boredom") for line in text])  # fmt: skip


@bad(FERPLUS, "found 'Holdout'", "Usage must be", "PublicTest")
def unknown_usage(data):
    lines(data / "ferplus/fer2013new.csv",
          lambda text: [line.replace("PublicTest", "Holdout") for line in text])  # fmt: skip


@bad(FERPLUS, "line 2: a vote for NF must be a whole number", "found 'x'")
def votes_that_are_no_numbers(data):
    lines(data / "ferplus/fer2013new.csv", lambda t: [t[0], t[1].rsplit(",", 1)[0] + ",x", *t[2:]])


@bad(FERPLUS, "no face", "all votes are zero")
def all_zero_votes(data):
    path = data / "ferplus/fer2013new.csv"
    table = pd.read_csv(path)
    table.iloc[:, 2:] = 0
    table.to_csv(path, index=False)


@bad(FERPLUS, "no images for", "Images/")
def no_image_folder(data):
    shutil.rmtree(data / "ferplus/Images")
    (data / "fer2013.csv").unlink(missing_ok=True)


@bad(FERPLUS, "missing images: 3 of")
def missing_images(data):
    for file in sorted((data / "ferplus/Images/FER2013Valid").iterdir())[:3]:
        file.unlink()


@bad(FERPLUS, "cannot be read as a picture", ".png")
def truncated_png(data):
    file = sorted((data / "ferplus/Images/FER2013Train").iterdir())[5]
    file.write_bytes(file.read_bytes()[:200])


@bad(FER2013, "2304 pixel values", "line 3")
def a_short_row_of_pixels(data):
    lines(data / "fer2013/fer2013.csv", lambda t: [*t[:2], "3,1 2 3,Training", *t[3:]])


@bad(FER2013, "line 2: emotion must be one of", "found '9'", "6 neutral")
def an_unknown_label_code(data):
    lines(data / "fer2013/fer2013.csv", lambda t: [t[0], "9" + t[1][1:], *t[2:]])


@bad("train --dataset fer2013 --data-dir {}/fer2013_folders", "is not an emotion folder", "boredom")
def an_unknown_emotion_folder(data):
    (data / "fer2013_folders/train/happy").rename(data / "fer2013_folders/train/boredom")


@bad(RAFDB, "two image files for train_00001")
def two_files_for_one_id(data):
    folder = data / "rafdb/basic/Image/aligned"
    shutil.copy(folder / "train_00001_aligned.jpg", folder / "train_00001.jpg")


@bad(RAFDB, "missing images: 1 of", "train_00002")
def a_missing_rafdb_image(data):
    (data / "rafdb/basic/Image/aligned/train_00002_aligned.jpg").unlink()


@bad(RAFDB, "line 2: expected", "oops")
def a_broken_label_line(data):
    lines(data / "rafdb/basic/EmoLabel/list_patition_label.txt", lambda t: [t[0], "oops", *t[2:]])


@bad("train --dataset rafdb --data-dir {}/rafdb_kaggle", "but its table says")
def folder_and_table_disagree(data):
    path = data / "rafdb_kaggle/train_labels.csv"
    table = pd.read_csv(path)
    table["label"] = table["label"] % 7 + 1
    table.to_csv(path, index=False)


@bad("train --dataset rafdb --data-dir {}/rafdb --rafdb-images tight", "aligned, original; got")
def unknown_choice(data): ...


@bad("train --learning-rate 0.1", "unknown argument --learning-rate", "did you mean --")
def unknown_flag(data): ...


@bad("train --epochs many", "epochs must be a whole number; got 'many'")
def wrong_type(data): ...


@bad("train --epochs -3", "epochs must be at least 1; got -3")
def negative_epochs(data): ...


@bad("train --dataset affectnet", "dataset must be one of", "rafdb_compound")
def unknown_dataset(data): ...


@bad("train --profile vit_bas", "unknown profile", "did you mean 'vit_base'")
def unknown_profile(data): ...


@bad("train --use-soft-labels perhaps", "true or false; got 'perhaps'")
def neither_true_nor_false(data): ...


@bad("train --run-name a/b", "run_name is one folder name")
def a_run_name_with_a_slash(data): ...


@bad("train --backbone vit_bse_patch16_224", "timm has no backbone", "vit_base_patch16_224")
def unknown_backbone(data): ...


@bad("train --backbone-weights {}/none.safetensors", "no weight file", "state-dict file")
def missing_weights(data): ...


@bad("train --resume never", "no run 'never'", "small")
def resume_of_an_unknown_run(data): ...


@bad("train --resume small --lr 1", "was started with lr=", "cannot continue with")
def resume_with_another_setting(data): ...


@bad("train --run-name small", "is finished")
def a_finished_run(data): ...


@bad("train --output-dir {}/ferplus/fer2013new.csv", "is a file; a folder is needed")
def an_output_folder_that_is_a_file(data): ...


@bad("train --output-dir /proc/nothing", "cannot create the folder /proc/nothing")
def an_output_folder_that_cannot_be_made(data): ...


@bad("finetune --checkpoint-path {}/cut.safetensors", "cannot read the checkpoint", "cut")
def a_truncated_checkpoint(data):
    whole = (data / "outputs/small/checkpoints/best_model.safetensors").read_bytes()
    (data / "cut.safetensors").write_bytes(whole[: len(whole) // 2])


@bad("finetune --checkpoint-path {}/plain.safetensors", "not a checkpoint of this project")
def plain_weights_as_a_checkpoint(data):
    from safetensors.torch import save_file

    tensors = load_file(data / "outputs/small/checkpoints/best_model.safetensors")
    save_file(tensors, data / "plain.safetensors")


@bad("finetune --checkpoint-path {}/none", "no run", "none")
def a_missing_checkpoint(data): ...


@bad("evaluate --checkpoint-dir {}/none", "no run", "none")
def evaluating_a_missing_run(data): ...


@bad("predict {}/none.png --checkpoint-path small", "no image or folder at")
def predicting_a_missing_image(data): ...


@bad("predict {} --checkpoint-path small", "no image (.png")
def predicting_a_folder_without_images(data): ...


@bad("predict {}/ferplus/fer2013new.csv --checkpoint-path small", "cannot be read as a picture")
def predicting_what_is_no_image(data): ...


@bad("predict {}/face.png --checkpoint-path {}/wrong.safetensors", "another architecture")
def a_checkpoint_of_another_architecture(data):
    Image.fromarray(np.zeros((48, 48), np.uint8)).save(data / "face.png")
    tensors, facts = load_checkpoint(data / "outputs/small/checkpoints/best_model.safetensors")
    facts["config"]["backbone"] = "resnet18"
    save_checkpoint(data / "wrong.safetensors", tensors, facts)


@bad("predict {}/face.png --checkpoint-path small --device cuda:9", "cannot be used here")
def a_device_that_is_not_there(data):
    Image.fromarray(np.zeros((48, 48), np.uint8)).save(data / "face.png")


@bad("data synthetic {}/ferplus", "is not empty")
def drawing_into_a_full_folder(data): ...


@bad("data synthetic {}/new --images 3", "images=3 is not within 100 and 1000000")
def too_few_faces(data): ...


def outputs(data, name, content):
    """Replace a file of the finished run."""
    (data / "outputs/small" / name).write_bytes(content)


@bad("train --run-name small", "small/config.json", "is not a run's config", "cannot be read")
def a_damaged_config(data):
    outputs(data, "config.json", b'{"epochs": 1')


@bad("evaluate --checkpoint-dir small", "small/config.json", "newer version", "update the project")
def a_config_of_a_newer_version(data):
    outputs(data, "config.json", b'{"version": 99}')


@bad("train --run-name small", "small/status.json cannot be read", "restore it from a backup")
def a_damaged_status(data):
    outputs(data, "status.json", b"[" * 100_000)


@bad("report small", "small/metrics.json cannot be read", "no 'checkpoints'", "evaluate again:")
def damaged_metrics(data):
    outputs(data, "metrics.json", b"{}")


@bad("finetune --checkpoint-path {}/null.safetensors", "null.safetensors cannot be read", "backup")
def a_checkpoint_whose_header_is_null(data):
    from safetensors.numpy import save_file

    save_file({"x": np.zeros(1)}, data / "null.safetensors", metadata={"grefel": "null"})


@bad("predict {}/face.png --checkpoint-path {}/bare.safetensors", "bare.safetensors", "no 'config'")
def a_checkpoint_without_its_config(data):
    Image.fromarray(np.zeros((48, 48), np.uint8)).save(data / "face.png")
    save_checkpoint(data / "bare.safetensors", {}, {})


@bad("finetune --checkpoint-path {}/json.safetensors", "cannot read the checkpoint", "json.safe")
def a_checkpoint_whose_tensors_are_null(data):
    (data / "json.safetensors").write_bytes((4).to_bytes(8, "little") + b"null")


@bad("finetune --checkpoint-path {}/deep.safetensors", "deep.safetensors cannot be read", "backup")
def a_checkpoint_with_a_deep_header(data):
    from safetensors.numpy import save_file

    deep = "[" * 100_000 + "]" * 100_000
    save_file({"x": np.zeros(1)}, data / "deep.safetensors", metadata={"grefel": deep})


@bad("report small", "small/metrics.json cannot be read", "restore it from a backup")
def deep_metrics(data):
    outputs(data, "metrics.json", b'{"a":' * 100_000)


def huge(path):
    """The header of a picture of 60,000 x 60,000 pixels, as a few bytes."""
    head = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + b"\0" * 4)


@bad("predict {}/huge.png --checkpoint-path small", "huge.png cannot be read", "3600000000 pixels")
def a_picture_of_too_many_pixels(data):
    huge(data / "huge.png")


@bad(RAFDB, "train_00002_aligned.jpg cannot be read as a picture", "3600000000 pixels")
def a_face_of_too_many_pixels(data):
    huge(data / "rafdb/basic/Image/aligned/train_00002_aligned.jpg")


def pipe(path):
    path.unlink(missing_ok=True)
    os.mkfifo(path)


@bad("predict {}/pipe.png --checkpoint-path small", "pipe.png cannot be read", "special file")
def a_pipe_as_a_picture(data):
    pipe(data / "pipe.png")


@bad("figure confusion {}/two.csv --output {}/x.svg", "x.svg must end in .pdf or .png")
def an_ending_that_is_no_figure(data):
    (data / "two.csv").write_text("label,predicted\na,b\nb,b\n")


@bad("figure confusion {}/two.csv", "has the classes Sad and sad, which mean one")
def classes_in_two_spellings(data):
    (data / "two.csv").write_text("label,predicted\nSad,joy\nsad,joy\n")


@bad("figure confusion {}/two.csv", "has the classes happiness and happy, which mean one")
def classes_in_two_words(data):
    (data / "two.csv").write_text("Label,Predicted\nhappiness,happy\nsad,happy\n")


@bad("sweep train --name s --dataset folder --data-dir {} --folds 2 --grid fold=1,9",
     "fold is 9, but there are only 2 folds")  # fmt: skip
def a_fold_that_is_none(data): ...


@bad("figure confusion {}/pipe.csv", "pipe.csv", "no regular file")
def a_pipe_as_predictions(data):
    pipe(data / "pipe.csv")


@bad(FERPLUS, "no fer2013new.csv in")
def a_pipe_as_votes(data):
    pipe(data / "ferplus/fer2013new.csv")


@bad("train --dataset folder --data-dir {}/own", "own/faces.csv", "no regular file")
def a_pipe_as_a_table(data):
    (data / "own").mkdir()
    pipe(data / "own/faces.csv")


@bad("train --dataset ferplus --data-dir {}/pipe", "pipe is a file; data_dir must be")
def a_pipe_as_a_data_folder(data):
    pipe(data / "pipe")


@bad("evaluate --checkpoint-dir small", "no run 'small'", "config.json")
def a_pipe_as_a_config(data):
    pipe(data / "outputs/small/config.json")


@bad("train --resume small", "small cannot continue", "last.safetensors is not there", "restore")
def a_run_whose_last_checkpoint_was_deleted(data):
    outputs(data, "status.json", b'{"status": "failed"}')
    (data / "outputs/small/checkpoints/last.safetensors").unlink()


@bad("export small --output {}/outputs/small", "outputs/small is a run itself", "another folder")
def exporting_a_run_onto_itself(data): ...


@bad("publish {}/outputs {}/outputs", "small is the run itself; publish into another folder")
def publishing_a_run_onto_itself(data):
    run = open_run(data / "outputs/small")
    config = run.config.replace(robustness_images=0, inspect_labels=False)
    run.write_json(evaluate_run(run, load_faces(config), config, run).metrics, "metrics.json")


BAD |= {
    command: (lambda data: None, command.split(), told)
    for command, *told in (
        ("train --synthetic_images 1e13", "synthetic_images must be at most 1000000", "got 1"),
        ("train --synthetic-images 3", "synthetic_images must be at least 200; got 3"),
        ("train --balanced_sampling 1e12", "balanced_sampling must be at most 1000000; got 1"),
        ("train --device toaster", "device 'toaster' cannot be used here", "use auto, cpu, cuda"),
        ("train --device cuda:99", "device 'cuda:99' cannot be used here", "use auto, cpu, cuda"),
        ("train --device meta", "device 'meta' cannot be used here", "use auto, cpu, cuda"),
        ("evaluate --checkpoint-dir small --device toaster", "'toaster' cannot", "use auto, cpu"),
        ("train --landmark-weights /nope", "no weight file at /nope", "landmark_weights must be"),
        ("train --backbone-weights face", "face are weights of", "not of test_resnet"),
        ("train --epochs 0", "epochs must be at least 1; got 0"),
        ("train --epochs 1.5", "epochs must be a whole number; got '1.5'"),
        ("train --epochs nan", "epochs must be a whole number; got 'nan'"),
        ("train --epochs 1e9", "epochs must be at most 1000000; got 1000000000"),
        ("train --lr 0", "lr must be above 0; got 0"),
        ("train --lr inf", "lr must be a number; got 'inf'"),
        ("train --lr 11", "lr must be at most 10; got 11"),
        ("train --batch-size 1", "batch_size must be at least 2; got 1"),
        ("train --image-size 8", "image_size must be at least 16; got 8"),
        ("train --image-size 5000", "image_size must be at most 1024; got 5000"),
        ("train --head softmax", "head must be one of grefel, linear; got 'softmax'"),
        ("train --precision fp16", "precision must be one of auto, fp32, bf16; got 'fp16'"),
        ("train --protocol majority", "protocol must be one of official", "got 'majority'"),
        ("train --augmentation strong", "one of none, standard, heavy; got 'strong'"),
        ("train --output-stride 7", "output_stride must be one of 0, 8, 16, 32; got 7"),
        ("train --num-anchors 1e9", "num_anchors must be at most 10000; got 1000000000"),
        ("train --embedding-dim 30", "multiple of attention_heads; got 30 and 4"),
        ("train --embedding-dim 1e8", "embedding_dim must be at most 16384; got 100000000"),
        ("train --drop-rate 1", "drop_rate must be at most 0.95; got 1"),
        ("train --label-noise -0.1", "label_noise must be at least 0; got -0.1"),
        ("train --mix-prob 2", "mix_prob must be at most 1; got 2"),
        ("train --ema-decay 1", "ema_decay must be at most 0.999999; got 1"),
        ("train --seed -1", "seed must be at least 0; got -1"),
        ("train --num-workers 1e9", "num_workers must be at most 1024; got 1000000000"),
        ("train --processes 64", "batch_size 32 is too small for 64 processes"),
        ("train --warmup-epochs 12 --epochs 12", "would never decay; lower warmup_epochs"),
        ("train --run-name ..", "run_name is one folder name, without slashes; got '..'"),
        ("train --dataset folder", "no folder", "data/folder", "pass --data-dir"),
        ("train --batchsize 3", "unknown argument --batchsize; did you mean --batch-size?"),
        ("train extra", "unknown argument extra; did you mean --extractor?"),
        ("train ferplus", "unknown argument ferplus; did you mean --dataset ferplus?"),
        ("predict a.jpg --whole b.jpg", "unknown argument b.jpg; put every IMAGE before the op"),
        ("compare a/b", "unknown argument a/b; did you mean --output-dir a/b?"),
        ("evaluate a/b", "unknown argument a/b; did you mean --checkpoint-dir a/b?"),
        ("finetune a/b", "unknown argument a/b; did you mean --checkpoint-path a/b?"),
        ("finetune --checkpoint-path {}/outputs", "no run", "latest runs there"),
        ("finetune --checkpoint-path small --finetune-name a/b", "finetune_name is one folder"),
        ("finetune --backbone resnet18", "unknown argument --backbone; did you mean --"),
        ("evaluate --split dev", "split must be one of train, val, test; got 'dev'"),
        ("evaluate --tta rotate", "tta must be one of none, flip; got 'rotate'"),
        ("evaluate --checkpoint-dir {}/ferplus", "no run", "latest runs there"),
        ("evaluate --robustness-images -1", "robustness_images must be at least 0; got -1"),
        ("compare --output-dir {}/nothing", "no evaluated run under", "first: grefel evaluate"),
        ("report nobody", "no run 'nobody'", "latest runs there: small"),
        ("report small", "small was not evaluated; first: grefel evaluate --checkpoint-dir"),
        ("rerun nobody", "no run 'nobody'", "latest runs there: small"),
        ("export nobody", "no run 'nobody'", "latest runs there: small"),
        ("export small --output small.pt", "--output small.pt must end in .onnx"),
        ("export small --output /proc/none/small", "/proc/none"),
        ("figure confusion {}/none.csv", "none.csv is not there", "a csv file is needed"),
        ("publish {}/nothing {}/shared", "no run", "nothing", "latest runs there: small"),
        ("publish {}/ferplus {}/shared", "no evaluated run under", "first: grefel evaluate"),
        ("predict {}/ferplus --output t.txt", "--output t.txt must end in .csv or .json"),
        ("sweep train", "a sweep needs --name", "got ''"),
        ("sweep train --name ..", "a sweep needs --name", "got '..'"),
        ("sweep test --name a", "sweep runs train or finetune; got 'test'"),
        ("sweep train --name a --grid lr", "'lr' has no value; write key=value"),
        ("sweep train --name a --grid lrr=1", "unknown setting 'lrr'; did you mean 'lr'"),
        ("sweep train --name a --grid lr=a", "lr must be a number; got 'a'"),
        ("sweep train --name a --seeds x", "seed must be a whole number; got 'x'"),
        ("sweep train --name a --seeds 1,1", "two points of the sweep would be called seed=1"),
        ("sweep train --name a --run-name b", "a sweep names its runs itself; remove run_name"),
        ("data check --dataset nope", "dataset must be one of", "got 'nope'"),
        ("data check --dataset ferplus --data-dir /nope", "see the problems printed above\n"),
        ("data check --data-dir {}", "for a set other than synthetic pass --dataset"),
        ("data synthetic {}/new --images 10000000000000", "is not within 100 and 1000000"),
        ("data synthetic {}/new --seed -1", "seed=-1 is negative; use 0 or more"),
        ("data check --data-dri x", "unknown argument --data-dri; did you mean --data-dir?"),
        ("sweep --name a finetune --checkpoint-pat b", "did you mean --checkpoint-path?"),
    )
}


def tree(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gives_one_clear_line_and_loses_nothing(
    case, layouts, trained, tmp_path, capsys, monkeypatch
):
    prepare, command, told = BAD[case]
    data = tmp_path / "data"
    shutil.copytree(layouts, data)
    shutil.copytree(trained, data / "outputs")
    monkeypatch.setenv("GREFEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("grefel_lib.run.PROJECT_ROOT", data)
    prepare(data)
    before = tree(data)
    status = main([word.format(data, data) for word in command])
    said = capsys.readouterr().err
    assert status not in (0, None)
    assert said.count("\n") == 1, said
    words = command[: 2 if command[0] == "data" else 1]
    assert said.startswith(f"grefel {' '.join(words)}: error: "), said
    for words in told:
        assert words in said
    assert tree(data) == before
    assert not list(tmp_path.glob("cache/.filling*"))


def test_a_full_disk_leaves_no_half_made_cache(faces_dir, tmp_path, monkeypatch, capsys):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("GREFEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(np.lib.format, "open_memmap", full)
    status = main(["train", "--dataset", "ferplus", "--data-dir", str(faces_dir)])
    assert status == 1
    assert "No space left on device" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "cache").iterdir() if p.is_dir()] == []


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is where even root cannot write")
def test_a_cache_that_cannot_be_written_names_the_way_out(faces_dir, monkeypatch, capsys):
    monkeypatch.setenv("GREFEL_CACHE", "/proc/cache")
    status = main(["train", "--dataset", "ferplus", "--data-dir", str(faces_dir)])
    assert status == 1
    assert "GREFEL_CACHE" in capsys.readouterr().err


def test_a_reader_that_has_seen_enough_is_no_error():
    command = f"{sys.executable} -m grefel_lib.commands.cli data check --json | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stderr == ""


# -- flags


@pytest.fixture
def given(monkeypatch):
    """What a command line hands to the command, without running it."""

    def parse(*words):
        found = []
        monkeypatch.setattr("grefel_lib.commands.notebook.run_command", lambda *p: found.append(p))
        assert main(words) == 0
        [(command, settings)] = found
        assert command == words[0]
        return settings

    return parse


@pytest.mark.parametrize("command", [*COMMANDS, "sweep train", "sweep finetune"])
def test_the_help_of_a_command_tells_each_of_its_settings_once(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit) as end:
        main([*command.split(), "--help"])
    assert end.value.code == 0
    shown = " ".join(capsys.readouterr().out.split()) + " "
    told = re.findall(r"(?<![\w-])--([a-z][a-z-]*)(?=[ ,])", shown)
    own = command_settings(command.split()[-1])
    for name, setting in own.items():
        flag = name.replace("_", "-")
        if command.startswith("sweep") and name in ("seed", "run_name", "finetune_name", "resume"):
            assert flag not in told  # --seeds, and a sweep names its runs itself
            continue
        assert told.count(flag) == 1, flag
        assert re.search(rf"--{flag} \S+ {re.escape(setting.help)} ", shown), flag
    foreign = {name.replace("_", "-") for name in SETTINGS.keys() - own.keys()}
    assert not foreign & set(told)


@pytest.mark.parametrize(
    "command", ["predict", "report", "export", "data", "publish", "rerun", "doctor", "demo"]
)
def test_every_other_command_has_a_help(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert f"usage: grefel {command}" in capsys.readouterr().out


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"grefel {__version__}\n"


@pytest.mark.parametrize(
    ("flags", "values"),
    [
        (["--batch_size", "7"], {"batch_size": "7"}),
        (["--batch-size", "7"], {"batch_size": "7"}),
        (["--batch_size=7"], {"batch_size": "7"}),
        (["--batch-size=7"], {"batch_size": "7"}),
        (["--run_name=a_b", "--data-dir", "c_d"], {"run_name": "a_b", "data_dir": "c_d"}),
        (["--use_soft_labels"], {"use_soft_labels": "true"}),
        (["--use-soft-labels"], {"use_soft_labels": "true"}),
        (["--no-use-soft-labels"], {"use_soft_labels": "false"}),
        (["--no-use_soft_labels"], {"use_soft_labels": "false"}),
        (["--use-soft-labels=false"], {"use_soft_labels": "false"}),
        ([], {}),
    ],
)
def test_flags_parse_as_people_type_them(given, flags, values):
    assert given("train", *flags) == values


def test_the_commands_of_the_earlier_project_parse(given):
    words = ["--dataset", "ferplus", "--data_dir", "./FERPlus", "--use_soft_labels"]
    words += ["--batch_size", "64", "--lr", "5e-5", "--epochs", "150", "--weight_decay", "0.005"]
    words += ["--label_smoothing", "0.11", "--mixup_alpha", "0.2", "--drop_rate", "0.15"]
    words += ["--ema_decay", "0.9999"]
    config = Config.resolve(given("train", *words))
    assert config == Config.resolve({"dataset": "ferplus", "data_dir": "./FERPlus"})
    words = ["--checkpoint_path", "x.safetensors", "--finetune_name", "custom_v1"]
    words += ["--epochs", "50", "--lr", "2e-5", "--weight_decay", "0.007", "--drop_rate", "0.18"]
    assert given("finetune", *words)["finetune_name"] == "custom_v1"
    words = ["--data_dir", "d", "--checkpoint_dir", "c", "--batch_size", "32", "--output_dir", "o"]
    assert given("evaluate", *words)["checkpoint_dir"] == "c"


@pytest.mark.parametrize(
    ("command", "name"),
    [("evaluate", "lr"), ("train", "checkpoint_path"), ("finetune", "backbone"),
     ("compare", "dataset"), ("explore", "epochs"), ("explain", "robustness_images")],
)  # fmt: skip
def test_a_setting_of_another_command_is_refused(command, name, capsys):
    takes = ", ".join(SETTINGS[name].commands)
    with pytest.raises(ValueError, match=f"^{name} is not a setting of {command}, but of {takes}$"):
        check_parameters(command, {name: None})
    if command in COMMANDS:
        flag = f"--{name.replace('_', '-')}"
        assert main([command, flag, "1"]) == 1
        assert f"unknown argument {flag}" in capsys.readouterr().err


def test_what_was_not_given_is_left_out_and_what_was_given_is_kept():
    assert check_parameters("train", {"lr": None, "epochs": 0, "run_name": ""}) == {
        "epochs": 0,
        "run_name": "",
    }


# -- a command that needs no notebook


def test_predict_prints_a_line_a_face_and_writes_the_table(trained, tmp_path, capsys, faces_dir):
    folder = faces_dir / "Images/FER2013Test"
    status = main(["predict", str(folder), "--checkpoint-path", str(trained / "small"), "--whole",
                       "--output", str(tmp_path / "t.csv")])  # fmt: skip
    assert status == 0
    table = pd.read_csv(tmp_path / "t.csv")
    assert len(table) == len(list(folder.iterdir()))
    np.testing.assert_allclose(table.filter(regex="^p_").sum(axis=1), 1, atol=1e-5)
    assert table["reliability"].between(0, 1).all()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(table) + 2
    assert lines[-2].startswith("answered by ")
    assert lines[0].split() == ["file", "box", "predicted", "probability", "reliability"]
    assert lines[1].split()[1:3] == ["whole", table["predicted"][0]]


@pytest.fixture
def album(tmp_path):
    """A photograph, a picture without a face, two damaged ones, a small crop; awkward names."""
    folder = tmp_path / ("a long name of a folder of pictures " * 2)
    folder.mkdir()
    shutil.copy(get_sample_data("grace_hopper.jpg", asfileobj=False), folder / "=1+1.jpg")
    Image.new("RGB", (400, 300), "navy").save(folder / "sea.png")
    (folder / "notes\x1b.png").write_text("hello")
    (folder / "cut.jpg").write_bytes((folder / "=1+1.jpg").read_bytes()[:9000])
    Image.new("L", (48, 48), 90).save(folder / "crop.png")
    return folder


def test_predict_does_the_rest_when_a_file_is_bad(trained, album, capsys, monkeypatch):
    monkeypatch.chdir(album)
    options = ["--checkpoint-path", str(trained / "small"), "--device", "cpu"]
    written = ["--output", "new/t.json", "--annotate", "new/drawn", "--features", "new/f.npz"]
    assert main(["predict", "=1+1.jpg", "*.png", "cut.jpg", "gone.jpg", *options, *written]) == 1
    out, err = capsys.readouterr()
    assert [re.sub(r"[(:].*", "", line.split("error: ")[1]) for line in err.splitlines()] == [
        "no image or folder at gone.jpg", "notes\\x1b.png cannot be read as a picture ",
        "cut.jpg cannot be read as a picture "]  # fmt: skip
    rows = json.loads((album / "new/t.json").read_text())
    assert [(row["file"], row["face"]) for row in rows] == [
        ("./=1+1.jpg", "found"),
        ("crop.png", "whole picture"),
        ("sea.png", "no face found"),
    ]
    assert [row["predicted"] is None for row in rows] == [False, False, True]
    assert rows[2]["left"] is rows[2]["p_anger"] is None
    assert [rows[1][side] for side in ("left", "top", "width", "height")] == [0, 0, 48, 48]
    assert {(row["run"], row["checkpoint"]) for row in rows} <= {
        (str(trained / "small"), name) for name in ("best_model", "best_ema_model")
    }
    with np.load(album / "new/f.npz") as features:
        assert features["files"].tolist() == ["./=1+1.jpg", "crop.png"]
        assert features["box"].shape == (2, 4)
        np.testing.assert_allclose((features["embeddings"] ** 2).mean(axis=1), 1, rtol=1e-3)
    assert sorted(file.name for file in (album / "new/drawn").iterdir()) == [
        "=1+1.jpg", "crop.jpg", "sea.jpg"]  # fmt: skip
    assert out.splitlines()[-1] == "wrote 3 pictures to new/drawn"


def test_the_printed_table_fits_into_100_columns(trained, album, capsys):
    assert main(["predict", str(album), "--checkpoint-path", str(trained / "small")]) == 1
    out, err = capsys.readouterr()
    *table, answer = out.splitlines()
    assert answer.startswith(f"answered by {trained / 'small'}, best_")
    assert len(table) == 4
    assert len({len(line) for line in table}) == 1
    assert 80 < len(table[0]) <= 100
    assert table[1].startswith("…")
    assert "=1+1.jpg " in table[1]
    assert "no face found" in table[3]
    assert "nan" not in out.lower()
    assert "\x1b" not in out + err


def test_a_line_tells_where_a_face_is_and_what_it_shows():
    table = pd.DataFrame({
        "file": ["a.avi", "a.avi", "b.png"], "second": [2.5, 3.0, None],
        "face": ["found", "whole picture", "found"],
        "left": [30, 0, 1], "top": [-4, 0, 2], "width": [50, 48, 9], "height": [60, 48, 9],
        "predicted": ["fear", "anger", "fear"], "probability": [0.9, 0.25, 0.5],
        "reliability": [0.7, 0.5, 0.5],
    })  # fmt: skip
    first, second, picture = (line.split() for line in _face_lines(table).splitlines()[1:])
    assert first == ["a.avi", "2.5", "30,-4", "50x60", "fear", "0.900", "0.700"]
    assert second == ["a.avi", "3.0", "whole", "anger", "0.250", "0.500"]
    assert picture == ["b.png", "1,2", "9x9", "fear", "0.500", "0.500"]


def test_a_table_that_cannot_be_written_is_said_before_the_work(trained, album, capsys, tmp_path):
    named = ["--checkpoint-path", str(trained / "small")]
    (table := tmp_path / "a.csv").mkdir()
    for flags, told in [
        (["--output", "t.txt"], "--output t.txt must end in .csv or .json"),
        (["--features", "f.json"], "--features f.json must end in .npz or .csv"),
        (["--annotate", str(album)], "holds the pictures themselves"),
        (["--annotate", str(album / "crop.png")], "crop.png is a file; name a folder"),
        (["--output", str(table)], "a.csv is a folder; name a file in it"),
        (["--output", str(album / "crop.png" / "t.csv")], "crop.png/t.csv: where its folder"),
        (["--features", str(album / "crop.png" / "f.npz")], "crop.png/f.npz: where its folder"),
        (["--annotate", str(album / "crop.png" / "a" / "b")], "where its folder should be is a"),
        (["--output", "t.csv", "--features", "./t.csv"], "both name t.csv; name two files"),
    ]:
        before = tree(album)
        assert main(["predict", str(album / "crop.png"), *named, *flags]) == 1
        out, err = capsys.readouterr()
        assert told in err
        assert out == ""
        assert tree(album) == before


def test_features_need_a_head_with_embeddings(trained, album, capsys, tmp_path):
    tensors, facts = load_checkpoint(trained / "small/checkpoints/best_model.safetensors")
    facts["config"]["head"] = "linear"
    config = Config.from_dict(facts["config"])
    tensors = {f"model/{k}": v for k, v in build_model(config, 8).state_dict().items()}
    save_checkpoint(tmp_path / "linear.safetensors", tensors, facts)
    words = [
        "predict",
        str(album / "crop.png"),
        "--checkpoint-path",
        str(tmp_path / "linear.safetensors"),
    ]
    assert main([*words, "--features", str(tmp_path / "f.npz")]) == 1
    assert "linear.safetensors has no embeddings" in capsys.readouterr().err
    assert main([*words, "--output", str(tmp_path / "t.csv")]) == 0
    (row,) = pd.read_csv(tmp_path / "t.csv").to_dict("records")
    assert np.isnan(row["reliability"])  # a linear head has none
    assert row["checkpoint"] == "linear"
    assert not (tmp_path / "f.npz").exists()


def test_predict_reads_subfolders_when_asked(trained, tmp_path, capsys):
    (tmp_path / "a/b").mkdir(parents=True)
    for place in ("a/x.png", "a/b/x.png"):
        Image.new("L", (48, 48), 90).save(tmp_path / place)
    words = ["predict", str(tmp_path / "a"), "--checkpoint-path", str(trained / "small")]
    for more, count in (([], 1), (["--recursive", "--annotate", str(tmp_path / "drawn")], 2)):
        assert main([*words, *more]) == 0
        assert capsys.readouterr().out.count("x.png") == count
    assert len(list((tmp_path / "drawn").iterdir())) == 2  # of the same name


# -- rerun and doctor


def test_a_run_is_repeated_bit_by_bit_and_another_result_is_told(
    trained, faces_dir, tmp_path, capsys
):
    assert main(["rerun", str(trained / "small"), "--data-dir", str(tmp_path / "none")]) == 1
    assert f"no folder {tmp_path / 'none'} for ferplus" in capsys.readouterr().err
    (tmp_path / "moved").symlink_to(faces_dir)
    assert main(["rerun", str(trained / "small"), "--data-dir", str(tmp_path / "moved")]) == 0
    assert "every weight and every number" in capsys.readouterr().out
    again = trained / "small-rerun"
    assert main(["rerun", "ferplus"]) == 1
    assert "ferplus has no last checkpoint" in capsys.readouterr().err
    assert main(["rerun", str(trained / "small")]) == 1
    assert "small-rerun has finished; move it away to repeat again" in capsys.readouterr().err
    record = (trained / "small/history.csv").read_text()
    shutil.rmtree(again)
    try:
        (trained / "small/history.csv").write_text(record.replace("0.", "0.5", 1))
        assert main(["rerun", str(trained / "small")]) == 1
        out, err = capsys.readouterr()
        assert re.search(r"^lr: epoch 1: 0\.5\d+ there, 0\.\d+ here$", out, re.MULTILINE)
        assert "error: 1 difference from" in err
    finally:
        (trained / "small/history.csv").write_text(record)
        shutil.rmtree(again)


@pytest.mark.parametrize("changed", [BEST, BEST_EMA, LAST])
def test_other_weights_with_the_same_history_are_told(tmp_path, changed):
    runs = [new_run(tmp_path / name, Config()) for name in "ab"]
    for run in runs:
        run.write_json({}, "environment.json")
        run.write_table(pd.DataFrame({"epoch": [1, 2], "lr": [0.1, 0.2]}), "history.csv")
        for name in (BEST, BEST_EMA, LAST):
            value = float(run is runs[1] and name == changed)
            run.save_checkpoint(name, {"x": torch.tensor([value])}, {})
    assert differences(runs[0], runs[0]) == []
    there, here = (run.load_checkpoint(changed)[1]["sha256"][:12] for run in runs)
    assert differences(*runs) == [f"weights of {changed}: checksum {there} there, {here} here"]


@pytest.mark.parametrize("command", ["finetune", "evaluate", "compare"])
def test_under_torchrun_other_commands_than_train_are_refused(command, monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert main([command]) == 1
    assert f"torchrun starts training only; run grefel {command}" in capsys.readouterr().err


def test_doctor_tells_what_is_here_and_what_to_do(capsys, monkeypatch, faces_dir):
    monkeypatch.setitem(DATA_DIRS, "ferplus", str(faces_dir))
    monkeypatch.setattr("grefel_lib.commands.doctor.DATA_DIRS", dict(list(DATA_DIRS.items())[1:4]))
    monkeypatch.setenv("GREFEL_CACHE", "/proc/cache")
    monkeypatch.setattr("grefel_lib.backbone.try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr("grefel_lib.backbone.get_hf_file_metadata", None)  # as if offline
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for words in ("torch", "device", "ms a step  fastest", "precision bf16, channels_last",
                  "pass --data-dir, or see data/README.md", "weights of test_resnet",
                  "could not fetch the weights of 'vit_base_patch16_224'", "go online once",
                  "/proc/cache: cannot be written", "set GREFEL_CACHE", "GB free"):  # fmt: skip
        assert words in out
    steps = re.findall(r"(\d+) ms a step(  fastest)?", out)
    assert [int(ms) for ms, mark in steps if mark] == [min(int(ms) for ms, _ in steps)]


def test_a_matrix_is_drawn_from_the_predictions_of_any_model(tmp_path, capsys):
    rows = ["label,predicted", "happy,happy", "happy,sad", "sad,sad"]
    (tmp_path / "p.csv").write_text("\n".join(rows))
    arguments = ["figure", "confusion", str(tmp_path / "p.csv"), "--venue", "ieee"]
    arguments += ["--class-order", "sad,happy", "--output", str(tmp_path / "new/m.pdf")]
    assert main([*arguments, "--class-names", "sad=Sadness, happy=Happiness"]) == 0
    assert f"wrote {tmp_path / 'new/m.pdf'} and {tmp_path / 'new/m.png'}" in capsys.readouterr().out
    assert b"/MediaBox [ 0 0 252 " in (tmp_path / "new/m.pdf").read_bytes()
    assert main([*arguments, "--class-order", "sad,hapy"]) == 1
    assert "among the 2 classes; no face has the class hapy" in capsys.readouterr().err
    (tmp_path / "p.csv").write_text("label,answer\nhappy,sad")
    assert main(arguments) == 1
    assert "lacks the columns predicted; it has: label, answer" in capsys.readouterr().err
    (tmp_path / "p.csv").write_text("label,predicted\nNone,None\nNA,None\nsad,NA\nsad,\n")
    assert main(["figure", "confusion", str(tmp_path / "p.csv")]) == 1
    assert "p.csv, line 5: label or predicted is empty" in capsys.readouterr().err


def test_the_classes_of_a_matrix_are_named_as_the_table_names_them(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("grefel_lib.report.figures.confusion_figure",
                        lambda *given, **_: drawn.append(given) or Figure())  # fmt: skip
    (tmp_path / "p.csv").write_text("label,predicted\nNone,None\nNA,None\nsad,NA\n")
    output = str(tmp_path / "m")
    assert main(["figure", "confusion", str(tmp_path / "p.csv"), "--output", output]) == 0
    assert list(drawn[0][0]) == ["None", "NA", "sad"]
    assert list(drawn[0][1]) == ["None", "None", "NA"]
    (tmp_path / "p.csv").write_text("label,predicted\n1,1.0\n0, 2.0 \n2 ,0.0\n")  # of pandas
    assert main(["figure", "confusion", str(tmp_path / "p.csv"), "--output", output]) == 0
    assert [list(column) for column in drawn[1][:2]] == [["1", "0", "2"], ["1", "2", "0"]]
    header = "label,predicted,p_sad,p_happy,p_angry\n"  # its classes in their order, one unseen
    (tmp_path / "p.csv").write_text(f"{header}happy,sad,0.5,0.3,0.2\nsad,sad,0.8,0.1,0.1\n")
    assert main(["figure", "confusion", str(tmp_path / "p.csv"), "--output", output]) == 0
    (tmp_path / "p.csv").write_text("label,predicted,p_value\nhappy,sad,0.5\nsad,sad,0.8\n")
    assert main(["figure", "confusion", str(tmp_path / "p.csv"), "--output", output]) == 0
    assert [given[2] for given in drawn[2:]] == [["sad", "happy", "angry"], []]


@pytest.mark.parametrize(("command", "again"), [
    ("train --run-name a", "run the same command with its --run-name again"),
    ("evaluate --checkpoint-dir a", "run the same command again"),
])  # fmt: skip
def test_interrupted_it_says_how_to_go_on(command, again, monkeypatch, capsys):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("grefel_lib.commands.cli._run_notebook", interrupted)
    assert main(command.split()) == 130
    assert capsys.readouterr().err == f"grefel: interrupted; {again}\n"
