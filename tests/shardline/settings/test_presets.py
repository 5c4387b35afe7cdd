"""Presets: where a run's parameters start from."""

import json

import pytest

from shardline.base.errors import ConfigError
from shardline.recipes.lookup import check_network_of
from shardline.settings.presets import PRESETS, preset_parameters
from shardline.settings.run_config import RunConfig


def test_a_preset_sets_what_stands_at_its_default():
    config = RunConfig.from_json('{"preset": "tutorial"}')
    assert config == RunConfig(preset="tutorial", world_size=8, epochs=10)
    assert RunConfig.from_json('{"preset": "ascend"}').device_target == "Ascend"


def test_what_was_changed_wins_over_the_preset():
    config = RunConfig.from_json('{"preset": "quick", "epochs": 3, "learning_rate": 0.01}')
    assert (config.world_size, config.epochs, config.min_accuracy, config.learning_rate) == (4, 3, 0.5, 0.01)


@pytest.mark.parametrize("preset", PRESETS)
def test_nothing_beside_a_preset_means_the_same_as_the_preset_alone(preset: str):
    given = dict.fromkeys(preset_parameters()) | {"preset": preset, "model_name": None}
    assert RunConfig.from_json(json.dumps(given)) == RunConfig(preset=preset)


@pytest.mark.parametrize("preset", PRESETS)
def test_what_is_given_wins_over_the_preset_be_it_the_default(preset: str):
    every_parameter = RunConfig().model_dump(mode="json") | {"preset": preset}
    assert RunConfig.from_json(json.dumps(every_parameter)).model_dump(exclude={"preset"}) == RunConfig().model_dump(
        exclude={"preset"}
    )


def test_what_an_empty_field_becomes_is_said_with_every_preset():
    words = RunConfig.empty_means()
    assert words["epochs"] == "5; with the preset **quick** 1, **tutorial** 10"
    assert set(words) == {*preset_parameters(), "model_name"}


@pytest.mark.parametrize("preset", PRESETS)
def test_what_a_preset_chooses_can_be_trained(preset: str):
    check_network_of(RunConfig(preset=preset))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_configuration_that_is_read_again_is_the_same(preset: str):
    config = RunConfig(preset=preset, epochs=7)
    assert RunConfig.from_json(config.to_json()) == config


def test_the_form_offers_each_preset_by_its_label_and_says_what_it_sets():
    field = RunConfig.form_schema()["preset"]
    assert field["enum"] == list(PRESETS)
    assert field["values_display"] == {name: preset.label for name, preset in PRESETS.items()}
    assert "**tutorial** sets world_size 8, epochs 10" in field["description"]


@pytest.mark.parametrize("preset", ["nonsense", ["quick"], 1])
def test_an_unknown_preset_is_refused_by_name(preset: object):
    with pytest.raises(ConfigError, match=r"preset: .*'none', 'quick', 'tutorial' or 'ascend'"):
        RunConfig.from_json(json.dumps({"preset": preset}))
