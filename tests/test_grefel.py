"""The model: shapes for every kind of backbone, distributions, gradients, weights."""

import math
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from grefel_lib.backbone import build_backbone, check_backbone
from grefel_lib.config import Config
from grefel_lib.grefel import (
    Calibration,
    GReFEL,
    GReFELHead,
    Output,
    anchor_log_probs,
    build_model,
    combine,
    confidence,
    extract,
    to_sphere,
)
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


# -- the equations by hand


def test_the_sphere_has_the_radius_of_the_square_root_of_the_width():
    points = to_sphere(torch.tensor([[[3.0, 4.0], [-5.0, 0.0]]]))
    root = math.sqrt(2)
    torch.testing.assert_close(points, torch.tensor([[[0.6 * root, 0.8 * root], [-root, 0.0]]]))


@pytest.mark.parametrize("delta", [0.5, 1.0, 4.0])
def test_every_anchor_of_a_class_counts_by_its_distance_in_deltas(delta):
    anchors = torch.tensor([[[0.0, 0.0], [3.0, 4.0]], [[0.0, 1.0], [6.0, 8.0]]])  # two a class
    faces = torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    distances = torch.tensor([[[0, 5], [1, 10]], [[1, math.sqrt(18)], [0, math.sqrt(85)]]])
    scores = (-distances / delta).exp()
    by_hand = scores.sum(dim=2) / scores.sum(dim=(1, 2))[:, None]
    found = anchor_log_probs(faces, anchors, delta=delta)
    torch.testing.assert_close(found.exp(), by_hand)
    if delta == 1:
        assert torch.equal(anchor_log_probs(faces, anchors), found)


def test_widths_that_differ_and_a_delta_of_nothing_are_refused():
    faces, anchors = torch.zeros(2, 3), torch.zeros(4, 1, 5)
    with pytest.raises(ValueError, match="embeddings are 3 wide but anchors are 5 wide"):
        anchor_log_probs(faces, anchors)
    for delta in (0, -1, float("nan")):
        with pytest.raises(ValueError, match=f"delta must be above 0; got {delta}"):
            anchor_log_probs(faces, torch.zeros(4, 1, 3), delta=delta)
    anchor_log_probs(faces, torch.zeros(4, 1, 3), delta=0.1)


@pytest.mark.parametrize(("probs", "expected"), [
    ([0.5, 0.5, 0, 0], 0.5),  # one bit of two
    ([0.25] * 4, 1e-6),
    ([1, 0, 0, 0], 1),
    ([0.8, 0.2, 0, 0], 1 + (0.8 * math.log(0.8) + 0.2 * math.log(0.2)) / math.log(4)),
])  # fmt: skip
def test_confidence_is_what_is_missing_to_the_entropy_of_a_uniform_one(probs, expected):
    found = confidence(torch.tensor([probs, [0.25] * 4]).log())
    assert found[0].item() == pytest.approx(expected, rel=1e-5)
    assert found.shape == (2,)


def test_a_rounding_error_makes_nobody_more_than_certain():
    assert confidence(torch.tensor([[1e-5, -1e9, -1e9]])).item() == 1


def test_confidence_has_a_gradient_where_a_probability_is_zero():
    logits = torch.tensor([[1e5, 0.0, 0.0]], requires_grad=True)
    confidence(logits.log_softmax(dim=1)).sum().backward()
    assert torch.isfinite(logits.grad).all()


def test_the_weights_of_a_combination_get_no_gradient_but_both_distributions_do():
    a, b = (torch.randn(B, C, requires_grad=True) for _ in range(2))
    weights = [torch.rand(B).add(0.1).requires_grad_() for _ in range(2)]
    combine(a.log_softmax(1), b.log_softmax(1), *weights)[:, 0].sum().backward()
    assert a.grad.any()
    assert b.grad.any()
    assert weights[0].grad is weights[1].grad is None


def balanced(log_a, log_b):
    """The paper's combination: each distribution by its share of the confidence."""
    a, b = log_a.exp(), log_b.exp()
    share = confidence(log_a) / (confidence(log_a) + confidence(log_b))
    return share[:, None] * a + (1 - share[:, None]) * b


