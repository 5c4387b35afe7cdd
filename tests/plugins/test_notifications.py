"""Who is told what: Airflow's notifiers by configuration, the failed rank and its reason in the message."""

import json
from types import SimpleNamespace

import pytest
from airflow.sdk import DAG
from airflow.sdk.bases.notifier import BaseNotifier

from dags import notices
from plugins import notifications
from plugins.notifications import Subscription, subscriptions
from shardline.base.errors import ConfigError, LaunchError
from shardline.run.directory import Home, RunDirectory
from shardline.run.failures import failure_file, record_outcome
from shardline.settings.run_config import RunConfig

TOLD: list[dict] = []
RANK_FAILED = "rank 3 on host raised RuntimeError: the network is on fire.\nThe last lines of rank 3's log: …"


class ListNotifier(BaseNotifier):
    """A notifier as providers write them: templates in its arguments, `notify` to send."""

    template_fields = ("title", "body")

    def __init__(self, title: str, body: str = "") -> None:
        super().__init__()
        self.title, self.body = title, body

    def notify(self, context) -> None:
        TOLD.append({"title": self.title, "body": self.body})


def subscription(*on: str) -> str:
    arguments = {"title": "{{ notice.title }}", "body": "{{ notice.text }}"}
    return json.dumps([{"notifier": f"{__name__}.ListNotifier", "on": on, "arguments": arguments}])


@pytest.fixture(autouse=True)
def told():
    TOLD.clear()
    return TOLD


@pytest.fixture
def home(tmp_path, monkeypatch) -> Home:
    monkeypatch.setenv("SHARDLINE_HOME", str(tmp_path))
    return Home(tmp_path)


def context(task_id: str, **more: object) -> dict:
    """What Airflow gives to a callback, as far as it is used here."""
    return {
        "dag": DAG("sharded_training", schedule=None),
        "task": SimpleNamespace(task_id=task_id),
        "run_id": "manual__1",
        "ti": SimpleNamespace(log_url="http://localhost/log", map_index=-1),
        **more,
    }


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}"])
def test_a_record_that_says_nothing_leaves_airflows_own_words(home, monkeypatch, told, content):
    monkeypatch.setenv("SHARDLINE_NOTIFIERS", subscription("failure"))
    file = failure_file(RunDirectory(home.run("sharded_training", "manual__1")), "train")
    file.parent.mkdir(parents=True)
    if content is not None:
        file.write_text(content)
    notifications.task_failed(context("train", exception=RuntimeError("exit code 1")))
    assert "exit code 1" in told[0]["body"]


def test_of_a_mapped_task_the_part_that_failed_is_told_with_its_own_reason(home, monkeypatch, told):
    monkeypatch.setenv("SHARDLINE_NOTIFIERS", subscription("failure"))
    run = {"SHARDLINE_DAG_ID": "sharded_training", "SHARDLINE_RUN_ID": "manual__1"}
    for part in (2, 3):
        record_outcome(home, run | {"SHARDLINE_TASK_ID": f"merge.write-{part}"}, LaunchError(f"part {part} is gone"))
    instance = SimpleNamespace(log_url="http://localhost/log", map_index=2)
    notifications.task_failed(context("merge.write", ti=instance))
    assert told[0]["title"] == "sharded_training: merge.write-3 failed"
    assert "part 3 is gone" in told[0]["body"]


def test_a_failed_task_is_told_with_the_rank_and_the_reason(home, monkeypatch, told):
    monkeypatch.setenv("SHARDLINE_NOTIFIERS", subscription("failure"))
    run = {"SHARDLINE_DAG_ID": "sharded_training", "SHARDLINE_RUN_ID": "manual__1", "SHARDLINE_TASK_ID": "train"}
    record_outcome(home, run, LaunchError(RANK_FAILED))
    notifications.task_failed(context("train"))
    assert told == [
        {
            "title": "sharded_training: train failed",
            "body": f"train of manual__1 failed.\nLaunchError: {RANK_FAILED}\nLog: http://localhost/log",
        }
    ]


def test_a_task_that_was_killed_is_told_with_what_airflow_knows(home, monkeypatch, told):
    monkeypatch.setenv("SHARDLINE_NOTIFIERS", subscription("failure"))
    notifications.task_failed(context("merge", exception=RuntimeError("exit code 137")))
    assert "exit code 137" in told[0]["body"]


