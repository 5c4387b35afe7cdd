"""The settings of `retraining`: each value, where it may stand, and how a wrong one is said."""

import json

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import Asset
from airflow.serialization.serialized_objects import DagSerialization

from dags.schedule import chosen_parameters, schedule, settings
from plugins.skipping_timetable import SkippingCronOrAsset, SkippingCronTimetable
from scripts.local_airflow import PROJECT
from shardline.base.errors import ConfigError

DATASET = Asset("shardline-dataset", uri="x-shardline://dataset")


def no_variable(key: str) -> None:
    assert key == "shardline_retraining"


def unread(key: str) -> str:
    raise AssertionError("the environment has settings: the Variable is not read")


def scheduled(environment, read_variable=no_variable):
    return schedule(settings(environment, read_variable), DATASET)


def test_without_a_setting_nothing_is_scheduled():
    assert scheduled({}) is None
    assert scheduled({"SHARDLINE_RETRAINING_CRON": " "}) is None
    assert chosen_parameters(settings({}, no_variable)) == {}


def test_the_environment_counts_before_the_variable():
    ticks = scheduled({"SHARDLINE_RETRAINING_CRON": "@daily"}, unread)
    assert isinstance(ticks, SkippingCronTimetable)
    assert ticks.summary == "0 0 * * *"


def test_the_variable_sets_the_same():
    document = {"cron": "0 3 * * *", "timezone": "Asia/Tokyo", "parameters": {"epochs": 1}}
    chosen = settings({}, lambda key: json.dumps(document))
    assert chosen_parameters(chosen) == {"epochs": 1}
    first = schedule(chosen, DATASET)._following()
    assert first.run_after.in_timezone("UTC").hour == 18


def test_new_data_triggers_alone_or_besides_the_ticks():
    on_data = {"SHARDLINE_RETRAINING_ON_DATASET": "true"}
    assert scheduled(on_data) == [DATASET]
    both = scheduled(on_data | {"SHARDLINE_RETRAINING_CRON": "0 3 * * *"})
    assert isinstance(both, SkippingCronOrAsset)
    assert both.summary == "Asset or 0 3 * * *"


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("SHARDLINE_RETRAINING_CRON", "61 * * * *", "expected a cron expression like .* found '61"),
        ("SHARDLINE_RETRAINING_CRON", "every night", "found 'every night'"),
        ("SHARDLINE_RETRAINING_TIMEZONE", "Mars/Olympus", "expected a time zone like .* found 'Mars/Olympus'"),
        ("SHARDLINE_RETRAINING_TIMEZONE", "../../etc/passwd", "expected a time zone"),
        ("SHARDLINE_RETRAINING_ON_DATASET", "perhaps", "not JSON"),
    ],
)
def test_a_wrong_schedule_is_named(setting, value, message):
    with pytest.raises(ConfigError, match=f"{setting}: .*{message}"):
        scheduled({"SHARDLINE_RETRAINING_CRON": "0 3 * * *", setting: value})


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("{", "not JSON"),
        ('{"crno": "@daily"}', "crno: unknown parameter; known are cron, timezone"),
        ('{"cron": 5}', "cron: "),
        ('{"cron": "often"}', ", cron: expected a cron expression"),
    ],
)
def test_a_wrong_variable_is_named(variable, message):
    with pytest.raises(ConfigError, match=f"(?s)the Variable shardline_retraining.*{message}"):
        scheduled({}, lambda key: variable)


@pytest.mark.parametrize(
    ("document", "message"),
    [("{", "not JSON"), ('{"epochs": 0}', "epochs: "), ('{"epohcs": 1}', "epohcs: unknown parameter")],
)
def test_wrong_parameters_are_named(document, message):
    with pytest.raises(ConfigError, match=f"(?s)SHARDLINE_RETRAINING_PARAMETERS: .*{message}"):
        chosen_parameters(settings({"SHARDLINE_RETRAINING_PARAMETERS": document}, no_variable))


def test_the_dag_takes_its_schedule_and_parameters_from_the_environment(monkeypatch):
    monkeypatch.setenv("SHARDLINE_RETRAINING_CRON", "@daily")
    monkeypatch.setenv("SHARDLINE_RETRAINING_PARAMETERS", '{"start_from": "current", "epochs": 1}')
    dag = DagBag(PROJECT / "dags" / "retraining.py").dags["retraining"]
    assert dag.timetable.summary == "0 0 * * *"
    assert (dag.params["start_from"], dag.params["epochs"], dag.params["world_size"]) == ("current", 1, None)


@pytest.mark.parametrize("on_dataset", ["true", "false"])
def test_the_scheduler_reads_the_dag_with_its_timetable(monkeypatch, on_dataset):
    """The timetable is ours: Airflow must find it among its plugins when it reads what the DAG processor wrote."""
    monkeypatch.setenv("SHARDLINE_RETRAINING_CRON", "0 3 * * *")
    monkeypatch.setenv("SHARDLINE_RETRAINING_ON_DATASET", on_dataset)
    dag = DagBag(PROJECT / "dags" / "retraining.py").dags["retraining"]
    read = DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(dag))))
    assert read.timetable.summary == ("Asset or " if on_dataset == "true" else "") + "0 3 * * *"
    assert type(read.timetable) is type(dag.timetable)


def test_a_wrong_setting_is_an_import_error_of_retraining_alone(monkeypatch):
    monkeypatch.setenv("SHARDLINE_RETRAINING_CRON", "61 * * * *")
    bag = DagBag(PROJECT / "dags")
    assert "retraining" not in bag.dags
    assert "sharded_training" in bag.dags
    assert list(bag.import_errors) == [str(PROJECT / "dags/retraining.py")]
    assert (
        "SHARDLINE_RETRAINING_CRON: expected a cron expression"
        in bag.import_errors[str(PROJECT / "dags/retraining.py")]
    )