@pytest.mark.parametrize("primary", ["linear", "mlp"])
def test_a_head_worked_through_by_hand(primary):
    head = make_head(primary=primary, delta=0.3, temperature=2.0)
    pooled, tokens = features()
    output = head(pooled, tokens)

    embeddings = to_sphere(pooled @ head.reduce.weight.T + head.reduce.bias)
    torch.testing.assert_close(output.embeddings, embeddings)
    logits = head.primary(embeddings if primary == "mlp" else pooled)
    p = (logits / 2).log_softmax(dim=1)
    torch.testing.assert_close(output.primary_log_probs, p)

    anchors = to_sphere(head.anchors)
    torch.testing.assert_close(output.anchors, anchors)
    g = anchor_log_probs(embeddings, anchors, delta=0.3)
    torch.testing.assert_close(output.geometric_log_probs, g)

    # one query a face, its embedding, against its own tokens: two heads of D / 2
    layer, weights = head.attention, []
    bias_q, bias_k, bias_v = layer.in_proj_bias.view(3, D)
    query = embeddings @ layer.q_proj_weight.T + bias_q
    key = tokens @ layer.k_proj_weight.T + bias_k
    value = tokens @ layer.v_proj_weight.T + bias_v
    attended = []
    for half in (slice(0, D // 2), slice(D // 2, D)):
        scores = torch.einsum("bd,btd->bt", query[:, half], key[..., half]) / math.sqrt(D // 2)
        weights.append(scores.softmax(dim=1))
        attended.append(torch.einsum("bt,btd->bd", weights[-1], value[..., half]))
    torch.testing.assert_close(output.attention, sum(weights) / 2)
    t = head.attentive(layer.out_proj(torch.cat(attended, dim=1))).log_softmax(dim=1)
    torch.testing.assert_close(output.attentive_log_probs, t)

    r = balanced(g, t)
    torch.testing.assert_close(output.correction_log_probs.exp(), r)
    torch.testing.assert_close(output.class_probs, balanced(p, r.log()))
    torch.testing.assert_close(output.confidences, torch.stack([*map(confidence, (p, g, t))], 1))
    assert [*map(id, output.branch_log_probs())] == [
        id(output.primary_log_probs), id(output.geometric_log_probs),
        id(output.attentive_log_probs),
    ]  # fmt: skip


@pytest.mark.parametrize(("changes", "branches"), [
    ({}, 3), ({"branches": "anchors"}, 2), ({"branches": "attention"}, 2),
    ({"correction": "none"}, 1), ({"correction": "none", "primary": "mlp"}, 1),
])  # fmt: skip
def test_reliability_sees_embedding_confidences_and_the_share_of_branches_that_agree(
    changes, branches
):
    head = make_head(**changes)
    output = head(*features(40))
    votes = [log_probs.argmax(dim=1) for log_probs in output.branch_log_probs()]
    assert len(votes) == branches
    pairs = [(i, j) for i in range(branches) for j in range(i)]
    agree = torch.ones(40)
    if pairs:
        agree = sum((votes[i] == votes[j]).float() for i, j in pairs) / len(pairs)
        assert 0 < agree.mean() < 1
    seen = [output.confidences, agree[:, None]]
    seen = seen if output.embeddings is None else [output.embeddings, *seen]
    first, second = (layer for layer in head.reliability if isinstance(layer, nn.Linear))
    by_hand = second(nn.functional.gelu(first(torch.cat(seen, dim=1)))).squeeze(1)
    torch.testing.assert_close(output.reliability_logits, by_hand)
    torch.testing.assert_close(output.reliability, by_hand.sigmoid())
    width = 0 if output.embeddings is None else D
    assert head.reliability[0].in_features == width + branches + 1


def test_without_a_reliability_head_there_is_no_reliability():
    output = make_head(reliability=False)(*features())
    assert output.reliability_logits is output.reliability is None


def test_a_new_head_is_nearly_uniform_but_not_without_a_gradient():
    for primary in ("linear", "mlp"):
        head = GReFELHead(F, token_width=11, num_classes=C, primary=primary).eval()
        assert head.trust == 1
        output = head(*features())
        for log_probs in (output.primary_log_probs, output.attentive_log_probs):
            assert (log_probs.exp() - 1 / C).abs().max() < 0.02
        for classifier in (head.primary[-1], head.attentive):
            assert 5e-4 < classifier.weight.std() < 2e-3
            assert not classifier.bias.any()


def test_anchors_start_far_apart_on_all_sides():
    anchors = GReFELHead(F, token_width=11, num_classes=20, num_anchors=20).anchors
    assert anchors.mean().abs() < 0.05
    assert anchors.std().item() == pytest.approx(1, abs=0.05)


def test_the_defaults_of_the_head_are_those_of_the_settings():
    config = Config(backbone="test_vit", image_size=64, backbone_weights="none")
    ours = build_model(config, 6).head
    head = GReFELHead(ours.reduce.in_features, token_width=ours.attention.kdim, num_classes=6)
    assert {k: v.shape for k, v in head.state_dict().items()} == {
        k: v.shape for k, v in ours.state_dict().items()
    }
    for name in ("delta", "temperature", "correction"):
        assert getattr(head, name) == getattr(config, name)
    assert head.attention.num_heads == config.attention_heads
    mlp = GReFELHead(F, token_width=11, num_classes=6, primary="mlp")
    assert mlp.primary[2].p == config.drop_rate


def test_every_setting_of_the_head_reaches_it():
    config = Config(
        backbone="test_vit", image_size=64, backbone_weights="none", num_anchors=3,
        embedding_dim=24, attention_heads=3, delta=0.5, temperature=2.5, drop_rate=0.3,
        correction="trust", primary="mlp",
    )  # fmt: skip
    head = build_model(config, 6).head
    assert head.anchors.shape == (6, 3, 24)
    assert head.attention.num_heads == 3
    assert (head.delta, head.temperature, head.correction) == (0.5, 2.5, "trust")
    assert [type(layer) for layer in head.primary] == [nn.Linear, nn.GELU, nn.Dropout, nn.Linear]
    assert head.primary[2].p == 0.3
    assert head.reliability is not None
    assert build_model(config.replace(lambda_rel=0), 6).head.reliability is None
    assert build_model(config.replace(branches="anchors"), 6).head.attention is None


def test_the_backbone_is_normalised_as_timm_says_and_both_lists_of_names_are_its_own():
    config = Config(backbone="test_vit", image_size=64, backbone_weights="none")
    net = build_model(config, 6)
    assert net.mean == tuple(net.backbone.pretrained_cfg["mean"])
    assert net.std == tuple(net.backbone.pretrained_cfg["std"])
    assert net.classifier_names() == set()
    spared = net.no_weight_decay()
    assert {"head.anchors", "backbone.pos_embed", "backbone.cls_token"} <= spared
    linear = build_model(config.replace(head="linear"), 6)
    names = {name for name, p in linear.named_parameters() if p.shape[0] == 6}
    assert linear.classifier_names() == names == {"backbone.head.weight", "backbone.head.bias"}
    assert not linear.backbone.head.bias.any()
    assert 5e-4 < linear.backbone.head.weight.std() < 2e-3


def test_a_distilled_network_has_a_pair_of_classifiers():
    config = Config(backbone="deit_tiny_distilled_patch16_224", image_size=32,
                    backbone_weights="none", head="linear")  # fmt: skip
    net = build_model(config, 6)
    assert net.classifier_names() == {
        f"backbone.{name}.{part}" for name in ("head", "head_dist") for part in ("weight", "bias")
    }
    for classifier in net.backbone.get_classifier():
        assert classifier.weight.std() < 2e-3


@pytest.mark.parametrize(("changes", "width"), [
    ({"backbone": "mobilenetv3_small_050"}, 1024),  # wider than its last map
    ({"backbone": "test_resnet", "extractor": "window_cross_attention",
      "landmark_backbone": "test_efficientnet", "landmark_weights": "none"}, 768),
])  # fmt: skip
def test_the_head_is_as_wide_as_the_pooled_feature(changes, width):
    net = build_model(Config(image_size=64, backbone_weights="none", **changes), C).eval()
    assert net.head.reduce.in_features == width
    assert net(torch.randn(1, 3, 64, 64)).log_probs.shape == (1, C)


def test_a_network_that_names_one_width_has_no_other(monkeypatch):
    backbone = nn.Identity()
    backbone.num_features = 12
    monkeypatch.setattr("grefel_lib.grefel.build_backbone", lambda *_, **options: backbone)
    head = build_model(Config(), C).head
    assert head.reduce.in_features == head.attention.kdim == 12


def test_the_head_sees_the_feature_before_a_backbones_own_classifier():
    config = Config(backbone="test_resnet", image_size=48, backbone_weights="none")
    backbone = build_backbone(config, num_classes=1000)
    head = GReFELHead(backbone.num_features, token_width=backbone.num_features, num_classes=C)
    assert GReFEL(backbone, head=head)(torch.randn(2, 3, 48, 48)).log_probs.shape == (2, C)


def test_a_backbone_without_a_list_spares_the_anchors_alone():
    assert GReFEL(nn.Identity()).no_weight_decay() == {"head.anchors"}


@pytest.mark.parametrize("kind", ["NCHW", "NHWC", "tokens"])
def test_tokens_are_the_positions_of_their_own_image(kind):
    maps = torch.arange(2 * 5 * 3 * 4).view(2, 5, 3, 4).double()  # (B, F, h, w)
    expected = torch.stack([maps[:, :, i, j] for i in range(3) for j in range(4)], dim=1)
    made = {
        "NCHW": (maps, {}),
        "NHWC": (maps.permute(0, 2, 3, 1), {"output_fmt": "NHWC"}),
        "tokens": (torch.cat([torch.full((2, 2, 5), -1.0), expected], dim=1),
                   {"num_prefix_tokens": 2}),
    }  # fmt: skip
    features, about = made[kind]
    backbone = SimpleNamespace(forward_features=lambda images: features, **about)
    found, tokens = extract(backbone, None)
    assert found is features
    assert tokens.dtype == torch.float32
    torch.testing.assert_close(tokens, expected.float())


def test_a_backbone_without_prefix_tokens_keeps_them_all():
    backbone = SimpleNamespace(forward_features=lambda images: torch.ones(2, 7, 5))
    assert extract(backbone, None)[1].shape == (2, 7, 5)


@pytest.mark.parametrize("head", ["grefel", "linear"])
def test_in_half_precision_the_distributions_stay_in_full_precision(head):
    config = Config(backbone="test_resnet", image_size=48, backbone_weights="none", head=head)
    net = build_model(config, C).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = net(torch.randn(2, 3, 48, 48))
    assert output.log_probs.dtype == torch.float32
    torch.testing.assert_close(output.class_probs.sum(dim=1), torch.ones(2), atol=1e-6, rtol=0)
    if head == "grefel":
        assert {b.dtype for b in output.branch_log_probs()} == {torch.float32}
        assert output.embeddings.dtype == torch.float32
        norms = output.embeddings.norm(dim=1)
        torch.testing.assert_close(norms, torch.full((2,), math.sqrt(128)))


def test_an_output_without_branches_iterates_over_none():
    assert list(Output(torch.zeros(1, 2)).branch_log_probs()) == []


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
    head.trust = 0.5
    output = head(pooled, tokens)
    torch.testing.assert_close(output.class_probs, (1 - weight / 2) * p + weight / 2 * r)


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


def test_reliability_of_a_shipped_model_is_that_of_the_class_it_answers(monkeypatch):
    config = Config(backbone="test_resnet", image_size=48, backbone_weights="none")
    model = build_model(config, 3).eval()
    probs, sure = torch.tensor([[0.5, 0.4, 0.1], [0.7, 0.2, 0.1]]), torch.tensor([0.6, 0.6])
    monkeypatch.setattr(model, "_scored", lambda images: Output(
        log_probs=probs.log(), reliability_logits=sure.logit()))  # fmt: skip
    model.calibration = Calibration(1.0, [0.0, 1.0, 0.0])
    output = model(torch.zeros(2, 3, 48, 48))
    q = probs[0] * torch.tensor([1, math.e, 1])
    q = q / q.sum()  # now the second class has most
    assert output.log_probs.argmax(dim=1).tolist() == [1, 0]
    expected = [0.4 * (q[1] / (1 - q[0])).item(), 0.6]
    assert output.reliability.tolist() == pytest.approx(expected, abs=1e-5)


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


def test_vit_base_has_768_features_and_196_tokens_and_learns_two_faces():
    config = Config(backbone_weights="none", drop_rate=0, label_smoothing=0)
    net = build_model(config, 8).train()
    assert net.head.reduce.in_features == 768
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    images, targets = torch.randn(2, 3, 224, 224), torch.eye(8)[:2]
    for _ in range(2):
        output = net(images)
        assert output.attention.shape == (2, 196)
        total_loss(output, targets, config)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        output = net(images)
    for log_probs in (output.log_probs, output.primary_log_probs):
        assert log_probs.argmax(dim=1).tolist() == [0, 1]  # of eight classes


@pytest.mark.parametrize("changes", [
    {}, {"head": "linear"}, {"correction": "trust"}, {"primary": "mlp", "branches": "anchors"},
    {"branches": "attention"},
])  # fmt: skip
def test_a_few_faces_can_be_learned_by_heart(changes):
    config = Config(backbone="test_resnet", image_size=48, backbone_weights="none",
                    embedding_dim=32, drop_rate=0, label_smoothing=0, **changes)  # fmt: skip
    net = build_model(config, C).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3)
    images, targets = torch.randn(6, 3, 48, 48), torch.eye(C)[[0, 1, 2, 3, 4, 0]]
    for _ in range(25):
        output = net(images)
        total_loss(output, targets, config)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    for log_probs in (output.log_probs, *output.branch_log_probs()):
        assert torch.equal(log_probs.argmax(dim=1), targets.argmax(dim=1))
    assert (output.class_probs * targets).sum(dim=1).min() > 0.8


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
