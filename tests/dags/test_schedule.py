"""The settings of `retraining`: each value, and how a wrong one is said."""

import pendulum
import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.encoders import coerce_to_core_timetable
from airflow.timetables.base import TimeRestriction

from dags.schedule import chosen_parameters, timetable
from scripts.local_airflow import PROJECT
from tasks.errors import ConfigError


def test_without_a_setting_nothing_is_scheduled():
    assert timetable({}) is None
    assert timetable({"SHARDLINE_RETRAINING_CRON": " "}) is None
    assert chosen_parameters({}) == {}


def test_the_first_run_is_the_next_tick_not_a_missed_one():
    schedule = coerce_to_core_timetable(timetable({"SHARDLINE_RETRAINING_CRON": "0 3 * * *"}))
    restriction = TimeRestriction(earliest=None, latest=None, catchup=False)
    first = schedule.next_dagrun_info(last_automated_data_interval=None, restriction=restriction)
    assert first.run_after > pendulum.now("UTC")
    assert (first.run_after.hour, first.run_after.minute) == (3, 0)


def test_the_expression_is_read_in_its_time_zone():
    settings = {"SHARDLINE_RETRAINING_CRON": "0 3 * * *", "SHARDLINE_RETRAINING_TIMEZONE": "Asia/Tokyo"}
    schedule = coerce_to_core_timetable(timetable(settings))
    restriction = TimeRestriction(earliest=None, latest=None, catchup=False)
    first = schedule.next_dagrun_info(last_automated_data_interval=None, restriction=restriction)
    assert first.run_after.in_timezone("UTC").hour == 18


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("SHARDLINE_RETRAINING_CRON", "61 * * * *", "expected a cron expression like .* found '61"),
        ("SHARDLINE_RETRAINING_CRON", "every night", "found 'every night'"),
        ("SHARDLINE_RETRAINING_TIMEZONE", "Mars/Olympus", "expected a time zone like .* found 'Mars/Olympus'"),
        ("SHARDLINE_RETRAINING_TIMEZONE", "../../etc/passwd", "expected a time zone"),
    ],
)
def test_a_wrong_schedule_is_named(setting, value, message):
    with pytest.raises(ConfigError, match=f"{setting}: .*{message}"):
        timetable({"SHARDLINE_RETRAINING_CRON": "0 3 * * *", setting: value})


@pytest.mark.parametrize(
    ("document", "message"),
    [("{", "not JSON"), ('{"epochs": 0}', "epochs: "), ('{"epohcs": 1}', "epohcs: unknown parameter")],
)
def test_wrong_parameters_are_named(document, message):
    with pytest.raises(ConfigError, match=f"(?s)SHARDLINE_RETRAINING_PARAMETERS: .*{message}"):
        chosen_parameters({"SHARDLINE_RETRAINING_PARAMETERS": document})


def test_the_dag_takes_its_schedule_and_parameters_from_the_environment(monkeypatch):
    monkeypatch.setenv("SHARDLINE_RETRAINING_CRON", "@daily")
    monkeypatch.setenv("SHARDLINE_RETRAINING_PARAMETERS", '{"start_from": "current", "epochs": 1}')
    dag = DagBag(PROJECT / "dags" / "retraining.py").dags["retraining"]
    assert dag.timetable.expression == "0 0 * * *"
    assert (dag.params["start_from"], dag.params["epochs"], dag.params["world_size"]) == ("current", 1, 8)


def test_a_wrong_setting_is_an_import_error_of_retraining_alone(monkeypatch):
    monkeypatch.setenv("SHARDLINE_RETRAINING_CRON", "61 * * * *")
    bag = DagBag(PROJECT / "dags")
    assert list(bag.dags) == ["sharded_training"]
    assert (
        "SHARDLINE_RETRAINING_CRON: expected a cron expression"
        in bag.import_errors[str(PROJECT / "dags/retraining.py")]
    )
