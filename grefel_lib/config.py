"""Every setting of a run, defined once: type, default, range, help, group; and the profiles."""

import contextlib
import dataclasses
import difflib
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

PACKAGED = Path(__file__).resolve().with_name("notebooks")  # only in an ordinary install
_FOLDER = Path.cwd().parent if Path.cwd().name == "notebooks" else Path.cwd()
PROJECT_ROOT = _FOLDER if PACKAGED.is_dir() else PACKAGED.parents[1]
PRETRAINED = Path(__file__).resolve().with_name("pretrained")  # models that come with the library
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setting:
    """Metadata of one `Config` field; flags, help, tables and checks are derived from it."""

    help: str
    group: str
    commands: tuple[str, ...]  # that accept it
    choices: tuple[str | int, ...] = ()
    low: float | None = None  # smallest allowed value
    above: float | None = None  # exclusive lower bound
    high: float | None = None  # largest allowed value
    unit: str = ""
    needs: tuple[str, ...] = ()  # conditions for it to have an effect, e.g. "head=grefel"
    sets_apart: bool = True  # two runs that differ in it are different variants
    may_change: bool = False  # when a run is resumed

    @property
    def range(self) -> str:
        """Range and unit as text, for the help."""
        low = f"above {self.above}" if self.above is not None else ""
        low = f"from {self.low}" if self.low is not None else low
        high = f"to {self.high}" if self.high is not None else ""
        return " ".join(filter(None, (low, high, self.unit)))


def _setting(default: Any, help: str, **about: Any) -> Any:
    return dataclasses.field(default=default, metadata={"setting": Setting(help, **about)})


_ONCE, _TRAIN = ("train",), ("train", "finetune")
_EVERY = ("explore", *_TRAIN, "evaluate", "explain")  # explore, explain: notebooks 01; 02 and 07
_data = partial(_setting, group="data", commands=("explore", *_TRAIN))
_model = partial(_setting, group="model", commands=_ONCE)
_head = partial(_setting, group="head", commands=_ONCE)
_loss = partial(_setting, group="losses", commands=_TRAIN)
_augment = partial(_setting, group="augmentation", commands=_TRAIN)
_optimise = partial(_setting, group="optimisation", commands=_TRAIN)
_run = partial(_setting, group="run", commands=_TRAIN, sets_apart=False)
_evaluate = partial(_setting, group="evaluation", commands=("evaluate",), sets_apart=False)
_VOTES = ("dataset=ferplus|synthetic",)
_WINDOW = ("extractor=window_cross_attention",)
_GREFEL = ("head=grefel",)
_CORRECTED = (*_GREFEL, "correction!=none")
_ANCHORS = (*_CORRECTED, "branches!=attention")


