"""Eight properties of the method, each seen to fail on broken code.

A property is a check of three modules: grefel, losses, fit. It holds on ours, and fails on a
copy in which one line is replaced by a mistake that public code has made, or might.
"""

import inspect
import math
from types import ModuleType, SimpleNamespace

import pytest
import torch

from grefel_lib import fit, grefel, losses
from grefel_lib.config import Config
from grefel_lib.faces import load_faces
from grefel_lib.grefel import Output, to_sphere
from grefel_lib.run import start_run

B, C, K, D, F, T = 6, 5, 3, 16, 24, 9
OURS = SimpleNamespace(grefel=grefel, losses=losses, fit=fit)


def broken(where, old, new):
    """The three modules, one of them a copy in which `old` (found once) reads `new`."""
    ours = getattr(OURS, where)
    source = inspect.getsource(ours)
    assert source.count(old) == 1, f"{where}: {source.count(old)} places read {old!r}"
    copy = ModuleType(ours.__name__)
    exec(compile(source.replace(old, new), f"broken {where}", "exec"), copy.__dict__)
    return SimpleNamespace(**vars(OURS) | {where: copy})


def make_head(code, **changes):
    options = {"num_classes": C, "num_anchors": K, "embedding_dim": D, "attention_heads": 2}
    head = code.grefel.GReFELHead(F, token_width=11, **options | changes).eval()
    for classifier in (head.primary[-1], head.attentive):  # near zero at first, not for long
        if classifier is not None:
            classifier.reset_parameters()
    return head


def features(batch=B):
    return torch.randn(batch, F), torch.randn(batch, T, 11)


def same_alone_and_in_a_batch(code, faces_dir, tmp_path):
    """1. An image is scored the same alone and in any batch."""
    faces, anchors = torch.randn(64, D), torch.randn(C, K, D)
    together = code.grefel.anchor_log_probs(faces, anchors)
    alone = torch.cat([code.grefel.anchor_log_probs(face[None], anchors) for face in faces])
    assert torch.equal(together, alone)
    head = make_head(code)
    pooled, tokens = features(64)
    together, alone = head(pooled, tokens), head(pooled[:1], tokens[:1])
    for name in ("log_probs", "reliability"):
        assert (getattr(together, name)[:1] - getattr(alone, name)).abs().max() < 1e-5
    config = Config(backbone="test_resnet", image_size=48, backbone_weights="none",
                    embedding_dim=D)  # fmt: skip
    net = code.grefel.build_model(config, C).eval()
    images = torch.randn(9, 3, 48, 48)
    with torch.no_grad():
        together, alone = net(images).log_probs[:1], net(images[:1]).log_probs
    assert (together - alone).abs().max() < 1e-4  # convolutions sum in another order


def distributions_sum_to_one(code, faces_dir, tmp_path):
    """2. All distributions sum to 1 and are finite for extreme logits."""
    for extreme in (1.0, 1e6):
        head = make_head(code, delta=1 / extreme)
        with torch.no_grad():
            head.primary[-1].weight.mul_(extreme)
            head.attentive.weight.mul_(extreme)
        output = head(*features())
        for log_probs in (output.log_probs, output.correction_log_probs,
                          *output.branch_log_probs()):  # fmt: skip
            assert torch.isfinite(log_probs).all()
            assert (log_probs.exp().sum(dim=1) - 1).abs().max() < 1e-5


def every_parameter_gets_a_gradient(code, faces_dir, tmp_path):
    """3. Every named parameter gets a gradient."""
    targets = torch.eye(C)[[0, 1, 2, 3, 4, 0]]
    for config in (Config(), Config(lambda_anchor=0, lambda_center=0)):
        head = make_head(code)
        code.losses.total_loss(head(*features()), targets, config)["loss"].backward()
        without = [n for n, p in head.named_parameters() if p.grad is None or not p.grad.any()]
        assert without == []
        assert head.anchors.grad.any(dim=2).all(), "an anchor without a gradient"


