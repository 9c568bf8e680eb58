"""The window extractor: its shapes, its parameters as published, its place under the model."""

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from grefel_lib.backbone import build_backbone, check_backbone
from grefel_lib.config import Config
from grefel_lib.grefel import build_model
from grefel_lib.losses import total_loss
from grefel_lib.window_attention import CrossAttention, WindowCrossAttention, window_sides

B, C, SIZE, T = 3, 7, 64, 12  # 3 x 2 x 2 tokens
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


class Maps(nn.Module):
    """A stand-in for a network: its maps have the widths and sizes of a published one."""

    def __init__(self, channels, reductions, normalisation=IMAGENET):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Conv2d(3, width, kernel_size=reduction, stride=reduction)
            for width, reduction in zip(channels, reductions, strict=True)
        )
        self.feature_info = SimpleNamespace(channels=lambda: channels, reduction=lambda: reductions)
        self.pretrained_cfg = normalisation

    def forward(self, images):
        self.seen = images
        return [layer(images) for layer in self.layers]


def published(image_size=SIZE, normalisation=IMAGENET):
    """The fusion between maps of IR-50's and MobileFaceNet's widths and sizes."""
    ir50 = Maps((64, 128, 256), (4, 8, 16))  # it halves the image first: 56, 28 and 14 at 224 px
    mobilefacenet = Maps((64, 128, 512), (8, 16, 32), normalisation)
    return WindowCrossAttention(ir50, mobilefacenet, image_size=image_size).eval()


def tiny(**changes):
    return Config(
        extractor="window_cross_attention", backbone="test_resnet", backbone_weights="none",
        landmark_backbone="test_efficientnet", landmark_weights="none", embedding_dim=32,
    ).replace(**{"image_size": SIZE} | changes)  # fmt: skip


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return build_model(tiny(), C).eval()


# -- shapes


def test_every_level_has_its_size_and_gives_as_many_tokens_as_the_smallest():
    extractor = published(image_size=224)
    images = torch.randn(1, 3, 224, 224)
    maps = zip(extractor.image_network(images), extractor.landmark_network(images), strict=True)
    seen = []
    with torch.no_grad():
        for level, embed, (image, landmark) in zip(
            extractor.levels, extractor.embeds, maps, strict=True
        ):
            out = level(image, landmark)
            seen.append((image.shape[1:], landmark.shape[1:], out.shape[1:], embed(out).shape[1:]))
        features = extractor.forward_features(images)
    assert seen == [
        ((64, 56, 56), (64, 28, 28), (64, 28, 28), (768, 7, 7)),
        ((128, 28, 28), (128, 14, 14), (128, 14, 14), (768, 7, 7)),
        ((256, 14, 14), (512, 7, 7), (256, 7, 7), (768, 7, 7)),
    ]
    assert features.shape == (1, 1 + 147, 768)
    assert extractor.forward_head(features, pre_logits=True).shape == (1, 768)


@pytest.mark.parametrize(("size", "sides"), [(48, (6, 3, 2)), (96, (12, 6, 3)), (112, (14, 7, 4))])
def test_other_image_sizes_have_other_windows(size, sides):
    assert window_sides(size) == sides
    extractor = build_backbone(tiny(image_size=size))
    assert extractor.forward_features(torch.randn(2, 3, size, size)).shape == (
        2,
        1 + 3 * sides[-1] ** 2,
        768,
    )


def test_maps_that_fit_need_no_adapter():
    adapters = [type(level.landmark_adapter) for level in published().levels]
    assert adapters == [nn.Identity, nn.Identity, nn.Conv2d]


# -- the attention


def test_attention_by_hand():
    """One query at row 1, column 0 of a 2x2 window, one head: scores, bias, softmax, mean."""
    attention = CrossAttention(4, heads=1, window=2)
    queries, images = torch.randn(1, 4, 4), torch.randn(1, 4, 4)
    keys, values = attention.key_value(images)[0].split(4, dim=1)
    scores = []
    for place, key in enumerate(keys):
        down, right = 1 - place // 2, 0 - place % 2  # from the position looked at to the query
        bias = attention.bias_table[(down + 1) * 3 + (right + 1), 0]
        scores.append(queries[0, 2] @ key / 4**0.5 + bias)
    by_hand = attention.project(torch.stack(scores).softmax(0) @ values)
    torch.testing.assert_close(attention(queries, images)[0, 2], by_hand)


