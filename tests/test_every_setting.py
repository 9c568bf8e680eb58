"""Every setting has its effect: two values, what must differ between them, and which way.

A row is a function of two configs that differ in one setting, and in nothing else. A field of
`Config` without a row fails, so a new setting needs one.
"""

import dataclasses
import itertools
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from drawn_layouts import write_layout
from grey_faces import new_run
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from grefel_lib import fit as fitting
from grefel_lib import losses
from grefel_lib.analysis import evaluation
from grefel_lib.analysis.explain import load_photo
from grefel_lib.commands.notebook import resolve, resolve_evaluation
from grefel_lib.config import PROFILES, SETTINGS, Config
from grefel_lib.faces import load_faces, taught
from grefel_lib.files import Folder, read_table
from grefel_lib.fit import backward, fit, start_training, train_epoch
from grefel_lib.grefel import build_model
from grefel_lib.losses import total_loss
from grefel_lib.predict import predict
from grefel_lib.run import Run, check_same_settings, run_folder, start_run

ROWS = {}
CLASSES = 8
WINDOW = {"extractor": "window_cross_attention", "image_size": 64,
          "landmark_backbone": "test_efficientnet", "landmark_weights": "none"}  # fmt: skip


def row(name, one, other, **rest):
    """The effect of a setting: two values (or how to make them), and other settings it needs."""

    def keep(check):
        assert name not in ROWS
        ROWS[name] = one, other, rest, check
        return check

    return keep


class Lab:
    """Small networks and few faces; every part of the randomness comes from the seed."""

    def __init__(self, faces_dir, tmp_path, monkeypatch):
        self.faces_dir, self.tmp_path, self.patch = faces_dir, tmp_path, monkeypatch
        self.numbers = itertools.count()

    def config(self, **changes):
        """A run without dropout, augmentation, smoothing, weight decay, warm-up and clipping."""
        plain = {
            "profile": "demo", "dataset": "ferplus", "data_dir": str(self.faces_dir),
            "backbone": "test_resnet", "backbone_weights": "none", "image_size": 32,
            "num_anchors": 2, "embedding_dim": 16, "attention_heads": 2, "drop_rate": 0,
            "label_smoothing": 0, "augmentation": "none", "mix_prob": 0, "epochs": 2,
            "batch_size": 16, "lr": 1e-3, "weight_decay": 0, "warmup_epochs": 0, "grad_clip": 0,
            "ema_decay": 0.5, "save_every": 0, "output_dir": str(self.tmp_path),
        }  # fmt: skip
        return Config(**plain | changes)

    def folder(self):
        return self.tmp_path / f"run{next(self.numbers)}"

    def few(self, counts=(48, 16, 16), **changes):
        """So many faces of each split of the drawn data set."""
        faces = load_faces(self.config(**changes))
        where = [np.flatnonzero(faces.table["split"] == name) for name in ("train", "val", "test")]
        return faces.take(np.concatenate([w[:n] for w, n in zip(where, counts, strict=True)]))

    def net(self, config):
        """A model whose classifiers are no longer near zero."""
        torch.manual_seed(config.seed)
        net = build_model(config, CLASSES)
        for classifier in (net.head.primary[-1], net.head.attentive):
            if classifier is not None:
                classifier.reset_parameters()
        return net

    def images(self, config, count=6):
        draw = torch.Generator().manual_seed(5)
        return torch.randn(count, 3, config.image_size, config.image_size, generator=draw)

    def start(self, config, faces=None):
        faces = self.few() if faces is None else faces
        return start_training(faces, new_run(self.folder(), config))

    def epoch(self, config, faces=None, before=None):
        """A training after its first epoch, and the epoch's row of the history."""
        training = self.start(config, faces)
        if before:
            before(training)
        return training, train_epoch(training, print)

    def fit(self, config, **options):
        run = new_run(self.folder(), config)
        fit(self.few(), run, **options)
        return run


@pytest.fixture
def lab(faces_dir, tmp_path, monkeypatch):
    return Lab(faces_dir, tmp_path, monkeypatch)


def test_every_setting_has_a_row():
    assert set(ROWS) == set(SETTINGS)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_has_its_effect(name, lab):
    assert name in ROWS, f"{name} is new: give it a row that shows what it does"
    one, other, rest, check = ROWS[name]
    values = [value(lab) if callable(value) else value for value in (one, other)]
    first, second = (lab.config(**rest | {name: value}) for value in values)
    assert set(first.differences(second)) == {name}
    assert not first.unmet(name) or not second.unmet(name)
    check(lab, first, second)


def entropy(probs):
    probs = torch.as_tensor(probs)
    return -torch.special.xlogy(probs, probs).sum(dim=1).mean().item()


def parameters(training):
    return {name: p.detach().clone() for name, p in training.net.named_parameters()}


def moved(before, after):
    return math.sqrt(sum((after[k] - v).square().sum().item() for k, v in before.items()))


def norm_of_gradients(training):
    gradients = [p.grad for p in training.net.parameters() if p.grad is not None]
    return math.sqrt(sum(g.square().sum().item() for g in gradients))


def at_each_step(training, look):
    """What `look` sees of a training at each of its updates, just before it."""
    seen, step = [], training.optimizer.step

    def watched(*arguments, **options):
        seen.append(look(training))
        return step(*arguments, **options)

    training.optimizer.step = watched
    return seen


# -- profile and data


@row("profile", "demo", "lite")
def _(lab, one, other):
    for config in (one, other):
        resolved = Config.resolve({"profile": config.profile})
        values = PROFILES[config.profile]
        assert {name: getattr(resolved, name) for name in values} == values
        assert not resolved.changes()
    assert Config.resolve({"profile": "demo"}).differences(Config.resolve({"profile": "lite"}))


