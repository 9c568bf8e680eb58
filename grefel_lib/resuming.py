"""What a training goes on from: its own last epoch, or another run's checkpoint."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.optim import Optimizer

from grefel_lib import checkpoints, runs
from grefel_lib.model import GReFEL


def state(net: nn.Module, ema: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Everything a training needs to go on as if it had never stopped, by name.

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


def restore(
    tensors: dict[str, Tensor], net: nn.Module, ema: nn.Module, optimizer: Optimizer
) -> None:
    """Put what `state` returned back, in place."""
    net.load_state_dict(_under(tensors, "model/"))
    ema.load_state_dict(_under(tensors, "ema/"))
    for name, parameter in net.named_parameters():
        moments = _under(tensors, f"optimizer/{name}/")
        if moments:  # none for a parameter that never had a gradient
            optimizer.state[parameter] = {
                key: value.clone() if key == "step" else value.to(parameter, copy=True)
                for key, value in moments.items()
            }


def start_from(
    net: GReFEL,
    checkpoint_path: str,
    class_names: tuple[str, ...],
    *,
    output_dir: str = "outputs",
    say: Callable[[str], None],
) -> None:
    """Load a checkpoint's weights into a model; layers of other classes start fresh.

    Args:
        net: The new model.
        checkpoint_path: A checkpoint file or a run, as `runs.checkpoint_file` takes it.
        class_names: The C classes of the new model.
        output_dir: Where runs are looked for.
        say: Told when class layers start fresh.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: It is of another architecture.
    """
    path = runs.checkpoint_file(checkpoint_path, output_dir)
    tensors, facts = checkpoints.load(path)
    tensors = _under(tensors, "model/") or tensors
    own = net.state_dict()
    fresh: set[str] = set()
    if tuple(facts["class_names"]) != class_names:
        say(
            f"the checkpoint's classes ({', '.join(facts['class_names'])}) are not this data "
            f"set's ({', '.join(class_names)}): the class layers start fresh"
        )
        fresh = _class_layers(net)
    strange = [
        k for k in own if k not in fresh and getattr(tensors.get(k), "shape", None) != own[k].shape
    ]
    if strange:
        raise ValueError(
            f"checkpoint {path.name} does not fit the model ({len(strange)} tensors, first "
            f"{strange[0]}); keep backbone, head and sizes as in the run it comes from"
        )
    kept = {k: v for k, v in tensors.items() if k in own and k not in fresh}
    net.load_state_dict(kept, strict=False)


def _class_layers(net: GReFEL) -> set[str]:
    """Names of the tensors whose size depends on the class count."""
    if net.head is None:
        names = net.backbone.pretrained_cfg["classifier"]
        names = (names,) if isinstance(names, str) else names
        return {f"backbone.{name}.{part}" for name in names for part in ("weight", "bias")}
    last = [f"primary.{len(net.head.primary) - 1}", "attentive"]
    names = {f"head.{name}.{part}" for name in last for part in ("weight", "bias")}
    return names | {"head.anchors"}


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
