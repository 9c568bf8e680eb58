"""GReFEL's extractor, from POSTER++: landmark maps query image maps in windows at three scales.

It has the same interface as a timm backbone (`forward_features`, `forward_head`, ...), so the
model can use either. Two timm `features_only` networks provide the maps; what
is implemented here is the part between them and the head (GReFEL, section 3). No I/O here.
"""

from functools import partial

import torch
import torch.nn.functional as F
from timm.layers import DropPath, Mlp, gen_relative_position_index
from timm.models.vision_transformer import Block
from torch import Tensor, nn

REDUCTIONS = (8, 16, 32)  # strides: 28, 14 and 7 positions per side at 224 px
DIMS = (64, 128, 256)
HEADS = (2, 4, 8)
DROP_PATHS = (0.0, 0.125, 0.25)
WIDTH = 768


def window_sides(image_size: int) -> tuple[int, ...]:
    """Positions per side at each level: (28, 14, 7) at 224 px."""
    return tuple(-(-image_size // reduction) for reduction in REDUCTIONS)


class CrossAttention(nn.Module):
    """Attention over one window, with a learned bias for every relative position and head."""

    def __init__(self, dim: int, *, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.bias_table, std=0.02)
        rows = gen_relative_position_index((window, window))  # (N, N) of the table
        self.register_buffer("rows", rows, persistent=False)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.project = nn.Linear(dim, dim)

    def forward(self, queries: Tensor, images: Tensor) -> Tensor:
        """Let every position of the landmark map look at the whole image map.

        Args:
            queries: (B, N, dim) landmark features of the N positions of the window, row by row.
            images: (B, N, dim) image features of the same positions.

        Returns:
            (B, N, dim)
        """
        keys, values = self.key_value(images).chunk(2, dim=-1)
        queries = queries.to(keys.dtype)  # under autocast an unadapted map may be float32
        parts = (queries, keys, values)
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        bias = self.bias_table[self.rows].permute(2, 0, 1).to(q.dtype)  # (heads, N, N)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None])
        return self.project(mixed.transpose(1, 2).flatten(2))


class Level(nn.Module):
    """One scale: resize both maps, cross-attention, MLP.

    As published, the residual connection carries the normalised image features.
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        window: int,
        drop_path: float,
        image_adapter: nn.Module,
        landmark_adapter: nn.Module,
    ) -> None:
        super().__init__()
        self.window = window
        self.image_adapter, self.landmark_adapter = image_adapter, landmark_adapter
        self.norm1 = nn.LayerNorm(dim)
        self.attention = CrossAttention(dim, heads=heads, window=window)
        self.scale1 = nn.Parameter(torch.full((dim,), 1e-5))
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim)
        self.scale2 = nn.Parameter(torch.full((dim,), 1e-5))
        self.drop_path = DropPath(drop_path)

    def forward(self, image_map: Tensor, landmark_map: Tensor) -> Tensor:
        """(B, C, h, w) of each network -> (B, dim, window, window)."""
        images = self.norm1(self.image_adapter(image_map).flatten(2).transpose(1, 2))  # (B, N, dim)
        queries = self.landmark_adapter(landmark_map).flatten(2).transpose(1, 2)
        x = images + self.drop_path(self.scale1 * self.attention(queries, images))
        x = x + self.drop_path(self.scale2 * self.mlp(self.norm2(x)))
        return x.transpose(1, 2).unflatten(2, (self.window, self.window))


_halve = partial(nn.Conv2d, kernel_size=3, stride=2, padding=1)


def _adapter(channels: int, reduction: int, dim: int, wanted: int) -> nn.Module:
    """A 3x3 convolution, with stride 2 if the map is twice as large; identity if it fits."""
    if (channels, reduction) == (dim, wanted):
        return nn.Identity()
    return nn.Conv2d(channels, dim, kernel_size=3, stride=wanted // reduction, padding=1)


class WindowCrossAttention(nn.Module):
    """Two feature pyramids, fused at three levels into tokens, followed by two ViT blocks.

    Args:
        image_network: A timm `features_only` network of three maps with the reductions 8, 16, 32,
            or 4, 8, 16. Its `pretrained_cfg` says how images are normalised.
        landmark_network: Likewise. It gets the same images with its own normalisation.
        image_size: Pixels, square.
        num_classes: C; 0 builds no classifier.
        drop_rate: Dropout on the pooled feature.

    Source: POSTER++ (arXiv 2301.12149), which GReFEL builds on. Created by `build_backbone`.
    """

    num_features = head_hidden_size = WIDTH
    num_prefix_tokens = 1

    def __init__(
        self,
        image_network: nn.Module,
        landmark_network: nn.Module,
        *,
        image_size: int = 224,
        num_classes: int = 0,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.image_network, self.landmark_network = image_network, landmark_network
        mean, std = (_channels(image_network, key) for key in ("mean", "std"))
        own_mean, own_std = (_channels(landmark_network, key) for key in ("mean", "std"))
        self.register_buffer("landmark_scale", std / own_std, persistent=False)
        self.register_buffer("landmark_shift", (mean - own_mean) / own_std, persistent=False)
        self.pretrained_cfg = {
            "mean": tuple(image_network.pretrained_cfg["mean"]),
            "std": tuple(image_network.pretrained_cfg["std"]),
            "classifier": "classifier",
        }
        maps = [
            list(zip(net.feature_info.channels(), net.feature_info.reduction(), strict=True))
            for net in (image_network, landmark_network)
        ]
        sides = window_sides(image_size)
        self.levels = nn.ModuleList(
            Level(
                dim,
                heads=heads,
                window=side,
                drop_path=rate,
                image_adapter=_adapter(*image, dim, wanted),
                landmark_adapter=_adapter(*landmark, dim, wanted),
            )
            for dim, heads, rate, side, wanted, image, landmark in zip(
                DIMS, HEADS, DROP_PATHS, sides, REDUCTIONS, *maps, strict=True
            )
        )
        self.embeds = nn.ModuleList(
            [
                nn.Sequential(_halve(DIMS[0], WIDTH), _halve(WIDTH, WIDTH)),
                _halve(DIMS[1], WIDTH),
                nn.Conv2d(DIMS[2], WIDTH, kernel_size=1),
            ]
        )  # every level yields as many tokens as the smallest level has positions
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.cls_token = nn.Parameter(torch.empty(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + 3 * sides[-1] ** 2, WIDTH))
        self.blocks = nn.Sequential(
            *(Block(WIDTH, num_heads=8, qkv_bias=True, norm_layer=norm) for _ in range(2))
        )
        self.norm = norm(WIDTH)
        self.gate = nn.Sequential(
            nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.Sigmoid()
        )
        self.drop = nn.Dropout(drop_rate)
        self.classifier = nn.Linear(WIDTH, num_classes) if num_classes else nn.Identity()
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for part in (*self.blocks.modules(), *self.gate, self.classifier):
            if isinstance(part, nn.Linear):
                nn.init.trunc_normal_(part.weight, std=0.01)
                nn.init.zeros_(part.bias)

    def forward_features(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, S, S) -> (B, 1 + T, 768): CLS, then T/3 tokens a level."""
        image_maps = self.image_network(images)
        landmark_maps = self.landmark_network(images * self.landmark_scale + self.landmark_shift)
        tokens = [
            embed(level(image_map, landmark_map)).flatten(2).transpose(1, 2)  # (B, T/3, 768)
            for embed, level, image_map, landmark_map in zip(
                self.embeds, self.levels, image_maps, landmark_maps, strict=True
            )
        ]
        cls = self.cls_token.expand(images.shape[0], -1, -1)  # len() would fix it in an export
        return self.norm(self.blocks(torch.cat([cls, *tokens], dim=1) + self.pos_embed))

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, 1 + T, 768) -> the gated CLS feature (B, 768), or class logits (B, C)."""
        pooled = features[:, 0]
        pooled = self.drop(pooled * self.gate(pooled))
        return pooled if pre_logits else self.classifier(pooled)

    def get_classifier(self) -> nn.Module:
        """The plain linear classifier."""
        return self.classifier

    def no_weight_decay(self) -> set[str]:
        """Names of the position embedding, the CLS token and the relative position tables."""
        tables = {name for name, _ in self.named_parameters() if name.endswith("bias_table")}
        return {"pos_embed", "cls_token"} | tables


def _channels(network: nn.Module, key: str) -> Tensor:
    return torch.tensor(network.pretrained_cfg[key]).view(1, -1, 1, 1)