def test_the_landmarks_steer_what_a_position_takes_from_the_image():
    extractor = published()
    for level in extractor.levels:  # layer scale starts at 1e-5
        nn.init.ones_(level.scale1)
    images = torch.randn(B, 3, SIZE, SIZE)

    def shuffled(module, inputs, maps):
        return [m.flatten(2)[:, :, torch.randperm(m[0, 0].numel())].view_as(m) for m in maps]

    with torch.no_grad():
        before = extractor.forward_features(images)
        extractor.landmark_network.register_forward_hook(shuffled)
        after = extractor.forward_features(images)
    assert (after - before).abs().max() > 1e-2


def test_the_landmark_network_sees_images_normalised_its_own_way():
    extractor = published(normalisation=HALF)
    pixels = torch.rand(B, 3, SIZE, SIZE)
    mean, std = (torch.tensor(IMAGENET[key]).view(3, 1, 1) for key in ("mean", "std"))
    extractor.forward_features((pixels - mean) / std)
    torch.testing.assert_close(extractor.landmark_network.seen, (pixels - 0.5) / 0.5)


# -- parameters


def test_the_fusion_has_the_published_number_of_parameters():
    """What POSTER++ builds between its two networks and its classifier, layer by layer.

    The published 43.7 M are the layers that its profiler met: IR-50 without its last stage
    17,611,968, MobileFaceNet with its output layer 911,232 + 96,016, this fusion 25,225,358, a
    classifier of 7 classes 5,383, less the 125,646 of tables, scales, CLS and positions, which
    belong to no layer: 43,724,311. Compared here is the fusion alone, as a whole: our networks
    come from timm, and the head is GReFEL's.
    """

    def linear(inputs, outputs):
        return inputs * outputs + outputs

    def conv(inputs, outputs, side):
        return inputs * outputs * side**2 + outputs

    def norm(width):
        return 2 * width

    def level(dim, heads, window):
        return sum(
            [
                conv(dim, dim, 3),  # halves the image map
                norm(dim),
                linear(dim, 2 * dim),  # keys and values
                (2 * window - 1) ** 2 * heads,  # relative position table
                linear(dim, dim),  # projection
                norm(dim),
                linear(dim, 4 * dim) + linear(4 * dim, dim),  # MLP
                2 * dim,  # two layer scales
            ]
        )

    block = sum(
        [
            norm(768) + linear(768, 3 * 768) + linear(768, 768),  # attention
            norm(768) + linear(768, 4 * 768) + linear(4 * 768, 768),  # MLP
        ]
    )
    fusion = sum(
        [
            level(64, 2, 28) + level(128, 4, 14) + level(256, 8, 7),
            conv(512, 256, 3),  # MobileFaceNet's last map
            conv(64, 768, 3) + conv(768, 768, 3),  # level 1 to tokens
            conv(128, 768, 3),  # level 2
            conv(256, 768, 1),  # level 3
            768 + (1 + 147) * 768,  # CLS and positions
            2 * block + norm(768),
            2 * linear(768, 768),  # gate
        ]
    )
    unlayered = sum(
        [
            55**2 * 2 + 27**2 * 4 + 13**2 * 8,  # tables
            2 * (64 + 128 + 256),  # scales
            149 * 768,  # CLS and positions
        ]
    )
    networks = 17_611_968 + 911_232 + 96_016
    assert networks + fusion + linear(768, 7) - unlayered == 43_724_311

    extractor = published(image_size=224)
    for network in (extractor.image_network, extractor.landmark_network):
        network.requires_grad_(False)
    ours = sum(p.numel() for p in extractor.parameters() if p.requires_grad)
    assert ours == fusion == 25_225_358


