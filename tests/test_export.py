"""ONNX: the file says what PyTorch says, or it is not written."""

import builtins
import json

import numpy as np
import onnxruntime
import pytest
import torch

from grefel_lib.commands.cli import main
from grefel_lib.commands.export import _run, export_onnx
from grefel_lib.config import Config
from grefel_lib.faces import load_faces
from grefel_lib.fit import fit
from grefel_lib.grefel import build_model
from grefel_lib.predict import predict
from grefel_lib.restore import Trained, load_model
from grefel_lib.run import checkpoint_file, start_run


@pytest.fixture(scope="module")
def trained(faces_dir, tmp_path_factory):
    """A small run after one epoch."""
    config = Config.resolve(
        {"profile": "demo", "dataset": "ferplus", "data_dir": str(faces_dir), "epochs": 1,
         "output_dir": str(tmp_path_factory.mktemp("outputs")), "run_name": "small"}
    )  # fmt: skip
    run = start_run(config)
    fit(load_faces(config), run)
    return run


def test_the_file_scores_faces_as_predict_does(trained, capsys):
    assert main(["export", str(trained.path)]) == 0
    told = capsys.readouterr().out
    assert "model.onnx" in told
    assert "onnxruntime" in told
    session = onnxruntime.InferenceSession(trained.path / "model.onnx")
    facts = session.get_modelmeta().custom_metadata_map
    loaded = load_model(checkpoint_file(trained.path))
    assert tuple(json.loads(facts["class_names"])) == loaded.class_names
    assert facts["image_size"] == "48"
    faces = load_faces(trained.config).split("test").take(np.arange(7))
    grey = faces.gather(np.arange(7))[:, None].repeat(3, axis=1).astype(np.float32) / 255
    probs, reliability = session.run(None, {"images": grey})
    table = predict(loaded.model, faces, loaded.config)
    columns = [f"p_{name}" for name in loaded.class_names]
    np.testing.assert_allclose(probs, table[columns].to_numpy(), atol=1e-5)
    np.testing.assert_allclose(reliability, table["reliability"], atol=1e-5)


def test_a_file_that_differs_is_not_written(trained, tmp_path, monkeypatch):
    loaded = load_model(checkpoint_file(trained.path))
    faces = load_faces(trained.config).split("val")
    run = _run
    monkeypatch.setattr(
        "grefel_lib.commands.export._run", lambda *args: [v + 0.01 for v in run(*args)]
    )
    with pytest.raises(ValueError, match=r"differ by 0\.01"):
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


def test_a_linear_head_has_one_output(faces_dir, tmp_path):
    config = Config(dataset="ferplus", data_dir=str(faces_dir), backbone="test_vit", image_size=48,
                    backbone_weights="none", head="linear")  # fmt: skip
    faces = load_faces(config)
    torch.manual_seed(0)
    net = build_model(config, 8).eval()
    made = Trained(net, config, faces.class_names, {}, tmp_path / "run/best.safetensors")
    export_onnx(made, faces.split("val"), tmp_path / "linear.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "linear.onnx")
    assert [output.name for output in session.get_outputs()] == ["class_probs"]
