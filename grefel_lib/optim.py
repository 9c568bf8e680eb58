"""Everything around an update: learning rate, parameter groups, class weights, order, state."""

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from grefel_lib.config import Config
from grefel_lib.faces import FaceSet
from grefel_lib.files import under_prefix
from grefel_lib.losses import smooth_targets


def lr_factor(update: int, updates: int, warmup: int) -> float:
    """Learning-rate multiplier at an update: linear warm-up, then cosine decay to 0.

    Args:
        update: Index of the update, from 0.
        updates: Total number of updates in the run.
        warmup: Number of warm-up updates.
    """
    if update < warmup:
        return (update + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (update - warmup) / max(1, updates - warmup)))


def parameter_groups(net: nn.Module, config: Config) -> list[dict]:
    """AdamW groups: no decay on norms, biases, anchors and the backbone's own exceptions."""
    spared = getattr(net, "no_weight_decay", set)()
    classifier = getattr(net, "classifier_names", set)()
    groups: dict[tuple[bool, bool], dict] = {}
    for name, parameter in net.named_parameters():
        decay = parameter.ndim > 1 and name not in spared
        in_backbone = name.startswith("backbone.") and name not in classifier
        scale = config.backbone_lr_scale if in_backbone else 1.0
        group = groups.setdefault(
            (decay, in_backbone),
            {"params": [], "weight_decay": config.weight_decay * decay, "scale": scale},
        )
        group["params"].append(parameter)
    return list(groups.values())


def class_weights(faces: FaceSet, config: Config) -> Tensor | None:
    """(C,) the class factors that `losses.total_loss` needs; None without weights.

    With `balanced`, weights inverse to the class share in an epoch, mean 1 over its faces and 0 for
    absent classes; with `logit_adjusted`, the mean of the targets that an epoch trains on, after
    label smoothing, which with votes can give a rare class far more than its share of the labels.
    """
    if config.class_weights == "none":
        return None
    counts = np.bincount(faces.table["label"], minlength=len(faces.class_names))
    if config.class_weights == "logit_adjusted":
        often = 1 / counts[faces.table["label"]] if config.balanced_sampling else None
        targets = torch.from_numpy(np.average(faces.targets, axis=0, weights=often)).float()
        return smooth_targets(targets[None], config.label_smoothing)[0]
    present = counts > 0
    weights = present.astype(float)
    if not config.balanced_sampling:  # which has made the classes equal
        weights[present] = len(faces) / (present.sum() * counts[present])
    return torch.tensor(weights, dtype=torch.float32)


def no_progress(history: list[dict], patience: int) -> bool:
    """Whether the last `patience` epochs did not improve validation accuracy; 0: never."""
    if not patience or not history:
        return False
    scores = [max(row["val_accuracy"], row["ema_val_accuracy"]) for row in history]
    return len(scores) - 1 - int(np.argmax(scores)) >= patience


def epoch_batches(faces: FaceSet, config: Config) -> list[np.ndarray]:
    """Shuffled index batches; a short last batch is kept unless it is a single face."""
    if config.balanced_sampling:
        labels = faces.table["label"].to_numpy()
        picks = []
        for label in np.unique(labels):
            members = torch.from_numpy(np.flatnonzero(labels == label))
            count = config.balanced_sampling
            rounds = -(-count // len(members))
            order = torch.cat([torch.randperm(len(members)) for _ in range(rounds)])
            picks.append(members[order[:count]])
        pool = torch.cat(picks)
        order = pool[torch.randperm(len(pool))].numpy()
    else:
        order = torch.randperm(len(faces)).numpy()
    chunks = [order[i : i + config.batch_size] for i in range(0, len(order), config.batch_size)]
    return [chunk for chunk in chunks if len(chunk) > 1]  # batch norm needs two


def training_state(net: nn.Module, ema: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Everything needed to resume training as if it had never stopped, by name.

    Args:
        net: The model.
        ema: The moving average of its weights.
        optimizer: Of the model's parameters.

    Returns:
        model/<name>, ema/<name> and optimizer/<parameter>/<moment>.
    """
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    tensors = {f"model/{k}": v for k, v in net.state_dict().items()}
    tensors |= {f"ema/{k}": v for k, v in ema.state_dict().items()}
    return tensors | {
        f"optimizer/{names[id(parameter)]}/{key}": value
        for group in optimizer.param_groups
        for parameter in group["params"]
        for key, value in optimizer.state[parameter].items()
    }


def restore_training_state(
    tensors: dict[str, Tensor], net: nn.Module, ema: nn.Module, optimizer: Optimizer
) -> None:
    """Restore, in place, what `training_state` returned."""
    net.load_state_dict(under_prefix(tensors, "model/"))
    ema.load_state_dict(under_prefix(tensors, "ema/"))
    for name, parameter in net.named_parameters():
        moments = under_prefix(tensors, f"optimizer/{name}/")
        if moments:  # none for a parameter that never had a gradient
            optimizer.state[parameter] = {
                key: value.clone() if key == "step" else value.to(parameter, copy=True)
                for key, value in moments.items()
            }
