"""`grefel convert`: names there and back, and what it refuses, in one line with nothing written."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from grefel_lib import backbone, cli
from grefel_lib.config import Config
from grefel_lib.convert import rename

CONFIG = Config(backbone="test_resnet", image_size=64, backbone_weights="none")
FOREIGN = {r"^layer(\d+)\.": r"body\1/", r"^fc\.": "logits."}
BACK = {r"^body(\d+)/": r"layer\1.", r"^logits\.": None}


def foreign_names(state):
    return {new: state[old] for old, new in rename(list(state), FOREIGN).items()}


def convert(tmp_path, *, rules=BACK, checkpoint="theirs.pth", output="ours.safetensors"):
    mapping = tmp_path / "keys.json"
    mapping.write_text(rules if isinstance(rules, str) else json.dumps(rules))
    return cli.main(
        ["convert", str(tmp_path / checkpoint), "--map", str(mapping),
         "--output", str(tmp_path / output)]
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["safetensors", "plain", "wrapped"])
def test_renamed_weights_come_back_and_score_the_same(tmp_path, capsys, kind):
    source = backbone.build(CONFIG, num_classes=5).eval()
    theirs = foreign_names(source.state_dict())
    checkpoint = "theirs.safetensors" if kind == "safetensors" else "theirs.pth"
    if kind == "safetensors":
        save_file(theirs, tmp_path / checkpoint)
    elif kind == "plain":
        torch.save(theirs, tmp_path / checkpoint)
    else:
        wrapped = {f"module.{name}": tensor for name, tensor in theirs.items()}
        torch.save({"state_dict": wrapped, "epoch": 3}, tmp_path / checkpoint)
    assert convert(tmp_path, checkpoint=checkpoint) == 0
    layers = sum(name.startswith("body") for name in theirs)
    told = f"{layers} renamed, {len(theirs) - layers - 2} kept, 2 dropped"
    assert told in capsys.readouterr().out
    ours = tmp_path / "ours.safetensors"
    assert load_file(ours).keys() == {n for n in source.state_dict() if not n.startswith("fc.")}
    loaded = backbone.build(CONFIG.replace(backbone_weights=str(ours))).eval()
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(
        loaded.forward_features(images), source.forward_features(images), rtol=0, atol=0
    )


def test_rules_apply_in_order_to_what_the_ones_before_made():
    rules = {"^a": "b", r"^b\.(\d)": r"c\1", "^old": None}
    assert rename(["a.1", "b.2", "old.a", "z"], rules) == {"a.1": "c1", "b.2": "c2", "z": "z"}


def test_tensors_that_share_memory_are_written_apart(tmp_path):
    shared = torch.arange(6.0).view(2, 3)
    torch.save({"a": shared, "b": shared, "c": shared.T}, tmp_path / "theirs.pth")
    assert convert(tmp_path, rules={"^a": "x"}) == 0
    written = load_file(tmp_path / "ours.safetensors")
    torch.testing.assert_close(written["x"], shared)
    torch.testing.assert_close(written["c"], shared.T)


REFUSED = {
    "collision": ({"rules": {r"^[ab]\.": "x."}}, "'a.w' and 'b.w' would both become 'x.w'"),
    "collision with a kept name": ({"rules": {"^a": "b"}}, "would both become 'b.w'"),
    "unmatched": ({"rules": {"^a": "x", "^layer": "y"}}, "'^layer' matches no name"),
    "unmatched drop": ({"rules": {"^fc": None}}, "'^fc' matches no name"),
    "nothing left": ({"rules": {".": None}}, "drop every tensor"),
    "bad pattern": ({"rules": {"(": "x"}}, "malformed"),
    "bad reference": ({"rules": {"^a": r"\2"}}, "malformed"),
    "bad JSON": ({"rules": "{'^a': 'x'}"}, "cannot read the mapping"),
    "a list": ({"rules": ["^a"]}, "must be a JSON object"),
    "a number": ({"rules": {"^a": 1}}, "must be a JSON object"),
    "no checkpoint": ({"checkpoint": "nowhere.pth"}, "no checkpoint at"),
    "garbage": ({"checkpoint": "garbage.pth"}, "cannot read weights from"),
    "garbage safetensors": ({"checkpoint": "garbage.safetensors"}, "cannot read weights from"),
    "code": ({"checkpoint": "code.pth"}, "cannot read weights from"),
    "no tensors": ({"checkpoint": "nested.pth"}, "'net' is a dict"),
    "empty": ({"checkpoint": "empty.pth"}, "holds no tensors"),
    "exists": ({"output": "taken.safetensors"}, "taken.safetensors exists"),
    "suffix": ({"output": "ours.pth"}, "must end in .safetensors"),
    "no folder": ({"output": "nowhere/ours.safetensors"}, "no folder"),
}


class Foreign:
    """An object that only unpickling could rebuild."""


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_line_and_writes_nothing(tmp_path, capsys, case):
    options, told = REFUSED[case]
    torch.save({"a.w": torch.ones(2), "b.w": torch.ones(3)}, tmp_path / "theirs.pth")
    torch.save({"a.w": Foreign()}, tmp_path / "code.pth")
    torch.save({"net": {"a.w": torch.ones(2)}}, tmp_path / "nested.pth")
    torch.save({}, tmp_path / "empty.pth")
    for name in ("garbage.pth", "garbage.safetensors", "taken.safetensors"):
        (tmp_path / name).write_bytes(b"not weights")
    before = {path.name for path in tmp_path.iterdir()} | {"keys.json"}
    assert convert(tmp_path, **{"rules": {"^a": "x"}} | options) == 1
    line = capsys.readouterr().err
    assert line.startswith("grefel convert: error: ")
    assert told in line
    assert line.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == before
    assert (tmp_path / "taken.safetensors").read_bytes() == b"not weights"
