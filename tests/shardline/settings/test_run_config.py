"""The parameters of a run: what is taken, what is refused and how it is said."""

import json
import re

import pytest

from shardline.base.errors import ConfigError
from shardline.settings.run_config import RunConfig


def test_the_defaults_are_the_tutorial_on_the_cpu():
    config = RunConfig.from_json("{}")
    assert (config.world_size, config.device_target, config.data_source) == (8, "CPU", "embedded")


def test_a_document_survives_being_written_and_read():
    config = RunConfig.from_json('{"epochs": 2, "mirrors": ["http://localhost:1/"], "learning_rate": 1}')
    assert RunConfig.from_json(config.to_json()) == config
    assert list(json.loads(config.to_json())) == sorted(RunConfig.model_fields)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("{", "not JSON"),
        ("[]", "valid dictionary"),
        ('{"epohcs": 3}', "epohcs: unknown parameter; known are "),
        ('{"epochs": "3.0"}', r"epochs: .* integer .*found '3.0'"),
        ('{"epochs": "1e3"}', r"epochs: .* integer .*found '1e3'"),
        ('{"epochs": ""}', r"epochs: .* integer .*found ''"),
        ('{"epochs": "-1"}', r"epochs: .* greater than or equal to 1 .*found -1"),
        ('{"world_size": "99999"}', r"world_size: .* less than or equal to 4096 .*found 99999"),
        ('{"learning_rate": "3,5"}', r"learning_rate: .* number .*found '3,5'"),
        ('{"learning_rate": "inf"}', r"learning_rate: .* number .*found 'inf'"),
        ('{"learning_rate": "1e999"}', "learning_rate: "),
        ('{"hang_timeout": "never"}', r"hang_timeout: .* integer .*found 'never'"),
        ('{"mirrors": "8"}', "mirrors: "),
        ('{"approval": "1"}', "approval: "),
        ('{"epochs": true}', "epochs: "),
        ('{"epochs": 2.5}', "epochs: "),
        ('{"epochs": 0}', "epochs: .* greater than or equal to 1"),
        ('{"learning_rate": NaN}', "learning_rate: .* finite"),
        ('{"learning_rate": 1e999}', "learning_rate: "),
        ('{"optimizer": "adam"}', "optimizer: .*'SGD', 'Momentum', 'Adam' or 'AdamW'"),
        ('{"network": "resnet"}', "network: "),
        ('{"data_source": "directory"}', "needs data_directory"),
        ('{"data_source": "mnist", "mirrors": []}', "at least one of mirrors"),
        ('{"mirrors": ["file:///etc/passwd"]}', "not an http or https address"),
        ('{"model_name": "../../x"}', "model_name: .*letters, digits"),
        ('{"strategy_save_file": "/etc/x"}', "strategy_save_file: "),
        ('{"hang_timeout": 0}', "hang_timeout: "),
    ],
)
def test_a_wrong_parameter_is_named_with_what_was_expected(document: str, message: str):
    with pytest.raises(ConfigError, match=message):
        RunConfig.from_json(document)


def test_numbers_are_taken_as_they_are_typed():
    typed = {"epochs": "7", "world_size": " 4 ", "learning_rate": "3e-4", "min_accuracy": ".5", "clip_norm": "1"}
    config = RunConfig.from_json(json.dumps(typed))
    assert (config.epochs, config.world_size, config.learning_rate, config.min_accuracy, config.clip_norm) == (
        7,
        4,
        3e-4,
        0.5,
        1.0,
    )
    assert RunConfig.from_json('{"sample_prompt": "8"}').sample_prompt == "8"


def test_what_was_emptied_is_not_given():
    emptied = dict.fromkeys(RunConfig.model_fields)
    assert RunConfig.from_json(json.dumps(emptied)) == RunConfig()
    assert RunConfig.from_json('{"network": null, "model_name": null, "hang_timeout": null}') == RunConfig()


def test_every_wrong_parameter_is_named_at_once():
    with pytest.raises(ConfigError) as error:
        RunConfig.from_json('{"epochs": 0, "seed": -1, "nonsense": null}')
    assert all(name in str(error.value) for name in ("epochs", "seed", "nonsense"))


def test_the_form_knows_every_parameter_with_a_title_and_no_reference():
    schema = RunConfig.form_schema()
    assert list(schema) == list(RunConfig.model_fields)
    assert all(entry["title"] and "type" in entry and "default" in entry for entry in schema.values())
    assert "$ref" not in json.dumps(schema)