@dataclass(frozen=True)
class Config:
    """The settings of one run. The defaults are the `vit_base` recipe.

    Build one with `resolve` (profile + parameters of a notebook) or `from_dict` (a run's
    config.json); both refuse unknown names.

    Raises:
        ValueError: A value has the wrong type or lies outside its range.
    """

    profile: str = _setting("vit_base", "auto, demo, lite, mobile or vit_base; auto: demo on drawn "
                            "faces, else vit_base",
                            group="profile", commands=("explore", *_TRAIN),
                            sets_apart=False)  # fmt: skip
    dataset: str = _data("synthetic", "data set; synthetic: built-in drawn faces; folder: your own",
                         choices=("synthetic", "ferplus", "fer2013", "rafdb", "rafdb_compound",
                                  "affectnet7", "affectnet8", "folder"),
                         commands=_EVERY)  # fmt: skip
    data_dir: str = _data("", "folder of the data set; empty: its default folder under data/",
                          commands=_EVERY, sets_apart=False, may_change=True)  # fmt: skip
    protocol: str = _data("official", "which FERPlus rows count, and with which label",
                          choices=("official", "argmax", "all"), needs=_VOTES,
                          commands=("explore", *_TRAIN, "evaluate"))  # fmt: skip
    train_protocol: str = _data("", "protocol of the training rows only; empty: as protocol",
                                choices=("", "official", "argmax", "all"),
                                needs=_VOTES)  # fmt: skip
    use_soft_labels: bool = _data(True, "train on vote distributions where there are votes",
                                  needs=("dataset=ferplus|synthetic|folder",))  # fmt: skip
    drop_leaks: bool = _data(True, "drop training faces that also occur in validation or test, and "
                             "validation faces that occur in test")  # fmt: skip
    folds: int = _data(0, "cross-validation: parts of all faces, each tested once; 0: the splits "
                       "as they are", low=0, needs=("dataset=folder",))  # fmt: skip
    fold: int = _data(1, "the part to test on", low=1, needs=("folds>1",),
                      sets_apart=False)  # fmt: skip
    rafdb_images: str = _data("aligned", "which of RAF-DB's images to use",
                              choices=("aligned", "original"),
                              needs=("dataset=rafdb|rafdb_compound",))  # fmt: skip
    synthetic_images: int = _data(3000, "number of built-in faces", low=200, high=1_000_000,
                                  needs=("dataset=synthetic",))  # fmt: skip
    label_fixes: str = _data("", "CSV file of wrongly labelled training faces: id, and the right "
                             "label or nothing (left out)", commands=_TRAIN,
                             may_change=True)  # fmt: skip
    label_noise: float = _data(0.0, "share of training labels to corrupt (label noise)", low=0,
                               high=0.9, commands=_ONCE)  # fmt: skip
    noise_kind: str = _data("symmetric", "symmetric: any other class; confusion: as annotators "
                            "confuse them (needs votes)",
                            choices=("symmetric", "confusion"), needs=("label_noise>0",),
                            commands=_ONCE)  # fmt: skip

    backbone: str = _model("vit_base_patch16_224", "any timm model")
    backbone_weights: str = _model("hub", "hub, none, face, or the path of a weight file")
    extractor: str = _model("timm", "timm, or cross-attention between two networks; backbone is "
                            "then the image network",
                            choices=("timm", "window_cross_attention"))  # fmt: skip
    landmark_backbone: str = _model("mobilenetv3_small_100", "landmark network; any timm pyramid",
                                    needs=_WINDOW)  # fmt: skip
    landmark_weights: str = _model(
        "hub", "hub, none, face, or the path of a weight file", needs=_WINDOW
    )
    image_size: int = _model(224, "side of the square input", low=16, high=1024, unit="pixels")
    output_stride: int = _model(0, "pixels of the input per position of a CNN's last map; 0: "
                                "its default, or 16 for inputs below 128 pixels",
                                choices=(0, 8, 16, 32))  # fmt: skip
    head: str = _model("grefel", "linear: timm's own linear classifier, the baseline",
                       choices=("grefel", "linear"))  # fmt: skip
    correction: str = _head("paper", "how the primary distribution and the correction are combined",
                            choices=("paper", "trust", "none"), needs=_GREFEL)  # fmt: skip
    branches: str = _head("both", "which branches the correction consists of",
                          choices=("both", "anchors", "attention"), needs=_CORRECTED)  # fmt: skip
    primary: str = _head("linear", "linear on the pooled feature, or mlp on the embedding as in "
                         "the paper", choices=("linear", "mlp"), needs=_GREFEL)  # fmt: skip
    branch_features: str = _head("last", "feature map that the branches read; earlier: of the "
                                 "stage, or block, before the last", choices=("last", "earlier"),
                                 needs=(*_CORRECTED, "primary=linear", "extractor=timm"),
                                 )  # fmt: skip
    num_anchors: int = _head(10, "anchors per class", low=1, high=10_000, needs=_ANCHORS)
    embedding_dim: int = _head(128, "width of the embedding", low=2, high=16384, needs=_GREFEL)
    attention_heads: int = _head(4, "attention heads of the attentive correction", low=1,
                                 needs=(*_CORRECTED, "branches!=anchors"))  # fmt: skip
    delta: float = _head(1.0, "anchor distance that counts as one nat of evidence", above=0,
                         needs=_ANCHORS)  # fmt: skip
    temperature: float = _head(1.0, "of the primary logits", above=0, needs=_GREFEL)
    drop_rate: float = _model(0.15, "dropout probability", low=0, high=0.95, commands=_TRAIN)

    lambda_branch: float = _loss(3.0, "weight of the branch loss", low=0, needs=_CORRECTED)
    lambda_anchor: float = _loss(0.1, "weight of the anchor loss", low=0, needs=_ANCHORS)
    lambda_center: float = _loss(0.1, "weight of the center loss", low=0, needs=_ANCHORS)
    lambda_rel: float = _loss(0.1, "weight of the reliability loss; 0: no reliability head",
                              low=0, needs=_GREFEL)  # fmt: skip
    label_smoothing: float = _loss(0.11, "share of the target spread over all classes", low=0,
                                   high=0.9)  # fmt: skip
    class_weights: str = _loss("none", "balanced: inverse to the class share, mean 1 over faces; "
                               "logit_adjusted: log shares of the targets are added to the logits",
                               choices=("none", "balanced", "logit_adjusted"))  # fmt: skip
    teacher: str = _loss("", "evaluated runs, separated by commas, whose averaged predictions of "
                         "the training faces are mixed into the targets")  # fmt: skip
    teacher_weight: float = _loss(0.5, "share of the teacher in the targets", above=0, high=1,
                                  needs=("teacher!=",))  # fmt: skip
    teacher_temperature: float = _loss(1.0, "softens the teacher's predictions", above=0,
                                       needs=("teacher!=",))  # fmt: skip

    augmentation: str = _augment("standard", "strength of flips, shifts, lighting and erasing",
                                 choices=("none", "standard", "heavy"))  # fmt: skip
    mixup_alpha: float = _augment(0.2, "MixUp strength; 0 is off", low=0, needs=("mix_prob>0",))
    cutmix_alpha: float = _augment(1.0, "CutMix strength; 0 is off", low=0, needs=("mix_prob>0",))
    mix_prob: float = _augment(0.5, "probability that a batch is mixed", low=0, high=1)
    balanced_sampling: int = _augment(0, "faces per class and epoch; 0: every face once",
                                      low=0, high=1_000_000)  # fmt: skip

    epochs: int = _optimise(150, "passes over the training faces", low=1, high=1_000_000)
    batch_size: int = _optimise(
        64, "faces per update", low=2, high=1_000_000, commands=(*_TRAIN, "evaluate")
    )
    micro_batch_size: int = _optimise(0, "faces in memory at once; 0: the whole batch", low=0,
                                      sets_apart=False, may_change=True)  # fmt: skip
    lr: float = _optimise(5e-5, "peak learning rate", above=0, high=10)
    backbone_lr_scale: float = _optimise(1.0, "multiplier of lr for the backbone", low=0)
    weight_decay: float = _optimise(0.005, "not applied to norms, biases and anchors", low=0)
    warmup_epochs: float = _optimise(10.0, "linear warm-up", low=0, unit="epochs")
    grad_clip: float = _optimise(1.0, "maximum gradient norm; 0: off", low=0)
    ema_decay: float = _optimise(0.9999, "decay of the moving average of the weights (EMA)", low=0,
                                 high=0.999999)  # fmt: skip
    early_stopping: int = _optimise(0, "stop after this many epochs without improvement; 0: never",
                                    low=0)  # fmt: skip
    precision: str = _optimise("auto", "auto is bf16 on a GPU, fp32 on a CPU",
                               choices=("auto", "fp32", "bf16"))  # fmt: skip
    channels_last: bool = _optimise(False, "channels-last memory layout; often faster for CNNs")
    compile: bool = _optimise(False, "use torch.compile; the first steps then take minutes",
                              sets_apart=False, commands=_ONCE)  # fmt: skip

    seed: int = _run(0, "random seed of weights, order and augmentation", low=0, high=2**31 - 1)
    device: str = _run("auto", "auto, cpu, cuda or cuda:N", commands=_EVERY[1:], may_change=True)
    num_workers: int = _run(0, "loader processes; 0: load in this process", low=0, high=1024,
                            may_change=True, commands=(*_TRAIN, "evaluate"))  # fmt: skip
    processes: int = _run(1, "training processes, one per GPU of this machine", low=1, high=1024,
                          may_change=True)  # fmt: skip
    save_every: int = _run(10, "keep a checkpoint every N epochs; 0: keep none", low=0)
    output_dir: str = _run("outputs", "folder of run folders; of evaluate: for the results",
                           commands=(*_TRAIN, "evaluate", "compare"), may_change=True)  # fmt: skip
    log: str = _run("", "tensorboard: also write every epoch and result as event files",
                    choices=("", "tensorboard"), may_change=True)  # fmt: skip
    variant: str = _run("", "name for changes outside the settings, such as your own loss",
                        sets_apart=True)  # fmt: skip
    run_name: str = _run("", "name of the run folder; the same name continues an unfinished run",
                         commands=_ONCE)  # fmt: skip
    resume: str = _run("", "name or folder of a run to continue with its own settings",
                       commands=_ONCE, may_change=True)  # fmt: skip
    checkpoint_path: str = _run("", "run, its folder or a checkpoint file to start from; ferplus: "
                                "the bundled model; empty: the latest run",
                                commands=("finetune",))  # fmt: skip
    finetune_name: str = _run("", "names the folder <run>/finetune_<name>; empty: the current time",
                              commands=("finetune",))  # fmt: skip
    checkpoint_dir: str = _evaluate("", "run or its folder; ferplus: the bundled model",
                                    commands=("evaluate", "explain"))  # fmt: skip
    split: str = _evaluate("test", "split to score", choices=("train", "val", "test"),
                           commands=("evaluate", "explain"))  # fmt: skip
    tta: str = _evaluate("none", "flip: mean of the face and its mirror image",
                         choices=("none", "flip"))  # fmt: skip
    robustness_images: int = _evaluate(500, "faces used in the robustness test; 0: skip it",
                                       low=0)  # fmt: skip
    picture: str = _evaluate("", "photograph to explain; empty: faces of the data set",
                             commands=("explain",))  # fmt: skip
    inspect_labels: bool = _evaluate(True, "also score the training faces, to detect wrong labels")

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = convert(field.name, getattr(self, field.name))
            object.__setattr__(self, field.name, value)
            _check(field.name, value)
        for name in ("run_name", "finetune_name"):
            value = getattr(self, name)
            if value and (value != Path(value).name or value in (".", "..")):
                raise ValueError(f"{name} is one folder name, without slashes; got {value!r}")
        if 0 < self.folds < self.fold:
            raise ValueError(f"fold is {self.fold}, but there are only {self.folds} folds")
        if self.batch_size < 2 * self.processes:
            raise ValueError(
                f"batch_size {self.batch_size} is too small for {self.processes} processes; each "
                f"needs at least two faces of each batch"
            )
        if self.embedding_dim % self.attention_heads and not self.unmet("attention_heads"):
            raise ValueError(
                f"embedding_dim must be a multiple of attention_heads; "
                f"got {self.embedding_dim} and {self.attention_heads}"
            )

    def __str__(self) -> str:
        """Changes from the profile, settings without effect, then every setting by group."""
        changes = self.changes()
        words = [f"{name} {value}" for name, value in changes.items()] or ["nothing"]
        kind = "fine-tuning profile" if self.checkpoint_path else "profile"
        lines = _wrapped(f"changed from {kind} {self.profile}:", words)
        idle = [f"{n} (needs {self.unmet(n)})" for n in changes if self.unmet(n)]
        lines += _wrapped("without effect on this run:", idle) if idle else []
        groups: dict[str, list[str]] = {}
        for name, setting in SETTINGS.items():
            value = getattr(self, name)
            words = groups.setdefault(setting.group, [])
            words.append(f"{name} {value if value != '' else '-'}")
        for group, words in groups.items():
            lines += _wrapped(group, words)
        return "\n".join(lines)

    @classmethod
    def resolve(cls, parameters: Mapping[str, Any], *, parent: "Config | None" = None) -> "Config":
        """Combine defaults, a profile and the parameters that were given (not None).

        Args:
            parameters: Values by field name.
            parent: The config of the run to fine-tune: its values are kept, except those of the
                matching fine-tuning profile.

        Raises:
            ValueError: An unknown name or profile, or a value out of range.
        """
        overrides = {name: value for name, value in parameters.items() if value is not None}
        for name in overrides:
            check_name(name, SETTINGS, "parameter")
        overrides |= absolute_paths(overrides)
        profile = overrides.pop("profile", "auto")
        if parent is not None:
            values = dataclasses.asdict(parent)
            values |= dict.fromkeys(("run_name", "finetune_name", "resume", "variant"), "")
            values |= WITHOUT_WEIGHTS
            profile = parent.profile if profile == "auto" else profile
            gentle = FINETUNE_PROFILES.get(profile, FINETUNE_PROFILES["vit_base"])
            config = cls.from_dict(values | gentle)
            config = config.on_data(**overrides, profile=parent.profile)
            rows = ("seed", "label_fixes", "protocol", "train_protocol", "drop_leaks")
            changed = [n for n in rows if getattr(config, n) != getattr(parent, n)]
            if config.label_noise and parent.label_noise and changed and parent.same_data(config):
                name, value = changed[0], getattr(parent, changed[0])
                raise ValueError(
                    f"the parent's wrong labels were drawn with {name} {value!r}; with {name} "
                    f"{getattr(config, name)!r} other faces would be mislabelled; use the parent's"
                )
            return config._with_room_after_warmup("warmup_epochs" in overrides)
        if profile == "auto":
            profile = "demo" if overrides.get("dataset", "synthetic") == "synthetic" else "vit_base"
        check_name(profile, PROFILES, "profile")
        config = cls(**PROFILES[profile] | overrides | {"profile": profile})
        if overrides.get("folds") and config.unmet("folds"):
            raise ValueError(
                f"folds={config.folds}: cross-validation is of your own faces (dataset=folder); "
                f"{config.dataset} has its splits"
            )
        if "fold" in overrides and not config.folds and not config.resume:
            raise ValueError(
                f"fold={config.fold} is a part of a cross-validation; pass folds, their number, too"
            )
        if config.checkpoint_path or config.resume:  # the other settings are those of that run
            return config
        return config._with_room_after_warmup("warmup_epochs" in overrides)

    def _with_room_after_warmup(self, given: bool) -> "Config":
        """Reject a given warm-up as long as the run; shorten the profile's to a fifth of it."""
        if self.warmup_epochs < self.epochs:
            return self
        if given:
            raise ValueError(
                f"warmup_epochs is {self.warmup_epochs:g} and epochs {self.epochs}: the learning "
                f"rate would never decay; lower warmup_epochs"
            )
        log.warning(
            "warmup_epochs is %g instead of the profile's %g: a fifth of %d epochs",
            self.epochs / 5, self.warmup_epochs, self.epochs,
        )  # fmt: skip
        return self.replace(warmup_epochs=self.epochs / 5)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Config":
        """Rebuild a config from the output of `to_dict`, of this or an older version.

        Raises:
            ValueError: An unknown name, or the config of a newer version.
        """
        values = dict(values)
        version = values.pop("version", 1)
        if version > VERSION:
            raise ValueError(
                f"it was written by a newer version of this project (config version {version}, "
                f"here {VERSION}); update the project"
            )
        for name, neutral in RETIRED.items():
            value = values.pop(name, neutral)
            if value != neutral:
                log.warning("setting %s=%r no longer exists and is ignored", name, value)
        for name in values:
            check_name(name, SETTINGS, "setting")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Version and settings, for config.json and the headers of checkpoints."""
        return {"version": VERSION, **dataclasses.asdict(self)}

    def replace(self, **changes: Any) -> "Config":
        """A copy with some values changed."""
        return dataclasses.replace(self, **changes)

    def on_data(self, **changes: Any) -> "Config":
        """Like `replace`; another data set has its folder, no folds, teacher, fixes or noise."""
        if changes.get("dataset", self.dataset) != self.dataset:
            changes = {"data_dir": ""} | changes
        if not self.same_data(self.replace(**changes)):
            changes = {"folds": 0, "teacher": "", "label_fixes": "", "label_noise": 0.0} | changes
        return self.replace(**changes)

    def same_data(self, other: "Config") -> bool:
        """Whether both name one data set; a missing folder of the same name counts as moved."""
        if (self.dataset, other.dataset) != ("folder", "folder"):
            return self.dataset == other.dataset
        mine, theirs = (
            PROJECT_ROOT / Path(c.data_dir or DATA_DIRS["folder"]).expanduser()
            for c in (self, other)
        )
        moved = mine.name == theirs.name and not (mine.exists() and theirs.exists())
        return moved or mine.resolve() == theirs.resolve()

    def differences(self, other: "Config") -> dict[str, tuple[Any, Any]]:
        """The fields whose values differ: name -> (ours, theirs)."""
        mine, theirs = dataclasses.asdict(self), dataclasses.asdict(other)
        return {name: (mine[name], theirs[name]) for name in mine if mine[name] != theirs[name]}

    def changes(self) -> dict[str, Any]:
        """The settings in which this run differs from its profile."""
        values = dict(PROFILES.get(self.profile, {}))
        if self.checkpoint_path:
            values |= FINETUNE_PROFILES.get(self.profile, FINETUNE_PROFILES["vit_base"])
            values |= WITHOUT_WEIGHTS
        differences = self.differences(Config(**values))
        return {n: mine for n, (mine, _) in differences.items() if SETTINGS[n].sets_apart}

    @property
    def folder_name(self) -> str:
        """run_name, or finetune_name of a fine-tuned run; empty: not chosen yet."""
        return self.finetune_name if self.checkpoint_path else self.run_name

    def unmet(self, name: str) -> str:
        """The condition that keeps a setting from having an effect, as "head=grefel"; or ""."""
        for condition in SETTINGS[name].needs:
            key, sign, allowed = re.fullmatch(r"(\w+)(!=|=|>)(.*)", condition).groups()
            value = getattr(self, key)
            met = value > float(allowed) if sign == ">" else str(value) in allowed.split("|")
            if met == (sign == "!="):
                return condition
        return ""


FIELDS = {field.name: field for field in dataclasses.fields(Config)}
SETTINGS: dict[str, Setting] = {name: field.metadata["setting"] for name, field in FIELDS.items()}
VERSION = 2  # format of `Config.to_dict`; version 1 carried no version number
RETIRED = {"attention_levels": 1}  # settings of older runs, and the value without effect
WITHOUT_WEIGHTS = {"backbone_weights": "none", "landmark_weights": "none"}  # a checkpoint has them
DATA_DIRS = {  # where each data set is looked for when no data_dir is given
    "synthetic": "data/synthetic",
    "ferplus": "data/FERPlus",
    "fer2013": "data/fer2013",
    "rafdb": "data/RAF-DB",
    "rafdb_compound": "data/RAF-DB",
    "affectnet7": "data/AffectNet",
    "affectnet8": "data/AffectNet",
    "folder": "data/folder",
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
PROFILES["mobile"] = PROFILES["lite"] | {
    "backbone": "mobilenetv1_100",
    "backbone_weights": "face",
    "train_protocol": "all",
    "epochs": 12,
    "teacher_weight": 0.7,
    "teacher_temperature": 2.0,
}
_GENTLE = {"weight_decay": 0.007, "drop_rate": 0.18, "warmup_epochs": 0.2}
FINETUNE_PROFILES: dict[str, dict[str, Any]] = {
    "vit_base": _GENTLE | {"epochs": 50, "lr": 2e-5, "warmup_epochs": 5.0},
    "lite": _GENTLE | {"epochs": 2, "lr": 2e-4},
    "mobile": _GENTLE | {"epochs": 4, "lr": 5e-4},
    "demo": _GENTLE | {"epochs": 2, "lr": 8e-4},
}


def from_here(path: str) -> str:
    """The absolute path of what lies in the working folder, or else in the project root.

    A run keeps it so, and finds its data from any working folder. A path to nothing stays as given.
    """
    given = Path(path).expanduser()
    there = next((p for p in (given.absolute(), PROJECT_ROOT / given) if p.exists()), given)
    return str(there)


def absolute_paths(overrides: Mapping[str, Any]) -> dict[str, str]:
    """Of the given settings, where the data lie; see `from_here`."""
    names = [name for name in ("data_dir", "label_fixes") if overrides.get(name)]
    return {name: from_here(convert(name, overrides[name])) for name in names}


def command_settings(command: str) -> dict[str, Setting]:
    """The settings that a command (or a notebook: explore, explain) takes, by name."""
    return {name: setting for name, setting in SETTINGS.items() if command in setting.commands}


def check_name(name: str, allowed: Mapping[str, Any], kind: str) -> None:
    """Reject a name that is not allowed, and suggest the closest one.

    Raises:
        ValueError: The name is not one of `allowed`.
    """
    if name not in allowed:
        near = difflib.get_close_matches(name, allowed, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(allowed)}"
        raise ValueError(f"unknown {kind} {name!r}; {hint}")


def _wrapped(head: str, words: list[str]) -> list[str]:
    """A heading followed by words, wrapped at 95 characters."""
    lines = [f"{head:<13}"]
    for word in words:
        if len(lines[-1]) + len(word) > 95:
            lines.append(" " * 13)
        lines[-1] += f" {word}" if lines[-1].rstrip() in ("", head) else f" · {word}"
    return lines


def convert(name: str, value: Any) -> Any:
    """A value as the setting's type: papermill and shells pass numbers and `false` as strings.

    Raises:
        ValueError: It is not of that type.
    """
    kind = FIELDS[name].type
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
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        number = float(value)
        if math.isfinite(number) and kind(number) == number and not isinstance(value, bool):
            return kind(number)
    word = "a whole number" if kind is int else "a number"
    raise ValueError(f"{name} must be {word}; got {value!r}")


def _check(name: str, value: Any) -> None:
    setting = SETTINGS[name]
    if setting.choices and value not in setting.choices:
        allowed = ", ".join(map(str, setting.choices))
        raise ValueError(f"{name} must be one of {allowed}; got {value!r}")
    if setting.above is not None and not value > setting.above:
        raise ValueError(f"{name} must be above {setting.above}; got {value}")
    if setting.low is not None and value < setting.low:
        raise ValueError(f"{name} must be at least {setting.low}; got {value}")
    if setting.high is not None and value > setting.high:
        raise ValueError(f"{name} must be at most {setting.high}; got {value}")