@row("dataset", "ferplus", "fer2013")
def _(lab, one, other):
    folder = write_layout(lab.tmp_path / "fer2013", "fer2013", images=120)
    ours, theirs = load_faces(one), load_faces(other.replace(data_dir=str(folder)))
    assert set(ours.class_names) - set(theirs.class_names) == {"contempt"}
    assert (ours.votes is None, theirs.votes is None) == (False, True)


def _another_folder(lab):
    return str(write_layout(lab.tmp_path / "other", "ferplus", images=200, seed=7))


@row("data_dir", lambda lab: str(lab.faces_dir), _another_folder)
def _(lab, one, other):
    for config in (one, other):
        faces = load_faces(config)
        path = f"{config.data_dir}/{faces.table['file'][0]}"
        np.testing.assert_array_equal(faces.gather(np.array([0]))[0], np.asarray(Image.open(path)))
    assert load_faces(one).info["fingerprint"] != load_faces(other).info["fingerprint"]


@row("protocol", "official", "all")
def _(lab, one, other):
    official, every = (set(load_faces(config).table["id"]) for config in (one, other))
    assert official < every


@row("train_protocol", "", "all", protocol="official")
def _(lab, one, other):
    hard = [load_faces(c.replace(use_soft_labels=False)).split("train") for c in (one, other)]
    assert set(hard[0].table["id"]) < set(hard[1].table["id"])
    as_protocol, every = load_faces(one), load_faces(other)
    for split in ("val", "test"):  # are judged as before
        assert list(every.split(split).table["id"]) == list(as_protocol.split(split).table["id"])
        np.testing.assert_array_equal(every.split(split).targets, as_protocol.split(split).targets)
    votes = every.split("train").votes.to_numpy(dtype=float)[:, :8]
    np.testing.assert_allclose(
        every.split("train").targets, votes / votes.sum(axis=1, keepdims=True), rtol=1e-6
    )


@row("use_soft_labels", True, False)
def _(lab, one, other):
    soft, hard = load_faces(one), load_faces(other)
    assert entropy(soft.split("train").targets) > 0.05 > entropy(hard.split("train").targets) == 0
    np.testing.assert_array_equal(soft.split("test").targets, hard.split("test").targets)


@row("drop_leaks", True, False)
def _(lab, one, other):
    dropped, whole = load_faces(one), load_faces(other)
    gone = whole.table[~whole.table["id"].isin(dropped.table["id"])]
    held_out = whole.table["image_hash"][whole.table["split"] != "train"]
    assert len(gone)
    assert set(gone["split"]) == {"train"}
    assert gone["image_hash"].isin(held_out).all()
    assert not dropped.split("train").table["image_hash"].isin(held_out).any()


@row("rafdb_images", "aligned", "original", dataset="rafdb")
def _(lab, one, other):
    folder = str(write_layout(lab.tmp_path / "rafdb", "rafdb", images=100))
    for config in (one, other):
        files = load_faces(config.replace(data_dir=folder)).table["file"]
        assert files.str.contains(f"/{config.rafdb_images}/").all()


def ten_of_two(lab):
    """Ten pictures of each of two classes, all of them training faces."""
    folder = lab.tmp_path / "own"
    for number in range(20):
        path = folder / "train" / ("yawn", "smile")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (48, 48), 10 * number).save(path)
    return str(folder)


@row("folds", 0, 4, dataset="folder")
def _(lab, one, other):
    whole, parts = (load_faces(c.replace(data_dir=ten_of_two(lab))) for c in (one, other))
    assert (len(whole.split("test")), len(parts.split("test"))) == (0, 5)
    assert len(whole) == len(parts) == 20


@row("fold", 1, 2, dataset="folder", folds=4)
def _(lab, one, other):
    tests = [
        set(load_faces(c.replace(data_dir=ten_of_two(lab))).split("test").table["id"])
        for c in (one, other)
    ]
    assert not tests[0] & tests[1]
    assert len(tests[0] | tests[1]) == 10


@row("synthetic_images", 200, 260, dataset="synthetic", data_dir="", protocol="all",
     drop_leaks=False)  # fmt: skip
def _(lab, one, other):
    lab.patch.setattr("grefel_lib.sources.layouts.PROJECT_ROOT", lab.tmp_path)
    for config in (one, other):
        count = len(load_faces(config))
        # rows without a name or an emotion vote are left out
        assert 0.95 * config.synthetic_images < count <= config.synthetic_images


def _fixes(lab):
    train = load_faces(lab.config()).split("train").table["id"]
    path = lab.tmp_path / "fixes.csv"
    path.write_text(f"id,label\n{train[0]},fear\n{train[1]},\n")
    return str(path)


@row("label_fixes", "", _fixes)
def _(lab, one, other):
    plain, fixed = load_faces(one), load_faces(other)
    assert len(fixed) == len(plain) - 1
    assert fixed.class_names[fixed.split("train").table["label"][0]] == "fear"


@row("label_noise", 0.1, 0.4)
def _(lab, one, other):
    clean = load_faces(one.replace(label_noise=0)).table
    train = clean["split"] == "train"
    for config in (one, other):
        noisy = load_faces(config).table
        wrong = noisy["label"] != clean["label"]
        assert wrong[train].sum() == round(config.label_noise * train.sum())
        assert not wrong[~train].any()


@row("noise_kind", "symmetric", "confusion", label_noise=0.5)
def _(lab, one, other):
    shares = []
    for config in (one, other):
        faces = load_faces(config)
        table = faces.table[faces.table["label"] != faces.table["true_label"]]
        votes = table[list(faces.class_names)].to_numpy()
        votes = votes / votes.sum(axis=1, keepdims=True)
        shares.append(votes[np.arange(len(table)), table["label"]].mean())
    assert shares[1] > 1.5 * shares[0]  # people voted for the wrong class more often


