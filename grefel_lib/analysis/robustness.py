"""Robustness to corrupted images: six corruptions, five severities each.

The corruptions are those of ImageNet-C (Hendrycks and Dietterich, 2019) that occur in
photographs of faces; the strengths are ours, chosen for 48-pixel faces and scaled with image size.
"""

import io
import math
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

from grefel_lib.batches import to_float
from grefel_lib.config import Config
from grefel_lib.faces import FaceSet
from grefel_lib.metrics import compute_metrics
from grefel_lib.predict import predict

SIDE = 48  # image size in pixels for which the strengths are defined
SEVERITIES: dict[str, tuple[float, ...]] = {
    "blur": (0.5, 0.8, 1.2, 1.7, 2.4),  # standard deviation, pixels
    "noise": (0.03, 0.06, 0.1, 0.15, 0.22),  # standard deviation, of a value range of 1
    "low contrast": (0.7, 0.5, 0.35, 0.22, 0.12),  # contrast factor
    "jpeg": (60, 35, 20, 12, 6),  # quality
    "occlusion": (0.2, 0.3, 0.4, 0.5, 0.6),  # side of a grey square, relative to the image
    "rotation": (8, 15, 25, 40, 60),  # degrees, in either direction
}


def corrupt(images: np.ndarray, kind: str, severity: int, *, seed: int = 0) -> np.ndarray:
    """Corrupt each face; the same seed gives the same corruption.

    Args:
        images: (N, H, W) or (N, H, W, 3) uint8.
        kind: A key of SEVERITIES.
        severity: 1 (mild) to 5.
        seed: Random seed of noise, occlusion position and rotation direction.

    Returns:
        The same shape, uint8.

    Raises:
        ValueError: No such kind or severity.
    """
    if kind not in SEVERITIES or severity not in range(1, 6):
        kinds = ", ".join(SEVERITIES)
        raise ValueError(f"corruptions are {kinds}, severities 1 to 5; got {kind!r}, {severity!r}")
    draw = torch.Generator().manual_seed(seed)
    spoiled = _KINDS[kind](to_float(images), SEVERITIES[kind][severity - 1], draw)
    spoiled = spoiled.mul(255).round().clamp(0, 255).to(torch.uint8)
    return (spoiled[:, 0] if images.ndim == 3 else spoiled.permute(0, 2, 3, 1)).numpy()


def evaluate_corruptions(
    net: nn.Module, faces: FaceSet, config: Config
) -> Iterator[dict[str, float]]:
    """Score every corruption at every severity, starting with the clean faces.

    Yields:
        corruption, severity (0: clean), faces, accuracy, mean_class_accuracy, ece.
    """
    clean = faces.gather(np.arange(len(faces)))
    names = ("accuracy", "mean_class_accuracy", "ece")
    for kind, severity in [("clean", 0), *((k, s) for k in SEVERITIES for s in range(1, 6))]:
        images = clean if severity == 0 else corrupt(clean, kind, severity)
        table = faces.table.assign(row=np.arange(len(faces)))
        spoiled = FaceSet(images, table, faces.targets, faces.class_names, faces.info)
        metrics = compute_metrics(predict(net, spoiled, config))
        about = {"corruption": kind, "severity": severity, "faces": len(faces)}
        yield about | {name: metrics[name] for name in names}


def with_clean(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of `evaluate_corruptions` for plotting: each curve starts at the clean score."""
    clean = table[table["severity"] == 0].drop(columns="corruption")
    spoiled = table[table["severity"] > 0]
    starts = pd.DataFrame({"corruption": spoiled["corruption"].unique()}).merge(clean, how="cross")
    return pd.concat([starts, spoiled], ignore_index=True)


def _blur(images: Tensor, sigma: float, draw: torch.Generator) -> Tensor:
    sigma *= images.shape[-1] / SIDE
    return v2.functional.gaussian_blur(images, 2 * math.ceil(3 * sigma) + 1, sigma)


def _noise(images: Tensor, level: float, draw: torch.Generator) -> Tensor:
    return images + level * torch.randn(images.shape, generator=draw)


def _fade(images: Tensor, left: float, draw: torch.Generator) -> Tensor:
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (images - mean) * left


def _jpeg(images: Tensor, quality: float, draw: torch.Generator) -> Tensor:
    whole = images.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()  # (N, H, W, 1 or 3)
    return (
        torch.stack([v2.functional.to_image(_through_jpeg(face, quality)) for face in whole]) / 255
    )


def _through_jpeg(face: np.ndarray, quality: float) -> Image.Image:
    file = io.BytesIO()
    Image.fromarray(face.squeeze()).save(file, "JPEG", quality=int(quality))
    return Image.open(file)


def _cover(images: Tensor, share: float, draw: torch.Generator) -> Tensor:
    height, width = images.shape[-2:]
    start = torch.rand(2, len(images), 1, 1, generator=draw) * (1 - share)
    rows = (torch.arange(height).view(1, -1, 1) + 0.5) / height
    columns = (torch.arange(width).view(1, 1, -1) + 0.5) / width
    inside = (rows >= start[0]) & (rows < start[0] + share)
    inside = inside & (columns >= start[1]) & (columns < start[1] + share)  # (N, H, W)
    return torch.where(inside[:, None], 0.5, images)


def _rotate(images: Tensor, degrees: float, draw: torch.Generator) -> Tensor:
    side = torch.randint(2, (len(images),), generator=draw) * 2.0 - 1
    angle = side * math.radians(degrees)
    cos, sin, none = angle.cos(), angle.sin(), torch.zeros_like(angle)
    theta = torch.stack([cos, -sin, none, sin, cos, none], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


_KINDS: dict[str, Callable[[Tensor, float, torch.Generator], Tensor]] = {
    "blur": _blur, "noise": _noise, "low contrast": _fade, "jpeg": _jpeg, "occlusion": _cover,
    "rotation": _rotate,
}  # fmt: skip
