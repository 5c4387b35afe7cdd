"""What a DAG does when it fails, succeeds or is late, by settings of Airflow's environment.

| setting | meaning | default |
|---|---|---|
| `SHARDLINE_NOTIFIERS` | who is told of failures, promotions and late runs: `plugins/notifications.py` | nobody |
| `SHARDLINE_DEADLINE_HOURS` | a run that lasts longer, from its queueing, is late: it is told, and goes on | never |
| `SHARDLINE_TIMEOUT_HOURS` | a run that lasts longer, from its start, is ended as failed | never |
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from airflow.sdk.definitions.callback import SyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference

from plugins.notifications import model_promoted, run_failed, run_is_late, subscriptions, task_failed
from shardline.base.errors import ConfigError

DEADLINE = "SHARDLINE_DEADLINE_HOURS"
TIMEOUT = "SHARDLINE_TIMEOUT_HOURS"


def of_tasks(environment: Mapping[str, str]) -> dict[str, Any]:
    """What every task of a DAG does when it has failed for good: `default_args`."""
    return {"on_failure_callback": task_failed} if subscriptions(environment) else {}


def of_promotion(environment: Mapping[str, str]) -> dict[str, Any]:
    """What the task that promotes does when it has."""
    return {"on_success_callback": model_promoted} if subscriptions(environment) else {}


def of_runs(environment: Mapping[str, str]) -> dict[str, Any]:
    """The deadline and the timeout of a DAG's runs: arguments of `DAG`."""
    arguments: dict[str, Any] = {}
    if timeout := _hours(environment, TIMEOUT):
        arguments["dagrun_timeout"] = timedelta(hours=timeout)
        if subscriptions(environment):
            arguments["on_failure_callback"] = run_failed
    if deadline := _hours(environment, DEADLINE):
        arguments["deadline"] = DeadlineAlert(
            reference=DeadlineReference.DAGRUN_QUEUED_AT,
            interval=timedelta(hours=deadline),
            callback=SyncCallback(run_is_late, {"hours": deadline}),
        )
    return arguments


def _hours(environment: Mapping[str, str], name: str) -> float | None:
    text = environment.get(name, "").strip()
    if not text:
        return None
    try:
        hours = float(text)
    except ValueError:
        hours = 0.0
    if not 0 < hours < float("inf"):
        raise ConfigError(f"{name}: expected a number of hours above 0, found {text!r}")
    return hours
