"""The attention's tokens: a backbone's last feature map, and earlier ones beside it."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def earlier(backbone: nn.Module, count: int) -> dict[int, int]:
    """Feature maps before a backbone's last one: index in timm's `forward_intermediates` -> width.

    Of a pyramid those directly before the last; of equal blocks (a ViT) evenly spaced ones.

    Raises:
        ValueError: The backbone has not as many, or cannot give them.
    """
    if count == 0:
        return {}
    if not hasattr(backbone, "feature_info") or not hasattr(backbone, "forward_intermediates"):
        raise ValueError(
            f"{type(backbone).__name__} gives no earlier feature maps; attention_levels must be 1"
        )
    info = list(backbone.feature_info)
    if count >= len(info):
        raise ValueError(
            f"attention_levels must be at most {len(info)}, the feature maps that "
            f"{type(backbone).__name__} has; got {count + 1}"
        )
    if len({level["reduction"] for level in info}) == 1:
        indices = [step * len(info) // (count + 1) - 1 for step in range(1, count + 1)]
    else:
        indices = range(len(info) - 1 - count, len(info) - 1)
    return {index: info[index]["num_chs"] for index in indices}


def extract(backbone: nn.Module, images: Tensor, indices: Sequence[int]) -> tuple[Tensor, ...]:
    """A backbone's last features, and the tokens that the attention reads.

    Args:
        backbone: A timm network, or the window extractor.
        images: (B, 3, S, S), normalised.
        indices: Earlier maps, as `earlier` names them; may be empty.

    Returns:
        Features as the backbone shapes them; then tokens (B, T, F_t) in float32 of each map in
        `indices`, and of the features themselves, prefix tokens removed.
    """
    if not indices:
        features, maps = backbone.forward_features(images), []
    else:
        features, maps = backbone.forward_intermediates(
            images, indices=list(indices), output_fmt="NCHW"
        )
    tokens = [level.flatten(2).transpose(1, 2).float() for level in maps]
    return features, *tokens, _last(backbone, features).float()


def _last(backbone: nn.Module, features: Tensor) -> Tensor:
    if features.ndim == 3:  # (B, prefix + T, F)
        return features[:, getattr(backbone, "num_prefix_tokens", 0) :]
    if getattr(backbone, "output_fmt", "NCHW") == "NHWC":
        return features.flatten(1, 2)
    return features.flatten(2).transpose(1, 2)  # (B, F, h, w) -> (B, T, F)


class Levels(nn.Module):
    """Brings the tokens of several maps to one width, each normed, so that one attention fits."""

    def __init__(self, widths: Sequence[int], width: int) -> None:
        super().__init__()
        self.project = nn.ModuleList(
            nn.Sequential(nn.Linear(own, width), nn.LayerNorm(width)) for own in widths
        )

    def forward(self, tokens: Sequence[Tensor]) -> Tensor:
        """Tokens (B, T_l, F_l) of every map -> (B, sum of T_l, D)."""
        return torch.cat([f(level) for f, level in zip(self.project, tokens, strict=True)], dim=1)


def on_finest(weights: Tensor, counts: Sequence[int]) -> Tensor:
    """Bring attention over several square maps onto the finest of them; no weight is lost.

    Args:
        weights: (B, T) over the positions of all maps, one map after the other.
        counts: Positions of each map, square numbers that add up to T.

    Returns:
        (B, T') with T' the largest count; sums to what `weights` sums to.
    """
    finest = math.isqrt(max(counts))
    grids = []
    for part in weights.split(list(counts), dim=1):
        side = math.isqrt(part.shape[1])
        grid = F.interpolate(part.unflatten(1, (1, side, side)), size=finest, mode="bilinear")
        grids.append(F.normalize(grid.flatten(1), p=1, dim=1) * part.sum(dim=1, keepdim=True))
    return sum(grids)