# -- the network


@row("backbone", "test_resnet", "test_vit", image_size=64)
def _(lab, one, other):
    for config in (one, other):
        ours = lab.net(config).backbone
        theirs = timm.create_model(config.backbone, num_classes=0)
        assert type(ours) is type(theirs)
        assert ours.num_features == theirs.num_features
    assert type(lab.net(one).backbone) is not type(lab.net(other).backbone)


def _weight_file(name):
    def write(lab):
        network, path = timm.create_model(name), lab.tmp_path / f"{name}.safetensors"
        save_file(network.state_dict(), path)
        return str(path)

    return write


def _same_as_in_file(network, path):
    stored = timm.models.load_state_dict(path)
    return [torch.equal(value, stored[key]) for key, value in network.state_dict().items()]


@row("backbone_weights", "none", _weight_file("test_resnet"))
def _(lab, one, other):
    assert all(_same_as_in_file(lab.net(other).backbone, other.backbone_weights))
    assert not all(_same_as_in_file(lab.net(one).backbone, other.backbone_weights))


@row("extractor", "timm", "window_cross_attention",
     **{k: v for k, v in WINDOW.items() if k != "extractor"})  # fmt: skip
def _(lab, one, other):
    plain, window = (lab.net(config).eval() for config in (one, other))
    images = lab.images(one)
    assert plain(images).attention.shape[1] == 4 * 4  # one map of stride 16
    assert window(images).attention.shape[1] == 3 * 2 * 2  # three levels
    names = [name.split(".")[1] for name, _ in window.named_parameters() if "backbone" in name]
    assert {"image_network", "landmark_network"} <= set(names)


@row("landmark_backbone", "test_efficientnet", "test_resnet", **WINDOW | {"landmark_backbone": ""})
def _(lab, one, other):
    for config in (one, other):
        names = set(lab.net(config).backbone.landmark_network.model.state_dict())
        assert names <= set(timm.create_model(config.landmark_backbone).state_dict())


@row("landmark_weights", "none", _weight_file("test_efficientnet"), **WINDOW)
def _(lab, one, other):
    started, fresh = (lab.net(c).backbone.landmark_network.model for c in (other, one))
    assert all(_same_as_in_file(started, other.landmark_weights))
    assert not all(_same_as_in_file(fresh, other.landmark_weights))


