"""From uint8 faces to the backbone's input: loading, augmentation, MixUp and CutMix, resizing.

Everything works on whole batches on their device, with one random draw PER IMAGE (the
torchvision v2 transforms draw once per batch). All draws use torch's global generator.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from grefel_lib.faces import FaceSet


@dataclass(frozen=True)
class Strength:
    """Strength of an augmentation; every value is the largest possible change."""

    degrees: float
    zoom: float  # share of the size
    shift: float  # share of the size
    brightness: float
    contrast: float
    noise: float  # standard deviation, for pixel values in 0..1
    erase: float  # probability of erasing a rectangle


STRENGTHS = {
    "none": None,
    "standard": Strength(15, 0.1, 0.08, 0.2, 0.2, 0.0, 0.25),
    "heavy": Strength(25, 0.2, 0.12, 0.4, 0.4, 0.06, 0.5),
}


def to_float(images: np.ndarray | Tensor, device: torch.device | str = "cpu") -> Tensor:
    """Move uint8 faces to the device and scale them to 0..1.

    Args:
        images: (B, H, W) grey or (B, H, W, 3) colour, uint8.
        device: Device of the result.

    Returns:
        (B, 1, H, W) or (B, 3, H, W) float32.
    """
    batch = torch.as_tensor(images).to(device, non_blocking=True)
    batch = batch.unsqueeze(1) if batch.ndim == 3 else batch.permute(0, 3, 1, 2)
    return batch.to(torch.float32).div_(255)


def augment(images: Tensor, strength: str) -> Tensor:
    """Flip, rotate, zoom, shift, relight and partly erase each face, independently.

    Args:
        images: (B, 1 or 3, H, W) in 0..1, at their source size.
        strength: A key of `STRENGTHS`; "none" returns the images unchanged.

    Returns:
        (B, 1 or 3, H, W) in 0..1.
    """
    limit = STRENGTHS[strength]
    if limit is None:
        return images
    images = _move(images, limit)
    images = _relight(images, limit)
    return _erase(images, limit.erase)


def _uniform(batch: int, most: float, device: torch.device) -> Tensor:
    return (torch.rand(batch, device=device) * 2 - 1) * most


def _move(images: Tensor, limit: Strength) -> Tensor:
    batch, device = len(images), images.device
    angle = _uniform(batch, math.radians(limit.degrees), device)
    zoom = 1 + _uniform(batch, limit.zoom, device)
    flip = torch.where(torch.rand(batch, device=device) < 0.5, -1.0, 1.0)
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    shift = torch.stack([_uniform(batch, 2 * limit.shift, device) for _ in range(2)], dim=1)
    # maps output to input coordinates, both in -1..1
    rotation = torch.stack([cos * flip, -sin, sin * flip, cos], dim=1).view(batch, 2, 2)
    theta = torch.cat([rotation, shift[:, :, None]], dim=2)  # (B, 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _relight(images: Tensor, limit: Strength) -> Tensor:
    batch, device = len(images), images.device
    brightness = _uniform(batch, limit.brightness, device).view(-1, 1, 1, 1)
    contrast = 1 + _uniform(batch, limit.contrast, device).view(-1, 1, 1, 1)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    images = (images - mean) * contrast + mean + brightness * mean
    if limit.noise:
        level = torch.rand(batch, 1, 1, 1, device=device) * limit.noise
        images = images + torch.randn_like(images) * level
    return images.clamp(0, 1)


def _erase(images: Tensor, probability: float) -> Tensor:
    batch, _, height, width = images.shape
    device = images.device
    rows = torch.arange(height, device=device).view(1, -1, 1) / height
    columns = torch.arange(width, device=device).view(1, 1, -1) / width
    size = 0.1 + 0.25 * torch.rand(batch, 2, 1, 1, device=device)
    start = torch.rand(batch, 2, 1, 1, device=device) * (1 - size)
    inside = (rows >= start[:, 0]) & (rows < start[:, 0] + size[:, 0])
    inside = inside & (columns >= start[:, 1]) & (columns < start[:, 1] + size[:, 1])
    inside = inside & (torch.rand(batch, 1, 1, device=device) < probability)  # (B, H, W)
    fill = images.mean(dim=(2, 3), keepdim=True)
    return torch.where(inside.unsqueeze(1), fill, images)


def mix_batch(
    images: Tensor, targets: Tensor, *, mixup_alpha: float, cutmix_alpha: float, prob: float
) -> tuple[Tensor, Tensor]:
    """Blend the faces of a batch, and their targets, by MixUp or CutMix.

    If both are on, one is picked with equal probability, once per batch.

    Args:
        images: (B, ch, H, W) float.
        targets: (B, C) distributions.
        mixup_alpha: Parameter of MixUp's Beta distribution; 0 turns it off.
        cutmix_alpha: Likewise for CutMix.
        prob: Probability that the batch is mixed at all.

    Returns:
        The mixed images and targets, of the same shapes.
    """
    ways = [
        way(alpha=alpha)
        for way, alpha in ((v2.MixUp, mixup_alpha), (v2.CutMix, cutmix_alpha))
        if alpha > 0
    ]
    if not ways or torch.rand(()).item() >= prob:
        return images, targets
    return ways[int(torch.randint(len(ways), ()))](images, targets)


def prepare_input(
    images: Tensor, size: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> Tensor:
    """Resize to the backbone's input size, expand to three channels, normalise.

    Args:
        images: (B, 1 or 3, H, W) in 0..1.
        size: Side of the result in pixels.
        mean: Three values, the backbone's own.
        std: Three values, the backbone's own.

    Returns:
        (B, 3, size, size) float32.
    """
    images = v2.functional.resize(images, [size, size])  # bilinear, with antialiasing
    return v2.functional.normalize(images.expand(-1, 3, -1, -1), mean, std)


def _gather(faces: FaceSet, indices: np.ndarray) -> tuple[Tensor, Tensor, np.ndarray]:
    images = torch.from_numpy(faces.gather(indices))
    return images, torch.from_numpy(faces.targets[indices]), indices


def batch_loader(
    faces: FaceSet, indices: Iterable[np.ndarray], *, num_workers: int = 0, pin: bool = False
) -> DataLoader:
    """A loader of (images uint8, targets (B, C), indices) for the batches of indices given."""
    return DataLoader(
        list(indices),
        batch_size=None,
        collate_fn=partial(_gather, faces),
        num_workers=num_workers,
        pin_memory=pin,
        generator=torch.Generator(),  # keeps the global one untouched: workers change no result
    )
