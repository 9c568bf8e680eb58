"""ONNX: the file says what PyTorch says, or it is not written."""

import builtins
import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from drawn_layouts import write_layout
from matplotlib.cbook import get_sample_data
from PIL import Image

from grefel_lib.commands.cli import main
from grefel_lib.commands.export import export_onnx, resize_as_pillow
from grefel_lib.config import PROJECT_ROOT, Config
from grefel_lib.faces import load_faces
from grefel_lib.fit import fit
from grefel_lib.grefel import Output, build_model
from grefel_lib.restore import Trained, load_model
from grefel_lib.run import checkpoint_file, start_run
from grefel_lib.sources.photo import Photo, resized
from grefel_lib.sources.synthetic import Sketch


def train(dataset, folder, outputs):
    """A small run after eight epochs, which knows some expressions."""
    config = Config.resolve(
        {"profile": "demo", "dataset": dataset, "data_dir": str(folder), "epochs": 8,
         "image_size": 64, "output_dir": str(outputs), "run_name": dataset}
    )  # fmt: skip
    run = start_run(config)
    fit(load_faces(config), run)
    return run


@pytest.fixture(scope="module")
def trained(faces_dir, tmp_path_factory):
    """A small run that sees grey faces of 48 pixels."""
    return train("ferplus", faces_dir, tmp_path_factory.mktemp("outputs"))


@pytest.fixture(scope="module")
def trained_in_colour(tmp_path_factory):
    """A small run that sees colour faces of 100 pixels."""
    data = write_layout(tmp_path_factory.mktemp("data") / "RAF-DB", "rafdb", images=300)
    return train("rafdb", data, tmp_path_factory.mktemp("outputs"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Files of drawn faces in grey and colour and of photographs, whole and cut to the face."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, size in enumerate(np.linspace(40, 160, 24).round().astype(int).tolist()):
        for kind in ("colour", "grey"):
            rng = np.random.default_rng(number)
            mixture, middle = np.eye(8)[number % 8], (size / 2, size / 2)
            face = Sketch(mixture, rng, (size, size), middle, 0.385 * size, kind == "colour")
            Image.fromarray(face.picture()).save(folder / f"{kind}_{number}.png")
    with Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)) as photograph:
        photographs = {"hopper": np.asarray(photograph.convert("RGB"))}
    try:
        from skimage.data import astronaut
    except ImportError:
        pass
    else:
        photographs["astronaut"] = astronaut()
    for name, picture in photographs.items():
        photo = Photo.of(picture)
        assert photo.found == 1
        Image.fromarray(picture).save(folder / f"{name}.jpg")
        Image.fromarray(photo.crop(0)).save(folder / f"{name}_face.png")
    return folder


@pytest.fixture(scope="module")
def exported(trained):
    """The file of the run that sees grey faces."""
    assert main(["export", str(trained.path)]) == 0
    return trained.path / "model.onnx"


@pytest.fixture(scope="module")
def exported_in_colour(trained_in_colour, tmp_path_factory):
    """The file of the run that sees colour faces, where the user wants it."""
    path = tmp_path_factory.mktemp("models") / "colour.onnx"
    assert main(["export", str(trained_in_colour.path), "--output", str(path)]) == 0
    return path


def by_the_file(model, pictures):
    """Probability by class for each picture: what the file and its metadata alone tell to do."""
    session = onnxruntime.InferenceSession(model)
    facts = session.get_modelmeta().custom_metadata_map
    assert "RGB, uint8, (batch, height, width, 3), of any size" in facts["input"]
    [images] = session.get_inputs()
    assert (images.name, images.type, images.shape[3]) == ("images", "tensor(uint8)", 3)
    rows = []
    for picture in pictures:
        with Image.open(picture) as image:
            crop = np.asarray(image.convert("RGB"))
        rows += session.run(["class_probs"], {"images": crop[None]})[0].tolist()
    return pd.DataFrame(rows, columns=json.loads(facts["class_names"]))


@pytest.mark.parametrize("which", ["", "_in_colour"])
def test_the_file_read_alone_answers_as_predict_does(which, request, pictures, tmp_path):
    run, model = (request.getfixturevalue(name + which) for name in ("trained", "exported"))
    table = tmp_path / "table.csv"
    named = ["--checkpoint-path", str(run.path), "--device", "cpu", "--output", str(table)]
    assert main(["predict", str(pictures), "--whole", *named]) == 0
    ours = pd.read_csv(table)
    assert len(ours) == len(list(pictures.iterdir())) >= 50
    assert ours["predicted"].nunique() > 1
    theirs = by_the_file(model, ours["file"])
    assert theirs.idxmax(axis=1).tolist() == ours["predicted"].tolist()
    columns = [f"p_{name}" for name in theirs]
    np.testing.assert_allclose(theirs, ours[columns], rtol=0, atol=1e-5)


def test_the_astronaut_is_among_the_pictures(pictures):
    pytest.importorskip("skimage", reason="the photograph comes with scikit-image")
    assert (pictures / "astronaut_face.png").is_file()