def test_an_optional_parameter_is_nullable_in_the_form_and_keeps_its_limits():
    assert RunConfig.form_schema()["checkpoint_step"] == {
        "default": None,
        "description": "Empty: the newest complete shard set.",
        "section": "Merging",
        "title": "Step to merge",
        "minimum": 1,
        "examples": [100],
        "type": ["integer", "null"],
    }


@pytest.mark.parametrize(
    "address",
    [None, "", "s3://store@models/some/folder", "gs://models", "file:///srv/models", "hdfs://host:8020/models"],
)
def test_an_upload_goes_to_any_address_or_nowhere(address):
    assert RunConfig.from_json(json.dumps({"upload_to": address})).upload_to == address


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("models/folder", "found none of a scheme: begin with s3://"),
        ("/srv/models", "found none of a scheme"),
        ("s3://", "found '..', '::', a space or no bucket"),
        ("s3://models/../others", "found '..'"),
        ("simplecache::s3://models", "found none of a scheme"),
        ("s3://models/x::file:///etc", "'::'"),
        ("s3://@models", "@ without the name of a connection"),
        ("s3://me:secret@models/folder", "put them into a connection of Airflow's"),
        ("abfs://models/folder?sig=secret", "put them into a connection of Airflow's"),
    ],
)
def test_an_address_to_upload_to_has_a_scheme_and_no_credentials(address, message):
    with pytest.raises(ConfigError, match=message) as refused:
        RunConfig.from_json(json.dumps({"upload_to": address}))
    assert "secret" not in str(refused.value)


def test_one_start_is_enough():
    for parameters in ({"start_file": "model.ckpt"}, {"start_from": "current"}, {"resume_from": "earlier"}):
        RunConfig(**parameters)
    with pytest.raises(ConfigError, match="start_file and resume_from say different starts; keep one"):
        RunConfig.from_json('{"start_file": "model.ckpt", "resume_from": "earlier"}')


def test_what_every_rank_saves_whole_has_no_redundancy_to_remove():
    with pytest.raises(ConfigError, match="leave out remove_redundancy"):
        RunConfig.from_json('{"integrated_save": true, "remove_redundancy": true}')


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"device_target": "CPU"}, "pipeline_stages 2 is for device_target GPU or Ascend.*on the CPU expected 1"),
        ({"world_size": 7}, "expected world_size to be a multiple of pipeline_stages 2, found 7"),
        ({"micro_batches": 1}, "expected micro_batches to be at least pipeline_stages 2, found 1"),
        ({"batch_size": 33}, "expected batch_size to be a multiple of micro_batches 2, found 33"),
        ({"micro_batches": 5}, "expected batch_size to be a multiple of micro_batches 5, found 32"),
        ({"integrated_save": True}, "integrated_save is for a network in one stage"),
        ({"strategy_load_file": "x.ckpt"}, "strategy_load_file is for a network in one stage"),
        ({"pipeline_stages": 1, "micro_batches": 2}, "micro_batches 2 is for several stages: raise pipeline_stages"),
    ],
)
def test_pipeline_stages_fit_the_other_parameters(parameters, message):
    document = json.dumps({"device_target": "Ascend", "pipeline_stages": 2} | parameters)
    with pytest.raises(ConfigError, match=message):
        RunConfig.from_json(document)


def test_a_stage_has_its_share_of_the_ranks_and_the_network_of_the_batch():
    config = RunConfig(device_target="Ascend", pipeline_stages=2, micro_batches=8)
    assert (config.ranks_per_stage, config.micro_batch_size) == (4, 4)
    assert (RunConfig().ranks_per_stage, RunConfig().micro_batch_size) == (8, 32)


def test_a_model_is_named_after_its_network():
    assert RunConfig().model_name == "mnist-mlp"
    own = RunConfig(network="mine.nets:small")
    assert own.model_name == "small"
    assert RunConfig.from_json(own.to_json()) == own
    assert RunConfig(network="mine.nets:small", model_name="digits").model_name == "digits"
    assert RunConfig(network="gpt", model_name="mnist-mlp").model_name == "mnist-mlp", "as it was given"


def test_the_form_proposes_the_built_in_networks_and_takes_others():
    field = RunConfig.form_schema()["network"]
    assert field["examples"] == ["mlp", "gpt"]
    assert re.fullmatch(field["pattern"], "mine.nets:small")
    assert not re.fullmatch(field["pattern"], "mine.nets")
