"""GReFEL's losses: pure functions of tensors; every reduction is documented."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from grefel_lib.config import Config
from grefel_lib.grefel import Output, anchor_distances


def smooth_targets(targets: Tensor, label_smoothing: float) -> Tensor:
    """Mix targets with the uniform distribution: (1 - s) y + s / C.

    Args:
        targets: (B, C) distributions.
        label_smoothing: s, the share spread uniformly over all classes.

    Returns:
        (B, C) distributions.
    """
    return targets * (1 - label_smoothing) + label_smoothing / targets.shape[1]


def classification_loss(log_probs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy with soft targets, mean over the batch.

    Args:
        log_probs: (B, C) log-probabilities.
        targets: (B, C) distributions, times the weight of each face.

    Returns:
        Scalar: -mean_b sum_c y_bc log q_bc.

    Source: GReFEL, classification loss; worked by hand in notebook 02.
    """
    return -(targets * log_probs).sum(dim=1).mean()


def anchor_loss(anchors: Tensor) -> Tensor:
    """Push anchors apart on their sphere; coinciding anchors cost most.

    log mean over all pairs of exp(-2 ||u_i - u_j||^2), u = a / R: 0 when all anchors coincide,
    never below -8.

    Args:
        anchors: (C, K, D), all with the same norm R > 0.

    Returns:
        Scalar in [-8, 0]; 0 for a single anchor.

    Source: ours, replacing the paper's negative sum of squared distances, which is unbounded.
    """
    points = F.normalize(anchors.flatten(0, 1), dim=1)  # (CK, D)
    if len(points) < 2:
        return points.sum() * 0
    squared = torch.pdist(points).square()  # (CK(CK-1)/2,)
    return torch.logsumexp(-2 * squared, dim=0) - math.log(len(squared))


def center_loss(embeddings: Tensor, anchors: Tensor, targets: Tensor) -> Tensor:
    """Pull each face to the nearest anchor of its classes, weighted by the target mass.

    mean_b sum_c y_bc min_k ||e_b - a_ck||^2 / D; unsmoothed targets, no confidence weighting.

    Args:
        embeddings: (B, D) on the sphere of radius sqrt(D).
        anchors: (C, K, D) on the same sphere.
        targets: (B, C) distributions.

    Returns:
        Scalar in [0, 4].

    Source: GReFEL, center loss.
    """
    distance = anchor_distances(embeddings, anchors)
    nearest = distance.min(dim=2).values.square() / anchors.shape[2]  # (B, C)
    return (targets * nearest).sum(dim=1).mean()


def reliability_loss(reliability_logits: Tensor, log_probs: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy between reliability and the target mass of the predicted class.

    Args:
        reliability_logits: (B,).
        log_probs: (B, C) corrected log-probabilities; only their argmax is used.
        targets: (B, C) distributions, unsmoothed.

    Returns:
        Scalar, mean over the batch. No gradient reaches `log_probs` or `targets`.

    Source: ours.
    """
    predicted = log_probs.detach().argmax(dim=1, keepdim=True)
    agreed = targets.detach().gather(1, predicted).squeeze(1).clamp(0, 1)
    return F.binary_cross_entropy_with_logits(reliability_logits, agreed)


def total_loss(
    output: Output, targets: Tensor, config: Config, class_weights: Tensor | None = None
) -> dict[str, Tensor]:
    """All parts of the loss and their weighted sum.

    Args:
        output: The model's output for the batch.
        targets: (B, C) distributions after mixing (y0).
        config: Holds the lambdas and the label smoothing.
        class_weights: (C,) weights; each face counts as the mean weight of its target, which stays
            as it is (weighting the smoothed classes one by one would teach a rare class on every
            face). With `logit_adjusted`, each class's share of the training targets, whose
            logarithm is added to every logit (Menon et al. 2021, Long-Tail Learning via Logit
            Adjustment). None: no weights. See `optim.class_weights`.

    Returns:
        Scalars by name: loss (the weighted sum), and the unweighted parts cls, branch, anchor,
        center, rel, where the model has them.
    """
    y = smooth_targets(targets, config.label_smoothing)
    shift = None
    if class_weights is not None and config.class_weights == "logit_adjusted":
        shift = class_weights.clamp(min=1e-6).log()
    elif class_weights is not None:
        y = y * (targets @ class_weights)[:, None]

    def cross_entropy(log_probs: Tensor) -> Tensor:
        if shift is not None:
            log_probs = F.log_softmax(log_probs + shift, dim=1)
        return classification_loss(log_probs, y)

    parts = {"cls": cross_entropy(output.log_probs)}
    branches = [b for b in output.branch_log_probs() if b is not output.log_probs]
    if branches:
        parts["branch"] = torch.stack([cross_entropy(b) for b in branches]).mean()
    if output.anchors is not None:
        parts["anchor"] = anchor_loss(output.anchors)
        parts["center"] = center_loss(output.embeddings, output.anchors, targets)
    if output.reliability_logits is not None:
        parts["rel"] = reliability_loss(output.reliability_logits, output.log_probs, targets)
    weights = {name: getattr(config, f"lambda_{name}", 1.0) for name in parts}  # cls has none
    # a part with weight 0 is logged but contributes no gradient
    loss = sum(weights[name] * part for name, part in parts.items() if weights[name] > 0)
    return {"loss": loss, **parts}
