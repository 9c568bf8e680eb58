"""Attention over several feature maps: which maps, their tokens, and weights on one grid."""

import pytest
import timm
import torch

from grefel_lib import estimate, evaluation, levels, losses, model
from grefel_lib.config import Config

LITE = {"backbone_weights": "none", "image_size": 64, "attention_levels": 2}


def build(**settings):
    config = Config.resolve({"profile": "lite"} | LITE | settings)
    return model.build(config, 8).eval(), config


def test_a_pyramid_gives_the_map_before_its_last_and_equal_blocks_evenly_spaced_ones():
    lite = timm.create_model("tf_efficientnet_lite0")
    assert levels.earlier(lite, 0) == {}
    assert levels.earlier(lite, 1) == {3: 112}
    assert levels.earlier(lite, 2) == {2: 40, 3: 112}
    vit = timm.create_model("test_vit")
    blocks = len(vit.blocks)
    assert levels.earlier(vit, 1) == {blocks // 2 - 1: vit.embed_dim}


def test_more_maps_than_there_are_or_none_at_all_is_an_error_that_names_the_setting():
    lite = timm.create_model("tf_efficientnet_lite0")
    with pytest.raises(ValueError, match=r"attention_levels must be at most 5.*got 6"):
        levels.earlier(lite, 5)
    with pytest.raises(ValueError, match="attention_levels must be 1"):
        levels.earlier(torch.nn.Linear(1, 1), 1)
    with pytest.raises(ValueError, match="attention_levels must be 1 with extractor"):
        Config(extractor="window_cross_attention", attention_levels=2)


@pytest.mark.parametrize(
    "name",
    [
        "tf_efficientnet_lite0",
        "test_resnet",
        "test_convnext",
        "test_vit",
        "swin_tiny_patch4_window7_224",
    ],
)
def test_the_last_features_are_those_that_the_backbone_gives_without_earlier_maps(name):
    net = timm.create_model(name, num_classes=0).eval()
    size = net.pretrained_cfg["input_size"][-1] if net.pretrained_cfg["fixed_input_size"] else 64
    images = torch.randn(2, 3, size, size)
    with torch.inference_mode():
        alone, last = levels.extract(net, images, ())
        features, early, again = levels.extract(net, images, tuple(levels.earlier(net, 1)))
    torch.testing.assert_close(features, alone)
    torch.testing.assert_close(again, last)
    assert early.shape[1] >= last.shape[1]
    assert early.shape[2] == next(iter(levels.earlier(net, 1).values()))


def test_the_earlier_map_is_the_one_at_half_the_reduction():
    net = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()
    seen = {}
    net.blocks[4].register_forward_hook(lambda _, __, out: seen.update(out=out))
    with torch.inference_mode():
        _, early, _ = levels.extract(net, torch.randn(2, 3, 64, 64), (3,))
    torch.testing.assert_close(early, seen["out"].flatten(2).transpose(1, 2))


def test_weights_of_two_maps_come_onto_the_finer_one_and_none_is_lost():
    weights = torch.rand(3, 25 + 9)
    weights = weights / weights.sum(dim=1, keepdim=True)
    fine = levels.on_finest(weights, [25, 9])
    assert fine.shape == (3, 25)
    torch.testing.assert_close(fine.sum(dim=1), torch.ones(3))
    corner = torch.zeros(1, 4 + 1)
    corner[0, 0], corner[0, 4] = 0.6, 0.4  # 0.4 spread over the four positions that it covers
    torch.testing.assert_close(
        levels.on_finest(corner, [4, 1]), torch.tensor([[0.7, 0.1, 0.1, 0.1]])
    )


def test_weight_on_a_map_that_nothing_looked_at_stays_finite():
    fine = levels.on_finest(torch.tensor([[0.25] * 4 + [0.0]]), [4, 1])
    torch.testing.assert_close(fine, torch.full((1, 4), 0.25))


def test_two_maps_train_every_parameter_and_the_attention_is_drawn_on_the_finer_grid():
    net, config = build()
    images = torch.randn(4, 3, 64, 64)
    output = net(images)
    assert output.attention.shape == (4, 16)  # 1/16 of 64 pixels, squared; the last map has 4
    torch.testing.assert_close(output.attention.sum(dim=1), torch.ones(4))
    maps = evaluation.attention_maps(output.attention.detach().numpy(), config)
    assert maps.shape == (4, 4, 4)
    losses.total_loss(output, torch.eye(8)[:4], config)["loss"].backward()
    for name, parameter in net.head.named_parameters():
        if not name.startswith("reliability"):
            assert parameter.grad.abs().sum() > 0, name


def test_a_face_is_scored_the_same_alone_and_in_a_batch():
    net, _ = build()
    images = torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(net(images).log_probs[:1], net(images[:1]).log_probs)


def test_one_map_builds_the_head_without_levels_and_so_does_no_attention():
    assert build(attention_levels=1)[0].head.levels is None
    for without in ({"branches": "anchors"}, {"correction": "none"}):
        net, _ = build(**without)
        assert net.head.levels is None
        assert net.earlier == ()


def test_an_earlier_map_shifts_the_attentive_distribution_alone():
    net, _ = build()
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        before = net(images)
        net.head.levels.project[0][0].weight.normal_()
        after = net(images)
    torch.testing.assert_close(before.primary_log_probs, after.primary_log_probs)
    torch.testing.assert_close(before.geometric_log_probs, after.geometric_log_probs)
    assert not torch.equal(before.attentive_log_probs, after.attentive_log_probs)


def test_the_estimate_counts_the_projections():
    config = Config.resolve({"profile": "lite"} | LITE)
    one, two = (estimate.step(config.replace(attention_levels=n)) for n in (1, 2))
    width, last = config.embedding_dim, 1280
    added = (112 + last + 2) * width + 4 * width  # two layers with biases, two norms
    added += 2 * width * (width - last)  # keys and values are of width D now
    assert two["weights"] - one["weights"] == added
