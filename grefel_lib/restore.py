"""A checkpoint in, a model out; and a training that starts from another run's weights."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from grefel_lib.config import WITHOUT_WEIGHTS, Config
from grefel_lib.environment import pick_device
from grefel_lib.files import load_checkpoint, under_prefix
from grefel_lib.grefel import GReFEL, build_model
from grefel_lib.run import Run


@dataclass(frozen=True)
class Trained:
    """A model read from a checkpoint, and what was saved with it."""

    model: GReFEL
    config: Config
    class_names: tuple[str, ...]
    facts: dict  # epoch, val_accuracy, ...
    path: Path


def load_model(
    source: Path | Run, *, device: str = "auto", net: nn.Module | None = None
) -> Trained:
    """Rebuild the model of a checkpoint.

    Args:
        source: A checkpoint file, or a run, of which the better checkpoint is taken.
        device: As in `Config.device`.
        net: The network of a run that was trained with one of its own; gets the weights.

    Raises:
        ValueError: The file is damaged, or its tensors are not those of its own config.
    """
    path = source.best_checkpoint() if isinstance(source, Run) else Path(source)
    tensors, facts = load_checkpoint(path)
    config = Config.from_dict(facts["config"])
    class_names = tuple(facts["class_names"])
    if net is None:
        net = build_model(config.replace(**WITHOUT_WEIGHTS), len(class_names))
    normalise_as(net)
    tensors = {
        k.removeprefix("model/"): v
        for k, v in tensors.items()
        if "/" not in k or k.startswith("model/")
    }
    try:
        net.load_state_dict(tensors)
    except RuntimeError as error:
        own = f" or was trained with a network of its own ({config.variant})" * bool(config.variant)
        raise ValueError(
            f"{path} holds another architecture than its config ({config.backbone}) says{own}: "
            f"{str(error).splitlines()[-1].strip()}"
        ) from error
    if getattr(net, "head", None) is not None:
        net.head.trust = facts["trust"]
    memory = torch.channels_last if config.channels_last else torch.contiguous_format
    net = net.to(pick_device(device), memory_format=memory).eval()
    return Trained(net, config, class_names, facts, path)


def normalise_as(net: nn.Module) -> None:
    """Give a network that names no mean and std those of faces in -1..1."""
    if not (hasattr(net, "mean") and hasattr(net, "std")):
        net.mean, net.std = (0.5,) * 3, (0.5,) * 3


def start_from(
    net: GReFEL,
    path: Path,
    class_names: tuple[str, ...],
    *,
    say: Callable[[str], None],
) -> None:
    """Load a checkpoint's weights into a model; of the class layers those of its own classes.

    Args:
        net: The new model; what no class of the checkpoint fills stays as it is.
        path: A checkpoint file, as `checkpoint_file` finds it.
        class_names: The C classes of the new model.
        say: Receives a line when the classes differ: which are kept, which start fresh.

    Raises:
        ValueError: It is of another architecture.
    """
    tensors, facts = load_checkpoint(path)
    tensors = under_prefix(tensors, "model/") or tensors
    own = net.state_dict()
    theirs = tuple(facts["class_names"])
    if theirs != class_names:
        shared = [name for name in class_names if name in theirs]
        fresh = [name for name in class_names if name not in theirs]
        kept = ", ".join(shared) or "none"
        say(
            f"the checkpoint's classes ({', '.join(theirs)}) are not this data set's: class layers "
            f"kept for {kept}; start fresh for {', '.join(fresh) or 'none'}"
        )
        rows = [class_names.index(name) for name in shared]
        their_rows = [theirs.index(name) for name in shared]
        for key in _class_layers(net) & own.keys() & tensors.keys():
            if len(tensors[key]) == len(theirs) and tensors[key].shape[1:] == own[key].shape[1:]:
                merged = own[key].clone()
                merged[rows] = tensors[key][their_rows].to(merged)
                tensors[key] = merged
    unfit = [k for k in own if getattr(tensors.get(k), "shape", None) != own[k].shape]
    if unfit:
        raise ValueError(
            f"checkpoint {path.name} does not fit the model ({len(unfit)} tensors, first "
            f"{unfit[0]}); keep backbone, head and sizes as in the run it comes from"
        )
    net.load_state_dict({key: tensors[key] for key in own})


def _class_layers(net: GReFEL) -> set[str]:
    """Names of the tensors whose size depends on the class count."""
    if net.head is None:
        return net.classifier_names()
    last = [f"primary.{len(net.head.primary) - 1}", "attentive"]
    names = {f"head.{name}.{part}" for name in last for part in ("weight", "bias")}
    return names | {"head.anchors"}
