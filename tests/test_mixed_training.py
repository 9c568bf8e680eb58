"""Training with every batch mixed: faces, targets and loss stay together.

A face of one grey that is mixed from others says by its grey in which shares.
"""

import numpy as np
import pytest
import torch
from grey_faces import grey_faces

from grefel_lib import fit as fitting
from grefel_lib.config import Config
from grefel_lib.fit import start_training, train_epoch
from grefel_lib.run import Run

FACES = 24
GREYS = np.linspace(10, 240, FACES).round()


@pytest.mark.parametrize(("mixup", "cutmix"), [(1.0, 0.0), (0.0, 1.0), (0.4, 0.4)])
def test_mixed_faces_have_targets_of_the_same_shares_and_the_loss_sees_them(
    tmp_path, monkeypatch, mixup, cutmix
):
    config = Config(
        backbone="test_resnet", backbone_weights="none", image_size=32, embedding_dim=16,
        batch_size=8, epochs=2, warmup_epochs=0, drop_rate=0, augmentation="none",
        mix_prob=1, mixup_alpha=mixup, cutmix_alpha=cutmix, label_smoothing=0.2,
        lambda_branch=0, lambda_anchor=0, lambda_center=0, lambda_rel=0,
    )  # fmt: skip
    total, seen = fitting.total_loss, []

    def watched(output, targets, *rest):
        seen.append((output.log_probs.detach(), targets))
        return total(output, targets, *rest)

    monkeypatch.setattr(fitting, "total_loss", watched)
    training = start_training(grey_faces(FACES, FACES), Run(tmp_path, config))
    inputs = []
    training.net.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    mean, std = training.net.mean[0], training.net.std[0]
    row = train_epoch(training, print)

    assert len(seen) == len(inputs) == FACES // 8
    losses, greys = [], torch.tensor(GREYS / 255, dtype=torch.float32)
    for faces, (log_probs, targets) in zip(inputs, seen, strict=True):
        torch.testing.assert_close(targets.sum(dim=1), torch.ones(8))
        assert ((targets > 0).sum(dim=1) == 2).all()  # each of two faces
        found = faces[:, 0].mean(dim=(1, 2)) * std + mean
        torch.testing.assert_close(found, targets @ greys, atol=1e-4, rtol=0)
        smoothed = 0.8 * targets + 0.2 / FACES
        losses.append(-(smoothed * log_probs).sum(dim=1).mean().item())
    assert row["train_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
