"""The model: shapes for every kind of backbone, distributions, gradients, weights."""

import math

import pytest
import torch
from safetensors.torch import save_file

from grefel_lib.backbone import build_backbone, check_backbone
from grefel_lib.config import Config
from grefel_lib.grefel import GReFELHead, build_model, combine, confidence
from grefel_lib.losses import total_loss

B, C, K, D, F, T = 5, 7, 3, 16, 24, 9


def make_head(**changes):
    options = {"num_classes": C, "num_anchors": K, "embedding_dim": D, "attention_heads": 2}
    head = GReFELHead(F, token_width=11, **options | changes).eval()
    for classifier in (head.primary[-1], head.attentive):  # near zero at first, not for long
        if classifier is not None:
            classifier.reset_parameters()
    return head


def features(batch=B):
    return torch.randn(batch, F), torch.randn(batch, T, 11)


@pytest.mark.parametrize("correction", ["paper", "trust", "none"])
def test_all_distributions_sum_to_one_with_their_shapes(correction):
    output = make_head(correction=correction)(*features())
    assert output.log_probs.shape == (B, C)
    assert output.reliability.shape == (B,)
    assert ((output.reliability >= 0) & (output.reliability <= 1)).all()
    for log_probs in (output.log_probs, *output.branch_log_probs()):
        torch.testing.assert_close(log_probs.exp().sum(1), torch.ones(B))
    if correction == "none":
        assert output.anchors is None
        assert output.log_probs is output.primary_log_probs
    else:
        assert output.attention.shape == (B, T)
        torch.testing.assert_close(output.attention.sum(1), torch.ones(B))


@pytest.mark.parametrize(("branches", "correction"), [
    ("anchors", "paper"), ("attention", "paper"), ("anchors", "trust"), ("attention", "trust"),
])  # fmt: skip
def test_a_single_branch_is_the_whole_correction(branches, correction):
    output = make_head(branches=branches, correction=correction)(*features())
    g, t = output.geometric_log_probs, output.attentive_log_probs
    assert (g is None, t is None) == (branches == "attention", branches == "anchors")
    assert output.correction_log_probs is (g if t is None else t)
    assert len(list(output.branch_log_probs())) == output.confidences.shape[1] == 2
    torch.testing.assert_close(output.class_probs.sum(1), torch.ones(B))
    assert output.reliability.shape == (B,)


def test_confidence_is_one_for_one_hot_and_the_floor_for_uniform():
    certain = torch.log(torch.eye(C))  # holds -inf
    uniform = torch.full((1, C), -math.log(C))
    torch.testing.assert_close(confidence(certain), torch.ones(C))
    assert confidence(uniform).item() == pytest.approx(1e-6, abs=1e-6)


def test_combining_is_the_weighted_mean():
    a, b = torch.softmax(torch.randn(B, C), 1), torch.softmax(torch.randn(B, C), 1)
    wa, wb = torch.rand(B) + 0.1, torch.rand(B) + 0.1
    by_hand = (wa[:, None] * a + wb[:, None] * b) / (wa + wb)[:, None]
    torch.testing.assert_close(combine(a.log(), b.log(), wa, wb).exp(), by_hand)


def test_trust_zero_leaves_the_primary_and_trust_one_lets_the_correction_in():
    head = make_head(correction="trust")
    pooled, tokens = features()
    head.trust = 0.0
    output = head(pooled, tokens)
    torch.testing.assert_close(output.log_probs, output.primary_log_probs, atol=1e-4, rtol=0)
    head.trust = 1.0
    output = head(pooled, tokens)
    p, r = output.primary_log_probs.exp(), output.correction_log_probs.exp()
    weight = (1 - output.confidences[:, :1]).clamp(min=1e-6)
    torch.testing.assert_close(output.class_probs, (1 - weight) * p + weight * r)


BACKBONES = [
    ("vit_tiny_patch16_224", 32, 4, 192),
    ("test_vit", 64, 16, 64),
    ("resnet18", 64, 16, 512),
    ("tf_efficientnet_lite0", 96, 36, 1280),
    ("mobilenetv3_small_050", 96, 9, 1024),
    ("convnext_atto", 128, 16, 320),
    ("swin_tiny_patch4_window7_224", 224, 49, 768),
]


