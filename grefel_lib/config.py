"""Every setting of a run, its default, its allowed values; and the profiles that bundle them."""

import dataclasses
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT_ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Config:
    """The settings of one run. The defaults are the `vit_base` recipe (METHOD, section 4).

    Build one with `resolve` (profile + parameters of a notebook) or `from_dict` (a run's
    config.json); both refuse unknown names.

    Raises:
        ValueError: A value has the wrong type or lies outside its range.
    """

    profile: str = "vit_base"
    # data
    dataset: str = "synthetic"
    data_dir: str = ""  # folder of the data set; empty: its usual place under data/
    protocol: str = "official"  # which FERPlus rows count, and with which label
    use_soft_labels: bool = True  # FERPlus: vote distributions as training targets
    drop_leaks: bool = True  # drop training faces that also occur in validation or test
    rafdb_images: str = "aligned"
    synthetic_images: int = 3000  # number of built-in faces
    label_noise: float = 0.0  # share of training labels made wrong on purpose
    noise_kind: str = "symmetric"  # any other class; confusion: as people confuse them (votes)
    # model
    backbone: str = "vit_base_patch16_224"  # any timm model
    backbone_weights: str = "hub"  # hub, none, or the path of a safetensors/state-dict file
    extractor: str = "timm"  # window_cross_attention: backbone is its image network (METHOD, 5)
    landmark_backbone: str = "mobilenetv3_small_100"  # of window_cross_attention; any timm pyramid
    landmark_weights: str = "hub"  # as backbone_weights
    image_size: int = 224  # pixels, square
    output_stride: int = 0  # of a CNN; 0: the backbone's own, 16 if its map is under 4x4
    head: str = "grefel"  # linear: timm's plain classifier, the control
    correction: str = "paper"  # how primary and correction are combined
    branches: str = "both"  # what the correction is made of
    primary: str = "linear"  # on the pooled feature; mlp: on the embedding, as in the paper
    num_anchors: int = 10  # per class (K)
    embedding_dim: int = 128  # D
    attention_heads: int = 4
    attention_levels: int = 1  # feature maps that the attention reads: the last, and earlier ones
    delta: float = 1.0  # distance that counts as one nat of evidence
    temperature: float = 1.0  # of the primary logits
    drop_rate: float = 0.15
    # losses
    lambda_branch: float = 3.0  # 3: each of p, g and t counts as much as q
    lambda_anchor: float = 0.1
    lambda_center: float = 0.1
    lambda_rel: float = 0.1  # 0: no reliability head
    label_smoothing: float = 0.11
    class_weights: str = "none"  # balanced: inverse to the class share, mean 1 over the faces
    # augmentation
    augmentation: str = "standard"
    mixup_alpha: float = 0.2  # 0: no MixUp
    cutmix_alpha: float = 1.0  # 0: no CutMix
    mix_prob: float = 0.5  # share of batches that are mixed
    balanced_sampling: int = 0  # faces per class and epoch; 0: every face once
    # optimisation
    epochs: int = 150
    batch_size: int = 64
    micro_batch_size: int = 0  # faces held in memory at once; 0: the whole batch
    lr: float = 5e-5
    backbone_lr_scale: float = 1.0  # the backbone learns at lr times this
    weight_decay: float = 0.005
    warmup_epochs: float = 10.0
    grad_clip: float = 1.0  # gradient norm; 0: no clipping
    ema_decay: float = 0.9999
    early_stopping: int = 0  # epochs without a better validation accuracy; 0: never
    precision: str = "auto"  # auto: bf16 on a GPU, fp32 on a CPU
    channels_last: bool = False
    compile: bool = False  # torch.compile; its first steps take minutes
    # the run
    seed: int = 0
    device: str = "auto"
    num_workers: int = 0
    processes: int = 1  # that train together on this machine, each on a GPU of its own
    save_every: int = 10  # epochs between kept checkpoints; 0: none kept
    output_dir: str = "outputs"
    run_name: str = ""  # empty: named after its settings and the time
    resume: str = ""  # name or folder of the run to continue
    # fine-tuning and evaluation
    checkpoint_path: str = ""  # a checkpoint file or run folder to start from
    finetune_name: str = ""  # its folder is finetune_<name>; empty: the time
    checkpoint_dir: str = ""  # a run folder (or its checkpoints/) to evaluate
    split: str = "test"  # the split that evaluation reads
    robustness_images: int = 500  # faces that are blurred, covered and so on; 0: none
    picture: str = ""  # photograph whose faces notebook 07 looks at; empty: built-in faces
    inspect_labels: bool = True  # score the training faces too, for labels that look wrong

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = _convert(field.name, getattr(self, field.name), field.type)
            object.__setattr__(self, field.name, value)
            _check(field.name, value)
        for name in ("run_name", "finetune_name"):
            value = getattr(self, name)
            if value and (value != Path(value).name or value in (".", "..")):
                raise ValueError(f"{name} is one folder name, without slashes; got {value!r}")
        if self.batch_size < 2 * self.processes:
            raise ValueError(
                f"batch_size {self.batch_size} is too small for {self.processes} processes; each "
                f"takes its share of a batch, two faces at least"
            )
        if self.attention_levels > 1 and self.extractor != "timm":
            raise ValueError(
                f"attention_levels must be 1 with extractor {self.extractor}, which reads three "
                f"maps of its own; got {self.attention_levels}"
            )
        if self.embedding_dim % self.attention_heads:
            raise ValueError(
                f"embedding_dim must be a multiple of attention_heads; "
                f"got {self.embedding_dim} and {self.attention_heads}"
            )

    def __str__(self) -> str:
        """Every setting, a group a line; * marks what differs from the vit_base recipe."""
        recipe = Config()
        lines: list[str] = []
        for name, value in dataclasses.asdict(self).items():
            mark = "" if value == getattr(recipe, name) else "*"
            shown = f"{name}{mark} {value if value != '' else '-'}"
            if name in _GROUPS:
                lines.append(f"{_GROUPS[name]:<13} {shown}")
            elif len(lines[-1].splitlines()[-1]) + len(shown) > 95:
                lines[-1] += f"\n{'':<13} {shown}"
            else:
                lines[-1] += f" · {shown}"
        return "\n".join(lines)

    @classmethod
    def resolve(cls, parameters: Mapping[str, Any], *, parent: "Config | None" = None) -> "Config":
        """Combine defaults, a profile and the parameters that were given (not None).

        Args:
            parameters: Values by field name. Names of dunder or imported objects must not be in
                it; see `from_notebook`.
            parent: The config of the run to fine-tune: its values are kept but for those of the
                matching fine-tuning profile.

        Raises:
            ValueError: An unknown name or profile, or a value out of range.
        """
        given = {name: value for name, value in parameters.items() if value is not None}
        for name in given:
            _known(name, FIELDS, "parameter")
        profile = given.pop("profile", "auto")
        if parent is not None:
            values = dataclasses.asdict(parent)
            values |= {"run_name": "", "resume": ""} | WITHOUT_WEIGHTS
            profile = "finetune" if profile == "auto" else profile
            _known(profile, FINETUNE_PROFILES | PROFILES, "profile")
            settings = FINETUNE_PROFILES.get(profile) or PROFILES[profile]
            if profile == "finetune":
                settings = FINETUNE_PROFILES.get(f"finetune_{parent.profile}", settings)
            config = cls.from_dict(values | settings)
            return config.on_data(**given, profile=parent.profile)
        if profile == "auto":
            profile = "demo" if given.get("dataset", "synthetic") == "synthetic" else "vit_base"
        _known(profile, PROFILES, "profile")
        return cls(**PROFILES[profile] | given | {"profile": profile})

    @classmethod
    def from_notebook(cls, namespace: Mapping[str, Any], **kwargs: Any) -> "Config":
        """`resolve` with every field that a notebook's parameters cell defined."""
        return cls.resolve({k: v for k, v in namespace.items() if k in FIELDS}, **kwargs)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Config":
        """Rebuild a config from `dataclasses.asdict` output; unknown names raise ValueError."""
        for name in values:
            _known(name, FIELDS, "setting")
        return cls(**values)

    def replace(self, **changes: Any) -> "Config":
        """A copy with some values changed."""
        return dataclasses.replace(self, **changes)

    def on_data(self, **changes: Any) -> "Config":
        """`replace`, but another data set without a data_dir is looked for in its usual place."""
        if changes.get("dataset", self.dataset) != self.dataset:
            changes = {"data_dir": ""} | changes
        return self.replace(**changes)

    def differences(self, other: "Config") -> dict[str, tuple[Any, Any]]:
        """The fields whose values differ: name -> (ours, theirs)."""
        mine, theirs = dataclasses.asdict(self), dataclasses.asdict(other)
        return {name: (mine[name], theirs[name]) for name in mine if mine[name] != theirs[name]}


