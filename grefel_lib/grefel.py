"""GReFEL around any timm backbone: embedding, anchors, attention, reliability balancing.

The equations are worked by hand in notebook 02. The model does no I/O.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grefel_lib.backbone import build_backbone, earlier_width, reads_earlier
from grefel_lib.config import Config

MIN_CONFIDENCE = 1e-6


@dataclass
class Output:
    """The model's output for a batch of faces; all distributions are log-probabilities.

    A plain linear head sets `log_probs` only; `correction="none"` builds no branches.
    """

    log_probs: Tensor  # (B, C) corrected distribution q: the prediction
    primary_log_probs: Tensor | None = None  # (B, C) p
    geometric_log_probs: Tensor | None = None  # (B, C) g, from the anchors
    attentive_log_probs: Tensor | None = None  # (B, C) t, from the tokens
    correction_log_probs: Tensor | None = None  # (B, C) r, g and t combined
    confidences: Tensor | None = None  # (B, 3) of p, g, t, or of those that were built
    embeddings: Tensor | None = None  # (B, D) on the sphere of radius sqrt(D)
    anchors: Tensor | None = None  # (C, K, D) on the same sphere
    attention: Tensor | None = None  # (B, T) weight of each token; sums to 1
    reliability_logits: Tensor | None = None  # (B,)
    features: Tensor | None = None  # (B, F) pooled features of the backbone

    @property
    def class_probs(self) -> Tensor:
        """(B, C) corrected probabilities."""
        return self.log_probs.exp()

    @property
    def reliability(self) -> Tensor | None:
        """(B,) expected target mass of the predicted class, in 0..1."""
        return None if self.reliability_logits is None else self.reliability_logits.sigmoid()

    def branch_log_probs(self) -> Iterator[Tensor]:
        """The distributions p, g and t, where they were built."""
        branches = (self.primary_log_probs, self.geometric_log_probs, self.attentive_log_probs)
        return (branch for branch in branches if branch is not None)


def to_sphere(points: Tensor) -> Tensor:
    """Scale points (..., D) to norm sqrt(D)."""
    return F.normalize(points, dim=-1) * math.sqrt(points.shape[-1])


def anchor_log_probs(embeddings: Tensor, anchors: Tensor, *, delta: float = 1.0) -> Tensor:
    """Score each class by the distances of its anchors to an embedding.

    All anchors of all classes share one softmax over negative Euclidean distance; a class's
    probability is the sum over its own anchors. Points are used as given, not projected.

    Args:
        embeddings: (B, D) reduced features.
        anchors: (C, K, D) anchor points, in the units of `embeddings`.
        delta: Distance that counts as one nat of evidence; smaller is sharper.

    Returns:
        (B, C) log-probabilities. Each row depends only on its own embedding.

    Raises:
        ValueError: The embedding widths differ, or `delta` is not positive.

    Source: GReFEL, geometric correction; worked by hand in notebook 02.
    """
    if embeddings.shape[-1] != anchors.shape[-1]:
        raise ValueError(
            f"embeddings are {embeddings.shape[-1]} wide but anchors are {anchors.shape[-1]} wide"
        )
    if not delta > 0:
        raise ValueError(f"delta must be above 0; got {delta}")
    scores = F.log_softmax(-anchor_distances(embeddings, anchors).flatten(1) / delta, dim=1)
    return scores.unflatten(1, anchors.shape[:2]).logsumexp(dim=2)  # (B, C)


def anchor_distances(embeddings: Tensor, anchors: Tensor) -> Tensor:
    """Euclidean distances of embeddings (B, D) from anchors (C, K, D): (B, C, K)."""
    # cdist's matmul mode would make a row depend on the rest of its batch
    distance = torch.cdist(
        embeddings, anchors.flatten(0, 1), compute_mode="donot_use_mm_for_euclid_dist"
    )
    return distance.unflatten(1, anchors.shape[:2])


def confidence(log_probs: Tensor) -> Tensor:
    """Distance of a distribution from uniform: 1 - H(p) / log C, clamped to [1e-6, 1].

    Args:
        log_probs: (B, C).

    Returns:
        (B,): 1 for one-hot, 1e-6 for uniform.

    Source: GReFEL, confidence; the clamp is ours.
    """
    entropy = -(log_probs.exp() * log_probs.clamp(min=-1e4)).sum(dim=1)
    return (1 - entropy / math.log(log_probs.shape[1])).clamp(MIN_CONFIDENCE, 1.0)


def combine(log_a: Tensor, log_b: Tensor, weight_a: Tensor, weight_b: Tensor) -> Tensor:
    """Mean of two distributions, weighted by two confidences, in log space.

    Args:
        log_a: (B, C) log-probabilities.
        log_b: (B, C) log-probabilities.
        weight_a: (B,) positive; detached here.
        weight_b: (B,) positive; detached here.

    Returns:
        (B, C): log of (w_a a + w_b b) / (w_a + w_b).

    Source: GReFEL, the combination of corrections and the corrected distribution.
    """
    log_wa, log_wb = weight_a.detach().log(), weight_b.detach().log()
    log_sum = torch.logaddexp(log_wa, log_wb)
    return torch.logaddexp(log_a + (log_wa - log_sum)[:, None], log_b + (log_wb - log_sum)[:, None])


class GReFELHead(nn.Module):
    """Primary, geometric and attentive distributions, and their reliability balancing."""

    def __init__(
        self,
        feature_width: int,
        *,
        token_width: int,
        num_classes: int,
        num_anchors: int = 10,
        embedding_dim: int = 128,
        attention_heads: int = 4,
        delta: float = 1.0,
        temperature: float = 1.0,
        drop_rate: float = 0.15,
        correction: str = "paper",
        branches: str = "both",
        primary: str = "linear",
        reliability: bool = True,
        branch_width: int | None = None,
    ) -> None:
        super().__init__()
        self.delta, self.temperature, self.correction = delta, temperature, correction
        self.trust = 1.0  # of correction="trust"; set by `fit`, saved with the checkpoint
        built = {"both": ("anchors", "attention")}.get(branches, (branches,))
        built = () if correction == "none" else built
        self.reduce = self.anchors = self.attention = self.attentive = None
        self.reliability = None
        if built or primary == "mlp":
            self.reduce = nn.Linear(branch_width or feature_width, embedding_dim)
        if primary == "mlp":  # on the embedding, as in the paper
            self.primary = nn.Sequential(
                nn.Linear(embedding_dim, embedding_dim),
                nn.GELU(),
                nn.Dropout(drop_rate),
                nn.Linear(embedding_dim, num_classes),
            )
        else:  # on the pooled feature
            self.primary = nn.Sequential(nn.Linear(feature_width, num_classes))
        if "anchors" in built:
            self.anchors = nn.Parameter(torch.randn(num_classes, num_anchors, embedding_dim))
        if "attention" in built:
            self.attention = nn.MultiheadAttention(
                embedding_dim,
                attention_heads,
                kdim=token_width,
                vdim=token_width,
                batch_first=True,
            )
            self.attentive = nn.Linear(embedding_dim, num_classes)
        if reliability:
            inputs = 1 + len(built) + 1  # one confidence per branch, agreement, and e if it exists
            inputs += embedding_dim if self.reduce is not None else 0
            self.reliability = nn.Sequential(nn.Linear(inputs, 32), nn.GELU(), nn.Linear(32, 1))
        for classifier in (self.primary[-1], self.attentive):
            _start_near_zero(classifier)

    def forward(self, pooled: Tensor, tokens: Tensor, branch: Tensor | None = None) -> Output:
        """Score a batch.

        Args:
            pooled: (B, F) pooled backbone feature.
            tokens: (B, T, F_t) tokens or map positions of the same faces.
            branch: (B, F_b) feature that the branches reduce, if it is not the pooled one.
        """
        embeddings = anchors = attention = g = t = r = None
        if self.reduce is not None:
            embeddings = to_sphere(self.reduce(pooled if branch is None else branch))  # (B, D)
        logits = self.primary(pooled if len(self.primary) == 1 else embeddings)
        p = F.log_softmax(logits / self.temperature, dim=1)
        if self.anchors is not None:
            anchors = to_sphere(self.anchors)  # not in place: the EMA of anchors leaves the sphere
            g = anchor_log_probs(embeddings, anchors, delta=self.delta)
        if self.attention is not None:
            attended, attention = self.attention(embeddings[:, None], tokens, tokens)
            attended, attention = attended.squeeze(1), attention.squeeze(1)  # (B, D), (B, T)
            t = F.log_softmax(self.attentive(attended), dim=1)
        if g is not None and t is not None:
            r = combine(g, t, confidence(g), confidence(t))
        else:
            r = g if t is None else t
        branches = [branch for branch in (p, g, t) if branch is not None]
        conf = torch.stack([confidence(branch) for branch in branches], dim=1)  # (B, 1 to 3)
        return Output(
            log_probs=self._corrected(p, r),
            primary_log_probs=p,
            geometric_log_probs=g,
            attentive_log_probs=t,
            correction_log_probs=r,
            confidences=conf,
            embeddings=embeddings,
            anchors=anchors,
            attention=attention,
            reliability_logits=self._reliability(embeddings, conf, branches),
        )

    def _corrected(self, p: Tensor, r: Tensor | None) -> Tensor:
        """q: the primary distribution p (B, C), balanced with the correction r."""
        if r is None:
            return p
        if self.correction == "trust":
            weight = (self.trust * (1 - confidence(p))).clamp(min=MIN_CONFIDENCE)
            return combine(p, r, 1 - weight, weight)
        return combine(p, r, confidence(p), confidence(r))

    def _reliability(
        self, embeddings: Tensor | None, conf: Tensor, branches: list[Tensor]
    ) -> Tensor | None:
        if self.reliability is None:
            return None
        votes = [branch.argmax(dim=1) for branch in branches]
        same = [(a == b).float() for a, b in itertools.combinations(votes, 2)]
        agreement = torch.stack(same).mean(dim=0) if same else torch.ones_like(conf[:, 0])
        parts = [part for part in (embeddings, conf, agreement[:, None]) if part is not None]
        inputs = torch.cat(parts, dim=1)
        return self.reliability(inputs.detach()).squeeze(1)  # (B,); no gradient to other parts


def extract(backbone: nn.Module, images: Tensor, *, earlier: bool = False) -> tuple[Tensor, Tensor]:
    """A backbone's last features, and the same features as tokens of each image.

    Args:
        backbone: A timm network, or the window extractor.
        images: (B, 3, S, S), normalised.
        earlier: Take the tokens from the feature map before the last.

    Returns:
        Features in the backbone's own shape; and tokens (B, T, F_t) in float32, with prefix tokens
        removed.
    """
    if earlier:
        features, [before] = backbone.forward_intermediates(images, indices=[-2])
        return features, before.flatten(2).transpose(1, 2).float()  # (B, F_t, h, w) -> (B, T, F_t)
    features = backbone.forward_features(images)
    if features.ndim == 3:  # (B, prefix + T, F_t)
        tokens = features[:, getattr(backbone, "num_prefix_tokens", 0) :]
    elif getattr(backbone, "output_fmt", "NCHW") == "NHWC":
        tokens = features.flatten(1, 2)  # (B, h, w, F_t) -> (B, T, F_t)
    else:
        tokens = features.flatten(2).transpose(1, 2)  # (B, F_t, h, w) -> (B, T, F_t)
    return features, tokens.float()


class Calibration(nn.Module):
    """Temperature T and class offsets of a shipped model: log q -> log softmax(log q / T + offset).

    And a scale and a shift of its reliability, as a logit. All are fitted on validation, see
    `calibration.fit_release`.
    """

    def __init__(
        self, temperature: float, offsets: list[float], reliability: Sequence[float] = (1.0, 0.0)
    ) -> None:
        super().__init__()
        self.temperature, self.reliability = temperature, tuple(reliability)
        self.register_buffer("offsets", torch.tensor(offsets), persistent=False)

    def forward(self, log_probs: Tensor) -> Tensor:
        """(B, C) -> (B, C)."""
        return F.log_softmax(log_probs / self.temperature + self.offsets, dim=1)


class GReFEL(nn.Module):
    """A timm backbone with the GReFEL head, or with timm's own linear classifier."""

    def __init__(
        self, backbone: nn.Module, *, head: GReFELHead | None = None, earlier: bool = False
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.earlier = earlier  # the branches read the feature map before the last
        self.calibration: Calibration | None = None  # of a shipped model; not in training

    @property
    def mean(self) -> tuple[float, ...]:
        """Channel means used to normalise the backbone's inputs."""
        return tuple(self.backbone.pretrained_cfg["mean"])

    @property
    def std(self) -> tuple[float, ...]:
        """Channel standard deviations, likewise."""
        return tuple(self.backbone.pretrained_cfg["std"])

    def forward(self, images: Tensor) -> Output:
        """Score normalised images (B, 3, S, S)."""
        output = self._scored(images)
        if self.training or self.calibration is None:
            return output
        logits, log_probs = output.reliability_logits, self.calibration(output.log_probs)
        if logits is not None:
            scale, shift = self.calibration.reliability
            logits = _of_answer(scale * logits + shift, output.log_probs, log_probs)
        return replace(output, log_probs=log_probs, reliability_logits=logits)

    def _scored(self, images: Tensor) -> Output:
        if self.head is None:
            logits = self.backbone.forward_head(self.backbone.forward_features(images))
            return Output(F.log_softmax(logits.float(), dim=1))
        features, tokens = extract(self.backbone, images, earlier=self.earlier)
        pooled = self.backbone.forward_head(features, pre_logits=True)  # (B, F)
        # on a CPU, autocast would compute log_softmax in bfloat16
        with torch.autocast(images.device.type, enabled=False):
            branch = tokens.mean(dim=1) if self.earlier else None
            return replace(self.head(pooled.float(), tokens, branch), features=pooled.float())

    def classifier_names(self) -> set[str]:
        """Names of the parameters of timm's own classifier; none with the GReFEL head."""
        names = self.backbone.pretrained_cfg["classifier"] if self.head is None else ()
        names = (names,) if isinstance(names, str) else names  # a pair, where timm distils
        return {f"backbone.{name}.{part}" for name in names for part in ("weight", "bias")}

    def no_weight_decay(self) -> set[str]:
        """Names of parameters exempt from weight decay, besides norms and biases."""
        own = getattr(self.backbone, "no_weight_decay", set)()
        return {f"backbone.{name}" for name in own} | {"head.anchors"}


def _of_answer(logits: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Reliability logits (B,) of the classes answered `after` calibration, from those `before`.

    Where the answer moved, the mass that reliability leaves to other classes is split as their
    probabilities (B, C) are, as in `suspicion`.
    """
    first, last = before.argmax(dim=1, keepdim=True), after.argmax(dim=1, keepdim=True)
    probs = after.exp()
    share = (probs.gather(1, last) / (1 - probs.gather(1, first)).clamp(min=1e-6)).squeeze(1)
    moved = torch.sigmoid(-logits) * share.clamp(max=1)
    return torch.where((first != last).squeeze(1), torch.logit(moved, eps=1e-6), logits)


def _start_near_zero(classifier: nn.Linear | None) -> None:
    """Initialise to nearly uniform outputs: a random classifier disturbs pretrained features."""
    if classifier is not None:
        nn.init.normal_(classifier.weight, std=1e-3)  # at zero, earlier layers get no gradient
        nn.init.zeros_(classifier.bias)


def build_model(config: Config, num_classes: int) -> GReFEL:
    """Build the model that a config describes.

    Args:
        config: Names backbone, weights, head and sizes.
        num_classes: C.

    Raises:
        ValueError: timm has no such backbone, it rejects the size, or the weights do not fit.
        FileNotFoundError: `backbone_weights` names no file.
        ConnectionError: The hub cannot be reached.
    """
    linear = config.head == "linear"
    backbone = build_backbone(config, num_classes=num_classes if linear else 0)
    if linear:
        classifiers = backbone.get_classifier()  # a pair, where timm distils
        for classifier in classifiers if isinstance(classifiers, tuple) else (classifiers,):
            _start_near_zero(classifier)
        return GReFEL(backbone)
    width, earlier = backbone.num_features, reads_earlier(config)
    source = (config.backbone, config.image_size, config.output_stride)
    branch_width = earlier_width(*source) if earlier else None
    names = (
        "num_anchors", "embedding_dim", "attention_heads", "delta", "temperature", "drop_rate",
        "correction", "branches", "primary",
    )  # fmt: skip
    head = GReFELHead(
        getattr(backbone, "head_hidden_size", width),
        token_width=branch_width or width,
        num_classes=num_classes,
        reliability=config.lambda_rel > 0,
        branch_width=branch_width,
        **{name: getattr(config, name) for name in names},
    )
    return GReFEL(backbone, head=head, earlier=earlier)
