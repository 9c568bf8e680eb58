"""Config: defaults of the recipe, profiles, conversion, refusals."""

import dataclasses
import re

import pytest

from grefel_lib.config import CHOICES, PROFILES, RANGES, Config

NAMED_BY_THE_USER = {  # METHOD, section 4
    "lr": 5e-5,
    "batch_size": 64,
    "epochs": 150,
    "weight_decay": 0.005,
    "label_smoothing": 0.11,
    "mixup_alpha": 0.2,
    "drop_rate": 0.15,
    "ema_decay": 0.9999,
    "use_soft_labels": True,
    "num_anchors": 10,
    "warmup_epochs": 10,
    "grad_clip": 1.0,
    "cutmix_alpha": 1.0,
    "mix_prob": 0.5,
    "backbone": "vit_base_patch16_224",
    "image_size": 224,
}
FINETUNING = {
    "lr": 2e-5,
    "weight_decay": 0.007,
    "drop_rate": 0.18,
    "warmup_epochs": 5,
    "epochs": 50,
}


@pytest.mark.parametrize(("name", "value"), NAMED_BY_THE_USER.items())
def test_vit_base_holds_the_recipe(name, value):
    config = Config.resolve({"profile": "vit_base", "dataset": "ferplus"})
    assert getattr(config, name) == value


def test_fine_tuning_holds_the_gentler_recipe():
    config = Config.resolve({"checkpoint_path": "x"}, parent=Config())
    assert {name: getattr(config, name) for name in FINETUNING} == FINETUNING


def test_fine_tuning_keeps_the_parents_other_settings():
    parent = Config(backbone="resnet18", head="linear", lr=0.1)
    config = Config.resolve({"checkpoint_path": "x"}, parent=parent)
    assert (config.backbone, config.head) == ("resnet18", "linear")
    assert config.backbone_weights == "none"  # they come from the checkpoint
    assert config.lr == FINETUNING["lr"]


def test_auto_is_demo_on_built_in_faces_and_vit_base_on_real_ones():
    assert Config.resolve({}).profile == "demo"
    assert Config.resolve({"dataset": "rafdb"}).profile == "vit_base"


@pytest.mark.parametrize("profile", PROFILES)
def test_a_given_value_wins_over_every_profile(profile):
    config = Config.resolve({"profile": profile, "lr": 0.123, "epochs": None})
    assert config.lr == 0.123
    assert config.epochs == PROFILES[profile].get("epochs", Config().epochs)


def test_text_from_shells_and_papermill_is_converted():
    config = Config.resolve({"lr": "1e-4", "epochs": "7", "use_soft_labels": "false"})
    assert (config.lr, config.epochs, config.use_soft_labels) == (1e-4, 7, False)


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ({"lrr": 1}, "did you mean 'lr'"),
        ({"profile": "dmo"}, "did you mean 'demo'"),
        ({"epochs": -1}, "at least 1; got -1"),
        ({"epochs": 1.5}, "a whole number; got 1.5"),
        ({"epochs": True}, "a whole number; got True"),
        ({"lr": "fast"}, "a number; got 'fast'"),
        ({"lr": 0}, "above 0"),
        ({"lr": float("nan")}, "a number; got nan"),
        ({"weight_decay": float("inf")}, "a number; got inf"),
        ({"drop_rate": 1.0}, "at most 0.95"),
        ({"use_soft_labels": "maybe"}, "true or false; got 'maybe'"),
        ({"data_dir": 3}, "must be text; got 3"),
        ({"run_name": "a/b"}, "without slashes"),
        ({"finetune_name": ".."}, "without slashes"),
        ({"embedding_dim": 30, "attention_heads": 4}, "multiple of attention_heads"),
        *(({name: "nonsense"}, "must be one of") for name in CHOICES if name != "output_stride"),
    ],
)
def test_a_bad_value_is_refused_with_the_value_and_the_mend(bad, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        Config.resolve(bad)


def test_every_number_has_a_range_and_every_choice_contains_its_default():
    numbers = {f.name for f in dataclasses.fields(Config) if f.type in (int, float)}
    assert numbers - {"output_stride"} == set(RANGES)
    for name, allowed in CHOICES.items():
        assert getattr(Config(), name) in allowed


def test_a_config_survives_its_json():
    config = Config.resolve({"profile": "lite", "dataset": "fer2013", "seed": 3})
    assert Config.from_dict(dataclasses.asdict(config)) == config
    with pytest.raises(ValueError, match="unknown setting 'colour'"):
        Config.from_dict({"colour": 1})
