"""The losses: worked cases, bounds, invariances."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from grefel_lib.config import Config
from grefel_lib.grefel import GReFELHead, Output, anchor_log_probs, to_sphere
from grefel_lib.losses import (
    anchor_loss,
    center_loss,
    classification_loss,
    reliability_loss,
    smooth_targets,
    total_loss,
)

B, C, K, D = 6, 4, 3, 8


def on_sphere(*shape):
    return to_sphere(torch.randn(*shape))


def test_classification_loss_by_hand():
    log_probs = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]]).log()
    targets = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]])
    by_hand = -(math.log(0.7) + 0.5 * math.log(0.1) + 0.5 * math.log(0.8)) / 2
    assert classification_loss(log_probs, targets).item() == pytest.approx(by_hand)


def test_smoothing_keeps_the_mass_and_spreads_the_share():
    smoothed = smooth_targets(torch.eye(C), 0.2)
    torch.testing.assert_close(smoothed.sum(1), torch.ones(C))
    assert smoothed[0, 0].item() == pytest.approx(0.8 + 0.2 / C)


def test_anchor_loss_is_zero_for_copies_and_never_below_its_bound():
    same = on_sphere(1, 1, D).expand(C, K, D).clone().requires_grad_()
    loss = anchor_loss(same)
    assert loss.item() == pytest.approx(0, abs=1e-6)
    loss.backward()
    assert torch.isfinite(same.grad).all()
    opposite = torch.stack([torch.ones(1, D), -torch.ones(1, D)])
    assert anchor_loss(opposite).item() == pytest.approx(-8, abs=1e-5)
    assert -8 <= anchor_loss(on_sphere(C, K, D)).item() <= 0


def test_anchor_loss_does_not_depend_on_the_scale():
    anchors = on_sphere(C, K, D)
    torch.testing.assert_close(anchor_loss(anchors), anchor_loss(anchors * 10))


@pytest.mark.parametrize("shape", [(3, 1, 2), (1, 3, 2)])
def test_anchor_loss_by_hand_counts_every_pair_of_any_class(shape):
    anchors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]).view(shape)
    by_hand = math.log((math.exp(-4) + math.exp(-8) + math.exp(-4)) / 3)
    assert anchor_loss(anchors).item() == pytest.approx(by_hand, abs=1e-6)


def test_a_single_anchor_has_nothing_to_leave():
    anchor = on_sphere(1, 1, D).requires_grad_()
    loss = anchor_loss(anchor)
    loss.backward()
    assert loss.item() == 0
    assert not anchor.grad.any()


def test_a_step_down_the_anchor_loss_drives_the_nearest_anchors_apart():
    anchors = torch.tensor([[[1.0, 0.1]], [[1.0, -0.1]], [[-1.0, 0.0]]]).requires_grad_()
    anchor_loss(anchors).backward()
    down = -anchors.grad[:, 0, 1]
    assert down[0] > 0.1  # up, away from the second
    assert down[1] < -0.1


def test_center_loss_by_hand_and_its_bounds():
    anchors = torch.tensor([[[1.0, 1.0], [1.0, -1.0]], [[-1.0, -1.0], [-1.0, 1.0]]])
    face = torch.tensor([[1.0, 1.0]])
    on_it = center_loss(face, anchors, torch.tensor([[1.0, 0.0]]))
    beside = center_loss(face, anchors, torch.tensor([[0.0, 1.0]]))
    assert on_it.item() == pytest.approx(0, abs=1e-6)
    assert beside.item() == pytest.approx(2.0)  # nearest of its anchors is 2 away, D is 2
    farthest = center_loss(face, -face[None], torch.ones(1, 1))
    assert farthest.item() == pytest.approx(4.0)
    two = center_loss(torch.cat([face, face]), anchors, torch.tensor([[1.0, 0.0], [0.25, 0.75]]))
    assert two.item() == pytest.approx((0 + 0.75 * 2) / 2)


def test_a_face_on_an_anchor_of_its_class_costs_nothing_in_any_batch():
    anchors = on_sphere(40, 1, 128)
    assert center_loss(anchors[:, 0], anchors, torch.eye(40)).item() == 0


def test_center_loss_pulls_a_face_to_its_nearest_anchor_and_no_other():
    anchors = torch.tensor(
        [[[1.0, 1.0], [-1.0, -1.0]], [[1.0, -1.0], [-1.0, 1.0]]]
    ).requires_grad_()
    face = torch.tensor([[1.2, 0.8]], requires_grad=True)
    center_loss(face, anchors, torch.tensor([[1.0, 0.0]])).backward()
    torch.testing.assert_close(face.grad, torch.tensor([[0.2, -0.2]]))  # 2 (e - a) / D
    torch.testing.assert_close(anchors.grad[0, 0], torch.tensor([-0.2, 0.2]))
    assert not anchors.grad[0, 1].any()
    assert not anchors.grad[1].any()


def test_reliability_loss_targets_the_share_of_the_predicted_class_and_nothing_else():
    log_probs = torch.tensor([[0.6, 0.4]]).log().requires_grad_()
    targets = torch.tensor([[0.3, 0.7]])
    logits = torch.tensor([0.4], requires_grad=True)
    reliability_loss(logits, log_probs, targets).backward()
    assert log_probs.grad is None
    assert logits.grad.item() == pytest.approx(1 / (1 + math.exp(-0.4)) - 0.3, abs=1e-6)


@pytest.mark.parametrize(("logit", "mass"), [(80.0, 1 + 1e-6), (-80.0, -1e-6)])
def test_a_rounding_error_of_the_target_gives_no_negative_reliability_loss(logit, mass):
    log_probs = torch.tensor([[0.6, 0.4]]).log()
    loss = reliability_loss(torch.tensor([logit]), log_probs, torch.tensor([[mass, 1 - mass]]))
    assert loss.item() >= 0


def all_parts():
    """An output with every part of the loss, its leaves, and targets."""
    leaves = {
        "p": torch.randn(B, C), "g": torch.randn(B, C), "t": torch.randn(B, C),
        "q": torch.randn(B, C), "embeddings": on_sphere(B, D), "anchors": on_sphere(C, K, D),
        "rel": torch.randn(B),
    }  # fmt: skip
    leaves = {name: leaf.requires_grad_() for name, leaf in leaves.items()}
    q, p, g, t = (leaves[name].log_softmax(dim=1) for name in "qpgt")
    output = Output(q, p, g, t, embeddings=leaves["embeddings"], anchors=leaves["anchors"],
                    reliability_logits=leaves["rel"])  # fmt: skip
    return output, leaves, torch.randn(B, C).softmax(dim=1)


def test_the_loss_is_the_weighted_sum_of_its_parts_by_hand():
    output, _, targets = all_parts()
    config = Config(
        label_smoothing=0.2, lambda_branch=2, lambda_anchor=3, lambda_center=5, lambda_rel=7
    )
    weights = torch.tensor([0.5, 1.0, 2.0, 4.0])
    y = (0.8 * targets + 0.2 / C) * (targets * weights).sum(dim=1, keepdim=True)

    def cross_entropy(log_probs):
        return -(y * log_probs).sum() / B

    branches = (output.primary_log_probs, output.geometric_log_probs, output.attentive_log_probs)
    by_hand = {
        "cls": cross_entropy(output.log_probs),
        "branch": sum(map(cross_entropy, branches)) / 3,
        "anchor": anchor_loss(output.anchors),
        # these two see the targets themselves
        "center": center_loss(output.embeddings, output.anchors, targets),
        "rel": reliability_loss(output.reliability_logits, output.log_probs, targets),
    }
    by_hand["loss"] = sum(
        factor * by_hand[name]
        for name, factor in (("cls", 1), ("branch", 2), ("anchor", 3), ("center", 5), ("rel", 7))
    )
    parts = total_loss(output, targets, config, weights)
    assert parts.keys() == by_hand.keys()
    for name, value in by_hand.items():
        torch.testing.assert_close(parts[name], value, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize(
    ("off", "leaf"),
    [("branch", "p"), ("branch", "g"), ("branch", "t"), ("rel", "rel"), ("anchor", "anchors"),
     ("center", "embeddings")],
)  # fmt: skip
def test_a_part_with_weight_zero_has_no_gradient(off, leaf):
    alone = {f"lambda_{name}": 0 for name in ("branch", "rel", "anchor", "center")}
    for weight in (0, 1):
        output, leaves, targets = all_parts()
        total_loss(output, targets, Config(**alone | {f"lambda_{off}": weight}))["loss"].backward()
        assert (leaves[leaf].grad is None) == (weight == 0)


def test_an_output_without_branches_has_the_classification_loss_alone():
    log_probs = torch.randn(B, C).log_softmax(1)
    for output in (Output(log_probs), Output(log_probs, log_probs)):  # linear; correction "none"
        assert total_loss(output, torch.eye(C)[[0, 1, 2, 3, 0, 1]], Config()).keys() == {
            "loss", "cls"
        }  # fmt: skip


def test_a_part_with_weight_zero_is_reported_but_not_added():
    config = Config(lambda_anchor=0, lambda_center=0, lambda_branch=0, lambda_rel=0)
    output = GReFELHead(D, token_width=D, num_classes=C, embedding_dim=D)(
        torch.randn(B, D), torch.randn(B, 2, D)
    )
    parts = total_loss(output, torch.eye(C)[[0, 1, 2, 3, 0, 1]], config)
    torch.testing.assert_close(parts["loss"], parts["cls"])
    assert parts["anchor"] < 0 < parts["center"]


def test_class_weights_scale_each_class():
    log_probs = torch.randn(C, C).log_softmax(1)
    output = Output(log_probs)
    config = Config(label_smoothing=0)
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0])
    by_hand = -(log_probs.diagonal() * weights).mean()
    torch.testing.assert_close(total_loss(output, torch.eye(C), config, weights)["loss"], by_hand)


def test_class_weights_leave_the_best_answer_to_a_face_as_it_is():
    targets = torch.tensor([[0.9, 0.1, 0.0, 0.0], [0.0, 0.6, 0.3, 0.1]])
    weights, config = torch.tensor([0.4, 0.5, 5.0, 27.0]), Config(label_smoothing=0.11)
    logits = torch.zeros(2, C, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-9)

    def cost():
        optimizer.zero_grad()
        loss = total_loss(Output(logits.log_softmax(1)), targets, config, weights)["loss"]
        loss.backward()
        return loss

    optimizer.step(cost)
    torch.testing.assert_close(logits.softmax(1), smooth_targets(targets, 0.11), atol=1e-3, rtol=0)
    by_hand = [0.9 * 0.4 + 0.1 * 0.5, 0.6 * 0.5 + 0.3 * 5 + 0.1 * 27]  # what each face counts
    uniform = total_loss(Output(torch.full((2, C), 1 / C).log()), targets, config, weights)
    assert uniform["loss"].item() == pytest.approx(math.log(C) * sum(by_hand) / 2)


def test_logit_adjustment_asks_more_of_a_rare_class():
    config = Config(label_smoothing=0, class_weights="logit_adjusted")
    logits = torch.randn(C, C)
    shares = torch.tensor([0.7, 0.2, 0.1, 0.0])
    found = total_loss(Output(logits.log_softmax(1)), torch.eye(C), config, shares)["loss"]
    # softmax(z + log prior) = prior_c e^z_c / sum_k prior_k e^z_k, worked without logarithms
    mass = logits.exp() * shares.clamp(min=1e-6)
    torch.testing.assert_close(found, -(mass / mass.sum(1, keepdim=True)).diagonal().log().mean())
    undecided = Output(torch.full((2, C), 1 / C).log())
    costs = [
        total_loss(undecided, torch.eye(C)[[c, c]], config, shares)["loss"].item() for c in (0, 2)
    ]
    assert costs == pytest.approx([-math.log(0.7), -math.log(0.1)], rel=1e-5)  # its share


class _Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation made, backward included."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **kwargs or {})
        for value in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(value, torch.Tensor):
                self.size = max(self.size, value.numel())
        return made


def test_anchors_need_memory_for_distances_but_not_for_differences():
    """O(B C K), never O(B C K D): with K anchors of D numbers the latter would be D times more."""
    batch, classes, per_class, width = 32, 6, 16, 48
    embeddings = on_sphere(batch, width).requires_grad_()
    anchors = on_sphere(classes, per_class, width).requires_grad_()
    targets = torch.rand(batch, classes).softmax(1)
    with _Largest() as largest:
        log_probs = anchor_log_probs(embeddings, anchors)
        loss = classification_loss(log_probs, targets)
        (loss + center_loss(embeddings, anchors, targets)).backward()
    assert embeddings.grad is not None
    assert batch * classes * per_class <= largest.size < batch * classes * per_class * width / 8
