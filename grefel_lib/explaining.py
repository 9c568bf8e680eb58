"""One face taken apart: what each branch says, where the model looked, whom it resembles."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle
from PIL import Image

from grefel_lib import datasets, evaluated, evaluation, evaluation_plots, plots
from grefel_lib.config import Config
from grefel_lib.datasets import FaceSet
from grefel_lib.detection import Box
from grefel_lib.evaluation import Trained

ANCHORS, NEIGHBOURS = 3, 4  # nearest anchors that are shown, and nearest training faces of each


@dataclass(frozen=True)
class Explained:
    """What a model says of one face; None what its head does not have."""

    face: np.ndarray  # (H, W[, 3]) uint8, as the model got it
    class_names: tuple[str, ...]
    distributions: Mapping[str, np.ndarray]  # (C,) primary, geometric, attentive, corrected
    reliability: float | None
    attention: np.ndarray | None  # (side, side)
    distances: np.ndarray | None  # (C, K) to the anchors

    @property
    def before(self) -> str:
        """The class of the primary distribution; a linear head has one distribution only."""
        first = next(iter(self.distributions.values()))
        return self.class_names[int(first.argmax())]

    @property
    def predicted(self) -> str:
        """The class of the corrected distribution."""
        return self.class_names[int(self.distributions["corrected"].argmax())]

    def nearest(self, count: int = ANCHORS) -> list[tuple[int, int]]:
        """Class and number of the nearest anchors, nearest first; empty without anchors."""
        if self.distances is None:
            return []
        order = self.distances.ravel().argsort(kind="stable")[:count]
        return [divmod(int(i), self.distances.shape[1]) for i in order]


@dataclass(frozen=True)
class Memory:
    """Some training faces, and how far each is from every anchor."""

    faces: FaceSet
    distances: np.ndarray  # (N, C, K)

    def near(self, anchor: tuple[int, int], count: int = NEIGHBOURS) -> np.ndarray:
        """Positions of the faces nearest to an anchor, nearest first."""
        return self.distances[:, anchor[0], anchor[1]].argsort(kind="stable")[:count]


def explain(trained: Trained, crop: np.ndarray) -> Explained:
    """Score one face crop (H, W[, 3]) uint8 and keep everything the head says."""
    output = evaluation.score_images(trained, [crop])
    found = {"primary": output.primary_log_probs, "geometric": output.geometric_log_probs,
             "attentive": output.attentive_log_probs, "corrected": output.log_probs}  # fmt: skip
    attention = distances = None
    if output.attention is not None:
        weights = output.attention.float().cpu().numpy()
        attention = evaluation.attention_maps(weights, trained.config)[0]
    if output.anchors is not None:
        anchors, embedding = output.anchors.float().cpu(), output.embeddings.float().cpu()
        distances = np.linalg.norm(anchors.numpy() - embedding.numpy()[0], axis=2)
    return Explained(
        evaluation.like_training(crop, trained.config.dataset),
        trained.class_names,
        {k: v[0].float().exp().cpu().numpy() for k, v in found.items() if v is not None},
        None if output.reliability is None else float(output.reliability[0]),
        attention,
        distances,
    )


def remember(
    trained: Trained, config: Config, *, say: Callable[[str], None] = print
) -> Memory | None:
    """Embed a thousand training faces of a run, evenly spaced.

    Args:
        trained: From `evaluation.load`.
        config: Of the run; says where the data set is.
        say: Told when there is nothing to remember.

    Returns:
        None where the head has no anchors, or the data set is not on this machine.
    """
    if trained.model.head is None or trained.model.head.anchors is None:
        say("this head has no anchors")
        return None
    try:
        faces = datasets.load(config).split("train")
    except (OSError, ValueError) as error:
        say(f"training faces are not shown: {error}")
        return None
    faces = evaluated.sample(faces, evaluated.INSIDE)
    inside = evaluation.look_inside(trained.model, faces, trained.config)
    anchors, embeddings = inside["anchors"], inside["embeddings"].astype(np.float32)
    flat = anchors.reshape(-1, anchors.shape[-1])
    squared = 2 * anchors.shape[-1] - 2 * embeddings @ flat.T  # both lie on one sphere
    distances = np.sqrt(np.maximum(squared, 0)).reshape(len(faces), *anchors.shape[:2])
    return Memory(faces, distances)


def group_picture(faces: Sequence[np.ndarray], *, side: int = 160) -> np.ndarray:
    """Face crops, enlarged and set side by side on grey, in place of a photograph: (H, W, 3)."""
    gap = side // 2
    picture = np.full((side + 2 * gap, (side + gap) * len(faces) + gap, 3), 150, np.uint8)
    for number, face in enumerate(faces):
        left = gap + number * (side + gap)
        enlarged = Image.fromarray(in_colour(face)).resize((side, side))
        picture[gap : gap + side, left : left + side] = enlarged
    return picture


def in_colour(face: np.ndarray) -> np.ndarray:
    """A face (H, W[, 3]) as (H, W, 3)."""
    return face if face.ndim == 3 else np.repeat(face[..., None], 3, axis=2)


def found_faces(picture: np.ndarray, boxes: list[Box]) -> Figure:
    """Draw a picture with its faces numbered, at most page width and half as high."""
    height, width = picture.shape[:2]
    scale = min(4.6 / width, 2.8 / height)
    with plots.paper_style("full"):
        fig = Figure(figsize=(scale * width, scale * height), layout="none")
        ax = fig.add_axes((0, 0, 1, 1))
        ax.imshow(picture)
        ax.set_axis_off()
        for number, (left, top, right, bottom) in enumerate(boxes, 1):
            frame = {"fill": False, "lw": 1.6}
            ax.add_patch(Rectangle((left, top), right - left, bottom - top, ec=plots.EMA, **frame))
            ax.annotate(
                str(number), (max(left, 0), max(top, 0)), (3, -3), textcoords="offset points",
                va="top", color="white", size=9, bbox={"fc": plots.EMA, "ec": "none", "pad": 1.5},
            )  # fmt: skip
        ax.set(xlim=(0, width), ylim=(height, 0))
    return fig


def figure(seen: Explained, memory: Memory | None = None) -> Figure:
    """Draw a face, where the model looked, what it says before and after, and whom it resembles.

    Args:
        seen: From `explain`.
        memory: From `remember`; without it the anchors are named but show no faces.
    """
    anchors = seen.nearest()
    with plots.paper_style("full"):
        fig = Figure(figsize=(6.9, 2.2 + (0.95 if anchors else 0)))
        parts = fig.subfigures(2, 1, height_ratios=(2.2, 0.95)) if anchors else [fig]
        axes = parts[0].subplots(1, 3, width_ratios=(1, 1, 1.7))
        axes[0].imshow(seen.face, cmap="gray", vmin=0, vmax=255)
        axes[0].set_title("the face, as the model gets it")
        axes[0].set_axis_off()
        if seen.attention is not None:
            evaluation_plots.attention(seen.face, seen.attention, axes[1])
            axes[1].set_title("where it looked (brighter: more)")
        axes[1].set_axis_off()
        given = {k: seen.distributions[k] for k in ("primary", "corrected")
                 if k in seen.distributions}  # fmt: skip
        evaluation_plots.distributions(given, seen.class_names, axes[2], size=7)
        told = f"{seen.predicted} {seen.distributions['corrected'].max():.0%}"
        if seen.reliability is not None:
            told += f", reliability {seen.reliability:.2f}"
        axes[2].set_title(told)
        axes[2].legend(loc="lower right")
        if anchors:
            _resembling(seen, anchors, memory, parts[1])
    return fig


def _resembling(
    seen: Explained, anchors: list[tuple[int, int]], memory: Memory | None, fig: SubFigure
) -> None:
    columns = fig.subfigures(1, len(anchors))
    for (label, number), column in zip(anchors, columns, strict=True):
        name, far = seen.class_names[label], seen.distances[label, number]
        column.suptitle(f"{name} anchor {number + 1}, distance {far:.1f}", size=7.5)
        axes = column.subplots(1, NEIGHBOURS)
        for ax in axes:
            ax.set_axis_off()
        if memory is None:
            continue
        near = memory.near((label, number))
        for ax, image, position in zip(axes, memory.faces.gather(near), near, strict=False):
            ax.imshow(image, cmap="gray", vmin=0, vmax=255)
            its = memory.faces.class_names[memory.faces.table["label"].iloc[position]]
            ax.set_title(plots.short_name(its), size=6.5, pad=2)
