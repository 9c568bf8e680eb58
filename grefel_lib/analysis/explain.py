"""One face explained: each branch, the attention, the nearest anchors and training faces."""

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np

from grefel_lib.config import Config
from grefel_lib.faces import FaceSet, like_training, load_faces
from grefel_lib.predict import NOT_SURE, attention_maps, look_inside, score_images
from grefel_lib.restore import Trained
from grefel_lib.sources.photo import Photo, group_picture, read_photo, side_by_side

REMEMBERED = 1000  # training faces
ANCHORS, NEIGHBOURS = 3, 4  # nearest anchors that are shown, and nearest training faces of each


@dataclass(frozen=True)
class Explained:
    """A model's output for one face; None for parts its head does not have."""

    face: np.ndarray  # (H, W[, 3]) uint8, as seen by the model
    class_names: tuple[str, ...]
    distributions: Mapping[str, np.ndarray]  # (C,) primary, geometric, attentive, corrected
    reliability: float | None
    attention: np.ndarray | None  # (side, side)
    distances: np.ndarray | None  # (C, K) to the anchors
    memory: "Memory | None" = None  # training faces near the anchors
    not_sure_below: float = 0.0  # confidence
    strange: bool = False  # no detector found a face, and the face test fails
    primary: np.ndarray | None = None  # (C,) calibrated as the corrected distribution is

    @property
    def before(self) -> str:
        """The class of the primary distribution; a linear head has only one distribution."""
        first = self.distributions["corrected"] if self.primary is None else self.primary
        return self.class_names[int(first.argmax())]

    @property
    def predicted(self) -> str:
        """The class of the corrected distribution, or NOT_SURE."""
        corrected = self.distributions["corrected"]
        if self.strange or corrected.max() < self.not_sure_below:
            return NOT_SURE
        return self.class_names[int(corrected.argmax())]

    def nearest(self, count: int = ANCHORS) -> list[tuple[int, int]]:
        """Class and index of the nearest anchors, nearest first; empty without anchors."""
        if self.distances is None:
            return []
        order = self.distances.ravel().argsort(kind="stable")[:count]
        return [divmod(int(i), self.distances.shape[1]) for i in order]


@dataclass(frozen=True)
class Memory:
    """Some training faces and their distances to every anchor."""

    faces: FaceSet
    distances: np.ndarray  # (N, C, K)

    def near(self, anchor: tuple[int, int], count: int = NEIGHBOURS) -> np.ndarray:
        """Positions of the faces nearest to an anchor, nearest first."""
        return self.distances[:, anchor[0], anchor[1]].argsort(kind="stable")[:count]


def explain_face(
    trained: Trained, crop: np.ndarray, memory: Memory | None = None, *, found: bool = True
) -> Explained:
    """Score one face crop (H, W[, 3]) uint8 and keep every output of the head.

    Args:
        trained: From `load_model`.
        crop: A face, as `Photo.crop` cuts it out.
        memory: From `remember_faces`; without it, anchors are listed but without faces.
        found: A detector found the face; if not, a shipped model's face test may answer NOT_SURE.
    """
    output = score_images(trained, [crop])
    branches = {"primary": output.primary_log_probs, "geometric": output.geometric_log_probs,
             "attentive": output.attentive_log_probs, "corrected": output.log_probs}  # fmt: skip
    calibrated, primary = trained.model.calibration, output.primary_log_probs
    if calibrated is not None and primary is not None:
        primary = calibrated(primary)
    attention = distances = None
    if output.attention is not None:
        weights = output.attention.float().cpu().numpy()
        attention = attention_maps(weights, trained.config)[0]
    if output.anchors is not None:
        anchors, embedding = output.anchors.float().cpu(), output.embeddings.float().cpu()
        distances = np.linalg.norm(anchors.numpy() - embedding.numpy()[0], axis=2)
    strange = False
    if not found and trained.face_test is not None:
        strange = not trained.face_test.passes(output.features.cpu().numpy())[0]
    return Explained(
        like_training(crop, *trained.face_format),
        trained.class_names,
        {k: v[0].float().exp().cpu().numpy() for k, v in branches.items() if v is not None},
        None if output.reliability is None else float(output.reliability[0]),
        attention,
        distances,
        memory,
        trained.not_sure_below,
        strange,
        None if primary is None else primary[0].float().exp().cpu().numpy(),
    )


def load_photo(config: Config) -> Photo:
    """The photograph that a config names; else two photographs, or four drawn validation faces.

    The two are Grace Hopper, of matplotlib, and, where scikit-image is installed, the astronaut
    Eileen Collins; both are public domain (US Navy, NASA).

    Raises:
        ValueError: No face is found in the photograph.
    """
    if config.picture:
        photo = Photo.of(read_photo(config.picture))
        if not photo.boxes:
            raise ValueError(
                f"no face was found in {config.picture}; cut the face out, or take another picture"
            )
        return photo
    if config.dataset != "synthetic":
        return Photo.of(side_by_side([read_photo(path) for path in _photographs()]))
    val = load_faces(config).split("val")
    rows = val.table.drop_duplicates("label").sort_values("label").index[1:5]
    return Photo.of(group_picture(val.gather(rows.to_numpy())))


def _photographs() -> list[Path]:
    paths = [Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"]
    if package := importlib.util.find_spec("skimage"):
        paths.append(Path(package.origin).parent / "data" / "astronaut.png")
    return paths


def remember_faces(
    trained: Trained, config: Config, *, say: Callable[[str], None] = print
) -> Memory | None:
    """Embed a thousand training faces of a run, evenly spaced.

    Args:
        trained: From `load_model`.
        config: Of the run; says where the data set is.
        say: Called with a message if there is nothing to remember.

    Returns:
        None where the head has no anchors, or the data set is not on this machine.
    """
    if trained.model.head is None or trained.model.head.anchors is None:
        say("this head has no anchors")
        return None
    if not trained.config.same_data(config):
        say(f"training faces are not shown: the run has not learned from {config.dataset}")
        return None
    try:
        faces = load_faces(config).split("train")
    except FileNotFoundError:
        say(f"training faces are not shown: {config.dataset} is not on this machine")
        return None
    except (OSError, ValueError) as error:
        say(f"training faces are not shown: {error}")
        return None
    faces = faces.in_format(*trained.face_format).sample(REMEMBERED)
    inside = look_inside(trained.model, faces, trained.config)
    anchors, embeddings = inside["anchors"], inside["embeddings"].astype(np.float32)
    flat = anchors.reshape(-1, anchors.shape[-1])
    squared = 2 * anchors.shape[-1] - 2 * embeddings @ flat.T  # both lie on one sphere
    distances = np.sqrt(np.maximum(squared, 0)).reshape(len(faces), *anchors.shape[:2])
    return Memory(faces, distances)
