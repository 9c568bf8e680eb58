"""What one update needs: parameter groups, learning rate, class weights, order of the faces."""

import math

import numpy as np
import torch
from torch import Tensor

from grefel_lib.config import Config
from grefel_lib.datasets import FaceSet
from grefel_lib.model import GReFEL


def lr_factor(update: int, updates: int, warmup: int) -> float:
    """Share of the learning rate at an update: linear warm-up, then cosine to 0.

    Args:
        update: Number of the update, from 0.
        updates: How many there are in the whole run.
        warmup: How many of them warm up.
    """
    if update < warmup:
        return (update + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (update - warmup) / max(1, updates - warmup)))


def parameter_groups(net: GReFEL, config: Config) -> list[dict]:
    """AdamW groups: no decay on norms, biases, anchors and the backbone's own exceptions."""
    spared = net.no_weight_decay()
    groups: dict[tuple[bool, bool], dict] = {}
    for name, parameter in net.named_parameters():
        decay = parameter.ndim > 1 and name not in spared
        in_backbone = name.startswith("backbone.") and net.head is not None
        scale = config.backbone_lr_scale if in_backbone else 1.0
        group = groups.setdefault(
            (decay, in_backbone),
            {"params": [], "weight_decay": config.weight_decay * decay, "scale": scale},
        )
        group["params"].append(parameter)
    return list(groups.values())


def class_weights(faces: FaceSet) -> Tensor:
    """(C,) weights inverse to the class share, mean 1 over the faces; 0 for absent classes."""
    counts = np.bincount(faces.table["label"], minlength=len(faces.class_names))
    present = counts > 0
    weights = np.zeros(len(counts))
    weights[present] = len(faces) / (present.sum() * counts[present])
    return torch.tensor(weights, dtype=torch.float32)


def stale(history: list[dict], patience: int) -> bool:
    """Whether no epoch of the last `patience` brought a better validation accuracy; 0: never."""
    if not patience:
        return False
    scores = [max(row["val_accuracy"], row["ema_val_accuracy"]) for row in history]
    return len(scores) - 1 - int(np.argmax(scores)) >= patience


def epoch_batches(faces: FaceSet, config: Config) -> list[np.ndarray]:
    """Shuffled batches of indices; the last short one is kept unless it is a single face."""
    if config.balanced_sampling:
        labels = faces.table["label"].to_numpy()
        picks = []
        for label in np.unique(labels):
            mine = torch.from_numpy(np.flatnonzero(labels == label))
            count = config.balanced_sampling
            order = torch.cat([torch.randperm(len(mine)) for _ in range(-(-count // len(mine)))])
            picks.append(mine[order[:count]])
        pool = torch.cat(picks)
        order = pool[torch.randperm(len(pool))].numpy()
    else:
        order = torch.randperm(len(faces)).numpy()
    chunks = [order[i : i + config.batch_size] for i in range(0, len(order), config.batch_size)]
    return [chunk for chunk in chunks if len(chunk) > 1]  # batch norm needs two