@pytest.mark.parametrize(("name", "size", "tokens", "width"), BACKBONES)
def test_any_backbone_gives_tokens_and_every_parameter_a_gradient(name, size, tokens, width):
    config = Config(backbone=name, image_size=size, backbone_weights="none", embedding_dim=32)
    net = build_model(config, C)
    output = net(torch.randn(2, 3, size, size))
    assert output.attention.shape == (2, tokens)
    assert net.head.reduce.in_features == width
    total_loss(output, torch.eye(C)[:2], config)["loss"].backward()
    without = [name for name, p in net.named_parameters() if p.grad is None]
    assert not without
    head = {n: p.grad.abs().sum().item() for n, p in net.head.named_parameters()}
    # the attention's key bias shifts all scores of a query alike: its true gradient is zero
    assert [n for n, total in head.items() if total == 0] == []


def test_a_linear_head_is_timms_own_classifier():
    config = Config(backbone="resnet18", image_size=64, backbone_weights="none", head="linear")
    net = build_model(config, C).eval()
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(net(images).log_probs, net.backbone(images).log_softmax(1))
    assert net(images).reliability is None


@pytest.mark.parametrize("name", ["test_vit", "resnet18", "tf_efficientnet_lite0"])
def test_without_correction_grefel_trains_as_the_linear_head(name):
    config = Config(backbone=name, image_size=64, backbone_weights="none", correction="none")
    linear, none = build_model(config.replace(head="linear"), C), build_model(config, C)
    own = linear.backbone.state_dict()
    shared = none.backbone.load_state_dict(own, strict=False).unexpected_keys
    assert len(shared) == 2  # the classifier's weight and bias: all that the head has to itself
    for key in shared:
        none.head.primary[0].get_parameter(key.rpartition(".")[2]).data.copy_(own[key])
    images, targets, gradients = torch.randn(4, 3, 64, 64), torch.eye(C)[:4], []
    for net in (linear, none):
        torch.manual_seed(0)  # the same units dropped
        parts = total_loss(net(images), targets, config)
        parts["loss"].backward()
        gradients.append({name: p.grad for name, p in net.backbone.named_parameters()})
    for key, gradient in gradients[1].items():
        torch.testing.assert_close(gradient, gradients[0][key])


def test_vit_base_has_768_features_and_trains_two_steps():
    config = Config(backbone_weights="none")
    net = build_model(config, 8).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
    images, targets = torch.randn(2, 3, 224, 224), torch.eye(8)[:2]
    seen = []
    for _ in range(2):
        output = net(images)
        assert net.head.reduce.in_features == 768
        assert output.attention.shape == (2, 196)
        loss = total_loss(output, targets, config)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append(loss.item())
    assert all(map(math.isfinite, seen))
    assert seen[1] < seen[0]


# -- backbone weights


def test_backbone_weights_come_from_a_file_and_change_nothing_else(tmp_path):
    config = Config(backbone="resnet18", image_size=64, backbone_weights="none")
    source = build_backbone(config, num_classes=1000)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    torch.save({"state_dict": source.state_dict()}, tmp_path / "w.pth")
    for name in ("w.safetensors", "w.pth"):
        loaded = build_backbone(config.replace(backbone_weights=str(tmp_path / name)))
        for key, value in loaded.state_dict().items():
            torch.testing.assert_close(value, source.state_dict()[key], rtol=0, atol=0)


@pytest.mark.parametrize("case", ["missing", "garbage", "other"])
def test_weights_that_do_not_fit_are_refused(tmp_path, case):
    path = tmp_path / "w.safetensors"
    config = Config(backbone="resnet18", image_size=64, backbone_weights="none")
    if case == "garbage":
        path.write_bytes(b"not a weight file")
    if case == "other":
        save_file(build_backbone(config.replace(backbone="test_vit")).state_dict(), path)
    with pytest.raises((ValueError, FileNotFoundError), match=r"w\.safetensors"):
        build_backbone(config.replace(backbone_weights=str(path)))


def test_an_unknown_backbone_is_refused_with_its_neighbours():
    with pytest.raises(ValueError, match="resnet18"):
        build_backbone(Config(backbone="resnet_18", backbone_weights="none"))


def test_a_size_that_the_patches_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="image_size 100"):
        build_backbone(Config(image_size=100, backbone_weights="none"))


def test_no_hub_gives_one_line_with_the_ways_out(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("grefel_lib.backbone.get_hf_file_metadata", offline)
    monkeypatch.setattr("grefel_lib.backbone.try_to_load_from_cache", lambda *args: None)
    with pytest.raises(ConnectionError, match="backbone_weights=none"):
        check_backbone(Config())