@row("image_size", 32, 64)
def _(lab, one, other):
    for config in (one, other):
        training = lab.start(config)
        indices = training.batches()[0]
        images = torch.from_numpy(training.train.gather(indices))
        inputs, _ = training.inputs(images, torch.from_numpy(training.train.targets[indices]))
        assert inputs.shape == (16, 3, config.image_size, config.image_size)
        with torch.no_grad():
            attention = training.net(inputs).attention
        assert attention.shape[1] == (config.image_size // 16) ** 2


@row("output_stride", 8, 16, image_size=64)
def _(lab, one, other):
    for config in (one, other):
        tokens = lab.net(config)(lab.images(config)).attention.shape[1]
        assert tokens == (config.image_size // config.output_stride) ** 2


@row("head", "grefel", "linear")
def _(lab, one, other):
    ours, control = (build_model(config, CLASSES).eval() for config in (one, other))
    images = lab.images(one)
    output = control(images)
    torch.testing.assert_close(output.log_probs, control.backbone(images).log_softmax(dim=1))
    assert output.anchors is output.attention is output.reliability_logits is None
    assert ours(images).anchors is not None


@row("correction", "paper", "trust", epochs=3)
def _(lab, one, other):
    images = lab.images(one)
    for config in (one, other):
        training, _ = lab.epoch(config)  # the first: no trust as yet
        for step in (0, 1, 2):
            if step:
                train_epoch(training, print)
            output = training.net.eval()(images)
            p, r = output.primary_log_probs.exp(), output.correction_log_probs.exp()
            share = _confidence(p)  # of the primary distribution
            if config.correction == "paper":
                share = share / (share + _confidence(r))
            else:
                share = 1 - step / 2 * (1 - share)
            by_hand = share[:, None] * p + (1 - share[:, None]) * r
            torch.testing.assert_close(output.class_probs, by_hand, atol=2e-5, rtol=0)
    plain = lab.net(one.replace(correction="none")).eval()(images)
    assert torch.equal(plain.log_probs, plain.primary_log_probs)


def _confidence(probs):
    share = -torch.special.xlogy(probs, probs).sum(dim=1) / math.log(CLASSES)
    return (1 - share).clamp(min=1e-6)


@row("branches", "anchors", "attention")
def _(lab, one, other):
    anchors, attention = (lab.net(config).eval()(lab.images(config)) for config in (one, other))
    assert torch.equal(anchors.correction_log_probs, anchors.geometric_log_probs)
    assert torch.equal(attention.correction_log_probs, attention.attentive_log_probs)
    assert anchors.attention is attention.anchors is None


@row("primary", "linear", "mlp")
def _(lab, one, other):
    for config in (one, other):
        net = lab.net(config).eval()
        before = net(lab.images(config)).primary_log_probs
        nn.init.zeros_(net.head.reduce.weight)  # every face gets one embedding
        after = net(lab.images(config)).primary_log_probs
        if config.primary == "mlp":
            assert (after - after[:1]).abs().max() < 1e-6 < (before - before[:1]).abs().max()
        else:
            assert torch.equal(after, before)


@row("branch_features", "last", "earlier")
def _(lab, one, other):
    for config in (one, other):
        net, images = lab.net(config).eval(), lab.images(config)
        before = net(images)
        for part in list(net.backbone.children())[-3]:  # the last stage
            for weight in part.parameters():
                nn.init.zeros_(weight)
        after = net(images)
        assert not torch.equal(after.primary_log_probs, before.primary_log_probs)
        same = torch.equal(after.correction_log_probs, before.correction_log_probs)
        assert same == (config.branch_features == "earlier")
        assert torch.equal(after.geometric_log_probs, before.geometric_log_probs) == same
        assert torch.equal(after.attentive_log_probs, before.attentive_log_probs) == same


@row("num_anchors", 1, 3)
def _(lab, one, other):
    for config in (one, other):
        output = lab.net(config).eval()(lab.images(config))
        assert output.anchors.shape == (CLASSES, config.num_anchors, config.embedding_dim)
        distance = (output.embeddings[:, None, None] - output.anchors).norm(dim=3)
        scores = (-distance).exp()
        by_hand = scores.sum(dim=2) / scores.sum(dim=(1, 2))[:, None]
        torch.testing.assert_close(output.geometric_log_probs.exp(), by_hand)


@row("embedding_dim", 8, 32)
def _(lab, one, other):
    for config in (one, other):
        embeddings = lab.net(config).eval()(lab.images(config)).embeddings
        assert embeddings.shape == (6, config.embedding_dim)
        norms = torch.full((6,), math.sqrt(config.embedding_dim))
        torch.testing.assert_close(embeddings.norm(dim=1), norms)


@row("attention_heads", 1, 4)
def _(lab, one, other):
    query, tokens = torch.randn(2, 1, 16), torch.randn(2, 5, 512)
    for config in (one, other):
        attention = lab.net(config).head.attention
        tokens = torch.randn(2, 5, attention.kdim)
        _, weights = attention(query, tokens, tokens, average_attn_weights=False)
        assert weights.shape == (2, config.attention_heads, 1, 5)


@row("delta", 0.5, 2.0)
def _(lab, one, other):
    sharp, flat = (lab.net(config).eval() for config in (one, other))
    flat.load_state_dict(sharp.state_dict())
    g = [net(lab.images(one)).geometric_log_probs.exp() for net in (sharp, flat)]
    assert entropy(g[0]) < entropy(g[1]) - 0.01


@row("temperature", 1.0, 4.0)
def _(lab, one, other):
    plain, flatter = (lab.net(config).eval() for config in (one, other))
    flatter.load_state_dict(plain.state_dict())
    ours, theirs = (net(lab.images(one)).primary_log_probs for net in (plain, flatter))
    assert entropy(theirs.exp()) > entropy(ours.exp()) + 1e-3
    torch.testing.assert_close(theirs, (ours / 4).log_softmax(dim=1))


@row("drop_rate", 0.0, 0.5, primary="mlp")
def _(lab, one, other):
    for config in (one, other):
        net = lab.net(config).train()
        ones = torch.ones(64, net.backbone.num_features, 2, 2)
        pooled = net.backbone.forward_head(ones, pre_logits=True)
        assert (pooled == 0).float().mean().item() == pytest.approx(config.drop_rate, abs=0.02)
        seen = []
        net.head.primary[-1].register_forward_pre_hook(lambda _, given, s=seen: s.append(given[0]))
        net.head(torch.randn(64, net.backbone.num_features), torch.randn(64, 4, pooled.shape[1]))
        assert (seen[0] == 0).float().mean().item() == pytest.approx(config.drop_rate, abs=0.05)
        linear = build_model(config.replace(head="linear"), CLASSES).train()
        same = linear(lab.images(config)).log_probs == linear(lab.images(config)).log_probs
        assert same.all() == (config.drop_rate == 0)
        assert not _dropped(net.eval(), lab.images(config))


def _dropped(net, images):
    return not torch.equal(net(images).log_probs, net(images).log_probs)


# -- losses


def _gradients(lab, config):
    """Of a training's first batch: the whole loss, and each part alone."""
    training = lab.start(config)
    targets = torch.eye(CLASSES)[torch.arange(6)]
    images = lab.images(config)
    backward(training, images, targets, len(images), print)
    whole = {n: p.grad for n, p in training.net.named_parameters() if p.grad is not None}
    parts = total_loss(training.net(images), targets, config)
    return whole, training.net, parts


def _grows_with_lambda(part):
    def check(lab, one, other):
        small, net, parts = _gradients(lab, one)
        large, *_ = _gradients(lab, other)
        named = dict(net.named_parameters())
        alone = torch.autograd.grad(parts[part], named.values(), allow_unused=True)
        more = getattr(other, f"lambda_{part}") - getattr(one, f"lambda_{part}")
        size = 0.0
        for name, gradient in zip(named, alone, strict=True):
            if gradient is not None:
                size += gradient.square().sum().item()
                grown = large[name] - small[name]
                torch.testing.assert_close(grown, more * gradient, rtol=1e-3, atol=1e-5)
        assert size > 1e-8

    return check


row("lambda_branch", 0.0, 2.0)(_grows_with_lambda("branch"))
row("lambda_anchor", 0.0, 2.0)(_grows_with_lambda("anchor"))
row("lambda_center", 0.0, 2.0)(_grows_with_lambda("center"))
row("lambda_rel", 1.0, 3.0)(_grows_with_lambda("rel"))


def test_without_a_weight_there_is_no_reliability_head(lab):
    assert build_model(lab.config(lambda_rel=0), CLASSES).head.reliability is None
    assert build_model(lab.config(lambda_rel=0.1), CLASSES).head.reliability is not None


@row("label_smoothing", 0.1, 0.4)
def _(lab, one, other):
    seen = []
    cross_entropy = losses.classification_loss

    def watched(log_probs, targets):
        seen.append(targets)
        return cross_entropy(log_probs, targets)

    lab.patch.setattr(losses, "classification_loss", watched)
    entropies = []
    for config in (one, other):
        seen.clear()
        training = lab.start(config)
        hard = torch.eye(CLASSES)[torch.arange(6)]
        backward(training, lab.images(config), hard, 6, print)
        assert len(seen) == 4  # q, p, g and t
        for targets in seen:
            expected = hard * (1 - config.label_smoothing) + config.label_smoothing / CLASSES
            torch.testing.assert_close(targets, expected)
        entropies.append(entropy(seen[0]))
    assert 0 < entropies[0] < entropies[1]


@row("class_weights", "none", "balanced")
def _(lab, one, other):
    shares = []
    for config in (one, other):
        faces = lab.few((300, 16, 16), use_soft_labels=False)
        labels = faces.split("train").table["label"]
        rare = labels.value_counts().index[-1]
        assert 0 < (labels == rare).mean() < 0.08
        by_class, share = np.zeros(CLASSES), labels.value_counts(normalize=True)

        def watched(output, targets, *rest, by_class=by_class):
            parts = total_loss(output, targets, *rest)
            gradient = torch.autograd.grad(parts["cls"], output.log_probs, retain_graph=True)[0]
            np.add.at(by_class, targets.argmax(dim=1), gradient.abs().sum(dim=1) * len(targets))
            return parts

        lab.epoch(config, faces, lambda t, w=watched: setattr(t, "loss", w))
        shares.append(by_class[rare] / by_class.sum())
    assert shares[0] == pytest.approx(share[rare], rel=1e-3)  # as many as there are faces
    assert shares[1] == pytest.approx(1 / labels.nunique(), rel=1e-3)  # every class alike


# -- augmentation and mixing


@row("augmentation", "standard", "heavy")
def _(lab, one, other):
    distances = []
    for config in (one.replace(augmentation="none"), one, other):
        training = lab.start(config)
        images = torch.from_numpy(training.train.gather(np.arange(48)))
        targets = torch.from_numpy(training.train.targets[:48])
        plain = lab.start(config.replace(augmentation="none")).inputs(images, targets)[0]
        moves = [(training.inputs(images, targets)[0] - plain).abs().mean() for _ in range(8)]
        distances.append(np.mean(moves))
    assert distances[0] == 0
    assert distances[1] > 0.1
    assert distances[2] > 1.2 * distances[1]


def _mixed(lab, config, batches):
    """Inputs and targets of flat grey faces, each of its own grey and of its own class.

    Mean grey and target then say the same of a face, whichever way it was mixed.
    """
    training = lab.start(config)
    grey = torch.linspace(10, 240, 24).round()
    images = grey[:, None, None].expand(24, 32, 32).to(torch.uint8)
    for _ in range(batches):
        inputs, targets = training.inputs(images, torch.eye(24))
        mean, std = training.net.mean[0], training.net.std[0]
        yield inputs[:, 0].mean(dim=(1, 2)) * std + mean, targets, grey / 255


def _smaller_share(lab, config):
    return np.mean([1 - t.max(dim=1).values.mean().item() for _, t, _ in _mixed(lab, config, 150)])


@row("mixup_alpha", 0.2, 8.0, mix_prob=1, cutmix_alpha=0)
def _(lab, one, other):
    assert 0.02 < _smaller_share(lab, one) < 0.25 < 0.35 < _smaller_share(lab, other)


@row("cutmix_alpha", 0.2, 8.0, mix_prob=1, mixup_alpha=0)
def _(lab, one, other):
    assert 0.02 < _smaller_share(lab, one) < _smaller_share(lab, other) - 0.05


@row("mix_prob", 0.3, 1.0)
def _(lab, one, other):
    for config in (one, other):
        mixed = 0
        for found, targets, grey in _mixed(lab, config, 100):
            mixed += not torch.equal(targets, torch.eye(24))
            torch.testing.assert_close(found, targets @ grey, atol=1e-4, rtol=0)
        assert mixed / 100 == pytest.approx(config.mix_prob, abs=0.12)


@row("balanced_sampling", 0, 5)
def _(lab, one, other):
    faces = lab.few((300, 16, 16))
    labels = faces.split("train").table["label"].to_numpy()
    for config in (one, other):
        training = lab.start(config, faces)
        seen = np.bincount(labels[np.concatenate(training.batches())], minlength=CLASSES)
        counts = np.bincount(labels, minlength=CLASSES)
        assert seen.tolist() == (np.sign(counts) * 5 if config is other else counts).tolist()


# -- optimisation


@row("epochs", 1, 3)
def _(lab, one, other):
    for config in (one, other):
        history = lab.fit(config).history()
        assert history["epoch"].tolist() == list(range(1, config.epochs + 1))
        # the last update of the cosine, of three in an epoch
        last = 0.5 * (1 + math.cos(math.pi * (1 - 1 / (3 * config.epochs))))
        assert history["lr"].iloc[-1] == pytest.approx(config.lr * last)


def _batch_sizes(lab, config):
    """A training after its first epoch, and how many faces each forward pass took."""
    sizes = []
    training = lab.start(config)
    training.net.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    train_epoch(training, print)
    return training, sizes


@row("batch_size", 8, 16)
def _(lab, one, other):
    for config in (one, other):
        training, sizes = _batch_sizes(lab, config)
        assert sizes == [config.batch_size] * (48 // config.batch_size)
        assert training.update == len(sizes)


@row("micro_batch_size", 0, 4)
def _(lab, one, other):
    for config in (one, other):
        training, sizes = _batch_sizes(lab, config)
        assert set(sizes) == {config.micro_batch_size or config.batch_size}
        assert sum(sizes) == 48
        assert training.update == 3


@row("lr", 1e-4, 1e-2)
def _(lab, one, other):
    lengths = []
    for config in (one, other):
        training = lab.start(config)
        rates = at_each_step(training, lambda t: [g["lr"] for g in t.optimizer.param_groups])
        before = parameters(training)
        train_epoch(training, print)
        lengths.append(moved(before, parameters(training)))
        assert max(map(max, rates)) == pytest.approx(config.lr)
    assert lengths[1] > 20 * lengths[0] > 0


@row("backbone_lr_scale", 0.0, 0.1)
def _(lab, one, other):
    shares = []
    for config in (one, other):
        training = lab.start(config)
        before = parameters(training)
        train_epoch(training, print)
        after = parameters(training)
        parts = [{k: v for k, v in before.items() if k.startswith(p)} for p in ("back", "head")]
        backbone, head = (moved(part, after) / math.sqrt(sum(v.numel() for v in part.values()))
                          for part in parts)  # fmt: skip
        assert head > 1e-5
        shares.append(backbone / head)
    assert shares[0] == 0
    assert 0.03 < shares[1] < 0.3  # Adam's steps are about as long as the rate


def _constant(output, *_):
    return {"loss": 0 * (output.log_probs.sum() + output.reliability_logits.sum()) + 1}


@row("weight_decay", 0.0, 10.0)
def _(lab, one, other):
    for config in (one, other):
        training = lab.start(config)
        training.loss = _constant  # no gradient: what is left is the decay
        rates = at_each_step(training, lambda t: t.optimizer.param_groups[0]["lr"])
        before = parameters(training)
        train_epoch(training, print)
        kept = math.prod(1 - config.weight_decay * rate for rate in rates)
        assert (kept < 0.99) == (config is other)
        for name, value in parameters(training).items():
            decays = value.ndim > 1 and name != "head.anchors"
            torch.testing.assert_close(value, before[name] * (kept if decays else 1))


@row("warmup_epochs", 0.0, 1.0)
def _(lab, one, other):
    for config in (one, other):
        training = lab.start(config)
        rates = at_each_step(
            training, lambda t: t.optimizer.param_groups[0]["lr"] / t.run.config.lr
        )
        train_epoch(training, print)
        if config is other:
            assert rates == pytest.approx([1 / 4, 2 / 4, 3 / 4])
        else:
            assert rates == sorted(rates, reverse=True)
            assert rates[0] == 1


@row("grad_clip", 0.05, 0.0)
def _(lab, one, other):
    for config in (one, other):
        training = lab.start(config)
        norms = at_each_step(training, norm_of_gradients)
        epoch = train_epoch(training, print)
        assert epoch["grad_norm"] > 0.1  # before clipping
        if config.grad_clip:
            assert norms == pytest.approx([config.grad_clip] * 3, rel=1e-3)
        else:
            assert np.mean(norms) == pytest.approx(epoch["grad_norm"], rel=1e-4)


@row("ema_decay", 0.0, 0.9)
def _(lab, one, other):
    behind = []
    for config in (one, other):
        training, _ = lab.epoch(config)
        average = dict(training.ema.module.named_parameters())
        behind.append(moved(parameters(training), average))
    assert behind[0] == 0
    assert behind[1] > 1e-3


@row("early_stopping", 0, 2, epochs=5)
def _(lab, one, other):
    validate, scores = fitting.validate, [0.2, 0.5, 0.4, 0.3, 0.6]

    def pretended(training):
        score = scores[training.epoch - 1]
        return validate(training) | {"val_accuracy": score, "ema_val_accuracy": score}

    lab.patch.setattr(fitting, "validate", pretended)
    assert [len(lab.fit(config).history()) for config in (one, other)] == [5, 4]


@row("precision", "fp32", "bf16")
def _(lab, one, other):
    for config, kind in ((one, torch.float32), (other, torch.bfloat16)):
        kinds = set()
        training = lab.start(config)
        for module in training.net.backbone.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(lambda *a, k=kinds: k.add(a[2].dtype))
        scored = set()

        def watched(output, *rest, scored=scored):
            scored.add(output.log_probs.dtype)
            return total_loss(output, *rest)

        training.loss = watched
        train_epoch(training, print)
        assert kinds == {kind}
        assert scored == {torch.float32}
        assert {p.dtype for p in training.net.parameters()} == {torch.float32}


@row("channels_last", False, True)
def _(lab, one, other):
    for config in (one, other):
        seen = []
        training = lab.start(config)
        training.net.register_forward_pre_hook(lambda _, given, s=seen: s.append(given[0]))
        train_epoch(training, print)
        weights = [m.weight for m in training.net.modules() if isinstance(m, nn.Conv2d)]
        weights += [m.weight for m in training.ema.module.modules() if isinstance(m, nn.Conv2d)]
        for tensor in (*seen, *(w for w in weights if w.shape[1] > 1 and w.shape[2] > 1)):
            last = tensor.is_contiguous(memory_format=torch.channels_last)
            assert last == config.channels_last


@row("compile", False, True)
def _(lab, one, other):
    for config in (one, other):
        compiled, calls = [], []

        def pretended(net, compiled=compiled, calls=calls):
            compiled.append(net)
            return lambda images: calls.append(len(images)) or net(images)

        lab.patch.setattr(torch, "compile", pretended)
        training, _ = lab.epoch(config)
        assert compiled == ([training.net] if config.compile else [])
        assert calls == ([16, 16, 16] if config.compile else [])


# -- the run


@row("seed", 0, 1)
def _(lab, one, other):
    def drawn(config):
        training = lab.start(config.replace(augmentation="heavy", mix_prob=0.5))
        weights = parameters(training)["head.reduce.weight"].numpy()
        order = np.concatenate(training.batches())
        train_epoch(training, print)  # augmentation and mixing
        return weights, order, parameters(training)["head.reduce.weight"].numpy() - weights

    first, again, second = drawn(one), drawn(one), drawn(other)
    for ours, same, theirs in zip(first, again, second, strict=True):
        np.testing.assert_array_equal(ours, same)
        assert not np.array_equal(ours, theirs)


@row("device", "cpu", "cuda:99")
def _(lab, one, other):
    training = lab.start(one.replace(class_weights="balanced"))
    tensors = [*training.net.parameters(), *training.ema.parameters(), training.class_weights]
    tensors += training.inputs(torch.zeros(4, 48, 48), torch.eye(CLASSES)[:4])
    assert {tensor.device.type for tensor in tensors} == {"cpu"}
    with pytest.raises(ValueError, match="device 'cuda:99' cannot be used here"):
        lab.start(other)


@row("num_workers", 0, 1)
def _(lab, one, other):
    make, loaders, results = fitting.batch_loader, [], []

    def watched(*arguments, **options):
        loaders.append(make(*arguments, **options))
        return loaders[-1]

    lab.patch.setattr(fitting, "batch_loader", watched)
    for config in (one, other):
        training, _ = lab.epoch(config)
        results.append(parameters(training))
    assert [loader.num_workers for loader in loaders] == [0, 1]
    assert moved(*results) == 0


@row("processes", 1, 2)
def _(lab, one, other):
    asked = []
    lab.patch.setattr(fitting, "launch_processes", lambda run, say: asked.append(run.config))
    lab.patch.setattr(Run, "history", lambda run: pd.DataFrame())
    lab.fit(one)
    assert asked == []
    lab.fit(other)
    assert asked == [other]


@row("save_every", 0, 2, epochs=4)
def _(lab, one, other):
    kept = [sorted(p.stem for p in lab.fit(config).path.glob("checkpoints/epoch_*"))
            for config in (one, other)]  # fmt: skip
    assert kept == [[], ["epoch_0002", "epoch_0004"]]


@row("output_dir", lambda lab: str(lab.tmp_path / "a"), lambda lab: str(lab.tmp_path / "b"),
     run_name="x")  # fmt: skip
def _(lab, one, other):
    for config in (one, other):
        assert str(start_run(config).path) == f"{config.output_dir}/x"


@row("run_name", "one", "other")
def _(lab, one, other):
    for config in (one, other):
        assert start_run(config).path == lab.tmp_path / config.run_name


@row("log", "", "tensorboard")
def _(lab, one, other):
    pytest.importorskip("tensorboard")  # what it writes: test_fit.py
    for config in (one, other):
        run = lab.fit(config)
        assert (run.path / "tensorboard").is_dir() == (config is other)


@row("variant", "", "mine")
def _(lab, one, other):
    with pytest.raises(ValueError, match="needs a name: set variant"):
        lab.fit(one, loss=_constant)
    assert lab.fit(other, loss=_constant).history()["train_loss"].tolist() == [1, 1]
    assert other.changes().keys() - one.changes().keys() == {"variant"}
    with pytest.raises(ValueError, match="variant 'mine' there, '' here"):
        check_same_settings(Run(lab.tmp_path, other), one)


def _run_named(name):
    def start(lab):
        run = start_run(lab.config(run_name=name, lr=0.123))
        tensors = build_model(run.config, CLASSES).state_dict()
        facts = {"config": run.config.to_dict(), "epoch": 1, "val_accuracy": 0.5, "trust": 1.0,
                 "class_names": list(load_faces(run.config).class_names)}  # fmt: skip
        for which in ("best_model", "best_ema_model"):
            run.save_checkpoint(which, tensors, facts)
        return str(run.path)

    return start


@row("resume", "", _run_named("begun"))
def _(lab, one, other):
    found = resolve({"resume": other.resume, "num_workers": 1})
    assert (found.lr, found.run_name, found.num_workers) == (0.123, "begun", 1)
    assert run_folder(found) == lab.tmp_path / "begun"
    assert resolve({"lr": 0.5}).lr == 0.5


@row("checkpoint_path", "", _run_named("parent"))
def _(lab, one, other):
    stored = Run(lab.tmp_path / "parent", other).load_checkpoint("best_model")[0]
    for config in (one, other):
        state = lab.start(config.replace(seed=3)).net.state_dict()
        assert all(torch.equal(state[k], v) for k, v in stored.items()) == (config is other)
    assert run_folder(other).parent == lab.tmp_path / "parent"


@row("finetune_name", "one", "other")
def _(lab, one, other):
    parent = _run_named("parent")(lab)
    for config in (one, other):
        folder = run_folder(config.replace(checkpoint_path=parent))
        assert folder == lab.tmp_path / f"parent/finetune_{config.finetune_name}"


# -- evaluation


@row("checkpoint_dir", _run_named("one"), _run_named("other"))
def _(lab, one, other):
    for config in (one, other):
        run, results, used = resolve_evaluation({"checkpoint_dir": config.checkpoint_dir})
        assert str(run.path) == str(results.path) == config.checkpoint_dir
        assert used.run_name == run.path.name


def _evaluation(lab, config):
    """An evaluation of few faces, and how many of them were corrupted in it."""
    if not (lab.tmp_path / "trained").is_dir():
        _run_named("trained")(lab)
    spoiled = []

    def corrupted(net, faces, config):
        spoiled.append(len(faces))
        return [{"accuracy": 1.0}]

    lab.patch.setattr(evaluation, "evaluate_corruptions", corrupted)
    run = Run(lab.tmp_path / "trained", config)
    found = evaluation.evaluate_run(run, lab.few((40, 20, 30)), config, Run(lab.folder(), config))
    return found, spoiled


@row("split", "test", "val", robustness_images=0, inspect_labels=False)
def _(lab, one, other):
    faces = lab.few((40, 20, 30))
    for config in (one, other):
        found, _ = _evaluation(lab, config)
        for table in found.predictions.values():
            assert table["id"].tolist() == faces.split(config.split).table["id"].tolist()


@row("robustness_images", 0, 7, inspect_labels=False)
def _(lab, one, other):
    assert [_evaluation(lab, config)[1] for config in (one, other)] == [[], [7]]


@row("inspect_labels", True, False, robustness_images=0)
def _(lab, one, other):
    assert len(_evaluation(lab, one)[0].training) == 40
    assert _evaluation(lab, other)[0].training is None


def _photograph(lab):
    Image.fromarray(np.full((90, 120, 3), 77, np.uint8)).save(lab.tmp_path / "photo.png")
    return str(lab.tmp_path / "photo.png")


@row("picture", "", _photograph)
def _(lab, one, other):
    lab.patch.setattr("grefel_lib.sources.photo.find_faces", lambda picture: [(0, 0, 9, 9)])
    assert (load_photo(other).picture == 77).all()
    assert not (load_photo(one).picture == 77).all()


@row("tta", "none", "flip")
def _(lab, one, other):
    faces = lab.few((4, 4, 6)).split("test")
    mirrored = dataclasses.replace(faces, images=faces.images[..., ::-1])
    net = lab.net(one)
    plain, back, mean = (
        predict(net, part, config)
        for part, config in ((faces, one), (mirrored, one), (faces, other))
    )
    columns = [c for c in plain if c.startswith(("p_", "primary_")) or c == "reliability"]
    assert (plain[columns] - back[columns]).abs().to_numpy().max() > 1e-4
    np.testing.assert_allclose(mean[columns], (plain[columns] + back[columns]) / 2, atol=1e-5)


def _teacher(lab):
    """A run that is sure that every training face is afraid; its name."""
    train = load_faces(lab.config()).split("train")
    sure = {f"p_{name}": 0.93 if name == "fear" else 0.01 for name in train.class_names}
    folder = Folder(lab.tmp_path / "teacher")
    folder.write_table(train.table[["id"]].assign(**sure), "predictions", "train_best_model.csv")
    return str(folder.path)


@row("teacher", "", _teacher)
def _(lab, one, other):
    train = load_faces(one).split("train")
    fear = train.class_names.index("fear")
    np.testing.assert_array_equal(taught(train, one).targets, train.targets)
    mixed = taught(train, other).targets
    np.testing.assert_allclose(mixed[:, fear], (train.targets[:, fear] + 0.93) / 2, atol=1e-6)
    np.testing.assert_allclose(mixed.sum(axis=1), 1, atol=1e-6)
    with pytest.raises(FileNotFoundError, match="teacher nobody has no predictions of training"):
        taught(train, one.replace(teacher="nobody"))
    places = (("outputs/t1", "t1"), ("elsewhere/runs/t2", "t2"), ("outputs/pretrained_t3", "t3"))
    for folder, name in places:  # also in a sweep's folder, and of a model that comes along
        shutil.copytree(other.teacher, lab.tmp_path / folder)
        with pytest.MonkeyPatch.context() as patch:
            for module in ("faces", "run"):
                patch.setattr(f"grefel_lib.{module}.PROJECT_ROOT", lab.tmp_path)
            patch.setenv("HOME", str(lab.tmp_path / "elsewhere"))
            found = taught(train, other.replace(teacher=name, output_dir="~/runs"))
        np.testing.assert_array_equal(found.targets, mixed)
    path = Path(other.teacher) / "predictions/train_best_model.csv"
    table = read_table(path)
    table.iloc[1:].to_csv(path, index=False)
    with pytest.raises(
        ValueError, match=f"of 1 of {len(train)} training faces, the first {table['id'][0]}"
    ):
        taught(train, other)
    labels = np.asarray(train.class_names)[train.table["label"]]
    table.assign(label=labels).to_csv(path, index=False)
    np.testing.assert_array_equal(taught(train, other).targets, mixed)
    table.assign(label=labels[::-1]).to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"other faces under these ids: only \d+% of the labels"):
        taught(train, other)
    noisy = train.table.assign(true_label=train.table["label"], label=0)  # with label_noise
    table.assign(label=labels).to_csv(path, index=False)
    assert len(taught(dataclasses.replace(train, table=noisy), other).targets) == len(train)
    table.drop(columns="p_fear").to_csv(path, index=False)
    with pytest.raises(ValueError, match="knows no class fear"):
        taught(train, other)


@row("teacher_weight", 0.2, 1, teacher="t")
def _(lab, one, other):
    shares = [_fear(lab, config) for config in (one, other)]
    own = load_faces(one).split("train").targets[:, 6].mean()
    assert shares == pytest.approx([0.8 * own + 0.2 * 0.93, 0.93], abs=1e-6)


@row("teacher_temperature", 1, 4, teacher="t", teacher_weight=1)
def _(lab, one, other):
    soft = 0.93 ** (1 / 4) / (0.93 ** (1 / 4) + 7 * 0.01 ** (1 / 4))
    assert [_fear(lab, config) for config in (one, other)] == pytest.approx([0.93, soft], abs=1e-6)


def _fear(lab, config):
    """The mean share of fear in the targets, with the teacher in place."""
    train = load_faces(config).split("train")
    assert train.class_names[6] == "fear"
    return taught(train, config.replace(teacher=_teacher(lab))).targets[:, 6].mean()


# -- what takes more than a row


SHOWN = {
    "processes": "test_processes.py::test_two_processes_train_as_one",
    "resume": "test_fit.py::test_killed_in_mid_epoch_the_same_command_ends_with_the_same_weights",
    "micro_batch_size": "test_fit.py::test_micro_batches_give_the_gradient_of_the_whole_batch",
    "rafdb_images": "test_faces.py::test_original_rafdb_pictures_are_cropped_to_their_boxes",
}


@pytest.mark.parametrize("name", SHOWN)
def test_a_longer_test_shows_the_rest(name):
    file, test = SHOWN[name].split("::")
    assert name in ROWS
    assert f"\ndef {test}(" in Path(__file__).with_name(file).read_text()