def anchors_and_attention_reach_the_prediction(code, faces_dir, tmp_path):
    """4. Randomising anchors or attention changes the prediction; reliability is an output only."""
    for part, changes in (("anchors", True), ("attention", True), ("reliability", False)):
        head = make_head(code, delta=0.3)
        pooled, tokens = features()
        before = head(pooled, tokens).log_probs.detach()
        with torch.no_grad():
            for name, parameter in head.named_parameters():
                if name.startswith(part):
                    parameter.copy_(torch.randn_like(parameter))
        moved = (head(pooled, tokens).log_probs - before).abs().max() > 1e-3
        assert moved == changes, part
    output = head(pooled, tokens)
    targets = torch.eye(C)[[0, 1, 2, 3, 4, 0]]
    code.losses.reliability_loss(output.reliability_logits, output.log_probs, targets).backward()
    reached = {name.split(".")[0] for name, p in head.named_parameters() if p.grad is not None}
    assert reached == {"reliability"}


def anchor_loss_is_bounded(code, faces_dir, tmp_path):
    """5. L_anchor is bounded below; an embedding exactly on an anchor has finite gradients."""
    anchors = to_sphere(torch.randn(C, K, D)).requires_grad_()
    for scale in (1, 10, 1000):
        assert -8 - 1e-5 <= code.losses.anchor_loss(anchors * scale) <= 1e-5
    face = anchors.detach()[0, :1].clone().requires_grad_()
    on_it = code.grefel.anchor_log_probs(face, anchors)[0, 0]
    loss = on_it + code.losses.center_loss(face, anchors, torch.eye(C)[:1])
    (loss + code.losses.anchor_loss(anchors)).backward()
    assert torch.isfinite(face.grad).all()
    assert torch.isfinite(anchors.grad).all()


def distances_one_and_four_score_by_hand(code, faces_dir, tmp_path):
    """6. A face one unit from one anchor and four from the other scores e^-1 : e^-4."""
    face = torch.tensor([[0.6, 0.8]])
    anchors = torch.tensor([[[0.0, 0.0]], [[3.0, 4.0]]])
    scores = code.grefel.anchor_log_probs(face, anchors).exp()[0]
    total = math.exp(-1) + math.exp(-4)
    assert abs(scores[0].item() - math.exp(-1) / total) < 1e-6
    assert abs(scores[1].item() - math.exp(-4) / total) < 1e-6
    twice = torch.tensor([[[0.0, 0.0], [0.0, 0.0]], [[3.0, 4.0], [100.0, 100.0]]])
    scores = code.grefel.anchor_log_probs(face, twice).exp()[0]  # ONE softmax over all anchors
    assert abs(scores[0].item() - 2 * math.exp(-1) / (2 * math.exp(-1) + math.exp(-4))) < 1e-6


def classes_may_be_permuted(code, faces_dir, tmp_path):
    """7. Permuting the classes everywhere leaves every loss; swapping two in y alone does not."""

    def found(order, swap=(0, 1, 2, 3, 4)):
        draw = torch.Generator().manual_seed(5)
        p, g, t = (torch.randn(B, C, generator=draw).log_softmax(1)[:, order] for _ in range(3))
        anchors = to_sphere(torch.randn(C, K, D, generator=draw))[order]
        embeddings = to_sphere(torch.randn(B, D, generator=draw))
        y = torch.softmax(torch.randn(B, C, generator=draw) * 3, 1)[:, order][:, swap]
        r = code.grefel.combine(g, t, code.grefel.confidence(g), code.grefel.confidence(t))
        q = code.grefel.combine(p, r, code.grefel.confidence(p), code.grefel.confidence(r))
        output = Output(q, p, g, t, r, embeddings=embeddings, anchors=anchors,
                              reliability_logits=torch.zeros(B))  # fmt: skip
        return code.losses.total_loss(output, y, Config())

    straight, permuted = found([0, 1, 2, 3, 4]), found([2, 0, 4, 1, 3])
    assert straight.keys() == {"loss", "cls", "branch", "anchor", "center", "rel"}
    for name, value in straight.items():
        assert abs(permuted[name] - value) < 1e-5, name
    assert abs(found([0, 1, 2, 3, 4], (1, 0, 2, 3, 4))["cls"] - straight["cls"]) > 1e-3


def a_non_finite_loss_names_its_images(code, faces_dir, tmp_path):
    """8. A batch with a non-finite loss raises with the ids of its images."""
    config = Config.resolve(
        {"profile": "demo", "dataset": "ferplus", "data_dir": str(faces_dir), "epochs": 1,
         "output_dir": str(tmp_path), "run_name": "spoiled"}
    )  # fmt: skip
    faces = load_faces(config)
    spoiled = faces.table.index[faces.table["split"] == "train"][7]
    faces.targets[spoiled] = float("nan")
    with pytest.raises(ValueError, match=faces.table.loc[spoiled, "id"]):
        code.fit.fit(faces, start_run(config, faces.info))


