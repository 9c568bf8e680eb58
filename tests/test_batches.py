"""Augmentation: one draw per image, ranges, mixing, the backbone's normalisation."""

import numpy as np
import pandas as pd
import pytest
import torch

from grefel_lib import batches
from grefel_lib.batches import (
    STRENGTHS,
    Strength,
    _erase,
    _move,
    _relight,
    augment,
    batch_loader,
    mix_batch,
    prepare_input,
    to_float,
)
from grefel_lib.faces import FaceSet


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


# -- each change at its largest, by hand


@pytest.fixture
def largest(monkeypatch):
    """Every draw between two ends is the upper end, and no face is flipped."""
    monkeypatch.setattr(batches, "_uniform", lambda batch, most, device: torch.full((batch,), most))
    monkeypatch.setattr(torch, "rand", lambda *shape, device=None: torch.full(shape, 0.7))


def strength(**changes):
    still = dict.fromkeys(
        ("degrees", "zoom", "shift", "brightness", "contrast", "noise", "erase"), 0
    )
    return Strength(**still | changes)


def two_faces():
    return torch.empty(2, 3, 32, 32).uniform_()  # torch.rand may be patched


def test_a_quarter_turn_is_a_quarter_turn(largest):
    images = two_faces()
    turned = _move(images, strength(degrees=90))
    torch.testing.assert_close(turned, images.rot90(1, dims=(2, 3)), atol=1e-4, rtol=0)


def test_a_flipped_face_is_the_mirror_image_of_the_turned_one(largest, monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda *shape, device=None: torch.full(shape, 0.3))
    images = two_faces()
    turned = _move(images, strength(degrees=90))
    expected = images.rot90(1, dims=(2, 3)).flip(3)
    torch.testing.assert_close(turned, expected, atol=1e-4, rtol=0)


def test_zoom_takes_so_much_more_of_the_picture(largest):
    images = two_faces().repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)  # 64 x 64
    zoomed = _move(images, strength(zoom=1.0))  # twice as much: the face is half as large
    inner = images.unfold(2, 2, 2).unfold(3, 2, 2).mean(dim=(4, 5))
    torch.testing.assert_close(zoomed[:, :, 16:48, 16:48], inner, atol=1e-4, rtol=0)
    corner = images[:, :, :1, :1].expand(-1, -1, 16, 16)  # beyond the edge it repeats the border
    torch.testing.assert_close(zoomed[:, :, :16, :16], corner, atol=1e-4, rtol=0)


def test_a_turned_face_is_as_small_as_an_upright_one(largest):
    images = two_faces()
    turned = _move(images, strength(degrees=90, zoom=0.5))
    upright = _move(images, strength(zoom=0.5))
    torch.testing.assert_close(turned, upright.rot90(1, dims=(2, 3)), atol=1e-3, rtol=0)


def test_a_shift_is_a_share_of_the_size_in_both_directions(largest):
    images = two_faces()
    shifted = _move(images, strength(shift=0.25))
    torch.testing.assert_close(shifted[:, :, :24, :24], images[:, :, 8:, 8:], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["degrees", "zoom", "shift"])
def test_movements_go_both_ways_and_every_face_has_its_own(name):
    images = two_faces()[:1].expand(100, -1, -1, -1)
    moved = _move(images, strength(**{name: 0.2 * (90 if name == "degrees" else 1)}))
    assert len(moved.flatten(1).unique(dim=0)) == 100


def test_draws_fill_the_range_evenly_on_both_sides():
    draws = batches._uniform(4000, 3.0, torch.device("cpu"))
    assert draws.shape == (4000,)
    assert -3 <= draws.min() < -2.9
    assert 2.9 < draws.max() <= 3
    assert draws.mean().abs() < 0.1
    assert draws.std().item() == pytest.approx(3 / 3**0.5, rel=0.05)


def test_brightness_and_contrast_are_shares_of_the_mean_and_of_the_distance_to_it(largest):
    image = torch.tensor([0.2, 0.3, 0.4, 0.5]).view(1, 1, 2, 2)  # mean 0.35
    bright = _relight(image, strength(brightness=0.4))
    torch.testing.assert_close(bright, image + 0.4 * 0.35)
    sharp = _relight(image, strength(contrast=0.5))
    torch.testing.assert_close(sharp, 0.35 + 1.5 * (image - 0.35))
    assert _relight(image * 2, strength(brightness=0.8)).max() == 1


def test_the_mean_is_each_faces_own(largest):
    images = torch.stack([torch.full((1, 4, 4), 0.2), torch.full((1, 4, 4), 0.6)])
    bright = _relight(images, strength(brightness=0.5, contrast=0.9))
    torch.testing.assert_close(bright, images * 1.5)


