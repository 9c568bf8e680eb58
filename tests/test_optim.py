"""What an update needs: schedule, groups, class weights, order of the faces; and its state."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from grefel_lib.config import Config
from grefel_lib.faces import FaceSet
from grefel_lib.grefel import Output, build_model
from grefel_lib.losses import total_loss
from grefel_lib.optim import (
    class_weights,
    epoch_batches,
    lr_factor,
    no_progress,
    parameter_groups,
    restore_training_state,
    training_state,
)


def test_the_learning_rate_warms_up_linearly_and_ends_near_zero():
    factors = [lr_factor(update, 100, 10) for update in range(100)]
    np.testing.assert_allclose(factors[:10], np.arange(1, 11) / 11)
    assert factors[10] == 1
    assert factors[55] == pytest.approx(0.5)
    assert factors[25] == pytest.approx((1 + math.cos(math.pi / 6)) / 2)
    assert 0 < factors[99] < 1e-3
    assert np.all(np.diff(factors[10:]) < 0)
    assert lr_factor(0, 1, 0) == 1


def test_a_run_that_is_all_warm_up_may_go_on_a_little():
    assert lr_factor(20, 20, 20) == 1
    assert lr_factor(21, 20, 20) == pytest.approx(0)


def test_norms_biases_and_anchors_are_not_decayed():
    config = Config(backbone="test_vit", image_size=64, backbone_weights="none", weight_decay=0.1,
                    backbone_lr_scale=0.25)  # fmt: skip
    net = build_model(config, 5)
    groups = parameter_groups(net, config)
    found = {id(p): group for group in groups for p in group["params"]}
    assert len(found) == len(list(net.parameters()))
    for name, parameter in net.named_parameters():
        group = found[id(parameter)]
        spared = parameter.ndim < 2 or name in (
            "head.anchors", "backbone.pos_embed", "backbone.cls_token")  # fmt: skip
        assert group["weight_decay"] == (0 if spared else 0.1), name
        assert group["scale"] == (0.25 if name.startswith("backbone.") else 1.0), name


def test_the_learning_rate_of_the_backbone_scales_with_a_linear_head_too():
    config = Config(backbone="test_resnet", image_size=48, backbone_weights="none",
                    head="linear", backbone_lr_scale=0.1)  # fmt: skip
    net = build_model(config, 8)
    groups = parameter_groups(net, config)
    scales = {id(p): group["scale"] for group in groups for p in group["params"]}
    classifier = net.classifier_names()
    assert len(classifier) == 2
    for name, parameter in net.named_parameters():
        assert scales[id(parameter)] == (1.0 if name in classifier else 0.1), name


def test_a_network_of_ones_own_needs_no_list_of_names():
    net = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    config = Config(weight_decay=0.1, backbone_lr_scale=0.5)
    decayed, spared = parameter_groups(net, config)
    assert [tuple(p.shape) for p in decayed["params"]] == [(4, 3)]
    assert [tuple(p.shape) for p in spared["params"]] == [(4,), (4,), (4,)]
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0)
    assert decayed["scale"] == spared["scale"] == 1


def labelled(counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    return FaceSet(
        images=np.zeros((len(labels), 4, 4), np.uint8),
        table=pd.DataFrame({"label": labels, "row": np.arange(len(labels))}),
        targets=np.eye(len(counts), dtype=np.float32)[labels],
        class_names=tuple("abcdefgh"[: len(counts)]),
        info={},
    )


def test_class_weights_by_hand_have_mean_one_over_the_faces():
    faces = labelled([6, 2, 0, 1])  # nine faces of three classes
    weights = class_weights(faces, Config(class_weights="balanced"))
    assert weights.dtype == torch.float32
    assert weights.tolist() == pytest.approx([9 / 18, 9 / 6, 0, 9 / 3])
    assert weights[torch.tensor(faces.table["label"].to_numpy())].mean().item() == pytest.approx(1)


def test_classes_that_sampling_has_made_equal_have_equal_weights():
    config = Config(class_weights="balanced", balanced_sampling=3)
    assert class_weights(labelled([6, 2, 0, 1]), config).tolist() == [1, 1, 0, 1]


def test_the_last_class_may_be_absent():
    assert class_weights(labelled([2, 2, 0]), Config(class_weights="balanced")).tolist() == [
        1,
        1,
        0,
    ]


@pytest.mark.parametrize(("accuracies", "averages", "patience", "stop"), [
    ([0.5, 0.6, 0.6, 0.5], [0, 0, 0, 0], 2, True),  # an equal one is no better one
    ([0.5, 0.6, 0.6, 0.5], [0, 0, 0, 0], 3, False),
    ([0.5, 0.6, 0.6, 0.5], [0, 0, 0, 0.7], 2, False),  # either set of weights counts
    ([0, 0, 0], [0.9, 0.1, 0.2], 2, True),
    ([0.9, 0.1, 0.2], [0, 0, 0], 0, False),  # never
    ([0.5], [0.5], 1, False),
    ([0.5, 0.5], [0.5, 0.5], 1, True),
])  # fmt: skip
def test_progress_is_a_better_validation_accuracy_of_either_weights(
    accuracies, averages, patience, stop
):
    history = [
        {"val_accuracy": a, "ema_val_accuracy": b}
        for a, b in zip(accuracies, averages, strict=True)
    ]
    assert no_progress(history, patience) is stop


def test_every_face_comes_once_an_epoch_in_a_new_order():
    faces = labelled([30, 7])
    batches = epoch_batches(faces, Config(batch_size=8))
    assert [len(batch) for batch in batches] == [8, 8, 8, 8, 5]
    first, second = np.concatenate(batches), np.concatenate(epoch_batches(faces, Config()))
    assert sorted(first) == sorted(second) == list(range(37))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(("faces", "sizes"), [(16, [8, 8]), (17, [8, 8]), (18, [8, 8, 2])])
def test_a_last_batch_of_one_face_is_left_out(faces, sizes):
    batches = epoch_batches(labelled([faces]), Config(batch_size=8))
    assert [len(batch) for batch in batches] == sizes


def test_balanced_sampling_draws_as_many_of_each_class():
    faces = labelled([30, 7, 2, 0, 5])
    labels = faces.table["label"].to_numpy()
    config = Config(balanced_sampling=10, batch_size=8)
    drawn = np.concatenate(epoch_batches(faces, config))
    assert np.bincount(labels[drawn]).tolist() == [10, 10, 10, 0, 10]
    times = np.bincount(drawn, minlength=len(labels))
    assert set(times[labels == 0]) == {0, 1}  # no face again while others wait
    assert set(times[labels == 1]) == {1, 2}
    assert set(times[labels == 2]) == {5}
    assert set(times[labels == 4]) == {2}


def test_balanced_sampling_mixes_the_classes_and_draws_anew():
    faces = labelled([40, 40])
    config = Config(balanced_sampling=32, batch_size=32)
    labels = faces.table["label"].to_numpy()
    first, second = epoch_batches(faces, config), epoch_batches(faces, config)
    for batch in (*first, *second):
        assert 4 < labels[batch].sum() < 28
    assert set(np.concatenate(first)) != set(np.concatenate(second))


# -- the state


class Two(nn.Module):
    """Two layers, of which the second takes no part, and a buffer."""

    def __init__(self):
        super().__init__()
        self.used, self.idle = nn.Linear(3, 2), nn.Linear(3, 2)
        self.register_buffer("count", torch.zeros(1))


def trained(steps, seed=0):
    torch.manual_seed(seed)
    net, ema = Two(), Two()
    optimizer = torch.optim.AdamW(parameter_groups(net, Config()), lr=0.1)
    for _ in range(steps):
        step(net, optimizer)
    return net, ema, optimizer


def step(net, optimizer):
    optimizer.zero_grad()
    net.used(torch.tensor([[1.0, -2.0, 0.5]])).square().sum().backward()
    optimizer.step()
    net.count += 1


def test_the_state_has_a_name_for_all_that_changes():
    net, ema, optimizer = trained(2)
    tensors = training_state(net, ema, optimizer)
    layers = {f"{layer}.{part}" for layer in ("used", "idle") for part in ("weight", "bias")}
    moments = {f"used.{part}/{m}" for part in ("weight", "bias")
               for m in ("step", "exp_avg", "exp_avg_sq")}  # fmt: skip
    assert tensors.keys() == (
        {f"{who}/{name}" for who in ("model", "ema") for name in (*layers, "count")}
        | {f"optimizer/{name}" for name in moments}
    )
    assert torch.equal(tensors["model/used.weight"], net.used.weight)
    assert torch.equal(tensors["ema/used.weight"], ema.used.weight)
    assert tensors["optimizer/used.weight/step"] == 2
    moment = optimizer.state[net.used.bias]["exp_avg_sq"]
    assert torch.equal(tensors["optimizer/used.bias/exp_avg_sq"], moment)


def test_a_restored_training_goes_on_as_if_it_had_never_stopped():
    straight, average, optimizer = trained(3)
    stored = {k: v.clone() for k, v in training_state(straight, average, optimizer).items()}
    net, ema, again = trained(1, seed=1)
    restore_training_state(stored, net, ema, again)
    for mine, theirs in ((net, straight), (ema, average)):
        for name, value in theirs.state_dict().items():
            assert torch.equal(mine.state_dict()[name], value), name
    before = {name: value.clone() for name, value in stored.items()}
    for _ in range(2):
        step(net, again)
        step(straight, optimizer)
        assert torch.equal(net.used.weight, straight.used.weight)
    assert net.count == straight.count == 5
    for name, value in before.items():  # what was read stays as it was read
        assert torch.equal(stored[name], value), name
    assert net.idle.weight not in again.state


def test_moments_get_the_kind_of_their_parameter_and_the_count_of_steps_keeps_its_own():
    straight, average, optimizer = trained(3)
    stored = training_state(straight, average, optimizer)
    net, ema, again = trained(0)
    net.double()  # as if on another device
    restore_training_state(stored, net, ema, again)
    state = again.state[net.used.weight]
    assert {key: value.dtype for key, value in state.items()} == {
        "step": torch.float32, "exp_avg": torch.float64, "exp_avg_sq": torch.float64,
    }  # fmt: skip
    assert state["step"] == 3
    torch.testing.assert_close(
        state["exp_avg"], optimizer.state[straight.used.weight]["exp_avg"].double()
    )


def test_logit_adjustment_takes_the_classes_shares_of_the_targets_and_none_takes_nothing():
    adjusted = Config(class_weights="logit_adjusted", label_smoothing=0)
    faces = labelled([6, 2, 0])
    assert class_weights(faces, adjusted).tolist() == [0.75, 0.25, 0]
    assert class_weights(faces, Config()) is None
    smooth = class_weights(faces, adjusted.replace(label_smoothing=0.3))
    assert smooth.tolist() == pytest.approx([0.7 * 0.75 + 0.1, 0.7 * 0.25 + 0.1, 0.1])
    voted = np.float32([[0.8, 0, 0.2]] * 6 + [[0.1, 0.9, 0]] * 2)  # the third class has votes
    faces = dataclasses.replace(faces, targets=voted)
    assert class_weights(faces, adjusted).tolist() == pytest.approx([0.625, 0.225, 0.15])
    equal = class_weights(faces, adjusted.replace(balanced_sampling=4))  # as often of each class
    assert equal.tolist() == pytest.approx([0.45, 0.45, 0.1])


def test_logit_adjustment_undoes_the_imbalance_of_soft_smoothed_targets():
    """A model that knows nothing but the mean of the targets finds all classes equal."""
    faces = labelled([60, 30, 10])
    config = Config(class_weights="logit_adjusted", label_smoothing=0.2, head="linear")
    votes = np.float32([[0.7, 0.2, 0.1], [0.3, 0.6, 0.1], [0.3, 0.2, 0.5]])
    faces = dataclasses.replace(faces, targets=votes[faces.table["label"]])
    logits = torch.zeros(3, requires_grad=True)
    descent = torch.optim.LBFGS([logits], max_iter=100)

    def loss():
        descent.zero_grad()
        output = Output(logits.expand(100, 3).log_softmax(1))
        shares = class_weights(faces, config)
        value = total_loss(output, torch.from_numpy(faces.targets), config, shares)["loss"]
        value.backward()
        return value

    descent.step(loss)
    torch.testing.assert_close(logits.softmax(0), torch.full((3,), 1 / 3), atol=1e-3, rtol=0)
