"""One small network of every timm family trains, or is refused in one line before the start."""

import pytest
import timm
import torch

from grefel_lib.backbone import build_backbone, check_backbone, earlier_width
from grefel_lib.config import Config
from grefel_lib.grefel import build_model
from grefel_lib.losses import total_loss

SMALL = [
    "beit_base_patch16_224",
    "halonet_h1",
    "mobileone_s1",
    "cait_xxs24_224",
    "coat_tiny",
    "convit_tiny",
    "convmixer_768_32",
    "test_convnext",
    "cpubone_nano",
    "crossvit_tiny_240",
    "csatv2",
    "cs3darknet_focus_s",
    "cspnext_tiny",
    "davit_tiny",
    "deepseek_vit_412m",
    "deit_tiny_patch16_224",
    "densenet121",
    "dla46x_c",
    "dpn48b",
    "edgenext_xx_small",
    "efficientformer_l1",
    "efficientformerv2_s0",
    "test_efficientnet",
    "efficientvim_m1",
    "efficientvit_b0",
    "efficientvit_m0",
    "vit_tiny_patch16_dinov3_qkvb",
    "fasternet_t0",
    "fastvit_t8",
    "focalnet_tiny_srf",
    "gcvit_xxtiny",
    "gemma4_vit_167m",
    "ghostnet_050",
    "hardcorenas_a",
    "hgnetv2_b0",
    "hiera_tiny_224",
    "sam2_hiera_tiny",
    "hrnet_w18_ssld",
    "iformer_t",
    "inception_next_atto",
    "inception_resnet_v2",
    "inception_v3",
    "inception_v4",
    "lcnetv2_small",
    "levit_128s",
    "lowformer_b0",
    "test_mambaout",
    "maxvit_pico_rw_256",
    "poolformerv2_s12",
    "gmlp_ti16_224",
    "lcnet_035",
    "mobilenetv5_300m",
    "mobilevit_xxs",
    "mvitv2_tiny",
    "naflexvit_base_patch16_parfac_gap",
    "nasnetalarge",
    "nest_tiny",
    "nextvit_small",
    "nf_regnet_b0",
    "pit_ti_224",
    "pnasnet5large",
    "pvt_v2_b0",
    "qwen3_vit_88m",
    "rdnet_tiny",
    "regnetx_002",
    "repghostnet_050",
    "repvit_m0_9",
    "res2next50",
    "resnest14d",
    "test_resnet",
    "resnetv2_18",
    "rexnet_100",
    "selecsls42",
    "legacy_seresnet18",
    "sequencer2d_s",
    "shvit_s1",
    "skresnet18",
    "starnet_s050",
    "swiftformer_xs",
    "swin_tiny_patch4_window7_224",
    "swinv2_tiny_window8_256",
    "swinv2_cr_tiny_224",
    "tiny_vit_5m_224",
    "tnt_s_legacy_patch16_224",
    "tresnet_m",
    "twins_svt_small",
    "vgg11",
    "visformer_tiny",
    "test_vit",
    "vit_tiny_r_s16_p8_224",
    "test_vit_relpos",
    "samvit_base_patch16_224",
    "vitamin_small_224",
    "volo_d1_224",
    "ese_vovnet19b_slim_dw",
    "legacy_xception",
    "xception41p",
    "xcit_nano_12_p8_224",
]  # of each family the network with the fewest parameters
REFUSED = {  # at 64 pixels, and why
    "coat_tiny": "not one map",
    "crossvit_tiny_240": "timm's own size is 240",
    "efficientvim_m1": "not one map",
    "halonet_h1": "does not support this size",
    "efficientformer_l1": "timm's own size is 224",
}
HEAVY = (  # 80 million parameters and more: seconds and gigabytes; checked, not trained
    "beit_base_patch16_224", "deepseek_vit_412m", "gemma4_vit_167m", "mobilenetv5_300m",
    "naflexvit_base_patch16_parfac_gap", "nasnetalarge", "pnasnet5large", "qwen3_vit_88m",
    "samvit_base_patch16_224", "vgg11",
)  # fmt: skip


def _one_of_each_family():
    for family in timm.list_modules():
        names = timm.list_models(module=family)
        if names:  # a family that a newer timm adds is here by its shortest name
            yield next((name for name in SMALL if name in names), min(names, key=len))


def _config(name, size=64, **changes):
    changes = {"embedding_dim": 32, "backbone_weights": "none"} | changes
    return Config(backbone=name, image_size=size, **changes)