_GROUPS = {  # the first field of each group
    "profile": "profile", "dataset": "data", "backbone": "model", "lambda_branch": "losses",
    "augmentation": "augmentation", "epochs": "optimisation", "seed": "run",
    "checkpoint_path": "start, test",
}  # fmt: skip

FIELDS = {field.name: field for field in dataclasses.fields(Config)}

WITHOUT_WEIGHTS = {"backbone_weights": "none", "landmark_weights": "none"}  # a checkpoint has them

CHOICES = {
    "dataset": ("synthetic", "ferplus", "fer2013", "rafdb", "rafdb_compound"),
    "protocol": ("official", "argmax", "all"),
    "rafdb_images": ("aligned", "original"),
    "noise_kind": ("symmetric", "confusion"),
    "extractor": ("timm", "window_cross_attention"),
    "head": ("grefel", "linear"),
    "correction": ("paper", "trust", "none"),
    "branches": ("both", "anchors", "attention"),
    "primary": ("linear", "mlp"),
    "class_weights": ("none", "balanced"),
    "augmentation": ("none", "standard", "heavy"),
    "precision": ("auto", "fp32", "bf16"),
    "output_stride": (0, 8, 16, 32),
    "split": ("train", "val", "test"),
}

# name: (lowest, highest); None: no bound. Lowest excluded where listed in _POSITIVE.
RANGES: dict[str, tuple[float, float | None]] = {
    "synthetic_images": (200, None), "label_noise": (0, 0.9), "image_size": (16, 1024),
    "num_anchors": (1, None), "embedding_dim": (2, None), "attention_heads": (1, None),
    "attention_levels": (1, 4), "delta": (0, None),
    "temperature": (0, None), "drop_rate": (0, 0.95), "lambda_branch": (0, None),
    "lambda_anchor": (0, None), "lambda_center": (0, None), "lambda_rel": (0, None),
    "label_smoothing": (0, 0.9), "mixup_alpha": (0, None), "cutmix_alpha": (0, None),
    "mix_prob": (0, 1), "balanced_sampling": (0, None), "epochs": (1, None),
    "batch_size": (2, None), "micro_batch_size": (0, None), "lr": (0, 10),
    "backbone_lr_scale": (0, None), "weight_decay": (0, None), "warmup_epochs": (0, None),
    "grad_clip": (0, None), "ema_decay": (0, 0.999999), "early_stopping": (0, None),
    "seed": (0, 2**31 - 1), "num_workers": (0, None), "processes": (1, None),
    "save_every": (0, None), "robustness_images": (0, None),
}  # fmt: skip
_POSITIVE = ("delta", "temperature", "lr")

