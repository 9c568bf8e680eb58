"""A training that starts from another run's weights, where the classes differ."""

import numpy as np
import pytest
import torch

from grefel_lib.config import Config
from grefel_lib.files import save_checkpoint
from grefel_lib.grefel import build_model
from grefel_lib.labels import BASIC, COMPOUND, EMOTIONS
from grefel_lib.restore import load_model, start_from

GREFEL = Config(backbone="test_resnet", backbone_weights="none", image_size=48, num_anchors=2)
HEADS = {
    "grefel": (GREFEL, ("head.primary.0.weight", "head.attentive.bias", "head.anchors")),
    "mlp": (GREFEL.replace(primary="mlp"), ("head.primary.3.weight", "head.primary.3.bias")),
    "linear": (GREFEL.replace(head="linear"), ("backbone.fc.weight", "backbone.fc.bias")),
}


def started(folder, config, theirs, ours):
    """What a model of some classes holds before and after it starts from one of others."""
    parent = build_model(config, len(theirs))
    for parameter in parent.parameters():
        torch.nn.init.normal_(parameter)
    path = save_checkpoint(folder / "a", parent.state_dict(), {"class_names": theirs})
    net, said = build_model(config, len(ours)), []
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    start_from(net, path, ours, say=said.append)
    return parent.state_dict(), before, net.state_dict(), "\n".join(said)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (EMOTIONS, BASIC),  # seven of eight
        (BASIC, EMOTIONS),  # a class more
        (EMOTIONS, EMOTIONS[::-1]),  # the same in another order
        (BASIC, ("contempt", *BASIC[1:])),  # as many, one of them another
        (BASIC, COMPOUND[:7]),  # none
    ],
)
def test_a_class_known_by_name_keeps_its_rows_and_the_others_start_fresh(
    tmp_path, head, theirs, ours
):
    config, layers = HEADS[head]
    parent, before, after, said = started(tmp_path, config, theirs, ours)
    for layer in layers:
        for row, name in enumerate(ours):
            wanted = parent[layer][theirs.index(name)] if name in theirs else before[layer][row]
            assert torch.equal(after[layer][row], wanted), (layer, name)
    same_size = [name for name in after if after[name].shape == parent[name].shape]
    if len(theirs) != len(ours):
        assert len(same_size) > 20
        assert all(torch.equal(after[name], parent[name]) for name in same_size)
    kept = ", ".join(name for name in ours if name in theirs) or "none"
    fresh = ", ".join(name for name in ours if name not in theirs) or "none"
    assert f"class layers kept for {kept}; reinitialised for {fresh}" in said


def test_the_same_classes_are_loaded_without_a_word(tmp_path):
    parent, _, after, said = started(tmp_path, GREFEL, EMOTIONS, EMOTIONS)
    assert said == ""
    assert all(torch.equal(after[name], tensor) for name, tensor in parent.items())


def test_another_size_is_refused_whatever_the_classes(tmp_path):
    parent = build_model(GREFEL, 8)
    path = save_checkpoint(tmp_path / "a", parent.state_dict(), {"class_names": EMOTIONS})
    net = build_model(GREFEL.replace(num_anchors=3), 7)
    with pytest.raises(ValueError, match=r"does not fit the model \(1 tensors, first head.anchors"):
        start_from(net, path, BASIC, say=print)


def test_a_loaded_model_trusts_its_correction_as_far_as_it_did_when_it_was_saved(tmp_path):
    config = GREFEL.replace(correction="trust")
    facts = {"config": config.to_dict(), "class_names": BASIC, "trust": 0.25}
    path = save_checkpoint(tmp_path / "a", build_model(config, 7).state_dict(), facts)
    with torch.inference_mode():
        output = load_model(path, device="cpu").model(torch.randn(4, 3, 48, 48))
    p, r = output.primary_log_probs.exp().numpy(), output.correction_log_probs.exp().numpy()
    share = 0.25 * -(p * np.log(p)).sum(axis=1, keepdims=True) / np.log(7)
    assert np.abs(p - r).max() > 0.05
    np.testing.assert_allclose(output.class_probs, (1 - share) * p + share * r, atol=1e-6)
