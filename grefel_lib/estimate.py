"""What a training step should cost on a GPU nobody has tried yet: arithmetic, traffic, memory."""

from unittest import mock

import pandas as pd
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from grefel_lib import levels, losses, model
from grefel_lib.config import Config

# bf16 products per second (dense, float32 sums) and bytes per second, by NVIDIA's data sheets
CARDS = {
    "RTX 3090": (71e12, 936e9), "RTX 4090": (165e12, 1008e9),
    "A100 80 GB": (312e12, 2039e9), "H100 SXM": (989e12, 3350e9),
}  # fmt: skip
REACHED = 0.4  # of the peak, by well-fed networks of this kind
PER_WEIGHT = 4 + 4 + 8 + 4 + 2  # bytes: weight, gradient, two moments, EMA, bf16 copy
TOUCHED = 4  # times an activation is moved: written, read again, and its gradient likewise
UPDATE = 7 * 4  # bytes moved for a weight in an update: gradient, weight and two moments, twice


def step(config: Config, *, num_classes: int = 8) -> dict[str, float]:
    """Count one training step without computing it.

    Returns:
        weights (number), flops (a face, forward and backward), kept_bytes (activations a face).
    """
    faces = 2
    with torch.device("meta"):  # shapes alone
        net = model.build(config.replace(backbone_weights="none"), num_classes).train()
        net.backbone.bfloat16()
        images = torch.empty(faces, 3, config.image_size, config.image_size, dtype=torch.bfloat16)
        targets = torch.empty(faces, num_classes)
    own = {parameter.untyped_storage()._cdata for parameter in net.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    def fused(q: Tensor, k: Tensor, v: Tensor, **_: object) -> Tensor:
        """Attention as a GPU computes it, keeping no (T, T) map."""
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]

    attention = mock.patch.object(torch.nn.functional, "scaled_dot_product_attention", fused)
    with attention, FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            if net.head is None:
                logits = net.backbone.forward_head(net.backbone.forward_features(images))
                output = model.Output(logits.float().log_softmax(dim=1))
            else:  # the model's own forward asks for autocast, which knows no meta device
                features, *tokens = levels.extract(net.backbone, images, net.earlier)
                pooled = net.backbone.forward_head(features, pre_logits=True)
                output = net.head(pooled.float(), *tokens)
            loss = losses.total_loss(output, targets, config)["loss"]
        loss.backward()
    return {
        "weights": sum(p.numel() for p in net.parameters()),
        "flops": counter.get_total_flops() / faces,
        "kept_bytes": sum(kept.values()) / faces,
    }


def on_gpus(config: Config, *, faces: int) -> pd.DataFrame:
    """Estimate a training on common cards; nothing here is measured.

    Args:
        config: Of the training; its batch_size counts.
        faces: In an epoch.

    Returns:
        A row a card: the limits of arithmetic and of memory traffic in images/s, what to expect
        (40% of the former, at most the latter), seconds an epoch, and memory in GB.
    """
    cost = step(config)
    moved = TOUCHED * cost["kept_bytes"] + UPDATE * cost["weights"] / config.batch_size
    memory = PER_WEIGHT * cost["weights"] + config.batch_size * cost["kept_bytes"]
    rows = {}
    for card, (products, bandwidth) in CARDS.items():
        arithmetic, traffic = products / cost["flops"], bandwidth / moved
        expected = min(REACHED * arithmetic, traffic)
        rows[card] = {
            "arithmetic allows": round(arithmetic), "traffic allows": round(traffic),
            "expect images/s": round(expected), "seconds an epoch": round(faces / expected),
            "memory (GB)": round(memory / 1e9, 1),
        }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index")
