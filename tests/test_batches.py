"""Augmentation: one draw per image, ranges, mixing, the backbone's normalisation."""

import numpy as np
import pytest
import torch

from grefel_lib.batches import Strength, _move, augment, mix_batch, prepare_input, to_float


@pytest.fixture
def face():
    rows = torch.linspace(0.1, 0.9, 48)
    image = rows[:, None] * rows[None, :].flip(1)
    image[10:16, 8:14] = 1.0
    return image[None, None]


@pytest.mark.parametrize("strength", ["standard", "heavy"])
def test_copies_of_one_face_come_out_all_different(face, strength):
    copies = augment(face.expand(64, -1, -1, -1), strength)
    flat = copies.flatten(1)
    distance = torch.cdist(flat, flat) + torch.eye(64) * 1e3
    assert distance.min() > 1e-2
    assert copies.shape == (64, 1, 48, 48)
    assert copies.min() >= 0
    assert copies.max() <= 1


def test_none_returns_the_faces_unchanged(face):
    assert augment(face, "none") is face


def test_about_half_of_the_faces_are_flipped(face):
    still = Strength(0, 0, 0, 0, 0, 0, 0)
    moved = _move(face.expand(400, -1, -1, -1), still)
    same = torch.isclose(moved, face, atol=1e-4).all(dim=(1, 2, 3))
    flipped = torch.isclose(moved, face.flip(3), atol=1e-4).all(dim=(1, 2, 3))
    assert (same ^ flipped).all()
    assert 150 < flipped.sum() < 250


def test_the_same_seed_draws_the_same(face):
    def drawn():
        torch.manual_seed(7)
        return augment(face.expand(8, -1, -1, -1), "heavy")

    torch.testing.assert_close(drawn(), drawn(), rtol=0, atol=0)


@pytest.mark.parametrize("alphas", [(0.2, 0.0), (0.0, 1.0), (0.2, 1.0)])
def test_mixing_keeps_the_mass_of_soft_targets(alphas):
    images, targets = torch.rand(8, 3, 16, 16), torch.softmax(torch.randn(8, 5), 1)
    changed = 0
    for _ in range(10):
        mixed, mass = mix_batch(
            images, targets, mixup_alpha=alphas[0], cutmix_alpha=alphas[1], prob=1.0
        )
        torch.testing.assert_close(mass.sum(1), torch.ones(8))
        changed += not torch.equal(mixed, images)
    assert changed == 10


def test_mixing_can_be_turned_off():
    images, targets = torch.rand(4, 3, 8, 8), torch.eye(4)
    for mixup, cutmix, prob in ((0, 0, 1), (1, 1, 0)):
        mixed, mass = mix_batch(images, targets, mixup_alpha=mixup, cutmix_alpha=cutmix, prob=prob)
        assert mixed is images
        assert mass is targets


@pytest.mark.parametrize("shape", [(2, 48, 48), (2, 100, 100, 3)])
def test_faces_become_the_backbones_input(shape):
    raw = np.full(shape, 255, dtype=np.uint8)
    inputs = prepare_input(to_float(raw), 64, (0.5, 0.4, 0.3), (0.5, 0.5, 0.5))
    assert inputs.shape == (2, 3, 64, 64)
    for channel, value in enumerate((1.0, 1.2, 1.4)):
        torch.testing.assert_close(inputs[:, channel], torch.full((2, 64, 64), value))
