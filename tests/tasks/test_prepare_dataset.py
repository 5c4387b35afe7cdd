from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from shardline.base.errors import ConfigError
from shardline.run.environment import PROJECT
from shardline.settings.run_config import RunConfig
from tasks.prepare_dataset import _command_line, configuration_from
from tests.commands import run_here


def environment_of_task(home: Path) -> dict[str, str]:
    run = {"SHARDLINE_DAG_ID": "sharded_training", "SHARDLINE_RUN_ID": "manual__1"}
    return os.environ | {"SHARDLINE_HOME": str(home)} | run


def run(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The task, given what the DAG gives it."""
    return run_here(_command_line, list(arguments), environment_of_task(home) | environment)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"start_from": "current"}, "start_from: expected a current version of model_name mnist-mlp, found none"),
        ({"start_file": "/nowhere.ckpt"}, "start_file: expected a path below .*, found /nowhere.ckpt"),
        ({"start_file": "nowhere.ckpt"}, "start_file: there is no .*/manual__1/nowhere.ckpt"),
        ({"upload_to": "s3://db@models/x"}, "upload_to s3://db@models/x: expected one of the connections .*, found db"),
        (
            {"hugging_face_export": "/nowhere.toml"},
            "hugging_face_export: expected a path below .*, found /nowhere.toml",
        ),
        ({"hugging_face_export": "built-in"}, "hugging_face_export 'built-in' is for network 'gpt': give the path"),
        ({"world_size": 3}, "needs 4 ranks or a multiple of that, found world_size 3"),
        ({"preset": "quick", "batch_size": 100_000}, "batch_size: expected at most the 4500 training samples"),
    ],
)
def test_what_cannot_be_trained_is_refused_at_once_with_the_parameter_named(tmp_path: Path, parameters, message):
    finished = run(tmp_path, SHARDLINE_PARAMETERS=json.dumps(parameters))
    assert finished.returncode == 2
    assert re.search(message, finished.stderr)


def test_the_embedded_digits_from_the_environment_to_the_result(tmp_path: Path):
    parameters = json.dumps({"epochs": 2, "world_size": 4})
    finished = subprocess.run(
        [sys.executable, "-m", "tasks.prepare_dataset"],
        cwd=PROJECT,
        env=environment_of_task(tmp_path) | {"SHARDLINE_PARAMETERS": parameters},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    result = json.loads(finished.stdout.splitlines()[-1])
    directory = tmp_path / "runs" / "sharded_training" / "manual__1"
    assert result["run_directory"] == str(directory)
    assert result["dataset"] == str(directory / "dataset.json")
    assert RunConfig.from_json((directory / "config.json").read_bytes()) == RunConfig(epochs=2, world_size=4)
    dataset = json.loads((directory / "dataset.json").read_bytes())
    assert dataset["source"] == "embedded"
    assert dataset["digest"] == result["digest"]
    assert dataset["train"]["label_histogram"] == [450] * 10
    assert dataset["test"]["count"] == 50 * 10

    again = run(tmp_path, SHARDLINE_PARAMETERS=parameters)
    assert "prepared before and unchanged" in again.stdout
    assert json.loads(again.stdout.splitlines()[-1]) == result


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ("", "the parameters are not JSON"),
        ("[]", "bad parameters"),
        ('{"epocs": 3}', "epocs: unknown parameter; known are "),
        ('{"epochs": 0}', "epochs: Input should be greater than or equal to 1 (found 0)"),
        ('{"epochs": "3; rm -rf /"}', "epochs: Input should be a valid integer"),
        ('{"world_size": 3}', "cannot be trained on 3 ranks"),
    ],
)
def test_bad_parameters_end_the_task_with_one_message(tmp_path: Path, parameters: str, message: str):
    finished = run(tmp_path, SHARDLINE_PARAMETERS=parameters)
    assert finished.returncode == 2
    assert finished.stdout == ""
    assert finished.stderr.startswith("ConfigError: ")
    assert message in finished.stderr
    assert not list(tmp_path.rglob("config.json"))


def test_a_missing_data_directory_ends_the_task_with_one_message(tmp_path: Path):
    finished = run(tmp_path, "--set", "data_source=directory", "--set", f"data_directory={tmp_path}/nowhere")
    assert finished.returncode == 1
    assert finished.stderr.startswith(f"DatasetError: {tmp_path}/nowhere: expected a readable folder")
    assert "Traceback" not in finished.stderr


def test_a_batch_greater_than_the_data_is_refused(tmp_path: Path):
    finished = run(tmp_path, SHARDLINE_PARAMETERS='{"batch_size": 4800}')
    assert finished.returncode == 2
    assert "batch_size: expected at most the 4500 training samples, found 4800" in finished.stderr


def test_parameters_on_the_command_line_go_before_the_environment(tmp_path: Path):
    finished = run(
        tmp_path, "--parameters", '{"epochs": 7}', "--run-directory", f"{tmp_path}/mine", SHARDLINE_PARAMETERS="{}"
    )
    assert finished.returncode == 0, finished.stderr
    assert RunConfig.from_json((tmp_path / "mine" / "config.json").read_bytes()).epochs == 7


def test_single_parameters_are_json_or_text():
    config = configuration_from(
        '{"epochs": 3}', ["world_size=4", "optimizer=SGD", 'mirrors=["http://a/"]', "checkpoint_step=null", "epochs=1"]
    )
    assert config == RunConfig(epochs=1, world_size=4, optimizer="SGD", mirrors=("http://a/",))


def test_two_changes_that_need_each_other_are_made_together():
    config = configuration_from("{}", ["data_source=directory", "data_directory=/srv/mnist=v1"])
    assert config.data_directory == "/srv/mnist=v1"


@pytest.mark.parametrize(
    ("change", "message"),
    [("epochs", "--set expects NAME=VALUE, found 'epochs'"), ("epocs=1", "unknown parameter"), ("=1", "unknown")],
)
def test_a_change_that_makes_no_sense_is_refused(change: str, message: str):
    with pytest.raises(ConfigError, match=message):
        configuration_from("{}", [change])
