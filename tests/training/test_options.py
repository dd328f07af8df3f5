"""Flags of the training program."""

import dataclasses
import re

import pytest

from wsss.common.errors import UserError
from wsss.training.options import TrainingOptions, make_parser, parse_options, preset_values
from wsss.training.presets import PRESETS


def test_a_flag_wins_over_the_preset_and_the_preset_over_the_default():
    options = parse_options(["--data", "shards", "--preset", "seam_published", "--epochs", "3"])
    assert options.epochs == 3
    assert options.momentum == 5e-4
    assert options.frozen_layers == ("conv1a", "b2", "b2_1", "b2_2")
    assert options.val_split == "val"


def test_a_preset_may_say_none():
    assert parse_options(["--preset", "affinity"]).long_side is None


def test_a_value_from_elsewhere_must_be_one_of_the_choices():
    with pytest.raises(UserError, match="--model must be one of seam"):
        TrainingOptions(model="unet")


def test_without_data_the_built_in_preset_applies():
    assert parse_options([]).backbone == "small"
    assert parse_options(["--data", "shards"]).backbone != "small"
    assert parse_options(["--preset", "seam"]).backbone == "resnet38"


@pytest.mark.parametrize("name", ["built_in", *PRESETS])
def test_every_preset_gives_options(name):
    options = parse_options(["--preset", name])
    assert all(getattr(options, key) == value for key, value in preset_values(name).items())


def test_values_of_several_numbers_are_written_with_commas():
    options = parse_options(
        ["--long_side", "100,200", "--jitter", "0,0.1,0.2,0.3", "--frozen_layers", "a,b", "--no-flip"]
    )
    assert options.long_side == (100, 200)
    assert options.jitter == (0.0, 0.1, 0.2, 0.3)
    assert options.frozen_layers == ("a", "b")
    assert options.flip is False
    assert parse_options(["--long_side", "none", "--frozen_layers", "none"]).long_side is None


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--epochs", "0"], "--epochs"),
        (["--learning_rate", "nan"], "--learning_rate"),
        (["--view_scale", "0"], "--view_scale"),
        (["--long_side", "300,200"], "--long_side"),
        (["--preset", "sem"], "--preset"),
        (["--strategy", "multi_worker"], "--output"),
        (["--epochs", "many"], "--epochs"),
        (["--epoch", "3"], "`--epoch`. Did you mean `--epochs`?"),
        (["--long_side", "1,2,3"], "--long_side: expected LOW,HIGH"),
        (["--model", "unet"], "--model"),
    ],
)
def test_a_wrong_value_names_the_flag(arguments, named):
    with pytest.raises(UserError, match=re.escape(named)):
        parse_options(arguments)


def test_the_help_names_every_option_and_its_default():
    text = make_parser().format_help()
    for field in dataclasses.fields(TrainingOptions):
        assert f"--{field.name}" in text
        assert field.metadata["help"].split()[0] in text


def test_the_help_groups_the_options_by_what_they_are_about():
    titles = [group.title for group in make_parser()._action_groups if group._group_actions]
    assert titles == [
        "options",
        "data and run directory",
        "network",
        "optimization",
        "second view and losses",
        "augmentation",
        "machines and numbers",
    ]