def test_light_belongs_to_a_face_and_not_to_its_colours_or_batch():
    images = torch.rand(50, 3, 8, 8) * 0.2 + 0.4
    lit = _relight(images, strength(brightness=0.2, contrast=0.2))
    for face, result in zip(images, lit, strict=True):
        # one straight line for all its pixels
        slope = (result.std() / face.std()).item()
        offset = (result.mean() - slope * face.mean()).item()
        torch.testing.assert_close(result, slope * face + offset, atol=1e-4, rtol=0)
    ratio = lit.mean(dim=(1, 2, 3)) / images.mean(dim=(1, 2, 3))
    assert 0.8 <= ratio.min() < 0.84
    assert 1.16 < ratio.max() <= 1.2


def test_noise_is_new_for_every_pixel_and_at_most_so_strong():
    images = torch.full((200, 1, 40, 40), 0.5)
    spread = _relight(images, strength(noise=0.06)).std(dim=(1, 2, 3))
    assert 0.055 < spread.max() < 0.065
    assert spread.min() < 0.005
    assert spread.mean().item() == pytest.approx(0.03, abs=0.004)
    assert torch.equal(_relight(images, strength()), images)


def test_one_rectangle_a_face_is_filled_with_the_mean_of_each_channel():
    images = torch.rand(300, 3, 100, 80)
    erased = _erase(images, 1.0)
    sides, starts = [], []
    for before, after in zip(images, erased, strict=True):
        rows, columns = torch.nonzero((before != after).all(dim=0), as_tuple=True)
        top, bottom, left, right = rows.min(), rows.max(), columns.min(), columns.max()
        high, wide = (bottom - top + 1).item(), (right - left + 1).item()
        assert len(rows) == high * wide  # a full rectangle
        assert (before == after).all(dim=0).sum() == 100 * 80 - high * wide
        fill = after[:, rows, columns]
        torch.testing.assert_close(fill, before.mean(dim=(1, 2))[:, None].expand_as(fill))
        sides += [high / 100, wide / 80]
        starts += [top.item() / (100 - high), left.item() / (80 - wide)]
    assert 0.08 < min(sides) < 0.13
    assert 0.32 < max(sides) < 0.37
    assert np.mean(sides) == pytest.approx(0.225, abs=0.01)
    assert np.mean(starts) == pytest.approx(0.5, abs=0.04)  # anywhere
    assert min(starts) < 0.03
    assert max(starts) > 0.97
    assert np.corrcoef(sides[::2], sides[1::2])[0, 1] < 0.3  # no square
    assert np.corrcoef(starts[::2], starts[1::2])[0, 1] < 0.3


@pytest.mark.parametrize("probability", [0.0, 0.25])
def test_so_many_faces_are_erased(probability):
    images = torch.rand(800, 1, 16, 16)
    share = (_erase(images, probability) != images).any(dim=(1, 2, 3)).float().mean().item()
    assert share == pytest.approx(probability, abs=0.04)


def test_everything_stays_on_the_device_of_the_faces():
    images = to_float(np.zeros((4, 8, 8), np.uint8), "meta")  # a device that only counts shapes
    assert images.device.type == "meta"
    assert augment(images, "heavy").device.type == "meta"
    inputs = prepare_input(images, 16, (0.5,) * 3, (0.5,) * 3)
    assert (inputs.device.type, inputs.shape) == ("meta", (4, 3, 16, 16))


def test_augmenting_moves_relights_and_erases(monkeypatch):
    order = []
    for name in ("_move", "_relight"):
        monkeypatch.setattr(
            batches, name, lambda images, limit, n=name: order.append((n, limit)) or images + 1
        )
    monkeypatch.setattr(
        batches, "_erase", lambda images, share: order.append(("_erase", share)) or images + 1
    )
    limit = STRENGTHS["heavy"]
    assert augment(torch.zeros(1), "heavy") == 3
    assert order == [("_move", limit), ("_relight", limit), ("_erase", limit.erase)]


def test_heavy_goes_further_than_standard_in_everything():
    for name in ("degrees", "zoom", "shift", "brightness", "contrast", "noise", "erase"):
        assert getattr(STRENGTHS["heavy"], name) > getattr(STRENGTHS["standard"], name) >= 0


def test_the_same_seed_draws_the_same(face):
    def drawn():
        torch.manual_seed(7)
        return augment(face.expand(8, -1, -1, -1), "heavy")

    torch.testing.assert_close(drawn(), drawn(), rtol=0, atol=0)


# -- mixing


def mix(images, targets, mixup=0.0, cutmix=0.0, prob=1.0):
    return mix_batch(images, targets, mixup_alpha=mixup, cutmix_alpha=cutmix, prob=prob)


@pytest.mark.parametrize("alphas", [(0.2, 0.0), (0.0, 1.0), (0.2, 1.0)])
def test_soft_targets_are_mixed_by_the_shares_of_their_faces(alphas):
    values = torch.linspace(0, 1, 8)
    images = values.view(8, 1, 1, 1).expand(8, 3, 16, 16).contiguous()
    soft = torch.softmax(torch.randn(8, 5), 1)
    for _ in range(20):
        torch.manual_seed(seed := int(torch.randint(10**6, ())))
        mixed, targets = mix(images, soft, *alphas)
        torch.manual_seed(seed)
        _, shares = mix(images, torch.eye(8), *alphas)  # which faces, and how much of each
        assert not torch.equal(mixed, images)
        torch.testing.assert_close(mixed.mean(dim=(1, 2, 3)), shares @ values)
        torch.testing.assert_close(targets, shares @ soft)
        assert ((shares > 0).sum(dim=1) <= 2).all()


