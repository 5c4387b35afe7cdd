"""What a user types reaches the first task as it was typed, becomes part of no command, and is refused if wrong.

prepare_dataset runs for real here.
"""

import json
import os
from pathlib import Path

import pytest
from airflow.sdk.exceptions import ParamValidationError

from shardline.run.directory import RunDirectory
from shardline.run.environment import home_from
from shardline.settings.run_config import RunConfig

FREE_TEXT = [
    name for name, schema in RunConfig.form_schema().items() if "string" in schema["type"] and "enum" not in schema
]


def hostile(marker: Path) -> str:
    """Text that creates `marker` wherever a shell evaluates it, and fails wherever a template does."""
    touch = f"touch {marker}"
    return f"""x'"; {touch}; $({touch}) `{touch}` {{{{ 1 / 0 }}}} \\ </script> é \t\n&& {touch} #"""


def run_directory(run) -> RunDirectory:
    return RunDirectory(home_from(os.environ).run("sharded_training", run.run_id))


def test_a_run_writes_its_parameters_and_returns_the_digest_of_its_data(prepare, xcom):
    run = prepare(epochs=2, learning_rate=0.5)
    assert run.state == "success"
    assert run_directory(run).read_config() == RunConfig(epochs=2, learning_rate=0.5)
    dataset = json.loads(run_directory(run).dataset_file.read_text())
    assert xcom(run, "prepare_dataset")["digest"] == dataset["digest"]


def test_the_free_text_parameters_are_all_known_here():
    """A new one must be thought about: `hostile` is tried on each."""
    assert FREE_TEXT == [
        "network",
        "data_directory",
        "text_file",
        "start_file",
        "resume_from",
        "hostfile",
        "strategy_save_file",
        "strategy_load_file",
        "sample_prompt",
        "model_name",
        "upload_to",
        "hugging_face_export",
    ]


def test_hostile_text_arrives_as_it_was_typed(prepare, tmp_path):
    text = hostile(tmp_path / "marker")
    parameters = dict.fromkeys(("data_directory", "text_file", "sample_prompt"), text)
    run = prepare(**parameters)
    assert run.state == "success"
    config = run_directory(run).read_config()
    assert {name: getattr(config, name) for name in parameters} == parameters
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("name", ["strategy_load_file", "start_file", "resume_from"])
def test_hostile_paths_are_looked_for_as_they_were_typed(prepare, tmp_path, name):
    text = hostile(tmp_path / "marker")
    assert prepare(**{name: text}).state == "failed"
    assert not (tmp_path / "marker").exists()


def test_hostile_names_are_refused_and_never_evaluated(prepare, tmp_path):
    text = hostile(tmp_path / "marker")
    run = prepare(**{"strategy_save_file": text, "model_name": text, "upload_to": text, "mirrors": [text], text: 1})
    assert run.state == "failed"
    assert not (tmp_path / "marker").exists()


def test_an_unknown_parameter_fails_at_once_without_a_retry(prepare):
    run = prepare(epohcs=3)
    assert run.state == "failed"
    assert run.get_task_instance("prepare_dataset").try_number == 1


@pytest.mark.parametrize(
    "conf",
    [
        {"epochs": 0},
        {"epochs": "3.5"},
        {"optimizer": "SGD; reboot"},
        {"learning_rate": 0},
        {"min_accuracy": 1.01},
        {"network": "os; x"},
    ],
    ids=str,
)
def test_the_schema_refuses_before_a_run_exists(prepare, conf):
    with pytest.raises(ParamValidationError, match=next(iter(conf))):
        prepare(**conf)