DATA_DIRS = {  # where each data set is looked for when no data_dir is given
    "synthetic": "data/synthetic",
    "ferplus": "data/FERPlus",
    "fer2013": "data/fer2013",
    "rafdb": "data/RAF-DB",
    "rafdb_compound": "data/RAF-DB",
}

PROFILES: dict[str, dict[str, Any]] = {
    "demo": {
        "backbone": "test_resnet",
        "backbone_weights": "none",
        "image_size": 48,
        "output_stride": 16,
        "epochs": 12,
        "batch_size": 32,
        "warmup_epochs": 1.0,
        "lr": 4e-3,
        "weight_decay": 0.02,
        "ema_decay": 0.99,
        "label_smoothing": 0.05,
        "mix_prob": 0.0,
        "save_every": 0,
    },
    "lite": {
        "backbone": "tf_efficientnet_lite0",
        "image_size": 96,
        "output_stride": 32,
        "channels_last": True,
        "epochs": 8,
        "warmup_epochs": 0.5,
        "lr": 1e-3,
        "weight_decay": 0.02,
        "ema_decay": 0.998,
        "label_smoothing": 0.04,
        "mix_prob": 0.2,
        "save_every": 0,
    },
    "vit_base": {},
}

FINETUNE_PROFILES: dict[str, dict[str, Any]] = {
    "finetune": {
        "epochs": 50, "lr": 2e-5, "weight_decay": 0.007, "drop_rate": 0.18, "warmup_epochs": 5.0,
    },
    "finetune_lite": {
        "epochs": 2, "lr": 2e-4, "weight_decay": 0.007, "drop_rate": 0.18, "warmup_epochs": 0.2,
    },
    "finetune_demo": {
        "epochs": 2, "lr": 8e-4, "weight_decay": 0.007, "drop_rate": 0.18, "warmup_epochs": 0.2,
    },
}  # fmt: skip


def _known(name: str, allowed: Mapping[str, Any], kind: str) -> None:
    if name not in allowed:
        near = difflib.get_close_matches(name, allowed, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(allowed)}"
        raise ValueError(f"unknown {kind} {name!r}; {hint}")


def _convert(name: str, value: Any, kind: type) -> Any:
    """Accept what papermill and shells pass (numbers as text, `false` as text)."""
    if kind is bool:
        text = str(value).lower()
        if text in ("true", "yes", "on", "1"):
            return True
        if text in ("false", "no", "off", "0"):
            return False
        raise ValueError(f"{name} must be true or false; got {value!r}")
    if kind is str:
        if isinstance(value, (str, Path)):
            return str(value)
        raise ValueError(f"{name} must be text; got {value!r}")
    try:
        if isinstance(value, bool):
            raise ValueError
        number = float(value)
        if not math.isfinite(number) or (kind is int and number != int(number)):
            raise ValueError
        return kind(number)
    except (TypeError, ValueError, OverflowError):
        word = "a whole number" if kind is int else "a number"
        raise ValueError(f"{name} must be {word}; got {value!r}") from None


def _check(name: str, value: Any) -> None:
    if name in CHOICES and value not in CHOICES[name]:
        allowed = ", ".join(map(str, CHOICES[name]))
        raise ValueError(f"{name} must be one of {allowed}; got {value!r}")
    if name in RANGES:
        low, high = RANGES[name]
        if not (value > low if name in _POSITIVE else value >= low):
            word = "above" if name in _POSITIVE else "at least"
            raise ValueError(f"{name} must be {word} {low}; got {value}")
        if high is not None and value > high:
            raise ValueError(f"{name} must be at most {high}; got {value}")
