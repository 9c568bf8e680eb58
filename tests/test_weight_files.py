"""Weights as other projects save them are read, and no code in their files runs."""

import argparse
import collections
import pickle
import sys
import types
import zipfile

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from grefel_lib.backbone import load_backbone_weights

SOURCE = timm.create_model("test_resnet", num_classes=7)
TENSORS = SOURCE.state_dict()


class Recorder:
    """A project's own class: FER projects save one beside the tensors."""

    def __init__(self):
        self.epochs = [torch.ones(2)]

    def __setstate__(self, state):
        raise AssertionError("code of the file ran")


class Harmful:
    def __reduce__(self):
        return (exec, ("raise AssertionError('code of the file ran')",))


def prefixed(*prefixes):
    return {"".join(prefixes) + name: tensor for name, tensor in TENSORS.items()}


def assert_loads(path):
    net = timm.create_model("test_resnet", num_classes=0)
    load_backbone_weights(net, path)
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(tensor, TENSORS[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    "content",
    [
        {"iter": 3, "model_state_dict": prefixed("module."), "optimizer_state_dict": {}},  # DAN
        {"net": prefixed("module."), "acc": 70.0},  # FER.Pytorch
        {"epoch": 1, "state_dict": TENSORS, "best_acc": torch.tensor(0.7), "recorder": Recorder(),
         "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}},  # EfficientFace
        {"model": TENSORS, "args": argparse.Namespace(lr=0.1), "when": np.datetime64("2020")},
        {"state_dict": None, "state_dict_ema": TENSORS},
        {"model": {"state_dict": TENSORS}},
        {"weights": TENSORS, "best_acc": np.float64(0.7), "seen": np.arange(3)},  # the only dict
        collections.OrderedDict(TENSORS) | {"best_acc": np.float32(0.7), "epoch": 3},
        prefixed("module."),
        prefixed("_orig_mod."),
        prefixed("module.", "_orig_mod."),
        prefixed("_orig_mod.", "module."),
        prefixed("backbone."),
        prefixed("module.", "backbone.") | {"module.head.anchors": torch.ones(2)},
        {"state_dict": prefixed("model.", "backbone.", "_orig_mod.")},
    ],
)  # fmt: skip
@pytest.mark.parametrize("zipped", [True, False])
def test_the_one_dict_of_tensors_is_found_and_its_prefixes_removed(content, zipped, tmp_path):
    if not zipped and any(type(v) is Recorder for v in content.values()):
        content = {k: v for k, v in content.items() if type(v) is not Recorder}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    assert_loads(tmp_path / "w.pth")


def test_prefixes_go_from_safetensors_too(tmp_path):
    save_file(prefixed("model.", "backbone."), tmp_path / "w.safetensors")
    assert_loads(tmp_path / "w.safetensors")


def test_a_numpy_number_named_as_older_numpy_does(tmp_path):
    torch.save({"net": TENSORS, "best_acc": np.float64(0.7)}, tmp_path / "new.pth")
    content = (tmp_path / "new.pth").read_bytes()
    with (
        zipfile.ZipFile(tmp_path / "new.pth") as old,
        zipfile.ZipFile(tmp_path / "old.pth", "w") as new,
    ):
        for item in old.infolist():
            data = old.read(item).replace(b"cnumpy._core.multiarray", b"cnumpy.core.multiarray")
            new.writestr(item, data)
    assert b"numpy._core" in content
    assert b"numpy._core" not in (tmp_path / "old.pth").read_bytes()
    assert_loads(tmp_path / "old.pth")


def test_code_in_a_file_never_runs(tmp_path):
    torch.save({"net": TENSORS, "beside": Harmful()}, tmp_path / "w.pth")
    assert_loads(tmp_path / "w.pth")
    with (tmp_path / "w.pkl").open("wb") as file:
        pickle.dump(Harmful(), file)
    with pytest.raises(ValueError, match=r"cannot read weights from .*w\.pkl"):
        load_backbone_weights(SOURCE, tmp_path / "w.pkl")


def test_a_class_that_is_not_installed_here_is_no_obstacle(tmp_path):
    module = types.ModuleType("theirs")
    module.Meter = type("Meter", (), {"__module__": "theirs"})
    sys.modules["theirs"] = module
    try:
        torch.save({"net": TENSORS, "meter": module.Meter()}, tmp_path / "w.pth")
    finally:
        del sys.modules["theirs"]
    assert_loads(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"epoch": 3, "optimizer": {}}, "holds no dict of tensors .* it holds: epoch, optimizer"),
        ({"student": TENSORS, "teacher": TENSORS}, "it holds: student, teacher"),
        (SOURCE, "holds no dict of tensors"),
        ([1, 2], "it holds: list"),
        (torch.ones(3), "it holds: Tensor"),
    ],
)
def test_other_contents_get_one_line_that_can_be_followed(content, words, tmp_path):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=words) as error:
        load_backbone_weights(SOURCE, tmp_path / "w.pth")
    assert str(tmp_path / "w.pth") in str(error.value)
    assert "weights_only" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04garbage", b"\x80\x02}q\x00."])
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_file_that_is_no_weight_file_gets_one_line(content, name, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot read weights from .*w\.") as error:
        load_backbone_weights(SOURCE, tmp_path / name)
    assert "weights_only" not in str(error.value)
    assert "\n" not in str(error.value)