def _train_step(config):
    net = build_model(config, 5)
    output = net(torch.randn(2, 3, config.image_size, config.image_size))
    total_loss(output, torch.eye(5)[:2], config)["loss"].backward()
    assert output.log_probs.shape == (2, 5)
    return net


@pytest.mark.parametrize("name", list(_one_of_each_family()))
def test_one_network_of_every_family_trains_or_is_refused(name):
    config = _config(name, 70 if "deepseek" in name else 96 if "inception" in name else 64)
    if name in REFUSED:
        with pytest.raises(
            ValueError, match=f"backbone '{name}' cannot .*{REFUSED[name]}"
        ) as error:
            check_backbone(config)
        assert "\n" not in str(error.value)
        return
    check_backbone(config)
    if name in HEAVY:
        return
    net = _train_step(config)
    gradients = [p.grad for p in net.backbone.parameters() if p.grad is not None]
    assert sum(gradient.abs().sum() for gradient in gradients) > 0


@pytest.mark.parametrize(
    "name", ["levit_128s", "repvit_m0_9", "sequencer2d_s", "crossvit_tiny_240"]
)
def test_a_classifier_of_another_kind_is_refused_before_the_start(name):
    config = _config(name, 240 if "240" in name else 64, head="linear")
    with pytest.raises(ValueError, match=f"'{name}' cannot be used with head=linear .* classifier"):
        check_backbone(config)


@pytest.mark.parametrize("name", ["dla46x_c", "resnetv2_18", "coat_tiny"])
def test_a_convolution_classifies_as_well_as_a_linear_layer(name):
    _train_step(_config(name, head="linear"))


def test_a_check_draws_no_random_number():
    before = torch.get_rng_state()
    check_backbone(_config("vit_tiny_patch16_224", 48))
    assert torch.equal(torch.get_rng_state(), before)


def test_overlapping_patches_need_no_multiple_of_their_width():
    check_backbone(_config("pvt_v2_b0", 64))  # 7 pixels wide, 4 apart
    with pytest.raises(ValueError, match="not a multiple of the 16-pixel patches"):
        check_backbone(_config("vit_tiny_patch16_224", 100))


def test_an_output_stride_that_is_not_supported_is_told_once_or_refused(caplog):
    build_backbone(_config("fastvit_t8", output_stride=8))
    assert [record.args for record in caplog.records] == [("fastvit_t8",)]
    words = "'starnet_s050' does not support image_size 64 with output_stride 8: not supported"
    with pytest.raises(ValueError, match=words):
        check_backbone(_config("starnet_s050", output_stride=8))


@pytest.mark.parametrize(
    "name", ["test_resnet", "test_vit", "test_efficientnet", "mobilenetv1_100", "test_convnext"]
)
def test_branches_on_an_earlier_map_leave_the_primary_classifier_as_it_is(name):
    config = Config(backbone=name, image_size=64, backbone_weights="none")
    torch.manual_seed(0)
    plain = build_model(config, 5).eval()
    torch.manual_seed(0)
    net = build_model(config.replace(branch_features="earlier"), 5).eval()
    net.backbone.load_state_dict(plain.backbone.state_dict())
    net.head.primary.load_state_dict(plain.head.primary.state_dict())
    images = torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        before, after = plain(images), net(images)
        alone = net(images[1:2])
        [earlier] = net.backbone.forward_intermediates(images, indices=[-2])[1]  # (B, F_b, h, w)
        reduced = net.head.reduce(earlier.mean(dim=(2, 3)))
    on_sphere = reduced / reduced.norm(dim=1, keepdim=True) * reduced.shape[1] ** 0.5
    torch.testing.assert_close(after.embeddings, on_sphere, atol=1e-4, rtol=0)
    assert torch.equal(after.primary_log_probs, before.primary_log_probs)
    width = net.head.reduce.in_features
    assert (width, *after.attention.shape)[:2] == (earlier_width(name, 64, 0), 3)
    assert after.attention.shape[1] >= before.attention.shape[1]
    torch.testing.assert_close(alone.log_probs, after.log_probs[1:2], atol=1e-5, rtol=0)


def test_a_network_without_an_earlier_map_is_refused_in_one_line():
    config = Config(backbone="hiera_tiny_224", image_size=224, backbone_weights="none")
    with pytest.raises(ValueError, match=r"gives no feature map .*; use branch_features=last$"):
        check_backbone(config.replace(branch_features="earlier"))
    check_backbone(config.replace(branch_features="earlier", head="linear"))
    check_backbone(config.replace(branch_features="earlier", correction="none"))
