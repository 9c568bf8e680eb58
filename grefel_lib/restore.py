"""Loading models from checkpoints, and starting training from another run's weights."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.preprocessing import normalize
from torch import nn

from grefel_lib.config import PRETRAINED, WITHOUT_WEIGHTS, Config
from grefel_lib.environment import memory_format, pick_device
from grefel_lib.files import load_checkpoint, reading, under_prefix
from grefel_lib.grefel import Calibration, GReFEL, build_model
from grefel_lib.labels import FORMATS
from grefel_lib.run import Run, open_run

FACE_TEST = "face_test/"  # prefix of its arrays in a checkpoint


@dataclass(frozen=True)
class FaceTest:
    """Whether pooled features are like those of training faces.

    Scaled to norm 1, the features of faces lie near a subspace; those of anything else lie
    farther away.

    Source: Wang et al., ViM: Out-of-Distribution with Virtual-logit Matching, 2022 (the residual).
    """

    mean: np.ndarray  # (F,)
    basis: np.ndarray  # (k, F) orthonormal rows: the principal directions of training faces
    limit: float  # the largest distance of a face

    def distance(self, features: np.ndarray) -> np.ndarray:
        """Distance from the subspace: (N, F) -> (N,)."""
        apart = normalize(features) - self.mean
        return np.linalg.norm(apart - apart @ self.basis.T @ self.basis, axis=1)

    def passes(self, features: np.ndarray) -> np.ndarray:
        """(N, F) -> (N,) bool."""
        return self.distance(features) <= self.limit


@dataclass(frozen=True)
class Trained:
    """A model read from a checkpoint, and what was saved with it."""

    model: GReFEL
    config: Config
    class_names: tuple[str, ...]
    facts: dict  # epoch, val_accuracy, ...
    path: Path
    face_test: FaceTest | None = None  # of a shipped model with a GReFEL head

    @property
    def not_sure_below(self) -> float:
        """The confidence from which a shipped model gives an answer; 0 for other runs."""
        return self.facts.get("not_sure_below", 0.0)

    @property
    def folder(self) -> Path:
        """The run's folder; of a checkpoint file on its own, where it lies."""
        inside = self.path.parent.name == "checkpoints"
        return self.path.parents[1] if inside else self.path.parent

    @property
    def face_format(self) -> tuple[int, str]:
        """Side in pixels and Pillow mode of the training faces; older runs: of their data set."""
        if "face_shape" not in self.facts:
            return FORMATS[self.config.dataset]
        side, *rest = self.facts["face_shape"]
        return side, "RGB" if len(rest) > 1 else "L"


def load_model(
    source: Path | Run, *, device: str = "auto", net: nn.Module | None = None
) -> Trained:
    """Rebuild the model of a checkpoint.

    Args:
        source: A checkpoint file, or a run, whose better checkpoint is used.
        device: As in `Config.device`.
        net: For a run trained with your own network: that network, to load the weights into.

    Raises:
        ValueError: The file is damaged, or its tensors do not match its config.
    """
    path = source.best_checkpoint() if isinstance(source, Run) else Path(source).resolve()
    tensors, facts = load_checkpoint(path)
    with reading(path):
        config, trust = Config.from_dict(facts["config"]), facts["trust"]
        class_names = tuple(facts["class_names"])
    if net is None:
        net = build_model(config.replace(**WITHOUT_WEIGHTS), len(class_names))
    normalise_as(net)
    plain = {name: tensor for name, tensor in tensors.items() if "/" not in name}
    try:
        net.load_state_dict(under_prefix(tensors, "model/") or plain)
    except RuntimeError as error:
        own = f" or is of a custom network ({config.variant}), to be passed as net"
        own *= bool(config.variant)
        raise ValueError(
            f"{path} contains another architecture than its config ({config.backbone}){own}: "
            f"{str(error).splitlines()[-1].strip()}"
        ) from error
    if getattr(net, "head", None) is not None:
        net.head.trust = trust
    face_test = None
    with reading(path):
        if facts.get("calibration"):
            net.calibration = Calibration(**facts["calibration"])
        if arrays := under_prefix(tensors, FACE_TEST):
            arrays = {name: tensor.float().numpy() for name, tensor in arrays.items()}
            face_test = FaceTest(**arrays, limit=facts["face_test_limit"])
    net = net.to(pick_device(device), memory_format=memory_format(config)).eval()
    return Trained(net, config, class_names, facts, path, face_test)


def pretrained(name: str = "ferplus", *, device: str = "auto") -> Trained:
    """A model that comes with the library; `ferplus` is trained on real faces, see its card.

    Raises:
        FileNotFoundError: There is none of this name.
    """
    return load_model(open_run(PRETRAINED / name), device=device)


def normalise_as(net: nn.Module) -> None:
    """Set mean and std to 0.5 (inputs in -1..1) on a network that defines none."""
    if not (hasattr(net, "mean") and hasattr(net, "std")):
        net.mean, net.std = (0.5,) * 3, (0.5,) * 3


def start_from(
    net: GReFEL,
    path: Path,
    class_names: tuple[str, ...],
    *,
    say: Callable[[str], None],
) -> None:
    """Load a checkpoint's weights into a model; in class layers, only those of shared classes.

    Args:
        net: The new model; parameters of classes the checkpoint lacks are left unchanged.
        path: A checkpoint file, as `checkpoint_file` finds it.
        class_names: The C classes of the new model.
        say: Called with a message if the classes differ: which are kept, which start fresh.

    Raises:
        ValueError: It has another architecture.
    """
    tensors, facts = load_checkpoint(path)
    tensors = under_prefix(tensors, "model/") or tensors
    own = net.state_dict()
    with reading(path):
        theirs = tuple(facts["class_names"])
    if theirs != class_names and not isinstance(net, GReFEL):
        raise ValueError(
            f"{path.name} knows the classes {', '.join(theirs)}, not {', '.join(class_names)}; "
            f"which layers of your own network belong to them is not known: use the same classes"
        )
    if theirs != class_names:
        shared = [name for name in class_names if name in theirs]
        fresh = [name for name in class_names if name not in theirs]
        kept = ", ".join(shared) or "none"
        say(
            f"the checkpoint's classes ({', '.join(theirs)}) differ from the data's: class layers "
            f"kept for {kept}; reinitialised for {', '.join(fresh) or 'none'}"
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
            f"{unfit[0]}); use the backbone, head, sizes and lambda_rel of the run it comes from"
        )
    net.load_state_dict({key: tensors[key] for key in own})


def _class_layers(net: GReFEL) -> set[str]:
    """Names of the tensors whose size depends on the class count."""
    if net.head is None:
        return net.classifier_names()
    last = [f"primary.{len(net.head.primary) - 1}", "attentive"]
    names = {f"head.{name}.{part}" for name in last for part in ("weight", "bias")}
    return names | {"head.anchors"}
