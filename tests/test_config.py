"""Config: the recipe, profiles, conversion, refusals; what every setting says of itself."""

import logging
import re

import pytest

from grefel_lib.commands import COMMANDS
from grefel_lib.config import (
    FIELDS,
    FINETUNE_PROFILES,
    PROFILES,
    RETIRED,
    SETTINGS,
    VERSION,
    Config,
    command_settings,
)

NAMED_BY_THE_USER = {
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
        *(
            ({name: "nonsense"}, "must be one of")
            for name, setting in SETTINGS.items()
            if setting.choices and FIELDS[name].type is str
        ),
        ({"output_stride": 12}, "must be one of 0, 8, 16, 32; got 12"),
    ],
)
def test_a_bad_value_is_refused_with_the_value_and_the_mend(bad, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        Config.resolve(bad)


# -- what a setting says of itself


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_says_what_it_is_and_who_takes_it(name):
    setting = SETTINGS[name]
    assert setting.help
    assert setting.group
    assert setting.commands
    assert set(setting.commands) <= {*COMMANDS, "explore", "explain"}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_number_has_a_range_or_choices_and_both_hold_the_default(name):
    setting, default = SETTINGS[name], FIELDS[name].default
    if FIELDS[name].type in (int, float):
        assert setting.choices or setting.low is not None or setting.above is not None
        assert setting.choices or setting.range
    if setting.choices:
        assert default in setting.choices
        assert all(type(choice) is FIELDS[name].type for choice in setting.choices)
    assert getattr(Config(), name) == default  # it passes its own checks


@pytest.mark.parametrize("name", [n for n, s in SETTINGS.items() if s.needs])
def test_what_a_setting_needs_are_values_that_other_settings_can_have(name):
    for condition in SETTINGS[name].needs:
        other, sign, values = re.fullmatch(r"(\w+)(!=|=|>)(.*)", condition).groups()
        assert other in SETTINGS
        assert other != name
        if sign == ">":
            assert FIELDS[other].type in (int, float)
            float(values)
        else:
            allowed = SETTINGS[other].choices or (FIELDS[other].default,)
            assert set(values.split("|")) <= set(map(str, allowed))


def test_every_profile_holds_settings_that_its_command_takes():
    for profiles, command in ((PROFILES, "train"), (FINETUNE_PROFILES, "finetune")):
        for values in profiles.values():
            assert values.keys() <= command_settings(command).keys()


@pytest.mark.parametrize(
    ("values", "name", "unmet"),
    [
        ({}, "num_anchors", ""),
        ({"head": "linear"}, "num_anchors", "head=grefel"),
        ({"correction": "none"}, "num_anchors", "correction!=none"),
        ({"branches": "attention"}, "num_anchors", "branches!=attention"),
        ({"branches": "attention"}, "attention_heads", ""),
        ({"dataset": "rafdb"}, "protocol", "dataset=ferplus|synthetic"),
        ({"dataset": "ferplus"}, "protocol", ""),
        ({"mix_prob": 0}, "mixup_alpha", "mix_prob>0"),
        ({"mix_prob": 0.1}, "mixup_alpha", ""),
        ({"head": "linear"}, "lr", ""),
    ],
)
def test_a_setting_names_the_condition_that_keeps_it_from_having_an_effect(values, name, unmet):
    assert Config(**values).unmet(name) == unmet


def test_changes_are_what_sets_a_run_apart_from_its_profile():
    assert Config.resolve({"profile": "lite", "dataset": "synthetic"}).changes() == {}
    config = Config.resolve(
        {"profile": "lite", "dataset": "ferplus", "epochs": PROFILES["lite"]["epochs"], "lr": 0.1,
         "run_name": "r", "num_workers": 2, "data_dir": "d"}
    )  # fmt: skip
    assert config.changes() == {"dataset": "ferplus", "lr": 0.1}


def test_changes_of_a_fine_tuned_run_are_counted_from_the_fine_tuning_profile():
    parent = Config.resolve({"profile": "lite", "drop_rate": 0.3})
    assert parent.changes() == {"drop_rate": 0.3}
    config = Config.resolve({"checkpoint_path": "x", "epochs": 9}, parent=parent)
    assert config.changes() == {"epochs": 9}


def test_as_text_a_config_begins_with_what_changed_and_says_what_has_no_effect():
    lines = str(Config.resolve({"profile": "demo"})).splitlines()
    assert lines[0] == "changed from profile demo: nothing"
    assert not any(line.startswith("without effect") for line in lines)
    text = str(Config.resolve({"profile": "demo", "head": "linear", "num_anchors": 3, "lr": 0.5}))
    lines = text.splitlines()
    assert lines[0] == "changed from profile demo: head linear · num_anchors 3 · lr 0.5"
    assert lines[1] == "without effect on this run: num_anchors (needs head=grefel)"
    assert max(map(len, lines)) <= 100
    words = text.split()
    assert all(name in words for name in SETTINGS)


# -- config.json


def test_a_config_survives_its_json():
    config = Config.resolve({"profile": "lite", "dataset": "fer2013", "seed": 3})
    values = config.to_dict()
    assert values["version"] == VERSION
    assert values.keys() - {"version"} == SETTINGS.keys()
    assert Config.from_dict(values) == config
    with pytest.raises(ValueError, match="unknown setting 'colour'"):
        Config.from_dict({"colour": 1})


def test_a_config_of_the_first_version_is_read_and_a_retired_setting_at_rest_is_silent(caplog):
    config = Config.resolve({"profile": "lite", "seed": 3})
    old = config.to_dict() | RETIRED
    del old["version"]
    with caplog.at_level(logging.WARNING):
        assert Config.from_dict(old) == config
    assert caplog.messages == []


def test_a_retired_setting_at_work_is_told_and_left_out(caplog):
    old = Config().to_dict() | {"version": 1, "attention_levels": 2}
    assert Config.from_dict(old) == Config()
    (message,) = caplog.messages
    assert message == "setting attention_levels=2 no longer exists and is ignored"
    with pytest.raises(ValueError, match="unknown parameter 'attention_levels'"):
        Config.resolve({"attention_levels": 1})


def test_a_config_of_a_newer_version_is_refused():
    with pytest.raises(ValueError, match=rf"config version {VERSION + 1}, here {VERSION}"):
        Config.from_dict(Config().to_dict() | {"version": VERSION + 1})


def test_a_warm_up_as_long_as_the_run_is_shortened_or_refused(caplog):
    config = Config.resolve({"profile": "vit_base", "epochs": 5})
    assert config.warmup_epochs == 1
    assert "warmup_epochs is 1 instead of the profile's 10: a fifth of 5 epochs" in caplog.text
    assert config.changes()["warmup_epochs"] == 1  # and so it is printed
    with pytest.raises(ValueError, match="warmup_epochs is 5 and epochs 5: the learning rate"):
        Config.resolve({"epochs": 5, "warmup_epochs": 5})
    assert Config.resolve({"epochs": 5, "warmup_epochs": 4}).warmup_epochs == 4
    parent = Config.resolve({"profile": "vit_base"})
    tuned = Config.resolve({"checkpoint_path": "a", "epochs": 2}, parent=parent)
    assert tuned.warmup_epochs == pytest.approx(0.4)


def test_a_run_that_is_named_decides_what_the_warm_up_is_of(caplog):
    """The settings beside a checkpoint or a run to resume are not those of a whole run."""
    for named in ({"checkpoint_path": "r"}, {"resume": "r"}):
        Config.resolve({"dataset": "ferplus", "epochs": 1} | named)
    assert not caplog.text


def test_wrong_labels_are_those_of_the_parent_or_refused():
    parent = Config(label_noise=0.3, seed=4)
    with pytest.raises(ValueError, match="wrong labels were drawn with seed 4; with seed 5 other"):
        Config.resolve({"seed": 5}, parent=parent)
    ferplus = parent.replace(dataset="ferplus")
    for name, value in (("protocol", "all"), ("drop_leaks", False), ("label_fixes", "f.csv")):
        with pytest.raises(ValueError, match=f"were drawn with {name} .*use the parent's"):
            Config.resolve({name: value}, parent=ferplus)
    assert Config.resolve({"seed": 4}, parent=parent).label_noise == 0.3
    assert Config.resolve({"seed": 5, "dataset": "fer2013"}, parent=parent).label_noise == 0


def test_a_fold_without_their_number_is_refused():
    for dataset in ("folder", "ferplus"):
        with pytest.raises(ValueError, match="fold=2 is a part of a cross-validation; pass folds"):
            Config.resolve({"dataset": dataset, "fold": 2})
    assert Config.resolve({"dataset": "folder", "folds": 3, "fold": 2}).fold == 2
    with pytest.raises(ValueError, match=r"folds=5: cross-validation is of your own faces .*rafdb"):
        Config.resolve({"dataset": "rafdb", "folds": 5})


@pytest.mark.parametrize("changes", [{"head": "linear"}, {"branches": "anchors"}])
def test_heads_of_attention_matter_only_where_there_is_attention(changes):
    assert Config(embedding_dim=10, attention_heads=4, **changes).embedding_dim == 10
    with pytest.raises(ValueError, match="multiple of attention_heads"):
        Config(embedding_dim=10, attention_heads=4)


def test_fine_tuning_is_as_long_as_its_parents_profile_asks():
    epochs = {name: Config.resolve({}, parent=Config(profile=name, **PROFILES[name])).epochs
              for name in PROFILES}  # fmt: skip
    assert epochs == {"demo": 2, "lite": 2, "mobile": 4, "vit_base": 50}


@pytest.mark.parametrize("profile", PROFILES)
def test_a_named_profile_chooses_its_fine_tuning_and_never_another_model(profile):
    parent = Config(profile="lite", **PROFILES["lite"])
    config = Config.resolve({"profile": profile}, parent=parent)
    gentle = FINETUNE_PROFILES.get(profile, FINETUNE_PROFILES["vit_base"])
    assert {key: getattr(config, key) for key in gentle} == gentle
    assert config.backbone == "tf_efficientnet_lite0"
    assert config.image_size == 96


def test_another_data_set_is_learned_without_the_teacher_and_the_folds_of_the_first():
    first = Config(dataset="folder", data_dir="/d", teacher="t", folds=3, fold=2)
    other = Config.resolve({"dataset": "ferplus"}, parent=first)
    assert (other.teacher, other.folds, other.data_dir) == ("", 0, "")
    given = {"dataset": "ferplus", "teacher": "mine"}
    assert Config.resolve(given, parent=first).teacher == "mine"
    same = Config.resolve({"lr": 0.01}, parent=first)
    assert (same.teacher, same.folds, same.data_dir) == ("t", 3, "/d")


def test_a_fine_tuned_run_does_not_name_the_next():
    first = Config(dataset="ferplus", checkpoint_path="r", finetune_name="mine")
    assert Config.resolve({"checkpoint_path": "r/finetune_mine"}, parent=first).finetune_name == ""
    given = {"checkpoint_path": "r/finetune_mine", "finetune_name": "next"}
    assert Config.resolve(given, parent=first).finetune_name == "next"
