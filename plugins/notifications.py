"""Who is told when a task fails, a model is promoted, or a run is late: Airflow's notifiers, set by configuration.

SHARDLINE_NOTIFIERS in Airflow's environment is a JSON list, one object a notifier:

    [{"notifier": "airflow.providers.smtp.notifications.smtp.SmtpNotifier", "on": ["failure", "late"],
      "arguments": {"to": "team@example.org", "subject": "{{ notice.title }}", "html_content": "{{ notice.text }}"}}]

`on` names events: failure, success, late (all three where it is left out). `arguments` are the notifier's own; Airflow
renders them, with `notice.title` and `notice.text` among what templates can use.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from shardline.base.counts import counted
from shardline.base.errors import ConfigError
from shardline.run.directory import RunDirectory
from shardline.run.environment import home_from
from shardline.run.failures import failure_file, task_name

VARIABLE = "SHARDLINE_NOTIFIERS"
Event = Literal["failure", "success", "late"]


@dataclass(frozen=True)
class Notice:
    """What happened, in a line, and in full."""

    title: str
    text: str


class Subscription(BaseModel):
    """A notifier, and the events that it is told of."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    notifier: str = Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$")
    on: tuple[Event, ...] = ("failure", "success", "late")
    arguments: dict[str, Any] = {}

    def send(self, context: Mapping[str, Any], notice: Notice) -> None:
        """Have Airflow's notifier say `notice`."""
        module, _, name = self.notifier.rpartition(".")
        notifier = getattr(import_module(module), name)(**self.arguments)
        notifier({**context, "notice": notice})


def subscriptions(environment: Mapping[str, str]) -> tuple[Subscription, ...]:
    """Who is to be told; `ConfigError` says what is wrong with the setting."""
    document = environment.get(VARIABLE) or "[]"
    try:
        return TypeAdapter(tuple[Subscription, ...]).validate_json(document)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise ConfigError(f"{VARIABLE}: {where}{': ' if where else ''}{problem['msg']}") from None


def tell(event: Event, context: Mapping[str, Any], notice: Notice) -> None:
    """Tell everybody who wants to know of `event`. A notifier that cannot send says so in the task's log."""
    for subscription in subscriptions(os.environ):
        if event in subscription.on:
            subscription.send(context, notice)


def task_failed(context: Mapping[str, Any]) -> None:
    """`on_failure_callback` of every task: what it said last, a failed rank's name and error included."""
    task, dag_id, run_id = _task(context), context["dag"].dag_id, context["run_id"]
    text = f"{task} of {run_id} failed.\n{_reason(context)}\n{_log(context)}"
    tell("failure", context, Notice(f"{dag_id}: {task} failed", text))


def model_promoted(context: Mapping[str, Any]) -> None:
    """`on_success_callback` of promote: which version, how good, where."""
    dag_id, run_id = context["dag"].dag_id, context["run_id"]
    promotion = json.loads(_run(dag_id, run_id).promotion_file.read_bytes())
    facts = [f"{name}: {value}" for name, value in promotion.items()]
    text = "\n".join((run_id, *facts, _log(context)))
    tell("success", context, Notice(f"{dag_id}: version {promotion['version']} promoted", text))


def run_failed(context: Mapping[str, Any]) -> None:
    """`on_failure_callback` of a DAG: a run that took too long; what else fails a run, its task has told already."""
    if context.get("reason") == "timed_out":
        dag_id, run_id = context["dag"].dag_id, context["run_id"]
        tell("failure", context, Notice(f"{dag_id}: took too long", f"{run_id} was ended at its time limit."))


def run_is_late(context: Mapping[str, Any], hours: float) -> None:
    """What a deadline calls that was not met: the run goes on, or has ended without success."""
    run = context["dag_run"]
    dag_id, run_id = run["dag_id"], run["dag_run_id"]
    by_then = {
        "failed": "has failed: it had not succeeded",
        "success": "has succeeded, but it had not",
    }.get(run.get("state"), "has not ended")
    tell(
        "late",
        context,
        Notice(f"{dag_id}: late", f"{run_id} {by_then} {counted(hours, 'hour', spec='g')} after it was queued."),
    )


def _run(dag_id: str, run_id: str) -> RunDirectory:
    return RunDirectory(home_from(os.environ).run(dag_id, run_id))


def _reason(context: Mapping[str, Any]) -> str:
    """The message that the task left in its run directory, or else Airflow's own."""
    file = failure_file(_run(context["dag"].dag_id, context["run_id"]), _task(context))
    try:
        failure = json.loads(file.read_bytes())
        return f"{failure['error']}: {failure['message']}"
    except (OSError, ValueError, TypeError, KeyError):  # killed, or failed before it could say why, or where
        return str(context.get("exception") or "")


def _task(context: Mapping[str, Any]) -> str:
    return task_name(context["task"].task_id, context["ti"].map_index)


def _log(context: Mapping[str, Any]) -> str:
    return f"Log: {context['ti'].log_url}"