def test_every_parameter_gets_a_gradient_but_none_of_the_spared_ones_decays(net):
    for part in net.backbone.image_network.modules():
        if isinstance(part, nn.BatchNorm2d):  # the last of a residual branch starts at zero
            nn.init.ones_(part.weight)
    output = net(torch.randn(B, 3, SIZE, SIZE))
    total_loss(output, torch.eye(C)[:B], tiny())["loss"].backward()
    sums = {n: 0 if p.grad is None else p.grad.abs().sum() for n, p in net.named_parameters()}
    assert [name for name, total in sums.items() if total == 0] == []
    spared = net.no_weight_decay() - {"head.anchors"}
    assert spared == {"backbone.cls_token", "backbone.pos_embed"} | {
        f"backbone.levels.{i}.attention.bias_table" for i in range(3)
    }
    assert spared <= sums.keys()


# -- under the model


def test_a_face_is_scored_the_same_alone_and_in_a_batch_and_attended_in_its_own_tokens(net):
    images = torch.randn(B, 3, SIZE, SIZE)
    with torch.no_grad():
        together, alone = net(images), net(images[:1])
    assert together.log_probs.shape == (B, C)
    assert together.attention.shape == (B, T)
    torch.testing.assert_close(together.log_probs[:1], alone.log_probs, rtol=0, atol=1e-5)
    torch.testing.assert_close(together.reliability[:1], alone.reliability, rtol=0, atol=1e-5)


def test_half_precision_stays_finite(net):
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        output = net(torch.randn(B, 3, SIZE, SIZE))
    assert torch.isfinite(output.log_probs).all()


def test_a_linear_head_is_the_plain_classifier_and_weights_come_from_files(tmp_path):
    whole = {}
    for name in ("test_resnet", "test_efficientnet"):
        config = Config(backbone=name, backbone_weights="none", image_size=SIZE, output_stride=32)
        whole[name] = build_backbone(config, num_classes=5).state_dict()
        save_file(whole[name], tmp_path / f"{name}.safetensors")
    config = tiny(
        head="linear",
        backbone_weights=str(tmp_path / "test_resnet.safetensors"),
        landmark_weights=str(tmp_path / "test_efficientnet.safetensors"),
    )
    linear = build_model(config, C).eval()
    nn.init.normal_(linear.backbone.get_classifier().weight)  # it starts from zero
    images = torch.randn(2, 3, SIZE, SIZE)
    logits = linear.backbone.forward_head(linear.backbone.forward_features(images))
    assert logits.shape == (2, C)
    torch.testing.assert_close(linear(images).log_probs, logits.log_softmax(1))
    networks = (linear.backbone.image_network, linear.backbone.landmark_network)
    for network, state in zip(networks, whole.values(), strict=True):
        for name, tensor in network.model.state_dict().items():
            torch.testing.assert_close(tensor, state[name], rtol=0, atol=0)


REFUSED = [
    ({"backbone": "vit_tiny_patch16_224"}, "reductions 8, 16 and 32.*vit_tiny.*16, 16, 16.*resnet"),
    ({"landmark_backbone": "mobilefacenet"}, "timm has no backbone 'mobilefacenet'"),
    ({"landmark_backbone": "inception_v3", "image_size": 224}, "inception_v3.*25x25.*multiple"),
    (
        {"backbone": "inception_v3"},
        "'inception_v3'.*no feature maps for window_cross_attention at image_size 64",
    ),
    ({"image_size": 32}, "image_size 32.*4x4, 2x2, 1x1.*at least 64"),
    (
        {"landmark_weights": "nowhere.pth"},
        "no weight file at nowhere.pth; landmark_weights must",
    ),
]


@pytest.mark.parametrize(("changes", "told"), REFUSED)
def test_what_gives_no_three_levels_is_refused_before_anything_is_built(changes, told):
    with pytest.raises((ValueError, FileNotFoundError), match=told):
        check_backbone(tiny(**changes))


def test_a_checkpoint_brings_the_weights_of_both_networks():
    child = Config.resolve({}, parent=tiny(backbone_weights="hub", landmark_weights="hub"))
    assert (child.extractor, child.backbone) == ("window_cross_attention", "test_resnet")
    assert (child.backbone_weights, child.landmark_weights) == ("none", "none")