def test_a_promotion_is_told_with_the_version_and_its_metric(home, monkeypatch, told):
    monkeypatch.setenv("SHARDLINE_NOTIFIERS", subscription("success"))
    run = RunDirectory(home.run("sharded_training", "manual__1"))
    run.write_config(RunConfig())
    run.promotion_file.write_text(json.dumps({"version": 3, "metric": "accuracy", "accuracy": 0.948}))
    notifications.model_promoted(context("promote"))
    assert told[0]["title"] == "sharded_training: version 3 promoted"
    assert "accuracy: 0.948" in told[0]["body"]


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("running", "has not ended 1.5 hours after it was queued."),
        ("queued", "has not ended 1.5 hours after it was queued."),
        ("failed", "has failed: it had not succeeded 1.5 hours after it was queued."),
        ("success", "has succeeded, but it had not 1.5 hours after it was queued."),
    ],
)
def test_a_late_run_is_told_with_what_became_of_it(monkeypatch, told, state, said):
    monkeypatch.setenv("SHARDLINE_NOTIFIERS", subscription("late"))
    run = {"dag_id": "retraining", "dag_run_id": "scheduled__1", "state": state}
    notifications.run_is_late({"dag_run": run}, hours=1.5)
    assert told == [{"title": "retraining: late", "body": f"scheduled__1 {said}"}]


def test_a_run_that_was_ended_at_its_limit_is_told_and_one_that_a_task_failed_only_by_that(monkeypatch, told):
    monkeypatch.setenv("SHARDLINE_NOTIFIERS", subscription("failure"))
    notifications.run_failed(context("train", reason="task_failure"))
    notifications.run_failed(context("train", reason="timed_out"))
    assert told == [{"title": "sharded_training: took too long", "body": "manual__1 was ended at its time limit."}]
    both = {"SHARDLINE_TIMEOUT_HOURS": "1", "SHARDLINE_NOTIFIERS": subscription("failure")}
    assert notices.of_runs(both)["on_failure_callback"] is notifications.run_failed
    assert "on_failure_callback" not in notices.of_runs({"SHARDLINE_TIMEOUT_HOURS": "1"})


def test_who_did_not_ask_is_not_told(home, monkeypatch, told):
    monkeypatch.setenv("SHARDLINE_NOTIFIERS", subscription("success", "late"))
    notifications.task_failed(context("train"))
    assert told == []


def test_without_the_setting_tasks_and_runs_have_no_callbacks():
    assert (notices.of_tasks({}), notices.of_promotion({}), notices.of_runs({})) == ({}, {}, {})


def test_with_it_every_task_has_one_and_promotion_another():
    environment = {"SHARDLINE_NOTIFIERS": subscription("failure")}
    assert notices.of_tasks(environment) == {"on_failure_callback": notifications.task_failed}
    assert notices.of_promotion(environment) == {"on_success_callback": notifications.model_promoted}


def test_a_deadline_and_a_timeout_are_set_in_hours():
    arguments = notices.of_runs({"SHARDLINE_DEADLINE_HOURS": "0.5", "SHARDLINE_TIMEOUT_HOURS": "12"})
    assert arguments["dagrun_timeout"].total_seconds() == 12 * 3600
    assert arguments["deadline"].interval.total_seconds() == 1800
    assert arguments["deadline"].callback.path == "plugins.notifications.run_is_late"


@pytest.mark.parametrize("hours", ["0", "-1", "soon", "nan", "inf"])
def test_wrong_hours_are_named(hours):
    with pytest.raises(ConfigError, match=f"SHARDLINE_DEADLINE_HOURS: expected a number of hours .* found '{hours}'"):
        notices.of_runs({"SHARDLINE_DEADLINE_HOURS": hours})


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("{", "Invalid JSON"),
        ("{}", "valid tuple|valid array"),
        ('[{"notifier": "print"}]', "0.notifier: "),
        ('[{"notifier": "a.B", "on": ["never"]}]', r"0.on.0: .*'failure', 'success' or 'late'"),
        ('[{"notifier": "a.B", "when": 1}]', "0.when: Extra"),
    ],
)
def test_a_wrong_setting_is_named(document, message):
    with pytest.raises(ConfigError, match=f"SHARDLINE_NOTIFIERS: .*({message})"):
        subscriptions({"SHARDLINE_NOTIFIERS": document})


def test_all_events_are_told_where_none_is_named():
    assert Subscription(notifier="a.B").on == ("failure", "success", "late")