def test_a_batch_of_crops_is_scored_as_each_alone(exported):
    session = onnxruntime.InferenceSession(exported)
    crops = np.random.default_rng(0).integers(256, size=(3, 90, 70, 3), dtype=np.uint8)
    together = session.run(None, {"images": crops})
    assert [len(values) for values in together] == [3, 3]  # class_probs and reliability
    for number in range(3):
        alone = session.run(None, {"images": crops[number : number + 1]})
        for one, many in zip(alone, together, strict=True):
            np.testing.assert_allclose(one[0], many[number], atol=1e-6)


@pytest.mark.parametrize("size", [48, 100, 112])
def test_a_crop_is_resized_as_pillow_does_bit_for_bit(size):
    rng = np.random.default_rng(size)
    for height, width in [
        (1, 1),
        (size, size),
        (47, 49),
        (333, 512),
        (157, 131),  # taller than wide, Pillow 13 begins with the other side
        (512, 90),
        *rng.integers(20, 250, (9, 2)),
    ]:
        pixels = rng.integers(2, size=(height, width), dtype=np.uint8) * 255  # overshoots are cut
        theirs = resized(Image.fromarray(pixels), (size, size))
        pillow = Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)
        assert height > width or (np.asarray(pillow) == np.asarray(theirs)).all()
        ours = resize_as_pillow(torch.from_numpy(pixels).double(), size)
        assert (ours.numpy() == np.asarray(theirs)).all()


def test_the_file_holds_no_path_of_this_machine(exported, trained):
    content = exported.read_bytes()
    for folder in (PROJECT_ROOT, Path.home(), trained.path.parent, Path(torch.__file__).parent):
        assert f"{folder}/".encode() not in content


def test_weights_of_half_precision_are_stored_so_and_answer_the_same(trained, exported, tmp_path):
    loaded = load_model(checkpoint_file(trained.path))
    faces = load_faces(trained.config).split("val")
    half = replace(loaded, model=copy.deepcopy(loaded.model).half().float())  # rounded
    report = export_onnx(half, faces, tmp_path / "half.onnx")
    assert report.largest_difference < 1e-5
    sizes = [path.stat().st_size for path in (tmp_path / "half.onnx", exported)]
    weights = sum(parameter.numel() for parameter in loaded.model.parameters())
    assert sizes[1] > 4 * weights  # four bytes each: not rounded where rounding would change them
    assert sizes[0] < sizes[1] - 1.5 * weights


def test_a_file_that_differs_is_not_written(trained, tmp_path, monkeypatch):
    loaded = load_model(checkpoint_file(trained.path))
    faces = load_faces(trained.config).split("val")
    monkeypatch.setattr("grefel_lib.commands.export.LUMA", (7471, 38470, 19595))  # of BGR
    with pytest.raises(ValueError, match=r"onnxruntime and PyTorch differ by 0\.\d+ on"):
        export_onnx(loaded, faces, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_missing_packages_are_named(trained, tmp_path, monkeypatch):
    imported = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "onnxruntime":
            raise ImportError("no such module", name=name)
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    loaded = load_model(checkpoint_file(trained.path))
    with pytest.raises(ValueError, match=r"onnxruntime is missing.*\.\[onnx\]"):
        export_onnx(loaded, load_faces(trained.config), tmp_path / "model.onnx")


def untrained(faces_dir, folder, **more):
    """A model of random weights, and its validation faces."""
    config = Config.resolve({"dataset": "ferplus", "data_dir": str(faces_dir), "profile": "demo"} |
                            more)  # fmt: skip
    faces = load_faces(config)
    torch.manual_seed(0)
    net = build_model(config, 8).eval()
    return Trained(net, config, faces.class_names, {}, folder / "run/best.safetensors"), faces


@pytest.mark.parametrize("more", [
    {"backbone": "test_vit", "correction": "trust"}, {"correction": "none"},
    {"primary": "mlp", "branches": "anchors"},
    {"branches": "attention", "branch_features": "earlier"},
    {"extractor": "window_cross_attention", "landmark_backbone": "test_resnet",
     "landmark_weights": "none", "image_size": 64},
])  # fmt: skip
def test_a_model_of_every_kind_answers_batches_of_every_size(more, faces_dir, tmp_path):
    made, faces = untrained(faces_dir, tmp_path, **more)
    export_onnx(made, faces.split("val"), tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    images = np.repeat(faces.split("val").gather(np.arange(3))[..., None], 3, axis=3)
    together = session.run(None, {"images": images})
    alone = [session.run(None, {"images": image[None]}) for image in images]
    for one, parts in zip(together, zip(*alone, strict=True), strict=True):
        np.testing.assert_allclose(one, np.concatenate(parts), atol=1e-5)


def test_a_linear_head_has_one_output(faces_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "grefel_lib.commands.export._latency",
        lambda *ways: [1.0 if isinstance(way(), Output) else 2.0 for way in ways],
    )
    made, faces = untrained(faces_dir, tmp_path, head="linear")
    report = export_onnx(made, faces.split("val"), tmp_path / "linear.onnx")
    assert (report.torch_ms, report.onnx_ms) == (1.0, 2.0)
    session = onnxruntime.InferenceSession(tmp_path / "linear.onnx")
    assert [output.name for output in session.get_outputs()] == ["class_probs"]
