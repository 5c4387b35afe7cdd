"""When `retraining` runs, and with which parameters: read from the environment, checked when the DAG is parsed.

Airflow lists a wrong setting as an import error of `retraining`, with the whole chain of exceptions: hence `from None`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from airflow.sdk import CronTriggerTimetable
from airflow.sdk.exceptions import AirflowTimetableInvalid

from tasks.config import RunConfig
from tasks.errors import ConfigError

CRON = "SHARDLINE_RETRAINING_CRON"
TIMEZONE = "SHARDLINE_RETRAINING_TIMEZONE"
PARAMETERS = "SHARDLINE_RETRAINING_PARAMETERS"


def timetable(environment: Mapping[str, str]) -> CronTriggerTimetable | None:
    """The timetable that the settings describe, None where there is none; `ConfigError` names a wrong setting."""
    expression = environment.get(CRON, "").strip()
    if not expression:
        return None
    # Never at once: without a start date, and so, the first run is the next tick, not the last one missed.
    schedule = CronTriggerTimetable(expression, timezone=_timezone(environment), run_immediately=False)
    try:
        schedule.validate()
    except AirflowTimetableInvalid as error:
        raise ConfigError(
            f"{CRON}: expected a cron expression like '0 3 * * *', found {expression!r}: {error}"
        ) from None
    return schedule


def _timezone(environment: Mapping[str, str]) -> str:
    name = environment.get(TIMEZONE) or "UTC"
    try:
        return ZoneInfo(name).key
    except (ZoneInfoNotFoundError, ValueError):
        raise ConfigError(f"{TIMEZONE}: expected a time zone like 'Europe/Berlin', found {name!r}") from None


def chosen_parameters(environment: Mapping[str, str]) -> dict[str, Any]:
    """The parameters that the settings replace, by name; `ConfigError` names a wrong one."""
    document = environment.get(PARAMETERS) or "{}"
    try:
        RunConfig.from_json(document)
    except ConfigError as error:
        raise ConfigError(f"{PARAMETERS}: {error}") from None
    chosen: dict[str, Any] = json.loads(document)
    return chosen