BREAKS = [
    (same_alone_and_in_a_batch, "grefel",
     'compute_mode="donot_use_mm_for_euclid_dist"', 'compute_mode="use_mm_for_euclid_dist"'),
    (same_alone_and_in_a_batch, "grefel",  # attends across the batch, as in the ARBEx code
     "attended, attention = self.attention(embeddings[:, None], tokens, tokens)",
     "attended, attention = (x.transpose(0, 1) for x in self.attention(embeddings[None], "
     "tokens.flatten(0, 1)[None], tokens.flatten(0, 1)[None]))"),
    (distributions_sum_to_one, "grefel",  # mixes probabilities, then takes the logarithm
     "return torch.logaddexp(log_a + (log_wa - log_sum)[:, None], "
     "log_b + (log_wb - log_sum)[:, None])",
     "w = (log_wa - log_sum).exp()[:, None]; return (log_a.exp() * w + log_b.exp() * (1 - w)).log()"
     ),
    (distributions_sum_to_one, "grefel",
     "F.log_softmax(-anchor_distances(embeddings, anchors).flatten(1) / delta, dim=1)",
     "-anchor_distances(embeddings, anchors).flatten(1) / delta"),
    (every_parameter_gets_a_gradient, "grefel",
     "self.attentive(attended)", "self.attentive(attended.detach())"),
    (every_parameter_gets_a_gradient, "grefel",  # anchors that classification never moves
     "scores.unflatten(1, anchors.shape[:2])", "scores.detach().unflatten(1, anchors.shape[:2])"),
    (anchors_and_attention_reach_the_prediction, "grefel",  # balancing that reaches nothing
     "return combine(p, r, confidence(p), confidence(r))", "return p"),
    (anchors_and_attention_reach_the_prediction, "grefel",
     "self.reliability(inputs.detach())", "self.reliability(inputs)"),
    (anchor_loss_is_bounded, "losses",  # the paper's minus sum of squared distances
     "return torch.logsumexp(-2 * squared, dim=0) - math.log(len(squared))",
     "return -torch.pdist(anchors.flatten(0, 1)).square().sum()"),
    (anchor_loss_is_bounded, "grefel",
     """distance = torch.cdist(
        embeddings, anchors.flatten(0, 1), compute_mode="donot_use_mm_for_euclid_dist"
    )""",
     "distance = (embeddings[:, None] - anchors.flatten(0, 1)).square().sum(2).sqrt()"),
    (distances_one_and_four_score_by_hand, "grefel",
     "flatten(1) / delta", "flatten(1).square() / delta"),
    (distances_one_and_four_score_by_hand, "grefel",  # the mean over a class's anchors
     "logsumexp(dim=2)", "mean(dim=2).log_softmax(dim=1)"),
    (classes_may_be_permuted, "losses",  # two label maps that disagree
     "-(targets * log_probs).sum(dim=1).mean()",
     "-(targets * log_probs.roll(1, dims=1)).sum(dim=1).mean()"),
    (classes_may_be_permuted, "losses",
     "-(targets * log_probs).sum(dim=1).mean()",
     "-(targets.mean(dim=1, keepdim=True) * log_probs).sum(dim=1).mean()"),
    (a_non_finite_loss_names_its_images, "fit",  # replaced by a constant, silently
     """if not (math.isfinite(parts["loss"]) and math.isfinite(norm)):""", "if False:"),
]  # fmt: skip


@pytest.mark.parametrize("holds", dict.fromkeys(check for check, *_ in BREAKS))
def test_it_holds(holds, faces_dir, tmp_path):
    holds(OURS, faces_dir, tmp_path)


@pytest.mark.parametrize(
    ("fails", "where", "old", "new"),
    BREAKS,
    ids=[f"{check.__name__}-{i}" for i, (check, *_) in enumerate(BREAKS)],
)
def test_it_fails_on_broken_code(fails, where, old, new, faces_dir, tmp_path):
    code = broken(where, old, new)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        fails(code, faces_dir, tmp_path)


def test_each_of_the_eight_is_broken_at_least_once():
    numbers = {check.__doc__[0] for check, *_ in BREAKS}
    assert numbers == set("12345678")