def test_mixup_blends_every_pixel_and_cutmix_takes_whole_ones():
    images, targets = (
        torch.arange(8.0).view(8, 1, 1, 1).expand(8, 1, 16, 16).contiguous(),
        torch.eye(8),
    )
    blended, _ = mix(images, targets, mixup=1.0)
    assert all(len(face.unique()) == 1 for face in blended)
    assert not torch.isin(blended, images).all()
    for _ in range(5):
        pasted, _ = mix(images, targets, cutmix=1.0)
        assert torch.isin(pasted, images).all()
    kinds = [torch.isin(mix(images, targets, 1.0, 1.0)[0], images).all() for _ in range(300)]
    assert sum(kinds) / 300 == pytest.approx(0.5, abs=0.1)  # equal chances


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_a_small_alpha_leaves_more_of_a_face_than_a_large_one(kind):
    images, targets = torch.rand(4, 1, 32, 32), torch.eye(4)
    shares = [
        np.mean([mix(images, targets, **{kind: a})[1].max(dim=1).values[0] for _ in range(200)])
        for a in (0.1, 20.0)
    ]
    assert shares[0] > shares[1] + 0.05


@pytest.mark.parametrize("prob", [0.2, 0.8])
def test_so_many_batches_are_mixed(prob):
    images, targets = torch.rand(4, 1, 8, 8), torch.eye(4)
    mixed = [mix(images, targets, 1.0, 1.0, prob)[0] is not images for _ in range(400)]
    assert sum(mixed) / 400 == pytest.approx(prob, abs=0.07)


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


def test_values_and_channels_stay_in_their_places():
    colour = np.zeros((2, 4, 5, 3), np.uint8)
    colour[1, 2, 3] = 255, 51, 102
    floats = to_float(colour)
    assert floats.shape == (2, 3, 4, 5)
    assert floats.dtype == torch.float32
    assert floats[1, :, 2, 3].tolist() == pytest.approx([1, 0.2, 0.4])
    assert floats.count_nonzero() == 3
    grey = np.zeros((2, 4, 5), np.uint8)
    grey[0, 1, 2] = 51
    assert to_float(grey)[0, 0, 1, 2].item() == pytest.approx(0.2)


def test_a_face_of_the_right_size_is_only_normalised():
    images = torch.rand(2, 1, 9, 9)
    same = prepare_input(images, 9, (0.5, 0.4, 0.3), (0.5, 0.25, 1.0))
    for channel, (mean, std) in enumerate(((0.5, 0.5), (0.4, 0.25), (0.3, 1.0))):
        torch.testing.assert_close(same[:, channel], (images[:, 0] - mean) / std)


def test_enlarging_is_bilinear_between_pixel_centres():
    row = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2).expand(1, 1, 2, 2)
    large = prepare_input(row, 4, (0, 0, 0), (1, 1, 1))
    torch.testing.assert_close(large[0, 0], torch.tensor([0, 0.25, 0.75, 1]).expand(4, 4))


def test_shrinking_looks_at_every_pixel():
    stripes = torch.arange(64).remainder(4).eq(0).float().expand(1, 1, 64, 64)  # one in four
    small = prepare_input(stripes, 16, (0, 0, 0), (1, 1, 1))
    assert (small[..., 1:-1] - 0.25).abs().max() < 0.05


@pytest.mark.parametrize("shape", [(6, 4), (4, 6)])
def test_what_is_not_square_becomes_square(shape):
    assert prepare_input(torch.rand(1, 1, *shape), 4, (0,) * 3, (1,) * 3).shape == (1, 3, 4, 4)


# -- loading


def numbered(count=10):
    table = pd.DataFrame({"row": np.arange(count)[::-1]})
    images = np.arange(count, dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2)
    return FaceSet(
        images, table, np.eye(count, dtype=np.float32), tuple(map(str, range(count))), {}
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_holds_the_faces_and_targets_of_its_indices(workers):
    wanted = [np.array([3, 1]), np.array([0, 9, 4])]
    state = torch.get_rng_state()
    loader = batch_loader(numbered(), wanted, num_workers=workers)
    seen = list(loader)
    assert torch.equal(torch.get_rng_state(), state)  # workers change no draw
    assert loader.num_workers == workers
    assert len(seen) == 2
    for (images, targets, indices), expected in zip(seen, wanted, strict=True):
        assert indices.tolist() == expected.tolist()
        assert images.dtype == torch.uint8
        assert images[:, 0, 0].tolist() == (9 - expected).tolist()  # the rows are in reverse
        assert targets.argmax(dim=1).tolist() == expected.tolist()


def test_memory_is_pinned_when_asked_for():
    assert batch_loader(numbered(), [], pin=True).pin_memory
    plain = batch_loader(numbered(), [])
    assert not plain.pin_memory
    assert plain.num_workers == 0
